//! What a keeper does with tokens that other processes have got, and with leave to get its own.

use std::collections::VecDeque;

use futures_util::future::BoxFuture;

use super::*;
use crate::token::{
    guard::{AttemptOutcome, AttemptRequest},
    share::{Lease, Share, ShareStep},
};

/// Steps in order, then leave for every call; all that it is told on record.
#[derive(Default)]
struct Others {
    steps: Mutex<VecDeque<Result<ShareStep, Failure>>>,
    told: Mutex<Vec<String>>,
}

impl Others {
    fn new(steps: Vec<Result<ShareStep, Failure>>) -> Arc<Self> {
        Arc::new(Self {
            steps: Mutex::new(steps.into()),
            ..Self::default()
        })
    }
    fn tell(&self, what: String) {
        self.told.lock().unwrap().push(what);
    }
    fn told(&self) -> Vec<String> {
        self.told.lock().unwrap().clone()
    }
}

impl Share for Others {
    fn adopt_or_lease<'a>(
        &'a self,
        key: Option<&'a GuardKey>,
        held: Option<&'a Token>,
    ) -> BoxFuture<'a, Result<ShareStep, Failure>> {
        assert!(key.is_some());
        let held = held.map_or("nothing", |token| token.issued.value.as_str());
        self.tell(format!("asked, holding {held}"));
        let step = self.steps.lock().unwrap().pop_front();
        Box::pin(std::future::ready(
            step.unwrap_or(Ok(ShareStep::Mint(Lease { fence: 7 }))),
        ))
    }
    fn publish<'a>(
        &'a self,
        _: Option<&'a GuardKey>,
        lease: Lease,
        issued: Option<&'a Issued>,
    ) -> BoxFuture<'a, ()> {
        let issued = issued.map_or("nothing", |issued| issued.value.as_str());
        self.tell(format!("lease {} brought {issued}", lease.fence));
        Box::pin(std::future::ready(()))
    }
    fn refused<'a>(&'a self, _: Option<&'a GuardKey>, token: &'a Token) -> BoxFuture<'a, ()> {
        self.tell(format!("{} is refused", token.issued.value.as_str()));
        Box::pin(std::future::ready(()))
    }
}

fn adopted(value: &str) -> ShareStep {
    ShareStep::Adopt(issued(value, BootInstant::now(), 300 * SEC))
}

fn start_sharing(script: &Arc<Script>, others: &Arc<Others>) -> Arc<Keeper> {
    start_counted(script, others, Arc::new(MemoryLedger::default()))
}

fn start_counted(
    script: &Arc<Script>,
    others: &Arc<Others>,
    ledger: Arc<dyn Ledger>,
) -> Arc<Keeper> {
    Keeper::spawn(
        named("access"),
        vec![],
        Arc::clone(script) as Arc<dyn Fetch>,
        ledger,
        Arc::clone(others) as Arc<dyn Share>,
        lazy(),
    )
}

async fn value_of(keeper: &Keeper) -> String {
    let token = keeper.wait(within(20 * SEC)).await.unwrap();
    token.issued.value.to_string()
}

#[tokio::test(start_paused = true)]
async fn a_token_of_another_process_is_taken_without_a_call_and_counts_as_none() {
    let script = Script::always(Reply::Token(300 * SEC));
    let others = Others::new(vec![Ok(adopted("theirs"))]);
    let keeper = start_sharing(&script, &others);
    assert_eq!(value_of(&keeper).await, "theirs");
    assert_eq!((script.count(), script.events("Issued")), (0, 0));
    assert_eq!(others.told(), ["asked, holding nothing"]);
    let status = keeper.status();
    assert!(status.settled && !status.unaccepted && status.rejections == 0);
}

#[tokio::test(start_paused = true)]
async fn who_has_no_lease_waits_for_the_one_who_has() {
    let script = Script::always(Reply::Token(300 * SEC));
    let (done, over) = tokio::sync::oneshot::channel::<()>();
    let wait = Box::pin(async move { drop(over.await) });
    let others = Others::new(vec![Ok(ShareStep::Wait(wait)), Ok(adopted("theirs"))]);
    let keeper = start_sharing(&script, &others);
    let waiting = tokio::spawn({
        let keeper = Arc::clone(&keeper);
        async move { value_of(&keeper).await }
    });
    pass(SEC / 2).await;
    assert!(!waiting.is_finished());
    done.send(()).unwrap();
    assert_eq!(waiting.await.unwrap(), "theirs");
    assert_eq!((script.count(), others.told().len()), (0, 2));
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_ended_by_what_its_call_brought_or_by_nothing() {
    let script = Script::list(vec![fail(FailureClass::Retry), Reply::Token(300 * SEC)]);
    let others = Others::new(vec![]);
    let keeper = start_sharing(&script, &others);
    assert_eq!(value_of(&keeper).await, "token-2");
    assert_eq!(
        others.told(),
        [
            "asked, holding nothing",
            "lease 7 brought nothing",
            "asked, holding nothing",
            "lease 7 brought token-2",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_the_guard_makes_useless_is_given_back() {
    let script = Script::always(Reply::Token(300 * SEC));
    let ledger: Arc<dyn Ledger> = Arc::new(MemoryLedger::default());
    let request = AttemptRequest {
        credential: "acme".into(),
        parent_renewed: false,
    };
    let limits = policy().limits;
    let refused = ledger.spend(&key(1), &limits, &request).await.unwrap();
    ledger
        .settle(refused, AttemptOutcome::Rejected, &limits)
        .await;
    let others = Others::new(vec![]);
    let keeper = start_counted(&script, &others, ledger);
    assert!(keeper.wait(within(SEC)).await.is_err());
    assert_eq!(script.count(), 0);
    assert_eq!(
        others.told(),
        ["asked, holding nothing", "lease 7 brought nothing"]
    );
}

#[tokio::test(start_paused = true)]
async fn that_an_api_refused_a_token_is_told_before_a_newer_one_is_asked_for() {
    let script = Script::always(Reply::Token(300 * SEC));
    let others = Others::new(vec![
        Ok(ShareStep::Mint(Lease { fence: 1 })),
        Ok(adopted("theirs")),
    ]);
    let keeper = start_sharing(&script, &others);
    assert_eq!(value_of(&keeper).await, "token-1");
    keeper.reject(1);
    assert_eq!(value_of(&keeper).await, "theirs");
    assert_eq!(
        others.told()[2..],
        ["token-1 is refused", "asked, holding token-1"]
    );
    assert_eq!(script.count(), 1, "an adoption is no refresh");
    // Nor does one pause the next.
    keeper.reject(2);
    assert_eq!(value_of(&keeper).await, "token-2");
}

#[tokio::test(start_paused = true)]
async fn where_nothing_may_be_had_nor_minted_the_attempt_fails() {
    let script = Script::always(Reply::Token(300 * SEC));
    let down = || Err(Failure::own(FailureClass::Retry, FailureKind::TimedOut));
    let others = Others::new(vec![down(), down()]);
    let keeper = start_sharing(&script, &others);
    let refused = keeper.wait(within(SEC / 20)).await.unwrap_err();
    assert_eq!(refused.failure.unwrap().kind, FailureKind::TimedOut);
    assert_eq!(script.count(), 0);
    assert_eq!(value_of(&keeper).await, "token-1");
}
