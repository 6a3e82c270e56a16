//! The rules of one token endpoint: how a client shows who it is, which fields there may be, and
//! what it gets.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Map, Value, json};

use super::assertion::Assertion;
use super::tokens::{Standing, Tokens};
use super::wire::Request;

/// How a client authenticates. A request that does it in two ways is refused (RFC 6749 section
/// 2.3).
#[derive(Debug, Clone)]
pub enum Auth {
    /// client_id and client_secret in the body.
    Body,
    /// RFC 6749 section 2.3.1: both form-encoded, then base64.
    Basic,
    /// Both as they are, then base64.
    BasicRaw,
    /// private_key_jwt and client_secret_jwt; with `true` client_id may stand beside it.
    Assertion(Assertion, bool),
    /// No authentication in the request (Bearer of another token, or a field among `extra`).
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Form,
    Json,
    Query,
}

#[derive(Debug, Clone)]
pub enum Scope {
    /// The field must not be there.
    Absent,
    /// Must be there, each word one of these.
    OneOf(Vec<String>),
    /// As `OneOf`, but may be missing.
    Optional(Vec<String>),
    /// `api`, or `customer.` and an id.
    ApiOrCustomer,
}

#[allow(
    clippy::struct_excessive_bools,
    reason = "rules are independent of each other"
)]
#[derive(Debug, Clone)]
pub struct Endpoint {
    pub path: String,
    /// The name under which its tokens are found in `Tokens`.
    pub name: String,
    pub method: &'static str,
    pub format: Format,
    pub auth: Auth,
    pub client: String,
    /// Any of these is right: two during a rotation with overlap.
    pub secrets: Vec<String>,
    /// The grant_type that must be there; none: must not be there.
    pub grant: Option<String>,
    pub scope: Scope,
    /// Further fields that must be there with these values; all others are refused.
    pub extra: BTreeMap<String, String>,
    /// Header fields that must be there with these values.
    pub headers: BTreeMap<String, String>,
    /// The name of a token that must be presented as Bearer, alive.
    pub bearer: Option<String>,
    /// How long its tokens really live.
    pub life: Duration,
    /// The expires_in it tells, any JSON value; none: the life in whole seconds. Null leaves the field out.
    pub says: Option<Value>,
    pub field: &'static str,
    pub more: Map<String, Value>,
    pub jwt: bool,
    /// A new token ends the life of the ones before it.
    pub replaces: bool,
    /// After so many wrong attempts in a row the account is locked for ever.
    pub lock_after: Option<u32>,
    pub wrong: u32,
    pub disabled: bool,
    /// Refusals as RFC 9457 instead of RFC 6749.
    pub problem_details: bool,
    /// Status of a refused client.
    pub refuses_with: u16,
}

pub struct Granted {
    pub client: String,
    pub scope: String,
}

pub struct Refusal {
    pub status: u16,
    pub error: &'static str,
    pub why: String,
}

/// Makes tokens unique within a test run.
static NUMBER: AtomicU64 = AtomicU64::new(1);

impl Endpoint {
    /// A plain RFC 6749 endpoint: form, credentials in the body, no scope, tokens that live an hour.
    pub fn new(path: &str, client: &str, secret: &str) -> Self {
        Self {
            path: path.into(),
            name: "access".into(),
            method: "POST",
            format: Format::Form,
            auth: Auth::Body,
            client: client.into(),
            secrets: vec![secret.into()],
            grant: Some("client_credentials".into()),
            scope: Scope::Absent,
            extra: BTreeMap::new(),
            headers: BTreeMap::new(),
            bearer: None,
            life: Duration::from_hours(1),
            says: None,
            field: "access_token",
            more: Map::new(),
            jwt: false,
            replaces: false,
            lock_after: None,
            wrong: 0,
            disabled: false,
            problem_details: false,
            refuses_with: 401,
        }
    }

    pub fn is_locked(&self) -> bool {
        self.lock_after.is_some_and(|n| self.wrong >= n)
    }

    /// Whether this request is to get a token; a wrong attempt is counted.
    pub fn admit(&mut self, request: &Request, tokens: &Tokens) -> Result<Granted, Refusal> {
        if request.method != self.method {
            return Err(malformed(405, format!("method {}", request.method)));
        }
        if let Some(name) = &self.bearer {
            let token = request
                .header("authorization")
                .and_then(|a| a.strip_prefix("Bearer "))
                .unwrap_or_default();
            let standing = tokens.standing(token, name);
            if standing != Standing::Alive {
                return Err(Refusal {
                    status: 401,
                    error: "invalid_token",
                    why: format!("the {name} token is {standing:?}"),
                });
            }
        }
        for (name, value) in &self.headers {
            if request.header(name) != Some(value) {
                return Err(malformed(
                    400,
                    format!("header {name} is {:?}", request.header(name)),
                ));
            }
        }
        let mut fields = self.fields(request)?;
        let client = match self.authenticate(request, &mut fields) {
            Ok(client) if !self.disabled && !self.is_locked() => client,
            Ok(_) => {
                return Err(self.refused(if self.disabled { "disabled" } else { "locked" }.into()));
            }
            Err(why) => {
                self.wrong += 1;
                return Err(self.refused(why));
            }
        };
        self.wrong = 0;
        let grant = fields.remove("grant_type");
        if grant != self.grant {
            return Err(Refusal {
                status: 400,
                error: "unsupported_grant_type",
                why: format!("grant_type is {grant:?}"),
            });
        }
        let scope = self.scope(fields.remove("scope"))?;
        for (name, value) in &self.extra {
            let found = fields.remove(name);
            if found.as_ref() != Some(value) {
                return Err(malformed(400, format!("{name} is {found:?}")));
            }
        }
        if let Some(name) = fields.keys().next() {
            return Err(malformed(400, format!("unknown field {name}")));
        }
        Ok(Granted { client, scope })
    }

    pub fn make_token(&self, granted: &Granted) -> String {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let secret = URL_SAFE_NO_PAD.encode(uuid::Uuid::new_v4());
        if !self.jwt {
            return format!("tok-{}-{number}-{secret}", self.name);
        }
        let iat = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_secs();
        let part = |v: Value| URL_SAFE_NO_PAD.encode(v.to_string());
        let claims = json!({ "sub": granted.client, "scope": granted.scope, "iat": iat, "exp": iat + self.life.as_secs(), "jti": number });
        format!(
            "{}.{}.{secret}",
            part(json!({ "alg": "RS256", "typ": "JWT" })),
            part(claims)
        )
    }

    /// The successful answer.
    pub fn body(&self, token: &str, granted: &Granted) -> Value {
        let mut body = Map::new();
        body.insert(self.field.into(), token.into());
        if self.field == "access_token" {
            body.insert("token_type".into(), "Bearer".into());
        }
        match self
            .says
            .clone()
            .unwrap_or_else(|| self.life.as_secs().into())
        {
            Value::Null => {}
            says => drop(body.insert("expires_in".into(), says)),
        }
        if !granted.scope.is_empty() {
            body.insert("scope".into(), granted.scope.clone().into());
        }
        body.extend(self.more.clone());
        Value::Object(body)
    }

    fn fields(&self, request: &Request) -> Result<BTreeMap<String, String>, Refusal> {
        let content_type = request
            .header("content-type")
            .unwrap_or_default()
            .split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .to_owned();
        let pairs = match self.format {
            Format::Query => pairs(request.query().as_bytes()),
            Format::Form if content_type == "application/x-www-form-urlencoded" => {
                pairs(&request.body)
            }
            Format::Json if content_type == "application/json" => {
                let object: Map<String, Value> = serde_json::from_slice(&request.body)
                    .map_err(|e| malformed(400, format!("JSON: {e}")))?;
                let text = |(name, value): (String, Value)| match value {
                    Value::String(value) => Ok((name, value)),
                    other => Err(malformed(400, format!("{name} is not a string: {other}"))),
                };
                object
                    .into_iter()
                    .map(text)
                    .collect::<Result<Vec<_>, _>>()?
            }
            _ => return Err(malformed(415, format!("content type {content_type:?}"))),
        };
        if self.format != Format::Query && !request.query().is_empty() {
            return Err(malformed(400, "fields in the query".into()));
        }
        let mut fields = BTreeMap::new();
        for (name, value) in pairs {
            // RFC 6749 section 3.2: a field without a value counts as left out, none may stand
            // twice.
            if value.is_empty() || fields.insert(name.clone(), value).is_some() {
                return Err(malformed(
                    400,
                    format!("field {name} is empty or stands twice"),
                ));
            }
        }
        Ok(fields)
    }

    fn authenticate(
        &self,
        request: &Request,
        fields: &mut BTreeMap<String, String>,
    ) -> Result<String, String> {
        let header = if self.bearer.is_some() {
            None
        } else {
            request.header("authorization")
        };
        let basic = matches!(self.auth, Auth::Basic | Auth::BasicRaw);
        if header.is_some() && !basic {
            return Err("an Authorization header that is not wanted".into());
        }
        let (client, secret) = match &self.auth {
            Auth::None => return Ok(self.client.clone()),
            Auth::Body => (fields.remove("client_id"), fields.remove("client_secret")),
            Auth::Basic | Auth::BasicRaw => {
                let text = header
                    .and_then(|h| h.strip_prefix("Basic "))
                    .and_then(|h| STANDARD.decode(h).ok())
                    .ok_or("no Basic header")?;
                let text = String::from_utf8(text).map_err(|e| e.to_string())?;
                let (client, secret) = text.split_once(':').ok_or("no colon in Basic")?;
                let read = |s: &str| {
                    if matches!(self.auth, Auth::Basic) {
                        unform(s)
                    } else {
                        Some(s.to_owned())
                    }
                };
                (read(client), read(secret))
            }
            Auth::Assertion(rules, with_id) => {
                let kind = fields.remove("client_assertion_type");
                if kind.as_deref() != Some("urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
                {
                    return Err(format!("client_assertion_type is {kind:?}"));
                }
                if *with_id {
                    fields.remove("client_id");
                }
                rules.check(
                    &fields.remove("client_assertion").unwrap_or_default(),
                    &self.client,
                )?;
                return Ok(self.client.clone());
            }
        };
        if client.as_ref() != Some(&self.client) {
            return Err(format!("unknown client {client:?}"));
        }
        if !self.secrets.iter().any(|s| Some(s) == secret.as_ref()) {
            return Err("wrong secret".into());
        }
        Ok(self.client.clone())
    }

    fn scope(&self, scope: Option<String>) -> Result<String, Refusal> {
        let within = |allowed: &[String], scope: &str| {
            scope
                .split(' ')
                .all(|word| allowed.iter().any(|a| a == word))
        };
        let customer = |scope: &str| {
            scope == "api"
                || scope
                    .strip_prefix("customer.")
                    .is_some_and(|id| !id.is_empty())
        };
        match (&self.scope, &scope) {
            (Scope::Absent | Scope::Optional(_), None) => Ok(String::new()),
            (Scope::OneOf(allowed) | Scope::Optional(allowed), Some(s)) if within(allowed, s) => {
                Ok(s.clone())
            }
            (Scope::ApiOrCustomer, Some(s)) if customer(s) => Ok(s.clone()),
            _ => Err(Refusal {
                status: 400,
                error: "invalid_scope",
                why: format!("scope is {scope:?}"),
            }),
        }
    }

    fn refused(&self, why: String) -> Refusal {
        Refusal {
            status: self.refuses_with,
            error: "invalid_client",
            why,
        }
    }
}

fn malformed(status: u16, why: String) -> Refusal {
    Refusal {
        status,
        error: "invalid_request",
        why,
    }
}

fn pairs(bytes: &[u8]) -> Vec<(String, String)> {
    form_urlencoded::parse(bytes).into_owned().collect()
}

/// Form-decoding that refuses characters which a form encoder never leaves as they are.
fn unform(text: &str) -> Option<String> {
    let encoded = text
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"*-._+%~".contains(&b));
    let triples = text
        .split('%')
        .skip(1)
        .all(|t| t.len() >= 2 && t.bytes().take(2).all(|b| b.is_ascii_hexdigit()));
    let decoded = form_urlencoded::parse(format!("v={text}").as_bytes())
        .next()?
        .1
        .into_owned();
    (encoded && triples).then_some(decoded)
}
