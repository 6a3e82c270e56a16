//! Lines that strangers can cause are told once a minute, with how often it came meanwhile.

use std::time::{Duration, Instant};

use crate::lock::Lock;

/// What is left out is counted for this long.
const EVERY: Duration = Duration::from_secs(60);

/// One kind of line, for the whole process.
#[derive(Debug, Default)]
pub struct OncePerMinute(Lock<OncePerMinuteState>);

#[derive(Debug, Default)]
struct OncePerMinuteState {
    at: Option<Instant>,
    since: u64,
}

impl OncePerMinute {
    /// One that was never told.
    #[must_use]
    pub const fn new() -> Self {
        Self(Lock::new(OncePerMinuteState { at: None, since: 0 }))
    }

    /// It came once more. `None`: it was told less than a minute ago; else how often it came since
    /// then, this time included.
    pub fn note(&self) -> Option<u64> {
        #[expect(
            clippy::disallowed_methods,
            reason = "how often a line is written, not the life of a token"
        )]
        let now = Instant::now();
        self.note_at(now)
    }

    fn note_at(&self, now: Instant) -> Option<u64> {
        let mut told = self.0.lock();
        told.since = told.since.saturating_add(1);
        if told
            .at
            .is_some_and(|at| now.saturating_duration_since(at) < EVERY)
        {
            return None;
        }
        told.at = Some(now);
        Some(std::mem::take(&mut told.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_told_and_then_one_a_minute_that_says_how_many() {
        let once_per_minute = OncePerMinute::new();
        #[expect(clippy::disallowed_methods, reason = "a moment to count from")]
        let start = Instant::now();
        let told: Vec<_> = (0..=150)
            .filter_map(|s| Some((s, once_per_minute.note_at(start + Duration::from_secs(s))?)))
            .collect();
        assert_eq!(told, [(0, 1), (60, 60), (120, 60)]);
    }
}
