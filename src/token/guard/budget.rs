//! How many calls a credential may make in a time: token buckets, refilled evenly.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::BootInstant;
use crate::token::policy::Rate;

/// The buckets of one credential, one for each rate.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Budget {
    buckets: Vec<Bucket>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Bucket {
    left: f64,
    at: BootInstant,
}

impl Budget {
    /// Refills, then says since when or from when on one call may be made: `Err` is a later moment.
    ///
    /// # Errors
    /// The moment from which on all buckets hold one.
    pub fn ready(&mut self, rates: &[Rate], now: BootInstant) -> Result<(), BootInstant> {
        self.buckets.truncate(rates.len());
        for rate in rates.iter().skip(self.buckets.len()) {
            self.buckets.push(Bucket {
                left: f64::from(rate.n.max(1)),
                at: now,
            });
        }
        let mut wait = Duration::ZERO;
        for (bucket, rate) in self.buckets.iter_mut().zip(rates) {
            let full = f64::from(rate.n.max(1));
            // Never zero, so that the divisions below mean something.
            let one = (rate.per / rate.n.max(1)).max(Duration::from_nanos(1));
            let refill = bucket.at.until(now).as_secs_f64() / one.as_secs_f64();
            *bucket = Bucket {
                left: (bucket.left + refill).clamp(0.0, full),
                at: now.max(bucket.at),
            };
            // A hair less than one is one: the refill is computed in floating point.
            if bucket.left < 1.0 - 1e-6 {
                wait = wait.max(
                    one.min(Duration::from_hours(8784))
                        .mul_f64(1.0 - bucket.left)
                        .max(Duration::from_millis(1)),
                );
            }
        }
        if wait.is_zero() {
            Ok(())
        } else {
            Err(now.after(wait))
        }
    }

    /// Buckets with nothing in them: where it is not known what was taken.
    #[must_use]
    pub fn empty(rates: &[Rate], now: BootInstant) -> Self {
        Self {
            buckets: rates
                .iter()
                .map(|_| Bucket { left: 0.0, at: now })
                .collect(),
        }
    }

    /// Moves every moment (a budget read after a reboot).
    pub fn carry(&mut self, to: impl Fn(BootInstant) -> BootInstant) {
        self.buckets.iter_mut().for_each(|b| b.at = to(b.at));
    }

    /// Takes one out of each bucket.
    pub fn take(&mut self) {
        for bucket in &mut self.buckets {
            bucket.left = (bucket.left - 1.0).max(0.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now(secs: f64) -> BootInstant {
        BootInstant::from_boot(Duration::from_secs_f64(secs))
    }

    #[test]
    fn a_bucket_of_n_is_refilled_evenly() {
        let rates = [Rate {
            n: 120,
            per: Duration::from_mins(1),
        }];
        let mut budget = Budget::default();
        for _ in 0..120 {
            assert_eq!(budget.ready(&rates, now(10.0)), Ok(()));
            budget.take();
        }
        assert_eq!(budget.ready(&rates, now(10.0)), Err(now(10.5)));
        assert_eq!(budget.ready(&rates, now(10.25)), Err(now(10.5)));
        assert_eq!(budget.ready(&rates, now(10.5)), Ok(()));
        budget.take();
        assert!(budget.ready(&rates, now(10.5)).is_err());
    }

    #[test]
    fn of_several_rates_the_strictest_decides() {
        let rates = [
            Rate {
                n: 2,
                per: Duration::from_secs(2),
            },
            Rate {
                n: 1,
                per: Duration::from_mins(1),
            },
        ];
        let mut budget = Budget::default();
        assert_eq!(budget.ready(&rates, now(0.0)), Ok(()));
        budget.take();
        assert_eq!(budget.ready(&rates, now(0.0)), Err(now(60.0)));
        assert_eq!(budget.ready(&rates, now(60.0)), Ok(()));
    }

    #[test]
    fn absurd_rates_do_not_panic_and_never_say_now_for_later() {
        for rate in [
            Rate {
                n: 0,
                per: Duration::ZERO,
            },
            Rate {
                n: 0,
                per: Duration::MAX,
            },
            Rate {
                n: u32::MAX,
                per: Duration::from_nanos(1),
            },
        ] {
            let mut budget = Budget::default();
            for i in 0..10 {
                let at = now(f64::from(i));
                match budget.ready(&[rate], at) {
                    Ok(()) => budget.take(),
                    Err(later) => assert!(later > at),
                }
            }
        }
    }

    #[test]
    fn an_empty_one_has_to_be_refilled_first_and_moves_with_the_clock() {
        let rates = [Rate {
            n: 2,
            per: Duration::from_secs(10),
        }];
        let mut budget = Budget::empty(&rates, now(100.0));
        assert_eq!(budget.ready(&rates, now(100.0)), Err(now(105.0)));
        assert_eq!(budget.ready(&rates, now(105.0)), Ok(()));
        let mut budget = Budget::empty(&rates, now(100.0));
        budget.carry(|at| at.after(Duration::from_secs(900)));
        assert_eq!(budget.ready(&rates, now(1000.0)), Err(now(1005.0)));
        // One whole and no less.
        let mut budget = Budget::empty(&rates, now(0.0));
        assert!(budget.ready(&rates, now(4.99)).is_err());
    }
}
