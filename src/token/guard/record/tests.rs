//! The record by itself: what it forgets first, and what happens to it where processes and boots
//! end.

use crate::token::guard::Denial;
use std::time::Duration;

use super::*;

const MINUTE: Duration = Duration::from_mins(1);

fn at(secs: u64) -> BootInstant {
    BootInstant::from_boot(Duration::from_secs(1_000_000 + secs))
}

/// A record that has been asked by one who allows two refusals and holds for a minute.
fn asked(max: u32) -> SecretRecord {
    let mut record = SecretRecord::default();
    assert_eq!(decide(&mut record, max, 0), Ok(()));
    record
}

fn decide(record: &mut SecretRecord, max: u32, secs: u64) -> GuardDecision {
    let limits = LockoutPolicy {
        rate: vec![],
        max_rejections: max,
        hold: Hold::For(MINUTE),
        account_rejections: None,
    };
    record.decide(
        None,
        &limits,
        &AttemptRequest {
            credential: "a".into(),
            parent_renewed: false,
        },
        at(secs),
    )
}

#[test]
fn of_too_many_partitions_the_one_refused_longest_ago_gives_way_unless_it_is_just_tried() {
    let mut record = asked(2);
    record.spend(None, 0, at(0));
    record.settle(None, 0, AttemptOutcome::Success, at(0));
    // By name the newest come first.
    let name = |n: usize| format!("{:05}", MOST_PARTITIONS - n);
    for n in 0..MOST_PARTITIONS {
        let (id, when) = (n as u64 + 1, at(n as u64));
        record.spend(Some(&name(n)), id, when);
        record.settle(Some(&name(n)), id, AttemptOutcome::RejectedPartition, when);
    }
    let now = at(MOST_PARTITIONS as u64);
    record.spend(Some(&name(0)), 20_000, now);
    let known = |record: &SecretRecord, n| record.status(Some(&name(n)), now).rejections == 1;
    record.spend(Some("another"), 20_001, now);
    assert_eq!(
        [0, 1, 2, 9999].map(|n| known(&record, n)),
        [true, false, true, true]
    );
    record.spend(Some("another"), 20_002, now);
    assert!(known(&record, 2), "one that is known takes no place");
    record.spend(Some("a third"), 20_003, now);
    assert_eq!([0, 2, 3].map(|n| known(&record, n)), [true, false, true]);
}

#[test]
fn nothing_is_left_of_a_partition_that_was_good() {
    let mut record = asked(2);
    record.spend(Some("x"), 1, at(0));
    assert!(!record.is_blank());
    record.settle(Some("x"), 1, AttemptOutcome::Success, at(1));
    assert!(record.is_blank() && record.partitions.is_empty());
}

#[test]
fn attempts_of_a_process_that_is_gone_are_unknown_outcomes_and_those_of_others_run_on() {
    let mut record = asked(3);
    record.spend(None, 1, at(0));
    record.spend(None, 2, at(0));
    record.orphan(|id| id == 1, at(5));
    assert_eq!(record.status(None, at(6)).rejections, 1);
    assert_eq!(
        decide(&mut record, 3, 6),
        Err(Denial::Later(at(30))),
        "the pause counts from when it was sent"
    );
    record.settle(None, 1, AttemptOutcome::Success, at(7));
    assert_eq!(
        record.status(None, at(8)).rejections,
        1,
        "it may have been refused after that success"
    );
    record.spend(None, 3, at(30));
    record.settle(None, 3, AttemptOutcome::Success, at(31));
    assert!(record.is_blank());
}

#[test]
fn a_pause_ends_with_what_it_was_for() {
    let mut record = asked(2);
    record.spend(None, 1, at(0));
    // Its outcome is lost only when it has almost been forgotten.
    record.lose(None, 1, at(899));
    assert_eq!(decide(&mut record, 2, 899), Err(Denial::Later(at(929))));
    assert_eq!(decide(&mut record, 2, 901), Ok(()));
}

#[test]
fn after_a_reboot_every_moment_is_as_far_away_as_before() {
    let mut record = asked(2);
    for secs in [0, 30] {
        record.spend(None, secs, at(secs));
        record.settle(None, secs, AttemptOutcome::Rejected, at(secs));
    }
    assert_eq!(
        decide(&mut record, 2, 40),
        Err(Denial::Latched(Some(at(90))))
    );
    record.carry(|then| then.before(Duration::from_secs(20)));
    assert_eq!(
        decide(&mut record, 2, 40),
        Err(Denial::Latched(Some(at(70))))
    );
    assert_eq!(decide(&mut record, 2, 70), Ok(()));
}

#[test]
fn who_has_not_asked_for_a_day_binds_the_others_no_more_unless_something_is_counted() {
    const DAY: u64 = 86_400;
    let strictest = |counted: bool, secs: u64| {
        let mut record = SecretRecord::default();
        let strict = LockoutPolicy {
            rate: vec![],
            max_rejections: 1,
            hold: Hold::For(MINUTE),
            account_rejections: None,
        };
        let _ = record.decide(
            None,
            &strict,
            &AttemptRequest {
                credential: "strict".into(),
                parent_renewed: false,
            },
            at(0),
        );
        if counted {
            record.spend(None, 1, at(0));
            record.settle(None, 1, AttemptOutcome::Rejected, at(0));
        }
        let _ = decide(&mut record, 2, secs);
        record.strictest().0
    };
    assert_eq!(
        [DAY - 1, DAY, DAY + 1].map(|secs| strictest(false, secs)),
        [1, 2, 2]
    );
    assert_eq!(strictest(true, DAY + 1), 1);
}

#[test]
fn a_partition_counts_its_own_refusals_from_the_first_success_on_until_its_own_success() {
    let mut record = asked(3);
    let mut id = 0;
    let mut ends = |record: &mut SecretRecord, partition, outcome, secs| {
        id += 1;
        record.spend(partition, id, at(secs));
        record.settle(partition, id, outcome, at(secs));
        ["x", "y"].map(|p| record.status(Some(p), at(secs)).rejections)
    };
    assert_eq!(
        ends(&mut record, Some("x"), AttemptOutcome::RejectedPartition, 0),
        [1, 1],
        "of the secret, for all we know"
    );
    assert_eq!(ends(&mut record, None, AttemptOutcome::Success, 30), [0, 0]);
    assert_eq!(
        ends(
            &mut record,
            Some("x"),
            AttemptOutcome::RejectedPartition,
            60
        ),
        [1, 0]
    );
    assert!(!record.is_blank());
    assert_eq!(
        ends(&mut record, Some("y"), AttemptOutcome::Success, 90),
        [1, 0]
    );
    assert_eq!(
        ends(&mut record, Some("x"), AttemptOutcome::Success, 120),
        [0, 0]
    );
    assert!(record.is_blank());
}

#[test]
fn unlatching_one_partition_lets_it_through_and_no_other() {
    let mut record = asked(1);
    record.spend(None, 0, at(0));
    record.settle(None, 0, AttemptOutcome::Success, at(0));
    let limits = LockoutPolicy {
        rate: vec![],
        max_rejections: 1,
        hold: Hold::UntilSecretChanges,
        account_rejections: None,
    };
    let asks = |record: &mut SecretRecord, partition: &str, secs| {
        record.decide(
            Some(partition),
            &limits,
            &AttemptRequest {
                credential: "a".into(),
                parent_renewed: false,
            },
            at(secs),
        )
    };
    for (id, partition) in [(1, "x"), (2, "y")] {
        assert_eq!(asks(&mut record, partition, 1), Ok(()));
        record.spend(Some(partition), id, at(1));
        record.settle(
            Some(partition),
            id,
            AttemptOutcome::RejectedPartition,
            at(1),
        );
    }
    record.unlatch(Some("x"));
    assert_eq!(
        ["x", "y"].map(|p| asks(&mut record, p, 40)),
        [Ok(()), Err(Denial::Latched(None))]
    );
    record.unlatch(None);
    assert_eq!(
        ["x", "y"].map(|p| asks(&mut record, p, 40)),
        [Ok(()), Ok(())]
    );
    for (id, partition) in [(3, "x"), (4, "y")] {
        record.spend(Some(partition), id, at(40));
        record.settle(Some(partition), id, AttemptOutcome::Success, at(40));
    }
    assert!(record.is_blank() && record.partitions.is_empty());
}

#[test]
fn what_is_written_down_again_is_what_counts_and_not_that_somebody_asked() {
    let old = asked(3);
    let changed = |change: fn(&mut SecretRecord)| {
        let mut new = old.clone();
        change(&mut new);
        new.differs(&old)
    };
    assert!(!changed(|_| {}));
    assert!(
        !changed(|r| {
            let _ = decide(r, 3, 3599);
        }),
        "it asked within the hour"
    );
    assert!(changed(|r| {
        let _ = decide(r, 3, 3600);
    }));
    assert!(
        changed(|r| {
            let _ = decide(r, 2, 1);
        }),
        "another limit"
    );
    assert!(changed(|r| r.spend(None, 1, at(1))));
    assert!(changed(|r| r.spend(Some("x"), 1, at(1))));
    assert!(
        changed(|r| r.settle(None, 1, AttemptOutcome::Success, at(1))),
        "the first success"
    );
    assert!(changed(|r| {
        let limits = LockoutPolicy {
            rate: vec![],
            max_rejections: 3,
            hold: Hold::For(MINUTE),
            account_rejections: None,
        };
        let _ = r.decide(
            None,
            &limits,
            &AttemptRequest {
                credential: "b".into(),
                parent_renewed: false,
            },
            at(1),
        );
    }));
}
