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
    /// The data port.
    pub proxy: ProxyConfig,
    /// The admin port.
    pub admin: AdminConfig,
    /// The read-only port for metrics and health, if there is one.
    pub metrics: Option<SocketAddr>,
    /// What is logged.
    pub log: LogConfig,
    /// The folder of the guard's memory; `None`: it ends with the process.
    pub state: Option<PathBuf>,
    /// How often files are looked at; `None`: "off".
    pub reload: Option<Duration>,
    /// By name, unused ones included.
    pub credentials: BTreeMap<Arc<str>, CredentialConfig>,
    /// In the order of their names; `rules[i]` belongs to `upstreams[i]`.
    pub upstreams: Vec<Upstream>,
    /// Where callers reach each upstream.
    pub rules: Vec<route::RouteRule>,
    /// The file it came from, where there was one.
    pub file: Option<PathBuf>,
    /// Configuration and profile files, to be polled, with SHA-256 of the bytes that this was read
    /// from: they may hold others by now.
    pub files: BTreeMap<PathBuf, [u8; 32]>,
}

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ListenAddress {
    /// An address and port; port 0 is any free one.
    Tcp(SocketAddr),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

/// `[proxy]`
#[derive(Debug, Clone, PartialEq)]
pub struct ProxyConfig {
    /// At least one.
    pub listen: Vec<ListenAddress>,
    /// A non-loopback address was allowed.
    pub allow_remote: bool,
    /// Users that may connect to a Unix socket; empty: only who may open its file, which has mode
    /// 0600.
    pub peer_uids: Vec<u32>,
    /// Callers show any of them; empty: none is asked for.
    pub client_auth: Vec<Source>,
    /// 0: one per core the process may use.
    pub workers: usize,
    /// After SIGTERM: how long new connections are accepted.
    pub linger: Duration,
    /// After SIGTERM: how long open requests may run.
    pub drain: Duration,
    /// Our pseudonym in `Via`; `None`: none is sent.
    pub via: Option<String>,
    /// Further names of ours, in lower case.
    pub hosts: Vec<String>,
    /// Refuse what web pages send.
    pub browser_deny: bool,
    /// Log every request.
    pub access_log: bool,
    /// Bounds of connections and heads.
    pub limits: RequestLimits,
}

/// `[admin]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminConfig {
    /// Loopback or a Unix socket.
    pub listen: ListenAddress,
    /// What must be sent as a Bearer token, any one of them; none: nothing need be.
    pub auth: Vec<Source>,
    /// Over a Unix socket: users who need no token; none: our own and root.
    pub uids: Vec<u32>,
    /// What `/readyz` waits for.
    pub ready: Ready,
    /// Further names that it answers to.
    pub hosts: Vec<String>,
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// One object a line; else text for people.
    pub json: bool,
    /// Of our own lines; libraries are held at info.
    pub level: tracing::Level,
}

/// One credential: a profile with its settings, and where its secrets come from.
#[derive(Debug, Clone)]
pub struct CredentialConfig {
    /// Its name, and the label `credential` of metrics.
    pub name: Arc<str>,
    /// What it runs on, its settings filled in.
    pub profile: Arc<Profile>,
    /// Where its secrets come from; none has been read.
    pub secrets: Secrets,
    /// SHA-256 over its name and everything that shapes its token requests (merged profile and
    /// settings, secret sources; not secret values, not lifetime, not guard).
    pub digest: [u8; 32],
    /// SHA-256 over the secret values that are known at load (inline and environment): a change of
    /// theirs must reach a running keeper.
    pub values: [u8; 32],
}
