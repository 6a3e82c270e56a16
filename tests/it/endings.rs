//! Where a request and where an answer ends: one request on the vendor's wire for each of a
//! caller's, and to each caller its own answer.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use crate::support::{
    certs::Authority,
    endpoint::Endpoint,
    http2::Http2,
    issuer::{Issuer, PATIENCE},
    raw::RawClient,
    sidecar::{PORTS, Sidecar, open, plain},
    tokens::Tokens,
    vendor::{Need, Raw, Vendor},
    wire::{Answer, Reply, Step},
};

/// DATA frames of one body; with an empty one first, last, alone, and between others.
const BODIES: [&[&[u8]]; 8] = [
    &[b""],
    &[b"", b""],
    &[b"abc", b""],
    &[b"", b"abc"],
    &[b"abc", b"", b"def"],
    &[b"a", b"", b"", b"b", b""],
    &[b"", b"x", b""],
    &[b"abc"],
];

fn joined(pieces: &[&[u8]]) -> String {
    String::from_utf8(pieces.concat()).unwrap()
}

async fn next_is_itself(sidecar: &Sidecar, n: usize) {
    let path = format!("/next{n}");
    let next: serde_json::Value = serde_json::from_slice(
        &sidecar
            .get(&format!("/acme{path}"))
            .await
            .bytes()
            .await
            .unwrap(),
    )
    .unwrap();
    assert_eq!(
        (next["method"].as_str(), next["target"].as_str()),
        (Some("GET"), Some(&*path)),
        "each caller gets its own answer"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_with_empty_http_2_frames_has_one_last_chunk_and_the_next_caller_its_own_answer() {
    let vendor = Vendor::start(&Tokens::default(), vec![]).await;
    let sidecar = Sidecar::start(&open("acme", &vendor.url())).await;
    let h2 = Http2::connect(sidecar.addr()).await;
    for (n, pieces) in BODIES.into_iter().enumerate() {
        let answer = h2
            .post_pieces(&format!("/acme/first{n}"), &[], pieces)
            .await
            .unwrap();
        assert_eq!(answer.json()["target"], format!("/first{n}"));
        assert_eq!(vendor.last().text(), joined(pieces), "{n}");
        sidecar.until_idle("acme").await;
        next_is_itself(&sidecar, n).await;
    }
    // A stray last chunk would be a request of its own to this vendor.
    assert_eq!(vendor.counts().requests, 2 * BODIES.len());
    assert!(
        vendor.connections() <= 1 + 2,
        "connections go on being used: {}",
        vendor.connections()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn on_the_wire_there_is_one_head_and_one_last_chunk_and_not_a_byte_more() {
    for pieces in BODIES {
        let vendor = Raw::start().await;
        let sidecar = Sidecar::start(&open("acme", &vendor.url())).await;
        let h2 = Http2::connect(sidecar.addr()).await;
        let asking =
            tokio::spawn(
                async move { h2.post_pieces("/acme/x", &[], pieces).await.unwrap().status },
            );
        let (mut tcp, mut bytes) = vendor.accept_until(b"0\r\n\r\n").await;
        tcp.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
            .await
            .unwrap();
        assert_eq!(asking.await.unwrap(), 200);
        // It is closed behind the answer, so that everything which was ever written is here.
        timeout(PATIENCE, tcp.read_to_end(&mut bytes))
            .await
            .expect("it is closed")
            .unwrap();
        let text = String::from_utf8(bytes).unwrap();
        let body = text.split_once("\r\n\r\n").unwrap().1;
        let chunk = |piece: &&[u8]| format!("{:X}\r\n{}\r\n", piece.len(), joined(&[*piece]));
        let chunks = pieces
            .iter()
            .filter(|p| !p.is_empty())
            .map(chunk)
            .collect::<Vec<_>>()
            .concat();
        let whole = if pieces.iter().all(|p| p.is_empty()) {
            0
        } else {
            joined(pieces).len()
        };
        let one = format!("{whole:X}\r\n{}\r\n0\r\n\r\n", joined(pieces));
        assert!(
            body == format!("{chunks}0\r\n\r\n") || body == one,
            "{pieces:?}: {body:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_of_a_body_with_empty_frames_ends_once_as_well() {
    let tokens = Tokens::default();
    let issuer = Issuer::start(
        &tokens,
        vec![Endpoint::new("/token", "acme", "s3cret-acme")],
    )
    .await;
    let vendor = Vendor::start(&tokens, vec![Need::Bearer("access")]).await;
    for (n, pieces) in BODIES.into_iter().enumerate() {
        // A sidecar each: several 401s in a row would make it pause.
        let sidecar = Sidecar::start(&plain(
            "acme",
            &format!("{}/token", issuer.url()),
            &vendor.url(),
        ))
        .await;
        assert_eq!(sidecar.status_of("/acme/warm").await, 200);
        tokens.revoke_all("access");
        let before = vendor.counts().requests;
        let h2 = Http2::connect(sidecar.addr()).await;
        let answer = h2
            .post_pieces(&format!("/acme/again{n}"), &[], pieces)
            .await
            .unwrap();
        assert_eq!(answer.json()["target"], format!("/again{n}"));
        assert_eq!(vendor.last().text(), joined(pieces), "{n}");
        next_is_itself(&sidecar, n).await;
        assert_eq!(
            vendor.counts().requests,
            before + 3,
            "refused, sent again, the next: {n}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn chunked_bodies_of_http_1_clients_end_once_with_trailers_and_extensions_too() {
    let tokens = Tokens::default();
    let issuer = Issuer::start(
        &tokens,
        vec![Endpoint::new("/token", "acme", "s3cret-acme")],
    )
    .await;
    let vendor = Vendor::start(&tokens, vec![Need::Bearer("access")]).await;
    let chunked = [
        ("0\r\n\r\n", ""),
        ("0;x=y\r\nX-T: 1\r\n\r\n", ""),
        ("3\r\nabc\r\n0\r\n\r\n", "abc"),
        ("3;q\r\nabc\r\n000\r\n\r\n", "abc"),
    ];
    for (n, (body, text)) in chunked.into_iter().enumerate() {
        for replayed in [false, true] {
            let sidecar = Sidecar::start(&plain(
                "acme",
                &format!("{}/token", issuer.url()),
                &vendor.url(),
            ))
            .await;
            assert_eq!(sidecar.status_of("/acme/warm").await, 200);
            if replayed {
                tokens.revoke_all("access");
            }
            let before = vendor.counts().requests;
            let mut client = RawClient::connect(sidecar.addr()).await;
            let head =
                "POST /acme/x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n";
            client.write(format!("{head}{body}").as_bytes()).await;
            assert_eq!(
                client.answer("POST").await.unwrap().status,
                200,
                "{n} {replayed}"
            );
            assert_eq!(vendor.last().text(), text);
            next_is_itself(&sidecar, n).await;
            assert_eq!(
                vendor.counts().requests,
                before + 2 + usize::from(replayed),
                "{n} {replayed}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn empty_frames_of_a_caller_are_no_burden_to_an_http_2_vendor() {
    let authority = Authority::new("ca");
    let vendor = Vendor::with_tls(
        &Tokens::default(),
        vec![],
        Some(Authority::server(&authority.localhost(&[]), &["h2"])),
    )
    .await;
    let text = format!(
        "{PORTS}{}tls = {{ ca_file = \"ca.pem\", ca_only = true }}\n",
        open("acme", &vendor.url())
    );
    let sidecar = Sidecar::with_files(&text, &[("ca.pem", &authority.pem)]).await;
    let grpc = [("content-type", "application/grpc"), ("te", "trailers")];
    for headers in [&[][..], &grpc, &[], &grpc] {
        // A connection of its own each: our side takes a hundred empty frames from one.
        let h2 = Http2::connect(sidecar.addr()).await;
        let mut pieces: Vec<&[u8]> = vec![b""; 40];
        pieces.push(b"abc");
        pieces.extend([&b""[..]; 20]);
        let answer = h2.post_pieces("/acme/x", headers, &pieces).await.unwrap();
        assert_eq!(
            (answer.status.as_u16(), vendor.last().text().as_str()),
            (200, "abc")
        );
        for pieces in BODIES {
            // Its connection is free again a moment after the answer has been read.
            sidecar.until_idle("acme").await;
            assert_eq!(
                h2.post_pieces("/acme/x", headers, pieces)
                    .await
                    .unwrap()
                    .status,
                200
            );
            assert_eq!(vendor.last().text(), joined(pieces));
        }
        sidecar.until_idle("acme").await;
    }
    assert_eq!(
        vendor.connections(),
        2,
        "nobody was told to calm down; gRPC has one of its own"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_vendor_sends_behind_its_answer_while_nobody_asks_is_nobodys_answer() {
    for more in [
        &b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"[..],
        b"\r\n",
        b"0\r\n\r\n",
    ] {
        let vendor = Raw::start().await;
        let sidecar = Sidecar::start(&open("acme", &vendor.url())).await;
        let ask = || {
            let (client, url) = (sidecar.client.clone(), sidecar.url("/acme/x"));
            tokio::spawn(async move { client.get(url).send().await.unwrap().text().await.unwrap() })
        };
        let first = ask();
        let (mut tcp, _) = vendor.accept_until(b"\r\n\r\n").await;
        tcp.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none")
            .await
            .unwrap();
        assert_eq!(first.await.unwrap(), "one");
        sidecar.until_idle("acme").await;
        tcp.write_all(more).await.unwrap();
        let closed = timeout(PATIENCE, tcp.read(&mut [0; 64]))
            .await
            .expect("it is given up");
        assert!(!closed.is_ok_and(|n| n > 0), "and not used");
        let next = ask();
        let (mut tcp, _) = vendor.accept_until(b"\r\n\r\n").await;
        tcp.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\ntwo")
            .await
            .unwrap();
        assert_eq!(next.await.unwrap(), "two");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_comes_before_its_request_is_whole_leaves_no_connection_behind() {
    let vendor = Vendor::start(&Tokens::default(), vec![]).await;
    let sidecar = Sidecar::start(&open("acme", &vendor.url())).await;
    for n in 0..3 {
        vendor.script_early(Reply::new(413, "enough"));
        let mut client = RawClient::connect(sidecar.addr()).await;
        client
            .write(b"POST /acme/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\nabc")
            .await;
        assert_eq!(client.answer("POST").await.unwrap().status, 413);
        drop(client);
        sidecar.until_idle("acme").await;
        next_is_itself(&sidecar, n).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_without_content_from_an_http_2_client_says_so_to_an_http_1_vendor() {
    let vendor = Vendor::start(&Tokens::default(), vec![]).await;
    let sidecar = Sidecar::start(&open("acme", &vendor.url())).await;
    let h2 = Http2::connect(sidecar.addr()).await;
    for (method, length) in [
        ("POST", Some("0")),
        ("PUT", Some("0")),
        ("PATCH", Some("0")),
        ("GET", None),
        ("DELETE", None),
    ] {
        let answer = h2
            .call(method.parse().unwrap(), "/acme/x", &[], None, None)
            .await
            .unwrap();
        assert_eq!(
            (
                answer.status.as_u16(),
                vendor.last().header("content-length")
            ),
            (200, length),
            "{method}"
        );
        assert_eq!(vendor.last().header("transfer-encoding"), None, "{method}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_framing_of_an_answer_has_one_reading() {
    let vendor = Vendor::start(&Tokens::default(), vec![]).await;
    let sidecar = Sidecar::start(&open("acme", &vendor.url())).await;
    for (head, body, has, lacks) in [
        (
            "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n",
            "",
            "204",
            "content-length",
        ),
        (
            "HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\nETag: \"a\"\r\n",
            "",
            "etag: \"a\"",
            "transfer-encoding",
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 3, 3\r\n",
            "abc",
            "content-length: 3\r\n",
            "3, 3",
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n",
            "abc",
            "content-length: 3\r\n",
            "3, 3",
        ),
        (
            "HTTP/1.1 502 Bad\r\nContent-Length: 0\r\nProxy-Status: cupbearer; error=x, cdn\r\n",
            "",
            "proxy-status: cdn\r\n",
            "cupbearer",
        ),
    ] {
        vendor.script(Answer::Raw(vec![Step::Bytes(
            format!("{head}\r\n{body}").into_bytes(),
        )]));
        let ask = b"GET /acme/x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        let text = String::from_utf8(RawClient::exchange(sidecar.addr(), ask).await)
            .unwrap()
            .to_ascii_lowercase();
        assert!(
            text.contains(has) && !text.contains(lacks) && text.ends_with(body),
            "{head}\n{text}"
        );
        assert!(text.matches("content-length").count() <= 1, "{text}");
    }
}
