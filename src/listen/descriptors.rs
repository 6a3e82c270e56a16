//! How many files and sockets the process may have open, and who gets how many of them.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Standard streams, listeners, epoll, the admin port, secrets and state files.
const OWN: usize = 32;

/// The kernel's limit, divided so that a flood of clients leaves room for vendors, token calls and
/// the admin port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptors(usize);

impl Descriptors {
    /// Raises the soft limit to the hard one first: 1,024, what most systems start with, is for
    /// programs that use select().
    pub fn of_this_process() -> Self {
        let now = getrlimit(Resource::Nofile);
        if now.current != now.maximum
            && let Err(error) = setrlimit(
                Resource::Nofile,
                Rlimit {
                    current: now.maximum,
                    maximum: now.maximum,
                },
            )
        {
            tracing::debug!(%error, "the limit of open files stays as it is");
        }
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        Self(usize::try_from(limit).unwrap_or(usize::MAX))
    }

    /// Connections of clients, all listeners together: three quarters.
    pub fn clients(self) -> usize {
        (self.0 - self.0 / 4)
            .saturating_sub(OWN + self.refused())
            .max(1)
    }

    /// Connections above that which are told so at a time.
    pub fn refused(self) -> usize {
        (self.0 / 32).clamp(4, 64)
    }

    /// Requests at vendors at the same time, for each of which there may be a connection.
    pub fn vendors(self) -> usize {
        (self.0 / 4).saturating_sub(self.idle() + OWN).max(8)
    }

    /// Connections to vendors that are kept for later.
    pub fn idle(self) -> usize {
        self.0 / 16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_parts_together_fit() {
        for limit in [256, 1024, 20_000, 1 << 20, usize::MAX] {
            let d = Descriptors(limit);
            assert!(
                d.clients() + d.refused() + d.vendors() + d.idle() + OWN <= limit,
                "{limit}"
            );
        }
        assert_eq!(Descriptors(20_000).clients(), 14_904);
        assert!(Descriptors(0).clients() > 0 && Descriptors(0).vendors() > 0);
    }
}
