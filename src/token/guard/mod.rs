//! How often we may still ask: spend before an attempt, settle after it, latch at the limit. Pure
//! but for `Ledger`, the seam to memory or disk.

mod account;
mod budget;
mod count;
mod leave;
mod memory;
mod pair;
mod queue;
mod record;
#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

pub use self::{
    account::{AccountRecord, AttemptedSecret},
    budget::Budget,
    count::Count,
    memory::{Guard, KeyCounts, MemoryLedger, value_name},
    pair::{CountPair, KeyLabels},
    queue::{QueueTicket, TurnQueue},
    record::{GuardDecision, SecretRecord},
};
use super::fetch::BoxFuture;
use crate::clock::BootInstant;

/// What refusals are counted against: the token URL and the secret values sent to it. Never the
/// secret itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct GuardKey {
    pub url: String,
    /// SHA-256 over the secret values.
    pub secret: [u8; 32],
    /// The partition, where only it may be at fault.
    pub partition: Option<String>,
    /// SHA-256 over the origin of the token URL and the client id: what a vendor locks, whatever
    /// the secret.
    pub account: [u8; 32],
}

/// `guard` of a profile, plus what one attempt asks.
#[derive(Debug, Clone, PartialEq)]
pub struct LockoutPolicy {
    pub rate: Vec<Rate>,
    pub max_rejections: u32,
    pub hold: Hold,
    /// Refused attempts in a row over all secret values of an account, after which only an unlatch
    /// opens. `None`: as many as the values allow.
    pub account_rejections: Option<u32>,
}

impl LockoutPolicy {
    /// Does a guard have to outlive its process for these? Then no call is made where it cannot be
    /// read or written.
    #[must_use]
    pub fn need_memory(&self) -> bool {
        self.hold == Hold::UntilSecretChanges || self.account_rejections.is_some()
    }
}

/// "120/m": a bucket of `n`, refilled evenly over `per`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    pub n: u32,
    pub per: Duration,
}

/// How long a latch holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hold {
    /// Doubling from here to one hour.
    For(Duration),
    UntilSecretChanges,
}

/// The guard's answer before an attempt.
#[derive(Debug)]
pub enum Spend {
    /// Go, and settle the permit. Dropped unsettled it is an unknown outcome.
    Go(Reservation),
    /// As many attempts as may still be spent are under way.
    Busy,
    /// In the pause after a refusal, until then.
    Later(BootInstant),
    /// Out of budget, until then.
    OverBudget(BootInstant),
    /// No call until then; `None`: until the secret changes or a person unlatches.
    Latched(Option<BootInstant>),
    /// The memory cannot be read or written.
    NoMemory,
}

/// Who asks, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptRequest {
    /// The credential: the budget is its own, and its limits hold for all who share the key.
    pub credential: Arc<str>,
    /// After a refusal: a chain's parent was not fetched for the refused attempt and now is, so
    /// this one need not wait 30 s. It counts all the same.
    pub parent_renewed: bool,
}

/// One attempt that was written down as spent.
pub struct Reservation {
    pub key: GuardKey,
    pub id: u64,
    lost: Option<LostHook>,
}

/// Told when a permit is dropped unsettled.
type LostHook = Box<dyn FnOnce(&GuardKey, u64) + Send + Sync>;

impl Reservation {
    /// `lost` runs where the permit is dropped before it is settled; it must not block.
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
        f.debug_struct("Permit")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptOutcome {
    /// Clears the count.
    Success,
    /// Keeps it: the client itself is refused.
    Rejected,
    /// Refused, but not in words that mean the client: of a partitioned token whose secret has
    /// succeeded before it holds the partition alone, of any other it is the same as `Rejected`.
    RejectedPartition,
    /// Refused, as it seems because of a clock: gives it back, but the vendor may count it, and so
    /// does the budget of an account that has one.
    RejectedForClock,
    /// Gives it back.
    GivenBack,
}

/// What is counted for a key now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GuardStatus {
    /// Refusals and unknown outcomes.
    pub rejections: u32,
    /// `Some`: latched, until then or (`None`) until the secret changes or a person unlatches.
    pub latched: Option<Option<BootInstant>>,
    /// Not latched, but no attempt is made before this moment.
    pub later: Option<BootInstant>,
}

impl GuardStatus {
    /// Two counts that both hold: the larger figure, the latch that lasts longer, the later moment.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let latched = match (self.latched, other.latched) {
            (Some(a), Some(b)) => Some(a.zip(b).map(|(a, b)| a.max(b))),
            (a, b) => a.or(b),
        };
        let later = if latched.is_some() {
            None
        } else {
            self.later.max(other.later)
        };
        Self {
            rejections: self.rejections.max(other.rejections),
            latched,
            later,
        }
    }
}

/// When the next attempt may be made, as far as refusals are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NextAttempt {
    /// At this moment or soon after it; in the past or present: now.
    At(BootInstant),
    /// Not before the secret changes or a person unlatches.
    Latched,
    /// Not before the guard's memory can be read and written again.
    NoMemory,
}

impl NextAttempt {
    /// What follows from what is counted; `None`: it cannot be read.
    #[must_use]
    pub fn from_status(counted: Option<GuardStatus>, now: BootInstant) -> Self {
        match counted.map(|counted| {
            counted
                .latched
                .map_or(counted.later, |until| until.or(Some(BootInstant::FAR)))
        }) {
            None => Self::NoMemory,
            Some(Some(BootInstant::FAR)) => Self::Latched,
            Some(later) => Self::At(later.unwrap_or(now).max(now)),
        }
    }
}

/// Where attempts are written down.
pub trait Ledger: Send + Sync {
    fn spend<'a>(
        &'a self,
        key: &'a GuardKey,
        limits: &'a LockoutPolicy,
        request: &'a AttemptRequest,
    ) -> BoxFuture<'a, Spend>;
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
