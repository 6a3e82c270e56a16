//! What the program runs on ([`Config`]), and how it is loaded: defaults < file < environment,
//! through figment.

mod admin;
pub mod credential;
pub mod file;
pub mod lint;
mod listen;
pub mod parse;
mod read;
pub mod shape;
mod source;
mod upstream;
pub mod value;

use std::{
    collections::{BTreeMap, HashSet},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use crate::{
    files,
    problem::{Problem, Problems},
    profile::{Profile, ProfileFiles},
    route,
    secret::{Secrets, Source},
    upstream::Upstream,
};

/// A configuration that was found right. Nothing re-checks it.
#[derive(Debug)]
pub struct Config {
    pub proxy: Proxy,
    pub admin: Admin,
    pub metrics: Option<SocketAddr>,
    pub log: Log,
    pub state: Option<PathBuf>,
    /// `None`: "off".
    pub reload: Option<Duration>,
    pub credentials: BTreeMap<Arc<str>, Credential>,
    /// In the order of their names; `rules[i]` belongs to `upstreams[i]`.
    pub upstreams: Vec<Upstream>,
    pub rules: Vec<route::RouteRule>,
    /// The file it came from, where there was one.
    pub file: Option<PathBuf>,
    /// Configuration and profile files, to be polled.
    pub files: Vec<PathBuf>,
    /// SHA-256 of the bytes of `file` that this was read from: it may hold others by now.
    pub text: [u8; 32],
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Listen {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Proxy {
    pub listen: Vec<Listen>,
    /// A non-loopback address was allowed.
    pub allow_remote: bool,
    /// Users that may connect to a Unix socket; empty: only who may open its file, which has mode
    /// 0600.
    pub peer_uids: Vec<u32>,
    /// Callers show any of them; empty: none is asked for.
    pub client_auth: Vec<Source>,
    /// 0: one per core the process may use.
    pub workers: usize,
    pub linger: Duration,
    pub drain: Duration,
    pub via: Option<String>,
    pub hosts: Vec<String>,
    /// Refuse what web pages send.
    pub browser_deny: bool,
    pub access_log: bool,
    pub limits: Limits,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub connections: usize,
    pub header_bytes: usize,
    pub headers: usize,
    pub uri_bytes: usize,
    pub header_timeout: Duration,
    pub idle: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    pub listen: Listen,
    /// What must be sent as a Bearer token, any one of them; none: nothing need be.
    pub auth: Vec<Source>,
    /// Over a Unix socket: users who need no token; none: our own and root.
    pub uids: Vec<u32>,
    pub ready: Ready,
    pub hosts: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ready {
    Started,
    Accepted,
    Any,
    All,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    pub json: bool,
    pub level: tracing::Level,
}

/// One credential: a profile with its settings, and where its secrets come from.
#[derive(Debug, Clone)]
pub struct Credential {
    pub name: Arc<str>,
    pub profile: Arc<Profile>,
    pub secrets: Secrets,
    /// SHA-256 over its name and everything that shapes its token requests (merged profile and
    /// settings, secret sources; not secret values, not lifetime, not guard).
    pub digest: [u8; 32],
    /// SHA-256 over the secret values that are known at load (inline and environment): a change of
    /// theirs must reach a running keeper.
    pub values: [u8; 32],
}

/// How to look at the world while loading; tests hand in their own.
#[derive(Clone, Default)]
pub struct Sight {
    /// `CUPBEARER_…__…` overrides and `{ env = … }` secrets are taken from here.
    pub env: BTreeMap<String, String>,
    /// `check --no-secrets`: secrets need not be there.
    pub no_secrets: bool,
}

/// Names only: variables may hold secrets.
impl std::fmt::Debug for Sight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sight")
            .field("env", &self.env.keys())
            .field("no_secrets", &self.no_secrets)
            .finish()
    }
}

/// Loads `file`. Every problem and lint is in the list; the configuration is there if none of them
/// is fatal.
#[must_use]
pub fn load(file: &Path, sight: &Sight) -> (Option<Config>, Problems) {
    let mut problems = Problems::default();
    let text = match std::fs::read(file).map(String::from_utf8) {
        Ok(Ok(text)) => text,
        Ok(Err(_)) => {
            problems.problem("", "is not UTF-8", "save the file as UTF-8 text");
            return (None, attribute(problems, &[], Some(file)));
        }
        Err(error) => {
            let hint = "name another file with --config FILE or CUPBEARER_CONFIG".to_owned();
            problems.problem("", format!("cannot be read: {}", parse::why(&error)), hint);
            return (None, attribute(problems, &[], Some(file)));
        }
    };
    let (config, problems) = build(
        &text,
        file.parent().unwrap_or(Path::new("")),
        Some(file),
        sight,
    );
    let config = config.map(|mut config| {
        config.file = Some(file.to_path_buf());
        config.files.insert(0, file.to_path_buf());
        config.text = files::hash(text.as_bytes());
        config
    });
    (config, problems)
}

/// Where `[admin]` says the running program can be asked, and how, whatever else is wrong with
/// `file`: a mistake on disk must not keep anyone from asking it. Of a text that is no TOML, what
/// stands before the mistake counts. `None`: there is no such file, or that very table is wrong.
#[must_use]
pub fn admin(file: &Path, sight: &Sight) -> Option<Admin> {
    let mut table = serde_json::json!({ "admin": written(file, sight)?.get("admin").cloned().unwrap_or_default() });
    let mut problems = Problems::default();
    let folder = file.parent().unwrap_or(Path::new(""));
    let world = parse::World {
        folder,
        sight,
        overrides: &Vec::new(),
        profiles: &ProfileFiles::default(),
    };
    let admin = read::read(&mut table, &mut problems)
        .admin
        .unwrap_or_default();
    let admin = admin::parse(admin, world, &mut problems);
    (!problems.fatal()).then_some(admin)
}

/// Whether `[log] format` wants JSON, whatever else is wrong with `file`: a mistake is told in the
/// form that its reader understands.
#[must_use]
pub fn wants_json(file: &Path, sight: &Sight) -> bool {
    written(file, sight).is_some_and(|tree| {
        tree.pointer("/log/format")
            .is_some_and(|format| format == "json")
    })
}

fn written(file: &Path, sight: &Sight) -> Option<serde_json::Value> {
    let text = String::from_utf8_lossy(&std::fs::read(file).ok()?).into_owned();
    let tree = |text: &str| source::tree(text, &sight.env, &mut Problems::default());
    let sound = || text.get(..source::sound(&text)).unwrap_or_default();
    tree(&text).or_else(|| tree(sound())).map(|(tree, _)| tree)
}

/// The same from a text, for tests and the demo; relative paths start from `folder`.
#[must_use]
pub fn load_text(text: &str, folder: &Path, sight: &Sight) -> (Option<Config>, Problems) {
    build(text, folder, None, sight)
}

fn build(
    text: &str,
    folder: &Path,
    file: Option<&Path>,
    sight: &Sight,
) -> (Option<Config>, Problems) {
    let mut problems = Problems::default();
    let Some((tree, overrides)) = source::tree(text, &sight.env, &mut problems) else {
        return (None, attribute(problems, &[], file));
    };
    let config = parse::parse(
        tree,
        parse::World {
            folder,
            sight,
            overrides: &overrides,
            profiles: &ProfileFiles::default(),
        },
        &mut problems,
    );
    lint::find(&config, &mut problems);
    let config = (!problems.fatal()).then_some(config);
    (config, attribute(problems, &overrides, file))
}

/// Says of each problem where it stands: in an environment variable that overrides the key, or in
/// `file`. Nothing is said twice.
fn attribute(
    problems: Problems,
    overrides: &[(Vec<shape::Step>, String)],
    file: Option<&Path>,
) -> Problems {
    // A part of one value, such as the file of a secret, stands for the whole value.
    let whole = |steps: &[shape::Step]| {
        steps
            .split_last()
            .filter(|_| source::is_part(steps))
            .map(|(_, whole)| shape::dotted(whole))
    };
    let overrides: Vec<_> = overrides
        .iter()
        .map(|(steps, variable)| (shape::dotted(steps), whole(steps), variable))
        .collect();
    let (mut all, mut told) = (Problems::default(), HashSet::new());
    for Problem {
        severity,
        key,
        file: named,
        mut what,
        hint,
    } in problems.into_list()
    {
        let within = |over: &str| {
            key.strip_prefix(over)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        let set = |over: &str, whole: &Option<String>| within(over) || whole.as_ref() == Some(&key);
        let variable = overrides
            .iter()
            .find(|(over, whole, _)| set(over, whole))
            .map(|(.., variable)| variable);
        if let Some(variable) = variable {
            what = format!("{what} (set by the environment variable {variable})");
        }
        // A variable is no key of a file.
        let file = named.or(file
            .filter(|_| variable.is_none() && !key.starts_with(source::PREFIX))
            .map(Path::to_path_buf));
        let one = Problem {
            severity,
            key,
            file,
            what,
            hint,
        };
        if told.insert(one.clone()) {
            all.add(one);
        }
    }
    all
}

#[cfg(test)]
mod tests;
