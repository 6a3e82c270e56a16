//! Which refusals of an API (401) cause a refresh, and when; whether the refused token may be sent
//! meanwhile. Pure: every method is told the moment.
//!
//! The first refusal refreshes at once. So does that of a token which an API has accepted and none
//! refused before, up to 6 times a minute and 60 an hour. All others pause, those of a token that
//! was refused in vain among them: 10 s, doubling to 15 minutes while refusals go on. The doubling
//! is taken back by time alone: one good answer between two refusals says nothing, an API that
//! gives both in turn would be asked for a token for ever.

use std::time::Duration;

use super::{doubling::doubled, window::Window};
use crate::clock::BootInstant;

const PAUSE: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_mins(15);
/// At this level the pause is at its longest.
const HIGHEST_LEVEL: u32 = 8;
/// A token that was handed out to a caller for so long without being refused counts as accepted:
/// what an API says of it is not seen here.
const VENDED_ACCEPTED: Duration = Duration::from_mins(1);

/// A refresh that a refusal caused.
#[derive(Debug, Clone, Copy)]
struct Renewal {
    /// The refused generation.
    number: u64,
    /// An API has accepted the generation after it was refused: it is alive.
    alive: bool,
    /// It counts as one of those that pause.
    paused: bool,
    /// Its call has begun.
    begun: bool,
}

/// What APIs said of the tokens of one keeper, and the refreshes that caused.
#[derive(Debug)]
pub(super) struct Renewals {
    minute: Window,
    hour: Window,
    /// How often the pause was doubled, as of the last refresh.
    level: u32,
    last: Option<BootInstant>,
    /// The newest generation that an API refused, and the newest one that an API accepted.
    refused: u64,
    accepted: u64,
    /// The newest generation that was handed out, and when first.
    vended: Option<(u64, BootInstant)>,
    /// The refresh that is asked for or runs.
    current: Option<Renewal>,
}

impl Default for Renewals {
    fn default() -> Self {
        Self {
            minute: Window::new(6, Duration::from_mins(1)),
            hour: Window::new(60, Duration::from_hours(1)),
            level: 0,
            last: None,
            refused: 0,
            accepted: 0,
            vended: None,
            current: None,
        }
    }
}

impl Renewals {
    /// An API refused the generation in use. `possible`: a refresh could begin now. Says whether
    /// one is asked for or runs.
    pub fn refuse(&mut self, number: u64, possible: bool, now: BootInstant) -> bool {
        let vended = self
            .vended
            .is_some_and(|(vended, since)| vended == number && since.after(VENDED_ACCEPTED) <= now);
        let good = number > self.refused && (self.accepted == number || vended);
        self.refused = self.refused.max(number);
        if self.is_running(number) {
            return true;
        }
        let at_once = good && self.hour.earliest(now) == now;
        if !possible || self.minute.earliest(now) != now || !(at_once || self.pause_is_over(now)) {
            return false;
        }
        self.current = Some(Renewal {
            number,
            alive: false,
            paused: !at_once,
            begun: false,
        });
        true
    }

    /// An API accepted the generation in use.
    pub fn accept(&mut self, number: u64) {
        self.accepted = self.accepted.max(number);
        if let Some(current) = self
            .current
            .as_mut()
            .filter(|current| current.number == number)
        {
            current.alive = true;
        }
    }

    /// The generation in use was handed out to a caller.
    pub fn note_vended(&mut self, number: u64, now: BootInstant) {
        if self.vended.is_none_or(|(vended, _)| vended < number) {
            self.vended = Some((number, now));
        }
    }

    /// A call begins that serves the refresh, if there is one.
    pub fn begin(&mut self, now: BootInstant) {
        let Some(current) = self.current.as_mut().filter(|current| !current.begun) else {
            return;
        };
        current.begun = true;
        let paused = u32::from(current.paused);
        self.level = (self.level_at(now) + paused).min(HIGHEST_LEVEL);
        self.last = Some(now);
        self.minute.note(now);
        self.hour.note(now);
    }

    /// The keeper is done with refusals of generations up to this one.
    pub fn end(&mut self, through: u64) {
        self.current = self.current.filter(|current| current.number > through);
    }

    /// Is a refresh asked for, or running, because this generation was refused?
    pub fn is_running(&self, number: u64) -> bool {
        self.current.is_some_and(|current| current.number == number)
    }

    /// The generation that must not be sent now; 0 for none.
    pub fn barred(&self) -> u64 {
        self.current
            .filter(|current| !current.alive)
            .map_or(0, |current| current.number)
    }

    fn pause_is_over(&self, now: BootInstant) -> bool {
        self.last
            .is_none_or(|last| now >= last.after(pause(self.level)))
    }

    /// One doubling is taken back for each 15 minutes that pass beyond the pause.
    fn level_at(&self, now: BootInstant) -> u32 {
        let Some(last) = self.last else { return 0 };
        let beyond = last.after(pause(self.level)).until(now);
        self.level.saturating_sub(
            u32::try_from(beyond.as_secs() / LONGEST_PAUSE.as_secs()).unwrap_or(u32::MAX),
        )
    }
}

fn pause(level: u32) -> Duration {
    doubled(PAUSE, level, LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SEC: Duration = Duration::from_secs(1);

    fn at(secs: f64) -> BootInstant {
        BootInstant::from_boot(Duration::from_secs_f64(1000.0 + secs))
    }

    /// Refused at `now`; a refresh that begins brings the next generation at once.
    fn refuse(renewals: &mut Renewals, number: &mut u64, now: BootInstant) -> bool {
        let begins = renewals.refuse(*number, true, now);
        if begins {
            assert_eq!(renewals.barred(), *number);
            renewals.begin(now);
            renewals.end(*number);
            *number += 1;
        }
        assert_eq!(renewals.barred(), 0);
        begins
    }

    /// When refreshes begin, in seconds, where an answer comes every `step` for `secs`.
    fn refreshes(
        renewals: &mut Renewals,
        number: &mut u64,
        (from, secs, step): (f64, f64, f64),
        accepted: bool,
    ) -> Vec<f64> {
        let mut begun = Vec::new();
        for n in 0u32.. {
            let t = from + f64::from(n) * step;
            if t >= from + secs {
                return begun;
            }
            if refuse(renewals, number, at(t)) {
                begun.push(t);
            }
            if accepted {
                renewals.accept(*number);
            }
        }
        begun
    }

    #[test]
    fn tokens_that_no_api_accepts_pause_10_s_doubling_to_15_minutes() {
        let (mut renewals, mut number) = (Renewals::default(), 1);
        let begun = refreshes(&mut renewals, &mut number, (0.0, 4000.0, 1.0), false);
        assert_eq!(
            begun,
            [
                0.0, 10.0, 30.0, 70.0, 150.0, 310.0, 630.0, 1270.0, 2170.0, 3070.0, 3970.0
            ]
        );
    }

    #[test]
    fn an_api_that_refuses_and_accepts_in_turn_causes_6_refreshes_a_minute_and_60_an_hour_then_the_pause()
     {
        let (mut renewals, mut number) = (Renewals::default(), 1);
        renewals.accept(1);
        let begun = refreshes(&mut renewals, &mut number, (0.0, 3600.0, 0.5), true);
        assert_eq!(begun[..7], [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 60.0]);
        // What is refused in vain is not refreshed at once any more: each time the pause comes
        // first, and then five that are accepted again.
        let bursts: Vec<_> = begun
            .iter()
            .enumerate()
            .filter(|(i, t)| *i == 0 || **t - begun[i - 1] > 1.0)
            .map(|(_, t)| *t)
            .collect();
        assert_eq!(
            bursts,
            [
                0.0, 60.0, 120.0, 180.0, 240.0, 322.5, 485.0, 807.5, 1450.0, 2352.5, 3255.0
            ]
        );
        assert_eq!(
            begun.len(),
            60 + 1,
            "the last was not at once: 60 are enough for an hour"
        );
    }

    #[test]
    fn a_good_answer_takes_no_doubling_back_and_time_does() {
        let (mut renewals, mut number) = (Renewals::default(), 1);
        refreshes(&mut renewals, &mut number, (0.0, 311.0, 1.0), false);
        // Refreshed at 310 s for the sixth time: 320 s of pause.
        renewals.accept(number);
        renewals.accept(number - 1);
        assert!(
            refuse(&mut renewals, &mut number, at(400.0)),
            "an accepted one that none refused before"
        );
        assert!(
            !refuse(&mut renewals, &mut number, at(719.0)),
            "the next is one that none accepted: it pauses as long as before"
        );
        assert!(refuse(&mut renewals, &mut number, at(720.0)));
        assert!(!refuse(&mut renewals, &mut number, at(720.0 + 639.0)));
        // Seven doublings are taken back in seven times 15 minutes beyond the pause.
        let later = 720.0 + 640.0 + 7.0 * 900.0;
        assert!(refuse(&mut renewals, &mut number, at(later)));
        assert!(refuse(&mut renewals, &mut number, at(later + 10.0)));
        assert!(!refuse(&mut renewals, &mut number, at(later + 29.0)));
    }

    #[test]
    fn a_generation_refused_before_pauses_though_an_api_accepted_it_since() {
        let mut renewals = Renewals::default();
        renewals.accept(1);
        assert!(renewals.refuse(1, true, at(0.0)));
        renewals.begin(at(0.0));
        assert_eq!(renewals.barred(), 1);
        renewals.accept(1);
        assert_eq!(renewals.barred(), 0, "it is alive, nobody waits");
        assert!(renewals.refuse(1, true, at(1.0)), "one refresh for all");
        assert_eq!(renewals.barred(), 0, "and still nobody waits for it");
        renewals.end(1);
        // It failed.
        assert!(!renewals.refuse(1, true, at(2.0)));
        assert!(renewals.refuse(1, true, at(10.0)));
        assert_eq!(renewals.barred(), 1, "nothing was accepted after this one");
    }

    #[test]
    fn an_acceptance_of_another_generation_says_nothing() {
        let mut renewals = Renewals::default();
        assert!(renewals.refuse(3, true, at(0.0)));
        renewals.accept(2);
        assert_eq!(renewals.barred(), 3);
        renewals.end(2);
        assert_eq!(renewals.barred(), 3, "this one is not done with");
        renewals.end(3);
        assert_eq!(renewals.barred(), 0);
    }

    #[test]
    fn what_cannot_begin_bars_nothing_and_counts_for_nothing() {
        let mut renewals = Renewals::default();
        assert!(!renewals.refuse(1, false, at(0.0)));
        assert_eq!(renewals.barred(), 0);
        assert!(
            renewals.refuse(1, true, at(1.0)),
            "no refresh has begun before"
        );
        // Held by the guard before its call: it does not count either.
        renewals.end(1);
        assert!(renewals.refuse(1, true, at(2.0)));
    }

    #[test]
    fn a_token_handed_out_for_a_minute_counts_as_accepted() {
        let mut renewals = Renewals::default();
        let mut number = 1;
        assert!(refuse(&mut renewals, &mut number, at(0.0)));
        renewals.note_vended(2, at(1.0));
        renewals.note_vended(2, at(50.0));
        assert!(!renewals.refuse(2, true, at(1.5)));
        // A refused one does not become better with age.
        let mut other = Renewals::default();
        let mut number = 1;
        assert!(refuse(&mut other, &mut number, at(0.0)));
        other.note_vended(2, at(1.0));
        // The pause is over long before: a level that stays shows that it was at once.
        assert!(refuse(&mut other, &mut number, at(61.0)));
        assert_eq!(other.level, 1);
    }

    proptest! {
        #[test]
        fn whatever_apis_say_no_minute_sees_more_than_six(
            steps in proptest::collection::vec((0..15_000u64, any::<bool>(), any::<bool>()), 1..600),
        ) {
            let (mut renewals, mut number, mut now) = (Renewals::default(), 1, at(0.0));
            let mut begun = Vec::new();
            for (wait, accepted, fails) in steps {
                now = now.after(Duration::from_millis(wait));
                if accepted {
                    renewals.accept(number);
                } else if renewals.refuse(number, true, now) {
                    renewals.begin(now);
                    begun.push(now);
                    renewals.end(number);
                    number += u64::from(!fails);
                }
                prop_assert_eq!(renewals.barred(), 0);
            }
            for (i, first) in begun.iter().enumerate() {
                let within = |d: Duration| begun[i..].iter().filter(|t| first.until(**t) < d).count();
                prop_assert!(within(60 * SEC) <= 6);
                // Those that pause come on top: 10, 20, 40, 80, 160, 320, 640 s, then each 15
                // minutes.
                prop_assert!(within(3600 * SEC) <= 60 + 12, "{}", within(3600 * SEC));
            }
        }
    }
}
