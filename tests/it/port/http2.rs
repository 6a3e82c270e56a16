//! HTTP/2 on either side: prior knowledge, ALPN, gRPC with its trailers, streams that break.

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use cupbearer::tls::Tls;
use http::{HeaderMap, Request, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, rustls};

use super::support::*;

/// What a scripted HTTP/2 vendor does with a request.
#[derive(Clone, Copy)]
enum Does {
    Echoes,
    BreaksOff,
}

struct Secure {
    address: SocketAddr,
    ca: tempfile::NamedTempFile,
}

/// A vendor at `https://localhost` that speaks HTTP/2 alone.
async fn vendor(does: Does) -> Secure {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let ca = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(ca.path(), made.cert.pem()).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(tls) = acceptor.accept(socket).await else {
                    return;
                };
                let mut connection = h2::server::handshake(tls).await.unwrap();
                while let Some(Ok((request, respond))) = connection.accept().await {
                    tokio::spawn(serve(request, respond, does));
                }
            });
        }
    });
    Secure { address, ca }
}

async fn serve(
    request: Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    does: Does,
) {
    let (head, mut body) = request.into_parts();
    let mut all = Vec::new();
    while let Some(Ok(part)) = body.data().await {
        let _ = body.flow_control().release_capacity(part.len());
        all.extend_from_slice(&part);
    }
    let header = |name: &str| {
        head.headers
            .get(name)
            .and_then(|v| v.to_str().ok())
            .unwrap_or("-")
            .to_owned()
    };
    let response = Response::builder()
        .status(200)
        .header("content-type", "application/grpc")
        .header("x-path", head.uri.path())
        .header(
            "x-authority",
            head.uri.authority().map_or("-", |a| a.as_str()),
        )
        .header("x-te", header("te"))
        .header("x-proxy-authorization", header("proxy-authorization"))
        .body(())
        .unwrap();
    let mut stream = respond.send_response(response, false).unwrap();
    stream.send_data(Bytes::from(all), false).unwrap();
    match does {
        Does::Echoes => {
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().unwrap());
            stream.send_trailers(trailers).unwrap();
        }
        Does::BreaksOff => stream.send_reset(h2::Reason::INTERNAL_ERROR),
    }
}

fn port_to(secure: &Secure) -> Port {
    let (mut one, rule) = upstream("acme", secure.address);
    one.target.tls = true;
    one.target.host = "localhost".into();
    one.tls = Tls {
        ca_file: Some(secure.ca.path().into()),
        ca_only: true,
        ..Tls::default()
    };
    port(vec![(one, rule)], |_| ())
}

async fn call(
    port: &Port,
    path: &str,
    headers: &[(&str, &str)],
) -> Result<(Response<()>, Vec<u8>, Option<HeaderMap>), h2::Error> {
    let socket = TcpStream::connect(port.address).await.unwrap();
    let (client, connection) = h2::client::handshake(socket).await?;
    tokio::spawn(connection);
    let mut request = Request::builder()
        .method("POST")
        .uri(format!("http://{}{path}", port.address));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut client = client.ready().await?;
    let (response, mut stream) = client.send_request(request.body(()).unwrap(), false)?;
    stream.send_data(Bytes::from_static(b"hello"), true)?;
    let (head, mut body) = response.await?.into_parts();
    let mut all = Vec::new();
    while let Some(part) = body.data().await {
        all.extend_from_slice(&part?);
    }
    let trailers = body.trailers().await?;
    Ok((Response::from_parts(head, ()), all, trailers))
}

const GRPC: [(&str, &str); 3] = [
    ("content-type", "application/grpc+proto"),
    ("te", "trailers"),
    ("proxy-authorization", "mine"),
];

#[tokio::test(flavor = "multi_thread")]
async fn grpc_passes_with_its_trailers_over_http_2_on_both_sides() {
    let secure = vendor(Does::Echoes).await;
    let port = port_to(&secure);
    let (head, body, trailers) = call(&port, "/acme/pkg.Service/Call", &GRPC).await.unwrap();
    assert_eq!(head.status(), 200, "{head:?}");
    let said = |name: &str| head.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(
        (said("x-path").as_str(), said("x-te").as_str()),
        ("/v2/pkg.Service/Call", "trailers")
    );
    assert_eq!(
        said("x-authority"),
        format!("localhost:{}", secure.address.port())
    );
    assert_eq!(said("x-proxy-authorization"), "-");
    assert_eq!(body, b"hello");
    assert_eq!(trailers.unwrap()["grpc-status"], "0");
    port.counts("cupbearer_upstream_connects_total{outcome=\"ok\",upstream=\"acme\"} 1")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http_1_clients_reach_an_http_2_vendor() {
    let secure = vendor(Does::Echoes).await;
    let port = port_to(&secure);
    let answer = port.get("/acme/x", "").await;
    assert_eq!(status(&answer), 200, "{answer}");
    assert!(answer.to_ascii_lowercase().contains("x-path: /v2/x"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vendor_without_a_trusted_certificate_gets_nothing() {
    let (secure, other) = (vendor(Does::Echoes).await, vendor(Does::Echoes).await);
    let mixed = Secure {
        address: secure.address,
        ca: other.ca,
    };
    let port = port_to(&mixed);
    let answer = port.get("/acme/x", "").await;
    assert_eq!(
        (status(&answer), code(&answer).as_str()),
        (502, "upstream_tls"),
        "{answer}"
    );
    assert!(answer.contains("tls_certificate_error"), "{answer}");
    port.counts("cupbearer_upstream_connects_total{outcome=\"tls\",upstream=\"acme\"} 1")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_breaks_at_the_vendor_breaks_at_the_client() {
    let secure = vendor(Does::BreaksOff).await;
    let port = port_to(&secure);
    // The reset may overtake the head: then the refusal is ours, and whole.
    if let Ok((head, _, _)) = call(&port, "/acme/x", &GRPC).await {
        assert_eq!(head.headers()["grpc-status"], "13");
    }
    let half =
        Vendor::start(|_, _| b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhiCLOSE".to_vec())
            .await;
    let port1 = super::support::port(vec![upstream("acme", half.address)], |_| ());
    assert!(call(&port1, "/acme/x", &[]).await.is_err());
    let chunked = Vendor::start(|_, _| {
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\nCLOSE".to_vec()
    })
    .await;
    let port2 = super::support::port(vec![upstream("acme", chunked.address)], |_| ());
    assert!(call(&port2, "/acme/x", &[]).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_speak_the_callers_language() {
    let secure = vendor(Does::Echoes).await;
    let port = port_to(&secure);
    let (head, body, _) = call(&port, "/none", &GRPC).await.unwrap();
    assert_eq!(
        (
            head.status().as_u16(),
            head.headers()["grpc-status"].to_str().unwrap()
        ),
        (200, "12")
    );
    assert!(body.is_empty());
    let (head, body, _) = call(&port, "/none", &[]).await.unwrap();
    assert_eq!(head.status(), 404);
    assert!(String::from_utf8(body).unwrap().contains("no_route"));
    let (head, _, _) = call(&port, "/acme/x", &[("x-long", &"a".repeat(70_000))])
        .await
        .unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(head.status(), 431);
}
