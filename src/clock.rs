//! The one place that reads the clock.

#![expect(clippy::disallowed_methods, reason = "this is the one place")]

use std::{
    cell::Cell,
    sync::OnceLock,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

/// A moment on the clock that goes on during suspend (`CLOCK_BOOTTIME`); under tokio's paused time,
/// on that one.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct BootInstant(Duration);

/// Differences between the two clocks below this are the time between two reads, not a suspend.
const NOISE: Duration = Duration::from_millis(250);

impl BootInstant {
    /// Later than anything that happens.
    pub const FAR: Self = Self(Duration::MAX);
}

impl BootInstant {
    /// The present moment.
    #[must_use]
    pub fn now() -> Self {
        let origin = origin();
        // tokio's clock stands still while a test has paused it; otherwise it is the monotonic one.
        let ticking = tokio::time::Instant::now().into_std();
        Self(
            ticked(origin, ticking)
                .saturating_add(suspended(origin))
                .saturating_add(SIMULATED.get()),
        )
    }

    /// A moment given as time since boot (records of a ledger, tests).
    #[must_use]
    pub const fn from_boot(since_boot: Duration) -> Self {
        Self(since_boot)
    }

    /// Time since boot, suspends included.
    #[must_use]
    pub const fn since_boot(self) -> Duration {
        self.0
    }

    /// This moment plus `d`, saturating.
    #[must_use]
    pub fn after(self, d: Duration) -> Self {
        Self(self.0.saturating_add(d))
    }

    /// This moment minus `d`, not before the boot.
    #[must_use]
    pub fn before(self, d: Duration) -> Self {
        Self(self.0.saturating_sub(d))
    }

    /// How long until `later`; zero when it has passed.
    #[must_use]
    pub fn until(self, later: Self) -> Duration {
        later.0.saturating_sub(self.0)
    }

    /// This moment as wall-clock time (Unix epoch), judged by the wall clock of right now.
    #[must_use]
    pub fn wall(self) -> Duration {
        let now = Self::now();
        if self >= now {
            wall_clock().saturating_add(now.until(self))
        } else {
            wall_clock().saturating_sub(self.until(now))
        }
    }

    /// Milliseconds since boot: the form that fits an atomic.
    pub(crate) fn millis(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }
}

/// A moment that means something to another process and after another boot: what goes to disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootStamp {
    /// The kernel's name for this boot; empty where it tells none.
    pub boot_id: String,
    /// On the clock of that boot.
    pub boot: BootInstant,
    /// Wall clock, since the Unix epoch.
    pub wall: Duration,
}

impl BootStamp {
    /// Earlier in the same boot.
    #[must_use]
    pub fn is_before(&self, other: &Self) -> bool {
        self.boot_id == other.boot_id && self.boot < other.boot
    }

    /// `present`, but in one boot never before this.
    #[must_use]
    pub fn or_later(&self, present: &Self) -> Self {
        if present.is_before(self) {
            self.clone()
        } else {
            present.clone()
        }
    }

    /// The present moment.
    #[must_use]
    pub fn now() -> Self {
        static BOOT_ID: OnceLock<String> = OnceLock::new();
        let boot_id = BOOT_ID.get_or_init(|| {
            std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
                .map(|id| id.trim().to_owned())
                .unwrap_or_default()
        });
        Self {
            boot_id: boot_id.clone(),
            boot: BootInstant::now(),
            wall: wall_clock(),
        }
    }

    /// `moment`, noted when this stamp was taken, on the clock of `present`.
    ///
    /// Within one boot it is the same. Over a reboot only the wall clock knows how long it took;
    /// where that went backwards, no time has passed (waits then end late, never early). What would
    /// lie before the boot is the boot.
    #[must_use]
    pub fn carry(&self, moment: BootInstant, present: &Self) -> BootInstant {
        if self.boot_id == present.boot_id && !self.boot_id.is_empty() {
            return moment;
        }
        let passed = present.wall.saturating_sub(self.wall);
        if moment >= self.boot {
            let ahead = self.boot.until(moment);
            if ahead >= passed {
                present.boot.after(ahead.saturating_sub(passed))
            } else {
                present.boot.before(passed.saturating_sub(ahead))
            }
        } else {
            present
                .boot
                .before(moment.until(self.boot).saturating_add(passed))
        }
    }
}

/// The two clocks read together once: from then on, what they differ by is time spent in suspend.
struct ClockOrigin {
    mono: Instant,
    boot: Duration,
}

fn origin() -> &'static ClockOrigin {
    static ORIGIN: OnceLock<ClockOrigin> = OnceLock::new();
    ORIGIN.get_or_init(|| ClockOrigin {
        mono: Instant::now(),
        boot: boot_clock(),
    })
}

/// The boot clock when the monotonic one says `mono`, no suspend since the origin. A test may have
/// paused tokio's before the origin was read.
fn ticked(origin: &ClockOrigin, mono: Instant) -> Duration {
    let (ahead, behind) = (
        mono.saturating_duration_since(origin.mono),
        origin.mono.saturating_duration_since(mono),
    );
    origin.boot.saturating_add(ahead).saturating_sub(behind)
}

fn suspended(origin: &ClockOrigin) -> Duration {
    let mut least = Duration::MAX;
    // A thread that is put aside between the two reads sees a difference too: look again before
    // believing it.
    for _ in 0..3 {
        let mono = Instant::now().saturating_duration_since(origin.mono);
        let boot = boot_clock().saturating_sub(origin.boot);
        least = least.min(boot.saturating_sub(mono));
        if least < NOISE {
            return Duration::ZERO;
        }
    }
    least
}

fn boot_clock() -> Duration {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(
        u64::try_from(t.tv_sec).unwrap_or(0),
        u32::try_from(t.tv_nsec).unwrap_or(0),
    )
}

fn wall_clock() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

thread_local! {
    static SIMULATED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// For tests: as if the machine had been suspended for `d`. Holds for the calling thread, which is
/// all of a single-threaded test.
#[doc(hidden)]
pub fn simulate_suspend(d: Duration) {
    SIMULATED.set(SIMULATED.get().saturating_add(d));
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    #[tokio::test(start_paused = true)]
    async fn under_paused_time_now_follows_tokio_exactly() {
        let start = BootInstant::now();
        tokio::time::advance(HOUR).await;
        assert_eq!(start.until(BootInstant::now()), HOUR);
        assert_eq!(BootInstant::now(), BootInstant::now());
    }

    #[test]
    fn a_clock_paused_before_the_origin_was_read_is_followed_as_exactly() {
        let paused = Instant::now();
        let origin = ClockOrigin {
            mono: paused + HOUR,
            boot: HOUR * 3,
        };
        assert_eq!(ticked(&origin, paused), HOUR * 2);
        assert_eq!(ticked(&origin, paused + HOUR * 2), HOUR * 4);
    }

    #[test]
    fn without_a_runtime_now_is_the_boot_clock() {
        let difference = boot_clock().abs_diff(BootInstant::now().since_boot());
        assert!(difference < Duration::from_secs(1), "{difference:?}");
    }

    #[test]
    fn the_boot_clock_is_the_kernels_uptime() {
        let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
        let seconds: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
        assert!(boot_clock().abs_diff(Duration::from_secs_f64(seconds)) < Duration::from_secs(1));
    }

    #[test]
    fn a_suspend_is_what_the_boot_clock_is_ahead_and_noise_is_none() {
        let since = |d| ClockOrigin {
            mono: Instant::now(),
            boot: boot_clock().saturating_sub(d),
        };
        // No machine has slept longer than it has been up.
        let slept = HOUR.min(boot_clock());
        assert!(suspended(&since(slept)).abs_diff(slept) < Duration::from_secs(1));
        assert_eq!(suspended(&since(NOISE / 2)), Duration::ZERO);
        assert_eq!(suspended(&since(Duration::ZERO)), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_suspend_moves_now_but_not_the_timers() {
        let (start, timer) = (BootInstant::now(), tokio::time::Instant::now());
        simulate_suspend(HOUR);
        assert_eq!(start.until(BootInstant::now()), HOUR);
        assert_eq!(timer.elapsed(), Duration::ZERO);
    }

    #[test]
    fn moments_have_a_wall_clock_time() {
        let now = BootInstant::now();
        let (then, past) = (
            now.after(HOUR).wall(),
            now.before(HOUR.min(now.since_boot())).wall(),
        );
        assert!(then.abs_diff(wall_clock() + HOUR) < Duration::from_secs(1));
        assert!(past < wall_clock());
    }

    #[test]
    fn a_stamp_carries_moments_over_a_reboot_by_the_wall_clock() {
        let secs = Duration::from_secs;
        let noted = BootStamp {
            boot_id: "a".into(),
            boot: BootInstant::from_boot(secs(1000)),
            wall: secs(50_000),
        };
        let same = BootStamp {
            boot_id: "a".into(),
            boot: BootInstant::from_boot(secs(1100)),
            wall: secs(10),
        };
        assert_eq!(
            noted.carry(BootInstant::from_boot(secs(1060)), &same),
            BootInstant::from_boot(secs(1060))
        );
        let other = BootStamp {
            boot_id: "b".into(),
            boot: BootInstant::from_boot(secs(20)),
            wall: secs(50_040),
        };
        assert_eq!(
            noted.carry(BootInstant::from_boot(secs(1060)), &other),
            BootInstant::from_boot(secs(40)),
            "20 of its 60 s are left"
        );
        assert_eq!(
            noted.carry(BootInstant::from_boot(secs(1030)), &other),
            BootInstant::from_boot(secs(10))
        );
        assert_eq!(
            noted.carry(BootInstant::from_boot(secs(10)), &other),
            BootInstant::from_boot(secs(0))
        );
        let backwards = BootStamp {
            boot_id: "b".into(),
            boot: BootInstant::from_boot(secs(20)),
            wall: secs(10),
        };
        assert_eq!(
            noted.carry(BootInstant::from_boot(secs(1060)), &backwards),
            BootInstant::from_boot(secs(80))
        );
    }
}
