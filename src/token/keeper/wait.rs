//! The side of those who wait for a token: how long, and with what answer they leave.

use std::{sync::Arc, sync::atomic::Ordering::Acquire, time::Duration};

use tokio::{sync::watch, time::sleep};

use super::{Keeper, Unavailable, Why};
use crate::token::{
    clock::Now,
    fetch::Class,
    slot::{Doing, GateKind, Joined, State, Token},
};

/// No one sleeps longer without looking at the clock that goes on during suspend.
pub(super) const NAP: Duration = Duration::from_secs(15);

/// How long a keeper sleeps that has nothing to do: between half of [`NAP`] and all of it, so that
/// after a suspend not all look in one moment.
pub(super) fn nap() -> Duration {
    NAP.mul_f64(0.5 + rand::random::<f64>() / 2.0)
}

/// One who waits for a token ([`Keeper::queue`]).
pub struct Queued {
    _joined: Joined,
}

impl Keeper {
    /// The token, waiting as long as an attempt is running or due before `until`; otherwise refused
    /// at once.
    ///
    /// # Errors
    /// [`Unavailable`], with the reason.
    pub async fn wait(&self, until: Now) -> Result<Arc<Token>, Unavailable> {
        match self.get(Now::now()) {
            Some(token) => Ok(token),
            None => {
                self.wait_for(Now::now(), until, |k| k.get(Now::now()))
                    .await
            }
        }
    }

    /// As [`Keeper::wait`], for a caller that began to wait at `began`, perhaps for another token.
    ///
    /// # Errors
    /// [`Unavailable`], with the reason.
    pub async fn wait_since(&self, began: Now, until: Now) -> Result<Arc<Token>, Unavailable> {
        match self.get(Now::now()) {
            Some(token) => Ok(token),
            None => self.wait_for(began, until, |k| k.get(Now::now())).await,
        }
    }

    /// A token with at least `min_remaining` left, or as much as a fresh one has (vending).
    ///
    /// Where a new one can't be had, an older one that may still be sent is the answer. A token
    /// that lives shorter than `min_remaining` is fresh in the first tenth of its life, and one the
    /// vendor gave again, until the next planned fetch: otherwise every caller would cost a call.
    ///
    /// # Errors
    /// [`Unavailable`], with the reason.
    pub async fn wait_fresh(&self, until: Now) -> Result<Arc<Token>, Unavailable> {
        let fresh = |k: &Self| {
            let now = Now::now();
            k.get(now).filter(|t| k.slot.fresh(t, now))
        };
        if let Some(token) = fresh(self) {
            return Ok(token);
        }
        self.slot.raise(&self.slot.want_fresh);
        let done = |k: &Self| {
            fresh(k).or_else(|| {
                k.get(Now::now())
                    .filter(|_| !k.slot.want_fresh.load(Acquire))
            })
        };
        match self.wait_for(Now::now(), until, done).await {
            Err(unavailable) => self.get(Now::now()).ok_or(unavailable),
            ok => ok,
        }
    }

    /// Counts one who waits for a token until the answer is dropped. After SIGTERM only those who
    /// wait cause a call, so whoever is going to wait for what a refusal causes is counted before
    /// it is told.
    #[must_use]
    pub fn queue(&self) -> Queued {
        Queued {
            _joined: self.slot.join(),
        }
    }

    /// Waits until the keeper is done with the refusal of `number`; a newer token, if one came.
    pub async fn after_rejection(&self, number: u64, until: Now) -> Option<Arc<Token>> {
        let _queued = self.queue();
        let seen = self.slot.refusals.count();
        let mut state = self.slot.state.subscribe();
        loop {
            let done = state.borrow_and_update().refusals_done >= seen;
            let now = Now::now();
            if let Some(newer) = self.get(now).filter(|t| t.number > number) {
                return Some(newer);
            }
            if done || now >= until {
                return None;
            }
            changed_or(&mut state, now.until(until)).await;
        }
    }

    /// Is there no use in waiting until `until`? Then the reason.
    pub(super) fn verdict(&self, now: Now, until: Now) -> Option<Unavailable> {
        let state = self.slot.state.borrow().clone();
        if let Some(parent) = state.parent.and_then(|i| self.parents.get(i)) {
            return if parent
                .slot
                .token
                .load()
                .as_ref()
                .is_some_and(|t| parent.slot.sendable(t, now))
            {
                None
            } else {
                parent.verdict(now, until)
            };
        }
        let gate = state.gate?;
        let changed = self.slot.secret_changed.load(Acquire) && gate.kind.opens_on_change();
        let unlatched = self.slot.unlatched.load(Acquire) && self.slot.opens_unlatched(gate);
        let by_hand = gate.kind.opens_by_hand()
            && self.slot.wished().is_some_and(|at| at <= until)
            && !self.slot.work.is_draining();
        if changed || unlatched || by_hand {
            // The gate is about to be opened, or was: who looks at the flag of a change says so in
            // either case.
            return None;
        }
        // A secret that cannot be read is mended by people, not by waiting: the next look is no
        // call one could wait for.
        if gate.kind != GateKind::Unreadable && gate.until.is_some_and(|opens| opens <= until) {
            return None;
        }
        Some(self.unavailable(why(gate.kind), gate.until.map(|t| now.until(t)), &state))
    }

    async fn wait_for(
        &self,
        began: Now,
        until: Now,
        token: impl Fn(&Self) -> Option<Arc<Token>>,
    ) -> Result<Arc<Token>, Unavailable> {
        self.slot.ask(Now::now());
        let _joined = self.slot.join();
        let mut state = self.slot.state.subscribe();
        loop {
            state.borrow_and_update();
            let now = Now::now();
            if let Some(token) = token(self) {
                return Ok(token);
            }
            if now >= until {
                return Err(self.out_of_time(began, now));
            }
            if let Some(unavailable) = self.verdict(now, until) {
                return Err(unavailable);
            }
            changed_or(&mut state, now.until(until)).await;
        }
    }

    /// What a caller hears that began to wait at `began` and whose patience is over: that a call
    /// hangs, where one has run for at least half of that time; else why the last one failed.
    fn out_of_time(&self, began: Now, now: Now) -> Unavailable {
        let state = self.slot.state.borrow().clone();
        if let Some(parent) = state.parent.and_then(|i| self.parents.get(i)) {
            return parent.out_of_time(began, now);
        }
        if let Doing::Calling(since) = state.doing {
            let hung = since.max(began).until(now);
            // Where nothing has failed, all of the time was spent in calls, those of its parents
            // included.
            if hung.saturating_mul(2) >= began.until(now) || state.failure.is_none() {
                return self.unavailable(Why::Hanging, None, &state);
            }
        }
        if let Some(gate) = state.gate {
            return self.unavailable(why(gate.kind), gate.until.map(|t| now.until(t)), &state);
        }
        let why = match state.failure.as_ref().map(|(f, _)| f.class) {
            Some(Class::Rejected) => Why::Rejected,
            Some(Class::Config) => Why::Misconfigured,
            Some(Class::Unreadable) => Why::Unreadable,
            Some(Class::Retry | Class::Throttled) | None => Why::Down,
        };
        self.unavailable(why, Some(Duration::from_secs(1)), &state)
    }

    fn unavailable(&self, why: Why, retry_after: Option<Duration>, state: &State) -> Unavailable {
        let failure = state
            .failure
            .as_ref()
            .map(|(failure, _)| Arc::clone(failure));
        Unavailable {
            why,
            retry_after,
            failure,
            token: Arc::clone(&self.slot.name.token),
        }
    }
}

fn why(kind: GateKind) -> Why {
    match kind {
        GateKind::Retry | GateKind::Throttled | GateKind::Budget | GateKind::NoMemory => Why::Down,
        GateKind::Rejected | GateKind::Latched => Why::Rejected,
        GateKind::Config => Why::Misconfigured,
        GateKind::Unreadable => Why::Unreadable,
    }
}

/// Until the state changes, or for `d`, or for a nap.
async fn changed_or(state: &mut watch::Receiver<State>, d: Duration) {
    tokio::select! {
        // An error would mean that the slot is gone, which the handle holds.
        _ = state.changed() => {}
        () = sleep(d.min(NAP)) => {}
    }
}
