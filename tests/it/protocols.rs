//! HTTP/2 on either side, gRPC, Unix sockets: one meaning in every protocol.

use std::os::unix::fs::PermissionsExt;

use http::{HeaderMap, Method};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{
    certs::Authority,
    endpoint::Endpoint,
    http2::Http2,
    issuer::Issuer,
    raw::RawClient,
    sidecar::{PORTS, Sidecar, open, plain},
    tokens::Tokens,
    vendor::{Need, Vendor},
    wire::{Answer, Body, Reply, Step},
};

/// A vendor at https://localhost with these protocols, and a sidecar in front of it that needs no
/// token.
async fn secure(alpn: &[&str], more: &str) -> (Vendor, Sidecar) {
    let authority = Authority::new("ca");
    let vendor = Vendor::with_tls(
        &Tokens::default(),
        vec![],
        Some(Authority::server(&authority.localhost(&[]), alpn)),
    )
    .await;
    let text = format!(
        "{PORTS}{}tls = {{ ca_file = \"ca.pem\", ca_only = true }}\n{more}",
        open("acme", &vendor.url())
    );
    let sidecar = Sidecar::with_files(&text, &[("ca.pem", &authority.pem)]).await;
    (vendor, sidecar)
}

fn map(fields: &[(&'static str, &str)]) -> HeaderMap {
    fields
        .iter()
        .map(|(n, v)| ((*n).parse().unwrap(), (*v).parse().unwrap()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_vendor_chooses_the_protocol_by_alpn_unless_http_2_is_never_wanted() {
    for (alpn, more, version) in [
        (&["h2", "http/1.1"][..], "", 2),
        (&["h2"], "", 2),
        (&["http/1.1"], "", 1),
        (&[], "", 1),
        (&["h2", "http/1.1"], "http2 = \"never\"\n", 1),
    ] {
        let (vendor, sidecar) = secure(alpn, more).await;
        assert_eq!(
            sidecar.status_of("/acme/x%2Fy?z").await,
            200,
            "{alpn:?} {more}"
        );
        sidecar.until_idle("acme").await;
        let h2 = Http2::connect(sidecar.addr()).await;
        assert_eq!(
            h2.get("/acme/x%2Fy?z").await.unwrap().status,
            200,
            "{alpn:?} {more}"
        );
        let host = format!("localhost:{}", vendor.port());
        for seen in vendor.seen() {
            assert_eq!(
                (seen.version, seen.target.as_str()),
                (version, "/x%2Fy?z"),
                "{alpn:?} {more}"
            );
            assert_eq!(
                seen.header(if version == 2 { ":authority" } else { "host" }),
                Some(&*host)
            );
        }
        // HTTP/2 is shared while it is in use; a connection of HTTP/1.1 may be missed once (see
        // `pool`).
        assert!(
            (1..=if version == 2 { 1 } else { 2 }).contains(&vendor.connections()),
            "{alpn:?} {more}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_and_trailers_cross_between_the_protocols_as_the_readme_says() {
    let body: Vec<u8> = (0..200_000_u32)
        .map(|i| u8::try_from(i % 251).unwrap())
        .collect();
    for (alpn, trailers) in [("h2", true), ("http/1.1", false)] {
        let (vendor, sidecar) = secure(&[alpn], "").await;
        let answer = Reply {
            trailers: vec![("x-after".into(), "1".into())],
            body: Body::Bytes(body.clone()),
            ..Reply::new(200, "")
        };
        vendor.script(answer.clone());
        let h2 = Http2::connect(sidecar.addr()).await;
        let whole = h2
            .call(
                Method::POST,
                "/acme/x",
                &[],
                Some(&body),
                Some(map(&[("x-sum", "1")])),
            )
            .await
            .unwrap();
        assert!(whole.body == body, "{alpn}");
        assert_eq!(
            whole
                .trailers
                .is_some_and(|t| t.get("x-after").is_some_and(|v| v == "1")),
            trailers,
            "{alpn}"
        );
        let seen = vendor.last();
        assert_eq!(
            (seen.length, seen.sha256.as_str()),
            (200_000, &*crate::support::tally::sha256(&body)),
            "{alpn}"
        );
        assert!(
            seen.trailers.is_empty(),
            "request trailers are not passed on, {alpn}"
        );
        vendor.script(answer);
        let plain = RawClient::ask(
            sidecar.addr(),
            b"GET /acme/x HTTP/1.1\r\nHost: localhost\r\n\r\n",
        )
        .await;
        assert!(
            plain.complete && plain.trailers.is_empty() && plain.body == body,
            "{alpn} to HTTP/1.1"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn http_2_callers_may_run_many_streams_on_one_connection() {
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
        &vendor.url(),
    ))
    .await;
    let h2 = Http2::connect(sidecar.addr()).await;
    let calls = (0..100).map(|i| {
        let h2 = h2.clone();
        tokio::spawn(async move { (i, h2.get(&format!("/acme/{i}")).await.unwrap()) })
    });
    for call in calls.collect::<Vec<_>>() {
        let (i, answer) = call.await.unwrap();
        assert_eq!(
            (answer.status.as_u16(), answer.json()["target"].as_str()),
            (200, Some(&*format!("/{i}")))
        );
    }
    assert_eq!(issuer.calls("/token"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_call_brings_its_status_back_in_trailers() {
    let (vendor, sidecar) = secure(&["h2"], "").await;
    let fields = [("grpc-status", "5"), ("grpc-message", "no such thing")];
    let trailers = fields.map(|(n, v)| (n.to_owned(), v.to_owned())).to_vec();
    vendor.script(
        Reply {
            trailers,
            ..Reply::new(200, vec![0, 0, 0, 0, 0])
        }
        .with("content-type", "application/grpc"),
    );
    let h2 = Http2::connect(sidecar.addr()).await;
    let headers = [
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("grpc-timeout", "1S"),
    ];
    let whole = h2
        .call(
            Method::POST,
            "/acme/p.S/Call",
            &headers,
            Some(&[0, 0, 0, 0, 0]),
            None,
        )
        .await
        .unwrap();
    assert_eq!((whole.status.as_u16(), whole.body.len()), (200, 5));
    assert_eq!(whole.trailers.unwrap(), map(&fields));
    let seen = vendor.last();
    assert_eq!(
        (
            seen.header("te"),
            seen.header("grpc-timeout"),
            seen.target.as_str()
        ),
        (Some("trailers"), Some("1S"), "/p.S/Call")
    );
    vendor.script(
        Reply::new(200, "")
            .with("content-type", "application/grpc")
            .with("grpc-status", "7"),
    );
    let only = h2
        .call(Method::POST, "/acme/p.S/Call", &headers, Some(&[]), None)
        .await
        .unwrap();
    assert_eq!(
        (only.header("grpc-status"), only.body.len()),
        ("7", 0),
        "trailers-only"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn r36_a_grpc_caller_is_refused_in_its_own_language() {
    let tokens = Tokens::default();
    let issuer = Issuer::start(&tokens, vec![Endpoint::new("/token", "acme", "other")]).await;
    let gone = format!("http://127.0.0.1:{}", crate::support::tool::dead_port());
    let text = plain(
        "acme",
        &format!("{}/token", issuer.url()),
        "http://127.0.0.1:9",
    ) + &open("gone", &gone);
    let sidecar = Sidecar::start(&text).await;
    let h2 = Http2::connect(sidecar.addr()).await;
    let evil = h2.clone().to("evil.test");
    let kind = [
        ("content-type", "application/grpc+proto"),
        ("te", "trailers"),
    ];
    for (client, path, status, code) in [
        (&h2, "/none/S/Call", "12", "no_route"),
        (&h2, "/gone/S/Call", "13", "upstream_unreachable"),
        (&h2, "/acme/S/Call", "13", "token_rejected"),
        (&h2, "/acme/%2e%2e/Call", "3", "bad_request"),
        (&evil, "/acme/S/Call", "7", "forbidden_origin"),
    ] {
        let whole = client
            .call(Method::POST, path, &kind, Some(b"x"), None)
            .await
            .unwrap();
        assert_eq!(
            (
                whole.status.as_u16(),
                whole.header("grpc-status"),
                whole.body.len()
            ),
            (200, status, 0),
            "{path}"
        );
        assert_eq!(whole.header("content-type"), "application/grpc+proto");
        assert!(
            whole.header("grpc-message").starts_with(code),
            "{path}: {}",
            whole.header("grpc-message")
        );
        assert!(whole.header("proxy-status").contains(code), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn r27_v7_a_truncated_answer_never_looks_complete_to_either_protocol() {
    let length = b"HTTP/1.1 200 OK\r\nX-A: b\r\nContent-Length: 12\r\n\r\nhello, world".to_vec();
    let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n7\r\n, world\r\n0\r\n\r\n".to_vec();
    let vendor = Vendor::start(&Tokens::default(), vec![]).await;
    let sidecar = Sidecar::start(&open("acme", &vendor.url())).await;
    for (whole, from) in [(&length, 1), (&chunked, 1)] {
        for cut in (from..whole.len()).step_by(3) {
            let raw = || Answer::Raw(vec![Step::Bytes(whole[..cut].to_vec())]);
            vendor.script(raw());
            let mut client = RawClient::connect(sidecar.addr()).await;
            client
                .write(b"GET /acme/x HTTP/1.1\r\nHost: localhost\r\n\r\n")
                .await;
            if let Some(answer) = client.answer("GET").await {
                assert!(
                    !answer.complete || answer.status == 502,
                    "cut at {cut}: {answer:?}"
                );
            }
            vendor.script(raw());
            if let Ok(answer) = Http2::connect(sidecar.addr()).await.get("/acme/x").await {
                assert_eq!(answer.status, 502, "cut at {cut}: {answer:?}");
            }
        }
    }
    assert!(
        sidecar
            .metric("cupbearer_refusals_total{code=\"upstream_protocol\",upstream=\"acme\"}")
            .await
            > 1.0
    );
    assert_eq!(sidecar.status_of("/acme/x").await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_the_vendor_resets_is_never_answered_as_whole() {
    let (vendor, sidecar) = secure(&["h2"], "").await;
    vendor.always(Some(Answer::Raw(vec![])));
    assert_eq!(
        sidecar.refusal("/acme/x").await.1["code"],
        "upstream_protocol"
    );
    let h2 = Http2::connect(sidecar.addr()).await;
    assert!(
        h2.get("/acme/x").await.is_err_and(|e| e.is_reset())
            || h2.get("/acme/x").await.is_ok_and(|a| a.status == 502)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a6_a_unix_socket_serves_its_owner_alone() {
    let vendor = Vendor::start(&Tokens::default(), vec![]).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.sock");
    let ports = PORTS.replace(
        "\"127.0.0.1:0\"]",
        &format!("\"127.0.0.1:0\", \"unix:{}\"]", path.display()),
    );
    let sidecar =
        Sidecar::with_files(&format!("{ports}{}", open("acme", &vendor.url())), &[]).await;
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let mut socket = tokio::net::UnixStream::connect(&path).await.unwrap();
    // Nobody rebinds a name to a file, so any Host will do.
    socket
        .write_all(b"GET /acme/x HTTP/1.1\r\nHost: anything\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut all = String::new();
    socket.read_to_string(&mut all).await.unwrap();
    assert!(all.starts_with("HTTP/1.1 200"), "{all}");
    assert_eq!(sidecar.status_of("/acme/x").await, 200);
    assert!(sidecar.app.stop().await);
    assert!(!path.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn cookies_that_come_in_crumbs_over_http_2_reach_an_http_1_vendor_in_one_field() {
    for (alpn, fields) in [
        ("http/1.1", &["a=1; b=\"2\"; c=3"][..]),
        ("h2", &["a=1", "b=\"2\"; c=3"]),
    ] {
        let (vendor, sidecar) = secure(&[alpn], "").await;
        let h2 = Http2::connect(sidecar.addr()).await;
        let answer = h2
            .call(
                Method::GET,
                "/acme/x",
                &[("cookie", "a=1"), ("cookie", "b=\"2\"; c=3")],
                None,
                None,
            )
            .await
            .unwrap();
        assert_eq!(answer.status, 200);
        let seen = vendor.last();
        let cookies: Vec<_> = seen
            .headers
            .iter()
            .filter(|(n, _)| n.eq_ignore_ascii_case("cookie"))
            .map(|(_, v)| v.as_str())
            .collect();
        assert_eq!(cookies, fields, "{alpn}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_content_length_that_is_there_twice_is_refused_over_http_2_as_well() {
    let vendor = Vendor::start(&Tokens::default(), vec![]).await;
    let sidecar = Sidecar::start(&open("acme", &vendor.url())).await;
    let h2 = Http2::connect(sidecar.addr()).await;
    let twice = [("content-length", "3"), ("content-length", "3")];
    let answer = h2
        .call(Method::POST, "/acme/x", &twice, Some(b"abc"), None)
        .await
        .unwrap();
    assert_eq!(
        (answer.status.as_u16(), answer.json()["code"].as_str()),
        (400, Some("bad_request"))
    );
    assert_eq!(
        h2.call(
            Method::POST,
            "/acme/x",
            &[("content-length", "3")],
            Some(b"abc"),
            None
        )
        .await
        .unwrap()
        .status,
        200
    );
    assert_eq!(vendor.counts().requests, 1);
}
