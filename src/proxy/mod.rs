//! The data port: a request's way through pingora, each phase a few lines.

pub mod access;
pub mod admit;
pub mod answer;
pub mod auth;
pub mod challenge;
pub mod chosen;
mod downgrade;
pub mod echo;
mod enter;
pub mod failure;
mod filter;
pub mod front;
pub mod head;
pub mod inject;
pub mod location;
pub mod outgoing;
mod pace;
mod patient;
pub mod peer;
mod places;
pub mod reply;
pub mod resolve;
mod trace;
mod vend;

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::{snapshot::Snapshot, telemetry::Metrics};
pub use front::{Front, front, front_with};

/// What all requests share.
pub struct Proxy {
    /// What runs now; each request loads it once.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// Where requests are counted.
    pub metrics: Metrics,
    /// Addresses of upstreams.
    pub resolver: resolve::Resolver,
    /// What the files of upstreams' `tls` tables hold.
    pub trust: peer::Trust,
    /// Upstreams to which HTTP/1.1 is spoken for a while, since their HTTP/2 broke.
    pub downgrades: downgrade::Downgrades,
    /// The callers' shared secret.
    pub gate: Arc<auth::Gate>,
    places: places::Places,
}
