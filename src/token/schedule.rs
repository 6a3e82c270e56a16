//! When to fetch next and until when to send. Pure: every function is told what it needs.

use std::time::Duration;

use crate::clock::BootInstant;

/// What a profile says of a token's life (`tokens.NAME.lifetime`).
#[derive(Debug, Clone, PartialEq)]
pub struct Lifetime {
    /// Taken when the answer says nothing plausible.
    pub default: Duration,
    /// Never trust a token longer than this.
    pub cap: Option<Duration>,
    /// Sliding: a token unused for this long is dead.
    pub idle: Option<Duration>,
    /// Whether to renew ahead of need.
    pub refresh: RefreshMode,
    /// Renew this long before the end; `None`: computed from the life
    /// ([Refresh](crate::promises#refresh)).
    pub refresh_before: Option<Duration>,
    /// What a new token does to the old one.
    pub rotation: Rotation,
    /// With `Rotation::Replaces`: how long the vendor still takes the old token.
    pub grace: Duration,
    /// Without a use for this long, stop renewing until the next use.
    pub rest_after: Duration,
    /// For vending: hand out no token with less than this left, unless a fresh one has no more.
    pub min_remaining: Duration,
}

/// `lifetime.refresh`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefreshMode {
    /// Fetched at start and renewed before it is due.
    Ahead,
    /// Fetched when a request needs it.
    Lazy,
}

/// `lifetime.rotation`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rotation {
    /// Old and new tokens are both valid.
    Overlap,
    /// A new token kills the old one.
    Replaces,
}

/// Longer lives are not believed ([Life](crate::promises#life)).
pub const LONGEST: Duration = Duration::from_hours(9600);
/// The same token came back, or one that is gone at once: never ask again sooner than this.
pub const SAME_AGAIN: Duration = Duration::from_secs(5);

const SEC: Duration = Duration::from_secs(1);
const FIVE_MINUTES: Duration = Duration::from_mins(5);

/// What the life of one token means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Dead from here on.
    pub expires: BootInstant,
    /// Sent only until here, somewhat earlier.
    pub send_until: BootInstant,
    /// The next fetch, where all goes well.
    pub refresh_at: BootInstant,
}

impl Lifetime {
    /// How long a token lives whose answer said `said`: never zero, at most 400 days and `cap`.
    #[must_use]
    pub fn life(&self, said: Option<Duration>) -> Duration {
        let plausible = |life: &Duration| !life.is_zero() && *life <= LONGEST;
        let life = said
            .filter(plausible)
            .or(Some(self.default).filter(plausible))
            .unwrap_or(FIVE_MINUTES);
        self.cap.filter(plausible).map_or(life, |cap| life.min(cap))
    }

    /// The plan for a token whose request was sent at `sent`. `random` in 0..1 spreads the
    /// processes.
    #[must_use]
    pub fn plan(&self, sent: BootInstant, said: Option<Duration>, random: f64) -> Plan {
        let life = self.life(said);
        Plan {
            expires: sent.after(life),
            send_until: sent.after(last_sent(life)),
            refresh_at: sent.after(self.refresh_after(life, random)),
        }
    }

    /// The plan where the vendor gave the same token again, at `now`: its expiry counts, the next
    /// try comes at half of what remains.
    #[must_use]
    pub fn plan_same(&self, sent: BootInstant, said: Option<Duration>, now: BootInstant) -> Plan {
        let plan = self.plan(sent, said, 0.0);
        let half = now.until(plan.expires) / 2;
        Plan {
            refresh_at: now.after(half.max(SAME_AGAIN)),
            ..plan
        }
    }

    /// A token of this plan is gone in less than a second, or would die so soon of disuse: whatever
    /// schedule keeps one alive would be a hot loop.
    #[must_use]
    pub fn is_fleeting(&self, plan: &Plan, sent: BootInstant) -> bool {
        sent.until(plan.expires) < SEC || self.idle.is_some_and(|idle| idle < SEC)
    }

    /// Until when a token last used at `used` may be sent, as far as `idle` goes.
    #[must_use]
    pub fn idle_until(&self, used: BootInstant) -> Option<BootInstant> {
        self.idle.map(|idle| used.after(last_sent(idle)))
    }

    /// When a token last used at `used` is to be renewed so that it does not die of idleness.
    #[must_use]
    pub fn idle_refresh(&self, used: BootInstant) -> Option<BootInstant> {
        self.idle.map(|idle| match self.rotation {
            Rotation::Overlap => used.after(auto(idle)),
            Rotation::Replaces => used.after(last_sent(idle)),
        })
    }

    /// Time from sending the request to the next planned fetch. More than zero, less than `life`.
    fn refresh_after(&self, life: Duration, random: f64) -> Duration {
        let random = if random.is_finite() {
            random.clamp(0.0, 1.0)
        } else {
            0.0
        };
        let spread = (life / 10).min(FIVE_MINUTES);
        let planned = match self.refresh_before {
            None => auto(life).saturating_sub(spread.mul_f64(random)),
            Some(before) => {
                // However large a margin is asked for, a tenth of the life and some seconds lie
                // between two calls.
                let asked = life
                    .saturating_sub(before)
                    .saturating_sub(spread.min(before).mul_f64(random));
                asked.clamp(soonest(life), last_sent(life).max(soonest(life)))
            }
        };
        match self.rotation {
            Rotation::Overlap => planned,
            // The old token dies with the new one's birth: as late as possible, at most `grace`
            // before its own end.
            Rotation::Replaces => planned.max(last_sent(life).saturating_sub(self.grace)),
        }
    }
}

/// However much life is asked for, a token that lives `life` is not replaced before: a tenth of
/// that, and some seconds.
fn soonest(life: Duration) -> Duration {
    (life / 10).max(SAME_AGAIN.min(life / 2))
}

/// A token is sent only until life − min(30 s, 10 % of life).
fn last_sent(life: Duration) -> Duration {
    life.saturating_sub((life / 10).max(Duration::from_nanos(1)).min(30 * SEC))
}

/// life − clamp(20 % of life, 10 s, 5 min), but not before half the life.
fn auto(life: Duration) -> Duration {
    life.saturating_sub((life / 5).clamp(10 * SEC, FIVE_MINUTES))
        .max(life / 2)
}

#[cfg(test)]
pub(super) fn default_lifetime() -> Lifetime {
    Lifetime {
        default: FIVE_MINUTES,
        cap: None,
        idle: None,
        refresh: RefreshMode::Ahead,
        refresh_before: None,
        rotation: Rotation::Overlap,
        grace: Duration::ZERO,
        rest_after: 3600 * SEC,
        min_remaining: Duration::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn times(lifetime: &Lifetime, life: f64, random: f64) -> (f64, f64, f64) {
        let sent = BootInstant::from_boot(100 * SEC);
        let plan = lifetime.plan(sent, Some(Duration::from_secs_f64(life)), random);
        let since = |t: BootInstant| sent.until(t).as_secs_f64();
        (
            since(plan.refresh_at),
            since(plan.send_until),
            since(plan.expires),
        )
    }

    #[test]
    fn the_examples_that_are_promised() {
        for (life, early, late, sent) in [
            (300.0, 210.0, 240.0, 270.0),
            (10.0, 4.0, 5.0, 9.0),
            (90_000.0, 89_400.0, 89_700.0, 89_970.0),
            (1.0, 0.4, 0.5, 0.9),
            (2.0, 0.8, 1.0, 1.8),
            (3600.0, 3000.0, 3300.0, 3570.0),
        ] {
            assert_eq!(times(&default_lifetime(), life, 0.0), (late, sent, life));
            assert!(
                (times(&default_lifetime(), life, 1.0).0 - early).abs() < 1e-6,
                "{life}"
            );
        }
    }

    #[test]
    fn the_cap_shortens_and_the_implausible_gives_way_to_the_default() {
        let capped = Lifetime {
            cap: Some(60 * SEC),
            ..default_lifetime()
        };
        assert_eq!(capped.life(Some(300 * SEC)), 60 * SEC);
        assert_eq!(capped.life(Some(30 * SEC)), 30 * SEC);
        for said in [
            None,
            Some(Duration::ZERO),
            Some(LONGEST + SEC),
            Some(Duration::MAX),
        ] {
            assert_eq!(default_lifetime().life(said), FIVE_MINUTES);
            assert_eq!(capped.life(said), 60 * SEC);
        }
        assert_eq!(
            Lifetime {
                default: Duration::ZERO,
                ..default_lifetime()
            }
            .life(None),
            FIVE_MINUTES
        );
    }

    #[test]
    fn refresh_before_is_kept_where_it_makes_sense_and_never_makes_a_hot_loop() {
        let before = |secs: u64| Lifetime {
            refresh_before: Some(Duration::from_secs(secs)),
            ..default_lifetime()
        };
        assert!((times(&before(60), 600.0, 0.0).0 - 540.0).abs() < 1e-6);
        assert!((times(&before(60), 600.0, 1.0).0 - 480.0).abs() < 1e-6);
        assert!((times(&before(600), 600.0, 1.0).0 - 60.0).abs() < 1e-6);
        assert!((times(&before(9999), 600.0, 0.0).0 - 60.0).abs() < 1e-6);
        assert!((times(&before(9999), 10.0, 0.0).0 - 5.0).abs() < 1e-6);
        assert!(
            (times(&before(0), 600.0, 0.0).0 - 570.0).abs() < 1e-6,
            "at the latest when it may no longer be sent"
        );
    }

    #[test]
    fn a_token_that_replaces_is_fetched_when_the_old_one_may_no_longer_be_sent() {
        let replaces = |grace: u64| Lifetime {
            rotation: Rotation::Replaces,
            grace: Duration::from_secs(grace),
            ..default_lifetime()
        };
        assert!((times(&replaces(0), 300.0, 0.9).0 - 270.0).abs() < 1e-6);
        assert!((times(&replaces(20), 300.0, 0.9).0 - 250.0).abs() < 1e-6);
        assert!(
            (times(&replaces(200), 300.0, 0.5).0 - 225.0).abs() < 1e-6,
            "a long grace is as good as an overlap"
        );
    }

    #[test]
    fn the_same_token_back_is_tried_again_at_half_of_what_remains_never_sooner_than_5_s() {
        let sent = BootInstant::from_boot(100 * SEC);
        let at = |now: u32| {
            default_lifetime().plan_same(sent, Some(100 * SEC), BootInstant::from_boot(now * SEC))
        };
        assert_eq!(at(100).refresh_at, BootInstant::from_boot(150 * SEC));
        assert_eq!(at(160).refresh_at, BootInstant::from_boot(180 * SEC));
        assert_eq!(at(196).refresh_at, BootInstant::from_boot(201 * SEC));
        assert_eq!(at(160).expires, BootInstant::from_boot(200 * SEC));
    }

    #[test]
    fn a_use_moves_the_idle_end() {
        let idle = Lifetime {
            idle: Some(600 * SEC),
            ..default_lifetime()
        };
        assert_eq!(
            idle.idle_until(BootInstant::from_boot(100 * SEC)),
            Some(BootInstant::from_boot(670 * SEC))
        );
        assert_eq!(
            idle.idle_until(BootInstant::from_boot(200 * SEC)),
            Some(BootInstant::from_boot(770 * SEC))
        );
        assert_eq!(
            idle.idle_refresh(BootInstant::from_boot(100 * SEC)),
            Some(BootInstant::from_boot(580 * SEC))
        );
        assert_eq!(
            default_lifetime().idle_until(BootInstant::from_boot(SEC)),
            None
        );
    }

    proptest! {
        #[test]
        fn whatever_the_life_the_wait_is_not_zero_and_ends_before_the_expiry(
            life in prop_oneof![0..u64::MAX, 0..2_000_000_000_000u64, 0..5_000u64], before in proptest::option::of(0..100_000u64),
            replaces in any::<bool>(), grace in 0..1000u64, cap in proptest::option::of(0..100_000u64), random in -1.0..2.0f64,
        ) {
            let lifetime = Lifetime {
                refresh_before: before.map(Duration::from_secs), grace: Duration::from_secs(grace), cap: cap.map(Duration::from_secs),
                rotation: if replaces { Rotation::Replaces } else { Rotation::Overlap }, ..default_lifetime()
            };
            let life = Duration::from_micros(life);
            let plan = lifetime.plan(BootInstant::default(), Some(life), random);
            let total = plan.expires.since_boot();
            prop_assert!(plan.refresh_at < plan.expires);
            prop_assert!(plan.send_until < plan.expires);
            prop_assert!(plan.refresh_at.since_boot() >= total / 10);
            prop_assert!(plan.refresh_at > BootInstant::default());
            prop_assert!(plan.refresh_at <= plan.send_until);
        }
    }
}
