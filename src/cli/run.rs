//! `run`: the proxy, until SIGTERM.

use std::path::Path;

use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::Level;

use super::{Exit, complain, load_options, require_usable};
use crate::{
    app::{App, Options, StartError},
    config::{self, Config},
    files,
    hardening::HardeningFailure,
    logging::{self, LogLevelHandle},
    reload::ReloadStep,
    systemd::{self, ServiceManager},
};

/// `cupbearer run`. `open` is what could not be hardened of this process.
pub fn run(file: &Path, ready_file: Option<&Path>, open: Vec<HardeningFailure>) -> Exit {
    let (config, volume) = match load_and_log(file) {
        Ok(begun) => begun,
        Err(exit) => return exit,
    };
    for what in open {
        tracing::warn!("{what}");
    }
    raise_open_files();
    let workers = match config.proxy.workers {
        0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        n => n,
    };
    tracing::debug!(workers, "worker threads");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(serve(config, ready_file, volume.clone())),
        Err(e) => {
            complain(format_args!("cupbearer: {e}"));
            Exit::Failed
        }
    }
}

/// The configuration and the log. Who wants JSON gets its problems and lints as JSON, too, a line
/// each.
fn load_and_log(file: &Path) -> Result<(Config, Option<LogLevelHandle>), Exit> {
    let options = load_options();
    let (config, problems) = config::load(file, &options);
    let json = config.as_ref().map_or_else(
        || config::wants_json(file, &options),
        |config| config.log.json,
    );
    if !json {
        let config = require_usable(file, config, &problems, true)?;
        let volume = logging::install_subscriber(false, config.log.level);
        return Ok((config, volume));
    }
    let volume = logging::install_subscriber(
        true,
        config
            .as_ref()
            .map_or(Level::INFO, |config| config.log.level),
    );
    for problem in problems.list() {
        problem.log("");
    }
    let Some(config) = config.filter(|_| !problems.fatal()) else {
        tracing::error!(file = %file.display(), "the configuration is wrong");
        return Err(Exit::Config);
    };
    Ok((config, volume))
}

/// What ends the program, in the form of its log.
fn report_failure(json: bool, why: &dyn std::fmt::Display) {
    if json {
        tracing::error!("{why}");
    } else {
        complain(format_args!("cupbearer: {why}"));
    }
}

async fn serve(config: Config, ready_file: Option<&Path>, volume: Option<LogLevelHandle>) -> Exit {
    let signals = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
        signal(SignalKind::hangup()),
    );
    let (Ok(mut term), Ok(mut int), Ok(hup)) = signals else {
        complain(format_args!("cupbearer: signals cannot be received here"));
        return Exit::Failed;
    };
    let json = config.log.json;
    let app = match App::start(
        config,
        Options {
            load_options: load_options(),
        },
    )
    .await
    {
        Ok(app) => app,
        Err(e) => {
            report_failure(json, &e);
            return if matches!(e, StartError::Config(_)) {
                Exit::Config
            } else {
                Exit::Failed
            };
        }
    };
    let metrics = app.metrics().clone();
    metrics.watch_lost_lines(logging::lost_lines);
    logging::install_panic_hook(move || metrics.panicked());
    if let Err(e) = announce_ready(&app, ready_file) {
        report_failure(json, &format_args!("the ready file cannot be written: {e}"));
        return Exit::Failed;
    }
    let variable = |name| std::env::var(name).ok();
    let manager = ServiceManager::from_socket(variable("NOTIFY_SOCKET").as_deref());
    manager.ready();
    if let Some(interval) = systemd::watchdog_interval(
        variable("WATCHDOG_USEC").as_deref(),
        variable("WATCHDOG_PID").as_deref(),
    ) {
        tokio::spawn(manager.clone().keep_alive(interval));
    }
    watch_reloads(&app, manager.clone(), volume);
    let reloads = tokio::spawn(reload_on(hup, app.reloader().clone()));
    tokio::select! { _ = term.recv() => {} _ = int.recv() => {} }
    manager.stopping();
    let done = tokio::select! {
        clean = app.stop() => {
            if !clean {
                tracing::warn!("the drain was over before every request was done");
            }
            Exit::Done
        }
        _ = term.recv() => Exit::Failed,
        _ = int.recv() => Exit::Failed,
    };
    reloads.abort();
    done
}

/// The service manager hears of every reload, and the log gets the level of the configuration that
/// runs after it.
fn watch_reloads(app: &App, manager: ServiceManager, volume: Option<LogLevelHandle>) {
    app.reloader().observe(move |step| match step {
        ReloadStep::Begins => manager.reloading(),
        ReloadStep::Ends(config) => {
            if let Some(volume) = &volume {
                volume.set(config.log.level);
            }
            manager.ready();
        }
    });
}

async fn reload_on(mut hup: Signal, reloader: crate::reload::Reloader) {
    while hup.recv().await.is_some() {
        reloader.reload().await;
    }
}

/// `limits.connections` needs about two descriptors each, and many hosts start programs with 1024.
/// Where it may not be raised, it stays.
fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let _ = setrlimit(
            Resource::Nofile,
            Rlimit {
                current: limit.maximum,
                maximum: limit.maximum,
            },
        );
    }
}

/// The ready line, and the same as a file, which appears whole or not at all.
fn announce_ready(app: &App, ready_file: Option<&Path>) -> std::io::Result<()> {
    let proxy = app.proxy();
    complain(format_args!(
        "ready proxy={} admin={}",
        proxy.join(","),
        app.admin()
    ));
    let Some(file) = ready_file else {
        return Ok(());
    };
    let text = json!({ "proxy": proxy, "admin": app.admin().to_string(), "metrics": app.metrics_port().map(|a| a.to_string()) });
    files::replace_file(file, format!("{text}\n").as_bytes())
}
