//! Refreshes that an operator asks for: when they are made, and that none is forgotten.

use super::*;
use crate::{
    clock::BootInstant,
    token::{
        failure::Failure,
        policy::{KeeperPolicy, LockoutPolicy},
    },
};

fn at(refreshed: RefreshPlan) -> BootInstant {
    match refreshed {
        RefreshPlan::At(at) => at,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn asked_within_a_second_of_the_last_call_it_is_made_a_second_after_that() {
    let script = Script::always(Reply::Token(3600 * SEC));
    let keeper = start(&script, policy());
    keeper.wait_settled().await;
    let first = script.calls.lock().unwrap()[0];
    // To the millisecond.
    let second = |at: BootInstant| (Duration::from_millis(999)..=SEC).contains(&first.until(at));
    assert!(second(at(keeper.refresh(BootInstant::now()))));
    assert!(
        second(at(keeper.refresh(BootInstant::now()))),
        "asked for again, it is one"
    );
    pass(MINUTE).await;
    assert!(
        matches!(script.gaps()[..], [gap] if (0.999..1.01).contains(&gap)),
        "{:?}",
        script.gaps()
    );
}

#[tokio::test(start_paused = true)]
async fn asked_while_a_call_runs_it_is_made_once_more() {
    let script = Script::always(Reply::Token(3600 * SEC));
    *script.took.lock().unwrap() = 3 * SEC;
    let keeper = start(&script, policy());
    pass(2 * SEC).await;
    keeper.refresh(BootInstant::now());
    pass(MINUTE).await;
    assert_eq!(
        (
            script.count(),
            keeper.get(BootInstant::now()).unwrap().number
        ),
        (2, 2)
    );
}

#[tokio::test(start_paused = true)]
async fn what_the_vendor_or_the_guard_forbids_is_made_at_the_moment_they_allow() {
    let told = |class| {
        Reply::Fail(Failure {
            wait: Some(42 * SEC),
            ..failure(class)
        })
    };
    for second in [told(FailureClass::Throttled), told(FailureClass::Rejected)] {
        let script = Script::list(vec![
            Reply::Token(3600 * SEC),
            second,
            Reply::Token(3600 * SEC),
        ]);
        let keeper = start(&script, policy());
        pass(5 * SEC).await;
        keeper.refresh(BootInstant::now());
        pass(2 * SEC).await;
        let opens = at(keeper.refresh(BootInstant::now()));
        assert!(
            (39 * SEC..42 * SEC).contains(&BootInstant::now().until(opens)),
            "{:?}",
            BootInstant::now().until(opens)
        );
        pass(MINUTE).await;
        let calls = script.calls.lock().unwrap().clone();
        assert_eq!(calls.len(), 3, "the living token asked for none of them");
        assert!(opens.until(calls[2]) < SEC / 10 && calls[2] >= opens);
    }
}

#[tokio::test(start_paused = true)]
async fn a_budget_that_is_used_up_delays_it_and_does_not_swallow_it() {
    let script = Script::always(Reply::Token(3600 * SEC));
    let limits = LockoutPolicy {
        rate: vec![crate::token::Rate { n: 1, per: MINUTE }],
        ..policy().limits
    };
    let keeper = start(&script, KeeperPolicy { limits, ..policy() });
    pass(5 * SEC).await;
    keeper.refresh(BootInstant::now());
    pass(2 * MINUTE).await;
    assert_eq!(script.count(), 2);
    assert!(
        (59.9..60.2).contains(&script.gaps()[0]),
        "{:?}",
        script.gaps()
    );
}

#[tokio::test(start_paused = true)]
async fn a_latch_without_an_end_is_said_and_the_wish_outlives_it() {
    let script = Script::always(fail(FailureClass::Rejected));
    let keeper = start(
        &script,
        KeeperPolicy {
            limits: LockoutPolicy {
                hold: Hold::UntilSecretChanges,
                max_rejections: 1,
                ..policy().limits
            },
            ..policy()
        },
    );
    keeper.wait_settled().await;
    assert_eq!(keeper.refresh(BootInstant::now()), RefreshPlan::Latched);
    pass(10 * MINUTE).await;
    assert_eq!(script.count(), 1);
    script.answer(|_, _| Reply::Token(3600 * SEC));
    *script.key.lock().unwrap() = Some(key(2));
    keeper.note_change();
    pass(MINUTE).await;
    assert_eq!(script.count(), 2, "one call is all of it");
}

#[tokio::test(start_paused = true)]
async fn the_guard_s_memory_that_fails_delays_it() {
    let script = Script::always(Reply::Token(3600 * SEC));
    *script.unreadable.lock().unwrap() = true;
    let keeper = start(&script, lazy());
    keeper.refresh(BootInstant::now());
    pass(SEC).await;
    let looked = script.prepared.load(SeqCst);
    assert_eq!(
        (looked, script.count()),
        (1, 0),
        "a look at what cannot be read is an outcome, and no hot loop"
    );
    *script.unreadable.lock().unwrap() = false;
    keeper.refresh(BootInstant::now());
    pass(SEC).await;
    assert_eq!(script.count(), 1, "which is not waited for a second time");
}

#[tokio::test(start_paused = true)]
async fn for_later_is_made_later_and_any_call_in_between_is_as_good() {
    let script = Script::always(Reply::Token(3600 * SEC));
    let keeper = start(&script, policy());
    pass(5 * SEC).await;
    let later = within(40 * SEC);
    assert_eq!(at(keeper.refresh(later)), later);
    pass(39 * SEC).await;
    assert_eq!(script.count(), 1);
    pass(2 * SEC).await;
    assert_eq!(script.count(), 2);
    keeper.refresh(within(40 * SEC));
    assert!(
        at(keeper.refresh(BootInstant::now())) <= BootInstant::now(),
        "sooner is sooner"
    );
    pass(5 * MINUTE).await;
    assert_eq!(script.count(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_child_whose_parent_can_t_be_had_is_fetched_anew_when_it_can() {
    let parents = Script::list(vec![
        Reply::Token(20 * SEC),
        fail(FailureClass::Config),
        Reply::Token(3600 * SEC),
    ]);
    *parents.key.lock().unwrap() = None;
    let script = Script::always(Reply::Token(3600 * SEC));
    let parent = start(&parents, policy());
    let child = start_with(
        &script,
        vec![Arc::clone(&parent)],
        Arc::new(MemoryLedger::default()),
        policy(),
    );
    child.wait_settled().await;
    pass(25 * SEC).await;
    assert!(
        parent.get(BootInstant::now()).is_none(),
        "its next attempt is held"
    );
    child.refresh(BootInstant::now());
    pass(5 * SEC).await;
    assert_eq!(script.count(), 1);
    pass(2 * MINUTE).await;
    assert_eq!(script.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn after_sigterm_it_is_not_made_and_that_is_said() {
    let script = Script::always(Reply::Token(3600 * SEC));
    let keeper = start(&script, policy());
    pass(5 * SEC).await;
    keeper.slot.drain();
    assert_eq!(keeper.refresh(BootInstant::now()), RefreshPlan::Draining);
    pass(MINUTE).await;
    assert_eq!(script.count(), 1);
}
