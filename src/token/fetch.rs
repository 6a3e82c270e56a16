//! What the engine asks of the world: prepare a token call, send it, and hear of what happened.

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;

use super::model::{Failure, GuardKey, Issued, Token};

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
