//! How often something may happen: at most so many times within any stretch of time. Pure: every
//! method is told the moment.

use std::{collections::VecDeque, time::Duration};

use crate::clock::BootInstant;

/// A sliding window over the last times that something happened. Unlike a bucket that refills
/// evenly it lets no stretch of `per` see more than `most`, wherever that stretch begins.
#[derive(Debug, Clone)]
pub struct Window {
    most: usize,
    per: Duration,
    /// The latest times, oldest first; `most` of them at most.
    times: VecDeque<BootInstant>,
}

impl Window {
    /// At most `most` times (at least one) within any `per`.
    #[must_use]
    pub fn new(most: usize, per: Duration) -> Self {
        Self {
            most: most.max(1),
            per,
            times: VecDeque::new(),
        }
    }

    /// The earliest moment, `now` or later, at which it may happen once more.
    #[must_use]
    pub fn earliest(&self, now: BootInstant) -> BootInstant {
        match self.times.front() {
            Some(oldest) if self.times.len() >= self.most => now.max(oldest.after(self.per)),
            _ => now,
        }
    }

    /// It happens at `at`.
    pub fn note(&mut self, at: BootInstant) {
        let at = self.times.back().map_or(at, |last| at.max(*last));
        self.times.push_back(at);
        while self.times.len() > self.most {
            self.times.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SEC: Duration = Duration::from_secs(1);

    #[test]
    fn what_is_full_opens_when_the_oldest_has_left_it() {
        let mut window = Window::new(2, 60 * SEC);
        let at = |secs: u32| BootInstant::from_boot(secs * SEC);
        for secs in [10, 20] {
            assert_eq!(window.earliest(at(secs)), at(secs));
            window.note(at(secs));
        }
        assert_eq!(window.earliest(at(30)), at(70));
        assert_eq!(window.earliest(at(70)), at(70));
        window.note(at(70));
        assert_eq!(window.earliest(at(71)), at(80));
    }

    proptest! {
        #[test]
        fn no_stretch_of_time_sees_more(waits in proptest::collection::vec(0..40_000u64, 1..200), most in 1..8usize) {
            let mut window = Window::new(most, 60 * SEC);
            let (mut now, mut seen) = (BootInstant::from_boot(SEC), Vec::new());
            for wait in waits {
                now = window.earliest(now.after(Duration::from_millis(wait)));
                window.note(now);
                seen.push(now);
            }
            for (i, begin) in seen.iter().enumerate() {
                let within = seen[i..].iter().filter(|t| begin.until(**t) < 60 * SEC).count();
                prop_assert!(within <= most, "{within} within a minute");
            }
        }
    }
}
