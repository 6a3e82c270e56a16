//! A profile that cannot be wrong any more: what the program runs on.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use http::{HeaderName, Method};
use regex::Regex;

use super::template::Template;
use crate::{
    tls::Tls,
    token::{Lifetime, LockoutPolicy},
};

/// A profile with its settings filled in and its secrets still open.
#[derive(Debug, Clone)]
pub struct Profile {
    /// Name of the built-in profile, or the file's stem.
    pub name: Arc<str>,
    /// Values by name, defaults applied.
    pub settings: BTreeMap<String, String>,
    /// With `secrets."*"` those that are given or used. One that nothing uses counts as optional.
    pub secrets: BTreeMap<String, SecretSpec>,
    /// Parents before children.
    pub tokens: Vec<TokenSpec>,
    pub inject: Inject,
    pub partition: Vec<Partition>,
    /// The user's rules first, then the profile's.
    pub errors: Vec<Rule>,
    pub limits: LockoutPolicy,
    /// At most so many requests wait for a token of this credential.
    pub max_waiters: usize,
    pub vend: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SecretSpec {
    pub help: String,
    pub optional: bool,
    /// May stand in the configuration without a lint (`client_id`).
    pub public: bool,
}

/// `tokens.NAME`
#[derive(Debug, Clone)]
pub struct TokenSpec {
    pub name: Arc<str>,
    /// `None` only with [`Format::None`]. Judged at load where it names settings only; one that
    /// names secrets, tokens or variables is known only when it is rendered, so the sender judges
    /// it then, by the rules of [`super::judge_url`] (https, or loopback, or `allow_plaintext`).
    pub url: Option<Template>,
    pub allow_plaintext: bool,
    pub method: Method,
    pub format: Format,
    pub client_auth: ClientAuth,
    /// `None`: none is sent.
    pub grant_type: Option<Template>,
    pub params: BTreeMap<String, Param>,
    pub headers: Vec<(HeaderName, Template)>,
    pub body: Option<Template>,
    pub timeout: Duration,
    pub tls: Tls,
    pub assertion: Option<Assertion>,
    pub response: Response,
    pub lifetime: Lifetime,
    /// Indices into [`Profile::tokens`] of the tokens this one is made with.
    pub parents: Vec<usize>,
}

/// A parameter: a template, a list of them (form: the name is repeated), or, for JSON bodies, a
/// tree.
#[derive(Debug, Clone)]
pub enum Param {
    Text(Template),
    Bool(bool),
    Number(serde_json::Number),
    List(Vec<Param>),
    Table(BTreeMap<String, Param>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Form,
    Json,
    Query,
    /// With a `url`: a request without body or parameters. Without: the assertion is itself the
    /// token.
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuth {
    Body,
    Basic,
    BasicRaw,
    PrivateKeyJwt,
    ClientSecretJwt,
    None,
}

/// `.assertion`
#[derive(Debug, Clone)]
pub struct Assertion {
    pub alg: jsonwebtoken::Algorithm,
    pub key: Template,
    /// Members of the JOSE header besides `alg` and `typ`; one that renders empty is left out
    /// (`kid` of an absent certificate).
    pub header: BTreeMap<String, Template>,
    /// Claims that differ from the usual ones; one that renders empty is left out.
    pub claims: BTreeMap<String, Param>,
    pub lifetime: Duration,
}

/// Where in an answer something stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pick {
    /// A JSON pointer (RFC 6901).
    Pointer(String),
    Header(HeaderName),
    Cookie(String),
    /// The whole body, white space trimmed.
    Body,
}

/// `.response`
#[derive(Debug, Clone)]
pub struct Response {
    pub token: Pick,
    pub expires_in: Option<Pick>,
    /// One unit of `expires_in`.
    pub expires_unit: Duration,
    pub expires_at: Option<Pick>,
    pub expires_at_format: AtFormat,
    /// Read `exp` and `iat` where the token looks like a JWT.
    pub jwt_exp: bool,
    pub vars: BTreeMap<String, Pick>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AtFormat {
    /// Epoch seconds or milliseconds by magnitude, or RFC 3339.
    Auto,
    /// strftime with the zone it is meant in (IANA name or offset); `None` where the format itself
    /// has one.
    Strftime {
        format: String,
        zone: Option<String>,
    },
}

/// `inject`
#[derive(Debug, Clone, Default)]
pub struct Inject {
    pub headers: Vec<(HeaderName, Template)>,
    pub headers_if_absent: Vec<(HeaderName, Template)>,
    pub query: Vec<(String, Template)>,
    pub cookies: Vec<(String, Template)>,
}

/// `partition.NAME`
#[derive(Debug, Clone)]
pub struct Partition {
    pub name: Arc<str>,
    pub header: HeaderName,
    /// Anchored.
    pub pattern: Regex,
    pub max: u64,
}

/// One entry of `errors`.
#[derive(Debug, Clone)]
pub struct Rule {
    pub at: At,
    /// Only for this token; `None`: for all.
    pub token: Option<Arc<str>>,
    /// Empty: any.
    pub status: Vec<StatusMatch>,
    /// The answer's media type has to be JSON's, or must not be; `None`: any.
    pub json: Option<bool>,
    pub path: Option<Pick>,
    pub test: Option<Test>,
    pub then: Then,
    pub hold: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    Token,
    Api,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatusMatch {
    Exact(u16),
    /// "5xx" is 5.
    Class(u16),
}

/// Compared as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Test {
    In(Vec<String>),
    NotIn(Vec<String>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    Ok,
    Retry,
    Throttled,
    Rejected,
    Config,
    StaleToken,
    Pass,
}
