//! How the tokens of a credential stand, for the admin port and the metrics.

use std::sync::Arc;

use super::Credential;
use crate::token::{Activity, KeeperStatus};

/// One token of a credential; of a partitioned one every running token set has its own.
#[derive(Debug, Clone)]
pub struct TokenState {
    /// Its name in the profile.
    pub token: Arc<str>,
    /// The values that select its token set, where the profile has a partition.
    pub partition: Option<Arc<str>>,
    /// What its keeper is doing.
    pub status: KeeperStatus,
}

impl Credential {
    /// Every token, in graph order.
    #[must_use]
    pub fn token_states(&self) -> Vec<TokenState> {
        let keepers = self.keepers();
        let states = keepers.iter().map(|k| TokenState {
            token: k.name().token.clone(),
            partition: k.name().partition.clone(),
            status: k.status(),
        });
        states.collect()
    }

    /// Every token fetched at start has had its first outcome, good or bad.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.token_states()
            .iter()
            .all(|t| t.status.settled || matches!(t.status.activity, Activity::Resting))
    }

    /// It can send: a token is there, or would be fetched when asked for (resting, lazy,
    /// partitioned, static).
    #[must_use]
    pub fn can_send(&self) -> bool {
        let now = crate::clock::BootInstant::now();
        self.token_states().iter().all(|t| {
            t.partition.is_some()
                || matches!(t.status.activity, Activity::Resting)
                || t.status
                    .token
                    .as_ref()
                    .is_some_and(|token| token.send_until > now)
        })
    }
}
