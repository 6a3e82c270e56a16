//! A vendor API we forward to, as configuration says.

use std::{sync::Arc, time::Duration};

use crate::{route, tls::Tls};

/// One `[upstreams.NAME]`, with what `[upstream_defaults]` adds. Where it is reached by callers
/// stands in its [`route::RouteRule`].
#[derive(Debug, Clone, PartialEq)]
pub struct Upstream {
    /// Its name in the configuration, and the label `upstream` of metrics.
    pub name: Arc<str>,
    /// `url`: the only origin that its credential's tokens are sent to.
    pub target: route::UpstreamUrl,
    /// The name of its credential; `None` is `credential = "none"`: the client's own headers pass.
    pub credential: Option<Arc<str>>,
    /// What may be sent once more after a 401.
    pub replay: ReplayPolicy,
    /// A Location within `url` is turned into our path, where the request came by path.
    pub rewrite_location: bool,
    /// Upstreams with another credential to which its answers may lead.
    pub redirects_to: Vec<Arc<str>>,
    /// `http2 = "auto"`: ALPN may choose HTTP/2.
    pub http2: bool,
    /// How long one request waits for what.
    pub timeouts: UpstreamTimeouts,
    /// `pool.idle`: an unused connection is closed after this.
    pub pool_idle: Duration,
    /// `pool.connections`: unused connections that are kept.
    pub pool_connections: usize,
    /// `pool.requests`: requests there at the same time; more wait, `timeouts.connect` at most.
    pub pool_requests: usize,
    /// Who is trusted there, and who we are.
    pub tls: Tls,
}

/// `replay`: what may be sent again after a 401.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplayPolicy {
    /// Every method: a 401 says that nothing was carried out (RFC 9110 15.5.2).
    Any,
    /// The idempotent methods alone (RFC 9110 9.2.2).
    Idempotent,
    /// Nothing: the vendor's 401 goes on.
    Never,
}

/// `timeouts`: how long one request waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpstreamTimeouts {
    /// For a place at the upstream, and for a connection, its TLS handshake included.
    pub connect: Duration,
    /// For the vendor's next bytes, the first ones included.
    pub read: Duration,
    /// For a token.
    pub token: Duration,
}
