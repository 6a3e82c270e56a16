//! What was decided for one request, and what is known of it so far.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use crate::{
    clock::BootInstant,
    credential::{Credential, Injection, PartitionKey},
    redact::HiddenWord,
    snapshot::Snapshot,
    telemetry::Metrics,
    upstream::Upstream,
};

use super::{
    outgoing::Outgoing,
    pace::Pace,
    places::{Place, UnderWay},
    reply::Reply,
    trace::TraceId,
};

/// The proof that a request has a route, and a token where it needs one: nothing is sent without
/// it.
pub struct Chosen {
    /// The upstream that the request is for.
    pub upstream: Arc<Upstream>,
    /// Path and query to send, before anything is injected.
    pub path: String,
    /// What was taken off the path, for Location; `None` where the match was not by path.
    pub stripped: Option<Arc<str>>,
    /// What the request is sent with.
    pub access: Access,
    /// What was made of tokens and secrets for this request alone, and must not come back.
    pub made: Vec<HiddenWord>,
}

/// What lets the request in.
pub enum Access {
    /// The client's own headers.
    Own,
    /// What we inject.
    Credential {
        /// Whose tokens they are.
        credential: Arc<Credential>,
        /// Which of its token sets.
        partition: PartitionKey,
        /// Header values and more, rendered from the tokens at hand.
        presented: Arc<Injection>,
    },
}

/// What kind of connection a request needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Speaks {
    /// HTTP/1.1, or HTTP/2 where both sides can.
    Http,
    /// HTTP/2 is a must.
    Grpc,
    /// The connection becomes another protocol's (WebSocket).
    Upgrade,
}

/// One request's state, from its head to its log line.
pub struct Ctx {
    /// The configuration that it sees from beginning to end.
    pub snapshot: Arc<Snapshot>,
    /// When its head had been read.
    pub started: BootInstant,
    /// What was decided, once it was.
    pub chosen: Option<Chosen>,
    /// Set where a later phase found the reason for an error that pingora only carries.
    pub refusal: Option<Reply>,
    /// There where it is being sent once more. Counted before the request ceases to be in flight.
    pub replay: Option<Replay>,
    /// Counts it as one in flight, once its upstream is known.
    pub flight: Option<Flight>,
    /// Times `upstream_peer` was called: pingora's own bound is shared by all reasons for a retry.
    pub tries: usize,
    /// Interim (1xx) answers so far.
    pub interim: usize,
    /// The upstream's addresses, once its name was looked up.
    pub addresses: Option<Arc<[SocketAddr]>>,
    /// Index of the address in use.
    pub address: usize,
    /// What kind of connection it needs.
    pub speaks: Speaks,
    /// For the access log: our error code, where the answer was ours.
    pub code: Option<&'static str>,
    /// For the access log: the status that was sent, 0 before.
    pub status: u16,
    /// The answer's end is the end of its connection.
    pub open_ended: bool,
    /// For our lines about it.
    pub trace: Option<TraceId>,
    /// Set where the body has a known length.
    pub(super) pace: Option<Pace>,
    /// Of the body of this try.
    pub(super) outgoing: Outgoing,
    /// The right to be at the upstream; kept over all tries.
    pub(super) place: Option<Place>,
    _under_way: UnderWay,
}

impl Ctx {
    pub(super) fn new(snapshot: Arc<Snapshot>, under_way: UnderWay) -> Self {
        Self {
            snapshot,
            started: BootInstant::now(),
            chosen: None,
            refusal: None,
            flight: None,
            replay: None,
            tries: 0,
            interim: 0,
            addresses: None,
            address: 0,
            speaks: Speaks::Http,
            code: None,
            status: 0,
            open_ended: false,
            trace: None,
            pace: None,
            outgoing: Outgoing::default(),
            place: None,
            _under_way: under_way,
        }
    }

    /// The trace it belongs to, where its client names one.
    #[must_use]
    pub fn trace_id(&self) -> Option<&str> {
        self.trace.as_ref().map(TraceId::as_str)
    }

    /// `""` where none matched.
    #[must_use]
    pub fn upstream(&self) -> &str {
        self.flight.as_ref().map_or("", |f| &f.upstream)
    }
}

/// Counts a request in flight, and down again however it ends.
pub struct Flight {
    metrics: Metrics,
    upstream: Arc<str>,
    begun: BootInstant,
    /// The vendor's status, once it is what the client gets.
    answered: Option<u16>,
}

impl Flight {
    /// Counts it from now; it began at `begun`.
    #[must_use]
    pub fn begin(metrics: &Metrics, upstream: &Arc<str>, begun: BootInstant) -> Self {
        metrics.request_begin(upstream);
        Self {
            metrics: metrics.clone(),
            upstream: upstream.clone(),
            begun,
            answered: None,
        }
    }
    /// The upstream's name.
    pub fn name(&self) -> &Arc<str> {
        &self.upstream
    }
    /// The vendor's answer with this status is what the client gets.
    pub fn answered(&mut self, status: u16) {
        self.answered = Some(status);
    }
    /// The answer was begun but cannot be finished.
    pub fn broken(&mut self) {
        self.answered = None;
    }
    /// How long ago the request began.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.begun.until(BootInstant::now())
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        match self.answered {
            Some(status) => {
                self.metrics
                    .request_end(&self.upstream, status, self.age().as_secs_f64());
            }
            None => self.metrics.request_aborted(&self.upstream),
        }
    }
}

/// A request that is being sent once more; unless it is told otherwise, it failed.
pub struct Replay {
    metrics: Metrics,
    upstream: Arc<str>,
    outcome: &'static str,
}

impl Replay {
    /// One whose outcome is still open.
    #[must_use]
    pub fn begin(metrics: &Metrics, upstream: &Arc<str>) -> Self {
        Self {
            metrics: metrics.clone(),
            upstream: upstream.clone(),
            outcome: "failed",
        }
    }
    /// The vendor took the new token.
    pub fn worked(&mut self) {
        self.outcome = "ok";
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        self.metrics.replay_considered(&self.upstream, self.outcome);
    }
}
