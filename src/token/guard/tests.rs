//! The guard told by hand; as a state machine against a vendor that counts: `random`.

mod random;
mod settled_late;

use crate::{
    clock::BootInstant,
    token::{
        ledger::Ledger,
        memory::MemoryLedger,
        model::GuardKey,
        policy::{Hold, LockoutPolicy, Rate},
    },
};
use std::time::Duration;

use super::*;

const MINUTE: Duration = Duration::from_mins(1);

fn key(partition: Option<&str>) -> GuardKey {
    GuardKey {
        url: "https://issuer.example/token".into(),
        secret: [7; 32],
        partition: partition.map(Into::into),
        account: [9; 32],
    }
}

fn limits(max: u32, hold: Hold) -> LockoutPolicy {
    LockoutPolicy {
        rate: vec![],
        max_rejections: max,
        hold,
        account_rejections: None,
    }
}

fn request(credential: &str) -> AttemptRequest {
    AttemptRequest {
        credential: credential.into(),
        parent_renewed: false,
    }
}

fn at(secs: u64) -> BootInstant {
    BootInstant::from_boot(Duration::from_secs(1_000_000 + secs))
}

/// A guard with one way to ask it.
struct GuardUnderTest {
    guard: Guard,
    limits: LockoutPolicy,
    request: AttemptRequest,
    ids: u64,
}

impl GuardUnderTest {
    fn new(limits: LockoutPolicy) -> Self {
        Self {
            guard: Guard::default(),
            limits,
            request: request("a"),
            ids: 0,
        }
    }
    fn spend(&mut self, partition: Option<&str>, secs: u64) -> GuardDecision {
        self.guard
            .spend(
                &key(partition),
                &self.limits,
                &self.request,
                self.ids + 1,
                at(secs),
            )
            .tap_go(&mut self.ids)
    }
    fn settle(&mut self, partition: Option<&str>, outcome: AttemptOutcome, secs: u64) {
        self.guard
            .settle(&key(partition), self.ids, outcome, at(secs));
    }
    fn attempt(&mut self, partition: Option<&str>, outcome: AttemptOutcome, secs: u64) {
        assert_eq!(self.spend(partition, secs), Ok(()), "{outcome:?} at {secs}");
        self.settle(partition, outcome, secs);
    }
}

trait TapGo {
    fn tap_go(self, ids: &mut u64) -> Self;
}
impl TapGo for GuardDecision {
    fn tap_go(self, ids: &mut u64) -> Self {
        *ids += u64::from(self == Ok(()));
        self
    }
}

#[test]
fn a_refused_secret_is_tried_twice_30_s_apart_and_then_latched_for_a_doubling_hold() {
    let mut g = GuardUnderTest::new(limits(2, Hold::For(MINUTE)));
    g.attempt(None, AttemptOutcome::Rejected, 0);
    assert_eq!(g.spend(None, 29), Err(Denial::Later(at(30))));
    g.attempt(None, AttemptOutcome::Rejected, 30);
    let mut from = 30;
    for hold in [60, 120, 240, 480, 960, 1920, 3600, 3600] {
        assert_eq!(
            g.spend(None, from + hold - 1),
            Err(Denial::Latched(Some(at(from + hold))))
        );
        from += hold;
        assert_eq!(g.spend(None, from), Ok(()));
        assert_eq!(
            g.spend(None, from),
            Err(Denial::Busy),
            "one attempt after each hold"
        );
        g.settle(None, AttemptOutcome::Rejected, from);
    }
    let status = g.guard.counted(&key(None), at(from));
    assert_eq!(
        (status.rejections, status.latched),
        (10, Some(Some(at(from + 3600))))
    );
}

#[test]
fn an_attempt_that_a_killed_process_made_after_the_hold_closes_the_latch_for_twice_as_long() {
    for partition in [None, Some("x")] {
        let mut g = GuardUnderTest::new(limits(2, Hold::For(MINUTE)));
        // From here on the partition is held alone.
        g.attempt(None, AttemptOutcome::Success, 0);
        let outcome = if partition.is_some() {
            AttemptOutcome::RejectedPartition
        } else {
            AttemptOutcome::Rejected
        };
        g.attempt(partition, outcome, 0);
        g.attempt(partition, outcome, 30);
        let mut from = 30;
        for hold in [60, 120, 1000, 1000, 1000] {
            from += hold;
            assert_eq!(g.spend(partition, from), Ok(()), "{partition:?}");
            g.guard.orphan(&key(partition), g.ids, at(from + 5));
            assert!(
                matches!(g.spend(partition, from + 36), Err(Denial::Latched(Some(until))) if until >= at(from + 120)),
                "{partition:?}"
            );
        }
        from += 3600;
        assert_eq!(g.spend(partition, from), Ok(()));
        g.guard.settle(&key(partition), g.ids, None, at(from + 5));
        assert_eq!(
            g.spend(partition, from + 36),
            Err(Denial::Latched(Some(at(from + 3605)))),
            "{partition:?}"
        );
    }
}

#[test]
fn until_the_secret_changes_means_never_again() {
    let mut g = GuardUnderTest::new(limits(2, Hold::UntilSecretChanges));
    g.attempt(None, AttemptOutcome::Rejected, 0);
    g.attempt(None, AttemptOutcome::Rejected, 30);
    assert_eq!(g.spend(None, 100_000_000), Err(Denial::Latched(None)));
    let changed = GuardKey {
        secret: [8; 32],
        ..key(None)
    };
    assert_eq!(
        g.guard.spend(&changed, &g.limits, &g.request, 99, at(31)),
        Ok(()),
        "a new secret, at once"
    );
    g.guard.unlatch(&key(None));
    assert_eq!(
        g.spend(None, 31),
        Err(Denial::Later(at(60))),
        "unlatched by hand: one attempt, 30 s after the last refusal"
    );
    g.attempt(None, AttemptOutcome::Rejected, 60);
    assert_eq!(g.spend(None, 100_000_000), Err(Denial::Latched(None)));
}

#[test]
fn success_clears_and_what_says_nothing_of_the_secret_is_given_back() {
    let mut g = GuardUnderTest::new(limits(2, Hold::For(MINUTE)));
    g.attempt(None, AttemptOutcome::Rejected, 0);
    for secs in 30..40 {
        g.attempt(None, AttemptOutcome::GivenBack, secs);
    }
    g.attempt(None, AttemptOutcome::Success, 40);
    g.attempt(None, AttemptOutcome::Rejected, 41);
    assert_eq!(
        g.guard.counted(&key(None), at(41)),
        GuardStatus {
            rejections: 1,
            latched: None,
            later: Some(at(71))
        }
    );
}

#[test]
fn a_refusal_blamed_on_a_clock_spends_nothing_but_where_the_account_has_a_budget() {
    for (account_rejections, third) in [(None, Ok(())), (Some(2), Err(Denial::Latched(None)))] {
        let mut g = GuardUnderTest::new(LockoutPolicy {
            account_rejections,
            ..limits(1, Hold::For(MINUTE))
        });
        for secs in [0, 0] {
            g.attempt(None, AttemptOutcome::RejectedForClock, secs);
        }
        assert_eq!(g.spend(None, 0), third);
    }
}

#[test]
fn unknown_outcomes_pause_a_value_and_latch_the_account_alone_where_it_has_a_budget() {
    let mut g = GuardUnderTest::new(LockoutPolicy {
        account_rejections: Some(2),
        ..limits(1, Hold::UntilSecretChanges)
    });
    assert_eq!(g.spend(None, 0), Ok(()));
    g.guard.orphan(&key(None), g.ids, at(5));
    assert_eq!(
        g.spend(None, 5),
        Err(Denial::Later(at(30))),
        "the value is not latched, though one attempt is all it has"
    );
    g.attempt(None, AttemptOutcome::GivenBack, 30);
    assert_eq!(g.spend(None, 31), Ok(()));
    g.guard.settle(&key(None), g.ids, None, at(40));
    assert_eq!(g.spend(None, 100), Err(Denial::Latched(Some(at(940)))));
    g.attempt(None, AttemptOutcome::Success, 940);
    assert_eq!(g.guard.counted(&key(None), at(940)), GuardStatus::default());
}

#[test]
fn a_secret_accepted_within_a_day_is_held_5_minutes_at_first_and_others_as_long_as_is_said() {
    const DAY: u64 = 86_400;
    for (since, hold) in [(0, 300), (DAY, 300), (DAY + 1, 3600)] {
        let mut g = GuardUnderTest::new(limits(1, Hold::For(Duration::from_hours(1))));
        g.attempt(None, AttemptOutcome::Success, 0);
        g.attempt(None, AttemptOutcome::Rejected, since);
        assert_eq!(
            g.spend(None, since),
            Err(Denial::Latched(Some(at(since + hold))))
        );
        g.attempt(None, AttemptOutcome::Rejected, since + hold);
        let again = if since == DAY {
            3600
        } else {
            (2 * hold).min(3600)
        };
        assert_eq!(
            g.spend(None, since + hold),
            Err(Denial::Latched(Some(at(since + hold + again)))),
            "{since}"
        );
    }
    let mut g = GuardUnderTest::new(limits(1, Hold::For(MINUTE)));
    g.attempt(None, AttemptOutcome::Success, 0);
    g.attempt(None, AttemptOutcome::Rejected, 1);
    assert_eq!(
        g.spend(None, 1),
        Err(Denial::Latched(Some(at(61)))),
        "what is shorter stays so"
    );
}

#[test]
fn ten_thousand_secrets_and_clients_leave_a_bounded_memory() {
    let mut guard = Guard::default();
    let limits = limits(1, Hold::For(MINUTE));
    let of = |n: u32| {
        let bytes: [u8; 32] = std::array::from_fn(|i| n.to_be_bytes().get(i).copied().unwrap_or(7));
        (
            GuardKey {
                secret: bytes,
                ..key(None)
            },
            GuardKey {
                secret: bytes,
                account: bytes,
                ..key(None)
            },
        )
    };
    for n in 0..40_000 {
        let (same_client, other_client) = of(n);
        let id = u64::from(n);
        if guard.spend(&same_client, &limits, &request("a"), 2 * id, at(id)) == Ok(()) {
            guard.settle(&same_client, 2 * id, AttemptOutcome::GivenBack, at(id));
        }
        assert_eq!(
            guard.spend(&other_client, &limits, &request("a"), 2 * id + 1, at(id)),
            Ok(())
        );
        guard.settle(&other_client, 2 * id + 1, AttemptOutcome::Rejected, at(id));
    }
    assert!(
        guard.sizes().iter().all(|size| *size < 40_000),
        "{:?}",
        guard.sizes()
    );
    assert!(matches!(
        guard.spend(&of(39_999).1, &limits, &request("a"), 99_999, at(40_000)),
        Err(Denial::Latched(_))
    ));
}

#[test]
fn an_unknown_outcome_counts_for_15_minutes() {
    let mut g = GuardUnderTest::new(limits(2, Hold::For(MINUTE)));
    assert_eq!(g.spend(None, 0), Ok(()));
    g.guard.settle(&key(None), 1, None, at(5));
    assert_eq!(g.spend(None, 10), Err(Denial::Later(at(35))));
    g.attempt(None, AttemptOutcome::Rejected, 35);
    assert_eq!(g.spend(None, 100), Err(Denial::Latched(Some(at(900)))));
    assert_eq!(g.spend(None, 900), Ok(()));
}

#[test]
fn an_unknown_outcome_counts_for_ever_where_only_the_secret_opens_the_latch() {
    let mut g = GuardUnderTest::new(limits(2, Hold::UntilSecretChanges));
    assert_eq!(g.spend(None, 0), Ok(()));
    g.guard.settle(&key(None), 1, None, at(0));
    assert_eq!(g.spend(None, 10_000), Ok(()));
    g.guard.settle(&key(None), 2, None, at(10_000));
    assert_eq!(g.spend(None, 100_000_000), Err(Denial::Latched(None)));
}

#[test]
fn no_more_attempts_run_at_once_than_may_still_be_spent() {
    let mut g = GuardUnderTest::new(limits(2, Hold::For(MINUTE)));
    assert_eq!(
        [g.spend(None, 0), g.spend(None, 0), g.spend(None, 0)],
        [Ok(()), Ok(()), Err(Denial::Busy)]
    );
    g.guard
        .settle(&key(None), 1, AttemptOutcome::Rejected, at(1));
    assert_eq!(g.spend(None, 40), Err(Denial::Busy));
    g.guard
        .settle(&key(None), 2, AttemptOutcome::GivenBack, at(40));
    assert_eq!(g.spend(None, 40), Ok(()));
}

#[test]
fn a_renewed_parent_spares_the_30_s_but_is_counted() {
    let mut g = GuardUnderTest::new(limits(2, Hold::UntilSecretChanges));
    g.attempt(None, AttemptOutcome::Rejected, 0);
    g.request.parent_renewed = true;
    g.attempt(None, AttemptOutcome::Rejected, 1);
    assert_eq!(g.spend(None, 2), Err(Denial::Latched(None)));
}

#[test]
fn a_partition_is_held_alone_once_the_secret_has_succeeded() {
    let mut g = GuardUnderTest::new(limits(2, Hold::For(MINUTE)));
    g.attempt(Some("x"), AttemptOutcome::Success, 0);
    g.attempt(Some("y"), AttemptOutcome::RejectedPartition, 1);
    g.attempt(Some("y"), AttemptOutcome::RejectedPartition, 31);
    assert_eq!(g.spend(Some("y"), 32), Err(Denial::Latched(Some(at(91)))));
    g.attempt(Some("x"), AttemptOutcome::GivenBack, 32);
    assert_eq!(g.guard.counted(&key(Some("x")), at(32)).rejections, 0);
    g.attempt(Some("x"), AttemptOutcome::Rejected, 33);
    assert_eq!(
        g.spend(Some("z"), 34),
        Err(Denial::Later(at(63))),
        "invalid_client counts against the secret"
    );
}

#[test]
fn before_the_first_success_every_refusal_counts_against_the_secret() {
    let mut g = GuardUnderTest::new(limits(2, Hold::For(MINUTE)));
    g.attempt(Some("x"), AttemptOutcome::RejectedPartition, 0);
    g.attempt(Some("y"), AttemptOutcome::RejectedPartition, 30);
    assert_eq!(g.spend(Some("z"), 31), Err(Denial::Latched(Some(at(90)))));
}

#[test]
fn of_those_who_share_a_key_the_strictest_limits_hold() {
    let (lenient, strict) = (
        limits(5, Hold::For(MINUTE)),
        limits(2, Hold::UntilSecretChanges),
    );
    let mut guard = Guard::default();
    for (id, secs) in [(1, 0), (2, 30), (3, 60)] {
        assert_eq!(
            guard.spend(&key(None), &lenient, &request("lenient"), id, at(secs)),
            Ok(())
        );
        guard.settle(&key(None), id, AttemptOutcome::Rejected, at(secs));
    }
    assert_eq!(
        guard.spend(&key(None), &strict, &request("strict"), 4, at(100)),
        Err(Denial::Latched(None))
    );
    assert_eq!(
        guard.spend(&key(None), &lenient, &request("lenient"), 5, at(5000)),
        Err(Denial::Latched(None)),
        "it binds the others too"
    );
}

#[test]
fn the_budget_is_the_credential_s_and_a_call_given_back_has_used_it() {
    let limits = LockoutPolicy {
        rate: vec![Rate { n: 2, per: MINUTE }],
        ..limits(9, Hold::For(MINUTE))
    };
    let mut g = GuardUnderTest::new(limits.clone());
    g.attempt(None, AttemptOutcome::GivenBack, 0);
    g.attempt(None, AttemptOutcome::GivenBack, 0);
    assert_eq!(g.spend(None, 0), Err(Denial::OverBudget(at(30))));
    assert_eq!(
        g.guard
            .spend(&key(None), &limits, &request("other"), 77, at(0)),
        Ok(())
    );
}

#[test]
fn a_record_survives_being_written_down() {
    let mut record = SecretRecord::default();
    let (limits, request) = (limits(2, Hold::UntilSecretChanges), request("a"));
    assert_eq!(record.decide(None, &limits, &request, at(0)), Ok(()));
    record.spend(None, 1, at(0));
    let mut read: SecretRecord =
        serde_json::from_str(&serde_json::to_string(&record).unwrap()).unwrap();
    assert_eq!(read, record);
    read.orphan(|_| false, at(10));
    assert_eq!(
        read.decide(None, &limits, &request, at(20)),
        Err(Denial::Later(at(30))),
        "the owner is gone: an unknown outcome"
    );
    read.carry(|t| t.before(Duration::from_secs(5)));
    assert_eq!(
        read.decide(None, &limits, &request, at(20)),
        Err(Denial::Later(at(25)))
    );
}

#[tokio::test(start_paused = true)]
async fn a_permit_that_is_dropped_is_an_unknown_outcome_and_wakes_the_others() {
    let ledger = MemoryLedger::default();
    let limits = limits(1, Hold::For(MINUTE));
    let Ok(reservation) = ledger.spend(&key(None), &limits, &request("a")).await else {
        panic!("not given")
    };
    let freed = ledger.freed();
    assert!(matches!(
        ledger.spend(&key(None), &limits, &request("a")).await,
        Err(Denial::Busy)
    ));
    drop(reservation);
    freed.await;
    assert!(matches!(
        ledger.spend(&key(None), &limits, &request("a")).await,
        Err(Denial::Latched(Some(_)))
    ));
    assert_eq!(ledger.counted(&key(None)).await.unwrap().rejections, 1);
}
