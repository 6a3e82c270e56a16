//! A vendor API we forward to, as configuration says.

use std::{sync::Arc, time::Duration};

use crate::{route, tls::Tls};

#[derive(Debug, Clone, PartialEq)]
pub struct Upstream {
    pub name: Arc<str>,
    pub target: route::Target,
    /// `None` is `credential = "none"`.
    pub credential: Option<Arc<str>>,
    pub replay: Replay,
    pub rewrite_location: bool,
    /// Upstreams with another credential to which its answers may lead.
    pub redirects_to: Vec<Arc<str>>,
    /// ALPN may choose HTTP/2.
    pub http2: bool,
    pub timeouts: Timeouts,
    pub pool_idle: Duration,
    pub pool_connections: usize,
    /// Requests there at the same time; more wait, `timeouts.connect` at most.
    pub pool_requests: usize,
    pub tls: Tls,
}

/// `replay`: what may be sent again after a 401.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replay {
    Any,
    Idempotent,
    Never,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    pub connect: Duration,
    pub read: Duration,
    pub token: Duration,
}
