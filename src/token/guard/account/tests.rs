//! The account by itself: its budget of refusals in a row, and how soon changed secrets are tried.

use std::time::Duration;

use super::*;
use crate::token::policy::Hold;

const MINUTES_15: u64 = 15 * 60;
const HOUR: u64 = 3600;

fn at(secs: u64) -> BootInstant {
    BootInstant::from_boot(Duration::from_secs(1_000_000 + secs))
}

fn new(name: &str) -> AttemptedSecret<'_> {
    AttemptedSecret {
        name,
        proven: false,
    }
}

struct AccountUnderTest {
    account: AccountRecord,
    max: Option<u32>,
    ids: u64,
}

impl AccountUnderTest {
    fn new(max: Option<u32>) -> Self {
        Self {
            account: AccountRecord::default(),
            max,
            ids: 0,
        }
    }
    fn asks(&mut self, value: AttemptedSecret<'_>, secs: u64) -> GuardDecision {
        self.asks_as("a", self.max, value, secs)
    }
    fn asks_as(
        &mut self,
        credential: &str,
        max: Option<u32>,
        value: AttemptedSecret<'_>,
        secs: u64,
    ) -> GuardDecision {
        let limits = LockoutPolicy {
            rate: vec![],
            max_rejections: 1,
            hold: Hold::For(Duration::from_hours(1)),
            account_rejections: max,
        };
        self.account.decide(
            value,
            &limits,
            &AttemptRequest {
                credential: credential.into(),
                parent_renewed: false,
            },
            at(secs),
        )
    }
    fn goes(&mut self, name: &str, secs: u64) -> u64 {
        assert_eq!(self.asks(new(name), secs), Ok(()), "{name} at {secs}");
        self.ids += 1;
        self.account.spend(new(name), self.ids, at(secs));
        self.ids
    }
    fn refused(&mut self, name: &str, secs: u64) {
        let id = self.goes(name, secs);
        self.account.rejected(id, at(secs));
    }
    fn killed(&mut self, name: &str, secs: u64) {
        self.goes(name, secs);
        self.account.orphan(|_| false, at(secs));
    }
    fn succeeds(&mut self, name: &str, secs: u64) {
        let id = self.goes(name, secs);
        self.account.succeeded(id);
    }
}

#[test]
fn a_stream_of_new_wrong_secrets_is_tried_at_once_twice_then_after_30_s_doubling_to_an_hour() {
    let mut t = AccountUnderTest::new(None);
    t.refused("v0", 0);
    t.refused("v1", 0);
    let mut last = 0;
    for (n, pause) in [30, 60, 120, 240, 480, 960, 1920, HOUR, HOUR, HOUR]
        .into_iter()
        .enumerate()
    {
        for name in ["another", "and another"] {
            assert_eq!(
                t.asks(new(name), last + pause - 1),
                Err(Denial::Later(at(last + pause))),
                "the {n}th"
            );
        }
        last += pause;
        t.refused(&format!("v{}", n + 2), last);
    }
    // The right one has to wait too, and then all is forgotten.
    t.succeeds("right", last + HOUR);
    t.refused("v0", last + HOUR);
    t.refused("v1", last + HOUR);
    assert!(t.account.sharers.is_empty());
}

#[test]
fn a_secret_that_was_tried_already_is_no_change_and_one_that_is_proven_does_not_wait() {
    let mut t = AccountUnderTest::new(None);
    for name in ["v0", "v1"] {
        t.refused(name, 0);
    }
    assert_eq!(t.asks(new("v1"), 1), Ok(()), "its own count decides");
    assert_eq!(
        t.asks(
            AttemptedSecret {
                name: "good",
                proven: true
            },
            1
        ),
        Ok(())
    );
    assert_eq!(t.asks(new("v2"), 1), Err(Denial::Later(at(30))));
    for secs in 30..90 {
        t.killed("v0", secs);
    }
    assert_eq!(
        t.asks(new("v2"), 119),
        Ok(()),
        "one secret refused sixty times is one change: 30 s after the last of them"
    );
}

#[test]
fn changed_secrets_that_are_tried_at_the_same_time_are_counted_as_if_they_were_refused() {
    let mut t = AccountUnderTest::new(None);
    let (one, two) = (t.goes("v0", 0), t.goes("v1", 0));
    assert_eq!(t.asks(new("v2"), 0), Err(Denial::Busy));
    assert_eq!(
        t.asks(new("v1"), 0),
        Ok(()),
        "a second attempt of the same one is its own count's"
    );
    t.account.given_back(two);
    let three = t.goes("v2", 0);
    t.account.rejected(one, at(1));
    assert_eq!(t.asks(new("v3"), 1), Err(Denial::Busy));
    let again = t.goes("v0", 1);
    assert_eq!(
        t.asks(new("v4"), 1),
        Err(Denial::Busy),
        "the second attempt of v0 is no third secret"
    );
    t.account.given_back(again);
    t.account.rejected(three, at(2));
    assert_eq!(t.asks(new("v3"), 2), Err(Denial::Later(at(32))));
}

#[test]
fn after_two_refusals_in_a_row_over_all_values_only_a_person_opens() {
    let mut t = AccountUnderTest::new(Some(2));
    t.refused("v0", 0);
    t.refused("v1", 0);
    for name in ["v0", "v1", "v2"] {
        assert_eq!(t.asks(new(name), 1_000_000), Err(Denial::Latched(None)));
        assert_eq!(
            t.asks(AttemptedSecret { name, proven: true }, 1_000_000),
            Err(Denial::Latched(None))
        );
    }
    let shown = t.account.status(new("v2"), at(5));
    assert_eq!((shown.rejections, shown.latched), (2, Some(None)));
}

#[test]
fn a_success_in_between_ends_the_row_and_what_was_given_back_was_never_in_it() {
    let mut t = AccountUnderTest::new(Some(2));
    t.refused("v0", 0);
    for secs in 1..9 {
        let id = t.goes("v1", secs);
        t.account.given_back(id);
    }
    t.succeeds("v1", 10);
    t.refused("v0", 11);
    assert_eq!(t.asks(new("v2"), 11), Ok(()));
}

#[test]
fn an_unlatch_is_one_attempt_30_s_after_the_last_refusal_and_twice_as_long_after_each_that_was_refused_too()
 {
    let mut t = AccountUnderTest::new(Some(2));
    t.refused("v0", 0);
    t.refused("v1", 0);
    let mut last = 0;
    for pause in [30, 60, 120, 240, 480, 960, 1920, HOUR, HOUR] {
        for _ in 0..100 {
            t.account.unlatch();
        }
        assert_eq!(
            t.asks(new("v1"), last + pause - 1),
            Err(Denial::Later(at(last + pause)))
        );
        assert_eq!(
            t.account.status(new("v1"), at(last)).later,
            Some(at(last + pause)),
            "as it is told"
        );
        last += pause;
        let id = t.goes("v1", last);
        assert_eq!(
            t.asks(new("v2"), last),
            Err(Denial::Busy),
            "one and no more"
        );
        t.account.rejected(id, at(last));
        assert_eq!(
            t.asks(new("v2"), last + 10 * HOUR),
            Err(Denial::Latched(None))
        );
    }
    t.account.unlatch();
    t.succeeds("v2", last + HOUR);
    t.refused("v0", last + HOUR);
    t.refused("v1", last + HOUR);
    t.account.unlatch();
    assert_eq!(
        t.asks(new("v1"), last + HOUR),
        Err(Denial::Later(at(last + HOUR + 30))),
        "a success ends the doubling"
    );
}

#[test]
fn leave_that_an_attempt_gave_back_is_still_there_and_one_of_unknown_outcome_has_used_it() {
    let mut t = AccountUnderTest::new(Some(2));
    t.refused("v0", 0);
    t.refused("v1", 0);
    t.account.unlatch();
    let id = t.goes("v1", 30);
    t.account.given_back(id);
    t.killed("v1", 31);
    assert_eq!(t.asks(new("v1"), 10 * HOUR), Err(Denial::Latched(None)));
    t.account.unlatch();
    assert_eq!(t.asks(new("v1"), 90), Err(Denial::Later(at(91))));
}

#[test]
fn a_budget_that_only_unknown_outcomes_fill_opens_after_15_minutes_for_one_attempt() {
    let mut t = AccountUnderTest::new(Some(2));
    t.killed("v0", 0);
    t.killed("v0", 60);
    for secs in [60 + MINUTES_15, 60 + 2 * MINUTES_15, 60 + 3 * MINUTES_15] {
        assert_eq!(
            t.asks(new("v0"), secs - 1),
            Err(Denial::Latched(Some(at(secs))))
        );
        t.killed("v0", secs);
    }
    let last = 60 + 4 * MINUTES_15;
    let id = t.goes("v0", last);
    assert_eq!(t.asks(new("v0"), last), Err(Denial::Busy));
    t.account.rejected(id, at(last));
    assert_eq!(
        t.asks(new("v0"), 100 * HOUR),
        Err(Denial::Latched(None)),
        "now somebody was refused"
    );
    t.account.unlatch();
    t.succeeds("v0", 100 * HOUR);
}

#[test]
fn unknown_outcomes_fill_the_budget_together_with_a_refusal_and_then_it_needs_a_person() {
    let mut t = AccountUnderTest::new(Some(2));
    t.killed("v0", 0);
    t.refused("v1", 60);
    assert_eq!(
        t.asks(new("v2"), 60 + MINUTES_15),
        Err(Denial::Latched(None))
    );
}

#[test]
fn no_more_attempts_are_under_way_than_the_budget_has_left() {
    let mut t = AccountUnderTest::new(Some(2));
    let (one, _) = (t.goes("v0", 0), t.goes("v0", 0));
    assert_eq!(t.asks(new("v0"), 0), Err(Denial::Busy));
    t.account.rejected(one, at(0));
    assert_eq!(t.asks(new("v0"), 40), Err(Denial::Busy));
}

#[test]
fn all_credentials_of_an_account_are_held_to_the_smallest_budget_of_any() {
    let mut t = AccountUnderTest::new(None);
    t.refused("v0", 0);
    t.refused("v0", 40);
    assert_eq!(
        t.asks_as("strict", Some(2), new("v1"), 40),
        Err(Denial::Latched(None))
    );
    assert_eq!(
        t.asks(new("v0"), 40 * HOUR),
        Err(Denial::Latched(None)),
        "a day later too: something is counted"
    );
    t.account.unlatch();
    t.succeeds("v0", 41 * HOUR);
    assert_eq!(t.asks(new("v0"), 66 * HOUR), Ok(()));
    assert_eq!(
        t.account.max(),
        None,
        "who has not asked for a day binds nobody"
    );
    assert_eq!(t.asks_as("strict", Some(2), new("v0"), 67 * HOUR), Ok(()));
    assert_eq!(t.asks_as("strict", None, new("v0"), 67 * HOUR), Ok(()));
    assert_eq!(
        t.account.max(),
        None,
        "nor one whose configuration says so no more"
    );
}

#[test]
fn a_process_that_is_killed_for_years_leaves_no_heap_and_a_thousand_secrets_no_list() {
    let mut t = AccountUnderTest::new(Some(1));
    for n in 0..1000 {
        let secs = n * HOUR;
        t.account.spend(new(&n.to_string()), n, at(secs));
        t.account.orphan(|_| false, at(secs));
    }
    assert!(
        t.account.spent.len() <= MOST_UNKNOWN && t.account.values.len() <= MOST_VALUES,
        "{:?}",
        t.account
    );
    assert!(t.account.values.contains(&"999".to_owned()));
}

#[test]
fn an_account_survives_being_written_down_a_reboot_and_a_copy_of_itself() {
    let mut t = AccountUnderTest::new(Some(3));
    t.refused("v0", 0);
    t.killed("v1", 10);
    t.goes("v2", 40);
    let read: AccountRecord =
        serde_json::from_str(&serde_json::to_string(&t.account).unwrap()).unwrap();
    assert_eq!(read, t.account);
    assert!(!read.differs(&t.account) && !read.is_blank());
    let mut joined = AccountRecord::default();
    joined.merge(read.clone());
    assert_eq!(
        (
            joined.counted(),
            joined.running(),
            joined.max(),
            joined.last
        ),
        (2, 1, Some(3), Some(at(10)))
    );
    joined.merge(read);
    assert_eq!(
        (joined.counted(), joined.running(), joined.values.len()),
        (2, 1, 2),
        "it counts once"
    );
    joined.carry(|then| then.before(Duration::from_secs(5)));
    assert_eq!(joined.last, Some(at(5)));
}

#[test]
fn what_an_older_release_counted_for_a_secret_is_added_once_unless_something_succeeded_since() {
    let mut t = AccountUnderTest::new(Some(2));
    for _ in 0..3 {
        t.account.take_over("v0", 1, Some(at(0)));
    }
    assert_eq!(t.account.rejected, 1, "one record");
    t.account.take_over("v1", 1, Some(at(5)));
    assert_eq!(
        t.asks(new("v2"), 100 * HOUR),
        Err(Denial::Latched(None)),
        "and another"
    );
    t.account.unlatch();
    t.succeeds("v2", 100 * HOUR);
    t.account.take_over("v3", 2, Some(at(99 * HOUR)));
    assert!(t.account.is_blank());
    t.account.take_over("v4", 2, Some(at(101 * HOUR)));
    assert_eq!(t.asks(new("v2"), 102 * HOUR), Err(Denial::Latched(None)));
}

#[test]
fn what_is_taken_over_while_an_attempt_runs_was_seen_before_it() {
    let mut t = AccountUnderTest::new(Some(4));
    let id = t.goes("v1", 10);
    t.account.take_over("v0", 1, Some(at(0)));
    t.account.take_over("v2", 1, Some(at(10)));
    t.account.succeeded(id);
    assert_eq!(t.account.rejected, 1);
}
