//! From new bytes to a new snapshot: polls contents of configuration and secret files, and reloads all or nothing.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use futures_util::{StreamExt as _, stream};

use crate::{
    config::{self, Config, Listen, Sight},
    credential::{Look, World},
    problem::{Problem, Problems},
    snapshot::Snapshot,
    telemetry::Metrics,
    token::Now,
};

/// So many credentials' secrets are read at the same time.
const AT_A_TIME: usize = 8;

/// How the last reload ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// A new configuration runs; these keys differ from what the program started with and need a restart.
    Applied { restart: Vec<&'static str> },
    /// What was read is what runs.
    Unchanged,
    /// The old one goes on running.
    Refused(Vec<Problem>),
}

/// A reload as its watcher sees it; see [`Reloader::watch`].
#[derive(Debug, Clone, Copy)]
pub enum Step<'a> {
    Begins,
    /// With the configuration that runs from now on, whatever the outcome.
    Ends(&'a Config),
}

type Watcher = Box<dyn Fn(Step<'_>) + Send + Sync>;

/// Reloads one program's configuration.
#[derive(Clone)]
pub struct Reloader(Arc<Inner>);

struct Inner {
    snapshot: Arc<ArcSwap<Snapshot>>,
    world: World,
    metrics: Metrics,
    sight: Sight,
    /// Digest of the bytes the running configuration was read from; the lock is held through a reload, so that there is one at a time.
    running: tokio::sync::Mutex<[u8; 32]>,
    started: AtStart,
    last: Mutex<Option<(Outcome, Now)>>,
    watcher: OnceLock<Watcher>,
}

impl Reloader {
    /// For the snapshot that runs now.
    #[must_use]
    pub fn new(snapshot: Arc<ArcSwap<Snapshot>>, world: World, sight: Sight) -> Self {
        let config = &snapshot.load_full().config;
        let (running, started) = (tokio::sync::Mutex::new(digest(&watched(config))), AtStart::of(config));
        let metrics = world.metrics.clone();
        Self(Arc::new(Inner { snapshot, world, metrics, sight, running, started, last: Mutex::default(), watcher: OnceLock::new() }))
    }

    /// Calls `watcher` at the begin and the end of every reload that is counted. There is one; later ones are ignored.
    pub fn watch(&self, watcher: impl Fn(Step<'_>) + Send + Sync + 'static) {
        let _ = self.0.watcher.set(Box::new(watcher));
    }

    fn tell(&self, step: Step<'_>) {
        if let Some(watcher) = self.0.watcher.get() {
            watcher(step);
        }
    }

    /// The last reload's outcome and when it was.
    #[must_use]
    pub fn last(&self) -> Option<(Outcome, Now)> {
        self.0.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Keys that the running configuration has otherwise than the program was started with, and that only a restart brings into effect.
    #[must_use]
    pub fn needs_restart(&self) -> Vec<&'static str> {
        self.0.started.differs(&AtStart::of(&self.0.snapshot.load().config))
    }

    /// Reads everything again, secrets included, and runs on it if it is right.
    pub async fn reload(&self) -> Outcome {
        let outcome = {
            let mut running = self.0.running.lock().await;
            self.tell(Step::Begins);
            let outcome = self.reload_locked(&mut running).await;
            self.report(&outcome);
            self.tell(Step::Ends(&self.0.snapshot.load().config));
            outcome
        };
        self.look_at_secrets(Look::Now).await;
        outcome
    }

    /// The same, silent where it is refused for the reasons of the last time.
    async fn try_again(&self) {
        let mut running = self.0.running.lock().await;
        let outcome = self.reload_locked(&mut running).await;
        let known = matches!(outcome, Outcome::Refused(_)) && self.last().is_some_and(|(last, _)| last == outcome);
        if !known {
            // Only now it is known that there is something to tell.
            self.tell(Step::Begins);
            self.report(&outcome);
            self.tell(Step::Ends(&self.0.snapshot.load().config));
        }
    }

    /// Counts, logs and remembers it.
    fn report(&self, outcome: &Outcome) {
        let word = match outcome {
            Outcome::Applied { restart } => {
                tracing::info!(generation = self.0.snapshot.load().generation, "configuration reloaded");
                if !restart.is_empty() {
                    tracing::warn!(keys = restart.join(", "), "changed, but only a restart brings it into effect");
                }
                "applied"
            }
            Outcome::Unchanged => "unchanged",
            Outcome::Refused(problems) => {
                for problem in problems {
                    problem.log("configuration refused, the old one goes on: ");
                }
                "refused"
            }
        };
        self.0.metrics.reloaded(word);
        *self.0.last.lock().unwrap_or_else(PoisonError::into_inner) = Some((outcome.clone(), Now::now()));
    }

    async fn reload_locked(&self, running: &mut [u8; 32]) -> Outcome {
        let old = self.0.snapshot.load_full();
        let Some(file) = old.config.file.clone() else { return Outcome::Unchanged };
        let sight = self.0.sight.clone();
        let Ok((config, problems, seen)) = tokio::task::spawn_blocking(move || read(&file, &sight)).await else {
            return Outcome::Refused(vec![]); // The runtime is going down.
        };
        let (Some(config), false) = (config, problems.fatal()) else {
            return Outcome::Refused(problems.into_list());
        };
        if seen == *running {
            return Outcome::Unchanged;
        }
        let (world, generation) = (self.0.world.clone(), old.generation + 1);
        // It reads certificates.
        let Ok(built) = tokio::task::spawn_blocking(move || Snapshot::build(config, &world, generation)).await else {
            return Outcome::Refused(vec![]); // The runtime is going down.
        };
        match built {
            Ok(new) => {
                let new = Arc::new(new);
                self.0.snapshot.store(new.clone());
                new.adopt();
                *running = seen;
                Outcome::Applied { restart: self.needs_restart() }
            }
            Err(problems) => Outcome::Refused(problems.into_list()),
        }
    }

    /// Polls contents until the program ends. `None` as the interval: only SIGHUP and the admin port reload.
    pub async fn poll(self) {
        // Each for itself: a certificate on a mount that hangs keeps nobody from seeing a new secret, nor the other way round.
        tokio::join!(self.poll_configuration(), self.poll_secrets());
    }

    async fn poll_configuration(&self) {
        loop {
            if !self.interval_over().await {
                continue;
            }
            let files = watched(&self.0.snapshot.load().config);
            let Ok(seen) = tokio::task::spawn_blocking(move || digest(&files)).await else { return };
            // After a refusal everything is read each time: what was missing may be a file that the running configuration does not name.
            if seen != *self.0.running.lock().await || matches!(self.last(), Some((Outcome::Refused(_), _))) {
                self.try_again().await;
                self.look_at_secrets(Look::Now).await;
            }
        }
    }

    async fn poll_secrets(&self) {
        // The first look is the one that later ones compare with.
        self.look_at_secrets(Look::Poll).await;
        loop {
            if self.interval_over().await {
                self.look_at_secrets(Look::Poll).await;
            }
        }
    }

    /// Waits for it; false where nothing is polled.
    async fn interval_over(&self) -> bool {
        let interval = self.0.snapshot.load().config.reload;
        tokio::time::sleep(interval.unwrap_or(Duration::from_secs(5)).max(Duration::from_millis(50))).await;
        interval.is_some()
    }

    /// Several at a time: one may have to wait for its files.
    async fn look_at_secrets(&self, look: Look) {
        let all: Vec<_> = self.0.snapshot.load().credentials.values().cloned().collect();
        stream::iter(all).for_each_concurrent(AT_A_TIME, async |credential| credential.look(look).await).await;
    }
}

/// Loads `file` with all it names. The digest is that of the very bytes the configuration was made of: a file that changes in between is
/// read once more, or the newer bytes would be taken for running.
fn read(file: &Path, sight: &Sight) -> (Option<Config>, Problems, [u8; 32]) {
    let mut before = None;
    for _ in 0..3 {
        let (config, problems) = config::load(file, sight);
        let Some(config) = config else { return (None, problems, [0; 32]) };
        let seen = digest(&watched(&config));
        if before == Some(seen) {
            return (Some(config), problems, seen);
        }
        before = Some(seen);
    }
    // It changes all the time: what was read last runs, and the zeros make the next poll look again.
    let (config, problems) = config::load(file, sight);
    (config, problems, [0; 32])
}

/// Every file whose bytes shape the snapshot.
fn watched(config: &Config) -> Vec<PathBuf> {
    let tokens = config.credentials.values().flat_map(|c| c.profile.tokens.iter().map(|t| &t.tls));
    let tls = tokens.chain(config.upstreams.iter().map(|u| &u.tls));
    let tls = tls.flat_map(|t| [&t.ca_file, &t.client_cert_file, &t.client_key_file]).flatten();
    let mut files: Vec<PathBuf> = config.files.iter().chain(tls).cloned().collect();
    files.sort();
    files.dedup();
    files
}

/// A digest of names and contents; a file that cannot be read counts as such.
fn digest(files: &[PathBuf]) -> [u8; 32] {
    let mut h = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    for file in files {
        let content = std::fs::read(file).unwrap_or_else(|e| format!("unreadable: {:?}", e.kind()).into_bytes());
        h.update(&file.as_os_str().len().to_be_bytes());
        h.update(file.as_os_str().as_encoded_bytes());
        h.update(&content.len().to_be_bytes());
        h.update(&content);
    }
    let mut out = [0; 32];
    out.copy_from_slice(h.finish().as_ref()); // SHA-256 has 32 bytes.
    out
}

/// What is read once, at start.
struct AtStart {
    listen: Vec<Listen>,
    peers: Vec<u32>,
    workers: usize,
    admin: SocketAddr,
    metrics: Option<SocketAddr>,
    state: Option<PathBuf>,
    json: bool,
}

impl AtStart {
    fn of(config: &Config) -> Self {
        let Config { proxy, admin, metrics, state, log, .. } = config;
        let (listen, peers, workers) = (proxy.listen.clone(), proxy.peer_uids.clone(), proxy.workers);
        Self { listen, peers, workers, admin: admin.listen, metrics: *metrics, state: state.clone(), json: log.json }
    }

    /// The keys in which the two differ.
    fn differs(&self, other: &Self) -> Vec<&'static str> {
        let changed = [
            ("proxy.listen", self.listen != other.listen),
            ("proxy.peer_uids", self.peers != other.peers),
            ("proxy.workers", self.workers != other.workers),
            ("admin.listen", self.admin != other.admin),
            ("metrics.listen", self.metrics != other.metrics),
            ("state.dir", self.state != other.state),
            ("log.format", self.json != other.json),
        ];
        changed.into_iter().filter_map(|(key, changed)| changed.then_some(key)).collect()
    }
}
