//! Handing out a token itself, where the profile says `vend` ([Vending](crate::promises#vending)).

use std::{sync::Arc, time::Duration};

use super::{Credential, PartitionKey, Refusal};
use crate::{
    clock::BootInstant,
    hash::{hex, sha256_of_parts},
};

/// A token handed out (RFC 6749 section 5.1).
pub struct VendedToken {
    /// The token itself.
    pub access_token: Arc<zeroize::Zeroizing<String>>,
    /// What really remains.
    pub expires_in: Duration,
}

impl Credential {
    /// Hands out the last token of the profile; waits for one until `until`.
    ///
    /// `refused`: the caller says that a vendor refused this token, given as it is or by its
    /// fingerprint. That is as a 401 of a vendor's API: where it is the token in use, it is renewed
    /// first (within the pauses for refusals). An older or an unknown one costs nothing.
    ///
    /// # Errors
    /// [`Refusal`]: there is no token in time, or the profile has none.
    pub async fn vend(
        &self,
        partition: &PartitionKey,
        refused: Option<&str>,
        until: BootInstant,
    ) -> Result<VendedToken, Refusal> {
        let _waiting = self.runtime.queue_waiter(self.profile.max_waiters)?;
        let bundle = self.bundle(partition);
        let keeper = bundle
            .keepers()
            .last()
            .ok_or_else(|| Refusal::unrenderable("this credential has no token"))?;
        let _queued = keeper.add_waiter();
        let current = keeper.status().token;
        if let (Some(refused), Some(token)) = (refused, current) {
            let value = token.issued.value.as_str();
            if value == refused || fingerprint(&self.deps.salt, value) == refused {
                keeper.reject(token.number);
                let _newer = keeper.wait_after_refusal(token.number, until).await;
            }
        }
        let token = keeper.wait_fresh(until).await?;
        keeper.note_vended(token.number);
        Ok(VendedToken {
            access_token: token.issued.value.clone(),
            expires_in: BootInstant::now().until(token.expires),
        })
    }
}

/// 8 hex of a salted hash: tells tokens apart, says nothing of them. The status shows it.
#[must_use]
pub fn fingerprint(salt: &[u8], value: &str) -> String {
    let mut text = hex(&sha256_of_parts([salt, value.as_bytes()]));
    text.truncate(8);
    text
}
