//! Wires everything: store, first snapshot, listeners, drain. The only file that knows all modules.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use tokio::{net::TcpListener, time::sleep};

use crate::{
    admin::{Admin, AdminSocket},
    clock::BootInstant,
    config::{self, Config, ListenAddress, LoadOptions},
    credential::CredentialDeps,
    document::Problems,
    listen::{self, Address, SocketFile},
    phase::{Phase, PhaseControl},
    proxy,
    reload::Reloader,
    snapshot::Snapshot,
    state::Disk,
    telemetry::Metrics,
    token::{Ledger, MemoryLedger, Store},
};

/// What the caller of [`App::start`] may choose.
#[derive(Default)]
pub struct Options {
    /// What a reload sees of the environment.
    pub load_options: LoadOptions,
}

/// A running program. Dropped without [`App::stop`] it stops at once.
pub struct App {
    proxy: Vec<Address>,
    admin: Address,
    /// The admin port's file, where it is a Unix socket.
    _admin_file: Option<SocketFile>,
    metrics_port: Option<SocketAddr>,
    listeners: listen::Handle,
    snapshot: Arc<ArcSwap<Snapshot>>,
    store: Arc<Store>,
    metrics: Metrics,
    reloader: Reloader,
    phase: PhaseControl,
    exposition: Admin,
}

/// Why the program could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port of `proxy.listen` cannot be bound.
    #[error("cannot listen on {} (proxy.listen): {}", .0.address, .0.error)]
    Bind(#[from] listen::BindError),
    /// Another port cannot be bound.
    #[error("cannot listen on {address} ({key}): {error}")]
    Port {
        /// The key that names it.
        key: &'static str,
        /// The address that it names.
        address: Address,
        /// What the system says.
        error: std::io::Error,
    },
    /// Files that the configuration names cannot be used.
    #[error("{}", .0.list().iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Config(Problems),
    /// A mistake of ours in the names of metrics.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// The system gives no random numbers to salt fingerprints with.
    #[error("no random numbers: {0}")]
    Random(String),
}

impl App {
    /// Binds every port, then starts to serve. Keepers begin to fetch at once.
    ///
    /// # Errors
    /// [`StartError`]: a port cannot be bound, or a file that the configuration names cannot be used.
    /// Nothing is left half-started then.
    pub async fn start(config: Config, options: Options) -> Result<Self, StartError> {
        let addresses: Vec<Address> = config
            .proxy
            .listen
            .iter()
            .map(|l| match l {
                ListenAddress::Tcp(a) => Address::Tcp(*a),
                ListenAddress::Unix(p) => Address::Unix(p.clone()),
            })
            .collect();
        let sockets = listen::bind_for(&addresses, &listen::Peers::new(&config.proxy.peer_uids))?;
        let (admin_socket, admin_address, admin_file) = admin_socket(&config.admin)?;
        let metrics_listener = config
            .metrics
            .map(|address| port("metrics.listen", address))
            .transpose()?;

        let metrics = Metrics::new()?;
        let store = Arc::new(Store::default());
        let mut salt = [0; 16];
        aws_lc_rs::rand::fill(&mut salt).map_err(|e| StartError::Random(e.to_string()))?;
        let deps = CredentialDeps::new(
            store.clone(),
            ledger(config.state.as_deref(), &metrics).await,
            metrics.clone(),
        )
        .with_salt(salt);
        let snapshot = Snapshot::build(config, &deps, 1).map_err(StartError::Config)?;
        snapshot.adopt();
        let snapshot = Arc::new(ArcSwap::from_pointee(snapshot));
        let reloader = Reloader::new(snapshot.clone(), deps, options.load_options);

        let metrics_port = metrics_listener
            .as_ref()
            .map(|l| local("metrics.listen", l))
            .transpose()?;

        // From here on nothing fails.
        let phase = PhaseControl::default();
        let front = proxy::front(snapshot.clone(), metrics.clone());
        let listeners = listen::serve(sockets, front, &phase.watch());
        let admin = Admin {
            snapshot: snapshot.clone(),
            metrics: metrics.clone(),
            reloader: reloader.clone(),
            proxy: listeners
                .addresses()
                .iter()
                .map(ToString::to_string)
                .collect(),
            phase: phase.watch(),
            started: BootInstant::now(),
            salt,
            unread: Arc::default(),
            doubts: Arc::default(),
            tokens: Arc::default(),
            reached: Arc::default(),
        };
        let readiness = admin.clone().watch_readiness();
        tokio::spawn(phase.watch().run_until(Phase::Stopped, readiness));
        let bound = if let Address::Tcp(address) = &admin_address {
            Some(*address)
        } else {
            None
        };
        tokio::spawn(admin.clone().serve(admin_socket, bound));
        if let Some(listener) = metrics_listener {
            tokio::spawn(admin.clone().serve_read_only(listener));
        }
        let poller = reloader.clone().poll();
        tokio::spawn(phase.watch().run_until(Phase::Lingering, poller));
        Ok(Self {
            proxy: listeners.addresses().to_vec(),
            admin: admin_address,
            _admin_file: admin_file,
            metrics_port,
            listeners,
            snapshot,
            store,
            metrics,
            reloader,
            phase,
            exposition: admin,
        })
    }

    /// Where the data port really listens, as text.
    #[must_use]
    pub fn proxy(&self) -> Vec<String> {
        self.proxy.iter().map(ToString::to_string).collect()
    }
    /// Where the admin port really listens.
    #[must_use]
    pub fn admin(&self) -> &Address {
        &self.admin
    }
    /// Where the read-only port really listens, if there is one.
    #[must_use]
    pub fn metrics_port(&self) -> Option<SocketAddr> {
        self.metrics_port
    }
    /// Reloads what runs.
    #[must_use]
    pub fn reloader(&self) -> &Reloader {
        &self.reloader
    }
    /// What runs now.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }
    /// What is counted.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// What `/metrics` would say if it were rendered now; the ports share a rendering for a second.
    #[must_use]
    pub fn exposition(&self) -> Vec<u8> {
        self.exposition.render_metrics()
    }

    /// Whether every token fetched at start has had its first outcome, as `/readyz` will remember
    /// it.
    #[must_use]
    pub fn is_started(&self) -> bool {
        self.exposition.reached.is_started()
    }

    /// What SIGTERM does: not ready any more, `linger`, then drain, as configured. True if nothing
    /// had to be cut off.
    pub async fn stop(self) -> bool {
        let (linger, drain) = {
            let snapshot = self.snapshot.load();
            (snapshot.config.proxy.linger, snapshot.config.proxy.drain)
        };
        self.phase.advance(Phase::Lingering);
        tracing::info!("stopping: open requests are finished");
        let begun = BootInstant::now();
        sleep(linger).await;
        self.phase.advance(Phase::Draining);
        let clean = self.listeners.finish(drain.saturating_sub(linger)).await;
        // A token call that is cut off is an attempt with an unknown outcome: it gets what is left
        // of the drain, and a moment.
        let left = drain
            .saturating_sub(begun.until(BootInstant::now()))
            .max(Duration::from_secs(1));
        self.store.drain(left).await;
        self.phase.advance(Phase::Stopped);
        clean
    }
}

/// Where the guard counts: on disk, or as long as this process lives.
pub async fn ledger(dir: Option<&Path>, metrics: &Metrics) -> Arc<dyn Ledger> {
    let Some(dir) = dir else {
        return Arc::new(MemoryLedger::default());
    };
    let metrics = metrics.clone();
    let disk = Disk::new(dir.to_owned(), move || metrics.state_failed());
    // What is wrong with the folder is said now, not at the first token call; vendors that do not
    // lock out are served all the same.
    disk.open().await;
    Arc::new(disk)
}

/// The admin port's socket, its address, and its file where it has one: for our own user and root
/// alone, unless `uids` names others, whom the kernel then vouches for.
fn admin_socket(
    config: &config::AdminConfig,
) -> Result<(AdminSocket, Address, Option<SocketFile>), StartError> {
    match &config.listen {
        ListenAddress::Tcp(address) => {
            let listener = port("admin.listen", *address)?;
            let address = Address::Tcp(local("admin.listen", &listener)?);
            Ok((AdminSocket::Tcp(listener), address, None))
        }
        ListenAddress::Unix(path) => {
            let address = Address::Unix(path.clone());
            let mode = if config.uids.is_empty() { 0o600 } else { 0o666 };
            match listen::plain_unix(path, mode) {
                Ok((listener, file)) => Ok((AdminSocket::Unix(listener), address, Some(file))),
                Err(error) => Err(StartError::Port {
                    key: "admin.listen",
                    address,
                    error,
                }),
            }
        }
    }
}

fn port(key: &'static str, address: SocketAddr) -> Result<TcpListener, StartError> {
    listen::plain(address).map_err(|error| StartError::Port {
        key,
        address: Address::Tcp(address),
        error,
    })
}

fn local(key: &'static str, listener: &TcpListener) -> Result<SocketAddr, StartError> {
    listener.local_addr().map_err(|error| StartError::Port {
        key,
        address: Address::Tcp(([0, 0, 0, 0], 0).into()),
        error,
    })
}
