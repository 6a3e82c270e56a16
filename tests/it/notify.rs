//! What systemd hears of `run` (sd_notify): ready, reloading and ready again, stopping, and signs
//! of life.

use std::collections::BTreeMap;

use rustix::process::Signal;
use tokio::{net::UnixDatagram, time::timeout};

use crate::support::{
    daemon::{Daemon, Setup},
    issuer::PATIENCE,
    sidecar::{PORTS, open},
};

/// The next message that is no sign of life, as its lines.
async fn next(socket: &UnixDatagram) -> BTreeMap<String, String> {
    loop {
        let mut bytes = [0; 1024];
        let n = timeout(PATIENCE, socket.recv(&mut bytes))
            .await
            .expect("a message")
            .unwrap();
        let text = std::str::from_utf8(&bytes[..n]).unwrap();
        let told: BTreeMap<_, _> = text
            .lines()
            .map(|l| l.split_once('=').unwrap())
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect();
        if !told.contains_key("WATCHDOG") {
            return told;
        }
    }
}

async fn expect(socket: &UnixDatagram, state: &str) {
    let told = next(socket).await;
    assert_eq!(
        told.get(state).map(String::as_str),
        Some("1"),
        "{state} in {told:?}"
    );
    if state == "RELOADING" {
        assert!(
            told["MONOTONIC_USEC"].parse::<u64>().unwrap() > 0,
            "{told:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn start_reloads_and_stop_are_told_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let name = folder.path().join("notify");
    let socket = UnixDatagram::bind(&name).unwrap();
    let text = open("free", "http://127.0.0.1:9");
    let whole = format!(
        "{}interval = \"off\"\n{text}",
        PORTS.split("interval").next().unwrap()
    );
    let env = [("NOTIFY_SOCKET", name.to_str().unwrap())];
    let mut daemon = Daemon::with(Setup {
        whole: Some(&whole),
        env: &env,
        ..Setup::default()
    })
    .await;
    expect(&socket, "READY").await;
    // Unchanged, applied and refused: each begins and ends.
    for text in [
        whole.clone(),
        format!("{whole}replay = \"never\"\n"),
        "nonsense".to_owned(),
    ] {
        std::fs::write(daemon.path("cupbearer.toml"), text).unwrap();
        daemon.signal(Signal::HUP);
        expect(&socket, "RELOADING").await;
        expect(&socket, "READY").await;
    }
    daemon
        .client
        .post(format!("http://{}/api/reload", daemon.admin))
        .header("content-type", "application/json")
        .send()
        .await
        .unwrap();
    expect(&socket, "RELOADING").await;
    expect(&socket, "READY").await;
    daemon.signal(Signal::TERM);
    expect(&socket, "STOPPING").await;
    assert_eq!(daemon.end().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn life_is_told_where_it_is_watched() {
    let folder = tempfile::tempdir().unwrap();
    let name = folder.path().join("notify");
    let socket = UnixDatagram::bind(&name).unwrap();
    let env = [
        ("NOTIFY_SOCKET", name.to_str().unwrap()),
        ("WATCHDOG_USEC", "200000"),
    ];
    let text = open("free", "http://127.0.0.1:9");
    let mut daemon = Daemon::with(Setup {
        text: &text,
        env: &env,
        ..Setup::default()
    })
    .await;
    let mut seen = 0;
    while seen < 3 {
        let mut bytes = [0; 1024];
        let n = timeout(PATIENCE, socket.recv(&mut bytes))
            .await
            .expect("a message")
            .unwrap();
        seen += usize::from(&bytes[..n] == b"WATCHDOG=1");
    }
    daemon.stop().await;
    assert!(
        !daemon.stderr.text().contains("NOTIFY_SOCKET"),
        "{}",
        daemon.stderr.text()
    );
}
