//! What is believed of one credential's secrets: the one owner of their values, for token calls,
//! placed headers and the poller alike.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::time::sleep;

use super::{
    read::{UnreadableSecret, read_consistently},
    source::Secrets,
    value::Values,
};
use crate::{
    files::{ClockReading, FileWatcher, LOOK_PATIENCE, LookPermit, QUIET, SettleState},
    lock::Lock,
};

/// Who needs the values now waits so long for a file that was replaced a moment ago; for one that
/// is being written nobody waits, unless nothing is believed yet: then for one rest of it.
const MOMENT: Duration = Duration::from_millis(250);

/// The secrets of one credential, watched. A value that is being written is not believed before its
/// files have been quiet for two seconds ([`crate::files`]); until then, and while they cannot be
/// read for no longer than that, what was believed before holds on.
pub struct SecretWatcher {
    sources: ArcSwap<Secrets>,
    believed: ArcSwapOption<BelievedSecrets>,
    /// Counts up when believed values change.
    generation: AtomicU64,
    files: FileWatcher,
    /// What the last reading that was believed could not read.
    unreadable: Lock<Option<UnreadableSecret>>,
}

struct BelievedSecrets {
    values: Arc<Values>,
    digest: [u8; 32],
}

/// What a look found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretCheck {
    /// What was believed before still is.
    Same,
    /// Other values than before are believed.
    Changed {
        /// There were none before.
        first: bool,
    },
    /// Somebody may still be writing; what was believed before still is, also that a secret cannot
    /// be read.
    Unsettled {
        /// How long from now, if nothing more is written.
        rest: Duration,
        /// How long it has been so.
        lasted: Duration,
        /// What could not be read when values were last believed.
        unreadable: Option<UnreadableSecret>,
    },
    /// A secret is missing, empty or not readable, and not only for a moment. What was believed
    /// before is kept for what is placed on requests.
    Unreadable(UnreadableSecret),
}

impl SecretWatcher {
    /// Nothing is read yet.
    #[must_use]
    pub fn new(secrets: Arc<Secrets>) -> Self {
        let (sources, believed) = (ArcSwap::new(secrets), ArcSwapOption::empty());
        Self {
            sources,
            believed,
            generation: AtomicU64::new(0),
            // A first half of a secret would be a wrong attempt.
            files: FileWatcher::careful(),
            unreadable: Lock::default(),
        }
    }

    /// Where the values come from, from the next look on.
    pub fn adopt(&self, secrets: Arc<Secrets>) {
        self.sources.store(secrets);
    }

    /// The values that were last believed; reads nothing.
    #[must_use]
    pub fn believed(&self) -> Option<Arc<Values>> {
        self.believed
            .load()
            .as_ref()
            .map(|believed| believed.values.clone())
    }

    /// Counts up when believed values change; 0: none were yet.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Waits for the right to look, 5 s at most; `None`: another look hangs.
    pub async fn permit(&self) -> Option<LookPermit> {
        self.files.permit(LOOK_PATIENCE).await
    }

    /// The right to look, if nobody else has it.
    #[must_use]
    pub fn try_permit(&self) -> Option<LookPermit> {
        self.files.try_permit()
    }

    /// One look at the moment `at`, with the permit of this watcher. For a thread that may block.
    pub fn check(&self, permit: &mut LookPermit, at: ClockReading) -> SecretCheck {
        let reading = match read_consistently(&self.sources.load_full()) {
            Ok(reading) => reading,
            Err(why) => return SecretCheck::Unreadable(why),
        };
        let unsettled = |rest, lasted| SecretCheck::Unsettled {
            rest,
            lasted,
            unreadable: self.unreadable.lock().clone(),
        };
        let Some(reading) = reading else {
            return unsettled(QUIET, Duration::ZERO);
        };
        if self.believed.load().is_none()
            && let Err(why) = &reading.values
        {
            // Nothing to hold on to, and nothing that half of could be sent.
            *self.unreadable.lock() = Some(why.clone());
            return SecretCheck::Unreadable(why.clone());
        }
        if let SettleState::Wait { rest, lasted } = permit.assess(&reading.marks, at) {
            return unsettled(rest, lasted);
        }
        *self.unreadable.lock() = reading.values.as_ref().err().cloned();
        let values = match reading.values {
            Ok(values) => values,
            Err(why) => return SecretCheck::Unreadable(why),
        };
        let digest = values.digest();
        let before = self.believed.load();
        if before
            .as_ref()
            .is_some_and(|before| before.digest == digest)
        {
            return SecretCheck::Same;
        }
        let first = before.is_none();
        self.believed.store(Some(Arc::new(BelievedSecrets {
            values: Arc::new(values),
            digest,
        })));
        self.generation.fetch_add(1, Ordering::AcqRel);
        SecretCheck::Changed { first }
    }

    /// The values to use now: looks, and gives what is believed after that.
    ///
    /// # Errors
    /// In words, without values: a secret cannot be read, or nothing was believed yet and somebody
    /// is writing, or the files do not answer for 5 s.
    pub async fn values(self: &Arc<Self>) -> Result<Arc<Values>, String> {
        let mut checked = self.check_now().await;
        let patience = match &checked {
            Some(SecretCheck::Unsettled {
                unreadable: None, ..
            }) if self.believed.load().is_none() => QUIET,
            _ => MOMENT,
        };
        if let Some(SecretCheck::Unsettled { rest, .. }) = checked
            && rest <= patience
        {
            sleep(rest).await;
            checked = self.check_now().await;
        }
        match checked {
            Some(
                SecretCheck::Same
                | SecretCheck::Changed { .. }
                | SecretCheck::Unsettled {
                    unreadable: None, ..
                },
            ) => {}
            Some(
                SecretCheck::Unreadable(why)
                | SecretCheck::Unsettled {
                    unreadable: Some(why),
                    ..
                },
            ) => return Err(why.to_string()),
            None => return Err("secrets: their files do not answer".into()),
        }
        self.believed()
            .ok_or_else(|| "secrets: their files are being written".into())
    }

    /// `None`: it hangs, or the runtime is going down.
    async fn check_now(self: &Arc<Self>) -> Option<SecretCheck> {
        let (permit, me) = (self.permit().await?, self.clone());
        permit
            .run_aside(move |permit| me.check(permit, ClockReading::now()))
            .await
    }
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
