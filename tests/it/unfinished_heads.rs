//! Heads that never end: all of them together have a bound, and it is the newest that go.

use std::time::Duration;

use tokio::{io::AsyncReadExt, net::TcpStream, time::timeout};

use crate::support::{
    raw::RawClient,
    sidecar::{PORTS, Process, Sidecar},
    tokens::Tokens,
    vendor::Vendor,
};

/// No program that counts its unfinished heads buffers one of these in less than 64 KiB.
const PART: usize = 40_000;

fn config(proxy: &str, vendor: &Vendor) -> String {
    let ports = PORTS.replace("[proxy]\n", &format!("[proxy]\n{proxy}\n"));
    format!(
        "{ports}[upstreams.acme]\nurl = \"{}\"\ncredential = \"none\"\n",
        vendor.url()
    )
}

/// The beginning of a request, the end of which is two line ends.
fn beginning(bytes: usize) -> Vec<u8> {
    let mut head = b"GET /acme/x HTTP/1.1\r\nHost: localhost\r\n".to_vec();
    while head.len() < bytes {
        head.extend_from_slice(format!("X-{}: {}\r\n", head.len(), "y".repeat(700)).as_bytes());
    }
    head
}

#[tokio::test(flavor = "multi_thread")]
async fn unfinished_heads_take_8_mib_together_and_the_newest_are_told_so_while_whole_ones_pass() {
    let vendor = Vendor::start(&Tokens::default(), vec![]).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("c.toml");
    std::fs::write(
        &file,
        config(
            "client_auth = \"a-secret-of-this-test\"\nlimits = { header_timeout = \"5m\" }",
            &vendor,
        ),
    )
    .unwrap();
    let process = Process::run(&file).await;
    let right = "Proxy-Authorization: Bearer a-secret-of-this-test\r\n";
    let whole = format!("GET /acme/x HTTP/1.1\r\nHost: localhost\r\n{right}\r\n");
    assert_eq!(
        RawClient::ask(process.proxy, whole.as_bytes()).await.status,
        200
    );
    let before = process.kib("VmRSS");
    // 128 of them take all there is.
    let mut crowd = Vec::new();
    for _ in 0..400 {
        let mut one = RawClient::connect(process.proxy).await;
        one.write(&beginning(PART)).await;
        crowd.push(one);
    }
    let mut newest = crowd.pop().unwrap();
    let told = timeout(Duration::from_secs(20), newest.answer("GET"))
        .await
        .expect("told before its deadline")
        .unwrap();
    assert_eq!(
        (told.status, told.json()["code"].as_str()),
        (503, Some("overloaded")),
        "{}",
        told.text()
    );
    assert!(told.header("retry-after").is_some());
    let grown = process.kib("VmRSS").saturating_sub(before);
    // The 8 MiB, and what 400 connections take besides; all the heads together have 16 MiB in
    // buffers of 64 KiB each.
    assert!(grown < 18 << 10, "{grown} KiB more");
    // A head that comes as a whole waits for nobody, and the oldest of the crowd are still there.
    assert_eq!(
        RawClient::ask(process.proxy, whole.as_bytes()).await.status,
        200
    );
    for one in crowd.iter_mut().take(50) {
        one.write(format!("{right}\r\n").as_bytes()).await;
        assert_eq!(one.answer("GET").await.expect("an answer").status, 200);
    }
    // Their room is there for another.
    let mut another = RawClient::connect(process.proxy).await;
    another.write(&beginning(PART)).await;
    another.write(format!("{right}\r\n").as_bytes()).await;
    assert_eq!(another.answer("GET").await.expect("an answer").status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_says_nothing_ends_with_header_timeout_and_one_that_asked_once_with_idle()
{
    let vendor = Vendor::start(&Tokens::default(), vec![]).await;
    let sidecar = Sidecar::with_files(
        &config(
            "limits = { header_timeout = \"300ms\", idle = \"5m\" }",
            &vendor,
        ),
        &[],
    )
    .await;
    let mut asked = RawClient::connect(sidecar.addr()).await;
    asked
        .write(b"GET /acme/x HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await;
    assert_eq!(asked.answer("GET").await.unwrap().status, 200);
    let mut silent = TcpStream::connect(sidecar.addr()).await.unwrap();
    let mut said = Vec::new();
    timeout(Duration::from_secs(20), silent.read_to_end(&mut said))
        .await
        .expect("closed before idle")
        .unwrap();
    assert!(
        said.is_empty(),
        "nothing was asked: {}",
        said.escape_ascii()
    );
    asked
        .write(b"GET /acme/x HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await;
    assert_eq!(
        asked
            .answer("GET")
            .await
            .expect("the connection is still there")
            .status,
        200
    );
}
