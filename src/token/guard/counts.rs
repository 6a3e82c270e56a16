//! What one process counts: records by key, and budgets by credential. Pure.

use std::{collections::HashMap, sync::Arc};

use super::{
    account::AccountRecord,
    budget::Budget,
    decision::{AttemptOutcome, AttemptRequest, Denial, GuardDecision, GuardStatus},
    pair::{CountPair, KeyLabels},
    record::SecretRecord,
};
use crate::{
    clock::BootInstant,
    hash::hex,
    token::{
        model::{GuardKey, SecretId},
        policy::LockoutPolicy,
    },
};

/// So many records and accounts are kept before those that remember nothing are looked for.
const ROOM: usize = 1024;
/// More are not kept: the one refused longest ago gives way. Four thousand credentials need a
/// quarter of it.
const MOST: usize = 16_384;

/// All records, accounts and budgets. Pure: every method is told the time.
#[derive(Debug, Default)]
pub struct Guard {
    records: HashMap<SecretId, SecretRecord>,
    accounts: HashMap<[u8; 32], AccountRecord>,
    budgets: HashMap<Arc<str>, Budget>,
    /// When so many records are kept, they are looked through.
    full: usize,
}

/// What a ledger elsewhere had counted for a key.
pub type KeyCounts = (AccountRecord, SecretRecord);

impl Guard {
    /// Asks and, where it may be made, writes the attempt `id` down as spent.
    pub fn spend(
        &mut self,
        key: &GuardKey,
        limits: &LockoutPolicy,
        request: &AttemptRequest,
        id: u64,
        now: BootInstant,
    ) -> GuardDecision {
        let name = value_name(key);
        // Taken out and put back, not copied: thousands of partitions may stand in it.
        let known = self.records.remove(&key.secret_id());
        let was_known = known.is_some();
        let (mut account, mut record) = (
            self.accounts.remove(&key.account).unwrap_or_default(),
            known.unwrap_or_default(),
        );
        let mut counts = CountPair {
            account: &mut account,
            record: &mut record,
        };
        let decision = counts
            .decide(labels(key, &name), limits, request, now)
            .and_then(|()| take_call(&mut self.budgets, limits, request, now));
        if decision.is_ok() {
            counts.spend(labels(key, &name), id, now);
        }
        self.store_counts(key, account, record, was_known, now);
        decision
    }

    /// Spends one attempt in place of a ledger that cannot be used now and had counted what is
    /// `known`.
    /// [`Denial::NoMemory`]: one who shares account or secret does not trust a guard that forgets
    /// with its process.
    pub fn stand_in(
        &mut self,
        known: Option<KeyCounts>,
        key: &GuardKey,
        limits: &LockoutPolicy,
        request: &AttemptRequest,
        id: u64,
        now: BootInstant,
    ) -> GuardDecision {
        let name = value_name(key);
        let (mut account, mut record) = self.copies(key);
        CountPair {
            account: &mut account,
            record: &mut record,
        }
        .note_sharer(labels(key, &name), limits, request, now);
        self.store_counts(key, account.clone(), record.clone(), true, now);
        merge(&mut account, &mut record, known);
        let mut counts = CountPair {
            account: &mut account,
            record: &mut record,
        };
        let decision = counts.decide(labels(key, &name), limits, request, now);
        if counts.need_memory() {
            return Err(Denial::NoMemory);
        }
        decision?;
        take_call(&mut self.budgets, limits, request, now)?;
        counts.spend(labels(key, &name), id, now);
        // Only now: what nothing came of is not to hold on where the other ledger can be used
        // again.
        self.store_counts(key, account, record, true, now);
        Ok(())
    }

    /// Writes down how the attempt ended; `None`: its outcome will never be known.
    pub fn settle(
        &mut self,
        key: &GuardKey,
        id: u64,
        outcome: impl Into<Option<AttemptOutcome>>,
        now: BootInstant,
    ) {
        if let Some(mut counts) = self.counts(key) {
            counts.settle(labels(key, &value_name(key)), id, outcome.into(), now);
        }
    }

    /// Lets one attempt through.
    pub fn unlatch(&mut self, key: &GuardKey) {
        if let Some(mut counts) = self.counts(key) {
            return counts.unlatch(labels(key, ""));
        }
        // Another secret of the account may be what it is latched for.
        if let Some(account) = self.accounts.get_mut(&key.account) {
            account.unlatch();
        }
    }

    /// What is counted now.
    #[must_use]
    pub fn counted(&self, key: &GuardKey, now: BootInstant) -> GuardStatus {
        let (account, record) = (
            self.accounts.get(&key.account),
            self.records.get(&key.secret_id()),
        );
        let (no_account, no_record) = (AccountRecord::default(), SecretRecord::default());
        CountPair::status(
            account.unwrap_or(&no_account),
            record.unwrap_or(&no_record),
            labels(key, &value_name(key)),
            now,
        )
    }

    /// What is counted here, or in what is `known`; `None`: neither has anything of it.
    #[must_use]
    pub fn status_with(
        &self,
        known: Option<KeyCounts>,
        key: &GuardKey,
        now: BootInstant,
    ) -> Option<GuardStatus> {
        if known.is_none() && !self.records.contains_key(&key.secret_id()) {
            return None;
        }
        let (mut account, mut record) = self.copies(key);
        merge(&mut account, &mut record, known);
        Some(CountPair::status(
            &account,
            &record,
            labels(key, &value_name(key)),
            now,
        ))
    }

    /// How many records and accounts there are.
    #[cfg(test)]
    pub(super) fn sizes(&self) -> [usize; 2] {
        [self.records.len(), self.accounts.len()]
    }

    /// As where the process that made the attempt is gone.
    #[cfg(test)]
    pub(super) fn orphan(&mut self, key: &GuardKey, id: u64, now: BootInstant) {
        if let Some(counts) = self.counts(key) {
            counts.account.orphan(|other| other != id, now);
            counts.record.orphan(|other| other != id, now);
        }
    }

    fn counts(&mut self, key: &GuardKey) -> Option<CountPair<'_>> {
        let record = self.records.get_mut(&key.secret_id())?;
        Some(CountPair {
            account: self.accounts.entry(key.account).or_default(),
            record,
        })
    }

    fn copies(&self, key: &GuardKey) -> KeyCounts {
        let record = self.records.get(&key.secret_id()).cloned();
        (
            self.accounts.get(&key.account).cloned().unwrap_or_default(),
            record.unwrap_or_default(),
        )
    }

    /// Keeps what was changed. A secret for which nothing was spent leaves no trace.
    fn store_counts(
        &mut self,
        key: &GuardKey,
        account: AccountRecord,
        record: SecretRecord,
        was_known: bool,
        now: BootInstant,
    ) {
        self.accounts.insert(key.account, account);
        if was_known || !record.is_blank() {
            self.records.insert(key.secret_id(), record);
        }
        if self.records.len().max(self.accounts.len()) > self.full.max(ROOM) {
            self.records.retain(|_, record| !record.is_forgettable(now));
            self.accounts
                .retain(|_, account| !account.is_blank() || account.max().is_some());
            thin(&mut self.records, SecretRecord::is_busy, SecretRecord::last);
            thin(
                &mut self.accounts,
                |account| account.running() > 0,
                AccountRecord::last,
            );
            self.full = 2 * self.records.len().max(self.accounts.len());
        }
    }
}

/// Forgets those that have been quiet for longest, where there are too many. Not one that is busy:
/// what becomes of its attempt has to count.
fn thin<K: Clone + Eq + std::hash::Hash, V>(
    all: &mut HashMap<K, V>,
    is_busy: impl Fn(&V) -> bool,
    last: impl Fn(&V) -> Option<BootInstant>,
) {
    if all.len() > MOST {
        let idle = all.iter().filter(|(_, value)| !is_busy(value));
        let mut order: Vec<(Option<BootInstant>, K)> = idle
            .map(|(key, value)| (last(value), key.clone()))
            .collect();
        order.sort_unstable_by_key(|(last, _)| *last);
        order
            .iter()
            .take(all.len() - MOST / 2)
            .for_each(|(_, key)| drop(all.remove(key)));
    }
}

/// How a ledger in memory calls the secret of a key; nobody else is told.
#[must_use]
pub fn value_name(key: &GuardKey) -> String {
    hex(&key.secret)
}

fn labels<'a>(key: &'a GuardKey, name: &'a str) -> KeyLabels<'a> {
    KeyLabels {
        record: name,
        value: name,
        partition: key.partition.as_deref(),
    }
}

/// Counts at least what was `known`.
fn merge(account: &mut AccountRecord, record: &mut SecretRecord, known: Option<KeyCounts>) {
    if let Some((of_account, of_secret)) = known {
        account.merge(of_account);
        record.merge(of_secret);
    }
}

/// Takes one call out of the credential's budget.
fn take_call(
    budgets: &mut HashMap<Arc<str>, Budget>,
    limits: &LockoutPolicy,
    request: &AttemptRequest,
    now: BootInstant,
) -> GuardDecision {
    let budget = budgets.entry(Arc::clone(&request.credential)).or_default();
    budget
        .ready(&limits.rate, now)
        .map_err(Denial::OverBudget)?;
    budget.take();
    Ok(())
}
