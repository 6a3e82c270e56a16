//! Looking whether secrets changed: what is believed anew is presented from then on, counted, and
//! wakes keepers that are held.

use std::{
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};

use tokio::{
    sync::oneshot,
    time::{sleep, timeout},
};

use super::{Credential, Refusal, runtime::CredentialRuntime};
use crate::{
    files::{ClockReading, LOOK_PATIENCE, LookPermit},
    oauth,
    secret::{SecretCheck, Values},
    token::{FailureClass, GuardKey},
};

/// What is being written is looked at this often until it is whole.
const AGAIN: Duration = Duration::from_millis(500);
/// A writer that has not rested for so long is told of.
const RESTLESS: Duration = Duration::from_secs(30);

/// Who asks for a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecretCheckTrigger {
    /// The poller, who comes again: where a look is under way, it is left to that one.
    Poll,
    /// Somebody who knows of a change: what is read is read after this.
    Now,
}

impl Credential {
    /// Reads the secrets; where their values changed, presented headers are rendered anew and held
    /// keepers try at once. Ends when that is done, or sooner: what hangs, and what is still being
    /// written, is waited for by nobody.
    pub async fn check_secrets(self: &Arc<Self>, trigger: SecretCheckTrigger) {
        *self.runtime.current.lock() = Arc::downgrade(self);
        let secrets = &self.runtime.secrets;
        let permit = match trigger {
            SecretCheckTrigger::Poll => secrets.try_permit(),
            SecretCheckTrigger::Now => secrets.permit().await,
        };
        let Some(permit) = permit else { return };
        let (tell, told) = oneshot::channel();
        tokio::spawn(check_until_settled(self.runtime.clone(), permit, tell));
        if timeout(LOOK_PATIENCE, told).await.is_err() {
            self.deps
                .metrics
                .secret_unreadable(&self.name, "secrets: their files do not answer");
        }
    }

    /// Counts and logs what a look found, and tells keepers of values that they were not told of yet.
    fn report_check(&self, checked: &SecretCheck) {
        match checked {
            SecretCheck::Unsettled { lasted, .. } if *lasted >= RESTLESS => {
                let why = "secrets: their files are written without a rest of two seconds; the last whole ones stay";
                self.deps.metrics.secret_unreadable(&self.name, why);
            }
            SecretCheck::Same | SecretCheck::Changed { .. } | SecretCheck::Unsettled { .. } => {}
            SecretCheck::Unreadable(why) => self
                .deps
                .metrics
                .secret_unreadable(&self.name, &why.to_string()),
        }
        // A token call may have been the first to see them.
        let generation = self.runtime.secrets.generation();
        let before = self.runtime.told.fetch_max(generation, Ordering::AcqRel);
        if before >= generation {
            return;
        }
        // Values seen for the first time are no change, but news to a keeper that could not read
        // them.
        let first = before == 0 && generation == 1;
        if !first {
            self.deps.metrics.secret_changed(&self.name);
        }
        let values = self.runtime.secrets.believed();
        let keys: Vec<Option<GuardKey>> = (0..self.profile.tokens.len())
            .map(|index| oauth::guard_key(&self.profile, index, &self.name, values.as_deref()?))
            .collect();
        for bundle in self.bundles() {
            for (keeper, key) in bundle.keepers().iter().zip(&keys) {
                let unread = || {
                    keeper
                        .status()
                        .failure
                        .is_some_and(|(failure, _)| failure.class == FailureClass::Unreadable)
                };
                // A keeper whose last attempt was made with these very values learns nothing new: a
                // refusal of them stands.
                let used = || {
                    key.is_some()
                        && keeper.last_key().map(|last| GuardKey {
                            partition: None,
                            ..last
                        }) == *key
                };
                if if first { unread() } else { !used() } {
                    keeper.note_change();
                }
            }
        }
    }

    /// The last good secret values, where presented headers need any.
    pub(super) async fn secret_values(&self) -> Result<Option<Arc<Values>>, Refusal> {
        if !self.names.uses_secrets {
            return Ok(None);
        }
        match self.runtime.secrets.believed() {
            Some(values) => Ok(Some(values)),
            None => self
                .runtime
                .secrets
                .values()
                .await
                .map(Some)
                .map_err(|why| Refusal::unreadable(&why)),
        }
    }
}

impl CredentialRuntime {
    /// What runs now, as far as it still does.
    fn current(&self) -> Option<Arc<Credential>> {
        self.current.lock().upgrade()
    }
}

/// Looks, and as long as somebody may still be writing looks again. `tell`: told when the first
/// look is done.
async fn check_until_settled(
    runtime: Arc<CredentialRuntime>,
    permit: LookPermit,
    tell: oneshot::Sender<()>,
) {
    let mut checked = check_once(&runtime, permit).await;
    // Who asked may have gone.
    let _ = tell.send(());
    if !unsettled(checked.as_ref()) || runtime.followed.swap(true, Ordering::AcqRel) {
        return;
    }
    let weak: Weak<CredentialRuntime> = Arc::downgrade(&runtime);
    drop(runtime);
    while let Some(SecretCheck::Unsettled { rest, .. }) = &checked {
        sleep((*rest).clamp(Duration::from_millis(1), AGAIN)).await;
        let Some(runtime) = weak.upgrade() else {
            return;
        };
        let secrets = runtime.secrets.clone();
        // Another look that hangs has the turn until it is done.
        let Some(permit) = secrets.permit().await else {
            continue;
        };
        checked = check_once(&runtime, permit).await;
    }
    if let Some(runtime) = weak.upgrade() {
        runtime.followed.store(false, Ordering::Release);
    }
}

fn unsettled(checked: Option<&SecretCheck>) -> bool {
    matches!(checked, Some(SecretCheck::Unsettled { .. }))
}

/// A look on a thread that may block, told to the credential that runs. `None`: the runtime is going down.
async fn check_once(
    runtime: &Arc<CredentialRuntime>,
    mut permit: LookPermit,
) -> Option<SecretCheck> {
    let secrets = runtime.secrets.clone();
    let checked =
        tokio::task::spawn_blocking(move || secrets.check(&mut permit, ClockReading::now()))
            .await
            .ok()?;
    if let Some(credential) = runtime.current() {
        credential.report_check(&checked);
    }
    Some(checked)
}

#[cfg(test)]
#[path = "secret_watch_tests.rs"]
mod tests;
