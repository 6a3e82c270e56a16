//! Why a request gets no token; knows nothing of HTTP.

use std::{sync::Arc, time::Duration};

use crate::token::{Failure, FailureClass, Unavailable, UnavailableReason};

/// Why a request gets no token.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// What kind it is.
    pub reason: Reason,
    /// The token at fault.
    pub token: Option<Arc<str>>,
    /// When it is worth asking again, where that is known.
    pub retry_after: Option<Duration>,
    /// The last failed attempt, scrubbed.
    pub failure: Option<Arc<Failure>>,
}

/// The kinds of [`Refusal`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// There is none, and none came in time.
    NoToken(UnavailableReason),
    /// More than `max_waiters` wait.
    Overloaded,
}

impl Refusal {
    pub(super) fn unreadable(why: &str) -> Self {
        Self::local(UnavailableReason::Unreadable, FailureClass::Unreadable, why)
    }
    pub(super) fn unrenderable(why: &str) -> Self {
        Self::local(UnavailableReason::Misconfigured, FailureClass::Config, why)
    }
    fn local(why: UnavailableReason, class: FailureClass, error: &str) -> Self {
        let failure = Failure {
            class,
            status: None,
            error: error.to_owned(),
            wait: None,
            client_refused: false,
            timed_out: false,
        };
        Self {
            reason: Reason::NoToken(why),
            token: None,
            retry_after: None,
            failure: Some(Arc::new(failure)),
        }
    }
}

impl From<Unavailable> for Refusal {
    fn from(u: Unavailable) -> Self {
        Self {
            reason: Reason::NoToken(u.reason),
            token: Some(u.token),
            retry_after: u.retry_after,
            failure: u.failure,
        }
    }
}
