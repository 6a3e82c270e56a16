//! Why the guard's memory cannot be relied on, and who is told.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{clock::BootInstant, lock::Lock};

/// Lost records are told so often at most.
const AGAIN: Duration = Duration::from_mins(1);

/// What is wrong with the folder. Its text names files and what to do, never what is counted for
/// whom.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// A record cannot be read as one.
    #[error("{}: {why}; `cupbearer unlatch` writes it anew, and one attempt is then made", .file.display())]
    Damaged {
        /// Which one.
        file: PathBuf,
        /// In words, without its contents.
        why: String,
    },
    /// The folder is not one that may be used.
    #[error("{}: {why}", .dir.display())]
    Folder {
        /// Which one.
        dir: PathBuf,
        /// Somebody else's, open to others, no folder.
        why: String,
    },
    /// The system refuses: full, read-only, gone.
    #[error("cannot {what} {}: {error}", .path.display())]
    Io {
        /// What was to be done, as a verb.
        what: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// Another process stands still while it holds the lock of this folder.
    #[error("{}: another process holds it for too long", .0.display())]
    Locked(PathBuf),
    /// The thread that does it has ended.
    #[error("the work on the guard's memory was cut off")]
    CutOff,
}

/// Tells that records were gone, once a minute.
#[derive(Default)]
pub(super) struct Losses(Lock<(Option<BootInstant>, u64)>);

impl Losses {
    /// `file` was removed or set back while this program ran. Says whether that was told.
    pub fn another(&self, file: &Path, now: BootInstant) -> bool {
        let (told, untold) = &mut *self.0.lock();
        *untold += 1;
        let tell = told.is_none_or(|told| told.until(now) >= AGAIN);
        if tell {
            *told = Some(now);
            tracing::warn!(
                file = %file.display(),
                records = std::mem::take(untold),
                "a record of the guard's memory was removed or set back while this program ran: it counts on from what it last knew. \
                 To allow an attempt use `cupbearer unlatch`"
            );
        }
        tell
    }
}

/// Counts each failure, and logs each kind of it once until it is over.
pub(super) struct Report {
    count: Box<dyn Fn() + Send + Sync>,
    told: Lock<Told>,
}

#[derive(Default)]
struct Told {
    /// Damaged files stay so until they are written anew, while others can be used.
    damaged: BTreeSet<PathBuf>,
    other: Option<String>,
}

impl Report {
    pub fn new(count: impl Fn() + Send + Sync + 'static) -> Self {
        Self {
            count: Box::new(count),
            told: Lock::default(),
        }
    }

    /// It could not be read or written.
    pub fn fails(&self, trouble: &Trouble) {
        (self.count)();
        let mut told = self.told.lock();
        let new = match trouble {
            Trouble::Damaged { file, .. } => told.damaged.insert(file.clone()),
            other => told
                .other
                .replace(other.to_string())
                .is_none_or(|old| old != other.to_string()),
        };
        if new {
            tracing::error!(
                %trouble,
                "the guard's memory cannot be relied on: no token calls where only a changed secret or a person opens the latch, others are counted in memory"
            );
        }
    }

    /// Something was written.
    pub fn works(&self) {
        if self.told.lock().other.take().is_some() {
            tracing::info!("the guard's memory can be used again");
        }
    }

    /// Something was written anew.
    pub fn mended(&self) {
        self.told.lock().damaged.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_records_are_told_once_a_minute() {
        let losses = Losses::default();
        let told = |seconds| {
            losses.another(
                Path::new("state/account-1.json"),
                BootInstant::from_boot(Duration::from_secs(seconds)),
            )
        };
        assert_eq!(
            [5, 5, 64, 65, 66].map(told),
            [true, false, false, true, false]
        );
    }
}
