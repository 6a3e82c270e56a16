//! What is done to a vendor, for how long, and which failures of requests that explains.

use std::time::{Duration, Instant};

use rand::{Rng as _, RngExt as _, rngs::StdRng};
use serde_json::json;

use crate::{
    parties::Party,
    support::wire::{Answer, Reply, Step},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    TokenBusy,
    TokenThrottled,
    TokenHangs,
    TokenResets,
    TokenGarbage,
    TokenDown,
    ApiBusy,
    ApiHangs,
    ApiResets,
    ApiCutsShort,
    ApiDown,
    ApiRevokes,
}

use Kind::*;

const ALL: [Kind; 12] = [
    TokenBusy,
    TokenThrottled,
    TokenHangs,
    TokenResets,
    TokenGarbage,
    TokenDown,
    ApiBusy,
    ApiHangs,
    ApiResets,
    ApiCutsShort,
    ApiDown,
    ApiRevokes,
];

/// After a fault of the token endpoint the backoff may last as long as this, and a request that
/// came then is answered later still.
const TOKEN_AFTER: Duration = Duration::from_secs(12);
/// A call to the API hangs no longer than its read timeout; a second passes until a revoked token
/// is replaced.
const API_AFTER: Duration = Duration::from_secs(4);

/// One fault, from its first moment to its last.
#[derive(Debug)]
pub struct Fault {
    pub kind: Kind,
    pub party: usize,
    pub from: Instant,
    pub to: Instant,
}

/// Any of them, for up to three seconds.
pub fn any(random: &mut StdRng) -> (Kind, Duration) {
    (
        ALL[random.random_range(0..ALL.len())],
        Duration::from_millis(200 + u64::from(random.next_u32() % 2800)),
    )
}

/// Does it, and undoes it after `lasts`.
pub async fn inject(party: &Party, kind: Kind, lasts: Duration) {
    let raw = |steps: Vec<Step>| Some(Answer::Raw(steps));
    let reply = |reply: Reply| Some(Answer::Reply(reply));
    let (token, api) = match kind {
        TokenBusy => (
            reply(Reply::json(
                503,
                &json!({ "error": "temporarily_unavailable" }),
            )),
            None,
        ),
        TokenThrottled => (reply(Reply::new(429, "").with("Retry-After", "1")), None),
        TokenHangs => (raw(vec![Step::Hang]), None),
        TokenResets => (raw(vec![Step::Reset]), None),
        TokenGarbage => (
            reply(Reply::new(200, "<html>").with("Content-Type", "text/html")),
            None,
        ),
        ApiBusy => (None, reply(Reply::new(503, "busy"))),
        ApiHangs => (None, raw(vec![Step::Hang])),
        ApiResets => (None, raw(vec![Step::Reset])),
        ApiCutsShort => (
            None,
            raw(vec![Step::Bytes(
                b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc".to_vec(),
            )]),
        ),
        TokenDown | ApiDown | ApiRevokes => (None, None),
    };
    party.issuer.always(token);
    party.api.always(api);
    match kind {
        TokenDown => party.issuer.down().await,
        ApiDown => party.api.down().await,
        ApiRevokes => party.tokens.revoke_all(party.token),
        _ => {}
    }
    tokio::time::sleep(lasts).await;
    party.issuer.always(None);
    party.api.always(None);
    match kind {
        TokenDown => party.issuer.up().await,
        ApiDown => party.api.up().await,
        _ => {}
    }
}

impl Fault {
    /// Would this fault make a request of its vendor, under way from `begun` to `ended`, fail for
    /// this cause?
    pub fn explains(&self, cause: &str, begun: Instant, ended: Instant) -> bool {
        let causes: &[&str] = match self.kind {
            TokenBusy | TokenThrottled | TokenHangs | TokenResets | TokenGarbage | TokenDown => {
                &["token_unavailable", "token_timeout"]
            }
            ApiBusy => &["status 503"],
            ApiHangs => &["upstream_timeout"],
            ApiResets | ApiCutsShort => &["upstream_protocol", "upstream_unreachable", "cut off"],
            ApiDown => &["upstream_unreachable", "upstream_protocol", "cut off"],
            ApiRevokes => &["status 401"],
        };
        let after = if self.kind < ApiBusy {
            TOKEN_AFTER
        } else {
            API_AFTER
        };
        causes.contains(&cause) && ended >= self.from && begun <= self.to + after
    }
}
