//! A profile that cannot be wrong any more: what the program runs on.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use http::{HeaderName, Method};
use regex::Regex;

pub use crate::client_auth::ClientAuth;

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
    /// What is put on requests.
    pub inject: Inject,
    /// What selects a token set; empty: there is one for all requests.
    pub partition: Vec<PartitionSpec>,
    /// The user's rules first, then the profile's.
    pub errors: Vec<ErrorRule>,
    /// How often the token endpoint may be asked, and how refusals are counted.
    pub limits: LockoutPolicy,
    /// At most so many requests wait for a token of this credential.
    pub max_waiters: usize,
    /// Its token is handed out to callers.
    pub vend: bool,
}

/// `secrets.NAME`: what a profile says of one of its secrets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SecretSpec {
    /// What it is and where it comes from, for people.
    pub help: String,
    /// It need not be there.
    pub optional: bool,
    /// May stand in the configuration without a lint (`client_id`).
    pub public: bool,
}

/// `tokens.NAME`
#[derive(Debug, Clone)]
pub struct TokenSpec {
    /// Its name, and the label `token` of metrics.
    pub name: Arc<str>,
    /// `None` only with [`ParamFormat::None`]. Judged at load where it names settings only; one that
    /// names secrets, tokens or variables is known only when it is rendered, so the sender judges
    /// it then, by the rules of [`super::parse_token_url`] (https, or loopback, or `allow_plaintext`).
    pub url: Option<Template>,
    /// `http` to a host that is not loopback is let pass.
    pub allow_plaintext: bool,
    /// POST, unless the profile says otherwise.
    pub method: Method,
    /// Where parameters go.
    pub format: ParamFormat,
    /// How the client proves who it is.
    pub client_auth: ClientAuth,
    /// `None`: none is sent.
    pub grant_type: Option<Template>,
    /// Parameters besides those of the grant and of the client; one that renders empty is not sent.
    pub params: BTreeMap<String, Param>,
    /// Header fields of the token request.
    pub headers: Vec<(HeaderName, Template)>,
    /// The whole content, in place of parameters.
    pub body: Option<Template>,
    /// For the whole call, from connecting to the last byte of the answer.
    pub timeout: Duration,
    /// Trust and identity on the way to the token endpoint.
    pub tls: Tls,
    /// There where something is signed.
    pub assertion: Option<Assertion>,
    /// Where the token and its life stand in the answer.
    pub response: Response,
    /// How long it lives, and when it is renewed.
    pub lifetime: Lifetime,
    /// Indices into [`Profile::tokens`] of the tokens this one is made with.
    pub parents: Vec<usize>,
}

/// A parameter: a template, a list of them (form: the name is repeated), or, for JSON bodies, a
/// tree.
#[derive(Debug, Clone)]
pub enum Param {
    /// A template.
    Text(Template),
    /// A member of JSON, or `true` and `false` as text.
    Bool(bool),
    /// A member of JSON, or its digits as text.
    Number(serde_json::Number),
    /// Several values; a form repeats the name.
    List(Vec<Param>),
    /// A table, in JSON alone.
    Table(BTreeMap<String, Param>),
}

/// `format`: where the parameters of a token request go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParamFormat {
    /// Into the content, as `application/x-www-form-urlencoded` (RFC 6749 4.4.2).
    Form,
    /// Into the content, as one JSON object.
    Json,
    /// Into the URL's query.
    Query,
    /// With a `url`: a request without body or parameters. Without: the assertion is itself the
    /// token.
    None,
}

/// `.assertion`
#[derive(Debug, Clone)]
pub struct Assertion {
    /// The signature's algorithm (RFC 7518 3.1).
    pub alg: jsonwebtoken::Algorithm,
    /// What it is signed with: a private key in PEM, or the secret of an HMAC.
    pub key: Template,
    /// Members of the JOSE header besides `alg` and `typ`; one that renders empty is left out
    /// (`kid` of an absent certificate).
    pub header: BTreeMap<String, Template>,
    /// Claims that differ from the usual ones; one that renders empty is left out.
    pub claims: BTreeMap<String, Param>,
    /// From `iat` to `exp`.
    pub lifetime: Duration,
}

/// Where in an answer something stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ValueSource {
    /// A JSON pointer (RFC 6901).
    Pointer(String),
    /// A field of the head.
    Header(HeaderName),
    /// A cookie that is set.
    Cookie(String),
    /// The whole body, white space trimmed.
    Body,
}

/// `.response`
#[derive(Debug, Clone)]
pub struct Response {
    /// The token.
    pub token: ValueSource,
    /// Its life from now on.
    pub expires_in: Option<ValueSource>,
    /// One unit of `expires_in`.
    pub expires_unit: Duration,
    /// The moment of its end.
    pub expires_at: Option<ValueSource>,
    /// How that moment is written.
    pub expires_at_format: MomentFormat,
    /// Read `exp` and `iat` where the token looks like a JWT.
    pub jwt_exp: bool,
    /// What else of the answer templates may name, as `vars.NAME`.
    pub vars: BTreeMap<String, ValueSource>,
}

/// `expires_at_format`: how a moment is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MomentFormat {
    /// Epoch seconds or milliseconds by magnitude, or RFC 3339.
    Auto,
    /// strftime with the zone it is meant in (IANA name or offset); `None` where the format itself
    /// has one.
    Strftime {
        /// As strftime(3) has it.
        format: String,
        /// `Asia/Seoul`, `+09:00`.
        zone: Option<String>,
    },
}

/// `inject`: what is put on a request, and where; headers first, then those for want of the
/// client's own, the query and cookies.
pub type Inject = Vec<(InjectPlace, Template)>;

/// Where on a request something is put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InjectPlace {
    /// A header field that replaces the client's.
    Header(HeaderName),
    /// A header field that is added where the client sends none of that name.
    HeaderIfAbsent(HeaderName),
    /// A query parameter that replaces the client's, not yet percent-encoded.
    Query(String),
    /// A cookie that replaces the client's.
    Cookie(String),
}

#[cfg(test)]
impl Profile {
    /// The headers that are put on every request.
    pub fn injected_headers(&self) -> Vec<(&HeaderName, &Template)> {
        let headers = self
            .inject
            .iter()
            .filter_map(|(place, template)| match place {
                InjectPlace::Header(name) => Some((name, template)),
                InjectPlace::HeaderIfAbsent(_) | InjectPlace::Query(_) | InjectPlace::Cookie(_) => {
                    None
                }
            });
        headers.collect()
    }
}

/// `partition.NAME`
#[derive(Debug, Clone)]
pub struct PartitionSpec {
    /// Templates name its value as `partition.NAME`.
    pub name: Arc<str>,
    /// The field that holds the value; it goes no further.
    pub header: HeaderName,
    /// What a value has to fit, as a whole.
    pub pattern: Regex,
    /// So many values have token sets at the same time; the one unused for longest makes room.
    pub max: u64,
}

/// One entry of `errors`.
#[derive(Debug, Clone)]
pub struct ErrorRule {
    /// Whose answers it judges.
    pub at: RuleSide,
    /// Only for this token; `None`: for all.
    pub token: Option<Arc<str>>,
    /// Empty: any.
    pub status: Vec<StatusMatch>,
    /// The answer's media type has to be JSON's, or must not be; `None`: any.
    pub json: Option<bool>,
    /// What of the answer is looked at; where nothing is found there, the rule does not fit.
    pub path: Option<ValueSource>,
    /// What that has to be; `None`: anything.
    pub test: Option<RuleTest>,
    /// What the answer then means.
    pub then: RuleMeaning,
    /// How long to wait before the next attempt.
    pub hold: Option<Duration>,
}

/// `at`: whose answers a rule judges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuleSide {
    /// The token endpoint's.
    Token,
    /// The API's, to requests of callers.
    Api,
}

/// One entry of a rule's `status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatusMatch {
    /// This status.
    Exact(u16),
    /// "5xx" is 5.
    Class(u16),
}

/// Compared as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuleTest {
    /// It is one of these.
    In(Vec<String>),
    /// It is none of these.
    NotIn(Vec<String>),
}

/// `then`: what an answer means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuleMeaning {
    /// There is a token in it.
    Ok,
    /// The endpoint failed: try again with backoff.
    Retry,
    /// The endpoint wants us to wait.
    Throttled,
    /// The secret was refused.
    Rejected,
    /// The configuration or the answer is wrong.
    Config,
    /// At the API: the token was refused.
    StaleToken,
    /// At the API: it says nothing of the token.
    Pass,
}
