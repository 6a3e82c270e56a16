//! A request's body on its way to one connection of a vendor's: each piece once, as many bytes as
//! were announced, exactly one end.

use bytes::Bytes;

/// The body of one try. What is passed on here is all that is written to the vendor's connection
/// after the request's head.
#[derive(Debug, Clone, Copy, Default)]
pub struct Outgoing {
    /// `Content-Length`, where the request has one.
    announced: Option<u64>,
    sent: u64,
    ended: bool,
}

/// Why a connection cannot carry another request: what was, or would be, written to it is not one
/// whole request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Odd {
    /// Something came behind the end.
    #[error("a piece of the body comes after its end")]
    AfterItsEnd,
    /// More came, or less, than `Content-Length` says.
    #[error("the body is not as long as Content-Length says")]
    AnotherLength,
}

impl Outgoing {
    /// For a request that was not sent on this connection yet.
    #[must_use]
    pub fn begin(announced: Option<u64>) -> Self {
        Self {
            announced,
            ..Self::default()
        }
    }

    /// The next piece as pingora is to see it. `last`: nothing follows.
    ///
    /// An empty last piece becomes none at all: pingora writes an empty piece as a chunk, and a
    /// chunk without bytes is the end of a chunked body (RFC 9112 7.1), behind which it then writes
    /// the end once more. An empty piece in the middle stays: none would mean the end, and pingora
    /// passes over an empty one that is not the last.
    ///
    /// # Errors
    /// [`Odd`]: the request must not go on, and its connection must not be kept.
    pub fn pass(&mut self, piece: &mut Option<Bytes>, last: bool) -> Result<(), Odd> {
        let bytes = piece.as_ref().map_or(0, Bytes::len) as u64;
        if self.ended {
            return Err(Odd::AfterItsEnd);
        }
        self.ended = last || piece.is_none();
        self.sent = self.sent.saturating_add(bytes);
        if last && bytes == 0 {
            *piece = None;
        }
        let fits = self.announced.is_none_or(|all| {
            if self.ended {
                self.sent == all
            } else {
                self.sent <= all
            }
        });
        if fits {
            Ok(())
        } else {
            Err(Odd::AnotherLength)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(
        announced: Option<u64>,
        all: &[(Option<&'static str>, bool)],
    ) -> Result<Vec<Option<String>>, Odd> {
        let mut body = Outgoing::begin(announced);
        all.iter()
            .map(|(piece, last)| {
                let mut piece = piece.map(|text| Bytes::from_static(text.as_bytes()));
                body.pass(&mut piece, *last)?;
                Ok(piece.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap()))
            })
            .collect()
    }

    #[test]
    fn an_empty_last_piece_is_none_and_an_empty_piece_before_it_stays_empty() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(pieces(None, &[(Some(""), true)]), Ok(vec![None]));
        assert_eq!(
            pieces(None, &[(Some(""), false), (None, true)]),
            Ok(vec![some(""), None])
        );
        assert_eq!(
            pieces(
                None,
                &[(Some("a"), false), (Some(""), false), (Some(""), true)]
            ),
            Ok(vec![some("a"), some(""), None])
        );
        assert_eq!(pieces(None, &[(Some("a"), true)]), Ok(vec![some("a")]));
    }

    #[test]
    fn nothing_follows_the_end_whichever_way_it_was_told() {
        for end in [
            (Some("a"), true),
            (Some(""), true),
            (None, true),
            (None, false),
        ] {
            assert_eq!(
                pieces(None, &[end, (Some(""), true)]),
                Err(Odd::AfterItsEnd),
                "{end:?}"
            );
            assert_eq!(
                pieces(None, &[end, (None, true)]),
                Err(Odd::AfterItsEnd),
                "{end:?}"
            );
        }
    }

    #[test]
    fn a_body_has_the_length_that_was_announced() {
        assert!(pieces(Some(2), &[(Some("a"), false), (Some("b"), true)]).is_ok());
        assert!(pieces(Some(0), &[(None, true)]).is_ok());
        assert_eq!(
            pieces(Some(2), &[(Some("abc"), false)]),
            Err(Odd::AnotherLength)
        );
        assert_eq!(
            pieces(Some(2), &[(Some("a"), true)]),
            Err(Odd::AnotherLength)
        );
        assert_eq!(
            pieces(Some(2), &[(Some("a"), false), (None, false)]),
            Err(Odd::AnotherLength)
        );
    }
}
