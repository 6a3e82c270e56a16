//! `tokens.NAME` into a `TokenSpec`: what is sent, and to where.

use std::time::Duration;

use http::Method;
use serde_json::Value;

use super::{
    assertion,
    builder::{ProfileBuilder, TemplateSite},
    file::TokenTable,
    lifetime,
    model::{Assertion, ClientAuth, ParamFormat, TokenSpec},
    params::{headers, params},
    response,
    template::Template,
    text::parse_token_url,
};
use crate::{
    document::{KeyPath, one_of},
    tls::Tls,
};

const FORMATS: [(&str, ParamFormat); 4] = [
    ("form", ParamFormat::Form),
    ("json", ParamFormat::Json),
    ("query", ParamFormat::Query),
    ("none", ParamFormat::None),
];

/// Reads one token. Mistakes are noted; what is returned then is not used. `parents` are filled in
/// by the caller from `build.seen`.
pub(super) fn token(
    b: &mut ProfileBuilder<'_>,
    name: &str,
    table: &TokenTable,
    partitioned: bool,
) -> TokenSpec {
    b.seen.clear();
    let tokens = KeyPath::written("tokens");
    let at = tokens.key(name);
    let site = TemplateSite::Request(name);
    let format = b.one_of(
        &at.key("format"),
        table.format.as_deref(),
        ParamFormat::Form,
        &FORMATS,
    );
    // Without parameters there is nowhere to put credentials: the default fits, what is written is
    // checked below.
    let bare = format == ParamFormat::None || table.body.is_some();
    let default_auth = if bare {
        ClientAuth::None
    } else {
        ClientAuth::Body
    };
    let known_auth = b.choice(
        &at.key("client_auth"),
        table.client_auth.as_deref(),
        default_auth,
        &ClientAuth::words(),
    );
    // Of a word that is unknown nothing follows: what else it might need is not asked for.
    let client_auth = known_auth.unwrap_or(ClientAuth::None);
    let allow_plaintext = table.allow_plaintext;

    let url = table
        .url
        .as_deref()
        .map(|url| b.template(&at.key("url"), url, site));
    match &url {
        Some(url) => check_url(b, &at.key("url"), url, allow_plaintext),
        None if format == ParamFormat::None => {}
        None => b.note(
            &at.key("url"),
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
    let grant_type = Some(b.template(&at.key("grant_type"), grant_type, site))
        .filter(|t| !(t.is_plain() && t.source().is_empty()));
    let params = params(b, &at.key("params"), &table.params, site);
    let headers = headers(b, &at.key("headers"), &table.headers, site);
    let body = table
        .body
        .as_deref()
        .map(|body| b.template(&at.key("body"), body, site));
    let method = method(b, &at.key("method"), table.method.as_deref());
    let timeout = b.positive(
        &at.key("timeout"),
        table.timeout.as_ref(),
        Duration::from_secs(10),
    );

    let named = b.seen.contains("assertion") || (known_auth.is_none() && table.assertion.is_some());
    let assertion = assertion::assertion(
        b,
        &at,
        table.assertion.as_ref(),
        client_auth,
        named,
        url.is_none() && format == ParamFormat::None,
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
        tls: tls(b, &at.key("tls"), &table.tls.tls),
        assertion,
        response: response::response(b, &at.key("response"), &table.response),
        lifetime: lifetime::lifetime(b, &at.key("lifetime"), &table.lifetime, partitioned),
        parents: Vec::new(),
    }
}

fn method(b: &mut ProfileBuilder<'_>, at: &KeyPath<'_>, source: Option<&str>) -> Method {
    let Some((source, text)) = source.and_then(|source| Some((source, b.fixed(at, source)?)))
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
                at,
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
fn check_url(
    b: &mut ProfileBuilder<'_>,
    at: &KeyPath<'_>,
    template: &Template,
    allow_plaintext: bool,
) {
    let unset = template
        .names()
        .iter()
        .any(|name| b.settings.get(name).is_some_and(String::is_empty));
    let Some(text) = b.rendered(template).filter(|_| !unset) else {
        return;
    };
    if let Err((what, hint)) = parse_token_url(&text, allow_plaintext) {
        b.blame(at, template.source(), what, hint);
    }
}

/// `format = "none"` and raw bodies take no parameters.
fn check_bare(
    b: &mut ProfileBuilder<'_>,
    at: &KeyPath<'_>,
    table: &TokenTable,
    client_auth: ClientAuth,
) {
    let why = if table.body.is_some() {
        "a raw body"
    } else {
        "format = \"none\""
    };
    if !table.params.is_empty() {
        b.note(
            &at.key("params"),
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
            &at.key("grant_type"),
            format!("cannot be sent together with {why}"),
            "leave it out, or choose another format",
        );
    }
    if table.body.is_some() && table.format.as_deref() == Some("none") {
        b.note(
            &at.key("body"),
            "cannot be sent together with format = \"none\"",
            "leave format out",
        );
    }
    if !client_auth.method().param_names.is_empty() {
        b.note(
            &at.key("client_auth"),
            format!("puts parameters into the request, which {why} does not have"),
            "none, basic or basic_raw",
        );
    }
}

fn check_params(
    b: &mut ProfileBuilder<'_>,
    at: &KeyPath<'_>,
    table: &TokenTable,
    client_auth: ClientAuth,
    format: ParamFormat,
) {
    let ours = client_auth.method().param_names;
    let params = at.key("params");
    for name in table.params.keys() {
        let at = params.key(name);
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
        if format != ParamFormat::Json && nested(value) {
            b.note(
                &params.key(name),
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
            &params.key("resource"),
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

fn tls(b: &mut ProfileBuilder<'_>, at: &KeyPath<'_>, tls: &Tls) -> Tls {
    for fault in tls.problems(b.blind) {
        b.note(&at.key(fault.key), fault.what, fault.hint);
    }
    tls.clone()
}

/// The secrets that client authentication takes by their fixed names (RFC 6749 2.3.1, RFC 7523
/// 2.2).
fn need_secrets(
    b: &mut ProfileBuilder<'_>,
    at: &KeyPath<'_>,
    client_auth: ClientAuth,
    assertion: Option<&Assertion>,
) {
    let method = client_auth.method();
    // The client id stands in iss and sub alone.
    let own = method.assertion_key.is_some()
        && assertion.is_some_and(|a| a.claims.contains_key("iss") && a.claims.contains_key("sub"));
    let why = format!("client_auth = {:?}", method.word);
    for name in method.secrets.iter().filter(|_| !own) {
        b.need_secret(&at.key("client_auth"), name, &why);
    }
}
