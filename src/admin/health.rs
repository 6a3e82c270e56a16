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
pub enum Readiness {
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
pub struct ReadinessMemory {
    started: AtomicBool,
    accepted: AtomicBool,
}

impl ReadinessMemory {
    /// Of the whole program, by `[admin] ready`.
    pub fn readiness(&self, snapshot: &Snapshot) -> Readiness {
        let all = || snapshot.credentials.values();
        match snapshot.config.admin.ready {
            Ready::Started => remember(&self.started, || first_unready(all(), settled_readiness)),
            Ready::Accepted => {
                remember(&self.accepted, || first_unready(all(), accepted_readiness))
            }
            Ready::All => first_unready(all(), credential_readiness),
            Ready::Any => {
                if all().next().is_none()
                    || all().any(|c| credential_readiness(c) == Readiness::Ready)
                {
                    return Readiness::Ready;
                }
                Readiness::NotYet("no credential can send".to_owned())
            }
        }
    }

    /// Whether every token fetched at start has had its first outcome.
    pub fn is_started(&self) -> bool {
        self.started.load(Ordering::Acquire)
    }

    /// Whether there is nothing left to reach.
    pub fn has_reached_all(&self, snapshot: &Snapshot) -> bool {
        let all = || snapshot.credentials.values();
        remember(&self.started, || first_unready(all(), settled_readiness)) == Readiness::Ready
            && remember(&self.accepted, || first_unready(all(), accepted_readiness))
                == Readiness::Ready
    }
}

fn remember(reached: &AtomicBool, decide: impl FnOnce() -> Readiness) -> Readiness {
    if reached.load(Ordering::Acquire) {
        return Readiness::Ready;
    }
    let readiness = decide();
    if readiness == Readiness::Ready {
        reached.store(true, Ordering::Release);
    }
    readiness
}

/// Of one credential: it can send.
pub fn credential_readiness(credential: &Credential) -> Readiness {
    if credential.can_send() {
        Readiness::Ready
    } else {
        Readiness::NotYet(format!("{}: no token may be sent", credential.name()))
    }
}

fn first_unready<'a>(
    mut all: impl Iterator<Item = &'a std::sync::Arc<Credential>>,
    decide: impl Fn(&Credential) -> Readiness,
) -> Readiness {
    all.find_map(|c| Some(decide(c)).filter(|v| *v != Readiness::Ready))
        .unwrap_or(Readiness::Ready)
}

/// Every token fetched at start has had its first outcome.
fn settled_readiness(credential: &Credential) -> Readiness {
    if credential.is_settled() {
        Readiness::Ready
    } else {
        Readiness::NotYet(format!("{}: first token call not done", credential.name()))
    }
}

/// Every token fetched at start has had its first outcome, and none that stands against it: a
/// refused secret, a senseless answer, or a guard that cannot remember and so allows no call hold
/// it until a success. Whatever comes after that takes nothing away.
fn accepted_readiness(credential: &Credential) -> Readiness {
    let refused = |t: &TokenState| t.partition.is_none() && t.status.unaccepted;
    // A child that waits for a refused parent is not counted as settled by a mistake: the parent is
    // found first.
    match credential.token_states().iter().find(|t| refused(t)) {
        Some(t) => Readiness::NotYet(format!(
            "{}: token {} was not accepted",
            credential.name(),
            t.token
        )),
        None => settled_readiness(credential),
    }
}
