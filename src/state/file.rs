//! What stands in a file: a line that names schema and checksum, then a line of JSON. Pure and
//! total.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    clock::{BootInstant, BootStamp},
    hash::{hex, sha256},
    token::guard::{AccountRecord, Budget, SecretRecord},
};

/// The schema of all files here. A file with another number is not guessed at.
const VERSION: u32 = 1;
/// What nobody used for so long is swept away, if nothing is counted in it.
const KEPT: Duration = Duration::from_hours(30 * 24);

#[derive(Serialize, Deserialize)]
struct Head {
    version: u32,
    sha256: String,
}

/// What one file counts: for a secret, or for an account.
pub(super) trait Counts: Clone + Default + PartialEq + Serialize + DeserializeOwned {
    /// How the names of such files begin.
    const KIND: &'static str;
    fn carry(&mut self, to: &dyn Fn(BootInstant) -> BootInstant);
    fn orphan(&mut self, alive: &dyn Fn(u64) -> bool, now: BootInstant);
    fn is_blank(&self) -> bool;
    fn differs(&self, old: &Self) -> bool;
    /// In place of one that cannot be read any more, when a person unlatches: one attempt.
    fn anew() -> Self;
    /// Does it lack what `last`, an older state of it, counts, though no success cleared that?
    fn lacks(&self, last: &Self, mine: &dyn Fn(u64) -> bool) -> bool;
    fn accepted(&self) -> Option<BootInstant>;
    fn merge(&mut self, other: Self);
    fn unlatch(&mut self);
}

impl Counts for SecretRecord {
    const KIND: &'static str = "guard-";
    fn carry(&mut self, to: &dyn Fn(BootInstant) -> BootInstant) {
        Self::carry(self, to);
    }
    fn orphan(&mut self, alive: &dyn Fn(u64) -> bool, now: BootInstant) {
        Self::orphan(self, alive, now);
    }
    fn is_blank(&self) -> bool {
        Self::is_blank(self)
    }
    fn differs(&self, old: &Self) -> bool {
        Self::differs(self, old)
    }
    fn anew() -> Self {
        Self::after_damage()
    }
    fn lacks(&self, last: &Self, mine: &dyn Fn(u64) -> bool) -> bool {
        Self::lacks(self, last, mine)
    }
    fn accepted(&self) -> Option<BootInstant> {
        Self::accepted(self)
    }
    fn merge(&mut self, other: Self) {
        Self::merge(self, other);
    }
    fn unlatch(&mut self) {
        Self::unlatch(self, None);
    }
}

impl Counts for AccountRecord {
    const KIND: &'static str = "account-";
    fn carry(&mut self, to: &dyn Fn(BootInstant) -> BootInstant) {
        Self::carry(self, to);
    }
    fn orphan(&mut self, alive: &dyn Fn(u64) -> bool, now: BootInstant) {
        Self::orphan(self, alive, now);
    }
    fn is_blank(&self) -> bool {
        Self::is_blank(self)
    }
    fn differs(&self, old: &Self) -> bool {
        Self::differs(self, old)
    }
    fn anew() -> Self {
        Self::after_damage()
    }
    fn lacks(&self, last: &Self, mine: &dyn Fn(u64) -> bool) -> bool {
        Self::lacks(self, last, mine)
    }
    fn accepted(&self) -> Option<BootInstant> {
        Self::accepted(self)
    }
    fn merge(&mut self, other: Self) {
        Self::merge(self, other);
    }
    fn unlatch(&mut self) {
        Self::unlatch(self);
    }
}

/// What is remembered of one token URL and secret, or of one account.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Entry<C = SecretRecord> {
    /// The file's own name, so that one that was moved is noticed.
    pub name: String,
    /// The folder's salt, so that it is not lost with its file.
    pub salt: String,
    /// When it was written: moments in it are carried over a reboot by this.
    pub noted: BootStamp,
    /// Whose the attempts without an outcome are.
    pub owners: BTreeMap<u64, String>,
    pub record: C,
    /// When a person last unlatched it. Releases before this one wrote none.
    #[serde(default)]
    pub unlatched: Option<BootStamp>,
}

/// What is left of a credential's budget.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Purse {
    pub noted: BootStamp,
    pub budget: Budget,
}

impl<C: Counts> Entry<C> {
    pub fn new(name: &str, salt: String, stamp: &BootStamp) -> Self {
        Self {
            name: name.to_owned(),
            salt,
            noted: stamp.clone(),
            owners: BTreeMap::new(),
            record: C::default(),
            unlatched: None,
        }
    }

    /// As it is to be read now: moments on this boot's clock, attempts of owners that are gone
    /// without an outcome for ever.
    pub fn bring_up(&mut self, present: &BootStamp, alive: impl Fn(&str) -> bool) {
        let Self {
            noted,
            owners,
            record,
            ..
        } = self;
        record.carry(&|moment| noted.carry(moment, present));
        owners.retain(|_, owner| alive(owner));
        record.orphan(&|id| owners.contains_key(&id), present.boot);
        // Another process may have looked at its clock later and have had the lock before us: what
        // stands in the folder never grows younger.
        *noted = noted.or_later(present);
    }

    /// What stands in the folder, with what this process knew of it where that is gone though
    /// nothing cleared it: the file was removed, or an older one was put in its place. `None`:
    /// nothing is gone. Both are `brought_up`; `written` is when either was written.
    ///
    /// Attempts of others are unknown outcomes then: whether they have ended meanwhile is not known
    /// any more. What a person unlatched stays so.
    pub fn recalled(
        there: Option<&Self>,
        mut last: Self,
        written: (Option<&BootStamp>, &BootStamp),
        us: &str,
    ) -> Option<Self> {
        last.owners.retain(|_, owner| owner == us);
        let Self {
            owners,
            record,
            noted,
            ..
        } = &mut last;
        let mine = |id: u64| owners.contains_key(&id);
        let Some(there) = there else {
            record.orphan(&mine, noted.boot);
            return Some(last);
        };
        let set_back = written.0.is_some_and(|there| there.is_before(written.1));
        let gone = set_back && there.record.accepted() <= record.accepted()
            || there.record.lacks(record, &mine);
        if !gone {
            return None;
        }
        record.orphan(&mine, noted.boot);
        let mut joined = there.clone();
        joined.owners.extend(last.owners);
        joined.record.merge(last.record);
        if let Some(at) = there.unlatched.as_ref().filter(|at| {
            last.unlatched
                .as_ref()
                .is_none_or(|last| is_later(at, last))
        }) {
            joined.unlatched = Some(at.clone());
            joined.record.unlatch();
        } else {
            joined.unlatched = last.unlatched;
        }
        Some(joined)
    }

    pub fn is_blank(&self) -> bool {
        self.record.is_blank() && self.owners.is_empty()
    }

    /// Nothing is counted in it, and it was noted long ago.
    pub fn is_stale(&self, noted: &BootStamp, present: &BootStamp) -> bool {
        self.is_blank() && is_old(noted, present)
    }
}

impl Purse {
    pub fn new(budget: Budget, stamp: &BootStamp) -> Self {
        Self {
            noted: stamp.clone(),
            budget,
        }
    }

    pub fn bring_up(&mut self, present: &BootStamp) {
        let Self { noted, budget } = self;
        budget.carry(|moment| noted.carry(moment, present));
        *noted = noted.or_later(present);
    }

    pub fn is_stale(&self, present: &BootStamp) -> bool {
        is_old(&self.noted, present)
    }
}

fn is_later(a: &BootStamp, b: &BootStamp) -> bool {
    if a.boot_id == b.boot_id {
        a.boot > b.boot
    } else {
        a.wall > b.wall
    }
}

fn is_old(noted: &BootStamp, present: &BootStamp) -> bool {
    if noted.boot_id == present.boot_id {
        noted.boot.until(present.boot) > KEPT
    } else {
        present.wall.saturating_sub(noted.wall) > KEPT
    }
}

/// The bytes of a file.
///
/// # Errors
/// Where `body` has no form in JSON; none of ours is such.
pub(super) fn encode(body: &impl Serialize) -> Result<Vec<u8>, serde_json::Error> {
    let body = serde_json::to_vec(body)?;
    let mut bytes = serde_json::to_vec(&Head {
        version: VERSION,
        sha256: checksum(&body),
    })?;
    bytes.push(b'\n');
    bytes.extend(body);
    bytes.push(b'\n');
    Ok(bytes)
}

/// The schema of a file that a newer release wrote, which is not ours to write over; `None`: any
/// other file.
pub(super) fn newer(bytes: &[u8]) -> Option<u32> {
    let head: Head = serde_json::from_slice(bytes.split(|b| *b == b'\n').next()?).ok()?;
    (head.version > VERSION).then_some(head.version)
}

/// Reads what [`encode`] wrote.
///
/// # Errors
/// What is wrong with it, in words without its contents.
pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let mut lines = bytes.splitn(2, |b| *b == b'\n');
    let head: Head = serde_json::from_slice(lines.next().unwrap_or_default())
        .map_err(|_| "damaged: its first line is not ours".to_owned())?;
    if head.version != VERSION {
        return Err(format!(
            "written in schema {}, this program knows {VERSION} (it is kept aside before another is written)",
            head.version
        ));
    }
    let body = lines
        .next()
        .and_then(|rest| rest.strip_suffix(b"\n"))
        .ok_or("damaged: it ends early")?;
    if checksum(body) != head.sha256 {
        return Err("damaged: its checksum is wrong".to_owned());
    }
    serde_json::from_slice(body).map_err(|_| "damaged: its contents are not ours".to_owned())
}

fn checksum(body: &[u8]) -> String {
    hex(&sha256(body))
}
