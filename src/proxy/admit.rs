//! May this request go on, and where to? The checks of [Refusals](crate::promises#refusals) in
//! their order, up to the partition.

use std::{net::IpAddr, sync::Arc};

use http::{HeaderMap, Method, Version, header};
use pingora_http::RequestHeader;

use super::{
    head::{bad, is_length, too_large, too_long},
    reply::{Cause, Reply},
};
use crate::{
    config,
    net::{default_port, is_localhost, is_own_host, split_authority},
    route::{RequestTarget, RouteError, RouteMatch, is_safe_path},
    snapshot::Snapshot,
};

/// What the client asks for, taken from the places HTTP/1 and HTTP/2 have for it.
#[derive(Debug, PartialEq, Eq)]
pub struct Asked<'a> {
    /// How the target is named.
    pub form: RequestTarget<'a>,
    /// Path and query as they were sent; `*` for `OPTIONS *`.
    pub path: &'a str,
    /// `OPTIONS *`, or an OPTIONS or TRACE that may not go any further.
    pub for_us: bool,
}

/// Limits and framing of an HTTP/2 request; an HTTP/1 head was judged before pingora saw it.
///
/// # Errors
/// 414 `uri_too_long`, 431 `headers_too_large`, or 400 `bad_request` for a length that is not one
/// number, given once.
pub fn limits(request: &RequestHeader, limits: config::RequestLimits) -> Result<(), Reply> {
    if request.version != Version::HTTP_2 {
        return Ok(());
    }
    let target = request.uri.path_and_query().map_or(0, |p| p.as_str().len());
    if target > limits.uri_bytes {
        return Err(too_long(limits));
    }
    let bytes: usize = request
        .headers
        .iter()
        .map(|(n, v)| n.as_str().len() + v.len() + 4)
        .sum();
    if bytes > limits.header_bytes || request.headers.len() > limits.headers {
        return Err(too_large(limits));
    }
    let mut lengths = request.headers.get_all(header::CONTENT_LENGTH).iter();
    if lengths.next().is_some_and(|one| !is_length(one.as_bytes())) || lengths.next().is_some() {
        return Err(bad("Content-Length is not one number, given once"));
    }
    Ok(())
}

/// Reads the target of a request.
///
/// # Errors
/// 400 `bad_request`: the target or Host cannot be read, or an HTTP/2 request names no host.
pub fn asked(request: &RequestHeader) -> Result<Asked<'_>, Reply> {
    let stay = request.method == Method::OPTIONS
        && request
            .headers
            .get(header::MAX_FORWARDS)
            .is_some_and(|v| v.as_bytes() == b"0");
    let host = request
        .headers
        .get(header::HOST)
        .map(|v| v.to_str().map_err(|_| bad("Host is no host name")))
        .transpose()?;
    if request.version == Version::HTTP_2 {
        let authority = request
            .uri
            .authority()
            .map(http::uri::Authority::as_str)
            .or(host)
            .filter(|a| !a.is_empty());
        let host = authority.ok_or_else(|| bad("there is no :authority"))?;
        let path = request.uri.path_and_query().map_or("/", |p| p.as_str());
        // HTTP/2 has no absolute-form: a forward proxy is recognised by nothing, so by host or path
        // like the rest.
        return Ok(Asked {
            form: RequestTarget::Origin { host },
            path,
            for_us: stay || path == "*",
        });
    }
    let target = std::str::from_utf8(request.raw_path())
        .map_err(|_| bad("the request target is not UTF-8"))?;
    if target == "*" {
        return Ok(Asked {
            form: RequestTarget::Origin {
                host: host.unwrap_or_default(),
            },
            path: "*",
            for_us: true,
        });
    }
    if target.starts_with('/') {
        return Ok(Asked {
            form: RequestTarget::Origin {
                host: host.unwrap_or_default(),
            },
            path: target,
            for_us: stay,
        });
    }
    let (scheme, rest) = target
        .split_once("://")
        .ok_or_else(|| bad("the request target cannot be read"))?;
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    Ok(Asked {
        form: RequestTarget::Absolute { scheme, authority },
        path,
        for_us: stay,
    })
}

/// `browser = "deny"`: what web pages send is refused, and so is a name that could have been
/// rebound to us ([Routes](crate::promises#routes)).
///
/// # Errors
/// 403 `forbidden_origin`.
pub fn browser(
    headers: &HeaderMap,
    asked: &Asked<'_>,
    snapshot: &Snapshot,
    unix: bool,
) -> Result<(), Reply> {
    let proxy = &snapshot.config.proxy;
    if !proxy.browser_deny {
        return Ok(());
    }
    let refuse = |why: &str| Err(Reply::new(Cause::ForbiddenOrigin, why));
    if let Some(field) = navigation(headers) {
        return refuse(&format!(
            "a browser asks for a page ({field}), and an API has none; see proxy.browser"
        ));
    }
    for site in &headers.get_all("sec-fetch-site") {
        if !matches!(site.as_bytes(), b"none" | b"same-origin") {
            return refuse(
                "the request comes from another site's page (Sec-Fetch-Site); see proxy.browser",
            );
        }
    }
    for (name, what) in [(header::ORIGIN, "Origin"), (header::REFERER, "Referer")] {
        for from in &headers.get_all(name) {
            if !from
                .to_str()
                .is_ok_and(|from| is_at_home(from, asked, snapshot))
            {
                return refuse(&format!(
                    "the request comes from another site's page ({what}); see proxy.browser"
                ));
            }
        }
    }
    let RequestTarget::Origin { host } = asked.form else {
        return Ok(());
    };
    if unix || host.is_empty() || ours(host, &proxy.hosts) || matched(host, &snapshot.config) {
        return Ok(());
    }
    refuse(
        "this host name is not known as ours, so it may have been pointed here by a web page; list it in proxy.hosts",
    )
}

/// The field by which a browser tells that it opens a page, a frame, or a program of a page (Fetch
/// Metadata; HTML 4.6.4, 10). The last one comes on origins that are not trustworthy too, where
/// browsers send none of the others.
fn navigation(headers: &HeaderMap) -> Option<&'static str> {
    const PAGES: [&str; 10] = [
        "document",
        "iframe",
        "frame",
        "fencedframe",
        "object",
        "embed",
        "worker",
        "sharedworker",
        "serviceworker",
        "webidentity",
    ];
    let says = |name: &str, words: &[&str]| {
        let says = |value: &http::HeaderValue| {
            words.iter().any(|word| {
                value
                    .as_bytes()
                    .trim_ascii()
                    .eq_ignore_ascii_case(word.as_bytes())
            })
        };
        headers.get_all(name).iter().any(says)
    };
    if says("sec-fetch-mode", &["navigate", "nested-navigate"]) {
        return Some("Sec-Fetch-Mode");
    }
    if says("sec-fetch-dest", &PAGES) {
        return Some("Sec-Fetch-Dest");
    }
    says("upgrade-insecure-requests", &["1"]).then_some("Upgrade-Insecure-Requests")
}

/// Whether an origin, or a URL with one, is the one that is asked here (under another name of this
/// host that no stranger can have, too: clients that follow say where they come from), or that of
/// the upstream which is asked for.
fn is_at_home(from: &str, asked: &Asked<'_>, snapshot: &Snapshot) -> bool {
    let Some((scheme, rest)) = from.split_once("://") else {
        return false;
    };
    let tls = scheme.eq_ignore_ascii_case("https");
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let own = match asked.form {
        RequestTarget::Origin { host } => host,
        RequestTarget::Absolute { authority, .. } => authority,
    };
    if !tls && !scheme.eq_ignore_ascii_case("http") {
        return false;
    }
    if authority.eq_ignore_ascii_case(own) {
        return true;
    }
    let (named, own) = (split_authority(authority), split_authority(own));
    if let (Some((host, port)), Some((_, own_port))) = (&named, &own)
        && port == own_port
    {
        let listed = snapshot
            .config
            .proxy
            .hosts
            .iter()
            .any(|name| name.eq_ignore_ascii_case(host));
        if is_own_host(host) || listed || matched(authority, &snapshot.config) {
            return true;
        }
    }
    let upstream = snapshot
        .router
        .find(asked.form, asked.path)
        .ok()
        .and_then(|hit| snapshot.upstreams.get(hit.upstream));
    upstream.zip(named).is_some_and(|(served, (host, port))| {
        let target = &served.upstream.target;
        *host == *target.host
            && tls == target.tls
            && port.unwrap_or(default_port(tls)) == target.port
    })
}

/// IP literals, localhost, *.localhost and `proxy.hosts`. `0.0.0.0`, `::` and IPv4 within IPv6 lead
/// to this host too, but are nobody's address: it is web pages that use them, because browsers send
/// no Sec-Fetch-Site there.
fn ours(authority: &str, hosts: &[String]) -> bool {
    let Some((host, _)) = split_authority(authority) else {
        return false;
    };
    let address = |ip: IpAddr| !ip.is_unspecified() && ip.to_canonical() == ip;
    host.parse().is_ok_and(address)
        || is_localhost(&host)
        || hosts.iter().any(|h| h.eq_ignore_ascii_case(&host))
}

fn matched(authority: &str, config: &config::Config) -> bool {
    split_authority(authority).is_some_and(|(host, _)| {
        config
            .rules
            .iter()
            .any(|r| r.hosts.iter().any(|h| **h == *host))
    })
}

/// TRACE, and TRACK of some servers, would hand the token back (RFC 9110 9.3.8), in whatever case a
/// server takes them. CONNECT over HTTP/2 (RFC 9113 8.5) is refused as well.
///
/// # Errors
/// 405 `method_refused`.
pub fn method(method: &Method) -> Result<(), Reply> {
    if ["TRACE", "TRACK", "CONNECT"]
        .iter()
        .any(|refused| method.as_str().eq_ignore_ascii_case(refused))
    {
        return Err(Reply::new(
            Cause::MethodRefused,
            format!("{method} is not forwarded"),
        ));
    }
    Ok(())
}

/// Our own Via means that the request went in a circle (RFC 9110 7.6.3). `via` is our pseudonym;
/// `None`: circles are not looked for.
///
/// # Errors
/// 508 `loop_detected`.
pub fn circle(headers: &HeaderMap, via: Option<&str>) -> Result<(), Reply> {
    let Some(pseudonym) = via else { return Ok(()) };
    let hops = headers
        .get_all(header::VIA)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','));
    for hop in hops {
        if hop.split_ascii_whitespace().nth(1) == Some(pseudonym) {
            return Err(Reply::new(
                Cause::LoopDetected,
                "Via names this proxy already: an upstream's url leads back here",
            ));
        }
    }
    Ok(())
}

/// The upstream that the request is for.
///
/// # Errors
/// 404 `no_route`, 403 `forbidden_destination`, or 400 `bad_request` for a path that may be sent
/// nowhere.
pub fn route(snapshot: &Snapshot, asked: &Asked<'_>) -> Result<RouteMatch, Reply> {
    snapshot
        .router
        .find(asked.form, asked.path)
        .map_err(|miss| match miss {
            RouteError::NoRoute => {
                Reply::new(Cause::NoRoute, "no upstream matches this host or path")
            }
            RouteError::Forbidden => Reply::new(
                Cause::ForbiddenDestination,
                "no upstream has this host, port and base path",
            ),
            RouteError::BadPath => bad_path(),
        })
}

/// A path that is answered here is held to the same as one that is forwarded.
///
/// # Errors
/// 400 `bad_request`.
pub fn path(asked: &Asked<'_>) -> Result<(), Reply> {
    let path = asked.path.split('?').next().unwrap_or_default();
    // `*`, or the empty path of an absolute URL.
    if matches!(path, "*" | "") || is_safe_path(path) {
        Ok(())
    } else {
        Err(bad_path())
    }
}

fn bad_path() -> Reply {
    bad("the path has a dot segment, or cannot be read in one way only")
}

/// The answer to CONNECT while nothing is intercepted. Decided without any look-up of the name.
#[must_use]
pub fn connect(snapshot: &Snapshot, authority: &str) -> Reply {
    let Some(upstream) = snapshot.router.find_connect(authority) else {
        return Reply::new(
            Cause::ForbiddenDestination,
            "CONNECT to a host that is no configured upstream",
        );
    };
    let rule = snapshot.config.rules.get(upstream);
    let port = snapshot.config.proxy.listen.iter().find_map(|l| match l {
        config::ListenAddress::Tcp(a) if a.port() != 0 => Some(format!("http://{a}")),
        _ => None,
    });
    let base = port.unwrap_or_else(|| "the proxy's own address".to_owned());
    let instead = match rule.map(|r| (&r.path, r.hosts.first())) {
        Some((Some(path), _)) => format!("; call {base}{path}/… instead"),
        Some((None, Some(host))) => format!("; call {base} with Host: {host} instead"),
        _ => String::new(),
    };
    let mut reply = Reply::new(
        Cause::InterceptOff,
        format!("interception of CONNECT is not part of this release{instead}"),
    );
    reply.upstream = snapshot
        .upstreams
        .get(upstream)
        .map(|s| Arc::clone(&s.upstream.name));
    reply
}

/// The field's value where it stands exactly once.
#[must_use]
pub fn only<'a>(request: &'a RequestHeader, name: &http::HeaderName) -> Option<&'a [u8]> {
    let mut all = request.headers.get_all(name).iter();
    let first = all.next()?;
    all.next().is_none().then(|| first.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &str, target: &str, headers: &[(&'static str, &str)]) -> RequestHeader {
        let mut r = RequestHeader::build(method, target.as_bytes(), None).unwrap();
        for (name, value) in headers {
            r.append_header(*name, *value).unwrap();
        }
        r
    }

    #[test]
    fn the_target_is_read_from_where_each_form_has_it() {
        let r = request("GET", "/a%2Fb?x", &[("host", "h")]);
        assert_eq!(
            asked(&r).unwrap(),
            Asked {
                form: RequestTarget::Origin { host: "h" },
                path: "/a%2Fb?x",
                for_us: false
            }
        );
        let r = request("GET", "http://a.test:1?x", &[("host", "a.test:1")]);
        assert_eq!(
            asked(&r).unwrap(),
            Asked {
                form: RequestTarget::Absolute {
                    scheme: "http",
                    authority: "a.test:1"
                },
                path: "?x",
                for_us: false
            }
        );
        let mut r = request("GET", "/", &[]);
        r.set_version(Version::HTTP_2);
        assert!(asked(&r).is_err());
        r.set_uri("http://a.test/p".parse().unwrap());
        assert_eq!(
            asked(&r).unwrap().form,
            RequestTarget::Origin { host: "a.test" }
        );
        assert!(
            asked(&request("OPTIONS", "*", &[("host", "h")]))
                .unwrap()
                .for_us
        );
        assert!(
            asked(&request(
                "OPTIONS",
                "/a",
                &[("host", "h"), ("max-forwards", "0")]
            ))
            .unwrap()
            .for_us
        );
        assert!(
            !asked(&request(
                "OPTIONS",
                "/a",
                &[("host", "h"), ("max-forwards", "1")]
            ))
            .unwrap()
            .for_us
        );
    }

    #[test]
    fn names_that_cannot_be_rebound_are_ours() {
        let hosts = ["proxy.corp".to_owned()];
        for host in [
            "127.0.0.1:14180",
            "[::1]:1",
            "10.1.2.3",
            "localhost",
            "LOCALHOST:80",
            "a.localhost",
            "proxy.corp:80",
        ] {
            assert!(ours(host, &hosts), "{host}");
        }
        for host in [
            "evil.test",
            "localhost.evil.test",
            "127.0.0.1.evil.test",
            "xlocalhost",
            "",
        ] {
            assert!(!ours(host, &hosts), "{host}");
        }
    }

    #[test]
    fn addresses_that_no_host_has_are_not_ours_unless_listed() {
        for host in [
            "0.0.0.0",
            "0.0.0.0:14180",
            "[::]:14180",
            "[0:0::0]",
            "[::ffff:127.0.0.1]:1",
            "[::ffff:0:0]",
            "[::ffff:a01:203]",
        ] {
            assert!(!ours(host, &[]), "{host}");
        }
        assert!(ours("0.0.0.0:14180", &["0.0.0.0".to_owned()]));
        assert!(ours("[2001:db8::1]", &[]) && ours("[fe80::1]:1", &[]));
    }

    #[test]
    fn our_own_via_is_a_circle_and_a_foreign_one_is_not() {
        let headers = request("GET", "/", &[("via", "1.1 other, HTTP/2.0 us (cupbearer)")])
            .headers
            .clone();
        assert!(circle(&headers, Some("us")).is_err());
        assert!(circle(&headers, Some("them")).is_ok());
        assert!(circle(&headers, None).is_ok());
    }

    #[test]
    fn a_browser_that_opens_a_page_is_known_by_what_it_says() {
        let says = |name: &'static str, value: &str| {
            navigation(&request("GET", "/", &[(name, value)]).headers)
        };
        for (name, value) in [
            ("sec-fetch-mode", "navigate"),
            ("sec-fetch-mode", "Navigate "),
            ("sec-fetch-dest", "document"),
            ("sec-fetch-dest", "iframe"),
            ("sec-fetch-dest", "object"),
            ("sec-fetch-dest", "serviceworker"),
            ("upgrade-insecure-requests", "1"),
        ] {
            assert!(says(name, value).is_some(), "{name}: {value}");
        }
        for (name, value) in [
            ("sec-fetch-mode", "cors"),
            ("sec-fetch-dest", "empty"),
            ("sec-fetch-dest", "image"),
            ("accept", "text/html"),
        ] {
            assert_eq!(says(name, value), None, "{name}: {value}");
        }
    }

    #[test]
    fn methods_that_reflect_are_refused() {
        for refused in ["TRACE", "trace", "Track", "TRACK", "connect"] {
            assert!(
                method(&Method::from_bytes(refused.as_bytes()).unwrap()).is_err(),
                "{refused}"
            );
        }
        assert!(method(&Method::from_bytes(b"PURGE").unwrap()).is_ok());
    }
}
