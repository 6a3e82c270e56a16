//! What may be written in the configuration, with what each key means, its default and its bounds.
//! The JSON Schema, the hints and the checks of kinds, words and bounds are made from these types.

use std::{collections::BTreeMap, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::credential::CredentialEntry;
use crate::{
    document::{DurationOrOff, DurationSchema, OneOrMore, SecretRefs, duration},
    tls::Tls,
    upstream::{ReplayPolicy, UpstreamPool, UpstreamTimeouts},
};

/// The configuration of cupbearer.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, title = "cupbearer")]
pub struct File {
    /// The data port.
    pub proxy: ProxyTable,
    /// The admin port.
    pub admin: AdminTable,
    /// A read-only port for kubelet and Prometheus, which come by the pod's address. Not set: none.
    pub metrics: Option<MetricsTable>,
    /// What is logged, to stderr.
    pub log: LogTable,
    /// What must outlive a restart (guard counters). Not set: memory only.
    pub state: Option<StateTable>,
    /// Polling of the configuration and secret files.
    pub reload: ReloadTable,
    /// CONNECT from clients with `HTTPS_PROXY`. Not there yet.
    pub intercept: Option<InterceptTable>,
    /// What is needed to be let in at a vendor, by name.
    pub credentials: BTreeMap<String, CredentialEntry>,
    /// What upstreams have in common; an upstream's own keys win.
    #[schemars(with = "UpstreamTable")]
    pub upstream_defaults: Map<String, Value>,
    /// The vendor APIs, by name.
    #[schemars(with = "BTreeMap<String, UpstreamTable>")]
    pub upstreams: BTreeMap<String, Map<String, Value>>,
}

/// `[proxy]`
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct ProxyTable {
    /// Addresses to listen on: `IP:PORT` or `unix:PATH`.
    #[schemars(with = "OneOrMore<String>")]
    pub listen: Vec<String>,
    /// Allow an address that is not loopback; needs `client_auth` or `allow_unauthenticated` as
    /// well.
    pub allow_remote: bool,
    /// Whoever reaches a remote address may spend the tokens.
    pub allow_unauthenticated: bool,
    /// Users, by number, whose programs may connect to a Unix socket; its mode is then 0666.
    /// None: the mode is 0600.
    #[schemars(with = "OneOrMore<u32>")]
    pub peer_uids: Vec<u32>,
    /// A shared secret callers must send as `Proxy-Authorization`; of several any one. Not set:
    /// none.
    pub client_auth: Option<SecretRefs>,
    /// Worker threads; 0 is one per core the process may use.
    #[schemars(range(max = 1024))]
    pub workers: usize,
    /// After SIGTERM: keep accepting that long.
    #[serde(with = "duration")]
    #[schemars(with = "DurationSchema", extend("x-least" = "0s", "x-most" = "1d"))]
    pub linger: Duration,
    /// After SIGTERM: how long open requests may run.
    #[serde(with = "duration")]
    #[schemars(with = "DurationSchema", extend("x-least" = "0s", "x-most" = "1d"))]
    pub drain: Duration,
    /// Pseudonym for the `Via` header; empty sends none.
    pub via: String,
    /// Further host names under which path routing answers while `browser` is deny.
    #[schemars(with = "OneOrMore<String>")]
    pub hosts: Vec<String>,
    /// What to do with requests of web pages.
    pub browser: Browser,
    /// Log every request.
    pub access_log: bool,
    /// Bounds of the data port.
    pub limits: RequestLimits,
}

impl Default for ProxyTable {
    fn default() -> Self {
        Self {
            listen: vec!["127.0.0.1:14180".to_owned(), "[::1]:14180".to_owned()],
            allow_remote: false,
            allow_unauthenticated: false,
            peer_uids: Vec::new(),
            client_auth: None,
            workers: 0,
            linger: Duration::ZERO,
            drain: Duration::from_secs(25),
            via: String::new(),
            hosts: Vec::new(),
            browser: Browser::Deny,
            access_log: false,
            limits: RequestLimits::default(),
        }
    }
}

/// `proxy.browser`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Browser {
    Deny,
    Allow,
}

/// `proxy.limits`: what a connection and a request's head may take. The defaults are part of the
/// type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct RequestLimits {
    /// Open connections.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub connections: usize,
    /// Bytes of all header fields of a request.
    #[schemars(range(min = 1024, max = 1_048_575))]
    pub header_bytes: usize,
    /// Header fields of a request.
    #[schemars(range(min = 1, max = 256))]
    pub headers: usize,
    /// Bytes of a request target.
    #[schemars(range(min = 256, max = 1_048_575))]
    pub uri_bytes: usize,
    /// Until the last byte of a request's header; for the first of a connection counted from
    /// accept.
    #[serde(with = "duration")]
    #[schemars(with = "DurationSchema", extend("x-least" = "1ms", "x-most" = "1h"))]
    pub header_timeout: Duration,
    /// Until a connection without a byte is closed.
    #[serde(with = "duration")]
    #[schemars(with = "DurationSchema", extend("x-least" = "1ms", "x-most" = "30d"))]
    pub idle: Duration,
}

impl RequestLimits {
    /// Those of a configuration that says nothing of them.
    pub const DEFAULT: Self = Self {
        connections: 10_000,
        header_bytes: 65_536,
        headers: 256,
        uri_bytes: 16_384,
        header_timeout: Duration::from_secs(10),
        idle: Duration::from_mins(10),
    };
}

impl Default for RequestLimits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// `[admin]`
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct AdminTable {
    /// `IP:PORT`, loopback only; port 0 is any free one; or `unix:PATH`.
    pub listen: String,
    /// A secret that whoever changes something must send as a Bearer token, for `/` and `/api` as a
    /// whole; of several any one. Not set: none.
    pub auth: Option<SecretRefs>,
    /// Users, by number, who need no such token over a Unix socket; its mode is then 0666. None:
    /// our own and root, the mode is 0600.
    #[schemars(with = "OneOrMore<u32>")]
    pub uids: Vec<u32>,
    /// When `/readyz` says 200.
    pub ready: Ready,
    /// Further names the admin port answers to.
    #[schemars(with = "OneOrMore<String>")]
    pub hosts: Vec<String>,
}

impl Default for AdminTable {
    fn default() -> Self {
        Self {
            listen: super::listen::STANDARD_ADMIN.to_string(),
            auth: None,
            uids: Vec::new(),
            ready: Ready::Started,
            hosts: Vec::new(),
        }
    }
}

/// `admin.ready`: when `/readyz` says 200.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Ready {
    Started,
    Accepted,
    Any,
    All,
}

/// `[metrics]`
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct MetricsTable {
    /// `IP:PORT` for `/metrics`, `/livez` and `/readyz`. Required.
    pub listen: Option<String>,
}

/// `[log]`
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct LogTable {
    /// How lines are written.
    pub format: LogFormat,
    /// What is left out.
    pub level: Level,
}

impl Default for LogTable {
    fn default() -> Self {
        Self {
            format: LogFormat::Text,
            level: Level::Info,
        }
    }
}

/// `log.format`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    Json,
}

/// `log.level`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// `[state]`
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct StateTable {
    /// The folder. Required.
    pub dir: Option<String>,
}

/// `[reload]`
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct ReloadTable {
    /// How often files are looked at, or `"off"`.
    #[schemars(extend("x-least" = "10ms", "x-most" = "1d"))]
    pub interval: DurationOrOff,
}

impl Default for ReloadTable {
    fn default() -> Self {
        Self {
            interval: DurationOrOff(Some(Duration::from_secs(5))),
        }
    }
}

/// `[intercept]`
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct InterceptTable {
    /// Certificate of the local CA.
    pub ca_cert_file: Option<String>,
    /// Its key.
    pub ca_key_file: Option<String>,
    /// What to do with hosts that are no upstream. Not set: deny.
    pub unmatched: Option<Unmatched>,
}

/// `intercept.unmatched`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Unmatched {
    Deny,
    Tunnel,
}

/// `[upstreams.NAME]`
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct UpstreamTable {
    /// Origin and optional base path. Required.
    pub url: Option<String>,
    /// Allow `http` to a host that is not loopback.
    pub allow_plaintext: bool,
    /// Name of a credential, or `none`. Required.
    pub credential: Option<String>,
    /// How requests are told to be for this upstream.
    #[serde(rename = "match")]
    pub matches: MatchTable,
    /// Take the matched path off.
    pub strip_path: bool,
    /// What may be sent again after a 401.
    pub replay: ReplayPolicy,
    /// Turn a `Location` within `url` into our own path.
    pub rewrite_location: bool,
    /// Names of upstreams with another credential to which a `Location`, `Content-Location`,
    /// `Refresh` or `Link` of this one may lead; what leads to another one is taken out.
    #[schemars(with = "OneOrMore<String>")]
    pub redirects_to: Vec<String>,
    /// HTTP/2, where the vendor offers it (ALPN).
    pub http2: Http2,
    /// How long to wait for what.
    pub timeouts: UpstreamTimeouts,
    /// Connections kept open.
    pub pool: UpstreamPool,
    /// Trust and identity.
    pub tls: Tls,
}

impl Default for UpstreamTable {
    fn default() -> Self {
        Self {
            url: None,
            allow_plaintext: false,
            credential: None,
            matches: MatchTable::default(),
            strip_path: true,
            replay: ReplayPolicy::Any,
            rewrite_location: true,
            redirects_to: Vec::new(),
            http2: Http2::Auto,
            timeouts: UpstreamTimeouts::default(),
            pool: UpstreamPool::default(),
            tls: Tls::default(),
        }
    }
}

/// `match`
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct MatchTable {
    /// Prefix of whole segments; empty: not by path. Not set: `/NAME`.
    pub path: Option<String>,
    /// Host names that lead here. Not set: `NAME.localhost`.
    #[schemars(with = "Option<OneOrMore<String>>")]
    pub hosts: Option<Vec<String>>,
    /// Answer forward-proxy requests for `url`.
    pub forward: bool,
}

impl Default for MatchTable {
    fn default() -> Self {
        Self {
            path: None,
            hosts: None,
            forward: true,
        }
    }
}

/// `http2`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Http2 {
    Auto,
    Never,
}
