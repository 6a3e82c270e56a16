//! Who may talk to `/api` and `/`: no rebound name, no foreign web page (CONTRACT 5).

use std::net::{IpAddr, SocketAddr};

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use http::{Method, StatusCode, header};

use super::{Admin, text};

/// Refuses a Host that is not ours; and what changes state without JSON content type or with a foreign Origin.
pub async fn check(State((admin, bound)): State<(Admin, SocketAddr)>, request: Request, next: Next) -> Response {
    let named = admin.snapshot.load().config.admin.hosts.clone();
    let headers = request.headers();
    let host = host(&request).unwrap_or("");
    if !ours(host, bound, &named) {
        return text(StatusCode::FORBIDDEN, "this Host is not one of the admin port's names: see [admin] hosts\n");
    }
    if let Some(origin) = headers.get(header::ORIGIN) {
        let origin = origin.to_str().unwrap_or("");
        let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://")).unwrap_or("");
        if authority.is_empty() || !authority.eq_ignore_ascii_case(host) {
            return text(StatusCode::FORBIDDEN, "foreign Origin\n");
        }
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
        if !kind.split(';').next().unwrap_or("").trim().eq_ignore_ascii_case("application/json") {
            return text(StatusCode::UNSUPPORTED_MEDIA_TYPE, "Content-Type must be application/json\n");
        }
    }
    next.run(request).await
}

/// What the client calls us: `:authority` of HTTP/2 or of an absolute URL, or Host. None where there are two and they differ.
fn host(request: &Request) -> Option<&str> {
    let mut fields = request.headers().get_all(header::HOST).iter();
    let field = fields.next().map(|h| h.to_str().unwrap_or(""));
    match (request.uri().authority().map(http::uri::Authority::as_str), field) {
        _ if fields.next().is_some() => None,
        (Some(authority), Some(field)) if !authority.eq_ignore_ascii_case(field) => None,
        (authority, field) => authority.or(field),
    }
}

/// Loopback literals, localhost names, the bound address, and the configured names; any port.
fn ours(host: &str, bound: SocketAddr, named: &[String]) -> bool {
    let name = without_port(host).trim_end_matches('.').to_ascii_lowercase();
    if let Ok(ip) = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        return ip.is_loopback() || ip == bound.ip();
    }
    name == "localhost" || name.ends_with(".localhost") || named.iter().any(|n| n.eq_ignore_ascii_case(&name))
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
        let bound: SocketAddr = "10.1.2.3:14190".parse().unwrap();
        let named = ["admin.example".to_owned()];
        for good in
            ["127.0.0.1:14190", "[::1]:14190", "[::1]", "localhost", "a.localhost:1", "10.1.2.3:14190", "ADMIN.example.", "127.9.9.9"]
        {
            assert!(ours(good, bound, &named), "{good}");
        }
        for bad in ["", "evil.example", "10.1.2.4", "localhost.evil.example", "127.0.0.1.evil.example", "[::2]:1", "[", "]", ":", "[::1"] {
            assert!(!ours(bad, bound, &named), "{bad}");
        }
    }
}
