//! Many keepers of one secret, of which no more may call at once than attempts may be spent: each
//! in turn, and none by being woken for nothing.

use crate::{clock::BootInstant, token::ledger::Ledger};
use futures_util::future::join_all;

use super::*;

const CROWD: usize = 60;

#[tokio::test(start_paused = true)]
async fn a_crowd_that_waits_for_its_turn_goes_one_after_the_other_without_preparing_again_and_again()
 {
    let script = Script::always(Reply::Token(300 * SEC));
    let ledger: Arc<dyn Ledger> = Arc::new(MemoryLedger::default());
    // As the partitions of a credential are.
    let keepers: Vec<_> = (0..CROWD)
        .map(|_| start_with(&script, vec![], Arc::clone(&ledger), lazy()))
        .collect();
    let (began, until) = (BootInstant::now(), within(15 * SEC));
    assert!(
        join_all(keepers.iter().map(|k| k.wait(until)))
            .await
            .iter()
            .all(Result::is_ok)
    );
    let took = began.until(BootInstant::now());
    // Of 60 calls that take 0.1 s two run at once.
    assert!((2990..3100).contains(&took.as_millis()), "{took:?}");
    let prepared = script.prepared.load(SeqCst);
    assert!(prepared <= 5 * CROWD, "{prepared} times prepared");
    assert_eq!(script.count(), CROWD);
}

#[tokio::test(start_paused = true)]
async fn those_who_leave_the_crowd_or_fail_in_it_hold_nobody_up() {
    let [script, failing] = [(); 2].map(|()| Script::always(Reply::Token(300 * SEC)));
    let ledger: Arc<dyn Ledger> = Arc::new(MemoryLedger::default());
    let start = |script| start_with(script, vec![], Arc::clone(&ledger), lazy());
    let (mut staying, mut leaving, mut waiting) = (vec![], vec![], vec![]);
    for _ in 0..CROWD / 3 {
        let (stays, leaves, fails) = (start(&script), start(&script), start(&failing));
        let until = within(15 * SEC);
        for keeper in [&leaves, &fails] {
            let keeper = Arc::clone(keeper);
            waiting.push(tokio::spawn(
                async move { keeper.wait(until).await.is_ok() },
            ));
        }
        staying.push(async move { stays.wait(until).await.is_ok() });
        leaving.push(leaves);
    }
    let began = BootInstant::now();
    let rest = async {
        pass(SEC / 4).await;
        *failing.unreadable.lock().unwrap() = true;
        waiting
            .iter()
            .step_by(2)
            .for_each(tokio::task::JoinHandle::abort);
        leaving.clear();
    };
    let (good, ()) = tokio::join!(join_all(staying), rest);
    assert_eq!(good, [true; CROWD / 3]);
    let took = began.until(BootInstant::now());
    assert!(took < 2 * SEC, "{took:?}");
    assert!(script.count() + failing.count() < CROWD);
}
