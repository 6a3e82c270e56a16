//! The admin port: metrics, health, status, the status page, refresh, unlatch and reload
//! ([Admin port](crate::promises#admin-port)). axum over HTTP/1.1; loopback or a Unix socket.

mod advice;
pub mod auth;
mod by_hand;
mod exposition;
mod guardrail;
mod health;
mod page;
mod seats;
mod serve;
mod status;
mod stream;
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

pub use health::Readiness;
pub use serve::AdminSocket;
pub use status::{ProblemState, StatusPage};

use auth::GuessBrake;
use health::ReadinessMemory;
use seats::PortSeats;
use unread::UnreadAnswers;

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
    pub unread: Arc<UnreadAnswers>,
    /// Those who showed a wrong token.
    pub doubts: Arc<GuessBrake>,
    /// The tokens of `[admin] auth`.
    pub tokens: Arc<CallerSecrets>,
    /// What of readiness was reached once.
    pub reached: Arc<ReadinessMemory>,
}

impl Admin {
    /// Serves everything on `socket`, which is bound to this address where it has one, until
    /// [`Phase::Stopped`].
    pub async fn serve(self, socket: AdminSocket, bound: Option<SocketAddr>) {
        let guarded = Router::new()
            .route("/", get(page::get_page))
            .route("/api/status", get(get_status))
            .route(
                "/api/credentials/{name}/{action}",
                post(by_hand::run_action),
            )
            .route("/api/reload", post(post_reload))
            .route_layer(middleware::from_fn_with_state(
                self.clone(),
                auth::require_auth,
            ))
            // Style and script of the page that asks for the token.
            .merge(page::part_routes())
            .route_layer(middleware::from_fn_with_state(
                (self.clone(), bound),
                guardrail::refuse_foreign,
            ));
        let app = guarded.merge(read_only_routes()).fallback(not_found);
        self.serve_router(socket, app).await;
    }

    /// Serves what kubelet and Prometheus need and nothing else, to any Host, until
    /// [`Phase::Stopped`].
    pub async fn serve_read_only(self, listener: TcpListener) {
        self.serve_router(
            AdminSocket::Tcp(listener),
            read_only_routes().fallback(not_found),
        )
        .await;
    }

    async fn serve_router(self, socket: AdminSocket, app: Router<Self>) {
        let seats = PortSeats::new(seats::MOST);
        self.unread.watch_port(&seats);
        let phase = self.phase.clone();
        serve::serve(socket, app.with_state(self), seats, phase).await;
    }

    /// Notices when this program is ready for the first time, also where nobody asks: what a reload
    /// adds afterwards takes nothing away.
    pub async fn watch_readiness(self) {
        let begun = BootInstant::now();
        while !self.reached.has_reached_all(&self.snapshot.load_full()) {
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
    fn readiness(&self, snapshot: &Snapshot) -> Readiness {
        if self.phase.now() != Phase::Serving {
            return Readiness::NotYet("shutting down".to_owned());
        }
        self.reached.readiness(snapshot)
    }
}

fn read_only_routes() -> Router<Admin> {
    Router::new()
        .route("/metrics", get(get_metrics))
        .route(
            "/livez",
            get(|| async { text_response(StatusCode::OK, "ok\n") }),
        )
        .route("/readyz", get(get_readyz))
        .route("/readyz/{name}", get(get_credential_readyz))
}

async fn get_metrics(State(admin): State<Admin>) -> Response {
    match admin.unread.share_metrics(|| admin.render_metrics()).await {
        Some(body) => respond(
            StatusCode::OK,
            "text/plain; version=0.0.4; charset=utf-8",
            body,
        ),
        None => crowded_response(),
    }
}

async fn get_readyz(State(admin): State<Admin>) -> Response {
    readiness_response(&admin.readiness(&admin.snapshot.load_full()))
}

async fn get_credential_readyz(State(admin): State<Admin>, Path(name): Path<String>) -> Response {
    match admin.snapshot.load_full().credentials.get(&*name) {
        Some(credential) => readiness_response(&health::credential_readiness(credential)),
        None => text_response(StatusCode::NOT_FOUND, "no such credential\n"),
    }
}

fn readiness_response(verdict: &Readiness) -> Response {
    match verdict {
        Readiness::Ready => text_response(StatusCode::OK, "ok\n"),
        Readiness::NotYet(why) => {
            text_response(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n"))
        }
    }
}

async fn get_status(State(admin): State<Admin>) -> Response {
    large_response(&admin, StatusCode::OK, "application/json", || {
        json_bytes(&StatusPage::collect(&admin))
    })
    .await
}

/// What `POST /api/reload` answers.
#[derive(serde::Serialize)]
struct ReloadAnswer {
    outcome: &'static str,
    /// Of the configuration that runs now.
    generation: u64,
    problems: Vec<ProblemState>,
    restart: Vec<&'static str>,
}

async fn post_reload(State(admin): State<Admin>) -> Response {
    admin.metrics.asked_by_hand("", "reload");
    let outcome = admin.reloader.reload().await;
    let (status, problems) = match &outcome {
        ReloadOutcome::Refused(problems) => (
            StatusCode::UNPROCESSABLE_ENTITY,
            problems.iter().map(ProblemState::from_problem).collect(),
        ),
        ReloadOutcome::Applied { .. } | ReloadOutcome::Unchanged => (StatusCode::OK, Vec::new()),
    };
    let (generation, restart) = (
        admin.snapshot.load().generation,
        admin.reloader.needs_restart(),
    );
    let answer = ReloadAnswer {
        outcome: status::outcome_word(&outcome),
        generation,
        problems,
        restart,
    };
    large_response(&admin, status, "application/json", || json_bytes(&answer)).await
}

async fn not_found() -> Response {
    text_response(StatusCode::NOT_FOUND, "not found\n")
}

fn text_response(status: StatusCode, body: impl Into<String>) -> Response {
    respond(
        status,
        "text/plain; charset=utf-8",
        body.into().into_bytes(),
    )
}

/// An answer that may be large: it is made once there is room for it.
async fn large_response(
    admin: &Admin,
    status: StatusCode,
    content_type: &'static str,
    render: impl FnOnce() -> Vec<u8>,
) -> Response {
    match admin.unread.hold(render).await {
        Some(body) => respond(status, content_type, body),
        None => crowded_response(),
    }
}

fn crowded_response() -> Response {
    let mut response = text_response(
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
