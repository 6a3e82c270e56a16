//! A folder that fails at the worst moment: no attempt is lost in it, none is counted twice, and no latch is opened by it.

use super::*;

#[tokio::test]
async fn an_attempt_that_could_not_be_brought_to_the_disk_was_never_made() {
    let dir = folder();
    let one = ledger(&dir);
    one.attempt(1, Verdict::Success).await;
    one.disk.sicken(true);
    for _ in 0..3 {
        assert!(matches!(one.ask(1, FOREVER).await, Spend::NoMemory));
    }
    one.disk.sicken(false);
    let permits = vec![one.go(1).await, one.go(1).await];
    for permit in permits {
        one.disk.settle(permit, Verdict::GivenBack, &limits(FOREVER)).await;
    }
    one.disk.sicken(true);
    assert!(matches!(one.ask(1, FOREVER).await, Spend::NoMemory));
    kill(one, vec![]);
    let two = ledger(&dir);
    assert_eq!(two.rejections().await, 0, "after a restart");
    kill(two, vec![]);
}

#[tokio::test]
async fn a_refusal_that_is_written_but_not_yet_on_the_disk_counts_once() {
    let dir = folder();
    let one = ledger(&dir);
    let permit = one.go(1).await;
    one.disk.sicken(true);
    one.disk.settle(permit, Verdict::Rejected, &limits(FOREVER)).await;
    assert_eq!(one.rejections().await, 1);
    one.disk.sicken(false);
    let permit = one.go(1).await;
    assert_eq!(one.rejections().await, 1);
    one.disk.settle(permit, Verdict::GivenBack, &limits(FOREVER)).await;
    assert_eq!(ledger(&dir).rejections().await, 1);
}

#[tokio::test]
async fn a_latch_that_was_opened_by_hand_stays_open_though_the_disk_failed() {
    let dir = folder();
    let one = ledger(&dir);
    one.attempt(1, Verdict::Rejected).await;
    one.attempt(1, Verdict::Rejected).await;
    one.disk.sicken(true);
    one.disk.clear(&key(1)).await;
    one.disk.sicken(false);
    drop(one.go(1).await);
}
