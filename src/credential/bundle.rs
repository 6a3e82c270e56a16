//! The keepers of one token set, in graph order, and what they were last rendered into.

use std::sync::Arc;

use arc_swap::ArcSwapOption;

use super::Injection;
use crate::{
    clock::BootInstant,
    profile::Profile,
    token::{Keeper, KeeperPolicy},
};

/// One token set.
#[derive(Default)]
pub struct TokenBundle {
    keepers: Vec<Arc<Keeper>>,
    partition: Vec<(Arc<str>, String)>,
    injection: ArcSwapOption<Injection>,
}

impl TokenBundle {
    pub fn new(keepers: Vec<Arc<Keeper>>, partition: Vec<(Arc<str>, String)>) -> Self {
        Self {
            keepers,
            partition,
            injection: ArcSwapOption::empty(),
        }
    }
    /// Parents before children.
    pub fn keepers(&self) -> &[Arc<Keeper>] {
        &self.keepers
    }
    /// Partition values by name.
    pub fn partition(&self) -> &[(Arc<str>, String)] {
        &self.partition
    }
    /// `policies` in the order of the profile.
    pub fn change_policies(&self, policies: &[KeeperPolicy]) {
        self.keepers
            .iter()
            .zip(policies)
            .for_each(|(keeper, policy)| keeper.change_policy(policy.clone()));
    }
    /// The injection rendered last, if it still is what the keepers hold, and as `profile` wants it:
    /// token sets outlive reloads.
    pub fn ready(
        &self,
        profile: &Arc<Profile>,
        epoch: u64,
        now: BootInstant,
    ) -> Option<Arc<Injection>> {
        let injection = self.injection.load_full()?;
        if injection.epoch != epoch || injection.send_until <= now || !injection.is_of(profile) {
            return None;
        }
        let current = self.keepers.iter().zip(&injection.numbers).all(|(k, &n)| {
            k.get(now)
                .is_some_and(|t| t.number == n && t.send_until >= injection.send_until)
        });
        current.then_some(injection)
    }
    /// May a request leave with this now? Not with a token whose refusal causes a refresh that
    /// runs.
    pub fn may_send(&self, injection: &Injection) -> bool {
        self.keepers
            .iter()
            .zip(&injection.numbers)
            .all(|(keeper, &number)| keeper.may_send(number))
    }
    pub fn store_injection(&self, injection: Arc<Injection>) {
        self.injection.store(Some(injection));
    }
}
