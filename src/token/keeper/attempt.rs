//! One attempt: prepare, spend, send, settle, then publish the token or note the failure.

use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc, PoisonError,
        atomic::Ordering::{Acquire, Release},
    },
    time::Duration,
};

use futures_util::FutureExt as _;

use super::task::Task;
use crate::token::{
    clock::Now,
    fetch::{Class, Event, Failure, Fut, Issued},
    guard::{Ask, GuardKey, Permit, Spend, Verdict},
    schedule::SAME_AGAIN,
    slot::{Doing, Gate, GateKind, Token},
};

/// A refused secret is not tried again sooner, unless a parent was to blame.
pub(super) const AFTER_REFUSAL: Duration = Duration::from_secs(30);
/// The guard may be asked again after this at the earliest.
const LEAST: Duration = Duration::from_millis(100);
const NO_MEMORY: Duration = Duration::from_secs(5);

/// What is left to do.
enum After {
    Done,
    /// As many attempts as may be spent are under way; ends when one has ended.
    Busy(Fut<'static, ()>),
    /// The parents are to blame, or ended meanwhile: once more as soon as they are fetched.
    Again,
}

impl Task {
    /// One attempt, whatever it does. A panic in it is a failure like others; its permit, dropped,
    /// is an unknown outcome.
    pub async fn guarded_attempt(&mut self, parents: &[Arc<Token>]) -> Option<Fut<'static, ()>> {
        let started = Now::now();
        if !self.slot.work.begin(self.draining) {
            // It is to be decided anew; those who wait for the end of all work look again.
            self.publish();
            return None;
        }
        let after = AssertUnwindSafe(self.attempt(parents)).catch_unwind().await;
        if after.is_err() {
            self.failed(
                Failure::own(Class::Retry, "the token call panicked"),
                started,
            )
            .await;
        }
        self.slot.work.end();
        match after {
            Ok(After::Busy(freed)) => {
                self.state.doing = Doing::Due(started);
                self.publish();
                Some(freed)
            }
            Ok(After::Again) => {
                self.publish();
                None
            }
            Ok(After::Done) | Err(_) => {
                self.finish();
                None
            }
        }
    }

    async fn attempt(&mut self, parents: &[Arc<Token>]) -> After {
        let started = Now::now();
        if self.blamed.as_ref().is_some_and(|blamed| {
            blamed
                .iter()
                .any(|(i, n)| parents.get(*i).is_some_and(|p| p.number == *n))
        }) {
            // The parent could not be fetched: the same attempt again would be refused again.
            self.gate = Some(Gate {
                until: Some(started.after(AFTER_REFUSAL)),
                kind: GateKind::Rejected,
            });
            return After::Done;
        }
        let by_hand = self.slot.grant_wish();
        let prepared = match self.fetch.prepare(parents).await {
            Ok(prepared) => prepared,
            Err(failure) => {
                self.failed(failure, started).await;
                return After::Done;
            }
        };
        let key = prepared.key().cloned();
        self.set_last_key(key.clone());
        let permit = match &key {
            None => None,
            Some(key) => match self.spend(key).await {
                Ok(permit) => Some(permit),
                Err(after) => {
                    if by_hand {
                        // Not forgotten: the moment that the guard names is the earliest for it.
                        self.slot
                            .keep_wish(self.gate.and_then(|gate| gate.until).unwrap_or(started));
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
            .any(|(keeper, token)| !keeper.slot.sendable(token, Now::now()))
        {
            if let Some(permit) = permit {
                self.ledger
                    .settle(permit, Verdict::GivenBack, &self.tuning.limits)
                    .await;
            }
            if by_hand {
                self.slot.keep_wish(started);
            }
            return After::Again;
        }
        self.last_call = Some(started);
        self.slot.last_call.store(started.millis(), Release);
        self.slot
            .change_renewals(|renewals| renewals.begin(started));
        self.state.doing = Doing::Calling(started);
        self.publish();
        let result = prepared.send().await;
        if let Some(permit) = permit {
            let verdict = verdict(&result, permit.key.partition.is_some());
            self.ledger
                .settle(permit, verdict, &self.tuning.limits)
                .await;
        }
        match result {
            Ok(issued) => self.issued(issued, parents, started).await,
            Err(failure) => return self.refused_or_failed(failure, parents, started).await,
        }
        After::Done
    }

    async fn spend(&mut self, key: &GuardKey) -> Result<Permit, After> {
        let freed = self.ledger.freed();
        let ask = Ask {
            credential: Arc::clone(&self.slot.name.credential),
            parent_renewed: self.blamed.is_some(),
        };
        let answer = self.ledger.spend(key, &self.tuning.limits, &ask).await;
        let now = Now::now();
        let gate = match answer {
            Spend::Go(permit) => {
                // The next one may ask while we call.
                self.place = None;
                return Ok(permit);
            }
            Spend::Busy => {
                if !self.place.as_ref().is_some_and(|place| place.is_for(key)) {
                    self.place = Some(self.ledger.line().join(key));
                }
                return Err(After::Busy(freed));
            }
            Spend::Later(t) => {
                self.count(key).await;
                Gate {
                    until: Some(t.max(now.after(LEAST))),
                    kind: GateKind::Rejected,
                }
            }
            Spend::OverBudget(t) => Gate {
                until: Some(t.max(now.after(LEAST))),
                kind: GateKind::Budget,
            },
            Spend::Latched(until) => {
                self.count(key).await;
                Gate {
                    until: until.map(|t| t.max(now.after(LEAST))),
                    kind: GateKind::Latched,
                }
            }
            Spend::NoMemory => {
                self.note(Event::NoMemory);
                Gate {
                    until: Some(now.after(NO_MEMORY)),
                    kind: GateKind::NoMemory,
                }
            }
        };
        self.gate = Some(gate);
        self.denied(gate.kind, now);
        Err(After::Done)
    }

    /// The guard said no. Where nothing failed before, that is what there is to show.
    fn denied(&mut self, kind: GateKind, now: Now) {
        let (class, error) = match kind {
            GateKind::Budget => return,
            GateKind::NoMemory => (Class::Retry, "the guard's memory cannot be read or written"),
            _ => (
                Class::Rejected,
                "this secret, or another of its account, was refused before; not tried again yet",
            ),
        };
        self.state.settled = true;
        // Also without memory: a rollout that went on would spread what can make no call.
        self.state.unaccepted |= self.slot.token.load().is_none();
        if self.state.failure.is_none() {
            self.state.failure = Some((Arc::new(Failure::own(class, error)), now));
        }
    }

    async fn issued(&mut self, issued: Issued, parents: &[Arc<Token>], started: Now) {
        let now = Now::now();
        let lifetime = &self.tuning.lifetime;
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
        let implausible = issued.implausible;
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
            self.failed(
                Failure {
                    wait,
                    ..Failure::own(Class::Retry, "the token had outlived its time when it came")
                },
                started,
            )
            .await;
            return;
        }
        self.slot.unchanged.store(same.is_some(), Release);
        self.slot.token.store(Some(Arc::clone(&token)));
        self.backoff.succeeded(self.last_key());
        self.gate = (same.is_some() || fleeting).then(|| Gate {
            until: Some(now.after(SAME_AGAIN)),
            kind: GateKind::Budget,
        });
        self.wanted_since = None;
        self.state.failure = None;
        self.state.settled = true;
        self.state.unaccepted = false;
        self.state.rejections = 0;
        self.state.doing = Doing::Due(token.refresh_at);
        self.note(Event::Issued {
            took: started.until(now),
            unchanged: same.is_some(),
            implausible,
            token: &token,
        });
    }

    /// A refusal blames the parents that were not fetched for this very attempt: they are fetched
    /// anew, then one more attempt is made at once.
    async fn refused_or_failed(
        &mut self,
        failure: Failure,
        parents: &[Arc<Token>],
        started: Now,
    ) -> After {
        let refused = failure.class == Class::Rejected;
        let since = self.wanted_since.unwrap_or(started);
        let first = self.blamed.is_none();
        self.failed(failure, started).await;
        let latched = self.gate.filter(|g| g.kind == GateKind::Latched);
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
            || latched.is_some_and(|gate| gate.until.is_none())
        {
            return After::Done;
        }
        for (i, number) in &stale {
            if let Some(parent) = self.parents.get(*i) {
                parent.blame(*number);
            }
        }
        if latched.is_some() {
            // The attempt after the hold is made with new parents: the same again would be refused
            // again.
            return After::Done;
        }
        self.gate = None;
        self.wanted_since = Some(Now::now());
        self.blamed = Some(stale);
        self.todo = true;
        After::Again
    }

    /// Notes a failure and closes the gate behind it.
    pub async fn failed(&mut self, failure: Failure, started: Now) {
        let now = Now::now();
        let key = self.last_key();
        let mut gate = self
            .backoff
            .after(&failure, key.as_ref(), now, rand::random());
        if failure.class == Class::Rejected
            && let Some(key) = key
        {
            let latched = self.count(&key).await.and_then(|counted| counted.latched);
            let asked = now.after(
                failure
                    .wait
                    .unwrap_or_default()
                    .min(Duration::from_hours(1)),
            );
            self.asked_until = Some(asked);
            gate = match latched {
                Some(until) => Gate {
                    until: until.map(|t| t.max(asked).max(now.after(LEAST))),
                    kind: GateKind::Latched,
                },
                None => Gate {
                    until: Some(now.after(AFTER_REFUSAL).max(asked)),
                    kind: GateKind::Rejected,
                },
            };
        }
        let failure = Arc::new(failure);
        self.gate = Some(gate);
        self.wanted_since = None;
        self.state.settled = true;
        // A call that got no answer afterwards is no acceptance: only a success is.
        self.state.unaccepted |= matches!(failure.class, Class::Rejected | Class::Config)
            && self.slot.token.load().is_none();
        self.state.failure = Some((Arc::clone(&failure), now));
        self.state.doing = Doing::Due(gate.until.unwrap_or(now));
        let next = gate.until.map(|t| now.until(t));
        self.note(Event::Failed {
            took: started.until(now),
            failure: &failure,
            next,
            latched: gate.kind == GateKind::Latched,
        });
    }

    /// The lifetime was changed under a running token.
    pub fn plan_anew(&mut self, now: Now) {
        let Some(old) = self.slot.token.load_full() else {
            return;
        };
        let (sent, life) = (old.issued.sent, old.issued.life);
        let plan = if self.slot.unchanged.load(Acquire) {
            self.tuning.lifetime.plan_same(sent, life, now)
        } else {
            self.tuning.lifetime.plan(sent, life, rand::random())
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

    pub fn last_key(&self) -> Option<GuardKey> {
        self.slot
            .last_key
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set_last_key(&self, key: Option<GuardKey>) {
        *self
            .slot
            .last_key
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = key;
    }
}

fn verdict(result: &Result<Issued, Failure>, partitioned: bool) -> Verdict {
    match result {
        Ok(_) => Verdict::Success,
        Err(f) if f.class == Class::Config && f.client_refused => Verdict::RejectedForClock,
        Err(f) if f.class != Class::Rejected => Verdict::GivenBack,
        Err(f) if f.client_refused || !partitioned => Verdict::Rejected,
        Err(_) => Verdict::RejectedPartition,
    }
}
