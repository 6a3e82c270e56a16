//! Tests of routing.

use proptest::prelude::*;

use super::*;

fn rule(path: &str, hosts: &[&str], (tls, host, port, base): (bool, &str, u16, &str)) -> RouteRule {
    RouteRule {
        path: (!path.is_empty()).then(|| path.to_owned()),
        strip_path: true,
        hosts: hosts.iter().map(|&h| h.to_owned()).collect(),
        forward: true,
        url: UpstreamUrl {
            tls,
            host: host.to_owned(),
            port,
            base: base.to_owned(),
        },
    }
}

fn router() -> Router {
    let mut keep = rule("/keep", &[], (true, "keep.example", 8443, "/k"));
    keep.strip_path = false;
    Router::new(vec![
        rule(
            "/acme",
            &["acme.localhost"],
            (true, "api.acme.example", 443, "/v2"),
        ),
        rule(
            "/acme/inner",
            &["inner.localhost"],
            (true, "api.acme.example", 443, "/v2/inner"),
        ),
        rule(
            "/pay",
            &["pay.example", "::1"],
            (false, "127.0.0.1", 9000, ""),
        ),
        keep,
    ])
}

fn find_path_prefix(path: &str) -> Result<(usize, String, Option<Arc<str>>), RouteError> {
    router()
        .find(
            RequestTarget::Origin {
                host: "127.0.0.1:14180",
            },
            path,
        )
        .map(|hit| (hit.upstream, hit.path, hit.stripped))
}

fn forward(scheme: &str, authority: &str, path: &str) -> Result<(usize, String), RouteError> {
    router()
        .find(RequestTarget::Absolute { scheme, authority }, path)
        .map(|hit| (hit.upstream, hit.path))
}

#[test]
fn the_prefix_is_taken_off_and_the_base_path_put_in_front() {
    let strip = Some(Arc::from("/acme"));
    assert_eq!(
        find_path_prefix("/acme/x?y=1"),
        Ok((0, "/v2/x?y=1".into(), strip.clone()))
    );
    assert_eq!(
        find_path_prefix("/acme"),
        Ok((0, "/v2".into(), strip.clone()))
    );
    assert_eq!(
        find_path_prefix("/acme/"),
        Ok((0, "/v2/".into(), strip.clone()))
    );
    assert_eq!(find_path_prefix("/acme?q"), Ok((0, "/v2?q".into(), strip)));
    assert_eq!(
        find_path_prefix("/pay?q=/../x"),
        Ok((2, "/?q=/../x".into(), Some("/pay".into())))
    );
    assert_eq!(
        find_path_prefix("/keep/a"),
        Ok((3, "/k/keep/a".into(), Some("".into())))
    );
}

#[test]
fn the_longest_prefix_of_whole_segments_wins() {
    assert_eq!(find_path_prefix("/acme/inner/x").map(|hit| hit.0), Ok(1));
    assert_eq!(
        find_path_prefix("/acme/innermost").map(|hit| (hit.0, hit.1)),
        Ok((0, "/v2/innermost".into()))
    );
    for foreign in [
        "/",
        "/acmex",
        "/Acme",
        "/acme%2Fx",
        "/%61cme/x",
        "//acme/x",
        "/acme\\x",
    ] {
        assert_eq!(
            find_path_prefix(foreign),
            Err(RouteError::NoRoute),
            "{foreign}"
        );
    }
}

#[test]
fn a_slash_takes_every_path_that_nobody_else_has() {
    let router = Router::new(vec![
        rule("/", &[], (true, "a", 443, "/b")),
        rule("/x", &[], (true, "c", 443, "")),
    ]);
    let find = |path| {
        router
            .find(RequestTarget::Origin { host: "h" }, path)
            .map(|hit| (hit.upstream, hit.path, hit.stripped))
    };
    assert_eq!(find("/y/z"), Ok((0, "/b/y/z".into(), Some("".into()))));
    assert_eq!(find("/"), Ok((0, "/b/".into(), Some("".into()))));
    assert_eq!(find("/x/z").map(|hit| hit.0), Ok(1));
}

#[test]
fn a_configured_host_decides_before_the_path_and_nothing_is_taken_off() {
    for host in [
        "pay.example",
        "PAY.example:14180",
        "pay.example.",
        "[::1]:14180",
    ] {
        let hit = router()
            .find(RequestTarget::Origin { host }, "/acme/x")
            .unwrap();
        assert_eq!(
            (hit.upstream, hit.path.as_str(), hit.stripped),
            (2, "/acme/x", None),
            "{host}"
        );
    }
    let hit = router()
        .find(
            RequestTarget::Origin {
                host: "acme.localhost",
            },
            "/x",
        )
        .unwrap();
    assert_eq!((hit.upstream, hit.path.as_str()), (0, "/v2/x"));
    for other in ["evil.example", "", "pay.example@evil", "a,b"] {
        assert_eq!(
            router()
                .find(RequestTarget::Origin { host: other }, "/acme/x")
                .unwrap()
                .upstream,
            0,
            "{other}"
        );
    }
}

#[test]
fn an_absolute_request_must_name_an_upstreams_origin_and_lie_in_its_base_path() {
    assert_eq!(
        forward("http", "api.acme.example", "/v2/x?y"),
        Ok((0, "/v2/x?y".into()))
    );
    assert_eq!(
        forward("HTTPS", "API.acme.example.:443", "/v2"),
        Ok((0, "/v2".into()))
    );
    assert_eq!(
        forward("http", "api.acme.example:80", "/v2/inner/x"),
        Ok((1, "/v2/inner/x".into()))
    );
    assert_eq!(forward("http", "127.0.0.1:9000", ""), Ok((2, "/".into())));
    assert_eq!(
        forward("http", "127.0.0.1:9000", "?a"),
        Ok((2, "/?a".into()))
    );
    assert_eq!(
        forward("http", "keep.example:8443", "/k"),
        Ok((3, "/k".into()))
    );
    for (scheme, authority, path) in [
        ("http", "api.acme.example", "/v1/x"),
        ("http", "api.acme.example", "/v2x"),
        ("http", "api.acme.example:8080", "/v2"),
        ("http", "127.0.0.1", "/"),
        ("http", "u:p@127.0.0.1:9000", "/"),
        ("http", "169.254.169.254", "/"),
        ("http", "2130706433:9000", "/"),
        ("http", "[::ffff:127.0.0.1]:9000", "/"),
        ("ftp", "127.0.0.1:9000", "/"),
        ("http", "keep.example", "/k"),
    ] {
        assert_eq!(
            forward(scheme, authority, path),
            Err(RouteError::Forbidden),
            "{scheme} {authority} {path}"
        );
    }
}

#[test]
fn what_two_upstreams_match_equally_is_reachable_by_neither() {
    let (a, b) = (
        rule("/a", &[], (true, "x", 443, "/v")),
        rule("/b", &[], (false, "x", 80, "/v")),
    );
    assert!(
        a.url
            .forward_keys()
            .any(|meaning| b.url.forward_keys().any(|other| other == meaning))
    );
    let longer = rule("/c", &[], (true, "x", 443, "/v/w"));
    let router = Router::new(vec![a, b, longer]);
    let find = |path| {
        router
            .find(
                RequestTarget::Absolute {
                    scheme: "http",
                    authority: "x",
                },
                path,
            )
            .map(|hit| hit.upstream)
    };
    assert_eq!(find("/v/x"), Err(RouteError::Forbidden));
    assert_eq!(find("/v/w/x"), Ok(2));
}

#[test]
fn an_upstream_that_does_not_forward_is_not_found_by_its_url() {
    let mut quiet = rule("/a", &[], (true, "x", 443, ""));
    quiet.forward = false;
    let router = Router::new(vec![quiet]);
    assert_eq!(
        router.find(
            RequestTarget::Absolute {
                scheme: "http",
                authority: "x"
            },
            "/"
        ),
        Err(RouteError::Forbidden)
    );
    assert_eq!(router.find_connect("x:443"), None);
}

#[test]
fn find_connect_takes_443_for_granted() {
    assert_eq!(router().find_connect("api.acme.example"), Some(1));
    assert_eq!(router().find_connect("keep.example:8443"), Some(3));
    assert_eq!(router().find_connect("keep.example:22"), None);
}

#[test]
fn a_path_that_could_leave_its_folder_is_bad_in_every_form() {
    for bad in [
        "/acme/../pay",
        "/acme/..%2fpay",
        "/acme/%252e%252e%255cpay",
        "/orders/..\\",
        "*",
        "",
        "/acme/x?a#b",
        "/acme?a b",
    ] {
        assert_eq!(find_path_prefix(bad), Err(RouteError::BadPath), "{bad}");
    }
    assert_eq!(
        forward("http", "api.acme.example", "/v2/%2e%2e/x"),
        Err(RouteError::BadPath)
    );
    assert_eq!(
        router().find(
            RequestTarget::Origin {
                host: "pay.example"
            },
            "/%2e%2e/x"
        ),
        Err(RouteError::BadPath)
    );
}

#[test]
fn bytes_that_are_sent_are_the_bytes_that_came() {
    for rest in [
        "/a%2fb",
        "/a%2Fb",
        "/a;b=c",
        "//",
        "//a//b",
        "/~é",
        "/%25",
        "/%",
        "/a?",
        "/a??b",
        "/a?%2e%2e/..",
        "/;..x",
        "/a+b%20c",
        "/'()*,:@&=$!",
    ] {
        assert_eq!(
            find_path_prefix(&format!("/acme{rest}")).map(|hit| hit.1),
            Ok(format!("/v2{rest}")),
            "{rest}"
        );
    }
}

proptest! {
    #[test]
    fn what_is_sent_starts_with_the_base_path_and_has_no_dot_segment(
        host in "(acme\\.localhost|x|\\PC{0,6})", path in "(/acme|/acme/inner|/pay|/keep|)[/.%25e\\\\aci?;]{0,20}"
    ) {
        let router = router();
        if let Ok(hit) = router.find(RequestTarget::Origin { host: &host }, &path) {
            let rule = &router.rules[hit.upstream];
            prop_assert!(hit.path.starts_with(&rule.url.base));
            let sent = hit.path.split('?').next().unwrap();
            prop_assert!(is_safe_path(sent), "{}", sent);
            prop_assert!(lies_within(sent, &rule.url.base));
            if let Some(prefix) = hit.stripped.filter(|p| !p.is_empty()) {
                prop_assert!(lies_within(path.split('?').next().unwrap(), &prefix));
                prop_assert_eq!(Some(&*prefix), rule.path.as_deref());
            }
        }
    }

    #[test]
    fn any_request_gives_an_answer(scheme in "https?|\\PC{0,5}", host in "\\PC{0,20}", path in "\\PC{0,40}") {
        let router = router();
        let _ = router.find(RequestTarget::Origin { host: &host }, &path);
        let _ = router.find(RequestTarget::Absolute { scheme: &scheme, authority: &host }, &path);
        let _ = router.find_connect(&host);
    }
}
