//! The trace a request belongs to, for our lines about it (W3C Trace Context). The header itself
//! passes untouched.

use http::HeaderMap;

/// A trace-id: 32 lower-case hexadecimal digits, not all zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceId([u8; 32]);

impl TraceId {
    /// From the one `traceparent` of a request. Anything else than the format of version 00, or a
    /// later one that begins like it, is nothing.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut all = headers.get_all("traceparent").iter();
        let (Some(one), None) = (all.next(), all.next()) else {
            return None;
        };
        Self::parse(one.as_bytes())
    }

    fn parse(value: &[u8]) -> Option<Self> {
        let hex = |part: &[u8]| {
            part.iter()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(b))
        };
        let (version, rest) = value.split_first_chunk::<2>()?;
        let (id, rest) = rest.strip_prefix(b"-")?.split_first_chunk::<32>()?;
        let (parent, rest) = rest.strip_prefix(b"-")?.split_first_chunk::<16>()?;
        let (flags, rest) = rest.strip_prefix(b"-")?.split_first_chunk::<2>()?;
        let ends = rest.is_empty() || (version != b"00" && rest.starts_with(b"-"));
        let sound =
            hex(version) && hex(id) && hex(parent) && hex(flags) && version != b"ff" && ends;
        (sound && id.iter().any(|b| *b != b'0') && parent.iter().any(|b| *b != b'0'))
            .then_some(Self(*id))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        // Hexadecimal digits are UTF-8.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    fn of(value: &str) -> Option<String> {
        TraceId::parse(value.as_bytes()).map(|id| id.as_str().to_owned())
    }

    #[test]
    fn the_trace_is_read_from_what_the_recommendation_allows_and_nothing_else() {
        for good in [
            "00-ID-00f067aa0ba902b7-01",
            "01-ID-00f067aa0ba902b7-01-more",
        ] {
            assert_eq!(of(&good.replace("ID", ID)).as_deref(), Some(ID), "{good}");
        }
        for bad in [
            "",
            "00-ID-00f067aa0ba902b7",
            "00-ID-00f067aa0ba902b7-01-more",
            "01-ID-00f067aa0ba902b7-01more",
            "ff-ID-00f067aa0ba902b7-01",
            "00-ID-0000000000000000-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(of(&bad.replace("ID", ID)), None, "{bad}");
        }
    }

    #[test]
    fn two_of_them_are_none() {
        let mut headers = HeaderMap::new();
        let value: http::HeaderValue = format!("00-{ID}-00f067aa0ba902b7-01").parse().unwrap();
        headers.append("traceparent", value.clone());
        assert!(TraceId::of(&headers).is_some());
        headers.append("traceparent", value);
        assert!(TraceId::of(&headers).is_none());
    }

    proptest! {
        #[test]
        fn any_bytes_give_an_answer(value in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = TraceId::parse(&value);
        }
    }
}
