//! Connections to vendors: used again, bounded, given up when old, and never a reason to send
//! anything twice.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::support::{
    issuer::PATIENCE,
    raw::RawClient,
    sidecar::{Sidecar, open},
    tokens::Tokens,
    vendor::{Raw, Vendor},
    wire::{Answer, Gate, Reply, Step},
};

/// pingora lets a kept connection go when the task that watched it has not quite left it
/// (`Arc::try_unwrap` in its `reused_stream`): a few times in a hundred on a machine whose cores
/// are all busy, never on a quiet one.
const MISSED: usize = 2;

const HI: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";

#[tokio::test(flavor = "multi_thread")]
async fn callers_share_the_vendors_connection_whatever_they_do_with_their_own() {
    let vendor = Vendor::start(&Tokens::default(), vec![]).await;
    let sidecar = Sidecar::start(&open("acme", &vendor.url())).await;
    for i in 0..20 {
        let close = if i % 2 == 0 {
            "Connection: close\r\n"
        } else {
            ""
        };
        let request = format!(
            "POST /acme/{i} HTTP/1.1\r\nHost: localhost\r\n{close}Content-Length: 2\r\n\r\nhi"
        );
        let mut client = RawClient::connect(sidecar.addr()).await;
        client.write(request.as_bytes()).await;
        assert_eq!(client.answer("POST").await.unwrap().status, 200);
        // A client that leaves too early would take the vendor's connection with it.
        sidecar.until_idle("acme").await;
    }
    let old = RawClient::exchange(
        sidecar.addr(),
        b"GET /acme/old HTTP/1.0\r\nHost: localhost\r\n\r\n",
    )
    .await;
    assert!(!old.is_empty());
    assert_eq!(vendor.counts().requests, 21);
    assert!(
        (1..=1 + MISSED).contains(&vendor.connections()),
        "{}",
        vendor.connections()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_connection_serves_many_requests_one_after_the_other() {
    let vendor = Vendor::start(&Tokens::default(), vec![]).await;
    let sidecar = Sidecar::start(&open("acme", &vendor.url())).await;
    let mut client = RawClient::connect(sidecar.addr()).await;
    for i in 0..10 {
        client
            .write(format!("GET /acme/{i} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes())
            .await;
        assert_eq!(
            client.answer("GET").await.unwrap().json()["target"],
            format!("/{i}")
        );
    }
    assert_eq!(vendor.connections(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_connections_are_kept_than_the_pool_may_hold() {
    let vendor = Vendor::start(&Tokens::default(), vec![]).await;
    let sidecar = Sidecar::start(&format!(
        "{}pool = {{ connections = 2 }}\n",
        open("acme", &vendor.url())
    ))
    .await;
    for round in 1..=2 {
        // They end one after the other: pingora may keep one more of two that end at the same
        // moment.
        let gates: Vec<Gate> = (0..10).map(|_| Gate::shut()).collect();
        for gate in &gates {
            vendor.script(Reply::new(200, "hi").behind(gate));
        }
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..10 {
            let (client, url) = (sidecar.client.clone(), sidecar.url("/acme/x"));
            calls.spawn(async move { client.get(url).send().await.unwrap().text().await.unwrap() });
        }
        vendor.wait(round * 10).await;
        for (left, gate) in (0..10).rev().zip(gates) {
            gate.open();
            assert_eq!(calls.join_next().await.unwrap().unwrap(), "hi");
            sidecar.until_in_flight("acme", left).await;
        }
    }
    let made = vendor.connections();
    assert!(
        (18..=18 + MISSED).contains(&made),
        "two of the first ten were kept: {made}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_is_closed_when_it_is_old() {
    let vendor = Raw::start().await;
    let sidecar = Sidecar::start(&format!(
        "{}pool = {{ idle = \"200ms\" }}\n",
        open("acme", &vendor.url())
    ))
    .await;
    let asking = tokio::spawn({
        let (client, url) = (sidecar.client.clone(), sidecar.url("/acme/x"));
        async move { client.get(url).send().await.unwrap().status().as_u16() }
    });
    let (mut tcp, _) = vendor.accept_until(b"\r\n\r\n").await;
    tcp.write_all(HI).await.unwrap();
    assert_eq!(asking.await.unwrap(), 200);
    let end = timeout(PATIENCE, tcp.read(&mut [0; 64]))
        .await
        .expect("it is closed")
        .unwrap();
    assert_eq!(end, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_the_vendor_closed_while_it_was_idle_costs_no_call() {
    let vendor = Vendor::start(&Tokens::default(), vec![]).await;
    let sidecar = Sidecar::start(&open("acme", &vendor.url())).await;
    for i in 0..10 {
        // It looks as if it could be used again, and is closed or reset behind the answer.
        let end = if i % 2 == 0 {
            vec![]
        } else {
            vec![Step::Reset]
        };
        vendor.script(Answer::Raw([vec![Step::Bytes(HI.to_vec())], end].concat()));
        assert_eq!(sidecar.get("/acme/x").await.text().await.unwrap(), "hi");
        vendor.down().await;
        vendor.up().await;
        let posted = sidecar
            .client
            .post(sidecar.url("/acme/y"))
            .body("once")
            .send()
            .await
            .unwrap();
        assert_eq!(posted.status(), 200);
    }
    let posts = vendor.seen().iter().filter(|r| r.method == "POST").count();
    assert_eq!((posts, vendor.counts().requests), (10, 20));
}

#[tokio::test(flavor = "multi_thread")]
async fn v6_what_was_written_to_a_connection_that_then_broke_is_never_written_again() {
    let vendor = Vendor::start(&Tokens::default(), vec![]).await;
    let sidecar = Sidecar::start(&open("acme", &vendor.url())).await;
    for (n, (method, end)) in [
        ("GET", vec![]),
        ("POST", vec![]),
        ("PUT", vec![Step::Reset]),
        ("GET", vec![Step::Reset]),
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(sidecar.status_of("/acme/warm").await, 200);
        vendor.script(Answer::Raw(end));
        let request =
            format!("{method} /acme/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nhi");
        let answer = RawClient::ask(sidecar.addr(), request.as_bytes()).await;
        assert_eq!(
            (answer.status, answer.json()["code"].as_str()),
            (502, Some("upstream_protocol")),
            "{method}"
        );
        assert_eq!(vendor.counts().requests, 2 * (n + 1), "{method}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn v7_a_connection_is_not_used_again_after_an_answer_that_was_cut_or_followed_by_more() {
    let vendor = Vendor::start(&Tokens::default(), vec![]).await;
    let sidecar = Sidecar::start(&open("acme", &vendor.url())).await;
    let gate = Gate::shut();
    for (n, bytes) in [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhiHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison".to_vec(),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"
            .to_vec(),
        b"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison".to_vec(),
    ]
    .into_iter()
    .enumerate()
    {
        vendor.script(Answer::Raw(vec![Step::Bytes(bytes), Step::Gate(gate.clone())]));
        let _ = sidecar.get("/acme/first").await.text().await;
        let next = sidecar.get("/acme/next").await.text().await.unwrap();
        assert!(next.contains("\"/next\"") && !next.contains("poison"), "{n}: {next}");
    }
    gate.open();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vendor_that_was_away_is_reached_again_by_the_next_call() {
    let vendor = Vendor::start(&Tokens::default(), vec![]).await;
    let sidecar = Sidecar::start(&open("acme", &vendor.url())).await;
    for _ in 0..3 {
        assert_eq!(sidecar.status_of("/acme/x").await, 200);
        vendor.down().await;
        assert_eq!(
            sidecar.refusal("/acme/x").await.1["code"],
            "upstream_unreachable"
        );
        vendor.up().await;
    }
    assert_eq!(sidecar.status_of("/acme/x").await, 200);
    assert_eq!(vendor.counts().requests, 4);
}
