//! Refreshes that an operator asks for.

use std::time::Duration;

use super::Credential;
use crate::{
    clock::BootInstant,
    token::{RefreshPlan, Window},
};

/// What becomes of a refresh that was asked for ([By hand](crate::promises#by-hand)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RefreshOutcome {
    /// Every token of the credential has been asked for anew at this moment, as far as can be known
    /// now.
    At(BootInstant),
    /// Nothing is done now, and why: one line in plain words, that names no secret.
    Held(String),
}

/// A token is not asked for twice by hand within this.
const APART: Duration = Duration::from_secs(1);

/// How often those may cause a refresh who have not shown who they are: 6 times a minute and 30
/// times an hour.
#[derive(Debug)]
pub(super) struct ManualRefreshLimit {
    minute: Window,
    hour: Window,
    /// The latest refresh that was promised.
    latest: Option<BootInstant>,
}

impl Default for ManualRefreshLimit {
    fn default() -> Self {
        Self {
            minute: Window::new(6, Duration::from_mins(1)),
            hour: Window::new(30, Duration::from_hours(1)),
            latest: None,
        }
    }
}

impl ManualRefreshLimit {
    /// When the refresh may be made that is asked for at `now`. One that is promised for later
    /// serves all who ask until then.
    fn reserve(&mut self, now: BootInstant) -> BootInstant {
        if let Some(latest) = self.latest.filter(|latest| *latest > now) {
            return latest;
        }
        // Two within a second are made as one: the second would use up what is left without a call.
        let from = self
            .latest
            .map_or(now, |latest| now.max(latest.after(APART)));
        let at = self.minute.earliest(self.hour.earliest(from));
        self.minute.note(at);
        self.hour.note(at);
        self.latest = Some(at);
        at
    }
}

impl Credential {
    /// Fetches every token anew: now, or at the earliest moment that the guard and a second of
    /// distance from the last call allow; never dropped.
    ///
    /// `trusted`: who asks showed that they may (`admin.auth`, or a Unix peer of `admin.uids`).
    /// Others cause 6 refreshes a minute and 30 an hour at most; what they ask beyond that is done
    /// as soon as that allows.
    pub fn refresh(&self, trusted: bool) -> RefreshOutcome {
        let keepers = self.keepers();
        let now = BootInstant::now();
        let held = keepers
            .iter()
            .find_map(|keeper| match keeper.plan_refresh(now) {
                RefreshPlan::At(_) => None,
                RefreshPlan::Latched => Some(format!(
                    "the token {} is latched until its secret changes or is unlatched",
                    keeper.name().token
                )),
                RefreshPlan::Draining => Some("the process is shutting down".to_owned()),
            });
        let all_held = keepers
            .iter()
            .all(|keeper| !matches!(keeper.plan_refresh(now), RefreshPlan::At(_)));
        // One that is still to be made is what is asked for.
        let promised = keepers
            .iter()
            .map(|keeper| keeper.requested_refresh())
            .collect::<Option<Vec<_>>>()
            .and_then(|all| all.into_iter().max());
        let from = match promised {
            _ if trusted || all_held => now,
            Some(promised) => promised,
            None => self.runtime.by_hand.lock().reserve(now),
        };
        let at = keepers
            .iter()
            .map(|keeper| keeper.refresh(from))
            .filter_map(|refreshed| match refreshed {
                RefreshPlan::At(at) => Some(at),
                RefreshPlan::Latched | RefreshPlan::Draining => None,
            });
        match (held, at.max()) {
            (Some(held), _) => RefreshOutcome::Held(held),
            (None, Some(at)) => RefreshOutcome::At(at),
            (None, None) if self.profile.partition.is_empty() => {
                RefreshOutcome::Held("this credential has no token to fetch".to_owned())
            }
            (None, None) => {
                RefreshOutcome::Held("no token of this credential is in use".to_owned())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SEC: Duration = Duration::from_secs(1);

    #[test]
    fn six_a_minute_and_thirty_an_hour_and_the_rest_at_the_next_free_moment() {
        let mut limit = ManualRefreshLimit::default();
        let at = |secs: u32| BootInstant::from_boot(secs * SEC);
        for secs in 100..106 {
            assert_eq!(limit.reserve(at(secs)), at(secs));
        }
        assert_eq!(limit.reserve(at(106)), at(160), "one is promised");
        assert_eq!(
            (limit.reserve(at(107)), limit.reserve(at(159))),
            (at(160), at(160)),
            "and serves all who ask until then"
        );
        assert_eq!(limit.reserve(at(160)), at(161));
        for n in 0..22 {
            let now = at(200 + n * 60);
            assert_eq!(limit.reserve(now), now);
        }
        assert_eq!(limit.reserve(at(2000)), at(3700), "thirty an hour");
    }

    #[test]
    fn who_asks_all_the_time_gets_six_refreshes_and_not_one() {
        let mut limit = ManualRefreshLimit::default();
        let promised: std::collections::BTreeSet<_> = (0..20_000)
            .map(|ms| limit.reserve(BootInstant::from_boot(Duration::from_millis(100_000 + ms))))
            .collect();
        let expected = [100, 101, 102, 103, 104, 105, 160]
            .map(|secs| BootInstant::from_boot(Duration::from_secs(secs)));
        assert_eq!(promised.into_iter().collect::<Vec<_>>(), expected);
    }

    proptest! {
        #[test]
        fn however_often_it_is_asked_no_hour_sees_more_than_thirty(waits in proptest::collection::vec(0..20_000u64, 1..400)) {
            let mut limit = ManualRefreshLimit::default();
            let mut now = BootInstant::from_boot(SEC);
            let mut done = std::collections::BTreeSet::new();
            for wait in waits {
                now = now.after(Duration::from_millis(wait));
                let at = limit.reserve(now);
                prop_assert!(at >= now);
                done.insert(at);
            }
            for begin in &done {
                let within = |d: Duration| done.iter().filter(|t| *t >= begin && begin.until(**t) < d).count();
                prop_assert!(within(60 * SEC) <= 6 && within(3600 * SEC) <= 30);
            }
        }
    }
}
