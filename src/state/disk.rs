//! The ledger: each change is read, judged and written under the folder's lock, on a thread that
//! may block.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::future::BoxFuture;
use tokio::sync::Notify;

use super::{
    book::{Book, Ended},
    folder::Folder,
    trouble::{Report, Trouble},
};
use crate::{
    clock::{BootInstant, BootStamp},
    token::{
        AttemptOutcome, AttemptRequest, Denial, GuardDecision, GuardKey, GuardStatus, Ledger,
        LockoutPolicy, MemoryLedger, Reservation, TurnQueue, guard::KeyCounts,
    },
};

use crate::lock::Lock;

/// How often the folder is looked at for what other processes did there.
const LOOK: Duration = Duration::from_millis(250);
/// Attempts on disk have this bit in their number, those counted in memory do not.
const ON_DISK: u64 = 1 << 63;

/// A ledger that outlives processes.
#[derive(Clone)]
pub struct Disk(Arc<Inner>);

struct Inner {
    book: Book,
    /// Where that is allowed, what cannot be counted on disk.
    memory: MemoryLedger,
    freed: Arc<Notify>,
    /// When the folder had changed last, by the last look at it.
    seen: Lock<Option<SystemTime>>,
    report: Report,
}

impl Disk {
    /// A ledger in `dir`, which is made at the first use. `count_error` is told of each time that
    /// it cannot be read or written.
    #[must_use]
    pub fn new(dir: PathBuf, count_error: impl Fn() + Send + Sync + 'static) -> Self {
        Self::over(Folder::new(dir), count_error)
    }

    /// The ledger of a program that need not be running, in `dir`, for one who writes in its name:
    /// what the superuser changes there still belongs to the folder's owner. A folder that is not
    /// there is not made.
    #[must_use]
    pub fn on_behalf(dir: PathBuf, count_error: impl Fn() + Send + Sync + 'static) -> Self {
        Self::over(Folder::on_behalf(dir), count_error)
    }

    fn over(folder: Folder, count_error: impl Fn() + Send + Sync + 'static) -> Self {
        let report = Report::new(count_error);
        Self(Arc::new(Inner {
            book: Book::new(folder),
            memory: MemoryLedger::default(),
            freed: Arc::default(),
            seen: Lock::default(),
            report,
        }))
    }

    /// Opens the folder now, so that what is wrong with it is reported at the start.
    pub async fn open(&self) {
        let stamp = BootStamp::now();
        let _ = self
            .work(move |inner| inner.book.open(&stamp).map(drop))
            .await;
    }

    #[cfg(test)]
    pub(super) fn lookers(&self) -> Vec<std::thread::ThreadId> {
        self.0.book.folder().lookers.lock().unwrap().clone()
    }

    /// From now on nothing in the folder can be brought to the disk, or all can again.
    #[cfg(test)]
    pub(super) fn sicken(&self, sick: bool) {
        self.0
            .book
            .folder()
            .sick
            .store(sick, std::sync::atomic::Ordering::Relaxed);
    }

    /// Runs on a thread that may block; a caller who leaves does not stop it.
    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<Inner>) -> Result<T, Trouble> + Send + 'static,
    ) -> Result<T, Trouble> {
        let inner = Arc::clone(&self.0);
        let done = tokio::task::spawn_blocking(move || {
            let done = work(&inner);
            if let Err(trouble) = &done {
                inner.report.fails(trouble);
            }
            done
        });
        done.await.unwrap_or(Err(Trouble::CutOff))
    }
}

impl Ledger for Disk {
    fn spend<'a>(
        &'a self,
        key: &'a GuardKey,
        limits: &'a LockoutPolicy,
        ask: &'a AttemptRequest,
    ) -> BoxFuture<'a, GuardDecision<Reservation>> {
        Box::pin(async move {
            // What was counted in memory while the disk could not be used holds on.
            if let Some(until) = self
                .0
                .memory
                .status(None, key)
                .and_then(|counted| counted.latched)
            {
                return Err(Denial::Latched(until));
            }
            let (key_, limits_, ask_, stamp) =
                (key.clone(), limits.clone(), ask.clone(), BootStamp::now());
            match self
                .work(move |inner| inner.spend(&key_, &limits_, &ask_, &stamp))
                .await
            {
                Ok(spend) => spend,
                Err(_) => self
                    .0
                    .memory
                    .stand_in(self.known(key).await, key, limits, ask),
            }
        })
    }

    fn settle<'a>(
        &'a self,
        mut permit: Reservation,
        verdict: AttemptOutcome,
        limits: &'a LockoutPolicy,
    ) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            if permit.id & ON_DISK == 0 {
                return self.0.memory.settle(permit, verdict, limits).await;
            }
            permit.redeem();
            let (key, id, stamp) = (permit.key.clone(), permit.id, BootStamp::now());
            self.0.memory.ended(&key, id, Some(verdict));
            if self
                .work(move |inner| inner.book.settle(&key, id, verdict, &stamp))
                .await
                .is_ok()
            {
                self.0.report.works();
            }
            self.0.freed.notify_waiters();
        })
    }

    fn clear<'a>(&'a self, key: &'a GuardKey) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            self.0.memory.clear(key).await;
            let (key, stamp) = (key.clone(), BootStamp::now());
            if self
                .work(move |inner| inner.book.unlatch(&key, &stamp))
                .await
                .is_ok()
            {
                self.0.report.mended();
            }
            self.0.freed.notify_waiters();
        })
    }

    fn counted<'a>(&'a self, key: &'a GuardKey) -> BoxFuture<'a, Option<GuardStatus>> {
        Box::pin(async move {
            let (key_, stamp) = (key.clone(), BootStamp::now());
            let Ok(on_disk) = self
                .work(move |inner| inner.book.counted(&key_, &stamp))
                .await
            else {
                return self.0.memory.status(self.known(key).await, key);
            };
            Some(on_disk.and(self.0.memory.status(None, key).unwrap_or_default()))
        })
    }

    fn freed(&self) -> BoxFuture<'static, ()> {
        // Made here and not at the first poll: they must hear of what is settled between now and
        // then.
        let (ours, in_memory) = (
            Arc::clone(&self.0.freed).notified_owned(),
            self.0.memory.freed(),
        );
        // Nor is the disk asked here, which may not answer. An older look than now's at worst wakes
        // once too often.
        let (disk, before) = (self.clone(), self.0.seen());
        Box::pin(async move {
            tokio::select! {
                () = ours => {}
                () = in_memory => {}
                () = disk.others_changed(before) => {}
            }
        })
    }

    fn line(&self) -> &TurnQueue {
        // Those who are counted in memory meanwhile stand in it, too.
        self.0.memory.line()
    }
}

impl Disk {
    /// What stood on the disk when it could last be read.
    async fn known(&self, key: &GuardKey) -> Option<KeyCounts> {
        let (inner, key, stamp) = (Arc::clone(&self.0), key.clone(), BootStamp::now());
        tokio::task::spawn_blocking(move || inner.book.known(&key, &stamp))
            .await
            .ok()
            .flatten()
    }

    /// Other processes tell nobody: the folder is looked at.
    async fn others_changed(self, before: Option<SystemTime>) {
        loop {
            tokio::time::sleep(LOOK).await;
            let inner = Arc::clone(&self.0);
            let seen = tokio::task::spawn_blocking(move || inner.look()).await;
            if seen.is_ok_and(|seen| seen != before) {
                return;
            }
        }
    }
}

impl Inner {
    fn spend(
        self: &Arc<Self>,
        key: &GuardKey,
        limits: &LockoutPolicy,
        ask: &AttemptRequest,
        stamp: &BootStamp,
    ) -> Result<GuardDecision<Reservation>, Trouble> {
        // Before it is read: who waits then hears of all that comes after.
        self.look();
        let id = rand::random::<u64>() | ON_DISK;
        let decision = self.book.spend(key, limits, ask, id, stamp)?;
        Ok(decision.map(|()| {
            self.report.works();
            let inner = Arc::clone(self);
            Reservation::new(key.clone(), id, move |key, id| {
                inner.lost(key, id);
            })
        }))
    }

    /// Looks when the folder changed last. Blocks.
    fn look(&self) -> Option<SystemTime> {
        let changed = self.book.changed();
        *self.seen.lock() = changed;
        changed
    }

    fn seen(&self) -> Option<SystemTime> {
        *self.seen.lock()
    }

    /// A reservation was dropped. Does not block.
    fn lost(self: Arc<Self>, key: &GuardKey, id: u64) {
        self.book.ended(
            key,
            Ended {
                id,
                verdict: None,
                at: BootInstant::now(),
            },
        );
        self.memory.ended(key, id, None);
        // Without a runtime the process ends, and others see that.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (key, stamp) = (key.clone(), BootStamp::now());
            runtime.spawn_blocking(move || {
                if let Err(trouble) = self.book.catch_up(&key, &stamp) {
                    self.report.fails(&trouble);
                }
                let freed = Arc::clone(&self.freed);
                // Who hears of it may be the last: then nothing of this process holds the folder
                // any more.
                drop(self);
                freed.notify_waiters();
            });
        }
    }
}
