//! Who may talk to `/api` and `/`: no rebound name, no foreign web page
//! ([Admin port](crate::promises#admin-port)).

use std::net::{IpAddr, SocketAddr};

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use http::{HeaderMap, Method, StatusCode, header};

use super::{Admin, text_response};
use crate::net::is_localhost;

/// Refuses a Host that is not ours, a foreign Origin, and what changes state without JSON content
/// type. `bound`: the address, where it is one.
pub async fn refuse_foreign(
    State((admin, bound)): State<(Admin, Option<SocketAddr>)>,
    request: Request,
    next: Next,
) -> Response {
    let named = admin.snapshot.load().config.admin.hosts.clone();
    let headers = request.headers();
    let host = requested_host(&request).unwrap_or("");
    if !is_own_host(host, bound, &named) {
        return text_response(
            StatusCode::FORBIDDEN,
            "this Host is not one of the admin port's names: see [admin] hosts\n",
        );
    }
    for origin in headers.get_all(header::ORIGIN) {
        let origin = origin.to_str().unwrap_or("");
        let authority = origin
            .strip_prefix("http://")
            .or_else(|| origin.strip_prefix("https://"))
            .unwrap_or("");
        if authority.is_empty() || !authority.eq_ignore_ascii_case(host) {
            return text_response(StatusCode::FORBIDDEN, "foreign Origin\n");
        }
    }
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    if is_foreign_site(headers, reads) {
        return text_response(
            StatusCode::FORBIDDEN,
            "a foreign page asks (Sec-Fetch-Site)\n",
        );
    }
    if !reads {
        let kind = headers
            .get(header::CONTENT_TYPE)
            .and_then(|v| v.to_str().ok())
            .unwrap_or("");
        if !kind
            .split(';')
            .next()
            .unwrap_or("")
            .trim()
            .eq_ignore_ascii_case("application/json")
        {
            return text_response(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "Content-Type must be application/json\n",
            );
        }
    }
    next.run(request).await
}

/// A browser says that another site's page asks (Fetch Metadata). A link to the status page may be
/// followed from anywhere: what it leads to is read by who followed it alone.
fn is_foreign_site(headers: &HeaderMap, reads: bool) -> bool {
    let all = |name: &str, fits: fn(&[u8]) -> bool| {
        headers
            .get_all(name)
            .iter()
            .all(|value| fits(value.as_bytes()))
    };
    let has = |name: &str, wanted: &str| headers.get(name).is_some_and(|value| value == wanted);
    let followed = reads && has("sec-fetch-mode", "navigate") && has("sec-fetch-dest", "document");
    !followed
        && !all("sec-fetch-site", |site| {
            matches!(site, b"same-origin" | b"none")
        })
}

/// What the client calls us: the authority of an absolute URL, or Host. None where there are two
/// and they differ.
fn requested_host(request: &Request) -> Option<&str> {
    let mut fields = request.headers().get_all(header::HOST).iter();
    let field = fields.next().map(|h| h.to_str().unwrap_or(""));
    match (
        request.uri().authority().map(http::uri::Authority::as_str),
        field,
    ) {
        _ if fields.next().is_some() => None,
        (Some(authority), Some(field)) if !authority.eq_ignore_ascii_case(field) => None,
        (authority, field) => authority.or(field),
    }
}

/// Loopback literals, localhost names, the bound address, and the configured names; any port.
fn is_own_host(host: &str, bound: Option<SocketAddr>, named: &[String]) -> bool {
    let name = without_port(host)
        .trim_end_matches('.')
        .to_ascii_lowercase();
    let literal = name.trim_start_matches('[').trim_end_matches(']');
    match literal.parse::<IpAddr>() {
        Ok(ip) => ip.is_loopback() || bound.is_some_and(|bound| ip == bound.ip()),
        Err(_) => is_localhost(&name) || named.iter().any(|n| n.eq_ignore_ascii_case(&name)),
    }
}

fn without_port(host: &str) -> &str {
    if let Some(end) = host.strip_prefix('[').and_then(|h| h.find(']')) {
        return host.get(..end + 2).unwrap_or(host);
    }
    host.rsplit_once(':').map_or(host, |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_names_are_answered() {
        let bound = Some("10.1.2.3:14190".parse().unwrap());
        let named = ["admin.example".to_owned()];
        for good in [
            "127.0.0.1:14190",
            "[::1]:14190",
            "[::1]",
            "localhost",
            "a.localhost:1",
            "10.1.2.3:14190",
            "ADMIN.example.",
            "127.9.9.9",
        ] {
            assert!(is_own_host(good, bound, &named), "{good}");
        }
        for bad in [
            "",
            "evil.example",
            "10.1.2.4",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "[::2]:1",
            "[",
            "]",
            ":",
            "[::1",
        ] {
            assert!(!is_own_host(bad, bound, &named), "{bad}");
        }
        assert!(
            is_own_host("localhost", None, &[]) && !is_own_host("10.1.2.3", None, &[]),
            "a Unix socket has no address"
        );
    }

    #[test]
    fn what_a_foreign_page_asks_is_known_by_what_its_browser_says() {
        let headers = |pairs: &[(&'static str, &'static str)]| -> HeaderMap {
            pairs
                .iter()
                .map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap()))
                .collect()
        };
        let site = |value| ("sec-fetch-site", value);
        let link = [
            ("sec-fetch-mode", "navigate"),
            ("sec-fetch-dest", "document"),
        ];
        for (pairs, foreign_read, foreign_change) in [
            (vec![], false, false),
            (vec![site("none")], false, false),
            (vec![site("same-origin")], false, false),
            (vec![site("same-site")], true, true),
            (vec![site("cross-site")], true, true),
            (vec![site("Cross-Site")], true, true),
            (vec![site("")], true, true),
            (vec![site("none"), site("cross-site")], true, true),
            (vec![site("cross-site"), link[0], link[1]], false, true),
            (
                vec![site("cross-site"), link[0], ("sec-fetch-dest", "iframe")],
                true,
                true,
            ),
        ] {
            let found = (
                is_foreign_site(&headers(&pairs), true),
                is_foreign_site(&headers(&pairs), false),
            );
            assert_eq!(found, (foreign_read, foreign_change), "{pairs:?}");
        }
    }
}
