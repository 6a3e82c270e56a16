//! The request as the vendor gets it: what only we may set is removed, then set.

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use pingora_error::{Error, ErrorType::InternalError, OrErr, Result};
use pingora_http::RequestHeader;

use super::chosen::{Access, Chosen};
use crate::{
    credential::{InjectedNames, Injection},
    net::default_port,
    profile::model::InjectPlace,
    redact::HiddenWord,
    route::UpstreamUrl,
};

/// Unreserved characters stay (RFC 3986 2.3).
const QUERY: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');
/// Never for the vendor, whatever the HTTP version (RFC 9110 7.6.1, 11.7.2).
const HOP_BY_HOP: [HeaderName; 4] = [
    header::PROXY_AUTHORIZATION,
    header::PROXY_AUTHENTICATE,
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("keep-alive"),
];

/// Turns the client's request into the vendor's, and says what was made of tokens and secrets for
/// this request alone. `original` is the head as the client sent it: pingora has removed `TE` by
/// now.
///
/// # Errors
/// A value that is made for each request and cannot be a header value.
pub fn apply(
    request: &mut RequestHeader,
    original: &RequestHeader,
    chosen: &Chosen,
    via: Option<&str>,
) -> Result<Vec<HiddenWord>> {
    // Most requests have none of them, and one look is cheaper than a search for each.
    if request.headers.keys().any(|name| HOP_BY_HOP.contains(name)) {
        for name in &HOP_BY_HOP {
            request.remove_header(name);
        }
    }
    trailers(request, original);
    let mut path = Cow::Borrowed(chosen.path.as_str());
    let mut made = Vec::new();
    if let Access::Credential {
        credential,
        presented,
        ..
    } = &chosen.access
    {
        strip(request, credential.injected_names());
        path = place(
            request,
            credential.injected_names(),
            presented,
            path,
            &mut made,
        )?;
    }
    if original.version == Version::HTTP_2 && request.version != Version::HTTP_2 {
        join_cookies(request)?;
    }
    request.set_raw_path(path.as_bytes())?;
    request.insert_header(header::HOST, authority(&chosen.upstream.target))?;
    if request.method == Method::OPTIONS {
        count_down(request)?;
    }
    if let Some(pseudonym) = via {
        let version = if original.version == Version::HTTP_2 {
            "2.0"
        } else if original.version == Version::HTTP_10 {
            "1.0"
        } else {
            "1.1"
        };
        request.append_header(header::VIA, format!("{version} {pseudonym}"))?;
    }
    Ok(made)
}

/// Host of a target as it stands in a Host field; the scheme's own port is left out.
#[must_use]
pub fn authority(target: &UpstreamUrl) -> String {
    let host = if target.host.contains(':') {
        format!("[{}]", target.host)
    } else {
        target.host.clone()
    };
    if target.port == default_port(target.tls) {
        host
    } else {
        format!("{host}:{}", target.port)
    }
}

/// gRPC needs `te: trailers` (RFC 9113 8.2.2); trailers come through over HTTP/2 only.
fn trailers(request: &mut RequestHeader, original: &RequestHeader) {
    let asked = original
        .headers
        .get_all(header::TE)
        .iter()
        .filter_map(|v| v.to_str().ok());
    let asked = asked
        .flat_map(|v| v.split(','))
        .any(|v| v.trim().eq_ignore_ascii_case("trailers"));
    request.remove_header(&header::TE);
    if asked && request.version == Version::HTTP_2 {
        let _ = request.insert_header(header::TE, HeaderValue::from_static("trailers"));
    }
}

/// HTTP/2 tells by the end of its stream that a request has no content; HTTP/1.1 by a length of 0,
/// without which vendors answer 411 to these methods (RFC 9110 8.6). What a client sends in
/// HTTP/1.1 has its own word on this already.
pub fn announce_no_content(
    request: &mut RequestHeader,
    original: &RequestHeader,
    empty: bool,
) -> Result<()> {
    let converted = original.version == Version::HTTP_2 && request.version != Version::HTTP_2;
    let meant = matches!(request.method, Method::POST | Method::PUT | Method::PATCH);
    let framed = request.headers.contains_key(header::CONTENT_LENGTH)
        || request.headers.contains_key(header::TRANSFER_ENCODING);
    if converted && meant && empty && !framed {
        request.insert_header(header::CONTENT_LENGTH, 0)
    } else {
        Ok(())
    }
}

/// By these some frameworks are told that another path is asked for than the one that was judged.
const ANOTHER_PATH: [&str; 2] = ["x-original-url", "x-rewrite-url"];

/// Removes what the client sent under names that are ours, all punctuation being the same to many
/// servers.
fn strip(request: &mut RequestHeader, names: &InjectedNames) {
    let ours = |name: &HeaderName| {
        let twin = |other: &str| same(name.as_str(), other);
        let usual = [
            header::AUTHORIZATION.as_str(),
            header::PROXY_AUTHORIZATION.as_str(),
        ];
        usual
            .into_iter()
            .chain(ANOTHER_PATH)
            .chain(names.headers.iter().map(HeaderName::as_str))
            .any(twin)
    };
    let found: Vec<HeaderName> = request
        .headers
        .keys()
        .filter(|n| ours(n))
        .cloned()
        .collect();
    for name in found {
        request.remove_header(&name);
    }
}

/// Whether servers may take one name for the other: in any case, and with any punctuation for any
/// other (CGI, PHP, Rack).
fn same(a: &str, b: &str) -> bool {
    let fold = |c: u8| {
        if c.is_ascii_alphanumeric() || !c.is_ascii() {
            c.to_ascii_lowercase()
        } else {
            b'-'
        }
    };
    a.len() == b.len() && a.bytes().zip(b.bytes()).all(|(x, y)| fold(x) == fold(y))
}

/// Whether servers may take what a client wrote for the name of this parameter or cookie:
/// percent-encoded, with white space before or behind it, as an element of a list or table
/// (`name[]`, `name[0]`), or cut off at a zero byte.
fn is_twin(ours: &str, written: &str) -> bool {
    let name = written.replace('+', " ");
    let name = percent_decode_str(&name).decode_utf8_lossy();
    let name = name.trim_matches(|c: char| c.is_whitespace() || c.is_control() || c == '"');
    let before = |end: char| name.split(end).next().unwrap_or_default().trim();
    [name, before('['), before('\0')]
        .into_iter()
        .any(|name| same(ours, name))
}

/// `made`: where to note what is for this request alone.
fn place<'a>(
    request: &mut RequestHeader,
    names: &InjectedNames,
    presented: &Injection,
    path: Cow<'a, str>,
    made: &mut Vec<HiddenWord>,
) -> Result<Cow<'a, str>> {
    let (mut own_cookies, mut own_query) = (Vec::new(), Vec::new());
    for (place, value) in &presented.values {
        if let InjectPlace::HeaderIfAbsent(name) = place
            && request.headers.contains_key(name)
        {
            continue;
        }
        let text = presented
            .render_value(value)
            .map_err(|why| Error::explain(InternalError, why))?;
        made.extend(presented.word_of_request(value, &text));
        match place {
            InjectPlace::Header(name) | InjectPlace::HeaderIfAbsent(name) => {
                request.insert_header(name.clone(), text)?;
            }
            InjectPlace::Query(name) => own_query.push((name.as_str(), text)),
            InjectPlace::Cookie(name) => own_cookies.push((name.as_str(), text)),
        }
    }
    if !names.cookies.is_empty() {
        if let Some(cookie) = cookies(&request.headers, &names.cookies, &own_cookies) {
            request.insert_header(header::COOKIE, cookie)?;
        } else {
            request.remove_header(&header::COOKIE);
        }
    }
    if names.query.is_empty() {
        return Ok(path);
    }
    let left = stripped(&path, &names.query);
    // Ours first: of several with one name most servers take the first, and the client's are the
    // ones to go unheard.
    let (before, rest) = left.split_at(left.find('?').unwrap_or(left.len()));
    let mut path = before.to_owned();
    for (name, value) in own_query {
        path.push(if path.len() > before.len() { '&' } else { '?' });
        path.extend(utf8_percent_encode(name, QUERY));
        path.push('=');
        path.extend(utf8_percent_encode(
            value.to_str().unwrap_or_default(),
            QUERY,
        ));
    }
    if let Some(query) = rest.strip_prefix('?') {
        path.push(if path.len() > before.len() { '&' } else { '?' });
        path.push_str(query);
    }
    Ok(Cow::Owned(path))
}

/// Ours, then the client's cookies but those of our names, in one field (RFC 6265 5.4).
fn cookies(
    headers: &HeaderMap,
    names: &[String],
    ours: &[(&str, HeaderValue)],
) -> Option<HeaderValue> {
    let mut all: Vec<u8> = Vec::new();
    let mut add = |pair: &[u8]| {
        if !all.is_empty() {
            all.extend_from_slice(b"; ");
        }
        all.extend_from_slice(pair);
    };
    for (name, value) in ours {
        add(&[name.as_bytes(), b"=", value.as_bytes()].concat());
    }
    for pair in headers
        .get_all(header::COOKIE)
        .iter()
        .flat_map(|v| v.as_bytes().split(|b| *b == b';'))
    {
        let pair = pair.trim_ascii();
        let name = pair
            .split(|b| *b == b'=')
            .next()
            .unwrap_or_default()
            .trim_ascii_end();
        let name = String::from_utf8_lossy(name);
        if !pair.is_empty() && !names.iter().any(|ours| is_twin(ours, &name)) {
            add(pair);
        }
    }
    if all.is_empty() {
        return None;
    }
    let mut value = HeaderValue::from_bytes(&all).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// HTTP/2 clients may send each cookie in a field of its own, HTTP/1.1 servers know one field only
/// (RFC 9113 8.2.3).
fn join_cookies(request: &mut RequestHeader) -> Result<()> {
    let mut all = request.headers.get_all(header::COOKIE).iter();
    let (Some(first), Some(second)) = (all.next(), all.next()) else {
        return Ok(());
    };
    let mut one = first.as_bytes().to_vec();
    for crumb in std::iter::once(second).chain(all) {
        one.extend_from_slice(b"; ");
        one.extend_from_slice(crumb.as_bytes());
    }
    let mut one = HeaderValue::from_maybe_shared(Bytes::from(one))
        .or_err(InternalError, "joining Cookie fields")?;
    one.set_sensitive(true);
    request.insert_header(header::COOKIE, one)
}

/// `path` without the query parameters of these names, however encoded.
fn stripped(path: &str, names: &[String]) -> String {
    without(path, |pair| {
        let name = pair.split('=').next().unwrap_or_default();
        names.iter().any(|ours| is_twin(ours, name))
    })
}

/// `path` without query parameters that are `ours`; the rest stays byte for byte.
pub(super) fn without(path: &str, ours: impl Fn(&str) -> bool) -> String {
    let Some((path, query)) = path.split_once('?') else {
        return path.to_owned();
    };
    // Some servers take `;` for `&`.
    let kept: Vec<String> = query
        .split('&')
        .filter_map(|pair| {
            if !pair.split(';').any(&ours) {
                return Some(pair.to_owned());
            }
            let rest: Vec<&str> = pair.split(';').filter(|p| !ours(p)).collect();
            (!rest.is_empty()).then(|| rest.join(";"))
        })
        .collect();
    if kept.is_empty() {
        path.to_owned()
    } else {
        format!("{path}?{}", kept.join("&"))
    }
}

/// RFC 9110 7.6.2; zero never comes here.
fn count_down(request: &mut RequestHeader) -> Result<()> {
    let left = request
        .headers
        .get(header::MAX_FORWARDS)
        .and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    match left {
        Some(n) => request.insert_header(header::MAX_FORWARDS, n.saturating_sub(1).to_string()),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(headers: &[(&'static str, &str)]) -> RequestHeader {
        let mut r = RequestHeader::build("GET", b"/x", None).unwrap();
        for (name, value) in headers {
            r.append_header(*name, *value).unwrap();
        }
        r
    }

    #[test]
    fn names_of_ours_are_removed_with_their_twins() {
        let mut r = request(&[
            ("authorization", "mine"),
            ("Proxy_Authorization", "mine"),
            ("X_Session", "mine"),
            ("x-session", "mine"),
            ("X.Session", "mine"),
            ("X-Original-URL", "/other"),
            ("X_Rewrite_Url", "/other"),
            ("x-sessions", "stays"),
            ("x-other", "stays"),
        ]);
        strip(
            &mut r,
            &InjectedNames {
                headers: vec![HeaderName::from_static("x-session")],
                ..InjectedNames::default()
            },
        );
        let mut left: Vec<&str> = r.headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["x-other", "x-sessions"]);
    }

    #[test]
    fn a_query_loses_our_names_however_they_are_written_and_nothing_else() {
        let names = ["access_token".to_owned()];
        for (before, after) in [
            ("/a?x=1&access_token=evil&y=%2F", "/a?x=1&y=%2F"),
            ("/a?access%5ftoken=evil", "/a"),
            ("/a?%61ccess_token", "/a"),
            ("/a?x=1;access_token=evil&y", "/a?x=1&y"),
            ("/a?access-token=evil&access_token=evil", "/a"),
            (
                "/a?Access_Token=evil&access.token=evil&access_token[]=evil&access_token%5B0%5D=evil&x",
                "/a?x",
            ),
            (
                "/a?+access_token=evil&access+token=evil&access_token%00=evil&ACCESS%2eTOKEN&x",
                "/a?x",
            ),
            ("/a?access_tokens=1&&=&a=b=c", "/a?access_tokens=1&&=&a=b=c"),
            ("/access_token?", "/access_token?"),
            ("/a", "/a"),
        ] {
            assert_eq!(stripped(before, &names), after);
        }
    }

    #[test]
    fn cookies_are_merged_into_one_field_and_ours_are_single() {
        let r = request(&[
            ("cookie", "a=1; sid=evil; s%69d=evil; sid[]=evil"),
            ("cookie", "b=\"2\"; sid =evil; SID=evil; side=stays"),
        ]);
        let ours = [("sid", HeaderValue::from_static("good"))];
        assert_eq!(
            cookies(&r.headers, &["sid".to_owned()], &ours).unwrap(),
            "sid=good; a=1; b=\"2\"; side=stays"
        );
        assert_eq!(
            cookies(
                &request(&[("cookie", "sid=evil")]).headers,
                &["sid".to_owned()],
                &[]
            ),
            None
        );
    }

    #[test]
    fn the_host_field_names_a_port_only_where_it_is_not_the_schemes_own() {
        let t = |tls, host: &str, port| {
            authority(&UpstreamUrl {
                tls,
                host: host.into(),
                port,
                base: String::new(),
            })
        };
        assert_eq!(t(true, "a.test", 443), "a.test");
        assert_eq!(t(false, "a.test", 443), "a.test:443");
        assert_eq!(t(true, "::1", 8443), "[::1]:8443");
    }

    #[test]
    fn te_trailers_goes_on_over_http_2_only() {
        let original = request(&[("te", "gzip, Trailers")]);
        let mut h1 = original.clone();
        trailers(&mut h1, &original);
        assert!(!h1.headers.contains_key("te"));
        let mut h2 = request(&[]);
        h2.set_version(Version::HTTP_2);
        trailers(&mut h2, &original);
        assert_eq!(h2.headers["te"], "trailers");
    }

    #[test]
    fn only_a_converted_request_of_a_method_that_means_content_says_that_there_is_none() {
        let told = |method: &str,
                    from: Version,
                    to: Version,
                    empty: bool,
                    fields: &[(&'static str, &str)]| {
            let mut original = request(fields);
            original.set_method(method.parse().unwrap());
            let mut sent = original.clone();
            original.set_version(from);
            sent.set_version(to);
            announce_no_content(&mut sent, &original, empty).unwrap();
            sent.headers
                .get("content-length")
                .map(|v| v.to_str().unwrap().to_owned())
        };
        let (h1, h2) = (Version::HTTP_11, Version::HTTP_2);
        for method in ["POST", "PUT", "PATCH"] {
            assert_eq!(
                told(method, h2, h1, true, &[]).as_deref(),
                Some("0"),
                "{method}"
            );
        }
        for method in ["GET", "HEAD", "DELETE", "OPTIONS", "PURGE"] {
            assert_eq!(told(method, h2, h1, true, &[]), None, "{method}");
        }
        assert_eq!(told("POST", h2, h1, false, &[]), None);
        assert_eq!(told("POST", h2, h2, true, &[]), None);
        assert_eq!(told("POST", h1, h1, true, &[]), None);
        assert_eq!(
            told("POST", h2, h1, true, &[("content-length", "5")]).as_deref(),
            Some("5")
        );
        assert_eq!(
            told("POST", h2, h1, true, &[("transfer-encoding", "chunked")]),
            None
        );
    }

    proptest::proptest! {
        #[test]
        fn after_stripping_no_parameter_of_ours_is_left(query in "[a-z%_=&;5fF+-]{0,40}") {
            let names = ["a_t".to_owned()];
            let once = stripped(&format!("/p?{query}&a%5Ft=evil"), &names);
            proptest::prop_assert_eq!(&stripped(&once, &names), &once);
            for (name, _) in form_urlencoded::parse(once.split_once('?').map_or("", |q| q.1).as_bytes()) {
                proptest::prop_assert_ne!(name, "a_t");
            }
        }
    }
}
