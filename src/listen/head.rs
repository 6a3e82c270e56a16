//! Where the head of an HTTP/1 request ends.

/// The first line of the HTTP/2 connection preface (RFC 9113 3.4), which looks like a request head.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scan {
    /// So many bytes, blank line included.
    Complete(usize),
    /// Go on looking from here.
    Partial(usize),
    /// A line end without CR (RFC 9112 2.2 lets us refuse it), or a first byte no method begins
    /// with.
    Malformed,
}

/// Looks for the end of the head in `buf`, of which the first `seen` bytes were looked at before.
pub(super) fn scan(buf: &[u8], seen: usize) -> Scan {
    // A method is a token; this also tells a TLS client at once that it is wrong here.
    if !buf.first().is_none_or(u8::is_ascii_graphic) {
        return Scan::Malformed;
    }
    let mut from = seen;
    while let Some(rest) = buf.get(from..)
        && let Some(at) = rest.iter().position(|b| *b == b'\n').map(|p| p + from)
    {
        if at == 0 || buf.get(at - 1) != Some(&b'\r') {
            return Scan::Malformed;
        }
        if at >= 3 && buf.get(at - 3..=at) == Some(b"\r\n\r\n") {
            return Scan::Complete(at + 1);
        }
        from = at + 1;
    }
    Scan::Partial(buf.len())
}

/// Whether a chunked body follows. `head` was judged: if Transfer-Encoding is there at all, chunked
/// is its last coding.
pub(super) fn chunked(head: &[u8]) -> bool {
    const NAME: &[u8] = b"transfer-encoding:";
    // Without a branch, so that many bytes are compared at once: nearly no head has a line that
    // begins with a T and goes on with a hyphen there.
    let (firsts, hyphens) = (
        head.get(1..).unwrap_or_default(),
        head.get(9..).unwrap_or_default(),
    );
    let may = head
        .iter()
        .zip(firsts)
        .zip(hyphens)
        .fold(0, |may, ((end, first), hyphen)| {
            may | (u8::from(*end == b'\n')
                & u8::from(*first | 0x20 == b't')
                & u8::from(*hyphen == b'-'))
        });
    may != 0
        && head.split(|b| *b == b'\n').any(|line| {
            line.get(..NAME.len())
                .is_some_and(|name| name.eq_ignore_ascii_case(NAME))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_ends_at_its_first_blank_line() {
        assert_eq!(
            scan(b"GET / HTTP/1.1\r\nA: b\r\n\r\n\n\nbody", 0),
            Scan::Complete(24)
        );
        assert_eq!(scan(PREFACE, 0), Scan::Complete(18));
    }

    #[test]
    fn bare_line_feeds_and_tls_are_malformed() {
        for bad in [
            &b"GET / HTTP/1.1\n\n"[..],
            b"GET / HTTP/1.1\r\nA: b\n\r\n",
            b"\n",
            b"\x16\x03\x01",
            b" GET /",
        ] {
            assert_eq!(scan(bad, 0), Scan::Malformed, "{bad:?}");
        }
    }

    #[test]
    fn a_chunked_body_is_announced_by_a_field_of_this_name_and_nothing_else() {
        for yes in [
            "Transfer-Encoding: chunked",
            "TRANSFER-ENCODING:chunked",
            "A: b\r\ntransfer-encoding: x",
        ] {
            assert!(
                chunked(format!("POST / HTTP/1.1\r\n{yes}\r\nZ: z\r\n\r\n").as_bytes()),
                "{yes}"
            );
        }
        for no in [
            "A: b",
            "X-Transfer-Encoding: chunked",
            "A: transfer-encoding: chunked",
            "Transfer_Encoding: chunked",
            "Transfer-Mode: chunked",
            "traceparent: 00-1",
        ] {
            assert!(
                !chunked(format!("POST /transfer-encoding: HTTP/1.1\r\n{no}\r\n\r\n").as_bytes()),
                "{no}"
            );
        }
    }

    proptest::proptest! {
        #[test]
        fn it_does_not_matter_how_the_bytes_arrive(bytes in "[a-z\r\n]{0,40}", cut in 0usize..40) {
            let bytes = bytes.as_bytes();
            let cut = cut.min(bytes.len());
            let whole = scan(bytes, 0);
            let parts = match scan(&bytes[..cut], 0) {
                Scan::Partial(seen) => scan(bytes, seen),
                early => early,
            };
            proptest::prop_assert_eq!(whole, parts);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>, seen in 0usize..100) {
            let _ = scan(&bytes, seen);
        }
    }
}
