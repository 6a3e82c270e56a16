//! What counts against one secret (or one partition of it): attempts spent, refusals, the latch.
//! Pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    decision::{Denial, GuardDecision},
    leave::{Leave, PAUSE},
};
use crate::{
    clock::BootInstant,
    token::{doubling::doubled, policy::Hold},
};

/// So long an unknown outcome counts, unless the latch ends with the secret only.
pub(super) const UNKNOWN: Duration = Duration::from_mins(15);
const LONGEST_HOLD: Duration = Duration::from_hours(1);
/// A secret that was accepted so short a while ago ...
const LATELY: Duration = Duration::from_hours(24);
/// ... is more likely refused by mistake, and is tried again after this, however long the hold.
const HOLD_IF_ACCEPTED: Duration = Duration::from_mins(5);

/// What a count is held to: the strictest of all who share it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Refusals until it is latched.
    pub max: u32,
    pub hold: Hold,
    /// When the secret was last accepted.
    pub accepted: Option<BootInstant>,
    /// Unknown outcomes count against the account alone. Here they only pause.
    pub unknown_elsewhere: bool,
}

impl Rules {
    /// Had the secret been accepted within a day before `then`?
    #[must_use]
    pub fn accepted_lately(accepted: Option<BootInstant>, then: BootInstant) -> bool {
        accepted.is_some_and(|accepted| accepted.after(LATELY) >= then)
    }
}

/// Attempts spent and refusals counted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// In the order in which they were sent; one whose outcome is lost stands where that became
    /// known.
    spent: Vec<SpentAttempt>,
    rejected: u32,
    /// The last refusal or the moment an outcome was lost.
    last: Option<BootInstant>,
    latch: Option<Latch>,
    #[serde(default)]
    leave: Leave,
}

/// An attempt without an outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct SpentAttempt {
    id: u64,
    at: BootInstant,
    /// Its outcome will never be known.
    lost: bool,
    /// How many of the refusals that count now were known when it was sent: its success clears
    /// those alone.
    #[serde(default)]
    before: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Latch {
    since: BootInstant,
    /// How often it was closed since the last success: doubles the hold.
    times: u32,
}

impl Latch {
    fn until(self, rules: &Rules) -> Option<BootInstant> {
        match rules.hold {
            Hold::UntilSecretChanges => None,
            Hold::For(first) => {
                let first = if Rules::accepted_lately(rules.accepted, self.since) {
                    first.min(HOLD_IF_ACCEPTED)
                } else {
                    first
                };
                let held = doubled(
                    first.max(Duration::from_secs(1)),
                    self.times,
                    LONGEST_HOLD.max(first),
                );
                Some(self.since.after(held))
            }
        }
    }
}

impl Count {
    /// May one more attempt be made?
    pub fn decide(&mut self, rules: &Rules, at_once: bool, now: BootInstant) -> GuardDecision {
        self.forget(rules, now);
        let max = rules.max;
        let (lost, running) = (
            if rules.unknown_elsewhere {
                0
            } else {
                self.lost()
            },
            self.running(),
        );
        if self.rejected >= max && self.latch.is_none() {
            // Another who shares the key has stricter limits than those that were counted by.
            self.latch = Some(Latch {
                since: self.last.unwrap_or(now),
                times: 1,
            });
        }
        if let Some(latch) = self.latch {
            return match latch.until(rules) {
                Some(until) if until <= now && running > 0 => Err(Denial::Busy),
                Some(until) if until <= now => Ok(()),
                until => self.by_leave(until, now),
            };
        }
        let counted = self.rejected.saturating_add(lost);
        if counted >= max {
            // Lost outcomes alone, or with refusals, use up what there is: the first of them to be
            // forgotten makes room.
            return self.by_leave(self.first_forgotten(rules.hold), now);
        }
        if counted.saturating_add(running) >= max {
            return Err(Denial::Busy);
        }
        match self.last.map(|last| last.after(PAUSE)) {
            Some(next) if self.counts_at_all() && next > now && !at_once => {
                Err(Denial::Later(next))
            }
            _ => Ok(()),
        }
    }

    /// Latched until then, but for a person's leave.
    fn by_leave(&self, until: Option<BootInstant>, now: BootInstant) -> GuardDecision {
        if !self.leave.is_given() {
            // What becomes of the attempt that was let through decides for all.
            let trying = self
                .spent
                .iter()
                .any(|s| !s.lost && self.leave.is_used_by(s.id));
            return if trying {
                Err(Denial::Busy)
            } else {
                Err(Denial::Latched(until))
            };
        }
        let from = self.leave.from(self.last).unwrap_or(now);
        match until.map_or(from, |until| until.min(from)) {
            from if from > now => Err(Denial::Later(from)),
            _ if self.running() > 0 => Err(Denial::Busy),
            _ => Ok(()),
        }
    }

    /// Writes an attempt down.
    pub fn spend(&mut self, id: u64, now: BootInstant) {
        self.leave.spend(id);
        self.spent.push(SpentAttempt {
            id,
            at: now,
            lost: false,
            before: self.rejected,
        });
    }

    /// It succeeded: what was refused or lost before it was sent is forgotten. What became known
    /// later the vendor may have seen after it. One that was not counted here came after all that
    /// was.
    pub fn succeeded(&mut self, id: u64) {
        let sent = self.spent.iter().position(|s| s.id == id);
        let before = sent
            .and_then(|i| self.spent.get(i))
            .map_or(self.rejected, |s| s.before);
        let later = self.spent.split_off(sent.unwrap_or(self.spent.len()));
        self.spent.retain(|s| !s.lost);
        self.spent.extend(later.into_iter().filter(|s| s.id != id));
        self.rejected = self.rejected.saturating_sub(before);
        self.spent
            .iter_mut()
            .for_each(|s| s.before = s.before.saturating_sub(before));
        // Where what is left reaches the limit it is closed again by that.
        self.latch = None;
        let left = self.counts_at_all();
        if !left {
            self.last = None;
        }
        if !left || self.leave.is_used_by(id) {
            self.leave = Leave::default();
        }
    }

    /// In place of one that was lost: there was a refusal, for all we know, and leave for one more
    /// attempt.
    #[must_use]
    pub fn after_damage() -> Self {
        let mut count = Self {
            rejected: 1,
            ..Self::default()
        };
        count.unlatch();
        count
    }

    /// A person lets one attempt through: see `Leave`. Where nothing is counted there is nothing to
    /// give leave for.
    pub fn unlatch(&mut self) {
        if self.counts_at_all() {
            self.leave.give();
        }
    }

    /// It was refused. However often that is told, it counts once.
    pub fn rejected(&mut self, id: u64, max: u32, now: BootInstant) {
        let Some(i) = self.spent.iter().position(|s| s.id == id) else {
            return;
        };
        self.spent.remove(i);
        self.rejected = self.rejected.saturating_add(1);
        self.last = Some(now);
        if self.leave.refused(id) {
            // One attempt was what it had leave for, whatever was counted before.
            self.rejected = self.rejected.max(max);
        }
        self.close(max, now);
    }

    /// What became of it will never be known, and the secret's own count holds that; a latch of
    /// this one closes again all the same.
    pub fn lost_above(&mut self, id: u64, now: BootInstant, unknown_elsewhere: bool) {
        self.lost_outcome(id, now, unknown_elsewhere);
        self.spent.retain(|s| s.id != id);
    }

    /// It said nothing about the secret.
    pub fn given_back(&mut self, id: u64) {
        self.spent.retain(|s| s.id != id);
        self.leave.give_back(id);
    }

    /// What became of it will never be known.
    pub fn lost_outcome(&mut self, id: u64, now: BootInstant, unknown_elsewhere: bool) {
        let Some(i) = self.spent.iter().position(|s| s.id == id) else {
            return;
        };
        let spent = self.spent.remove(i);
        self.spent.push(SpentAttempt {
            lost: true,
            ..spent
        });
        self.last = Some(now);
        self.leave.refused(id);
        if !unknown_elsewhere {
            self.close_again(now);
        }
    }

    /// All attempts of owners that are gone become lost (a ledger that outlives processes).
    pub fn orphan(
        &mut self,
        alive: impl Fn(u64) -> bool,
        now: BootInstant,
        unknown_elsewhere: bool,
    ) {
        let (gone, stays): (Vec<SpentAttempt>, Vec<SpentAttempt>) =
            self.spent.drain(..).partition(|s| !s.lost && !alive(s.id));
        self.spent = stays;
        for spent in gone {
            let at = now.min(spent.at).max(self.last.unwrap_or_default());
            self.last = Some(at);
            self.leave.refused(spent.id);
            // Its outcome may have been a refusal: a process that is killed after each attempt
            // would otherwise never be held.
            if !unknown_elsewhere {
                self.close_again(at);
            }
            self.spent.push(SpentAttempt {
                lost: true,
                ..spent
            });
        }
    }

    /// Counts at least what `other` does, of which it is a younger or an older copy.
    pub fn merge(&mut self, other: &Self) {
        for spent in &other.spent {
            if !self.spent.iter().any(|s| s.id == spent.id) {
                self.spent.push(*spent);
            }
        }
        self.rejected = self.rejected.max(other.rejected);
        self.last = self.last.max(other.last);
        self.latch = match (self.latch, other.latch) {
            (Some(a), Some(b)) => Some(Latch {
                since: a.since.max(b.since),
                times: a.times.max(b.times),
            }),
            (a, b) => a.or(b),
        };
        self.leave.merge(other.leave);
    }

    /// Lacks a refusal of `last`, an older state of it, or one of its attempts that are `mine`.
    pub fn lacks(&self, last: &Self, mine: impl Fn(u64) -> bool) -> bool {
        let gone = |s: &SpentAttempt| {
            !s.lost && mine(s.id) && !self.spent.iter().any(|ours| ours.id == s.id)
        };
        self.rejected < last.rejected || last.spent.iter().any(gone)
    }

    /// Forgets the attempts under way.
    pub fn forget_running(&mut self) {
        self.spent.retain(|s| s.lost);
    }

    /// Moves every moment (a record read after a reboot).
    pub fn carry(&mut self, to: impl Fn(BootInstant) -> BootInstant) {
        self.spent.iter_mut().for_each(|s| s.at = to(s.at));
        self.last = self.last.map(&to);
        self.latch = self.latch.map(|l| Latch {
            since: to(l.since),
            ..l
        });
    }

    /// Refusals and unknown outcomes.
    #[must_use]
    pub fn counted(&self, rules: &Rules, now: BootInstant) -> u32 {
        let mut counted = self.clone();
        counted.forget(rules, now);
        counted.rejected.saturating_add(if rules.unknown_elsewhere {
            0
        } else {
            counted.lost()
        })
    }

    /// Refused attempts, unknown outcomes that count as such included.
    #[must_use]
    pub fn refusals(&self) -> (u32, Option<BootInstant>) {
        (self.rejected.saturating_add(self.lost()), self.last)
    }

    /// What keeps the next attempt from being made now: a latch, with its end if it has one; or
    /// else a pause.
    #[must_use]
    pub fn held(
        &self,
        rules: &Rules,
        now: BootInstant,
    ) -> (Option<Option<BootInstant>>, Option<BootInstant>) {
        match self.clone().decide(rules, false, now) {
            Err(Denial::Latched(until)) => (Some(until), None),
            Err(Denial::Later(next)) => (None, Some(next)),
            _ => (None, None),
        }
    }

    /// Nothing is counted and nothing is under way.
    #[must_use]
    pub fn is_blank(&self) -> bool {
        self.spent.is_empty() && self.rejected == 0 && self.latch.is_none()
    }

    /// There is a refusal or an unknown outcome.
    fn counts_at_all(&self) -> bool {
        self.rejected > 0 || self.latch.is_some() || self.lost() > 0
    }

    /// Which partition is the one to forget first: not one with an attempt under way.
    pub(super) fn age(&self) -> (bool, Option<BootInstant>) {
        (self.running() > 0, self.last)
    }

    fn close(&mut self, max: u32, now: BootInstant) {
        if self.latch.is_some() {
            self.close_again(now);
        } else if self.rejected >= max {
            self.latch = Some(Latch {
                since: now,
                times: 1,
            });
        }
    }

    fn close_again(&mut self, now: BootInstant) {
        if let Some(latch) = &mut self.latch {
            *latch = Latch {
                since: now.max(latch.since),
                times: latch.times.saturating_add(1),
            };
        }
    }

    fn forget(&mut self, rules: &Rules, now: BootInstant) {
        if rules.unknown_elsewhere || matches!(rules.hold, Hold::For(_)) {
            self.spent.retain(|s| !s.lost || s.at.after(UNKNOWN) > now);
        }
    }

    fn first_forgotten(&self, hold: Hold) -> Option<BootInstant> {
        match hold {
            Hold::UntilSecretChanges => None,
            Hold::For(_) => self
                .spent
                .iter()
                .filter(|s| s.lost)
                .map(|s| s.at.after(UNKNOWN))
                .min(),
        }
    }

    fn lost(&self) -> u32 {
        u32::try_from(self.spent.iter().filter(|s| s.lost).count()).unwrap_or(u32::MAX)
    }

    /// Attempts under way.
    pub(super) fn running(&self) -> u32 {
        u32::try_from(self.spent.iter().filter(|s| !s.lost).count()).unwrap_or(u32::MAX)
    }
}
