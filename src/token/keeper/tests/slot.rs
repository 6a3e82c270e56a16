//! The slot by itself: to the millisecond, and what is worth telling those who watch.

use arc_swap::ArcSwapOption;

use super::*;
use crate::{
    clock::BootInstant,
    token::{
        pause::{Pause, PauseReason},
        policy::KeeperPolicy,
        schedule::Lifetime,
        slot::{KeeperState, Slot},
        store::Store,
    },
};

/// A slot with a token obtained now that lives for a hundred seconds, and is sent for ninety.
fn slot(policy: KeeperPolicy) -> (Slot, BootInstant, Arc<Token>) {
    let now = BootInstant::now();
    let token = Arc::new(Token {
        number: 1,
        issued: issued("made up", now, 100 * SEC),
        parents: vec![],
        expires: now.after(100 * SEC),
        send_until: now.after(90 * SEC),
        refresh_at: now.after(80 * SEC),
    });
    let slot = Slot::new(named("access"), policy, now);
    slot.token.store(Some(token.clone()));
    (slot, now, token)
}

const MS: Duration = Duration::from_millis(1);

#[tokio::test(start_paused = true)]
async fn a_token_is_sent_until_its_last_moment_and_not_in_it() {
    let (slot, now, _) = slot(policy());
    assert!(slot.get(now.after(90 * SEC).before(MS)).is_some());
    assert!(slot.get(now.after(90 * SEC)).is_none());
    let empty = Slot::new(named("access"), policy(), now);
    assert!(ArcSwapOption::load(&empty.token).is_none() && empty.get(now).is_none());
}

#[tokio::test(start_paused = true)]
async fn disuse_ends_it_to_the_millisecond_and_a_use_begins_it_anew() {
    let idle = KeeperPolicy {
        lifetime: Lifetime {
            idle: Some(20 * SEC),
            ..default_lifetime()
        },
        ..policy()
    };
    let (slot, now, token) = slot(idle);
    let lasts = slot
        .policy()
        .1
        .lifetime
        .idle_until(BootInstant::default())
        .expect("idle is set")
        .millis();
    let lasts = Duration::from_millis(lasts);
    assert!(
        !slot.is_sendable(&token, now.after(lasts)),
        "its use was at its birth"
    );
    assert!(slot.get(now.after(lasts).before(MS)).is_some());
    let used = now.after(lasts).before(MS);
    assert!(slot.is_sendable(&token, used.after(lasts).before(MS)));
    assert!(!slot.is_sendable(&token, used.after(lasts)));
}

#[tokio::test(start_paused = true)]
async fn a_token_given_again_is_fresh_until_its_next_planned_fetch() {
    let vended = KeeperPolicy {
        lifetime: Lifetime {
            min_remaining: 60 * SEC,
            ..default_lifetime()
        },
        ..policy()
    };
    let (slot, now, token) = slot(vended);
    assert!(slot.is_fresh(&token, now.after(40 * SEC)));
    assert!(!slot.is_fresh(&token, now.after(40 * SEC + MS)));
    slot.unchanged.store(true, SeqCst);
    assert!(slot.is_fresh(&token, now.after(80 * SEC).before(MS)));
    assert!(!slot.is_fresh(&token, now.after(80 * SEC)));
}

#[tokio::test(start_paused = true)]
async fn asking_in_vain_is_a_need_and_no_use() {
    let (slot, now, token) = slot(policy());
    let later = now.after(30 * SEC);
    assert_eq!(slot.unused_for(later), 30 * SEC);
    slot.note_demand(later);
    assert_eq!(
        (slot.unused_for(later.after(SEC)), slot.last_use(&token)),
        (SEC, now.millis())
    );
}

#[test]
fn what_ends_a_pause_is_what_is_promised() {
    use PauseReason::{Budget, Config, Latched, NoMemory, Rejected, Retry, Throttled, Unreadable};
    for (kind, by_change, by_hand) in [
        (Retry, false, true),
        (Throttled, false, false),
        (Budget, false, false),
        (Rejected, true, false),
        (Latched, true, false),
        (Config, true, true),
        (Unreadable, true, true),
        (NoMemory, true, true),
    ] {
        assert_eq!(
            (kind.opens_on_change(), kind.opens_by_hand()),
            (by_change, by_hand),
            "{kind:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn each_part_of_a_state_is_worth_telling() {
    let (slot, now, _) = slot(policy());
    let state = slot.state.borrow().clone();
    assert!(state.shows_same(&state.clone()));
    let pause = Some(Pause {
        until: None,
        kind: PauseReason::Config,
    });
    let others: [KeeperState; 8] = [
        KeeperState {
            activity: Activity::Due(now),
            ..state.clone()
        },
        KeeperState {
            pause,
            ..state.clone()
        },
        KeeperState {
            parent: Some(0),
            ..state.clone()
        },
        KeeperState {
            failure: Some((Arc::new(failure(FailureClass::Retry)), now)),
            ..state.clone()
        },
        KeeperState {
            settled: true,
            ..state.clone()
        },
        KeeperState {
            unaccepted: true,
            ..state.clone()
        },
        KeeperState {
            rejections: 1,
            ..state.clone()
        },
        KeeperState {
            refusals_done: 1,
            ..state.clone()
        },
    ];
    for other in others {
        assert!(
            !state.shows_same(&other) && other.shows_same(&other.clone()),
            "{other:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn the_store_forgets_keepers_that_have_ended_and_no_other() {
    let (store, script) = (Store::default(), Script::always(Reply::Token(300 * SEC)));
    let get = |n: u8| store.get_or_start([n; 32], || start(&script, policy()));
    let (first, second) = (get(1), get(2));
    assert!(Arc::ptr_eq(&first, &get(1)) && Arc::ptr_eq(&second, &get(2)));
    drop(second);
    let third = get(3);
    assert!(Arc::ptr_eq(&first, &get(1)) && Arc::ptr_eq(&third, &get(3)));
    for n in 100..200 {
        drop(get(n));
        pass(SEC / 100).await;
    }
    assert!(
        store.remembered().0.max(store.remembered().1) <= 64,
        "{:?}",
        store.remembered()
    );
    assert!(Arc::ptr_eq(&first, &get(1)) && Arc::ptr_eq(&third, &get(3)));
    first.wait_settled().await;
    // Calls of all that live are waited for.
    *script.took.lock().unwrap() = MINUTE;
    first.refresh(BootInstant::now());
    pass(2 * SEC).await;
    first.refresh(BootInstant::now());
    pass(SEC / 10).await;
    let before = BootInstant::now();
    store.drain(10 * MINUTE).await;
    assert!(
        before.until(BootInstant::now()) > SEC,
        "{:?}",
        before.until(BootInstant::now())
    );
}

#[tokio::test(start_paused = true)]
async fn twice_as_many_keepers_cost_the_store_twice_as_many_looks() {
    let script = Script::always(Reply::Token(300 * SEC));
    let looks = |count: u16| {
        let store = Store::default();
        let key = |n: u16| std::array::from_fn(|i| n.to_be_bytes()[i % 2]);
        let living: Vec<_> = (0..count)
            .map(|n| store.get_or_start(key(n), || start(&script, policy())))
            .collect();
        assert_eq!(store.remembered(), (living.len(), living.len()));
        store.looked_at()
    };
    let (once, twice) = (looks(500), looks(1000));
    assert!(once <= 1000 && twice <= 2 * once + 64, "{once}, {twice}");
}
