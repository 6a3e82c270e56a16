//! Refreshes that an operator asks for: when they are made, and that none is forgotten.

use super::*;

fn at(refreshed: Refreshed) -> Now {
    match refreshed {
        Refreshed::At(at) => at,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn asked_within_a_second_of_the_last_call_it_is_made_a_second_after_that() {
    let script = Script::always(Reply::Token(3600 * SEC));
    let keeper = start(&script, tuning());
    keeper.settled().await;
    let first = script.calls.lock().unwrap()[0];
    // To the millisecond.
    let second = |at: Now| (Duration::from_millis(999)..=SEC).contains(&first.until(at));
    assert!(second(at(keeper.refresh(Now::now()))));
    assert!(
        second(at(keeper.refresh(Now::now()))),
        "asked for again, it is one"
    );
    pass(MINUTE).await;
    assert!(
        matches!(script.gaps()[..], [gap] if (0.999..1.01).contains(&gap)),
        "{:?}",
        script.gaps()
    );
}

#[tokio::test(start_paused = true)]
async fn asked_while_a_call_runs_it_is_made_once_more() {
    let script = Script::always(Reply::Token(3600 * SEC));
    *script.took.lock().unwrap() = 3 * SEC;
    let keeper = start(&script, tuning());
    pass(2 * SEC).await;
    keeper.refresh(Now::now());
    pass(MINUTE).await;
    assert_eq!(
        (script.count(), keeper.get(Now::now()).unwrap().number),
        (2, 2)
    );
}

#[tokio::test(start_paused = true)]
async fn what_the_vendor_or_the_guard_forbids_is_made_at_the_moment_they_allow() {
    let told = |class| {
        Reply::Fail(Failure {
            wait: Some(42 * SEC),
            ..failure(class)
        })
    };
    for second in [told(Class::Throttled), told(Class::Rejected)] {
        let script = Script::list(vec![
            Reply::Token(3600 * SEC),
            second,
            Reply::Token(3600 * SEC),
        ]);
        let keeper = start(&script, tuning());
        pass(5 * SEC).await;
        keeper.refresh(Now::now());
        pass(2 * SEC).await;
        let opens = at(keeper.refresh(Now::now()));
        assert!(
            (39 * SEC..42 * SEC).contains(&Now::now().until(opens)),
            "{:?}",
            Now::now().until(opens)
        );
        pass(MINUTE).await;
        let calls = script.calls.lock().unwrap().clone();
        assert_eq!(calls.len(), 3, "the living token asked for none of them");
        assert!(opens.until(calls[2]) < SEC / 10 && calls[2] >= opens);
    }
}

#[tokio::test(start_paused = true)]
async fn a_budget_that_is_used_up_delays_it_and_does_not_swallow_it() {
    let script = Script::always(Reply::Token(3600 * SEC));
    let limits = Limits {
        rate: vec![crate::token::Rate { n: 1, per: MINUTE }],
        ..tuning().limits
    };
    let keeper = start(&script, Tuning { limits, ..tuning() });
    pass(5 * SEC).await;
    keeper.refresh(Now::now());
    pass(2 * MINUTE).await;
    assert_eq!(script.count(), 2);
    assert!(
        (59.9..60.2).contains(&script.gaps()[0]),
        "{:?}",
        script.gaps()
    );
}

#[tokio::test(start_paused = true)]
async fn a_latch_without_an_end_is_said_and_the_wish_outlives_it() {
    let script = Script::always(fail(Class::Rejected));
    let keeper = start(
        &script,
        Tuning {
            limits: Limits {
                hold: Hold::UntilSecretChanges,
                max_rejections: 1,
                ..tuning().limits
            },
            ..tuning()
        },
    );
    keeper.settled().await;
    assert_eq!(keeper.refresh(Now::now()), Refreshed::Latched);
    pass(10 * MINUTE).await;
    assert_eq!(script.count(), 1);
    script.answer(|_, _| Reply::Token(3600 * SEC));
    *script.key.lock().unwrap() = Some(key(2));
    keeper.secret_changed();
    pass(MINUTE).await;
    assert_eq!(script.count(), 2, "one call is all of it");
}

#[tokio::test(start_paused = true)]
async fn the_guard_s_memory_that_fails_delays_it() {
    let script = Script::always(Reply::Token(3600 * SEC));
    *script.unreadable.lock().unwrap() = true;
    let keeper = start(&script, lazy());
    keeper.refresh(Now::now());
    pass(SEC).await;
    let looked = script.prepared.load(SeqCst);
    assert_eq!(
        (looked, script.count()),
        (1, 0),
        "a look at what cannot be read is an outcome, and no hot loop"
    );
    *script.unreadable.lock().unwrap() = false;
    keeper.refresh(Now::now());
    pass(SEC).await;
    assert_eq!(script.count(), 1, "which is not waited for a second time");
}

#[tokio::test(start_paused = true)]
async fn for_later_is_made_later_and_any_call_in_between_is_as_good() {
    let script = Script::always(Reply::Token(3600 * SEC));
    let keeper = start(&script, tuning());
    pass(5 * SEC).await;
    let later = within(40 * SEC);
    assert_eq!(at(keeper.refresh(later)), later);
    pass(39 * SEC).await;
    assert_eq!(script.count(), 1);
    pass(2 * SEC).await;
    assert_eq!(script.count(), 2);
    keeper.refresh(within(40 * SEC));
    assert!(
        at(keeper.refresh(Now::now())) <= Now::now(),
        "sooner is sooner"
    );
    pass(5 * MINUTE).await;
    assert_eq!(script.count(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_child_whose_parent_can_t_be_had_is_fetched_anew_when_it_can() {
    let parents = Script::list(vec![
        Reply::Token(20 * SEC),
        fail(Class::Config),
        Reply::Token(3600 * SEC),
    ]);
    *parents.key.lock().unwrap() = None;
    let script = Script::always(Reply::Token(3600 * SEC));
    let parent = start(&parents, tuning());
    let child = start_with(
        &script,
        vec![Arc::clone(&parent)],
        Arc::new(Memory::default()),
        tuning(),
    );
    child.settled().await;
    pass(25 * SEC).await;
    assert!(parent.get(Now::now()).is_none(), "its next attempt is held");
    child.refresh(Now::now());
    pass(5 * SEC).await;
    assert_eq!(script.count(), 1);
    pass(2 * MINUTE).await;
    assert_eq!(script.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn after_sigterm_it_is_not_made_and_that_is_said() {
    let script = Script::always(Reply::Token(3600 * SEC));
    let keeper = start(&script, tuning());
    pass(5 * SEC).await;
    keeper.slot.drain();
    assert_eq!(keeper.refresh(Now::now()), Refreshed::Draining);
    pass(MINUTE).await;
    assert_eq!(script.count(), 1);
}
