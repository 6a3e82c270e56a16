//! Ready or not ([Ready](crate::promises#ready)).

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use crate::{
    config::Ready,
    credential::{Credential, TokenState},
    snapshot::Snapshot,
};

/// The answer of `/readyz`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// 200.
    Ready,
    /// 503: which credential is waited for, and why.
    NotYet(String),
}

/// So long after the start readiness is looked at often.
pub const SOON: Duration = Duration::from_secs(60);
/// How often that is.
pub const OFTEN: Duration = Duration::from_millis(50);
/// How often it is looked at later.
pub const SELDOM: Duration = Duration::from_secs(1);

/// What this process has reached once, and has from then on whatever a reload brings.
#[derive(Debug, Default)]
pub struct Reached {
    started: AtomicBool,
    accepted: AtomicBool,
}

impl Reached {
    /// Of the whole program, by `[admin] ready`.
    pub fn ready(&self, snapshot: &Snapshot) -> Verdict {
        let all = || snapshot.credentials.values();
        match snapshot.config.admin.ready {
            Ready::Started => once(&self.started, || first_not(all(), settled)),
            Ready::Accepted => once(&self.accepted, || first_not(all(), accepted)),
            Ready::All => first_not(all(), one),
            Ready::Any => {
                if all().next().is_none() || all().any(|c| one(c) == Verdict::Ready) {
                    return Verdict::Ready;
                }
                Verdict::NotYet("no credential can send".to_owned())
            }
        }
    }

    /// Whether every token fetched at start has had its first outcome.
    pub fn is_started(&self) -> bool {
        self.started.load(Ordering::Acquire)
    }

    /// Whether there is nothing left to reach.
    pub fn all(&self, snapshot: &Snapshot) -> bool {
        let all = || snapshot.credentials.values();
        once(&self.started, || first_not(all(), settled)) == Verdict::Ready
            && once(&self.accepted, || first_not(all(), accepted)) == Verdict::Ready
    }
}

fn once(reached: &AtomicBool, judge: impl FnOnce() -> Verdict) -> Verdict {
    if reached.load(Ordering::Acquire) {
        return Verdict::Ready;
    }
    let verdict = judge();
    if verdict == Verdict::Ready {
        reached.store(true, Ordering::Release);
    }
    verdict
}

/// Of one credential: it can send.
pub fn one(credential: &Credential) -> Verdict {
    if credential.able() {
        Verdict::Ready
    } else {
        Verdict::NotYet(format!("{}: no token may be sent", credential.name()))
    }
}

fn first_not<'a>(
    mut all: impl Iterator<Item = &'a std::sync::Arc<Credential>>,
    judge: impl Fn(&Credential) -> Verdict,
) -> Verdict {
    all.find_map(|c| Some(judge(c)).filter(|v| *v != Verdict::Ready))
        .unwrap_or(Verdict::Ready)
}

/// Every token fetched at start has had its first outcome.
fn settled(credential: &Credential) -> Verdict {
    if credential.settled() {
        Verdict::Ready
    } else {
        Verdict::NotYet(format!("{}: first token call not done", credential.name()))
    }
}

/// Every token fetched at start has had its first outcome, and none that stands against it: a
/// refused secret, a senseless answer, or a guard that cannot remember and so allows no call hold
/// it until a success. Whatever comes after that takes nothing away.
fn accepted(credential: &Credential) -> Verdict {
    let refused = |t: &TokenState| t.partition.is_none() && t.status.unaccepted;
    // A child that waits for a refused parent is not counted as settled by a mistake: the parent is
    // found first.
    match credential.tokens().iter().find(|t| refused(t)) {
        Some(t) => Verdict::NotYet(format!(
            "{}: token {} was not accepted",
            credential.name(),
            t.token
        )),
        None => settled(credential),
    }
}
