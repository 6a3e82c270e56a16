//! The data port as `listen` sees it: heads are judged here before pingora reads them.

use std::sync::Arc;

use arc_swap::ArcSwap;
use futures_util::{FutureExt, future::BoxFuture};
use pingora_core::{
    apps::HttpServerOptions,
    protocols::http::v2::server::{H2Options, default_h2_options},
    server::configuration::ServerConf,
};
use pingora_proxy::{HttpProxy, http_proxy};

use super::{
    Proxy, admit,
    auth::Gate,
    downgrade::Downgrades,
    head::{self, Sound},
    peer::Trust,
    places::Places,
    reply::{Cause, Reply},
    resolve::Resolver,
};
use crate::{
    config::RequestLimits,
    listen::{Answer, Descriptors, Handler, Limits as Caps, Seen},
    snapshot::Snapshot,
    telemetry::Metrics,
};

/// All tries of one request: several addresses, a lost connection, one replay.
pub const TRIES: usize = 8;
/// HTTP/2 streams a client may have open on one connection.
const STREAMS: u32 = 250;

/// The data port: what [`listen::serve`](crate::listen::serve) asks about each connection, and what
/// requests are handed to.
pub struct Front {
    app: Arc<HttpProxy<Proxy>>,
    snapshot: Arc<ArcSwap<Snapshot>>,
    metrics: Metrics,
    gate: Arc<Gate>,
}

/// The data port over what runs now.
#[must_use]
pub fn front(snapshot: Arc<ArcSwap<Snapshot>>, metrics: Metrics) -> Arc<Front> {
    front_with(snapshot, metrics, Resolver::default())
}

/// The data port over what runs now, with `resolver` as the source of addresses.
#[must_use]
pub fn front_with(
    snapshot: Arc<ArcSwap<Snapshot>>,
    metrics: Metrics,
    resolver: Resolver,
) -> Arc<Front> {
    let now = snapshot.load();
    let descriptors = Descriptors::of_this_process();
    let idle: usize = now
        .upstreams
        .iter()
        .map(|s| s.upstream.pool.connections)
        .sum();
    let conf = ServerConf {
        max_retries: TRIES,
        threads: 1,
        upstream_keepalive_pool_size: idle.clamp(1, descriptors.idle().max(1)),
        ..ServerConf::default()
    };
    let gate = Arc::new(Gate::default());
    let places = Places::new(descriptors.vendors());
    for upstream in now
        .upstreams
        .iter()
        .map(|served| &served.upstream)
        .filter(|u| u.pool.requests > places.most_of_one())
    {
        let (upstream, configured, most) =
            (&upstream.name, upstream.pool.requests, places.most_of_one());
        tracing::warn!(%upstream, "pool.requests = {configured}, but half of what the limit of open files (ulimit -n) leaves for vendors is {most}");
    }
    let proxy = Proxy {
        snapshot: snapshot.clone(),
        metrics: metrics.clone(),
        resolver,
        trust: Trust::default(),
        downgrades: Downgrades::default(),
        gate: gate.clone(),
        places,
    };
    let mut app = http_proxy(&Arc::new(conf), proxy);
    let mut options = HttpServerOptions::default();
    options.h2c = true;
    // HTTP/1 never asks for it here (see `judge`); over HTTP/2 the refusal is ours, like any other.
    options.allow_connect_method_proxying = true;
    options.h2_idle_timeout = Some(now.config.proxy.limits.idle);
    app.server_options = Some(options);
    app.h2_options = Some(h2(now.config.proxy.limits));
    drop(now);
    Arc::new(Front {
        app: Arc::new(app),
        snapshot,
        metrics,
        gate,
    })
}

/// Bounded, for a connection from anyone (CVE-2026-105297).
fn h2(limits: RequestLimits) -> H2Options {
    let mut options = default_h2_options();
    let bytes = limits
        .header_bytes
        .saturating_add(limits.uri_bytes)
        .saturating_add(limits.headers.saturating_mul(32));
    options
        .max_header_list_size(u32::try_from(bytes).unwrap_or(u32::MAX))
        .max_concurrent_streams(STREAMS);
    options
}

impl Front {
    /// What is answered to a head, and what is waited for before; `None`: it may go on.
    fn judge(
        &self,
        head: &[u8],
        snapshot: &Snapshot,
    ) -> Option<(Reply, Option<BoxFuture<'static, ()>>)> {
        let proxy = &snapshot.config.proxy;
        match head::judge(head, proxy.limits) {
            Ok(Sound::Request) => None,
            Err(reply) => Some((reply, None)),
            Ok(Sound::Connect {
                authority,
                proxy_authorization,
            }) => {
                let sources = &proxy.client_auth;
                let known = if sources.is_empty() {
                    Ok(())
                } else {
                    self.gate.check_here(sources, proxy_authorization)
                };
                let Err(denied) = known else {
                    return Some((admit::connect(snapshot, authority), None));
                };
                let doubts = self.gate.doubts().clone();
                Some((
                    denied.reply,
                    denied
                        .wrong
                        .then(|| async move { doubts.pass().await }.boxed()),
                ))
            }
        }
    }
}

impl Handler for Front {
    type App = HttpProxy<Proxy>;

    fn app(&self) -> &Arc<HttpProxy<Proxy>> {
        &self.app
    }

    fn limits(&self) -> Caps {
        let limits = self.snapshot.load().config.proxy.limits;
        Caps {
            connections: limits.connections,
            head_bytes: limits.header_bytes.saturating_add(limits.uri_bytes),
            header_timeout: limits.header_timeout,
            idle: limits.idle,
        }
    }

    fn answer(&self, seen: Seen<'_>) -> Option<Answer> {
        let snapshot = self.snapshot.load();
        let limits = snapshot.config.proxy.limits;
        let (mut head_request, mut after) = (false, None);
        let reply = match seen {
            Seen::Head(head) => {
                head_request = head.starts_with(b"HEAD ");
                let (reply, wait) = self.judge(head, &snapshot)?;
                after = wait;
                reply
            }
            Seen::Draining(head) => {
                head_request = head.starts_with(b"HEAD ");
                Reply::new(Cause::Draining, "no new requests are taken")
            }
            Seen::TooLarge(head) => head::too_large_unread(head, limits),
            Seen::Malformed => Reply::new(
                Cause::BadRequest,
                "this is no HTTP/1 request: each line of its head ends in CR LF",
            ),
            Seen::TooSlow => Reply::new(
                Cause::RequestTimeout,
                "the head of the request was not complete within proxy.limits.header_timeout",
            ),
            Seen::Crowded => Reply::new(
                Cause::Overloaded,
                "the unfinished heads of all connections hold 8 MiB, and this one is the newest",
            ),
            Seen::Overloaded => Reply::new(Cause::Overloaded, "proxy.limits.connections are open"),
        };
        self.metrics.request_refused(&reply.told(None));
        Some(Answer {
            bytes: reply.raw(head_request),
            after,
        })
    }
}
