//! What counts against an account (token origin and client id), whatever the secret: refusals in a
//! row, and how soon a changed secret may be tried. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{
    count::UNKNOWN,
    decision::{AttemptRequest, Denial, GuardDecision, GuardStatus},
    leave::{Leave, spacing},
    record::{SHARER_GONE, SHARER_NOTED},
};
use crate::{clock::BootInstant, token::policy::LockoutPolicy};

/// More refused values are not told apart: the pause between changes has reached its hour long
/// before.
const MOST_VALUES: usize = 16;

/// More unknown outcomes are not remembered: no budget is larger that means anything, and a process
/// may be killed in every attempt for years.
const MOST_UNKNOWN: usize = 64;

/// What one ledger keeps for one account.
///
/// Every account paces changed secrets: the first change is tried at once, and each further one
/// that was refused too makes the next wait 30 s, doubling to an hour. Where one of its credentials
/// sets `account_rejections`, the account also has a budget of refused attempts in a row. Once that
/// is spent nothing is sent until a person unlatches.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AccountRecord {
    /// In the order in which they were sent; one whose outcome is lost stands where that became
    /// known.
    spent: Vec<AccountAttempt>,
    /// Refused attempts since the last success.
    rejected: u32,
    /// The last refusal, or the moment an outcome was lost.
    last: Option<BootInstant>,
    /// Which values were refused, or had an unknown outcome, since the last success; the newest
    /// last.
    values: Vec<String>,
    leave: Leave,
    /// Credentials that set `account_rejections`.
    sharers: BTreeMap<String, AccountSharer>,
    /// When the last attempt that succeeded was sent.
    accepted: Option<BootInstant>,
    /// Records whose refusals, from before accounts were counted, are among `rejected`.
    taken: BTreeSet<String>,
}

/// An attempt without an outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct AccountAttempt {
    id: u64,
    at: BootInstant,
    /// Its outcome will never be known.
    lost: bool,
    value: String,
    /// The value had not been refused before, nor was it accepted lately.
    new: bool,
    /// How many of the refusals that count now were known when it was sent: the vendor had seen
    /// those first, and its success clears them alone.
    #[serde(default)]
    before: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct AccountSharer {
    max: u32,
    seen: BootInstant,
}

/// The value that an attempt would send.
#[derive(Debug, Clone, Copy)]
pub struct AttemptedSecret<'a> {
    /// A name for the secret, which says nothing about it.
    pub name: &'a str,
    /// It was accepted not long ago: its own renewals do not wait because others are refused.
    pub proven: bool,
}

impl AccountRecord {
    /// May an attempt with `value` be made? `Ok` is not yet a spent attempt: see
    /// [`AccountRecord::spend`].
    pub fn decide(
        &mut self,
        value: AttemptedSecret<'_>,
        limits: &LockoutPolicy,
        request: &AttemptRequest,
        now: BootInstant,
    ) -> GuardDecision {
        self.note_sharer(limits, request, now);
        self.decide_for(value, now)
    }

    /// Writes down that a credential with these limits shares the account.
    pub fn note_sharer(
        &mut self,
        limits: &LockoutPolicy,
        request: &AttemptRequest,
        now: BootInstant,
    ) {
        // While something is counted, everybody's limits stay: one that is latched does not ask,
        // and still binds the others.
        let counted = self.counted() > 0;
        self.sharers
            .retain(|_, s| counted || s.seen.after(SHARER_GONE) > now);
        match limits.account_rejections {
            Some(max) => drop(self.sharers.insert(
                request.credential.to_string(),
                AccountSharer { max, seen: now },
            )),
            None => drop(self.sharers.remove(&*request.credential)),
        }
    }

    /// The budget of refusals in a row: the smallest of those who share the account. `None`: none
    /// has set one.
    #[must_use]
    pub fn max(&self) -> Option<u32> {
        self.sharers.values().map(|s| s.max.max(1)).min()
    }

    fn decide_for(&self, value: AttemptedSecret<'_>, now: BootInstant) -> GuardDecision {
        let (running, lost) = (self.running(), self.lost());
        if let Some(max) = self.max() {
            if self.counted() >= max {
                // Of unknown outcomes alone it cannot be said that anybody was refused: one attempt
                // finds out.
                let opens =
                    (self.rejected == 0).then(|| self.last.unwrap_or_default().after(UNKNOWN));
                return match opens {
                    Some(opens) if opens <= now => busy_or_go(running),
                    opens => self
                        .by_leave(opens, now)
                        .unwrap_or(Err(Denial::Latched(opens))),
                };
            }
            if self.rejected.saturating_add(lost).saturating_add(running) >= max {
                return Err(Denial::Busy);
            }
        }
        self.pace(value, now)
    }

    /// May a changed value be tried already?
    fn pace(&self, value: AttemptedSecret<'_>, now: BootInstant) -> GuardDecision {
        if !self.is_new(value) {
            return Ok(());
        }
        // Others that are being tried for the first time may be refused as well.
        let untried = |t: &&AccountAttempt| {
            !t.lost && t.new && t.value != value.name && !self.values.contains(&t.value)
        };
        let mut others: Vec<&str> = self
            .spent
            .iter()
            .filter(untried)
            .map(|t| &*t.value)
            .collect();
        others.sort_unstable();
        others.dedup();
        let refused = self.values.len();
        if refused.saturating_add(others.len()) < 2 {
            return Ok(());
        }
        if refused >= 2 {
            let times = u32::try_from(refused - 1).unwrap_or(u32::MAX);
            let next = self.last.unwrap_or_default().after(spacing(times));
            if next > now {
                return self
                    .by_leave(Some(next), now)
                    .unwrap_or(Err(Denial::Later(next)));
            }
        }
        busy_or_go(u32::try_from(others.len()).unwrap_or(u32::MAX))
    }

    /// What a person's leave makes of a refusal that would last until `next`.
    fn by_leave(&self, next: Option<BootInstant>, now: BootInstant) -> Option<GuardDecision> {
        if !self.leave.is_given() {
            // What becomes of the attempt that was let through decides for all.
            return self
                .spent
                .iter()
                .any(|t| !t.lost && self.leave.is_used_by(t.id))
                .then_some(Err(Denial::Busy));
        }
        let from = self.leave.from(self.last).unwrap_or(now);
        let from = next.map_or(from, |next| next.min(from));
        Some(if from > now {
            Err(Denial::Later(from))
        } else {
            busy_or_go(self.running())
        })
    }

    fn is_new(&self, value: AttemptedSecret<'_>) -> bool {
        !value.proven && !self.is_refused(value)
    }

    fn is_refused(&self, value: AttemptedSecret<'_>) -> bool {
        self.values.iter().any(|v| v == value.name)
    }

    fn is_full(&self) -> bool {
        self.max().is_some_and(|max| self.counted() >= max)
    }

    /// Writes the attempt `id` down as spent.
    pub fn spend(&mut self, value: AttemptedSecret<'_>, id: u64, now: BootInstant) {
        let new = self.is_new(value);
        // The renewals of a good secret leave it to the one that it was given for. Whoever may have
        // been refused goes by it: his own count may hold the same leave, and it is one attempt all
        // the same.
        if !value.proven || self.is_refused(value) || self.is_full() {
            self.leave.spend(id);
        }
        self.spent.push(AccountAttempt {
            id,
            at: now,
            lost: false,
            value: value.name.to_owned(),
            new,
            before: self.rejected,
        });
    }

    /// The attempt succeeded: what was refused or lost before it was sent is forgotten. What became
    /// known later the vendor may have seen after it.
    pub fn succeeded(&mut self, id: u64) {
        let Some(i) = self.spent.iter().position(|t| t.id == id) else {
            return;
        };
        let tried = self.spent.remove(i);
        let later = self.spent.split_off(i);
        self.spent.retain(|t| !t.lost);
        self.spent.extend(later);
        self.rejected = self.rejected.saturating_sub(tried.before);
        self.spent
            .iter_mut()
            .for_each(|t| t.before = t.before.saturating_sub(tried.before));
        self.accepted = self.accepted.max(Some(tried.at));
        if self.counted() == 0 {
            self.last = None;
            self.values.clear();
        }
        if self.counted() == 0 || self.leave.is_used_by(id) {
            self.leave = Leave::default();
        }
    }

    /// The attempt was refused. However often that is told, it counts once.
    pub fn rejected(&mut self, id: u64, now: BootInstant) {
        if let Some(tried) = self.remove_spent(id) {
            self.rejected = self.rejected.saturating_add(1);
            self.last = self.last.max(Some(now));
            self.leave.refused(id);
            self.remember(tried.value);
        }
    }

    /// The attempt said nothing about the secret.
    pub fn given_back(&mut self, id: u64) {
        if self.remove_spent(id).is_some() {
            self.leave.give_back(id);
        }
    }

    /// What became of the attempt will never be known.
    pub fn lose(&mut self, id: u64, now: BootInstant) {
        self.lose_if(|tried| tried.id == id, |_| now);
    }

    /// All attempts of owners that are gone have an unknown outcome (a ledger that outlives
    /// processes).
    pub fn orphan(&mut self, alive: impl Fn(u64) -> bool, now: BootInstant) {
        self.lose_if(|tried| !alive(tried.id), |tried| now.min(tried.at));
    }

    fn lose_if(
        &mut self,
        gone: impl Fn(&AccountAttempt) -> bool,
        at: impl Fn(&AccountAttempt) -> BootInstant,
    ) {
        let (gone, stays): (Vec<AccountAttempt>, Vec<AccountAttempt>) =
            std::mem::take(&mut self.spent)
                .into_iter()
                .partition(|t| !t.lost && gone(t));
        self.spent = stays;
        for tried in gone {
            self.last = self.last.max(Some(at(&tried)));
            self.leave.refused(tried.id);
            self.remember(tried.value.clone());
            self.spent.push(AccountAttempt {
                lost: true,
                ..tried
            });
        }
        let mut many = self
            .spent
            .iter()
            .filter(|t| t.lost)
            .count()
            .saturating_sub(MOST_UNKNOWN);
        self.spent.retain(|t| {
            let stays = !t.lost || many == 0;
            many -= usize::from(!stays);
            stays
        });
    }

    fn remove_spent(&mut self, id: u64) -> Option<AccountAttempt> {
        let i = self.spent.iter().position(|t| t.id == id)?;
        Some(self.spent.remove(i))
    }

    fn remember(&mut self, value: String) {
        if !self.values.contains(&value) {
            self.values.push(value);
            let many = self.values.len().saturating_sub(MOST_VALUES);
            self.values.drain(..many);
        }
    }

    /// In place of one that was lost: there was a refusal, for all we know, and leave for one more
    /// attempt.
    #[must_use]
    pub fn after_damage() -> Self {
        let mut account = Self {
            rejected: 1,
            ..Self::default()
        };
        account.unlatch();
        account
    }

    /// A person lets one attempt through: see `Leave`. Where nothing is counted there is nothing to
    /// give leave for.
    pub fn unlatch(&mut self) {
        if self.counted() > 0 || !self.values.is_empty() {
            self.leave.give();
        }
    }

    /// So many were `refused` according to `record`, the newest at `last`, before accounts were
    /// counted: counts them once, and only where nothing has succeeded since.
    pub fn take_over(&mut self, record: &str, refused: u32, last: Option<BootInstant>) {
        // Strictly older: moments before a boot cannot be told apart.
        let is_over = last
            .zip(self.accepted)
            .is_some_and(|(last, accepted)| last < accepted);
        if is_over || !self.taken.insert(record.to_owned()) {
            return;
        }
        self.rejected = self.rejected.saturating_add(refused);
        for tried in self
            .spent
            .iter_mut()
            .filter(|t| last.is_some_and(|last| last < t.at))
        {
            tried.before = tried.before.saturating_add(refused);
        }
        self.last = self.last.max(last);
    }

    /// It is known that an attempt sent at this moment succeeded, before accounts were counted.
    pub fn was_good(&mut self, at: BootInstant) {
        self.accepted = self.accepted.max(Some(at));
    }

    /// Counts at least what `other` does, of which it is a younger or an older copy.
    pub fn merge(&mut self, other: Self) {
        for tried in other.spent {
            if !self.spent.iter().any(|t| t.id == tried.id) {
                self.spent.push(tried);
            }
        }
        self.rejected = self.rejected.max(other.rejected);
        self.last = self.last.max(other.last);
        for value in other.values {
            self.remember(value);
        }
        self.leave.merge(other.leave);
        self.accepted = self.accepted.max(other.accepted);
        self.taken.extend(other.taken);
        for (name, sharer) in other.sharers {
            self.sharers.entry(name).or_insert(sharer);
        }
    }

    /// Does it lack what `last`, an older state of it, counts, though no success cleared that?
    /// Nobody else ends attempts that are `mine`.
    #[must_use]
    pub fn lacks(&self, last: &Self, mine: impl Fn(u64) -> bool) -> bool {
        let gone =
            |t: &AccountAttempt| !t.lost && mine(t.id) && !self.spent.iter().any(|s| s.id == t.id);
        self.accepted <= last.accepted
            && (self.rejected < last.rejected || last.spent.iter().any(gone))
    }

    /// When the last attempt that succeeded was sent.
    #[must_use]
    pub fn accepted(&self) -> Option<BootInstant> {
        self.accepted
    }

    /// Calls `value` by another name, as another ledger does. What it does not know stays apart
    /// from all it knows.
    pub fn rename(&mut self, value: &str, to: &str) {
        let names = self
            .values
            .iter_mut()
            .chain(self.spent.iter_mut().map(|t| &mut t.value));
        names
            .filter(|name| *name == value)
            .for_each(|name| to.clone_into(name));
    }

    /// Moves every moment (a record read after a reboot).
    pub fn carry(&mut self, to: impl Fn(BootInstant) -> BootInstant) {
        self.spent.iter_mut().for_each(|t| t.at = to(t.at));
        self.last = self.last.map(&to);
        self.accepted = self.accepted.map(&to);
        self.sharers.values_mut().for_each(|s| s.seen = to(s.seen));
    }

    /// What is to be shown: nothing where no budget is set.
    #[must_use]
    pub fn status(&self, value: AttemptedSecret<'_>, now: BootInstant) -> GuardStatus {
        let (latched, later) = match self.decide_for(value, now) {
            Err(Denial::Latched(until)) => (Some(until), None),
            Err(Denial::Later(next)) => (None, Some(next)),
            _ => (None, None),
        };
        GuardStatus {
            rejections: self.max().map_or(0, |_| self.counted()),
            latched,
            later,
        }
    }

    /// The last refusal.
    #[must_use]
    pub fn last(&self) -> Option<BootInstant> {
        self.last
    }

    /// Nothing is counted and nothing is under way.
    #[must_use]
    pub fn is_blank(&self) -> bool {
        self.spent.is_empty()
            && self.rejected == 0
            && self.values.is_empty()
            && !self.leave.is_given()
    }

    /// Whether it is worth writing this one where `old` stands: that somebody who is known asked
    /// again is not.
    #[must_use]
    pub fn differs(&self, old: &Self) -> bool {
        let known = |(name, new): (&String, &AccountSharer)| {
            old.sharers
                .get(name)
                .is_some_and(|old| old.max == new.max && old.seen.until(new.seen) < SHARER_NOTED)
        };
        let told = |a: &Self| (a.rejected, a.last, a.leave, a.accepted);
        (told(self), &self.spent, &self.values, &self.taken)
            != (told(old), &old.spent, &old.values, &old.taken)
            || self.sharers.len() != old.sharers.len()
            || !self.sharers.iter().all(known)
    }

    /// Refusals and unknown outcomes since the last success.
    fn counted(&self) -> u32 {
        self.rejected.saturating_add(self.lost())
    }

    fn lost(&self) -> u32 {
        u32::try_from(self.spent.iter().filter(|t| t.lost).count()).unwrap_or(u32::MAX)
    }

    /// Attempts under way.
    pub(super) fn running(&self) -> u32 {
        u32::try_from(self.spent.iter().filter(|t| !t.lost).count()).unwrap_or(u32::MAX)
    }
}

fn busy_or_go(running: u32) -> GuardDecision {
    if running > 0 {
        Err(Denial::Busy)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
