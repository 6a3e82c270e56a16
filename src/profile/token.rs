//! `tokens.NAME` into a `TokenSpec`: what is sent, and to where. Answers and lifetimes are read in
//! `answer`.

use std::{collections::BTreeMap, net::IpAddr, str::FromStr, time::Duration};

use http::{HeaderName, Method};
use jsonwebtoken::Algorithm;
use serde_json::Value;
use url::{Host, Url};

use super::{
    answer,
    model::{Assertion, ClientAuth, Format, Param, TokenSpec},
    names::{Build, Place},
    table::{AssertionTable, Span, TlsTable, TokenTable},
    template::Template,
    values,
};
use crate::{problem::one_of, tls::Tls};

const FORMATS: [(&str, Format); 4] = [
    ("form", Format::Form),
    ("json", Format::Json),
    ("query", Format::Query),
    ("none", Format::None),
];
const AUTHS: [(&str, ClientAuth); 6] = [
    ("body", ClientAuth::Body),
    ("basic", ClientAuth::Basic),
    ("basic_raw", ClientAuth::BasicRaw),
    ("private_key_jwt", ClientAuth::PrivateKeyJwt),
    ("client_secret_jwt", ClientAuth::ClientSecretJwt),
    ("none", ClientAuth::None),
];
const ALGORITHMS: [&str; 12] = [
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA", "HS256",
    "HS384", "HS512",
];

/// Reads one token. Mistakes are noted; what is returned then is not used. `parents` are filled in
/// by the caller from `build.seen`.
pub(super) fn token(
    b: &mut Build<'_>,
    name: &str,
    table: &TokenTable,
    partitioned: bool,
) -> TokenSpec {
    b.seen.clear();
    let at = ["tokens", name];
    let place = Place::Request(name);
    let format = b.one_of(
        &path(&at, "format"),
        table.format.as_deref(),
        Format::Form,
        &FORMATS,
    );
    // Without parameters there is nowhere to put credentials: the default fits, what is written is
    // checked below.
    let bare = format == Format::None || table.body.is_some();
    let default_auth = if bare {
        ClientAuth::None
    } else {
        ClientAuth::Body
    };
    let known_auth = b.choice(
        &path(&at, "client_auth"),
        table.client_auth.as_deref(),
        default_auth,
        &AUTHS,
    );
    // Of a word that is unknown nothing follows: what else it might need is not asked for.
    let client_auth = known_auth.unwrap_or(ClientAuth::None);
    let allow_plaintext = table.allow_plaintext.unwrap_or(false);

    let url = table
        .url
        .as_deref()
        .map(|url| b.template(&path(&at, "url"), url, place));
    match &url {
        Some(url) => check_url(b, &path(&at, "url"), url, allow_plaintext),
        None if format == Format::None => {}
        None => b.note(
            &path(&at, "url"),
            "is missing",
            "where the token is fetched from, e.g. \"https://auth.example/oauth/token\"",
        ),
    }
    if bare {
        check_bare(b, &at, table, client_auth);
    }
    check_params(b, &at, table, client_auth, format);

    let grant_type = if bare && table.grant_type.is_none() {
        ""
    } else {
        table.grant_type.as_deref().unwrap_or("client_credentials")
    };
    let grant_type = Some(b.template(&path(&at, "grant_type"), grant_type, place))
        .filter(|t| !(t.is_plain() && t.source().is_empty()));
    let params = params(b, &path(&at, "params"), &table.params, place);
    let headers = headers(b, &path(&at, "headers"), &table.headers, place);
    let body = table
        .body
        .as_deref()
        .map(|body| b.template(&path(&at, "body"), body, place));
    let method = method(b, &path(&at, "method"), table.method.as_deref());
    let timeout = positive(
        b,
        &path(&at, "timeout"),
        table.timeout.as_ref(),
        Duration::from_secs(10),
    );

    let named = b.seen.contains("assertion") || (known_auth.is_none() && table.assertion.is_some());
    let assertion = assertion(
        b,
        &at,
        table.assertion.as_ref(),
        client_auth,
        named,
        url.is_none() && format == Format::None,
    );
    need_secrets(b, &at, client_auth, assertion.as_ref());
    TokenSpec {
        name: name.into(),
        url,
        allow_plaintext,
        method,
        format,
        client_auth,
        grant_type,
        params,
        headers,
        body,
        timeout,
        tls: tls(b, &path(&at, "tls"), &table.tls),
        assertion,
        response: answer::response(b, &path(&at, "response"), &table.response),
        lifetime: answer::lifetime(b, &path(&at, "lifetime"), &table.lifetime, partitioned),
        parents: Vec::new(),
    }
}

pub(super) fn path<'a>(at: &[&'a str], key: &'a str) -> Vec<&'a str> {
    at.iter().copied().chain([key]).collect()
}

/// A duration above zero.
pub(super) fn positive(
    b: &mut Build<'_>,
    path: &[&str],
    span: Option<&Span>,
    default: Duration,
) -> Duration {
    let Some((span, duration)) = span.and_then(|span| Some((span, duration(b, path, span)?)))
    else {
        return default;
    };
    if duration.is_zero() {
        b.blame(
            path,
            &span.0,
            "must be longer than nothing",
            "such as \"30s\"; leave it out for the default",
        );
    }
    duration
}

pub(super) fn duration(b: &mut Build<'_>, path: &[&str], span: &Span) -> Option<Duration> {
    let text = b.fixed(path, &span.0)?;
    b.or_blame(path, &span.0, values::duration(&text))
}

fn method(b: &mut Build<'_>, path: &[&str], source: Option<&str>) -> Method {
    let Some((source, text)) = source.and_then(|source| Some((source, b.fixed(path, source)?)))
    else {
        return Method::POST;
    };
    match text.as_str() {
        "POST" => Method::POST,
        "GET" => Method::GET,
        "PUT" => Method::PUT,
        "PATCH" => Method::PATCH,
        _ => {
            b.blame(
                path,
                source,
                "must be one of POST, GET, PUT, PATCH",
                one_of(&text, ["POST", "GET", "PUT", "PATCH"]),
            );
            Method::POST
        }
    }
}

/// Judged as rendered with the settings. A URL that names anything else is known only at run time:
/// the sender judges it by the same rules.
fn check_url(b: &mut Build<'_>, path: &[&str], template: &Template, allow_plaintext: bool) {
    let unset = template
        .names()
        .iter()
        .any(|name| b.settings.get(name).is_some_and(String::is_empty));
    let Some(text) = b.rendered(template).filter(|_| !unset) else {
        return;
    };
    if let Err((what, hint)) = judge_url(&text, allow_plaintext) {
        b.blame(path, template.source(), what, hint);
    }
}

/// A token URL is https (or http to loopback, or with `allow_plaintext`), with a host, without user
/// name, password and fragment.
///
/// # Errors
/// What is wrong and what to do, without the URL itself.
pub fn judge_url(text: &str, allow_plaintext: bool) -> Result<Url, (String, &'static str)> {
    let url = Url::parse(text).map_err(|e| (format!("is no URL ({e})"), "https://HOST/PATH"))?;
    let loopback = url.host().is_some_and(|host| match host {
        Host::Domain(name) => name == "localhost" || name.ends_with(".localhost"),
        Host::Ipv4(ip) => IpAddr::V4(ip).is_loopback(),
        Host::Ipv6(ip) => IpAddr::V6(ip).is_loopback(),
    });
    match url.scheme() {
        "https" => {}
        "http" if loopback || allow_plaintext => {}
        "http" => {
            return Err((
                "would send secrets over plain http".into(),
                "use https, or set allow_plaintext = true",
            ));
        }
        _ => return Err(("must be an https URL".into(), "https://HOST/PATH")),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err((
            "must not hold a user name or password".into(),
            "use secrets and client_auth = \"basic\"",
        ));
    }
    if url.fragment().is_some() {
        return Err((
            "must not have a fragment (#…)".into(),
            "leave # and what follows it out",
        ));
    }
    Ok(url)
}

/// `format = "none"` and raw bodies take no parameters.
fn check_bare(b: &mut Build<'_>, at: &[&str], table: &TokenTable, client_auth: ClientAuth) {
    let why = if table.body.is_some() {
        "a raw body"
    } else {
        "format = \"none\""
    };
    if !table.params.is_empty() {
        b.note(
            &path(at, "params"),
            format!("cannot be sent together with {why}"),
            "write them into the body or the url, or choose another format",
        );
    }
    if table
        .grant_type
        .as_deref()
        .is_some_and(|grant| !grant.is_empty())
    {
        b.note(
            &path(at, "grant_type"),
            format!("cannot be sent together with {why}"),
            "leave it out, or choose another format",
        );
    }
    if table.body.is_some() && table.format.as_deref() == Some("none") {
        b.note(
            &path(at, "body"),
            "cannot be sent together with format = \"none\"",
            "leave format out",
        );
    }
    if matches!(
        client_auth,
        ClientAuth::Body | ClientAuth::PrivateKeyJwt | ClientAuth::ClientSecretJwt
    ) {
        b.note(
            &path(at, "client_auth"),
            format!("puts parameters into the request, which {why} does not have"),
            "none, basic or basic_raw",
        );
    }
}

fn check_params(
    b: &mut Build<'_>,
    at: &[&str],
    table: &TokenTable,
    client_auth: ClientAuth,
    format: Format,
) {
    let ours: &[&str] = match client_auth {
        ClientAuth::Body => &["client_id", "client_secret"],
        ClientAuth::PrivateKeyJwt | ClientAuth::ClientSecretJwt => {
            &["client_assertion", "client_assertion_type"]
        }
        _ => &[],
    };
    for name in table.params.keys() {
        let at = [at, &["params", name]].concat();
        if ours.contains(&name.as_str()) {
            b.note(
                &at,
                "would be sent twice: client_auth sends it",
                "leave it out, or set client_auth = \"none\"",
            );
        }
        if name == "grant_type" {
            b.note(
                &at,
                "would be sent twice",
                "use the key grant_type; \"\" sends none",
            );
        }
        if name.is_empty() {
            b.note(&at, "has no name", "write NAME = \"value\"");
        }
    }
    for (name, value) in &table.params {
        if format != Format::Json && nested(value) {
            b.note(
                &[at, &["params", name]].concat(),
                "can be a table only with format = \"json\"",
                "set format = \"json\", or write the value as text",
            );
        }
    }
    // RFC 8707 section 2: no fragment.
    if let Some(Value::String(text)) = table.params.get("resource")
        && Template::parse(text)
            .ok()
            .and_then(|template| b.rendered(&template))
            .is_some_and(|resource| resource.contains('#'))
    {
        b.blame(
            &[at, &["params", "resource"]].concat(),
            text,
            "must not have a fragment (#…)",
            "leave # and what follows it out (RFC 8707, 2)",
        );
    }
}

fn nested(value: &Value) -> bool {
    match value {
        Value::Object(_) => true,
        Value::Array(list) => list.iter().any(|item| item.is_array() || nested(item)),
        _ => false,
    }
}

fn params(
    b: &mut Build<'_>,
    at: &[&str],
    table: &BTreeMap<String, Value>,
    place: Place<'_>,
) -> BTreeMap<String, Param> {
    table
        .iter()
        .map(|(name, value)| (name.clone(), param(b, &path(at, name), value, place)))
        .collect()
}

fn param(b: &mut Build<'_>, at: &[&str], value: &Value, place: Place<'_>) -> Param {
    match value {
        Value::String(text) => Param::Text(b.template(at, text, place)),
        Value::Bool(yes) => Param::Bool(*yes),
        Value::Number(n) => Param::Number(n.clone()),
        Value::Array(list) => {
            let items = list.iter().enumerate();
            Param::List(
                items
                    .map(|(i, item)| param(b, &path(at, &i.to_string()), item, place))
                    .collect(),
            )
        }
        Value::Object(table) => Param::Table(
            table
                .iter()
                .map(|(name, item)| (name.clone(), param(b, &path(at, name), item, place)))
                .collect(),
        ),
        Value::Null => Param::Text(Template::text("")),
    }
}

/// A table of headers, checked as far as settings go.
pub(super) fn headers(
    b: &mut Build<'_>,
    at: &[&str],
    table: &BTreeMap<String, String>,
    place: Place<'_>,
) -> Vec<(HeaderName, Template)> {
    let mut out = Vec::new();
    for (name, text) in table {
        let at = path(at, name);
        let header = b.or_note(&at, values::settable(name));
        let template = b.template(&at, text, place);
        if let Some(value) = b.rendered(&template) {
            b.or_blame(&at, text, values::header_value(&value));
        }
        out.extend(header.map(|header| (header, template)));
    }
    out
}

fn tls(b: &mut Build<'_>, at: &[&str], table: &TlsTable) -> Tls {
    let found = Tls {
        ca_file: table.ca_file.clone().map(Into::into),
        ca_only: table.ca_only.unwrap_or(false),
        server_name: table.server_name.clone(),
        client_cert_file: table.client_cert_file.clone().map(Into::into),
        client_key_file: table.client_key_file.clone().map(Into::into),
    };
    for fault in found.problems(b.blind) {
        b.note(&path(at, fault.key), fault.what, fault.hint);
    }
    found
}

fn assertion(
    b: &mut Build<'_>,
    at: &[&str],
    table: Option<&AssertionTable>,
    client_auth: ClientAuth,
    named: bool,
    self_made: bool,
) -> Option<Assertion> {
    let at = &path(at, "assertion");
    let by_auth = matches!(
        client_auth,
        ClientAuth::PrivateKeyJwt | ClientAuth::ClientSecretJwt
    );
    let table = match table {
        Some(table) if by_auth || named || self_made => table,
        Some(_) => {
            let hint = "client_auth = \"private_key_jwt\", or {{ assertion }} in a parameter, header or body".to_owned();
            b.note(at, "is not used by anything", hint);
            return None;
        }
        None if by_auth => &AssertionTable::default(),
        None if named => {
            b.note(
                at,
                "is missing, though a template names it",
                "say how it is signed: assertion = { alg = \"RS256\", key = \"{{ secrets.private_key }}\" }",
            );
            return None;
        }
        None if self_made => {
            b.note(
                at,
                "is missing: without url and with format = \"none\" the assertion is the token",
                "say how it is signed: assertion = { alg = \"RS256\", key = \"{{ secrets.private_key }}\" }, or set url",
            );
            return None;
        }
        None => return None,
    };
    let own = at.get(1).copied().unwrap_or_default();
    let place = Place::Assertion(own);
    let shared = client_auth == ClientAuth::ClientSecretJwt;
    let default = if shared {
        Algorithm::HS256
    } else {
        Algorithm::RS256
    };
    let alg = algorithm(b, &path(at, "alg"), table.alg.as_deref(), default);
    let symmetric = matches!(alg, Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512);
    if by_auth && symmetric != shared {
        b.note(
            &path(at, "alg"),
            "does not fit client_auth: private_key_jwt signs with RS, PS, ES or EdDSA, client_secret_jwt with HS",
            "leave it out for RS256, or HS256 with client_secret_jwt",
        );
    }
    let key = table.key.clone().unwrap_or_else(|| {
        let name = if symmetric {
            "client_secret"
        } else {
            "private_key"
        };
        b.need_secret(&path(at, "key"), name, "signing the assertion");
        format!("{{{{ secrets.{name} }}}}")
    });
    let header = table.header.iter().map(|(name, text)| {
        let at = path(&path(at, "header"), name);
        if name == "alg" {
            b.note(
                &at,
                "is set by the key alg of the assertion",
                "leave it out here: assertion.alg",
            );
        }
        (name.clone(), b.template(&at, text, place))
    });
    let header = header.collect();
    Some(Assertion {
        alg,
        key: b.template(&path(at, "key"), &key, place),
        header,
        claims: params(b, &path(at, "claims"), &table.claims, place),
        lifetime: positive(
            b,
            &path(at, "lifetime"),
            table.lifetime.as_ref(),
            Duration::from_mins(1),
        ),
    })
}

fn algorithm(
    b: &mut Build<'_>,
    at: &[&str],
    source: Option<&str>,
    default: Algorithm,
) -> Algorithm {
    let Some((source, text)) = source.and_then(|source| Some((source, b.fixed(at, source)?)))
    else {
        return default;
    };
    let known = ALGORITHMS.contains(&text.as_str());
    Algorithm::from_str(&text)
        .ok()
        .filter(|_| known)
        .unwrap_or_else(|| {
            let hint = one_of(&text, ALGORITHMS);
            b.blame(
                at,
                source,
                format!("must be one of {}", ALGORITHMS.join(", ")),
                hint,
            );
            default
        })
}

/// The secrets that client authentication takes by their fixed names (RFC 6749 2.3.1, RFC 7523
/// 2.2).
fn need_secrets(
    b: &mut Build<'_>,
    at: &[&str],
    client_auth: ClientAuth,
    assertion: Option<&Assertion>,
) {
    let why = |auth: ClientAuth| {
        AUTHS
            .iter()
            .find(|(_, a)| *a == auth)
            .map(|(word, _)| format!("client_auth = {word:?}"))
            .unwrap_or_default()
    };
    let at = path(at, "client_auth");
    match client_auth {
        ClientAuth::Body | ClientAuth::Basic | ClientAuth::BasicRaw => {
            b.need_secret(&at, "client_id", &why(client_auth));
            b.need_secret(&at, "client_secret", &why(client_auth));
        }
        ClientAuth::PrivateKeyJwt | ClientAuth::ClientSecretJwt => {
            // The client id stands in iss and sub alone.
            let own = assertion
                .is_some_and(|a| a.claims.contains_key("iss") && a.claims.contains_key("sub"));
            if !own {
                b.need_secret(&at, "client_id", &why(client_auth));
            }
        }
        ClientAuth::None => {}
    }
}
