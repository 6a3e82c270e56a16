//! A vendor's API on a real socket: it looks every token up at this very moment and tells exactly
//! what it received.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::issuer::reached;
use super::serve::{Server, Service};
use super::tokens::{Standing, Tokens};
use super::wire::{Answer, Reply, Request};

/// What must be presented with every call.
#[derive(Debug, Clone)]
pub enum Need {
    /// `Authorization: Bearer`, a living token of this name.
    Bearer(&'static str),
    /// A header whose whole value is a living token: header, name of the token.
    Header(&'static str, &'static str),
    /// A query parameter that is a living token, exactly once.
    Query(&'static str, &'static str),
    /// A cookie that is a living token.
    Cookie(&'static str, &'static str),
    /// A header with exactly this value.
    Exact(&'static str, String),
}

/// What a vendor counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub requests: usize,
    pub answered: usize,
    /// Calls with a token that was past its end.
    pub expired: usize,
    pub revoked: usize,
    /// Calls with no token, one of another name, or a wrong fixed header.
    pub unknown: usize,
}

pub struct Vendor {
    server: Server,
    state: Arc<State>,
}

struct State {
    tokens: Tokens,
    needs: Vec<Need>,
    seen: Mutex<Vec<Request>>,
    keep: Mutex<usize>,
    counts: Mutex<Counts>,
    count: watch::Sender<usize>,
    connections: watch::Sender<usize>,
    script: Mutex<VecDeque<Answer>>,
    early: Mutex<VecDeque<Answer>>,
    always: Mutex<Option<Answer>>,
    challenge: Mutex<Option<String>>,
}

impl Vendor {
    pub async fn start(tokens: &Tokens, needs: Vec<Need>) -> Self {
        Self::with_tls(tokens, needs, None).await
    }

    pub async fn with_tls(
        tokens: &Tokens,
        needs: Vec<Need>,
        tls: Option<Arc<rustls::ServerConfig>>,
    ) -> Self {
        let state = Arc::new(State {
            tokens: tokens.clone(),
            needs,
            seen: Mutex::default(),
            keep: Mutex::new(1000),
            counts: Mutex::default(),
            count: watch::Sender::new(0),
            connections: watch::Sender::new(0),
            script: Mutex::default(),
            early: Mutex::default(),
            always: Mutex::default(),
            challenge: Mutex::new(Some("Bearer error=\"invalid_token\"".into())),
        });
        let server = Server::start(state.clone(), tls).await;
        Self { server, state }
    }

    pub fn url(&self) -> String {
        self.server.url()
    }

    pub fn port(&self) -> u16 {
        self.server.addr.port()
    }

    pub async fn down(&self) {
        self.server.down().await;
    }

    pub async fn up(&self) {
        self.server.up().await;
    }

    /// The next call whose credentials are right gets this instead of the echo. `/401` and other
    /// refusals are scripted the same way.
    pub fn script(&self, answer: impl Into<Answer>) {
        self.state.script.lock().unwrap().push_back(answer.into());
    }

    /// The next call is answered before its body is read, whatever it presents; the connection is
    /// closed after it.
    pub fn script_early(&self, answer: impl Into<Answer>) {
        self.state.early.lock().unwrap().push_back(answer.into());
    }

    /// Every call whose credentials are right gets this, until told otherwise.
    pub fn always(&self, answer: Option<Answer>) {
        *self.state.always.lock().unwrap() = answer;
    }

    /// The WWW-Authenticate of refusals; none leaves it out.
    pub fn challenge(&self, challenge: Option<&str>) {
        *self.state.challenge.lock().unwrap() = challenge.map(Into::into);
    }

    /// How many requests are remembered (1000); the counts go on.
    pub fn keep(&self, n: usize) {
        *self.state.keep.lock().unwrap() = n;
    }

    pub fn counts(&self) -> Counts {
        *self.state.counts.lock().unwrap()
    }

    pub fn seen(&self) -> Vec<Request> {
        self.state.seen.lock().unwrap().clone()
    }

    pub fn last(&self) -> Request {
        self.state
            .seen
            .lock()
            .unwrap()
            .last()
            .cloned()
            .expect("a request")
    }

    pub fn connections(&self) -> usize {
        *self.state.connections.borrow()
    }

    /// Waits until `n` requests in all arrived.
    pub async fn wait(&self, n: usize) {
        reached(&self.state.count, n, "requests at the vendor").await;
    }
}

impl Service for State {
    fn connected(&self) {
        self.connections.send_modify(|n| *n += 1);
    }

    fn early(&self, head: &Request) -> Option<Answer> {
        let answer = self.early.lock().unwrap().pop_front()?;
        self.remember(head.clone());
        Some(answer)
    }

    fn answer(&self, request: Request) -> Answer {
        let standing = self.standing(&request);
        {
            let mut counts = self.counts.lock().unwrap();
            match standing {
                Standing::Alive => counts.answered += 1,
                Standing::Expired => counts.expired += 1,
                Standing::Revoked => counts.revoked += 1,
                Standing::Unknown => counts.unknown += 1,
            }
        }
        let answer = if standing == Standing::Alive {
            let scripted = self.script.lock().unwrap().pop_front();
            let scripted = scripted.or_else(|| self.always.lock().unwrap().clone());
            scripted.unwrap_or_else(|| default(&request))
        } else {
            let refusal = Reply::json(
                401,
                &json!({ "error": "invalid_token", "standing": format!("{standing:?}") }),
            );
            let challenge = self.challenge.lock().unwrap().clone();
            Answer::Reply(
                challenge
                    .iter()
                    .fold(refusal, |r, c| r.with("WWW-Authenticate", c)),
            )
        };
        self.remember(request);
        answer
    }
}

impl State {
    fn remember(&self, request: Request) {
        let mut seen = self.seen.lock().unwrap();
        if seen.len() < *self.keep.lock().unwrap() {
            seen.push(request);
        }
        drop(seen);
        self.counts.lock().unwrap().requests += 1;
        self.count.send_modify(|n| *n += 1);
    }

    /// The worst standing of all that is needed.
    fn standing(&self, request: &Request) -> Standing {
        let of = |token: Option<String>, name| {
            token.map_or(Standing::Unknown, |t| self.tokens.standing(&t, name))
        };
        for need in &self.needs {
            let standing = match need {
                Need::Bearer(name) => of(
                    only(request, "authorization")
                        .and_then(|v| v.strip_prefix("Bearer ").map(Into::into)),
                    name,
                ),
                Need::Header(header, name) => of(only(request, header), name),
                Need::Query(parameter, name) => {
                    let values: Vec<String> = form_urlencoded::parse(request.query().as_bytes())
                        .filter(|(n, _)| n == parameter)
                        .map(|(_, v)| v.into_owned())
                        .collect();
                    of(
                        if values.len() == 1 {
                            values.into_iter().next()
                        } else {
                            None
                        },
                        name,
                    )
                }
                Need::Cookie(cookie, name) => of(
                    request
                        .headers
                        .iter()
                        .filter(|(n, _)| n.eq_ignore_ascii_case("cookie"))
                        .flat_map(|(_, v)| v.split(';'))
                        .find_map(|pair| {
                            pair.trim()
                                .strip_prefix(cookie)?
                                .strip_prefix('=')
                                .map(Into::into)
                        }),
                    name,
                ),
                Need::Exact(header, value) if only(request, header).as_ref() == Some(value) => {
                    Standing::Alive
                }
                Need::Exact(..) => Standing::Unknown,
            };
            if standing != Standing::Alive {
                return standing;
            }
        }
        Standing::Alive
    }
}

/// The field's value where it stands exactly once.
fn only(request: &Request, name: &str) -> Option<String> {
    let mut found = request
        .headers
        .iter()
        .filter(|(n, _)| n.eq_ignore_ascii_case(name));
    let (_, value) = found.next()?;
    found.next().is_none().then(|| value.clone())
}

/// The echo, or a WebSocket where one is asked for.
fn default(request: &Request) -> Answer {
    if request
        .header("upgrade")
        .is_some_and(|u| u.eq_ignore_ascii_case("websocket"))
    {
        return Answer::WebSocket;
    }
    let echo = json!({
        "version": request.version,
        "method": request.method,
        "target": request.target,
        "headers": request.headers,
        "length": request.length,
        "sha256": request.sha256,
        "trailers": request.trailers,
    });
    Reply::json(200, &echo).into()
}

/// A plain socket that takes connections one after the other, hands out the bytes and answers with
/// what it is given.
pub struct Raw {
    listener: TcpListener,
}

impl Raw {
    pub async fn start() -> Self {
        Self {
            listener: TcpListener::bind("127.0.0.1:0").await.unwrap(),
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.listener.local_addr().unwrap())
    }

    /// The next connection, and its bytes until they contain `end`.
    pub async fn accept_until(&self, end: &[u8]) -> (tokio::net::TcpStream, Vec<u8>) {
        let read = async {
            let (mut tcp, _) = self.listener.accept().await.unwrap();
            let mut bytes = Vec::new();
            while !bytes.windows(end.len()).any(|w| w == end)
                && tcp.read_buf(&mut bytes).await.unwrap() > 0
            {}
            (tcp, bytes)
        };
        tokio::time::timeout(super::issuer::PATIENCE, read)
            .await
            .expect("a connection with these bytes")
    }

    /// Whether a connection is waiting now.
    pub async fn is_silent(&self) -> bool {
        tokio::select! {
            biased;
            _ = self.listener.accept() => false,
            () = std::future::ready(()) => true,
        }
    }
}
