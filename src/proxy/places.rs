//! How many requests may be under way: in all, and at each upstream, where more of them wait in order of arrival.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use crate::upstream::Upstream;

/// Name and size.
type Key = (Arc<str>, usize);

/// All requests of this process. Outlives every snapshot.
pub struct Places {
    /// A reload that changes neither name nor size finds the same.
    upstreams: Mutex<HashMap<Key, Arc<Semaphore>>>,
    /// One for each connection to a vendor there may be.
    all: Arc<Semaphore>,
    under_way: Arc<AtomicUsize>,
}

/// A request may be at its upstream as long as this lives.
pub struct Place {
    _own: OwnedSemaphorePermit,
    _shared: OwnedSemaphorePermit,
}

/// Counts a request that is under way, whatever becomes of it.
pub struct UnderWay(Arc<AtomicUsize>);

impl Places {
    /// At most `most` requests at all vendors together.
    pub fn new(most: usize) -> Self {
        let all = Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS)));
        Self { upstreams: Mutex::default(), all, under_way: Arc::default() }
    }

    pub fn begin(&self) -> UnderWay {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        UnderWay(self.under_way.clone())
    }

    /// Requests under way, waiting ones included.
    pub fn under_way(&self) -> usize {
        self.under_way.load(Ordering::Relaxed)
    }

    /// Waits for a place at this upstream, first come first served, no longer than a connection may take. `None`: there was none in time.
    pub async fn take(&self, upstream: &Upstream) -> Option<Place> {
        let own = self.of(&upstream.name, upstream.pool_requests);
        let both = async {
            let own = own.acquire_owned().await.ok()?;
            let shared = self.all.clone().acquire_owned().await.ok()?;
            Some(Place { _own: own, _shared: shared })
        };
        timeout(upstream.timeouts.connect, both).await.ok()?
    }

    fn of(&self, name: &Arc<str>, size: usize) -> Arc<Semaphore> {
        let mut all = self.upstreams.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (name.clone(), size);
        if let Some(known) = all.get(&key) {
            return known.clone();
        }
        // Places that somebody holds stay, so that an upstream that comes back finds them taken.
        all.retain(|(_, size), s| s.available_permits() < *size);
        all.entry(key).or_insert_with(|| Arc::new(Semaphore::new(size.min(Semaphore::MAX_PERMITS)))).clone()
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
