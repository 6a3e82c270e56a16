//! All that is counted for one token URL and secret: the secret itself, its partitions, the limits
//! of those who share it. Pure.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    count::{Count, Rules},
    decision::{AttemptOutcome, AttemptRequest, GuardDecision, GuardStatus},
};
use crate::{
    clock::BootInstant,
    token::policy::{Hold, LockoutPolicy},
};

/// What one ledger keeps under one (token URL, secret).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretRecord {
    secret: Count,
    partitions: BTreeMap<String, Count>,
    /// The secret has been good at least once.
    succeeded: bool,
    sharers: BTreeMap<String, SecretSharer>,
    /// When the secret was last accepted.
    #[serde(default)]
    accepted: Option<BootInstant>,
    /// The account has a budget of its own, which alone counts unknown outcomes.
    #[serde(default)]
    unknown_elsewhere: bool,
    /// The account counts this secret's refusals. Not so in records of releases that knew no
    /// accounts.
    #[serde(default)]
    in_account: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct SecretSharer {
    max: u32,
    hold: Hold,
    seen: BootInstant,
}

/// A credential that has not asked for so long no longer binds the others.
pub(super) const SHARER_GONE: Duration = Duration::from_hours(24);
/// That it asked is written down again after this.
pub(super) const SHARER_NOTED: Duration = Duration::from_hours(1);
/// More partitions with something counted are not remembered; the one refused longest ago gives
/// way.
const MOST_PARTITIONS: usize = 10_000;

impl SecretRecord {
    /// May `request` make an attempt? `Ok` is not yet a spent attempt: see [`SecretRecord::spend`].
    pub fn decide(
        &mut self,
        partition: Option<&str>,
        limits: &LockoutPolicy,
        request: &AttemptRequest,
        now: BootInstant,
    ) -> GuardDecision {
        self.note_sharer(limits, request, now);
        let rules = self.rules();
        self.secret.decide(&rules, request.parent_renewed, now)?;
        match partition.and_then(|p| self.partitions.get_mut(p)) {
            Some(count) => count.decide(&rules, request.parent_renewed, now),
            None => Ok(()),
        }
    }

    /// From now on the account counts this secret's refusals, and where it has a budget of its own,
    /// unknown outcomes alone. Says what was counted here before that: how many refusals, and when
    /// the last one was.
    pub fn join_account(&mut self, has_budget: bool) -> Option<(u32, Option<BootInstant>)> {
        self.unknown_elsewhere = has_budget;
        let before =
            (!std::mem::replace(&mut self.in_account, true)).then(|| self.secret.refusals());
        before.filter(|(refusals, _)| *refusals > 0)
    }

    /// What was counted for the secret, with `credential` among those who used it, if that was
    /// before accounts were counted: refusals, and the last.
    #[must_use]
    pub fn before_accounts(&self, credential: &str) -> Option<(u32, Option<BootInstant>)> {
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
    pub fn is_proven(&self, now: BootInstant) -> bool {
        self.secret.refusals().0 == 0 && Rules::accepted_lately(self.accepted, now)
    }

    /// Is this outcome one that speaks against the secret, and not against its partition alone?
    #[must_use]
    pub fn blames_secret(&self, partition: Option<&str>, outcome: AttemptOutcome) -> bool {
        match outcome {
            AttemptOutcome::Rejected => true,
            AttemptOutcome::RejectedPartition => partition.is_none() || !self.succeeded,
            AttemptOutcome::Success
            | AttemptOutcome::RejectedForClock
            | AttemptOutcome::GivenBack => false,
        }
    }

    /// Writes down who shares the key.
    pub fn note_sharer(
        &mut self,
        limits: &LockoutPolicy,
        request: &AttemptRequest,
        now: BootInstant,
    ) {
        // While something is counted, everybody's limits stay: one that is latched for good does
        // not ask, and still binds the others.
        let counted = self.secret.counted(&self.rules(), now) > 0;
        self.sharers
            .retain(|_, s| counted || s.seen.after(SHARER_GONE) > now);
        self.sharers.insert(
            request.credential.to_string(),
            SecretSharer {
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
    pub fn spend(&mut self, partition: Option<&str>, id: u64, now: BootInstant) {
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
    pub fn settle(
        &mut self,
        partition: Option<&str>,
        id: u64,
        outcome: AttemptOutcome,
        now: BootInstant,
    ) {
        let Rules { max, .. } = self.rules();
        let alone =
            outcome == AttemptOutcome::RejectedPartition && !self.blames_secret(partition, outcome);
        match outcome {
            AttemptOutcome::Success => {
                self.succeeded = true;
                self.accepted = self.accepted.max(Some(now));
                self.secret.succeeded(id);
            }
            AttemptOutcome::Rejected | AttemptOutcome::RejectedPartition if !alone => {
                self.secret.rejected(id, max, now);
            }
            _ => self.secret.given_back(id),
        }
        if let Some(p) = partition
            && let Some(count) = self.partitions.get_mut(p)
        {
            match outcome {
                AttemptOutcome::Success => count.succeeded(id),
                AttemptOutcome::RejectedPartition if alone => count.rejected(id, max, now),
                _ => count.given_back(id),
            }
            if count.is_blank() {
                self.partitions.remove(p);
            }
        }
    }

    /// What became of the attempt will never be known.
    pub fn lose(&mut self, partition: Option<&str>, id: u64, now: BootInstant) {
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
    pub fn status(&self, partition: Option<&str>, now: BootInstant) -> GuardStatus {
        let rules = self.rules();
        let counts = [
            Some(&self.secret),
            partition.and_then(|p| self.partitions.get(p)),
        ];
        let all = counts.into_iter().flatten().map(|count| {
            let (latched, later) = count.held(&rules, now);
            GuardStatus {
                rejections: count.counted(&rules, now),
                latched,
                later,
            }
        });
        all.reduce(GuardStatus::and).unwrap_or_default()
    }

    /// For a ledger that outlives processes: attempts whose owner is gone are unknown outcomes.
    pub fn orphan(&mut self, alive: impl Fn(u64) -> bool, now: BootInstant) {
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
        now: BootInstant,
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
    pub fn merge(&mut self, other: Self) {
        self.secret.merge(&other.secret);
        for (name, count) in other.partitions {
            self.partitions.entry(name).or_default().merge(&count);
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
    pub fn accepted(&self) -> Option<BootInstant> {
        self.accepted
    }

    /// For a ledger that outlives boots: moves every moment.
    pub fn carry(&mut self, to: impl Fn(BootInstant) -> BootInstant) {
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
        let same = |(a, b): ((&String, &SecretSharer), (&String, &SecretSharer))| {
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
    pub fn last(&self) -> Option<BootInstant> {
        self.secret.refusals().1
    }

    /// It remembers nothing worth keeping: nothing is counted, and the secret was not accepted
    /// lately.
    #[must_use]
    pub fn is_forgettable(&self, now: BootInstant) -> bool {
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
