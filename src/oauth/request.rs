//! One token request, from a profile's description and the values of this attempt. Pure: nothing is
//! read, nothing is sent.

use std::borrow::Cow;

use http::{
    HeaderMap, HeaderValue, Method,
    header::{ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE},
};
use serde_json::{Map, Value};
use url::Url;
use zeroize::Zeroizing;

use super::scrubber::Scrubber;
use crate::{
    net,
    profile::{
        Scope, Template, TokenSpec,
        model::{Param, ParamFormat},
    },
    secret::Values,
    token::{Failure, FailureClass, FailureKind},
};

/// A token request, ready to be sent.
pub struct TokenRequest {
    /// POST, unless the profile says otherwise.
    pub method: Method,
    /// With the parameters in its query where the profile wants them there: it may hold secrets.
    pub url: Url,
    /// What the profile and the client authentication put there is marked sensitive.
    pub headers: HeaderMap,
    /// The form, JSON or raw text; `None`: no content.
    pub body: Option<Zeroizing<Vec<u8>>>,
}

/// Why a request cannot be made. Nothing was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestError {
    /// In words, without values.
    pub why: String,
    /// It may heal by itself: the clock is set sooner or later.
    pub retryable: bool,
}

impl RequestError {
    /// One that only another configuration or secret mends.
    #[must_use]
    pub fn new(why: impl Into<String>) -> Self {
        Self {
            why: why.into(),
            retryable: false,
        }
    }
    /// One for a clock that has not been set yet.
    #[must_use]
    pub fn unset_clock(why: &str) -> Self {
        Self {
            why: why.into(),
            retryable: true,
        }
    }
    /// As a failed attempt, scrubbed.
    #[must_use]
    pub fn to_failure(&self, scrubber: &Scrubber) -> Failure {
        let class = if self.retryable {
            FailureClass::Retry
        } else {
            FailureClass::Config
        };
        Failure::own(
            class,
            FailureKind::Unsendable(scrubber.scrub_text(&self.why)),
        )
    }
}

/// Builds the request. `scope` holds the signed assertion where the profile has one.
///
/// # Errors
/// [`RequestError`], in words without values: a template that does not render, a key that signs
/// nothing, a parameter that its format cannot hold, or a clock that is not set.
pub fn build_request(
    spec: &TokenSpec,
    url: Url,
    scope: &Scope<'_>,
) -> Result<TokenRequest, RequestError> {
    let none = Values::default();
    let secrets = scope.secrets.unwrap_or(&none);
    let mut url = url;
    let mut headers = HeaderMap::new();
    let mut given = Vec::new();
    for (name, template) in &spec.headers {
        let text = render_template(template, scope)?;
        given.push(name);
        if !text.is_empty() {
            headers.insert(
                name,
                sensitive_header(&text)
                    .map_err(|why| RequestError::new(format!("headers.{name}: {why}")))?,
            );
        }
    }
    let method = spec.client_auth.method();
    if let Some(own) = (method.authorization)(secrets).map_err(RequestError::new)? {
        if given.contains(&&AUTHORIZATION) {
            return Err(RequestError::new(
                "headers.authorization: client_auth puts its own there (RFC 6749 2.3: one method per request)",
            ));
        }
        headers.insert(
            AUTHORIZATION,
            sensitive_header(&own).map_err(RequestError::new)?,
        );
    }
    if !given.contains(&&ACCEPT) {
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    }
    let raw = spec
        .body
        .as_ref()
        .map(|t| render_template(t, scope))
        .transpose()?;
    let (kind, body) = match (spec.format, raw) {
        (ParamFormat::Form, Some(raw)) => (
            Some("application/x-www-form-urlencoded"),
            Some(wiped_bytes(&raw)),
        ),
        (ParamFormat::Json, Some(raw)) => (Some("application/json"), Some(wiped_bytes(&raw))),
        (ParamFormat::Query | ParamFormat::None, Some(raw)) => {
            if spec.format == ParamFormat::Query {
                append_query(
                    &mut url,
                    &text_pairs(&collect_params(spec, secrets, scope)?)?,
                )?;
            }
            (None, Some(wiped_bytes(&raw)))
        }
        (ParamFormat::Form, None) => (
            Some("application/x-www-form-urlencoded"),
            Some(wiped_bytes(&encode_form(&text_pairs(&collect_params(
                spec, secrets, scope,
            )?)?))),
        ),
        (ParamFormat::Json, None) => {
            let table: Map<String, Value> = collect_params(spec, secrets, scope)?
                .into_iter()
                .map(|(k, v)| (k.into_owned(), v))
                .collect();
            (
                Some("application/json"),
                Some(wiped_bytes(&Zeroizing::new(
                    Value::Object(table).to_string(),
                ))),
            )
        }
        (ParamFormat::Query, None) => {
            append_query(
                &mut url,
                &text_pairs(&collect_params(spec, secrets, scope)?)?,
            )?;
            (None, None)
        }
        (ParamFormat::None, None) => (None, None),
    };
    if let Some(kind) = kind.filter(|_| !given.contains(&&CONTENT_TYPE)) {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    }
    // RFC 9110 8.6: vendors answer 411 where a method that expects content says nothing of it.
    if body.as_ref().is_none_or(|body| body.is_empty())
        && matches!(spec.method, Method::POST | Method::PUT | Method::PATCH)
    {
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    Ok(TokenRequest {
        method: spec.method.clone(),
        url,
        headers,
        body,
    })
}

/// The token URL: https, or http to ourselves or where the profile allows plaintext (RFC 6749 3.2);
/// without user info and fragment.
///
/// # Errors
/// [`RequestError`]: the template does not render, or what it gives may not be sent to (no URL, no
/// https where that is a must).
pub fn render_token_url(spec: &TokenSpec, scope: &Scope<'_>) -> Result<Option<Url>, RequestError> {
    let Some(template) = &spec.url else {
        return Ok(None);
    };
    let text = render_template(template, scope)?;
    let url = Url::parse(&text).map_err(|e| RequestError::new(format!("url: {e}")))?;
    if url.host().is_none() {
        return Err(RequestError::new("url: no host"));
    }
    match url.scheme() {
        "https" => {}
        "http" if net::is_own_url(&url) || spec.allow_plaintext => {}
        "http" => {
            return Err(RequestError::new(
                "url: http would show the secret to the network; use https, or allow_plaintext = true",
            ));
        }
        other => {
            return Err(RequestError::new(format!(
                "url: the scheme {other} is not http or https"
            )));
        }
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(RequestError::new(
            "url: user info does not belong into a URL; use client_auth = \"basic\"",
        ));
    }
    if url.fragment().is_some() {
        return Err(RequestError::new(
            "url: a token endpoint has no fragment (RFC 6749 3.2)",
        ));
    }
    Ok(Some(url))
}

/// # Errors
/// [`RequestError`]: the template's own error, which says nothing of values.
pub fn render_template(
    template: &Template,
    scope: &Scope<'_>,
) -> Result<Zeroizing<String>, RequestError> {
    template
        .render(scope)
        .map_err(|e| RequestError::new(e.to_string()))
}

/// A parameter as JSON; nested values keep their types.
///
/// # Errors
/// [`RequestError`]: a template in it does not render; the error says nothing of values.
pub fn render_param(param: &Param, scope: &Scope<'_>) -> Result<Value, RequestError> {
    Ok(match param {
        Param::Text(template) => Value::String(render_template(template, scope)?.to_string()),
        Param::Bool(b) => Value::Bool(*b),
        Param::Number(n) => Value::Number(n.clone()),
        Param::List(list) => Value::Array(
            list.iter()
                .map(|p| render_param(p, scope))
                .collect::<Result<_, _>>()?,
        ),
        Param::Table(table) => Value::Object(
            table
                .iter()
                .map(|(k, p)| Ok((k.clone(), render_param(p, scope)?)))
                .collect::<Result<_, RequestError>>()?,
        ),
    })
}

type NamedParam<'a> = (Cow<'a, str>, Value);

/// All parameters, ours first. What the profile names itself is not sent a second time; what
/// renders empty is not sent at all (RFC 6749 3.2).
fn collect_params<'a>(
    spec: &'a TokenSpec,
    secrets: &Values,
    scope: &Scope<'_>,
) -> Result<Vec<NamedParam<'a>>, RequestError> {
    let mut ours: Vec<(&str, String)> = Vec::new();
    if let Some(grant) = &spec.grant_type {
        ours.push(("grant_type", render_template(grant, scope)?.to_string()));
    }
    let own = (spec.client_auth.method().params)(secrets, scope.assertion);
    ours.extend(own.map_err(RequestError::new)?);
    let ours = ours
        .into_iter()
        .filter(|(name, _)| !spec.params.contains_key(*name))
        .map(|(name, value)| (name.into(), Value::String(value)));
    let mut all: Vec<NamedParam<'a>> = ours.collect();
    for (name, param) in &spec.params {
        all.push((name.as_str().into(), render_param(param, scope)?));
    }
    all.retain(|(_, value)| !matches!(value, Value::String(text) if text.is_empty()));
    Ok(all)
}

/// Parameters as text, for forms and queries; a list repeats its name.
fn text_pairs<'a>(
    params: &'a [NamedParam<'_>],
) -> Result<Vec<(&'a str, Cow<'a, str>)>, RequestError> {
    fn text<'v>(name: &str, value: &'v Value) -> Result<Cow<'v, str>, RequestError> {
        match value {
            Value::String(text) => Ok(text.into()),
            Value::Bool(_) | Value::Number(_) => Ok(value.to_string().into()),
            _ => Err(RequestError::new(format!(
                "params.{name}: only format = \"json\" can send a table or a list in a list"
            ))),
        }
    }
    let mut pairs = Vec::new();
    for (name, value) in params {
        match value {
            Value::Array(list) => {
                for item in list {
                    pairs.push((name.as_ref(), text(name, item)?));
                }
            }
            single => pairs.push((name.as_ref(), text(name, single)?)),
        }
    }
    pairs.retain(|(_, text)| !text.is_empty());
    Ok(pairs)
}

fn encode_form(pairs: &[(&str, Cow<'_, str>)]) -> Zeroizing<String> {
    Zeroizing::new(
        form_urlencoded::Serializer::new(String::new())
            .extend_pairs(pairs)
            .finish(),
    )
}

fn append_query(url: &mut Url, pairs: &[(&str, Cow<'_, str>)]) -> Result<(), RequestError> {
    if let Some((twice, _)) = url
        .query_pairs()
        .find(|(name, _)| pairs.iter().any(|(ours, _)| ours == name))
    {
        return Err(RequestError::new(format!(
            "params.{twice}: the url has it already, and no parameter may be sent twice (RFC 6749 3.2)"
        )));
    }
    if !pairs.is_empty() {
        url.query_pairs_mut().extend_pairs(pairs);
    }
    Ok(())
}

fn sensitive_header(text: &str) -> Result<HeaderValue, &'static str> {
    if !text.bytes().all(|b| b.is_ascii_graphic() || b == b' ') {
        return Err("it holds a line break or another character that is not visible ASCII");
    }
    let mut value = HeaderValue::from_str(text).map_err(|_| "it cannot be a header value")?;
    value.set_sensitive(true);
    Ok(value)
}

fn wiped_bytes(text: &str) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(text.as_bytes().to_vec())
}

/// The secrets a request really uses, by name: what the guard counts against.
#[must_use]
pub fn used_secrets(spec: &TokenSpec) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    let mut templates: Vec<&Template> = Vec::new();
    templates.extend(spec.url.iter().chain(&spec.grant_type).chain(&spec.body));
    templates.extend(spec.headers.iter().map(|(_, t)| t));
    if sends_params(spec) {
        spec.params
            .values()
            .for_each(|p| collect_templates(p, &mut templates));
    }
    if let Some(assertion) = &spec.assertion {
        templates.push(&assertion.key);
        templates.extend(assertion.header.values());
        assertion
            .claims
            .values()
            .for_each(|p| collect_templates(p, &mut templates));
    }
    for template in templates {
        names.extend(
            template
                .names()
                .iter()
                .filter_map(|n| n.strip_prefix("secrets.")),
        );
    }
    names.extend(implied_secrets(spec));
    names.sort_unstable();
    names.dedup();
    names
}

/// A raw body stands in the place of the parameters, except where these go into the URL.
fn sends_params(spec: &TokenSpec) -> bool {
    match spec.format {
        ParamFormat::Form | ParamFormat::Json => spec.body.is_none(),
        ParamFormat::Query => true,
        ParamFormat::None => false,
    }
}

/// Secrets that client authentication sends without being told.
fn implied_secrets(spec: &TokenSpec) -> impl Iterator<Item = &str> {
    let method = spec.client_auth.method();
    method.secrets.iter().copied().filter(move |name| {
        !method.param_names.contains(name)
            || (sends_params(spec) && !spec.params.contains_key(*name))
    })
}

fn collect_templates<'a>(param: &'a Param, into: &mut Vec<&'a Template>) {
    match param {
        Param::Text(template) => into.push(template),
        Param::List(list) => list.iter().for_each(|p| collect_templates(p, into)),
        Param::Table(table) => table.values().for_each(|p| collect_templates(p, into)),
        Param::Bool(_) | Param::Number(_) => {}
    }
}

#[cfg(test)]
mod tests;
