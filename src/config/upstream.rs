//! `[upstreams.NAME]`, with `[upstream_defaults]` below it: where to forward to, and how requests
//! are told to be for it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{Ipv6Addr, SocketAddr},
    sync::Arc,
};

use serde_json::{Map, Value};
use url::Url;

use super::{
    file::{Http2, UpstreamTable},
    listen,
    parse::{ParseContext, hosts as hosts_of, name},
};
use crate::{
    document::{KeyPath, Mistake, Problems, known, quoted},
    net,
    route::{self, RouteRule, UpstreamUrl},
    tls::Tls,
    upstream::Upstream,
};

/// Below this path we answer ourselves (vending).
const RESERVED: &str = "/.cupbearer";

/// `rules[i]` belongs to `upstreams[i]`.
#[derive(Debug, Default)]
pub struct Upstreams {
    pub upstreams: Vec<Upstream>,
    pub rules: Vec<RouteRule>,
}

/// What an upstream answers to, whatever else is wrong with it.
struct Claim {
    name: String,
    path: Option<String>,
    hosts: Vec<String>,
}

/// One upstream's table, with its name and what it is looked at with.
struct UpstreamEntry<'a> {
    name: &'a str,
    own: &'a Value,
    defaults: &'a Value,
    /// All upstreams by their names.
    all: &'a BTreeMap<String, Map<String, Value>>,
    context: ParseContext<'a>,
}

/// Reads all upstreams, whose tables were found to be of the right shape.
pub fn parse(
    tables: &BTreeMap<String, Map<String, Value>>,
    defaults: Map<String, Value>,
    credentials: &BTreeSet<String>,
    ours: &[SocketAddr],
    context: ParseContext<'_>,
    problems: &mut Problems,
) -> Upstreams {
    let mut found = Upstreams::default();
    let mut claims = Vec::new();
    let defaults = Value::Object(defaults);
    for (name, own) in tables {
        let entry = UpstreamEntry {
            name,
            own: &Value::Object(own.clone()),
            defaults: &defaults,
            all: tables,
            context,
        };
        let (claim, parsed) = entry.parse(credentials, ours, problems);
        claims.push(claim);
        if let Some((upstream, rule)) = parsed {
            found.upstreams.push(upstream);
            found.rules.push(rule);
        }
    }
    ambiguous(&claims, problems);
    found
}

impl UpstreamEntry<'_> {
    fn parse(
        &self,
        credentials: &BTreeSet<String>,
        ours: &[SocketAddr],
        problems: &mut Problems,
    ) -> (Claim, Option<(Upstream, RouteRule)>) {
        let upstreams = KeyPath::written("upstreams");
        name(&upstreams.key(self.name), self.name, problems);
        let mut table = self.defaults.clone();
        lay_over(&mut table, self.own);
        // Every part of it was read before; what was wrong has been noted and is gone.
        let table: UpstreamTable = serde_json::from_value(table).unwrap_or_default();
        let credential = self.credential(table.credential, credentials, problems);
        let target = self.target(table.url.as_deref(), table.allow_plaintext, ours, problems);
        let path = self.path(table.matches.path, problems);
        let hosts = table
            .matches
            .hosts
            .unwrap_or_else(|| vec![format!("{}.localhost", self.name)]);
        let hosts = hosts_of(&self.key("match.hosts"), hosts, problems);
        let redirects_to = self.redirects_to(table.redirects_to, problems);
        let tls = self.tls(table.tls, problems);
        let claim = Claim {
            name: self.name.to_owned(),
            path: path.clone(),
            hosts: hosts.clone(),
        };
        let (Some(target), Some(credential)) = (target, credential) else {
            return (claim, None);
        };
        if !target.tls && tls != Tls::default() {
            problems.lint(
                self.key("tls"),
                "is not used: the url is plain http",
                Some("use https, or leave it out".to_owned()),
            );
        }
        let rule = RouteRule {
            path,
            strip_path: table.strip_path,
            hosts,
            forward: table.matches.forward,
            url: target.clone(),
        };
        let upstream = Upstream {
            name: self.name.into(),
            target,
            credential,
            replay: table.replay,
            rewrite_location: table.rewrite_location,
            redirects_to,
            http2: table.http2 == Http2::Auto,
            timeouts: table.timeouts,
            pool: table.pool,
            tls,
        };
        (claim, Some((upstream, rule)))
    }

    /// The key that `path` was written under: the upstream's own, or that of the defaults.
    fn key(&self, path: &str) -> String {
        let pointer = format!("/{}", path.replace('.', "/"));
        if self.own.pointer(&pointer).is_none() && self.defaults.pointer(&pointer).is_some() {
            format!("upstream_defaults.{path}")
        } else {
            format!("upstreams.{}.{path}", quoted(self.name))
        }
    }

    /// Whether `name` was written, here or in the defaults, and was wrong.
    fn is_taken(&self, name: &str) -> bool {
        let own = format!("upstreams.{}", quoted(self.name));
        ["upstream_defaults", &own]
            .iter()
            .any(|table| self.context.taken.has(table, name))
    }

    /// The outer `None` is a mistake, the inner one is `"none"`.
    #[allow(
        clippy::option_option,
        reason = "both are absences, of different things"
    )]
    fn credential(
        &self,
        written: Option<String>,
        credentials: &BTreeSet<String>,
        problems: &mut Problems,
    ) -> Option<Option<Arc<str>>> {
        let key = self.key("credential");
        match written {
            Some(none) if none == "none" => Some(None),
            Some(name) if credentials.contains(&name) => Some(Some(name.into())),
            Some(name) => {
                let all = credentials.iter().map(String::as_str).chain(["none"]);
                problems.problem(
                    key,
                    "there is no credential of that name",
                    known(&name, all),
                );
                None
            }
            None if self.is_taken("credential") => None,
            None => {
                let hint = "the name of a table under [credentials], or \"none\" to let the client's own headers pass";
                problems.problem(key, "is required", hint);
                None
            }
        }
    }

    fn redirects_to(&self, written: Vec<String>, problems: &mut Problems) -> Vec<Arc<str>> {
        for (n, name) in written
            .iter()
            .enumerate()
            .filter(|(_, name)| !self.all.contains_key(*name))
        {
            let hint = known(name, self.all.keys().map(String::as_str));
            problems.problem(
                format!("{}[{n}]", self.key("redirects_to")),
                "there is no upstream of that name",
                hint,
            );
        }
        written.into_iter().map(Into::into).collect()
    }

    fn target(
        &self,
        written: Option<&str>,
        allow_plaintext: bool,
        ours: &[SocketAddr],
        problems: &mut Problems,
    ) -> Option<UpstreamUrl> {
        let key = self.key("url");
        let Some(text) = written else {
            if self.is_taken("url") {
                return None;
            }
            problems.problem(
                key,
                "is required",
                "for instance \"https://api.example/v2\"",
            );
            return None;
        };
        let target = match target(text) {
            Ok(target) => target,
            Err((what, hint)) => {
                problems.problem(key, what, hint);
                return None;
            }
        };
        if !target.tls && !allow_plaintext && !net::is_loopback_host(&target.host) {
            let hint = "use https, or set allow_plaintext = true if the way there is safe";
            problems.problem(
                key.clone(),
                "tokens would be sent in clear over plain http",
                hint,
            );
        }
        if let Some(own) = listen::is_ours(&target.host, target.port, ours) {
            problems.problem(
                key,
                format!("is our own listener {own}"),
                "name the vendor's address",
            );
        }
        Some(target)
    }

    fn path(&self, written: Option<String>, problems: &mut Problems) -> Option<String> {
        let path = written.unwrap_or_else(|| format!("/{}", self.name));
        if path.is_empty() {
            return None;
        }
        if !route::is_safe_path(&path) || path.contains('?') {
            let hint = "it starts with \"/\" and has no dot segment, white space, \"?\" or \"#\"; \"\" for no route by path";
            problems.problem(self.key("match.path"), "cannot be a path prefix", hint);
        }
        let trimmed = path.trim_end_matches('/');
        if trimmed == RESERVED || trimmed.starts_with(&format!("{RESERVED}/")) {
            problems.problem(
                self.key("match.path"),
                format!("{RESERVED} is our own"),
                "choose another path",
            );
        }
        Some(if trimmed.is_empty() {
            "/".to_owned()
        } else {
            trimmed.to_owned()
        })
    }

    fn tls(&self, tls: Tls, problems: &mut Problems) -> Tls {
        let found = tls.in_folder(self.context.folder);
        for fault in found.problems(self.context.options.no_secrets) {
            problems.problem(
                self.key(&format!("tls.{}", fault.key)),
                fault.what,
                fault.hint,
            );
        }
        found
    }
}

/// `over` laid upon `under`, table by table.
fn lay_over(under: &mut Value, over: &Value) {
    match (under, over) {
        (Value::Object(under), Value::Object(over)) => {
            for (key, value) in over {
                lay_over(under.entry(key).or_insert(Value::Null), value);
            }
        }
        (under, over) => *under = over.clone(),
    }
}

fn target(text: &str) -> Result<UpstreamUrl, Mistake<String>> {
    let hint = "for instance \"https://api.example/v2\"";
    let no = |what: &str, hint| Err((what.to_owned(), hint));
    if text
        .bytes()
        .any(|b| b.is_ascii_whitespace() || b.is_ascii_control() || b == b'\\')
    {
        return no("has white space or a backslash in it", hint);
    }
    let url = Url::parse(text).map_err(|error| (format!("is not a URL: {error}"), hint))?;
    let tls = match url.scheme() {
        "https" => true,
        "http" => false,
        _ => return no("does not begin with https:// or http://", hint),
    };
    let authority_and_path = text.split_once("://").map_or("", |(_, rest)| rest);
    if !url.username().is_empty()
        || url.password().is_some()
        || authority_and_path
            .split('/')
            .next()
            .unwrap_or_default()
            .contains('@')
    {
        return no(
            "has user information in it",
            "what lets us in belongs into the credential",
        );
    }
    if url.query().is_some() || url.fragment().is_some() {
        return no(
            "has a query or a fragment",
            "origin and base path only; parameters belong into the credential's [inject.query]",
        );
    }
    let path = authority_and_path
        .find('/')
        .and_then(|at| authority_and_path.get(at..))
        .unwrap_or("/");
    if !route::is_safe_path(path) || !route::is_safe_path(url.path()) {
        return no(
            "has a dot segment in its path",
            "write the path it leads to",
        );
    }
    let host = url.host_str().map(|host| {
        host.trim_start_matches('[')
            .trim_end_matches(']')
            .trim_end_matches('.')
            .to_owned()
    });
    // One spelling for an IPv6 address, the one that `route` compares.
    let host = host.map(|host| {
        host.parse::<Ipv6Addr>()
            .map_or(host, |address| address.to_string())
    });
    match (
        host.filter(|host| !host.is_empty()),
        url.port_or_known_default(),
    ) {
        (Some(host), Some(port)) if port != 0 => Ok(UpstreamUrl {
            tls,
            host,
            port,
            base: url.path().trim_end_matches('/').to_owned(),
        }),
        _ => no("names no host and port to connect to", hint),
    }
}

/// Two upstreams with one route: neither could be told from the other.
fn ambiguous(claims: &[Claim], problems: &mut Problems) {
    let (mut paths, mut all_hosts): (HashMap<&str, &str>, HashMap<&str, &str>) =
        (HashMap::new(), HashMap::new());
    for Claim { name, path, hosts } in claims {
        let key = |end: &str| format!("upstreams.{}.match.{end}", quoted(name));
        if let Some(path) = path
            && let Some(first) = paths.insert(path, name)
        {
            problems.problem(
                key("path"),
                format!("leads to upstream {first} already"),
                "give each upstream a path of its own",
            );
        }
        for host in hosts {
            if let Some(first) = all_hosts.insert(host, name) {
                problems.problem(
                    key("hosts"),
                    format!("one of them leads to upstream {first} already"),
                    "give each upstream hosts of its own",
                );
            }
        }
    }
}
