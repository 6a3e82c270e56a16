//! A vendor API we forward to, as configuration says.

use std::{sync::Arc, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    document::{DurationSchema, duration},
    route,
    tls::Tls,
};

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
    /// Unused connections that are kept, and how many requests may be there.
    pub pool: UpstreamPool,
    /// Who is trusted there, and who we are.
    pub tls: Tls,
}

/// `replay`: what may be sent again after a 401.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ReplayPolicy {
    /// Every method: a 401 says that nothing was carried out (RFC 9110 15.5.2).
    Any,
    /// The idempotent methods alone (RFC 9110 9.2.2).
    Idempotent,
    /// Nothing: the vendor's 401 goes on.
    Never,
}

/// `timeouts`: how long one request waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct UpstreamTimeouts {
    /// For a place at the upstream, and for a connection, its TLS handshake included.
    #[serde(with = "duration")]
    #[schemars(with = "DurationSchema", extend("x-least" = "1ms", "x-most" = "10m"))]
    pub connect: Duration,
    /// For the vendor's next bytes, the first ones included.
    #[serde(with = "duration")]
    #[schemars(with = "DurationSchema", extend("x-least" = "1ms", "x-most" = "30d"))]
    pub read: Duration,
    /// For a token.
    #[serde(with = "duration")]
    #[schemars(with = "DurationSchema", extend("x-least" = "0s", "x-most" = "1d"))]
    pub token: Duration,
}

impl Default for UpstreamTimeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            read: Duration::from_secs(60),
            token: Duration::from_secs(15),
        }
    }
}

/// `pool`: connections kept open, and how many requests share them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct UpstreamPool {
    /// How long an idle connection is kept.
    #[serde(with = "duration")]
    #[schemars(with = "DurationSchema", extend("x-least" = "0s", "x-most" = "1d"))]
    pub idle: Duration,
    /// How many are kept.
    #[schemars(range(max = 100_000))]
    pub connections: usize,
    /// Requests that may be there at the same time; more wait in order of arrival,
    /// `timeouts.connect` at most.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub requests: usize,
}

impl Default for UpstreamPool {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(30),
            connections: 64,
            requests: 1024,
        }
    }
}
