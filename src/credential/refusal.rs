//! Why a request gets no token; knows nothing of HTTP.

use std::{sync::Arc, time::Duration};

use crate::token::{Failure, FailureClass, FailureKind, Unavailable, UnavailableReason};

/// Why a request gets no token.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// What kind it is.
    pub reason: RefusalReason,
    /// The token at fault.
    pub token: Option<Arc<str>>,
    /// When it is worth asking again, where that is known.
    pub retry_after: Option<Duration>,
    /// The last failed attempt, scrubbed.
    pub failure: Option<Arc<Failure>>,
}

/// The kinds of [`Refusal`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalReason {
    /// There is none, and none came in time.
    NoToken(UnavailableReason),
    /// More than `max_waiters` wait.
    Overloaded,
}

impl Refusal {
    pub(super) fn unreadable(why: &str) -> Self {
        let kind = FailureKind::SecretUnreadable(why.to_owned());
        Self::local(
            UnavailableReason::Unreadable,
            Failure::own(FailureClass::Unreadable, kind),
        )
    }
    pub(super) fn unrenderable(why: &str) -> Self {
        let kind = FailureKind::Unsendable(why.to_owned());
        Self::local(
            UnavailableReason::Misconfigured,
            Failure::own(FailureClass::Config, kind),
        )
    }
    fn local(reason: UnavailableReason, failure: Failure) -> Self {
        Self {
            reason: RefusalReason::NoToken(reason),
            token: None,
            retry_after: None,
            failure: Some(Arc::new(failure)),
        }
    }
}

impl From<Unavailable> for Refusal {
    fn from(u: Unavailable) -> Self {
        Self {
            reason: RefusalReason::NoToken(u.reason),
            token: Some(u.token),
            retry_after: u.retry_after,
            failure: u.failure,
        }
    }
}
