//! Files that change under us: what lies at a path, one consistent read of several, when a change
//! counts, and how a file of ours is written.
//!
//! A file that was replaced (another inode, or a link that leads elsewhere) counts at once: whoever
//! made it had finished. One that was written in place counts when it has been quiet for [`QUIET`],
//! because half a secret is a wrong attempt and half a configuration takes routes away.
//! [`Settling`] is that rule for every kind of file; it reads no clock and no file. Who watches:
//! credentials their secrets (`secret::Watcher`), the reloader configuration, profiles and
//! certificates, and each leg's TLS its own files ([`Watch`]).

mod identity;
mod read;
mod settle;
#[cfg(test)]
mod settle_tests;
mod watch;
mod write;

pub use identity::Identity;
pub use read::{Bytes, Contents, Restless, read};
pub use settle::{Judgement, Mark, Marks, Moment, QUIET, Settling, contents};
pub use watch::{PATIENCE, Turn, Watch};
pub use write::replace;
