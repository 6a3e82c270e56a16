//! The guard as a state machine against a vendor that counts: one secret by itself, then an account
//! whose secret changes.

use crate::{
    clock::BootInstant,
    token::{
        model::GuardKey,
        policy::{Hold, LockoutPolicy},
    },
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Spend {
        secret: u8,
        partition: Option<bool>,
        credential: bool,
        renewed: bool,
    },
    Settle {
        which: usize,
        outcome: AttemptOutcome,
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

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let outcome = prop_oneof![
        6 => Just(AttemptOutcome::Rejected), 2 => Just(AttemptOutcome::RejectedPartition), 2 => Just(AttemptOutcome::GivenBack), 1 => Just(AttemptOutcome::Success)
    ];
    let step = prop_oneof![
        4 => (0..2u8, proptest::option::of(any::<bool>()), any::<bool>(), any::<bool>())
            .prop_map(|(secret, partition, credential, renewed)| Step::Spend { secret, partition, credential, renewed }),
        4 => (any::<usize>(), outcome).prop_map(|(which, outcome)| Step::Settle { which, outcome }),
        1 => any::<usize>().prop_map(|which| Step::Lose { which }),
        1 => any::<usize>().prop_map(|which| Step::Die { which }),
        2 => prop_oneof![0..100u64, 0..70_000u64, 0..4_000_000u64].prop_map(|millis| Step::Pass { millis }),
    ];
    proptest::collection::vec(step, 1..200)
}

/// What the vendor has seen of one secret since its last success there.
#[derive(Default)]
struct SecretView {
    refused: u32,
    /// Attempts that left without an outcome yet, or for ever.
    open: u32,
    last_refusal: Option<BootInstant>,
    /// When the count reached the limit, and again after each hold.
    latched: Option<BootInstant>,
    /// How often.
    times: u32,
}

impl SecretView {
    fn latch(&mut self, now: BootInstant) {
        self.latched = self.latched.max(Some(now));
        self.times += 1;
    }
    fn hold(&self) -> Duration {
        MINUTE
            .saturating_mul(1 << (self.times - 1).min(16))
            .min(Duration::from_hours(1))
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
        let mut open: Vec<(u64, GuardKey, BootInstant)> = vec![];
        let mut seen: HashMap<u8, SecretView> = HashMap::new();
        // Both credentials are known from the start; otherwise the lenient one may have used more
        // before the strict one came.
        for secret in 0..2u8 {
            for (limits, name) in [(&mine, "a"), (&others, "b")] {
                let key = GuardKey { secret: [secret; 32], ..key(None) };
                prop_assert_eq!(guard.spend(&key, limits, &request(name), 0, now), Ok(()));
                guard.settle(&key, 0, AttemptOutcome::GivenBack, now);
            }
        }
        for step in steps {
            match step {
                Step::Pass { millis } => now = now.after(Duration::from_millis(millis)),
                Step::Spend { secret, partition, credential, renewed } => {
                    let partition = partition.map(|p| if p { "x".to_owned() } else { "y".to_owned() });
                    let key = GuardKey { secret: [secret; 32], partition, ..key(None) };
                    let (limits, name) = if credential { (&mine, "a") } else { (&others, "b") };
                    let request = AttemptRequest { credential: Arc::from(name), parent_renewed: renewed };
                    match guard.spend(&key, limits, &request, id + 1, now) {
                        Ok(()) => {
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
                        Err(Denial::Later(t) | Denial::OverBudget(t) | Denial::Latched(Some(t))) => prop_assert!(t > now),
                        Err(Denial::Latched(None)) => prop_assert!(forever),
                        Err(Denial::Busy) => prop_assert!(!open.is_empty()),
                        Err(Denial::NoMemory) => prop_assert!(false),
                    }
                }
                Step::Settle { which, outcome } => {
                    if open.is_empty() { continue }
                    let (id, key, _) = open.swap_remove(which % open.len());
                    let before = guard.counted(&GuardKey { partition: None, ..key.clone() }, now).rejections;
                    guard.settle(&key, id, outcome, now);
                    let after = guard.counted(&GuardKey { partition: None, ..key.clone() }, now).rejections;
                    let seen = seen.entry(key.secret[0]).or_default();
                    seen.open -= 1;
                    match outcome {
                        AttemptOutcome::Success => *seen = SecretView { open: seen.open, ..SecretView::default() },
                        AttemptOutcome::Rejected => prop_assert_eq!(after, before + 1),
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
                Step::Lose { which } | Step::Die { which } => {
                    if open.is_empty() { continue }
                    let (id, key, spent) = open.swap_remove(which % open.len());
                    let since = if matches!(step, Step::Lose { .. }) {
                        guard.settle(&key, id, None, now);
                        now
                    } else {
                        guard.orphan(&key, id, now);
                        spent
                    };
                    let seen = seen.entry(key.secret[0]).or_default();
                    seen.open -= 1;
                    // Where it counts for 15 minutes only, the model demands nothing of it but that
                    // a latch is closed again.
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

#[derive(Debug, Clone)]
enum OfAccount {
    /// What the vendor makes of it is decided as it is sent, whenever that is told.
    Spend {
        secret: u8,
        strict: bool,
        outcome: AttemptOutcome,
    },
    Settle {
        which: usize,
    },
    Lose {
        which: usize,
    },
    Die {
        which: usize,
    },
    Unlatch {
        secret: u8,
    },
    Pass {
        secs: u64,
    },
}

fn steps_of_account() -> impl Strategy<Value = Vec<OfAccount>> {
    let outcome = prop_oneof![8 => Just(AttemptOutcome::Rejected), 2 => Just(AttemptOutcome::GivenBack), 1 => Just(AttemptOutcome::Success)];
    let step = prop_oneof![
        6 => (0..6u8, any::<bool>(), outcome).prop_map(|(secret, strict, outcome)| OfAccount::Spend { secret, strict, outcome }),
        5 => any::<usize>().prop_map(|which| OfAccount::Settle { which }),
        1 => any::<usize>().prop_map(|which| OfAccount::Lose { which }),
        1 => any::<usize>().prop_map(|which| OfAccount::Die { which }),
        1 => (0..6u8).prop_map(|secret| OfAccount::Unlatch { secret }),
        3 => prop_oneof![0..3u64, 0..70u64, 0..4000u64, 0..100_000u64].prop_map(|secs| OfAccount::Pass { secs }),
    ];
    proptest::collection::vec(step, 1..250)
}

/// What a bystander knows of an account, and of what people did with it.
#[derive(Default)]
struct Locked {
    /// Counts what happens, so that it can be said what was first.
    moment: u64,
    /// When each refusal or (`true`) loss became known, but for those that are known to be over: a
    /// success was sent later.
    bad: Vec<(u64, bool)>,
    open: BTreeMap<u64, SentAttempt>,
    wrong: BTreeSet<u8>,
    last: Option<BootInstant>,
    leave: bool,
    leaves_refused: u32,
    accepted: BTreeMap<u8, BootInstant>,
    /// What the vendor itself counts: refusals since the last success, in the order in which they
    /// were sent.
    seen: u32,
}

/// An attempt under way.
#[derive(Clone, Copy)]
struct SentAttempt {
    secret: u8,
    at: BootInstant,
    moment: u64,
    /// By a person's leave.
    leave: bool,
    outcome: AttemptOutcome,
}

impl Locked {
    fn pause(times: u32) -> Duration {
        Duration::from_secs(30)
            .saturating_mul(1 << times.min(16))
            .min(Duration::from_hours(1))
    }
    fn since(&self, d: Duration, now: BootInstant) -> bool {
        self.last.is_none_or(|last| last.after(d) <= now)
    }
    fn counted(&self) -> u32 {
        u32::try_from(self.bad.len()).unwrap()
    }
    /// May `secret` be tried? Says whether it is a person's leave that lets it.
    fn may(&self, secret: u8, budget: Option<u32>, now: BootInstant) -> Result<bool, String> {
        let lately = self
            .accepted
            .get(&secret)
            .is_some_and(|then| then.after(Duration::from_hours(24)) >= now);
        let new = !self.wrong.contains(&secret) && !lately;
        let counted = self.counted();
        let full = budget.is_some_and(|budget| counted >= budget);
        let let_through = self.leave && (full || !lately || self.wrong.contains(&secret));
        let by_person = self.leave && self.since(Self::pause(self.leaves_refused), now);
        if full {
            let by_itself = self.bad.iter().all(|(_, lost)| *lost) && self.since(15 * MINUTE, now);
            if !by_person && !by_itself {
                return Err(format!("{:?} of {budget:?}", self.bad));
            }
            if !self.open.is_empty() {
                return Err("more than one attempt with leave".into());
            }
        } else if budget
            .is_some_and(|budget| counted + u32::try_from(self.open.len()).unwrap() >= budget)
        {
            return Err("more under way than may be refused".into());
        } else if budget.is_some_and(|budget| self.seen >= budget) {
            return Err("the vendor has seen as many already".into());
        }
        let changes = u32::try_from(self.wrong.len()).unwrap();
        if new && changes >= 2 && !by_person && !self.since(Self::pause(changes - 2), now) {
            return Err(format!(
                "the {changes}th changed secret, {:?} after {:?}",
                now, self.last
            ));
        }
        Ok(let_through)
    }
    fn sends(&mut self, id: u64, sent: SentAttempt) {
        if sent.leave {
            self.leave = false;
            self.open.values_mut().for_each(|other| other.leave = false);
        }
        match sent.outcome {
            AttemptOutcome::Rejected => self.seen += 1,
            AttemptOutcome::Success => self.seen = 0,
            _ => {}
        }
        self.open.insert(
            id,
            SentAttempt {
                moment: self.moment,
                ..sent
            },
        );
    }
    fn ends_badly(&mut self, sent: SentAttempt, lost: bool, at: BootInstant) {
        self.bad.push((self.moment, lost));
        self.last = self.last.max(Some(at));
        self.leaves_refused += u32::from(sent.leave);
        self.wrong.insert(sent.secret);
    }
    fn succeeds(&mut self, sent: SentAttempt, now: BootInstant) {
        self.accepted.insert(sent.secret, now);
        self.bad.retain(|(known, _)| *known > sent.moment);
        if self.bad.is_empty() {
            (self.last, self.wrong) = (None, BTreeSet::new());
        }
        if self.bad.is_empty() || sent.leave {
            (self.leave, self.leaves_refused) = (false, 0);
            self.open.values_mut().for_each(|other| other.leave = false);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]
    #[test]
    fn no_interleaving_of_changed_secrets_lets_more_through_than_the_account_allows(
        steps in steps_of_account(), budget in proptest::option::of(1..4u32), forever in any::<bool>(), max in 1..3u32,
    ) {
        let hold = if forever { Hold::UntilSecretChanges } else { Hold::For(MINUTE) };
        let (strict_one, other) = (LockoutPolicy { account_rejections: budget, ..limits(max, hold) }, limits(2, Hold::For(MINUTE)));
        let (mut guard, mut now, mut id) = (Guard::default(), at(0), 0);
        let mut vendor = Locked::default();
        // Who has not asked for a day binds the others no more, unless something is counted.
        let (mut bound, mut strict_asked) = (true, now);
        let of = |secret: u8| GuardKey { secret: [secret; 32], ..key(None) };
        // From the start it is known who shares the account.
        for secret in 0..6 {
            for (limits, name) in [(&strict_one, "strict"), (&other, "other")] {
                prop_assert_eq!(guard.spend(&of(secret), limits, &request(name), 0, now), Ok(()));
                guard.settle(&of(secret), 0, AttemptOutcome::GivenBack, now);
            }
        }
        for step in steps {
            vendor.moment += 1;
            let nth = |vendor: &mut Locked, which: usize| {
                let id = vendor.open.keys().nth(which % vendor.open.len().max(1)).copied();
                id.and_then(|id| vendor.open.remove_entry(&id))
            };
            match step {
                OfAccount::Pass { secs } => now = now.after(Duration::from_secs(secs)),
                OfAccount::Unlatch { secret } => {
                    guard.unlatch(&of(secret));
                    vendor.leave |= vendor.counted() > 0;
                }
                OfAccount::Spend { secret, strict, outcome } => {
                    let (limits, name) = if strict { (&strict_one, "strict") } else { (&other, "other") };
                    let shown = guard.counted(&of(secret), now);
                    bound &= vendor.counted() > 0 || strict_asked.after(Duration::from_hours(24)) > now;
                    if strict {
                        (bound, strict_asked) = (true, now);
                    }
                    let budget = budget.filter(|_| bound);
                    match guard.spend(&of(secret), limits, &request(name), id + 1, now) {
                        Ok(()) => {
                            id += 1;
                            let leave = vendor.may(secret, budget, now).map_err(TestCaseError::fail)?;
                            vendor.sends(id, SentAttempt { secret, at: now, moment: 0, leave, outcome });
                            // As long as all who share it are known.
                            let known = now < at(0).after(Duration::from_hours(24));
                            prop_assert!(!known || (shown.latched, shown.later) == (None, None), "what is shown is what is done: {shown:?}");
                        }
                        Err(Denial::Latched(None)) => prop_assert!(forever || budget.is_some_and(|b| vendor.counted() >= b)),
                        Err(Denial::Later(t) | Denial::Latched(Some(t))) => prop_assert!(t > now),
                        Err(Denial::Busy) => prop_assert!(!vendor.open.is_empty()),
                        Err(Denial::OverBudget(_) | Denial::NoMemory) => prop_assert!(false),
                    }
                }
                OfAccount::Settle { which } => {
                    let Some((id, sent)) = nth(&mut vendor, which) else { continue };
                    guard.settle(&of(sent.secret), id, sent.outcome, now);
                    match sent.outcome {
                        AttemptOutcome::Success => vendor.succeeds(sent, now),
                        AttemptOutcome::GivenBack => vendor.leave |= sent.leave,
                        _ => {
                            vendor.ends_badly(sent, false, now);
                            vendor.accepted.remove(&sent.secret);
                        }
                    }
                }
                OfAccount::Lose { which } => {
                    let Some((id, sent)) = nth(&mut vendor, which) else { continue };
                    guard.settle(&of(sent.secret), id, None, now);
                    vendor.ends_badly(sent, true, now);
                }
                OfAccount::Die { which } => {
                    let Some((id, sent)) = nth(&mut vendor, which) else { continue };
                    guard.orphan(&of(sent.secret), id, now);
                    vendor.ends_badly(sent, true, sent.at);
                }
            }
        }
    }
}
