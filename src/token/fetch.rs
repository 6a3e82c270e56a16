//! What the engine asks of the world: prepare a token call, send it, and hear of what happened.

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;

use super::{
    failure::Failure,
    model::{GuardKey, Issued, Token},
};

/// One token's way of being fetched.
pub trait Fetch: Send + Sync {
    /// Renders the request with the secrets that are believed now, all of one reading; nothing is
    /// sent yet. `parents` are the tokens this one is made with, in the order of the profile. A
    /// failure says why there can be no request: a secret that cannot be read, a template or key
    /// that cannot be used.
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
    /// Sends it and reads the answer. Assertions are signed here, so that each attempt has its own.
    /// Has its own total timeout.
    fn send(self: Box<Self>) -> BoxFuture<'static, Result<Issued, Failure>>;
}

/// What a keeper tells of its work. One event, one function on the other side: it counts and it
/// logs.
#[derive(Debug)]
pub enum KeeperEvent<'a> {
    /// A call ended well.
    Issued {
        /// The call.
        took: Duration,
        /// The vendor gave the token again that was held already.
        unchanged: bool,
        /// The answer named a lifetime that was ignored.
        implausible: bool,
        /// What is in the slot now.
        token: &'a Token,
    },
    /// A call, or its preparation, failed.
    Failed {
        /// The call, or its preparation.
        took: Duration,
        /// Why, scrubbed.
        failure: &'a Failure,
        /// How long until the next attempt; `None`: not before the secret changes or a person
        /// unlatches.
        next: Option<Duration>,
        /// Refusals have used up what there was.
        latched: bool,
    },
    /// The guard's memory cannot be read or written.
    NoMemory,
    /// Unused for `rest_after`.
    Resting,
}
