//! The keepers of one token set, in graph order, and what they last presented.

use std::sync::Arc;

use arc_swap::ArcSwapOption;

use super::Presented;
use crate::token::{Keeper, Now};

/// One token set.
#[derive(Default)]
pub struct Bundle {
    keepers: Vec<Arc<Keeper>>,
    partition: Vec<(Arc<str>, String)>,
    presented: ArcSwapOption<Presented>,
}

impl Bundle {
    pub fn new(keepers: Vec<Arc<Keeper>>, partition: Vec<(Arc<str>, String)>) -> Self {
        Self { keepers, partition, presented: ArcSwapOption::empty() }
    }
    /// Parents before children.
    pub fn keepers(&self) -> &[Arc<Keeper>] {
        &self.keepers
    }
    /// Partition values by name.
    pub fn partition(&self) -> &[(Arc<str>, String)] {
        &self.partition
    }
    /// What was last presented, if it still is what the keepers hold.
    pub fn ready(&self, epoch: u64, now: Now) -> Option<Arc<Presented>> {
        let presented = self.presented.load_full()?;
        if presented.epoch != epoch || presented.send_until <= now {
            return None;
        }
        let current = self
            .keepers
            .iter()
            .zip(&presented.numbers)
            .all(|(k, &n)| k.get(now).is_some_and(|t| t.number == n && t.send_until >= presented.send_until));
        current.then_some(presented)
    }
    pub fn keep(&self, presented: Arc<Presented>) {
        self.presented.store(Some(presented));
    }
}
