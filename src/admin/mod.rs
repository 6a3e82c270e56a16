//! The admin port: metrics, health, status, the status page, refresh, unlatch and reload
//! ([Admin port](crate::promises#admin-port)). axum over HTTP/1.1; loopback or a Unix socket.

mod advice;
pub mod auth;
mod by_hand;
mod exposition;
mod guardrail;
mod health;
mod page;
mod patience;
mod seats;
mod serve;
mod status;
mod unread;

use std::{net::SocketAddr, sync::Arc};

use arc_swap::ArcSwap;
use axum::{
    Router,
    body::Body,
    extract::{Path, State},
    middleware,
    response::Response,
    routing::{get, post},
};
use bytes::Bytes;
use http::{StatusCode, header};
use tokio::net::TcpListener;

pub use health::Verdict;
pub use serve::Socket;
pub use status::{ProblemState, StatusPage};

use auth::Doubts;
use health::Reached;
use seats::Seats;
use unread::Unread;

use crate::{
    clock::BootInstant,
    phase::{Phase, PhaseWatch},
    reload::{ReloadOutcome, Reloader},
    secret::CallerSecrets,
    snapshot::Snapshot,
    telemetry::Metrics,
};

/// What the admin port knows of the program.
#[derive(Clone)]
pub struct Admin {
    /// What runs now.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// What is counted.
    pub metrics: Metrics,
    /// Who reloads the configuration.
    pub reloader: Reloader,
    /// Where the data port listens.
    pub proxy: Vec<String>,
    /// From [`Phase::Lingering`] on `/readyz` says 503; with [`Phase::Stopped`] the ports close.
    pub phase: PhaseWatch,
    /// When the program started.
    pub started: BootInstant,
    /// Salts token fingerprints, so that they say nothing across restarts.
    pub salt: [u8; 16],
    /// The memory that answers hold which nobody has read yet.
    pub unread: Arc<Unread>,
    /// Those who showed a wrong token.
    pub doubts: Arc<Doubts>,
    /// The tokens of `[admin] auth`.
    pub tokens: Arc<CallerSecrets>,
    /// What of readiness was reached once.
    pub reached: Arc<Reached>,
}

impl Admin {
    /// Serves everything on `socket`, which is bound to this address where it has one, until
    /// [`Phase::Stopped`].
    pub async fn serve(self, socket: Socket, bound: Option<SocketAddr>) {
        let guarded = Router::new()
            .route("/", get(page::page))
            .route("/api/status", get(api_status))
            .route("/api/credentials/{name}/{action}", post(by_hand::act))
            .route("/api/reload", post(reload))
            .route_layer(middleware::from_fn_with_state(self.clone(), auth::check))
            // Style and script of the page that asks for the token.
            .merge(page::parts())
            .route_layer(middleware::from_fn_with_state(
                (self.clone(), bound),
                guardrail::check,
            ));
        let app = guarded.merge(read_only()).fallback(not_found);
        self.answer(socket, app).await;
    }

    /// Serves what kubelet and Prometheus need and nothing else, to any Host, until
    /// [`Phase::Stopped`].
    pub async fn serve_read_only(self, listener: TcpListener) {
        self.answer(Socket::Tcp(listener), read_only().fallback(not_found))
            .await;
    }

    async fn answer(self, socket: Socket, app: Router<Self>) {
        let seats = Seats::new(seats::MOST);
        self.unread.watch(&seats);
        let phase = self.phase.clone();
        serve::serve(socket, app.with_state(self), seats, phase).await;
    }

    /// Notices when this program is ready for the first time, also where nobody asks: what a reload
    /// adds afterwards takes nothing away.
    pub async fn watch_readiness(self) {
        let begun = BootInstant::now();
        while !self.reached.all(&self.snapshot.load_full()) {
            // A first outcome is seldom long in coming; one that is, is a refused secret or an
            // issuer that is down.
            let pause = if begun.until(BootInstant::now()) < health::SOON {
                health::OFTEN
            } else {
                health::SELDOM
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// What `/readyz` answers.
    fn verdict(&self, snapshot: &Snapshot) -> Verdict {
        if self.phase.now() != Phase::Serving {
            return Verdict::NotYet("shutting down".to_owned());
        }
        self.reached.ready(snapshot)
    }
}

fn read_only() -> Router<Admin> {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(|| async { text(StatusCode::OK, "ok\n") }))
        .route("/readyz", get(readyz))
        .route("/readyz/{name}", get(readyz_one))
}

async fn metrics(State(admin): State<Admin>) -> Response {
    match admin.unread.metrics(|| admin.render_metrics()).await {
        Some(body) => respond(
            StatusCode::OK,
            "text/plain; version=0.0.4; charset=utf-8",
            body,
        ),
        None => crowded(),
    }
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
    large(&admin, StatusCode::OK, "application/json", || {
        json_bytes(&StatusPage::of(&admin))
    })
    .await
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
    admin.metrics.asked_by_hand("", "reload");
    let outcome = admin.reloader.reload().await;
    let (status, problems) = match &outcome {
        ReloadOutcome::Refused(problems) => (
            StatusCode::UNPROCESSABLE_ENTITY,
            problems.iter().map(ProblemState::of).collect(),
        ),
        ReloadOutcome::Applied { .. } | ReloadOutcome::Unchanged => (StatusCode::OK, Vec::new()),
    };
    let (generation, restart) = (
        admin.snapshot.load().generation,
        admin.reloader.needs_restart(),
    );
    let answer = Reloaded {
        outcome: status::word(&outcome),
        generation,
        problems,
        restart,
    };
    large(&admin, status, "application/json", || json_bytes(&answer)).await
}

async fn not_found() -> Response {
    text(StatusCode::NOT_FOUND, "not found\n")
}

fn text(status: StatusCode, body: impl Into<String>) -> Response {
    respond(
        status,
        "text/plain; charset=utf-8",
        body.into().into_bytes(),
    )
}

/// An answer that may be large: it is made once there is room for it.
async fn large(
    admin: &Admin,
    status: StatusCode,
    content_type: &'static str,
    render: impl FnOnce() -> Vec<u8>,
) -> Response {
    match admin.unread.hold(render).await {
        Some(body) => respond(status, content_type, body),
        None => crowded(),
    }
}

fn crowded() -> Response {
    let mut response = text(
        StatusCode::SERVICE_UNAVAILABLE,
        "too many answers lie here unread\n",
    );
    response
        .headers_mut()
        .insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
    response
}

fn json_bytes(body: &impl serde::Serialize) -> Vec<u8> {
    // Maps with keys that are no text, the only thing that could fail, are not among our answers.
    serde_json::to_vec(body).unwrap_or_default()
}

fn respond(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response {
    let mut response = Response::new(Body::from(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static(content_type),
    );
    headers.insert(
        header::CACHE_CONTROL,
        header::HeaderValue::from_static("no-store"),
    );
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        header::HeaderValue::from_static("nosniff"),
    );
    response
}
