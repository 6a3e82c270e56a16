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
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    pub metrics: Metrics,
    pub resolver: resolve::Resolver,
    pub trust: peer::Trust,
    pub downgrades: downgrade::Downgrades,
    pub gate: Arc<auth::Gate>,
    places: places::Places,
}
