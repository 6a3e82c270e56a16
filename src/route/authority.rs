//! `host:port` taken apart, the host in the one spelling that is compared.

use std::{borrow::Cow, net::Ipv6Addr};

/// Host (lower case, no brackets, no trailing dot; IPv6 in its shortest spelling) and port where
/// one is named. `None` for what is no authority: user information, an empty host, white space, a
/// port that is no number from 1 to 65535 (RFC 3986, 3.2). Allocates only where the spelling has to
/// be changed.
#[must_use]
pub fn split(authority: &str) -> Option<(Cow<'_, str>, Option<u16>)> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (literal, port) = rest.split_once(']')?;
        let address: Ipv6Addr = literal.parse().ok()?;
        return Some((shortest(address, literal), port_of(port)?));
    }
    let (host, port) = match authority.bytes().position(|b| b == b':') {
        Some(at) => (authority.get(..at)?, authority.get(at..)?),
        None => (authority, ""),
    };
    Some((name(host)?, port_of(port)?))
}

/// A host name or IPv4 address in the spelling that is compared. `None` where it is neither.
#[must_use]
pub fn name(host: &str) -> Option<Cow<'_, str>> {
    let host = host.strip_suffix('.').unwrap_or(host);
    let known = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    if host.is_empty() || host.starts_with('.') || host.ends_with('.') || !host.bytes().all(known) {
        return None;
    }
    Some(if host.bytes().any(|b| b.is_ascii_uppercase()) {
        host.to_ascii_lowercase().into()
    } else {
        host.into()
    })
}

fn shortest(address: Ipv6Addr, literal: &str) -> Cow<'_, str> {
    if address.is_loopback() && literal == "::1" {
        literal.into()
    } else {
        address.to_string().into()
    }
}

/// `""`, `":"` and `":443"`; the outer `None` is a wrong port.
#[allow(clippy::option_option, reason = "no port and a wrong port differ")]
fn port_of(text: &str) -> Option<Option<u16>> {
    let Some(digits) = text.strip_prefix(':') else {
        return text.is_empty().then_some(None);
    };
    if digits.is_empty() {
        return Some(None);
    }
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok().filter(|port| *port != 0).map(Some)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn host(authority: &str) -> Option<String> {
        split(authority).map(|(host, _)| host.into_owned())
    }

    #[test]
    fn one_host_has_one_spelling() {
        for same in [
            "acme.example",
            "ACME.example",
            "acme.example.",
            "acme.example:80",
            "Acme.Example.:443",
            "acme.example:",
        ] {
            assert_eq!(host(same).as_deref(), Some("acme.example"), "{same}");
        }
        for same in ["[::1]", "[::1]:80", "[0:0:0:0:0:0:0:1]:80"] {
            assert_eq!(host(same).as_deref(), Some("::1"), "{same}");
        }
        assert_eq!(split("a:8080"), Some(("a".into(), Some(8080))));
    }

    #[test]
    fn what_is_no_authority_is_nobody() {
        for bad in [
            "", ".", ":80", "a:b", "a:0", "a:65536", "a:+1", "u:p@a", "u@a", "a,b", "a b", "[::1",
            "[::1]x", "[a]", "::1", "a/b", "a..", ".a", "é",
        ] {
            assert_eq!(split(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_gives_an_answer(text in "\\PC*") {
            let _ = split(&text);
        }
    }
}
