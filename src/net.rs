//! Hosts and authorities: the one spelling that is compared, and which of them are this host. Pure,
//! total.

use std::{
    borrow::Cow,
    net::{IpAddr, Ipv6Addr},
};

use url::{Host, Url};

/// Host (lower case, no brackets, no trailing dot; IPv6 in its shortest spelling) and port where
/// one is named. `None` for what is no authority: user information, an empty host, white space, a
/// port that is no number from 1 to 65535 (RFC 3986, 3.2). Allocates only where the spelling has to
/// be changed.
#[must_use]
pub fn split_authority(authority: &str) -> Option<(Cow<'_, str>, Option<u16>)> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (literal, port) = rest.split_once(']')?;
        let address: Ipv6Addr = literal.parse().ok()?;
        return Some((normalize_ipv6(address, literal), parse_port(port)?));
    }
    let (host, port) = match authority.bytes().position(|b| b == b':') {
        Some(at) => (authority.get(..at)?, authority.get(at..)?),
        None => (authority, ""),
    };
    Some((normalize_host(host)?, parse_port(port)?))
}

/// A host name or IPv4 address in the spelling that is compared. `None` where it is neither.
#[must_use]
pub fn normalize_host(host: &str) -> Option<Cow<'_, str>> {
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

/// The port where a URL names none: 443 for `https`, 80 for `http`.
#[must_use]
pub fn default_port(tls: bool) -> u16 {
    if tls { 443 } else { 80 }
}

/// A name that means this host wherever it is looked up (RFC 6761 6.3), in small letters and without
/// a dot at its end.
#[must_use]
pub fn is_localhost(name: &str) -> bool {
    name == "localhost" || name.ends_with(".localhost")
}

/// An address of this host alone, an IPv4 one within IPv6 (`::ffff:127.0.0.1`) included.
#[must_use]
pub fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

/// What is sent to this host, a name or an address without brackets, stays on this host.
#[must_use]
pub fn is_loopback_host(host: &str) -> bool {
    is_localhost(host) || host.parse().is_ok_and(is_loopback)
}

/// A host by which only who is on this host can mean us: a localhost name, or a loopback address as
/// such. IPv4 within IPv6 is left out: it is web pages that write addresses so, because browsers do
/// not say where such a request comes from.
#[must_use]
pub fn is_own_host(host: &str) -> bool {
    is_localhost(host) || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

/// As [`is_own_host`], for the host of a URL.
#[must_use]
pub fn is_own_url(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => is_localhost(name),
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

fn normalize_ipv6(address: Ipv6Addr, literal: &str) -> Cow<'_, str> {
    if address.is_loopback() && literal == "::1" {
        literal.into()
    } else {
        address.to_string().into()
    }
}

/// `""`, `":"` and `":443"`; the outer `None` is a wrong port.
#[allow(clippy::option_option, reason = "no port and a wrong port differ")]
fn parse_port(text: &str) -> Option<Option<u16>> {
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
        split_authority(authority).map(|(host, _)| host.into_owned())
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
        assert_eq!(split_authority("a:8080"), Some(("a".into(), Some(8080))));
    }

    #[test]
    fn what_is_no_authority_is_nobody() {
        for bad in [
            "", ".", ":80", "a:b", "a:0", "a:65536", "a:+1", "u:p@a", "u@a", "a,b", "a b", "[::1",
            "[::1]x", "[a]", "::1", "a/b", "a..", ".a", "é",
        ] {
            assert_eq!(split_authority(bad), None, "{bad}");
        }
    }

    #[test]
    fn this_host_is_known_by_its_names_and_addresses() {
        for (host, loopback, own) in [
            ("localhost", true, true),
            ("a.localhost", true, true),
            ("127.0.0.1", true, true),
            ("127.9.9.9", true, true),
            ("::1", true, true),
            ("::ffff:127.0.0.1", true, false),
            ("0.0.0.0", false, false),
            ("::", false, false),
            ("10.0.0.1", false, false),
            ("xlocalhost", false, false),
            ("localhost.evil.test", false, false),
        ] {
            assert_eq!(
                (is_loopback_host(host), is_own_host(host)),
                (loopback, own),
                "{host}"
            );
            let url = if host.contains(':') {
                format!("http://[{host}]:1/p")
            } else {
                format!("http://{host}:1/p")
            };
            assert_eq!(is_own_url(&url.parse().unwrap()), own, "{url}");
        }
    }

    proptest! {
        #[test]
        fn any_text_gives_an_answer(text in "\\PC*") {
            let _ = split_authority(&text);
        }
    }
}
