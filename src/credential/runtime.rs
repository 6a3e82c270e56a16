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

use super::{
    Credential, PartitionKey, Refusal, RefusalReason, bundle::TokenBundle,
    manual_refresh::ManualRefreshLimit,
};
use crate::{
    lock::Lock,
    oauth::TokenClient,
    secret::{SecretWatcher, Secrets},
    telemetry::Metrics,
    token::{KeeperPolicy, Ledger, Store},
};

/// By name and digest.
type RuntimeRegistry = HashMap<(Arc<str>, [u8; 32]), Weak<CredentialRuntime>>;

/// What credentials of all snapshots have in common.
#[derive(Clone)]
pub struct CredentialDeps {
    /// Running keepers.
    pub store: Arc<Store>,
    /// Where attempts are written down.
    pub ledger: Arc<dyn Ledger>,
    /// Where is counted what becomes of them.
    pub metrics: Metrics,
    /// Running credentials by name and digest, so that a reload finds the state of the one it
    /// replaces.
    running: Arc<Lock<RuntimeRegistry>>,
    /// Salts fingerprints of tokens, so that they say nothing across restarts.
    pub(super) salt: [u8; 16],
}

impl CredentialDeps {
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
    pub(super) fn find_or_start(
        &self,
        name: &Arc<str>,
        digest: [u8; 32],
        start: impl FnOnce() -> CredentialRuntime,
    ) -> Arc<CredentialRuntime> {
        let mut running = self.running.lock();
        // Forgets those that have ended now and then: at each start it would take the square of
        // their number.
        if running.len() == running.capacity() {
            running.retain(|_, s| s.strong_count() > 0);
        }
        if let Some(runtime) = running.get(&(name.clone(), digest)).and_then(Weak::upgrade) {
            return runtime;
        }
        let runtime = Arc::new(start());
        running.insert((name.clone(), digest), Arc::downgrade(&runtime));
        runtime
    }
}

/// What outlives a snapshot as long as the credential stays the same.
pub(super) struct CredentialRuntime {
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
    pub(super) many: ArcSwapOption<PartitionedBundles>,
    /// Held while keepers are tuned, so that none is left with an older policy. Never across an
    /// await.
    policies: Lock<Arc<Vec<KeeperPolicy>>>,
    waiters: AtomicUsize,
    /// How often operators who have not shown who they are may cause a refresh.
    pub(super) by_hand: Lock<ManualRefreshLimit>,
}

impl CredentialRuntime {
    pub(super) fn new(
        secrets: Arc<Secrets>,
        clients: &[TokenClient],
        policies: Arc<Vec<KeeperPolicy>>,
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
            many: ArcSwapOption::from_pointee(max.map(PartitionedBundles::new)),
            policies: Lock::new(policies),
            waiters: AtomicUsize::new(0),
            by_hand: Lock::default(),
        }
    }

    pub(super) fn policies(&self) -> Arc<Vec<KeeperPolicy>> {
        self.policies.lock().clone()
    }

    /// New policies, for `bundles` and all that are started from now on.
    pub(super) fn change_policies(
        &self,
        policies: &Arc<Vec<KeeperPolicy>>,
        bundles: impl FnOnce() -> Vec<Arc<TokenBundle>>,
    ) {
        let mut held = self.policies.lock();
        *held = policies.clone();
        for bundle in bundles() {
            bundle.change_policies(policies);
        }
    }

    /// The token set of a partition, or the one `start` makes.
    pub(super) fn find_or_start_bundle(
        &self,
        many: Arc<PartitionedBundles>,
        partition: &PartitionKey,
        start: impl Fn() -> TokenBundle,
    ) -> Arc<TokenBundle> {
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
            let held = self.policies.lock();
            bundle.change_policies(&held);
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
        let new = Arc::new(PartitionedBundles::new(max));
        self.many.store(Some(new.clone()));
        for (partition, bundle) in &old.sets {
            new.sets.get_with_by_ref(&*partition, || bundle);
        }
    }
}

/// Token sets by partition, the least recently used of which goes first. moka bounds memory here;
/// freshness is the keepers' matter.
pub(super) struct PartitionedBundles {
    max: u64,
    sets: moka::sync::Cache<PartitionKey, Arc<TokenBundle>>,
}

impl PartitionedBundles {
    fn new(max: u64) -> Self {
        let sets = moka::sync::Cache::builder()
            .max_capacity(max)
            .eviction_policy(moka::policy::EvictionPolicy::lru())
            .build();
        Self { max, sets }
    }

    pub(super) fn get(&self, partition: &PartitionKey) -> Option<Arc<TokenBundle>> {
        self.sets.get(partition)
    }

    pub(super) fn all(&self) -> Vec<Arc<TokenBundle>> {
        self.sets.iter().map(|(_, bundle)| bundle).collect()
    }
}

impl CredentialRuntime {
    /// A place among at most `max` waiters.
    pub(super) fn queue_waiter(self: &Arc<Self>, max: usize) -> Result<WaiterTicket, Refusal> {
        let line = WaiterTicket(self.clone());
        if self.waiters.fetch_add(1, Ordering::AcqRel) >= max {
            return Err(Refusal {
                reason: RefusalReason::Overloaded,
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
pub(super) struct WaiterTicket(Arc<CredentialRuntime>);

impl Drop for WaiterTicket {
    fn drop(&mut self) {
        self.0.waiters.fetch_sub(1, Ordering::AcqRel);
    }
}
