//! The guard's memory on disk: what was spent and refused outlives the process, and several processes of one host share it.
//!
//! In the folder lie: `lock`, taken for each change and never renamed; `salt`; `owner-…`, which a living process holds locked; one
//! `guard-….json` for each (token URL, secret), named by a slow, salted fingerprint; one `budget-….json` for each credential. A change
//! reads, judges and writes under the lock and is on disk (temporary file, fsync, rename, fsync of the folder) before the attempt that it
//! allows is sent. Nothing is locked while a call runs.
//!
//! An attempt belongs to the process that made it. When that one is gone its owner file can be locked by others: the outcome is unknown.
//!
//! Where the folder cannot be read or written, [`crate::token::Hold::UntilSecretChanges`] gets no attempt, everything else counts in memory, on
//! from what was last read. An attempt that was written down but could not be brought to the disk is taken back.

mod book;
#[cfg(test)]
mod crash_tests;
mod disk;
mod file;
mod fingerprint;
mod folder;
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
