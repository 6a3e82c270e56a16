//! Files that somebody reads anew now and then: not while they are being written, one reader at a
//! time, and nobody waits for them for ever.

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    sync::{Mutex, OwnedMutexGuard},
    task::spawn_blocking,
    time::timeout,
};

use super::{
    read::read_together,
    settle::{ClockReading, FileMarks, GRACE, SettleState, Settler},
};
use crate::clock::BootInstant;

/// No file of this kind is larger, in bytes.
const LIMIT: usize = 16 * 1024 * 1024;

/// Nobody waits longer for a look: a file may lie on a mount that hangs.
pub const LOOK_PATIENCE: Duration = Duration::from_secs(5);

/// What is believed of some files between looks, and the right to look at them.
#[derive(Debug, Default)]
pub struct FileWatcher(Arc<Mutex<Settler>>);

/// The right to look at the files of a [`FileWatcher`]. There is one, so that files that hang hang
/// one thread and no more; who has it sees everything that was written before.
#[derive(Debug)]
pub struct LookPermit(OwnedMutexGuard<Settler>);

impl FileWatcher {
    /// One whose very first look, too, waits for what may just now be written; others believe what
    /// they find first.
    #[must_use]
    pub fn careful() -> Self {
        Self(Arc::new(Mutex::new(Settler::careful())))
    }

    /// As [`LookPermit::load_settled`], and `None` also while another looks. For a thread that may
    /// block.
    pub fn load_settled<T>(
        &self,
        paths: &[PathBuf],
        at: ClockReading,
        load: impl FnOnce() -> T,
    ) -> Option<T> {
        self.try_permit()?.load_settled(paths, at, load)
    }

    /// The permit, if nobody else has it.
    #[must_use]
    pub fn try_permit(&self) -> Option<LookPermit> {
        self.0.clone().try_lock_owned().ok().map(LookPermit)
    }

    /// Waits for the permit, no longer than `patience`. `None`: another look takes longer.
    pub async fn permit(&self, patience: Duration) -> Option<LookPermit> {
        timeout(patience, self.0.clone().lock_owned())
            .await
            .ok()
            .map(LookPermit)
    }

    /// Waits for the permit however long another look takes.
    pub async fn wait_permit(&self) -> LookPermit {
        LookPermit(self.0.clone().lock_owned().await)
    }
}

impl LookPermit {
    /// Does `look` on a thread that may block, and waits 5 s for it at most. `None`: it hangs, it
    /// panicked, or the runtime is going down. One that is left behind keeps its permit until it is
    /// done; what it finds it has to keep itself.
    pub async fn run_aside<T: Send + 'static>(
        mut self,
        look: impl FnOnce(&mut Self) -> T + Send + 'static,
    ) -> Option<T> {
        timeout(LOOK_PATIENCE, spawn_blocking(move || look(&mut self)))
            .await
            .ok()?
            .ok()
    }

    /// Whether what was `found` at the moment `at` may be believed; where it may, later looks are
    /// compared with it.
    #[must_use]
    pub fn assess(&mut self, found: &FileMarks, at: ClockReading) -> SettleState {
        self.0.assess(found, at)
    }

    /// The file system says of each of these files what it said when they were last believed: there
    /// is no need to read them. For a thread that may block.
    #[must_use]
    pub fn is_untouched(&self, paths: &[PathBuf]) -> bool {
        self.0.is_untouched(paths)
    }

    /// What `load` makes of these files, where it may be believed: none of them is being written,
    /// nor was while `load` read them. `None`: what was made before stays. The first reading counts
    /// always. For a thread that may block.
    pub fn load_settled<T>(
        &mut self,
        paths: &[PathBuf],
        at: ClockReading,
        load: impl FnOnce() -> T,
    ) -> Option<T> {
        let found = read_together(paths, LIMIT).ok()?.marks();
        // A file that was replaced a moment ago is not looked at again as soon as that: what is
        // read is held against what lies there afterwards.
        if matches!(self.assess(&found, at), SettleState::Wait { rest, .. } if rest > GRACE) {
            return None;
        }
        let made = load();
        (read_together(paths, LIMIT).ok()?.marks() == found).then_some(made)
    }
}

impl ClockReading {
    /// The present moment.
    #[must_use]
    pub fn now() -> Self {
        let now = BootInstant::now();
        Self {
            boot: now.since_boot(),
            wall: now.wall(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, sync::mpsc};

    use super::*;
    use crate::clock::BootInstant;

    #[tokio::test(start_paused = true)]
    async fn a_look_that_hangs_is_left_behind_and_nobody_queues_behind_it() {
        let watch = FileWatcher::default();
        let (release, hung) = mpsc::channel::<()>();
        let began = BootInstant::now();
        let looking = tokio::spawn(watch.try_permit().unwrap().run_aside(move |_| hung.recv()));
        tokio::task::yield_now().await;
        assert!(
            watch.try_permit().is_none()
                && watch
                    .load_settled(&[], ClockReading::now(), || ())
                    .is_none(),
            "who comes second goes on without"
        );
        let waiting = watch.permit(Duration::from_secs(2));
        tokio::pin!(waiting);
        assert!(futures_util::poll!(&mut waiting).is_pending());
        // A thread that blocks holds the clock of the test.
        tokio::time::advance(LOOK_PATIENCE).await;
        assert!(waiting.await.is_none() && looking.await.unwrap().is_none());
        assert_eq!(
            began.until(BootInstant::now()).as_secs(),
            LOOK_PATIENCE.as_secs()
        );
        release.send(()).unwrap();
        assert!(
            watch.permit(LOOK_PATIENCE).await.is_some(),
            "it is as before once the look has ended"
        );
    }

    #[test]
    fn what_is_written_while_it_is_read_or_has_not_rested_is_not_taken() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        fs::write(&path, "one").unwrap();
        let (watch, paths, start) = (FileWatcher::default(), [path.clone()], ClockReading::now());
        // The wall clock stands still: only what was seen counts.
        let at = |ms| ClockReading {
            boot: start.boot + Duration::from_millis(ms),
            wall: start.wall,
        };
        let content = || fs::read_to_string(&path).unwrap();
        assert_eq!(
            watch.load_settled(&paths, at(0), content).as_deref(),
            Some("one")
        );
        fs::write(&path, "tw").unwrap();
        assert_eq!(watch.load_settled(&paths, at(100), content), None);
        fs::write(&path, "two").unwrap();
        assert_eq!(watch.load_settled(&paths, at(2200), content), None);
        let meanwhile = || {
            let read = content();
            fs::write(&path, "three").unwrap();
            read
        };
        assert_eq!(watch.load_settled(&paths, at(4300), meanwhile), None);
        assert_eq!(watch.load_settled(&paths, at(5000), content), None);
        assert_eq!(
            watch.load_settled(&paths, at(7000), content).as_deref(),
            Some("three")
        );
    }
}
