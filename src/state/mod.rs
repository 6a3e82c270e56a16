//! The guard's memory on disk: what was spent and refused outlives the process, and several
//! processes of one host share it.
//!
//! In the folder lie: `lock`, taken for each change and never renamed; `salt`; `owner-…`, which a
//! living process holds locked; one `guard-….json` for each (token URL, secret) and one
//! `account-….json` for each (token origin, client id), named by slow, salted fingerprints; one
//! `budget-….json` for each credential. A change reads, judges and writes the account's file and
//! then the secret's under the lock, and is on disk (temporary file, fsync, rename, fsync of the
//! folder) before the attempt that it allows is sent. Nothing is locked while a call runs.
//!
//! Releases that knew no accounts wrote the same files but for `account-….json`: they are read, and
//! what each counted is added to the account once, unless an attempt has succeeded since. One with
//! a budget of its own begins with what all records of the first credential that asks had counted,
//! for its secret may have been changed together with the release. A file of a newer release is
//! renamed (`….v2`) before another is written in its place.
//!
//! An attempt belongs to the process that made it. When that one is gone its owner file can be
//! locked by others: the outcome is unknown.
//!
//! Where the folder cannot be read or written, what is latched until the secret changes, or by a
//! budget of its account ([`crate::token::LockoutPolicy::need_memory`]), gets no attempt; everything else
//! counts in memory, on from what was last read. A record that is removed, or set back to an older
//! one, under a running process counts on from what that process knew; a success that another
//! process wrote clears it all the same, and a person's unlatch stays. An attempt that was written
//! down but could not be brought to the disk is taken back.

mod book;
#[cfg(test)]
mod crash_tests;
mod disk;
mod file;
mod fingerprint;
mod folder;
mod pair;
mod sweep;
#[cfg(test)]
mod tests;
mod trouble;

pub use disk::Disk;
pub use trouble::Trouble;

/// Why this folder is of no use to us; `None` where it is, or where it is not there yet.
#[must_use]
pub fn unusable(dir: &std::path::Path) -> Option<Trouble> {
    match folder::Folder::new(dir.to_owned()).look() {
        Err(Trouble::Io { error, .. }) if error.kind() == std::io::ErrorKind::NotFound => None,
        other => other.err(),
    }
}
