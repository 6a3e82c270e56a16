//! The record by itself: what it forgets first, and what happens to it where processes and boots
//! end.

use std::time::Duration;

use super::*;

const MINUTE: Duration = Duration::from_mins(1);

fn at(secs: u64) -> Now {
    Now::at(Duration::from_secs(1_000_000 + secs))
}

/// A record that has been asked by one who allows two refusals and holds for a minute.
fn asked(max: u32) -> Record {
    let mut record = Record::default();
    assert_eq!(ask(&mut record, max, 0), Answer::Go);
    record
}

fn ask(record: &mut Record, max: u32, secs: u64) -> Answer {
    let limits = Limits {
        rate: vec![],
        max_rejections: max,
        hold: Hold::For(MINUTE),
        account_rejections: None,
    };
    record.ask(
        None,
        &limits,
        &Ask {
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
    record.settle(None, 0, Verdict::Success, at(0));
    // By name the newest come first.
    let name = |n: usize| format!("{:05}", MOST_PARTITIONS - n);
    for n in 0..MOST_PARTITIONS {
        let (id, when) = (n as u64 + 1, at(n as u64));
        record.spend(Some(&name(n)), id, when);
        record.settle(Some(&name(n)), id, Verdict::RejectedPartition, when);
    }
    let now = at(MOST_PARTITIONS as u64);
    record.spend(Some(&name(0)), 20_000, now);
    let known = |record: &Record, n| record.status(Some(&name(n)), now).rejections == 1;
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
    record.settle(Some("x"), 1, Verdict::Success, at(1));
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
        ask(&mut record, 3, 6),
        Answer::Later(at(30)),
        "the pause counts from when it was sent"
    );
    record.settle(None, 1, Verdict::Success, at(7));
    assert_eq!(
        record.status(None, at(8)).rejections,
        1,
        "it may have been refused after that success"
    );
    record.spend(None, 3, at(30));
    record.settle(None, 3, Verdict::Success, at(31));
    assert!(record.is_blank());
}

#[test]
fn a_pause_ends_with_what_it_was_for() {
    let mut record = asked(2);
    record.spend(None, 1, at(0));
    // Its outcome is lost only when it has almost been forgotten.
    record.lose(None, 1, at(899));
    assert_eq!(ask(&mut record, 2, 899), Answer::Later(at(929)));
    assert_eq!(ask(&mut record, 2, 901), Answer::Go);
}

#[test]
fn after_a_reboot_every_moment_is_as_far_away_as_before() {
    let mut record = asked(2);
    for secs in [0, 30] {
        record.spend(None, secs, at(secs));
        record.settle(None, secs, Verdict::Rejected, at(secs));
    }
    assert_eq!(ask(&mut record, 2, 40), Answer::Latched(Some(at(90))));
    record.carry(|then| then.before(Duration::from_secs(20)));
    assert_eq!(ask(&mut record, 2, 40), Answer::Latched(Some(at(70))));
    assert_eq!(ask(&mut record, 2, 70), Answer::Go);
}

#[test]
fn who_has_not_asked_for_a_day_binds_the_others_no_more_unless_something_is_counted() {
    const DAY: u64 = 86_400;
    let strictest = |counted: bool, secs: u64| {
        let mut record = Record::default();
        let strict = Limits {
            rate: vec![],
            max_rejections: 1,
            hold: Hold::For(MINUTE),
            account_rejections: None,
        };
        record.ask(
            None,
            &strict,
            &Ask {
                credential: "strict".into(),
                parent_renewed: false,
            },
            at(0),
        );
        if counted {
            record.spend(None, 1, at(0));
            record.settle(None, 1, Verdict::Rejected, at(0));
        }
        ask(&mut record, 2, secs);
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
    let mut ends = |record: &mut Record, partition, verdict, secs| {
        id += 1;
        record.spend(partition, id, at(secs));
        record.settle(partition, id, verdict, at(secs));
        ["x", "y"].map(|p| record.status(Some(p), at(secs)).rejections)
    };
    assert_eq!(
        ends(&mut record, Some("x"), Verdict::RejectedPartition, 0),
        [1, 1],
        "of the secret, for all we know"
    );
    assert_eq!(ends(&mut record, None, Verdict::Success, 30), [0, 0]);
    assert_eq!(
        ends(&mut record, Some("x"), Verdict::RejectedPartition, 60),
        [1, 0]
    );
    assert!(!record.is_blank());
    assert_eq!(ends(&mut record, Some("y"), Verdict::Success, 90), [1, 0]);
    assert_eq!(ends(&mut record, Some("x"), Verdict::Success, 120), [0, 0]);
    assert!(record.is_blank());
}

#[test]
fn unlatching_one_partition_lets_it_through_and_no_other() {
    let mut record = asked(1);
    record.spend(None, 0, at(0));
    record.settle(None, 0, Verdict::Success, at(0));
    let limits = Limits {
        rate: vec![],
        max_rejections: 1,
        hold: Hold::UntilSecretChanges,
        account_rejections: None,
    };
    let asks = |record: &mut Record, partition: &str, secs| {
        record.ask(
            Some(partition),
            &limits,
            &Ask {
                credential: "a".into(),
                parent_renewed: false,
            },
            at(secs),
        )
    };
    for (id, partition) in [(1, "x"), (2, "y")] {
        assert_eq!(asks(&mut record, partition, 1), Answer::Go);
        record.spend(Some(partition), id, at(1));
        record.settle(Some(partition), id, Verdict::RejectedPartition, at(1));
    }
    record.unlatch(Some("x"));
    assert_eq!(
        ["x", "y"].map(|p| asks(&mut record, p, 40)),
        [Answer::Go, Answer::Latched(None)]
    );
    record.unlatch(None);
    assert_eq!(
        ["x", "y"].map(|p| asks(&mut record, p, 40)),
        [Answer::Go, Answer::Go]
    );
    for (id, partition) in [(3, "x"), (4, "y")] {
        record.spend(Some(partition), id, at(40));
        record.settle(Some(partition), id, Verdict::Success, at(40));
    }
    assert!(record.is_blank() && record.partitions.is_empty());
}

#[test]
fn what_is_written_down_again_is_what_counts_and_not_that_somebody_asked() {
    let old = asked(3);
    let changed = |change: fn(&mut Record)| {
        let mut new = old.clone();
        change(&mut new);
        new.differs(&old)
    };
    assert!(!changed(|_| {}));
    assert!(
        !changed(|r| {
            ask(r, 3, 3599);
        }),
        "it asked within the hour"
    );
    assert!(changed(|r| {
        ask(r, 3, 3600);
    }));
    assert!(
        changed(|r| {
            ask(r, 2, 1);
        }),
        "another limit"
    );
    assert!(changed(|r| r.spend(None, 1, at(1))));
    assert!(changed(|r| r.spend(Some("x"), 1, at(1))));
    assert!(
        changed(|r| r.settle(None, 1, Verdict::Success, at(1))),
        "the first success"
    );
    assert!(changed(|r| {
        let limits = Limits {
            rate: vec![],
            max_rejections: 3,
            hold: Hold::For(MINUTE),
            account_rejections: None,
        };
        r.ask(
            None,
            &limits,
            &Ask {
                credential: "b".into(),
                parent_renewed: false,
            },
            at(1),
        );
    }));
}
