//! Running keepers by key, shared across snapshots through weak references.

use std::{
    collections::HashMap,
    sync::{Arc, MutexGuard, OnceLock, Weak},
    time::Duration,
};

use tokio::time::{Instant, timeout_at};

use super::{keeper::Keeper, slot::Slot};

use crate::lock::Lock;

/// Finds or starts keepers.
#[derive(Default)]
pub struct Store {
    inner: Lock<Keepers>,
}

#[derive(Default)]
struct Keepers {
    by_key: HashMap<[u8; 32], Arc<OnceLock<Weak<Keeper>>>>,
    /// Every task that may still run, those without a handle included.
    slots: Vec<Weak<Slot>>,
    draining: bool,
    /// With so many keepers it is time to forget those that have ended.
    forget_at: usize,
    /// How many were looked at for that, for tests.
    #[cfg(test)]
    looked_at: usize,
}

/// Fewer are not worth a look.
const FEW: usize = 16;

impl Store {
    /// The running keeper under `key` (a digest of all that shapes its request), or the one `start`
    /// makes. `start` runs at most once at a time for a key, and may itself ask the store for other
    /// keys.
    pub fn get_or_start(&self, key: [u8; 32], start: impl FnOnce() -> Arc<Keeper>) -> Arc<Keeper> {
        let mut start = Some(start);
        loop {
            let cell = self.cell(key);
            let mut started = None;
            let weak = cell.get_or_init(|| match start.take() {
                Some(start) => {
                    let keeper = start();
                    self.register(&keeper);
                    let weak = Arc::downgrade(&keeper);
                    started = Some(keeper);
                    weak
                }
                // Not reached: `start` is taken only here, and then the keeper it made is the
                // answer.
                None => Weak::new(),
            });
            if let Some(keeper) = started.or_else(|| weak.upgrade()) {
                return keeper;
            }
        }
    }

    /// From now on keepers fetch only for waiters; ends when running calls have ended or `patience`
    /// is over.
    pub async fn drain(&self, patience: Duration) {
        let slots: Vec<_> = {
            let mut inner = self.lock();
            inner.draining = true;
            inner.slots.iter().filter_map(Weak::upgrade).collect()
        };
        for slot in &slots {
            slot.drain();
        }
        #[expect(
            clippy::disallowed_methods,
            reason = "a bound on our own waiting, not the life of a token"
        )]
        let end = Instant::now() + patience.min(Duration::from_hours(24));
        loop {
            // Listed anew: a request that is still open may have started one.
            let Some(slot) = self
                .lock()
                .slots
                .iter()
                .filter_map(Weak::upgrade)
                .find(|s| s.busy.is_busy())
            else {
                return;
            };
            let mut state = slot.state.subscribe();
            let idle = async {
                // The task publishes after it has put the flag down.
                while slot.busy.is_busy() {
                    if state.changed().await.is_err() {
                        break;
                    }
                }
            };
            if timeout_at(end, idle).await.is_err() {
                return;
            }
        }
    }

    /// How many keepers and tasks it remembers.
    #[cfg(test)]
    pub(super) fn remembered(&self) -> (usize, usize) {
        let inner = self.lock();
        (inner.by_key.len(), inner.slots.len())
    }

    /// How many keepers were looked at to find those that have ended.
    #[cfg(test)]
    pub(super) fn looked_at(&self) -> usize {
        self.lock().looked_at
    }

    /// The place of a keeper that lives, is being started, or is to be started.
    fn cell(&self, key: [u8; 32]) -> Arc<OnceLock<Weak<Keeper>>> {
        let mut inner = self.lock();
        if let Some(cell) = inner.by_key.get(&key)
            && cell.get().is_none_or(|weak| weak.strong_count() > 0)
        {
            return Arc::clone(cell);
        }
        // A new one starts: the moment to forget those that have ended, if they may be as many as
        // those that live.
        if inner.by_key.len().max(inner.slots.len()) >= inner.forget_at {
            #[cfg(test)]
            {
                inner.looked_at += inner.by_key.len();
            }
            inner
                .by_key
                .retain(|_, cell| cell.get().is_none_or(|weak| weak.strong_count() > 0));
            inner.slots.retain(|slot| slot.strong_count() > 0);
            inner.forget_at = inner.by_key.len().max(inner.slots.len()).max(FEW) * 2;
        }
        let cell = Arc::new(OnceLock::new());
        inner.by_key.insert(key, Arc::clone(&cell));
        cell
    }

    fn register(&self, keeper: &Keeper) {
        let mut inner = self.lock();
        inner.slots.push(Arc::downgrade(&keeper.slot));
        if inner.draining {
            keeper.slot.drain();
        }
    }

    /// Never held across an await or a call to others.
    fn lock(&self) -> MutexGuard<'_, Keepers> {
        self.inner.lock()
    }
}
