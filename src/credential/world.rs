//! What credentials of all snapshots have in common, and what of a credential outlives one.

use std::{
    collections::HashMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};

use super::{Credential, Partition, Reason, Refusal, bundle::Bundle, refresh::ByHandLimit};
use crate::{
    lock::Lock,
    oauth::TokenClient,
    secret::{SecretWatcher, Secrets},
    telemetry::Metrics,
    token::{KeeperPolicy, Ledger, Store},
};

/// By name and digest.
type Running = HashMap<(Arc<str>, [u8; 32]), Weak<Shared>>;

/// What credentials of all snapshots have in common.
#[derive(Clone)]
pub struct World {
    /// Running keepers.
    pub store: Arc<Store>,
    /// Where attempts are written down.
    pub ledger: Arc<dyn Ledger>,
    /// Where is counted what becomes of them.
    pub metrics: Metrics,
    /// Running credentials by name and digest, so that a reload finds the state of the one it
    /// replaces.
    running: Arc<Lock<Running>>,
    /// Salts fingerprints of tokens, so that they say nothing across restarts.
    pub(super) salt: [u8; 16],
}

impl World {
    /// One in which nothing runs yet.
    #[must_use]
    pub fn new(store: Arc<Store>, ledger: Arc<dyn Ledger>, metrics: Metrics) -> Self {
        Self {
            store,
            ledger,
            metrics,
            running: Arc::default(),
            salt: [0; 16],
        }
    }

    /// With what salts fingerprints of tokens from now on.
    #[must_use]
    pub fn with_salt(self, salt: [u8; 16]) -> Self {
        Self { salt, ..self }
    }

    /// What runs under this name and digest, or the one `start` makes.
    pub(super) fn shared(
        &self,
        name: &Arc<str>,
        digest: [u8; 32],
        start: impl FnOnce() -> Shared,
    ) -> Arc<Shared> {
        let mut running = self.running.lock();
        // Forgets those that have ended now and then: at each start it would take the square of
        // their number.
        if running.len() == running.capacity() {
            running.retain(|_, s| s.strong_count() > 0);
        }
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
    /// What is believed of its secrets, for token calls and presented headers alike.
    pub(super) secrets: Arc<SecretWatcher>,
    /// The generation of secrets that running keepers were told of.
    pub(super) told: AtomicU64,
    /// Somebody looks again until what is being written is whole.
    pub(super) followed: AtomicBool,
    /// The credential of the configuration that runs: its keepers hear of changes.
    pub(super) current: Lock<Weak<Credential>>,
    /// The senders of its tokens, in the order of the profile: what they trust may change under
    /// running keepers.
    pub(super) clients: Vec<Arc<ArcSwap<TokenClient>>>,
    /// The token sets of a partitioned credential.
    pub(super) many: ArcSwapOption<Many>,
    /// Held while keepers are tuned, so that none is left with an older tuning. Never across an
    /// await.
    tunings: Lock<Arc<Vec<KeeperPolicy>>>,
    waiters: AtomicUsize,
    /// How often operators who have not shown who they are may cause a refresh.
    pub(super) by_hand: Lock<ByHandLimit>,
}

impl Shared {
    pub(super) fn new(
        secrets: Arc<Secrets>,
        clients: &[TokenClient],
        tunings: Arc<Vec<KeeperPolicy>>,
        max: Option<u64>,
    ) -> Self {
        Self {
            secrets: Arc::new(SecretWatcher::new(secrets)),
            told: AtomicU64::new(0),
            followed: AtomicBool::new(false),
            current: Lock::default(),
            clients: clients
                .iter()
                .map(|client| Arc::new(ArcSwap::from_pointee(client.clone())))
                .collect(),
            many: ArcSwapOption::from_pointee(max.map(Many::new)),
            tunings: Lock::new(tunings),
            waiters: AtomicUsize::new(0),
            by_hand: Lock::default(),
        }
    }

    pub(super) fn tunings(&self) -> Arc<Vec<KeeperPolicy>> {
        self.tunings.lock().clone()
    }

    /// New tunings, for `bundles` and all that are started from now on.
    pub(super) fn retune(
        &self,
        tunings: &Arc<Vec<KeeperPolicy>>,
        bundles: impl FnOnce() -> Vec<Arc<Bundle>>,
    ) {
        let mut held = self.tunings.lock();
        *held = tunings.clone();
        for bundle in bundles() {
            bundle.retune(tunings);
        }
    }

    /// The token set of a partition, or the one `start` makes.
    pub(super) fn set_of(
        &self,
        many: Arc<Many>,
        partition: &Partition,
        start: impl Fn() -> Bundle,
    ) -> Arc<Bundle> {
        let mut many = many;
        loop {
            let mut started = false;
            let bundle = many.sets.get_with_by_ref(partition, || {
                started = true;
                Arc::new(start())
            });
            if !started {
                return bundle;
            }
            // Its keepers may be ones that ran before, and a reload may have come in between.
            let held = self.tunings.lock();
            bundle.retune(&held);
            match self.many.load_full() {
                Some(current) if !Arc::ptr_eq(&current, &many) => many = current,
                _ => return bundle,
            }
        }
    }

    /// So many token sets are kept from now on.
    pub(super) fn resize(&self, max: u64) {
        let Some(old) = self.many.load_full().filter(|old| old.max != max) else {
            return;
        };
        let new = Arc::new(Many::new(max));
        self.many.store(Some(new.clone()));
        for (partition, bundle) in &old.sets {
            new.sets.get_with_by_ref(&*partition, || bundle);
        }
    }
}

/// Token sets by partition, the least recently used of which goes first. moka bounds memory here;
/// freshness is the keepers' matter.
pub(super) struct Many {
    max: u64,
    sets: moka::sync::Cache<Partition, Arc<Bundle>>,
}

impl Many {
    fn new(max: u64) -> Self {
        let sets = moka::sync::Cache::builder()
            .max_capacity(max)
            .eviction_policy(moka::policy::EvictionPolicy::lru())
            .build();
        Self { max, sets }
    }

    pub(super) fn get(&self, partition: &Partition) -> Option<Arc<Bundle>> {
        self.sets.get(partition)
    }

    pub(super) fn all(&self) -> Vec<Arc<Bundle>> {
        self.sets.iter().map(|(_, bundle)| bundle).collect()
    }
}

impl Shared {
    /// A place among at most `max` waiters.
    pub(super) fn wait_in_line(self: &Arc<Self>, max: usize) -> Result<InLine, Refusal> {
        let line = InLine(self.clone());
        if self.waiters.fetch_add(1, Ordering::AcqRel) >= max {
            return Err(Refusal {
                reason: Reason::Overloaded,
                token: None,
                retry_after: Some(Duration::from_secs(1)),
                failure: None,
            });
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
