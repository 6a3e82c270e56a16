//! A wait that doubles from one time to the next.

use std::time::Duration;

/// `first` the first time (`times` of 0 or 1), then doubling, at most `most`.
#[must_use]
pub(super) fn doubled(first: Duration, times: u32, most: Duration) -> Duration {
    first
        .saturating_mul(1 << times.saturating_sub(1).min(20))
        .min(most)
}
