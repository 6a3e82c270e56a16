//! What the vendor counts is what was sent, in that order, whatever order the outcomes are told in
//! and however many counts a person's leave was written into.

use super::*;
use crate::token::{
    model::GuardKey,
    policy::{Hold, LockoutPolicy},
};

/// One attempt a value, two refusals an account.
fn strict() -> LockoutPolicy {
    LockoutPolicy {
        account_rejections: Some(2),
        ..limits(1, Hold::For(Duration::from_hours(1)))
    }
}

/// All are one client's secrets.
fn of(secret: u8) -> GuardKey {
    GuardKey {
        secret: [secret; 32],
        ..key(None)
    }
}

#[derive(Default)]
struct Client {
    guard: Guard,
    ids: u64,
}

impl Client {
    fn asks(&mut self, limits: &LockoutPolicy, secret: u8, secs: u64) -> GuardDecision {
        self.ids += 1;
        self.guard
            .spend(&of(secret), limits, &request("a"), self.ids, at(secs))
    }
    /// Sends one of the strict credential's, which is let through.
    fn sends(&mut self, secret: u8, secs: u64) -> u64 {
        assert_eq!(
            self.asks(&strict(), secret, secs),
            Ok(()),
            "{secret} at {secs}"
        );
        self.ids
    }
    fn hears(
        &mut self,
        secret: u8,
        id: u64,
        outcome: impl Into<Option<AttemptOutcome>>,
        secs: u64,
    ) {
        self.guard.settle(&of(secret), id, outcome, at(secs));
    }
    fn refused(&mut self, secret: u8, secs: u64) {
        let id = self.sends(secret, secs);
        self.hears(secret, id, AttemptOutcome::Rejected, secs);
    }
}

#[test]
fn leave_for_a_secret_that_was_refused_is_one_attempt_of_its_account_too() {
    let mut c = Client::default();
    c.refused(1, 0);
    c.guard.unlatch(&of(1));
    c.refused(1, 30);
    for (secret, secs) in [(2, 31), (2, 61), (1, 31 + 7200)] {
        assert_eq!(
            c.asks(&strict(), secret, secs),
            Err(Denial::Latched(None)),
            "{secret} at {secs}"
        );
    }
}

#[test]
fn a_success_leaves_what_was_refused_since_it_was_sent() {
    let mut c = Client::default();
    let (good, wrong) = (c.sends(1, 0), c.sends(2, 0));
    c.hears(2, wrong, AttemptOutcome::Rejected, 1);
    c.hears(1, good, AttemptOutcome::Success, 2);
    assert_eq!(c.guard.counted(&of(3), at(3)).rejections, 1);
    c.refused(3, 3);
    assert_eq!(c.asks(&strict(), 4, 40), Err(Denial::Latched(None)));
}

#[test]
fn a_success_leaves_an_outcome_that_was_lost_since_it_was_sent() {
    for (first, second) in [(1, 2), (2, 1)] {
        let mut c = Client::default();
        let ids = [first, second].map(|secret| (secret, c.sends(secret, 0)));
        let id_of = |secret| ids.iter().find(|(s, _)| *s == secret).unwrap().1;
        c.hears(2, id_of(2), None, 1);
        c.hears(1, id_of(1), AttemptOutcome::Success, 2);
        c.refused(3, 40);
        assert_eq!(
            c.asks(&strict(), 4, 80),
            Err(Denial::Latched(None)),
            "{first} first"
        );
    }
}

#[test]
fn of_two_successes_each_clears_what_was_counted_before_it_was_sent_and_nothing_twice() {
    let mut c = Client::default();
    let good = c.sends(1, 0);
    c.hears(1, good, AttemptOutcome::Success, 0);
    c.refused(2, 1);
    let wide = LockoutPolicy {
        max_rejections: 4,
        account_rejections: Some(4),
        ..strict()
    };
    let sends = |c: &mut Client, secret, secs| {
        assert_eq!(c.asks(&wide, secret, secs), Ok(()));
        c.ids
    };
    // Both know of the first refusal, neither of the second.
    let (one, two, wrong) = (
        sends(&mut c, 1, 2),
        sends(&mut c, 1, 2),
        sends(&mut c, 3, 2),
    );
    c.hears(3, wrong, AttemptOutcome::Rejected, 3);
    for id in [one, two] {
        c.hears(1, id, AttemptOutcome::Success, 4);
        assert_eq!(c.guard.counted(&of(1), at(4)).rejections, 1);
    }
    let last = sends(&mut c, 1, 5);
    c.hears(1, last, AttemptOutcome::Success, 6);
    assert_eq!(c.guard.counted(&of(1), at(6)), GuardStatus::default());
}

#[test]
fn a_success_of_the_same_secret_leaves_what_was_refused_since_it_was_sent() {
    let twice = limits(2, Hold::UntilSecretChanges);
    for lost in [false, true] {
        let mut c = Client::default();
        let ids = [0, 0].map(|secs| {
            assert_eq!(c.asks(&twice, 1, secs), Ok(()));
            c.ids
        });
        c.hears(1, ids[1], (!lost).then_some(AttemptOutcome::Rejected), 1);
        c.hears(1, ids[0], AttemptOutcome::Success, 2);
        assert_eq!(c.guard.counted(&of(1), at(2)).rejections, 1, "{lost}");
        assert_eq!(c.asks(&twice, 1, 2), Err(Denial::Later(at(31))));
        assert_eq!(c.asks(&twice, 1, 31), Ok(()));
        let id = c.ids;
        c.hears(1, id, AttemptOutcome::Rejected, 31);
        assert_eq!(
            c.asks(&twice, 1, 1000),
            Err(Denial::Latched(None)),
            "the vendor has seen two"
        );
    }
}

#[test]
fn a_flood_of_secrets_does_not_make_an_attempt_under_way_forgotten() {
    let mut guard = Guard::default();
    let wrong = |n: u32| {
        let four = n.to_be_bytes();
        let secret = std::array::from_fn(|i| four.get(i).copied().unwrap_or(9));
        GuardKey {
            secret,
            account: secret,
            ..key(None)
        }
    };
    let limits = limits(1, Hold::UntilSecretChanges);
    assert_eq!(
        guard.spend(&of(7), &limits, &request("a"), 1, at(0)),
        Ok(())
    );
    for n in 0..40_000u32 {
        let id = u64::from(n) + 2;
        assert_eq!(
            guard.spend(&wrong(n), &limits, &request("a"), id, at(1)),
            Ok(())
        );
        guard.settle(&wrong(n), id, AttemptOutcome::Rejected, at(1));
    }
    assert!(
        guard.sizes().iter().all(|size| *size < 40_000),
        "{:?}",
        guard.sizes()
    );
    guard.settle(&of(7), 1, AttemptOutcome::Rejected, at(2));
    assert_eq!(
        guard.spend(&of(7), &limits, &request("a"), 99_999, at(1000)),
        Err(Denial::Latched(None))
    );
}
