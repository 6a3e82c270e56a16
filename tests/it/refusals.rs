//! Every refusal of ours, provoked for real: its status, problem document, Proxy-Status and fields.
//! A cause without a row fails.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener as StdListener, TcpStream as StdStream};

use cupbearer::{
    app::{App, Options},
    config::{self, LoadOptions},
};
use serde_json::json;
use tokio::io::AsyncWriteExt;

use crate::support::{
    certs::Authority,
    endpoint::Endpoint,
    issuer::Issuer,
    raw::{RawAnswer, RawClient},
    sidecar::{PORTS, Sidecar, open, plain},
    tokens::Tokens,
    tool::dead_port,
    vendor::{Need, Raw, Vendor},
    wait::until,
    wire::{Answer, Gate, Reply, Step},
};

/// Code, status, error type of RFC 9209.
type Row = (String, u16, String);

/// What cannot be provoked from outside, with the reason.
const NOT_HERE: [(&str, u16, &str, &str); 2] = [
    (
        "internal_error",
        500,
        "proxy_internal_error",
        "it is for what must not happen",
    ),
    (
        "upstream_timeout",
        504,
        "dns_timeout",
        "the host's resolver cannot be told to be silent; src/proxy/resolve.rs plays it",
    ),
];

/// Rows that were seen.
#[derive(Default)]
struct Seen(BTreeSet<Row>);

impl Seen {
    /// Holds one refusal to all of `promises.md#refusals`.
    fn check(&mut self, answer: &RawAnswer, code: &str, status: u16, error: &str) {
        let shown = format!("{code}: {}{}", answer.head, answer.text());
        assert_eq!(answer.status, status, "{shown}");
        assert_eq!(
            answer.header("content-type"),
            Some("application/problem+json"),
            "{shown}"
        );
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{shown}");
        let known = format!("cupbearer; error={error}; details=\"{code}\"");
        assert_eq!(answer.header("proxy-status"), Some(&*known), "{shown}");
        assert_eq!(
            answer.header("content-length"),
            Some(&*answer.body.len().to_string()),
            "{shown}"
        );
        assert!(
            answer.complete && answer.header("date").is_some() && answer.header("server").is_none(),
            "{shown}"
        );
        let problem = answer.json();
        assert_eq!(
            problem["type"],
            format!("urn:cupbearer:error:{code}"),
            "{shown}"
        );
        assert_eq!(
            (&problem["code"], &problem["status"]),
            (&json!(code), &json!(status)),
            "{shown}"
        );
        assert!(
            ["title", "detail"]
                .iter()
                .all(|k| problem[k].as_str().is_some_and(|t| !t.is_empty())),
            "{shown}"
        );
        let retry = answer
            .header("retry-after")
            .and_then(|r| r.parse::<u64>().ok());
        assert_eq!(retry, problem["retry_after"].as_u64(), "{shown}");
        assert!(
            (status == 503) <= retry.is_some_and(|r| (1..=3600).contains(&r)),
            "{shown}"
        );
        assert!(!shown.contains("s3cret"), "{shown}");
        self.0.insert((code.into(), status, error.into()));
    }

    /// As `check`, and names these parts of the configuration.
    fn named(&mut self, answer: &RawAnswer, row: (&str, u16, &str), names: [Option<&str>; 3]) {
        self.check(answer, row.0, row.1, row.2);
        let problem = answer.json();
        assert_eq!(
            ["upstream", "credential", "token"].map(|k| problem[k].as_str()),
            names,
            "{problem}"
        );
    }
}

async fn ask(addr: SocketAddr, line: &str, fields: &str) -> RawAnswer {
    RawClient::ask(
        addr,
        format!("{line} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n").as_bytes(),
    )
    .await
}

/// Every row of the table in src/proxy/reply.rs.
fn table() -> BTreeSet<Row> {
    let source = include_str!("../../src/proxy/reply.rs");
    let row = regex::Regex::new(r#"\(\s*"([a-z_]+)",\s*S::([A-Z_]+),\s*"([a-z_]+)""#).unwrap();
    let statuses = (100..600).filter_map(|s| http::StatusCode::from_u16(s).ok());
    let names: std::collections::HashMap<String, u16> = statuses
        .filter_map(|s| {
            Some((
                s.canonical_reason()?
                    .to_uppercase()
                    .replace([' ', '-'], "_"),
                s.as_u16(),
            ))
        })
        .collect();
    let found: BTreeSet<Row> = row
        .captures_iter(source)
        .map(|c| (c[1].to_owned(), names[&c[2]], c[3].to_owned()))
        .collect();
    // `Cause` and its table are read in full.
    assert_eq!(
        row.captures_iter(source).count(),
        source.matches("Self::").count() - source.matches("Self::new").count()
    );
    found
}

#[test]
fn the_promises_name_every_refusal_with_its_status_and_no_other() {
    let page = include_str!("../../src/promises.md");
    let row = regex::Regex::new(r"(?m)^\| `([a-z_]+)` \| (\d{3}) \|").unwrap();
    let told: BTreeSet<(String, u16)> = row
        .captures_iter(page)
        .map(|c| (c[1].to_owned(), c[2].parse().unwrap()))
        .collect();
    let ours = table().into_iter().map(|(code, status, _)| (code, status));
    assert_eq!(told, ours.collect());
}

#[tokio::test(flavor = "multi_thread")]
async fn r32_r33_every_refusal_that_can_occur_is_whole_and_says_what_is_promised() {
    let mut seen = Seen::default();
    requests(&mut seen).await;
    callers(&mut seen).await;
    tokens(&mut seen).await;
    held(&mut seen).await;
    upstreams(&mut seen).await;
    silent(&mut seen).await;
    capacity(&mut seen).await;
    let exempt = NOT_HERE
        .iter()
        .map(|(c, s, e, _)| ((*c).to_owned(), *s, (*e).to_owned()));
    let covered: BTreeSet<Row> = seen.0.iter().cloned().chain(exempt).collect();
    assert_eq!(covered, table());
}

/// What is wrong with the request itself.
async fn requests(seen: &mut Seen) {
    let vendor = Vendor::start(&Tokens::default(), vec![]).await;
    let text = PORTS.replace(
        "[admin]",
        "via = \"me\"\n[proxy.limits]\nheader_timeout = \"300ms\"\n[admin]",
    );
    let sidecar = Sidecar::with_files(&format!("{text}{}", open("acme", &vendor.url())), &[]).await;
    let (a, known) = (sidecar.addr(), format!("127.0.0.1:{}", vendor.port()));
    let long = "a".repeat(70_000);
    for (line, fields, code, status, error) in [
        ("GET /none", "", "no_route", 404, "destination_not_found"),
        (
            "GET /acme/../x",
            "",
            "bad_request",
            400,
            "http_request_error",
        ),
        (
            "TRACE /acme/x",
            "",
            "method_refused",
            405,
            "http_request_denied",
        ),
        (
            &format!("GET /{}", &long[..20_000]),
            "",
            "uri_too_long",
            414,
            "http_request_error",
        ),
        (
            "GET /acme/x",
            &format!("X: {long}\r\n"),
            "headers_too_large",
            431,
            "http_request_error",
        ),
        (
            "GET /acme/x",
            "Origin: http://evil.test\r\n",
            "forbidden_origin",
            403,
            "http_request_denied",
        ),
        (
            "GET /acme/x",
            "Via: 1.1 me\r\n",
            "loop_detected",
            508,
            "proxy_loop_detected",
        ),
        (
            "CONNECT evil.test:443",
            "",
            "forbidden_destination",
            403,
            "http_request_denied",
        ),
    ] {
        let answer = ask(a, line, fields).await;
        seen.named(&answer, (code, status, error), [None; 3]);
        assert_eq!(answer.header("allow").is_some(), status == 405);
    }
    let connect = ask(a, &format!("CONNECT {known}"), "").await;
    seen.named(
        &connect,
        ("intercept_off", 403, "http_request_denied"),
        [Some("acme"), None, None],
    );
    let mut slow = RawClient::connect(a).await;
    slow.write(b"GET /acme/x HTTP/1.1\r\nHost: loc").await;
    seen.check(
        &slow.answer("GET").await.unwrap(),
        "bad_request",
        408,
        "http_request_error",
    );
    assert_eq!(vendor.connections(), 0);
}

/// Who may call, and for whom.
async fn callers(seen: &mut Seen) {
    let vendor = Vendor::start(&Tokens::default(), vec![]).await;
    let issuer = Issuer::start(&Tokens::default(), vec![]).await;
    let text = PORTS.replace("[admin]", "client_auth = { file = \"auth\" }\n[admin]");
    let partition =
        "[credentials.acme.partition.customer]\nheader = \"X-Customer\"\npattern = \"^[0-9]+$\"\n";
    let text = format!(
        "{text}{}{partition}",
        plain("acme", &format!("{}/token", issuer.url()), &vendor.url())
    );
    let sidecar = Sidecar::with_files(&text, &[("auth", "hush")]).await;
    let refused = ask(sidecar.addr(), "GET /acme/x", "").await;
    seen.named(
        &refused,
        ("proxy_auth_required", 407, "http_request_denied"),
        [None; 3],
    );
    let schemes: Vec<_> = refused
        .headers
        .iter()
        .filter(|(n, _)| n.eq_ignore_ascii_case("proxy-authenticate"))
        .collect();
    assert!(
        schemes.len() == 2
            && schemes[0].1.starts_with("Bearer")
            && schemes[1].1.starts_with("Basic"),
        "{schemes:?}"
    );
    let foreign = ask(
        sidecar.addr(),
        "GET /acme/x",
        "Proxy-Authorization: Bearer hush\r\nX-Customer: 1x\r\n",
    )
    .await;
    seen.check(&foreign, "partition_invalid", 400, "http_request_error");
    assert!(!foreign.text().contains("1x"), "{}", foreign.text());
    assert_eq!(vendor.connections(), 0);
}

/// What a token call comes to.
async fn tokens(seen: &mut Seen) {
    let tokens = Tokens::default();
    let vendor = Vendor::start(&tokens, vec![Need::Bearer("access")]).await;
    let down = Reply::json(503, &json!({ "error": "temporarily_unavailable" }));
    let wrong = Reply::json(400, &json!({ "error": "invalid_scope" }));
    let unclear = Reply::json(200, &json!({ "token_type": "Bearer" }));
    for (script, code, status, error) in [
        // Held back: it is tried again until the caller's patience ends.
        (
            Some(down),
            "token_unavailable",
            503,
            "proxy_internal_response",
        ),
        (
            Some(wrong),
            "token_misconfigured",
            502,
            "proxy_configuration_error",
        ),
        (
            Some(unclear),
            "token_misconfigured",
            502,
            "proxy_configuration_error",
        ),
        (None, "token_rejected", 502, "proxy_configuration_error"),
    ] {
        let issuer = Issuer::start(
            &tokens,
            vec![Endpoint::new("/token", "acme", "s3cret-other")],
        )
        .await;
        issuer.always(script.map(Answer::Reply));
        let text = plain("acme", &format!("{}/token", issuer.url()), &vendor.url());
        let sidecar = Sidecar::start(&format!("{text}timeouts = {{ token = \"1s\" }}\n")).await;
        let answer = ask(sidecar.addr(), "GET /acme/x", "").await;
        seen.named(
            &answer,
            (code, status, error),
            [Some("acme"), Some("acme"), Some("access")],
        );
    }
    let text = plain("acme", "http://127.0.0.1:9/token", &vendor.url())
        .replace("\"s3cret-acme\"", "{ file = \"not-there\" }");
    let sidecar = Sidecar::start(&text).await;
    let answer = ask(sidecar.addr(), "GET /acme/x", "").await;
    seen.named(
        &answer,
        ("secret_unreadable", 502, "proxy_configuration_error"),
        [Some("acme"), Some("acme"), Some("access")],
    );
    // A key with a line break in it: there is no endpoint to blame, and the answer says what it is.
    let text = format!(
        "[credentials.key]\nprofile = \"static\"\ninject = {{ headers = {{ X-Key = \"{{{{ secrets.key }}}}\" }} }}\nsecrets = {{ key = {{ file = \"key\" }} }}\n\
         [upstreams.key]\nurl = \"{}\"\ncredential = \"key\"\n",
        vendor.url()
    );
    let sidecar = Sidecar::with_files(&text, &[("key", "hush\nhush")]).await;
    let answer = ask(sidecar.addr(), "GET /key/x", "").await;
    seen.named(
        &answer,
        ("token_misconfigured", 502, "proxy_configuration_error"),
        [Some("key"), Some("key"), None],
    );
    assert!(
        answer
            .text()
            .contains("header x-key: the rendered value holds characters that no header may have"),
        "{}",
        answer.text()
    );
    assert!(!answer.text().contains("hush"), "{}", answer.text());
    assert_eq!(vendor.connections(), 0);
}

/// Token calls that hang, and those who wait for them.
async fn held(seen: &mut Seen) {
    let tokens = Tokens::default();
    let vendor = Vendor::start(&tokens, vec![Need::Bearer("access")]).await;
    let issuer = Issuer::start(
        &tokens,
        vec![Endpoint::new("/token", "acme", "s3cret-acme")],
    )
    .await;
    issuer.always(Some(Answer::Raw(vec![Step::Hang])));
    let text = plain("acme", &format!("{}/token", issuer.url()), &vendor.url());
    let text = format!(
        "{text}timeouts = {{ token = \"2s\" }}\n[credentials.acme.guard]\nmax_waiters = 1\n"
    );
    let sidecar = Sidecar::start(&text).await;
    let mut first = RawClient::connect(sidecar.addr()).await;
    first
        .write(b"GET /acme/x HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await;
    sidecar
        .until_metric("cupbearer_requests_in_flight{upstream=\"acme\"}", 1.0)
        .await;
    let second = ask(sidecar.addr(), "GET /acme/x", "").await;
    // Which of the two came first to the waiting room is not ours to say.
    let first = first.answer("GET").await.unwrap();
    let (waited, turned_away) = if first.status == 504 {
        (first, second)
    } else {
        (second, first)
    };
    let names = [Some("acme"), Some("acme"), Some("access")];
    seen.named(
        &waited,
        ("token_timeout", 504, "proxy_internal_response"),
        names,
    );
    seen.named(
        &turned_away,
        ("token_overloaded", 503, "proxy_internal_response"),
        [Some("acme"), Some("acme"), None],
    );
}

/// Upstreams that cannot be reached or understood.
async fn upstreams(seen: &mut Seen) {
    let vendor = Vendor::start(&Tokens::default(), vec![]).await;
    let (ours, other) = (Authority::new("ours"), Authority::new("other"));
    let secure = Vendor::with_tls(
        &Tokens::default(),
        vec![],
        Some(Authority::server(&other.localhost(&[]), &[])),
    )
    .await;
    let ca = "tls = { ca_file = \"ca.pem\", ca_only = true }\n";
    let shy = Vendor::with_tls(
        &Tokens::default(),
        vec![],
        Some(ours.mutual(&ours.localhost(&[]), &[])),
    )
    .await;
    let clear = Raw::start().await;
    let text = [
        open("gone", &format!("http://127.0.0.1:{}", dead_port())),
        open("nowhere", "http://255.255.255.255") + "allow_plaintext = true\n",
        open("nameless", "http://no-such-host.invalid") + "allow_plaintext = true\n",
        open(
            "clear",
            &clear.url().replace("http://127.0.0.1", "https://localhost"),
        ) + ca,
        open("distrusted", &secure.url()) + ca,
        open("shy", &shy.url()) + ca,
        open("acme", &vendor.url()),
    ];
    let sidecar = Sidecar::with_files(
        &format!("{PORTS}{}", text.concat()),
        &[("ca.pem", &ours.pem)],
    )
    .await;
    tokio::spawn(async move {
        let (mut tcp, _) = clear.accept_until(b"\x16").await;
        let _ = tcp
            .write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
            .await;
    });
    vendor.script(Answer::Raw(vec![]));
    vendor.script(Answer::Raw(vec![Step::Bytes(
        b"s3cret nonsense\r\n\r\n".to_vec(),
    )]));
    for (upstream, code, error) in [
        ("gone", "upstream_unreachable", "connection_refused"),
        (
            "nowhere",
            "upstream_unreachable",
            "destination_ip_unroutable",
        ),
        ("nameless", "upstream_unreachable", "dns_error"),
        ("clear", "upstream_tls", "tls_protocol_error"),
        ("distrusted", "upstream_tls", "tls_certificate_error"),
        ("acme", "upstream_protocol", "http_response_incomplete"),
        ("acme", "upstream_protocol", "http_protocol_error"),
    ] {
        let answer = ask(sidecar.addr(), &format!("GET /{upstream}/x"), "").await;
        seen.named(&answer, (code, 502, error), [Some(upstream), None, None]);
    }
    // With TLS 1.3 our client certificate is refused after the handshake; a reset may overtake the
    // alert, so it is asked for again.
    for last in [false, false, false, false, true] {
        let answer = ask(sidecar.addr(), "GET /shy/x", "").await;
        if last || answer.text().contains("upstream_tls") {
            seen.named(
                &answer,
                ("upstream_tls", 502, "tls_alert_received"),
                [Some("shy"), None, None],
            );
            break;
        }
    }
    assert_eq!(
        (
            vendor.counts().requests,
            secure.counts().requests,
            shy.counts().requests
        ),
        (2, 0, 0)
    );
}

/// Upstreams that say nothing, before or after the connection is there.
async fn silent(seen: &mut Seen) {
    let mute = Raw::start().await;
    // A listener whose queue is full answers no SYN.
    let full = StdListener::bind("127.0.0.1:0").unwrap();
    rustix::net::listen(&full, 0).unwrap();
    let address = full.local_addr().unwrap();
    let brief = std::time::Duration::from_millis(200);
    let queue: Vec<_> = (0..8)
        .map_while(|_| StdStream::connect_timeout(&address, brief).ok())
        .collect();
    assert!(queue.len() < 8, "the queue never filled");
    let times = "timeouts = { connect = \"400ms\", read = \"400ms\" }\n";
    let text = [
        open("mute", &mute.url()),
        times.into(),
        open("full", &format!("http://{address}")),
        times.into(),
    ]
    .concat();
    let sidecar = Sidecar::start(&text).await;
    let answer = ask(sidecar.addr(), "GET /mute/x", "").await;
    seen.named(
        &answer,
        ("upstream_timeout", 504, "http_response_timeout"),
        [Some("mute"), None, None],
    );
    let answer = ask(sidecar.addr(), "GET /full/x", "").await;
    seen.named(
        &answer,
        ("upstream_timeout", 504, "connection_timeout"),
        [Some("full"), None, None],
    );
}

/// Too many, or too late.
async fn capacity(seen: &mut Seen) {
    let vendor = Vendor::start(&Tokens::default(), vec![]).await;
    let text = PORTS.replace("[admin]", "[proxy.limits]\nconnections = 2\n[admin]");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("c.toml");
    std::fs::write(&file, format!("{text}{}", open("acme", &vendor.url()))).unwrap();
    let app = App::start(
        config::load(&file, &LoadOptions::default()).0.unwrap(),
        Options::default(),
    )
    .await
    .unwrap();
    let addr: SocketAddr = app.proxy()[0].parse().unwrap();
    let gate = Gate::shut();
    let mut open = Vec::new();
    for n in 1..=2 {
        vendor.script(Reply::new(200, "late").behind(&gate));
        let mut client = RawClient::connect(addr).await;
        client
            .write(b"GET /acme/x HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .await;
        vendor.wait(n).await;
        open.push(client);
    }
    seen.named(
        &ask(addr, "GET /acme/x", "").await,
        ("overloaded", 503, "connection_limit_reached"),
        [None; 3],
    );
    gate.open();
    for client in &mut open {
        assert_eq!(client.answer("GET").await.unwrap().text(), "late");
    }
    assert!(app.stop().await);

    let text = format!(
        "{PORTS}{}",
        crate::support::sidecar::open("acme", &vendor.url())
    );
    std::fs::write(&file, text).unwrap();
    let (config, _) = config::load(&file, &LoadOptions::default());
    let app = App::start(config.unwrap(), Options::default())
        .await
        .unwrap();
    let addr: SocketAddr = app.proxy()[0].parse().unwrap();
    let gate = Gate::shut();
    vendor.script(Reply::new(200, "late").behind(&gate));
    let mut begun = Vec::new();
    for _ in 0..9 {
        let mut client = RawClient::connect(addr).await;
        client.write(b"GET /acme/x HTTP/1.1\r\n").await;
        begun.push(client);
    }
    let mut open = RawClient::connect(addr).await;
    open.write(b"GET /acme/x HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await;
    vendor.wait(3).await;
    let stopping = tokio::spawn(app.stop());
    // Refused connections tell that the drain has begun.
    until("the drain begins", async || {
        tokio::net::TcpStream::connect(addr).await.is_err()
    })
    .await;
    for mut client in begun {
        client.write(b"Host: localhost\r\n\r\n").await;
        seen.named(
            &client.answer("GET").await.expect("an answer"),
            ("draining", 503, "proxy_internal_response"),
            [None; 3],
        );
    }
    gate.open();
    assert_eq!(
        open.answer("GET").await.unwrap().text(),
        "late",
        "what was begun is finished"
    );
    assert!(stopping.await.unwrap());
    assert_eq!(vendor.counts().requests, 3);
}
