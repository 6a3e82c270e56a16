//! What counts against one secret (or one partition of it): attempts spent, refusals, the latch. Pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Answer, Hold, Now};

/// After a refusal or an unknown outcome, the next attempt comes no sooner.
pub(super) const PAUSE: Duration = Duration::from_secs(30);
/// So long an unknown outcome counts, unless the latch ends with the secret only.
pub(super) const UNKNOWN: Duration = Duration::from_mins(15);
const LONGEST_HOLD: Duration = Duration::from_hours(1);

/// Attempts spent and refusals counted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    spent: Vec<Spent>,
    rejected: u32,
    /// The last refusal or the moment an outcome was lost.
    last: Option<Now>,
    latch: Option<Latch>,
}

/// An attempt without an outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Spent {
    id: u64,
    at: Now,
    /// Its outcome will never be known.
    lost: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Latch {
    since: Now,
    /// How often it was closed since the last success: doubles the hold.
    times: u32,
}

impl Latch {
    fn until(self, hold: Hold) -> Option<Now> {
        match hold {
            Hold::UntilSecretChanges => None,
            Hold::For(first) => {
                let doubled = first.max(Duration::from_secs(1)).saturating_mul(1 << self.times.saturating_sub(1).min(16));
                Some(self.since.after(doubled.min(LONGEST_HOLD.max(first))))
            }
        }
    }
}

impl Count {
    /// May one more attempt be made?
    pub fn ask(&mut self, max: u32, hold: Hold, at_once: bool, now: Now) -> Answer {
        self.forget(hold, now);
        let (lost, running) = (self.lost(), self.running());
        if self.rejected >= max && self.latch.is_none() {
            // Another who shares the key has stricter limits than those that were counted by.
            self.latch = Some(Latch { since: self.last.unwrap_or(now), times: 1 });
        }
        if let Some(latch) = self.latch {
            return match latch.until(hold) {
                Some(until) if until <= now && running > 0 => Answer::Busy,
                Some(until) if until <= now => Answer::Go,
                until => Answer::Latched(until),
            };
        }
        let counted = self.rejected.saturating_add(lost);
        if counted >= max {
            // Lost outcomes alone, or with refusals, use up what there is: the first of them to be forgotten makes room.
            return Answer::Latched(self.first_forgotten(hold));
        }
        if counted.saturating_add(running) >= max {
            return Answer::Busy;
        }
        match self.last.map(|last| last.after(PAUSE)) {
            Some(next) if counted > 0 && next > now && !at_once => Answer::Later(next),
            _ => Answer::Go,
        }
    }

    /// Writes an attempt down.
    pub fn spend(&mut self, id: u64, now: Now) {
        self.spent.push(Spent { id, at: now, lost: false });
    }

    /// It succeeded: everything but the attempts still under way is forgotten.
    pub fn succeeded(&mut self, id: u64) {
        self.spent.retain(|s| s.id != id);
        self.clear();
    }

    /// Forgets everything but the attempts still under way.
    pub fn clear(&mut self) {
        self.spent.retain(|s| !s.lost);
        (self.rejected, self.last, self.latch) = (0, None, None);
    }

    /// It was refused. However often that is told, it counts once.
    pub fn rejected(&mut self, id: u64, max: u32, now: Now) {
        let Some(i) = self.spent.iter().position(|s| s.id == id) else { return };
        self.spent.remove(i);
        self.rejected = self.rejected.saturating_add(1);
        self.last = Some(now);
        self.close(max, now);
    }

    /// What became of it will never be known, and another count holds that; a latch of this one closes again all the same.
    pub fn lost_elsewhere(&mut self, id: u64, now: Now) {
        self.lost_outcome(id, now);
        self.given_back(id);
    }

    /// It said nothing about the secret.
    pub fn given_back(&mut self, id: u64) {
        self.spent.retain(|s| s.id != id);
    }

    /// What became of it will never be known.
    pub fn lost_outcome(&mut self, id: u64, now: Now) {
        let Some(spent) = self.spent.iter_mut().find(|s| s.id == id) else { return };
        spent.lost = true;
        self.last = Some(now);
        self.close_again(now);
    }

    /// All attempts of owners that are gone become lost (a ledger that outlives processes).
    pub fn orphan(&mut self, alive: impl Fn(u64) -> bool, now: Now) {
        for i in 0..self.spent.len() {
            if let Some(spent) = self.spent.get_mut(i).filter(|s| !s.lost && !alive(s.id)) {
                spent.lost = true;
                let at = now.min(spent.at).max(self.last.unwrap_or_default());
                self.last = Some(at);
                // Its outcome may have been a refusal: a process that is killed after each attempt would otherwise never be held.
                self.close_again(at);
            }
        }
    }

    /// Counts at least what `other` does, of which it is a younger or an older copy.
    pub fn join(&mut self, other: &Self) {
        for spent in &other.spent {
            if !self.spent.iter().any(|s| s.id == spent.id) {
                self.spent.push(*spent);
            }
        }
        self.rejected = self.rejected.max(other.rejected);
        self.last = self.last.max(other.last);
        self.latch = match (self.latch, other.latch) {
            (Some(a), Some(b)) => Some(Latch { since: a.since.max(b.since), times: a.times.max(b.times) }),
            (a, b) => a.or(b),
        };
    }

    /// Forgets the attempts under way.
    pub fn forget_running(&mut self) {
        self.spent.retain(|s| s.lost);
    }

    /// Moves every moment (a record read after a reboot).
    pub fn carry(&mut self, to: impl Fn(Now) -> Now) {
        self.spent.iter_mut().for_each(|s| s.at = to(s.at));
        self.last = self.last.map(&to);
        self.latch = self.latch.map(|l| Latch { since: to(l.since), ..l });
    }

    /// Refusals and unknown outcomes.
    #[must_use]
    pub fn counted(&self, hold: Hold, now: Now) -> u32 {
        let mut counted = self.clone();
        counted.forget(hold, now);
        counted.rejected.saturating_add(counted.lost())
    }

    /// `Some` while it is latched: until then, or until the secret changes.
    #[must_use]
    pub fn latched(&self, max: u32, hold: Hold, now: Now) -> Option<Option<Now>> {
        match self.clone().ask(max, hold, true, now) {
            Answer::Latched(until) => Some(until),
            _ => None,
        }
    }

    /// Nothing is counted and nothing is under way.
    #[must_use]
    pub fn is_blank(&self) -> bool {
        self.spent.is_empty() && self.rejected == 0 && self.latch.is_none()
    }

    /// Which partition is the one to forget first: not one with an attempt under way.
    pub(super) fn age(&self) -> (bool, Option<Now>) {
        (self.running() > 0, self.last)
    }

    fn close(&mut self, max: u32, now: Now) {
        if self.latch.is_some() {
            self.close_again(now);
        } else if self.rejected >= max {
            self.latch = Some(Latch { since: now, times: 1 });
        }
    }

    fn close_again(&mut self, now: Now) {
        if let Some(latch) = &mut self.latch {
            *latch = Latch { since: now.max(latch.since), times: latch.times.saturating_add(1) };
        }
    }

    fn forget(&mut self, hold: Hold, now: Now) {
        if matches!(hold, Hold::For(_)) {
            self.spent.retain(|s| !s.lost || s.at.after(UNKNOWN) > now);
        }
    }

    fn first_forgotten(&self, hold: Hold) -> Option<Now> {
        match hold {
            Hold::UntilSecretChanges => None,
            Hold::For(_) => self.spent.iter().filter(|s| s.lost).map(|s| s.at.after(UNKNOWN)).min(),
        }
    }

    fn lost(&self) -> u32 {
        u32::try_from(self.spent.iter().filter(|s| s.lost).count()).unwrap_or(u32::MAX)
    }

    fn running(&self) -> u32 {
        u32::try_from(self.spent.iter().filter(|s| !s.lost).count()).unwrap_or(u32::MAX)
    }
}
