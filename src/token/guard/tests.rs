//! The guard told by hand, then as a state machine against a vendor that counts.

use std::{collections::HashMap, sync::Arc, time::Duration};

use proptest::prelude::*;

use super::*;

const MINUTE: Duration = Duration::from_mins(1);

fn key(partition: Option<&str>) -> GuardKey {
    GuardKey { url: "https://issuer.example/token".into(), secret: [7; 32], partition: partition.map(Into::into) }
}

fn limits(max: u32, hold: Hold) -> Limits {
    Limits { rate: vec![], max_rejections: max, hold }
}

fn ask(credential: &str) -> Ask {
    Ask { credential: credential.into(), parent_renewed: false }
}

fn at(secs: u64) -> Now {
    Now::at(Duration::from_secs(1_000_000 + secs))
}

/// A guard with one way to ask it.
struct Told {
    guard: Guard,
    limits: Limits,
    ask: Ask,
    ids: u64,
}

impl Told {
    fn new(limits: Limits) -> Self {
        Self { guard: Guard::default(), limits, ask: ask("a"), ids: 0 }
    }
    fn spend(&mut self, partition: Option<&str>, secs: u64) -> Answer {
        self.guard.spend(&key(partition), &self.limits, &self.ask, self.ids + 1, at(secs)).tap_go(&mut self.ids)
    }
    fn settle(&mut self, partition: Option<&str>, verdict: Verdict, secs: u64) {
        self.guard.settle(&key(partition), self.ids, verdict, at(secs));
    }
    fn attempt(&mut self, partition: Option<&str>, verdict: Verdict, secs: u64) {
        assert_eq!(self.spend(partition, secs), Answer::Go, "{verdict:?} at {secs}");
        self.settle(partition, verdict, secs);
    }
}

trait TapGo {
    fn tap_go(self, ids: &mut u64) -> Self;
}
impl TapGo for Answer {
    fn tap_go(self, ids: &mut u64) -> Self {
        *ids += u64::from(self == Answer::Go);
        self
    }
}

#[test]
fn a_refused_secret_is_tried_twice_30_s_apart_and_then_latched_for_a_doubling_hold() {
    let mut g = Told::new(limits(2, Hold::For(MINUTE)));
    g.attempt(None, Verdict::Rejected, 0);
    assert_eq!(g.spend(None, 29), Answer::Later(at(30)));
    g.attempt(None, Verdict::Rejected, 30);
    let mut from = 30;
    for hold in [60, 120, 240, 480, 960, 1920, 3600, 3600] {
        assert_eq!(g.spend(None, from + hold - 1), Answer::Latched(Some(at(from + hold))));
        from += hold;
        assert_eq!(g.spend(None, from), Answer::Go);
        assert_eq!(g.spend(None, from), Answer::Busy, "one attempt after each hold");
        g.settle(None, Verdict::Rejected, from);
    }
    let status = g.guard.counted(&key(None), at(from));
    assert_eq!((status.rejections, status.latched), (10, Some(Some(at(from + 3600)))));
}

#[test]
fn an_attempt_that_a_killed_process_made_after_the_hold_closes_the_latch_for_twice_as_long() {
    for partition in [None, Some("x")] {
        let mut g = Told::new(limits(2, Hold::For(MINUTE)));
        // From here on the partition is held alone.
        g.attempt(None, Verdict::Success, 0);
        let verdict = if partition.is_some() { Verdict::RejectedPartition } else { Verdict::Rejected };
        g.attempt(partition, verdict, 0);
        g.attempt(partition, verdict, 30);
        let mut from = 30;
        for hold in [60, 120, 1000, 1000, 1000] {
            from += hold;
            assert_eq!(g.spend(partition, from), Answer::Go, "{partition:?}");
            g.guard.orphan(&key(partition), g.ids, at(from + 5));
            assert!(matches!(g.spend(partition, from + 36), Answer::Latched(Some(until)) if until >= at(from + 120)), "{partition:?}");
        }
        from += 3600;
        assert_eq!(g.spend(partition, from), Answer::Go);
        g.guard.lose(&key(partition), g.ids, at(from + 5));
        assert_eq!(g.spend(partition, from + 36), Answer::Latched(Some(at(from + 3605))), "{partition:?}");
    }
}

#[test]
fn until_the_secret_changes_means_never_again() {
    let mut g = Told::new(limits(2, Hold::UntilSecretChanges));
    g.attempt(None, Verdict::Rejected, 0);
    g.attempt(None, Verdict::Rejected, 30);
    assert_eq!(g.spend(None, 100_000_000), Answer::Latched(None));
    let changed = GuardKey { secret: [8; 32], ..key(None) };
    assert_eq!(g.guard.spend(&changed, &g.limits, &g.ask, 99, at(31)), Answer::Go, "a new secret, at once");
    g.guard.clear(&key(None));
    assert_eq!(g.spend(None, 31), Answer::Go, "unlatched by hand");
}

#[test]
fn success_clears_and_what_says_nothing_of_the_secret_is_given_back() {
    let mut g = Told::new(limits(2, Hold::For(MINUTE)));
    g.attempt(None, Verdict::Rejected, 0);
    for secs in 30..40 {
        g.attempt(None, Verdict::GivenBack, secs);
    }
    g.attempt(None, Verdict::Success, 40);
    g.attempt(None, Verdict::Rejected, 41);
    assert_eq!(g.guard.counted(&key(None), at(41)), Counted { rejections: 1, latched: None });
}

#[test]
fn an_unknown_outcome_counts_for_15_minutes() {
    let mut g = Told::new(limits(2, Hold::For(MINUTE)));
    assert_eq!(g.spend(None, 0), Answer::Go);
    g.guard.lose(&key(None), 1, at(5));
    assert_eq!(g.spend(None, 10), Answer::Later(at(35)));
    g.attempt(None, Verdict::Rejected, 35);
    assert_eq!(g.spend(None, 100), Answer::Latched(Some(at(900))));
    assert_eq!(g.spend(None, 900), Answer::Go);
}

#[test]
fn an_unknown_outcome_counts_for_ever_where_only_the_secret_opens_the_latch() {
    let mut g = Told::new(limits(2, Hold::UntilSecretChanges));
    assert_eq!(g.spend(None, 0), Answer::Go);
    g.guard.lose(&key(None), 1, at(0));
    assert_eq!(g.spend(None, 10_000), Answer::Go);
    g.guard.lose(&key(None), 2, at(10_000));
    assert_eq!(g.spend(None, 100_000_000), Answer::Latched(None));
}

#[test]
fn no_more_attempts_run_at_once_than_may_still_be_spent() {
    let mut g = Told::new(limits(2, Hold::For(MINUTE)));
    assert_eq!([g.spend(None, 0), g.spend(None, 0), g.spend(None, 0)], [Answer::Go, Answer::Go, Answer::Busy]);
    g.guard.settle(&key(None), 1, Verdict::Rejected, at(1));
    assert_eq!(g.spend(None, 40), Answer::Busy);
    g.guard.settle(&key(None), 2, Verdict::GivenBack, at(40));
    assert_eq!(g.spend(None, 40), Answer::Go);
}

#[test]
fn a_renewed_parent_spares_the_30_s_but_is_counted() {
    let mut g = Told::new(limits(2, Hold::UntilSecretChanges));
    g.attempt(None, Verdict::Rejected, 0);
    g.ask.parent_renewed = true;
    g.attempt(None, Verdict::Rejected, 1);
    assert_eq!(g.spend(None, 2), Answer::Latched(None));
}

#[test]
fn a_partition_is_held_alone_once_the_secret_has_succeeded() {
    let mut g = Told::new(limits(2, Hold::For(MINUTE)));
    g.attempt(Some("x"), Verdict::Success, 0);
    g.attempt(Some("y"), Verdict::RejectedPartition, 1);
    g.attempt(Some("y"), Verdict::RejectedPartition, 31);
    assert_eq!(g.spend(Some("y"), 32), Answer::Latched(Some(at(91))));
    g.attempt(Some("x"), Verdict::GivenBack, 32);
    assert_eq!(g.guard.counted(&key(Some("x")), at(32)).rejections, 0);
    g.attempt(Some("x"), Verdict::Rejected, 33);
    assert_eq!(g.spend(Some("z"), 34), Answer::Later(at(63)), "invalid_client counts against the secret");
}

#[test]
fn before_the_first_success_every_refusal_counts_against_the_secret() {
    let mut g = Told::new(limits(2, Hold::For(MINUTE)));
    g.attempt(Some("x"), Verdict::RejectedPartition, 0);
    g.attempt(Some("y"), Verdict::RejectedPartition, 30);
    assert_eq!(g.spend(Some("z"), 31), Answer::Latched(Some(at(90))));
}

#[test]
fn of_those_who_share_a_key_the_strictest_limits_hold() {
    let (lenient, strict) = (limits(5, Hold::For(MINUTE)), limits(2, Hold::UntilSecretChanges));
    let mut guard = Guard::default();
    for (id, secs) in [(1, 0), (2, 30), (3, 60)] {
        assert_eq!(guard.spend(&key(None), &lenient, &ask("lenient"), id, at(secs)), Answer::Go);
        guard.settle(&key(None), id, Verdict::Rejected, at(secs));
    }
    assert_eq!(guard.spend(&key(None), &strict, &ask("strict"), 4, at(100)), Answer::Latched(None));
    assert_eq!(guard.spend(&key(None), &lenient, &ask("lenient"), 5, at(5000)), Answer::Latched(None), "it binds the others too");
}

#[test]
fn the_budget_is_the_credential_s_and_a_call_given_back_has_used_it() {
    let limits = Limits { rate: vec![Rate { n: 2, per: MINUTE }], ..limits(9, Hold::For(MINUTE)) };
    let mut g = Told::new(limits.clone());
    g.attempt(None, Verdict::GivenBack, 0);
    g.attempt(None, Verdict::GivenBack, 0);
    assert_eq!(g.spend(None, 0), Answer::Later(at(30)));
    assert_eq!(g.guard.spend(&key(None), &limits, &ask("other"), 77, at(0)), Answer::Go);
}

#[test]
fn a_record_survives_being_written_down() {
    let mut record = Record::default();
    let (limits, ask) = (limits(2, Hold::UntilSecretChanges), ask("a"));
    assert_eq!(record.ask(None, &limits, &ask, at(0)), Answer::Go);
    record.spend(None, 1, at(0));
    let mut read: Record = serde_json::from_str(&serde_json::to_string(&record).unwrap()).unwrap();
    assert_eq!(read, record);
    read.orphan(|_| false, at(10));
    assert_eq!(read.ask(None, &limits, &ask, at(20)), Answer::Later(at(30)), "the owner is gone: an unknown outcome");
    read.carry(|t| t.before(Duration::from_secs(5)));
    assert_eq!(read.ask(None, &limits, &ask, at(20)), Answer::Later(at(25)));
}

#[tokio::test(start_paused = true)]
async fn a_permit_that_is_dropped_is_an_unknown_outcome_and_wakes_the_others() {
    let ledger = Memory::default();
    let limits = limits(1, Hold::For(MINUTE));
    let Spend::Go(permit) = ledger.spend(&key(None), &limits, &ask("a")).await else { panic!("not given") };
    let freed = ledger.freed();
    assert!(matches!(ledger.spend(&key(None), &limits, &ask("a")).await, Spend::Busy));
    drop(permit);
    freed.await;
    assert!(matches!(ledger.spend(&key(None), &limits, &ask("a")).await, Spend::Latched(Some(_))));
    assert_eq!(ledger.counted(&key(None)).await.unwrap().rejections, 1);
}

#[derive(Debug, Clone)]
enum Do {
    Spend {
        secret: u8,
        partition: Option<bool>,
        credential: bool,
        renewed: bool,
    },
    Settle {
        which: usize,
        verdict: Verdict,
    },
    Lose {
        which: usize,
    },
    /// The process that made it is gone.
    Die {
        which: usize,
    },
    Pass {
        millis: u64,
    },
}

fn steps() -> impl Strategy<Value = Vec<Do>> {
    let verdict = prop_oneof![
        6 => Just(Verdict::Rejected), 2 => Just(Verdict::RejectedPartition), 2 => Just(Verdict::GivenBack), 1 => Just(Verdict::Success)
    ];
    let step = prop_oneof![
        4 => (0..2u8, proptest::option::of(any::<bool>()), any::<bool>(), any::<bool>())
            .prop_map(|(secret, partition, credential, renewed)| Do::Spend { secret, partition, credential, renewed }),
        4 => (any::<usize>(), verdict).prop_map(|(which, verdict)| Do::Settle { which, verdict }),
        1 => any::<usize>().prop_map(|which| Do::Lose { which }),
        1 => any::<usize>().prop_map(|which| Do::Die { which }),
        2 => prop_oneof![0..100u64, 0..70_000u64, 0..4_000_000u64].prop_map(|millis| Do::Pass { millis }),
    ];
    proptest::collection::vec(step, 1..200)
}

/// What the vendor has seen of one secret since its last success there.
#[derive(Default)]
struct Seen {
    refused: u32,
    /// Attempts that left without an outcome yet, or for ever.
    open: u32,
    last_refusal: Option<Now>,
    /// When the count reached the limit, and again after each hold.
    latched: Option<Now>,
    /// How often.
    times: u32,
}

impl Seen {
    fn latch(&mut self, now: Now) {
        self.latched = self.latched.max(Some(now));
        self.times += 1;
    }
    fn hold(&self) -> Duration {
        MINUTE.saturating_mul(1 << (self.times - 1).min(16)).min(Duration::from_hours(1))
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]
    #[test]
    fn no_interleaving_lets_more_than_the_limit_through(
        steps in steps(), max in 1..4u32, other_max in 1..4u32, forever in any::<bool>(),
    ) {
        let hold = if forever { Hold::UntilSecretChanges } else { Hold::For(MINUTE) };
        let (mine, others) = (limits(max, hold), limits(other_max, hold));
        let strict = max.min(other_max);
        let (mut guard, mut now, mut id) = (Guard::default(), at(0), 0);
        let mut open: Vec<(u64, GuardKey, Now)> = vec![];
        let mut seen: HashMap<u8, Seen> = HashMap::new();
        // Both credentials are known from the start; otherwise the lenient one may have used more before the strict one came.
        for secret in 0..2u8 {
            for (limits, name) in [(&mine, "a"), (&others, "b")] {
                let key = GuardKey { secret: [secret; 32], ..key(None) };
                prop_assert_eq!(guard.spend(&key, limits, &ask(name), 0, now), Answer::Go);
                guard.settle(&key, 0, Verdict::GivenBack, now);
            }
        }
        for step in steps {
            match step {
                Do::Pass { millis } => now = now.after(Duration::from_millis(millis)),
                Do::Spend { secret, partition, credential, renewed } => {
                    let partition = partition.map(|p| if p { "x".to_owned() } else { "y".to_owned() });
                    let key = GuardKey { secret: [secret; 32], partition, ..key(None) };
                    let (limits, name) = if credential { (&mine, "a") } else { (&others, "b") };
                    let ask = Ask { credential: Arc::from(name), parent_renewed: renewed };
                    match guard.spend(&key, limits, &ask, id + 1, now) {
                        Answer::Go => {
                            id += 1;
                            open.push((id, key, now));
                            let seen = seen.entry(secret).or_default();
                            seen.open += 1;
                            match seen.latched {
                                None => prop_assert!(seen.refused + seen.open <= strict, "{} refused, {} open", seen.refused, seen.open),
                                Some(since) => {
                                    prop_assert!(!forever, "never again");
                                    prop_assert!(since.after(seen.hold()) <= now, "within the hold");
                                    prop_assert!(seen.open <= 1, "one after each hold");
                                }
                            }
                            if let Some(last) = seen.last_refusal && !renewed {
                                prop_assert!(last.after(Duration::from_secs(30)) <= now, "within the pause");
                            }
                        }
                        Answer::Later(t) | Answer::Latched(Some(t)) => prop_assert!(t > now),
                        Answer::Latched(None) => prop_assert!(forever),
                        Answer::Busy => prop_assert!(!open.is_empty()),
                    }
                }
                Do::Settle { which, verdict } => {
                    if open.is_empty() { continue }
                    let (id, key, _) = open.swap_remove(which % open.len());
                    let before = guard.counted(&GuardKey { partition: None, ..key.clone() }, now).rejections;
                    guard.settle(&key, id, verdict, now);
                    let after = guard.counted(&GuardKey { partition: None, ..key.clone() }, now).rejections;
                    let seen = seen.entry(key.secret[0]).or_default();
                    seen.open -= 1;
                    match verdict {
                        Verdict::Success => *seen = Seen { open: seen.open, ..Seen::default() },
                        Verdict::Rejected => prop_assert_eq!(after, before + 1),
                        _ => {}
                    }
                    // A refusal that holds a partition alone is not the secret's.
                    if after > before {
                        seen.refused += 1;
                        seen.last_refusal = Some(now);
                        if seen.refused >= strict {
                            seen.latch(now);
                        }
                    }
                }
                Do::Lose { which } | Do::Die { which } => {
                    if open.is_empty() { continue }
                    let (id, key, spent) = open.swap_remove(which % open.len());
                    let since = if matches!(step, Do::Lose { .. }) {
                        guard.lose(&key, id, now);
                        now
                    } else {
                        guard.orphan(&key, id, now);
                        spent
                    };
                    let seen = seen.entry(key.secret[0]).or_default();
                    seen.open -= 1;
                    // Where it counts for 15 minutes only, the model demands nothing of it but that a latch is closed again.
                    if forever {
                        seen.refused += 1;
                        seen.last_refusal = seen.last_refusal.max(Some(since));
                    }
                    if seen.latched.is_some() || seen.refused >= strict {
                        seen.latch(since);
                    }
                }
            }
        }
    }
}
