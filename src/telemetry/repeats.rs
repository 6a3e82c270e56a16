//! The same failure again and again is one line, then one a minute that says how often it came.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash, RandomState},
    time::Duration,
};

use crate::{clock::BootInstant, lock::Lock};

/// A failure that goes on is told again after this.
const EVERY: Duration = Duration::from_secs(60);
/// Failures that are remembered; of more, the one told longest ago is forgotten, and told at once
/// when it comes again.
const MOST: usize = 256;

/// What was told lately. Holds digests only, no text.
#[derive(Default)]
pub struct RepeatFilter {
    hasher: RandomState,
    told: Lock<HashMap<u64, Occurrences>>,
}

struct Occurrences {
    /// Digest of what it happened to.
    whose: u64,
    at: BootInstant,
    /// Times it came since then.
    since: u64,
}

impl RepeatFilter {
    /// `None`: this very failure of `whose` was told lately. Otherwise how often it came without
    /// being told, this time included.
    pub fn note_failure(
        &self,
        whose: impl Hash,
        failure: impl Hash,
        now: BootInstant,
    ) -> Option<u64> {
        let whose = self.hasher.hash_one(whose);
        let key = self.hasher.hash_one((whose, self.hasher.hash_one(failure)));
        let mut told = self.told.lock();
        if let Some(known) = told.get_mut(&key) {
            known.since = known.since.saturating_add(1);
            if known.at.until(now) < EVERY {
                return None;
            }
            known.at = now;
            return Some(std::mem::take(&mut known.since));
        }
        if told.len() >= MOST
            && let Some(oldest) = told
                .iter()
                .min_by_key(|(_, told)| told.at)
                .map(|(key, _)| *key)
        {
            told.remove(&oldest);
        }
        told.insert(
            key,
            Occurrences {
                whose,
                at: now,
                since: 0,
            },
        );
        Some(1)
    }

    /// It is over: the next failure is news. How many were not told.
    pub fn note_success(&self, whose: impl Hash) -> u64 {
        let whose = self.hasher.hash_one(whose);
        let mut told = self.told.lock();
        let mut untold = 0;
        told.retain(|_, one| {
            let ours = one.whose == whose;
            if ours {
                untold += one.since;
            }
            !ours
        });
        untold
    }
}

/// As the end of a line: nothing for a first time.
#[must_use]
pub fn repeat_suffix(times: u64) -> String {
    if times > 1 {
        format!(" (same failure, {times} times)")
    } else {
        String::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> BootInstant {
        BootInstant::from_boot(Duration::from_secs(1000 + seconds))
    }

    #[test]
    fn a_failure_is_told_at_once_and_its_repeats_once_a_minute() {
        let repeats = RepeatFilter::default();
        assert_eq!(repeats.note_failure("acme", "down", at(0)), Some(1));
        let told: Vec<_> = (1..=60)
            .filter_map(|s| Some((s, repeats.note_failure("acme", "down", at(s))?)))
            .collect();
        assert_eq!(told, [(60, 60)]);
        assert_eq!(repeats.note_failure("acme", "down", at(61)), None);
        assert_eq!(
            repeats.note_failure("acme", "refused", at(61)),
            Some(1),
            "another failure is news"
        );
        assert_eq!(
            repeats.note_failure("other", "down", at(61)),
            Some(1),
            "so is that of another"
        );
        assert_eq!(repeat_suffix(14), " (same failure, 14 times)");
        assert_eq!(repeat_suffix(1), "");
    }

    #[test]
    fn after_a_success_the_next_failure_is_news() {
        let repeats = RepeatFilter::default();
        for _ in 0..3 {
            repeats.note_failure("acme", "down", at(0));
        }
        assert_eq!(repeats.note_success("acme"), 2);
        assert_eq!(repeats.note_failure("acme", "down", at(1)), Some(1));
    }

    #[test]
    fn however_many_kinds_of_failure_there_are_few_are_remembered() {
        let repeats = RepeatFilter::default();
        for n in 0..10 * MOST as u64 {
            assert_eq!(repeats.note_failure("acme", n, at(n)), Some(1));
        }
        assert_eq!(repeats.told.lock().len(), MOST);
    }
}
