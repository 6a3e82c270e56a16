//! An API's 401: one refresh, then a pause that doubles.

use crate::{clock::BootInstant, token::failure::Failure};
use futures_util::future::join_all;

use super::*;

#[tokio::test(start_paused = true)]
async fn a_hundred_refusals_of_one_generation_make_one_call_and_all_get_the_new_token() {
    let script = Script::always(Reply::Token(3600 * SEC));
    let keeper = start(&script, policy());
    keeper.wait_settled().await;
    let until = within(15 * SEC);
    let newer = join_all((0..100).map(|_| {
        keeper.reject(1);
        keeper.wait_after_refusal(1, until)
    }))
    .await;
    assert!(
        newer
            .iter()
            .all(|t| t.as_ref().is_some_and(|t| t.number == 2))
    );
    assert_eq!(script.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_late_refusal_of_an_old_generation_costs_nothing() {
    let script = Script::always(Reply::Token(3600 * SEC));
    let keeper = start(&script, policy());
    keeper.wait_settled().await;
    keeper.reject(1);
    assert_eq!(
        keeper
            .wait_after_refusal(1, within(SEC))
            .await
            .unwrap()
            .number,
        2
    );
    let before = BootInstant::now();
    keeper.reject(1);
    assert_eq!(
        keeper
            .wait_after_refusal(1, within(SEC))
            .await
            .unwrap()
            .number,
        2
    );
    assert_eq!((script.count(), BootInstant::now()), (2, before));
}

#[tokio::test(start_paused = true)]
async fn blame_from_a_child_costs_a_call_only_for_the_generation_it_was_made_with() {
    let script = Script::always(Reply::Token(3600 * SEC));
    let keeper = start(&script, policy());
    keeper.wait_settled().await;
    let mut calls = vec![];
    for number in [1, 1, 2, 0] {
        keeper.blame(number);
        pass(20 * SEC).await;
        calls.push(script.count());
    }
    assert_eq!(calls, [2, 2, 3, 3]);
    // Where there is no token yet, nothing can be refused.
    let script = Script::always(Reply::Token(3600 * SEC));
    let keeper = start(&script, lazy());
    pass(SEC).await;
    keeper.blame(0);
    pass(SEC).await;
    keeper.reject(0);
    pass(MINUTE).await;
    assert_eq!(script.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_storm_of_refusals_makes_one_refresh_per_pause_and_the_pause_doubles() {
    let script = Script::always(Reply::Token(36_000 * SEC));
    let keeper = start(&script, policy());
    keeper.wait_settled().await;
    let end = within(45 * MINUTE);
    while BootInstant::now() < end {
        let token = keeper.wait(within(SEC)).await.expect("still sent");
        keeper.reject(token.number);
        pass(SEC / 10).await;
    }
    let gaps = script.gaps();
    for (gap, least) in gaps[1..]
        .iter()
        .zip([10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0, 900.0])
    {
        assert!((least..least + 0.5).contains(gap), "{gaps:?}");
    }
    assert!(gaps.len() >= 8);
}

#[tokio::test(start_paused = true)]
async fn an_api_that_refuses_and_accepts_in_turn_causes_6_refreshes_a_minute_and_60_an_hour_and_not_one_each_10_s_for_ever()
 {
    let script = Script::always(Reply::Token(36_000 * SEC));
    let keeper = start(&script, policy());
    keeper.wait_settled().await;
    let begin = BootInstant::now();
    while begin.until(BootInstant::now()) < 60 * MINUTE {
        let number = keeper.wait(within(SEC)).await.expect("it is sent").number;
        keeper.accept(number);
        keeper.reject(number);
        pass(SEC).await;
    }
    let calls: Vec<_> = script.calls.lock().unwrap()[1..].to_vec();
    for (i, first) in calls.iter().enumerate() {
        let within = calls[i..]
            .iter()
            .filter(|t| first.until(**t) < MINUTE)
            .count();
        assert!(within <= 6, "{within} within a minute");
    }
    let before = |end: Duration| calls.iter().filter(|t| begin.until(**t) < end).count();
    assert_eq!(before(MINUTE), 6, "at once");
    // Then the pause comes first each time, and doubles.
    assert!(
        before(10 * MINUTE) <= 45 && calls.len() <= 62,
        "{} and {}",
        before(10 * MINUTE),
        calls.len()
    );
    assert!(
        calls
            .windows(2)
            .any(|pair| pair[0].until(pair[1]) > 14 * MINUTE),
        "up to 15 minutes"
    );
}

#[tokio::test(start_paused = true)]
async fn an_acceptance_of_another_generation_undoes_nothing() {
    let script = Script::always(Reply::Token(36_000 * SEC));
    let keeper = start(&script, policy());
    keeper.wait_settled().await;
    let end = within(5 * MINUTE);
    while BootInstant::now() < end {
        let number = keeper.wait(within(SEC)).await.expect("still sent").number;
        keeper.reject(number);
        pass(SEC / 10).await;
        keeper.accept(number - 1);
        keeper.accept(number + 1_000);
    }
    assert!(
        script.gaps()[2..].iter().any(|gap| *gap >= 40.0),
        "{:?}",
        script.gaps()
    );
}

#[tokio::test(start_paused = true)]
async fn waiters_are_counted_while_they_wait() {
    let script = Script::always(Reply::Token(3600 * SEC));
    *script.took.lock().unwrap() = MINUTE;
    let keeper = start(&script, policy());
    let until = within(SEC);
    let (seen, _, _) = tokio::join!(
        async {
            pass(SEC / 2).await;
            keeper.waiters()
        },
        keeper.wait(until),
        keeper.wait(until)
    );
    assert_eq!((seen, keeper.waiters()), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn within_the_pause_the_refusal_passes_on_at_once_and_the_token_is_still_sent() {
    let script = Script::always(Reply::Token(3600 * SEC));
    let keeper = start(&script, policy());
    keeper.wait_settled().await;
    keeper.reject(1);
    assert!(keeper.wait_after_refusal(1, within(SEC)).await.is_some());
    let before = BootInstant::now();
    keeper.reject(2);
    assert!(
        keeper
            .wait_after_refusal(2, within(15 * SEC))
            .await
            .is_none()
    );
    assert_eq!(BootInstant::now(), before);
    assert_eq!(keeper.get(before).unwrap().number, 2);
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_fails_or_brings_the_same_token_ends_the_wait() {
    for reply in [
        fail(FailureClass::Retry),
        fail(FailureClass::Config),
        Reply::Same("token-1", 3600 * SEC),
        Reply::Panic,
    ] {
        let script = Script::list(vec![Reply::Token(3600 * SEC), reply]);
        let keeper = start(&script, policy());
        keeper.wait_settled().await;
        let before = BootInstant::now();
        keeper.reject(1);
        assert!(
            keeper
                .wait_after_refusal(1, within(15 * SEC))
                .await
                .is_none()
        );
        assert!(before.until(BootInstant::now()) < SEC);
        assert_eq!(script.count(), 2);
        assert_eq!(
            keeper.get(BootInstant::now()).unwrap().number,
            1,
            "the vendor decides"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn while_it_is_held_a_refusal_is_denied_at_once() {
    let script = Script::new(|n, _| {
        if n == 0 {
            Reply::Token(3600 * SEC)
        } else {
            fail(FailureClass::Config)
        }
    });
    let keeper = start(&script, policy());
    keeper.wait_settled().await;
    keeper.refresh(BootInstant::now());
    pass(2 * SEC).await;
    keeper.refresh(BootInstant::now());
    pass(SEC).await;
    let (calls, before) = (script.count(), BootInstant::now());
    keeper.reject(1);
    assert!(
        keeper
            .wait_after_refusal(1, within(15 * SEC))
            .await
            .is_none()
    );
    assert_eq!((script.count(), BootInstant::now()), (calls, before));
}

#[tokio::test(start_paused = true)]
async fn who_comes_just_after_a_refresh_that_changes_nothing_is_refused_at_once() {
    // Neither the pause after a refusal nor what the vendor named is cut short by hand, the latter
    // not by a changed secret either.
    let by_hand: fn(&Keeper) = |keeper| {
        keeper.refresh(BootInstant::now());
    };
    let by_change: fn(&Keeper) = Keeper::note_change;
    for (class, why, tell) in [
        (FailureClass::Rejected, UnavailableReason::Rejected, by_hand),
        (FailureClass::Throttled, UnavailableReason::Down, by_hand),
        (FailureClass::Throttled, UnavailableReason::Down, by_change),
    ] {
        let script = Script::new(move |_, _| {
            Reply::Fail(Failure {
                wait: Some(10 * MINUTE),
                ..failure(class)
            })
        });
        let keeper = start(&script, policy());
        keeper.wait_settled().await;
        let before = BootInstant::now();
        tell(&keeper);
        assert_eq!(keeper.wait(within(15 * SEC)).await.unwrap_err().reason, why);
        assert_eq!(
            (script.count(), BootInstant::now()),
            (1, before),
            "{class:?}"
        );
    }
}
