//! An HTTP/2 client with prior knowledge, which tells how a stream ended.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, Method, Request, StatusCode};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::issuer::PATIENCE;

/// A whole answer: its stream ended in order.
#[derive(Debug)]
pub struct Whole {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    pub trailers: Option<HeaderMap>,
}

impl Whole {
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|v| v.to_str().ok())
            .unwrap_or_default()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&self.body)))
    }
}

/// One connection; streams may run side by side.
#[derive(Clone)]
pub struct Http2 {
    send: SendRequest<Bytes>,
    authority: String,
}

impl Http2 {
    pub async fn connect(addr: SocketAddr) -> Self {
        let tcp = TcpStream::connect(addr).await.unwrap();
        let (send, connection) = h2::client::handshake(tcp).await.unwrap();
        tokio::spawn(connection);
        Self {
            send,
            authority: addr.to_string(),
        }
    }

    /// Another `:authority`.
    #[must_use]
    pub fn to(mut self, authority: &str) -> Self {
        self.authority = authority.into();
        self
    }

    pub async fn get(&self, path: &str) -> Result<Whole, h2::Error> {
        self.call(Method::GET, path, &[], None, None).await
    }

    /// A request whose body is these DATA frames, one by one; the last one, which may be empty,
    /// ends the stream.
    pub async fn post_pieces(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        pieces: &[&[u8]],
    ) -> Result<Whole, h2::Error> {
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(format!("http://{}{path}", self.authority));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let whole = async {
            let mut send = self.send.clone().ready().await?;
            let (answer, mut stream) = send.send_request(request.body(()).unwrap(), false)?;
            for (n, piece) in pieces.iter().enumerate() {
                // Long enough for the other side to see this frame alone.
                tokio::task::yield_now().await;
                stream.send_data(Bytes::copy_from_slice(piece), n + 1 == pieces.len())?;
            }
            whole(answer).await
        };
        timeout(PATIENCE + Duration::from_secs(10), whole)
            .await
            .expect("an answer, or an end, in time")
    }

    /// Sends one request and reads its answer to the end; an error means that the stream or the
    /// connection was broken off.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&[u8]>,
        trailers: Option<HeaderMap>,
    ) -> Result<Whole, h2::Error> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.authority));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let whole = async {
            let mut send = self.send.clone().ready().await?;
            let (answer, mut stream) =
                send.send_request(request.body(()).unwrap(), body.is_none())?;
            if let Some(body) = body {
                stream.send_data(Bytes::copy_from_slice(body), trailers.is_none())?;
                if let Some(trailers) = trailers {
                    stream.send_trailers(trailers)?;
                }
            }
            whole(answer).await
        };
        timeout(PATIENCE + Duration::from_secs(10), whole)
            .await
            .expect("an answer, or an end, in time")
    }
}

async fn whole(answer: h2::client::ResponseFuture) -> Result<Whole, h2::Error> {
    let (head, mut body) = answer.await?.into_parts();
    let mut all = Vec::new();
    while let Some(part) = body.data().await {
        let part = part?;
        let _ = body.flow_control().release_capacity(part.len());
        all.extend_from_slice(&part);
    }
    let trailers = body.trailers().await?;
    Ok(Whole {
        status: head.status,
        headers: head.headers,
        body: all,
        trailers,
    })
}
