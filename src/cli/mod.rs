//! The command line ([Command line](crate::promises#command-line)): one file per subcommand, exit
//! codes in one place.

pub mod check;
pub mod ctl;
pub mod demo;
pub mod profiles;
pub mod run;
pub mod schema;
pub mod unlatch;

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{CommandFactory, Parser, Subcommand, ValueEnum};

use crate::{
    config::{self, Config, LoadOptions},
    document::{Problems, Severity},
    hardening::{self, ALLOW_DUMPS},
};

/// What a command ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Done,
    /// Port in use, proxy not reachable, not ready …
    Failed,
    /// `check --live`: a token could not be had.
    NoToken,
    /// The configuration is wrong (`EX_CONFIG` of sysexits.h).
    Config,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::NoToken => 3,
            Exit::Config => 78,
        })
    }
}

const AFTER: &str = "\
Exit status:
  0   done
  1   could not run: port in use, admin port not reachable, not ready
  2   wrong usage of the command line
  3   check --live: a token could not be had
  78  the configuration is wrong; every problem is printed with its key, its file and a hint

Environment:
  CUPBEARER_CONFIG           the configuration file, where --config is not given
  CUPBEARER_<TABLE>__<KEY>   overrides a key of it, e.g. CUPBEARER_PROXY__DRAIN=5s; other CUPBEARER_* variables are ignored
  CUPBEARER_ALLOW_DUMPS=1    debuggers are let in and core files out; both hold secrets

Start with `cupbearer demo`; `cupbearer profiles` lists the vendors that are built in.";

/// A sidecar that calls vendor APIs with OAuth client-credentials tokens the application never
/// sees.
#[derive(Debug, Parser)]
#[command(name = "cupbearer", version, max_term_width = 120, after_help = AFTER)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Clone, clap::Args)]
pub struct ConfigArg {
    /// Configuration file [default: ./cupbearer.toml, else /etc/cupbearer/config.toml]
    #[arg(long, value_name = "FILE", env = "CUPBEARER_CONFIG")]
    pub config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the proxy until SIGTERM; logs and the ready line go to stderr
    Run {
        #[command(flatten)]
        config: ConfigArg,
        /// Write the bound addresses as JSON to this file once all ports accept
        #[arg(long, value_name = "FILE")]
        ready_file: Option<PathBuf>,
    },
    /// Show the main job on a built-in vendor, on real sockets, step by step
    Demo {
        /// Exit after the tour, with 0 if all was as promised (otherwise it goes on serving until
        /// Ctrl-C)
        #[arg(long)]
        once: bool,
    },
    /// Report every problem and lint of a configuration
    Check {
        #[command(flatten)]
        config: ConfigArg,
        /// Lints fail too
        #[arg(long)]
        strict: bool,
        /// Secrets need not be there (for CI)
        #[arg(long)]
        no_secrets: bool,
        /// Also get each token once, guard respected, and explain the answer; run it as the user
        /// that cupbearer runs as
        #[arg(long, conflicts_with = "no_secrets")]
        live: bool,
        /// Only this credential's tokens
        #[arg(long, value_name = "NAME", requires = "live")]
        credential: Option<String>,
        /// Also tokens that end the life of the one a running program uses, and one attempt where
        /// the guard allows none or nothing can remember it
        #[arg(long, requires = "live")]
        force: bool,
        /// Form of the report
        #[arg(long, value_enum, default_value_t = ReportFormat::Text)]
        format: ReportFormat,
    },
    /// List the built-in profiles, or print one as TOML with its settings, secrets and source
    Profiles {
        /// Profile to print [default: list all of them]
        name: Option<String>,
    },
    /// Talk to the running proxy's admin port
    Ctl {
        /// What to do
        #[arg(value_enum)]
        action: CtlAction,
        /// Credential [default: all of them]
        name: Option<String>,
        #[command(flatten)]
        config: ConfigArg,
    },
    /// Let a credential try once more, without a running program: writes to the folder of `state`,
    /// as its owner
    Unlatch {
        /// Credential
        name: String,
        #[command(flatten)]
        config: ConfigArg,
    },
    /// Exit 0 or 1, for exec probes
    Probe {
        /// What to ask for
        #[arg(value_enum)]
        what: ProbeKind,
        /// Only this credential (with `ready`)
        name: Option<String>,
        #[command(flatten)]
        config: ConfigArg,
    },
    /// Print the JSON Schema of the configuration
    Schema,
    /// Print a completion script, e.g. for ~/.local/share/bash-completion/completions/cupbearer
    Completions {
        /// The shell it is for
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ReportFormat {
    /// A line for each problem, its hint, and a count
    Text,
    /// An array of { severity, key, file, what, hint }; with --live an object { problems, tokens }
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CtlAction {
    /// What every token is doing
    Status,
    /// Fetch tokens now (guard respected)
    Refresh,
    /// Let one attempt through where refusals stopped them
    Unlatch,
    /// Read the configuration and the secrets again
    Reload,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ProbeKind {
    /// The process answers
    Live,
    /// It is ready for traffic, as `[admin] ready` has it; with NAME: that credential can send
    Ready,
}

impl ConfigArg {
    /// The file to load.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        self.config.clone().unwrap_or_else(|| {
            let here = PathBuf::from("cupbearer.toml");
            if here.exists() {
                here
            } else {
                PathBuf::from("/etc/cupbearer/config.toml")
            }
        })
    }
}

/// The real environment.
#[must_use]
pub fn load_options() -> LoadOptions {
    // A variable that is not UTF-8 is none of ours.
    let env = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    LoadOptions {
        env: env.collect(),
        ..LoadOptions::default()
    }
}

/// For commands that only talk to the running program: where it answers, and to whom. What `run`
/// and `check` advise is no news here, and a mistake that the running program does not know of
/// keeps nobody from asking it.
///
/// # Errors
/// [`Exit::Config`], where not even the address is known.
pub fn find_admin(file: &Path) -> Result<config::AdminConfig, Exit> {
    let options = load_options();
    let (config, problems) = config::load(file, &options);
    if let Some(config) = config.filter(|_| !problems.fatal()) {
        return Ok(config.admin);
    }
    match config::admin(file, &options) {
        Some(admin) => {
            let (file, address) = (file.display(), ctl::format_listen(&admin.listen));
            complain(format_args!(
                "cupbearer: {file} is wrong (`cupbearer check` says how); the program at {address} is asked all the same"
            ));
            Ok(admin)
        }
        None => require_usable(file, None, &problems, false).map(|config| config.admin),
    }
}

/// The configuration, if it can be used; problems are told on stderr, lints where they are wanted.
fn require_usable(
    file: &Path,
    config: Option<Config>,
    problems: &Problems,
    lints: bool,
) -> Result<Config, Exit> {
    for problem in problems
        .list()
        .iter()
        .filter(|p| lints || p.severity == Severity::Problem)
    {
        complain(format_args!("{problem}"));
    }
    config.filter(|_| !problems.fatal()).ok_or_else(|| {
        complain(format_args!(
            "cupbearer: {}: the configuration is wrong",
            file.display()
        ));
        Exit::Config
    })
}

/// A line on stderr. That nobody reads it any more is no reason to fail.
pub fn complain(line: std::fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Text on stdout.
pub fn say(text: &str) -> Exit {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => Exit::Done,
        Err(_) => Exit::Failed,
    }
}

/// Runs one command to its end.
pub fn dispatch(args: Args) -> Exit {
    // Before the first secret is in memory. Whatever the command: most read a configuration, which
    // may hold some.
    let open = hardening::harden(std::env::var(ALLOW_DUMPS).ok().as_deref());
    if !matches!(args.command, Command::Run { .. }) {
        for what in &open {
            complain(format_args!("cupbearer: {what}"));
        }
    }
    match args.command {
        // It has a log, and tells it there.
        Command::Run { config, ready_file } => {
            run::run(&config.file(), ready_file.as_deref(), open)
        }
        Command::Demo { once } => demo::demo(once),
        Command::Check {
            config,
            strict,
            no_secrets,
            live,
            credential,
            force,
            format,
        } => {
            let options = LoadOptions {
                no_secrets,
                ..load_options()
            };
            let live = live.then_some(check::live::LiveOptions { credential, force });
            check::check(
                &config.file(),
                &options,
                strict,
                live.as_ref(),
                format,
                &mut std::io::stdout(),
            )
            .unwrap_or(Exit::Failed)
        }
        Command::Profiles { name } => profiles::profiles(name.as_deref()),
        Command::Ctl {
            action,
            name,
            config,
        } => ctl::ctl(action, name.as_deref(), &config.file()),
        Command::Unlatch { name, config } => unlatch::unlatch(&name, &config.file()),
        Command::Probe { what, name, config } => ctl::probe(what, name.as_deref(), &config.file()),
        Command::Schema => say(&format!("{}\n", schema::schema().trim_end())),
        Command::Completions { shell } => {
            let mut out = Vec::new();
            clap_complete::generate(shell, &mut Args::command(), "cupbearer", &mut out);
            say(&String::from_utf8_lossy(&out))
        }
    }
}
