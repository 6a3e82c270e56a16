//! A token for a request: taken, waited for, taken again after a 401.

use std::{future::Future, sync::Arc, time::Duration};

use futures_util::FutureExt;
use http::{StatusCode, header};
use pingora_core::protocols::http::ServerSession;
use pingora_http::ResponseHeader;
use pingora_proxy::Session;

use super::{
    challenge,
    chosen::{Access, Chosen},
    reply::{Cause, Reply},
};
use crate::{
    clock::BootInstant,
    credential::{
        Credential, Injection, PartitionKey, Refusal, RefusalReason, UnauthorizedOutcome,
    },
    listen,
    profile::model::{RuleMeaning, RuleSide, StatusMatch},
    token::{FailureKind, UnavailableReason},
    upstream::{ReplayPolicy, Upstream},
};

/// Bytes of a request body that pingora keeps to send them once more.
const RETRY_BUFFER: u64 = 64 * 1024;

/// Why there is no answer to give.
#[derive(Debug)]
pub enum Stop {
    /// The client is to be told this.
    Refuse(Box<Reply>),
    /// The client has left.
    Gone,
}

impl From<Reply> for Stop {
    fn from(reply: Reply) -> Self {
        Self::Refuse(Box::new(reply))
    }
}

/// Which of a credential's token sets the request is for.
///
/// # Errors
/// 400 `partition_invalid`: a selecting header is missing, repeated, or does not fit its pattern.
pub fn partition(
    credential: &Credential,
    headers: &http::HeaderMap,
) -> Result<PartitionKey, Reply> {
    credential.partition(headers).map_err(|e| {
        let mut reply = Reply::new(
            Cause::PartitionError,
            format!(
                "the header {} is missing, repeated, or does not fit its pattern",
                e.0
            ),
        );
        reply.credential = Some(credential.name().clone());
        reply
    })
}

/// What to place; waits with the upstream's patience, and no longer than the client does.
///
/// # Errors
/// [`Stop`]: there is no token in time, or the client has left before there was one.
pub async fn present(
    session: &mut Session,
    upstream: &Upstream,
    credential: &Credential,
    partition: &PartitionKey,
) -> Result<Arc<Injection>, Stop> {
    if let Some(presented) = credential.ready_injection(partition) {
        return Ok(presented);
    }
    let until = BootInstant::now().after(upstream.timeouts.token);
    let result = while_there(session, credential.wait_for_injection(partition, until))
        .await
        .ok_or(Stop::Gone)?;
    result.map_err(|refusal| refused(&refusal, credential, Some(&upstream.name)).into())
}

/// Runs `work`, or gives up when the client has left; pingora does not watch it meanwhile. What the
/// client sends is not read: the vendor gets it.
pub async fn while_there<T>(session: &mut Session, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        done = work => Some(done),
        () = left(session) => None,
    }
}

/// Whether the client is known to have left: nobody waits for an answer, so nothing is to be done
/// at the vendor's any more.
pub fn has_left(session: &mut Session) -> bool {
    match &mut *session.downstream_session {
        ServerSession::H1(h1) => listen::has_left(h1.stream()),
        _ => left(session).now_or_never().is_some(),
    }
}

async fn left(session: &mut Session) {
    match &mut *session.downstream_session {
        ServerSession::H1(h1) => listen::left(h1.stream()).await,
        // The stream was reset, or its connection is gone.
        ServerSession::H2(h2) => drop(h2.idle().await),
        // There are no others here.
        _ => std::future::pending().await,
    }
}

/// The refusal ([Refusals](crate::promises#refusals)) for a credential that has no token to give.
#[must_use]
pub fn refused(refusal: &Refusal, credential: &Credential, upstream: Option<&Arc<str>>) -> Reply {
    // No token is to blame: its own templates are, or a secret's value. The reason says nothing of
    // values.
    let unplaceable = refusal.failure.as_ref().filter(|_| refusal.token.is_none());
    let unplaceable = unplaceable
        .map(|f| format!("what this credential places into requests cannot be made: {f}"));
    let kind = refusal.failure.as_ref().map(|f| &f.kind);
    // Our own words, in which a stranger's are quoted and cut.
    let distrusted = kind
        .and_then(FailureKind::distrust)
        .map(|failure| format!("the token endpoint cannot be trusted: its {failure}"));
    let forgetful = kind.filter(|kind| **kind == FailureKind::GuardMemory);
    let forgetful = forgetful.map(|_| "the guard's memory ([state] dir) cannot be read or written, so no token call is made; see the log");
    let (cause, detail) = match refusal.reason {
        RefusalReason::Overloaded => (
            Cause::TokenOverloaded,
            "more requests wait for this token than guard.max_waiters allows",
        ),
        RefusalReason::NoToken(UnavailableReason::Hanging) => (
            Cause::TokenTimeout,
            "the token endpoint did not answer within timeouts.token",
        ),
        RefusalReason::NoToken(UnavailableReason::Down) => (
            Cause::TokenUnavailable,
            distrusted
                .as_deref()
                .or(forgetful)
                .unwrap_or("the token endpoint is down, throttles us, or its budget is used up"),
        ),
        RefusalReason::NoToken(UnavailableReason::Rejected) => (
            Cause::TokenRejected,
            "the token endpoint refuses our secret; see the log and /api/status",
        ),
        RefusalReason::NoToken(UnavailableReason::Misconfigured) => (
            Cause::TokenMisconfigured,
            unplaceable.as_deref().unwrap_or(
                "the token endpoint's answer makes no sense, or a parameter is wrong; see the log",
            ),
        ),
        RefusalReason::NoToken(UnavailableReason::Unreadable) => (
            Cause::SecretUnreadable,
            "a secret of this credential is missing, empty or not readable; see the log",
        ),
    };
    let mut reply = Reply::new(cause, detail);
    reply.credential = Some(credential.name().clone());
    reply.token.clone_from(&refusal.token);
    reply.upstream = upstream.cloned();
    reply.retry_after = refusal.retry_after.map(|d| d.min(Duration::from_hours(1)));
    reply
}

/// What the vendor's answer says of the token it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It was accepted.
    Good,
    /// It was refused: a newer one is needed.
    Stale,
    /// The vendor's answer goes on; it says nothing of the token.
    Silent,
}

/// The profile's rules for API answers decide first, then the status and its challenge
/// ([A 401](crate::promises#a-401)).
#[must_use]
pub fn verdict(response: &ResponseHeader, credential: &Credential) -> Verdict {
    let status = response.status.as_u16();
    let fits = |m: &StatusMatch| match *m {
        StatusMatch::Exact(code) => code == status,
        StatusMatch::Class(class) => class == status / 100,
    };
    let rules = credential
        .profile()
        .errors
        .iter()
        .filter(|r| r.at == RuleSide::Api && r.path.is_none());
    for rule in rules {
        if rule.status.is_empty() || rule.status.iter().any(fits) {
            return if rule.then == RuleMeaning::StaleToken {
                Verdict::Stale
            } else {
                Verdict::Silent
            };
        }
    }
    if response.status != StatusCode::UNAUTHORIZED {
        return Verdict::Good;
    }
    if challenge::insufficient_scope(&response.headers) {
        Verdict::Good
    } else {
        Verdict::Stale
    }
}

/// Whether a request may be sent once more, or the reason that is counted.
///
/// # Errors
/// The label `outcome` of the metric: `skipped_policy` (the upstream's `replay` forbids it) or
/// `skipped_body` (more than 64 KiB of body).
pub fn may_replay(session: &Session, upstream: &Upstream) -> Result<(), &'static str> {
    let allowed = match upstream.replay {
        ReplayPolicy::Any => true,
        ReplayPolicy::Idempotent => session.req_header().method.is_idempotent(),
        ReplayPolicy::Never => false,
    };
    if !allowed {
        return Err("skipped_policy");
    }
    // What is announced counts, not what has come so far: a 401 may come in the middle of an
    // upload.
    let announced = session
        .req_header()
        .headers
        .get(header::CONTENT_LENGTH)
        .and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|n| n > RETRY_BUFFER) || session.as_ref().retry_buffer_truncated() {
        return Err("skipped_body");
    }
    Ok(())
}

/// The token was refused and the request is not to be sent again: nobody waits for the refresh that
/// this may cause.
pub fn report_refused(chosen: &Chosen) {
    if let Access::Credential {
        credential,
        partition,
        presented,
    } = &chosen.access
    {
        credential.note_refused(partition, presented);
    }
}

/// Waits for the token after the refused one; false: the vendor's answer goes on. `None`: the
/// client has left.
pub async fn renew(session: &mut Session, chosen: &mut Chosen) -> Option<bool> {
    let Access::Credential {
        credential,
        partition,
        presented,
    } = &mut chosen.access
    else {
        return Some(false);
    };
    let until = BootInstant::now().after(chosen.upstream.timeouts.token);
    match while_there(
        session,
        credential.renew_after_401(partition, presented, until),
    )
    .await?
    {
        UnauthorizedOutcome::Replay(newer) => {
            *presented = newer;
            Some(true)
        }
        UnauthorizedOutcome::Pass => Some(false),
    }
}
