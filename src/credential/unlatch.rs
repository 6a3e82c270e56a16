//! What an operator lets a credential try once more.

use std::collections::HashSet;

use super::Credential;
use crate::{
    oauth,
    profile::Profile,
    secret::{Secrets, Values},
    token::{GuardKey, Keeper, Ledger, NextAttempt},
};

impl Credential {
    /// Lets one attempt through for the secrets of this credential, those sent last and those it
    /// has now, and for their accounts. It is made no sooner than 30 s after the last refused one,
    /// and twice as long after each that was let through and refused (to an hour). Says when.
    pub async fn unlatch(&self) -> NextAttempt {
        let keys = self.configured_keys().await;
        Keeper::unlatch(&self.keepers(), &*self.deps.ledger, keys).await
    }

    /// Does an unlatch of this credential, or could it, open an account on which refusals of
    /// `other` count too? What shares no token origin shares no account, whatever the client ids;
    /// an origin that can't be told may be any.
    #[must_use]
    pub fn may_share_account_with(&self, other: &Self) -> bool {
        let origins = |one: &Self| {
            oauth::token_origins(&one.profile, one.runtime.secrets.believed().as_deref())
        };
        match (origins(self), origins(other)) {
            (Some(ours), Some(theirs)) => !ours.is_disjoint(&theirs),
            _ => true,
        }
    }

    /// What the next attempts will be counted against, whether or not there are keepers already.
    async fn configured_keys(&self) -> HashSet<GuardKey> {
        // Where they cannot be read now, what was believed last stands in for them.
        let values = self
            .runtime
            .secrets
            .values()
            .await
            .ok()
            .or_else(|| self.runtime.secrets.believed());
        values
            .map(|values| keys(&self.name, &self.profile, &values))
            .unwrap_or_default()
    }
}

/// Unlatches the credential called `name` of a program that need not be running: writes to its
/// `ledger` alone, and a running one sees it there.
///
/// # Errors
/// The secrets cannot be read, in words without their values: what refusals count against is not
/// known then.
pub async fn unlatch_offline(
    name: &str,
    profile: &Profile,
    secrets: &Secrets,
    ledger: &dyn Ledger,
) -> Result<NextAttempt, String> {
    let values = secrets.read().map_err(|error| error.to_string())?;
    Ok(Keeper::unlatch(&[], ledger, keys(name, profile, &values)).await)
}

fn keys(name: &str, profile: &Profile, values: &Values) -> HashSet<GuardKey> {
    (0..profile.tokens.len())
        .filter_map(|index| oauth::guard_key(profile, index, name, values))
        .collect()
}
