//! A token that is known to be refused is sent to nobody while its refresh runs.

use crate::{
    clock::BootInstant,
    token::{policy::KeeperPolicy, schedule::Lifetime},
};
use futures_util::future::join_all;

use super::*;

/// With a token in use, and calls that take five seconds from now on.
async fn warm(replies: Vec<Reply>) -> (Arc<Script>, Arc<Keeper>) {
    let script = Script::list(replies);
    let keeper = start(&script, policy());
    keeper.wait_settled().await;
    *script.took.lock().unwrap() = 5 * SEC;
    (script, keeper)
}

fn lives() -> Reply {
    Reply::Token(3600 * SEC)
}

#[tokio::test(start_paused = true)]
async fn whoever_comes_waits_for_the_refresh_from_the_very_moment_of_the_refusal() {
    let (script, keeper) = warm(vec![lives()]).await;
    keeper.reject(1);
    assert!(
        keeper.get(BootInstant::now()).is_none(),
        "its task has not even heard of it"
    );
    assert!(!keeper.may_send(1), "nor may one leave that has it already");
    let before = BootInstant::now();
    let until = within(15 * SEC);
    let all = join_all((0..100).map(|_| keeper.wait(until))).await;
    assert!(all.iter().all(|t| t.as_ref().is_ok_and(|t| t.number == 2)));
    assert_eq!(
        (before.until(BootInstant::now()).as_secs(), script.count()),
        (5, 2)
    );
    assert!(
        keeper.may_send(2) && !keeper.may_send(1),
        "a refused one that has a successor is not sent either"
    );
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_fails_or_brings_the_same_token_sets_it_free() {
    for reply in [
        fail(FailureClass::Retry),
        fail(FailureClass::Config),
        fail(FailureClass::Rejected),
        Reply::Same("token-1", 3600 * SEC),
        Reply::Panic,
    ] {
        let (script, keeper) = warm(vec![lives(), reply]).await;
        keeper.reject(1);
        let before = BootInstant::now();
        assert_eq!(
            keeper.wait(within(15 * SEC)).await.unwrap().number,
            1,
            "the vendor decides"
        );
        assert_eq!(
            (before.until(BootInstant::now()).as_secs(), script.count()),
            (5, 2)
        );
        assert!(keeper.may_send(1));
        // Refused once more it is still sent: no refresh runs before the pause.
        keeper.reject(1);
        assert!(keeper.get(BootInstant::now()).is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn who_can_t_wait_so_long_is_told_that_the_call_hangs_and_gets_no_dead_token() {
    let (_, keeper) = warm(vec![lives()]).await;
    keeper.reject(1);
    assert_eq!(
        keeper.wait(within(SEC)).await.unwrap_err().reason,
        UnavailableReason::Hanging
    );
    assert_eq!(
        keeper.wait_fresh(within(SEC)).await.unwrap_err().reason,
        UnavailableReason::Hanging,
        "handed out it is not either"
    );
}

#[tokio::test(start_paused = true)]
async fn an_acceptance_after_the_refusal_ends_the_waiting_and_further_refusals_start_nothing() {
    let (script, keeper) = warm(vec![lives(), fail(FailureClass::Retry), lives()]).await;
    keeper.reject(1);
    let waiting = {
        let keeper = Arc::clone(&keeper);
        tokio::spawn(async move {
            keeper
                .wait(within(15 * SEC))
                .await
                .map(|t| (t.number, BootInstant::now()))
        })
    };
    pass(SEC).await;
    let before = BootInstant::now();
    keeper.accept(1);
    let (number, at) = waiting.await.unwrap().unwrap();
    assert_eq!(
        (number, before.until(at)),
        (1, Duration::ZERO),
        "it is alive: nobody waits"
    );
    keeper.reject(1);
    assert!(
        keeper.get(BootInstant::now()).is_some(),
        "also after the next refusal"
    );
    pass(5 * SEC).await;
    assert_eq!(script.count(), 2, "that refresh failed");
    for _ in 0..3 {
        keeper.accept(1);
        keeper.reject(1);
        assert!(keeper.get(BootInstant::now()).is_some());
        pass(SEC).await;
    }
    assert_eq!(script.count(), 2, "none before the pause");
    pass(3 * SEC).await;
    keeper.reject(1);
    assert!(
        keeper.get(BootInstant::now()).is_none(),
        "the pause is over: a new refresh, and nothing was accepted after this refusal"
    );
    assert_eq!(keeper.wait(within(15 * SEC)).await.unwrap().number, 2);
}

#[tokio::test(start_paused = true)]
async fn an_acceptance_before_the_refusal_says_nothing_nor_does_one_of_another_generation() {
    let (_, keeper) = warm(vec![lives()]).await;
    keeper.accept(1);
    keeper.reject(1);
    keeper.accept(0);
    keeper.accept(2);
    assert!(keeper.get(BootInstant::now()).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_late_refusal_of_an_old_generation_bars_nobody() {
    let (script, keeper) = warm(vec![lives()]).await;
    keeper.reject(1);
    keeper.wait(within(15 * SEC)).await.unwrap();
    for _ in 0..100 {
        keeper.reject(1);
        assert_eq!(keeper.get(BootInstant::now()).unwrap().number, 2);
    }
    pass(MINUTE).await;
    assert_eq!(script.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn one_that_comes_while_a_planned_call_runs_waits_for_that_call() {
    let (script, keeper) = warm(vec![lives()]).await;
    keeper.refresh(BootInstant::now());
    pass(2 * SEC).await;
    assert_eq!(keeper.get(BootInstant::now()).unwrap().number, 1);
    keeper.reject(1);
    assert!(keeper.get(BootInstant::now()).is_none());
    assert_eq!(keeper.wait(within(15 * SEC)).await.unwrap().number, 2);
    pass(MINUTE).await;
    assert_eq!(script.count(), 2, "which is enough");
}

#[tokio::test(start_paused = true)]
async fn what_is_held_or_paused_bars_nobody_not_for_a_moment() {
    let (script, keeper) = warm(vec![lives(), fail(FailureClass::Config)]).await;
    keeper.refresh(BootInstant::now());
    pass(10 * SEC).await;
    assert_eq!(script.count(), 2);
    keeper.reject(1);
    assert!(keeper.get(BootInstant::now()).is_some(), "held");
    assert!(keeper.wait_after_refusal(1, within(SEC)).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn after_sigterm_a_refusal_for_which_nobody_waits_starts_nothing_and_bars_nobody() {
    let (script, keeper) = warm(vec![lives()]).await;
    keeper.slot.drain();
    keeper.reject(1);
    assert!(keeper.get(BootInstant::now()).is_some());
    pass(20 * SEC).await;
    assert_eq!(script.count(), 1);
    let _queued = keeper.add_waiter();
    keeper.reject(1);
    assert_eq!(
        keeper
            .wait_after_refusal(1, within(15 * SEC))
            .await
            .unwrap()
            .number,
        2,
        "for one who waits it does"
    );
}

#[tokio::test(start_paused = true)]
async fn after_sigterm_the_last_who_waits_and_leaves_takes_the_next_attempt_along() {
    let (script, keeper) = warm(vec![lives(), fail(FailureClass::Retry), lives()]).await;
    *script.took.lock().unwrap() = SEC / 10;
    keeper.slot.drain();
    pass(3600 * SEC).await;
    let waits = keeper.wait(within(15 * SEC));
    assert!(
        tokio::time::timeout(SEC / 5, waits).await.is_err(),
        "the first attempt has failed, the next is due"
    );
    let calls = script.count();
    pass(MINUTE).await;
    assert_eq!(script.count(), calls);
}

#[tokio::test(start_paused = true)]
async fn a_child_s_refresh_waits_for_its_refused_parent_and_both_are_barred_meanwhile() {
    let (parents, parent) = warm(vec![lives()]).await;
    let script = Script::always(lives());
    let child = start_with(
        &script,
        vec![Arc::clone(&parent)],
        Arc::new(MemoryLedger::default()),
        policy(),
    );
    child.wait_settled().await;
    parent.reject(1);
    child.reject(1);
    assert!(parent.get(BootInstant::now()).is_none() && child.get(BootInstant::now()).is_none());
    let renewed = child.wait(within(15 * SEC)).await.unwrap();
    assert_eq!((renewed.number, &renewed.parents[..]), (2, &[2][..]));
    // The parent is refused while the child's call runs: the child's is made, and the parent's too.
    *script.took.lock().unwrap() = 5 * SEC;
    pass(MINUTE).await;
    child.reject(2);
    pass(SEC).await;
    parent.reject(2);
    assert!(parent.get(BootInstant::now()).is_none() && child.get(BootInstant::now()).is_none());
    pass(10 * SEC).await;
    assert_eq!((parents.count(), script.count()), (3, 3));
    assert!(parent.get(BootInstant::now()).is_some() && child.get(BootInstant::now()).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_token_handed_out_for_a_minute_and_then_refused_is_renewed_at_once() {
    let (script, keeper) = warm(vec![lives()]).await;
    *script.took.lock().unwrap() = SEC / 10;
    for number in 1..=4 {
        keeper.note_vended(number);
        pass(MINUTE).await;
        keeper.reject(number);
        assert_eq!(
            keeper.wait(within(SEC)).await.unwrap().number,
            number + 1,
            "however often before"
        );
    }
    // The first was at once as the first of all, the others because they were good for a minute:
    // nothing was doubled.
    keeper.reject(5);
    assert!(keeper.get(BootInstant::now()).is_some());
    pass(11 * SEC).await;
    keeper.reject(5);
    pass(SEC).await;
    assert_eq!(script.count(), 6);
}

#[tokio::test(start_paused = true)]
async fn a_reload_and_a_changed_secret_in_between_change_nothing_of_it() {
    let (script, keeper) = warm(vec![lives(), fail(FailureClass::Retry)]).await;
    keeper.reject(1);
    pass(SEC).await;
    keeper.change_policy(KeeperPolicy {
        lifetime: Lifetime {
            cap: Some(1800 * SEC),
            ..default_lifetime()
        },
        ..policy()
    });
    keeper.note_change();
    assert!(keeper.get(BootInstant::now()).is_none());
    pass(3 * SEC).await;
    assert!(
        keeper.get(BootInstant::now()).is_none(),
        "the call still runs"
    );
    pass(2 * SEC).await;
    assert_eq!(
        keeper
            .get(BootInstant::now())
            .map(|t| (t.number, t.issued.sent.until(t.expires))),
        Some((1, 1800 * SEC))
    );
    assert_eq!(script.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn callers_that_leave_take_nothing_along() {
    let (script, keeper) = warm(vec![lives()]).await;
    keeper.reject(1);
    for _ in 0..10 {
        let until = within(15 * SEC);
        assert!(
            tokio::time::timeout(SEC / 10, keeper.wait_after_refusal(1, until))
                .await
                .is_err()
        );
        assert!(
            tokio::time::timeout(SEC / 10, keeper.wait(until))
                .await
                .is_err()
        );
    }
    assert_eq!(keeper.waiters(), 0);
    pass(5 * SEC).await;
    assert_eq!(
        (
            script.count(),
            keeper.get(BootInstant::now()).map(|t| t.number)
        ),
        (2, Some(2))
    );
}
