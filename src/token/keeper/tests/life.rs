//! Renewing, resting, idling: what the lifetime table asks for.

use super::*;
use crate::{
    clock::BootInstant,
    token::{
        policy::KeeperPolicy,
        schedule::{Lifetime, Rotation},
    },
};

fn with(lifetime: Lifetime) -> KeeperPolicy {
    KeeperPolicy {
        lifetime,
        ..policy()
    }
}

/// Uses the token every `every` for `d`; says how often there was none.
async fn used(keeper: &Keeper, every: Duration, d: Duration) -> usize {
    let end = within(d);
    let mut missing = 0;
    while BootInstant::now() < end {
        missing += usize::from(keeper.get(BootInstant::now()).is_none());
        pass(every).await;
    }
    missing
}

#[tokio::test(start_paused = true)]
async fn a_used_token_is_renewed_ahead_of_need_and_never_missed() {
    let script = Script::always(Reply::Token(300 * SEC));
    let keeper = start(&script, policy());
    keeper.wait_settled().await;
    assert_eq!(used(&keeper, SEC, 3600 * SEC).await, 0);
    assert!(
        script
            .gaps()
            .iter()
            .all(|gap| (209.9..=240.1).contains(gap)),
        "{:?}",
        script.gaps()
    );
}

#[tokio::test(start_paused = true)]
async fn a_token_of_one_second_is_kept_alive_without_a_hot_loop() {
    let script = Script::always(Reply::Token(SEC));
    let keeper = start(&script, policy());
    keeper.wait_settled().await;
    assert_eq!(used(&keeper, SEC / 20, MINUTE).await, 0);
    assert!(
        script.gaps().iter().all(|gap| (0.39..=0.51).contains(gap)),
        "{:?}",
        script.gaps()
    );
}

#[tokio::test(start_paused = true)]
async fn a_life_of_a_millisecond_does_not_hammer() {
    let script = Script::always(Reply::Token(Duration::from_millis(1)));
    *script.took.lock().unwrap() = Duration::ZERO;
    *script.key.lock().unwrap() = None;
    let _keeper = start(&script, policy());
    pass(MINUTE).await;
    assert!(
        script.gaps().iter().all(|gap| *gap >= 5.0),
        "{:?}",
        script.gaps()
    );
}

#[tokio::test(start_paused = true)]
async fn whatever_life_an_answer_names_no_token_costs_more_calls_than_one_of_a_second() {
    let ms = Duration::from_millis;
    let rotation = |rotation| Lifetime {
        rotation,
        ..default_lifetime()
    };
    for lifetime in [
        default_lifetime(),
        lazy().lifetime,
        rotation(Rotation::Replaces),
        Lifetime {
            cap: Some(ms(10)),
            ..default_lifetime()
        },
        Lifetime {
            idle: Some(ms(10)),
            ..default_lifetime()
        },
        Lifetime {
            refresh_before: Some(MINUTE),
            ..default_lifetime()
        },
        Lifetime {
            min_remaining: MINUTE,
            ..default_lifetime()
        },
    ] {
        let capped = lifetime.cap.is_some() || lifetime.idle.is_some();
        for life in [ms(1), ms(10), ms(500), ms(999), SEC, 2 * SEC] {
            for took in [0, 5, 300] {
                let script = Script::always(Reply::Token(life));
                *script.took.lock().unwrap() = ms(took);
                let keeper = start(&script, with(lifetime.clone()));
                let end = within(MINUTE);
                while BootInstant::now() < end {
                    let _ = keeper.wait(within(SEC)).await;
                    let _ = keeper.wait_fresh(within(SEC)).await;
                    pass(ms(20)).await;
                }
                let least = if life < SEC || capped { 5.0 } else { 0.2 };
                let gaps = script.gaps();
                assert!(
                    gaps.iter().all(|gap| *gap >= least),
                    "{lifetime:?} {life:?} {took}: {gaps:?}"
                );
                assert!(script.count() >= 2, "and it is not given up");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_children_of_a_fleeting_parent_do_not_hammer_either() {
    let (parents, script) = (
        Script::always(Reply::Token(Duration::from_millis(10))),
        Script::always(Reply::Token(Duration::from_millis(10))),
    );
    for script in [&parents, &script] {
        *script.took.lock().unwrap() = Duration::from_millis(1);
    }
    let parent = start(&parents, policy());
    let child = start_with(
        &script,
        vec![parent],
        Arc::new(MemoryLedger::default()),
        policy(),
    );
    let end = within(MINUTE);
    while BootInstant::now() < end {
        let _ = child.wait(within(SEC)).await;
        pass(SEC / 20).await;
    }
    for script in [&parents, &script] {
        assert!(
            script.count() >= 2 && script.gaps().iter().all(|gap| *gap >= 5.0),
            "{:?}",
            script.gaps()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_unused_token_rests_and_the_next_use_wakes_it() {
    let script = Script::always(Reply::Token(300 * SEC));
    let keeper = start(&script, policy());
    pass(2 * 3600 * SEC).await;
    let calls = script.count();
    assert!(
        (15..=18).contains(&calls),
        "{calls}: it stopped after an hour"
    );
    assert_eq!(
        (keeper.status().activity, script.events("Resting")),
        (Activity::Resting, 1)
    );
    assert!(keeper.wait(within(SEC)).await.is_ok());
    pass(1000 * SEC).await;
    assert!(script.count() >= calls + 5, "renewed again");
}

#[tokio::test(start_paused = true)]
async fn a_use_of_a_token_that_rests_with_life_left_is_noticed() {
    let script = Script::always(Reply::Token(300 * SEC));
    let keeper = start(
        &script,
        with(Lifetime {
            rest_after: 100 * SEC,
            ..default_lifetime()
        }),
    );
    pass(200 * SEC).await;
    assert_eq!(keeper.status().activity, Activity::Resting);
    assert!(keeper.get(BootInstant::now()).is_some());
    pass(60 * SEC).await;
    assert_eq!(script.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_lazy_token_is_fetched_when_needed_and_not_before() {
    let script = Script::always(Reply::Token(300 * SEC));
    let keeper = start(&script, lazy());
    keeper.wait(within(SEC)).await.unwrap();
    pass(3600 * SEC).await;
    assert_eq!(script.count(), 1);
    assert_eq!(keeper.wait(within(SEC)).await.unwrap().number, 2);
}

#[tokio::test(start_paused = true)]
async fn an_idle_token_dies_of_disuse_and_a_use_moves_its_end() {
    let script = Script::always(Reply::Token(3600 * SEC));
    let keeper = start(
        &script,
        KeeperPolicy {
            lifetime: Lifetime {
                idle: Some(600 * SEC),
                ..lazy().lifetime
            },
            ..policy()
        },
    );
    keeper.wait(within(SEC)).await.unwrap();
    for _ in 0..3 {
        pass(500 * SEC).await;
        assert!(keeper.get(BootInstant::now()).is_some());
    }
    pass(580 * SEC).await;
    assert!(keeper.get(BootInstant::now()).is_none());
    assert_eq!(keeper.wait(within(SEC)).await.unwrap().number, 2);
}

#[tokio::test(start_paused = true)]
async fn a_token_kept_ahead_is_renewed_before_it_dies_of_disuse() {
    let script = Script::always(Reply::Token(3600 * SEC));
    let keeper = start(
        &script,
        with(Lifetime {
            idle: Some(600 * SEC),
            ..default_lifetime()
        }),
    );
    pass(1200 * SEC).await;
    assert_eq!(script.count(), 3);
    assert!(keeper.get(BootInstant::now()).is_some());
}

#[tokio::test(start_paused = true)]
async fn t7_the_same_token_back_is_asked_for_again_at_half_of_what_remains() {
    let dies = within(400 * SEC);
    let script = Script::new(move |_, _| Reply::Same("same", BootInstant::now().until(dies)));
    let keeper = start(&script, policy());
    pass(399 * SEC).await;
    let gaps = script.gaps();
    assert!(gaps[0] > 280.0, "{gaps:?}");
    assert!(gaps[1..].iter().all(|gap| *gap >= 5.0), "{gaps:?}");
    assert_eq!(keeper.status().token.unwrap().number, 1);
}

#[tokio::test(start_paused = true)]
async fn t8_a_token_that_replaces_the_old_one_is_not_fetched_before_the_old_one_is_done_with() {
    let script = Script::always(Reply::Token(300 * SEC));
    let keeper = start(
        &script,
        with(Lifetime {
            rotation: Rotation::Replaces,
            ..default_lifetime()
        }),
    );
    keeper.wait_settled().await;
    used(&keeper, SEC, 1000 * SEC).await;
    assert!(
        script.gaps().iter().all(|gap| (270.0..270.1).contains(gap)),
        "{:?}",
        script.gaps()
    );
    assert!(keeper.get(BootInstant::now()).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_wants_life_left_gets_a_fresh_token() {
    let script = Script::always(Reply::Token(3600 * SEC));
    let keeper = start(
        &script,
        KeeperPolicy {
            lifetime: Lifetime {
                min_remaining: 600 * SEC,
                ..lazy().lifetime
            },
            ..policy()
        },
    );
    assert_eq!(keeper.wait_fresh(within(SEC)).await.unwrap().number, 1);
    pass(2900 * SEC).await;
    assert_eq!(keeper.wait_fresh(within(SEC)).await.unwrap().number, 1);
    pass(200 * SEC).await;
    assert_eq!(keeper.wait(within(SEC)).await.unwrap().number, 1);
    assert_eq!(keeper.wait_fresh(within(SEC)).await.unwrap().number, 2);
    pass(3100 * SEC).await;
    script.answer(|_, _| fail(FailureClass::Retry));
    assert_eq!(
        keeper.wait_fresh(within(SEC)).await.unwrap().number,
        2,
        "better than none"
    );
}

#[tokio::test(start_paused = true)]
async fn tokens_shorter_than_the_life_wanted_do_not_cost_a_call_each_time() {
    let script = Script::always(Reply::Token(300 * SEC));
    let keeper = start(
        &script,
        KeeperPolicy {
            lifetime: Lifetime {
                min_remaining: 600 * SEC,
                ..lazy().lifetime
            },
            ..policy()
        },
    );
    for _ in 0..100 {
        assert!(keeper.wait_fresh(within(SEC)).await.is_ok());
    }
    assert_eq!(script.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_new_lifetime_reaches_a_running_token() {
    let script = Script::always(Reply::Token(3600 * SEC));
    let keeper = start(&script, policy());
    keeper.wait_settled().await;
    keeper.change_policy(with(Lifetime {
        cap: Some(100 * SEC),
        ..default_lifetime()
    }));
    pass(95 * SEC).await;
    assert_eq!(script.count(), 2);
    assert_eq!(keeper.get(BootInstant::now()).unwrap().number, 2);
}

#[tokio::test(start_paused = true)]
async fn a_dying_token_that_comes_back_is_not_asked_for_within_5_s_whoever_waits() {
    let script = Script::always(Reply::Same("same", 2 * SEC));
    let keeper = start(&script, policy());
    let end = within(MINUTE);
    while BootInstant::now() < end {
        // Refused at once while there is none: the caller comes again.
        let _ = keeper.wait(within(SEC)).await;
        pass(SEC / 10).await;
    }
    assert!(
        script.gaps()[1..].iter().all(|gap| *gap >= 5.0),
        "{:?}",
        script.gaps()
    );
    assert!(script.count() > 5);
}

/// The largest distance between what was seen and an even spread over `0..1`, times the root of
/// their number: above 2.5 once in 100,000.
fn kolmogorov_smirnov(mut seen: Vec<f64>) -> f64 {
    seen.sort_by(f64::total_cmp);
    let n = f64::from(u32::try_from(seen.len()).unwrap());
    let apart = seen.iter().zip(0u32..).map(|(x, i)| {
        (x - f64::from(i) / n)
            .abs()
            .max((x - f64::from(i + 1) / n).abs())
    });
    apart.fold(0.0, f64::max) * n.sqrt()
}

#[tokio::test(start_paused = true)]
async fn l2_l3_a_thousand_that_began_in_the_same_second_renew_evenly_over_a_tenth_of_the_life() {
    let life = 1000 * SEC;
    let scripts: Vec<_> = (0..1000)
        .map(|_| Script::always(Reply::Token(life)))
        .collect();
    let _keepers: Vec<_> = scripts
        .iter()
        .map(|script| start(script, policy()))
        .collect();
    pass(900 * SEC).await;
    assert!(scripts.iter().all(|script| script.count() == 2));
    let phases = scripts
        .iter()
        .map(|script| script.gaps()[0])
        .collect::<Vec<_>>();
    assert!(
        phases.iter().all(|phase| (700.0..=800.1).contains(phase)),
        "{phases:?}"
    );
    let spread = kolmogorov_smirnov(phases.iter().map(|phase| (phase - 700.0) / 100.0).collect());
    assert!(spread < 2.5, "{spread}: {phases:?}");
    assert!(
        kolmogorov_smirnov(vec![0.5; 1000]) > 10.0,
        "it tells a crowd from an even spread"
    );
}
