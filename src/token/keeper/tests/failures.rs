//! Failed attempts: what they change (nothing), and the time between them.

use super::*;
use crate::{
    clock::{BootInstant, simulate_suspend},
    token::{failure::Failure, policy::KeeperPolicy, schedule::Lifetime},
};

/// Without a secret the guard counts nothing: what is measured is the keeper's own waiting.
fn uncounted(reply: Reply) -> Arc<Script> {
    let script = Script::always(reply);
    *script.key.lock().unwrap() = None;
    script
}

#[tokio::test(start_paused = true)]
async fn retries_back_off_up_to_30_s_and_never_run_hot() {
    let script = uncounted(fail(FailureClass::Retry));
    let keeper = start(&script, policy());
    pass(10 * MINUTE).await;
    let gaps = script.gaps();
    assert!(
        gaps.iter().all(|gap| (0.1..=30.2).contains(gap)),
        "{gaps:?}"
    );
    assert!((20..200).contains(&gaps.len()), "{}", gaps.len());
    assert_eq!(script.events("Failed"), script.done.load(SeqCst));
    assert!(
        !keeper.status().unaccepted,
        "who does not answer has refused nothing"
    );
}

#[tokio::test(start_paused = true)]
async fn t5_throttled_waits_as_long_as_it_was_told() {
    let told = Failure {
        wait: Some(Duration::from_secs(42)),
        ..failure(FailureClass::Throttled)
    };
    let script = uncounted(Reply::Fail(told));
    let keeper = start(&script, policy());
    pass(5 * MINUTE).await;
    assert!(
        script.gaps().iter().all(|gap| (42.0..42.2).contains(gap)),
        "{:?}",
        script.gaps()
    );
    keeper.refresh(BootInstant::now());
    let calls = script.count();
    pass(SEC).await;
    assert_eq!(script.count(), calls, "not even by hand");
}

#[tokio::test(start_paused = true)]
async fn l4_a_thousand_waiters_of_a_throttled_endpoint_are_released_at_one_moment_by_one_call() {
    let told = Failure {
        wait: Some(42 * SEC),
        ..failure(FailureClass::Throttled)
    };
    let script = Script::list(vec![Reply::Fail(told), Reply::Token(300 * SEC)]);
    *script.key.lock().unwrap() = None;
    let keeper = start(&script, policy());
    keeper.wait_settled().await;
    let (asked, patience) = (BootInstant::now(), within(MINUTE));
    let waits = (0..1000).map(|_| {
        let keeper = Arc::clone(&keeper);
        tokio::spawn(async move { keeper.wait(patience).await.map(|_| BootInstant::now()) })
    });
    let released = futures_util::future::join_all(waits)
        .await
        .into_iter()
        .map(|r| r.unwrap().unwrap())
        .collect::<Vec<_>>();
    let moments = released
        .iter()
        .map(|r| asked.until(*r))
        .collect::<std::collections::BTreeSet<_>>();
    assert!(
        moments.len() == 1 && (42 * SEC..43 * SEC).contains(moments.first().unwrap()),
        "{moments:?}"
    );
    assert_eq!(
        (script.count(), script.prepared.load(SeqCst)),
        (2, 2),
        "nobody asked meanwhile"
    );
}

#[tokio::test(start_paused = true)]
async fn a_429_without_a_time_is_left_alone_for_5_s() {
    let script = uncounted(Reply::Fail(Failure {
        status: Some(429),
        ..failure(FailureClass::Retry)
    }));
    let _keeper = start(&script, policy());
    pass(5 * MINUTE).await;
    assert!(
        script.gaps().iter().all(|gap| *gap >= 5.0),
        "{:?}",
        script.gaps()
    );
    assert!(script.count() > 5);
}

#[tokio::test(start_paused = true)]
async fn what_makes_no_sense_is_held_a_minute_doubling_and_tried_at_once_after_a_change() {
    let script = uncounted(fail(FailureClass::Config));
    let keeper = start(&script, policy());
    pass(47 * MINUTE).await;
    let rounded: Vec<_> = script.gaps().iter().map(|gap| gap.floor()).collect();
    assert_eq!(rounded, [60.0, 120.0, 240.0, 480.0, 900.0, 900.0]);
    assert!(matches!(
        keeper.status().activity,
        Activity::Held {
            until: Some(_),
            latched: false
        }
    ));
    let refused = keeper.wait(within(15 * SEC)).await.unwrap_err();
    assert_eq!(refused.reason, UnavailableReason::Misconfigured);
    for change in [0, 1] {
        let calls = script.count();
        if change == 0 {
            keeper.note_change();
        } else {
            keeper.change_policy(KeeperPolicy {
                lifetime: Lifetime {
                    cap: Some(MINUTE),
                    ..default_lifetime()
                },
                ..policy()
            });
        }
        pass(SEC).await;
        assert_eq!(script.count(), calls + 1);
    }
}

#[tokio::test(start_paused = true)]
async fn an_unreadable_secret_is_looked_at_every_few_seconds_and_costs_no_call() {
    let script = Script::always(Reply::Token(300 * SEC));
    *script.unreadable.lock().unwrap() = true;
    let keeper = start(&script, policy());
    pass(MINUTE).await;
    assert!((10..=14).contains(&script.prepared.load(SeqCst)));
    assert_eq!(
        keeper.wait(within(SEC)).await.unwrap_err().reason,
        UnavailableReason::Unreadable
    );
    *script.unreadable.lock().unwrap() = false;
    keeper.note_change();
    assert!(keeper.wait(within(SEC)).await.is_ok());
    assert_eq!(script.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_without_a_secret_is_not_repeated_within_30_s() {
    let script = uncounted(fail(FailureClass::Rejected));
    let _keeper = start(&script, policy());
    pass(20 * MINUTE).await;
    let rounded: Vec<_> = script.gaps().iter().map(|gap| gap.floor()).collect();
    assert_eq!(rounded, [30.0, 60.0, 120.0, 240.0, 480.0]);
}

#[tokio::test(start_paused = true)]
async fn a_failed_refresh_changes_nothing_while_the_old_token_may_be_sent() {
    let script = Script::new(|n, _| {
        if n == 0 {
            Reply::Token(300 * SEC)
        } else {
            fail(FailureClass::Retry)
        }
    });
    let keeper = start(&script, policy());
    keeper.wait_settled().await;
    pass(260 * SEC).await;
    assert!(script.count() > 1, "it was tried");
    assert_eq!(keeper.wait(within(SEC)).await.unwrap().number, 1);
    pass(9 * SEC).await;
    assert!(keeper.get(BootInstant::now()).is_some());
    pass(SEC).await;
    assert!(
        keeper.get(BootInstant::now()).is_none(),
        "270 s: no longer sent"
    );
    assert!(matches!(keeper.status().failure, Some((f, _)) if f.class == FailureClass::Retry));
    script.answer(|_, _| Reply::Token(300 * SEC));
    assert_eq!(
        keeper.wait(within(MINUTE)).await.unwrap().number,
        2,
        "and it heals by itself"
    );
    assert!(keeper.status().failure.is_none());
}

#[tokio::test(start_paused = true)]
async fn who_cannot_live_to_see_the_next_attempt_is_refused_at_once() {
    let script = Script::always(Reply::Fail(Failure {
        wait: Some(MINUTE),
        ..failure(FailureClass::Throttled)
    }));
    let keeper = start(&script, policy());
    keeper.wait_settled().await;
    let start = BootInstant::now();
    let refused = keeper.wait(within(15 * SEC)).await.unwrap_err();
    assert_eq!(
        (refused.reason, start.until(BootInstant::now())),
        (UnavailableReason::Down, Duration::ZERO)
    );
    assert!(
        refused
            .retry_after
            .is_some_and(|d| d > 50 * SEC && d <= MINUTE)
    );
    script.answer(|_, _| Reply::Token(300 * SEC));
    assert!(
        keeper.wait(within(2 * MINUTE)).await.is_ok(),
        "who can, waits for it"
    );
}

#[tokio::test(start_paused = true)]
async fn an_expired_token_is_never_handed_out_not_even_after_a_suspend() {
    let script = Script::always(Reply::Token(3600 * SEC));
    let keeper = start(&script, policy());
    keeper.wait_settled().await;
    assert!(keeper.get(BootInstant::now()).is_some());
    *script.took.lock().unwrap() = MINUTE;
    simulate_suspend(2 * 3600 * SEC);
    assert!(keeper.get(BootInstant::now()).is_none());
    let refused = keeper.wait(within(SEC)).await.unwrap_err();
    assert_eq!(refused.reason, UnavailableReason::Hanging);
    assert_eq!(keeper.wait(within(2 * MINUTE)).await.unwrap().number, 2);
}

#[tokio::test(start_paused = true)]
async fn a_suspend_is_noticed_within_15_s_without_any_request() {
    let script = Script::always(Reply::Token(1800 * SEC));
    let keeper = start(&script, policy());
    keeper.wait_settled().await;
    simulate_suspend(1750 * SEC);
    pass(16 * SEC).await;
    assert_eq!(script.count(), 2);
    assert_eq!(keeper.get(BootInstant::now()).unwrap().number, 2);
}

#[tokio::test(start_paused = true)]
async fn c2_after_a_suspend_those_that_began_together_do_not_ask_together() {
    let scripts: Vec<_> = (0..50)
        .map(|_| Script::always(Reply::Token(1800 * SEC)))
        .collect();
    let _keepers: Vec<_> = scripts
        .iter()
        .map(|script| start(script, policy()))
        .collect();
    pass(10 * MINUTE).await;
    simulate_suspend(1750 * SEC);
    let woke = BootInstant::now();
    pass(16 * SEC).await;
    let mut each_second = [0; 16];
    for script in &scripts {
        let calls = script.calls.lock().unwrap();
        assert_eq!(calls.len(), 2);
        each_second[usize::try_from(woke.until(calls[1]).as_secs()).unwrap()] += 1;
    }
    assert!(
        each_second.iter().all(|calls| *calls < 16),
        "{each_second:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_token_that_arrives_dead_is_a_failure_and_not_a_hot_loop() {
    let script = uncounted(Reply::Token(SEC));
    *script.took.lock().unwrap() = 2 * SEC;
    let keeper = start(&script, policy());
    pass(MINUTE).await;
    assert!(keeper.status().token.is_none());
    assert!(
        script.gaps().iter().all(|gap| *gap >= 2.1),
        "{:?}",
        script.gaps()
    );
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_names_its_wait_is_waited_for_beyond_the_latch() {
    let refused = Reply::Fail(Failure {
        wait: Some(5 * MINUTE),
        ..failure(FailureClass::Rejected)
    });
    let script = Script::list(vec![refused]);
    let _keeper = start(&script, policy());
    pass(16 * MINUTE).await;
    assert!(
        script.count() >= 3 && script.gaps().iter().all(|gap| *gap >= 300.0),
        "{:?}",
        script.gaps()
    );
}

#[tokio::test(start_paused = true)]
async fn the_same_token_with_less_life_than_the_call_took_is_not_sent_any_more() {
    let script = Script::list(vec![
        Reply::Same("same", 60 * SEC),
        Reply::Same("same", SEC),
        Reply::Token(300 * SEC),
    ]);
    let keeper = start(&script, policy());
    keeper.wait_settled().await;
    *script.took.lock().unwrap() = 2 * SEC;
    while script.done.load(SeqCst) < 2 {
        pass(SEC / 10).await;
    }
    assert!(keeper.get(BootInstant::now()).is_none());
    assert_eq!(keeper.wait(within(MINUTE)).await.unwrap().number, 2);
}

#[tokio::test(start_paused = true)]
async fn a_backoff_is_cut_short_by_hand_a_second_after_the_last_call() {
    let script = Script::list(vec![fail(FailureClass::Config), Reply::Token(300 * SEC)]);
    let keeper = start(&script, policy());
    keeper.wait_settled().await;
    pass(2 * SEC).await;
    assert_eq!(script.count(), 1);
    keeper.refresh(BootInstant::now());
    assert_eq!(keeper.wait(within(SEC)).await.unwrap().number, 1);
    assert_eq!(script.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn who_runs_out_of_patience_hears_of_a_hanging_call_only_where_it_took_half_of_the_wait() {
    for (patience, why) in [
        (2000, UnavailableReason::Down),
        (2150, UnavailableReason::Down),
        (2250, UnavailableReason::Hanging),
        (9000, UnavailableReason::Hanging),
    ] {
        // The first call fails at 0.1 s, the second begins at 1.1 s and hangs.
        let script = Script::always(Reply::Fail(Failure {
            wait: Some(SEC),
            ..failure(FailureClass::Throttled)
        }));
        let keeper = start(&script, policy());
        let until = within(Duration::from_millis(patience));
        let waits = keeper.wait(until);
        let then = async {
            pass(SEC).await;
            *script.took.lock().unwrap() = MINUTE;
        };
        assert_eq!(
            tokio::join!(waits, then).0.unwrap_err().reason,
            why,
            "{patience} ms"
        );
        assert_eq!(script.count(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn the_time_that_went_into_another_token_is_part_of_the_wait() {
    let script = Script::list(vec![fail(FailureClass::Retry), Reply::Token(300 * SEC)]);
    *script.took.lock().unwrap() = MINUTE;
    let keeper = start(&script, lazy());
    let (began, until) = (BootInstant::now(), within(60 * MINUTE));
    assert!(
        keeper.wait(within(MINUTE + 10 * SEC)).await.is_err(),
        "the second call has run for some seconds"
    );
    // One who waited for the parent all the time until ten seconds ago, and has not waited half of
    // it for this call.
    let early = keeper
        .wait_since(began, within(10 * SEC))
        .await
        .unwrap_err();
    assert_eq!(early.reason, UnavailableReason::Down);
    assert!(keeper.wait_since(began, until).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn where_nothing_failed_a_call_that_has_just_begun_hangs() {
    let parents = Script::always(Reply::Token(300 * SEC));
    *parents.took.lock().unwrap() = 9 * SEC;
    let script = Script::always(Reply::Token(300 * SEC));
    *script.took.lock().unwrap() = MINUTE;
    let parent = start(&parents, policy());
    let child = start_with(
        &script,
        vec![parent],
        Arc::new(MemoryLedger::default()),
        policy(),
    );
    assert_eq!(
        child.wait(within(10 * SEC)).await.unwrap_err().reason,
        UnavailableReason::Hanging
    );
}
