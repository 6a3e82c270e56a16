//! What a vendor repeats of a request in its answer's head: tokens that only we placed go no
//! further.

use std::borrow::Cow;

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{
        CONNECTION, CONTENT_LENGTH, CONTENT_LOCATION, LOCATION, SET_COOKIE, TRAILER,
        TRANSFER_ENCODING, UPGRADE,
    },
};
use percent_encoding::percent_decode_str;
use pingora_error::Result;
use pingora_http::ResponseHeader;

use super::{
    chosen::{Access, Chosen},
    inject::without,
};
use crate::{
    credential::{InjectedValue, Injection},
    profile::model::InjectPlace,
    redact::{HIDDEN, Redactor},
};

/// What frames a message says nothing but numbers and names of the protocol; changed, it would say
/// something else.
const FRAMING: [HeaderName; 5] = [
    CONNECTION,
    CONTENT_LENGTH,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Takes out of an answer's head, an interim one's too, what repeats tokens, their variables, and
/// secrets of the request's credential.
///
/// # Errors
/// What is left is no header value.
pub fn hide(response: &mut ResponseHeader, chosen: &Chosen) -> Result<()> {
    let Access::Credential {
        credential,
        presented,
        ..
    } = &chosen.access
    else {
        return Ok(());
    };
    cookies(response, &credential.injected_names().cookies)?;
    if !credential.injected_names().query.is_empty() {
        for name in [LOCATION, CONTENT_LOCATION] {
            query(response, &name, presented)?;
        }
    }
    let made = Redactor::new(chosen.made.iter().cloned());
    for redactor in [&presented.redactor, &made]
        .into_iter()
        .filter(|redactor| !redactor.is_empty())
    {
        reason(response, redactor)?;
        fields(response, redactor)?;
    }
    Ok(())
}

/// Takes out of trailers what [`hide`] takes out of a head.
pub fn hide_in_trailers(trailers: &mut HeaderMap, chosen: &Chosen) {
    let Access::Credential { presented, .. } = &chosen.access else {
        return;
    };
    let made = Redactor::new(chosen.made.iter().cloned());
    for redactor in [&presented.redactor, &made]
        .into_iter()
        .filter(|redactor| !redactor.is_empty())
    {
        for value in trailers.values_mut() {
            if let Some(new) = redactor.hide(value.as_bytes()) {
                *value = text(&new);
            }
        }
        let named =
            |name: &HeaderName| Some((name.clone(), redactor.hide_name(name.as_str().as_bytes())?));
        for (old, new) in trailers.keys().filter_map(named).collect::<Vec<_>>() {
            let values: Vec<HeaderValue> = trailers.get_all(&old).iter().cloned().collect();
            trailers.remove(&old);
            if let Ok(new) = HeaderName::from_bytes(&new) {
                for value in values {
                    trailers.append(&new, value);
                }
            }
        }
    }
}

fn reason(response: &mut ResponseHeader, redactor: &Redactor) -> Result<()> {
    let Some(new) = response
        .get_reason_phrase()
        .and_then(|phrase| redactor.hide(phrase.as_bytes()))
    else {
        return Ok(());
    };
    response.set_reason_phrase(Some(&String::from_utf8_lossy(&new)))
}

fn fields(response: &mut ResponseHeader, redactor: &Redactor) -> Result<()> {
    let repeats = |(name, value): (&HeaderName, &HeaderValue)| {
        let found = !FRAMING.contains(name)
            && (redactor.hide(value.as_bytes()).is_some()
                || redactor.hide_name(name.as_str().as_bytes()).is_some());
        found.then(|| name.clone())
    };
    let mut found: Vec<HeaderName> = response.headers.iter().filter_map(repeats).collect();
    found.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
    found.dedup();
    for name in found {
        let new: Vec<HeaderValue> = response
            .headers
            .get_all(&name)
            .iter()
            .map(|value| {
                redactor
                    .hide(value.as_bytes())
                    .map_or_else(|| value.clone(), |new| text(&new))
            })
            .collect();
        response.remove_header(&name);
        let name = match redactor.hide_name(name.as_str().as_bytes()) {
            None => name,
            // What is left is no name: the field goes.
            Some(new) => match HeaderName::from_bytes(&new) {
                Ok(new) => new,
                Err(_) => continue,
            },
        };
        for value in new {
            response.append_header(name.clone(), value)?;
        }
    }
    Ok(())
}

/// What was a value stays one without some of its bytes.
fn text(bytes: &[u8]) -> HeaderValue {
    HeaderValue::from_bytes(bytes).unwrap_or(HeaderValue::from_static(HIDDEN))
}

/// A cookie of ours that is set anew would come from the client next time, for all upstreams on
/// this host.
fn cookies(response: &mut ResponseHeader, ours: &[String]) -> Result<()> {
    let is_ours = |value: &HeaderValue| {
        let name = value
            .as_bytes()
            .split(|b| matches!(b, b'=' | b';'))
            .next()
            .unwrap_or_default()
            .trim_ascii();
        ours.iter().any(|n| n.as_bytes() == name)
    };
    if ours.is_empty() || !response.headers.get_all(SET_COOKIE).iter().any(is_ours) {
        return Ok(());
    }
    let kept: Vec<HeaderValue> = response
        .headers
        .get_all(SET_COOKIE)
        .iter()
        .filter(|v| !is_ours(v))
        .cloned()
        .collect();
    response.remove_header(&SET_COOKIE);
    for value in kept {
        response.append_header(SET_COOKIE, value)?;
    }
    Ok(())
}

/// Parameters of ours with our value; others may well have the same name.
fn query(response: &mut ResponseHeader, name: &HeaderName, presented: &Injection) -> Result<()> {
    let Some(url) = response
        .headers
        .get(name)
        .and_then(|v| v.to_str().ok())
        .filter(|url| url.contains('?'))
    else {
        return Ok(());
    };
    let ours = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let same = |ready: &HeaderValue| plain(value).as_bytes() == ready.as_bytes();
        presented.values.iter().any(|(place, value)| match place {
            InjectPlace::Query(ours) => {
                plain(name) == *ours
                    && match value {
                        InjectedValue::Ready(ready) => same(ready),
                        InjectedValue::PerRequest(_) => true,
                    }
            }
            InjectPlace::Header(_) | InjectPlace::HeaderIfAbsent(_) | InjectPlace::Cookie(_) => {
                false
            }
        })
    };
    let (before, fragment) = url.split_at(url.find('#').unwrap_or(url.len()));
    let left = without(before, ours);
    if left.len() == before.len() {
        Ok(())
    } else {
        response.insert_header(name, left + fragment)
    }
}

fn plain(text: &str) -> Cow<'_, str> {
    percent_decode_str(text).decode_utf8_lossy()
}
