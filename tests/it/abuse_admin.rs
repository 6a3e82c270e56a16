//! Crowds on the ports that probes and scrapers use.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::{net::TcpStream, time::timeout};

use crate::support::{raw::RawClient, sidecar::Sidecar};

/// More than may be open at the same time.
const CROWD: usize = 1100;
const SCRAPE: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_of_silent_connections_keeps_no_probe_out_and_drives_no_scraper_away() {
    let sidecar = Sidecar::start("[metrics]\nlisten = \"127.0.0.1:0\"\n").await;
    for port in [sidecar.admin_addr(), sidecar.app.metrics_port().unwrap()] {
        let mut scraper = RawClient::connect(port).await;
        scraper.write(SCRAPE).await;
        assert_eq!(scraper.answer("GET").await.unwrap().status, 200);
        let crowd = join_all((0..CROWD).map(|_| TcpStream::connect(port))).await;
        assert!(crowd.iter().all(Result::is_ok));
        let mut fastest = Duration::MAX;
        for path in ["/livez", "/readyz", "/metrics", "/livez"] {
            let (begun, probe) = (
                Instant::now(),
                format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"),
            );
            let answer = timeout(
                Duration::from_secs(5),
                RawClient::ask(port, probe.as_bytes()),
            )
            .await;
            assert!(
                matches!(answer.expect("an answer in time").status, 200 | 503),
                "{path}"
            );
            fastest = fastest.min(begun.elapsed());
        }
        // What else runs here may hold one of them up.
        assert!(fastest < Duration::from_secs(1), "{fastest:?}");
        // The same connection as before.
        scraper.write(SCRAPE).await;
        assert_eq!(
            scraper
                .answer("GET")
                .await
                .expect("the scraper's connection")
                .status,
            200
        );
    }
}
