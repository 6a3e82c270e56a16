//! One call for all, and it belongs to nobody.

use crate::clock::BootInstant;
use futures_util::future::join_all;

use super::*;

#[tokio::test(start_paused = true)]
async fn a_cold_burst_of_10_000_waiters_makes_one_call() {
    let script = Script::always(Reply::Token(300 * SEC));
    let keeper = start(&script, lazy());
    let until = within(15 * SEC);
    let tokens = join_all((0..10_000).map(|_| keeper.wait(until))).await;
    assert!(
        tokens
            .iter()
            .all(|t| t.as_ref().is_ok_and(|t| t.number == 1))
    );
    assert_eq!(script.count(), 1);
    assert_eq!(keeper.waiters(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_cancels_nothing() {
    let script = Script::always(Reply::Token(300 * SEC));
    let keeper = start(&script, lazy());
    let until = within(15 * SEC);
    assert!(
        tokio::time::timeout(SEC / 100, keeper.wait(until))
            .await
            .is_err()
    );
    pass(SEC).await;
    assert_eq!((script.count(), script.done.load(SeqCst)), (1, 1));
    assert_eq!(keeper.get(BootInstant::now()).unwrap().number, 1);
    assert_eq!(keeper.waiters(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_kept_ahead_is_fetched_at_start_and_a_lazy_one_is_not() {
    let (ahead, never) = (
        Script::always(Reply::Token(300 * SEC)),
        Script::always(Reply::Token(300 * SEC)),
    );
    let (keeper, idle) = (start(&ahead, policy()), start(&never, lazy()));
    keeper.wait_settled().await;
    pass(MINUTE).await;
    assert_eq!((ahead.count(), never.count()), (1, 0));
    assert_eq!(idle.status().activity, Activity::Resting);
    assert!(!idle.status().settled);
}

#[tokio::test(start_paused = true)]
async fn a_wait_ends_with_the_caller_s_patience_while_a_call_hangs() {
    let script = Script::always(Reply::Token(300 * SEC));
    *script.took.lock().unwrap() = MINUTE;
    let keeper = start(&script, lazy());
    let start = BootInstant::now();
    let refused = keeper.wait(within(5 * SEC)).await.unwrap_err();
    assert_eq!(refused.reason, UnavailableReason::Hanging);
    assert_eq!(start.until(BootInstant::now()), 5 * SEC);
    assert_eq!(keeper.wait(within(2 * MINUTE)).await.unwrap().number, 1);
    assert_eq!(script.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn p11_a_panic_in_a_call_is_a_failure_that_the_keeper_survives() {
    let script = Script::list(vec![Reply::Panic, Reply::Token(300 * SEC)]);
    let keeper = start(&script, policy());
    keeper.wait_settled().await;
    let status = keeper.status();
    assert_eq!(status.failure.unwrap().0.class, FailureClass::Retry);
    assert_eq!(keeper.wait(within(2 * MINUTE)).await.unwrap().number, 1);
    assert!(
        script.gaps()[0] >= 29.0,
        "its outcome is unknown: the guard wants 30 s"
    );
}
