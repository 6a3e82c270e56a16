//! One budget of memory for the unfinished request heads of all connections. What does not fit is
//! at the cost of the newest.

use std::{
    collections::BTreeMap,
    sync::{Arc, MutexGuard},
};

use tokio::sync::Notify;

use crate::lock::Lock;

/// The heads that have begun and not ended, and what their buffers take together.
#[derive(Debug)]
pub(super) struct Unfinished {
    /// Bytes they may take together.
    most: usize,
    all: Lock<All>,
    /// Rings whenever bytes were given back.
    freed: Notify,
}

#[derive(Debug, Default)]
struct All {
    bytes: usize,
    next: u64,
    /// By the order in which they began.
    heads: BTreeMap<u64, Head>,
}

#[derive(Debug)]
struct Head {
    bytes: usize,
    /// Rings when it has to make room.
    leave: Arc<Notify>,
}

/// The share of one head; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Share<'a> {
    of: &'a Unfinished,
    number: u64,
    leave: Arc<Notify>,
}

/// What came of asking for more.
enum Asked {
    Given,
    /// No room, and nobody is newer.
    Refused,
    /// A newer one was told to make room.
    Soon,
}

impl Unfinished {
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            all: Lock::default(),
            freed: Notify::new(),
        }
    }

    /// One more head has begun. It has nothing yet.
    pub(super) fn begin(&self) -> Share<'_> {
        let leave = Arc::new(Notify::new());
        let mut all = self.all();
        let number = all.next;
        all.next += 1;
        all.heads.insert(
            number,
            Head {
                bytes: 0,
                leave: leave.clone(),
            },
        );
        Share {
            of: self,
            number,
            leave,
        }
    }

    fn all(&self) -> MutexGuard<'_, All> {
        self.all.lock()
    }

    fn ask(&self, number: u64, bytes: usize) -> Asked {
        let mut all = self.all();
        let total = all.bytes;
        let Some(head) = all.heads.get_mut(&number) else {
            return Asked::Refused;
        };
        let total = total - head.bytes + bytes.max(head.bytes);
        if total <= self.most {
            head.bytes = bytes.max(head.bytes);
            all.bytes = total;
            return Asked::Given;
        }
        match all.heads.last_key_value() {
            Some((newest, head)) if *newest != number => {
                head.leave.notify_one();
                Asked::Soon
            }
            _ => Asked::Refused,
        }
    }
}

impl Share<'_> {
    /// Waits until this head may take `bytes` in all; false where it has to go instead.
    pub(super) async fn grow(&self, bytes: usize) -> bool {
        loop {
            let freed = self.of.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            match self.of.ask(self.number, bytes) {
                Asked::Given => return true,
                Asked::Refused => return false,
                Asked::Soon => tokio::select! {
                    biased;
                    () = self.must_leave() => return false,
                    () = freed => {}
                },
            }
        }
    }

    /// Ends when an older head needs the room of this one.
    pub(super) async fn must_leave(&self) {
        self.leave.notified().await;
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        {
            let mut all = self.of.all();
            let given = all.heads.remove(&self.number).map_or(0, |head| head.bytes);
            all.bytes -= given;
        }
        self.of.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn what_does_not_fit_is_refused_and_fits_once_another_has_ended() {
        let heads = Unfinished::new(100);
        let (first, second) = (heads.begin(), heads.begin());
        assert!(first.grow(60).await);
        assert!(second.grow(40).await);
        assert!(
            !second.grow(41).await,
            "the newest has nobody to take it from"
        );
        assert!(first.grow(10).await, "what was given stays");
        drop(first);
        assert!(second.grow(100).await);
        drop(second);
        assert_eq!(heads.all().bytes, 0);
        assert!(heads.all().heads.is_empty());
    }

    #[tokio::test]
    async fn an_older_head_grows_at_the_cost_of_the_newest_once_that_is_gone() {
        let heads = Unfinished::new(100);
        let [old, middle, new] = [heads.begin(), heads.begin(), heads.begin()];
        for (head, bytes) in [(&old, 40), (&middle, 30), (&new, 30)] {
            assert!(head.grow(bytes).await);
        }
        let grown = old.grow(70);
        tokio::pin!(grown);
        assert!(
            grown.as_mut().now_or_never().is_none(),
            "its bytes are still there"
        );
        assert!(new.must_leave().now_or_never().is_some());
        assert!(
            middle.must_leave().now_or_never().is_none(),
            "one is enough"
        );
        drop(new);
        assert_eq!(grown.now_or_never(), Some(true));
        assert_eq!(heads.all().bytes, 100);
    }

    #[tokio::test]
    async fn a_head_that_waits_for_room_leaves_when_an_older_one_needs_its_own() {
        let heads = Unfinished::new(100);
        let [old, middle] = [heads.begin(), heads.begin()];
        assert!(old.grow(40).await && middle.grow(30).await);
        let new = heads.begin();
        assert!(new.grow(30).await);
        let mut waits = Box::pin(middle.grow(60));
        assert!(waits.as_mut().now_or_never().is_none());
        let mut older = Box::pin(old.grow(60));
        assert!(older.as_mut().now_or_never().is_none());
        drop(new);
        assert_eq!(older.as_mut().now_or_never(), Some(true));
        assert_eq!(
            waits.as_mut().now_or_never(),
            Some(false),
            "nobody is newer"
        );
        drop(waits);
        let mut more = Box::pin(old.grow(80));
        assert!(more.as_mut().now_or_never().is_none());
        assert!(middle.must_leave().now_or_never().is_some());
        drop(middle);
        assert_eq!(more.as_mut().now_or_never(), Some(true));
    }
}
