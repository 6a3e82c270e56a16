//! `File` to `Config`: collects every problem.

use std::{
    collections::BTreeSet,
    fmt::Display,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;

use super::{
    Config, Limits, Listen, Log, Proxy, Sight, admin, credential,
    file::{self, File},
    listen, read, shape,
    source::Overrides,
    upstream::{self, Upstreams},
    value::{Lasting, SecretRef},
};
use crate::{
    problem::Problems,
    profile::ProfileFiles,
    route,
    secret::{Secret, Source, trim},
};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);

/// What parsing needs besides the file.
#[derive(Debug, Clone, Copy)]
pub struct World<'a> {
    /// Relative paths start here.
    pub folder: &'a Path,
    pub sight: &'a Sight,
    /// What the environment sets.
    pub overrides: &'a Overrides,
    /// Where profile files are read.
    pub profiles: &'a ProfileFiles,
}

/// Reads the whole tree. The configuration is complete only where no fatal problem was noted.
pub fn parse(mut tree: Value, world: World<'_>, problems: &mut Problems) -> Config {
    let File {
        proxy,
        admin,
        metrics,
        log,
        state,
        reload,
        intercept,
        credentials,
        upstreams,
        ..
    } = read::read(&mut tree, problems);
    if intercept.is_some() {
        let hint = "leave [intercept] out; clients that know HTTPS_PROXY only can be pointed at an upstream's reverse URL instead";
        problems.problem(
            "intercept",
            "interception of CONNECT is not there in this release",
            hint,
        );
    }
    let proxy = parse_proxy(proxy.unwrap_or_default(), world, problems);
    let admin = admin::parse(admin.unwrap_or_default(), world, problems);
    let metrics = metrics.and_then(|metrics| {
        listen::required("metrics.listen", metrics.listen.as_deref(), problems)
    });
    listen::duplicates(&proxy.listen, &admin.listen, metrics, problems);
    let mut files = BTreeSet::new();
    let known: BTreeSet<String> = credentials
        .iter()
        .flatten()
        .map(|(name, _)| name.clone())
        .collect();
    let credentials = credentials
        .into_iter()
        .flatten()
        .filter_map(|(name, table)| credential::parse(&name, table, world, &mut files, problems))
        .map(|credential| (credential.name.clone(), credential))
        .collect();
    let ours = listen::addresses(&proxy.listen, &admin.listen, metrics);
    let names: Vec<String> = upstreams
        .iter()
        .flatten()
        .map(|(name, _)| name.clone())
        .collect();
    let Upstreams { upstreams, rules } =
        upstream::parse(&names, &tree, &known, &ours, world, problems);
    Config {
        proxy,
        admin,
        metrics,
        log: parse_log(&log.unwrap_or_default()),
        state: state.and_then(|state| parse_state(state, world, problems)),
        reload: match reload.and_then(|reload| reload.interval) {
            Some(interval) => interval.0.map(|every| {
                within(
                    "reload.interval",
                    Some(every),
                    every,
                    SECOND / 100..=DAY,
                    problems,
                )
            }),
            None => Some(5 * SECOND),
        },
        credentials,
        upstreams,
        rules,
        file: None,
        files: files.into_iter().collect(),
        text: [0; 32],
    }
}

/// One wrong entry is a problem: an empty list never means that nobody has to show anything.
fn client_auth(
    written: Option<Vec<SecretRef>>,
    world: World<'_>,
    problems: &mut Problems,
) -> Vec<Source> {
    if written.as_ref().is_some_and(Vec::is_empty) {
        problems.problem(
            "proxy.client_auth",
            "no secret would do",
            "leave the key out, or write { file = \"PATH\" }",
        );
    }
    let single = written.as_ref().is_some_and(|all| all.len() == 1);
    let sources = written
        .into_iter()
        .flatten()
        .enumerate()
        .filter_map(|(i, secret)| {
            let key = if single {
                "proxy.client_auth".to_owned()
            } else {
                format!("proxy.client_auth[{i}]")
            };
            super::lint::inline(&key, &secret, world, problems);
            super::lint::secret_file(&key, &secret, world, problems);
            let source = world.source(&key, &secret, problems)?;
            super::lint::short(&key, &source, world, problems);
            Some(source)
        });
    sources.collect()
}

fn parse_proxy(proxy: file::Proxy, world: World<'_>, problems: &mut Problems) -> Proxy {
    let written = proxy
        .listen
        .unwrap_or_else(|| vec!["127.0.0.1:14180".to_owned(), "[::1]:14180".to_owned()]);
    // Where one was wrong, that was told.
    if written.is_empty()
        && !problems
            .list()
            .iter()
            .any(|problem| problem.key.starts_with("proxy.listen"))
    {
        problems.problem(
            "proxy.listen",
            "no address to listen on",
            "leave the key out for 127.0.0.1:14180 and [::1]:14180",
        );
    }
    let listen: Vec<Listen> = written
        .iter()
        .enumerate()
        .filter_map(|(i, text)| listen::parse(&format!("proxy.listen[{i}]"), text, world, problems))
        .collect();
    let allow_remote = proxy.allow_remote.unwrap_or(false);
    let written_auth = proxy.client_auth.is_some();
    let client_auth = client_auth(proxy.client_auth.map(|auth| auth.0), world, problems);
    let authenticated = written_auth || proxy.allow_unauthenticated.unwrap_or(false);
    listen::remote(&listen, allow_remote, authenticated, problems);
    let peer_uids = proxy.peer_uids.unwrap_or_default();
    listen::uids("proxy.peer_uids", &peer_uids, problems);
    if !peer_uids.is_empty() && !listen.iter().any(|l| matches!(l, Listen::Unix(_))) {
        let hint = "only the peer of a Unix socket has a user: add \"unix:/run/cupbearer.sock\" to proxy.listen, or leave it out";
        problems.lint(
            "proxy.peer_uids",
            "there is no Unix socket it could hold for",
            Some(hint.to_owned()),
        );
    }
    let limits = proxy.limits.unwrap_or_default();
    let number = |key: &str, value: Option<usize>, default, range, problems: &mut Problems| {
        within(
            &format!("proxy.limits.{key}"),
            value,
            default,
            range,
            problems,
        )
    };
    Proxy {
        listen,
        allow_remote,
        peer_uids,
        client_auth,
        workers: within("proxy.workers", proxy.workers, 0, 0..=1024, problems),
        linger: lasting(
            "proxy.linger",
            proxy.linger,
            Duration::ZERO,
            Duration::ZERO..=DAY,
            problems,
        ),
        drain: lasting(
            "proxy.drain",
            proxy.drain,
            25 * SECOND,
            Duration::ZERO..=DAY,
            problems,
        ),
        via: proxy.via.filter(|via| !via.is_empty()).inspect(|via| {
            if !via
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:".contains(&b))
            {
                problems.problem(
                    "proxy.via",
                    "cannot be a pseudonym",
                    "letters, digits, `-` and `.` (RFC 9110, 7.6.3)",
                );
            }
        }),
        hosts: hosts("proxy.hosts", proxy.hosts.unwrap_or_default(), problems),
        browser_deny: proxy.browser != Some(file::Browser::Allow),
        access_log: proxy.access_log.unwrap_or(false),
        limits: Limits {
            connections: number(
                "connections",
                limits.connections,
                10_000,
                1..=1_000_000,
                problems,
            ),
            header_bytes: number(
                "header_bytes",
                limits.header_bytes,
                65_536,
                1024..=1_048_575,
                problems,
            ),
            headers: number("headers", limits.headers, 256, 1..=256, problems),
            uri_bytes: number(
                "uri_bytes",
                limits.uri_bytes,
                16_384,
                256..=1_048_575,
                problems,
            ),
            header_timeout: lasting(
                "proxy.limits.header_timeout",
                limits.header_timeout,
                10 * SECOND,
                SECOND / 1000..=HOUR,
                problems,
            ),
            idle: lasting(
                "proxy.limits.idle",
                limits.idle,
                600 * SECOND,
                SECOND / 1000..=30 * DAY,
                problems,
            ),
        },
    }
}

fn parse_state(state: file::State, world: World<'_>, problems: &mut Problems) -> Option<PathBuf> {
    let dir = state.dir.filter(|dir| !dir.is_empty());
    if dir.is_none() {
        problems.problem(
            "state.dir",
            "is required in [state]",
            "a folder of its own, such as \"/var/lib/cupbearer\"",
        );
    }
    dir.map(|dir| world.path(&dir))
}

fn parse_log(log: &file::Log) -> Log {
    Log {
        json: log.format == Some(file::LogFormat::Json),
        level: match log.level {
            Some(file::Level::Error) => tracing::Level::ERROR,
            Some(file::Level::Warn) => tracing::Level::WARN,
            None | Some(file::Level::Info) => tracing::Level::INFO,
            Some(file::Level::Debug) => tracing::Level::DEBUG,
            Some(file::Level::Trace) => tracing::Level::TRACE,
        },
    }
}

impl World<'_> {
    /// `text` as a path; relative ones start from the configuration's folder.
    #[must_use]
    pub fn path(&self, text: &str) -> PathBuf {
        self.folder.join(text)
    }

    /// Whether the value of `key` stands in the environment, not in the file.
    #[must_use]
    pub fn outside(&self, key: &str) -> bool {
        self.overrides
            .iter()
            .any(|(steps, _)| shape::dotted(steps) == key)
    }

    /// Where a secret comes from. An environment variable is read now; a file when it is used.
    pub fn source(&self, key: &str, secret: &SecretRef, problems: &mut Problems) -> Option<Source> {
        match secret {
            SecretRef::Kept(place) => {
                // Of a variable all is kept; whether there is more than white space is for its
                // value to say.
                if let SecretRef::Env(name) = &**place
                    && let Some(value) = self.sight.env.get(name).filter(|value| !value.is_empty())
                {
                    return Some(Source::Kept(Box::new(Source::Value(Secret::new(
                        value.clone(),
                    )))));
                }
                self.source(key, place, problems)
                    .map(|place| Source::Kept(Box::new(place)))
            }
            SecretRef::Inline(value) if trim(value).is_empty() => {
                problems.problem(
                    key,
                    "is empty",
                    "write { env = \"NAME\" } or { file = \"PATH\" }",
                );
                None
            }
            SecretRef::Inline(value) => Some(Source::Value(Secret::new(trim(value).to_owned()))),
            SecretRef::File(path) => Some(Source::File(self.path(path))),
            SecretRef::Json(path, pointer) => Some(Source::Json(self.path(path), pointer.clone())),
            SecretRef::Env(name) => match self.sight.env.get(name) {
                Some(value) if !trim(value).is_empty() => {
                    Some(Source::Value(Secret::new(trim(value).to_owned())))
                }
                _ if self.sight.no_secrets => Some(Source::Value(Secret::new(String::new()))),
                found => {
                    let state = if found.is_some() { "empty" } else { "not set" };
                    problems.problem(
                        key,
                        format!("the environment variable {} is {state}", variable(name)),
                        "set it where cupbearer is started",
                    );
                    None
                }
            },
        }
    }
}

/// The name of a variable, if it is surely one: whoever mixes up `env` and the value has written a
/// secret there.
fn variable(name: &str) -> &str {
    let word = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit())
    };
    let sure = name.len() <= 64
        && name.contains('_')
        && name.split('_').all(word)
        && name.starts_with(|c: char| c.is_ascii_uppercase());
    if sure { name } else { "that is named here" }
}

/// Why a file cannot be read, without the number of the error.
#[must_use]
pub fn why(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "there is no such file".to_owned(),
        kind => kind.to_string(),
    }
}

/// `value` or its default; a value outside `range` is a problem.
pub fn within<T: PartialOrd + Written>(
    key: &str,
    value: Option<T>,
    default: T,
    range: RangeInclusive<T>,
    problems: &mut Problems,
) -> T {
    let Some(value) = value else { return default };
    if !range.contains(&value) {
        problems.problem(
            key,
            format!(
                "{} is out of range: {} to {}",
                value.shown(),
                range.start().shown(),
                range.end().shown()
            ),
            "leave it out for the default",
        );
    }
    value
}

/// The same for durations.
pub fn lasting(
    key: &str,
    value: Option<Lasting>,
    default: Duration,
    range: RangeInclusive<Duration>,
    problems: &mut Problems,
) -> Duration {
    within(key, value.map(|value| value.0), default, range, problems)
}

/// How a value is written in a configuration.
pub trait Written {
    fn shown(&self) -> impl Display;
}

impl Written for usize {
    fn shown(&self) -> impl Display {
        *self
    }
}

impl Written for Duration {
    fn shown(&self) -> impl Display {
        humantime::format_duration(*self)
    }
}

/// Host names in the spelling that is compared.
pub fn hosts(key: &str, written: Vec<String>, problems: &mut Problems) -> Vec<String> {
    let mut hosts = Vec::new();
    for (i, text) in written.into_iter().enumerate() {
        match host(&text) {
            Some(host) if !hosts.contains(&host) => hosts.push(host),
            Some(_) => {}
            None => {
                let hint = "a name or an address without scheme, port or wildcard, such as \"api.example\"; an international name in its xn-- form";
                problems.problem(format!("{key}[{i}]"), "is not a host name", hint);
            }
        }
    }
    hosts
}

fn host(text: &str) -> Option<String> {
    let literal = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(text);
    match literal.parse::<std::net::Ipv6Addr>() {
        Ok(address) => Some(address.to_string()),
        Err(_) => route::host_name(text).map(std::borrow::Cow::into_owned),
    }
}

/// Whether `name` may name a credential or an upstream.
pub fn name(key: &str, name: &str, problems: &mut Problems) {
    if name.is_empty()
        || !name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-'))
    {
        let hint: String = name
            .to_lowercase()
            .chars()
            .map(|c| {
                if c.is_ascii_alphanumeric() || c == '_' {
                    c
                } else {
                    '-'
                }
            })
            .collect();
        let hint = format!(
            "for instance `{}`",
            if hint.is_empty() { "acme" } else { &hint }
        );
        problems.problem(
            key,
            format!("{name:?} cannot be a name: lower-case letters, digits, `_` and `-` only"),
            hint,
        );
    }
}
