//! What a keeper's task knows, and how it shows it. Only this task calls `Fetch` and
//! puts tokens into the slot.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::Ordering::{Acquire, Release},
    },
    time::Duration,
};

use tokio::sync::watch;

use super::{backoff::Backoff, handle::Keeper};
use crate::{
    clock::BootInstant,
    token::{
        fetch::{Fetch, KeeperEvent},
        guard::GuardStatus,
        ledger::Ledger,
        model::{GuardKey, Token},
        pause::Pause,
        policy::KeeperPolicy,
        queue::QueueTicket,
        share::Share,
        slot::{KeeperState, Slot, Waiter},
    },
};

/// Keepers of a chain start one after the other within this: what a parent fetches from its start
/// on is fetched for its children, too.
const TOGETHER: Duration = Duration::from_secs(1);

/// All a keeper's task knows.
pub(super) struct Task {
    pub slot: Arc<Slot>,
    pub parents: Vec<Arc<Keeper>>,
    pub fetch: Arc<dyn Fetch>,
    pub ledger: Arc<dyn Ledger>,
    pub share: Arc<dyn Share>,
    pub policy: KeeperPolicy,
    pub backoff: Backoff,
    pub pause: Option<Pause>,
    /// How long the last refusal wants us to wait, whatever becomes of the guard's latch.
    pub asked_until: Option<BootInstant>,
    pub state: KeeperState,
    /// An attempt is wanted although no token is needed or due: an API or a child refused it, an
    /// operator asked, a caller wants more life than is left, or a parent that was blamed has been
    /// fetched anew.
    pub todo: bool,
    /// When the attempt that is wanted became wanted: a parent fetched since then was fetched for
    /// it.
    pub wanted_since: Option<BootInstant>,
    /// After a refusal that the parents are blamed for: which ones, by index and generation.
    pub blamed: Option<Vec<(usize, u64)>>,
    pub last_call: Option<BootInstant>,
    pub policy_version: u64,
    pub parent_states: Vec<watch::Receiver<KeeperState>>,
    pub parent_joined: Option<(usize, Waiter)>,
    pub refusals_taken: u64,
    /// The newest generation of those refusals.
    pub refused_through: u64,
    pub resting: bool,
    /// Where it stands among those who wait for a turn at the guard.
    pub ticket: Option<QueueTicket>,
    /// What the last step was decided on.
    pub draining: bool,
}

impl Task {
    pub fn new(
        slot: Arc<Slot>,
        parents: Vec<Arc<Keeper>>,
        fetch: Arc<dyn Fetch>,
        ledger: Arc<dyn Ledger>,
        share: Arc<dyn Share>,
    ) -> Self {
        let (policy_version, policy) = slot.policy();
        let state = slot.state.borrow().clone();
        let parent_states = parents.iter().map(|p| p.slot.state.subscribe()).collect();
        let wanted_since = parents
            .iter()
            .map(|p| p.slot.born)
            .min()
            .filter(|born| slot.born <= born.after(TOGETHER));
        Self {
            slot,
            parents,
            fetch,
            ledger,
            share,
            policy,
            backoff: Backoff::default(),
            pause: None,
            asked_until: None,
            state,
            todo: false,
            wanted_since,
            blamed: None,
            last_call: None,
            policy_version,
            parent_states,
            parent_joined: None,
            refusals_taken: 0,
            refused_through: 0,
            resting: false,
            ticket: None,
            draining: false,
        }
    }

    /// What was asked for is done, or will not be done.
    pub fn finish(&mut self) {
        self.todo = false;
        self.blamed = None;
        self.slot.want_fresh.store(false, Release);
        self.state.refusals_done = self.refusals_taken;
        // Those of older generations are done with in any case.
        let older = self
            .slot
            .token
            .load()
            .as_ref()
            .map_or(0, |t| t.number.saturating_sub(1));
        self.slot
            .change_renewals(|renewals| renewals.end(self.refused_through.max(older)));
        self.publish();
    }

    /// Shows the state to all who watch, whether or not it changed: flags beside it may have.
    pub fn publish(&mut self) {
        self.state.pause = self.pause;
        self.slot.state.send_replace(self.state.clone());
    }

    /// Shows the state where it changed: a crowd of waiters is not woken for nothing.
    pub fn publish_change(&mut self) {
        self.state.pause = self.pause;
        if !self.slot.state.borrow().shows_same(&self.state) {
            self.publish();
        }
    }

    /// Tells the world. Its panics are its own.
    pub fn report(&self, event: KeeperEvent<'_>) {
        let _ = catch_unwind(AssertUnwindSafe(|| self.fetch.report(event)));
    }

    /// The lifetime was changed under a running token.
    pub fn plan_anew(&mut self, now: BootInstant) {
        let Some(old) = self.slot.token.load_full() else {
            return;
        };
        let (sent, life) = (old.issued.sent, old.issued.life);
        let plan = if self.slot.unchanged.load(Acquire) {
            self.policy.lifetime.plan_same(sent, life, now)
        } else {
            self.policy.lifetime.plan(sent, life, rand::random())
        };
        self.slot.token.store(Some(Arc::new(Token {
            number: old.number,
            issued: old.issued.clone(),
            parents: old.parents.clone(),
            expires: plan.expires,
            send_until: plan.send_until,
            refresh_at: plan.refresh_at,
        })));
    }

    /// What the guard counts now, as far as that can be read; shows it.
    pub async fn read_guard_status(&mut self, key: &GuardKey) -> Option<GuardStatus> {
        let counted = self.ledger.counted(key).await;
        if let Some(counted) = counted {
            self.state.rejections = counted.rejections;
        }
        counted
    }
}
