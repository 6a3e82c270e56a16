//! Where `check --live` counts refusals: in the folder of `[state]`, else in one of this user's
//! own, so that a check in a loop locks nobody out.

use std::{
    collections::{BTreeMap, HashSet},
    fs::DirBuilder,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use futures_util::future::BoxFuture;

use crate::{
    app,
    lock::Lock,
    state,
    telemetry::Metrics,
    token::{
        AttemptOutcome, AttemptRequest, Denial, GuardDecision, GuardKey, GuardStatus, Ledger,
        LockoutPolicy, MemoryLedger, Reservation, TurnQueue,
    },
};

/// Where it is counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuardMemory {
    /// Where the running program counts, too.
    State,
    /// In a folder of this user's own: the next check knows of it.
    Own {
        /// That folder.
        dir: PathBuf,
        /// What is wrong with `[state]`, where there is one.
        why: Option<String>,
    },
    /// In this process only, and why.
    Nowhere(String),
}

impl GuardMemory {
    /// Whether the running program's count is respected and kept; otherwise why not, in words.
    ///
    /// # Errors
    /// There is a `[state]`, and it cannot be used, or there is nothing that can be.
    pub fn may_be_trusted(&self) -> Result<(), &str> {
        match self {
            Self::State | Self::Own { why: None, .. } => Ok(()),
            Self::Own { why: Some(why), .. } | Self::Nowhere(why) => Err(why),
        }
    }
}

/// The first of them that can be used, and its ledger. `state`: the folder of `[state]`; `env`:
/// where this user's own is looked for.
pub async fn open_ledger(
    state: Option<&Path>,
    env: &BTreeMap<String, String>,
    metrics: &Metrics,
) -> (GuardMemory, Arc<dyn Ledger>) {
    let mut why = None;
    if let Some(dir) = state {
        let ledger = app::ledger(Some(dir), metrics).await;
        match why_unusable(dir) {
            None => return (GuardMemory::State, ledger),
            Some(trouble) => why = Some(format!("[state]: {trouble}")),
        }
    }
    let own = match own_folder(env) {
        Ok(dir) => dir,
        Err(trouble) => {
            let why = why.map_or_else(|| trouble.clone(), |why| format!("{why}; {trouble}"));
            return (GuardMemory::Nowhere(why), Arc::new(MemoryLedger::default()));
        }
    };
    let ledger = app::ledger(Some(&own), metrics).await;
    match why_unusable(&own) {
        None => (GuardMemory::Own { dir: own, why }, ledger),
        Some(trouble) => (
            GuardMemory::Nowhere(trouble),
            Arc::new(MemoryLedger::default()),
        ),
    }
}

fn why_unusable(dir: &Path) -> Option<String> {
    let not_made = || (!dir.is_dir()).then(|| format!("{} cannot be made", dir.display()));
    state::unusable(dir)
        .map(|trouble| trouble.to_string())
        .or_else(not_made)
}

/// `cupbearer` in `$XDG_STATE_HOME`, else in `~/.local/state` (XDG base directory specification: a
/// path that is not absolute does not count). What is missing on the way to it is made, for this
/// user alone.
fn own_folder(env: &BTreeMap<String, String>) -> Result<PathBuf, String> {
    let absolute = |name: &str| {
        env.get(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let home = || absolute("HOME").map(|home| home.join(".local/state"));
    let base = absolute("XDG_STATE_HOME")
        .or_else(home)
        .ok_or("neither XDG_STATE_HOME nor HOME is set to an absolute path")?;
    let dir = base.join("cupbearer");
    let made = DirBuilder::new().recursive(true).mode(0o700).create(&dir);
    made.map(|()| dir.clone())
        .map_err(|error| format!("{} cannot be made: {error}", dir.display()))
}

/// A ledger for one who was told that no attempt may be made and wants one all the same
/// (`--force`): where it says no, it is unlatched for one attempt; where it says no to that as well
/// and is not the running program's, or cannot be used, the attempt is counted in memory alone.
pub struct ForcingLedger {
    record: Arc<dyn Ledger>,
    /// The running program's: what it says after an unlatch holds.
    shared: bool,
    memory: MemoryLedger,
    in_memory: Lock<HashSet<u64>>,
}

impl ForcingLedger {
    #[must_use]
    pub fn new(record: Arc<dyn Ledger>, shared: bool) -> Self {
        Self {
            record,
            shared,
            memory: MemoryLedger::default(),
            in_memory: Lock::default(),
        }
    }
}

impl Ledger for ForcingLedger {
    fn spend<'a>(
        &'a self,
        key: &'a GuardKey,
        limits: &'a LockoutPolicy,
        ask: &'a AttemptRequest,
    ) -> BoxFuture<'a, GuardDecision<Reservation>> {
        Box::pin(async move {
            match self.record.spend(key, limits, ask).await {
                spend @ (Ok(_) | Err(Denial::Busy)) => return spend,
                _ => self.record.clear(key).await,
            }
            match self.record.spend(key, limits, ask).await {
                spend @ (Ok(_) | Err(Denial::Busy)) => spend,
                Err(Denial::NoMemory) => self.spend_in_memory(key, limits, ask).await,
                spend if self.shared => spend,
                _ => self.spend_in_memory(key, limits, ask).await,
            }
        })
    }

    fn settle<'a>(
        &'a self,
        permit: Reservation,
        verdict: AttemptOutcome,
        limits: &'a LockoutPolicy,
    ) -> BoxFuture<'a, ()> {
        let here = self.in_memory.lock().remove(&permit.id);
        if here {
            self.memory.settle(permit, verdict, limits)
        } else {
            self.record.settle(permit, verdict, limits)
        }
    }

    fn clear<'a>(&'a self, key: &'a GuardKey) -> BoxFuture<'a, ()> {
        self.record.clear(key)
    }

    fn counted<'a>(&'a self, key: &'a GuardKey) -> BoxFuture<'a, Option<GuardStatus>> {
        self.record.counted(key)
    }

    fn freed(&self) -> BoxFuture<'static, ()> {
        self.record.freed()
    }

    fn line(&self) -> &TurnQueue {
        self.record.line()
    }
}

impl ForcingLedger {
    async fn spend_in_memory(
        &self,
        key: &GuardKey,
        limits: &LockoutPolicy,
        ask: &AttemptRequest,
    ) -> GuardDecision<Reservation> {
        let spend = self.memory.spend(key, limits, ask).await;
        if let Ok(permit) = &spend {
            self.in_memory.lock().insert(permit.id);
        }
        spend
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn env(pairs: &[(&str, &Path)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(name, path)| ((*name).to_owned(), path.display().to_string()))
            .collect()
    }

    #[tokio::test]
    async fn the_first_folder_that_can_be_used_is_and_what_is_wrong_with_others_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("file"), "").unwrap();
        std::fs::create_dir(at("open")).unwrap();
        std::fs::set_permissions(at("open"), PermissionsExt::from_mode(0o777)).unwrap();
        let metrics = Metrics::new().unwrap();
        let (xdg, home) = (at("xdg"), at("home"));
        let found = async |state: Option<&Path>, pairs: &[(&str, &Path)]| {
            open_ledger(state, &env(pairs), &metrics).await.0
        };
        let own = |dir: PathBuf| GuardMemory::Own {
            dir: dir.join("cupbearer"),
            why: None,
        };
        assert_eq!(found(Some(&at("state")), &[]).await, GuardMemory::State);
        assert_eq!(
            found(None, &[("XDG_STATE_HOME", &xdg), ("HOME", &home)]).await,
            own(xdg.clone())
        );
        assert_eq!(
            std::fs::metadata(xdg.join("cupbearer"))
                .unwrap()
                .permissions()
                .mode()
                & 0o777,
            0o700
        );
        assert_eq!(
            found(
                None,
                &[("XDG_STATE_HOME", Path::new("relative")), ("HOME", &home)]
            )
            .await,
            own(home.join(".local/state"))
        );
        for bad in ["open", "file"] {
            let found = found(Some(&at(bad)), &[("HOME", &home)]).await;
            assert!(
                matches!(&found, GuardMemory::Own { why: Some(why), .. } if why.starts_with("[state]: ")),
                "{found:?}"
            );
            assert!(found.may_be_trusted().is_err());
        }
        assert!(
            matches!(found(None, &[]).await, GuardMemory::Nowhere(why) if why.contains("HOME"))
        );
        assert!(
            matches!(found(None, &[("XDG_STATE_HOME", &at("file"))]).await, GuardMemory::Nowhere(why) if why.contains("cannot be made"))
        );
    }
}
