//! When a change counts: at once where a file was replaced, after a rest where it was written in
//! place. Pure; time is an argument.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use super::identity::FileIdentity;
use crate::hash::sha256_of_parts;

/// What is written in place counts when it has stayed the same for so long.
pub const QUIET: Duration = Duration::from_secs(2);
/// A new file whose last write is not told apart from its being put in its place may just now be
/// written by one who removed the old one first. After this that one is seen writing, or the file
/// counts.
pub(super) const GRACE: Duration = Duration::from_millis(100);
/// The kernel stamps files by a clock that ticks this coarsely at most.
const TICK: Duration = Duration::from_millis(20);

/// What lay at one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileMark {
    /// `None`: there was nothing, or nothing we may look at.
    pub(super) identity: Option<FileIdentity>,
    /// SHA-256 of the content, or of why there is none.
    pub(super) content: [u8; 32],
}

/// What lay at several paths at one moment.
pub type FileMarks = BTreeMap<PathBuf, FileMark>;

/// The moment of a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockReading {
    /// On a clock that never jumps.
    pub boot: Duration,
    /// Since the Unix epoch, as file systems count.
    pub wall: Duration,
}

/// Whether what was found may be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SettleState {
    /// It is whole. From now on it is what later changes are compared with.
    Settled,
    /// Somebody may still be writing.
    Wait {
        /// How long from now, if nothing more is written.
        rest: Duration,
        /// For how long it has been so.
        lasted: Duration,
    },
}

/// What is believed of a set of files, and what is waited for. The set counts as a whole: as long
/// as one of its files is being written, none is new.
#[derive(Debug, Default)]
pub struct Settler {
    believed: Option<FileMarks>,
    pending: BTreeMap<PathBuf, Pending>,
    /// When it was last looked at, by the wall clock.
    looked: Duration,
    /// Since when something is waited for.
    since: Option<Duration>,
    /// Whether the very first look waits, too.
    careful: bool,
}

#[derive(Debug)]
struct Pending {
    mark: FileMark,
    /// Since when it is as it is.
    since: Duration,
    /// How long it has to stay.
    need: Duration,
}

impl Settler {
    /// As the default, but a file that lies there at the very first look and may just now be
    /// written (its times say so) is waited for as well. What is not there, is empty, or was put in
    /// its place by a link is not waited for.
    #[must_use]
    pub fn careful() -> Self {
        Self {
            careful: true,
            ..Self::default()
        }
    }

    /// Judges what was `found` at the moment `at`. What is found at the very first look counts at
    /// once, for there is nothing to compare it with, but for one that is [`Settler::careful`]; a
    /// path that joins later is treated as a file that was not there before.
    #[must_use]
    pub fn assess(&mut self, found: &FileMarks, at: ClockReading) -> SettleState {
        let pending = match &self.believed {
            Some(believed) => self.still_pending(believed, found, at),
            None if self.careful => {
                let may_be_half = |mark: &FileMark| {
                    mark.identity
                        .as_ref()
                        .is_some_and(|file| !file.is_linked() && !file.is_empty())
                };
                let there = found.iter().filter(|(_, mark)| may_be_half(mark));
                self.still_pending(
                    &FileMarks::new(),
                    &there
                        .map(|(path, mark)| (path.clone(), mark.clone()))
                        .collect(),
                    at,
                )
            }
            None => BTreeMap::new(),
        };
        let rest = pending
            .values()
            .map(|one| one.need.saturating_sub(at.boot.saturating_sub(one.since)))
            .max()
            .unwrap_or_default();
        self.looked = at.wall;
        if rest.is_zero() {
            self.believed = Some(found.clone());
            self.pending.clear();
            self.since = None;
            return SettleState::Settled;
        }
        self.pending = pending;
        let since = *self.since.get_or_insert(at.boot);
        SettleState::Wait {
            rest,
            lasted: at.boot.saturating_sub(since),
        }
    }

    /// Whether the file system says of each of `paths` what it said of what is believed.
    pub(super) fn is_untouched(&self, paths: &[PathBuf]) -> bool {
        self.believed.as_ref().is_some_and(|believed| {
            paths.iter().all(|path| {
                believed
                    .get(path)
                    .is_some_and(|mark| mark.identity == FileIdentity::read(path).ok())
            })
        })
    }

    fn still_pending(
        &self,
        believed: &FileMarks,
        found: &FileMarks,
        at: ClockReading,
    ) -> BTreeMap<PathBuf, Pending> {
        let changed = found.iter().filter(|(path, mark)| {
            believed
                .get(*path)
                .is_none_or(|old| old.content != mark.content)
        });
        let pending = changed.map(|(path, mark)| {
            let old = believed.get(path);
            let (since, need) = match self.pending.get(path) {
                Some(last) if last.mark == *mark => (last.since, last.need),
                // Nothing was believed yet: there is only the one before to compare it with.
                Some(last) if self.believed.is_none() => (
                    written_at(mark, at, self.looked),
                    mark.rest_needed(Some(&last.mark), true),
                ),
                Some(last) => (
                    written_at(mark, at, self.looked),
                    mark.rest_needed(old, true)
                        .max(mark.rest_needed(Some(&last.mark), true)),
                ),
                // A path that joins was not looked at before.
                None => (
                    written_at(mark, at, old.map_or(Duration::ZERO, |_| self.looked)),
                    mark.rest_needed(old, false),
                ),
            };
            (
                path.clone(),
                Pending {
                    mark: mark.clone(),
                    since,
                    need,
                },
            )
        });
        pending.collect()
    }
}

/// When a mark that did not lie there at the last look (`looked`) came to be, on the clock of
/// `at.boot`. The file's own time counts where it can be true: not before that look. A server whose
/// clock is behind ours says otherwise, and then it came just now.
fn written_at(mark: &FileMark, at: ClockReading, looked: Duration) -> Duration {
    let told = mark
        .identity
        .as_ref()
        .map(FileIdentity::last_changed)
        .filter(|told| *told + TICK >= looked);
    at.boot
        .saturating_sub(told.map_or(Duration::ZERO, |told| at.wall.saturating_sub(told)))
}

/// SHA-256 over names and contents, whatever else the file system says of them: to tell "changed"
/// from "same".
#[must_use]
pub fn digest_marks(marks: &FileMarks) -> [u8; 32] {
    sha256_of_parts(
        marks
            .iter()
            .flat_map(|(path, mark)| [path.as_os_str().as_encoded_bytes(), &mark.content]),
    )
}

impl FileMark {
    /// SHA-256 of what lies there, as [`crate::hash::sha256`] has it, or of why nothing does.
    #[must_use]
    pub fn content(&self) -> &[u8; 32] {
        &self.content
    }

    /// How long it has to stay as it is before it counts, coming after `before`. `again`: the file
    /// before was not believed yet either.
    fn rest_needed(&self, before: Option<&Self>, again: bool) -> Duration {
        let old = before.and_then(|mark| mark.identity.as_ref());
        match (old, &self.identity) {
            // Nobody means an empty file whole, however it came.
            (_, Some(now)) if now.is_empty() => QUIET,
            (Some(old), Some(now)) if now.is_elsewhere(old) => Duration::ZERO,
            (_, Some(now)) if old.is_none_or(|old| now.replaces(old)) && now.is_finished() => {
                Duration::ZERO
            }
            // Who replaces files all the time replaces, and does not write.
            (Some(old), Some(now)) if now.replaces(old) => {
                if again {
                    Duration::ZERO
                } else {
                    GRACE
                }
            }
            // Written in place, or made where nothing was, or gone, which may be the first half of
            // being replaced.
            _ => QUIET,
        }
    }
}
