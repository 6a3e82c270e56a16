//! What configuration says of how one token is kept: its life, and when asking for it stops.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::schedule::Lifetime;

/// What may change under a running keeper.
#[derive(Debug, Clone, PartialEq)]
pub struct KeeperPolicy {
    pub lifetime: Lifetime,
    pub limits: LockoutPolicy,
}

/// `guard` of a profile, plus what one attempt asks.
#[derive(Debug, Clone, PartialEq)]
pub struct LockoutPolicy {
    pub rate: Vec<Rate>,
    pub max_rejections: u32,
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
    pub n: u32,
    pub per: Duration,
}

/// How long a latch holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hold {
    /// Doubling from here to one hour.
    For(Duration),
    UntilSecretChanges,
}
