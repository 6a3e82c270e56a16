//! From new bytes to a new snapshot: polls contents of configuration and secret files, and reloads
//! all or nothing.

mod config_reading;
mod start_settings;

use std::{
    path::PathBuf,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use futures_util::{StreamExt as _, stream};

use self::{
    config_reading::{ConfigReading, is_read_from, read_config, read_marks, watched_files},
    start_settings::StartSettings,
};
use crate::{
    clock::BootInstant,
    config::{Config, LoadOptions},
    credential::{CredentialDeps, SecretCheckTrigger},
    document::{Problem, Severity},
    files::{ClockReading, FileWatcher, LookPermit, SettleState, digest_marks},
    lock::Lock,
    snapshot::Snapshot,
    telemetry::Metrics,
};

/// What is being written is looked at this often until it is whole.
const AGAIN: Duration = Duration::from_millis(500);
/// Who asks for a reload waits so long for a writer to rest.
const PATIENCE: Duration = Duration::from_secs(4);
/// A writer that has not rested for so long is told of.
const RESTLESS: Duration = Duration::from_secs(30);
/// So many credentials' secrets are read at the same time.
const AT_A_TIME: usize = 8;

/// How the last reload ended.
#[derive(Debug, Clone, PartialEq)]
pub enum ReloadOutcome {
    /// A new configuration runs; these keys differ from what the program started with and need a
    /// restart.
    Applied {
        /// Key paths such as `proxy.listen`.
        restart: Vec<&'static str>,
    },
    /// What was read is what runs.
    Unchanged,
    /// The old one goes on running.
    Refused(Vec<Problem>),
}

/// A reload as its watcher sees it; see [`Reloader::observe`].
#[derive(Debug, Clone, Copy)]
pub enum ReloadStep<'a> {
    /// Files are about to be read; what runs is what ran before.
    Begins,
    /// With the configuration that runs from now on, whatever the outcome.
    Ends(&'a Config),
}

type ReloadObserver = Box<dyn Fn(ReloadStep<'_>) + Send + Sync>;

/// What became of one try to reload.
enum ReloadAttempt {
    Ended(ReloadOutcome),
    /// Somebody may still be writing; `rest`: how long from now, if nothing more is written.
    Unsettled {
        rest: Duration,
    },
}

/// Reloads one program's configuration.
#[derive(Clone)]
pub struct Reloader(Arc<Inner>);

struct Inner {
    snapshot: Arc<ArcSwap<Snapshot>>,
    deps: CredentialDeps,
    metrics: Metrics,
    options: LoadOptions,
    /// Its permit is held through a reload, so that there is one at a time; not while a writer is
    /// waited for.
    watcher: FileWatcher,
    /// Digest of the contents that the running configuration was read from.
    contents: Lock<[u8; 32]>,
    /// That somebody writes them without a rest was told.
    told: AtomicBool,
    started: StartSettings,
    last: Lock<Option<(ReloadOutcome, BootInstant)>>,
    observer: OnceLock<ReloadObserver>,
}

impl Reloader {
    /// For the snapshot that runs now.
    #[must_use]
    pub fn new(
        snapshot: Arc<ArcSwap<Snapshot>>,
        deps: CredentialDeps,
        options: LoadOptions,
    ) -> Self {
        let config = &snapshot.load_full().config;
        let (watcher, mut contents) = (FileWatcher::default(), [0; 32]);
        if let Some(marks) = read_marks(&watched_files(config)) {
            // A file that was changed since it was read is read again by the first poll.
            if is_read_from(config, &marks) {
                contents = digest_marks(&marks);
            }
            if let Some(mut permit) = watcher.try_permit() {
                let _ = permit.assess(&marks, ClockReading::now());
            }
        }
        let started = StartSettings::from_config(config);
        let metrics = deps.metrics.clone();
        Self(Arc::new(Inner {
            snapshot,
            deps,
            metrics,
            options,
            watcher,
            contents: Lock::new(contents),
            told: AtomicBool::new(false),
            started,
            last: Lock::default(),
            observer: OnceLock::new(),
        }))
    }

    /// Calls `observer` at the begin and the end of every reload that is counted. There is one;
    /// later ones are ignored.
    pub fn observe(&self, observer: impl Fn(ReloadStep<'_>) + Send + Sync + 'static) {
        let _ = self.0.observer.set(Box::new(observer));
    }

    fn notify_observer(&self, step: ReloadStep<'_>) {
        if let Some(observer) = self.0.observer.get() {
            observer(step);
        }
    }

    /// The last reload's outcome and when it was.
    #[must_use]
    pub fn last(&self) -> Option<(ReloadOutcome, BootInstant)> {
        self.0.last.lock().clone()
    }

    /// Keys that the running configuration has otherwise than the program was started with, and
    /// that only a restart brings into effect.
    #[must_use]
    pub fn needs_restart(&self) -> Vec<&'static str> {
        self.0
            .started
            .changed_keys(&StartSettings::from_config(&self.0.snapshot.load().config))
    }

    /// Reads everything again, secrets included, and runs on it if it is right. A file that is
    /// being written is waited for, until it has been quiet for two seconds, 4 s at most.
    pub async fn reload(&self) -> ReloadOutcome {
        let until = BootInstant::now().after(PATIENCE);
        self.notify_observer(ReloadStep::Begins);
        let outcome = loop {
            let mut permit = self.0.watcher.wait_permit().await;
            let rest = match self.try_reload(&mut permit).await {
                ReloadAttempt::Ended(outcome) => break self.report(outcome),
                ReloadAttempt::Unsettled { rest } => rest,
            };
            if BootInstant::now() >= until {
                break self.report(ReloadOutcome::Refused(vec![being_written(
                    self.0.snapshot.load().config.file.clone(),
                )]));
            }
            drop(permit);
            tokio::time::sleep(next_look(rest)).await;
        };
        self.notify_observer(ReloadStep::Ends(&self.0.snapshot.load().config));
        self.look_at_secrets(SecretCheckTrigger::Now).await;
        outcome
    }

    /// Reloads for the poller, who comes again: what is being written is not waited for, and what
    /// is refused for the reasons of the last time is not told again.
    async fn try_polled_reload(&self) -> ReloadAttempt {
        let mut permit = self.0.watcher.wait_permit().await;
        let tried = self.try_reload(&mut permit).await;
        if let ReloadAttempt::Ended(outcome) = &tried
            && !(matches!(outcome, ReloadOutcome::Refused(_))
                && self.last().is_some_and(|(last, _)| last == *outcome))
        {
            // Only now it is known that there is something to tell.
            self.notify_observer(ReloadStep::Begins);
            self.report(outcome.clone());
            self.notify_observer(ReloadStep::Ends(&self.0.snapshot.load().config));
        }
        tried
    }

    /// Counts, logs and remembers it.
    fn report(&self, outcome: ReloadOutcome) -> ReloadOutcome {
        let word = match &outcome {
            ReloadOutcome::Applied { restart } => {
                tracing::info!(
                    generation = self.0.snapshot.load().generation,
                    "configuration reloaded"
                );
                if !restart.is_empty() {
                    tracing::warn!(
                        keys = restart.join(", "),
                        "changed, but only a restart brings it into effect"
                    );
                }
                "applied"
            }
            ReloadOutcome::Unchanged => "unchanged",
            ReloadOutcome::Refused(problems) => {
                for problem in problems {
                    problem.log("configuration refused, the old one goes on: ");
                }
                "refused"
            }
        };
        self.0.metrics.config_reloaded(word);
        *self.0.last.lock() = Some((outcome.clone(), BootInstant::now()));
        outcome
    }

    async fn try_reload(&self, permit: &mut LookPermit) -> ReloadAttempt {
        let old = self.0.snapshot.load_full();
        let Some(file) = old.config.file.clone() else {
            return ReloadAttempt::Ended(ReloadOutcome::Unchanged);
        };
        let (options, known) = (self.0.options.clone(), watched_files(&old.config));
        let Ok(reading) =
            tokio::task::spawn_blocking(move || read_config(&file, &known, &options)).await
        else {
            return runtime_ended();
        };
        let Some(ConfigReading {
            config,
            problems,
            marks: found,
        }) = reading
        else {
            return ReloadAttempt::Unsettled { rest: AGAIN };
        };
        if let SettleState::Wait { rest, lasted } = permit.assess(&found, ClockReading::now()) {
            if lasted >= RESTLESS && !self.0.told.swap(true, Relaxed) {
                tracing::warn!(
                    "configuration files are written without a rest of two seconds; the old ones go on"
                );
            }
            return ReloadAttempt::Unsettled { rest };
        }
        self.0.told.store(false, Relaxed);
        let (Some(config), false) = (config, problems.fatal()) else {
            return ReloadAttempt::Ended(ReloadOutcome::Refused(problems.into_list()));
        };
        let contents = digest_marks(&found);
        if contents == *self.0.contents.lock() {
            return ReloadAttempt::Ended(ReloadOutcome::Unchanged);
        }
        if config.upstreams.is_empty() && !old.config.upstreams.is_empty() {
            return ReloadAttempt::Ended(ReloadOutcome::Refused(vec![no_upstreams(config.file)]));
        }
        let (deps, generation, named) = (
            self.0.deps.clone(),
            old.generation + 1,
            watched_files(&config),
        );
        // It reads certificates: what lies there must still be what was found right.
        let build = move || {
            (
                Snapshot::build(config, &deps, generation),
                read_marks(&named).as_ref() == Some(&found),
            )
        };
        let Ok((built, same)) = tokio::task::spawn_blocking(build).await else {
            return runtime_ended();
        };
        if !same {
            return ReloadAttempt::Unsettled {
                rest: Duration::ZERO,
            };
        }
        ReloadAttempt::Ended(match built {
            Ok(new) => {
                let new = Arc::new(new);
                self.0.snapshot.store(new.clone());
                new.adopt();
                *self.0.contents.lock() = contents;
                ReloadOutcome::Applied {
                    restart: self.needs_restart(),
                }
            }
            Err(problems) => ReloadOutcome::Refused(problems.into_list()),
        })
    }

    /// Polls contents until the program ends. `None` as the interval: only SIGHUP and the admin
    /// port reload.
    pub async fn poll(self) {
        // Each for itself: a certificate on a mount that hangs keeps nobody from seeing a new
        // secret, nor the other way round.
        tokio::join!(self.poll_configuration(), self.poll_secrets());
    }

    async fn poll_configuration(&self) {
        let mut unsettled = None;
        loop {
            match unsettled.take() {
                // Without polling, too: somebody asked for this reload.
                Some(rest) => tokio::time::sleep(next_look(rest)).await,
                None if !self.interval_over().await => continue,
                None => {}
            }
            if !self.files_differ().await {
                continue;
            }
            match self.try_polled_reload().await {
                ReloadAttempt::Unsettled { rest } => unsettled = Some(rest),
                ReloadAttempt::Ended(_) => self.look_at_secrets(SecretCheckTrigger::Now).await,
            }
        }
    }

    /// Whether there is something else than what runs. After a refusal everything is read each
    /// time: what was missing may be a file that the running configuration does not name.
    async fn files_differ(&self) -> bool {
        if matches!(self.last(), Some((ReloadOutcome::Refused(_), _))) {
            return true;
        }
        let named = watched_files(&self.0.snapshot.load().config);
        let Ok(found) = tokio::task::spawn_blocking(move || read_marks(&named)).await else {
            return false;
        };
        let mut permit = self.0.watcher.wait_permit().await;
        let Some(found) = found.filter(|found| digest_marks(found) == *self.0.contents.lock())
        else {
            return true;
        };
        // It was touched, or replaced by the same: later changes are compared with this.
        let _ = permit.assess(&found, ClockReading::now());
        false
    }

    async fn poll_secrets(&self) {
        // The first look is the one that later ones compare with.
        self.look_at_secrets(SecretCheckTrigger::Poll).await;
        loop {
            if self.interval_over().await {
                self.look_at_secrets(SecretCheckTrigger::Poll).await;
            }
        }
    }

    /// Waits for it; false where nothing is polled.
    async fn interval_over(&self) -> bool {
        let interval = self.0.snapshot.load().config.reload;
        tokio::time::sleep(
            interval
                .unwrap_or(Duration::from_secs(5))
                .max(Duration::from_millis(50)),
        )
        .await;
        interval.is_some()
    }

    /// Several at a time: one may have to wait for its files.
    async fn look_at_secrets(&self, trigger: SecretCheckTrigger) {
        let all: Vec<_> = self
            .0
            .snapshot
            .load()
            .credentials
            .values()
            .cloned()
            .collect();
        stream::iter(all)
            .for_each_concurrent(AT_A_TIME, async |credential| {
                credential.check_secrets(trigger).await;
            })
            .await;
    }
}

fn next_look(rest: Duration) -> Duration {
    rest.clamp(Duration::from_millis(1), AGAIN)
}

/// The runtime is going down.
fn runtime_ended() -> ReloadAttempt {
    ReloadAttempt::Ended(ReloadOutcome::Refused(vec![]))
}

fn being_written(file: Option<PathBuf>) -> Problem {
    let what = "the configuration, or a file that it names, is being written: none of them counts before it has been quiet for two seconds";
    refusal(
        file,
        what,
        "write a file beside it and rename it, which counts at once; or try again",
    )
}

fn no_upstreams(file: Option<PathBuf>) -> Problem {
    let hint = "a file that was cut off looks like this; to serve nothing, stop the program";
    Problem {
        key: "upstreams".to_owned(),
        ..refusal(file, "there is none, and upstreams are running", hint)
    }
}

fn refusal(file: Option<PathBuf>, what: &str, hint: &str) -> Problem {
    Problem {
        severity: Severity::Problem,
        key: String::new(),
        file,
        what: what.to_owned(),
        hint: Some(hint.to_owned()),
    }
}
