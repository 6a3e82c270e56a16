//! The two files that one attempt concerns, its account's and its secret's: read, judged and
//! written together under the lock.

use std::{collections::HashMap, sync::MutexGuard};

use super::{
    book::{Book, Ended, Opened},
    file::{Counts, Entry, Purse, decode, encode, newer},
    fingerprint::Names,
    folder::Locked,
    trouble::{Losses, Trouble},
};
use crate::{
    clock::BootStamp,
    hash::hex,
    token::{
        GuardKey,
        guard::{AccountRecord, CountPair, KeyLabels, SecretRecord},
    },
};

/// Secrets rotate: more records are not remembered, and those in which nothing is counted go first.
const MOST_KNOWN: usize = 4096;

/// What stands in the two files.
pub(super) struct Pair {
    pub account: Entry<AccountRecord>,
    pub secret: Entry<SecretRecord>,
}

/// Files as they were last read or written, for when they can be no more.
#[derive(Default)]
pub(super) struct Last {
    accounts: HashMap<String, Entry<AccountRecord>>,
    secrets: HashMap<String, Entry<SecretRecord>>,
    /// By file.
    pub(super) purses: HashMap<String, Purse>,
}

/// Which part of [`Last`] is for such files.
pub(super) trait Shelf: Counts {
    fn shelf(last: &mut Last) -> &mut HashMap<String, Entry<Self>>;
}

impl Shelf for AccountRecord {
    fn shelf(last: &mut Last) -> &mut HashMap<String, Entry<Self>> {
        &mut last.accounts
    }
}

impl Shelf for SecretRecord {
    fn shelf(last: &mut Last) -> &mut HashMap<String, Entry<Self>> {
        &mut last.secrets
    }
}

impl Pair {
    pub fn tally(&mut self) -> CountPair<'_> {
        CountPair {
            account: &mut self.account.record,
            record: &mut self.secret.record,
        }
    }
}

/// How the guard calls the parts of the key.
pub(super) fn whose(names: &Names) -> KeyLabels<'_> {
    KeyLabels {
        record: &names.record,
        value: &names.value,
        partition: names.partition.as_deref(),
    }
}

impl Book {
    /// One change of both files. `anew`: a damaged one is given up.
    pub(super) fn change<T>(
        &self,
        opened: &Opened,
        key: &GuardKey,
        stamp: &BootStamp,
        anew: bool,
        change: impl FnOnce(&mut Pair, &Names, &Locked<'_>) -> Result<T, Trouble>,
    ) -> Result<T, Trouble> {
        // Slow the first time: not under the lock.
        let names = self.fingerprints.names(key, &opened.salt);
        let locked = self.folder.lock()?;
        let (account, secret) = (
            self.old::<AccountRecord>(&names.account, &locked, anew)?,
            self.old::<SecretRecord>(&names.record, &locked, anew)?,
        );
        let mut pair = Pair {
            account: self.recall(
                account.as_ref(),
                &names.account,
                opened,
                stamp,
                Some(&self.losses),
            ),
            secret: self.recall(
                secret.as_ref(),
                &names.record,
                opened,
                stamp,
                Some(&self.losses),
            ),
        };
        let known = self.bring_up(&mut pair, opened, key, &names, stamp);
        let done = change(&mut pair, &names, &locked)?;
        // The account first: of a refusal that a crash cuts off here, the secret's record still has
        // the attempt, whose outcome is then unknown.
        let wrote = [
            self.store(pair.account, account.as_ref(), anew, &locked)?,
            self.store(pair.secret, secret.as_ref(), anew, &locked)?,
        ];
        // From here on it is what everybody reads, whether or not it would outlive a power cut: an
        // outcome is not told twice.
        self.written(key, known);
        if wrote.contains(&true) {
            locked.sync()?;
        }
        Ok(done)
    }

    /// Both as they stand in the folder now, to be looked at.
    pub(super) fn look(
        &self,
        opened: &Opened,
        key: &GuardKey,
        names: &Names,
        stamp: &BootStamp,
    ) -> Result<Pair, Trouble> {
        let (account, secret) = (self.read(&names.account)?, self.read(&names.record)?);
        // Not under the lock: what is newer in `last` may just have been written. It is told when
        // it is written again.
        let account = self.recall(account.as_ref(), &names.account, opened, stamp, None);
        let secret = self.recall(secret.as_ref(), &names.record, opened, stamp, None);
        Ok(self.brought_up(account, secret, opened, key, names, stamp))
    }

    /// Both as they were last seen; `None`: neither was.
    pub(super) fn last_seen(
        &self,
        opened: &Opened,
        key: &GuardKey,
        names: &Names,
        stamp: &BootStamp,
    ) -> Option<Pair> {
        let (account, secret) = {
            let last = self.last();
            (
                last.accounts.get(&names.account).cloned(),
                last.secrets.get(&names.record).cloned(),
            )
        };
        (account.is_some() || secret.is_some()).then(|| {
            let account =
                account.unwrap_or_else(|| Entry::new(&names.account, hex(&opened.salt), stamp));
            let secret =
                secret.unwrap_or_else(|| Entry::new(&names.record, hex(&opened.salt), stamp));
            self.brought_up(account, secret, opened, key, names, stamp)
        })
    }

    fn brought_up(
        &self,
        account: Entry<AccountRecord>,
        secret: Entry<SecretRecord>,
        opened: &Opened,
        key: &GuardKey,
        names: &Names,
        stamp: &BootStamp,
    ) -> Pair {
        let mut pair = Pair { account, secret };
        self.bring_up(&mut pair, opened, key, names, stamp);
        pair
    }

    /// What is `there`, or begins there, together with what this process knew of it and what is
    /// gone: see [`Entry::recalled`].
    fn recall<C: Shelf>(
        &self,
        there: Option<&Entry<C>>,
        name: &str,
        opened: &Opened,
        stamp: &BootStamp,
        losses: Option<&Losses>,
    ) -> Entry<C> {
        let last = C::shelf(&mut self.last()).get(name).cloned();
        let up = |mut entry: Entry<C>| {
            entry.bring_up(stamp, |owner| {
                owner == opened.owner || self.folder.is_alive(owner)
            });
            entry
        };
        let recalled = last.filter(|last| there != Some(last)).and_then(|last| {
            let written = last.noted.clone();
            if losses.is_none() && there.is_some_and(|there| there.noted.is_before(&written)) {
                return Some(last);
            }
            Entry::recalled(
                there.cloned().map(up).as_ref(),
                up(last),
                (there.map(|t| &t.noted), &written),
                &opened.owner,
            )
        });
        if let Some(entry) = &recalled
            && let Some(losses) = losses
            && !entry.is_blank()
        {
            losses.another(&self.folder.path(&file_of::<C>(name)), stamp.boot);
        }
        let entry = recalled
            .or_else(|| there.cloned())
            .unwrap_or_else(|| Entry::new(name, hex(&opened.salt), stamp));
        if there == Some(&entry) {
            self.stands(entry.clone());
        }
        entry
    }

    /// What is there already. A damaged one that is given up begins with leave for one attempt.
    fn old<C: Shelf>(
        &self,
        name: &str,
        locked: &Locked<'_>,
        anew: bool,
    ) -> Result<Option<Entry<C>>, Trouble> {
        match self.read(name) {
            Err(Trouble::Damaged { .. }) if anew => {
                let file = file_of::<C>(name);
                if let Some(version) = self
                    .folder
                    .read(&file)
                    .ok()
                    .flatten()
                    .as_deref()
                    .and_then(newer)
                {
                    locked.keep_aside(&file, version)?;
                }
                self.damaged_anew(name, locked)
            }
            other => other,
        }
    }

    fn damaged_anew<C: Shelf>(
        &self,
        name: &str,
        locked: &Locked<'_>,
    ) -> Result<Option<Entry<C>>, Trouble> {
        let stamp = BootStamp::now();
        let salt = self
            .as_opened()
            .map(|opened| hex(&opened.salt))
            .unwrap_or_default();
        let entry = Entry {
            record: C::anew(),
            ..Entry::new(name, salt, &stamp)
        };
        self.put(&entry, locked)?;
        // A person gave up what was counted.
        C::shelf(&mut self.last()).remove(&entry.name);
        Ok(Some(entry))
    }

    /// Writes `new` where that is worth it: a count in which nothing ever stood leaves no file.
    fn store<C: Shelf>(
        &self,
        new: Entry<C>,
        old: Option<&Entry<C>>,
        anew: bool,
        locked: &Locked<'_>,
    ) -> Result<bool, Trouble> {
        let worth_it = match old {
            None => anew || !new.record.is_blank(),
            Some(old) => anew || new.record.differs(&old.record) || new.owners != old.owners,
        };
        if worth_it {
            self.put(&new, locked)?;
            if old.is_none() {
                self.made.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
            self.stands(new);
        }
        Ok(worth_it)
    }

    fn put<C: Shelf>(&self, entry: &Entry<C>, locked: &Locked<'_>) -> Result<(), Trouble> {
        let file = file_of::<C>(&entry.name);
        let bytes = encode(entry).map_err(|e| self.folder.damaged(&file, e.to_string()))?;
        locked.write(&file, &bytes)
    }

    fn read<C: Shelf>(&self, name: &str) -> Result<Option<Entry<C>>, Trouble> {
        let file = file_of::<C>(name);
        let Some(bytes) = self.folder.read(&file)? else {
            return Ok(None);
        };
        let entry: Entry<C> = decode(&bytes).map_err(|why| self.folder.damaged(&file, why))?;
        if entry.name != name {
            return Err(self
                .folder
                .damaged(&file, "damaged: it was another file".to_owned()));
        }
        Ok(Some(entry))
    }

    /// As it stands now. Says how many outcomes were added that only this process knows.
    fn bring_up(
        &self,
        pair: &mut Pair,
        opened: &Opened,
        key: &GuardKey,
        names: &Names,
        stamp: &BootStamp,
    ) -> usize {
        let outcomes = self.outcomes.lock().get(key).cloned().unwrap_or_default();
        let alive = |owner: &str| owner == opened.owner || self.folder.is_alive(owner);
        pair.account.bring_up(stamp, alive);
        pair.secret.bring_up(stamp, alive);
        for Ended { id, verdict, at } in &outcomes {
            pair.tally().settle(whose(names), *id, *verdict, *at);
            pair.account.owners.remove(id);
            pair.secret.owners.remove(id);
        }
        outcomes.len()
    }

    /// A strict account that is counted for the first time begins with what was counted, before
    /// accounts were, for the secrets of `credential`: any of them may have been refused as this
    /// client's. Not with what is older than a secret that was good.
    pub(super) fn begin_account(
        &self,
        account: &mut AccountRecord,
        credential: &str,
        opened: &Opened,
        locked: &Locked<'_>,
        stamp: &BootStamp,
    ) -> Result<(), Trouble> {
        let mut refused = Vec::new();
        for file in locked
            .names()?
            .iter()
            .filter(|name| name.starts_with(SecretRecord::KIND))
        {
            // One that is damaged stops its own secret.
            let Ok(Some(bytes)) = self.folder.read(file) else {
                continue;
            };
            let Ok(mut entry) = decode::<Entry<SecretRecord>>(&bytes) else {
                continue;
            };
            let noted = entry.noted.carry(entry.noted.boot, stamp);
            entry.bring_up(stamp, |owner| {
                owner == opened.owner || self.folder.is_alive(owner)
            });
            match entry.record.before_accounts(credential) {
                Some((0, _)) if entry.record.is_good() => account.was_good(noted),
                None | Some((0, _)) => {}
                Some((refusals, last)) => refused.push((entry.name, refusals, last)),
            }
        }
        for (record, refusals, last) in refused {
            account.take_over(&record, refusals, last);
        }
        Ok(())
    }

    /// The first `known` outcomes are on disk.
    fn written(&self, key: &GuardKey, known: usize) {
        let mut outcomes = self.outcomes.lock();
        if let Some(all) = outcomes.get_mut(key) {
            all.drain(..known.min(all.len()));
            if all.is_empty() {
                outcomes.remove(key);
            }
        }
    }

    /// It stands in the folder so.
    fn stands<C: Shelf>(&self, entry: Entry<C>) {
        let mut last = self.last();
        let shelf = C::shelf(&mut last);
        if shelf
            .get(&entry.name)
            .is_some_and(|last| entry.noted.is_before(&last.noted))
        {
            return;
        }
        if shelf.len() >= MOST_KNOWN && !shelf.contains_key(&entry.name) {
            shelf.retain(|_, entry| !entry.is_blank());
            let mut moments: Vec<_> = shelf.values().map(|entry| entry.noted.boot).collect();
            if moments.len() > MOST_KNOWN / 2 {
                let (_, middle, _) = moments.select_nth_unstable(MOST_KNOWN / 4);
                let middle = *middle;
                shelf.retain(|_, entry| entry.noted.boot > middle);
            }
        }
        shelf.insert(entry.name.clone(), entry);
    }

    /// Nothing stands in the folder any more, and that is right so.
    pub(super) fn forget<C: Shelf>(&self, file: &str) {
        if let Some(name) = file
            .strip_prefix(C::KIND)
            .and_then(|rest| rest.strip_suffix(".json"))
        {
            C::shelf(&mut self.last()).remove(name);
        }
    }

    /// What was last seen of both counts for nothing any more.
    pub(super) fn unsee(&self, names: &Names) {
        let mut last = self.last();
        last.accounts.remove(&names.account);
        last.secrets.remove(&names.record);
    }

    pub(super) fn last(&self) -> MutexGuard<'_, Last> {
        self.last.lock()
    }
}

fn file_of<C: Counts>(name: &str) -> String {
    format!("{}{name}.json", C::KIND)
}
