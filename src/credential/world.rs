//! What credentials of all snapshots have in common, and what of a credential outlives one.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};

use super::{Reason, Refusal, look::Looking};
use crate::{
    oauth::TokenClient,
    secret::{Files, Secrets, Values},
    telemetry::Metrics,
    token::{Ledger, Store},
};

/// By name and digest.
type Running = HashMap<(Arc<str>, [u8; 32]), Weak<Shared>>;

/// What credentials of all snapshots have in common.
#[derive(Clone)]
pub struct World {
    pub store: Arc<Store>,
    pub ledger: Arc<dyn Ledger>,
    pub metrics: Metrics,
    /// Running credentials by name and digest, so that a reload finds the state of the one it replaces.
    running: Arc<Mutex<Running>>,
}

impl World {
    #[must_use]
    pub fn new(store: Arc<Store>, ledger: Arc<dyn Ledger>, metrics: Metrics) -> Self {
        Self { store, ledger, metrics, running: Arc::default() }
    }

    /// What runs under this name and digest, or the one `start` makes.
    pub(super) fn shared(&self, name: &Arc<str>, digest: [u8; 32], start: impl FnOnce() -> Shared) -> Arc<Shared> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.retain(|_, s| s.strong_count() > 0);
        if let Some(shared) = running.get(&(name.clone(), digest)).and_then(Weak::upgrade) {
            return shared;
        }
        let shared = Arc::new(start());
        running.insert((name.clone(), digest), Arc::downgrade(&shared));
        shared
    }
}

/// What outlives a snapshot as long as the credential stays the same.
pub(super) struct Shared {
    /// What token calls read at the moment of use.
    pub(super) secrets: Arc<ArcSwap<Secrets>>,
    /// The senders of its tokens, in the order of the profile: what they trust may change under running keepers.
    pub(super) clients: Vec<Arc<ArcSwap<TokenClient>>>,
    /// The last values that were read and believed: for presented headers.
    pub(super) seen: ArcSwapOption<Seen>,
    /// Counts up when secret values change, so that presented headers are rendered again.
    pub(super) epoch: AtomicU64,
    /// Held by who looks whether the secrets changed.
    pub(super) looking: Arc<tokio::sync::Mutex<Looking>>,
    waiters: AtomicUsize,
}

pub(super) struct Seen {
    pub(super) values: Values,
    pub(super) digest: [u8; 32],
    pub(super) files: Files,
}

impl Shared {
    pub(super) fn new(secrets: Arc<Secrets>, clients: &[TokenClient]) -> Self {
        Self {
            secrets: Arc::new(ArcSwap::new(secrets)),
            clients: clients.iter().map(|client| Arc::new(ArcSwap::from_pointee(client.clone()))).collect(),
            seen: ArcSwapOption::empty(),
            epoch: AtomicU64::new(0),
            looking: Arc::default(),
            waiters: AtomicUsize::new(0),
        }
    }

    /// Makes `newer` what is seen, unless somebody else put something in the place of `before` meanwhile.
    pub(super) fn see(&self, before: Option<&Arc<Seen>>, newer: Seen) -> bool {
        let changed = before.is_none_or(|before| before.digest != newer.digest);
        let before = before.cloned();
        let found = self.seen.compare_and_swap(&before, Some(Arc::new(newer)));
        let done = match (&*found, &before) {
            (Some(found), Some(before)) => Arc::ptr_eq(found, before),
            (None, None) => true,
            _ => false,
        };
        if done && changed {
            self.epoch.fetch_add(1, Ordering::AcqRel);
        }
        done
    }
}

impl Shared {
    /// A place among at most `max` waiters.
    pub(super) fn wait_in_line(self: &Arc<Self>, max: usize) -> Result<InLine, Refusal> {
        let line = InLine(self.clone());
        if self.waiters.fetch_add(1, Ordering::AcqRel) >= max {
            return Err(Refusal { reason: Reason::Overloaded, token: None, retry_after: Some(Duration::from_secs(1)), failure: None });
        }
        Ok(line)
    }

    pub(super) fn waiters(&self) -> usize {
        self.waiters.load(Ordering::Acquire)
    }
}

/// A place among the waiters; given back when dropped, also by a caller that leaves.
pub(super) struct InLine(Arc<Shared>);

impl Drop for InLine {
    fn drop(&mut self) {
        self.0.waiters.fetch_sub(1, Ordering::AcqRel);
    }
}
