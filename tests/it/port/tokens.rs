//! Tokens on their way: placed, waited for, renewed after a 401, handed out.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use cupbearer::{
    config,
    credential::CredentialDeps,
    listen::Address,
    snapshot::Snapshot,
    telemetry::Metrics,
    token::{MemoryLedger, Store},
};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::support::*;

/// An issuer whose n-th token is `token-n`.
async fn issuer() -> (Vendor, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let issued = count.clone();
    let vendor = Vendor::start(move |_, _| {
        let n = issued.fetch_add(1, Ordering::SeqCst) + 1;
        let body = format!(
            "{{\"access_token\":\"token-{n}\",\"token_type\":\"Bearer\",\"expires_in\":3600}}"
        );
        format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .into_bytes()
    })
    .await;
    (vendor, count)
}

fn with(text: &str) -> Port {
    let (config, problems) =
        config::load_text(text, Path::new("."), &config::LoadOptions::default());
    let config = config.unwrap_or_else(|| panic!("{:?}", problems.list()));
    let deps = CredentialDeps::new(
        Arc::new(Store::default()),
        Arc::new(MemoryLedger::default()),
        Metrics::new().unwrap(),
    );
    let snapshot = Snapshot::build(config, &deps, 1).unwrap_or_else(|p| panic!("{:?}", p.list()));
    snapshot.adopt();
    port_on(Address::Tcp("127.0.0.1:0".parse().unwrap()), snapshot)
}

fn acme(issuer: std::net::SocketAddr, vendor: std::net::SocketAddr, more: &str) -> String {
    format!(
        r#"
[credentials.acme]
settings = {{ token_url = "http://{issuer}/token" }}
secrets = {{ client_id = "me", client_secret = "hush-hush" }}
[upstreams.acme]
url = "http://{vendor}/v2"
credential = "acme"
{more}
"#
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_placed_and_what_the_client_sent_under_its_name_is_not_seen() {
    let (issuer, _) = issuer().await;
    let vendor = Vendor::start(ok).await;
    let port = with(&acme(issuer.address, vendor.address, ""));
    let answer =
        port.get("/acme/x", "Authorization: mine\r\nProxy-Authorization: mine\r\nConnection: authorization\r\nX-Other: a\r\n").await;
    assert_eq!(status(&answer), 200, "{answer}");
    let seen = vendor.seen()[0].to_ascii_lowercase();
    assert!(
        seen.contains("authorization: bearer token-1\r\n") && seen.contains("x-other: a"),
        "{seen}"
    );
    assert!(
        !seen.contains("mine") && seen.matches("authorization").count() == 1,
        "{seen}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_token_is_renewed_and_the_request_sent_once_more() {
    let (issuer, count) = issuer().await;
    let vendor = Vendor::start(|_, request| {
        if request.contains("token-1") {
            return b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer error=\"invalid_token\"\r\nContent-Length: 0\r\n\r\n".to_vec();
        }
        ok(0, request)
    })
    .await;
    let port = with(&acme(issuer.address, vendor.address, ""));
    let body = "x".repeat(60_000);
    let request = format!(
        "POST /acme/x HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n\r\n{body}",
        port.address,
        body.len()
    );
    let answer = port.raw(request).await;
    assert_eq!(status(&answer), 200, "{answer}");
    let seen = vendor.seen();
    assert_eq!(seen.len(), 2);
    assert!(seen[1].contains("token-2") && seen[1].ends_with(&body));
    assert_eq!(count.load(Ordering::SeqCst), 2);
    port.counts("cupbearer_replays_total{outcome=\"ok\",upstream=\"acme\"} 1")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_not_be_sent_again_passes_as_the_vendor_said_it() {
    let refusal = |challenge: &str| {
        let text = format!(
            "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: {challenge}\r\nContent-Length: 4\r\n\r\nnope"
        );
        move |_: usize, _: &str| text.clone().into_bytes()
    };
    for (challenge, more, body, outcome) in [
        ("Bearer error=\"insufficient_scope\"", "", 5, ""),
        ("Bearer", "replay = \"never\"", 5, "skipped_policy"),
        ("Bearer", "replay = \"idempotent\"", 5, "skipped_policy"),
        ("Bearer", "", 70_000, "skipped_body"),
    ] {
        let (issuer, _) = issuer().await;
        let vendor = Vendor::start(refusal(challenge)).await;
        let port = with(&acme(issuer.address, vendor.address, more));
        let request = format!(
            "POST /acme/x HTTP/1.1\r\nHost: {}\r\nContent-Length: {body}\r\n\r\n{}",
            port.address,
            "x".repeat(body)
        );
        let answer = port.raw(request).await;
        assert_eq!(status(&answer), 401, "{answer}");
        assert!(answer.ends_with("nope"));
        assert_eq!(vendor.seen().len(), 1, "{challenge} {more}");
        if !outcome.is_empty() {
            port.counts(&format!(
                "cupbearer_replays_total{{outcome=\"{outcome}\",upstream=\"acme\"}} 1"
            ))
            .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vendor_that_refuses_every_token_is_asked_twice_and_then_believed() {
    let (issuer, _) = issuer().await;
    let vendor = Vendor::start(|_, _| {
        b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 4\r\n\r\nnope".to_vec()
    })
    .await;
    let port = with(&acme(issuer.address, vendor.address, ""));
    assert_eq!(status(&port.get("/acme/x", "").await), 401);
    assert_eq!(vendor.seen().len(), 2);
    assert_eq!(status(&port.get("/acme/x", "").await), 401);
    port.counts("cupbearer_replays_total{outcome=\"failed\",upstream=\"acme\"} 2")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_token_the_refusal_is_ours_and_the_connection_stays() {
    let rejecting = Vendor::start(|_, _| {
        b"HTTP/1.1 401 Unauthorized\r\nContent-Type: application/json\r\nContent-Length: 26\r\n\r\n{\"error\":\"invalid_client\"}".to_vec()
    })
    .await;
    let vendor = Vendor::start(ok).await;
    let port = with(&acme(rejecting.address, vendor.address, ""));
    let mut socket = TcpStream::connect(port.address).await.unwrap();
    for _ in 0..2 {
        socket
            .write_all(format!("GET /acme/x HTTP/1.1\r\nHost: {}\r\n\r\n", port.address).as_bytes())
            .await
            .unwrap();
        let answer = timeout(SECOND * 5, read_message(&mut socket))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(
            (status(&answer), code(&answer).as_str()),
            (502, "token_rejected"),
            "{answer}"
        );
        assert!(
            answer.contains("\"credential\":\"acme\"") && answer.contains("\"upstream\":\"acme\""),
            "{answer}"
        );
        assert!(
            !answer.contains("invalid_client") && !answer.contains("hush"),
            "{answer}"
        );
    }
    assert_eq!(vendor.seen().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_waits_no_more() {
    let hanging = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let vendor = Vendor::start(ok).await;
    let port = with(&acme(hanging.local_addr().unwrap(), vendor.address, ""));
    let mut socket = TcpStream::connect(port.address).await.unwrap();
    socket
        .write_all(format!("GET /acme/x HTTP/1.1\r\nHost: {}\r\n\r\n", port.address).as_bytes())
        .await
        .unwrap();
    port.counts("cupbearer_requests_in_flight{upstream=\"acme\"} 1")
        .await;
    drop(socket);
    port.counts("cupbearer_requests_in_flight{upstream=\"acme\"} 0")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_handed_out_where_its_profile_says_so() {
    let (issuer, _) = issuer().await;
    let vendor = Vendor::start(ok).await;
    let text = acme(issuer.address, vendor.address, "")
        .replace("[credentials.acme]", "[credentials.acme]\nvend = true");
    let port = with(&text);
    let ask = |method: &str, name: &str| {
        format!(
            "{method} /.cupbearer/token/{name} HTTP/1.1\r\nHost: {}\r\nContent-Length: 0\r\n\r\n",
            port.address
        )
    };
    let answer = port.raw(ask("POST", "acme")).await;
    assert_eq!(status(&answer), 200, "{answer}");
    let body: serde_json::Value =
        serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    assert_eq!(
        (body["access_token"].as_str(), body["token_type"].as_str()),
        (Some("token-1"), Some("Bearer"))
    );
    assert!(body["expires_in"].as_u64().unwrap() > 3500);
    assert!(
        answer
            .to_ascii_lowercase()
            .contains("cache-control: no-store")
    );
    assert_eq!(status(&port.raw(ask("POST", "nobody")).await), 404);
    assert_eq!(status(&port.raw(ask("GET", "acme")).await), 405);
}
