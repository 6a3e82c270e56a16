//! Files that somebody reads anew now and then: not while they are being written, one reader at a
//! time, and nobody waits for them for ever.

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    sync::{Mutex, OwnedMutexGuard},
    task::spawn_blocking,
    time::timeout,
};

use super::{
    read::read,
    settle::{GRACE, Judgement, Moment, Settling},
};
use crate::clock::BootInstant;

/// No file of this kind is larger, in bytes.
const LIMIT: usize = 16 * 1024 * 1024;

/// Nobody waits longer for a look: a file may lie on a mount that hangs.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// What is believed of some files between readings.
#[derive(Debug, Default)]
pub struct Watch(Arc<Mutex<Settling>>);

/// The right to look at the files of a [`Watch`]. There is one, so that files that hang hang one
/// thread and no more.
#[derive(Debug)]
pub struct Turn(OwnedMutexGuard<Settling>);

impl Watch {
    /// As [`Turn::settled`], and `None` also while another looks. For a thread that may block.
    pub fn settled<T>(&self, paths: &[PathBuf], at: Moment, load: impl FnOnce() -> T) -> Option<T> {
        self.turn_now()?.settled(paths, at, load)
    }

    /// The turn, if nobody else has it.
    #[must_use]
    pub fn turn_now(&self) -> Option<Turn> {
        self.0.clone().try_lock_owned().ok().map(Turn)
    }

    /// Waits for the turn, no longer than `patience`. `None`: another look takes longer.
    pub async fn turn(&self, patience: Duration) -> Option<Turn> {
        timeout(patience, self.0.clone().lock_owned())
            .await
            .ok()
            .map(Turn)
    }
}

impl Turn {
    /// Does `look` on a thread that may block, and waits 5 s for it at most. `None`: it hangs, it
    /// panicked, or the runtime is going down. One that is left behind keeps its turn until it is
    /// done; what it finds it has to keep itself.
    pub async fn aside<T: Send + 'static>(
        mut self,
        look: impl FnOnce(&mut Self) -> T + Send + 'static,
    ) -> Option<T> {
        timeout(PATIENCE, spawn_blocking(move || look(&mut self)))
            .await
            .ok()?
            .ok()
    }

    /// What `load` makes of these files, where it may be believed: none of them is being written,
    /// nor was while `load` read them. `None`: what was made before stays. The first reading counts
    /// always. For a thread that may block.
    pub fn settled<T>(
        &mut self,
        paths: &[PathBuf],
        at: Moment,
        load: impl FnOnce() -> T,
    ) -> Option<T> {
        let settling = &mut self.0;
        let found = read(paths, LIMIT).ok()?.marks();
        // A file that was replaced a moment ago is not looked at again as soon as that: what is
        // read is held against what lies there afterwards.
        if matches!(settling.judge(&found, at), Judgement::Wait { rest, .. } if rest > GRACE) {
            return None;
        }
        let made = load();
        (read(paths, LIMIT).ok()?.marks() == found).then_some(made)
    }
}

impl Moment {
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
        let watch = Watch::default();
        let (release, hung) = mpsc::channel::<()>();
        let began = BootInstant::now();
        let looking = tokio::spawn(watch.turn_now().unwrap().aside(move |_| hung.recv()));
        tokio::task::yield_now().await;
        assert!(
            watch.turn_now().is_none() && watch.settled(&[], Moment::now(), || ()).is_none(),
            "who comes second goes on without"
        );
        let waiting = watch.turn(Duration::from_secs(2));
        tokio::pin!(waiting);
        assert!(futures_util::poll!(&mut waiting).is_pending());
        // A thread that blocks holds the clock of the test.
        tokio::time::advance(PATIENCE).await;
        assert!(waiting.await.is_none() && looking.await.unwrap().is_none());
        assert_eq!(
            began.until(BootInstant::now()).as_secs(),
            PATIENCE.as_secs()
        );
        release.send(()).unwrap();
        assert!(
            watch.turn(PATIENCE).await.is_some(),
            "it is as before once the look has ended"
        );
    }

    #[test]
    fn what_is_written_while_it_is_read_or_has_not_rested_is_not_taken() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        fs::write(&path, "one").unwrap();
        let (watch, paths, start) = (Watch::default(), [path.clone()], Moment::now());
        // The wall clock stands still: only what was seen counts.
        let at = |ms| Moment {
            boot: start.boot + Duration::from_millis(ms),
            wall: start.wall,
        };
        let content = || fs::read_to_string(&path).unwrap();
        assert_eq!(
            watch.settled(&paths, at(0), content).as_deref(),
            Some("one")
        );
        fs::write(&path, "tw").unwrap();
        assert_eq!(watch.settled(&paths, at(100), content), None);
        fs::write(&path, "two").unwrap();
        assert_eq!(watch.settled(&paths, at(2200), content), None);
        let meanwhile = || {
            let read = content();
            fs::write(&path, "three").unwrap();
            read
        };
        assert_eq!(watch.settled(&paths, at(4300), meanwhile), None);
        assert_eq!(watch.settled(&paths, at(5000), content), None);
        assert_eq!(
            watch.settled(&paths, at(7000), content).as_deref(),
            Some("three")
        );
    }
}
