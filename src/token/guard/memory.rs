//! The guard of one process: records by key, budgets by credential, and the ledger that keeps them
//! in memory.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use super::{
    Account, Answer, Ask, Budget, Counted, GuardKey, Ledger, Limits, Line, Permit, Record, Spend,
    Tally, Verdict, Whose,
};
use crate::token::{clock::Now, fetch::Fut};

/// So many records and accounts are kept before those that remember nothing are looked for.
const ROOM: usize = 1024;
/// More are not kept: the one refused longest ago gives way. Four thousand credentials need a
/// quarter of it.
const MOST: usize = 16_384;

/// All records, accounts and budgets. Pure: every method is told the time.
#[derive(Debug, Default)]
pub struct Guard {
    records: HashMap<Shared, Record>,
    accounts: HashMap<[u8; 32], Account>,
    budgets: HashMap<Arc<str>, Budget>,
    /// When so many records are kept, they are looked through.
    full: usize,
}

/// A token URL and a secret.
type Shared = (String, [u8; 32]);

/// What a ledger elsewhere had counted for a key.
pub type Known = (Account, Record);

impl Guard {
    /// Asks and, where the answer is `Go`, writes the attempt `id` down as spent.
    pub fn spend(
        &mut self,
        key: &GuardKey,
        limits: &Limits,
        ask: &Ask,
        id: u64,
        now: Now,
    ) -> Answer {
        let name = value_name(key);
        // Taken out and put back, not copied: thousands of partitions may stand in it.
        let known = self.records.remove(&(key.url.clone(), key.secret));
        let was_known = known.is_some();
        let (mut account, mut record) = (
            self.accounts.remove(&key.account).unwrap_or_default(),
            known.unwrap_or_default(),
        );
        let mut tally = Tally {
            account: &mut account,
            record: &mut record,
        };
        let mut answer = tally.ask(whose(key, &name), limits, ask, now);
        if answer == Answer::Go {
            match take(&mut self.budgets, limits, ask, now) {
                Ok(()) => tally.spend(whose(key, &name), id, now),
                Err(later) => answer = Answer::OverBudget(later),
            }
        }
        self.keep(key, account, record, was_known, now);
        answer
    }

    /// The same in place of a ledger that cannot be used now and had counted what is `known`.
    /// `None`: one who shares account or secret does not trust a guard that forgets with its
    /// process.
    pub fn stand_in(
        &mut self,
        known: Option<Known>,
        key: &GuardKey,
        limits: &Limits,
        ask: &Ask,
        id: u64,
        now: Now,
    ) -> Option<Answer> {
        let name = value_name(key);
        let (mut account, mut record) = self.copies(key);
        Tally {
            account: &mut account,
            record: &mut record,
        }
        .note(whose(key, &name), limits, ask, now);
        self.keep(key, account.clone(), record.clone(), true, now);
        join(&mut account, &mut record, known);
        let mut tally = Tally {
            account: &mut account,
            record: &mut record,
        };
        let answer = tally.ask(whose(key, &name), limits, ask, now);
        if tally.need_memory() {
            return None;
        }
        if answer != Answer::Go {
            return Some(answer);
        }
        if let Err(later) = take(&mut self.budgets, limits, ask, now) {
            return Some(Answer::OverBudget(later));
        }
        tally.spend(whose(key, &name), id, now);
        // Only now: what nothing came of is not to hold on where the other ledger can be used
        // again.
        self.keep(key, account, record, true, now);
        Some(answer)
    }

    /// Writes down how the attempt ended; `None`: its outcome will never be known.
    pub fn settle(
        &mut self,
        key: &GuardKey,
        id: u64,
        verdict: impl Into<Option<Verdict>>,
        now: Now,
    ) {
        if let Some(mut tally) = self.tally(key) {
            tally.settle(whose(key, &value_name(key)), id, verdict.into(), now);
        }
    }

    /// Lets one attempt through.
    pub fn unlatch(&mut self, key: &GuardKey) {
        if let Some(mut tally) = self.tally(key) {
            return tally.unlatch(whose(key, ""));
        }
        // Another secret of the account may be what it is latched for.
        if let Some(account) = self.accounts.get_mut(&key.account) {
            account.unlatch();
        }
    }

    /// What is counted now.
    #[must_use]
    pub fn counted(&self, key: &GuardKey, now: Now) -> Counted {
        let (account, record) = (
            self.accounts.get(&key.account),
            self.records.get(&(key.url.clone(), key.secret)),
        );
        let (no_account, no_record) = (Account::default(), Record::default());
        Tally::status(
            account.unwrap_or(&no_account),
            record.unwrap_or(&no_record),
            whose(key, &value_name(key)),
            now,
        )
    }

    /// How many records and accounts there are.
    #[cfg(test)]
    pub(super) fn sizes(&self) -> [usize; 2] {
        [self.records.len(), self.accounts.len()]
    }

    /// As where the process that made the attempt is gone.
    #[cfg(test)]
    pub(super) fn orphan(&mut self, key: &GuardKey, id: u64, now: Now) {
        if let Some(tally) = self.tally(key) {
            tally.account.orphan(|other| other != id, now);
            tally.record.orphan(|other| other != id, now);
        }
    }

    fn tally(&mut self, key: &GuardKey) -> Option<Tally<'_>> {
        let record = self.records.get_mut(&(key.url.clone(), key.secret))?;
        Some(Tally {
            account: self.accounts.entry(key.account).or_default(),
            record,
        })
    }

    fn copies(&self, key: &GuardKey) -> Known {
        let record = self.records.get(&(key.url.clone(), key.secret)).cloned();
        (
            self.accounts.get(&key.account).cloned().unwrap_or_default(),
            record.unwrap_or_default(),
        )
    }

    /// Keeps what was changed. A secret for which nothing was spent leaves no trace.
    fn keep(
        &mut self,
        key: &GuardKey,
        account: Account,
        record: Record,
        was_known: bool,
        now: Now,
    ) {
        self.accounts.insert(key.account, account);
        if was_known || !record.is_blank() {
            self.records.insert((key.url.clone(), key.secret), record);
        }
        if self.records.len().max(self.accounts.len()) > self.full.max(ROOM) {
            self.records.retain(|_, record| !record.is_forgettable(now));
            self.accounts
                .retain(|_, account| !account.is_blank() || account.max().is_some());
            thin(&mut self.records, Record::is_busy, Record::last);
            thin(
                &mut self.accounts,
                |account| account.running() > 0,
                Account::last,
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
    last: impl Fn(&V) -> Option<Now>,
) {
    if all.len() > MOST {
        let idle = all.iter().filter(|(_, value)| !is_busy(value));
        let mut order: Vec<(Option<Now>, K)> = idle
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
    use std::fmt::Write as _;
    key.secret.iter().fold(String::new(), |mut text, b| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{b:02x}");
        text
    })
}

fn whose<'a>(key: &'a GuardKey, name: &'a str) -> Whose<'a> {
    Whose {
        record: name,
        value: name,
        partition: key.partition.as_deref(),
    }
}

/// Counts at least what was `known`.
fn join(account: &mut Account, record: &mut Record, known: Option<Known>) {
    if let Some((of_account, of_secret)) = known {
        account.join(of_account);
        record.join(of_secret);
    }
}

/// Takes one call out of the credential's budget.
fn take(
    budgets: &mut HashMap<Arc<str>, Budget>,
    limits: &Limits,
    ask: &Ask,
    now: Now,
) -> Result<(), Now> {
    let budget = budgets.entry(Arc::clone(&ask.credential)).or_default();
    budget.ready(&limits.rate, now)?;
    budget.take();
    Ok(())
}

/// A ledger that lives as long as the process.
#[derive(Debug, Default)]
pub struct Memory {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    state: Mutex<(u64, Guard)>,
    freed: Arc<Notify>,
    line: Line,
}

impl Inner {
    /// Never held across an await.
    fn lock(&self) -> MutexGuard<'_, (u64, Guard)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Memory {
    /// Asks in place of a ledger that cannot be used now: see [`Guard::stand_in`].
    pub fn stand_in(
        &self,
        known: Option<Known>,
        key: &GuardKey,
        limits: &Limits,
        ask: &Ask,
    ) -> Spend {
        self.asked(key, |guard, id| {
            guard.stand_in(known, key, limits, ask, id, Now::now())
        })
    }

    /// How an attempt ended that the other ledger had allowed.
    pub fn ended(&self, key: &GuardKey, id: u64, verdict: Option<Verdict>) {
        self.inner.lock().1.settle(key, id, verdict, Now::now());
    }

    /// What is counted here, or in what is `known`; `None`: neither has anything of it.
    #[must_use]
    pub fn status(&self, known: Option<Known>, key: &GuardKey) -> Option<Counted> {
        let (now, mut lock) = (Now::now(), self.inner.lock());
        if known.is_none() && lock.1.tally(key).is_none() {
            return None;
        }
        let (mut account, mut record) = lock.1.copies(key);
        join(&mut account, &mut record, known);
        Some(Tally::status(
            &account,
            &record,
            whose(key, &value_name(key)),
            now,
        ))
    }

    fn asked(&self, key: &GuardKey, ask: impl FnOnce(&mut Guard, u64) -> Option<Answer>) -> Spend {
        let mut lock = self.inner.lock();
        let (last, guard) = &mut *lock;
        let id = last.wrapping_add(1);
        match ask(guard, id) {
            Some(Answer::Go) => {
                *last = id;
                let inner = Arc::clone(&self.inner);
                Spend::Go(Permit::new(key.clone(), id, move |key, id| {
                    inner.lock().1.settle(key, id, None, Now::now());
                    inner.freed.notify_waiters();
                }))
            }
            Some(Answer::Busy) => Spend::Busy,
            Some(Answer::Later(t)) => Spend::Later(t),
            Some(Answer::OverBudget(t)) => Spend::OverBudget(t),
            Some(Answer::Latched(t)) => Spend::Latched(t),
            None => Spend::NoMemory,
        }
    }
}

impl Ledger for Memory {
    fn spend<'a>(&'a self, key: &'a GuardKey, limits: &'a Limits, ask: &'a Ask) -> Fut<'a, Spend> {
        Box::pin(async move {
            self.asked(key, |guard, id| {
                Some(guard.spend(key, limits, ask, id, Now::now()))
            })
        })
    }

    fn settle<'a>(&'a self, mut permit: Permit, verdict: Verdict, _: &'a Limits) -> Fut<'a, ()> {
        permit.redeem();
        self.inner
            .lock()
            .1
            .settle(&permit.key, permit.id, verdict, Now::now());
        self.inner.freed.notify_waiters();
        Box::pin(std::future::ready(()))
    }

    fn clear<'a>(&'a self, key: &'a GuardKey) -> Fut<'a, ()> {
        self.inner.lock().1.unlatch(key);
        self.inner.freed.notify_waiters();
        Box::pin(std::future::ready(()))
    }

    fn counted<'a>(&'a self, key: &'a GuardKey) -> Fut<'a, Option<Counted>> {
        Box::pin(std::future::ready(Some(
            self.inner.lock().1.counted(key, Now::now()),
        )))
    }

    fn freed(&self) -> Fut<'static, ()> {
        // Made here and not at the first poll: it must hear of what is settled between now and
        // then.
        Box::pin(Arc::clone(&self.inner.freed).notified_owned())
    }

    fn line(&self) -> &Line {
        &self.inner.line
    }
}
