//! What passes, what is refused, and what an answer becomes on its way.

use cupbearer::secret::{Secret, Source};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_forwarded_byte_for_byte_to_its_upstream() {
    let vendor = Vendor::start(ok).await;
    let port = port(vec![upstream("acme", vendor.address)], |_| ());
    let answer = port
        .raw(format!(
            "POST /acme/a%2Fb//c;d?x=%61&&=~ HTTP/1.1\r\nHost: {}\r\nX-One: 1\r\nX-One: 2\r\nAuthorization: Own me\r\nContent-Length: 5\r\n\r\nhello",
            port.address
        ))
        .await;
    assert_eq!(status(&answer), 200, "{answer}");
    assert!(answer.ends_with("hi"));
    let seen = &vendor.seen()[0];
    assert!(
        seen.starts_with("POST /v2/a%2Fb//c;d?x=%61&&=~ HTTP/1.1\r\n"),
        "{seen}"
    );
    assert!(
        seen.contains(&format!("Host: {}\r\n", vendor.address))
            || seen.contains(&format!("host: {}\r\n", vendor.address)),
        "{seen}"
    );
    assert!(
        seen.contains("X-One: 1\r\nX-One: 2\r\n") && seen.ends_with("\r\n\r\nhello"),
        "{seen}"
    );
    assert!(
        seen.contains("Own me"),
        "with no credential the client's own passes"
    );
    port.counts("cupbearer_requests_total{code=\"200\",upstream=\"acme\"} 1")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn host_and_absolute_form_find_the_upstream_too() {
    let vendor = Vendor::start(ok).await;
    let port = port(vec![upstream("acme", vendor.address)], |_| ());
    let by_host = port
        .raw("GET /x HTTP/1.1\r\nHost: acme.localhost\r\n\r\n")
        .await;
    assert_eq!(status(&by_host), 200, "{by_host}");
    let a = vendor.address;
    let forward = port
        .raw(format!("GET http://{a}/v2/y HTTP/1.1\r\nHost: {a}\r\n\r\n"))
        .await;
    assert_eq!(status(&forward), 200, "{forward}");
    let seen = vendor.seen();
    assert!(
        seen[0].starts_with("GET /v2/x ") && seen[1].starts_with("GET /v2/y "),
        "{seen:?}"
    );
    let elsewhere = port
        .raw("GET http://169.254.169.254/x HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n")
        .await;
    assert_eq!(
        (status(&elsewhere), code(&elsewhere).as_str()),
        (403, "forbidden_destination")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_we_refuse_never_reaches_a_vendor() {
    let vendor = Vendor::start(ok).await;
    let port = port(vec![upstream("acme", vendor.address)], |c| {
        c.proxy.via = Some("me".into());
    });
    let h = port.address;
    for (request, expected) in [
        (
            format!("GET /none HTTP/1.1\r\nHost: {h}\r\n\r\n"),
            (404, "no_route"),
        ),
        (
            format!("GET /acme/%2e%2e/x HTTP/1.1\r\nHost: {h}\r\n\r\n"),
            (400, "bad_request"),
        ),
        (
            format!("TRACE /acme/x HTTP/1.1\r\nHost: {h}\r\n\r\n"),
            (405, "method_refused"),
        ),
        (
            "GET /acme/x HTTP/1.1\r\n\r\n".to_owned(),
            (400, "bad_request"),
        ),
        (
            format!("GET acme HTTP/1.1\r\nHost: {h}\r\n\r\n"),
            (400, "bad_request"),
        ),
        (
            format!("GET /acme/x#y HTTP/1.1\r\nHost: {h}\r\n\r\n"),
            (400, "bad_request"),
        ),
        (
            format!("GET /acme/x HTTP/1.1\nHost: {h}\n\n"),
            (400, "bad_request"),
        ),
        (
            format!("POST /acme/x HTTP/1.1\r\nHost: {h}\r\nContent-Length: 5,5\r\n\r\nhello"),
            (400, "bad_request"),
        ),
        (
            format!(
                "POST /acme/x HTTP/1.1\r\nHost: {h}\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
            ),
            (400, "bad_request"),
        ),
        (
            format!("GET /acme/x HTTP/1.1\r\nHost: {h}\r\nVia: 1.1 me\r\n\r\n"),
            (508, "loop_detected"),
        ),
        (
            format!("GET /acme/x HTTP/1.1\r\nHost: {h}\r\nOrigin: http://evil.test\r\n\r\n"),
            (403, "forbidden_origin"),
        ),
        (
            format!("GET /acme/x HTTP/1.1\r\nHost: {h}\r\nSec-Fetch-Site: cross-site\r\n\r\n"),
            (403, "forbidden_origin"),
        ),
        (
            "GET /acme/x HTTP/1.1\r\nHost: evil.test\r\n\r\n".to_owned(),
            (403, "forbidden_origin"),
        ),
        (
            format!("GET /acme/x HTTP/1.1\r\nHost: {h}\r\nConnection: host\r\n\r\n"),
            (400, "bad_request"),
        ),
        (
            format!("GET /{} HTTP/1.1\r\nHost: {h}\r\n\r\n", "a".repeat(20_000)),
            (414, "uri_too_long"),
        ),
        (
            format!(
                "GET / HTTP/1.1\r\nHost: {h}\r\nX: {}\r\n\r\n",
                "a".repeat(70_000)
            ),
            (431, "headers_too_large"),
        ),
        (
            format!(
                "GET / HTTP/1.1\r\nHost: {h}\r\n{}\r\n",
                "X: a\r\n".repeat(300)
            ),
            (431, "headers_too_large"),
        ),
        (
            format!("CONNECT {} HTTP/1.1\r\nHost: x\r\n\r\n", vendor.address),
            (403, "intercept_off"),
        ),
        (
            "CONNECT evil.test:443 HTTP/1.1\r\nHost: evil.test:443\r\n\r\n".to_owned(),
            (403, "forbidden_destination"),
        ),
        (
            format!("POST /.cupbearer/token/x HTTP/1.1\r\nHost: {h}\r\nContent-Length: 0\r\n\r\n"),
            (404, "no_route"),
        ),
    ] {
        let answer = port.raw(&request).await;
        let shown = &request[..request.len().min(80)];
        assert_eq!(
            (status(&answer), code(&answer).as_str()),
            expected,
            "{shown:?} -> {answer}"
        );
        assert!(
            answer
                .to_ascii_lowercase()
                .contains("proxy-status: cupbearer; error="),
            "{answer}"
        );
    }
    let options = port
        .raw(format!("OPTIONS * HTTP/1.1\r\nHost: {h}\r\n\r\n"))
        .await;
    assert_eq!(status(&options), 204, "{options}");
    assert_eq!(vendor.seen(), Vec::<String>::new());
    port.counts("cupbearer_refusals_total{code=\"method_refused\",upstream=\"\"} 1")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_prove_themselves_where_client_auth_is_set() {
    let vendor = Vendor::start(ok).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret");
    std::fs::write(&file, "hush\n").unwrap();
    for source in [
        Source::Value(Secret::new("hush".into())),
        Source::File(file),
    ] {
        let port = port(vec![upstream("acme", vendor.address)], |c| {
            c.proxy.client_auth = vec![source];
        });
        let without = port.get("/acme/x", "").await;
        assert_eq!(
            (status(&without), code(&without).as_str()),
            (407, "proxy_auth_required")
        );
        assert!(
            without
                .to_ascii_lowercase()
                .contains("proxy-authenticate: bearer"),
            "{without}"
        );
        assert_eq!(
            status(
                &port
                    .get("/acme/x", "Proxy-Authorization: Bearer hush\r\n")
                    .await
            ),
            200
        );
        assert_eq!(
            status(
                &port
                    .raw("CONNECT evil.test:443 HTTP/1.1\r\nHost: evil.test\r\n\r\n")
                    .await
            ),
            407
        );
        assert!(
            vendor
                .seen()
                .iter()
                .all(|s| !s.to_ascii_lowercase().contains("proxy-authorization"))
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn r20_an_answer_loses_its_hop_by_hop_fields_and_its_location_leads_back_to_us() {
    let answer = b"HTTP/1.1 302 Found\r\nConnection: X-B\r\nX-B: 1\r\nKeep-Alive: 5\r\nTrailer: T\r\nX-C: 1\r\nLocation: /v2/y?z\r\nContent-Length: 0\r\n\r\n";
    let vendor = Vendor::start(|_, _| answer.to_vec()).await;
    let port = port(vec![upstream("acme", vendor.address)], |_| ());
    let answer = port.get("/acme/x", "").await.to_ascii_lowercase();
    assert!(
        answer.contains("location: /acme/y?z\r\n") && answer.contains("x-c: 1"),
        "{answer}"
    );
    assert!(
        !answer.contains("x-b") && !answer.contains("keep-alive:") && !answer.contains("trailer"),
        "{answer}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_ends_early_is_not_passed_on_as_complete() {
    for broken in [
        &b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhiCLOSE"[..],
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\nCLOSE",
    ] {
        let vendor = Vendor::start(|_, _| broken.to_vec()).await;
        let port = port(vec![upstream("acme", vendor.address)], |_| ());
        let mut socket = TcpStream::connect(port.address).await.unwrap();
        socket
            .write_all(format!("GET /acme/x HTTP/1.1\r\nHost: {}\r\n\r\n", port.address).as_bytes())
            .await
            .unwrap();
        let mut all = Vec::new();
        timeout(SECOND * 2, socket.read_to_end(&mut all))
            .await
            .expect("closed")
            .ok();
        let all = String::from_utf8_lossy(&all).to_ascii_lowercase();
        assert!(!all.ends_with("0\r\n\r\n"), "{all}");
        assert_eq!(vendor.seen().len(), 1, "not sent again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_wrong_at_the_vendor_has_its_code_and_is_not_sent_again() {
    let gone = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let port1 = port(vec![upstream("acme", gone)], |_| ());
    let answer = port1.get("/acme/x", "").await;
    assert_eq!(
        (status(&answer), code(&answer).as_str()),
        (502, "upstream_unreachable"),
        "{answer}"
    );
    assert!(answer.contains("connection_refused"));
    port1
        .counts("cupbearer_upstream_connects_total{outcome=\"refused\",upstream=\"acme\"} 1")
        .await;
    port1
        .counts("cupbearer_requests_in_flight{upstream=\"acme\"} 0")
        .await;

    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port2 = port(vec![upstream("acme", silent.local_addr().unwrap())], |_| ());
    let answer = port2.get("/acme/x", "").await;
    assert_eq!(
        (status(&answer), code(&answer).as_str()),
        (504, "upstream_timeout"),
        "{answer}"
    );

    for broken in [
        &b"nonsense\r\n\r\nCLOSE"[..],
        b"CLOSE",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nhiCLOSE",
    ] {
        let vendor = Vendor::start(|_, _| broken.to_vec()).await;
        let port3 = port(vec![upstream("acme", vendor.address)], |_| ());
        let answer = port3.get("/acme/x", "").await;
        assert_eq!(
            (status(&answer), code(&answer).as_str()),
            (502, "upstream_protocol"),
            "{answer}"
        );
        assert!(!answer.contains("nonsense"));
        assert_eq!(vendor.seen().len(), 1);
    }

    let (mut nameless, rule) = upstream("acme", gone);
    nameless.target.host = "no-such-host.invalid".into();
    let port4 = port(vec![(nameless, rule)], |_| ());
    let answer = port4.get("/acme/x", "").await;
    assert!(answer.contains("dns_"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn websockets_and_interim_answers_pass() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let head = read_message(&mut socket)
            .await
            .unwrap()
            .to_ascii_lowercase();
        assert!(head.contains("upgrade: websocket"), "{head}");
        socket.write_all(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n").await.unwrap();
        let mut buf = [0; 4];
        socket.read_exact(&mut buf).await.unwrap();
        socket.write_all(&buf).await.unwrap();
        let (mut socket, _) = listener.accept().await.unwrap();
        read_message(&mut socket).await.unwrap();
        socket.write_all(b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        read_message(&mut socket).await;
    });
    let port = port(vec![upstream("acme", address)], |_| ());
    let mut socket = TcpStream::connect(port.address).await.unwrap();
    let head = format!(
        "GET /acme/ws HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n",
        port.address
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    let answer = read_message(&mut socket).await.unwrap();
    assert_eq!(status(&answer), 101, "{answer}");
    socket.write_all(b"ping").await.unwrap();
    let mut buf = [0; 4];
    timeout(SECOND * 2, socket.read_exact(&mut buf))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&buf, b"ping");
    drop(socket);
    let hints = port.get("/acme/x", "").await;
    assert_eq!(status(&hints), 103, "{hints}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_address_is_tried_where_one_refuses() {
    // `localhost` has two addresses on most hosts; the vendor listens on IPv4 alone.
    let vendor = Vendor::start(ok).await;
    let (mut two, rule) = upstream("acme", vendor.address);
    two.target.host = "localhost".into();
    let port = port(vec![(two, rule)], |_| ());
    let answer = port.get("/acme/x", "").await;
    assert_eq!(status(&answer), 200, "{answer}");
    assert_eq!(vendor.seen().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_chunked_body_streams_both_ways() {
    let vendor = Vendor::start(|_, request| {
        let body = request.split_once("\r\n\r\n").unwrap().1;
        assert!(body.ends_with("0\r\n\r\n"));
        format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
            body.len()
        )
        .into_bytes()
    })
    .await;
    let port = port(vec![upstream("acme", vendor.address)], |_| ());
    let mut request = format!(
        "POST /acme/x HTTP/1.1\r\nHost: {}\r\nTransfer-Encoding: chunked\r\n\r\n",
        port.address
    );
    for _ in 0..50 {
        request.extend([
            format!("{:x}\r\n", 4000),
            "y".repeat(4000),
            "\r\n".to_owned(),
        ]);
    }
    request.push_str("0\r\n\r\n");
    let answer = port.raw(request).await;
    assert_eq!(status(&answer), 200);
    assert_eq!(answer.matches('y').count(), 200_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn expect_100_continue_is_the_vendors_to_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            socket.read_buf(&mut head).await.unwrap();
        }
        socket
            .write_all(b"HTTP/1.1 100 Continue\r\n\r\n")
            .await
            .unwrap();
        let mut body = [0; 5];
        socket.read_exact(&mut body).await.unwrap();
        socket
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
            .await
            .unwrap();
        socket.write_all(&body).await.unwrap();
        read_message(&mut socket).await;
    });
    let port = port(vec![upstream("acme", address)], |_| ());
    let mut socket = TcpStream::connect(port.address).await.unwrap();
    let head = format!(
        "POST /acme/x HTTP/1.1\r\nHost: {}\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
        port.address
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(
        status(
            &timeout(SECOND * 2, read_message(&mut socket))
                .await
                .unwrap()
                .unwrap()
        ),
        100
    );
    socket.write_all(b"hello").await.unwrap();
    let answer = timeout(SECOND * 2, read_message(&mut socket))
        .await
        .unwrap()
        .unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.ends_with("hello"),
        "{answer}"
    );
}
