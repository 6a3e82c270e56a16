//! What the engine asks of the world: prepare a token call, send it, and hear of what happened.

use std::{collections::BTreeMap, future::Future, pin::Pin, sync::Arc, time::Duration};

use zeroize::Zeroizing;

use super::{guard::GuardKey, slot::Token};
use crate::clock::BootInstant;

/// A boxed future that may be sent between threads.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// One token's way of being fetched.
pub trait Fetch: Send + Sync {
    /// Reads the secrets once, renders the request; nothing is sent yet. `parents` are the tokens
    /// this one is made with, in the order of the profile.
    fn prepare<'a>(
        &'a self,
        parents: &'a [Arc<Token>],
    ) -> BoxFuture<'a, Result<Box<dyn PreparedCall>, Failure>>;
    /// Told of everything worth counting or logging.
    fn report(&self, event: KeeperEvent<'_>);
}

/// A token call that is ready to go.
pub trait PreparedCall: Send {
    /// What the guard counts against; `None` where no secret is sent (then nothing is counted).
    fn key(&self) -> Option<&GuardKey>;
    /// Sends it. Assertions are signed here. Has its own total timeout.
    fn send(self: Box<Self>) -> BoxFuture<'static, Result<Issued, Failure>>;
}

/// A token as the vendor gave it.
#[derive(Clone)]
pub struct Issued {
    /// 1 to 16 KiB of visible ASCII.
    pub value: Arc<Zeroizing<String>>,
    /// When the request was sent; the life counts from here.
    pub sent: BootInstant,
    /// The smallest plausible of what the answer says; `None`: nothing usable was said.
    pub life: Option<Duration>,
    /// The answer named a lifetime that was ignored.
    pub implausible: bool,
    /// `response.vars`.
    pub vars: BTreeMap<String, String>,
}

/// Classes of failed attempts (CONTRACT 2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FailureClass {
    /// Try again with backoff.
    Retry,
    /// The vendor said how long to wait.
    Throttled,
    /// The vendor refuses our secret.
    Rejected,
    /// The answer makes no sense or a parameter is wrong.
    Config,
    /// A secret could not be read; nothing was sent.
    Unreadable,
}

/// A failed attempt, scrubbed of secrets, ready to be shown.
#[derive(Debug, Clone)]
pub struct Failure {
    pub class: FailureClass,
    /// The vendor's status, where there was an answer.
    pub status: Option<u16>,
    /// One line in plain words: `error` and at most 200 characters of `error_description`, or what
    /// broke.
    pub error: String,
    /// How long the vendor (or a rule's `hold`) wants us to wait.
    pub wait: Option<Duration>,
    /// The refusal speaks of the client (`invalid_client`, bare 401), not of one partition. With
    /// [`FailureClass::Config`]: it was a refusal, which is blamed on a clock; an account's budget counts
    /// it all the same.
    pub client_refused: bool,
    /// The call hung until its timeout.
    pub timed_out: bool,
}

impl Failure {
    /// One that the vendor did not speak of: no answer, no wish how long to wait.
    #[must_use]
    pub fn own(class: FailureClass, error: &str) -> Self {
        Self {
            class,
            status: None,
            error: error.to_owned(),
            wait: None,
            client_refused: false,
            timed_out: false,
        }
    }
}

/// What a keeper tells of its work. One event, one function on the other side: it counts and it
/// logs.
#[derive(Debug)]
pub enum KeeperEvent<'a> {
    /// A call ended well.
    Issued {
        took: Duration,
        unchanged: bool,
        implausible: bool,
        token: &'a Token,
    },
    /// A call, or its preparation, failed. `held`: how long until the next attempt, `None` for
    /// "until the secret changes".
    Failed {
        took: Duration,
        failure: &'a Failure,
        next: Option<Duration>,
        latched: bool,
    },
    /// The guard's memory cannot be read or written.
    NoMemory,
    /// Unused for `rest_after`.
    Resting,
}
