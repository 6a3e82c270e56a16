//! What configuration says of how one token is kept: its life, and when asking for it stops.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::schedule::Lifetime;

/// What may change under a running keeper.
#[derive(Debug, Clone, PartialEq)]
pub struct KeeperPolicy {
    /// How long tokens live, and when they are renewed.
    pub lifetime: Lifetime,
    /// How often may be asked.
    pub limits: LockoutPolicy,
}

/// `guard` of a profile: how often may be asked, and what refusals lead to.
#[derive(Debug, Clone, PartialEq)]
pub struct LockoutPolicy {
    /// Token calls at most, refused and failed ones included; all of them hold.
    pub rate: Vec<Rate>,
    /// Refused attempts with one secret value after which it is latched; at least 1.
    pub max_rejections: u32,
    /// How long it is latched then.
    pub hold: Hold,
    /// Refused attempts in a row over all secret values of an account, after which only an unlatch
    /// opens. `None`: as many as the values allow.
    pub account_rejections: Option<u32>,
}

impl LockoutPolicy {
    /// Does a guard have to outlive its process for these? Then no call is made where it cannot be
    /// read or written.
    #[must_use]
    pub fn need_memory(&self) -> bool {
        self.hold == Hold::UntilSecretChanges || self.account_rejections.is_some()
    }
}

/// "120/m": a bucket of `n`, refilled evenly over `per`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Calls that may be made at once, after a pause.
    pub n: u32,
    /// In this time so many become available again.
    pub per: Duration,
}

/// How long a latch holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hold {
    /// Doubling from here to one hour.
    For(Duration),
    /// Until the secret changes or a person unlatches.
    UntilSecretChanges,
}
