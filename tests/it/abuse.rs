//! A1-A3, A7, A8, A10, A11, A15, R11: what a client may try, and what a vendor may say, over real
//! sockets.

use std::time::Duration;

use tokio::{io::AsyncWriteExt, time::timeout};

use crate::support::{
    endpoint::Endpoint,
    issuer::Issuer,
    raw::{RawAnswer, RawClient},
    sidecar::{PORTS, Sidecar, plain},
    tokens::Tokens,
    vendor::{Need, Raw, Vendor},
    wire::Reply,
};

/// Two upstreams on one token endpoint each, told apart by the client of the token that arrives.
struct Pair {
    tokens: Tokens,
    orders: Vendor,
    pay: Vendor,
    issuer: Issuer,
    sidecar: Sidecar,
}

async fn pair(proxy: &str) -> Pair {
    let tokens = Tokens::default();
    let endpoints = ["orders", "pay"].map(|n| Endpoint {
        name: n.into(),
        ..Endpoint::new(&format!("/{n}"), n, &format!("s3cret-{n}"))
    });
    let issuer = Issuer::start(&tokens, endpoints.into()).await;
    let (orders, pay) = (
        Vendor::start(&tokens, vec![Need::Bearer("orders")]).await,
        Vendor::start(&tokens, vec![Need::Bearer("pay")]).await,
    );
    let stanza = |name: &str, vendor: &Vendor| {
        plain(
            name,
            &format!("{}/{name}", issuer.url()),
            &format!("{}/v2", vendor.url()),
        )
    };
    let ports = PORTS.replace("[proxy]\n", &format!("[proxy]\n{proxy}\n"));
    let sidecar = Sidecar::with_files(
        &format!(
            "{ports}{}{}",
            stanza("orders", &orders),
            stanza("pay", &pay)
        ),
        &[],
    )
    .await;
    Pair {
        tokens,
        orders,
        pay,
        issuer,
        sidecar,
    }
}

impl Pair {
    async fn raw(&self, request: &str) -> RawAnswer {
        RawClient::ask(self.sidecar.addr(), request.as_bytes()).await
    }

    async fn get(&self, target: &str, host: &str) -> RawAnswer {
        self.raw(&format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"))
            .await
    }

    /// Everything that arrived lies within the base path and carries its own upstream's token, in
    /// one value.
    fn is_kept_apart(&self) {
        for (name, vendor) in [("orders", &self.orders), ("pay", &self.pay)] {
            assert_eq!(
                vendor.counts().unknown,
                0,
                "a token went to another's vendor"
            );
            for request in vendor.seen() {
                assert!(
                    request.target == "/v2"
                        || request.target.starts_with("/v2/")
                        || request.target.starts_with("/v2?"),
                    "{name}: {}",
                    request.target
                );
                let decoded =
                    percent_encoding::percent_decode_str(request.target.split('?').next().unwrap())
                        .decode_utf8_lossy()
                        .into_owned();
                assert!(
                    !decoded
                        .split(['/', '\\', '?'])
                        .any(|s| matches!(s, "." | "..")),
                    "{name}: {}",
                    request.target
                );
                let token = request
                    .header("authorization")
                    .and_then(|a| a.strip_prefix("Bearer ").map(ToOwned::to_owned))
                    .expect("a token");
                assert_eq!(self.tokens.get(&token).expect("a known token").client, name);
            }
        }
    }
}

/// What leads somewhere else, for one upstream's path and the other's.
fn tricks(own: &str, other: &str) -> Vec<String> {
    let mut all = Vec::new();
    for up in [
        "..",
        ".",
        "%2e%2e",
        "%2E.",
        ".%2e",
        "%252e%252e",
        "%25252e%25252e",
        "..%2f",
        "..%2F",
        "..%5c",
        "..\\",
        "..;",
        "..;x=y",
        "%2e%2e;",
        "..%00",
        "..%20",
        "..%09",
        "%c0%ae%c0%ae",
        "%e0%80%ae%e0%80%ae",
        "%u002e%u002e",
        "..%ef%bc%8f",
        "\\..\\",
        "%5c..%5c",
        "..%252f",
        "..%c0%af",
        "...",
        "..%0d%0a",
    ] {
        all.extend([
            format!("/{own}/{up}/{other}/x"),
            format!("/{own}/{up}{other}/x"),
            format!("/{own}/a/b/{up}/{up}/{up}/{up}/x"),
            format!("/{own}/{up}"),
            format!("/{up}/{other}/x"),
        ]);
    }
    for odd in [
        "//{other}/x",
        "/{own}//../{other}/x",
        "/{own}///{other}",
        "/{Own}/x",
        "/{own}%00/x",
        "/{own}%2f..%2f{other}",
        "/{own};/../{other}",
        "/{own}x/y",
        "/{own}%2fx",
        "/{own}?/../{other}",
        "/%{own}",
        "/{own}/x?redirect=http://evil.test/../..",
        "/{own}/http://evil.test/",
        "/{own}/@evil.test/",
        "/{own}:80@evil.test/x",
        "/{own}/x%0d%0aX-Evil:%201",
        "/{own}/x%00y",
    ] {
        let capital = own[..1].to_uppercase() + &own[1..];
        all.push(
            odd.replace("{own}", own)
                .replace("{other}", other)
                .replace("{Own}", &capital),
        );
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a1_no_path_reaches_another_upstream_or_leaves_the_base_path() {
    let pair = pair("").await;
    let mut passed = 0;
    for (own, other) in [("orders", "pay"), ("pay", "orders")] {
        for path in tricks(own, other) {
            let count = |v: &Vendor| v.counts().requests;
            let (before, foreign) = if own == "orders" {
                (count(&pair.orders), count(&pair.pay))
            } else {
                (count(&pair.pay), count(&pair.orders))
            };
            let answer = pair.get(&path, "localhost").await;
            assert!(
                matches!(answer.status, 200 | 400 | 404),
                "{path}: {}",
                answer.status
            );
            let (after, theirs) = if own == "orders" {
                (count(&pair.orders), count(&pair.pay))
            } else {
                (count(&pair.pay), count(&pair.orders))
            };
            assert_eq!(
                after - before,
                usize::from(answer.status == 200 && theirs == foreign),
                "{path}"
            );
            // Only a path that begins with the other's name, as written, is the other's.
            assert!(
                theirs == foreign || path.starts_with(&format!("/{other}")),
                "{path} reached {other}"
            );
            passed += usize::from(answer.status == 200);
        }
    }
    assert!(passed > 10, "harmless ones pass ({passed})");
    pair.is_kept_apart();
}

#[tokio::test(flavor = "multi_thread")]
async fn a2_a3_host_path_and_absolute_form_that_disagree_have_one_meaning() {
    let pair = pair("").await;
    let (orders, pay) = (
        pair.orders.url().replace("http://", ""),
        pair.pay.url().replace("http://", ""),
    );
    // A configured host decides before the path, and its path is not stripped.
    assert_eq!(pair.get("/orders/x", "pay.localhost").await.status, 200);
    assert_eq!(
        (
            pair.pay.last().target.as_str(),
            pair.orders.counts().requests
        ),
        ("/v2/orders/x", 0)
    );
    for (target, host, status, code) in [
        (
            format!("http://{pay}/v2/x"),
            orders.clone(),
            400,
            "bad_request",
        ),
        (
            format!("http://{pay}/orders/x"),
            pay.clone(),
            403,
            "forbidden_destination",
        ),
        (
            format!("http://{pay}/v2/../orders"),
            pay.clone(),
            400,
            "bad_request",
        ),
        (
            "http://evil.test/orders/x".into(),
            "evil.test".into(),
            403,
            "forbidden_destination",
        ),
        (
            "http://169.254.169.254/latest".into(),
            "169.254.169.254".into(),
            403,
            "forbidden_destination",
        ),
        (
            "http://[::ffff:127.0.0.1]/orders/x".into(),
            "[::ffff:127.0.0.1]".into(),
            403,
            "forbidden_destination",
        ),
        (
            "http://2130706433/orders/x".into(),
            "2130706433".into(),
            403,
            "forbidden_destination",
        ),
        (
            format!("http://{}/api/status", pair.sidecar.admin_addr()),
            pair.sidecar.admin_addr().to_string(),
            403,
            "forbidden_destination",
        ),
        (
            "/orders/x".into(),
            "evil.test".into(),
            403,
            "forbidden_origin",
        ),
        (
            "/orders/x".into(),
            "pay.localhost.evil.test".into(),
            403,
            "forbidden_origin",
        ),
        (
            "/orders/x".into(),
            "localhost, pay.localhost".into(),
            400,
            "bad_request",
        ),
        (
            "/orders/x".into(),
            "evil.test@pay.localhost".into(),
            400,
            "bad_request",
        ),
        (
            "/orders/x".into(),
            "pay.localhost/orders".into(),
            400,
            "bad_request",
        ),
        ("/api/status".into(), "localhost".into(), 404, "no_route"),
        ("/metrics".into(), "localhost".into(), 404, "no_route"),
    ] {
        let answer = pair.get(&target, &host).await;
        assert_eq!(
            (answer.status, answer.json()["code"].as_str()),
            (status, Some(code)),
            "{target} at {host}"
        );
    }
    assert_eq!(
        (pair.orders.counts().requests, pair.pay.counts().requests),
        (0, 1)
    );
    assert_eq!(
        pair.get(&format!("http://{pay}/v2/x"), &pay).await.status,
        200
    );
    pair.is_kept_apart();
}

#[tokio::test(flavor = "multi_thread")]
async fn a7_a8_bytes_in_values_stay_one_line_and_a_clients_own_credentials_never_pass() {
    let pair = pair("").await;
    for value in ["a\rb", "a\nb", "a\0b", "a\x01b", "a\x7fb", "a\r\n b"] {
        let answer = pair
            .raw(&format!(
                "GET /orders/x HTTP/1.1\r\nHost: localhost\r\nX-V: {value}\r\n\r\n"
            ))
            .await;
        assert_eq!(answer.status, 400, "{value:?}");
    }
    assert_eq!(pair.orders.counts().requests, 0);
    // Obsolete text is opaque and passes as it is (RFC 9110 5.5).
    let text = "GET /orders/x?q=%0d%0aX-Evil:%201&r=%00 HTTP/1.1\r\nHost: localhost\r\nX-V: gr\u{fc}n\r\nAuthorization: Bearer evil\r\nauthorization : x\r\n\r\n";
    assert_eq!(pair.raw(text).await.status, 400);
    let text = text
        .replace("authorization : x\r\n", "AUTHORIZATION: evil\r\nProxy-Authorization: Basic ZXZpbA==\r\nConnection: authorization\r\n");
    assert_eq!(pair.raw(&text).await.status, 200);
    let seen = pair.orders.last();
    assert_eq!(seen.target, "/v2/x?q=%0d%0aX-Evil:%201&r=%00");
    assert!(
        !seen.headers.iter().any(|(n, v)| v.contains("evil")
            || n.eq_ignore_ascii_case("proxy-authorization")
            || n.eq_ignore_ascii_case("x-evil")),
        "{:?}",
        seen.headers
    );
    assert_eq!(
        seen.headers
            .iter()
            .filter(|(n, _)| n.eq_ignore_ascii_case("authorization"))
            .count(),
        1
    );
    assert!(seen.header("x-v").is_some());
    pair.is_kept_apart();
}

#[tokio::test(flavor = "multi_thread")]
async fn a7_partition_values_and_settings_cannot_break_a_line_or_a_parameter() {
    let tokens = Tokens::default();
    let issuer = Issuer::start(
        &tokens,
        vec![Endpoint::new("/token", "acme", "s3cret-acme")],
    )
    .await;
    let vendor = Vendor::start(&tokens, vec![Need::Bearer("access")]).await;
    let more = "[credentials.acme.partition.customer]\nheader = \"X-Customer\"\npattern = \"^[a-z ]{1,20}$\"\n";
    let stanza = plain("acme", &format!("{}/token", issuer.url()), &vendor.url());
    let sidecar = Sidecar::start(&format!("{stanza}{more}")).await;
    for value in [
        "",
        "A",
        "x scope=api",
        "abc&scope=api",
        "abc%0d%0a",
        "abc\tx",
        "abc\u{fc}",
        "abc, abc",
        "aaaaaaaaaaaaaaaaaaaaaaaaa",
    ] {
        let answer = RawClient::ask(
            sidecar.addr(),
            format!("GET /acme/x HTTP/1.1\r\nHost: localhost\r\nX-Customer: {value}\r\n\r\n")
                .as_bytes(),
        )
        .await;
        assert_eq!(
            (answer.status, answer.json()["code"].as_str()),
            (400, Some("partition_invalid")),
            "{value:?}"
        );
    }
    let twice =
        b"GET /acme/x HTTP/1.1\r\nHost: localhost\r\nX-Customer: abc\r\nX-Customer: abd\r\n\r\n";
    assert_eq!(
        RawClient::ask(sidecar.addr(), twice).await.json()["code"],
        "partition_invalid"
    );
    assert_eq!((issuer.calls("/token"), vendor.counts().requests), (0, 0));
    let fine = RawClient::ask(
        sidecar.addr(),
        b"GET /acme/x HTTP/1.1\r\nHost: localhost\r\nX-Customer: abc\r\n\r\n",
    )
    .await;
    assert_eq!(fine.status, 200);
    assert!(vendor.last().header("x-customer").is_none());

    // A setting or secret with a line break in a header value is a mistake that is told, or never sent.
    for bad in ["a\\r\\nX-Evil: 1", "a\\nb", "a\\u0000b"] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("c.toml");
        let stanza = "[credentials.a]\nprofile = \"static\"\nsettings = { s = \"BAD\" }\nsecrets = { k = \"k\" }\ninject.headers = { X-A = \"{{ s }}\" }\n".replace("BAD", bad);
        std::fs::write(
            &file,
            format!(
                "{PORTS}{stanza}[upstreams.a]\nurl = \"{}\"\ncredential = \"a\"\n",
                vendor.url()
            ),
        )
        .unwrap();
        let (config, _) =
            cupbearer::config::load(&file, &cupbearer::config::LoadOptions::default());
        let Some(config) = config else { continue };
        let Ok(app) = cupbearer::app::App::start(config, cupbearer::app::Options::default()).await
        else {
            continue;
        };
        let before = vendor.counts().requests;
        let answer = RawClient::ask(
            app.proxy()[0].parse().unwrap(),
            b"GET /a/x HTTP/1.1\r\nHost: localhost\r\n\r\n",
        )
        .await;
        assert!(answer.status >= 500, "{bad}: {}", answer.status);
        assert_eq!(vendor.counts().requests, before, "{bad}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a11_heads_and_targets_above_the_limits_have_their_codes_and_are_counted() {
    let pair = pair("limits = { header_bytes = 4096, headers = 20, uri_bytes = 1000 }").await;
    let long = |n: usize| "a".repeat(n);
    let get = |target: &str, more: &str| {
        format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n{more}\r\n")
    };
    for (request, status, code) in [
        (
            get(&format!("/orders/{}", long(1000)), ""),
            414,
            "uri_too_long",
        ),
        (format!("GET /{}", long(8 << 20)), 414, "uri_too_long"),
        (
            get("/orders/x", &format!("X: {}\r\n", long(4096))),
            431,
            "headers_too_large",
        ),
        (
            get("/orders/x", &format!("X: {}\r\n", long(1 << 20))),
            431,
            "headers_too_large",
        ),
        (
            get("/orders/x", &"X: a\r\n".repeat(20)),
            431,
            "headers_too_large",
        ),
        (
            get("/orders/x", &"X: a\r\n".repeat(400)),
            431,
            "headers_too_large",
        ),
    ] {
        let answer = pair.raw(&request).await;
        assert_eq!(
            (answer.status, answer.json()["code"].as_str()),
            (status, Some(code)),
            "{} bytes",
            request.len()
        );
    }
    assert_eq!(pair.orders.counts().requests, 0);
    pair.sidecar
        .until_metric(
            "cupbearer_refusals_total{code=\"uri_too_long\",upstream=\"\"}",
            2.0,
        )
        .await;
    pair.sidecar
        .until_metric(
            "cupbearer_refusals_total{code=\"headers_too_large\",upstream=\"\"}",
            4.0,
        )
        .await;
    let fits = pair
        .raw(&get(
            &format!("/orders/{}", long(900)),
            &format!("X: {}\r\n", long(3900)),
        ))
        .await;
    assert_eq!(fits.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a10_a_slow_head_has_a_total_deadline_and_a_slow_body_a_lowest_rate() {
    let pair = pair("limits = { header_timeout = \"400ms\", idle = \"1s\" }").await;
    let head = b"GET /orders/x HTTP/1.1\r\nHost: localhost\r\n";
    let mut slow = RawClient::connect(pair.sidecar.addr()).await;
    slow.write(head).await;
    let mut half = 0;
    let dripped = async {
        // One byte each 50 ms: every single read is quick, all of them together are not.
        while half < 200 && slow.tcp.write_all(b"X").await.is_ok() {
            half += 1;
            tokio::time::sleep(Duration::from_millis(50)).await;
            if slow.tcp.try_read(&mut [0; 1]).is_ok() {
                return;
            }
        }
    };
    timeout(Duration::from_secs(5), dripped)
        .await
        .expect("the head is cut off");
    assert!(half < 100, "cut off at its deadline, after {half} bytes");

    // A body of known length that comes at 20 bytes a second; each byte is well within `idle`.
    let mut slow = RawClient::connect(pair.sidecar.addr()).await;
    slow.write(b"POST /orders/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n")
        .await;
    let (mut read, mut write) = slow.tcp.into_split();
    let drip = tokio::spawn(async move {
        while write.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let mut answer = Vec::new();
    let _ = timeout(
        Duration::from_secs(8),
        tokio::io::AsyncReadExt::read_to_end(&mut read, &mut answer),
    )
    .await
    .expect("the body is cut off");
    drip.abort();
    assert!(
        answer.starts_with(b"HTTP/1.1 408"),
        "{}",
        answer.escape_ascii()
    );

    // One that stands still is cut off by `idle`, whether its length is known or not.
    for framing in ["Content-Length: 5", "Transfer-Encoding: chunked"] {
        let request = format!("POST /orders/x HTTP/1.1\r\nHost: localhost\r\n{framing}\r\n\r\n");
        let answer = timeout(Duration::from_secs(8), pair.raw(&request))
            .await
            .expect("it is cut off");
        assert_eq!(answer.status, 408, "{framing}");
    }
    assert_eq!(pair.issuer.calls("/orders"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a15_a_loop_through_ourselves_is_a_configuration_error_or_ends_after_one_hop() {
    let text = "[proxy]\nlisten = [\"127.0.0.1:14999\"]\n[upstreams.a]\nurl = \"http://127.0.0.1:14999\"\ncredential = \"none\"\n";
    for url in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("c.toml");
        std::fs::write(
            &file,
            text.replace("http://127.0.0.1", &format!("http://{url}")),
        )
        .unwrap();
        let (_, problems) =
            cupbearer::config::load(&file, &cupbearer::config::LoadOptions::default());
        assert!(
            format!("{:?}", problems.list()).contains("upstreams.a.url"),
            "{url}: {:?}",
            problems.list()
        );
    }
    // A ring that no configuration shows: another proxy stands in between and sends it back.
    let between = Raw::start().await;
    let text = PORTS.replace("[proxy]\n", "[proxy]\nvia = \"cup-1\"\n");
    let sidecar = Sidecar::with_files(
        &format!(
            "{text}[upstreams.a]\nurl = \"{}\"\ncredential = \"none\"\n",
            between.url()
        ),
        &[],
    )
    .await;
    let addr = sidecar.addr();
    let client = tokio::spawn(RawClient::ask(
        addr,
        b"GET /a/x HTTP/1.1\r\nHost: localhost\r\nVia: 1.0 other\r\n\r\n",
    ));
    let (mut tcp, head) = between.accept_until(b"\r\n\r\n").await;
    let head = String::from_utf8(head).unwrap();
    let via: Vec<&str> = head
        .lines()
        .filter(|l| l.to_ascii_lowercase().starts_with("via:"))
        .collect();
    let back = RawClient::ask(
        addr,
        format!(
            "GET /a/x HTTP/1.1\r\nHost: localhost\r\n{}\r\n\r\n",
            via.join("\r\n")
        )
        .as_bytes(),
    )
    .await;
    assert_eq!(
        (back.status, back.json()["code"].as_str()),
        (508, Some("loop_detected")),
        "{via:?}"
    );
    tcp.write_all(
        format!(
            "HTTP/1.1 508 Loop\r\nContent-Length: {}\r\n\r\n{}",
            back.body.len(),
            back.text()
        )
        .as_bytes(),
    )
    .await
    .unwrap();
    assert_eq!(client.await.unwrap().status, 508);
    assert!(between.is_silent().await, "one hop, no more");
}

#[tokio::test(flavor = "multi_thread")]
async fn r11_redirects_cookies_and_challenges_of_a_vendor_pass_and_are_never_acted_upon() {
    let pair = pair("").await;
    let elsewhere = Raw::start().await;
    for status in [301, 302, 303, 307, 308] {
        pair.orders.script(
            Reply::json(status, &serde_json::json!({}))
                .with("Location", &format!("{}/steal", elsewhere.url()))
                .with("Set-Cookie", "a=b; Path=/"),
        );
        let answer = pair.get("/orders/x", "localhost").await;
        assert_eq!(
            (answer.status, answer.header("location")),
            (status, Some(format!("{}/steal", elsewhere.url()).as_str()))
        );
        assert_eq!(answer.header("set-cookie"), Some("a=b; Path=/"));
    }
    assert!(elsewhere.is_silent().await);
    pair.orders.script(
        Reply::json(403, &serde_json::json!({}))
            .with("WWW-Authenticate", "Bearer error=\"insufficient_scope\""),
    );
    let answer = pair.get("/orders/x", "localhost").await;
    assert_eq!(
        (answer.status, answer.header("www-authenticate")),
        (403, Some("Bearer error=\"insufficient_scope\""))
    );
    for method in ["TRACE", "TRACK", "trace", "Track"] {
        let before = pair.orders.counts().requests;
        let answer = pair
            .raw(&format!(
                "{method} /orders/x HTTP/1.1\r\nHost: localhost\r\n\r\n"
            ))
            .await;
        assert_eq!(
            (answer.status, answer.json()["code"].as_str()),
            (405, Some("method_refused")),
            "{method}"
        );
        assert_eq!(pair.orders.counts().requests - before, 0, "{method}");
    }
    let options = pair
        .raw("OPTIONS /orders/x HTTP/1.1\r\nHost: localhost\r\nMax-Forwards: 0\r\n\r\n")
        .await;
    assert_eq!(options.status, 204, "not forwarded, with no token");
}
