//! One attempt: prepare, spend, send, settle, then publish the token or note the failure.

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, atomic::Ordering::Release},
    time::Duration,
};

use futures_util::{FutureExt as _, future::BoxFuture};

use super::{backoff::AFTER_REFUSAL, task::Task};
use crate::{
    clock::BootInstant,
    token::{
        failure::{Failure, FailureClass, FailureKind},
        fetch::KeeperEvent,
        guard::{AttemptOutcome, AttemptRequest, Denial},
        ledger::Reservation,
        model::{GuardKey, Issued, Token},
        pause::{Pause, PauseReason},
        schedule::SAME_AGAIN,
        share::ShareStep,
        slot::Activity,
    },
};

/// The guard may be asked again after this at the earliest.
const LEAST: Duration = Duration::from_millis(100);
const NO_MEMORY: Duration = Duration::from_secs(5);

/// What is left to do.
enum AttemptEnd {
    Done,
    /// As many attempts as may be spent are under way; ends when one has ended.
    Busy(BoxFuture<'static, ()>),
    /// The parents are to blame, or ended meanwhile: once more as soon as they are fetched.
    Again,
}

impl Task {
    /// One attempt, whatever it does. A panic in it is a failure like others; its reservation, dropped,
    /// is an unknown outcome.
    pub async fn guarded_attempt(
        &mut self,
        parents: &[Arc<Token>],
    ) -> Option<BoxFuture<'static, ()>> {
        let started = BootInstant::now();
        if !self.slot.busy.begin_attempt(self.draining) {
            // It is to be decided anew; those who wait for the end of all work look again.
            self.publish();
            return None;
        }
        let after = AssertUnwindSafe(self.attempt(parents)).catch_unwind().await;
        if after.is_err() {
            self.note_failure(
                Failure::own(FailureClass::Retry, FailureKind::Panicked),
                started,
            )
            .await;
        }
        self.slot.busy.end_attempt();
        match after {
            Ok(AttemptEnd::Busy(freed)) => {
                self.state.activity = Activity::Due(started);
                self.publish();
                Some(freed)
            }
            Ok(AttemptEnd::Again) => {
                self.publish();
                None
            }
            Ok(AttemptEnd::Done) | Err(_) => {
                self.finish();
                None
            }
        }
    }

    async fn attempt(&mut self, parents: &[Arc<Token>]) -> AttemptEnd {
        let started = BootInstant::now();
        if self.blamed.as_ref().is_some_and(|blamed| {
            blamed
                .iter()
                .any(|(i, n)| parents.get(*i).is_some_and(|p| p.number == *n))
        }) {
            // The parent could not be fetched: the same attempt again would be refused again.
            self.pause = Some(Pause {
                until: Some(started.after(AFTER_REFUSAL)),
                kind: PauseReason::Rejected,
            });
            return AttemptEnd::Done;
        }
        let by_hand = self.slot.take_refresh_request();
        let prepared = match self.fetch.prepare(parents).await {
            Ok(prepared) => prepared,
            Err(failure) => {
                self.note_failure(failure, started).await;
                return AttemptEnd::Done;
            }
        };
        let key = prepared.key().cloned();
        self.slot.set_last_key(key.clone());
        let lease = match self.adopt_or_lease(key.as_ref()).await {
            Ok(ShareStep::Mint(lease)) => lease,
            Ok(ShareStep::Adopt(issued)) => {
                if self.take_token(issued, parents, started).await.is_none() && by_hand {
                    self.slot.requeue_refresh(started);
                }
                return AttemptEnd::Done;
            }
            Ok(ShareStep::Wait(freed)) => {
                if by_hand {
                    self.slot.requeue_refresh(started);
                }
                return AttemptEnd::Busy(freed);
            }
            Err(failure) => {
                self.note_failure(failure, started).await;
                return AttemptEnd::Done;
            }
        };
        let reservation = match &key {
            None => None,
            Some(key) => match self.reserve(key).await {
                Ok(reservation) => Some(reservation),
                Err(after) => {
                    self.share.publish(Some(key), lease, None).await;
                    if by_hand {
                        // Not forgotten: the moment that the guard names is the earliest for it.
                        self.slot.requeue_refresh(
                            self.pause.and_then(|pause| pause.until).unwrap_or(started),
                        );
                    }
                    return after;
                }
            },
        };
        // Reading secrets and writing the attempt down takes its time: what was alive before may be
        // dead now, and dead tokens are not sent.
        if self
            .parents
            .iter()
            .zip(parents)
            .any(|(keeper, token)| !keeper.slot.is_sendable(token, BootInstant::now()))
        {
            if let Some(reservation) = reservation {
                self.ledger
                    .settle(reservation, AttemptOutcome::GivenBack, &self.policy.limits)
                    .await;
            }
            self.share.publish(key.as_ref(), lease, None).await;
            if by_hand {
                self.slot.requeue_refresh(started);
            }
            return AttemptEnd::Again;
        }
        self.last_call = Some(started);
        self.slot.last_call.store(started.millis(), Release);
        self.slot
            .change_renewals(|renewals| renewals.begin(started));
        self.state.activity = Activity::Calling(started);
        self.publish();
        let result = prepared.send().await;
        if let Some(reservation) = reservation {
            let outcome = attempt_outcome(&result, reservation.key.partition.is_some());
            self.ledger
                .settle(reservation, outcome, &self.policy.limits)
                .await;
        }
        self.share
            .publish(key.as_ref(), lease, result.as_ref().ok())
            .await;
        match result {
            Ok(issued) => self.publish_issued(issued, parents, started).await,
            Err(failure) => return self.settle_failure(failure, parents, started).await,
        }
        AttemptEnd::Done
    }

    /// What other processes have of this token, or leave to get one. That an API refused the one
    /// that is held is told first: it is nobody's newer token.
    async fn adopt_or_lease(&mut self, key: Option<&GuardKey>) -> Result<ShareStep, Failure> {
        let held = self.slot.token.load_full();
        if let Some(token) = &held
            && self.refused_through >= token.number
        {
            self.share.refused(key, token).await;
        }
        self.share.adopt_or_lease(key, held.as_deref()).await
    }

    async fn reserve(&mut self, key: &GuardKey) -> Result<Reservation, AttemptEnd> {
        let freed = self.ledger.freed();
        let request = AttemptRequest {
            credential: Arc::clone(&self.slot.name.credential),
            parent_renewed: self.blamed.is_some(),
        };
        let answer = self.ledger.spend(key, &self.policy.limits, &request).await;
        let now = BootInstant::now();
        let pause = match answer {
            Ok(reservation) => {
                // The next one may ask while we call.
                self.ticket = None;
                return Ok(reservation);
            }
            Err(Denial::Busy) => {
                if !self
                    .ticket
                    .as_ref()
                    .is_some_and(|ticket| ticket.is_for(key))
                {
                    self.ticket = Some(self.ledger.line().join(key));
                }
                return Err(AttemptEnd::Busy(freed));
            }
            Err(Denial::Later(t)) => {
                self.read_guard_status(key).await;
                Pause {
                    until: Some(t.max(now.after(LEAST))),
                    kind: PauseReason::Rejected,
                }
            }
            Err(Denial::OverBudget(t)) => Pause {
                until: Some(t.max(now.after(LEAST))),
                kind: PauseReason::Budget,
            },
            Err(Denial::Latched(until)) => {
                self.read_guard_status(key).await;
                Pause {
                    until: until.map(|t| t.max(now.after(LEAST))),
                    kind: PauseReason::Latched,
                }
            }
            Err(Denial::NoMemory) => {
                self.report(KeeperEvent::NoMemory);
                Pause {
                    until: Some(now.after(NO_MEMORY)),
                    kind: PauseReason::NoMemory,
                }
            }
        };
        self.pause = Some(pause);
        self.note_denial(pause.kind, now);
        Err(AttemptEnd::Done)
    }

    /// The guard said no. Where nothing failed before, that is what there is to show.
    fn note_denial(&mut self, reason: PauseReason, now: BootInstant) {
        let (class, kind) = match reason {
            PauseReason::Budget => return,
            PauseReason::NoMemory => (FailureClass::Retry, FailureKind::GuardMemory),
            PauseReason::Retry
            | PauseReason::Throttled
            | PauseReason::Rejected
            | PauseReason::Latched
            | PauseReason::Config
            | PauseReason::Unreadable => (FailureClass::Rejected, FailureKind::RefusedBefore),
        };
        self.state.settled = true;
        // Also without memory: a rollout that went on would spread what can make no call.
        self.state.unaccepted |= self.slot.token.load().is_none();
        if self.state.failure.is_none() {
            self.state.failure = Some((Arc::new(Failure::own(class, kind)), now));
        }
    }

    /// A token call brought `issued`.
    async fn publish_issued(
        &mut self,
        issued: Issued,
        parents: &[Arc<Token>],
        started: BootInstant,
    ) {
        let implausible = issued.implausible;
        if let Some((token, unchanged)) = self.take_token(issued, parents, started).await {
            self.report(KeeperEvent::Issued {
                took: started.until(BootInstant::now()),
                unchanged,
                implausible,
                token: &token,
            });
        }
    }

    /// Puts `issued` into the slot. Says what stands there now, and whether it is the same as
    /// before; `None`: it had outlived its time.
    async fn take_token(
        &mut self,
        issued: Issued,
        parents: &[Arc<Token>],
        started: BootInstant,
    ) -> Option<(Arc<Token>, bool)> {
        let now = BootInstant::now();
        let lifetime = &self.policy.lifetime;
        let old = self.slot.token.load_full();
        let same = old
            .as_ref()
            .filter(|old| old.issued.value.as_str() == issued.value.as_str())
            .map(|old| old.number);
        let plan = match same {
            Some(_) => lifetime.plan_same(issued.sent, issued.life, now),
            None => lifetime.plan(issued.sent, issued.life, rand::random()),
        };
        let fleeting = lifetime.is_fleeting(&plan, issued.sent);
        let number = same.unwrap_or_else(|| old.map_or(0, |old| old.number) + 1);
        let token = Arc::new(Token {
            number,
            issued,
            parents: parents.iter().map(|p| p.number).collect(),
            expires: plan.expires,
            send_until: plan.send_until,
            refresh_at: plan.refresh_at,
        });
        if now >= plan.send_until {
            if same.is_some() {
                // What we have ends sooner than was said before.
                self.slot.token.store(Some(token));
            }
            let wait = fleeting.then_some(SAME_AGAIN);
            self.note_failure(
                Failure {
                    wait,
                    ..Failure::own(FailureClass::Retry, FailureKind::Outlived)
                },
                started,
            )
            .await;
            return None;
        }
        self.slot.unchanged.store(same.is_some(), Release);
        self.slot.token.store(Some(Arc::clone(&token)));
        self.backoff.succeeded(self.slot.last_key());
        self.pause = (same.is_some() || fleeting).then(|| Pause {
            until: Some(now.after(SAME_AGAIN)),
            kind: PauseReason::Budget,
        });
        self.wanted_since = None;
        self.state.failure = None;
        self.state.settled = true;
        self.state.unaccepted = false;
        self.state.rejections = 0;
        self.state.activity = Activity::Due(token.refresh_at);
        Some((token, same.is_some()))
    }

    /// A refusal blames the parents that were not fetched for this very attempt: they are fetched
    /// anew, then one more attempt is made at once.
    async fn settle_failure(
        &mut self,
        failure: Failure,
        parents: &[Arc<Token>],
        started: BootInstant,
    ) -> AttemptEnd {
        let refused = failure.class == FailureClass::Rejected;
        let since = self.wanted_since.unwrap_or(started);
        let first = self.blamed.is_none();
        self.note_failure(failure, started).await;
        let latched = self.pause.filter(|g| g.kind == PauseReason::Latched);
        let stale: Vec<_> = parents
            .iter()
            .enumerate()
            .filter(|(_, t)| t.issued.sent < since)
            .map(|(i, t)| (i, t.number))
            .collect();
        // What stays latched for good asks no parent for a token that nobody will use.
        if !refused
            || !first
            || stale.is_empty()
            || latched.is_some_and(|pause| pause.until.is_none())
        {
            return AttemptEnd::Done;
        }
        for (i, number) in &stale {
            if let Some(parent) = self.parents.get(*i) {
                parent.blame(*number);
            }
        }
        if latched.is_some() {
            // The attempt after the hold is made with new parents: the same again would be refused
            // again.
            return AttemptEnd::Done;
        }
        self.pause = None;
        self.wanted_since = Some(BootInstant::now());
        self.blamed = Some(stale);
        self.todo = true;
        AttemptEnd::Again
    }

    /// Notes a failure and says how long to pause.
    pub async fn note_failure(&mut self, failure: Failure, started: BootInstant) {
        let now = BootInstant::now();
        let key = self.slot.last_key();
        let mut pause = self
            .backoff
            .after(&failure, key.as_ref(), now, rand::random());
        if failure.class == FailureClass::Rejected
            && let Some(key) = key
        {
            let latched = self
                .read_guard_status(&key)
                .await
                .and_then(|counted| counted.latched);
            let asked = now.after(
                failure
                    .wait
                    .unwrap_or_default()
                    .min(Duration::from_hours(1)),
            );
            self.asked_until = Some(asked);
            pause = match latched {
                Some(until) => Pause {
                    until: until.map(|t| t.max(asked).max(now.after(LEAST))),
                    kind: PauseReason::Latched,
                },
                None => Pause {
                    until: Some(now.after(AFTER_REFUSAL).max(asked)),
                    kind: PauseReason::Rejected,
                },
            };
        }
        let failure = Arc::new(failure);
        self.pause = Some(pause);
        self.wanted_since = None;
        self.state.settled = true;
        // A call that got no answer afterwards is no acceptance: only a success is.
        self.state.unaccepted |=
            matches!(failure.class, FailureClass::Rejected | FailureClass::Config)
                && self.slot.token.load().is_none();
        self.state.failure = Some((Arc::clone(&failure), now));
        self.state.activity = Activity::Due(pause.until.unwrap_or(now));
        let next = pause.until.map(|t| now.until(t));
        self.report(KeeperEvent::Failed {
            took: started.until(now),
            failure: &failure,
            next,
            latched: pause.kind == PauseReason::Latched,
        });
    }
}

fn attempt_outcome(result: &Result<Issued, Failure>, partitioned: bool) -> AttemptOutcome {
    match result {
        Ok(_) => AttemptOutcome::Success,
        Err(f) if f.class == FailureClass::Config && f.client_refused => {
            AttemptOutcome::RejectedForClock
        }
        Err(f) if f.class != FailureClass::Rejected => AttemptOutcome::GivenBack,
        Err(f) if f.client_refused || !partitioned => AttemptOutcome::Rejected,
        Err(_) => AttemptOutcome::RejectedPartition,
    }
}
