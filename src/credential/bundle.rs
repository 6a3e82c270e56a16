//! The keepers of one token set, in graph order, and what they last presented.

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
pub struct Bundle {
    keepers: Vec<Arc<Keeper>>,
    partition: Vec<(Arc<str>, String)>,
    presented: ArcSwapOption<Injection>,
}

impl Bundle {
    pub fn new(keepers: Vec<Arc<Keeper>>, partition: Vec<(Arc<str>, String)>) -> Self {
        Self {
            keepers,
            partition,
            presented: ArcSwapOption::empty(),
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
    /// `tunings` in the order of the profile.
    pub fn retune(&self, tunings: &[KeeperPolicy]) {
        self.keepers
            .iter()
            .zip(tunings)
            .for_each(|(keeper, tuning)| keeper.change_policy(tuning.clone()));
    }
    /// What was last presented, if it still is what the keepers hold, and as `profile` wants it:
    /// token sets outlive reloads.
    pub fn ready(
        &self,
        profile: &Arc<Profile>,
        epoch: u64,
        now: BootInstant,
    ) -> Option<Arc<Injection>> {
        let presented = self.presented.load_full()?;
        if presented.epoch != epoch || presented.send_until <= now || !presented.is_of(profile) {
            return None;
        }
        let current = self.keepers.iter().zip(&presented.numbers).all(|(k, &n)| {
            k.get(now)
                .is_some_and(|t| t.number == n && t.send_until >= presented.send_until)
        });
        current.then_some(presented)
    }
    /// May a request leave with this now? Not with a token whose refusal causes a refresh that
    /// runs.
    pub fn may_send(&self, presented: &Injection) -> bool {
        self.keepers
            .iter()
            .zip(&presented.numbers)
            .all(|(keeper, &number)| keeper.may_send(number))
    }
    pub fn keep(&self, presented: Arc<Injection>) {
        self.presented.store(Some(presented));
    }
}
