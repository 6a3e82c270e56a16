//! HTTP/1.1 as it stands on the wire: requests are read and answers written by hand, so that
//! nothing is tidied away.

use std::io;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;

use super::tally::Tally;

/// Any byte stream: TCP, or TLS over it.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// One request as it arrived.
#[derive(Debug, Clone)]
pub struct Request {
    pub at: Instant,
    /// 1 or 2.
    pub version: u8,
    pub method: String,
    /// The target as written; with HTTP/2 path and query.
    pub target: String,
    /// In the order and the case of arrival, values as Latin-1; with HTTP/2 `:authority` leads.
    pub headers: Vec<(String, String)>,
    /// Everything up to and with the empty line; empty with HTTP/2.
    pub raw_head: Vec<u8>,
    /// The first MiB of the body.
    pub body: Vec<u8>,
    pub length: u64,
    pub sha256: String,
    pub trailers: Vec<(String, String)>,
}

impl Request {
    /// The first field of this name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, v)| v.as_str())
    }

    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    pub fn query(&self) -> &str {
        self.target.split_once('?').map_or("", |(_, q)| q)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A door that holds answers back until a test opens it.
#[derive(Debug, Clone)]
pub struct Gate(watch::Sender<bool>);

impl Gate {
    pub fn shut() -> Self {
        Self(watch::Sender::new(false))
    }

    pub fn open(&self) {
        self.0.send_replace(true);
    }

    pub async fn passed(&self) {
        let _ = self.0.subscribe().wait_for(|open| *open).await;
    }
}

/// What a server does with a request.
#[derive(Debug, Clone)]
pub enum Answer {
    Reply(Reply),
    /// Exactly these steps on the connection, which is then closed (HTTP/2: the stream is reset).
    Raw(Vec<Step>),
    /// 101, then every WebSocket message comes back.
    WebSocket,
}

#[derive(Debug, Clone)]
pub enum Step {
    Bytes(Vec<u8>),
    /// One byte at a time, with this pause after each.
    Drip(Vec<u8>, Duration),
    Gate(Gate),
    /// Until the peer leaves.
    Hang,
    /// RST instead of FIN.
    Reset,
}

#[derive(Debug, Clone)]
pub enum Body {
    Bytes(Vec<u8>),
    /// So many bytes `x`, streamed.
    Long(u64),
    /// One part per element, each sent (as a chunk, an HTTP/2 frame) when its gate is open.
    Parts(Vec<(Option<Gate>, Vec<u8>)>),
}

/// A well-formed answer.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Body,
    pub trailers: Vec<(String, String)>,
    /// 1xx answers before it, with their fields.
    pub interim: Vec<(u16, Vec<(String, String)>)>,
    /// Chunked instead of Content-Length. Parts and trailers are always chunked.
    pub chunked: bool,
    pub gate: Option<Gate>,
    pub close: bool,
}

impl Reply {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Body::Bytes(body.into()),
            trailers: Vec::new(),
            interim: Vec::new(),
            chunked: false,
            gate: None,
            close: false,
        }
    }

    pub fn json(status: u16, body: &serde_json::Value) -> Self {
        Self::new(status, body.to_string()).with("Content-Type", "application/json")
    }

    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    #[must_use]
    pub fn behind(mut self, gate: &Gate) -> Self {
        self.gate = Some(gate.clone());
        self
    }
}

impl From<Reply> for Answer {
    fn from(reply: Reply) -> Self {
        Self::Reply(reply)
    }
}

/// One HTTP/1.1 connection, seen from the server.
pub struct Conn<S> {
    pub io: S,
    ahead: Vec<u8>,
}

impl<S: Io> Conn<S> {
    pub fn new(io: S) -> Self {
        Self {
            io,
            ahead: Vec::new(),
        }
    }

    /// Bytes that arrived after what was read so far.
    pub fn into_parts(self) -> (S, Vec<u8>) {
        (self.io, self.ahead)
    }

    /// The next head, or nothing where the peer is gone.
    pub async fn head(&mut self) -> io::Result<Option<Request>> {
        let end = loop {
            if let Some(at) = self.ahead.windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
            if !self.more().await? {
                return Ok(None);
            }
        };
        let raw_head: Vec<u8> = self.ahead.drain(..end).collect();
        let text = latin1(&raw_head);
        let mut lines = text.split("\r\n");
        let mut first = lines.next().unwrap_or_default().split(' ');
        let method = first.next().unwrap_or_default().to_owned();
        let target = first.next().unwrap_or_default().to_owned();
        let headers = lines.filter_map(field).collect();
        Ok(Some(Request {
            at: Instant::now(),
            version: 1,
            method,
            target,
            headers,
            raw_head,
            body: Vec::new(),
            length: 0,
            sha256: String::new(),
            trailers: Vec::new(),
        }))
    }

    /// Reads the body that the head announces; asks for it where the client waits for that.
    pub async fn body(&mut self, request: &mut Request) -> io::Result<()> {
        if request
            .header("expect")
            .is_some_and(|e| e.eq_ignore_ascii_case("100-continue"))
        {
            self.io.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        let mut tally = Tally::new();
        if request.header("transfer-encoding").is_some() {
            loop {
                let line = self.line().await?;
                let size =
                    usize::from_str_radix(line.split(';').next().unwrap_or_default().trim(), 16)
                        .map_err(io::Error::other)?;
                if size == 0 {
                    break;
                }
                self.take(size, &mut tally).await?;
                self.line().await?;
            }
            loop {
                let line = self.line().await?;
                match field(&line) {
                    Some(trailer) => request.trailers.push(trailer),
                    None => break,
                }
            }
        } else if let Some(size) = request
            .header("content-length")
            .and_then(|v| v.parse().ok())
        {
            self.take(size, &mut tally).await?;
        }
        tally.finish(request);
        Ok(())
    }

    /// Writes a well-formed answer; false where the connection must not be used again.
    pub async fn reply(&mut self, request: &Request, reply: Reply) -> io::Result<bool> {
        for (status, fields) in &reply.interim {
            self.io.write_all(&head(*status, fields)).await?;
            self.io.flush().await?;
        }
        if let Some(gate) = &reply.gate {
            gate.passed().await;
        }
        let asked = request
            .header("connection")
            .is_some_and(|c| c.eq_ignore_ascii_case("close"));
        let close = reply.close || asked;
        let chunked =
            reply.chunked || !reply.trailers.is_empty() || matches!(reply.body, Body::Parts(_));
        let mut fields = reply.headers.clone();
        match &reply.body {
            _ if chunked => fields.push(("Transfer-Encoding".into(), "chunked".into())),
            Body::Bytes(b) if reply.status != 204 && reply.status != 304 => {
                fields.push(("Content-Length".into(), b.len().to_string()));
            }
            Body::Long(n) => fields.push(("Content-Length".into(), n.to_string())),
            _ => {}
        }
        if close {
            fields.push(("Connection".into(), "close".into()));
        }
        self.io.write_all(&head(reply.status, &fields)).await?;
        if request.method != "HEAD" && reply.status != 204 && reply.status != 304 {
            for (gate, part) in parts(reply.body) {
                if let Some(gate) = gate {
                    self.io.flush().await?;
                    gate.passed().await;
                }
                if chunked && !part.is_empty() {
                    self.io
                        .write_all(format!("{:x}\r\n", part.len()).as_bytes())
                        .await?;
                }
                self.io.write_all(&part).await?;
                if chunked && !part.is_empty() {
                    self.io.write_all(b"\r\n").await?;
                }
            }
            if chunked {
                let end = lines(&reply.trailers);
                self.io
                    .write_all(format!("0\r\n{end}\r\n").as_bytes())
                    .await?;
            }
        }
        self.io.flush().await?;
        Ok(!close)
    }

    /// Plays the steps; true where the connection is to be reset rather than closed.
    pub async fn play(&mut self, steps: Vec<Step>) -> io::Result<bool> {
        for step in steps {
            match step {
                Step::Bytes(bytes) => self.io.write_all(&bytes).await?,
                Step::Drip(bytes, pause) => {
                    for byte in bytes {
                        self.io.write_all(&[byte]).await?;
                        self.io.flush().await?;
                        tokio::time::sleep(pause).await;
                    }
                }
                Step::Gate(gate) => {
                    self.io.flush().await?;
                    gate.passed().await;
                }
                Step::Hang => while self.more().await? {},
                Step::Reset => return Ok(true),
            }
            self.io.flush().await?;
        }
        Ok(false)
    }

    async fn more(&mut self) -> io::Result<bool> {
        self.ahead.reserve(64 * 1024);
        Ok(self.io.read_buf(&mut self.ahead).await? > 0)
    }

    async fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(at) = self.ahead.windows(2).position(|w| w == b"\r\n") {
                let line: Vec<u8> = self.ahead.drain(..at + 2).collect();
                return Ok(latin1(&line[..at]));
            }
            if !self.more().await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    async fn take(&mut self, mut size: usize, tally: &mut Tally) -> io::Result<()> {
        while size > 0 {
            if self.ahead.is_empty() && !self.more().await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let n = size.min(self.ahead.len());
            tally.add(&self.ahead[..n]);
            self.ahead.drain(..n);
            size -= n;
        }
        Ok(())
    }
}

/// The parts of a body in the order of sending, each with the gate before it.
pub fn parts(body: Body) -> Box<dyn Iterator<Item = (Option<Gate>, Vec<u8>)> + Send> {
    const PIECE: u64 = 64 * 1024;
    match body {
        Body::Bytes(bytes) => Box::new(std::iter::once((None, bytes))),
        Body::Parts(parts) => Box::new(parts.into_iter()),
        Body::Long(n) => Box::new((0..n.div_ceil(PIECE)).map(move |i| {
            let size = PIECE.min(n - i * PIECE);
            (None, vec![b'x'; usize::try_from(size).unwrap()])
        })),
    }
}

fn head(status: u16, fields: &[(String, String)]) -> Vec<u8> {
    let reason = http::StatusCode::from_u16(status)
        .ok()
        .and_then(|s| s.canonical_reason())
        .unwrap_or("Unnamed");
    let fields = lines(fields);
    format!("HTTP/1.1 {status} {reason}\r\n{fields}\r\n").into_bytes()
}

fn lines(fields: &[(String, String)]) -> String {
    fields
        .iter()
        .flat_map(|(n, v)| [n, ": ", v, "\r\n"])
        .collect()
}

fn field(line: impl AsRef<str>) -> Option<(String, String)> {
    line.as_ref()
        .split_once(':')
        .map(|(n, v)| (n.to_owned(), v.trim().to_owned()))
}

pub fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|b| char::from(*b)).collect()
}
