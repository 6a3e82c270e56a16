//! Sockets, caps, deadlines, drain.

use crate::support::wait::until;
use std::path::PathBuf;
use std::time::Duration;

use cupbearer::listen::Address;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_keeps_the_connection_and_head_gets_no_body() {
    let vendor = Vendor::start(ok).await;
    let port = port(vec![upstream("acme", vendor.address)], |_| ());
    let mut socket = TcpStream::connect(port.address).await.unwrap();
    let h = port.address;
    socket
        .write_all(format!("GET /none HTTP/1.1\r\nHost: {h}\r\n\r\n").as_bytes())
        .await
        .unwrap();
    assert_eq!(status(&read_message(&mut socket).await.unwrap()), 404);
    socket
        .write_all(format!("GET /acme/x HTTP/1.1\r\nHost: {h}\r\n\r\n").as_bytes())
        .await
        .unwrap();
    assert_eq!(status(&read_message(&mut socket).await.unwrap()), 200);
    socket
        .write_all(
            format!("HEAD /none HTTP/1.1\r\nHost: {h}\r\nConnection: close\r\n\r\n").as_bytes(),
        )
        .await
        .unwrap();
    let mut rest = String::new();
    timeout(SECOND * 2, socket.read_to_string(&mut rest))
        .await
        .unwrap()
        .unwrap();
    assert!(
        rest.starts_with("HTTP/1.1 404") && rest.ends_with("\r\n\r\n"),
        "{rest}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket_serves_and_is_private() {
    let folder = tempfile::tempdir().unwrap();
    let path: PathBuf = folder.path().join("cup.sock");
    let vendor = Vendor::start(ok).await;
    let port = port_on(
        Address::Unix(path.clone()),
        snapshot(vec![upstream("acme", vendor.address)], |_| ()),
    );
    let mut socket = tokio::net::UnixStream::connect(&path).await.unwrap();
    socket
        .write_all(b"GET /acme/x HTTP/1.1\r\nHost: anything\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut all = String::new();
    timeout(SECOND * 2, socket.read_to_string(&mut all))
        .await
        .unwrap()
        .unwrap();
    assert!(all.starts_with("HTTP/1.1 200"), "{all}");
    assert!(port.drain(SECOND).await);
    assert!(!path.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn above_the_cap_a_newcomer_gets_the_seat_of_a_silent_connection() {
    let vendor = Vendor::start(ok).await;
    let port = port(vec![upstream("acme", vendor.address)], |c| {
        c.proxy.limits.connections = 1;
    });
    let mut first = TcpStream::connect(port.address).await.unwrap();
    first
        .write_all(format!("GET /acme/x HTTP/1.1\r\nHost: {}\r\n\r\n", port.address).as_bytes())
        .await
        .unwrap();
    assert_eq!(status(&read_message(&mut first).await.unwrap()), 200);
    // Its request is done with a moment after its answer has been read.
    let mut second = port.get("/acme/x", "").await;
    while status(&second) == 503 {
        assert_eq!(code(&second), "overloaded");
        second = port.get("/acme/x", "").await;
    }
    assert_eq!(status(&second), 200, "{second}");
    assert_eq!(
        timeout(SECOND * 5, read_message(&mut first)).await.unwrap(),
        None,
        "the silent one is closed"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn above_the_cap_a_newcomer_is_refused_where_a_request_runs_on_each_connection() {
    let (arrived, mut waits) = tokio::sync::mpsc::channel(1);
    let stalled = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = stalled.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut socket, _) = stalled.accept().await.unwrap();
        read_message(&mut socket).await.unwrap();
        arrived.send(socket).await.unwrap();
    });
    let other = port(vec![upstream("acme", address)], |c| {
        c.proxy.limits.connections = 1;
    });
    let mut busy = TcpStream::connect(other.address).await.unwrap();
    busy.write_all(format!("GET /acme/x HTTP/1.1\r\nHost: {}\r\n\r\n", other.address).as_bytes())
        .await
        .unwrap();
    let mut vendor = waits.recv().await.unwrap();
    let second = other.get("/acme/x", "").await;
    assert_eq!(
        (status(&second), code(&second).as_str()),
        (503, "overloaded"),
        "{second}"
    );
    assert!(second.contains("retry-after: "));
    vendor
        .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(status(&read_message(&mut busy).await.unwrap()), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_head_is_cut_off_also_on_a_kept_connection() {
    let vendor = Vendor::start(ok).await;
    let port = port(vec![upstream("acme", vendor.address)], |c| {
        c.proxy.limits.header_timeout = Duration::from_millis(200);
    });
    let mut socket = TcpStream::connect(port.address).await.unwrap();
    socket
        .write_all(format!("GET /acme/x HTTP/1.1\r\nHost: {}\r\n\r\n", port.address).as_bytes())
        .await
        .unwrap();
    assert_eq!(status(&read_message(&mut socket).await.unwrap()), 200);
    socket.write_all(b"GET /acme").await.unwrap();
    let answer = timeout(SECOND * 2, read_message(&mut socket))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(status(&answer), 408, "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_lets_open_requests_finish_and_closes_idle_connections_at_once() {
    let (go, gate) = tokio::sync::watch::channel(false);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (arrived, mut waits) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        read_message(&mut socket).await.unwrap();
        arrived.send(()).await.unwrap();
        let mut gate = gate;
        gate.wait_for(|g| *g).await.unwrap();
        socket
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
            .await
            .unwrap();
        read_message(&mut socket).await;
    });
    let port = port(vec![upstream("acme", address)], |_| ());
    let mut idle = TcpStream::connect(port.address).await.unwrap();
    let mut busy = TcpStream::connect(port.address).await.unwrap();
    busy.write_all(format!("GET /acme/x HTTP/1.1\r\nHost: {}\r\n\r\n", port.address).as_bytes())
        .await
        .unwrap();
    waits.recv().await.unwrap();
    let (address, snapshot) = (port.address, port.snapshot.clone());
    let drain = tokio::spawn(port.drain(SECOND * 5));
    let mut nothing = Vec::new();
    timeout(SECOND, idle.read_to_end(&mut nothing))
        .await
        .expect("the idle connection is closed at once")
        .unwrap();
    until("the listener is closed", async || {
        TcpStream::connect(address).await.is_err()
    })
    .await;
    go.send_replace(true);
    let answer = read_message(&mut busy).await.unwrap();
    assert_eq!(status(&answer), 200);
    assert!(
        answer.to_ascii_lowercase().contains("connection: close"),
        "{answer}"
    );
    assert!(
        timeout(SECOND, drain)
            .await
            .expect("done the moment all is done")
            .unwrap()
    );
    drop(snapshot);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_the_vendor_has_closed_is_not_used_again() {
    let vendor =
        Vendor::start(|_, _| b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhiCLOSE".to_vec()).await;
    let port = port(vec![upstream("acme", vendor.address)], |_| ());
    for n in 1..=3 {
        let answer = port
            .raw(format!(
                "POST /acme/x HTTP/1.1\r\nHost: {}\r\nContent-Length: 2\r\n\r\nhi",
                port.address
            ))
            .await;
        assert_eq!(status(&answer), 200, "{answer}");
        assert_eq!(vendor.seen().len(), n);
        // The vendor's end of the connection is gone once its task is.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
