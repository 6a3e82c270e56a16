//! What a vendor's answer to a request says of the tokens it was sent with.

use std::sync::Arc;

use super::{Credential, Injection, PartitionKey};
use crate::clock::BootInstant;

/// What to do with a vendor's 401.
#[derive(Debug)]
pub enum UnauthorizedOutcome {
    /// Send the request once more, with this.
    Replay(Arc<Injection>),
    /// The vendor's answer goes on to the client.
    Pass,
}

impl Credential {
    /// The vendor answered 401 to `sent`, which is not sent again: its generations are marked
    /// refused, parents first. Nobody waits.
    ///
    /// Where that causes a refresh, the refused tokens are sent to nobody from now on and until it
    /// has ended.
    pub fn note_refused(&self, partition: &PartitionKey, sent: &Injection) {
        // Of a token set that nobody uses any more there is nothing to renew.
        let Some(bundle) = self.running_bundle(partition) else {
            return;
        };
        bundle
            .keepers()
            .iter()
            .zip(&sent.numbers)
            .for_each(|(keeper, &number)| keeper.reject(number));
    }

    /// The vendor answered 401 to `sent`: marks its generations refused, parents first, and waits
    /// for the refresh.
    pub async fn renew_after_401(
        &self,
        partition: &PartitionKey,
        sent: &Injection,
        until: BootInstant,
    ) -> UnauthorizedOutcome {
        let bundle = self.bundle(partition);
        let generations = || bundle.keepers().iter().zip(&sent.numbers);
        let _queued: Vec<_> = bundle
            .keepers()
            .iter()
            .map(|keeper| keeper.add_waiter())
            .collect();
        generations().for_each(|(keeper, &number)| keeper.reject(number));
        let mut newer = false;
        for (keeper, &number) in generations() {
            newer |= keeper.wait_after_refusal(number, until).await.is_some();
        }
        if !newer {
            return UnauthorizedOutcome::Pass;
        }
        match self.wait_for_injection(partition, until).await {
            Ok(injection) => UnauthorizedOutcome::Replay(injection),
            Err(_) => UnauthorizedOutcome::Pass,
        }
    }

    /// The vendor answered something else than 401 to `sent`.
    pub fn note_accepted(&self, partition: &PartitionKey, sent: &Injection) {
        let Some(bundle) = self.running_bundle(partition) else {
            return;
        };
        bundle
            .keepers()
            .iter()
            .zip(&sent.numbers)
            .for_each(|(keeper, &number)| keeper.accept(number));
    }

    /// May a request leave with this now? It was good when it was made; since then its time may
    /// have ended, or an API may have refused one of its tokens.
    #[must_use]
    pub fn may_send(&self, partition: &PartitionKey, injection: &Injection) -> bool {
        injection.send_until > BootInstant::now()
            && self
                .running_bundle(partition)
                .is_none_or(|bundle| bundle.may_send(injection))
    }
}
