//! `Location`, where a request was matched by path: on this port a vendor's own paths would lead elsewhere, to another upstream's token even.

use std::borrow::Cow;

use http::header::LOCATION;
use percent_encoding::{AsciiSet, CONTROLS, percent_encode};
use pingora_error::Result;
use pingora_http::ResponseHeader;

use super::{chosen::Chosen, inject::authority};
use crate::{
    route::{Form, Target, split_authority},
    snapshot::Snapshot,
};

/// What no URL holds as it is; clients leave some of it out, so that nobody could tell what they make of the rest.
const FOREIGN: &AsciiSet = &CONTROLS.add(b' ');

/// What leads to a place within the upstream's `url` is written so that it leads there through us. Any other reference without a host is made a
/// URL of the vendor's.
///
/// # Errors
/// What was made of it is no header value.
pub fn rewrite(response: &mut ResponseHeader, chosen: &Chosen, snapshot: &Snapshot) -> Result<()> {
    let Some(prefix) = chosen.stripped.as_deref().filter(|_| chosen.upstream.rewrite_location) else { return Ok(()) };
    let mut all = response.headers.get_all(LOCATION).iter();
    let Some(raw) = all.next() else { return Ok(()) };
    let several = all.next().is_some();
    let told: Cow<'_, str> = percent_encode(raw.as_bytes().trim_ascii(), FOREIGN).into();
    let here = |path: &str| {
        let hit = snapshot.router.find(Form::Origin { host: "" }, path).ok();
        let served = hit.and_then(|hit| snapshot.upstreams.get(hit.upstream));
        served.is_some_and(|served| served.upstream.name == chosen.upstream.name)
    };
    let new = Place { target: &chosen.upstream.target, prefix, sent: &chosen.path }.of(&told, here);
    // Of several, which nobody may send, each client would choose its own.
    let new = new.or_else(|| (several || told.as_bytes() != raw.as_bytes()).then(|| told.into_owned()));
    new.map_or(Ok(()), |new| response.insert_header(LOCATION, new))
}

struct Place<'a> {
    target: &'a Target,
    /// Our path for the base path.
    prefix: &'a str,
    /// What references are relative to, as the vendor knows it.
    sent: &'a str,
}

impl Place<'_> {
    /// What to say instead. `here`: whether path and query come to this upstream.
    fn of(&self, told: &str, here: impl Fn(&str) -> bool) -> Option<String> {
        let end = told.find(['?', '#']).unwrap_or(told.len());
        let (reference, rest) = told.split_at(end);
        // To browsers it is the same.
        let reference = if reference.contains('\\') { Cow::Owned(reference.replace('\\', "/")) } else { Cow::Borrowed(reference) };
        let query = rest.split('#').next().unwrap_or_default();
        let ours = |path: &str| self.ours(path).filter(|new| here(&[new, query].concat()));
        let (scheme, hier) = scheme(&reference);
        if let Some(after) = hier.strip_prefix("//") {
            let path = within(after, scheme, self.target)?;
            return Some(ours(&without_dots(path))? + rest);
        }
        // A scheme alone is left out by many clients where it is the one they came by.
        let bare = scheme.is_none();
        if hier.is_empty() && bare || scheme.is_some_and(|s| !s.eq_ignore_ascii_case("http")) {
            return None;
        }
        let resolved = without_dots(&merged(self.sent, hier));
        let new = ours(&resolved);
        let own = self.ours(self.sent.split('?').next().unwrap_or_default());
        let seen = own.map(|own| without_dots(&merged(&own, hier)));
        if bare && new.is_some() && new == seen {
            return None;
        }
        let origin = || format!("{}://{}{resolved}", if self.target.tls { "https" } else { "http" }, authority(self.target));
        Some(new.unwrap_or_else(origin) + rest)
    }

    /// The path on this port of one at the vendor.
    fn ours(&self, path: &str) -> Option<String> {
        let rest = path.strip_prefix(self.target.base.as_str()).filter(|rest| rest.is_empty() || rest.starts_with('/'))?;
        let new = format!("{}{rest}", self.prefix);
        // "//x" would name another host.
        if new.starts_with("//") {
            return None;
        }
        Some(if new.is_empty() { "/".to_owned() } else { new })
    }
}

/// The scheme, where there is one, and what follows its colon.
fn scheme(reference: &str) -> (Option<&str>, &str) {
    let word =
        |s: &str| s.starts_with(|c: char| c.is_ascii_alphabetic()) && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    match reference.split_once(':') {
        Some((scheme, rest)) if word(scheme) => (Some(scheme), rest),
        _ => (None, reference),
    }
}

/// Path of `rest` (`host:port/path`), if it is the target's origin.
fn within<'a>(rest: &'a str, scheme: Option<&str>, target: &Target) -> Option<&'a str> {
    let tls = match scheme {
        None => target.tls,
        Some(s) if s.eq_ignore_ascii_case("https") => true,
        Some(s) if s.eq_ignore_ascii_case("http") => false,
        Some(_) => return None,
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let (host, port) = split_authority(authority)?;
    let port = port.unwrap_or(if tls { 443 } else { 80 });
    (tls == target.tls && *host == *target.host && port == target.port).then_some(path)
}

/// A reference's path, seen from `base` (RFC 3986 5.2.3).
fn merged(base: &str, reference: &str) -> String {
    let base = base.split('?').next().unwrap_or_default();
    if reference.starts_with('/') {
        return reference.to_owned();
    }
    if reference.is_empty() {
        return base.to_owned();
    }
    let folder = base.rfind('/').map_or("/", |at| base.get(..=at).unwrap_or("/"));
    [folder, reference].concat()
}

/// RFC 3986 5.2.4. `%2e` is a dot (6.2.2.2), and browsers take it for one here.
fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        match dots(segment) {
            Some(0 | 3..) | None => {
                kept.push(segment);
                continue;
            }
            Some(1) => {}
            Some(2) => drop(kept.pop()),
        }
        if segments.peek().is_none() {
            kept.push("");
        }
    }
    if path.is_empty() { String::new() } else { format!("/{}", kept.join("/")) }
}

/// How many dots a segment is, where it is nothing else.
fn dots(mut segment: &str) -> Option<usize> {
    let mut count = 0;
    while !segment.is_empty() {
        segment = segment.strip_prefix('.').or_else(|| segment.strip_prefix("%2e")).or_else(|| segment.strip_prefix("%2E"))?;
        count += 1;
    }
    Some(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(base: &str) -> Target {
        Target { tls: true, host: "api.test".into(), port: 443, base: base.into() }
    }

    /// On this port `/acme/st` and all but `/acme` are others'.
    fn of(told: &str) -> Option<String> {
        let target = target("/v2");
        let here = |path: &str| {
            let path = path.split('?').next().unwrap();
            crate::route::acceptable_path(path)
                && (path == "/acme" || path.starts_with("/acme/"))
                && path != "/acme/st"
                && !path.starts_with("/acme/st/")
        };
        Place { target: &target, prefix: "/acme", sent: "/v2/a/b?q=/c/d" }.of(told, here)
    }

    #[test]
    fn a_location_within_the_url_becomes_our_path() {
        for (told, expected) in [
            ("https://api.test/v2/x?y=https://api.test/v2#z", "/acme/x?y=https://api.test/v2#z"),
            ("https://API.test:443/v2", "/acme"),
            ("HTTPS://api.test/v2?a", "/acme?a"),
            ("https://api.test/v3/../v2/x", "/acme/x"),
            ("//api.test/v2/x", "/acme/x"),
            ("/v2/x", "/acme/x"),
            ("/v2", "/acme"),
            ("/v2/x/../y/.", "/acme/y/"),
            ("../../v2/x", "/acme/x"),
            ("\\v2\\x", "/acme/x"),
        ] {
            assert_eq!(of(told).as_deref(), Some(expected), "{told:?}");
        }
    }

    #[test]
    fn a_url_that_leads_elsewhere_and_a_reference_that_means_the_same_here_stay() {
        for told in [
            "http://api.test/v2/x",
            "https://api.test/v22/x",
            "https://api.test:8443/v2/x",
            "https://evil.test/v2/x",
            "https://api.test@evil.test/v2/x",
            "https://api.test/v2/../st/steal?amount=1",
            "https://api.test/v2/%2e%2e/st/steal",
            "https://api.test/v2/..%2fst/steal",
            "https://api.test/v2/.%2E/st/steal",
            "https://api.test/v2/st/steal",
            "https://api.test",
            "x",
            "../x",
            "./x?y",
            "?page=2",
            "#top",
            "",
            "mailto:a@b",
        ] {
            assert_eq!(of(told), None, "{told:?}");
        }
    }

    #[test]
    fn a_reference_that_would_lead_to_another_upstream_here_names_the_vendor() {
        for (told, expected) in [
            ("/v22/x", "https://api.test/v22/x"),
            ("/st/steal?amount=1#x", "https://api.test/st/steal?amount=1#x"),
            ("/v2/../st/steal", "https://api.test/st/steal"),
            ("/v2/%2e%2e/st/steal", "https://api.test/st/steal"),
            ("../../st/steal", "https://api.test/st/steal"),
            ("../../../acme/x", "https://api.test/acme/x"),
            ("../st/steal", "https://api.test/v2/st/steal"),
            ("/v2/..%2fst/steal", "https://api.test/v2/..%2fst/steal"),
            ("%2e./%2E/../st/steal", "https://api.test/st/steal"),
            ("..\\..\\st\\steal", "https://api.test/st/steal"),
            ("http:/st/steal", "https://api.test/st/steal"),
            ("http:../../st/steal", "https://api.test/st/steal"),
        ] {
            assert_eq!(of(told).as_deref(), Some(expected), "{told:?}");
        }
    }

    #[test]
    fn a_location_never_turns_into_another_host() {
        let target = target("");
        let of = |told: &str| Place { target: &target, prefix: "", sent: "/a" }.of(told, |_| true);
        assert_eq!(of("https://api.test//evil.test/x"), None);
        assert_eq!(of("https://api.test").as_deref(), Some("/"));
        assert_eq!(of("/x"), None);
        assert_eq!(of("/.//evil.test/x").as_deref(), Some("https://api.test//evil.test/x"));
    }

    proptest::proptest! {
        #[test]
        fn a_client_that_follows_comes_to_this_upstream_or_to_another_host(told in "(https?:)?[a-z:/?#.%@\\\\2e-]{0,30}|[/\\\\.]{0,3}(v2|a|\\.\\.|%2e\\.|st|/|\\\\){0,9}") {
            let own = reqwest::Url::parse("http://localhost:14180/acme/a/b?q=/c/d").unwrap();
            if let Ok(to) = own.join(&of(&told).unwrap_or(told)) && to.origin() == own.origin() {
                let path = to.path();
                proptest::prop_assert!(path == "/acme" || path.starts_with("/acme/"), "{to}");
                proptest::prop_assert!(path != "/acme/st" && !path.starts_with("/acme/st/"), "{to}");
            }
        }
    }
}
