//! The admin port: metrics, health, status, the status page, refresh, unlatch and reload (CONTRACT 5). axum; loopback only by default.

mod advice;
mod guardrail;
mod health;
mod page;
mod patience;
mod status;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use arc_swap::ArcSwap;
use axum::{
    Router,
    body::Body,
    extract::{Path, State},
    middleware,
    response::Response,
    routing::{get, post},
};
use http::{StatusCode, header};
use tokio::net::TcpListener;

pub use health::Verdict;
pub use status::{ProblemState, StatusPage};

use patience::Patience;

use crate::{
    reload::{Outcome, Reloader},
    snapshot::Snapshot,
    telemetry::{CredentialGauges, Metrics, TokenGauges},
    token::{Doing, Now},
};

/// What the admin port knows of the program.
#[derive(Clone)]
pub struct Admin {
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    pub metrics: Metrics,
    pub reloader: Reloader,
    /// Where the data port listens.
    pub proxy: Vec<String>,
    /// Set from SIGTERM on: `/readyz` says 503.
    pub leaving: Arc<AtomicBool>,
    pub started: Now,
    /// Salts token fingerprints, so that they say nothing across restarts.
    pub salt: [u8; 16],
}

impl Admin {
    /// Serves everything on `listener` until `stop` resolves.
    ///
    /// # Errors
    /// What the listener says when it breaks.
    pub async fn serve(self, listener: TcpListener, stop: impl Future<Output = ()> + Send + 'static) -> std::io::Result<()> {
        let bound = listener.local_addr()?;
        let guarded = Router::new()
            .route("/api/status", get(api_status))
            .route("/api/credentials/{name}/{action}", post(act))
            .route("/api/reload", post(reload))
            .merge(page::routes())
            .route_layer(middleware::from_fn_with_state((self.clone(), bound), guardrail::check));
        let app = guarded.merge(read_only()).fallback(not_found).with_state(self);
        axum::serve(Patience::new(listener), app).with_graceful_shutdown(stop).await
    }

    /// Serves what kubelet and Prometheus need and nothing else, to any Host.
    ///
    /// # Errors
    /// What the listener says when it breaks.
    pub async fn serve_read_only(self, listener: TcpListener, stop: impl Future<Output = ()> + Send + 'static) -> std::io::Result<()> {
        let app = read_only().fallback(not_found).with_state(self);
        axum::serve(Patience::new(listener), app).with_graceful_shutdown(stop).await
    }

    /// What `/readyz` answers.
    fn verdict(&self, snapshot: &Snapshot) -> Verdict {
        if self.leaving.load(Ordering::Acquire) {
            return Verdict::NotYet("shutting down".to_owned());
        }
        health::ready(snapshot)
    }

    /// The text exposition, gauges as they stand now.
    #[must_use]
    pub fn render_metrics(&self) -> Vec<u8> {
        let snapshot = self.snapshot.load_full();
        let (mut tokens, mut credentials) = (Vec::new(), Vec::new());
        let now = Now::now();
        for credential in snapshot.credentials.values() {
            let states = credential.tokens();
            let (mut latched, mut rejections) = (false, 0);
            for spec in &credential.profile().tokens {
                let mut gauges = TokenGauges {
                    credential: credential.name().clone(),
                    token: spec.name.clone(),
                    expiry: 0.0,
                    refresh: 0.0,
                    last_success: 0.0,
                    sendable: false,
                    resting: false,
                };
                // Partitions have no label of their own: the earliest expiry, and 1 where any may be sent.
                for state in states.iter().filter(|s| s.token == spec.name) {
                    let status = &state.status;
                    latched |= matches!(status.doing, Doing::Held { latched: true, .. });
                    rejections = rejections.max(status.rejections);
                    gauges.resting |= matches!(status.doing, Doing::Resting);
                    if let Doing::Due(at) | Doing::Held { until: Some(at), .. } = status.doing {
                        gauges.refresh = earliest(gauges.refresh, at.wall().as_secs_f64());
                    }
                    if let Some(token) = status.token.as_ref().filter(|t| t.expires > now) {
                        gauges.expiry = earliest(gauges.expiry, token.expires.wall().as_secs_f64());
                        gauges.sendable |= token.send_until > now;
                    }
                    if let Some(token) = &status.token {
                        gauges.last_success = gauges.last_success.max(token.issued.sent.wall().as_secs_f64());
                    }
                }
                tokens.push(gauges);
            }
            credentials.push(CredentialGauges {
                credential: credential.name().clone(),
                profile: credential.profile().name.clone(),
                latched,
                rejections,
                waiters: credential.waiters(),
            });
        }
        self.metrics.render(&tokens, &credentials)
    }
}

/// The smaller of two Unix times, where 0 means "none".
fn earliest(a: f64, b: f64) -> f64 {
    if a == 0.0 { b } else { a.min(b) }
}

fn read_only() -> Router<Admin> {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(|| async { text(StatusCode::OK, "ok\n") }))
        .route("/readyz", get(readyz))
        .route("/readyz/{name}", get(readyz_one))
}

async fn metrics(State(admin): State<Admin>) -> Response {
    let body = admin.render_metrics();
    respond(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", body)
}

async fn readyz(State(admin): State<Admin>) -> Response {
    health_answer(&admin.verdict(&admin.snapshot.load_full()))
}

async fn readyz_one(State(admin): State<Admin>, Path(name): Path<String>) -> Response {
    match admin.snapshot.load_full().credentials.get(&*name) {
        Some(credential) => health_answer(&health::one(credential)),
        None => text(StatusCode::NOT_FOUND, "no such credential\n"),
    }
}

fn health_answer(verdict: &Verdict) -> Response {
    match verdict {
        Verdict::Ready => text(StatusCode::OK, "ok\n"),
        Verdict::NotYet(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

async fn api_status(State(admin): State<Admin>) -> Response {
    json(StatusCode::OK, &StatusPage::of(&admin))
}

/// What `POST /api/reload` answers.
#[derive(serde::Serialize)]
struct Reloaded {
    outcome: &'static str,
    /// Of the configuration that runs now.
    generation: u64,
    problems: Vec<ProblemState>,
    restart: Vec<&'static str>,
}

async fn reload(State(admin): State<Admin>) -> Response {
    tracing::info!("reload asked for by hand");
    let outcome = admin.reloader.reload().await;
    let (status, problems) = match &outcome {
        Outcome::Refused(problems) => (StatusCode::UNPROCESSABLE_ENTITY, problems.iter().map(ProblemState::of).collect()),
        Outcome::Applied { .. } | Outcome::Unchanged => (StatusCode::OK, Vec::new()),
    };
    let (generation, restart) = (admin.snapshot.load().generation, admin.reloader.needs_restart());
    json(status, &Reloaded { outcome: status::word(&outcome), generation, problems, restart })
}

async fn act(State(admin): State<Admin>, Path((name, action)): Path<(String, String)>) -> Response {
    let snapshot = admin.snapshot.load_full();
    let Some(credential) = snapshot.credentials.get(&*name) else {
        return text(StatusCode::NOT_FOUND, "no such credential\n");
    };
    match &*action {
        "refresh" => credential.refresh(),
        "unlatch" => credential.unlatch().await,
        _ => return text(StatusCode::NOT_FOUND, "refresh or unlatch\n"),
    }
    tracing::info!(credential = name, action, "asked for by hand");
    respond(StatusCode::ACCEPTED, "application/json", br#"{"accepted":true}"#.to_vec())
}

async fn not_found() -> Response {
    text(StatusCode::NOT_FOUND, "not found\n")
}

fn text(status: StatusCode, body: impl Into<String>) -> Response {
    respond(status, "text/plain; charset=utf-8", body.into().into_bytes())
}

fn json(status: StatusCode, body: &impl serde::Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(body) => respond(status, "application/json", body),
        Err(e) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{e}\n")),
    }
}

fn respond(status: StatusCode, content_type: &'static str, body: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, header::HeaderValue::from_static("nosniff"));
    response
}
