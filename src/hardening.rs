//! What keeps this process's memory, which holds secrets and tokens, from other programs of the
//! host.

use std::{fmt, io};

use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit,
};

/// Set to `1`, this variable lets a debugger in and core files out.
pub const ALLOW_DUMPS: &str = "CUPBEARER_ALLOW_DUMPS";

/// What could not be turned off.
#[derive(Debug)]
pub struct HardeningFailure {
    what: &'static str,
    error: io::Error,
}

impl fmt::Display for HardeningFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} could not be turned off: {}", self.what, self.error)
    }
}

/// No core file is written from now on, and no program of the same user may attach to this process
/// or read its memory (`PR_SET_DUMPABLE` 0, prctl(2)). Root may still do all of it. `allowed` is
/// the value of [`ALLOW_DUMPS`]; with `1` nothing is changed. Gives what could not be turned off;
/// an empty list is a success.
#[must_use]
pub fn harden(allowed: Option<&str>) -> Vec<HardeningFailure> {
    if allowed == Some("1") {
        return Vec::new();
    }
    let mut open = Vec::new();
    // The hard limit as well: nothing in this process may raise it again. A pipe as core_pattern
    // ignores it, but not the flag below.
    if let Err(e) = setrlimit(
        Resource::Core,
        Rlimit {
            current: Some(0),
            maximum: Some(0),
        },
    ) {
        open.push(HardeningFailure {
            what: "core files",
            error: e.into(),
        });
    }
    if let Err(e) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        open.push(HardeningFailure {
            what: "reading this process's memory",
            error: e.into(),
        });
    }
    open
}

/// Whether this process writes no core file and cannot be attached to now.
#[must_use]
pub fn hardened() -> bool {
    let core = getrlimit(Resource::Core);
    core.current == Some(0)
        && rustix::process::dumpable_behavior().is_ok_and(|d| d == DumpableBehavior::NotDumpable)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// That it works is seen from outside, by `tests/it/hardening.rs`: here it would hold for all
    /// tests of this process.
    #[test]
    fn where_dumps_are_allowed_nothing_is_changed() {
        let before = hardened();
        assert!(harden(Some("1")).is_empty());
        assert_eq!(hardened(), before);
    }
}
