//! As HTTP_PROXY: absolute-form requests and CONNECT, to configured hosts and to no other, without
//! a look-up of any name.

use http::Method;

use crate::support::{
    certs::Authority,
    endpoint::Endpoint,
    http2::Http2,
    issuer::Issuer,
    raw::{RawAnswer, RawClient},
    sidecar::{PORTS, Sidecar, open, plain},
    tokens::Tokens,
    vendor::{Need, Vendor},
    wait::until,
};

async fn ask(sidecar: &Sidecar, line: &str, host: &str) -> RawAnswer {
    RawClient::ask(
        sidecar.addr(),
        format!("{line} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes(),
    )
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_absolute_request_goes_to_its_upstream_with_a_token_and_its_path_unchanged() {
    let tokens = Tokens::default();
    let issuer = Issuer::start(
        &tokens,
        vec![Endpoint::new("/token", "acme", "s3cret-acme")],
    )
    .await;
    let vendor = Vendor::start(&tokens, vec![Need::Bearer("access")]).await;
    let sidecar = Sidecar::start(&plain(
        "acme",
        &format!("{}/token", issuer.url()),
        &format!("{}/v2", vendor.url()),
    ))
    .await;
    let authority = format!("127.0.0.1:{}", vendor.port());
    for path in ["/v2/x%2Fy?z=1", "/v2", "/v2/", "/v2?q", "/v2//a"] {
        let answer = ask(
            &sidecar,
            &format!("GET http://{authority}{path}"),
            &authority,
        )
        .await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        let seen = vendor.last();
        assert_eq!(
            (seen.target.as_str(), seen.header("host")),
            (path, Some(&*authority))
        );
    }
    for path in ["/", "", "/v22", "/V2/x", "/v1/x", "/%76%32/x"] {
        let answer = ask(
            &sidecar,
            &format!("GET http://{authority}{path}"),
            &authority,
        )
        .await;
        assert_eq!(
            (answer.status, answer.json()["code"].as_str()),
            (403, Some("forbidden_destination")),
            "{path}"
        );
    }
    let out = ask(
        &sidecar,
        &format!("GET http://{authority}/v2/../x"),
        &authority,
    )
    .await;
    assert_eq!(
        (out.status, out.json()["code"].as_str()),
        (400, Some("bad_request"))
    );
    assert_eq!(vendor.counts().requests, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn http_names_the_https_upstream_of_the_same_host_and_the_call_goes_over_tls() {
    let authority = Authority::new("ca");
    let vendor = Vendor::with_tls(
        &Tokens::default(),
        vec![],
        Some(Authority::server(&authority.localhost(&[]), &["http/1.1"])),
    )
    .await;
    let port = vendor.port();
    let text = format!(
        "{PORTS}{}tls = {{ ca_file = \"ca.pem\", ca_only = true }}\n",
        open("acme", &vendor.url())
    );
    let sidecar = Sidecar::with_files(&text, &[("ca.pem", &authority.pem)]).await;
    for scheme in ["http", "https"] {
        let answer = ask(
            &sidecar,
            &format!("GET {scheme}://localhost:{port}/x"),
            &format!("localhost:{port}"),
        )
        .await;
        assert_eq!(answer.status, 200, "{scheme}: {}", answer.text());
        assert_eq!(
            vendor.last().header("host"),
            Some(&*format!("localhost:{port}"))
        );
    }
    // Names with their default ports are told apart from others in src/route; nothing listens there
    // to answer.
    let answer = ask(&sidecar, "GET http://localhost/x", "localhost").await;
    assert_eq!(
        (answer.status, answer.json()["code"].as_str()),
        (403, Some("forbidden_destination"))
    );
    assert_eq!(vendor.counts().requests, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn r29_a3_a_host_that_is_not_configured_is_refused_before_any_look_up_or_connection() {
    let vendor = Vendor::start(&Tokens::default(), vec![]).await;
    let other = Vendor::start(&Tokens::default(), vec![]).await;
    let sidecar = Sidecar::start(&open("acme", &vendor.url())).await;
    let (theirs, admin) = (
        format!("127.0.0.1:{}", other.port()),
        sidecar.admin_addr().to_string(),
    );
    let own = sidecar.addr().to_string();
    let mut refused = 0;
    for host in [
        "no-such-host.invalid",
        "no-such-host.invalid:80",
        "169.254.169.254",
        "[::ffff:127.0.0.1]",
        "2130706433",
        "0x7f000001",
        "127.1",
        "0",
        "metadata.google.internal",
        "localhost",
        &theirs,
        &admin,
        &own,
        "127.0.0.1",
        "[::1]:80",
        "127.0.0.1.",
        "acme.localhost",
    ] {
        for line in [
            format!("GET http://{host}/acme/x"),
            format!("GET https://{host}/acme/x"),
            format!("POST http://{host}/api/reload"),
        ] {
            let begun = std::time::Instant::now();
            let answer = ask(&sidecar, &line, host).await;
            assert_eq!(
                (answer.status, answer.json()["code"].as_str()),
                (403, Some("forbidden_destination")),
                "{line}"
            );
            assert!(
                answer
                    .header("proxy-status")
                    .unwrap()
                    .contains("error=http_request_denied")
            );
            assert!(
                begun.elapsed().as_secs() < 5,
                "{line}: no resolver was waited for"
            );
            refused += 1;
        }
    }
    assert_eq!((vendor.connections(), other.connections()), (0, 0));
    let series = "cupbearer_refusals_total{code=\"forbidden_destination\",upstream=\"\"}";
    sidecar.until_metric(series, f64::from(refused)).await;
    assert!(
        sidecar
            .metric("cupbearer_upstream_connects_total{outcome=\"dns\",upstream=\"acme\"}")
            .await
            < 0.5
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn r29_connect_is_told_what_to_do_instead_or_that_the_host_is_foreign() {
    let vendor = Vendor::start(&Tokens::default(), vec![]).await;
    let sidecar = Sidecar::start(&open("acme", &vendor.url())).await;
    let known = format!("127.0.0.1:{}", vendor.port());
    let answer = ask(&sidecar, &format!("CONNECT {known}"), &known).await;
    let problem = answer.json();
    assert_eq!(
        (
            answer.status,
            problem["code"].as_str(),
            problem["upstream"].as_str()
        ),
        (403, Some("intercept_off"), Some("acme"))
    );
    assert!(
        problem["detail"].as_str().unwrap().contains("/acme"),
        "{problem}"
    );
    for host in [
        "evil.test:443",
        "127.0.0.1:22",
        "169.254.169.254:80",
        "[::1]:443",
        "127.0.0.1.:443",
        "xn--80ak6aa92e.com:443",
        "EVIL.test:443",
        "127.0.0.1:0",
    ] {
        let answer = ask(&sidecar, &format!("CONNECT {host}"), host).await;
        assert_eq!(
            (answer.status, answer.json()["code"].as_str()),
            (403, Some("forbidden_destination")),
            "{host}"
        );
    }
    for host in [
        "127.0.0.1",
        "u:p@127.0.0.1:443",
        "http://127.0.0.1:443",
        "127.0.0.1:443/x",
        "/acme/x",
    ] {
        let answer = ask(&sidecar, &format!("CONNECT {host}"), "x").await;
        assert_eq!(
            (answer.status, answer.json()["code"].as_str()),
            (400, Some("bad_request")),
            "{host}"
        );
    }
    // Not a byte of what follows a refused CONNECT is read as a request.
    let after = format!(
        "CONNECT {known} HTTP/1.1\r\nHost: {known}\r\n\r\nGET /acme/smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"
    );
    let all =
        String::from_utf8(RawClient::exchange(sidecar.addr(), after.as_bytes()).await).unwrap();
    assert_eq!(all.matches("HTTP/1.1 ").count(), 1, "{all}");
    assert_eq!(vendor.connections(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_and_a_host_that_disagree_are_refused() {
    let vendor = Vendor::start(&Tokens::default(), vec![]).await;
    let sidecar = Sidecar::start(&open("acme", &vendor.url())).await;
    let known = format!("127.0.0.1:{}", vendor.port());
    for (target, hosts) in [
        (
            format!("http://{known}/x"),
            "Host: evil.test\r\n".to_owned(),
        ),
        (
            "http://evil.test/x".to_owned(),
            format!("Host: {known}\r\n"),
        ),
        (
            format!("http://u:p@{known}/x"),
            format!("Host: {known}\r\n"),
        ),
        (format!("http://{known}/x#f"), format!("Host: {known}\r\n")),
        (format!("ftp://{known}/x"), format!("Host: {known}\r\n")),
        ("http:///x".to_owned(), format!("Host: {known}\r\n")),
        ("/acme/x".to_owned(), String::new()),
        ("/acme/x".to_owned(), "Host: a\r\nHost: a\r\n".to_owned()),
        ("/acme/x".to_owned(), "Host: \r\n".to_owned()),
        ("/acme/x".to_owned(), "Host: a, b\r\n".to_owned()),
        ("/acme/x".to_owned(), "Host: u@localhost\r\n".to_owned()),
        ("acme/x".to_owned(), "Host: localhost\r\n".to_owned()),
        ("*".to_owned(), "Host: localhost\r\n".to_owned()),
    ] {
        let answer = RawClient::ask(
            sidecar.addr(),
            format!("GET {target} HTTP/1.1\r\n{hosts}\r\n").as_bytes(),
        )
        .await;
        assert_eq!(
            (answer.status, answer.json()["code"].as_str()),
            (400, Some("bad_request")),
            "{target} {hosts:?}"
        );
    }
    assert_eq!(vendor.connections(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn connect_is_judged_by_the_password_that_counts_now() {
    let vendor = Vendor::start(&Tokens::default(), vec![]).await;
    let text = PORTS.replace("[admin]", "client_auth = { file = \"auth\" }\n[admin]")
        + &open("acme", &vendor.url());
    let sidecar = Sidecar::with_files(&text, &[("auth", "old-password")]).await;
    let authority = format!("127.0.0.1:{}", vendor.port());
    let connect = async |fields: &str| {
        let head = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n{fields}\r\n");
        RawClient::ask(sidecar.addr(), head.as_bytes()).await.status
    };
    let bearer = |password: &str| format!("Proxy-Authorization: Bearer {password}\r\n");
    assert_eq!(
        connect(&bearer("old-password")).await,
        403,
        "nothing has read the file before"
    );
    assert_eq!(connect(&bearer("other")).await, 407);
    assert_eq!(connect("").await, 407);
    assert_eq!(
        connect(&[bearer("old-password"), bearer("other")].concat()).await,
        407,
        "two fields are none"
    );
    sidecar.rewrite("auth", "new-password");
    until("the new password", async || {
        connect(&bearer("new-password")).await == 403
    })
    .await;
    assert_eq!(connect(&bearer("old-password")).await, 407);
}

#[tokio::test(flavor = "multi_thread")]
async fn connect_over_http_2_is_refused_like_any_other() {
    let vendor = Vendor::start(&Tokens::default(), vec![]).await;
    let text = PORTS.replace("[admin]", "client_auth = { file = \"auth\" }\n[admin]")
        + &open("acme", &vendor.url());
    let sidecar = Sidecar::with_files(&text, &[("auth", "password")]).await;
    let h2 = Http2::connect(sidecar.addr()).await;
    let (known, right) = (
        format!("127.0.0.1:{}", vendor.port()),
        [("proxy-authorization", "Bearer password")],
    );
    for (authority, fields, status, code) in [
        (&*known, &right[..], 403, "intercept_off"),
        ("evil.test:443", &right, 403, "forbidden_destination"),
        (&known, &[], 407, "proxy_auth_required"),
    ] {
        let answer = h2
            .clone()
            .to(authority)
            .call(Method::CONNECT, "", fields, None, None)
            .await
            .unwrap();
        assert_eq!(
            (answer.status.as_u16(), answer.json()["code"].as_str()),
            (status, Some(code)),
            "{authority}"
        );
    }
    assert_eq!(vendor.connections(), 0);
}
