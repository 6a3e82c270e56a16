//! Tokens made with other tokens: order, blame, and what the child's waiters see.

use super::*;
use crate::{
    clock::BootInstant,
    token::{
        guard::{AttemptOutcome, AttemptRequest, GuardDecision, GuardStatus},
        ledger::{Ledger, Reservation},
        policy::{KeeperPolicy, LockoutPolicy},
        queue::TurnQueue,
    },
};

struct Chain {
    partner: Arc<Script>,
    session: Arc<Script>,
    parent: Arc<Keeper>,
    child: Arc<Keeper>,
}

/// A parent with its own secret and a child with another, on one ledger.
fn chain(
    partner: Arc<Script>,
    session: Arc<Script>,
    parent: KeeperPolicy,
    child: KeeperPolicy,
) -> Chain {
    *session.key.lock().unwrap() = Some(key(2));
    let ledger: Arc<dyn Ledger> = Arc::new(MemoryLedger::default());
    let parent = start_with(&partner, vec![], Arc::clone(&ledger), parent);
    let child = start_with(&session, vec![Arc::clone(&parent)], ledger, child);
    Chain {
        partner,
        session,
        parent,
        child,
    }
}

fn forever(policy: KeeperPolicy) -> KeeperPolicy {
    KeeperPolicy {
        limits: LockoutPolicy {
            hold: Hold::UntilSecretChanges,
            ..policy.limits
        },
        ..policy
    }
}

#[tokio::test(start_paused = true)]
async fn the_parent_is_fetched_first_and_its_token_handed_in() {
    let c = chain(
        Script::always(Reply::Token(300 * SEC)),
        Script::always(Reply::Token(300 * SEC)),
        lazy(),
        lazy(),
    );
    let token = c.child.wait(within(SEC)).await.unwrap();
    assert_eq!(token.parents, [1]);
    assert!(c.partner.calls.lock().unwrap()[0] < c.session.calls.lock().unwrap()[0]);
    assert_eq!((c.partner.count(), c.session.count()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_refused_child_whose_parent_was_fetched_for_it_blames_nobody() {
    let c = chain(
        Script::always(Reply::Token(300 * SEC)),
        Script::always(fail(FailureClass::Rejected)),
        forever(lazy()),
        forever(lazy()),
    );
    assert_eq!(
        c.child.wait(within(SEC)).await.unwrap_err().reason,
        UnavailableReason::Rejected
    );
    assert_eq!((c.partner.count(), c.session.count()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_parent_that_was_on_its_way_just_before_its_child_started_was_fetched_for_it() {
    let (partner, session) = (
        Script::always(Reply::Token(300 * SEC)),
        Script::always(fail(FailureClass::Rejected)),
    );
    *session.key.lock().unwrap() = Some(key(2));
    let ledger: Arc<dyn Ledger> = Arc::new(MemoryLedger::default());
    let parent = start_with(&partner, vec![], Arc::clone(&ledger), forever(policy()));
    parent.wait_settled().await;
    pass(Duration::from_millis(20)).await;
    let child = start_with(&session, vec![parent], ledger, forever(policy()));
    assert_eq!(
        child.wait(within(SEC)).await.unwrap_err().reason,
        UnavailableReason::Rejected
    );
    assert_eq!((partner.count(), session.count()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_parent_that_came_for_a_caller_who_has_left_was_not_fetched_for_the_next() {
    let session = Script::new(|_, parents| {
        if parents[0].number == 1 {
            fail(FailureClass::Rejected)
        } else {
            Reply::Token(300 * SEC)
        }
    });
    let c = chain(
        Script::always(Reply::Token(3600 * SEC)),
        session,
        forever(lazy()),
        forever(lazy()),
    );
    *c.partner.took.lock().unwrap() = 40 * SEC;
    assert_eq!(
        c.child.wait(within(5 * SEC)).await.unwrap_err().reason,
        UnavailableReason::Hanging
    );
    pass(2 * MINUTE).await;
    assert_eq!(
        (c.partner.count(), c.session.count()),
        (1, 0),
        "nobody wants the child any more"
    );
    let token = c.child.wait(within(MINUTE)).await.unwrap();
    assert_eq!(
        (
            token.parents.as_slice(),
            c.partner.count(),
            c.session.count()
        ),
        ([2].as_slice(), 2, 2)
    );
}

#[tokio::test(start_paused = true)]
async fn a_refused_child_with_an_older_parent_has_it_fetched_anew_and_is_tried_once_more_at_once() {
    let session = Script::new(|_, parents| {
        if parents[0].number == 1 {
            fail(FailureClass::Rejected)
        } else {
            Reply::Token(300 * SEC)
        }
    });
    let c = chain(
        Script::always(Reply::Token(3600 * SEC)),
        session,
        forever(policy()),
        forever(lazy()),
    );
    c.parent.wait_settled().await;
    pass(MINUTE).await;
    let before = BootInstant::now();
    let token = c.child.wait(within(5 * SEC)).await.unwrap();
    assert_eq!(
        (
            token.parents.as_slice(),
            c.partner.count(),
            c.session.count()
        ),
        ([2].as_slice(), 2, 2)
    );
    assert!(before.until(BootInstant::now()) < SEC);
}

#[tokio::test(start_paused = true)]
async fn both_attempts_count_and_a_third_never_leaves() {
    let c = chain(
        Script::always(Reply::Token(3600 * SEC)),
        Script::always(fail(FailureClass::Rejected)),
        forever(policy()),
        forever(policy()),
    );
    c.parent.wait_settled().await;
    pass(40 * MINUTE).await;
    assert_eq!(c.session.count(), 2);
    assert_eq!(
        c.child.status().activity,
        Activity::Held {
            until: None,
            latched: true
        }
    );
    assert!(c.partner.count() <= 2);
}

#[tokio::test(start_paused = true)]
async fn where_the_blamed_parent_cannot_be_fetched_there_is_no_second_attempt_at_once() {
    let partner = Script::new(|n, _| {
        if n == 0 {
            Reply::Token(3600 * SEC)
        } else {
            fail(FailureClass::Config)
        }
    });
    let c = chain(
        partner,
        Script::always(fail(FailureClass::Rejected)),
        forever(policy()),
        forever(lazy()),
    );
    c.parent.wait_settled().await;
    pass(MINUTE).await;
    assert_eq!(
        c.child.wait(within(5 * SEC)).await.unwrap_err().reason,
        UnavailableReason::Rejected
    );
    pass(10 * SEC).await;
    assert_eq!((c.partner.count(), c.session.count()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn the_child_s_waiters_see_the_parent_s_failure() {
    for (class, why) in [
        (FailureClass::Rejected, UnavailableReason::Rejected),
        (FailureClass::Config, UnavailableReason::Misconfigured),
    ] {
        let c = chain(
            Script::always(fail(class)),
            Script::always(Reply::Token(300 * SEC)),
            forever(policy()),
            forever(policy()),
        );
        c.child.wait_settled().await;
        let refused = c.child.wait(within(5 * SEC)).await.unwrap_err();
        assert_eq!((refused.reason, &*refused.token), (why, "access"));
        assert_eq!(refused.failure.unwrap().class, class);
        assert_eq!(c.session.count(), 0);
        assert_eq!(c.child.status().activity, Activity::Parent("access".into()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_hanging_parent_is_what_the_child_s_waiter_hears_of() {
    let partner = Script::always(Reply::Token(300 * SEC));
    *partner.took.lock().unwrap() = MINUTE;
    let c = chain(
        partner,
        Script::always(Reply::Token(300 * SEC)),
        lazy(),
        lazy(),
    );
    let refused = c.child.wait(within(5 * SEC)).await.unwrap_err();
    assert_eq!(
        (refused.reason, &*refused.token),
        (UnavailableReason::Hanging, "access")
    );
    assert!(c.child.wait(within(2 * MINUTE)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn after_a_401_the_parent_is_renewed_first_and_the_child_is_made_with_it() {
    let c = chain(
        Script::always(Reply::Token(3600 * SEC)),
        Script::always(Reply::Token(3600 * SEC)),
        policy(),
        policy(),
    );
    c.child.wait_settled().await;
    c.parent.reject(1);
    c.child.reject(1);
    let until = within(5 * SEC);
    assert_eq!(
        c.parent.wait_after_refusal(1, until).await.unwrap().number,
        2
    );
    assert_eq!(
        c.child.wait_after_refusal(1, until).await.unwrap().parents,
        [2]
    );
    assert_eq!((c.partner.count(), c.session.count()), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn a_grandchild_waits_through_all_of_them() {
    let scripts: Vec<_> = (1..4)
        .map(|n| (n, Script::always(Reply::Token(300 * SEC))))
        .collect();
    let ledger: Arc<dyn Ledger> = Arc::new(MemoryLedger::default());
    let mut keepers: Vec<Arc<Keeper>> = vec![];
    for (n, script) in &scripts {
        *script.key.lock().unwrap() = Some(key(*n));
        keepers.push(start_with(
            script,
            keepers.last().cloned().into_iter().collect(),
            Arc::clone(&ledger),
            lazy(),
        ));
    }
    assert!(keepers[2].wait(within(SEC)).await.is_ok());
    scripts[0].1.answer(|_, _| fail(FailureClass::Config));
    pass(400 * SEC).await;
    let refused = keepers[2].wait(within(5 * SEC)).await.unwrap_err();
    assert_eq!(
        (refused.reason, &*refused.token),
        (UnavailableReason::Misconfigured, "access")
    );
}

/// A memory on a slow disk.
struct Slow(MemoryLedger, Duration);

impl Ledger for Slow {
    fn spend<'a>(
        &'a self,
        key: &'a GuardKey,
        limits: &'a LockoutPolicy,
        request: &'a AttemptRequest,
    ) -> BoxFuture<'a, GuardDecision<Reservation>> {
        Box::pin(async move {
            sleep(self.1).await;
            self.0.spend(key, limits, request).await
        })
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
        self.0.counted(key)
    }
    fn freed(&self) -> BoxFuture<'static, ()> {
        self.0.freed()
    }
    fn line(&self) -> &TurnQueue {
        self.0.line()
    }
}

#[tokio::test(start_paused = true)]
async fn a_parent_that_ends_while_the_attempt_is_written_down_is_not_sent() {
    let (partner, session) = (
        Script::always(Reply::Token(10 * SEC)),
        Script::always(Reply::Token(300 * SEC)),
    );
    *session.key.lock().unwrap() = Some(key(2));
    let parent = start_with(&partner, vec![], Arc::new(MemoryLedger::default()), lazy());
    assert_eq!(parent.wait(within(SEC)).await.unwrap().number, 1);
    let ledger: Arc<dyn Ledger> = Arc::new(Slow(MemoryLedger::default(), 3 * SEC));
    let child = start_with(
        &session,
        vec![Arc::clone(&parent)],
        Arc::clone(&ledger),
        lazy(),
    );
    pass(7 * SEC).await;
    assert!(
        parent.get(BootInstant::now()).is_some(),
        "it still lives when the attempt is begun"
    );
    let token = child.wait(within(15 * SEC)).await.unwrap();
    assert_eq!(
        (token.parents.as_slice(), partner.count(), session.count()),
        ([2].as_slice(), 2, 1)
    );
    assert_eq!(
        ledger.counted(&key(2)).await.unwrap().rejections,
        0,
        "what was not sent is not counted"
    );
}
