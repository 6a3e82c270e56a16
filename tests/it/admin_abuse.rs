//! Abuse of the admin port: web pages, rebound names, floods of refresh, slow clients, a thousand
//! scrapes a second.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use http::Method;
use tokio::{io::AsyncWriteExt, net::TcpStream, time::timeout};

use crate::support::{
    endpoint::Endpoint,
    issuer::{Issuer, PATIENCE},
    sidecar::{Sidecar, plain},
    tokens::Tokens,
    vendor::{Need, Vendor},
};

async fn parties(more: &str) -> (Issuer, Vendor, Sidecar) {
    let tokens = Tokens::default();
    let issuer = Issuer::start(
        &tokens,
        vec![Endpoint::new("/token", "acme", "s3cret-acme")],
    )
    .await;
    let vendor = Vendor::start(&tokens, vec![Need::Bearer("access")]).await;
    vendor.keep(1);
    let text = plain("acme", &format!("{}/token", issuer.url()), &vendor.url());
    let sidecar = Sidecar::start(&format!("{text}{more}")).await;
    sidecar.until_state("acme", "access", "ok").await;
    (issuer, vendor, sidecar)
}

/// Every way a web page has to reach a port of this host: none changes anything, and none may read
/// the answer.
#[tokio::test(flavor = "multi_thread")]
async fn m1_no_web_page_and_no_rebound_name_changes_or_reads_anything() {
    let (issuer, _vendor, sidecar) = parties("").await;
    let admin = sidecar.admin_addr();
    let send = async |method: Method, path: &str, headers: &[(&str, &str)]| {
        let request = sidecar
            .client
            .request(method, format!("http://{admin}{path}"))
            .body("{}");
        let answer = headers
            .iter()
            .fold(request, |r, (name, value)| r.header(*name, *value))
            .send()
            .await
            .unwrap();
        assert!(
            answer
                .headers()
                .keys()
                .all(|k| !k.as_str().starts_with("access-control-")),
            "{answer:?}"
        );
        answer.status().as_u16()
    };
    let json = ("content-type", "application/json");
    let mut tried = 0;
    for path in [
        "/api/credentials/acme/refresh",
        "/api/credentials/acme/unlatch",
        "/api/reload",
    ] {
        // What a form or a `no-cors` fetch can send, and what a page could send if a preflight were
        // answered.
        for kind in [
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "text/plain; application/json",
        ] {
            assert_eq!(
                send(Method::POST, path, &[("content-type", kind)]).await,
                415,
                "{path} {kind}"
            );
        }
        for origin in [
            "https://evil.example",
            "null",
            "http://localhost.evil.example",
            "http://127.0.0.1:3000",
            "file://",
        ] {
            assert_eq!(
                send(Method::POST, path, &[json, ("origin", origin)]).await,
                403,
                "{path} {origin}"
            );
        }
        for host in [
            "evil.example",
            "127.0.0.1.nip.io",
            "localhost.evil.example",
            "10.0.0.1",
            "[fe80::1]",
            "evil.example:14190",
        ] {
            assert_eq!(
                send(Method::POST, path, &[json, ("host", host)]).await,
                403,
                "{path} {host}"
            );
        }
        let preflight = [
            ("origin", "https://evil.example"),
            ("access-control-request-method", "POST"),
            json,
        ];
        assert!(
            (400..500).contains(&send(Method::OPTIONS, path, &preflight).await),
            "{path}"
        );
        assert!(
            (400..500).contains(&send(Method::GET, path, &[]).await),
            "{path}"
        );
        tried += 17;
    }
    for path in ["/api/status", "/"] {
        assert_eq!(
            send(Method::GET, path, &[("host", "evil.example")]).await,
            403,
            "{path}"
        );
    }
    assert_eq!((tried, issuer.calls("/token")), (51, 1));
    let reloads = ["applied", "unchanged", "refused"]
        .map(|o| format!("cupbearer_config_reloads_total{{outcome=\"{o}\"}}"));
    for series in reloads {
        assert!(
            sidecar.metric(&series).await.abs() < f64::EPSILON,
            "{series}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn m2_three_thousand_refreshes_cost_what_the_guard_allows() {
    let (issuer, vendor, sidecar) = parties("[credentials.acme.guard]\nrate = [\"3/m\"]\n").await;
    let begun = Instant::now();
    let url = format!(
        "http://{}/api/credentials/acme/refresh",
        sidecar.admin_addr()
    );
    let flood = (0..20).map(|_| async {
        for _ in 0..150 {
            let request = sidecar
                .client
                .post(&url)
                .header("content-type", "application/json");
            assert_eq!(request.send().await.unwrap().status(), 202);
        }
    });
    let used = async {
        for _ in 0..50 {
            assert_eq!(sidecar.status_of("/acme/x").await, 200);
        }
    };
    tokio::join!(join_all(flood), used);
    // A bucket of three, one more for each 20 s; the first was spent at the start.
    let allowed = 3 + usize::try_from(begun.elapsed().as_secs() / 20).unwrap() + 1;
    assert!(
        issuer.calls("/token") <= allowed,
        "{} calls in {:?}",
        issuer.calls("/token"),
        begun.elapsed()
    );
    assert_eq!((vendor.counts().answered, issuer.refusals()), (50, vec![]));
}

/// 1,000 scrapes for each second of the test, two seconds long, as fast as they are answered. 64 at
/// once are far fewer than there are seats: who opens more connections than those loses some, and
/// may find one of them closed just when it sends.
#[tokio::test(flavor = "multi_thread")]
async fn m4_a_thousand_scrapes_a_second_do_not_touch_the_data_path() {
    let (issuer, vendor, sidecar) = parties("").await;
    let (over, scraped) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let metrics = format!("http://{}/metrics", sidecar.admin_addr());
    let at_once = Arc::new(tokio::sync::Semaphore::new(64));
    let ticks = async {
        let mut tick = tokio::time::interval(Duration::from_millis(20));
        let mut all = tokio::task::JoinSet::new();
        for _ in 0..100 {
            tick.tick().await;
            for _ in 0..20 {
                let (client, url, scraped, at_once) = (
                    sidecar.client.clone(),
                    metrics.clone(),
                    scraped.clone(),
                    at_once.clone(),
                );
                all.spawn(async move {
                    let _turn = at_once.acquire().await.unwrap();
                    let answer = client.get(url).send().await.unwrap();
                    assert_eq!(answer.status(), 200);
                    assert!(
                        answer
                            .text()
                            .await
                            .unwrap()
                            .contains("cupbearer_token_sendable")
                    );
                    scraped.fetch_add(1, SeqCst);
                });
            }
        }
        all.join_all().await;
        over.store(true, SeqCst);
    };
    let traffic = async {
        let (mut sent, mut longest) = (0, Duration::ZERO);
        while !over.load(SeqCst) {
            let asked = Instant::now();
            assert_eq!(sidecar.status_of("/acme/x").await, 200);
            (sent, longest) = (sent + 1, longest.max(asked.elapsed()));
        }
        (sent, longest)
    };
    let begun = Instant::now();
    let ((sent, longest), ()) = timeout(3 * PATIENCE, async { tokio::join!(traffic, ticks) })
        .await
        .expect("an end in time");
    assert_eq!(scraped.load(SeqCst), 2000);
    assert_eq!(
        (
            vendor.counts().requests,
            vendor.counts().answered,
            issuer.calls("/token")
        ),
        (sent, sent, 1)
    );
    // How many fit beside the scrapes, and this client of them, depends on the machine; that none
    // waits behind the scrapes does not.
    let took = begun.elapsed();
    assert!(
        longest < Duration::from_secs(2).max(took / 3),
        "{sent} calls in {took:?}, the longest took {longest:?}"
    );
}

/// Connections that send a part of a head, or ask and do not read.
async fn slow(addr: SocketAddr, bytes: &[u8], n: usize) -> Vec<TcpStream> {
    let mut all = Vec::with_capacity(n);
    for _ in 0..n {
        let mut tcp = TcpStream::connect(addr).await.unwrap();
        tcp.write_all(bytes).await.unwrap();
        all.push(tcp);
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn m4_clients_that_do_not_finish_or_do_not_read_keep_nobody_waiting() {
    let (_issuer, vendor, sidecar) = parties("").await;
    let admin = sidecar.admin_addr();
    let half = slow(
        admin,
        b"POST /api/reload HTTP/1.1\r\nHost: localhost\r\nContent-Ty",
        150,
    )
    .await;
    let head = b"POST /api/reload HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n{";
    let body = slow(admin, head, 50).await;
    let asks = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(50);
    let deaf = slow(admin, asks.as_bytes(), 150).await;
    let begun = Instant::now();
    for _ in 0..30 {
        assert_eq!(sidecar.admin("/livez").await.status(), 200);
        assert_eq!(sidecar.status_of("/acme/x").await, 200);
    }
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    assert_eq!(vendor.counts().answered, 30);
    drop((half, body, deaf));
    assert_eq!(sidecar.admin("/api/status").await.status(), 200);
}
