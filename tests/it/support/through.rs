//! A pass-through: what a client asks a foreign server, and what that answers, for a test that
//! compares both with a document.

use std::sync::{Arc, Mutex};

use tokio::runtime::Handle;

use super::serve::{Server, Service};
use super::wire::{Answer, Reply, Request};

/// One exchange, both sides.
#[derive(Debug, Clone)]
pub struct Exchange {
    pub request: Request,
    pub status: u16,
    pub answer: serde_json::Value,
}

/// Hands requests on to one server. Needs a runtime with several threads.
pub struct Through {
    server: Server,
    state: Arc<State>,
}

struct State {
    to: String,
    strip: &'static str,
    client: reqwest::Client,
    seen: Mutex<Vec<Exchange>>,
}

impl Through {
    /// Passes on to `to`; paths lose `strip` at their start (Prism knows nothing of a document's
    /// base path).
    pub async fn start(to: &str, strip: &'static str) -> Self {
        let state = Arc::new(State {
            to: to.into(),
            strip,
            client: super::sidecar::client(),
            seen: Mutex::default(),
        });
        let server = Server::start(state.clone(), None).await;
        Self { server, state }
    }

    pub fn url(&self) -> String {
        self.server.url()
    }

    pub fn seen(&self) -> Vec<Exchange> {
        self.state.seen.lock().unwrap().clone()
    }
}

impl Service for State {
    fn answer(&self, request: Request) -> Answer {
        let target = request
            .target
            .strip_prefix(self.strip)
            .unwrap_or(&request.target);
        let mut onward = self.client.request(
            request.method.parse().unwrap(),
            format!("{}{target}", self.to),
        );
        for (name, value) in &request.headers {
            if !["host", "connection", "content-length", "transfer-encoding"]
                .contains(&name.to_ascii_lowercase().as_str())
            {
                onward = onward.header(name, value);
            }
        }
        let onward = onward.body(request.body.clone()).send();
        let (status, body) = tokio::task::block_in_place(|| {
            Handle::current().block_on(async {
                let answer = onward.await.unwrap();
                (answer.status().as_u16(), answer.bytes().await.unwrap())
            })
        });
        let answer = serde_json::from_slice(&body).unwrap_or_default();
        self.seen.lock().unwrap().push(Exchange {
            request,
            status,
            answer,
        });
        Reply::new(status, body.to_vec())
            .with("Content-Type", "application/json")
            .into()
    }
}
