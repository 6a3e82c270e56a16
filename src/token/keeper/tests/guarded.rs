//! The guard as keepers meet it.

use std::sync::atomic::AtomicBool;

use futures_util::future::join_all;

use super::*;
use crate::{
    clock::BootInstant,
    token::{
        failure::{Failure, FailureKind},
        guard::{AttemptOutcome, AttemptRequest, Denial, GuardDecision, GuardStatus},
        ledger::{Ledger, Reservation},
        policy::{KeeperPolicy, LockoutPolicy, Rate},
        queue::TurnQueue,
    },
};

fn until_changed() -> KeeperPolicy {
    KeeperPolicy {
        limits: LockoutPolicy {
            hold: Hold::UntilSecretChanges,
            ..policy().limits
        },
        ..policy()
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_secret_is_tried_twice_and_then_latched() {
    let script = Script::always(fail(FailureClass::Rejected));
    let keeper = start(&script, until_changed());
    pass(40 * MINUTE).await;
    assert_eq!(script.count(), 2);
    assert!(script.gaps()[0] >= 30.0);
    let status = keeper.status();
    assert_eq!(
        (status.activity, status.rejections),
        (
            Activity::Held {
                until: None,
                latched: true
            },
            2
        )
    );
    let told: Vec<_> = script
        .events
        .lock()
        .unwrap()
        .iter()
        .map(|e| e.contains("latched: true"))
        .collect();
    assert_eq!(told, [false, true]);
    let refused = keeper.wait(within(MINUTE)).await.unwrap_err();
    assert_eq!(
        (refused.reason, refused.retry_after),
        (UnavailableReason::Rejected, None)
    );
    keeper.refresh(BootInstant::now());
    keeper.note_change();
    pass(MINUTE).await;
    assert_eq!(script.count(), 2, "the same secret again is no change");
}

#[tokio::test(start_paused = true)]
async fn the_third_attempt_never_leaves_though_100_keepers_share_the_secret() {
    let script = Script::always(fail(FailureClass::Rejected));
    let ledger: Arc<dyn Ledger> = Arc::new(MemoryLedger::default());
    let keepers: Vec<_> = (0..100)
        .map(|_| start_with(&script, vec![], Arc::clone(&ledger), until_changed()))
        .collect();
    let refused = join_all(keepers.iter().map(|k| k.wait(within(10 * MINUTE)))).await;
    assert!(refused.iter().all(|r| {
        r.as_ref()
            .is_err_and(|u| u.reason == UnavailableReason::Rejected)
    }));
    pass(40 * MINUTE).await;
    assert_eq!(script.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_changed_secret_opens_the_latch_at_once() {
    let script = Script::always(fail(FailureClass::Rejected));
    let keeper = start(&script, until_changed());
    pass(2 * MINUTE).await;
    assert_eq!(script.count(), 2);
    *script.key.lock().unwrap() = Some(key(2));
    script.answer(|_, _| Reply::Token(300 * SEC));
    keeper.note_change();
    assert_eq!(keeper.wait(within(SEC)).await.unwrap().number, 1);
    assert_eq!(keeper.status().rejections, 0);
}

#[tokio::test(start_paused = true)]
async fn after_each_hold_one_attempt_leaves() {
    let script = Script::always(fail(FailureClass::Rejected));
    let keeper = start(&script, policy());
    pass(16 * MINUTE).await;
    let rounded: Vec<_> = script.gaps().iter().map(|gap| gap.floor()).collect();
    assert_eq!(rounded, [30.0, 60.0, 120.0, 240.0, 480.0]);
    assert!(matches!(
        keeper.status().activity,
        Activity::Held {
            until: Some(_),
            latched: true
        }
    ));
}

#[tokio::test(start_paused = true)]
async fn unlatched_by_hand_it_is_tried_at_once() {
    let script = Script::list(vec![
        fail(FailureClass::Rejected),
        fail(FailureClass::Rejected),
        Reply::Token(300 * SEC),
    ]);
    let ledger: Arc<dyn Ledger> = Arc::new(MemoryLedger::default());
    let keeper = start_with(&script, vec![], Arc::clone(&ledger), until_changed());
    pass(2 * MINUTE).await;
    let other = start_with(&script, vec![], Arc::clone(&ledger), until_changed());
    other.wait_settled().await;
    assert_eq!(
        other.wait(within(SEC)).await.unwrap_err().reason,
        UnavailableReason::Rejected
    );
    Keeper::unlatch(&[Arc::clone(&keeper)], &*ledger, []).await;
    assert_eq!(keeper.wait(within(SEC)).await.unwrap().number, 1);
    pass(SEC).await;
    assert_eq!(
        other.wait(within(SEC)).await.unwrap().number,
        1,
        "who shares the secret is let in too, once it was found right"
    );
}

#[tokio::test(start_paused = true)]
async fn more_keepers_than_attempts_wait_their_turn_and_all_are_served() {
    let script = Script::always(Reply::Token(300 * SEC));
    let ledger: Arc<dyn Ledger> = Arc::new(MemoryLedger::default());
    let keepers: Vec<_> = (0..20)
        .map(|_| start_with(&script, vec![], Arc::clone(&ledger), policy()))
        .collect();
    let tokens = join_all(keepers.iter().map(|k| k.wait(within(10 * SEC)))).await;
    assert!(tokens.iter().all(Result::is_ok));
    assert_eq!(script.count(), 20);
    let calls = script.calls.lock().unwrap().clone();
    assert!(
        calls.windows(3).all(|w| w[0].until(w[2]) >= SEC / 10),
        "never three at once"
    );
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_refreshes_stays_within_the_budget() {
    let script = Script::always(Reply::Token(3600 * SEC));
    let rate = vec![Rate { n: 5, per: MINUTE }];
    let keeper = start(
        &script,
        KeeperPolicy {
            limits: LockoutPolicy {
                rate,
                ..policy().limits
            },
            ..policy()
        },
    );
    for _ in 0..6000 {
        keeper.refresh(BootInstant::now());
        pass(SEC / 100).await;
    }
    assert!((6..=11).contains(&script.count()), "{}", script.count());
    assert!(keeper.get(BootInstant::now()).is_some());
    let status = keeper.status();
    assert!(
        status.failure.is_none() && status.rejections == 0,
        "to wait for the budget is no failure: {:?}",
        status.failure
    );
    assert!(
        matches!(
            status.activity,
            Activity::Held { latched: false, .. } | Activity::Due(_)
        ),
        "{:?}",
        status.activity
    );
}

#[tokio::test(start_paused = true)]
async fn what_another_did_to_the_secret_is_told_and_is_no_refusal_of_who_has_a_token() {
    let ledger: Arc<dyn Ledger> = Arc::new(MemoryLedger::default());
    let good = Script::always(Reply::Token(3600 * SEC));
    let keeper = start_with(&good, vec![], Arc::clone(&ledger), until_changed());
    keeper.wait_settled().await;
    let bad = Script::always(fail(FailureClass::Rejected));
    let other = start_with(&bad, vec![], Arc::clone(&ledger), until_changed());
    other.wait_settled().await;
    assert!(other.status().unaccepted);
    // It is asked, and held back by the other's refusal.
    pass(2 * SEC).await;
    keeper.refresh(BootInstant::now());
    pass(SEC).await;
    let status = keeper.status();
    assert_eq!(
        (
            good.count(),
            status.rejections,
            status.unaccepted,
            status.settled
        ),
        (1, 1, false, true)
    );
    let (failure, _) = status.failure.unwrap();
    assert_eq!(failure.class, FailureClass::Rejected);
    assert!(failure.kind == FailureKind::RefusedBefore, "{}", failure);
    // One that has none yet is told as much, and is not accepted.
    let late = Script::always(Reply::Token(3600 * SEC));
    let third = start_with(&late, vec![], ledger, until_changed());
    third.wait_settled().await;
    assert_eq!((late.count(), third.status().unaccepted), (0, true));
}

#[tokio::test(start_paused = true)]
async fn the_pause_after_a_first_refusal_ends_with_a_changed_secret() {
    let script = Script::always(fail(FailureClass::Rejected));
    let keeper = start(&script, until_changed());
    keeper.wait_settled().await;
    *script.key.lock().unwrap() = Some(key(2));
    script.answer(|_, _| Reply::Token(300 * SEC));
    keeper.note_change();
    assert_eq!(keeper.wait(within(SEC)).await.unwrap().number, 1);
    assert!(script.gaps()[0] < 1.0);
}

#[tokio::test(start_paused = true)]
async fn without_memory_no_call_leaves_and_the_reason_is_told() {
    struct Broken(TurnQueue);
    impl Ledger for Broken {
        fn spend<'a>(
            &'a self,
            _: &'a GuardKey,
            _: &'a LockoutPolicy,
            _: &'a AttemptRequest,
        ) -> BoxFuture<'a, GuardDecision<Reservation>> {
            Box::pin(std::future::ready(Err(Denial::NoMemory)))
        }
        fn settle<'a>(
            &'a self,
            _: Reservation,
            _: AttemptOutcome,
            _: &'a LockoutPolicy,
        ) -> BoxFuture<'a, ()> {
            Box::pin(std::future::ready(()))
        }
        fn clear<'a>(&'a self, _: &'a GuardKey) -> BoxFuture<'a, ()> {
            Box::pin(std::future::ready(()))
        }
        fn counted<'a>(&'a self, _: &'a GuardKey) -> BoxFuture<'a, Option<GuardStatus>> {
            Box::pin(std::future::ready(None))
        }
        fn freed(&self) -> BoxFuture<'static, ()> {
            Box::pin(std::future::pending())
        }
        fn line(&self) -> &TurnQueue {
            &self.0
        }
    }
    let script = Script::always(Reply::Token(300 * SEC));
    let keeper = start_with(
        &script,
        vec![],
        Arc::new(Broken(TurnQueue::default())),
        until_changed(),
    );
    pass(MINUTE).await;
    let refused = keeper.wait(within(SEC)).await.unwrap_err();
    assert_eq!(
        (refused.reason, script.count()),
        (UnavailableReason::Down, 0)
    );
    assert_eq!(refused.failure.unwrap().kind, FailureKind::GuardMemory);
    assert!((10..=13).contains(&script.events("NoMemory")));
    let status = keeper.status();
    assert!(
        status.settled && status.unaccepted,
        "a rollout stops at who can make no call"
    );
}

#[tokio::test(start_paused = true)]
async fn a_latch_that_cannot_be_looked_at_stays_closed_until_its_hold_ends() {
    /// Cannot tell what it counts.
    struct Mute(MemoryLedger, AtomicBool);
    impl Ledger for Mute {
        fn spend<'a>(
            &'a self,
            key: &'a GuardKey,
            limits: &'a LockoutPolicy,
            request: &'a AttemptRequest,
        ) -> BoxFuture<'a, GuardDecision<Reservation>> {
            let mute = self.1.load(SeqCst);
            // As one that begins to count anew.
            if mute {
                Box::pin(std::future::ready(Ok(Reservation::new(
                    key.clone(),
                    9,
                    |_, _| {},
                ))))
            } else {
                self.0.spend(key, limits, request)
            }
        }
        fn settle<'a>(
            &'a self,
            reservation: Reservation,
            outcome: AttemptOutcome,
            limits: &'a LockoutPolicy,
        ) -> BoxFuture<'a, ()> {
            self.0.settle(reservation, outcome, limits)
        }
        fn clear<'a>(&'a self, key: &'a GuardKey) -> BoxFuture<'a, ()> {
            self.0.clear(key)
        }
        fn counted<'a>(&'a self, key: &'a GuardKey) -> BoxFuture<'a, Option<GuardStatus>> {
            if self.1.load(SeqCst) {
                Box::pin(std::future::ready(None))
            } else {
                self.0.counted(key)
            }
        }
        fn freed(&self) -> BoxFuture<'static, ()> {
            self.0.freed()
        }
        fn line(&self) -> &TurnQueue {
            self.0.line()
        }
    }
    let script = Script::always(fail(FailureClass::Rejected));
    let ledger = Arc::new(Mute(MemoryLedger::default(), AtomicBool::new(false)));
    let keeper = start_with(&script, vec![], ledger.clone(), policy());
    pass(45 * SEC).await;
    assert_eq!((script.count(), keeper.status().rejections), (2, 2));
    ledger.1.store(true, SeqCst);
    pass(43 * SEC).await;
    assert_eq!(
        (script.count(), keeper.status().rejections),
        (2, 2),
        "within the hold"
    );
    pass(4 * SEC).await;
    assert_eq!(script.count(), 3, "it was closed at 30 s, for a minute");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_counts_against_the_partition_only_where_the_client_was_not_meant() {
    for (partition, client_refused, of_all, of_its_own) in [
        (Some("x"), true, 1, 1),
        (Some("x"), false, 0, 1),
        (None, true, 1, 1),
        (None, false, 1, 1),
    ] {
        let refusal = Failure {
            client_refused,
            ..failure(FailureClass::Rejected)
        };
        let script = Script::list(vec![Reply::Token(3600 * SEC), Reply::Fail(refusal)]);
        let whose = |partition: Option<&str>| GuardKey {
            partition: partition.map(Into::into),
            ..key(1)
        };
        *script.key.lock().unwrap() = Some(whose(partition));
        let ledger: Arc<dyn Ledger> = Arc::new(MemoryLedger::default());
        let keeper = start_with(&script, vec![], Arc::clone(&ledger), policy());
        keeper.wait_settled().await;
        pass(2 * SEC).await;
        keeper.refresh(BootInstant::now());
        pass(SEC).await;
        let counted = [
            ledger.counted(&whose(Some("y"))).await.unwrap().rejections,
            ledger.counted(&whose(partition)).await.unwrap().rejections,
        ];
        assert_eq!(
            (script.count(), counted),
            (2, [of_all, of_its_own]),
            "{partition:?}, {client_refused}"
        );
        assert!(!keeper.status().unaccepted, "it was accepted once");
    }
}
