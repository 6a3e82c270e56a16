//! Where attempts are written down: the seam between the engine and what remembers them.

use std::fmt;

use futures_util::future::BoxFuture;

use super::{
    guard::{AttemptOutcome, AttemptRequest, GuardDecision, GuardStatus},
    model::GuardKey,
    policy::LockoutPolicy,
    queue::TurnQueue,
};

/// Where attempts are written down.
pub trait Ledger: Send + Sync {
    /// Writes an attempt down as spent, if one may be made; with `Ok` it is written
    /// (and on disk, where the ledger is) before this ends. `limits` are those of who asks; the
    /// strictest of all who share the key hold.
    fn spend<'a>(
        &'a self,
        key: &'a GuardKey,
        limits: &'a LockoutPolicy,
        request: &'a AttemptRequest,
    ) -> BoxFuture<'a, GuardDecision<Reservation>>;
    /// Writes down how an attempt ended. Never fails: what cannot be written stays an unknown
    /// outcome, which counts as a refusal does.
    fn settle<'a>(
        &'a self,
        reservation: Reservation,
        outcome: AttemptOutcome,
        limits: &'a LockoutPolicy,
    ) -> BoxFuture<'a, ()>;
    /// Lets one attempt through whatever is counted (an unlatch): no sooner than 30 s after the
    /// last refusal, and after each such attempt that was refused too, twice as long. Writes a
    /// damaged record anew, with nothing counted in it.
    fn clear<'a>(&'a self, key: &'a GuardKey) -> BoxFuture<'a, ()>;
    /// What is counted for the key; `None`: it cannot be read now, and nothing is known of it from
    /// before.
    fn counted<'a>(&'a self, key: &'a GuardKey) -> BoxFuture<'a, Option<GuardStatus>>;
    /// Ends when an attempt of anybody was settled, lost or cleared after this call: worth asking
    /// again after `Busy`.
    fn freed(&self) -> BoxFuture<'static, ()>;
    /// Where those stand who heard `Busy`.
    fn line(&self) -> &TurnQueue;
}

/// One attempt that was written down as spent.
pub struct Reservation {
    /// What it counts against.
    pub key: GuardKey,
    /// Tells the attempts of one ledger apart.
    pub id: u64,
    lost: Option<LostHook>,
}

/// Told when a reservation is dropped unsettled.
type LostHook = Box<dyn FnOnce(&GuardKey, u64) + Send + Sync>;

impl Reservation {
    /// `lost` runs where the reservation is dropped before it is settled; it must not block.
    #[must_use]
    pub fn new(
        key: GuardKey,
        id: u64,
        lost: impl FnOnce(&GuardKey, u64) + Send + Sync + 'static,
    ) -> Self {
        Self {
            key,
            id,
            lost: Some(Box::new(lost)),
        }
    }

    /// For ledgers: the outcome is known, nothing is lost.
    pub fn redeem(&mut self) {
        self.lost = None;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(lost) = self.lost.take() {
            lost(&self.key, self.id);
        }
    }
}

impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reservation")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}
