//! The records of one folder: every change of one is read, judged and written under the lock.
//! Blocks; knows no async.

use std::{
    collections::HashMap,
    fs::File,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use super::{
    file::{Counts, Entry, decode, encode, newer},
    fingerprint::{Fingerprints, Salt, unhex},
    folder::{Folder, Locked},
    pair::{Last, Pair, whose},
    trouble::{Losses, Trouble},
};
use crate::{
    clock::{BootInstant, BootStamp},
    hash::hex,
    lock::Lock,
    token::{
        AttemptOutcome, AttemptRequest, Denial, GuardKey, GuardStatus, LockoutPolicy,
        guard::{AccountRecord, CountPair, GuardDecision, KeyCounts, SecretRecord, value_name},
    },
};

/// Old records are looked for so often.
const SWEEP: Duration = Duration::from_hours(24);
const SALT: &str = "salt";
/// After so many new files they are looked for at once.
const SWEEP_AFTER: usize = if cfg!(test) { 16 } else { 4096 };

/// All records, and what this process knows of them.
pub(super) struct Book {
    pub(super) folder: Folder,
    pub(super) fingerprints: Fingerprints,
    opened: Lock<Option<Arc<Opened>>>,
    /// Outcomes that are not on disk yet. They are written with the next change.
    pub(super) outcomes: Lock<HashMap<GuardKey, Vec<Ended>>>,
    /// Records as they were last read or written, for when they can be no more.
    pub(super) last: Lock<Last>,
    /// How many files were made since the last sweep.
    pub(super) made: AtomicUsize,
    pub(super) losses: Losses,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Ended {
    pub id: u64,
    /// `None`: its outcome will never be known.
    pub verdict: Option<AttemptOutcome>,
    pub at: BootInstant,
}

/// What is known of the folder once it could be used.
pub(super) struct Opened {
    pub(super) salt: Salt,
    /// This process among all that ever used the folder.
    pub(super) owner: String,
    /// Held locked: shows others that we live.
    owner_file: Arc<File>,
    swept: BootInstant,
}

impl Book {
    pub fn new(folder: Folder) -> Self {
        Self {
            folder,
            fingerprints: Fingerprints::default(),
            opened: Lock::default(),
            outcomes: Lock::default(),
            last: Lock::default(),
            made: AtomicUsize::new(0),
            losses: Losses::default(),
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

    /// Asks, and where it may be made, has written the attempt `id` down as spent.
    pub fn spend(
        &self,
        key: &GuardKey,
        limits: &LockoutPolicy,
        ask: &AttemptRequest,
        id: u64,
        stamp: &BootStamp,
    ) -> Result<GuardDecision, Trouble> {
        let opened = self.open(stamp)?;
        let mut allowed = false;
        let answer = self.change(&opened, key, stamp, false, |pair, names, locked| {
            if limits.account_rejections.is_some()
                && pair.account.record == AccountRecord::default()
            {
                self.begin_account(
                    &mut pair.account.record,
                    &ask.credential,
                    &opened,
                    locked,
                    stamp,
                )?;
            }
            let answer = pair.tally().decide(whose(names), limits, ask, stamp.boot);
            if answer != Ok(()) {
                return Ok(answer);
            }
            // The budget first: a kill in between loses one of many, not one of two.
            if let Err(later) = self.take(locked, limits, ask, stamp)? {
                return Ok(Err(Denial::OverBudget(later)));
            }
            pair.tally().spend(whose(names), id, stamp.boot);
            pair.account.owners.insert(id, opened.owner.clone());
            pair.secret.owners.insert(id, opened.owner.clone());
            allowed = true;
            Ok(Ok(()))
        });
        if answer.is_err() && allowed {
            // It may stand in the record all the same, and nobody will send it.
            self.ended(
                key,
                Ended {
                    id,
                    verdict: Some(AttemptOutcome::GivenBack),
                    at: stamp.boot,
                },
            );
            // At once, or a kill would make an unknown outcome of it; what cannot be written now is
            // written with the next change.
            let _ = self.catch_up(key, stamp);
        }
        answer
    }

    /// Writes down how the attempt ended; where that cannot be done now, with the next change.
    pub fn settle(
        &self,
        key: &GuardKey,
        id: u64,
        verdict: AttemptOutcome,
        stamp: &BootStamp,
    ) -> Result<(), Trouble> {
        self.ended(
            key,
            Ended {
                id,
                verdict: Some(verdict),
                at: stamp.boot,
            },
        );
        self.catch_up(key, stamp)
    }

    /// Remembers how an attempt ended. Does not block.
    pub fn ended(&self, key: &GuardKey, ended: Ended) {
        self.outcomes
            .lock()
            .entry(key.clone())
            .or_default()
            .push(ended);
    }

    /// Writes down what is remembered.
    pub fn catch_up(&self, key: &GuardKey, stamp: &BootStamp) -> Result<(), Trouble> {
        let opened = self.open(stamp)?;
        self.change(&opened, key, stamp, false, |_, _, _| Ok(()))
    }

    /// Lets one attempt through; a damaged record is written anew, and so is a lost salt.
    pub fn unlatch(&self, key: &GuardKey, stamp: &BootStamp) -> Result<(), Trouble> {
        let given = self.give_leave(key, stamp);
        if given.is_err()
            && let Some(opened) = self.as_opened()
        {
            self.unsee(&self.fingerprints.names(key, &opened.salt));
        }
        given
    }

    fn give_leave(&self, key: &GuardKey, stamp: &BootStamp) -> Result<(), Trouble> {
        let opened = match self.open(stamp) {
            Err(Trouble::Damaged { .. }) => self.open_as(stamp, true)?,
            other => other?,
        };
        self.change(&opened, key, stamp, true, |pair, names, _| {
            pair.tally().unlatch(whose(names));
            pair.account.unlatched = Some(stamp.clone());
            pair.secret.unlatched = Some(stamp.clone());
            Ok(())
        })
    }

    /// What is counted, to be shown.
    pub fn counted(&self, key: &GuardKey, stamp: &BootStamp) -> Result<GuardStatus, Trouble> {
        let opened = self.open(stamp)?;
        let names = self.fingerprints.names(key, &opened.salt);
        let Pair { account, secret } = self.look(&opened, key, &names, stamp)?;
        Ok(CountPair::status(
            &account.record,
            &secret.record,
            whose(&names),
            stamp.boot,
        ))
    }

    /// What is known of both records where the folder cannot be used now, our own outcomes
    /// included. As one in memory may go on from it.
    pub fn known(&self, key: &GuardKey, stamp: &BootStamp) -> Option<KeyCounts> {
        let opened = self.as_opened()?;
        let names = self.fingerprints.names(key, &opened.salt);
        let Pair { account, secret } = self.last_seen(&opened, key, &names, stamp)?;
        let partition = names.partition.as_deref().zip(key.partition.as_deref());
        let mine = |owners: &std::collections::BTreeMap<u64, String>, id| {
            owners.get(&id) == Some(&opened.owner)
        };
        let mut of_account = account.record;
        of_account.orphan(|id| mine(&account.owners, id), stamp.boot);
        of_account.rename(&names.value, &value_name(key));
        Some((
            of_account,
            secret
                .record
                .handed_over(|id| mine(&secret.owners, id), partition, stamp.boot),
        ))
    }

    pub(super) fn as_opened(&self) -> Option<Arc<Opened>> {
        self.opened.lock().clone()
    }

    /// The folder, ready to be used.
    pub fn open(&self, stamp: &BootStamp) -> Result<Arc<Opened>, Trouble> {
        self.open_as(stamp, false)
    }

    /// `anew`: a salt that is lost is made again, and all that was counted by it is forgotten.
    fn open_as(&self, stamp: &BootStamp, anew: bool) -> Result<Arc<Opened>, Trouble> {
        let mut opened = self.opened.lock();
        self.folder.check(opened.is_none() || anew)?;
        if let Some(opened) = &*opened
            && !anew
            && opened.swept.until(stamp.boot) < SWEEP
            && self.made.load(Relaxed) < SWEEP_AFTER
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
            Some(opened) if self.folder.is_alive(&opened.owner) => {
                (opened.owner.clone(), opened.owner_file.clone())
            }
            opened => {
                let owner = opened
                    .as_ref()
                    .map_or_else(|| hex(&rand::random::<[u8; 8]>()), |o| o.owner.clone());
                let file = Arc::new(locked.own(&owner)?);
                (owner, file)
            }
        };
        locked.sync()?;
        self.sweep(&locked, &names, stamp);
        self.made.store(0, Relaxed);
        let new = Arc::new(Opened {
            salt,
            owner,
            owner_file,
            swept: stamp.boot,
        });
        *opened = Some(new.clone());
        Ok(new)
    }

    fn read_salt(&self) -> Result<Option<Salt>, Trouble> {
        let Some(bytes) = self.folder.read(SALT)? else {
            return Ok(None);
        };
        let text: String = decode(&bytes).map_err(|why| self.folder.damaged(SALT, why))?;
        unhex(&text).map(Some).ok_or_else(|| {
            self.folder
                .damaged(SALT, "damaged: it is no salt".to_owned())
        })
    }

    /// The folder's salt: from its file, or from any record, or, where there is no record yet, a
    /// new one.
    fn salt(
        &self,
        locked: &Locked<'_>,
        names: &[String],
        known: Option<Salt>,
        anew: bool,
    ) -> Result<Salt, Trouble> {
        let why = match self.read_salt() {
            Ok(Some(salt)) if anew || known.is_none_or(|known| known == salt) => return Ok(salt),
            Ok(Some(_)) => {
                "is not the one it was: the folder was replaced while this program ran".to_owned()
            }
            Ok(None) => "is gone".to_owned(),
            Err(Trouble::Damaged { why, .. }) => why,
            Err(other) => return Err(other),
        };
        let records: Vec<&String> = names
            .iter()
            .filter(|name| {
                [SecretRecord::KIND, AccountRecord::KIND]
                    .iter()
                    .any(|kind| name.starts_with(kind))
            })
            .collect();
        let told = records.iter().find_map(|file| {
            let bytes = self.folder.read(file).ok()??;
            let salt = decode::<Entry>(&bytes)
                .map(|entry| entry.salt)
                .or_else(|_| decode::<Entry<AccountRecord>>(&bytes).map(|entry| entry.salt));
            unhex(&salt.ok()?)
        });
        let salt = match (told, known) {
            (Some(told), known) if anew || known.is_none_or(|known| known == told) => told,
            (_, Some(known)) if anew => known,
            (_, None) if anew || records.is_empty() => rand::random(),
            _ => return Err(self.folder.damaged(SALT, why)),
        };
        if let Some(version) = self
            .folder
            .read(SALT)
            .ok()
            .flatten()
            .as_deref()
            .and_then(newer)
        {
            locked.keep_aside(SALT, version)?;
        }
        locked.write(
            SALT,
            &encode(&hex(&salt)).map_err(|e| self.folder.damaged(SALT, e.to_string()))?,
        )?;
        Ok(salt)
    }
}
