//! A keeper as everybody but its task sees it: reads the slot, or raises a flag.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::Ordering::{Acquire, Release},
    },
};

use crate::{
    clock::BootInstant,
    token::{
        guard::NextAttempt,
        ledger::Ledger,
        model::{GuardKey, KeeperName, Token},
        pause::Pause,
        policy::KeeperPolicy,
        slot::{KeeperStatus, Slot},
    },
};

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
    pub(in crate::token) slot: Arc<Slot>,
    pub(super) parents: Vec<Arc<Keeper>>,
}

impl Keeper {
    /// Whose token it keeps.
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

    /// A secret changed, or what the token call trusts: held and latched keepers try at once.
    pub fn note_change(&self) {
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
        self.slot.last_key()
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
        let last = keepers.iter().filter_map(|k| k.last_key());
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

    /// All there is to show of it now.
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
    pub(in crate::token) fn blame(&self, number: u64) {
        self.slot.blame(number);
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.slot.closed.store(true, Release);
        self.slot.wake.notify_one();
    }
}
