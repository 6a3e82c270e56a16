//! The guard of one process: records by key, budgets by credential, and the ledger that keeps them in memory.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use super::{Answer, Ask, Budget, Counted, GuardKey, Hold, Ledger, Limits, Line, Permit, Record, Spend, Verdict};
use crate::token::{clock::Now, fetch::Fut};

/// All records and budgets. Pure: every method is told the time.
#[derive(Debug, Default)]
pub struct Guard {
    records: HashMap<(String, [u8; 32]), Record>,
    budgets: HashMap<Arc<str>, Budget>,
}

impl Guard {
    /// Asks and, where the answer is `Go`, writes the attempt `id` down as spent.
    pub fn spend(&mut self, key: &GuardKey, limits: &Limits, ask: &Ask, id: u64, now: Now) -> Answer {
        let record = self.records.entry((key.url.clone(), key.secret)).or_default();
        let answer = record.ask(key.partition.as_deref(), limits, ask, now);
        if answer != Answer::Go {
            return answer;
        }
        if let Err(later) = take(&mut self.budgets, limits, ask, now) {
            return Answer::Later(later);
        }
        record.spend(key.partition.as_deref(), id, now);
        Answer::Go
    }

    /// The same in place of a ledger that cannot be used now and had counted what is `known`. `None`: one who shares the key does not trust a
    /// guard that forgets with its process.
    pub fn stand_in(&mut self, known: Option<Record>, key: &GuardKey, limits: &Limits, ask: &Ask, id: u64, now: Now) -> Option<Answer> {
        let record = self.records.entry((key.url.clone(), key.secret)).or_default();
        record.note(limits, ask, now);
        let mut joined = record.clone();
        if let Some(known) = known {
            joined.join(known);
        }
        let answer = joined.ask(key.partition.as_deref(), limits, ask, now);
        if joined.hold() == Hold::UntilSecretChanges {
            return None;
        }
        if answer != Answer::Go {
            return Some(answer);
        }
        if let Err(later) = take(&mut self.budgets, limits, ask, now) {
            return Some(Answer::Later(later));
        }
        joined.spend(key.partition.as_deref(), id, now);
        // Only now: what nothing came of is not to hold on where the other ledger can be used again.
        *record = joined;
        Some(Answer::Go)
    }

    /// Writes down how the attempt ended.
    pub fn settle(&mut self, key: &GuardKey, id: u64, verdict: Verdict, now: Now) {
        if let Some(record) = self.record(key) {
            record.settle(key.partition.as_deref(), id, verdict, now);
        }
    }

    /// The attempt's outcome will never be known.
    pub fn lose(&mut self, key: &GuardKey, id: u64, now: Now) {
        if let Some(record) = self.record(key) {
            record.lose(key.partition.as_deref(), id, now);
        }
    }

    /// Forgets what is counted.
    pub fn clear(&mut self, key: &GuardKey) {
        if let Some(record) = self.record(key) {
            record.clear(key.partition.as_deref());
        }
    }

    /// What is counted now.
    #[must_use]
    pub fn counted(&self, key: &GuardKey, now: Now) -> Counted {
        self.records.get(&(key.url.clone(), key.secret)).map(|r| r.status(key.partition.as_deref(), now)).unwrap_or_default()
    }

    /// As where the process that made the attempt is gone.
    #[cfg(test)]
    pub(super) fn orphan(&mut self, key: &GuardKey, id: u64, now: Now) {
        if let Some(record) = self.record(key) {
            record.orphan(|other| other != id, now);
        }
    }

    fn record(&mut self, key: &GuardKey) -> Option<&mut Record> {
        self.records.get_mut(&(key.url.clone(), key.secret))
    }
}

/// Takes one call out of the credential's budget.
fn take(budgets: &mut HashMap<Arc<str>, Budget>, limits: &Limits, ask: &Ask, now: Now) -> Result<(), Now> {
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
    pub fn stand_in(&self, known: Option<Record>, key: &GuardKey, limits: &Limits, ask: &Ask) -> Spend {
        self.asked(key, |guard, id| guard.stand_in(known, key, limits, ask, id, Now::now()))
    }

    /// How an attempt ended that the other ledger had allowed.
    pub fn ended(&self, key: &GuardKey, id: u64, verdict: Option<Verdict>) {
        let guard = &mut self.inner.lock().1;
        match verdict {
            Some(verdict) => guard.settle(key, id, verdict, Now::now()),
            None => guard.lose(key, id, Now::now()),
        }
    }

    /// What is counted here, or in what is `known`; `None`: neither has anything of it.
    #[must_use]
    pub fn status(&self, known: Option<Record>, key: &GuardKey) -> Option<Counted> {
        let mut all = self.inner.lock().1.record(key).cloned();
        if let Some(known) = known {
            all.get_or_insert_default().join(known);
        }
        all.map(|record| record.status(key.partition.as_deref(), Now::now()))
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
                    inner.lock().1.lose(key, id, Now::now());
                    inner.freed.notify_waiters();
                }))
            }
            Some(Answer::Busy) => Spend::Busy,
            Some(Answer::Later(t)) => Spend::Later(t),
            Some(Answer::Latched(t)) => Spend::Latched(t),
            None => Spend::NoMemory,
        }
    }
}

impl Ledger for Memory {
    fn spend<'a>(&'a self, key: &'a GuardKey, limits: &'a Limits, ask: &'a Ask) -> Fut<'a, Spend> {
        Box::pin(async move { self.asked(key, |guard, id| Some(guard.spend(key, limits, ask, id, Now::now()))) })
    }

    fn settle<'a>(&'a self, mut permit: Permit, verdict: Verdict, _: &'a Limits) -> Fut<'a, ()> {
        permit.redeem();
        self.inner.lock().1.settle(&permit.key, permit.id, verdict, Now::now());
        self.inner.freed.notify_waiters();
        Box::pin(std::future::ready(()))
    }

    fn clear<'a>(&'a self, key: &'a GuardKey) -> Fut<'a, ()> {
        self.inner.lock().1.clear(key);
        self.inner.freed.notify_waiters();
        Box::pin(std::future::ready(()))
    }

    fn counted<'a>(&'a self, key: &'a GuardKey) -> Fut<'a, Option<Counted>> {
        Box::pin(std::future::ready(Some(self.inner.lock().1.counted(key, Now::now()))))
    }

    fn freed(&self) -> Fut<'static, ()> {
        // Made here and not at the first poll: it must hear of what is settled between now and then.
        Box::pin(Arc::clone(&self.inner.freed).notified_owned())
    }

    fn line(&self) -> &Line {
        &self.inner.line
    }
}
