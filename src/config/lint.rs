//! OAuth-aware advice: what is right as configuration, but probably not meant so. One function for
//! each kind of advice.

mod oauth;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs::Metadata,
    net::IpAddr,
    os::unix::fs::PermissionsExt,
    path::Path,
};

use url::{Host, Url};

use super::{Config, CredentialConfig, ListenAddress, parse::ParseContext};
use crate::{
    document::{Problem, Problems, SecretRef, Severity, UNKNOWN, quoted, shown_path, why_unread},
    net,
    profile::Profile,
    secret::{Secrets, Source},
    token::RefreshMode,
};

/// Advice about what could be parsed. Other mistakes do not hide it; what would follow from them
/// alone is left out: no advice looks at more than the tables named with it, and is given only
/// where none of these has a mistake.
pub fn find(config: &Config, problems: &mut Problems) {
    let all: [(Advise, &[&str]); 13] = [
        (lockout_without_state, &["state"]),
        (oauth::lockout_with_replicas, &["admin", "metrics"]),
        (unused_credentials, &["upstreams", "upstream_defaults"]),
        (environments, &[]),
        (refresh_margins, &[]),
        (partitions_ahead, &[]),
        (oauth::two_ways, &[]),
        (oauth::foreign_scope, &[]),
        (oauth::same_client, &[]),
        (alike_targets, &[]),
        (shadowed_hosts, &[]),
        (unreachable, &["upstreams", "upstream_defaults"]),
        (private_keys, &[]),
    ];
    // An unknown key takes nothing away; where it stands for one that is missed, that is a mistake
    // of its own.
    let counts = |p: &&Problem| p.severity == Severity::Problem && p.what != UNKNOWN;
    let wrong: Vec<String> = problems
        .list()
        .iter()
        .filter(counts)
        .map(|p| table_of(&p.key))
        .collect();
    for (advise, tables) in all {
        if !wrong.iter().any(|table| tables.contains(&table.as_str())) {
            advise(config, problems);
        }
    }
}

type Advise = fn(&Config, &mut Problems);

/// The first part of a key.
fn table_of(key: &str) -> String {
    key.split(['.', '[']).next().unwrap_or_default().to_owned()
}

/// A secret in clear in the file. Profiles say which ones are public; one that an environment
/// variable gives is where the advice would put it.
pub fn inline(key: &str, secret: &SecretRef, context: ParseContext<'_>, problems: &mut Problems) {
    if matches!(secret.place(), SecretRef::Inline(_)) && !context.overrides.set(key) {
        let hint =
            "whoever reads the configuration has it: use { file = \"…\" } or { env = \"…\" }";
        problems.lint(
            key,
            "a secret stands in the configuration",
            Some(hint.to_owned()),
        );
    }
}

/// A secret's file that is not there, or that everybody on this host may read.
pub fn secret_file(
    key: &str,
    secret: &SecretRef,
    context: ParseContext<'_>,
    problems: &mut Problems,
) {
    if let SecretRef::File(file) | SecretRef::Json(file, _) = secret.place()
        && !context.options.no_secrets
    {
        // Whoever mixes up `file` and the value has written a secret there: only what is surely a
        // path is repeated.
        let sure =
            file.starts_with('/') && file.len() <= 200 && !file.contains(char::is_whitespace);
        look_at(key, &context.path(file), sure, problems);
    }
}

/// A folder of secrets that is not there, and files of it that are missing, or that everybody on
/// this host may read.
pub fn secret_dir(
    at: &str,
    dir: &Path,
    profile: &Profile,
    sources: &BTreeMap<String, Source>,
    context: ParseContext<'_>,
    problems: &mut Problems,
) {
    if context.options.no_secrets {
        return;
    }
    let key = format!("{at}.secrets.dir");
    if !dir.is_dir() {
        problems.lint(
            key,
            format!("{} is not there, or not a folder", shown_path(dir)),
            Some(UNREADABLE.to_owned()),
        );
        return;
    }
    for (name, spec) in profile
        .secrets
        .iter()
        .filter(|(name, _)| !sources.contains_key(*name))
    {
        let file = dir.join(name);
        if !spec.optional || file.exists() {
            look_at(&key, &file, true, problems);
        }
    }
}

/// Bytes below which a secret that strangers may try is short.
const SHORT: usize = 16;

/// A shared secret that whoever reaches the port can guess. What cannot be read now is not judged.
pub fn short(key: &str, source: &Source, context: ParseContext<'_>, problems: &mut Problems) {
    // Looked at before it is opened: opening a pipe would wait for its writer.
    if context.options.no_secrets || source.file().is_some_and(|file| !file.is_file()) {
        return;
    }
    let sources = BTreeMap::from([(key.to_owned(), source.clone())]);
    let secrets = Secrets {
        sources,
        names: vec![key.to_owned()],
        ..Secrets::default()
    };
    let Ok(values) = secrets.read() else { return };
    if values
        .get(key)
        .is_some_and(|secret| secret.expose().len() < SHORT)
    {
        let hint = "make one that nobody guesses, for instance with: openssl rand -base64 24";
        problems.lint(
            key,
            format!("the secret is shorter than {SHORT} bytes"),
            Some(hint.to_owned()),
        );
    }
}

const UNREADABLE: &str = "calls that need it are refused (secret_unreadable) until it can be read";

fn look_at(key: &str, file: &Path, sure: bool, problems: &mut Problems) {
    // Looked at before it is opened: opening a pipe would wait for its writer.
    let found = std::fs::metadata(file).and_then(|meta| {
        if meta.is_file() {
            std::fs::File::open(file).map(|_| meta)
        } else {
            Ok(meta)
        }
    });
    match found {
        Err(error) => {
            let told = if sure || file.exists() {
                shown_path(file)
            } else {
                "the file that is named here".to_owned()
            };
            problems.lint(
                key,
                format!("{told} cannot be read: {}", why_unread(&error)),
                Some(UNREADABLE.to_owned()),
            );
        }
        Ok(meta) if !meta.is_file() => problems.lint(
            key,
            format!("{} is not a file", file.display()),
            Some(UNREADABLE.to_owned()),
        ),
        Ok(meta) => open_to_all(key, file, &meta, problems),
    }
}

fn open_to_all(key: &str, file: &Path, meta: &Metadata, problems: &mut Problems) {
    if meta.permissions().mode() & 0o004 != 0 && !on_read_only_mount(file) {
        let hint = format!("chmod o-r {}", file.display());
        problems.lint(
            key,
            format!("everybody on this host may read {}", file.display()),
            Some(hint),
        );
    }
}

/// The keys of client certificates. That they are there was checked before.
fn private_keys(config: &Config, problems: &mut Problems) {
    let upstreams = config
        .upstreams
        .iter()
        .map(|u| (format!("upstreams.{}", quoted(&u.name)), &u.tls));
    let tokens = config.credentials.values().flat_map(|credential| {
        credential.profile.tokens.iter().map(|token| {
            (
                format!("{}.tokens.{}", at(credential), quoted(&token.name)),
                &token.tls,
            )
        })
    });
    for (at, tls) in upstreams.chain(tokens) {
        if let Some(file) = &tls.client_key_file
            && let Ok(meta) = std::fs::metadata(file)
        {
            open_to_all(&format!("{at}.tls.client_key_file"), file, &meta, problems);
        }
    }
}

/// Secret volumes of Kubernetes are mounted read-only, with mode 0644; there the container is the
/// border.
fn on_read_only_mount(file: &Path) -> bool {
    rustix::fs::statvfs(file)
        .is_ok_and(|mount| mount.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY))
}

fn lockout_without_state(config: &Config, problems: &mut Problems) {
    for credential in config.credentials.values() {
        if config.state.is_none() && credential.profile.limits.need_memory() {
            let what = "this vendor locks out after a few wrong attempts, and without [state] a restart forgets how many there were";
            let hint = "set [state] dir = \"/var/lib/cupbearer\", and admin.ready = \"accepted\" to stop a rollout with a wrong secret";
            problems.lint(at(credential), what, Some(hint.to_owned()));
        }
    }
}

fn unused_credentials(config: &Config, problems: &mut Problems) {
    let used: HashSet<_> = config
        .upstreams
        .iter()
        .filter_map(|upstream| upstream.credential.as_ref())
        .collect();
    for credential in config
        .credentials
        .values()
        .filter(|credential| !credential.profile.vend)
    {
        if !used.contains(&credential.name) {
            let hint = format!(
                "set credential = \"{}\" in an upstream, or leave it out: its tokens are fetched all the same",
                credential.name
            );
            problems.lint(at(credential), "no upstream uses it", Some(hint));
        }
    }
}

/// Words in host names of what is not production.
const TRIAL: [&str; 13] = [
    "sandbox", "sbx", "demo", "test", "testing", "staging", "stage", "stg", "dev", "uat", "qa",
    "preprod", "preview",
];

/// A token of the sandbox is of no use in production, and the other way round. Hosts are compared
/// within one domain only, where `acme-sandbox.com` counts as the sandbox of `acme.com`.
fn environments(config: &Config, problems: &mut Problems) {
    for upstream in &config.upstreams {
        let Some(credential) = upstream
            .credential
            .as_ref()
            .and_then(|name| config.credentials.get(name))
        else {
            continue;
        };
        let api = &upstream.target.host;
        for (setting, value) in &credential.profile.settings {
            let Some(Host::Domain(issuer)) = Url::parse(value)
                .ok()
                .and_then(|url| url.host().map(|host| host.to_owned()))
            else {
                continue;
            };
            if net::is_localhost(&issuer)
                || domain(api) != domain(&issuer)
                || is_trial(api) == is_trial(&issuer)
            {
                continue;
            }
            let (trial, real) = if is_trial(api) {
                (api.as_str(), issuer.as_str())
            } else {
                (issuer.as_str(), api.as_str())
            };
            let what = format!(
                "its credential gets tokens from {issuer} ({}.settings.{setting}): {trial} looks like a test environment, {real} does not",
                at(credential)
            );
            problems.lint(
                format!("upstreams.{}.url", quoted(&upstream.name)),
                what,
                Some("use hosts of one environment for both".to_owned()),
            );
        }
    }
}

/// Whether a word before the last label says so.
fn is_trial(host: &str) -> bool {
    host.rsplit('.')
        .skip(1)
        .flat_map(|label| label.split('-'))
        .any(|word| TRIAL.contains(&word))
}

/// The last two labels, without the words that tell a test environment.
fn domain(host: &str) -> Vec<Vec<&str>> {
    host.rsplit('.')
        .take(2)
        .map(|label| {
            label
                .split('-')
                .filter(|word| !TRIAL.contains(word))
                .collect()
        })
        .collect()
}

fn refresh_margins(config: &Config, problems: &mut Problems) {
    for credential in config.credentials.values() {
        for token in &credential.profile.tokens {
            // Only `cap` is known before an answer came; `default` counts where the vendor names
            // none, which `check --live` sees.
            let Some(life) = token.lifetime.cap else {
                continue;
            };
            if let Some(before) = token
                .lifetime
                .refresh_before
                .filter(|before| *before >= life)
            {
                let key = format!(
                    "{}.tokens.{}.lifetime.refresh_before",
                    at(credential),
                    quoted(&token.name)
                );
                let (before, life) = (
                    humantime::format_duration(before),
                    humantime::format_duration(life),
                );
                let what =
                    format!("{before} before the end of a token that lives {life} is at once");
                problems.lint(
                    key,
                    what,
                    Some("leave it out: the margin is then a fifth of the life".to_owned()),
                );
            }
        }
    }
}

/// Which partitions there are is known from requests only.
fn partitions_ahead(config: &Config, problems: &mut Problems) {
    for credential in config
        .credentials
        .values()
        .filter(|credential| !credential.profile.partition.is_empty())
    {
        for token in credential
            .profile
            .tokens
            .iter()
            .filter(|token| token.lifetime.refresh == RefreshMode::Ahead)
        {
            let key = format!(
                "{}.tokens.{}.lifetime.refresh",
                at(credential),
                quoted(&token.name)
            );
            let what = "partitions are lazy: nothing is fetched at start, and with \"ahead\" every value that was ever used is renewed until it rests";
            problems.lint(
                key,
                what,
                Some(
                    "leave it out: a partition's token is then fetched when a request needs it"
                        .to_owned(),
                ),
            );
        }
    }
}

fn alike_targets(config: &Config, problems: &mut Problems) {
    let mut seen: HashMap<_, (usize, &str)> = HashMap::new();
    for (i, (upstream, rule)) in config
        .upstreams
        .iter()
        .zip(&config.rules)
        .enumerate()
        .filter(|(_, (_, rule))| rule.forward)
    {
        let firsts = rule
            .url
            .forward_keys()
            .map(|meaning| *seen.entry(meaning).or_insert((i, &upstream.name)));
        if let Some((_, first)) = firsts.min().filter(|(first, _)| *first < i) {
            let what = format!(
                "a forward-proxy request could mean {first} as well, so it reaches neither"
            );
            let hint =
                "set match.forward = false in one of them, or give them different base paths";
            problems.lint(
                format!("upstreams.{}.url", quoted(&upstream.name)),
                what,
                Some(hint.to_owned()),
            );
        }
    }
}

/// Under a name of an upstream there is no routing by path.
fn shadowed_hosts(config: &Config, problems: &mut Problems) {
    let listens = |ip: IpAddr| {
        config
            .proxy
            .listen
            .iter()
            .any(|listen| matches!(listen, ListenAddress::Tcp(address) if address.ip() == ip))
    };
    // How callers reach us without a name of their own for an upstream.
    let usual = |host: &str| {
        host == "localhost"
            || host
                .parse()
                .is_ok_and(|ip: IpAddr| net::is_loopback(ip) || listens(ip))
    };
    for (upstream, rule) in config.upstreams.iter().zip(&config.rules) {
        for host in &rule.hosts {
            let (why, hint) = if config.proxy.hosts.contains(host) {
                (
                    "it is no name for routing by path (proxy.hosts)",
                    "keep it in one of the two".to_owned(),
                )
            } else if usual(host) {
                let hint = format!(
                    "leave it out: {}.localhost leads here without a path",
                    upstream.name
                );
                (
                    "callers who go by path do not reach the others under it",
                    hint,
                )
            } else {
                continue;
            };
            let key = format!("upstreams.{}.match.hosts", quoted(&upstream.name));
            problems.lint(
                key,
                format!("{host} leads to this upstream whatever the path, so {why}"),
                Some(hint),
            );
        }
    }
}

fn unreachable(config: &Config, problems: &mut Problems) {
    for (upstream, rule) in config.upstreams.iter().zip(&config.rules) {
        if rule.path.is_none() && rule.hosts.is_empty() && !rule.forward {
            let key = format!("upstreams.{}.match", quoted(&upstream.name));
            problems.lint(
                key,
                "nothing leads to this upstream",
                Some("set match.path, match.hosts or match.forward".to_owned()),
            );
        }
    }
}

fn at(credential: &CredentialConfig) -> String {
    format!("credentials.{}", quoted(&credential.name))
}
