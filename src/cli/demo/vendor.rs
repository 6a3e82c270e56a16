//! The demo's issuer and vendor API: short-lived tokens, enforced expiry, a JSON token endpoint and
//! a chain of two tokens.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    Form, Json, Router,
    extract::{Request, State},
    response::{IntoResponse, Response},
    routing::{any, post},
};
use http::{HeaderMap, StatusCode, header};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::{clock::BootInstant, lock::Lock};

/// What issuer and API know in common.
#[derive(Clone, Default)]
pub struct Vendor(Arc<VendorState>);

#[derive(Default)]
struct VendorState {
    /// Live tokens and when they die.
    tokens: Lock<HashMap<String, BootInstant>>,
    /// Token calls by client id.
    calls: Lock<HashMap<String, u64>>,
    issued: AtomicU64,
    expired_seen: AtomicU64,
    down: AtomicBool,
}

/// The secret the demo's clients are known by.
pub const SECRET: &str = "demo-secret";
/// How long the JSON vendor's tokens live.
pub const LIFE: Duration = Duration::from_secs(6);

impl Vendor {
    /// Serves issuer and API on a free loopback port.
    ///
    /// # Errors
    /// No port could be had.
    pub async fn start(&self) -> std::io::Result<SocketAddr> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let app = Router::new()
            .route("/oauth/token", post(json_token))
            .route("/api/v1/oauth/token", post(form_token))
            .route("/api/v1/auth/session", post(session))
            .route("/orders/{*rest}", any(orders))
            .route("/pay/{*rest}", any(pay))
            .with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Ok(address)
    }

    /// Token calls made so far by `client`.
    pub fn calls(&self, client: &str) -> u64 {
        self.0.calls.lock().get(client).copied().unwrap_or(0)
    }
    /// API calls that came with a token past its end.
    pub fn expired_seen(&self) -> u64 {
        self.0.expired_seen.load(Ordering::Relaxed)
    }
    /// Forgets every token: what a vendor does after an incident.
    pub fn revoke_all(&self) {
        self.0.tokens.lock().clear();
    }
    /// From now on the issuer answers 503, or works again.
    pub fn set_down(&self, down: bool) {
        self.0.down.store(down, Ordering::Release);
    }

    fn issue(&self, client: &str, life: Duration) -> String {
        let n = self.0.issued.fetch_add(1, Ordering::Relaxed);
        let token = format!("demo-{client}-{n}-{}", uuid::Uuid::new_v4());
        self.0
            .tokens
            .lock()
            .insert(token.clone(), BootInstant::now().after(life));
        token
    }
    /// Counts the call; an answer where it ends here already.
    fn admit(&self, client: &str, secret: &str) -> Result<(), Box<Response>> {
        *self.0.calls.lock().entry(client.to_owned()).or_default() += 1;
        if self.0.down.load(Ordering::Acquire) {
            return Err(Box::new(
                (StatusCode::SERVICE_UNAVAILABLE, "down for the demo").into_response(),
            ));
        }
        if secret != SECRET {
            let body = json!({ "error": "invalid_client", "error_description": "unknown client or wrong secret" });
            return Err(Box::new(
                (StatusCode::UNAUTHORIZED, Json(body)).into_response(),
            ));
        }
        Ok(())
    }
    fn live(&self, token: Option<&str>) -> bool {
        let tokens = self.0.tokens.lock();
        let Some(end) = token.and_then(|t| tokens.get(t)) else {
            return false;
        };
        let alive = *end > BootInstant::now();
        if !alive {
            self.0.expired_seen.fetch_add(1, Ordering::Relaxed);
        }
        alive
    }
}

fn answer_api(live: bool, request: &Request) -> Response {
    if !live {
        let challenge = [(header::WWW_AUTHENTICATE, "Bearer error=\"invalid_token\"")];
        return (
            StatusCode::UNAUTHORIZED,
            challenge,
            "{\"message\":\"token unknown or expired\"}",
        )
            .into_response();
    }
    Json(json!({ "ok": true, "path": request.uri().path() })).into_response()
}

fn json_text<'a>(body: &'a Value, key: &str) -> &'a str {
    body.get(key).and_then(Value::as_str).unwrap_or("")
}

fn bearer_token(headers: &HeaderMap) -> Option<&str> {
    headers
        .get(header::AUTHORIZATION)?
        .to_str()
        .ok()?
        .strip_prefix("Bearer ")
}

async fn json_token(State(vendor): State<Vendor>, Json(body): Json<Value>) -> Response {
    let client = json_text(&body, "client_id");
    if let Err(answer) = vendor.admit(client, json_text(&body, "client_secret")) {
        return *answer;
    }
    let token = vendor.issue(client, LIFE);
    Json(json!({ "access_token": token, "token_type": "Bearer", "expires_in": LIFE.as_secs() }))
        .into_response()
}

async fn form_token(
    State(vendor): State<Vendor>,
    Form(body): Form<HashMap<String, String>>,
) -> Response {
    let get = |key| body.get(key).map_or("", String::as_str);
    if let Err(answer) = vendor.admit(get("client_id"), get("client_secret")) {
        return *answer;
    }
    let token = vendor.issue(get("client_id"), Duration::from_secs(3600));
    Json(json!({ "access_token": token, "token_type": "Bearer", "expires_in": 3600 }))
        .into_response()
}

async fn session(
    State(vendor): State<Vendor>,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> Response {
    if !vendor.live(bearer_token(&headers)) {
        return (
            StatusCode::UNAUTHORIZED,
            Json(json!({ "title": "partner token missing" })),
        )
            .into_response();
    }
    let client = json_text(&body, "client_id");
    if let Err(answer) = vendor.admit(client, json_text(&body, "client_secret")) {
        return *answer;
    }
    let session = vendor.issue(client, Duration::from_secs(300));
    Json(json!({ "session": session, "expires_in": 3600 })).into_response()
}

async fn orders(State(vendor): State<Vendor>, request: Request) -> Response {
    let live = vendor.live(bearer_token(request.headers()));
    answer_api(live, &request)
}

async fn pay(State(vendor): State<Vendor>, request: Request) -> Response {
    let named = |name: &str| request.headers().get(name).and_then(|v| v.to_str().ok());
    let live = vendor.live(bearer_token(request.headers()))
        && vendor.live(named("x-session"))
        && named("x-partner-id").is_some()
        && named("x-application-id").is_some();
    answer_api(live, &request)
}
