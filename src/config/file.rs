//! What may be written: the shape of the file, for serde and the JSON Schema. Every key may be left
//! out here; `parse` says which may not.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::value::{Lasting, OrOff, SecretRefs};
use crate::profile::table::OneOrMore;

/// The configuration of cupbearer.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields, title = "cupbearer")]
pub struct File {
    /// The data port.
    pub proxy: Option<Proxy>,
    /// The admin port.
    pub admin: Option<Admin>,
    /// A read-only port for kubelet and Prometheus, which come by the pod's address. Not set: none.
    pub metrics: Option<Metrics>,
    /// What is logged, to stderr.
    pub log: Option<Log>,
    /// What must outlive a restart (guard counters). Not set: memory only.
    pub state: Option<State>,
    /// Polling of the configuration and secret files.
    pub reload: Option<Reload>,
    /// CONNECT from clients with `HTTPS_PROXY`. Not there yet.
    pub intercept: Option<Intercept>,
    /// What is needed to be let in at a vendor, by name.
    #[schemars(with = "Option<BTreeMap<String, super::credential::Written>>")]
    pub credentials: Option<BTreeMap<String, Map<String, Value>>>,
    /// What upstreams have in common; an upstream's own keys win.
    pub upstream_defaults: Option<Upstream>,
    /// The vendor APIs, by name.
    pub upstreams: Option<BTreeMap<String, Upstream>>,
}

/// `[proxy]`
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Proxy {
    /// Addresses to listen on: `IP:PORT` or `unix:PATH`. Default: `127.0.0.1:14180` and
    /// `[::1]:14180`.
    #[schemars(with = "Option<OneOrMore<String>>")]
    pub listen: Option<Vec<String>>,
    /// Allow an address that is not loopback; needs `client_auth` or `allow_unauthenticated` as
    /// well. Default: false.
    pub allow_remote: Option<bool>,
    /// Whoever reaches a remote address may spend the tokens. Default: false.
    pub allow_unauthenticated: Option<bool>,
    /// Users, by number, whose programs may connect to a Unix socket; its mode is then 0666.
    /// Default: none, the mode is 0600.
    #[schemars(with = "Option<OneOrMore<u32>>")]
    pub peer_uids: Option<Vec<u32>>,
    /// A shared secret callers must send as `Proxy-Authorization`; of several any one. Default:
    /// none.
    pub client_auth: Option<SecretRefs>,
    /// Worker threads; 0 is one per core the process may use. Default: 0.
    pub workers: Option<usize>,
    /// After SIGTERM: keep accepting that long. Default: 0s.
    pub linger: Option<Lasting>,
    /// After SIGTERM: how long open requests may run. Default: 25s.
    pub drain: Option<Lasting>,
    /// Pseudonym for the `Via` header; empty sends none. Default: empty.
    pub via: Option<String>,
    /// Further host names under which path routing answers while `browser` is deny. Default: none.
    #[schemars(with = "Option<OneOrMore<String>>")]
    pub hosts: Option<Vec<String>>,
    /// What to do with requests of web pages. Default: deny.
    pub browser: Option<Browser>,
    /// Log every request. Default: false.
    pub access_log: Option<bool>,
    /// Bounds of the data port.
    pub limits: Option<Limits>,
}

/// `proxy.browser`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Browser {
    Deny,
    Allow,
}

/// `proxy.limits`
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Limits {
    /// Open connections. Default: 10000.
    pub connections: Option<usize>,
    /// Bytes of all header fields of a request. Default: 65536.
    pub header_bytes: Option<usize>,
    /// Header fields of a request. Default: 256.
    pub headers: Option<usize>,
    /// Bytes of a request target. Default: 16384.
    pub uri_bytes: Option<usize>,
    /// Until the last byte of a request's header; for the first of a connection counted from
    /// accept. Default: 10s.
    pub header_timeout: Option<Lasting>,
    /// Until a connection without a byte is closed. Default: 10m.
    pub idle: Option<Lasting>,
}

/// `[admin]`
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Admin {
    /// `IP:PORT`, loopback only; port 0 is any free one; or `unix:PATH`. Default:
    /// `127.0.0.1:14190`.
    pub listen: Option<String>,
    /// A secret that whoever changes something must send as a Bearer token, for `/` and `/api` as a
    /// whole; of several any one. Default: none.
    pub auth: Option<SecretRefs>,
    /// Users, by number, who need no such token over a Unix socket; its mode is then 0666. Default:
    /// our own and root, the mode is 0600.
    #[schemars(with = "Option<OneOrMore<u32>>")]
    pub uids: Option<Vec<u32>>,
    /// When `/readyz` says 200. Default: started.
    pub ready: Option<Ready>,
    /// Further names the admin port answers to. Default: none.
    #[schemars(with = "Option<OneOrMore<String>>")]
    pub hosts: Option<Vec<String>>,
}

/// `admin.ready`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Ready {
    Started,
    Accepted,
    Any,
    All,
}

/// `[metrics]`
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Metrics {
    /// `IP:PORT` for `/metrics`, `/livez` and `/readyz`. Required.
    pub listen: Option<String>,
}

/// `[log]`
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Log {
    /// Default: text.
    pub format: Option<LogFormat>,
    /// Default: info.
    pub level: Option<Level>,
}

/// `log.format`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    Json,
}

/// `log.level`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
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
#[schemars(deny_unknown_fields)]
pub struct State {
    /// The folder. Required.
    pub dir: Option<String>,
}

/// `[reload]`
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Reload {
    /// How often files are looked at, or `"off"`. Default: 5s.
    pub interval: Option<OrOff>,
}

/// `[intercept]`
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Intercept {
    /// Certificate of the local CA.
    pub ca_cert_file: Option<String>,
    /// Its key.
    pub ca_key_file: Option<String>,
    /// What to do with hosts that are no upstream. Default: deny.
    pub unmatched: Option<Unmatched>,
}

/// `intercept.unmatched`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Unmatched {
    Deny,
    Tunnel,
}

/// `[upstreams.NAME]`
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Upstream {
    /// Origin and optional base path. Required.
    pub url: Option<String>,
    /// Allow `http` to a host that is not loopback. Default: false.
    pub allow_plaintext: Option<bool>,
    /// Name of a credential, or `none`. Required.
    pub credential: Option<String>,
    /// How requests are told to be for this upstream.
    #[serde(rename = "match")]
    pub matches: Option<Match>,
    /// Take the matched path off. Default: true.
    pub strip_path: Option<bool>,
    /// What may be sent again after a 401. Default: any.
    pub replay: Option<Replay>,
    /// Turn a `Location` within `url` into our own path. Default: true.
    pub rewrite_location: Option<bool>,
    /// Names of upstreams with another credential to which a `Location`, `Content-Location`,
    /// `Refresh` or `Link` of this one may lead. Default: none; what leads to another one is taken
    /// out.
    #[schemars(with = "Option<OneOrMore<String>>")]
    pub redirects_to: Option<Vec<String>>,
    /// Default: auto (ALPN).
    pub http2: Option<Http2>,
    /// How long to wait for what.
    pub timeouts: Option<Timeouts>,
    /// Connections kept open.
    pub pool: Option<Pool>,
    /// Trust and identity.
    pub tls: Option<Tls>,
}

/// `match`
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Match {
    /// Prefix of whole segments; empty: not by path. Default: `/NAME`.
    pub path: Option<String>,
    /// Host names that lead here. Default: `NAME.localhost`.
    #[schemars(with = "Option<OneOrMore<String>>")]
    pub hosts: Option<Vec<String>>,
    /// Answer forward-proxy requests for `url`. Default: true.
    pub forward: Option<bool>,
}

/// `replay`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Replay {
    Any,
    Idempotent,
    Never,
}

/// `http2`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Http2 {
    Auto,
    Never,
}

/// `timeouts`
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Timeouts {
    /// TCP and TLS together. Default: 5s.
    pub connect: Option<Lasting>,
    /// Between two reads, the first byte included. Default: 60s.
    pub read: Option<Lasting>,
    /// The longest a request waits for a token. Default: 15s.
    pub token: Option<Lasting>,
}

/// `pool`
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Pool {
    /// How long an idle connection is kept. Default: 30s.
    pub idle: Option<Lasting>,
    /// How many are kept. Default: 64.
    pub connections: Option<usize>,
    /// Requests that may be there at the same time; more wait in order of arrival,
    /// `timeouts.connect` at most. Default: 1024.
    pub requests: Option<usize>,
}

/// `tls`
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Tls {
    /// PEM certificates to trust besides the platform's.
    pub ca_file: Option<String>,
    /// Trust only `ca_file`. Default: false.
    pub ca_only: Option<bool>,
    /// Name to ask for and to verify instead of the URL's host.
    pub server_name: Option<String>,
    /// PEM chain of the client certificate.
    pub client_cert_file: Option<String>,
    /// PEM key of the client certificate.
    pub client_key_file: Option<String>,
}
