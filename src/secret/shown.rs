//! Secrets that callers show us, on either port: read again while somebody shows one.

use std::{sync::Arc, time::Duration};

use super::{
    source::{Secrets, Source},
    value::Secret,
};
use crate::{
    files::{ClockReading, LookPermit, LookResult, LookTimes, WatchedValue},
    lock::Lock,
};

/// What is known of the secrets of one port. A file that is being written counts when it has been
/// quiet for two seconds, as everywhere.
#[derive(Debug, Default)]
pub struct CallerSecrets(Lock<Vec<Arc<CallerSecret>>>);

/// What is known of one source.
#[derive(Debug)]
pub struct CallerSecret {
    source: Source,
    value: Arc<WatchedValue<Secret>>,
}

impl CallerSecrets {
    /// What is known of these sources; what is known of others is forgotten.
    pub fn known(&self, sources: &[Source]) -> Vec<Arc<CallerSecret>> {
        let mut known = self.0.lock();
        known.retain(|one| sources.contains(&one.source));
        for source in sources {
            if !known.iter().any(|one| one.source == *source) {
                known.push(Arc::new(CallerSecret {
                    source: source.clone(),
                    value: Arc::default(),
                }));
            }
        }
        known.clone()
    }
}

impl CallerSecret {
    /// Its value where there is no need to read it: written into the configuration, or read, or kept
    /// in use, less than `age` ago.
    #[must_use]
    pub fn fresh(&self, age: Duration) -> Option<Arc<Secret>> {
        if let Source::Value(secret) = &self.source {
            return Some(Arc::new(secret.clone()));
        }
        self.value.fresh(age)
    }

    /// The value that was last read, however long ago.
    #[must_use]
    pub fn last(&self) -> Option<Arc<Secret>> {
        self.value.last()
    }

    /// This value counts from now on; `None`: nothing does.
    pub fn keep_in_use(&self, value: Option<Arc<Secret>>) {
        self.value.keep_in_use(value);
    }

    /// Reads it, unless it is fresh; see [`WatchedValue::refresh`].
    pub async fn refresh(&self, times: LookTimes) -> LookResult<Secret> {
        let secrets = self.secrets();
        let look = move |permit: &mut LookPermit, last| load(&secrets, permit, last);
        self.value.refresh(times, look).await
    }

    /// Reads it on this thread, which may block; see [`WatchedValue::refresh_here`].
    pub fn refresh_here(&self) -> LookResult<Secret> {
        let secrets = self.secrets();
        self.value
            .refresh_here(|permit, last| load(&secrets, permit, last))
    }

    fn secrets(&self) -> Secrets {
        Secrets::one(NAME, &self.source)
    }

    /// For tests: the permit of a look that never ends.
    #[cfg(test)]
    pub fn hang(&self) -> LookPermit {
        self.value.hang()
    }
}

const NAME: &str = "shown";

/// While somebody writes to its file, what was read before is what is there.
fn load(
    secrets: &Secrets,
    permit: &mut LookPermit,
    last: Option<Arc<Secret>>,
) -> Result<Arc<Secret>, String> {
    let read = || secrets.read().ok()?.get(NAME).cloned().map(Arc::new);
    permit
        .load_settled(&secrets.paths(), ClockReading::now(), read)
        .unwrap_or(last)
        .ok_or_else(|| "cannot be read".to_owned())
}
