//! Files that change under us: what lies at a path, one consistent read of several, when a change
//! counts, and how a file of ours is written.
//!
//! A file that was replaced (another inode, or a link that leads elsewhere) counts at once: whoever
//! made it had finished. One that was written in place counts when it has been quiet for [`QUIET`],
//! because half a secret is a wrong attempt and half a configuration takes routes away.
//! [`FileWatcher`] holds that rule and who may look for everybody who asks whether a file changed:
//! a credential's secrets and those that callers show (`secret`), the configuration with all that it
//! names (`reload`), and the client certificate of a leg (`tls`).

mod identity;
mod read;
mod settle;
#[cfg(test)]
mod settle_tests;
mod value;
mod watch;
mod write;

pub use identity::FileIdentity;
pub use read::{FileBytes, FileContents, UnstableFiles, read_together};
pub use settle::{ClockReading, FileMark, FileMarks, QUIET, SettleState, digest_marks};
pub use value::{LookResult, LookTimes, WatchedValue};
pub use watch::{FileWatcher, LOOK_PATIENCE, LookPermit};
pub use write::replace_file;
