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
use tokio::{
    sync::{Mutex, OwnedMutexGuard},
    time::{sleep, timeout},
};

use super::{Secrets, Unreadable, Values, read};
use crate::files::{Judgement, Moment, QUIET, Settling};

/// Nobody waits longer for a look: a file may lie on a mount that hangs.
const PATIENCE: Duration = Duration::from_secs(5);
/// Who needs the values now waits so long for a file that was replaced a moment ago; for one that
/// is being written nobody waits, unless nothing is believed yet: then for one rest of it.
const MOMENT: Duration = Duration::from_millis(250);

/// The secrets of one credential, watched. A value that is being written is not believed before its
/// files have been quiet for two seconds ([`crate::files`]); until then, and while they cannot be
/// read for no longer than that, what was believed before holds on.
pub struct Watcher {
    sources: ArcSwap<Secrets>,
    believed: ArcSwapOption<Believed>,
    /// Counts up when believed values change.
    generation: AtomicU64,
    state: Arc<Mutex<State>>,
}

struct Believed {
    values: Arc<Values>,
    digest: [u8; 32],
}

/// What there is between looks.
pub struct State {
    settling: Settling,
    /// What the last reading that was believed could not read.
    unreadable: Option<Unreadable>,
}

impl Default for State {
    fn default() -> Self {
        // A first half of a secret would be a wrong attempt.
        Self {
            settling: Settling::careful(),
            unreadable: None,
        }
    }
}

/// The right to look. There is one, and who holds it sees everything that was written before.
pub type Turn = OwnedMutexGuard<State>;

/// What a look found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Looked {
    Same,
    /// Other values than before are believed. `first`: there were none before.
    Changed {
        first: bool,
    },
    /// Somebody may still be writing; what was believed before still is, also that a secret cannot
    /// be read. `rest`: how long from now, if nothing more is written. `lasted`: how long it has
    /// been so.
    Unsettled {
        rest: Duration,
        lasted: Duration,
        unreadable: Option<Unreadable>,
    },
    /// A secret is missing, empty or not readable, and not only for a moment. What was believed
    /// before is kept for what is placed on requests.
    Unreadable(Unreadable),
}

impl Watcher {
    /// Nothing is read yet.
    #[must_use]
    pub fn new(secrets: Arc<Secrets>) -> Self {
        let (sources, believed) = (ArcSwap::new(secrets), ArcSwapOption::empty());
        Self {
            sources,
            believed,
            generation: AtomicU64::new(0),
            state: Arc::default(),
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

    /// Waits for the turn to look, 5 s at most; `None`: another look hangs.
    pub async fn turn(&self) -> Option<Turn> {
        timeout(PATIENCE, self.state.clone().lock_owned())
            .await
            .ok()
    }

    /// The turn, if nobody else has it.
    #[must_use]
    pub fn turn_now(&self) -> Option<Turn> {
        self.state.clone().try_lock_owned().ok()
    }

    /// One look at the moment `at`. For a thread that may block.
    pub fn look(&self, turn: &mut State, at: Moment) -> Looked {
        let reading = match read::consistent(&self.sources.load_full()) {
            Ok(reading) => reading,
            Err(why) => return Looked::Unreadable(why),
        };
        let unsettled = |rest, lasted, unreadable: &Option<Unreadable>| Looked::Unsettled {
            rest,
            lasted,
            unreadable: unreadable.clone(),
        };
        let Some(reading) = reading else {
            return unsettled(QUIET, Duration::ZERO, &turn.unreadable);
        };
        if self.believed.load().is_none()
            && let Err(why) = &reading.values
        {
            // Nothing to hold on to, and nothing that half of could be sent.
            turn.unreadable = Some(why.clone());
            return Looked::Unreadable(why.clone());
        }
        if let Judgement::Wait { rest, lasted } = turn.settling.judge(&reading.marks, at) {
            return unsettled(rest, lasted, &turn.unreadable);
        }
        turn.unreadable = reading.values.as_ref().err().cloned();
        let values = match reading.values {
            Ok(values) => values,
            Err(why) => return Looked::Unreadable(why),
        };
        let digest = values.digest();
        let before = self.believed.load();
        if before
            .as_ref()
            .is_some_and(|before| before.digest == digest)
        {
            return Looked::Same;
        }
        let first = before.is_none();
        self.believed.store(Some(Arc::new(Believed {
            values: Arc::new(values),
            digest,
        })));
        self.generation.fetch_add(1, Ordering::AcqRel);
        Looked::Changed { first }
    }

    /// The values to use now: looks, and gives what is believed after that.
    ///
    /// # Errors
    /// In words, without values: a secret cannot be read, or nothing was believed yet and somebody
    /// is writing, or the files do not answer for 5 s.
    pub async fn values(self: &Arc<Self>) -> Result<Arc<Values>, String> {
        let mut looked = self.look_now().await;
        let patience = match &looked {
            Some(Looked::Unsettled {
                unreadable: None, ..
            }) if self.believed.load().is_none() => QUIET,
            _ => MOMENT,
        };
        if let Some(Looked::Unsettled { rest, .. }) = looked
            && rest <= patience
        {
            sleep(rest).await;
            looked = self.look_now().await;
        }
        match looked {
            Some(
                Looked::Same
                | Looked::Changed { .. }
                | Looked::Unsettled {
                    unreadable: None, ..
                },
            ) => {}
            Some(
                Looked::Unreadable(why)
                | Looked::Unsettled {
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
    async fn look_now(self: &Arc<Self>) -> Option<Looked> {
        let mut turn = self.turn().await?;
        let me = self.clone();
        // A file may lie on a slow disk. A look that is left behind keeps its turn until it is
        // done.
        let look = tokio::task::spawn_blocking(move || me.look(&mut turn, Moment::now()));
        timeout(PATIENCE, look).await.ok()?.ok()
    }
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
