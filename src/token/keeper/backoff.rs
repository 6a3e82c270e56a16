//! How long to wait after a failure. Pure; no class waits for nothing.

use std::time::Duration;

use crate::{
    clock::BootInstant,
    token::{
        doubling::doubled,
        failure::{Failure, FailureClass},
        model::GuardKey,
        pause::{Pause, PauseReason},
    },
};

const FIRST_RETRY: Duration = Duration::from_millis(500);
const LONGEST_RETRY: Duration = Duration::from_secs(30);
/// Full jitter may say zero; a hot loop may not be.
const LEAST: Duration = Duration::from_millis(100);
const THROTTLED_LEAST: Duration = Duration::from_secs(5);
const LONGEST_WAIT: Duration = Duration::from_hours(1);
const FIRST_HELD: Duration = Duration::from_mins(1);
const LONGEST_HELD: Duration = Duration::from_mins(15);
const UNREADABLE: Duration = Duration::from_secs(5);
/// A refused secret is not tried again sooner, unless a parent was to blame.
pub(super) const AFTER_REFUSAL: Duration = Duration::from_secs(30);
const TOO_MANY_REQUESTS: u16 = 429;

/// Failures in a row, by what they double.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    retries: u32,
    held: u32,
    refused: u32,
    /// Whether a call ever succeeded, and what the last one that did was counted against: the token
    /// URL and the secret. A keeper's configuration is always the same one.
    good: Option<GuardKey>,
    succeeded: bool,
}

impl Backoff {
    /// A call succeeded that counted against `key`.
    pub fn succeeded(&mut self, key: Option<GuardKey>) {
        *self = Self {
            good: key,
            succeeded: true,
            ..Self::default()
        };
    }

    /// Until when to wait after `failure` of a call that counted against `key`, and that came at
    /// `now`. `random` in 0..1.
    pub fn after(
        &mut self,
        failure: &Failure,
        key: Option<&GuardKey>,
        now: BootInstant,
        random: f64,
    ) -> Pause {
        let asked = failure.wait.unwrap_or_default().min(LONGEST_WAIT);
        let (wait, kind) = match failure.class {
            FailureClass::Retry => {
                let jittered = self.jittered(random);
                let least = if failure.status == Some(TOO_MANY_REQUESTS) {
                    THROTTLED_LEAST
                } else {
                    LEAST
                };
                (jittered.max(least), PauseReason::Retry)
            }
            FailureClass::Throttled => {
                let least = if failure.wait.is_some() {
                    LEAST
                } else {
                    THROTTLED_LEAST
                };
                (self.jittered(random).max(least), PauseReason::Throttled)
            }
            FailureClass::Config => {
                self.held = self.held.saturating_add(1);
                // What has succeeded with this very secret is not wrong: the vendor will mend what
                // is.
                let longest = if self.succeeded && self.good.as_ref() == key {
                    FIRST_HELD
                } else {
                    LONGEST_HELD
                };
                (doubled(FIRST_HELD, self.held, longest), PauseReason::Config)
            }
            // The guard holds it longer where a secret was sent; this is what holds where none was.
            FailureClass::Rejected => {
                self.refused = self.refused.saturating_add(1);
                (
                    doubled(AFTER_REFUSAL, self.refused, LONGEST_WAIT),
                    PauseReason::Rejected,
                )
            }
            FailureClass::Unreadable => (UNREADABLE, PauseReason::Unreadable),
        };
        Pause {
            until: Some(now.after(wait.max(asked))),
            kind,
        }
    }

    fn jittered(&mut self, random: f64) -> Duration {
        self.retries = self.retries.saturating_add(1);
        let random = if random.is_finite() {
            random.clamp(0.0, 1.0)
        } else {
            1.0
        };
        doubled(FIRST_RETRY, self.retries, LONGEST_RETRY).mul_f64(random)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::token::failure::FailureKind;

    fn failure(class: FailureClass) -> Failure {
        Failure::own(class, FailureKind::Answered)
    }

    fn waits(failure: &Failure, random: f64, times: usize) -> Vec<f64> {
        let mut backoff = Backoff::default();
        (0..times)
            .map(|_| {
                BootInstant::default()
                    .until(
                        backoff
                            .after(failure, None, BootInstant::default(), random)
                            .until
                            .unwrap(),
                    )
                    .as_secs_f64()
            })
            .collect()
    }

    #[test]
    fn a_success_begins_anew() {
        let round = |backoff: &mut Backoff| {
            [
                FailureClass::Retry,
                FailureClass::Config,
                FailureClass::Rejected,
            ]
            .map(|class| {
                backoff
                    .after(&failure(class), None, BootInstant::default(), 1.0)
                    .until
            })
        };
        let mut backoff = Backoff::default();
        let (first, second) = (round(&mut backoff), round(&mut backoff));
        assert!(
            first.iter().zip(&second).all(|(a, b)| a < b),
            "{first:?} {second:?}"
        );
        backoff.succeeded(None);
        assert_eq!(round(&mut backoff), first);
    }

    #[test]
    fn what_succeeded_before_with_this_secret_is_held_a_minute_and_no_longer() {
        let key = |secret| GuardKey {
            url: "https://issuer.example/token".into(),
            secret: [secret; 32],
            partition: None,
            account: [9; 32],
        };
        let held = |backoff: &mut Backoff, key: Option<&GuardKey>| {
            let pause = backoff.after(
                &failure(FailureClass::Config),
                key,
                BootInstant::default(),
                0.0,
            );
            BootInstant::default().until(pause.until.unwrap()).as_secs()
        };
        for good in [None, Some(key(1))] {
            let mut backoff = Backoff::default();
            assert_eq!(
                [(); 3].map(|()| held(&mut backoff, good.as_ref())),
                [60, 120, 240]
            );
            backoff.succeeded(good.clone());
            assert_eq!(
                [(); 3].map(|()| held(&mut backoff, good.as_ref())),
                [60, 60, 60]
            );
            assert_eq!(
                [(); 2].map(|()| held(&mut backoff, Some(&key(2)))),
                [480, 900],
                "another secret has not"
            );
        }
    }

    #[test]
    fn retries_double_from_half_a_second_to_30_with_full_jitter_and_a_floor() {
        assert_eq!(
            waits(&failure(FailureClass::Retry), 1.0, 8),
            [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
        );
        assert_eq!(
            waits(&failure(FailureClass::Retry), 0.5, 3),
            [0.25, 0.5, 1.0]
        );
        assert_eq!(
            waits(&failure(FailureClass::Retry), 0.0, 3),
            [0.1, 0.1, 0.1]
        );
    }

    #[test]
    fn a_429_without_a_time_is_never_asked_again_within_5_s() {
        assert_eq!(
            waits(
                &Failure {
                    status: Some(429),
                    ..failure(FailureClass::Retry)
                },
                0.0,
                2
            ),
            [5.0, 5.0]
        );
        assert_eq!(waits(&failure(FailureClass::Throttled), 0.0, 2), [5.0, 5.0]);
    }

    #[test]
    fn throttled_waits_as_told_up_to_an_hour() {
        let told = |secs| Failure {
            wait: Some(Duration::from_secs(secs)),
            ..failure(FailureClass::Throttled)
        };
        assert_eq!(waits(&told(7), 0.0, 2), [7.0, 7.0]);
        assert_eq!(waits(&told(999_999), 0.0, 1), [3600.0]);
        assert_eq!(
            waits(&told(0), 1.0, 4),
            [0.5, 1.0, 2.0, 4.0],
            "zero is no time at all"
        );
    }

    #[test]
    fn held_is_a_minute_doubling_to_15() {
        assert_eq!(
            waits(&failure(FailureClass::Config), 0.0, 6),
            [60.0, 120.0, 240.0, 480.0, 900.0, 900.0]
        );
    }

    proptest! {
        #[test]
        fn no_class_waits_for_nothing_nor_longer_than_an_hour(
            class in prop_oneof![Just(FailureClass::Retry), Just(FailureClass::Throttled), Just(FailureClass::Rejected), Just(FailureClass::Config), Just(FailureClass::Unreadable)],
            wait in proptest::option::of(0..u64::MAX), random in any::<f64>(), times in 1..80usize,
        ) {
            let failure = Failure { wait: wait.map(Duration::from_millis), ..failure(class) };
            for wait in waits(&failure, random, times) {
                prop_assert!((0.1..=3600.0).contains(&wait), "{wait}");
            }
        }
    }
}
