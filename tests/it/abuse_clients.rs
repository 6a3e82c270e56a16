//! A4, A5, A10, A12, A16: web pages, clients that stall in either direction, many partitions, and
//! clients that leave.

use std::time::Duration;

use http::Method;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinSet,
    time::timeout,
};

use crate::support::{
    endpoint::Endpoint,
    http2::Http2,
    issuer::Issuer,
    raw::RawClient,
    sidecar::{PORTS, Process, Sidecar, plain},
    tokens::Tokens,
    vendor::{Need, Vendor},
    wait::until,
    wire::{Answer, Body, Gate, Reply, Step},
};

const IN_FLIGHT: &str = "cupbearer_requests_in_flight{upstream=\"acme\"}";

struct One {
    issuer: Issuer,
    vendor: Vendor,
    sidecar: Sidecar,
}

async fn one(proxy: &str, upstream: &str) -> One {
    after(None, proxy, upstream).await
}

/// The first token call, which is made at the start, gets this answer.
async fn after(first: Option<Answer>, proxy: &str, upstream: &str) -> One {
    let tokens = Tokens::default();
    let issuer = Issuer::start(
        &tokens,
        vec![Endpoint::new("/token", "acme", "s3cret-acme")],
    )
    .await;
    if let Some(answer) = first {
        issuer.script(answer);
    }
    let vendor = Vendor::start(&tokens, vec![Need::Bearer("access")]).await;
    let ports = PORTS.replace("[proxy]\n", &format!("[proxy]\n{proxy}\n"));
    let stanza = plain("acme", &format!("{}/token", issuer.url()), &vendor.url());
    let sidecar = Sidecar::with_files(&format!("{ports}{stanza}{upstream}\n"), &[]).await;
    One {
        issuer,
        vendor,
        sidecar,
    }
}

impl One {
    /// Waits until nothing is under way.
    async fn settles(&self, series: &str) {
        until(&format!("0 of {series}"), async || {
            self.sidecar.metric(series).await == 0.0
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a4_a5_web_pages_and_rebound_names_spend_no_token() {
    let one = one("", "").await;
    let addr = one.sidecar.addr();
    for (host, fields) in [
        ("localhost", "Origin: https://evil.test\r\n"),
        ("localhost", "Origin: null\r\n"),
        ("localhost", "Origin: http://localhost:1\r\n"),
        ("localhost", "Sec-Fetch-Site: cross-site\r\n"),
        ("localhost", "Sec-Fetch-Site: same-site\r\n"),
        (
            "localhost",
            "Sec-Fetch-Site: none\r\nSec-Fetch-Site: cross-site\r\n",
        ),
        ("evil.test", ""),
        ("localhost.evil.test", "Sec-Fetch-Site: same-origin\r\n"),
    ] {
        let answer = RawClient::ask(
            addr,
            format!("GET /acme/x HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n").as_bytes(),
        )
        .await;
        assert_eq!(
            (answer.status, answer.json()["code"].as_str()),
            (403, Some("forbidden_origin")),
            "{host} {fields}"
        );
        assert!(answer.header("access-control-allow-origin").is_none());
    }
    assert_eq!(one.vendor.counts().requests, 0);
    let own =
        RawClient::ask(addr, b"GET /acme/x HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\nSec-Fetch-Site: same-origin\r\n\r\n")
            .await;
    assert_eq!(own.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a10_a_client_that_does_not_read_its_answer_is_cut_off_after_idle() {
    let one = one("limits.idle = \"1s\"", "").await;
    one.vendor.always(Some(
        Reply {
            body: Body::Long(1 << 30),
            ..Reply::json(200, &serde_json::json!({}))
        }
        .into(),
    ));
    let mut stuck = RawClient::connect(one.sidecar.addr()).await;
    stuck
        .write(b"GET /acme/x HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await;
    one.vendor.wait(1).await;
    one.settles(IN_FLIGHT).await;
    // The same on HTTP/2, where the window stays shut.
    let tcp = tokio::net::TcpStream::connect(one.sidecar.addr())
        .await
        .unwrap();
    let (send, connection) = h2::client::handshake(tcp).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::get(format!("http://{}/acme/x", one.sidecar.addr()))
        .body(())
        .unwrap();
    let (answer, _) = send
        .ready()
        .await
        .unwrap()
        .send_request(request, true)
        .unwrap();
    let _unread = answer.await.unwrap();
    one.settles(IN_FLIGHT).await;
    one.vendor.always(None);
    assert_eq!(one.sidecar.status_of("/acme/x").await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a10_a_body_that_stands_still_on_http2_is_bounded_too() {
    let one = one("limits.idle = \"1s\"", "timeouts = { read = \"1s\" }").await;
    let tcp = tokio::net::TcpStream::connect(one.sidecar.addr())
        .await
        .unwrap();
    let (send, connection) = h2::client::handshake(tcp).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::post(format!("http://{}/acme/x", one.sidecar.addr()))
        .body(())
        .unwrap();
    let (answer, mut body) = send
        .ready()
        .await
        .unwrap()
        .send_request(request, false)
        .unwrap();
    body.send_data("abc".into(), false).unwrap();
    let answer = timeout(Duration::from_secs(8), answer)
        .await
        .expect("an end in time");
    assert!(answer.map_or(true, |a| matches!(a.status().as_u16(), 408 | 504)));
    one.settles(IN_FLIGHT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a10_a_steady_upload_may_take_longer_than_every_timeout() {
    let one = one("limits.idle = \"1s\"", "timeouts = { read = \"1s\" }").await;
    for framing in ["Content-Length: 20000", "Transfer-Encoding: chunked"] {
        let mut client = RawClient::connect(one.sidecar.addr()).await;
        client
            .write(
                format!("POST /acme/x HTTP/1.1\r\nHost: localhost\r\n{framing}\r\n\r\n").as_bytes(),
            )
            .await;
        for _ in 0..20 {
            let part = "x".repeat(1000);
            let part = if framing.starts_with('C') {
                part
            } else {
                format!("3e8\r\n{part}\r\n")
            };
            client.write(part.as_bytes()).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        if framing.starts_with('T') {
            client.write(b"0\r\n\r\n").await;
        }
        let answer = client.answer("POST").await.expect("an answer");
        assert_eq!(answer.status, 200, "{framing}: {}", answer.text());
        assert_eq!(answer.json()["length"], 20_000, "{framing}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a12_ten_thousand_partition_values_stay_within_their_bound() {
    let more = "[credentials.acme.partition.customer]\nheader = \"X-Customer\"\npattern = \"^c[0-9]{1,5}$\"\nmax = 50\n[credentials.acme.guard]\nrate = [\"200/m\"]\n";
    let one = one("", &format!("timeouts = {{ token = \"0s\" }}\n{more}")).await;
    let mut all = JoinSet::new();
    for lane in 0..20 {
        let addr = one.sidecar.addr();
        all.spawn(async move {
            let mut client = RawClient::connect(addr).await;
            for n in 0..500 {
                client
                    .write(
                        format!(
                            "GET /acme/x HTTP/1.1\r\nHost: localhost\r\nX-Customer: c{}\r\n\r\n",
                            lane * 500 + n
                        )
                        .as_bytes(),
                    )
                    .await;
                let answer = client.answer("GET").await.unwrap();
                assert!(
                    matches!(answer.status, 200 | 502 | 503 | 504),
                    "{}",
                    answer.status
                );
            }
        });
    }
    timeout(Duration::from_secs(60), all.join_all())
        .await
        .expect("an end");
    assert!(
        one.issuer.calls("/token") <= 201,
        "the budget is the credential's: {} calls",
        one.issuer.calls("/token")
    );
    let status = one.sidecar.status().await.to_string();
    assert!(status.matches("c1").count() < 200, "values are not kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn a16_clients_that_leave_at_any_moment_leave_nothing_behind() {
    let gate = Gate::shut();
    let refusal = b"HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n".to_vec();
    let one = after(
        Some(Answer::Raw(vec![
            Step::Gate(gate.clone()),
            Step::Bytes(refusal),
        ])),
        "",
        "",
    )
    .await;
    let addr = one.sidecar.addr();
    // While a head or body is on its way, and while the one token call runs that all of them wait
    // for.
    let head = "POST /acme/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n";
    let mut waiting = Vec::new();
    for n in 0..300 {
        let mut client = RawClient::connect(addr).await;
        let bytes = match n % 3 {
            0 => head[..30].to_owned(),
            1 => format!("{head}ab"),
            _ => "GET /acme/x HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
        };
        client.write(bytes.as_bytes()).await;
        waiting.push(client);
    }
    one.sidecar
        .until_metric("cupbearer_token_waiters{credential=\"acme\"}", 100.0)
        .await;
    drop(waiting);
    gate.open();
    one.settles("cupbearer_token_waiters{credential=\"acme\"}")
        .await;
    one.settles(IN_FLIGHT).await;
    assert_eq!(
        one.sidecar.status_of("/acme/x").await,
        200,
        "the fetch lives on"
    );
    assert_eq!(one.issuer.calls("/token"), 2);

    // While the vendor thinks, and in the middle of its answer.
    for answer in [
        Answer::Raw(vec![Step::Hang]),
        Reply {
            body: Body::Long(1 << 30),
            ..Reply::json(200, &serde_json::json!({}))
        }
        .into(),
    ] {
        one.vendor.always(Some(answer));
        let before = one.vendor.counts().requests;
        let mut all = Vec::new();
        for _ in 0..100 {
            let mut client = RawClient::connect(addr).await;
            client
                .write(b"GET /acme/x HTTP/1.1\r\nHost: localhost\r\n\r\n")
                .await;
            all.push(client);
        }
        one.vendor.wait(before + 100).await;
        drop(all);
        one.settles(IN_FLIGHT).await;
    }
    one.vendor.always(None);
    let mut last = RawClient::connect(addr).await;
    last.tcp
        .write_all(b"GET /acme/x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut all = Vec::new();
    last.tcp.read_to_end(&mut all).await.unwrap();
    assert!(all.starts_with(b"HTTP/1.1 200"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_with_a_body_whose_client_has_left_waits_no_more_and_is_never_sent() {
    let gate = Gate::shut();
    let token =
        serde_json::json!({ "access_token": "late", "token_type": "Bearer", "expires_in": 3600 });
    let more = "timeouts = { token = \"10m\" }\n[credentials.acme.guard]\nmax_waiters = 4";
    let one = after(
        Some(Reply::json(200, &token).behind(&gate).into()),
        "",
        more,
    )
    .await;
    one.issuer
        .tokens()
        .add("late", "access", "acme", "", Duration::from_hours(1));
    let mut leaving = Vec::new();
    for framed in [
        "Content-Length: 3\r\n\r\nabc",
        "Content-Length: 9\r\n\r\nabc",
        "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    ] {
        let mut client = RawClient::connect(one.sidecar.addr()).await;
        client
            .write(format!("POST /acme/pay HTTP/1.1\r\nHost: localhost\r\n{framed}").as_bytes())
            .await;
        leaving.push(client);
    }
    let h2 = Http2::connect(one.sidecar.addr()).await;
    let reset = {
        let h2 = h2.clone();
        tokio::spawn(async move {
            h2.call(Method::POST, "/acme/pay", &[], Some(b"abc"), None)
                .await
        })
    };
    one.sidecar
        .until_metric("cupbearer_token_waiters{credential=\"acme\"}", 4.0)
        .await;
    drop(leaving);
    reset.abort();
    for series in [IN_FLIGHT, "cupbearer_token_waiters{credential=\"acme\"}"] {
        one.settles(series).await;
    }
    let (stays, ()) = tokio::join!(
        h2.call(Method::POST, "/acme/stays", &[], Some(b"abc"), None),
        async {
            one.sidecar
                .until_metric("cupbearer_token_waiters{credential=\"acme\"}", 1.0)
                .await;
            gate.open();
        }
    );
    assert_eq!(stays.unwrap().status, 200);
    let seen: Vec<_> = one.vendor.seen().into_iter().map(|r| r.target).collect();
    assert_eq!(seen, ["/stays"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_whose_upload_stands_still_is_told_so_and_not_the_vendor_blamed() {
    let one = one("", "timeouts = { read = \"1s\" }").await;
    let mut client = RawClient::connect(one.sidecar.addr()).await;
    client
        .write(b"POST /acme/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nabc")
        .await;
    let answer = client.answer("POST").await.unwrap();
    assert_eq!(
        (answer.status, answer.json()["code"].as_str()),
        (408, Some("bad_request"))
    );
    one.vendor.always(Some(Answer::Raw(vec![Step::Hang])));
    let mut client = RawClient::connect(one.sidecar.addr()).await;
    client
        .write(b"POST /acme/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc")
        .await;
    let answer = client.answer("POST").await.unwrap();
    assert_eq!(
        (answer.status, answer.json()["code"].as_str()),
        (504, Some("upstream_timeout")),
        "here it is the vendor's fault"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_drips_over_http_2_is_bounded_as_over_http_1() {
    let one = one("limits.idle = \"1s\"", "").await;
    let tcp = tokio::net::TcpStream::connect(one.sidecar.addr())
        .await
        .unwrap();
    let (send, connection) = h2::client::handshake(tcp).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::post(format!("http://{}/acme/x", one.sidecar.addr()))
        .header("content-length", "1000")
        .body(())
        .unwrap();
    let (answer, mut body) = send
        .ready()
        .await
        .unwrap()
        .send_request(request, false)
        .unwrap();
    let drip = tokio::spawn(async move {
        while body.send_data("a".into(), false).is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    let answer = timeout(Duration::from_secs(15), answer)
        .await
        .expect("an end in time");
    assert_eq!(answer.unwrap().status(), 408);
    drip.await.unwrap();
    one.settles(IN_FLIGHT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_secrets_of_callers_are_slowed_on_every_way_in_and_told_once() {
    let vendor = Vendor::start(&Tokens::default(), vec![]).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("c.toml");
    let ports = PORTS.replace(
        "[proxy]\n",
        "[proxy]\nclient_auth = \"a-secret-of-this-test\"\n",
    );
    std::fs::write(
        &file,
        format!(
            "{ports}[upstreams.acme]\nurl = \"{}\"\ncredential = \"none\"\n",
            vendor.url()
        ),
    )
    .unwrap();
    let mut process = Process::run(&file).await;
    let addr = process.proxy;
    let wrong = "proxy-authorization: Bearer another-secret\r\n";
    let begun = std::time::Instant::now();
    let mut guesses = JoinSet::new();
    for _ in 0..10 {
        for line in [
            "GET /acme/x HTTP/1.1\r\nhost: localhost",
            "CONNECT a.test:443 HTTP/1.1\r\nhost: a.test:443",
        ] {
            guesses.spawn(async move {
                RawClient::ask(addr, format!("{line}\r\n{wrong}\r\n").as_bytes())
                    .await
                    .status
            });
        }
        guesses.spawn(async move {
            let (send, connection) =
                h2::client::handshake(tokio::net::TcpStream::connect(addr).await.unwrap())
                    .await
                    .unwrap();
            tokio::spawn(connection);
            let request = http::Request::get(format!("http://{addr}/acme/x"))
                .header("proxy-authorization", "Bearer another-secret");
            let (answer, _) = send
                .ready()
                .await
                .unwrap()
                .send_request(request.body(()).unwrap(), true)
                .unwrap();
            answer.await.unwrap().status().as_u16()
        });
    }
    while let Some(status) = guesses.join_next().await {
        assert_eq!(status.unwrap(), 407);
    }
    assert!(
        begun.elapsed() >= Duration::from_millis(30 * 20),
        "one after the other: {:?}",
        begun.elapsed()
    );
    let right = "proxy-authorization: Bearer a-secret-of-this-test\r\n";
    assert_eq!(
        RawClient::ask(
            addr,
            format!("GET /acme/x HTTP/1.1\r\nhost: localhost\r\n{right}\r\n").as_bytes()
        )
        .await
        .status,
        200
    );
    process.signal(rustix::process::Signal::TERM);
    let mut log = String::new();
    process.log.read_to_string(&mut log).await.unwrap();
    assert_eq!(
        log.matches("shown a wrong proxy.client_auth").count(),
        1,
        "{log}"
    );
    assert!(!log.contains("another-secret"), "{log}");
}
