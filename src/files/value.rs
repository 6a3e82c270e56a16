//! What was made of some files, for whoever needs it now: one looks, and nobody waits long.

use std::{sync::Arc, time::Duration};

use super::watch::{FileWatcher, LookPermit};
use crate::{clock::BootInstant, lock::Lock};

/// What was last made of some files.
#[derive(Debug)]
pub struct WatchedValue<T> {
    watcher: FileWatcher,
    /// And when, or when it was last kept in use.
    last: Lock<Option<(BootInstant, Arc<T>)>>,
}

/// How patient who needs a [`WatchedValue`] is.
#[derive(Debug, Clone, Copy)]
pub struct LookTimes {
    /// What is younger than this counts without a look.
    pub fresh: Duration,
    /// So long another look is waited for where there is something to go on with.
    pub patience: Duration,
    /// And so long where there is nothing yet.
    pub first: Duration,
}

/// What a look at a [`WatchedValue`] came to.
#[derive(Debug)]
pub enum LookResult<T> {
    /// What counts now: made of the files, or still fresh, or kept because somebody is writing.
    Value(Arc<T>),
    /// Another looks, and was not waited for to the end.
    Busy,
    /// The files did not answer within 5 s.
    Silent,
    /// Nothing can be made of them: why, in words.
    Unusable(String),
}

impl<T> Default for WatchedValue<T> {
    fn default() -> Self {
        Self {
            watcher: FileWatcher::default(),
            last: Lock::default(),
        }
    }
}

impl<T: Send + Sync + 'static> WatchedValue<T> {
    /// What was last made, however long ago.
    #[must_use]
    pub fn last(&self) -> Option<Arc<T>> {
        self.last.lock().as_ref().map(|(_, value)| value.clone())
    }

    /// What was made, or kept in use, less than `age` ago: there is no need to look again.
    #[must_use]
    pub fn fresh(&self, age: Duration) -> Option<Arc<T>> {
        let last = self.last.lock();
        last.as_ref()
            .filter(|(at, _)| at.until(BootInstant::now()) < age)
            .map(|(_, value)| value.clone())
    }

    /// This counts from now on; `None`: nothing does.
    pub fn keep_in_use(&self, value: Option<Arc<T>>) {
        *self.last.lock() = value.map(|value| (BootInstant::now(), value));
    }

    /// Looks, unless there is something fresh; one at a time, and nobody waits longer for the files
    /// than 5 s. `load` runs on a thread that may block; it is given what was made before.
    pub async fn refresh(
        self: &Arc<Self>,
        times: LookTimes,
        load: impl FnOnce(&mut LookPermit, Option<Arc<T>>) -> Result<Arc<T>, String> + Send + 'static,
    ) -> LookResult<T> {
        if let Some(value) = self.fresh(times.fresh) {
            return LookResult::Value(value);
        }
        let patience = if self.last().is_some() {
            times.patience
        } else {
            times.first
        };
        let Some(permit) = self.watcher.permit(patience).await else {
            return LookResult::Busy;
        };
        if let Some(value) = self.fresh(times.fresh) {
            return LookResult::Value(value);
        }
        let me = self.clone();
        permit
            .run_aside(move |permit| me.look_with(permit, load))
            .await
            .unwrap_or(LookResult::Silent)
    }

    /// As [`Self::refresh`], on this thread, which may block; busy where another looks.
    pub fn refresh_here(
        &self,
        load: impl FnOnce(&mut LookPermit, Option<Arc<T>>) -> Result<Arc<T>, String>,
    ) -> LookResult<T> {
        match self.watcher.try_permit() {
            Some(mut permit) => self.look_with(&mut permit, load),
            None => LookResult::Busy,
        }
    }

    fn look_with(
        &self,
        permit: &mut LookPermit,
        load: impl FnOnce(&mut LookPermit, Option<Arc<T>>) -> Result<Arc<T>, String>,
    ) -> LookResult<T> {
        match load(permit, self.last()) {
            Ok(value) => {
                self.keep_in_use(Some(value.clone()));
                LookResult::Value(value)
            }
            Err(why) => LookResult::Unusable(why),
        }
    }

    /// For tests: the permit of a look that never ends.
    #[cfg(test)]
    pub fn hang(&self) -> LookPermit {
        self.watcher.try_permit().unwrap()
    }
}
