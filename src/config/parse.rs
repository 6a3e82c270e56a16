//! [`File`] to [`Config`]: collects every problem.

use std::{
    collections::{BTreeSet, HashMap},
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::{
    Config, ListenAddress, LoadOptions, LogConfig, ProxyConfig, admin, credential,
    file::{Browser, File, Level, LogFormat, LogTable, ProxyTable, StateTable},
    lint, listen,
    upstream::{self, Upstreams},
};
use crate::{
    document::{KeyPart, KeyPath, Overrides, Problems, SecretRef, SecretRefs, UNKNOWN, read},
    net,
    profile::ProfileFiles,
    secret::{Secret, Source, trim},
};

/// What parsing needs besides the file.
#[derive(Debug, Clone, Copy)]
pub struct ParseContext<'a> {
    /// Relative paths start here.
    pub folder: &'a Path,
    pub options: &'a LoadOptions,
    /// What the environment sets.
    pub overrides: &'a Overrides,
    /// Where profile files are read.
    pub profiles: &'a ProfileFiles,
    /// What was written, and wrong.
    pub taken: &'a WrongKeys,
}

/// Keys by their table whose values were wrong: they were told and are gone, so that nobody needs
/// to be told that they are missing.
#[derive(Debug, Default)]
pub struct WrongKeys(HashMap<String, Vec<String>>);

impl WrongKeys {
    /// The names in `table`.
    #[must_use]
    pub fn names(&self, table: &str) -> &[String] {
        self.0.get(table).map_or(&[], Vec::as_slice)
    }
    /// Whether `name` is one of them.
    #[must_use]
    pub fn has(&self, table: &str, name: &str) -> bool {
        self.names(table).iter().any(|taken| taken == name)
    }
}

/// Reads the whole tree, whatever is wrong with it.
pub fn read_file(tree: Value, problems: &mut Problems) -> (File, WrongKeys) {
    let mut taken = WrongKeys::default();
    let file = read(tree, |at, mut what, mut hint| {
        if what == UNKNOWN && is_profile_key(at) {
            "belongs into a profile, not into a credential".clone_into(&mut what);
            "write a profile file: profile = { file = \"…\" }".clone_into(&mut hint);
        }
        if what != UNKNOWN
            && let Some((table, name)) = at.split_name()
        {
            taken
                .0
                .entry(table.into())
                .or_default()
                .push(name.to_owned());
        }
        problems.problem(at, what, hint);
    });
    (file, taken)
}

/// Whether `at` is a key of a credential that only profiles have.
fn is_profile_key(at: &KeyPath<'_>) -> bool {
    matches!(
        at.parts()[..],
        [
            _,
            KeyPart::Name("credentials"),
            KeyPart::Name(_),
            KeyPart::Name("extends" | "doc" | "source")
        ]
    )
}

/// What the program runs on. It is complete only where no fatal problem was noted.
pub fn parse(file: File, context: ParseContext<'_>, problems: &mut Problems) -> Config {
    if file.intercept.is_some() {
        let hint = "leave [intercept] out; clients that know HTTPS_PROXY only can be pointed at an upstream's reverse URL instead";
        problems.problem(
            "intercept",
            "interception of CONNECT is not there in this release",
            hint,
        );
    }
    let proxy = parse_proxy(file.proxy, context, problems);
    let admin = admin::parse(file.admin, context, problems);
    let metrics = file.metrics.and_then(|metrics| {
        listen::required(
            "metrics.listen",
            metrics.listen.as_deref(),
            context,
            problems,
        )
    });
    listen::duplicates(&proxy.listen, &admin.listen, metrics, problems);
    let known: BTreeSet<String> = file.credentials.keys().cloned().collect();
    let credentials = file
        .credentials
        .into_iter()
        .filter_map(|(name, entry)| credential::parse(&name, entry, context, problems))
        .map(|credential| (credential.name.clone(), credential))
        .collect();
    let ours = listen::addresses(&proxy.listen, &admin.listen, metrics);
    let Upstreams { upstreams, rules } = upstream::parse(
        &file.upstreams,
        file.upstream_defaults,
        &known,
        &ours,
        context,
        problems,
    );
    Config {
        proxy,
        admin,
        metrics,
        log: parse_log(&file.log),
        state: file
            .state
            .and_then(|state| parse_state(state, context, problems)),
        reload: file.reload.interval.0,
        credentials,
        upstreams,
        rules,
        file: None,
        files: context.profiles.digests(),
    }
}

fn parse_proxy(
    table: ProxyTable,
    context: ParseContext<'_>,
    problems: &mut Problems,
) -> ProxyConfig {
    if table.listen.is_empty() && !context.taken.has("proxy", "listen") {
        problems.problem(
            "proxy.listen",
            "no address to listen on",
            "leave the key out for 127.0.0.1:14180 and [::1]:14180",
        );
    }
    let listen: Vec<ListenAddress> = table
        .listen
        .iter()
        .enumerate()
        .filter_map(|(i, text)| {
            listen::parse(&format!("proxy.listen[{i}]"), text, context, problems)
        })
        .collect();
    let authenticated = table.client_auth.is_some() || table.allow_unauthenticated;
    let nothing = "no secret would do";
    let client_auth = context.secrets("proxy.client_auth", table.client_auth, nothing, problems);
    for (key, source) in &client_auth {
        lint::short(key, source, context, problems);
    }
    listen::remote(&listen, table.allow_remote, authenticated, problems);
    listen::uids("proxy.peer_uids", &table.peer_uids, problems);
    if !table.peer_uids.is_empty() && !listen.iter().any(|l| matches!(l, ListenAddress::Unix(_))) {
        let hint = "only the peer of a Unix socket has a user: add \"unix:/run/cupbearer.sock\" to proxy.listen, or leave it out";
        problems.lint(
            "proxy.peer_uids",
            "there is no Unix socket it could hold for",
            Some(hint.to_owned()),
        );
    }
    let pseudonym = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:".contains(&b);
    if !table.via.bytes().all(pseudonym) {
        problems.problem(
            "proxy.via",
            "cannot be a pseudonym",
            "letters, digits, `-` and `.` (RFC 9110, 7.6.3)",
        );
    }
    ProxyConfig {
        listen,
        allow_remote: table.allow_remote,
        peer_uids: table.peer_uids,
        client_auth: client_auth.into_iter().map(|(_, source)| source).collect(),
        workers: table.workers,
        linger: table.linger,
        drain: table.drain,
        via: Some(table.via).filter(|via| !via.is_empty()),
        hosts: hosts("proxy.hosts", table.hosts, problems),
        browser_deny: table.browser == Browser::Deny,
        access_log: table.access_log,
        limits: table.limits,
    }
}

fn parse_state(
    state: StateTable,
    context: ParseContext<'_>,
    problems: &mut Problems,
) -> Option<PathBuf> {
    let dir = state.dir.filter(|dir| !dir.is_empty());
    if dir.is_none() && !context.taken.has("state", "dir") {
        problems.problem(
            "state.dir",
            "is required in [state]",
            "a folder of its own, such as \"/var/lib/cupbearer\"",
        );
    }
    dir.map(|dir| context.path(&dir))
}

fn parse_log(log: &LogTable) -> LogConfig {
    LogConfig {
        json: log.format == LogFormat::Json,
        level: match log.level {
            Level::Error => tracing::Level::ERROR,
            Level::Warn => tracing::Level::WARN,
            Level::Info => tracing::Level::INFO,
            Level::Debug => tracing::Level::DEBUG,
            Level::Trace => tracing::Level::TRACE,
        },
    }
}

impl ParseContext<'_> {
    /// `text` as a path; relative ones start from the configuration's folder.
    #[must_use]
    pub fn path(&self, text: &str) -> PathBuf {
        self.folder.join(text)
    }

    /// Where secrets come from of which any one will do, each with its key. An empty list is a
    /// problem, `nothing` says which: it never means that nobody has to show anything.
    pub fn secrets(
        &self,
        key: &str,
        written: Option<SecretRefs>,
        nothing: &str,
        problems: &mut Problems,
    ) -> Vec<(String, Source)> {
        let Some(SecretRefs(written)) = written else {
            return Vec::new();
        };
        if written.is_empty() {
            problems.problem(
                key,
                nothing,
                "leave the key out, or write { file = \"PATH\" }",
            );
        }
        let single = written.len() == 1;
        let sources = written.iter().enumerate().filter_map(|(i, secret)| {
            let key = if single {
                key.to_owned()
            } else {
                format!("{key}[{i}]")
            };
            lint::inline(&key, secret, *self, problems);
            lint::secret_file(&key, secret, *self, problems);
            let source = self.source(&key, secret, problems)?;
            Some((key, source))
        });
        sources.collect()
    }

    /// Where a secret comes from. An environment variable is read now; a file when it is used.
    pub fn source(&self, key: &str, secret: &SecretRef, problems: &mut Problems) -> Option<Source> {
        match secret {
            SecretRef::Kept(place) => {
                // Of a variable all is kept; whether there is more than white space is for its
                // value to say.
                if let SecretRef::Env(name) = &**place
                    && let Some(value) =
                        self.options.env.get(name).filter(|value| !value.is_empty())
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
            SecretRef::Env(name) => match self.options.env.get(name) {
                Some(value) if !trim(value).is_empty() => {
                    Some(Source::Value(Secret::new(trim(value).to_owned())))
                }
                _ if self.options.no_secrets => Some(Source::Value(Secret::new(String::new()))),
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
        Err(_) => net::normalize_host(text).map(std::borrow::Cow::into_owned),
    }
}

/// Whether `name` may name a credential or an upstream.
pub fn name(key: &KeyPath<'_>, name: &str, problems: &mut Problems) {
    let right = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-');
    if !name.is_empty() && name.bytes().all(right) {
        return;
    }
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
    let hint = if hint.is_empty() { "acme" } else { &hint };
    problems.problem(
        key,
        format!("{name:?} cannot be a name: lower-case letters, digits, `_` and `-` only"),
        format!("for instance `{hint}`"),
    );
}
