//! Routing: by host, by path, base paths, Location, and tricks that must never reach another
//! upstream.

use crate::support::{
    endpoint::Endpoint,
    issuer::Issuer,
    raw::RawClient,
    sidecar::{Sidecar, open, plain},
    tokens::Tokens,
    vendor::{Need, Vendor},
    wire::Reply,
};

async fn ask(sidecar: &Sidecar, target: &str, host: &str) -> u16 {
    RawClient::ask(
        sidecar.addr(),
        format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes(),
    )
    .await
    .status
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_decides_first_and_any_other_goes_by_the_longest_path() {
    let tokens = Tokens::default();
    let (a, b, c) = (
        Vendor::start(&tokens, vec![]).await,
        Vendor::start(&tokens, vec![]).await,
        Vendor::start(&tokens, vec![]).await,
    );
    let text = format!(
        "{}match = {{ path = \"/orders\", hosts = [\"orders.test\"] }}\n{}match = {{ path = \"/orders/v2\" }}\nstrip_path = false\n{}match = {{ path = \"/pay\", hosts = [\"pay.test\"] }}\n",
        open("a", &format!("{}/base", a.url())),
        open("b", &b.url()),
        open("c", &c.url()),
    );
    let sidecar = Sidecar::start(&text).await;
    let h = "127.0.0.1";
    for (target, host, vendor, arrives) in [
        ("/orders/x", h, &a, "/base/x"),
        ("/orders", h, &a, "/base"),
        ("/orders/", h, &a, "/base/"),
        ("/orders?q", h, &a, "/base?q"),
        ("/orders/v2x", h, &a, "/base/v2x"),
        ("/orders/v2/x", h, &b, "/orders/v2/x"),
        ("/orders/v2", h, &b, "/orders/v2"),
        ("/orders//v2/x", h, &a, "/base//v2/x"),
        ("/pay/orders/x", h, &c, "/orders/x"),
        // Host and path disagree: the host decides url and token alike, and takes nothing off.
        ("/orders/x", "pay.test", &c, "/orders/x"),
        ("/pay/x", "orders.test:99", &a, "/base/pay/x"),
        ("/", "ORDERS.test", &a, "/base/"),
        ("/pay", h, &c, "/"),
    ] {
        assert_eq!(ask(&sidecar, target, host).await, 200, "{host} {target}");
        assert_eq!(vendor.last().target, arrives, "{host} {target}");
        assert_eq!(
            vendor.last().header("host"),
            vendor.url().strip_prefix("http://"),
            "{host} {target}"
        );
    }
    let all = || a.counts().requests + b.counts().requests + c.counts().requests;
    assert_eq!(all(), 13);
    for target in [
        "/",
        "/order",
        "/ordersx/y",
        "/Orders/x",
        "/%6frders/x",
        "/orders%2Fx",
        "/x/orders/",
    ] {
        assert_eq!(ask(&sidecar, target, h).await, 404, "{target}");
    }
    assert_eq!(all(), 13);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_path_however_written_leaves_its_upstream_or_takes_anothers_token() {
    let (mine, theirs) = (Tokens::default(), Tokens::default());
    let first = Issuer::start(
        &mine,
        vec![Endpoint::new("/token", "orders", "s3cret-orders")],
    )
    .await;
    let second = Issuer::start(&theirs, vec![Endpoint::new("/token", "pay", "s3cret-pay")]).await;
    let (orders, pay) = (
        Vendor::start(&mine, vec![Need::Bearer("access")]).await,
        Vendor::start(&theirs, vec![Need::Bearer("access")]).await,
    );
    let text = plain(
        "orders",
        &format!("{}/token", first.url()),
        &format!("{}/v1", orders.url()),
    ) + &plain(
        "pay",
        &format!("{}/token", second.url()),
        &format!("{}/v1", pay.url()),
    );
    let sidecar = Sidecar::start(&text).await;
    let mut passed = 0;
    for (path, expected) in [
        ("/orders/..%2fpay/x", 400),
        ("/orders/%2e%2e/pay/x", 400),
        ("/orders/%2E./pay/x", 400),
        ("/orders/../pay/x", 400),
        ("/orders/./x", 400),
        ("/orders/..", 400),
        ("/orders/a\\..\\..\\pay", 400),
        ("/orders/%5c..%5cpay", 400),
        ("/orders/%252e%252e/pay", 400),
        ("/orders/%25252e%25252e%25252fpay", 400),
        ("/orders/%2%65%2e/pay", 400),
        ("/../pay/x", 400),
        ("/orders/..;/pay", 400),
        ("/orders/%c0%ae%c0%ae/pay", 400),
        ("/orders/...;/pay", 200),
        ("/orders//pay/x", 200),
        ("/orders/x?../../pay", 200),
        ("/orders%00/x", 400),
        ("/Orders/x", 404),
        ("//orders/x", 404),
        ("/orders;/x", 404),
    ] {
        assert_eq!(ask(&sidecar, path, "127.0.0.1").await, expected, "{path}");
        passed += usize::from(expected == 200);
        assert_eq!(
            (orders.counts().answered, pay.counts().requests),
            (passed, 0),
            "{path}"
        );
    }
    assert!(orders.seen().iter().all(|r| r.target.starts_with("/v1/")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_location_within_the_upstream_leads_back_to_us_and_a_foreign_one_stays() {
    let vendor = Vendor::start(&Tokens::default(), vec![]).await;
    let (origin, port) = (vendor.url(), vendor.port());
    let text = format!(
        "{}match = {{ path = \"/acme\", hosts = [\"acme.test\"], forward = false }}\n\
         {}match = {{ path = \"/kept\", forward = false }}\nrewrite_location = false\n",
        open("acme", &format!("{origin}/v2")),
        open("kept", &format!("{origin}/v2")),
    );
    let sidecar = Sidecar::start(&text).await;
    let located = async |location: String, path: &str, host: &str| {
        vendor.script(Reply::new(302, "").with("Location", &location));
        let answer = RawClient::ask(
            sidecar.addr(),
            format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes(),
        )
        .await;
        assert_eq!(answer.status, 302);
        answer.header("location").unwrap().to_owned()
    };
    for (sent, arrives) in [
        (format!("{origin}/v2/a?b#c"), "/acme/a?b#c".to_owned()),
        (format!("{origin}/v2"), "/acme".to_owned()),
        (
            format!("HTTP://127.0.0.1:{port}/v2/a"),
            "/acme/a".to_owned(),
        ),
        ("/v2/a%2Fb".to_owned(), "/acme/a%2Fb".to_owned()),
        ("a/b".to_owned(), "a/b".to_owned()),
        ("./b/../c".to_owned(), "./b/../c".to_owned()),
        ("../b".to_owned(), format!("{origin}/b")),
        ("?page=2".to_owned(), "?page=2".to_owned()),
        ("/v3/a".to_owned(), format!("{origin}/v3/a")),
        ("/v22/a".to_owned(), format!("{origin}/v22/a")),
        (format!("{origin}/other"), format!("{origin}/other")),
        (
            format!("https://127.0.0.1:{port}/v2/a"),
            format!("https://127.0.0.1:{port}/v2/a"),
        ),
        (
            "https://elsewhere.test/v2/a".to_owned(),
            "https://elsewhere.test/v2/a".to_owned(),
        ),
        (format!("//127.0.0.1:{port}/v2/a"), "/acme/a".to_owned()),
        (
            "//elsewhere.test/v2/a".to_owned(),
            "//elsewhere.test/v2/a".to_owned(),
        ),
    ] {
        assert_eq!(
            located(sent.clone(), "/acme/x", "localhost").await,
            arrives,
            "{sent}"
        );
    }
    let whole = format!("{origin}/v2/a");
    assert_eq!(
        located(whole.clone(), "/x", "acme.test").await,
        whole,
        "matched by host: its Host is not ours to name"
    );
    assert_eq!(located(whole.clone(), "/kept/x", "localhost").await, whole);
    assert_eq!(vendor.counts().requests, 17, "nothing was followed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_location_never_leads_to_another_upstream() {
    let (vendor, other) = (
        Vendor::start(&Tokens::default(), vec![]).await,
        Vendor::start(&Tokens::default(), vec![]).await,
    );
    let (origin, nested) = (
        vendor.url(),
        "match = { path = \"/acme/nested\", forward = false }\n",
    );
    let text = open("acme", &format!("{origin}/v2"))
        + &open("other", &other.url())
        + &open("nested", &other.url())
        + nested;
    let sidecar = Sidecar::start(&text).await;
    for (sent, arrives) in [
        (
            format!("{origin}/v2/../other/x?y"),
            format!("{origin}/v2/../other/x?y"),
        ),
        (
            format!("{origin}/v2/%2e%2e/other/x"),
            format!("{origin}/v2/%2e%2e/other/x"),
        ),
        (
            format!("{origin}/v2/..%2fother/x"),
            format!("{origin}/v2/..%2fother/x"),
        ),
        (
            format!("{origin}/v2/nested/x"),
            format!("{origin}/v2/nested/x"),
        ),
        ("/other/x".to_owned(), format!("{origin}/other/x")),
        ("/v2/../other/x".to_owned(), format!("{origin}/other/x")),
        ("../../other/x".to_owned(), format!("{origin}/other/x")),
        ("nested/x".to_owned(), format!("{origin}/v2/nested/x")),
        ("http:/other/x".to_owned(), format!("{origin}/other/x")),
    ] {
        vendor.script(Reply::new(302, "").with("Location", &sent));
        let answer = RawClient::ask(
            sidecar.addr(),
            b"GET /acme/x HTTP/1.1\r\nHost: localhost\r\n\r\n",
        )
        .await;
        assert_eq!(
            (answer.status, answer.header("location")),
            (302, Some(&*arrives)),
            "{sent}"
        );
    }
    vendor.script(
        Reply::new(302, "")
            .with("Location", "a")
            .with("Location", "/other/x"),
    );
    let answer = RawClient::ask(
        sidecar.addr(),
        b"GET /acme/x HTTP/1.1\r\nHost: localhost\r\n\r\n",
    )
    .await;
    assert_eq!(
        answer
            .headers
            .iter()
            .filter(|(n, _)| n.eq_ignore_ascii_case("location"))
            .count(),
        1,
        "{answer:?}"
    );
    assert_eq!(other.connections(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn v11_a_redirect_to_another_host_is_passed_on_and_never_gets_the_token() {
    let tokens = Tokens::default();
    let issuer = Issuer::start(
        &tokens,
        vec![Endpoint::new("/token", "acme", "s3cret-acme")],
    )
    .await;
    let vendor = Vendor::start(&tokens, vec![Need::Bearer("access")]).await;
    let elsewhere = Vendor::start(&tokens, vec![]).await;
    let sidecar = Sidecar::start(&plain(
        "acme",
        &format!("{}/token", issuer.url()),
        &vendor.url(),
    ))
    .await;
    for status in [301, 302, 303, 307, 308] {
        let to = format!("{}/x", elsewhere.url());
        vendor.script(Reply::new(status, "").with("Location", &to));
        let answer = sidecar.get("/acme/x").await;
        assert_eq!(
            (
                answer.status().as_u16(),
                answer.headers()["location"].to_str().unwrap()
            ),
            (status, &*to)
        );
    }
    assert_eq!((vendor.counts().requests, elsewhere.connections()), (5, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_answered_here_is_routed_like_the_rest() {
    let vendor = Vendor::start(&Tokens::default(), vec![]).await;
    let sidecar = Sidecar::start(&open("acme", &vendor.url())).await;
    for (line, host, status) in [
        ("GET /.cupbearer/x", "acme.localhost", 200),
        ("GET /.cupbearer/x", "localhost", 404),
        ("GET /.cupbearer/../acme/x", "localhost", 400),
        ("POST /.cupbearer/token/%2e%2e/acme", "localhost", 400),
        ("OPTIONS /zz/../x", "localhost", 400),
        ("OPTIONS /zz/x", "localhost", 204),
        ("OPTIONS *", "localhost", 204),
    ] {
        let head = format!(
            "{line} HTTP/1.1\r\nHost: {host}\r\nMax-Forwards: 0\r\nContent-Length: 0\r\n\r\n"
        );
        assert_eq!(
            RawClient::ask(sidecar.addr(), head.as_bytes()).await.status,
            status,
            "{line} {host}"
        );
    }
    let seen: Vec<_> = vendor.seen().into_iter().map(|r| r.target).collect();
    assert_eq!(seen, ["/.cupbearer/x"]);
}
