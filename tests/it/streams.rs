//! Streams: WebSocket, server-sent events, interim answers, Expect, HEAD and answers without a
//! body.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest};

use crate::support::{
    endpoint::Endpoint,
    issuer::Issuer,
    raw::RawClient,
    sidecar::{Sidecar, open, plain},
    tokens::{Standing, Tokens},
    vendor::{Need, Raw, Vendor},
    wire::{Answer, Body, Gate, Reply, Step},
};

#[tokio::test(flavor = "multi_thread")]
async fn r36_websocket_messages_of_all_kinds_and_lengths_come_back() {
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
    let mut request = format!("ws://{}/acme/ws?x=1", sidecar.addr())
        .into_client_request()
        .unwrap();
    request.headers_mut().insert("x-chat", "c".parse().unwrap());
    let (mut socket, answer) = tokio_tungstenite::connect_async(request).await.unwrap();
    assert_eq!(answer.status(), 101);
    for length in [0, 1, 125, 126, 65_535, 65_536, 300_000] {
        for message in [
            Message::text("t".repeat(length)),
            Message::binary(vec![7; length]),
        ] {
            socket.send(message.clone()).await.unwrap();
            assert_eq!(socket.next().await.unwrap().unwrap(), message);
        }
    }
    socket.send(Message::Ping(vec![1, 2].into())).await.unwrap();
    assert_eq!(
        socket.next().await.unwrap().unwrap(),
        Message::Pong(vec![1, 2].into())
    );
    socket.close(None).await.unwrap();
    assert!(socket.next().await.unwrap().unwrap().is_close());
    let seen = vendor.last();
    assert_eq!(
        (seen.target.as_str(), seen.header("x-chat")),
        ("/ws?x=1", Some("c"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vendor_that_declines_an_upgrade_is_heard_and_its_connection_stays_plain() {
    let vendor = Vendor::start(&Tokens::default(), vec![]).await;
    let sidecar = Sidecar::start(&open("acme", &vendor.url())).await;
    vendor.script(Reply::new(426, "no").with("Upgrade", "other"));
    let request = b"GET /acme/ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let answer = RawClient::ask(sidecar.addr(), request).await;
    assert_eq!((answer.status, answer.text().as_str()), (426, "no"));
    assert_eq!(sidecar.status_of("/acme/x").await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_server_sent_event_arrives_before_the_next_is_sent() {
    let vendor = Vendor::start(&Tokens::default(), vec![]).await;
    let sidecar = Sidecar::start(&open("acme", &vendor.url())).await;
    let gates: Vec<Gate> = (0..5).map(|_| Gate::shut()).collect();
    let parts = gates
        .iter()
        .enumerate()
        .map(|(i, g)| (Some(g.clone()), format!("data: {i}\n\n").into_bytes()))
        .collect();
    vendor.script(
        Reply {
            body: Body::Parts(parts),
            ..Reply::new(200, "")
        }
        .with("Content-Type", "text/event-stream"),
    );
    let mut answer = sidecar.get("/acme/events").await;
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    for (i, gate) in gates.iter().enumerate() {
        gate.open();
        assert_eq!(
            answer.chunk().await.unwrap().unwrap(),
            format!("data: {i}\n\n")
        );
    }
    assert!(answer.chunk().await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn v10_a_stream_outlives_the_token_it_began_with() {
    let tokens = Tokens::default();
    let mut endpoint = Endpoint::new("/token", "acme", "s3cret-acme");
    endpoint.life = Duration::from_secs(2);
    let issuer = Issuer::start(&tokens, vec![endpoint]).await;
    let vendor = Vendor::start(&tokens, vec![Need::Bearer("access")]).await;
    let stanza = plain("acme", &format!("{}/token", issuer.url()), &vendor.url());
    let sidecar = Sidecar::start(&format!("{stanza}timeouts = {{ read = \"5s\" }}\n")).await;
    let gates: Vec<Gate> = (0..5).map(|_| Gate::shut()).collect();
    let parts = gates
        .iter()
        .map(|g| (Some(g.clone()), b"x".to_vec()))
        .collect();
    vendor.script(
        Reply {
            body: Body::Parts(parts),
            ..Reply::new(200, "")
        }
        .with("Content-Type", "text/event-stream"),
    );
    let mut answer = sidecar.get("/acme/events").await;
    let token = vendor.last().header("authorization").unwrap()["Bearer ".len()..].to_owned();
    for (n, gate) in gates.iter().enumerate() {
        // A renewal later each.
        issuer.wait(n + 2).await;
        gate.open();
        assert_eq!(answer.chunk().await.unwrap().unwrap(), "x");
    }
    assert!(
        answer.chunk().await.unwrap().is_none(),
        "its end is the vendor's"
    );
    assert_eq!(tokens.standing(&token, "access"), Standing::Expired);
    assert_eq!(vendor.counts().requests, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_sends_reaches_the_vendor_before_the_client_goes_on() {
    let vendor = Raw::start().await;
    let sidecar = Sidecar::start(&open("acme", &vendor.url())).await;
    let mut client = RawClient::connect(sidecar.addr()).await;
    client.write(b"POST /acme/x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n").await;
    let (mut tcp, _) = vendor.accept_until(b"one").await;
    client.write(b"3\r\ntwo\r\n").await;
    let mut more = Vec::new();
    while !more.windows(3).any(|w| w == b"two") {
        assert!(tcp.read_buf(&mut more).await.unwrap() > 0);
    }
    // The answer may begin while the request still runs.
    tcp.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nyes\r\n")
        .await
        .unwrap();
    let mut head = Vec::new();
    while !head.windows(3).any(|w| w == b"yes") {
        assert!(client.tcp.read_buf(&mut head).await.unwrap() > 0);
    }
    client.write(b"0\r\n\r\n").await;
    tcp.write_all(b"0\r\n\r\n").await.unwrap();
    while !head.ends_with(b"0\r\n\r\n") {
        assert!(client.tcp.read_buf(&mut head).await.unwrap() > 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn r24_early_hints_pass_to_http_1_1_and_never_to_http_1_0() {
    let vendor = Vendor::start(&Tokens::default(), vec![]).await;
    let sidecar = Sidecar::start(&open("acme", &vendor.url())).await;
    let hints = || Reply {
        interim: vec![(103, vec![("Link".into(), "</a>; rel=preload".into())])],
        ..Reply::new(200, "hi")
    };
    vendor.script(hints());
    let mut client = RawClient::connect(sidecar.addr()).await;
    client
        .write(b"GET /acme/x HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await;
    let first = client.answer("GET").await.unwrap();
    assert_eq!(
        (first.status, first.header("link")),
        (103, Some("</a>; rel=preload"))
    );
    assert_eq!(client.answer("GET").await.unwrap().text(), "hi");
    vendor.script(hints());
    let old = RawClient::exchange(
        sidecar.addr(),
        b"GET /acme/x HTTP/1.0\r\nHost: localhost\r\n\r\n",
    )
    .await;
    let old = String::from_utf8(old).unwrap();
    assert!(
        old.starts_with("HTTP/1.")
            && old.contains(" 200 ")
            && old.ends_with("hi")
            && !old.contains(" 103"),
        "{old}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn r24_a_mebibyte_is_sent_only_after_the_vendor_said_continue() {
    let vendor = Raw::start().await;
    let sidecar = Sidecar::start(&open("acme", &vendor.url())).await;
    let mut client = RawClient::connect(sidecar.addr()).await;
    client.write(b"POST /acme/x HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 1048576\r\n\r\n").await;
    let (mut tcp, head) = vendor.accept_until(b"\r\n\r\n").await;
    assert!(
        head.ends_with(b"\r\n\r\n"),
        "no body before the vendor wants it"
    );
    assert!(
        String::from_utf8(head)
            .unwrap()
            .to_lowercase()
            .contains("expect: 100-continue")
    );
    tcp.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(client.answer("POST").await.unwrap().status, 100);
    let body = vec![b'b'; 1 << 20];
    let mut got = vec![0; 1 << 20];
    let (sent, ()) = tokio::join!(
        async { tcp.read_exact(&mut got).await.map(|_| ()) },
        client.write(&body)
    );
    sent.unwrap();
    assert!(got == body);
    tcp.write_all(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(client.answer("POST").await.unwrap().status, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn r24_a_vendor_that_refuses_an_expectation_never_gets_the_body() {
    let vendor = Vendor::start(&Tokens::default(), vec![]).await;
    let sidecar = Sidecar::start(&open("acme", &vendor.url())).await;
    vendor.script_early(Reply::new(417, "no"));
    let mut client = RawClient::connect(sidecar.addr()).await;
    client.write(b"POST /acme/x HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 1048576\r\n\r\n").await;
    let answer = client.answer("POST").await.unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (417, "no"));
    assert_eq!(vendor.counts().requests, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_without_a_body_keep_the_connection_in_step() {
    let vendor = Vendor::start(&Tokens::default(), vec![]).await;
    let sidecar = Sidecar::start(&open("acme", &vendor.url())).await;
    let mut client = RawClient::connect(sidecar.addr()).await;
    for (method, status, length) in [
        ("HEAD", 200, Some("5")),
        ("GET", 204, None),
        ("GET", 304, None),
        ("DELETE", 204, None),
        ("HEAD", 404, Some("5")),
    ] {
        let reply =
            Reply::new(status, if length.is_some() { "hello" } else { "" }).with("ETag", "\"e\"");
        vendor.script(reply);
        client
            .write(format!("{method} /acme/x HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes())
            .await;
        let answer = client.answer(method).await.unwrap();
        assert_eq!(
            (answer.status, answer.header("etag")),
            (status, Some("\"e\"")),
            "{method} {status}"
        );
        assert_eq!(answer.header("content-length"), length, "{method} {status}");
        assert_eq!(
            answer.header("transfer-encoding"),
            None,
            "{method} {status}"
        );
    }
    client
        .write(b"GET /acme/last HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await;
    assert_eq!(
        client.answer("GET").await.unwrap().json()["target"],
        "/last"
    );
    assert_eq!(vendor.connections(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_ends_with_its_connection_is_passed_to_its_end() {
    let vendor = Vendor::start(&Tokens::default(), vec![]).await;
    let sidecar = Sidecar::start(&open("acme", &vendor.url())).await;
    vendor.script(Answer::Raw(vec![Step::Bytes(
        b"HTTP/1.1 200 OK\r\n\r\nto the end".to_vec(),
    )]));
    assert_eq!(
        sidecar.get("/acme/x").await.text().await.unwrap(),
        "to the end"
    );
    vendor.script(Answer::Raw(vec![Step::Bytes(
        b"HTTP/1.0 200 OK\r\n\r\nold".to_vec(),
    )]));
    assert_eq!(sidecar.get("/acme/x").await.text().await.unwrap(), "old");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_a_length_comes_to_an_http_1_0_client_without_chunks() {
    let vendor = Vendor::start(&Tokens::default(), vec![]).await;
    let sidecar = Sidecar::start(&open("acme", &vendor.url())).await;
    for fields in ["", "Connection: keep-alive\r\n"] {
        let body = vec![b'x'; 300_000];
        for reply in [
            Reply {
                chunked: true,
                ..Reply::new(200, body.clone())
            },
            Reply {
                chunked: true,
                ..Reply::new(200, "short")
            },
        ] {
            let Body::Bytes(expected) = reply.body.clone() else {
                unreachable!()
            };
            vendor.script(reply);
            let mut client = RawClient::connect(sidecar.addr()).await;
            client
                .write(format!("GET /acme/x HTTP/1.0\r\n{fields}\r\n").as_bytes())
                .await;
            let mut all = Vec::new();
            client
                .tcp
                .read_to_end(&mut all)
                .await
                .expect("its end is no reset");
            let head = all.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
            let fields = String::from_utf8_lossy(&all[..head]).to_lowercase();
            assert!(
                !fields.contains("transfer-encoding") && fields.contains("connection: close"),
                "{fields}"
            );
            assert!(all[head..] == expected);
        }
    }
    let length = RawClient::exchange(sidecar.addr(), b"GET /acme/x HTTP/1.0\r\n\r\n").await;
    assert!(
        String::from_utf8_lossy(&length)
            .to_lowercase()
            .contains("content-length: ")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_to_an_http_1_0_client_that_breaks_off_ends_in_a_reset() {
    let vendor = Vendor::start(&Tokens::default(), vec![]).await;
    let sidecar = Sidecar::start(&open("acme", &vendor.url())).await;
    let gate = Gate::shut();
    let begun = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n".to_vec();
    vendor.script(Answer::Raw(vec![
        Step::Bytes(begun),
        Step::Gate(gate.clone()),
    ]));
    let mut client = RawClient::connect(sidecar.addr()).await;
    client.write(b"GET /acme/x HTTP/1.0\r\n\r\n").await;
    let mut all = Vec::new();
    while !all.ends_with(b"hello") {
        assert!(
            client.tcp.read_buf(&mut all).await.unwrap() > 0,
            "{}",
            String::from_utf8_lossy(&all)
        );
    }
    gate.open();
    let end = client.tcp.read_to_end(&mut all).await;
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}
