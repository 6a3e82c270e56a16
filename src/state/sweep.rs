//! What a credential may still call, and which files nobody needs any more.

use std::time::SystemTime;

use super::{
    book::Book,
    file::{Entry, Purse, decode, encode, newer},
    fingerprint::plain,
    folder::Locked,
    pair::Shelf,
    trouble::Trouble,
};
use crate::{
    clock::{BootInstant, BootStamp},
    token::{
        AttemptRequest, LockoutPolicy,
        guard::{AccountRecord, Budget, SecretRecord},
    },
};

const PURSE: &str = "budget-";
/// Of more budgets it is not remembered what was left.
const MOST_PURSES: usize = 8192;
/// More files of one kind are not kept: the oldest give way, those first in which nothing is
/// counted. Four thousand credentials need a quarter.
const MOST_FILES: usize = if cfg!(test) { 64 } else { 16_384 };

impl Book {
    /// Takes one call out of the credential's budget. A damaged one is written anew, with nothing
    /// in it.
    pub(super) fn take(
        &self,
        locked: &Locked<'_>,
        limits: &LockoutPolicy,
        ask: &AttemptRequest,
        stamp: &BootStamp,
    ) -> Result<Result<(), BootInstant>, Trouble> {
        if limits.rate.is_empty() {
            return Ok(Ok(()));
        }
        let file = format!("{PURSE}{}.json", plain(&ask.credential));
        let write = |purse: &Purse| {
            locked.write(
                &file,
                &encode(purse).map_err(|e| self.folder.damaged(&file, e.to_string()))?,
            )?;
            let purses = &mut self.last().purses;
            if purses.len() >= MOST_PURSES {
                purses.clear();
            }
            purses.insert(file.clone(), purse.clone());
            Ok::<_, Trouble>(())
        };
        let last = self.last().purses.get(&file).cloned();
        let up = |mut purse: Purse| {
            purse.bring_up(stamp);
            purse
        };
        let mut purse = match self.folder.read(&file) {
            // Removed under us: on from what was left.
            Ok(None) => last.map_or_else(|| Purse::new(Budget::default(), stamp), up),
            Ok(Some(bytes)) => match decode::<Purse>(&bytes) {
                Ok(purse) => up(last
                    .filter(|last| purse.noted.is_before(&last.noted))
                    .unwrap_or(purse)),
                Err(why) => {
                    if let Some(version) = newer(&bytes) {
                        locked.keep_aside(&file, version)?;
                    }
                    tracing::warn!(credential = %ask.credential, file, why, "a budget of token calls starts anew");
                    let purse = Purse::new(Budget::empty(&limits.rate, stamp.boot), stamp);
                    write(&purse)?;
                    purse
                }
            },
            Err(trouble) => return Err(trouble),
        };
        if let Err(later) = purse.budget.ready(&limits.rate, stamp.boot) {
            return Ok(Err(later));
        }
        purse.budget.take();
        write(&purse)?;
        Ok(Ok(()))
    }

    /// Removes what nobody has used for long and in which nothing is counted, and what is too much.
    pub(super) fn sweep(&self, locked: &Locked<'_>, names: &[String], stamp: &BootStamp) {
        self.sweep_kind::<SecretRecord>(locked, names, stamp);
        self.sweep_kind::<AccountRecord>(locked, names, stamp);
        for name in names.iter().filter(|name| name.starts_with(PURSE)) {
            let Ok(Some(bytes)) = self.folder.read(name) else {
                continue;
            };
            if decode::<Purse>(&bytes).is_ok_and(|purse| purse.is_stale(stamp)) {
                locked.sweep(name);
            }
        }
    }

    fn sweep_kind<C: Shelf>(&self, locked: &Locked<'_>, names: &[String], stamp: &BootStamp) {
        let mut left: Vec<(bool, Option<SystemTime>, &String)> = Vec::new();
        for name in names.iter().filter(|name| name.starts_with(C::KIND)) {
            let Ok(Some(bytes)) = self.folder.read(name) else {
                continue;
            };
            let Ok(mut entry) = decode::<Entry<C>>(&bytes) else {
                continue;
            };
            let noted = entry.noted.clone();
            entry.bring_up(stamp, |owner| self.folder.is_alive(owner));
            if entry.is_stale(&noted, stamp) {
                locked.sweep(name);
                self.forget::<C>(name);
            } else if entry.owners.is_empty() {
                // What becomes of an attempt under way has to count.
                left.push((!entry.is_blank(), self.folder.written(name), name));
            }
        }
        if left.len() > MOST_FILES {
            left.sort_unstable();
            for (_, _, name) in left.iter().take(left.len() - MOST_FILES / 2) {
                locked.sweep(name);
                self.forget::<C>(name);
            }
        }
    }
}
