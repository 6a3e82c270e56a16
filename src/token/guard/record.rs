//! All that is counted for one token URL and secret: the secret itself, its partitions, the limits
//! of those who share it. Pure.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Ask, Count, Counted, Hold, Limits, Now, Verdict, count::Rules};

/// The guard's answer, before anything is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Go,
    /// As many attempts as may still be spent are under way.
    Busy,
    /// In a pause after a refusal.
    Later(Now),
    /// The budget of calls is used up.
    OverBudget(Now),
    /// `None`: until the secret changes.
    Latched(Option<Now>),
}

/// What one ledger keeps under one (token URL, secret).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    secret: Count,
    partitions: BTreeMap<String, Count>,
    /// The secret has been good at least once.
    succeeded: bool,
    sharers: BTreeMap<String, Sharer>,
    /// When the secret was last accepted.
    #[serde(default)]
    accepted: Option<Now>,
    /// The account has a budget of its own, which alone counts unknown outcomes.
    #[serde(default)]
    unknown_elsewhere: bool,
    /// The account counts this secret's refusals. Not so in records of releases that knew no
    /// accounts.
    #[serde(default)]
    in_account: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Sharer {
    max: u32,
    hold: Hold,
    seen: Now,
}

/// A credential that has not asked for so long no longer binds the others.
pub(super) const SHARER_GONE: Duration = Duration::from_hours(24);
/// That it asked is written down again after this.
pub(super) const SHARER_NOTED: Duration = Duration::from_hours(1);
/// More partitions with something counted are not remembered; the one refused longest ago gives
/// way.
const MOST_PARTITIONS: usize = 10_000;

impl Record {
    /// May `ask` make an attempt? `Answer::Go` is not yet a spent attempt: see [`Record::spend`].
    pub fn ask(&mut self, partition: Option<&str>, limits: &Limits, ask: &Ask, now: Now) -> Answer {
        self.note(limits, ask, now);
        let rules = self.rules();
        match self.secret.ask(&rules, ask.parent_renewed, now) {
            Answer::Go => {}
            other => return other,
        }
        match partition.and_then(|p| self.partitions.get_mut(p)) {
            Some(count) => count.ask(&rules, ask.parent_renewed, now),
            None => Answer::Go,
        }
    }

    /// From now on the account counts this secret's refusals, and where it has a budget of its own,
    /// unknown outcomes alone. Says what was counted here before that: how many refusals, and when
    /// the last one was.
    pub fn join_account(&mut self, has_budget: bool) -> Option<(u32, Option<Now>)> {
        self.unknown_elsewhere = has_budget;
        let before =
            (!std::mem::replace(&mut self.in_account, true)).then(|| self.secret.refusals());
        before.filter(|(refusals, _)| *refusals > 0)
    }

    /// What was counted for the secret, with `credential` among those who used it, if that was
    /// before accounts were counted: refusals, and the last.
    #[must_use]
    pub fn before_accounts(&self, credential: &str) -> Option<(u32, Option<Now>)> {
        (!self.in_account && self.sharers.contains_key(credential)).then(|| self.secret.refusals())
    }

    /// The secret was good, nothing speaks against it since, and it is not being tried.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.succeeded && self.secret.is_blank()
    }

    /// An attempt is under way.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.secret.running() > 0
    }

    /// It was accepted within the last day, and not refused since.
    #[must_use]
    pub fn is_proven(&self, now: Now) -> bool {
        self.secret.refusals().0 == 0 && Rules::accepted_lately(self.accepted, now)
    }

    /// Is this outcome one that speaks against the secret, and not against its partition alone?
    #[must_use]
    pub fn blames_secret(&self, partition: Option<&str>, verdict: Verdict) -> bool {
        match verdict {
            Verdict::Rejected => true,
            Verdict::RejectedPartition => partition.is_none() || !self.succeeded,
            Verdict::Success | Verdict::RejectedForClock | Verdict::GivenBack => false,
        }
    }

    /// Writes down who shares the key.
    pub fn note(&mut self, limits: &Limits, ask: &Ask, now: Now) {
        // While something is counted, everybody's limits stay: one that is latched for good does
        // not ask, and still binds the others.
        let counted = self.secret.counted(&self.rules(), now) > 0;
        self.sharers
            .retain(|_, s| counted || s.seen.after(SHARER_GONE) > now);
        self.sharers.insert(
            ask.credential.to_string(),
            Sharer {
                max: limits.max_rejections,
                hold: limits.hold,
                seen: now,
            },
        );
    }

    /// The longest hold of those who share the key.
    #[must_use]
    pub fn hold(&self) -> Hold {
        self.strictest().1
    }

    /// Writes the attempt `id` down as spent.
    pub fn spend(&mut self, partition: Option<&str>, id: u64, now: Now) {
        self.secret.spend(id, now);
        if let Some(p) = partition {
            if self.partitions.len() >= MOST_PARTITIONS
                && !self.partitions.contains_key(p)
                && let Some(oldest) = self
                    .partitions
                    .iter()
                    .min_by_key(|(_, c)| c.age())
                    .map(|(k, _)| k.clone())
            {
                self.partitions.remove(&oldest);
            }
            self.partitions
                .entry(p.to_owned())
                .or_default()
                .spend(id, now);
        }
    }

    /// Writes down how it ended.
    pub fn settle(&mut self, partition: Option<&str>, id: u64, verdict: Verdict, now: Now) {
        let Rules { max, .. } = self.rules();
        let alone =
            verdict == Verdict::RejectedPartition && !self.blames_secret(partition, verdict);
        match verdict {
            Verdict::Success => {
                self.succeeded = true;
                self.accepted = self.accepted.max(Some(now));
                self.secret.succeeded(id);
            }
            Verdict::Rejected | Verdict::RejectedPartition if !alone => {
                self.secret.rejected(id, max, now);
            }
            _ => self.secret.given_back(id),
        }
        if let Some(p) = partition
            && let Some(count) = self.partitions.get_mut(p)
        {
            match verdict {
                Verdict::Success => count.succeeded(id),
                Verdict::RejectedPartition if alone => count.rejected(id, max, now),
                _ => count.given_back(id),
            }
            if count.is_blank() {
                self.partitions.remove(p);
            }
        }
    }

    /// What became of the attempt will never be known.
    pub fn lose(&mut self, partition: Option<&str>, id: u64, now: Now) {
        let elsewhere = self.unknown_elsewhere;
        self.secret.lost_outcome(id, now, elsewhere);
        // The secret's count holds it; the partition need not count it too.
        if let Some(p) = partition
            && let Some(count) = self.partitions.get_mut(p)
        {
            count.lost_above(id, now, elsewhere);
            if count.is_blank() {
                self.partitions.remove(p);
            }
        }
    }

    /// In place of one that was lost: a person lets one attempt through, and a refusal of it is not
    /// the first.
    #[must_use]
    pub fn after_damage() -> Self {
        Self {
            secret: Count::after_damage(),
            in_account: true,
            ..Self::default()
        }
    }

    /// A person lets one attempt through: with the secret, and with each of its partitions (or this
    /// one).
    pub fn unlatch(&mut self, partition: Option<&str>) {
        self.secret.unlatch();
        self.partitions
            .iter_mut()
            .filter(|(name, _)| partition.is_none_or(|p| p == *name))
            .for_each(|(_, count)| count.unlatch());
    }

    /// What is to be shown.
    #[must_use]
    pub fn status(&self, partition: Option<&str>, now: Now) -> Counted {
        let rules = self.rules();
        let counts = [
            Some(&self.secret),
            partition.and_then(|p| self.partitions.get(p)),
        ];
        let all = counts.into_iter().flatten().map(|count| {
            let (latched, later) = count.held(&rules, now);
            Counted {
                rejections: count.counted(&rules, now),
                latched,
                later,
            }
        });
        all.reduce(Counted::and).unwrap_or_default()
    }

    /// For a ledger that outlives processes: attempts whose owner is gone are unknown outcomes.
    pub fn orphan(&mut self, alive: impl Fn(u64) -> bool, now: Now) {
        let elsewhere = self.unknown_elsewhere;
        self.secret.orphan(&alive, now, elsewhere);
        self.partitions
            .values_mut()
            .for_each(|c| c.orphan(&alive, now, elsewhere));
    }

    /// As another ledger goes on from it: attempts that are not `mine` will not be heard of, and
    /// `partition` has another name there.
    #[must_use]
    pub fn handed_over(
        mut self,
        mine: impl Fn(u64) -> bool,
        partition: Option<(&str, &str)>,
        now: Now,
    ) -> Self {
        self.secret.orphan(mine, now, self.unknown_elsewhere);
        // The secret's count has them.
        self.partitions.values_mut().for_each(Count::forget_running);
        if let Some((from, to)) = partition
            && let Some(count) = self.partitions.remove(from)
        {
            self.partitions.insert(to.to_owned(), count);
        }
        self
    }

    /// Counts at least what `other` does, of which it is a younger or an older copy.
    pub fn join(&mut self, other: Self) {
        self.secret.join(&other.secret);
        for (name, count) in other.partitions {
            self.partitions.entry(name).or_default().join(&count);
        }
        self.succeeded |= other.succeeded;
        self.accepted = self.accepted.max(other.accepted);
        self.unknown_elsewhere |= other.unknown_elsewhere;
        self.in_account |= other.in_account;
        for (name, sharer) in other.sharers {
            self.sharers.entry(name).or_insert(sharer);
        }
    }

    /// Does it lack what `last`, an older state of it, counts, though no success cleared that?
    /// Nobody else ends attempts that are `mine`.
    #[must_use]
    pub fn lacks(&self, last: &Self, mine: impl Fn(u64) -> bool) -> bool {
        // Of very many partitions the oldest gave way.
        let gone = |(name, count): (&String, &Count)| match self.partitions.get(name) {
            Some(ours) => ours.lacks(count, &mine),
            None => self.partitions.len() < MOST_PARTITIONS && Count::default().lacks(count, &mine),
        };
        self.accepted <= last.accepted
            && (self.secret.lacks(&last.secret, &mine) || last.partitions.iter().any(gone))
    }

    /// When the secret was last accepted.
    #[must_use]
    pub fn accepted(&self) -> Option<Now> {
        self.accepted
    }

    /// For a ledger that outlives boots: moves every moment.
    pub fn carry(&mut self, to: impl Fn(Now) -> Now) {
        self.secret.carry(&to);
        self.partitions.values_mut().for_each(|c| c.carry(&to));
        self.sharers.values_mut().for_each(|s| s.seen = to(s.seen));
        self.accepted = self.accepted.map(&to);
    }

    /// Nothing is counted and nothing is under way.
    #[must_use]
    pub fn is_blank(&self) -> bool {
        self.secret.is_blank() && self.partitions.values().all(Count::is_blank)
    }

    /// Whether it is worth writing this one where `old` stands: that somebody who is known asked
    /// again is not.
    #[must_use]
    pub fn differs(&self, old: &Self) -> bool {
        let same = |(a, b): ((&String, &Sharer), (&String, &Sharer))| {
            a.0 == b.0
                && (a.1.max, a.1.hold) == (b.1.max, b.1.hold)
                && b.1.seen.until(a.1.seen) < SHARER_NOTED
        };
        let told = |r: &Self| (r.succeeded, r.accepted, r.unknown_elsewhere, r.in_account);
        (&self.secret, &self.partitions, told(self)) != (&old.secret, &old.partitions, told(old))
            || self.sharers.len() != old.sharers.len()
            || !self.sharers.iter().zip(&old.sharers).all(same)
    }

    fn rules(&self) -> Rules {
        let (max, hold) = self.strictest();
        Rules {
            max,
            hold,
            accepted: self.accepted,
            unknown_elsewhere: self.unknown_elsewhere,
        }
    }

    /// The last refusal of the secret.
    #[must_use]
    pub fn last(&self) -> Option<Now> {
        self.secret.refusals().1
    }

    /// It remembers nothing worth keeping: nothing is counted, and the secret was not accepted
    /// lately.
    #[must_use]
    pub fn is_forgettable(&self, now: Now) -> bool {
        self.is_blank() && !Rules::accepted_lately(self.accepted, now)
    }

    /// The lowest limit and the longest hold of those who share the key.
    fn strictest(&self) -> (u32, Hold) {
        let max = self
            .sharers
            .values()
            .map(|s| s.max)
            .min()
            .unwrap_or(1)
            .max(1);
        let hold = self
            .sharers
            .values()
            .map(|s| s.hold)
            .reduce(|a, b| match (a, b) {
                (Hold::For(a), Hold::For(b)) => Hold::For(a.max(b)),
                _ => Hold::UntilSecretChanges,
            });
        (max, hold.unwrap_or(Hold::UntilSecretChanges))
    }
}

#[cfg(test)]
mod tests;
