//! What may be a path: nothing that a server could read as a way out of the folder it was matched
//! in.

use crate::hash::hex_digit;

/// Longest path that is decoded without a heap allocation.
const SHORT: usize = 512;

/// Whether `path` (without query) may be routed and sent: it starts with `/`, has no white space,
/// control character or `#`, and no dot segment, and once decoded no zero byte and no UTF-8 that is
/// longer than it need be. A dot segment is a segment that is `.` or `..`, with or without a
/// parameter (`..;x`: servlet containers go up there), once the path is percent-decoded as often as
/// it changes and split at `/` and `\`; `...` is an ordinary segment (RFC 3986, 3.3 and 5.2.4).
#[must_use]
pub fn is_safe(path: &str) -> bool {
    let bytes = path.as_bytes();
    if bytes.first() != Some(&b'/') {
        return false;
    }
    let (mut dot, mut percent) = (false, false);
    for &b in bytes {
        match b {
            b'.' => dot = true,
            b'%' => percent = true,
            b'#' | 0x7f | 0..=b' ' => return false,
            _ => {}
        }
    }
    if percent {
        let mut short = [0; SHORT];
        let mut long = Vec::new();
        let room: &mut [u8] = if let Some(room) = short.get_mut(..bytes.len()) {
            room
        } else {
            long.resize(bytes.len(), 0);
            &mut long
        };
        let end = decode_fully(bytes, room);
        let decoded = room.get(..end).unwrap_or_default();
        !(has_dot_segment(decoded) || decoded.contains(&0) || is_overlong(decoded))
    } else {
        !(dot && has_dot_segment(bytes))
    }
}

fn has_dot_segment(path: &[u8]) -> bool {
    path.split(|b| matches!(b, b'/' | b'\\'))
        .any(|segment| matches!(segment.split(|b| *b == b';').next(), Some(b"." | b"..")))
}

/// Whether a byte sequence spells a character in more bytes than it needs (RFC 3629 3), which some
/// decoders take for `.`, `/` or a zero.
fn is_overlong(decoded: &[u8]) -> bool {
    decoded.iter().any(|b| matches!(b, 0xC0 | 0xC1))
        || decoded
            .windows(2)
            .any(|pair| matches!(pair, [0xE0, 0x80..=0x9F] | [0xF0, 0x80..=0x8F]))
}

/// Percent-decodes until nothing changes any more, in one pass: what a decoded byte completes is
/// decoded at once. Escapes cannot overlap (`%` is no hexadecimal digit), so the order does not
/// matter. Returns the length; `room` is at least as long as `path`.
fn decode_fully(path: &[u8], room: &mut [u8]) -> usize {
    let mut end = 0_usize;
    for &b in path {
        let mut next = b;
        // `next` completes an escape: take its `%` and first digit back and go on with the byte it
        // means.
        while let Some((b'%', high)) = end
            .checked_sub(2)
            .and_then(|i| Some((*room.get(i)?, *room.get(i + 1)?)))
        {
            let (Some(high), Some(low)) = (hex_digit(high), hex_digit(next)) else {
                break;
            };
            next = high << 4 | low;
            end -= 2;
        }
        if let Some(place) = room.get_mut(end) {
            *place = next;
            end += 1;
        }
    }
    end
}

#[cfg(test)]
mod tests {
    use percent_encoding::percent_decode;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn dot_segments_are_found_however_they_are_encoded() {
        for bad in [
            "/..",
            "/.",
            "/a/../b",
            "/a/./b",
            "/a/..",
            "/a\\..\\b",
            "/a/%2e%2e/b",
            "/a/%2E./b",
            "/a/..%2fb",
            "/a/..%5cb",
            "/a%2f..%2fb",
            "/a/%252e%252e/b",
            "/a/%25252e%25252e%25255cb",
            "/a%5c%2e%2e%5cb",
            "/%%32e%%32e/x",
            "/a/%2e",
            "/a/%25%32%65/b",
            "/a/..;/b",
            "/a/.;x=y/b",
            "/a/..;",
            "/a/%2e%2e;x/b",
            "/a/..%3b/b",
            "/a%2f..;x%2fb",
            "/%00",
            "/a%2500b",
            "/%c0%ae%c0%ae/",
            "/%C1%9c",
            "/%e0%80%ae",
            "/%f0%80%80%ae",
            "/%25c0%25af",
            "/a/.%2F",
            "/orders//../pay",
        ] {
            assert!(!is_safe(bad), "{bad}");
        }
    }

    #[test]
    fn ordinary_paths_pass() {
        for good in [
            "/",
            "//",
            "/a",
            "/a/",
            "/a//b",
            "/...",
            "/a/;..",
            "/a/b;..",
            "/a/...;x/b",
            "/%e2%82%ac",
            "/%e0%a4%85",
            "/%f0%9f%98%80",
            "/a/.b",
            "/a/b.",
            "/a..b",
            "/%2Fa",
            "/a%2fb",
            "/%",
            "/%2",
            "/%zz",
            "/a%20b",
            "/é",
            "/a;b=c",
            "/.well-known/x",
            "/a/%2e%2e%2e/",
        ] {
            assert!(is_safe(good), "{good}");
        }
    }

    #[test]
    fn what_cannot_stand_in_a_path_is_refused() {
        for bad in [
            "", "a", "*", "%2fa", "\\a", "/a b", "/a\r\nb", "/a\0", "/a#b", "/a\x7f",
        ] {
            assert!(!is_safe(bad), "{bad:?}");
        }
    }

    #[test]
    fn long_paths_are_decoded_as_well_and_in_good_time() {
        let nested = format!("/%{}2e%2e/x", "25".repeat(8000));
        assert!(!is_safe(&nested));
        assert!(is_safe(&format!("/{}", "%2561".repeat(3000))));
    }

    proptest! {
        #[test]
        fn the_single_pass_agrees_with_decoding_again_and_again(path in "/[%25eE.c/\\\\fFa]{0,24}") {
            let mut slow = path.clone().into_bytes();
            loop {
                let next: Vec<u8> = percent_decode(&slow).collect();
                if next == slow { break; }
                slow = next;
            }
            let mut room = vec![0; path.len()];
            let end = decode_fully(path.as_bytes(), &mut room);
            prop_assert_eq!(&room[..end], &slow[..]);
            prop_assert_eq!(is_safe(&path), !has_dot_segment(&slow));
        }

        #[test]
        fn any_text_gives_an_answer(path in "\\PC*") {
            let _ = is_safe(&path);
        }
    }
}
