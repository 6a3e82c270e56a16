//! What the guard is asked and told of one attempt, and what it answers.

use std::sync::Arc;

use crate::clock::BootInstant;

/// May the attempt be made? With what shows that it may.
pub type GuardDecision<T = ()> = Result<T, Denial>;

/// Why no attempt may be made now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denial {
    /// As many attempts as may still be spent are under way.
    Busy,
    /// In the pause after a refusal, until then.
    Later(BootInstant),
    /// The budget of calls is used up, until then.
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
