//! One task keeps one token: sleep until due, prepare, spend, send, settle, publish or note the
//! failure.

mod attempt;
mod backoff;
mod sleep;
mod task;
#[cfg(test)]
mod tests;
mod waiters;

use std::{
    collections::HashSet,
    sync::{
        Arc, PoisonError,
        atomic::Ordering::{Acquire, Release},
    },
    time::Duration,
};

use super::{
    fetch::{Failure, Fetch},
    guard::{GuardKey, Ledger, LockoutPolicy, NextAttempt},
    schedule::Lifetime,
    slot::{KeeperStatus, Pause, Slot, Token},
};
use crate::clock::BootInstant;

pub(super) use self::backoff::doubled;

/// What a keeper is known by, for logs and states; labels come from configuration only.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct KeeperName {
    pub credential: Arc<str>,
    pub token: Arc<str>,
    pub partition: Option<Arc<str>>,
}

/// What may change under a running keeper.
#[derive(Debug, Clone, PartialEq)]
pub struct KeeperPolicy {
    pub lifetime: Lifetime,
    pub limits: LockoutPolicy,
}

/// What becomes of a refresh that an operator asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefreshPlan {
    /// It is made at this moment.
    At(BootInstant),
    /// It is made once the secret changes or is unlatched.
    Latched,
    /// It is not made: the process is shutting down.
    Draining,
}

/// Keeps one token. Dropping the last handle lets a running attempt finish and then stops the task.
pub struct Keeper {
    pub(super) slot: Arc<Slot>,
    parents: Vec<Arc<Keeper>>,
}

/// Why there is no token for a request.
#[derive(Debug, Clone)]
pub struct Unavailable {
    pub reason: UnavailableReason,
    /// When it is worth asking again.
    pub retry_after: Option<Duration>,
    pub failure: Option<Arc<Failure>>,
    /// The token at fault (a parent's name where a chain waits for it).
    pub token: Arc<str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnavailableReason {
    /// A call is running and the caller's patience is over.
    Hanging,
    /// Endpoint down, throttled, or out of budget.
    Down,
    /// The vendor refuses our secret (latched or not).
    Rejected,
    /// Held: the answer makes no sense.
    Misconfigured,
    /// A secret cannot be read.
    Unreadable,
}

impl Keeper {
    /// Starts the task on the current tokio runtime.
    #[must_use]
    pub fn spawn(
        name: KeeperName,
        parents: Vec<Arc<Keeper>>,
        fetch: Arc<dyn Fetch>,
        ledger: Arc<dyn Ledger>,
        policy: KeeperPolicy,
    ) -> Arc<Self> {
        let slot = Arc::new(Slot::new(name, policy, BootInstant::now()));
        tokio::spawn(task::Task::new(Arc::clone(&slot), parents.clone(), fetch, ledger).run());
        Arc::new(Self { slot, parents })
    }

    #[must_use]
    pub fn name(&self) -> &KeeperName {
        &self.slot.name
    }

    /// Hot path: the token, if it may be sent at `now`; marks the keeper as used.
    #[must_use]
    pub fn get(&self, now: BootInstant) -> Option<Arc<Token>> {
        self.slot.get(now)
    }

    /// The vendor's API refused this generation (401). Costs nothing for an old generation or
    /// within the pause; else the generation is sent to nobody, from now on and until the refresh
    /// that this causes has ended.
    pub fn reject(&self, number: u64) {
        self.slot.refuse(number, BootInstant::now());
    }

    /// The vendor's API took this generation: a refusal before was not the last word.
    pub fn accept(&self, number: u64) {
        self.slot.accept(number);
    }

    /// May a request leave with this generation now? Not with one whose refusal causes a refresh
    /// that runs, nor with one that was refused and has a successor.
    #[must_use]
    pub fn may_send(&self, number: u64) -> bool {
        self.slot.may_send(number)
    }

    /// An operator wants a refresh, not before `from`. It is made then, or at the earliest moment
    /// that the guard and a second of distance from the last call allow; it is never dropped. Says
    /// which moment that is, as far as can be known now.
    pub fn refresh(&self, from: BootInstant) -> RefreshPlan {
        let answer = self.plan_refresh(from);
        if answer != RefreshPlan::Draining {
            self.slot.request_refresh(from);
        }
        answer
    }

    /// The moment of a refresh that was asked for and is still to be made, as far as the guard
    /// allows it.
    #[must_use]
    pub fn requested_refresh(&self) -> Option<BootInstant> {
        self.slot.requested_refresh()
    }

    /// What [`Keeper::refresh`] would answer.
    #[must_use]
    pub fn plan_refresh(&self, from: BootInstant) -> RefreshPlan {
        if self.slot.busy.is_draining() {
            return RefreshPlan::Draining;
        }
        let at = self
            .slot
            .requested_refresh()
            .map_or(BootInstant::FAR, |requested_refresh| requested_refresh)
            .min(self.slot.earliest_refresh(from))
            .max(BootInstant::now());
        match self
            .slot
            .state
            .borrow()
            .pause
            .filter(|pause| !pause.kind.opens_by_hand())
        {
            Some(Pause { until: None, .. }) => RefreshPlan::Latched,
            Some(Pause {
                until: Some(opens), ..
            }) => RefreshPlan::At(at.max(opens)),
            None => RefreshPlan::At(at),
        }
    }

    /// A secret changed: held and latched keepers try at once.
    pub fn note_secret_change(&self) {
        self.slot.raise(&self.slot.secret_changed);
    }

    /// The configuration changed in something that is not this keeper's own (what its token call
    /// trusts): what held it may be mended.
    pub fn note_configuration_change(&self) {
        self.slot.raise(&self.slot.secret_changed);
    }

    /// This generation was handed out to a caller, whose vendor's answers are not seen here: one
    /// that nobody refuses for a minute counts as accepted.
    pub fn note_vended(&self, number: u64) {
        self.slot.note_vended(number, BootInstant::now());
    }

    /// What its last attempt was counted against; `None`: there was none, or it carried no secret.
    #[must_use]
    pub fn last_key(&self) -> Option<GuardKey> {
        self.slot
            .last_key
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Lets one attempt through for the secrets that these keepers sent last and for `known`,
    /// whatever the guard counted, then all try. First all is let through, then they try: what the
    /// first of them is refused for must count for the next. Says when the last of these attempts
    /// may be made. A keeper that is held for something else than a refusal goes on waiting: who
    /// unlatches in a loop must not make a call each time.
    pub async fn unlatch(
        keepers: &[Arc<Self>],
        ledger: &dyn Ledger,
        known: impl IntoIterator<Item = GuardKey>,
    ) -> NextAttempt {
        let last = keepers.iter().filter_map(|k| {
            k.slot
                .last_key
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone()
        });
        // Without a partition: the secret's own count and those of all its partitions.
        let keys: HashSet<GuardKey> = known
            .into_iter()
            .chain(last)
            .map(|key| GuardKey {
                partition: None,
                ..key
            })
            .collect();
        let mut next = NextAttempt::At(BootInstant::now());
        for key in &keys {
            ledger.clear(key).await;
            next = next.max(NextAttempt::from_status(
                ledger.counted(key).await,
                BootInstant::now(),
            ));
        }
        for keeper in keepers {
            keeper.slot.raise(&keeper.slot.unlatched);
            let held = keeper
                .slot
                .state
                .borrow()
                .pause
                .filter(|pause| !keeper.slot.opens_unlatched(*pause));
            next = held
                .and_then(|pause| pause.until)
                .map_or(next, |until| next.max(NextAttempt::At(until)));
        }
        next
    }

    /// New lifetime and limits; held and latched keepers try at once, where something changed.
    pub fn change_policy(&self, policy: KeeperPolicy) {
        self.slot.change_policy(policy);
    }

    #[must_use]
    pub fn status(&self) -> KeeperStatus {
        let state = self.slot.state.borrow().clone();
        KeeperStatus {
            activity: state.activity,
            token: self.slot.token.load_full(),
            failure: state.failure.map(|(failure, at)| (failure, at.wall())),
            settled: state.settled,
            unaccepted: state.unaccepted,
            rejections: state.rejections,
        }
    }

    /// Ends when a first outcome, good or bad, is there.
    pub async fn wait_settled(&self) {
        // An error would mean that the slot is gone, which this handle holds.
        let _ = self.slot.state.subscribe().wait_for(|s| s.settled).await;
    }

    /// How many callers wait for a token now.
    #[must_use]
    pub fn waiters(&self) -> usize {
        self.slot.waiters.load(Acquire)
    }

    /// A child was refused that was made with this generation: fetch anew, whatever pause the API's
    /// refusals made.
    pub(super) fn blame(&self, number: u64) {
        self.slot.blame(number);
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.slot.closed.store(true, Release);
        self.slot.wake.notify_one();
    }
}
