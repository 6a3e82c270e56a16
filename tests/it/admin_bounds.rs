//! `promises.md#admin-port`: the admin and the metrics port speak HTTP/1.1 alone, and what nobody
//! reads of their answers is bounded.

use std::{net::SocketAddr, time::Duration};

use tokio::{io::AsyncWriteExt, net::TcpStream, time::timeout};

use crate::support::{
    endpoint::Endpoint,
    issuer::{Issuer, PATIENCE},
    raw::{RawAnswer, RawClient},
    sidecar::{PORTS, Process, Sidecar, plain},
    tokens::Tokens,
    wait::until,
};

const METRICS: &str = "[metrics]\nlisten = \"127.0.0.1:0\"\n";
/// A client with prior knowledge: no answer may fill a window, and then a request.
const HTTP_2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x06\x04\0\0\0\0\0\0\x04\0\0\0\0\0\0\x1b\x01\x05\0\0\0\x01\x82\x86\x04\x08/metrics\x41\x09localhost";

/// One request on a connection of its own.
async fn ask(port: SocketAddr, head: &str) -> RawAnswer {
    RawClient::ask(
        port,
        format!("{head}\r\nHost: localhost\r\n\r\n").as_bytes(),
    )
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn http_2_is_spoken_on_neither_port_by_prior_knowledge_or_by_upgrade() {
    let sidecar = Sidecar::start(METRICS).await;
    for port in [sidecar.admin_addr(), sidecar.app.metrics_port().unwrap()] {
        let answer = RawClient::exchange(port, HTTP_2).await;
        assert!(
            answer.is_empty()
                || answer.starts_with(b"HTTP/1.1 4")
                || answer.starts_with(b"HTTP/1.1 505"),
            "{answer:?}"
        );
        let upgrade = "GET /livez HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__";
        let answer = ask(port, upgrade).await;
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (200, "ok\n"),
            "the upgrade is not taken up: {}",
            answer.head
        );
        assert!(answer.head.starts_with("HTTP/1.1 "), "{}", answer.head);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_rendering_a_second_is_shared_by_both_ports() {
    let sidecar = Sidecar::start(METRICS).await;
    let ports = [sidecar.admin_addr(), sidecar.app.metrics_port().unwrap()];
    // What a process says of its own processor time differs between any two renderings.
    let mut seen = Vec::new();
    let begun = std::time::Instant::now();
    for n in 0..40 {
        seen.push(ask(ports[n % 2], "GET /metrics HTTP/1.1").await.body);
    }
    let renderings = begun.elapsed().as_secs() + 2;
    seen.dedup();
    assert!(seen.len() as u64 <= renderings, "{} renderings", seen.len());
    let first = seen.pop().unwrap();
    let anew = async { while ask(ports[0], "GET /metrics HTTP/1.1").await.body == first {} };
    timeout(PATIENCE, anew).await.expect("it is rendered again");
}

/// Connections that ask for so much, all at once, and read nothing; those that were closed are left
/// out.
async fn deaf(port: SocketAddr, path: &str, n: usize) -> Vec<TcpStream> {
    let asks = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").repeat(2000);
    let mut all = Vec::new();
    for _ in 0..n {
        let mut tcp = TcpStream::connect(port).await.unwrap();
        // The other side reads no more of it once answers lie unread.
        let _ = timeout(Duration::from_millis(20), tcp.write_all(asks.as_bytes())).await;
        all.push(tcp);
    }
    all
}

/// 30 credentials make pages of more than 50 KiB. Nobody reads any of 300 × 2000 answers, over both
/// ports; meanwhile who reads is answered.
#[tokio::test(flavor = "multi_thread")]
async fn answers_that_nobody_reads_take_bounded_memory_and_keep_nobody_else_waiting() {
    let issuer = Issuer::start(
        &Tokens::default(),
        vec![Endpoint::new("/token", "acme", "s3cret-acme")],
    )
    .await;
    let one = plain("acme", &format!("{}/token", issuer.url()), &issuer.url());
    let folder = tempfile::tempdir().unwrap();
    let mut text = format!("{PORTS}{METRICS}");
    for n in 0..30 {
        text += &one.replace("s.acme]", &format!("s.acme{n}]")).replace(
            "credential = \"acme\"",
            &format!("credential = \"acme{n}\""),
        );
    }
    let (file, ready) = (folder.path().join("c.toml"), folder.path().join("ready"));
    std::fs::write(&file, text).unwrap();
    let mut command = tokio::process::Command::new(crate::support::sidecar::binary());
    command
        .args(["run", "--config"])
        .arg(&file)
        .arg("--ready-file")
        .arg(&ready);
    let process = Process::spawn(command).await;
    issuer.wait_for_connections(1).await;
    until("the ready file", async || ready.exists()).await;
    let ready: serde_json::Value = serde_json::from_slice(&std::fs::read(&ready).unwrap()).unwrap();
    let metrics = ready["metrics"].as_str().unwrap().parse().unwrap();
    for (port, path) in [
        (process.admin, "/"),
        (process.admin, "/api/status"),
        (metrics, "/metrics"),
    ] {
        assert!(
            ask(port, &format!("GET {path} HTTP/1.1")).await.body.len() > 10_000,
            "{path}"
        );
    }
    // Seats, their buffers, 4 MiB of pages and 4 renderings.
    let before = process.kib("VmRSS");
    let mut crowd = Vec::new();
    for (port, path) in [
        (process.admin, "/"),
        (process.admin, "/api/status"),
        (metrics, "/metrics"),
    ] {
        crowd.append(&mut deaf(port, path, 100).await);
    }
    for (port, path) in [
        (process.admin, "/api/status"),
        (process.admin, "/livez"),
        (metrics, "/metrics"),
        (metrics, "/readyz"),
    ] {
        let answer = timeout(PATIENCE, ask(port, &format!("GET {path} HTTP/1.1")))
            .await
            .expect("an answer in time");
        assert_eq!(answer.status, 200, "{path}");
    }
    let grown = process.kib("VmRSS").saturating_sub(before);
    assert!(grown < 32 * 1024, "{grown} KiB more");
    drop(crowd);
}

/// Pages of 160 credentials are 300 KiB: more than the kernel takes of an answer that nobody reads,
/// and 80 of them six times what may be held.
#[tokio::test(flavor = "multi_thread")]
async fn who_reads_nothing_of_a_large_answer_loses_it_to_who_asks() {
    let issuer = Issuer::start(
        &Tokens::default(),
        vec![Endpoint::new("/token", "acme", "s3cret-acme")],
    )
    .await;
    let one = plain("acme", &format!("{}/token", issuer.url()), &issuer.url());
    let name = |n| {
        one.replace("s.acme]", &format!("s.acme{n}]")).replace(
            "credential = \"acme\"",
            &format!("credential = \"acme{n}\""),
        )
    };
    let sidecar = Sidecar::start(&(0..160).map(name).collect::<String>()).await;
    let crowd = deaf(sidecar.admin_addr(), "/", 80).await;
    // Whose connection is closed while requests of his lie unread there has it reset.
    let reset = |tcp: &TcpStream| match tcp.try_write(b"G") {
        Ok(_) => false,
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    };
    until("most of the crowd has made room", async || {
        crowd.iter().filter(|tcp| reset(tcp)).count() > 40
    })
    .await;
    let answer = timeout(PATIENCE, ask(sidecar.admin_addr(), "GET / HTTP/1.1"))
        .await
        .expect("an answer in time");
    assert!(
        answer.status == 200 && answer.body.len() > 200_000,
        "{}",
        answer.head
    );
}
