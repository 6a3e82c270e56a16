//! A listening socket on loopback: TLS where asked for, HTTP/1.1 by hand, HTTP/2 through hyper,
//! down and up again at will.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::SinkExt;
use futures_util::stream::{self, StreamExt};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::tally::Tally;
use super::wire::{Answer, Conn, Io, Reply, Request, latin1, parts};

/// What stands behind a socket.
pub trait Service: Send + Sync + 'static {
    /// An answer that does not wait for the body; the connection is closed after it.
    fn early(&self, _head: &Request) -> Option<Answer> {
        None
    }
    fn answer(&self, request: Request) -> Answer;
    /// A connection was accepted.
    fn connected(&self) {}
}

/// A server with one address, which stays the same over `down` and `up`.
pub struct Server {
    pub addr: SocketAddr,
    tls: Option<Arc<rustls::ServerConfig>>,
    service: Arc<dyn Service>,
    stop: Mutex<watch::Sender<bool>>,
}

impl Server {
    pub async fn start(service: Arc<dyn Service>, tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let server = Self {
            addr,
            tls,
            service,
            stop: Mutex::new(watch::Sender::new(false)),
        };
        server.run(listener);
        server
    }

    /// `http://127.0.0.1:PORT`, or with TLS `https://localhost:PORT`.
    pub fn url(&self) -> String {
        match self.tls {
            Some(_) => format!("https://localhost:{}", self.addr.port()),
            None => format!("http://{}", self.addr),
        }
    }

    /// Closes the listener and every connection: the next connect is refused.
    pub async fn down(&self) {
        let stop = self.stop.lock().unwrap().clone();
        stop.send_replace(true);
        // Every task holds a receiver: once they are gone, so are the sockets.
        stop.closed().await;
    }

    /// Listens again at the same address.
    pub async fn up(&self) {
        let listener = TcpListener::bind(self.addr).await.unwrap();
        *self.stop.lock().unwrap() = watch::Sender::new(false);
        self.run(listener);
    }

    fn run(&self, listener: TcpListener) {
        let (service, tls) = (self.service.clone(), self.tls.clone());
        let stop = self.stop.lock().unwrap().subscribe();
        tokio::spawn(async move {
            let mut stopped = stop.clone();
            // Dropped before the receivers, so that `down` ends after it.
            let listener = listener;
            loop {
                tokio::select! {
                    // An error means that the server was dropped.
                    _ = stopped.wait_for(|s| *s) => return,
                    Ok((tcp, _)) = listener.accept() => {
                        service.connected();
                        let (service, tls, mut stop) = (service.clone(), tls.clone(), stop.clone());
                        tokio::spawn(async move {
                            tokio::select! {
                                _ = stop.wait_for(|s| *s) => {}
                                _ = connection(tcp, tls, service) => {}
                            }
                        });
                    }
                }
            }
        });
    }
}

async fn connection(
    tcp: TcpStream,
    tls: Option<Arc<rustls::ServerConfig>>,
    service: Arc<dyn Service>,
) -> std::io::Result<()> {
    tcp.set_nodelay(true)?;
    let Some(config) = tls else {
        let mut first = [0; 3];
        while matches!(tcp.peek(&mut first).await?, 1..=2) && b"PRI".starts_with(&first[..1]) {
            tokio::task::yield_now().await;
        }
        return if &first == b"PRI" {
            http2(tcp, service).await
        } else {
            http1(tcp, service, reset).await
        };
    };
    let tls = TlsAcceptor::from(config).accept(tcp).await?;
    if tls.get_ref().1.alpn_protocol() == Some(b"h2") {
        http2(tls, service).await
    } else {
        http1(tls, service, |tls| reset(tls.into_inner().0)).await
    }
}

/// RST instead of FIN.
fn reset(tcp: TcpStream) {
    let _ = tcp.set_zero_linger();
}

async fn http1<S: Io + 'static>(
    io: S,
    service: Arc<dyn Service>,
    reset: impl FnOnce(S),
) -> std::io::Result<()> {
    let mut conn = Conn::new(io);
    while let Some(mut request) = conn.head().await? {
        let early = service.early(&request);
        let last = early.is_some();
        let answer = match early {
            Some(answer) => answer,
            None => {
                conn.body(&mut request).await?;
                service.answer(request.clone())
            }
        };
        match answer {
            Answer::Reply(reply) => {
                let reply = Reply {
                    close: reply.close || last,
                    ..reply
                };
                if !conn.reply(&request, reply).await? {
                    break;
                }
            }
            Answer::Raw(steps) => {
                if conn.play(steps).await? {
                    reset(conn.into_parts().0);
                    return Ok(());
                }
                break;
            }
            Answer::WebSocket => return echo(conn, &request).await,
        }
    }
    conn.into_parts().0.shutdown().await
}

async fn echo<S: Io + 'static>(mut conn: Conn<S>, request: &Request) -> std::io::Result<()> {
    let accept = derive_accept_key(
        request
            .header("sec-websocket-key")
            .unwrap_or_default()
            .as_bytes(),
    );
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    conn.io.write_all(head.as_bytes()).await?;
    let (io, ahead) = conn.into_parts();
    let mut socket = WebSocketStream::from_partially_read(io, ahead, Role::Server, None).await;
    while let Some(Ok(message)) = socket.next().await {
        let closing = message.is_close();
        if !closing
            && (message.is_text() || message.is_binary())
            && socket.send(message).await.is_err()
        {
            break;
        }
    }
    Ok(())
}

type Frames = http_body_util::combinators::BoxBody<Bytes, Infallible>;

async fn http2<S: Io + 'static>(io: S, service: Arc<dyn Service>) -> std::io::Result<()> {
    let handler = service_fn(move |request| {
        let service = service.clone();
        async move { exchange(request, &*service).await }
    });
    hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(io), handler)
        .await
        .map_err(std::io::Error::other)
}

async fn exchange(
    request: http::Request<Incoming>,
    service: &dyn Service,
) -> std::io::Result<http::Response<Frames>> {
    let (head, mut body) = request.into_parts();
    let mut request = Request {
        at: std::time::Instant::now(),
        version: 2,
        method: head.method.to_string(),
        target: head
            .uri
            .path_and_query()
            .map(ToString::to_string)
            .unwrap_or_default(),
        headers: head
            .uri
            .authority()
            .map(|a| (":authority".to_owned(), a.to_string()))
            .into_iter()
            .chain(fields(&head.headers))
            .collect(),
        raw_head: Vec::new(),
        body: Vec::new(),
        length: 0,
        sha256: String::new(),
        trailers: Vec::new(),
    };
    let early = service.early(&request);
    let mut tally = Tally::new();
    while early.is_none() {
        let Some(frame) = body.frame().await else {
            break;
        };
        let frame = frame.map_err(std::io::Error::other)?;
        match frame.into_data() {
            Ok(data) => tally.add(&data),
            Err(frame) => {
                request.trailers = frame
                    .trailers_ref()
                    .map(|t| fields(t).collect())
                    .unwrap_or_default();
            }
        }
    }
    tally.finish(&mut request);
    match early.unwrap_or_else(|| service.answer(request)) {
        Answer::Reply(reply) => Ok(response(reply).await),
        // An error makes hyper reset the stream, which is all that HTTP/2 has for it.
        Answer::Raw(_) | Answer::WebSocket => Err(std::io::Error::other("reset")),
    }
}

async fn response(reply: Reply) -> http::Response<Frames> {
    if let Some(gate) = &reply.gate {
        gate.passed().await;
    }
    let mut response = http::Response::builder().status(reply.status);
    for (name, value) in &reply.headers {
        response = response.header(name.to_lowercase(), value);
    }
    let data = stream::iter(parts(reply.body)).then(|(gate, part)| async move {
        if let Some(gate) = gate {
            gate.passed().await;
        }
        Ok::<_, Infallible>(Frame::data(Bytes::from(part)))
    });
    let trailers: http::HeaderMap = reply
        .trailers
        .iter()
        .map(|(n, v)| {
            (
                n.parse::<http::HeaderName>().unwrap(),
                v.parse::<http::HeaderValue>().unwrap(),
            )
        })
        .collect();
    let end = stream::iter((!trailers.is_empty()).then(|| Ok(Frame::trailers(trailers))));
    response
        .body(BodyExt::boxed(StreamBody::new(sync(data.chain(end)))))
        .unwrap()
}

/// hyper's boxed bodies must be Sync; a mutex that is never contended makes any stream so.
fn sync<T>(
    inner: impl stream::Stream<Item = T> + Send + 'static,
) -> impl stream::Stream<Item = T> + Send + Sync {
    let cell = Mutex::new(Box::pin(inner));
    stream::poll_fn(move |cx| cell.lock().unwrap().as_mut().poll_next(cx))
}

fn fields(map: &http::HeaderMap) -> impl Iterator<Item = (String, String)> + '_ {
    map.iter()
        .map(|(n, v)| (n.to_string(), latin1(v.as_bytes())))
}
