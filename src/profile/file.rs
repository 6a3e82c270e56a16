//! What may be written in a profile or a credential: the shape for serde and the JSON Schema. Doc
//! comments are the schema's descriptions.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use schemars::{JsonSchema, Schema, json_schema};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    document::{DurationText, OneOrMore, ScalarText},
    tls::Tls,
};

/// Which profile a credential or another profile starts from: a built-in one by its name, or a
/// file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(untagged, deny_unknown_fields)]
#[schemars(extend("x-wrong" = ProfileRef::WRONG, "x-hint" = ProfileRef::HINT))]
pub enum ProfileRef {
    Builtin(String),
    File {
        /// A TOML file in the profile language; a relative path starts from the file it is written
        /// in.
        file: PathBuf,
    },
}

impl ProfileRef {
    /// What is said of anything else.
    pub const WRONG: &str = "must be a built-in profile's name, or { file = \"PATH\" }";
    /// What to do about it.
    pub const HINT: &str = "`cupbearer profiles` lists the built-in ones";

    /// With a relative path from `folder`.
    #[must_use]
    pub fn in_folder(self, folder: &Path) -> Self {
        match self {
            Self::File { file } => Self::File {
                file: folder.join(file),
            },
            Self::Builtin(name) => Self::Builtin(name),
        }
    }
}

/// What may be written in a profile.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct ProfileTable {
    #[serde(flatten)]
    pub head: HeadTable,
    #[serde(flatten)]
    pub body: CredentialTable,
}

/// Every table of a profile may name keys to remove from what it lies over.
fn allow_drop(schema: &mut Schema) {
    let drop = json_schema!({
        "description": "Keys to remove from the inherited table, e.g. `[\"inject.headers.Authorization\"]`.",
        "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" } }]
    });
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        properties.insert("drop".to_owned(), drop.into());
    }
}

/// What a profile has besides a credential's keys: where it comes from, and what its user must fill
/// in.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct HeadTable {
    /// The profile this one starts from: a built-in name, or `{ file = "PATH" }`. Tables merge
    /// deeply.
    pub extends: Option<ProfileRef>,
    /// What the profile is for, in one or two sentences.
    pub doc: Option<String>,
    /// The public document it follows.
    pub source: Option<String>,
    /// What a credential fills in with `settings = { … }`.
    pub settings: BTreeMap<String, SettingTable>,
    /// What a credential fills in with `secrets = { … }`. The name `*` lets any secret in.
    pub secrets: BTreeMap<String, SecretTable>,
}

/// One setting of a profile.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, transform = allow_drop)]
pub struct SettingTable {
    /// What to write here, for `cupbearer profiles NAME` and for hints.
    pub help: Option<String>,
    /// The value where the credential gives none ("").
    pub default: Option<ScalarText>,
    /// There must be a value.
    pub required: bool,
    /// A regular expression the whole value must match.
    pub pattern: Option<String>,
}

/// One secret of a profile.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, transform = allow_drop)]
pub struct SecretTable {
    /// What it is and where to get it.
    pub help: Option<String>,
    /// It may be absent.
    pub optional: bool,
    /// It may stand in the configuration without a lint (`client_id`).
    pub public: bool,
}

/// What a credential may override in its profile (besides `profile`, `settings` and `secrets`).
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, transform = allow_drop)]
pub struct CredentialTable {
    /// How to get each token. A token may use `{{ tokens.OTHER }}`.
    pub tokens: BTreeMap<String, TokenTable>,
    /// What is put on a request.
    pub inject: InjectTable,
    /// One token set per value of a request header.
    pub partition: BTreeMap<String, PartitionTable>,
    /// What answers mean, first hit wins; tried before the profile's own rules and the standard
    /// ones.
    #[schemars(with = "OneOrMore<ErrorTable>")]
    pub errors: Vec<ErrorTable>,
    /// How often the token endpoint may be asked.
    pub guard: GuardTable,
    /// Hand the token out at `/.cupbearer/token/NAME` (false).
    pub vend: bool,
}

/// One token: what is sent, what the answer says, how long it lives. Strings are templates.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, transform = allow_drop)]
pub struct TokenTable {
    /// The token endpoint (https, or loopback, or `allow_plaintext`). Not needed with `format =
    /// "none"`.
    pub url: Option<String>,
    /// Secrets may travel over plain http to a host that is not loopback (false).
    pub allow_plaintext: bool,
    /// HTTP method (POST).
    #[schemars(extend("examples" = ["POST", "GET", "PUT"]))]
    pub method: Option<String>,
    /// How parameters are sent: form, json, query or none (form).
    #[schemars(extend("examples" = ["form", "json", "query", "none"]))]
    pub format: Option<String>,
    /// How the client proves itself (body).
    #[schemars(extend("examples" = ["body", "basic", "basic_raw", "private_key_jwt", "client_secret_jwt", "none"]))]
    pub client_auth: Option<String>,
    /// `grant_type` (`client_credentials`); "" sends none.
    pub grant_type: Option<String>,
    /// Further parameters: text, lists, and with `format = "json"` anything. One that renders empty
    /// is not sent.
    pub params: BTreeMap<String, Value>,
    /// Headers of the token request.
    pub headers: BTreeMap<String, String>,
    /// The raw body, in place of parameters.
    pub body: Option<String>,
    /// Longest time one token call may take (10s).
    pub timeout: Option<DurationText>,
    /// Trust and identity of the token call.
    pub tls: TlsTable,
    /// A fresh JWT for every attempt: `{{ assertion }}`, or what the JWT kinds of `client_auth`
    /// send.
    pub assertion: Option<AssertionTable>,
    /// Where things stand in the answer.
    pub response: ResponseTable,
    /// How long tokens live and when they are renewed.
    pub lifetime: LifetimeTable,
}

/// A TLS leg. Relative paths start from the file they stand in.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, transform = allow_drop)]
pub struct TlsTable {
    #[serde(flatten)]
    pub tls: Tls,
}

/// A JWT signed by us (RFC 7519, RFC 7523).
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, transform = allow_drop)]
pub struct AssertionTable {
    /// Signature algorithm (RS256; HS256 for `client_secret_jwt`).
    #[schemars(extend("examples" = ["RS256", "PS256", "ES256", "EdDSA", "HS256"]))]
    pub alg: Option<String>,
    /// The key, PEM or for HS256 the secret (`{{ secrets.private_key }}`; `{{ secrets.client_secret
    /// }}` for `client_secret_jwt`).
    pub key: Option<String>,
    /// Further header members such as `kid`; one that renders empty is left out.
    pub header: BTreeMap<String, String>,
    /// Claims that differ from the usual ones (for client authentication: iss, sub, aud, iat, exp,
    /// jti); one that renders empty is left out.
    pub claims: BTreeMap<String, Value>,
    /// How long it is valid (60s).
    pub lifetime: Option<DurationText>,
}

/// Where things stand in the answer: a JSON pointer, `header:NAME`, `cookie:NAME` or `body`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, transform = allow_drop)]
pub struct ResponseTable {
    /// The token (`/access_token`).
    pub token: Option<String>,
    /// Its life, a number or a text holding one (`/expires_in`); "off" where the field cannot be
    /// trusted.
    pub expires_in: Option<String>,
    /// One unit of `expires_in`: ms, s, m, h or d (s).
    #[schemars(extend("examples" = ["s", "ms", "m"]))]
    pub expires_unit: Option<String>,
    /// The moment it ends.
    pub expires_at: Option<String>,
    /// How `expires_at` is written: "auto" (epoch seconds or milliseconds, RFC 3339), or `{ format
    /// = "%Y-%m-%d %H:%M:%S", zone = "Asia/Seoul" }`.
    #[schemars(with = "Option<AtFormatTable>")]
    pub expires_at_format: Option<Value>,
    /// Read `exp` of tokens that look like a JWT: auto or off (auto).
    #[schemars(extend("examples" = ["auto", "off"]))]
    pub jwt_exp: Option<String>,
    /// Further values, for templates as `vars.NAME`. One namespace per credential.
    pub vars: BTreeMap<String, String>,
}

/// "auto", or a strftime format with the zone it is meant in.
#[derive(JsonSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "only its schema is used")]
enum AtFormatTable {
    Text(String),
    Strftime {
        format: String,
        zone: Option<String>,
    },
}

/// How long tokens live and when they are renewed.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, transform = allow_drop)]
pub struct LifetimeTable {
    /// Taken where the answer says nothing usable (5m).
    pub default: Option<DurationText>,
    /// Never trust a token longer than this (off).
    pub cap: Option<DurationText>,
    /// A token unused for this long is dead (off).
    pub idle: Option<DurationText>,
    /// ahead: fetched at start and renewed before it is due; lazy: when a request needs it (ahead;
    /// lazy with partitions).
    #[schemars(extend("examples" = ["ahead", "lazy"]))]
    pub refresh: Option<String>,
    /// Renew this long before the end (auto).
    pub refresh_before: Option<DurationText>,
    /// overlap: old and new tokens are both valid; replaces: a new one kills the old one (overlap).
    #[schemars(extend("examples" = ["overlap", "replaces"]))]
    pub rotation: Option<String>,
    /// With `replaces`: how long the old token is still taken (0s).
    pub grace: Option<DurationText>,
    /// Unused this long, renewing stops until the next use (1h).
    pub rest_after: Option<DurationText>,
    /// For vending: hand out no token with less than this left (0s).
    pub min_remaining: Option<DurationText>,
}

/// What is put on a request.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, transform = allow_drop)]
pub struct InjectTable {
    /// Headers, whatever the client sent (`Authorization = "Bearer {{ token }}"`).
    pub headers: BTreeMap<String, String>,
    /// Headers that are added where the client sent none.
    pub headers_if_absent: BTreeMap<String, String>,
    /// Query parameters.
    pub query: BTreeMap<String, String>,
    /// Cookies.
    pub cookies: BTreeMap<String, String>,
}

/// One token set per value of a request header.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, transform = allow_drop)]
pub struct PartitionTable {
    /// The header that chooses; it is not passed on. Required.
    pub header: Option<String>,
    /// What values may look like: a regular expression from `^` to `$`. Required.
    pub pattern: Option<String>,
    /// How many token sets are kept; the least recently used goes first (1000).
    pub max: Option<u64>,
}

/// What an answer means.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, transform = allow_drop)]
pub struct ErrorTable {
    /// Whose answers: token (the token endpoint's) or api (the upstream's). Required.
    #[schemars(extend("examples" = ["token", "api"]))]
    pub at: Option<String>,
    /// Only for this token.
    pub token: Option<String>,
    /// A status, or a list of statuses and classes such as "5xx".
    #[schemars(with = "Option<StatusTable>")]
    pub status: Option<Value>,
    /// Only answers whose media type is JSON's (true: `application/json`, `+json`), or only others,
    /// which a gateway or firewall gave (false).
    pub json: Option<bool>,
    /// Where to look in the answer: a JSON pointer, `header:NAME`, `cookie:NAME` or `body`.
    pub path: Option<String>,
    /// What stands there is one of these, compared as text.
    #[schemars(with = "Option<OneOrMore<Value>>")]
    pub r#in: Option<Vec<Value>>,
    /// What stands there is none of these.
    #[schemars(with = "Option<OneOrMore<Value>>")]
    pub not_in: Option<Vec<Value>>,
    /// ok, retry, throttled, rejected or config for token answers; `stale_token` or pass for API
    /// answers. Required.
    #[schemars(extend("examples" = ["ok", "retry", "throttled", "rejected", "config", "stale_token", "pass"]))]
    pub then: Option<String>,
    /// How long to wait before the next attempt.
    pub hold: Option<DurationText>,
}

/// A status, or several.
#[derive(JsonSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "only its schema is used")]
enum StatusTable {
    One(u16),
    Class(String),
    Several(Vec<StatusItem>),
}

/// A status or a class such as "5xx".
#[derive(JsonSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "only its schema is used")]
enum StatusItem {
    Exact(u16),
    Class(String),
}

/// How often the token endpoint may be asked.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, transform = allow_drop)]
pub struct GuardTable {
    /// Token calls at most, each a bucket that refills evenly: "120/m", "1000/d", "10/10m" (one:
    /// "120/m").
    #[schemars(with = "Option<OneOrMore<String>>")]
    pub rate: Option<Vec<String>>,
    /// At most so many requests wait for a token (10000).
    pub max_waiters: Option<u64>,
    /// Refused attempts per secret value before the credential is latched (2).
    pub max_rejections: Option<u64>,
    /// How long it stays latched: a duration that doubles up to 1h, or `until_secret_changes` (1m).
    /// A secret that was accepted within 24h is held for 5m at first, where this says more.
    pub hold: Option<DurationText>,
    /// Refused attempts in a row over all secrets of an account (token origin and client ID), after
    /// which only an unlatch opens: for vendors that lock the account. Needs `[state]` (off).
    #[schemars(with = "Option<OffOrCount>")]
    pub account_rejections: Option<Value>,
}

/// A number from 1, or "off".
#[derive(JsonSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "only its schema is used")]
enum OffOrCount {
    Count(u32),
    Off(String),
}
