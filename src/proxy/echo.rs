//! What a vendor repeats of a request in its answer's head: tokens that only we placed go no further.

use std::borrow::Cow;

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CONTENT_LOCATION, LOCATION, SET_COOKIE},
};
use percent_encoding::percent_decode_str;
use pingora_error::Result;
use pingora_http::ResponseHeader;

use super::{
    chosen::{Access, Chosen},
    inject::without,
};
use crate::credential::{Presented, Value};

const HIDDEN: &[u8] = b"***";

/// Takes out of an answer's head what repeats a token that was placed in the request.
///
/// # Errors
/// What is left is no header value.
pub fn hide(response: &mut ResponseHeader, chosen: &Chosen) -> Result<()> {
    let Access::Credential { credential, presented, .. } = &chosen.access else { return Ok(()) };
    cookies(response, &credential.placed().cookies)?;
    if !presented.query.is_empty() {
        for name in [LOCATION, CONTENT_LOCATION] {
            query(response, &name, presented)?;
        }
    }
    for name in repeating(&response.headers, presented) {
        let values: Vec<HeaderValue> = response.headers.get_all(&name).iter().map(|v| masked(v, presented)).collect();
        response.remove_header(&name);
        for value in values {
            response.append_header(name.clone(), value)?;
        }
    }
    Ok(())
}

/// The same for trailers.
pub fn hide_in_trailers(trailers: &mut HeaderMap, chosen: &Chosen) {
    let Access::Credential { presented, .. } = &chosen.access else { return };
    for value in trailers.values_mut() {
        if secrets(presented).any(|secret| holds(value, secret)) {
            *value = masked(value, presented);
        }
    }
}

/// A cookie of ours that is set anew would come from the client next time, for all upstreams on this host.
fn cookies(response: &mut ResponseHeader, ours: &[String]) -> Result<()> {
    let is_ours = |value: &HeaderValue| {
        let name = value.as_bytes().split(|b| matches!(b, b'=' | b';')).next().unwrap_or_default().trim_ascii();
        ours.iter().any(|n| n.as_bytes() == name)
    };
    if ours.is_empty() || !response.headers.get_all(SET_COOKIE).iter().any(is_ours) {
        return Ok(());
    }
    let kept: Vec<HeaderValue> = response.headers.get_all(SET_COOKIE).iter().filter(|v| !is_ours(v)).cloned().collect();
    response.remove_header(&SET_COOKIE);
    for value in kept {
        response.append_header(SET_COOKIE, value)?;
    }
    Ok(())
}

/// Parameters of ours with our value; others may well have the same name.
fn query(response: &mut ResponseHeader, name: &HeaderName, presented: &Presented) -> Result<()> {
    let Some(url) = response.headers.get(name).and_then(|v| v.to_str().ok()).filter(|url| url.contains('?')) else { return Ok(()) };
    let ours = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let same = |ready: &HeaderValue| plain(value).as_bytes() == ready.as_bytes();
        presented.query.iter().any(|(n, v)| plain(name) == *n && if let Value::Ready(ready, _) = v { same(ready) } else { true })
    };
    let (before, fragment) = url.split_at(url.find('#').unwrap_or(url.len()));
    let left = without(before, ours);
    if left.len() == before.len() { Ok(()) } else { response.insert_header(name, left + fragment) }
}

fn plain(text: &str) -> Cow<'_, str> {
    percent_decode_str(text).decode_utf8_lossy()
}

/// Names of the fields in which some token of ours stands.
fn repeating(headers: &HeaderMap, presented: &Presented) -> Vec<HeaderName> {
    let mut found = Vec::new();
    for secret in secrets(presented) {
        found.extend(
            headers
                .iter()
                .filter(|(name, value)| holds(value, secret) && !found.contains(*name))
                .map(|(name, _)| name.clone())
                .collect::<Vec<_>>(),
        );
    }
    found
}

/// Tokens and secrets as they were placed.
fn secrets(presented: &Presented) -> impl Iterator<Item = &[u8]> {
    let values = presented.headers.iter().chain(&presented.headers_if_absent).map(|(_, v)| v);
    let values = values.chain(presented.query.iter().chain(&presented.cookies).map(|(_, v)| v));
    values.filter_map(|value| match value {
        Value::Ready(ready, secret) => ready.as_bytes().get(secret.clone()).filter(|word| !word.is_empty()),
        Value::PerRequest(_) => None,
    })
}

/// Most fields are shorter than a token, which settles it.
fn holds(value: &HeaderValue, secret: &[u8]) -> bool {
    value.len() >= secret.len() && value.as_bytes().windows(secret.len()).any(|part| part == secret)
}

fn masked(value: &HeaderValue, presented: &Presented) -> HeaderValue {
    let mut left = value.as_bytes().to_vec();
    for secret in secrets(presented) {
        while let Some(at) = left.windows(secret.len()).position(|part| part == secret) {
            left.splice(at..at + secret.len(), HIDDEN.iter().copied());
        }
    }
    HeaderValue::from_bytes(&left).unwrap_or(HeaderValue::from_static("***"))
}
