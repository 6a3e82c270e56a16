//! A vendor that records bytes and three ways to read them: as RFC 9112 wants, and as two careless
//! servers do. Where the three differ, somebody can be smuggled in.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// One request as one of the parsers sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    pub line: String,
    /// The value of X-Case, by which tests know their request again.
    pub case: String,
    pub body: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
pub enum Parser {
    /// CRLF only, one length or chunked, no blanks where there may be none. What is not so ends the
    /// reading.
    Strict,
    /// Any line end, blanks anywhere; the last Content-Length counts, and more than
    /// Transfer-Encoding.
    LaxLength,
    /// The same, but anything that looks like chunked counts, and the first Content-Length.
    LaxCoding,
}

/// Whole requests, and whether what is left could still become one.
#[derive(Debug, PartialEq, Eq)]
pub struct Reading {
    pub requests: Vec<Read>,
    pub sound: bool,
}

pub struct Recorder {
    pub addr: SocketAddr,
    /// For each connection, every byte of it.
    bytes: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Recorder {
    /// Answers as often as this parser finds a request.
    pub async fn start(parser: Parser) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let bytes: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
        let all = bytes.clone();
        tokio::spawn(async move {
            while let Ok((mut tcp, _)) = listener.accept().await {
                let number = {
                    let mut all = all.lock().unwrap();
                    all.push(Vec::new());
                    all.len() - 1
                };
                let all = all.clone();
                tokio::spawn(async move {
                    let (mut answered, mut buf) = (0, vec![0; 1 << 16]);
                    while let Ok(n @ 1..) = tcp.read(&mut buf).await {
                        let reading = {
                            let mut all = all.lock().unwrap();
                            all[number].extend_from_slice(&buf[..n]);
                            parser.read(&all[number])
                        };
                        while answered < reading.requests.len() {
                            answered += 1;
                            let _ = tcp
                                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                                .await;
                        }
                        if !reading.sound {
                            return;
                        }
                    }
                });
            }
        });
        Self { addr, bytes }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Every request, which all three parsers must see alike: on the wire there is one reading.
    pub fn requests(&self) -> Vec<Read> {
        let all = self.bytes.lock().unwrap();
        let mut seen = Vec::new();
        for connection in all.iter() {
            let strict = Parser::Strict.read(connection);
            let text = || connection.escape_ascii().to_string();
            assert!(strict.sound, "the strict parser refuses: {}", text());
            for lax in [Parser::LaxLength, Parser::LaxCoding] {
                assert_eq!(
                    lax.read(connection).requests,
                    strict.requests,
                    "{lax:?} reads otherwise: {}",
                    text()
                );
            }
            seen.extend(strict.requests);
        }
        seen
    }
}

impl Parser {
    pub fn read(self, bytes: &[u8]) -> Reading {
        let (mut rest, mut requests) = (bytes, Vec::new());
        loop {
            if rest.is_empty() {
                return Reading {
                    requests,
                    sound: true,
                };
            }
            match self.one(rest) {
                Some(Some((request, len))) => {
                    requests.push(request);
                    rest = &rest[len..];
                }
                Some(None) => {
                    return Reading {
                        requests,
                        sound: true,
                    };
                }
                None => {
                    return Reading {
                        requests,
                        sound: false,
                    };
                }
            }
        }
    }

    /// The outer `None`: malformed, the inner: not whole yet.
    #[allow(
        clippy::option_option,
        reason = "both are absences, of different things"
    )]
    fn one(self, bytes: &[u8]) -> Option<Option<(Read, usize)>> {
        let Some((head, end)) = self.head(bytes)? else {
            return Some(None);
        };
        let (line, fields) = head.split_first()?;
        if matches!(self, Self::Strict) && line.split(' ').count() != 3 {
            return None;
        }
        let (mut lengths, mut coding, mut case) = (Vec::new(), None, String::new());
        for field in fields {
            let (name, value) = field.split_once(':')?;
            if matches!(self, Self::Strict)
                && !name
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
            {
                return None;
            }
            let name: String = name
                .chars()
                .filter(char::is_ascii_graphic)
                .collect::<String>()
                .to_ascii_lowercase();
            match name.as_str() {
                "content-length" => lengths.push(value.to_owned()),
                "x-case" => value.trim().clone_into(&mut case),
                "transfer-encoding" => {
                    coding = Some(format!("{}{value}", coding.unwrap_or_default()));
                }
                _ => {}
            }
        }
        let chunked = match self {
            Self::Strict => match (&coding, lengths.len()) {
                (None, 0 | 1) => false,
                (Some(c), 0) if c.trim_matches(' ').eq_ignore_ascii_case("chunked") => true,
                _ => return None,
            },
            Self::LaxLength => {
                lengths.is_empty()
                    && coding.is_some_and(|c| c.to_ascii_lowercase().contains("chunked"))
            }
            Self::LaxCoding => coding.is_some_and(|c| c.to_ascii_lowercase().contains("chunk")),
        };
        let rest = &bytes[end..];
        let line = line.clone();
        if chunked {
            return Some(
                self.chunks(rest)?
                    .map(|(body, len)| (Read { line, case, body }, end + len)),
            );
        }
        let length = match self {
            Self::LaxLength => lengths.last(),
            _ => lengths.first(),
        };
        let length = match length {
            None => 0,
            Some(v) if matches!(self, Self::Strict) => v
                .trim_matches(' ')
                .bytes()
                .all(|b| b.is_ascii_digit())
                .then(|| v.trim().parse().ok())??,
            Some(v) => {
                let digits: String = v
                    .chars()
                    .skip_while(|c| !c.is_ascii_digit())
                    .take_while(char::is_ascii_digit)
                    .collect();
                digits.parse().unwrap_or(0)
            }
        };
        Some(rest.get(..length).map(|body| {
            (
                Read {
                    line,
                    case,
                    body: body.to_vec(),
                },
                end + length,
            )
        }))
    }

    #[allow(clippy::option_option, reason = "as above")]
    fn head(self, bytes: &[u8]) -> Option<Option<(Vec<String>, usize)>> {
        let (mut lines, mut at): (Vec<String>, usize) = (Vec::new(), 0);
        loop {
            let Some(len) = bytes[at..].iter().position(|b| *b == b'\n') else {
                return Some(None);
            };
            let line = &bytes[at..at + len];
            at += len + 1;
            let line = match (self, line.strip_suffix(b"\r")) {
                (Self::Strict, None) => return None,
                (_, stripped) => stripped.unwrap_or(line),
            };
            if line.is_empty() && lines.is_empty() {
                continue;
            }
            if line.is_empty() {
                return Some(Some((lines, at)));
            }
            if matches!(self, Self::Strict)
                && line.iter().any(|b| matches!(b, 0..=8 | 10..=31 | 127))
            {
                return None;
            }
            let text: String = line.iter().map(|b| char::from(*b)).collect();
            match lines.last_mut() {
                Some(last) if text.starts_with([' ', '\t']) => {
                    if matches!(self, Self::Strict) {
                        return None;
                    }
                    last.push_str(&text);
                }
                _ => lines.push(text),
            }
        }
    }

    #[allow(clippy::option_option, reason = "as above")]
    fn chunks(self, bytes: &[u8]) -> Option<Option<(Vec<u8>, usize)>> {
        let (mut body, mut at) = (Vec::new(), 0);
        loop {
            let Some(len) = bytes[at..].iter().position(|b| *b == b'\n') else {
                return Some(None);
            };
            let line = String::from_utf8_lossy(&bytes[at..at + len]).into_owned();
            at += len + 1;
            let size = if matches!(self, Self::Strict) {
                line.strip_suffix('\r')?
            } else {
                line.trim().split(|c: char| !c.is_ascii_hexdigit()).next()?
            };
            let size = usize::from_str_radix(size, 16).ok()?;
            if size == 0 {
                // Trailers up to the empty line.
                loop {
                    let Some(len) = bytes[at..].iter().position(|b| *b == b'\n') else {
                        return Some(None);
                    };
                    at += len + 1;
                    if len == 0 || (len == 1 && bytes[at - 2] == b'\r') {
                        return Some(Some((body, at)));
                    }
                }
            }
            let Some(chunk) = bytes.get(at..at + size) else {
                return Some(None);
            };
            body.extend_from_slice(chunk);
            at += size;
            match bytes.get(at..at + 2) {
                None => return Some(None),
                Some(b"\r\n") => at += 2,
                Some(_) if matches!(self, Self::Strict) => return None,
                Some(_) => {}
            }
        }
    }
}
