//! The records of one folder: every change of one is read, judged and written under the lock. Blocks; knows no async.

use std::{
    collections::HashMap,
    fs::File,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use super::{
    file::{Entry, Purse, decode, encode},
    fingerprint::{Fingerprints, Names, Salt, hex, plain, unhex},
    folder::{Folder, Locked},
    trouble::Trouble,
};
use crate::token::{
    Ask, Counted, GuardKey, Limits, Now, Stamp, Verdict,
    guard::{Answer, Budget, Record},
};

/// Old records are looked for so often.
const SWEEP: Duration = Duration::from_hours(24);
const SALT: &str = "salt";
/// Secrets rotate: more records are not remembered.
const MOST_KNOWN: usize = 1024;

/// All records, and what this process knows of them.
pub(super) struct Book {
    folder: Folder,
    fingerprints: Fingerprints,
    opened: Mutex<Option<Arc<Opened>>>,
    /// Outcomes that are not on disk yet. They are written with the next change.
    outcomes: Mutex<HashMap<GuardKey, Vec<Ended>>>,
    /// Records as they were last read or written, for when they can be no more.
    last: Mutex<HashMap<String, Entry>>,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Ended {
    pub id: u64,
    /// `None`: its outcome will never be known.
    pub verdict: Option<Verdict>,
    pub at: Now,
}

/// What is known of the folder once it could be used.
pub(super) struct Opened {
    salt: Salt,
    /// This process among all that ever used the folder.
    owner: String,
    /// Held locked: shows others that we live.
    owner_file: Arc<File>,
    swept: Now,
}

impl Book {
    pub fn new(dir: PathBuf) -> Self {
        Self {
            folder: Folder::new(dir),
            fingerprints: Fingerprints::default(),
            opened: Mutex::default(),
            outcomes: Mutex::default(),
            last: Mutex::default(),
        }
    }

    #[cfg(test)]
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// When something in the folder last changed.
    pub fn changed(&self) -> Option<SystemTime> {
        self.folder.changed()
    }

    /// Asks, and where the answer is `Go`, has written the attempt `id` down as spent.
    pub fn spend(&self, key: &GuardKey, limits: &Limits, ask: &Ask, id: u64, stamp: &Stamp) -> Result<Answer, Trouble> {
        let opened = self.open(stamp)?;
        let mut allowed = false;
        let answer = self.change(&opened, key, stamp, false, |entry, names, locked| {
            let partition = names.partition.as_deref();
            let answer = entry.record.ask(partition, limits, ask, stamp.boot);
            if answer != Answer::Go {
                return Ok(answer);
            }
            // The budget first: a kill in between loses one of many, not one of two.
            if let Err(later) = self.take(locked, limits, ask, stamp)? {
                return Ok(Answer::Later(later));
            }
            entry.record.spend(partition, id, stamp.boot);
            entry.owners.insert(id, opened.owner.clone());
            allowed = true;
            Ok(Answer::Go)
        });
        if answer.is_err() && allowed {
            // It may stand in the record all the same, and nobody will send it.
            self.ended(key, Ended { id, verdict: Some(Verdict::GivenBack), at: stamp.boot });
            // At once, or a kill would make an unknown outcome of it; what cannot be written now is written with the next change.
            let _ = self.catch_up(key, stamp);
        }
        answer
    }

    /// Writes down how the attempt ended; where that cannot be done now, with the next change.
    pub fn settle(&self, key: &GuardKey, id: u64, verdict: Verdict, stamp: &Stamp) -> Result<(), Trouble> {
        self.ended(key, Ended { id, verdict: Some(verdict), at: stamp.boot });
        self.catch_up(key, stamp)
    }

    /// Remembers how an attempt ended. Does not block.
    pub fn ended(&self, key: &GuardKey, ended: Ended) {
        self.outcomes.lock().unwrap_or_else(PoisonError::into_inner).entry(key.clone()).or_default().push(ended);
    }

    /// Writes down what is remembered.
    pub fn catch_up(&self, key: &GuardKey, stamp: &Stamp) -> Result<(), Trouble> {
        let opened = self.open(stamp)?;
        self.change(&opened, key, stamp, false, |_, _, _| Ok(()))
    }

    /// Forgets what is counted; a damaged record is written anew, and so is a lost salt.
    pub fn clear(&self, key: &GuardKey, stamp: &Stamp) -> Result<(), Trouble> {
        if let Some(opened) = self.as_opened() {
            self.last().remove(&self.fingerprints.names(key, &opened.salt).record);
        }
        let opened = match self.open(stamp) {
            Err(Trouble::Damaged { .. }) => self.open_as(stamp, true)?,
            other => other?,
        };
        self.change(&opened, key, stamp, true, |entry, names, _| {
            entry.record.clear(names.partition.as_deref());
            Ok(())
        })
    }

    /// What is counted, to be shown.
    pub fn counted(&self, key: &GuardKey, stamp: &Stamp) -> Result<Counted, Trouble> {
        let opened = self.open(stamp)?;
        let names = self.fingerprints.names(key, &opened.salt);
        let mut entry = self.read(&names.record)?.unwrap_or_else(|| Entry::new(&names.record, hex(&opened.salt), stamp));
        self.bring_up(&mut entry, &opened, key, &names, stamp);
        Ok(entry.record.status(names.partition.as_deref(), stamp.boot))
    }

    /// What is known of the record where the folder cannot be used now, our own outcomes included. As one in memory may go on from it.
    pub fn known(&self, key: &GuardKey, stamp: &Stamp) -> Option<Record> {
        let opened = self.as_opened()?;
        let names = self.fingerprints.names(key, &opened.salt);
        let mut entry = self.last().get(&names.record)?.clone();
        self.bring_up(&mut entry, &opened, key, &names, stamp);
        let Entry { record, owners, .. } = entry;
        let partition = names.partition.as_deref().zip(key.partition.as_deref());
        Some(record.handed_over(|id| owners.get(&id) == Some(&opened.owner), partition, stamp.boot))
    }

    fn as_opened(&self) -> Option<Arc<Opened>> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn last(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It stands in the folder so.
    fn stands(&self, entry: Entry) {
        let mut last = self.last();
        if last.len() >= MOST_KNOWN && !last.contains_key(&entry.name) {
            last.clear();
        }
        last.insert(entry.name.clone(), entry);
    }

    /// The folder, ready to be used.
    pub fn open(&self, stamp: &Stamp) -> Result<Arc<Opened>, Trouble> {
        self.open_as(stamp, false)
    }

    /// `anew`: a salt that is lost is made again, and all that was counted by it is forgotten.
    fn open_as(&self, stamp: &Stamp, anew: bool) -> Result<Arc<Opened>, Trouble> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        self.folder.check(opened.is_none() || anew)?;
        if let Some(opened) = &*opened
            && !anew
            && opened.swept.until(stamp.boot) < SWEEP
            && self.read_salt().is_ok_and(|salt| salt == Some(opened.salt))
        {
            return Ok(opened.clone());
        }
        let locked = self.folder.lock()?;
        let names = locked.names()?;
        let salt = self.salt(&locked, &names, opened.as_ref().map(|o| o.salt), anew)?;
        locked.sweep_owners(&names);
        // Opened again, it keeps its name: attempts under way are marked with it.
        let (owner, owner_file) = match &*opened {
            Some(opened) if self.folder.is_alive(&opened.owner) => (opened.owner.clone(), opened.owner_file.clone()),
            opened => {
                let owner = opened.as_ref().map_or_else(|| hex(&rand::random::<[u8; 8]>()), |o| o.owner.clone());
                let file = Arc::new(locked.own(&owner)?);
                (owner, file)
            }
        };
        locked.sync()?;
        self.sweep(&locked, &names, stamp);
        let new = Arc::new(Opened { salt, owner, owner_file, swept: stamp.boot });
        *opened = Some(new.clone());
        Ok(new)
    }

    fn read_salt(&self) -> Result<Option<Salt>, Trouble> {
        let Some(bytes) = self.folder.read(SALT)? else { return Ok(None) };
        let text: String = decode(&bytes).map_err(|why| self.folder.damaged(SALT, why))?;
        unhex(&text).map(Some).ok_or_else(|| self.folder.damaged(SALT, "damaged: it is no salt".to_owned()))
    }

    /// The folder's salt: from its file, or from any record, or, where there is no record yet, a new one.
    fn salt(&self, locked: &Locked<'_>, names: &[String], known: Option<Salt>, anew: bool) -> Result<Salt, Trouble> {
        let why = match self.read_salt() {
            Ok(Some(salt)) if anew || known.is_none_or(|known| known == salt) => return Ok(salt),
            Ok(Some(_)) => "is not the one it was: the folder was replaced while this program ran".to_owned(),
            Ok(None) => "is gone".to_owned(),
            Err(Trouble::Damaged { why, .. }) => why,
            Err(other) => return Err(other),
        };
        let records: Vec<&String> = names.iter().filter(|name| name.starts_with(RECORD)).collect();
        let told = records.iter().find_map(|file| {
            let bytes = self.folder.read(file).ok()??;
            unhex(&decode::<Entry>(&bytes).ok()?.salt)
        });
        let salt = match (told, known) {
            (Some(told), known) if anew || known.is_none_or(|known| known == told) => told,
            (_, Some(known)) if anew => known,
            (_, None) if anew || records.is_empty() => rand::random(),
            _ => return Err(self.folder.damaged(SALT, why)),
        };
        locked.write(SALT, &encode(&hex(&salt)).map_err(|e| self.folder.damaged(SALT, e.to_string()))?)?;
        Ok(salt)
    }

    /// One change of one record. `anew`: a damaged one is given up.
    fn change<T>(
        &self,
        opened: &Opened,
        key: &GuardKey,
        stamp: &Stamp,
        anew: bool,
        change: impl FnOnce(&mut Entry, &Names, &Locked<'_>) -> Result<T, Trouble>,
    ) -> Result<T, Trouble> {
        // Slow the first time: not under the lock.
        let names = self.fingerprints.names(key, &opened.salt);
        let locked = self.folder.lock()?;
        let old = match self.read(&names.record) {
            Err(Trouble::Damaged { .. }) if anew => None,
            other => other?,
        };
        let mut entry = old.clone().unwrap_or_else(|| Entry::new(&names.record, hex(&opened.salt), stamp));
        let known = self.bring_up(&mut entry, opened, key, &names, stamp);
        let done = change(&mut entry, &names, &locked)?;
        if old.is_none_or(|old| anew || entry.record.differs(&old.record) || entry.owners != old.owners) {
            let file = record_file(&names.record);
            let bytes = encode(&entry).map_err(|e| self.folder.damaged(&file, e.to_string()))?;
            locked.write(&file, &bytes)?;
            // From here on it is what everybody reads, whether or not it would outlive a power cut: an outcome is not told twice.
            self.written(key, known);
            self.stands(entry);
            locked.sync()?;
        } else {
            self.written(key, known);
        }
        Ok(done)
    }

    fn read(&self, name: &str) -> Result<Option<Entry>, Trouble> {
        let file = record_file(name);
        let Some(bytes) = self.folder.read(&file)? else { return Ok(None) };
        let entry: Entry = decode(&bytes).map_err(|why| self.folder.damaged(&file, why))?;
        if entry.name != name {
            return Err(self.folder.damaged(&file, "damaged: it was another file".to_owned()));
        }
        self.stands(entry.clone());
        Ok(Some(entry))
    }

    /// As it stands now. Says how many outcomes were added that only this process knows.
    fn bring_up(&self, entry: &mut Entry, opened: &Opened, key: &GuardKey, names: &Names, stamp: &Stamp) -> usize {
        let outcomes = self.outcomes.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned().unwrap_or_default();
        entry.bring_up(stamp, |owner| owner == opened.owner || self.folder.is_alive(owner));
        for ended in &outcomes {
            let partition = names.partition.as_deref();
            match ended.verdict {
                Some(verdict) => entry.record.settle(partition, ended.id, verdict, ended.at),
                None => entry.record.lose(partition, ended.id, ended.at),
            }
            entry.owners.remove(&ended.id);
        }
        outcomes.len()
    }

    /// The first `known` outcomes are on disk.
    fn written(&self, key: &GuardKey, known: usize) {
        let mut outcomes = self.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(all) = outcomes.get_mut(key) {
            all.drain(..known.min(all.len()));
            if all.is_empty() {
                outcomes.remove(key);
            }
        }
    }

    /// Takes one call out of the credential's budget. A damaged one is written anew, with nothing in it.
    fn take(&self, locked: &Locked<'_>, limits: &Limits, ask: &Ask, stamp: &Stamp) -> Result<Result<(), Now>, Trouble> {
        if limits.rate.is_empty() {
            return Ok(Ok(()));
        }
        let file = format!("{PURSE}{}.json", plain(&ask.credential));
        let write = |purse: &Purse| locked.write(&file, &encode(purse).map_err(|e| self.folder.damaged(&file, e.to_string()))?);
        let mut purse = match self.folder.read(&file) {
            Ok(None) => Purse::new(Budget::default(), stamp),
            Ok(Some(bytes)) => match decode::<Purse>(&bytes) {
                Ok(mut purse) => {
                    purse.bring_up(stamp);
                    purse
                }
                Err(why) => {
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

    /// Removes what nobody has used for long and in which nothing is counted.
    fn sweep(&self, locked: &Locked<'_>, names: &[String], stamp: &Stamp) {
        for name in names.iter().filter(|name| name.starts_with(RECORD) || name.starts_with(PURSE)) {
            let Ok(Some(bytes)) = self.folder.read(name) else { continue };
            let stale = if name.starts_with(RECORD) {
                decode::<Entry>(&bytes).is_ok_and(|mut entry| {
                    let noted = entry.noted.clone();
                    entry.bring_up(stamp, |owner| self.folder.is_alive(owner));
                    entry.is_stale(&noted, stamp)
                })
            } else {
                decode::<Purse>(&bytes).is_ok_and(|purse| purse.is_stale(stamp))
            };
            if stale {
                locked.sweep(name);
            }
        }
    }
}

const RECORD: &str = "guard-";
const PURSE: &str = "budget-";

fn record_file(name: &str) -> String {
    format!("{RECORD}{name}.json")
}
