//! The engine as a state machine: keepers that share a ledger and a chain, random steps, and what
//! must be so after each of them.
//!
//! `CUPBEARER_MACHINE_STEPS` is how many steps are made in all (100,000).

#![expect(
    clippy::disallowed_methods,
    reason = "a waiter's patience is measured on tokio's clock, which a suspend does not move"
)]

mod steps;

use proptest::{
    collection::vec,
    prelude::{TestCaseError, any},
    test_runner::{Config, TestError, TestRunner},
};
use tokio::task::JoinHandle;

use self::steps::{Ends, Step, steps};
use super::*;
use crate::{
    clock::{BootInstant, simulate_suspend},
    token::{
        failure::Failure,
        fetch::Fetch,
        ledger::Ledger,
        policy::{KeeperPolicy, LockoutPolicy, Rate},
        schedule::Lifetime,
        share::Unshared,
    },
};

const STEPS: usize = 400;
const MS: Duration = Duration::from_millis(1);
/// A parent, its child, and one that shares the parent's secret.
const KEEPERS: usize = 3;
const PARENT: usize = 0;
const CHILD: usize = 1;

/// What one endpoint saw of one keeper; and the rules it holds it to.
struct KeeperView {
    ends: Ends,
    takes: Duration,
    unreadable: bool,
    key: GuardKey,
    running: usize,
    calls: u64,
    /// The newest token: value, and until when it may be sent by the rule of `promises.md#life`.
    newest: Option<(String, BootInstant)>,
    /// When each value really dies.
    deaths: BTreeMap<String, BootInstant>,
    /// After the last failure: no call before this moment, and why.
    not_before: Option<(BootInstant, FailureClass)>,
    /// Since the last call began: an operator asked; a secret or the configuration changed.
    asked: bool,
    changed: bool,
}

/// What all of them sent with one secret.
#[derive(Default)]
struct Tries {
    running: u32,
    refused: u32,
    /// When the last refusal came.
    last: Option<BootInstant>,
}

struct Bystander {
    seen: Mutex<Vec<KeeperView>>,
    tries: Mutex<BTreeMap<[u8; 32], Tries>>,
    latch_is_final: bool,
    broken: Mutex<Vec<String>>,
    calls: AtomicUsize,
}

impl Bystander {
    fn broken(&self, what: String) {
        self.broken.lock().unwrap().push(what);
    }

    /// A call leaves: may it?
    fn leaves(&self, me: usize, key: &GuardKey) {
        let now = BootInstant::now();
        self.calls.fetch_add(1, SeqCst);
        let mut all = self.seen.lock().unwrap();
        let seen = &mut all[me];
        seen.running += 1;
        seen.calls += 1;
        if seen.running > 1 {
            self.broken(format!("keeper {me} makes {} calls at once", seen.running));
        }
        if let Some((end, class)) = seen.not_before.take()
            && now < end
        {
            let excused = match class {
                FailureClass::Retry => seen.asked,
                FailureClass::Config => seen.asked || seen.changed,
                // A child's refusal may be its parent's fault: once more at once. The guard counts
                // it all the same, see below.
                FailureClass::Rejected => seen.changed || me == CHILD,
                FailureClass::Throttled | FailureClass::Unreadable => false,
            };
            if !excused {
                self.broken(format!(
                    "keeper {me} calls {:?} too soon after {class:?}",
                    now.until(end)
                ));
            }
        }
        (seen.asked, seen.changed) = (false, false);
        let mut tries = self.tries.lock().unwrap();
        let tries = tries.entry(key.secret).or_default();
        tries.running += 1;
        if tries.refused + tries.running > 2
            && (self.latch_is_final || tries.refused < 2 || tries.running > 1)
        {
            self.broken(format!(
                "{} refused and {} under way with one secret",
                tries.refused, tries.running
            ));
        }
        let pause = if tries.refused >= 2 { MINUTE } else { 30 * SEC };
        if let Some(last) = tries.last
            && (me != CHILD || tries.refused >= 2)
            && now < last.after(pause)
        {
            self.broken(format!(
                "keeper {me} tries a refused secret again after {:?}",
                last.until(now)
            ));
        }
    }

    /// What a call ends with; `None`: it panics.
    fn arrives(
        &self,
        me: usize,
        key: &GuardKey,
        ends: Ends,
        sent: BootInstant,
    ) -> Option<Result<Issued, Failure>> {
        let now = BootInstant::now();
        let mut all = self.seen.lock().unwrap();
        let seen = &mut all[me];
        seen.running -= 1;
        let mut tries = self.tries.lock().unwrap();
        let tries = tries.entry(key.secret).or_default();
        tries.running -= 1;
        let (value, life) = match ends {
            Ends::Token(secs) => (format!("{me}-{}", seen.calls), Duration::from_secs(secs)),
            Ends::Same(secs) => (format!("{me}-same"), Duration::from_secs(secs)),
            Ends::Fails(class, wait) => {
                let wait = wait.map(Duration::from_secs);
                let least = match class {
                    FailureClass::Throttled if wait.is_none() => 5 * SEC,
                    FailureClass::Retry | FailureClass::Throttled => SEC / 10,
                    FailureClass::Config => MINUTE,
                    // The pause after a refusal is the secret's, not the keeper's: see `leaves`.
                    FailureClass::Rejected | FailureClass::Unreadable => Duration::ZERO,
                };
                seen.not_before = Some((now.after(least.max(wait.unwrap_or_default())), class));
                if class == FailureClass::Rejected {
                    tries.refused += 1;
                    tries.last = Some(now);
                }
                return Some(Err(Failure {
                    wait,
                    ..failure(class)
                }));
            }
            Ends::Panics => {
                // To the guard it is an attempt that may have been refused. Here it was not.
                seen.not_before = Some((now.after(SEC / 10), FailureClass::Retry));
                return None;
            }
        };
        *tries = Tries {
            running: tries.running,
            ..Tries::default()
        };
        seen.deaths.insert(value.clone(), sent.after(life));
        let send_until = sent.after(life.saturating_sub((life / 10).min(30 * SEC)));
        if now < send_until
            || seen
                .newest
                .as_ref()
                .is_some_and(|(newest, _)| *newest == value)
        {
            seen.newest = Some((value.clone(), send_until));
        }
        Some(Ok(issued(&value, sent, life)))
    }

    /// A token that was handed out: is it alive?
    fn check_token(&self, me: usize, token: &Token) {
        let now = BootInstant::now();
        let dead = self.seen.lock().unwrap()[me]
            .deaths
            .get(token.issued.value.as_str())
            .is_none_or(|death| now >= *death);
        if dead || now >= token.send_until || token.send_until > token.expires {
            self.broken(format!(
                "keeper {me} hands out a token that is past its time"
            ));
        }
    }
}

struct Endpoint(Arc<Bystander>, usize);

struct LeavingCall(Arc<Bystander>, usize, GuardKey);

impl Fetch for Endpoint {
    fn prepare<'a>(
        &'a self,
        _: &'a [Arc<Token>],
    ) -> BoxFuture<'a, Result<Box<dyn PreparedCall>, Failure>> {
        let seen = self.0.seen.lock().unwrap();
        let ready: Result<Box<dyn PreparedCall>, Failure> = if seen[self.1].unreadable {
            Err(failure(FailureClass::Unreadable))
        } else {
            Ok(Box::new(LeavingCall(
                Arc::clone(&self.0),
                self.1,
                seen[self.1].key.clone(),
            )))
        };
        Box::pin(std::future::ready(ready))
    }
    fn report(&self, _: KeeperEvent<'_>) {}
}

impl PreparedCall for LeavingCall {
    fn key(&self) -> Option<&GuardKey> {
        Some(&self.2)
    }
    fn send(self: Box<Self>) -> BoxFuture<'static, Result<Issued, Failure>> {
        Box::pin(async move {
            let Self(bystander, me, key) = *self;
            let sent = BootInstant::now();
            bystander.leaves(me, &key);
            let (ends, takes) = {
                let seen = bystander.seen.lock().unwrap();
                (seen[me].ends, seen[me].takes)
            };
            sleep(takes).await;
            // Without the hook: the text of thousands of panics would be the slowest part.
            bystander
                .arrives(me, &key, ends, sent)
                .unwrap_or_else(|| std::panic::resume_unwind(Box::new("made up")))
        })
    }
}

/// Until when it must have been answered.
struct Waiter(tokio::time::Instant, JoinHandle<()>);

fn lifetimes(which: u8) -> Lifetime {
    match which {
        0 => default_lifetime(),
        1 => Lifetime {
            refresh: RefreshMode::Lazy,
            ..default_lifetime()
        },
        2 => Lifetime {
            refresh_before: Some(40 * SEC),
            rest_after: 2 * MINUTE,
            ..default_lifetime()
        },
        _ => Lifetime {
            min_remaining: 5 * MINUTE,
            ..default_lifetime()
        },
    }
}

async fn play(steps: Vec<Step>, latch_is_final: bool) -> Result<usize, String> {
    let secret = |n: u64| GuardKey {
        secret: std::array::from_fn(|i| n.to_be_bytes().get(i).copied().unwrap_or(0)),
        ..key(0)
    };
    let start = |me| KeeperView {
        ends: Ends::Token(300),
        takes: SEC / 10,
        unreadable: false,
        key: secret(u64::from(me == CHILD)),
        running: 0,
        calls: 0,
        newest: None,
        deaths: BTreeMap::new(),
        not_before: None,
        asked: false,
        changed: false,
    };
    let bystander = Arc::new(Bystander {
        seen: Mutex::new((0..KEEPERS).map(start).collect()),
        tries: Mutex::default(),
        latch_is_final,
        broken: Mutex::default(),
        calls: AtomicUsize::new(0),
    });
    let hold = if latch_is_final {
        Hold::UntilSecretChanges
    } else {
        Hold::For(MINUTE)
    };
    let limits = LockoutPolicy {
        rate: vec![Rate {
            n: 1000,
            per: MINUTE,
        }],
        max_rejections: 2,
        hold,
        account_rejections: None,
    };
    let policy_of = |which| KeeperPolicy {
        lifetime: lifetimes(which),
        limits: limits.clone(),
    };
    let ledger: Arc<dyn Ledger> = Arc::new(MemoryLedger::default());
    let spawn = |me: usize, parents| {
        let fetch = Arc::new(Endpoint(Arc::clone(&bystander), me));
        Keeper::spawn(
            named(["parent", "child", "twin"][me]),
            parents,
            fetch,
            Arc::clone(&ledger),
            Arc::new(Unshared),
            policy_of(0),
        )
    };
    let parent = spawn(PARENT, vec![]);
    let keepers = [
        Arc::clone(&parent),
        spawn(CHILD, vec![parent]),
        spawn(2, vec![]),
    ];
    let mut secrets = 2;
    // A refusal of the API caused a refresh, that may still run.
    let mut barred = [false; KEEPERS];
    let mut waiters: Vec<Waiter> = Vec::new();
    let told = |k: usize, asked: bool| {
        let mut seen = bystander.seen.lock().unwrap();
        if asked {
            seen[k].asked = true;
        } else {
            seen[k].changed = true;
        }
    };
    for (n, step) in steps.iter().enumerate() {
        match *step {
            Step::Pass(ms) => sleep(MS * u32::try_from(ms).unwrap()).await,
            Step::Suspend(ms) => simulate_suspend(Duration::from_millis(ms)),
            Step::Reply(k, ends) => bystander.seen.lock().unwrap()[k].ends = ends,
            Step::Takes(k, ms) => {
                bystander.seen.lock().unwrap()[k].takes = Duration::from_millis(ms);
            }
            Step::Unreadable(k, so) => bystander.seen.lock().unwrap()[k].unreadable = so,
            Step::Refuse(k, age) => {
                let number = keepers[k]
                    .status()
                    .token
                    .map_or(0, |t| t.number)
                    .saturating_sub(age);
                let before = keepers[k].get(BootInstant::now());
                keepers[k].reject(number);
                let after = keepers[k].get(BootInstant::now());
                if age > 0 && before.is_some() != after.is_some() {
                    bystander.broken(format!(
                        "keeper {k} bars a token for the refusal of an older one"
                    ));
                }
                barred[k] |= before.is_some() && after.is_none();
            }
            Step::Accept(k) => {
                keepers[k].accept(keepers[k].status().token.map_or(0, |t| t.number));
                let token = keepers[k]
                    .status()
                    .token
                    .filter(|t| keepers[k].slot.is_sendable(t, BootInstant::now()));
                if token.is_some() && keepers[k].get(BootInstant::now()).is_none() {
                    bystander.broken(format!(
                        "keeper {k} bars a token that was accepted after its refusal"
                    ));
                }
            }
            Step::RefreshMode(k) => {
                told(k, true);
                keepers[k].refresh(within(if k == PARENT {
                    20 * SEC
                } else {
                    Duration::ZERO
                }));
            }
            Step::Unlatch(k) => {
                told(k, false);
                if let Some(key) = keepers[k].slot.last_key() {
                    let mut tries = bystander.tries.lock().unwrap();
                    let tries = tries.entry(key.secret).or_default();
                    *tries = Tries {
                        running: tries.running,
                        ..Tries::default()
                    };
                }
                Keeper::unlatch(&keepers[k..=k], &*ledger, []).await;
            }
            Step::Rotate(child) => {
                secrets += 1;
                for k in (0..KEEPERS).filter(|k| (*k == CHILD) == child) {
                    told(k, false);
                    bystander.seen.lock().unwrap()[k].key = secret(secrets);
                    keepers[k].note_change();
                }
            }
            Step::Retune(k, which) => {
                told(k, false);
                keepers[k].change_policy(policy_of(which));
                // A rumour as well, for what the secret has been all the time.
                if which == 0 {
                    keepers[k].note_change();
                }
            }
            Step::Arrive(k, ms, fresh) => {
                let (keeper, bystander, patience) = (
                    Arc::clone(&keepers[k]),
                    Arc::clone(&bystander),
                    Duration::from_millis(ms),
                );
                let latest = tokio::time::Instant::now() + patience + 10 * MS;
                let task = tokio::spawn(async move {
                    let until = within(patience);
                    let answer = if fresh {
                        keeper.wait_fresh(until).await
                    } else {
                        keeper.wait(until).await
                    };
                    if let Ok(token) = answer {
                        bystander.check_token(k, &token);
                    }
                });
                waiters.push(Waiter(latest, task));
            }
            Step::Leave => waiters
                .drain(..waiters.len().min(1))
                .for_each(|w| w.1.abort()),
        }
        // All that is due now happens now.
        sleep(MS).await;
        for (k, keeper) in keepers.iter().enumerate() {
            let got = keeper.get(BootInstant::now());
            if let Some(token) = &got {
                bystander.check_token(k, token);
            }
            let seen = bystander.seen.lock().unwrap();
            if let Some((value, until)) = &seen[k].newest
                && BootInstant::now() < *until
                && got.as_ref().is_none_or(|t| t.issued.value.as_str() != value)
                // One that was refused waits for its refresh, for whose parents it may wait in
                // turn.
                && !(got.is_none() && barred[k] && keeper.slot.refusal_pending())
            {
                bystander.broken(format!(
                    "keeper {k} has lost a token that may still be sent"
                ));
            }
            if let Some(token) = got.filter(|t| !keeper.may_send(t.number)) {
                bystander.broken(format!(
                    "keeper {k} hands out generation {} that is refused and being renewed",
                    token.number
                ));
            }
        }
        for (barred, keeper) in barred.iter_mut().zip(&keepers) {
            *barred &= keeper.slot.refusal_pending();
        }
        waiters.retain(|w| !w.1.is_finished());
        if waiters.iter().any(|w| tokio::time::Instant::now() > w.0) {
            bystander.broken("a waiter was not answered in time".into());
        }
        if let Some(what) = bystander.broken.lock().unwrap().first() {
            return Err(format!("step {n}, {step:?}: {what}"));
        }
    }
    for k in 0..KEEPERS {
        told(k, false);
        secrets += 1;
        let mut seen = bystander.seen.lock().unwrap();
        (seen[k].ends, seen[k].takes, seen[k].unreadable, seen[k].key) =
            (Ends::Token(3600), SEC, false, secret(secrets));
        keepers[k].note_change();
    }
    for keeper in &keepers {
        keeper
            .wait(within(120 * MINUTE))
            .await
            .map_err(|u| format!("it never healed: {u:?}"))?;
        if keeper.waiters() > waiters.iter().filter(|w| !w.1.is_finished()).count() + 1 {
            return Err("waiters are counted that are gone".into());
        }
    }
    Ok(bystander.calls.load(SeqCst))
}

#[test]
fn whatever_happens_in_whatever_order_the_invariants_hold() {
    let wanted = std::env::var("CUPBEARER_MACHINE_STEPS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(100_000);
    let cases = u32::try_from(usize::div_ceil(wanted, STEPS)).unwrap();
    let config = Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: 2000,
        ..Config::default()
    };
    let calls = AtomicUsize::new(0);
    let result = TestRunner::new(config).run(
        &(vec(steps(), STEPS / 2..=STEPS * 3 / 2), any::<bool>()),
        |(steps, latch_is_final)| {
            // A thread of its own: a simulated suspend holds for the thread.
            let played = std::thread::spawn(move || {
                let mut runtime = tokio::runtime::Builder::new_current_thread();
                runtime
                    .enable_time()
                    .start_paused(true)
                    .build()
                    .unwrap()
                    .block_on(play(steps, latch_is_final))
            });
            let played = played
                .join()
                .map_err(|_| TestCaseError::fail("it panicked"))?;
            calls.fetch_add(played.map_err(TestCaseError::fail)?, SeqCst);
            Ok(())
        },
    );
    match result {
        Ok(()) => println!(
            "{} steps, {} token calls",
            cases as usize * STEPS,
            calls.load(SeqCst)
        ),
        Err(TestError::Fail(why, (steps, latch_is_final))) => {
            panic!("{why}, latch is final: {latch_is_final}, {steps:?}")
        }
        Err(TestError::Abort(why)) => panic!("{why}"),
    }
}
