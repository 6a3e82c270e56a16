//! How many requests may be under way: in all, and at each upstream, where more of them wait in
//! order of arrival.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use crate::{lock::Lock, upstream::Upstream};

/// Name and size.
type Key = (Arc<str>, usize);

/// All requests of this process. Outlives every snapshot.
pub struct Places {
    /// A reload that changes neither name nor size finds the same.
    upstreams: Lock<HashMap<Key, Arc<Semaphore>>>,
    /// One for each connection to a vendor there may be.
    all: Arc<Shares>,
    under_way: Arc<AtomicUsize>,
}

/// What all upstreams share.
struct Shares {
    most: usize,
    held: Lock<Held>,
    freed: Notify,
}

/// How many are held, and how many of them by whom.
#[derive(Default)]
struct Held {
    all: usize,
    each: HashMap<Arc<str>, usize>,
}

/// One of the shares.
struct Share(Arc<Shares>, Arc<str>);

/// A request may be at its upstream as long as this lives.
pub struct Place {
    _own: OwnedSemaphorePermit,
    _shared: Share,
}

/// Counts a request that is under way, whatever becomes of it.
pub struct UnderWay(Arc<AtomicUsize>);

impl Places {
    /// At most `most` requests at all vendors together, and at each no more than half of what the
    /// others leave: however many of them stall, something is left for the next.
    pub fn new(most: usize) -> Self {
        let all = Arc::new(Shares {
            most,
            held: Lock::default(),
            freed: Notify::new(),
        });
        Self {
            upstreams: Lock::default(),
            all,
            under_way: Arc::default(),
        }
    }

    pub fn begin(&self) -> UnderWay {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        UnderWay(self.under_way.clone())
    }

    /// The most that one upstream may have, whatever its `pool.requests`.
    pub fn most_of_one(&self) -> usize {
        (self.all.most / 2).max(1)
    }

    /// Requests under way, waiting ones included.
    pub fn under_way(&self) -> usize {
        self.under_way.load(Ordering::Relaxed)
    }

    /// Waits for a place at this upstream, first come first served, no longer than a connection may
    /// take. `None`: there was none in time.
    pub async fn take(&self, upstream: &Upstream) -> Option<Place> {
        let own = self.of(
            &upstream.name,
            upstream.pool.requests.min(self.most_of_one()),
        );
        let both = async {
            let own = own.acquire_owned().await.ok()?;
            Some(Place {
                _own: own,
                _shared: self.all.take(&upstream.name).await,
            })
        };
        timeout(upstream.timeouts.connect, both).await.ok()?
    }

    fn of(&self, name: &Arc<str>, size: usize) -> Arc<Semaphore> {
        let mut all = self.upstreams.lock();
        let key = (name.clone(), size);
        if let Some(known) = all.get(&key) {
            return known.clone();
        }
        // Places that somebody holds stay, so that an upstream that comes back finds them taken.
        all.retain(|(_, size), s| s.available_permits() < *size);
        all.entry(key)
            .or_insert_with(|| Arc::new(Semaphore::new(size.min(Semaphore::MAX_PERMITS))))
            .clone()
    }
}

impl Shares {
    async fn take(self: &Arc<Self>, name: &Arc<str>) -> Share {
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            // From here on, what is given back is not missed.
            freed.as_mut().enable();
            if let Some(share) = self.try_take(name) {
                return share;
            }
            freed.await;
        }
    }

    fn try_take(self: &Arc<Self>, name: &Arc<str>) -> Option<Share> {
        let mut held = self.held.lock();
        let own = held.each.get(name).copied().unwrap_or_default();
        let others = held.all - own;
        if held.all >= self.most || own >= ((self.most - others) / 2).max(1) {
            return None;
        }
        held.all += 1;
        *held.each.entry(name.clone()).or_default() += 1;
        drop(held);
        Some(Share(self.clone(), name.clone()))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut held = self.0.held.lock();
        held.all = held.all.saturating_sub(1);
        if let Some(own) = held.each.get_mut(&self.1) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                held.each.remove(&self.1);
            }
        }
        drop(held);
        self.0.freed.notify_waiters();
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(count: usize) -> Vec<Arc<str>> {
        (0..count).map(|n| n.to_string().into()).collect()
    }

    fn shares(most: usize) -> Arc<Shares> {
        Arc::new(Shares {
            most,
            held: Lock::default(),
            freed: Notify::new(),
        })
    }

    #[test]
    fn each_upstream_that_stalls_takes_half_of_what_the_others_left() {
        let all = shares(160);
        let mut held = Vec::new();
        let mut took = Vec::new();
        for name in &names(6) {
            let before = held.len();
            while let Some(share) = all.try_take(name) {
                held.push(share);
            }
            took.push(held.len() - before);
        }
        assert_eq!(took, [80, 40, 20, 10, 5, 2]);
        drop(held);
        assert_eq!(all.held.lock().all, 0);
        assert!(all.held.lock().each.is_empty());
    }

    #[test]
    fn one_share_is_there_for_everybody_as_long_as_there_is_any() {
        let all = shares(3);
        let held: Vec<Share> = names(3)
            .iter()
            .map(|name| all.try_take(name).unwrap())
            .collect();
        assert!(all.try_take(&"other".into()).is_none() && all.try_take(&names(1)[0]).is_none());
        drop(held);
        assert!(all.try_take(&"other".into()).is_some());
    }

    #[tokio::test]
    async fn who_waits_goes_on_when_a_share_is_given_back() {
        let all = shares(1);
        let first = all.try_take(&"a".into()).unwrap();
        let waiting = tokio::spawn({
            let all = all.clone();
            async move { drop(all.take(&"b".into()).await) }
        });
        tokio::task::yield_now().await;
        drop(first);
        timeout(std::time::Duration::from_secs(10), waiting)
            .await
            .unwrap()
            .unwrap();
    }
}
