//! What an operator lets a credential forget.

use std::{collections::HashSet, time::Duration};

use super::Credential;
use crate::{
    oauth,
    token::{GuardKey, Keeper},
};

/// Secret files that take longer to be read hang: what was read last stands in for them.
const PATIENCE: Duration = Duration::from_secs(5);

impl Credential {
    /// Forgets what the guard counted against the secrets of this credential, those sent last and those it has now, then tries at once.
    pub async fn unlatch(&self) {
        let keys = self.configured_keys().await;
        Keeper::unlatch(&self.keepers(), &*self.world.ledger, keys).await;
    }

    /// What the next attempts will be counted against, whether or not there are keepers already.
    async fn configured_keys(&self) -> HashSet<GuardKey> {
        let secrets = self.shared.secrets.load_full();
        let read = tokio::time::timeout(PATIENCE, tokio::task::spawn_blocking(move || secrets.read())).await;
        let values = match read {
            Ok(Ok(Ok(values))) => Some(values),
            _ => self.shared.seen.load().as_ref().map(|seen| seen.values.clone()),
        };
        let Some(values) = values else { return HashSet::new() };
        (0..self.profile.tokens.len()).filter_map(|index| oauth::guard_key(&self.profile, index, &values)).collect()
    }
}
