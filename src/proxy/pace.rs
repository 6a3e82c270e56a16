//! The slowest that a request body of known length may arrive. A body of unknown length may be a
//! live stream: it is bounded by `idle` alone.

use std::time::Duration;

use crate::clock::BootInstant;

/// Bytes a second, on average; a modem of 1993 is faster.
const RATE: u64 = 240;
/// What a body may lag behind that.
const GRACE: Duration = Duration::from_secs(30);

/// Time the client has left for its next bytes. Bytes earn time, waiting spends it.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    left: Duration,
    most: Duration,
    last: BootInstant,
}

impl Pace {
    #[must_use]
    pub fn begin(idle: Duration, now: BootInstant) -> Self {
        let most = idle.min(GRACE);
        Self {
            left: most,
            most,
            last: now,
        }
    }

    /// How long the first bytes may take.
    #[must_use]
    pub fn left(&self) -> Duration {
        self.left
    }

    /// The client has been slower than it may be.
    #[must_use]
    pub fn is_spent(&self) -> bool {
        self.left.is_zero()
    }

    /// How long nothing has come.
    #[must_use]
    pub fn silence(&self, now: BootInstant) -> Duration {
        self.last.until(now)
    }

    /// After `bytes` more: how long the next may take. Time in which the vendor did not take them
    /// counts too, but then many come at once.
    pub fn arrived(&mut self, bytes: usize, now: BootInstant) -> Duration {
        let earned = Duration::from_millis((bytes as u64).saturating_mul(1000) / RATE);
        let spent = self.last.until(now);
        self.last = now;
        self.left = self
            .left
            .saturating_add(earned)
            .saturating_sub(spent)
            .min(self.most);
        self.left.max(Duration::from_millis(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_drip_runs_out_of_time_and_a_slow_line_does_not() {
        let start = BootInstant::now();
        let mut drip = Pace::begin(SECOND * 600, start);
        let mut now = start;
        let lasted = (1..1000).find(|_| {
            now = now.after(SECOND);
            drip.arrived(1, now) <= Duration::from_millis(1)
        });
        assert!(lasted.is_some_and(|n| (30..=31).contains(&n)), "{lasted:?}");
        let mut slow = Pace::begin(SECOND * 600, start);
        let mut now = start;
        assert!((0..10_000).all(|_| {
            now = now.after(SECOND);
            slow.arrived(300, now) > SECOND
        }));
    }

    #[test]
    fn a_vendor_that_takes_its_time_is_not_the_clients_fault() {
        let start = BootInstant::now();
        let mut pace = Pace::begin(SECOND * 600, start);
        assert_eq!(pace.arrived(65_536, start.after(SECOND * 60)), GRACE);
        assert_eq!(
            Pace::begin(SECOND, start).left(),
            SECOND,
            "never more than idle"
        );
    }
}
