//! How keepers end: without handles, at shutdown, and how the store finds them.

use super::*;
use crate::{
    clock::BootInstant,
    token::{ledger::Ledger, store::Store},
};

#[tokio::test(start_paused = true)]
async fn dropped_in_the_middle_of_a_call_it_finishes_settles_and_ends() {
    let script = Script::always(Reply::Token(300 * SEC));
    let ledger: Arc<dyn Ledger> = Arc::new(MemoryLedger::default());
    let keeper = start_with(&script, vec![], Arc::clone(&ledger), policy());
    let slot = Arc::downgrade(&keeper.slot);
    pass(SEC / 20).await;
    drop(keeper);
    pass(SEC).await;
    assert_eq!(script.done.load(SeqCst), 1);
    assert_eq!(
        ledger.counted(&key(1)).await.unwrap().rejections,
        0,
        "no unknown outcome"
    );
    assert!(slot.upgrade().is_none(), "the task is gone");
    pass(3600 * SEC).await;
    assert_eq!(script.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_held_keeper_without_handles_ends_at_once() {
    let script = Script::always(fail(FailureClass::Config));
    let keeper = start(&script, policy());
    keeper.wait_settled().await;
    let slot = Arc::downgrade(&keeper.slot);
    drop(keeper);
    pass(SEC / 100).await;
    assert!(slot.upgrade().is_none());
}

#[tokio::test(start_paused = true)]
async fn the_store_finds_what_runs_and_starts_what_does_not() {
    let (store, script) = (Store::default(), Script::always(Reply::Token(300 * SEC)));
    let first = store.get_or_start([1; 32], || start(&script, lazy()));
    let again = store.get_or_start([1; 32], || panic!("it runs"));
    assert!(Arc::ptr_eq(&first, &again));
    let parent = store.get_or_start([2; 32], || {
        store.get_or_start([3; 32], || start(&script, lazy()))
    });
    assert!(!Arc::ptr_eq(&first, &parent));
    drop((first, again));
    let anew = store.get_or_start([1; 32], || start(&script, lazy()));
    assert!(anew.wait(within(SEC)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn drain_awaits_the_running_call_and_from_then_on_only_waiters_cause_one() {
    let (store, script) = (Store::default(), Script::always(Reply::Token(300 * SEC)));
    *script.took.lock().unwrap() = 3 * SEC;
    let keeper = store.get_or_start([1; 32], || start(&script, policy()));
    pass(SEC).await;
    let before = BootInstant::now();
    store.drain(10 * SEC).await;
    assert_eq!(
        (before.until(BootInstant::now()), script.done.load(SeqCst)),
        (2 * SEC, 1)
    );
    pass(400 * SEC).await;
    assert_eq!(script.count(), 1, "not renewed");
    assert_eq!(
        keeper.wait(within(10 * SEC)).await.unwrap().number,
        2,
        "but fetched for who waits"
    );
    let late = store.get_or_start([2; 32], || start(&script, policy()));
    pass(MINUTE).await;
    assert_eq!(script.count(), 2);
    assert!(late.get(BootInstant::now()).is_none());
}

#[tokio::test(start_paused = true)]
async fn drain_awaits_the_call_of_a_keeper_nobody_holds_and_no_longer_than_its_patience() {
    let (store, script) = (Store::default(), Script::always(Reply::Token(300 * SEC)));
    *script.took.lock().unwrap() = 30 * SEC;
    drop(store.get_or_start([1; 32], || start(&script, policy())));
    let kept = store.get_or_start([1; 32], || start(&script, policy()));
    pass(SEC).await;
    let before = BootInstant::now();
    store.drain(5 * SEC).await;
    assert_eq!(before.until(BootInstant::now()), 5 * SEC);
    store.drain(60 * SEC).await;
    assert_eq!(before.until(BootInstant::now()), 29 * SEC);
    drop(kept);
}
