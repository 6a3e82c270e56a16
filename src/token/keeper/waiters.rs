//! The side of those who wait for a token: how long, and with what answer they leave.

use std::{sync::Arc, sync::atomic::Ordering::Acquire, time::Duration};

use tokio::{sync::watch, time::sleep};

use super::handle::Keeper;
use crate::{
    clock::BootInstant,
    token::{
        failure::{Failure, FailureClass},
        model::Token,
        pause::PauseReason,
        slot::{Activity, KeeperState, Waiter},
    },
};

/// No one sleeps longer without looking at the clock that goes on during suspend.
pub(super) const NAP: Duration = Duration::from_secs(15);

/// How long a keeper sleeps that has nothing to do: between half of [`NAP`] and all of it, so that
/// after a suspend not all look in one moment.
pub(super) fn nap() -> Duration {
    NAP.mul_f64(0.5 + rand::random::<f64>() / 2.0)
}

/// Why there is no token for a request.
#[derive(Debug, Clone)]
pub struct Unavailable {
    /// What kind it is.
    pub reason: UnavailableReason,
    /// When it is worth asking again, where that is known.
    pub retry_after: Option<Duration>,
    /// The last failed attempt, scrubbed; none after a call that hung from the start.
    pub failure: Option<Arc<Failure>>,
    /// The token at fault (a parent's name where a chain waits for it).
    pub token: Arc<str>,
}

/// The kinds of [`Unavailable`].
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
    /// The token, waiting as long as an attempt is running or due before `until`; otherwise refused
    /// at once.
    ///
    /// # Errors
    /// [`Unavailable`]: no attempt runs or is due before `until`, or none has brought a token by
    /// then.
    pub async fn wait(&self, until: BootInstant) -> Result<Arc<Token>, Unavailable> {
        match self.get(BootInstant::now()) {
            Some(token) => Ok(token),
            None => {
                self.wait_for(BootInstant::now(), until, |k| k.get(BootInstant::now()))
                    .await
            }
        }
    }

    /// As [`Keeper::wait`], for a caller that began to wait at `began`, perhaps for another token.
    ///
    /// # Errors
    /// [`Unavailable`]: no attempt runs or is due before `until`, or none has brought a token by
    /// then. Whether a call hangs is judged by all of the time since `began`.
    pub async fn wait_since(
        &self,
        began: BootInstant,
        until: BootInstant,
    ) -> Result<Arc<Token>, Unavailable> {
        match self.get(BootInstant::now()) {
            Some(token) => Ok(token),
            None => {
                self.wait_for(began, until, |k| k.get(BootInstant::now()))
                    .await
            }
        }
    }

    /// A token with at least `min_remaining` left, or as much as a fresh one has (vending).
    ///
    /// Where a new one can't be had, an older one that may still be sent is the answer. A token
    /// that lives shorter than `min_remaining` is fresh in the first tenth of its life, and one the
    /// vendor gave again, until the next planned fetch: otherwise every caller would cost a call.
    ///
    /// # Errors
    /// [`Unavailable`]: there is no token that may be sent, and none to be had before `until`.
    pub async fn wait_fresh(&self, until: BootInstant) -> Result<Arc<Token>, Unavailable> {
        let fresh = |k: &Self| {
            let now = BootInstant::now();
            k.get(now).filter(|t| k.slot.is_fresh(t, now))
        };
        if let Some(token) = fresh(self) {
            return Ok(token);
        }
        self.slot.raise(&self.slot.want_fresh);
        let done = |k: &Self| {
            fresh(k).or_else(|| {
                k.get(BootInstant::now())
                    .filter(|_| !k.slot.want_fresh.load(Acquire))
            })
        };
        match self.wait_for(BootInstant::now(), until, done).await {
            Err(unavailable) => self.get(BootInstant::now()).ok_or(unavailable),
            ok => ok,
        }
    }

    /// Counts one who waits for a token until the answer is dropped. After SIGTERM only those who
    /// wait cause a call, so whoever is going to wait for what a refusal causes is counted before
    /// it is told.
    #[must_use]
    pub fn add_waiter(&self) -> Waiter {
        self.slot.add_waiter()
    }

    /// Waits until the keeper is done with the refusal of `number`; a newer token, if one came.
    pub async fn wait_after_refusal(&self, number: u64, until: BootInstant) -> Option<Arc<Token>> {
        let _waiter = self.add_waiter();
        let seen = self.slot.refusals.count();
        let mut state = self.slot.state.subscribe();
        loop {
            let done = state.borrow_and_update().refusals_done >= seen;
            let now = BootInstant::now();
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
    pub(super) fn reason_to_refuse(
        &self,
        now: BootInstant,
        until: BootInstant,
    ) -> Option<Unavailable> {
        let state = self.slot.state.borrow().clone();
        if let Some(parent) = state.parent.and_then(|i| self.parents.get(i)) {
            return if parent
                .slot
                .token
                .load()
                .as_ref()
                .is_some_and(|t| parent.slot.is_sendable(t, now))
            {
                None
            } else {
                parent.reason_to_refuse(now, until)
            };
        }
        let pause = state.pause?;
        let changed = self.slot.secret_changed.load(Acquire) && pause.kind.opens_on_change();
        let unlatched = self.slot.unlatched.load(Acquire) && self.slot.opens_unlatched(pause);
        let by_hand = pause.kind.opens_by_hand()
            && self.slot.requested_refresh().is_some_and(|at| at <= until)
            && !self.slot.busy.is_draining();
        if changed || unlatched || by_hand {
            // The pause is about to be ended, or was: who looks at the flag of a change says so in
            // either case.
            return None;
        }
        // A secret that cannot be read is mended by people, not by waiting: the next look is no
        // call one could wait for.
        if pause.kind != PauseReason::Unreadable && pause.until.is_some_and(|opens| opens <= until)
        {
            return None;
        }
        Some(self.unavailable(
            unavailable_reason(pause.kind),
            pause.until.map(|t| now.until(t)),
            &state,
        ))
    }

    async fn wait_for(
        &self,
        began: BootInstant,
        until: BootInstant,
        token: impl Fn(&Self) -> Option<Arc<Token>>,
    ) -> Result<Arc<Token>, Unavailable> {
        self.slot.note_demand(BootInstant::now());
        let _waiter = self.add_waiter();
        let mut state = self.slot.state.subscribe();
        loop {
            state.borrow_and_update();
            let now = BootInstant::now();
            if let Some(token) = token(self) {
                return Ok(token);
            }
            if now >= until {
                return Err(self.timed_out_reason(began, now));
            }
            if let Some(unavailable) = self.reason_to_refuse(now, until) {
                return Err(unavailable);
            }
            changed_or(&mut state, now.until(until)).await;
        }
    }

    /// What a caller hears that began to wait at `began` and whose patience is over: that a call
    /// hangs, where one has run for at least half of that time; else why the last one failed.
    fn timed_out_reason(&self, began: BootInstant, now: BootInstant) -> Unavailable {
        let state = self.slot.state.borrow().clone();
        if let Some(parent) = state.parent.and_then(|i| self.parents.get(i)) {
            return parent.timed_out_reason(began, now);
        }
        if let Activity::Calling(since) = state.activity {
            let hung = since.max(began).until(now);
            // Where nothing has failed, all of the time was spent in calls, those of its parents
            // included.
            if hung.saturating_mul(2) >= began.until(now) || state.failure.is_none() {
                return self.unavailable(UnavailableReason::Hanging, None, &state);
            }
        }
        if let Some(pause) = state.pause {
            return self.unavailable(
                unavailable_reason(pause.kind),
                pause.until.map(|t| now.until(t)),
                &state,
            );
        }
        let reason = match state.failure.as_ref().map(|(f, _)| f.class) {
            Some(FailureClass::Rejected) => UnavailableReason::Rejected,
            Some(FailureClass::Config) => UnavailableReason::Misconfigured,
            Some(FailureClass::Unreadable) => UnavailableReason::Unreadable,
            Some(FailureClass::Retry | FailureClass::Throttled) | None => UnavailableReason::Down,
        };
        self.unavailable(reason, Some(Duration::from_secs(1)), &state)
    }

    fn unavailable(
        &self,
        reason: UnavailableReason,
        retry_after: Option<Duration>,
        state: &KeeperState,
    ) -> Unavailable {
        let failure = state
            .failure
            .as_ref()
            .map(|(failure, _)| Arc::clone(failure));
        Unavailable {
            reason,
            retry_after,
            failure,
            token: Arc::clone(&self.slot.name.token),
        }
    }
}

fn unavailable_reason(kind: PauseReason) -> UnavailableReason {
    match kind {
        PauseReason::Retry
        | PauseReason::Throttled
        | PauseReason::Budget
        | PauseReason::NoMemory => UnavailableReason::Down,
        PauseReason::Rejected | PauseReason::Latched => UnavailableReason::Rejected,
        PauseReason::Config => UnavailableReason::Misconfigured,
        PauseReason::Unreadable => UnavailableReason::Unreadable,
    }
}

/// Until the state changes, or for `d`, or for a nap.
async fn changed_or(state: &mut watch::Receiver<KeeperState>, d: Duration) {
    tokio::select! {
        // An error would mean that the slot is gone, which the handle holds.
        _ = state.changed() => {}
        () = sleep(d.min(NAP)) => {}
    }
}
