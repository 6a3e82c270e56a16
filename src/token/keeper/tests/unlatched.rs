//! What a person's unlatch opens, and what it leaves to the clock and to `refresh`.

use super::*;
use crate::{
    clock::BootInstant,
    token::{failure::Failure, guard::NextAttempt, ledger::Ledger},
};

/// How often a keeper called and looked at its secrets while somebody unlatched it five times a
/// second for two minutes, and how many of these 600 were told a moment to come.
async fn unlatched_in_a_loop(reply: Reply, keyed: bool, unreadable: bool) -> (usize, usize, usize) {
    let script = Script::always(reply);
    *script.key.lock().unwrap() = keyed.then(|| key(1));
    *script.unreadable.lock().unwrap() = unreadable;
    let ledger: Arc<dyn Ledger> = Arc::new(MemoryLedger::default());
    let keeper = start_with(&script, vec![], Arc::clone(&ledger), policy());
    keeper.wait_settled().await;
    let mut later = 0;
    for _ in 0..600 {
        let next = Keeper::unlatch(&[Arc::clone(&keeper)], &*ledger, []).await;
        later += usize::from(next > NextAttempt::At(BootInstant::now()));
        pass(SEC / 5).await;
    }
    (script.count(), script.prepared.load(SeqCst), later)
}

#[tokio::test(start_paused = true)]
async fn in_a_loop_it_calls_no_endpoint_that_answers_nonsense() {
    for keyed in [true, false] {
        let (calls, _, later) = unlatched_in_a_loop(fail(FailureClass::Config), keyed, false).await;
        assert_eq!(calls, 2, "held for a minute, then for two");
        assert!(later > 590, "all are told when the hold ends: {later}");
    }
}

#[tokio::test(start_paused = true)]
async fn in_a_loop_it_shortens_no_wait_of_any_class() {
    let (calls, ..) = unlatched_in_a_loop(fail(FailureClass::Rejected), true, false).await;
    assert!(
        calls <= 3,
        "30 s after the last refusal, then a minute: {calls}"
    );
    let (calls, ..) = unlatched_in_a_loop(fail(FailureClass::Rejected), false, false).await;
    assert!(
        calls <= 3,
        "no secret was sent, so the guard counts none: {calls}"
    );
    let throttled = Reply::Fail(Failure {
        wait: Some(MINUTE),
        ..failure(FailureClass::Throttled)
    });
    let (calls, ..) = unlatched_in_a_loop(throttled, true, false).await;
    assert!(calls <= 3, "the vendor named the time: {calls}");
    let (calls, looks, _) = unlatched_in_a_loop(fail(FailureClass::Config), true, true).await;
    assert!(
        calls == 0 && looks <= 26,
        "secrets that cannot be read are looked at every 5 s: {looks}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_refresh_opens_what_an_unlatch_does_not() {
    let script = Script::list(vec![fail(FailureClass::Config), Reply::Token(300 * SEC)]);
    let ledger: Arc<dyn Ledger> = Arc::new(MemoryLedger::default());
    let keeper = start_with(&script, vec![], Arc::clone(&ledger), policy());
    keeper.wait_settled().await;
    Keeper::unlatch(&[Arc::clone(&keeper)], &*ledger, []).await;
    assert_eq!(
        keeper.wait(within(2 * SEC)).await.unwrap_err().reason,
        UnavailableReason::Misconfigured,
        "nobody waits for what is not made"
    );
    keeper.refresh(BootInstant::now());
    assert_eq!(keeper.wait(within(2 * SEC)).await.unwrap().number, 1);
}
