//! A configuration that cannot be wrong any more: what the program runs on.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use super::file::{Ready, RequestLimits};
use crate::{
    profile::Profile,
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
    /// Configuration and profile files, to be polled, with SHA-256 of the bytes that this was read
    /// from: they may hold others by now.
    pub files: BTreeMap<PathBuf, [u8; 32]>,
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
    pub limits: RequestLimits,
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
