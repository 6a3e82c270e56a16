//! A client that writes exactly the bytes it is given and reads what comes back.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::issuer::PATIENCE;
use super::wire::latin1;

pub struct RawClient {
    pub tcp: TcpStream,
    ahead: Vec<u8>,
}

/// An answer as it stands on the wire.
#[derive(Debug, Clone)]
pub struct RawAnswer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub head: String,
    /// With the chunk framing taken off.
    pub body: Vec<u8>,
    /// Trailer lines of a chunked body.
    pub trailers: Vec<String>,
    /// The body ended as its framing says.
    pub complete: bool,
}

impl RawAnswer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, v)| v.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("{e}: {}{}", self.head, self.text()))
    }
}

impl RawClient {
    pub async fn connect(addr: SocketAddr) -> Self {
        Self {
            tcp: timeout(PATIENCE, TcpStream::connect(addr))
                .await
                .expect("a connection in time")
                .unwrap(),
            ahead: Vec::new(),
        }
    }

    /// One connection, these bytes, everything until the other side closes.
    pub async fn exchange(addr: SocketAddr, bytes: &[u8]) -> Vec<u8> {
        let mut client = Self::connect(addr).await;
        client.write(bytes).await;
        client.read_to_close().await
    }

    /// One connection, one request, one answer.
    pub async fn ask(addr: SocketAddr, bytes: &[u8]) -> RawAnswer {
        let mut client = Self::connect(addr).await;
        client.write(bytes).await;
        client.answer("GET").await.expect("an answer")
    }

    /// A peer that has closed already is no failure: what it said can still be read.
    pub async fn write(&mut self, bytes: &[u8]) {
        let _ = self.tcp.write_all(bytes).await;
        let _ = self.tcp.flush().await;
    }

    pub async fn half_close(&mut self) {
        let _ = self.tcp.shutdown().await;
    }

    pub async fn read_to_close(&mut self) -> Vec<u8> {
        while self.more().await {}
        std::mem::take(&mut self.ahead)
    }

    /// The next answer (1xx ones included) to a request of this method; none where the connection ended before it.
    pub async fn answer(&mut self, method: &str) -> Option<RawAnswer> {
        let end = loop {
            if let Some(at) = self.ahead.windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
            if !self.more().await {
                return None;
            }
        };
        let head = latin1(&self.ahead.drain(..end).collect::<Vec<u8>>());
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|s| s.parse().ok())
            .unwrap_or_else(|| panic!("no status line: {head}"));
        let headers = head
            .split("\r\n")
            .skip(1)
            .filter_map(|l| l.split_once(": "))
            .map(|(n, v)| (n.to_owned(), v.to_owned()))
            .collect();
        let mut answer = RawAnswer {
            status,
            headers,
            head,
            body: Vec::new(),
            trailers: Vec::new(),
            complete: true,
        };
        if method == "HEAD" || status < 200 || status == 204 || status == 304 {
            return Some(answer);
        }
        if answer
            .header("transfer-encoding")
            .is_some_and(|t| t.eq_ignore_ascii_case("chunked"))
        {
            answer.complete = self.chunks(&mut answer).await.is_some();
        } else if let Some(length) = answer
            .header("content-length")
            .and_then(|l| l.parse::<usize>().ok())
        {
            while self.ahead.len() < length && self.more().await {}
            answer.complete = self.ahead.len() >= length;
            answer.body = self.ahead.drain(..length.min(self.ahead.len())).collect();
        } else {
            answer.body = self.read_to_close().await;
        }
        Some(answer)
    }

    async fn chunks(&mut self, answer: &mut RawAnswer) -> Option<()> {
        loop {
            let line = self.line().await?;
            let size = usize::from_str_radix(line.split(';').next()?.trim(), 16).ok()?;
            if size == 0 {
                break;
            }
            while self.ahead.len() < size + 2 && self.more().await {}
            answer
                .body
                .extend(self.ahead.drain(..size.min(self.ahead.len())));
            self.line().await?;
        }
        loop {
            match self.line().await? {
                line if line.is_empty() => return Some(()),
                line => answer.trailers.push(line),
            }
        }
    }

    async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(at) = self.ahead.windows(2).position(|w| w == b"\r\n") {
                let line: Vec<u8> = self.ahead.drain(..at + 2).collect();
                return Some(latin1(&line[..at]));
            }
            if !self.more().await {
                return None;
            }
        }
    }

    /// False at the end of the stream, a reset included.
    async fn more(&mut self) -> bool {
        self.ahead.reserve(64 * 1024);
        let read = timeout(PATIENCE, self.tcp.read_buf(&mut self.ahead)).await;
        matches!(read.expect("bytes or an end in time"), Ok(n) if n > 0)
    }
}
