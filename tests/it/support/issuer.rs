//! A strict authorization server on a real socket: it accepts exactly what a vendor's document
//! allows, records everything, and fails as it is told to.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;

use super::endpoint::{Endpoint, Refusal};
use super::serve::{Server, Service};
use super::tokens::Tokens;
use super::wire::{Answer, Reply, Request};

/// The longest that a test waits for an event.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct Issuer {
    server: Server,
    state: Arc<State>,
}

struct State {
    endpoints: Mutex<BTreeMap<String, Endpoint>>,
    tokens: Tokens,
    requests: Mutex<Vec<Seen>>,
    /// Goes up with each request that was answered.
    count: watch::Sender<usize>,
    connections: watch::Sender<usize>,
    script: Mutex<VecDeque<Answer>>,
    always: Mutex<Option<Answer>>,
}

/// A token request and what came of it.
#[derive(Debug, Clone)]
pub struct Seen {
    pub request: Request,
    pub outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Issued(String),
    /// Why it was refused, in words for a person who reads a failed test.
    Refused(String),
    /// Answered by the script.
    Scripted,
}

impl Issuer {
    /// An issuer with these endpoints; the tokens it makes are to be looked up in `tokens`.
    pub async fn start(tokens: &Tokens, endpoints: Vec<Endpoint>) -> Self {
        Self::with_tls(tokens, endpoints, None).await
    }

    pub async fn with_tls(
        tokens: &Tokens,
        endpoints: Vec<Endpoint>,
        tls: Option<Arc<rustls::ServerConfig>>,
    ) -> Self {
        let state = Arc::new(State {
            endpoints: Mutex::new(endpoints.into_iter().map(|e| (e.path.clone(), e)).collect()),
            tokens: tokens.clone(),
            requests: Mutex::default(),
            count: watch::Sender::new(0),
            connections: watch::Sender::new(0),
            script: Mutex::default(),
            always: Mutex::default(),
        });
        let server = Server::start(state.clone(), tls).await;
        Self { server, state }
    }

    pub fn url(&self) -> String {
        self.server.url()
    }

    pub fn tokens(&self) -> &Tokens {
        &self.state.tokens
    }

    /// Closes the listener and all connections.
    pub async fn down(&self) {
        self.server.down().await;
    }

    /// Listens again at the same address.
    pub async fn up(&self) {
        self.server.up().await;
    }

    /// Answers the next request that has no scripted answer yet with this.
    pub fn script(&self, answer: impl Into<Answer>) {
        self.state.script.lock().unwrap().push_back(answer.into());
    }

    /// Answers every request without a script with this, until told otherwise.
    pub fn always(&self, answer: Option<Answer>) {
        *self.state.always.lock().unwrap() = answer;
    }

    /// Changes a rule while the server runs: a new secret, another life, an unlocked account.
    pub fn change(&self, path: &str, change: impl FnOnce(&mut Endpoint)) {
        change(
            self.state
                .endpoints
                .lock()
                .unwrap()
                .get_mut(path)
                .unwrap_or_else(|| panic!("no endpoint {path}")),
        );
    }

    /// Every request so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.state.requests.lock().unwrap().clone()
    }

    /// How many requests were made to this path.
    pub fn calls(&self, path: &str) -> usize {
        self.state
            .requests
            .lock()
            .unwrap()
            .iter()
            .filter(|s| s.request.path() == path)
            .count()
    }

    /// Reasons of all refusals, for a test that expects none.
    pub fn refusals(&self) -> Vec<String> {
        let refused = |s: Seen| {
            if let Outcome::Refused(why) = s.outcome {
                Some(why)
            } else {
                None
            }
        };
        self.seen().into_iter().filter_map(refused).collect()
    }

    /// Waits until `n` requests in all were made.
    pub async fn wait(&self, n: usize) {
        reached(&self.state.count, n, "token requests").await;
    }

    pub async fn wait_for_connections(&self, n: usize) {
        reached(&self.state.connections, n, "connections to the issuer").await;
    }
}

/// Waits until a counter has come to `n`; a test that waits in vain fails with what it waited for.
pub async fn reached(counter: &watch::Sender<usize>, n: usize, what: &str) {
    let mut counter = counter.subscribe();
    let in_time = tokio::time::timeout(PATIENCE, counter.wait_for(|c| *c >= n))
        .await
        .is_ok();
    assert!(in_time, "waited for {n} {what}, saw {}", *counter.borrow());
}

impl Service for State {
    fn connected(&self) {
        self.connections.send_modify(|n| *n += 1);
    }

    fn answer(&self, request: Request) -> Answer {
        let scripted = self
            .script
            .lock()
            .unwrap()
            .pop_front()
            .or_else(|| self.always.lock().unwrap().clone());
        let (answer, outcome) = match scripted {
            Some(answer) => (answer, Outcome::Scripted),
            None => self.judge(&request),
        };
        self.requests
            .lock()
            .unwrap()
            .push(Seen { request, outcome });
        self.count.send_modify(|n| *n += 1);
        answer
    }
}

impl State {
    fn judge(&self, request: &Request) -> (Answer, Outcome) {
        let mut endpoints = self.endpoints.lock().unwrap();
        let Some(endpoint) = endpoints.get_mut(request.path()) else {
            let why = format!("no endpoint {}", request.path());
            return (
                Reply::json(404, &json!({ "error": "not_found" })).into(),
                Outcome::Refused(why),
            );
        };
        match endpoint.admit(request, &self.tokens) {
            Ok(granted) => {
                let token = endpoint.make_token(&granted);
                if endpoint.replaces {
                    self.tokens.revoke_all(&endpoint.name);
                }
                self.tokens.add(
                    &token,
                    &endpoint.name,
                    &granted.client,
                    &granted.scope,
                    endpoint.life,
                );
                let reply = Reply::json(200, &endpoint.body(&token, &granted))
                    .with("Cache-Control", "no-store");
                (reply.into(), Outcome::Issued(token))
            }
            Err(refusal) => {
                let why = refusal.why.clone();
                (
                    refusal_reply(endpoint, &refusal).into(),
                    Outcome::Refused(why),
                )
            }
        }
    }
}

fn refusal_reply(endpoint: &Endpoint, refusal: &Refusal) -> Reply {
    let body: Value = if endpoint.problem_details {
        json!({ "title": "Refused", "status": refusal.status, "detail": refusal.why })
    } else {
        json!({ "error": refusal.error, "error_description": refusal.why })
    };
    let reply = Reply::json(refusal.status, &body);
    if refusal.status == 401 {
        reply.with("WWW-Authenticate", "Basic realm=\"tokens\"")
    } else {
        reply
    }
}
