//! What an operator lets a credential forget.

use std::collections::HashSet;

use super::Credential;
use crate::{
    oauth,
    token::{GuardKey, Keeper},
};

impl Credential {
    /// Forgets what the guard counted against the secrets of this credential, those sent last and those it has now, then tries at once.
    pub async fn unlatch(&self) {
        let keys = self.configured_keys().await;
        Keeper::unlatch(&self.keepers(), &*self.world.ledger, keys).await;
    }

    /// What the next attempts will be counted against, whether or not there are keepers already.
    async fn configured_keys(&self) -> HashSet<GuardKey> {
        // Where they cannot be read now, what was believed last stands in for them.
        let values = self.shared.secrets.values().await.ok().or_else(|| self.shared.secrets.believed());
        let Some(values) = values else { return HashSet::new() };
        (0..self.profile.tokens.len()).filter_map(|index| oauth::guard_key(&self.profile, index, &values)).collect()
    }
}
