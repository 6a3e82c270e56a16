//! The loop of a keeper's task: what to do next, and for how long nothing.

use std::{
    sync::{
        Arc,
        atomic::Ordering::{AcqRel, Acquire, Release},
    },
    time::Duration,
};

use tokio::time::sleep;

use super::{
    backoff::AFTER_REFUSAL,
    handle::Keeper,
    task::Task,
    waiters::{NAP, nap},
};
use crate::{
    clock::BootInstant,
    token::{
        fetch::{Fetch, KeeperEvent},
        ledger::Ledger,
        model::{KeeperName, Token},
        pause::{Pause, PauseReason},
        policy::KeeperPolicy,
        schedule::RefreshMode,
        share::Share,
        slot::{Activity, Slot},
    },
};

/// Two calls never start closer together, unless an API's refusal, an operator or a child asks.
const LEAST_GAP: Duration = Duration::from_millis(200);

enum NextStep {
    Stop,
    /// `None`: until woken.
    Sleep(Option<Duration>),
    Parent(usize),
    Attempt(Vec<Arc<Token>>),
}

impl Keeper {
    /// Starts the task on the current tokio runtime.
    #[must_use]
    pub fn spawn(
        name: KeeperName,
        parents: Vec<Arc<Keeper>>,
        fetch: Arc<dyn Fetch>,
        ledger: Arc<dyn Ledger>,
        share: Arc<dyn Share>,
        policy: KeeperPolicy,
    ) -> Arc<Self> {
        let slot = Arc::new(Slot::new(name, policy, BootInstant::now()));
        tokio::spawn(Task::new(Arc::clone(&slot), parents.clone(), fetch, ledger, share).run());
        Arc::new(Self { slot, parents })
    }
}

impl Task {
    pub async fn run(mut self) {
        loop {
            match self.step(BootInstant::now()) {
                NextStep::Stop => return,
                NextStep::Sleep(d) => {
                    self.ticket = None;
                    self.sleep(d).await;
                }
                NextStep::Parent(i) => {
                    self.ticket = None;
                    self.await_parent(i).await;
                }
                NextStep::Attempt(parents) => match self.guarded_attempt(&parents).await {
                    Some(freed) => self.await_turn(freed).await,
                    None => self.ticket = None,
                },
            }
        }
    }

    /// What to do now. Reads flags and clocks, writes the state, calls nobody.
    fn step(&mut self, now: BootInstant) -> NextStep {
        if self.slot.closed.load(Acquire) {
            return NextStep::Stop;
        }
        self.draining = self.slot.busy.is_draining();
        if self
            .pause
            .is_some_and(|g| g.until.is_some_and(|t| t <= now))
        {
            self.pause = None;
        }
        self.take_flags(now);
        if self.draining && self.todo && self.slot.waiters.load(Acquire) == 0 {
            // Whoever asked for it, nobody waits for it.
            self.finish();
        }
        let token = self.slot.token.load_full();
        let sendable = token
            .as_ref()
            .is_some_and(|t| self.slot.is_sendable(t, now));
        let waited_for = self.slot.waiters.load(Acquire) > 0;
        let ahead = self.renews_ahead(now, waited_for);
        let due = match &token {
            Some(token) if sendable => ahead.then(|| self.due(token)),
            _ => (ahead || waited_for).then_some(now),
        };
        // Whatever the schedule says, two calls do not follow each other at once.
        let due = due.map(|due| {
            self.last_call
                .map_or(due, |last| due.max(last.after(LEAST_GAP)))
        });
        if !self.todo && due.is_none_or(|due| due > now) {
            return self.rest_until(now, due, ahead);
        }
        if self.pause.is_some() {
            if self.todo {
                self.finish();
            }
            return self.rest_until(now, due, ahead);
        }
        self.wanted_since.get_or_insert(now);
        match self.gather_parents(now) {
            Ok(tokens) => {
                self.parent_joined = None;
                self.state.parent = None;
                if self.slot.state.borrow().pause.is_some()
                    || self.slot.state.borrow().parent.is_some()
                {
                    // Whoever comes now waits for this attempt.
                    self.state.activity = Activity::Due(now);
                    self.publish();
                }
                NextStep::Attempt(tokens)
            }
            Err(i) => self.wait_for_parent(i, now),
        }
    }

    fn take_flags(&mut self, now: BootInstant) {
        let (policy_version, policy) = self.slot.policy();
        let policy_changed = policy_version != self.policy_version;
        if policy_changed {
            let lifetime_changed = self.policy.lifetime != policy.lifetime;
            (self.policy_version, self.policy) = (policy_version, policy);
            if lifetime_changed {
                self.plan_anew(now);
            }
        }
        let new_secret = self.slot.secret_changed.swap(false, AcqRel);
        let changed = new_secret || policy_changed;
        let unlatched = self.slot.unlatched.swap(false, AcqRel);
        let by_hand = !self.draining && self.slot.requested_refresh().is_some_and(|at| at <= now);
        let opens = |pause: Pause| {
            (changed && pause.kind.opens_on_change())
                || (unlatched && self.slot.opens_unlatched(pause))
                || (by_hand && pause.kind.opens_by_hand())
        };
        if self.pause.is_some_and(opens) {
            self.pause = None;
        } else if new_secret || unlatched {
            // Those who saw the flag wait for what comes of it: nothing.
            self.publish();
        }
        let token = self.slot.token.load_full();
        if by_hand && self.pause.is_none() {
            self.todo = true;
        }
        if self.slot.want_fresh.load(Acquire) {
            match &token {
                Some(t) if self.slot.is_sendable(t, now) && !self.slot.is_fresh(t, now) => {
                    self.todo = true;
                }
                _ => self.slot.want_fresh.store(false, Release),
            }
        }
        self.take_refusals(token.map_or(0, |t| t.number));
    }

    fn take_refusals(&mut self, current: u64) {
        let seen = self.slot.refusals.count();
        if seen == self.refusals_taken {
            return;
        }
        self.refusals_taken = seen;
        let (refused, blamed) = self.slot.refusals.take();
        self.refused_through = self.refused_through.max(refused);
        let renewed = refused >= current
            && refused > 0
            && self
                .slot
                .change_renewals(|renewals| renewals.is_running(refused));
        self.todo |= renewed || (blamed >= current && blamed > 0);
        if !self.todo {
            self.finish();
        }
    }

    /// Does this keeper fetch without being asked? Not where it is lazy, unused for long, or
    /// draining.
    fn renews_ahead(&mut self, now: BootInstant, waited_for: bool) -> bool {
        if self.policy.lifetime.refresh == RefreshMode::Lazy {
            return false;
        }
        let unused = self.slot.unused_for(now);
        let resting = !waited_for && unused >= self.policy.lifetime.rest_after;
        if resting && !self.resting {
            self.report(KeeperEvent::Resting);
        }
        self.resting = resting;
        !resting && !self.draining
    }

    /// When a token that may still be sent is to be renewed.
    fn due(&self, token: &Token) -> BootInstant {
        let used = BootInstant::from_boot(Duration::from_millis(self.slot.last_use(token)));
        self.policy
            .lifetime
            .idle_refresh(used)
            .map_or(token.refresh_at, |idle| idle.min(token.refresh_at))
    }

    /// Nothing to do now: says so, and for how long.
    fn rest_until(&mut self, now: BootInstant, due: Option<BootInstant>, ahead: bool) -> NextStep {
        self.parent_joined = None;
        self.state.parent = None;
        if !self.todo && self.pause.is_none() && due.is_none_or(|due| due > now) {
            self.wanted_since = None;
        }
        let (activity, until) = match (self.pause, due) {
            (
                Some(Pause {
                    until: Some(t),
                    kind: PauseReason::Retry | PauseReason::Throttled | PauseReason::Budget,
                }),
                _,
            ) => (Activity::Due(t), Some(t)),
            (Some(Pause { until, kind }), _) => (
                Activity::Held {
                    until,
                    latched: kind == PauseReason::Latched,
                },
                until,
            ),
            (None, Some(due)) => (Activity::Due(due), Some(due)),
            (None, None) => (Activity::Resting, None),
        };
        self.state.activity = activity;
        self.publish_change();
        // What an operator asked for comes in between.
        let until = [
            until,
            self.slot
                .requested_refresh()
                .filter(|at| *at > now && !self.draining),
        ]
        .into_iter()
        .flatten()
        .min();
        // Where it renews ahead or rests from it, a use is noticed by looking; where it is lazy, it
        // is woken.
        let looks = ahead || self.resting || self.pause.is_some();
        NextStep::Sleep(until.map(|t| now.until(t).min(nap())).or(looks.then(nap)))
    }

    /// The parents' tokens, or the first parent that has none.
    fn gather_parents(&mut self, now: BootInstant) -> Result<Vec<Arc<Token>>, usize> {
        let mut tokens = Vec::with_capacity(self.parents.len());
        for (i, (parent, state)) in self.parents.iter().zip(&mut self.parent_states).enumerate() {
            // Seen first, judged second: what changes after this wakes the wait below.
            state.borrow_and_update();
            match parent.get(now) {
                Some(token) if !parent.slot.refusal_pending() => tokens.push(token),
                _ => return Err(i),
            }
        }
        Ok(tokens)
    }

    fn wait_for_parent(&mut self, i: usize, now: BootInstant) -> NextStep {
        let Some(parent) = self.parents.get(i).cloned() else {
            return NextStep::Sleep(Some(NAP));
        };
        if self
            .parent_joined
            .as_ref()
            .is_none_or(|(joined, _)| *joined != i)
        {
            self.parent_joined = Some((i, parent.slot.add_waiter()));
        }
        self.state.parent = Some(i);
        self.state.activity = Activity::Parent(Arc::clone(&parent.slot.name.token));
        if parent.reason_to_refuse(now, now).is_some() {
            // The parent's first outcome is ours too, and nothing that was asked for will be done
            // now.
            self.state.settled |= parent.slot.state.borrow().settled;
            if self.blamed.is_some() {
                self.pause = Some(Pause {
                    until: Some(now.after(AFTER_REFUSAL)),
                    kind: PauseReason::Rejected,
                });
            }
            if self.todo {
                self.finish();
            }
        }
        self.publish_change();
        NextStep::Parent(i)
    }

    async fn await_parent(&mut self, i: usize) {
        let slot = Arc::clone(&self.slot);
        let Some(state) = self.parent_states.get_mut(i) else {
            return;
        };
        tokio::select! {
            () = slot.wake.notified() => {}
            // The parent's handle is held here, so its slot lives.
            _ = state.changed() => {
                // Those who wait for us look at the parent through us.
                self.slot.state.send_modify(|_| {});
            }
            () = sleep(NAP) => {}
        }
    }
}
