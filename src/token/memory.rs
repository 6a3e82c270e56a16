//! The ledger that lives as long as the process: a guard behind a lock.

use std::sync::{Arc, MutexGuard};

use futures_util::future::BoxFuture;
use tokio::sync::Notify;

use super::{
    guard::{AttemptOutcome, AttemptRequest, Guard, GuardDecision, GuardStatus, KeyCounts},
    ledger::{Ledger, Reservation},
    model::GuardKey,
    policy::LockoutPolicy,
    queue::TurnQueue,
};
use crate::{clock::BootInstant, lock::Lock};

/// A ledger that lives as long as the process.
#[derive(Debug, Default)]
pub struct MemoryLedger {
    inner: Arc<MemoryState>,
}

#[derive(Debug, Default)]
struct MemoryState {
    state: Lock<(u64, Guard)>,
    freed: Arc<Notify>,
    line: TurnQueue,
}

impl MemoryState {
    /// Never held across an await.
    fn lock(&self) -> MutexGuard<'_, (u64, Guard)> {
        self.state.lock()
    }
}

impl MemoryLedger {
    /// Asks in place of a ledger that cannot be used now: see [`Guard::stand_in`].
    pub fn stand_in(
        &self,
        known: Option<KeyCounts>,
        key: &GuardKey,
        limits: &LockoutPolicy,
        request: &AttemptRequest,
    ) -> GuardDecision<Reservation> {
        self.reserve(key, |guard, id| {
            guard.stand_in(known, key, limits, request, id, BootInstant::now())
        })
    }

    /// How an attempt ended that the other ledger had allowed.
    pub fn ended(&self, key: &GuardKey, id: u64, outcome: Option<AttemptOutcome>) {
        self.inner
            .lock()
            .1
            .settle(key, id, outcome, BootInstant::now());
    }

    /// What is counted here, or in what is `known`; `None`: neither has anything of it.
    #[must_use]
    pub fn status(&self, known: Option<KeyCounts>, key: &GuardKey) -> Option<GuardStatus> {
        self.inner
            .lock()
            .1
            .status_with(known, key, BootInstant::now())
    }

    /// Hands out a reservation where `decide` says so.
    fn reserve(
        &self,
        key: &GuardKey,
        decide: impl FnOnce(&mut Guard, u64) -> GuardDecision,
    ) -> GuardDecision<Reservation> {
        let mut lock = self.inner.lock();
        let (last, guard) = &mut *lock;
        let id = last.wrapping_add(1);
        decide(guard, id)?;
        *last = id;
        let inner = Arc::clone(&self.inner);
        Ok(Reservation::new(key.clone(), id, move |key, id| {
            inner.lock().1.settle(key, id, None, BootInstant::now());
            inner.freed.notify_waiters();
        }))
    }
}

impl Ledger for MemoryLedger {
    fn spend<'a>(
        &'a self,
        key: &'a GuardKey,
        limits: &'a LockoutPolicy,
        request: &'a AttemptRequest,
    ) -> BoxFuture<'a, GuardDecision<Reservation>> {
        Box::pin(async move {
            self.reserve(key, |guard, id| {
                guard.spend(key, limits, request, id, BootInstant::now())
            })
        })
    }

    fn settle<'a>(
        &'a self,
        mut reservation: Reservation,
        outcome: AttemptOutcome,
        _: &'a LockoutPolicy,
    ) -> BoxFuture<'a, ()> {
        reservation.redeem();
        self.inner.lock().1.settle(
            &reservation.key,
            reservation.id,
            outcome,
            BootInstant::now(),
        );
        self.inner.freed.notify_waiters();
        Box::pin(std::future::ready(()))
    }

    fn clear<'a>(&'a self, key: &'a GuardKey) -> BoxFuture<'a, ()> {
        self.inner.lock().1.unlatch(key);
        self.inner.freed.notify_waiters();
        Box::pin(std::future::ready(()))
    }

    fn counted<'a>(&'a self, key: &'a GuardKey) -> BoxFuture<'a, Option<GuardStatus>> {
        Box::pin(std::future::ready(Some(
            self.inner.lock().1.counted(key, BootInstant::now()),
        )))
    }

    fn freed(&self) -> BoxFuture<'static, ()> {
        // Made here and not at the first poll: it must hear of what is settled between now and
        // then.
        Box::pin(Arc::clone(&self.inner.freed).notified_owned())
    }

    fn line(&self) -> &TurnQueue {
        &self.inner.line
    }
}
