//! Reads the token and its life out of an answer (RFC 6749 5.1, and everything vendors do instead).
//! Pure and total.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::{Timestamp, fmt::temporal::DateTimeParser, tz::TimeZone};
use serde_json::Value;
use zeroize::Zeroizing;

use super::{
    classify, json,
    response::{self, ResponseBody, TokenResponse},
    scrubber::Scrubber,
};
use crate::{
    clock::BootInstant,
    profile::model::{ErrorRule, MomentFormat, Response, ValueSource},
    token::{Failure, FailureClass, FailureKind, Issued},
};

/// Longest token, in bytes.
pub const MAX_TOKEN: usize = 16 * 1024;
/// Shortest life that is believed.
const MIN_LIFE: Duration = Duration::from_secs(1);
/// Longest life that is believed, in seconds.
const MAX_LIFE: f64 = 400.0 * 86_400.0;
/// Epoch figures from here on are milliseconds: as seconds they would be in the year 5138.
const MILLISECONDS_FROM: f64 = 1e11;

/// A JWT whose `iat` lies further back than this, in seconds, was not made for this answer, or our
/// clock is wrong.
const OLD: f64 = 300.0;

/// When the request was sent.
#[derive(Debug, Clone, Copy)]
pub struct SendTime {
    /// By the clock that lives are counted on.
    pub sent: BootInstant,
    /// The wall clock at that moment, since the Unix epoch.
    pub wall: Duration,
}

/// What `response` brings: the token named `token`, or why there is none. `scrubber` learns the token,
/// so that nothing repeats it.
///
/// # Errors
/// The [`Failure`] that it is, scrubbed: a refusal or fault of the endpoint by its class; class
/// `retry` where it is not JSON; class `config` where there is no token that may be sent, or one that
/// needs a proof.
pub fn read_issued(
    response: &TokenResponse,
    token: &str,
    spec: &Response,
    rules: &[ErrorRule],
    moment: SendTime,
    scrubber: &mut Scrubber,
) -> Result<Issued, Failure> {
    let found = response::pick_value(response, &spec.token);
    if let Some(Value::String(text)) = &found {
        scrubber.add(text);
    }
    classify::classify_response(response, token, rules, moment.wall, scrubber)?;
    if let (ValueSource::Pointer(_) | ValueSource::Body, ResponseBody::Coded(kind)) =
        (&spec.token, &response.body)
    {
        return Err(Failure {
            class: FailureClass::Retry,
            ..classify::config_failure(response, kind.clone(), scrubber)
        });
    }
    // Where what is no UTF-8 hits the token itself, the answer is no JSON to us (RFC 8259 8.1).
    let garbled = || {
        matches!(&found, Some(Value::String(text)) if text.contains('\u{fffd}'))
            && !response.is_utf8()
    };
    if matches!(spec.token, ValueSource::Pointer(_))
        && matches!(response.body, ResponseBody::Whole(_))
        && (response.json().is_none() || garbled())
    {
        return Err(Failure {
            class: FailureClass::Retry,
            ..classify::config_failure(response, FailureKind::NotJson, scrubber)
        });
    }
    let config = |kind| Err(classify::config_failure(response, kind, scrubber));
    if let Some(kind) = needs_proof(response, &spec.token) {
        return config(FailureKind::NeedsProof(kind));
    }
    let at = response::describe_pick(&spec.token);
    let value = match found {
        Some(Value::String(text)) => Zeroizing::new(text),
        Some(_) => return config(FailureKind::TokenNotText(at)),
        None => return config(FailureKind::NoTokenAt(at)),
    };
    if let Some(fault) = token_fault(&value) {
        return config(FailureKind::TokenUnusable { at, fault });
    }
    let (life, implausible) = plausible_life(response, &value, spec, moment.wall);
    let vars: BTreeMap<String, String> = spec
        .vars
        .iter()
        .filter_map(|(name, at)| Some((name.clone(), response::pick_text(response, at)?)))
        .collect();
    Ok(Issued {
        value: Arc::new(value),
        sent: moment.sent,
        life,
        implausible,
        vars,
    })
}

/// Why a token cannot go into a header: its size, or a character that is not visible ASCII.
#[must_use]
pub fn token_fault(token: &str) -> Option<&'static str> {
    match token {
        "" => Some("is empty"),
        t if t.len() > MAX_TOKEN => Some("is longer than 16 KiB"),
        t if !t.bytes().all(|b| b.is_ascii_graphic()) => {
            Some("has characters that are not visible ASCII")
        }
        _ => None,
    }
}

/// Token types that are worth nothing without a proof of possession (RFC 9449 5,
/// draft-ietf-oauth-v2-http-mac). The type stands at the top, or beside the token.
fn needs_proof(response: &TokenResponse, token: &ValueSource) -> Option<&'static str> {
    let json = response.json()?;
    let beside = match token {
        ValueSource::Pointer(pointer) => pointer
            .rsplit_once('/')
            .and_then(|(parent, _)| json.pointer(parent)),
        ValueSource::Header(_) | ValueSource::Cookie(_) | ValueSource::Body => None,
    };
    let kinds = [Some(json), beside]
        .into_iter()
        .flatten()
        .filter_map(|table| table.get("token_type")?.as_str());
    kinds.map(str::trim).find_map(|said| {
        ["DPoP", "MAC", "PoP", "HTTP-Signature"]
            .into_iter()
            .find(|kind| kind.eq_ignore_ascii_case(said))
    })
}

/// One statement about the life of a token.
enum LifeStatement {
    Nothing,
    Implausible,
    /// Seconds from the moment of sending.
    Plausible(Duration),
}

impl LifeStatement {
    fn seconds(seconds: Option<f64>) -> Self {
        let plausible = seconds
            .filter(|s| s.is_finite() && *s <= MAX_LIFE)
            .and_then(|s| Duration::try_from_secs_f64(s).ok());
        match plausible.filter(|life| *life >= MIN_LIFE) {
            Some(life) => Self::Plausible(life),
            None => Self::Implausible,
        }
    }
}

/// The smallest plausible life, and whether something implausible was said.
///
/// Moments are measured against the answer's own `Date` where it has one: the vendor's clock made
/// both, so that ours may be wrong. A JWT that is over by that clock makes all that the answer says
/// of its life implausible.
fn plausible_life(
    response: &TokenResponse,
    token: &str,
    spec: &Response,
    wall: Duration,
) -> (Option<Duration>, bool) {
    let date = classify::response_date(response).map(|date| date.as_secs_f64());
    let now = date.unwrap_or(wall.as_secs_f64());
    let expires_in = spec
        .expires_in
        .as_ref()
        .and_then(|at| response::pick_value(response, at))
        .map_or(LifeStatement::Nothing, |said| {
            LifeStatement::seconds(read_number(&said).map(|n| n * spec.expires_unit.as_secs_f64()))
        });
    let expires_at = spec
        .expires_at
        .as_ref()
        .and_then(|at| response::pick_value(response, at))
        .map_or(LifeStatement::Nothing, |said| {
            LifeStatement::seconds(read_epoch(&said, &spec.expires_at_format).map(|at| at - now))
        });
    let claims = if spec.jwt_exp {
        JwtTimes::read(token)
    } else {
        None
    };
    if claims.as_ref().is_some_and(|claims| claims.has_ended(date)) {
        return (None, true);
    }
    let [by_claims, by_clock] = claims
        .map_or([LifeStatement::Nothing, LifeStatement::Nothing], |claims| {
            claims.lives(date, wall.as_secs_f64())
        });
    let mut implausible = false;
    let mut least: Option<Duration> = None;
    for said in [expires_in, expires_at, by_claims, by_clock] {
        match said {
            LifeStatement::Nothing => {}
            LifeStatement::Implausible => implausible = true,
            LifeStatement::Plausible(life) => least = Some(least.map_or(life, |l| l.min(life))),
        }
    }
    (least, implausible)
}

/// A number, also one written as a string.
fn read_number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(n) => n.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

/// A moment in seconds since the Unix epoch.
fn read_epoch(value: &Value, format: &MomentFormat) -> Option<f64> {
    match (format, value) {
        (MomentFormat::Auto, _) => match (read_number(value), value) {
            (Some(n), _) => epoch_seconds(n),
            (None, Value::String(text)) => Some(unix_seconds(text.trim().parse().ok()?)),
            (None, _) => None,
        },
        (MomentFormat::Strftime { format, zone }, Value::String(text)) => {
            parse_date(text.trim(), format, zone.as_deref())
        }
        (MomentFormat::Strftime { format, zone }, Value::Number(n)) => {
            parse_date(&n.to_string(), format, zone.as_deref())
        }
        (MomentFormat::Strftime { .. }, _) => None,
    }
}

/// A date in a vendor's own format. Where a clock change makes it mean two moments, the earlier is
/// taken.
fn parse_date(text: &str, format: &str, zone: Option<&str>) -> Option<f64> {
    let parsed = jiff::fmt::strtime::parse(format, text).ok()?;
    let Some(zone) = zone else {
        return Some(unix_seconds(parsed.to_timestamp().ok()?));
    };
    let zone = time_zone(zone)?;
    Some(unix_seconds(
        zone.to_ambiguous_timestamp(parsed.to_datetime().ok()?)
            .earlier()
            .ok()?,
    ))
}

/// An IANA name or an offset such as `+09:00`.
#[must_use]
pub fn time_zone(name: &str) -> Option<TimeZone> {
    match name.trim() {
        "Z" | "z" | "UTC" | "GMT" => Some(TimeZone::UTC),
        other => DateTimeParser::new().parse_time_zone(other).ok(),
    }
}

fn unix_seconds(at: Timestamp) -> f64 {
    at.as_duration().as_secs_f64()
}

/// What a JWT says of its own time (RFC 7519 4.1.4, 4.1.6), in seconds since the Unix epoch.
/// Nothing is verified: the vendor does that.
struct JwtTimes {
    /// `None`: it is no number.
    exp: Option<f64>,
    /// Infinite where it is a number that makes no sense: then the life is implausible.
    iat: Option<f64>,
}

impl JwtTimes {
    /// Those of what looks like a JWT with an `exp`.
    fn read(token: &str) -> Option<Self> {
        let mut parts = token.split('.');
        let (_, payload, _, None) = (parts.next()?, parts.next()?, parts.next()?, parts.next())
        else {
            return None;
        };
        let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok()?);
        let claims = json::read(&bytes)?;
        let claim = |name| claims.get(name).filter(|claim| !claim.is_null());
        let exp = claim("exp")?;
        Some(Self {
            exp: read_number(exp).and_then(epoch_seconds),
            iat: claim("iat")
                .and_then(read_number)
                .map(|n| epoch_seconds(n).unwrap_or(f64::INFINITY)),
        })
    }

    /// It has ended by the answer's own `date`.
    fn has_ended(&self, date: Option<f64>) -> bool {
        self.exp
            .zip(date)
            .is_some_and(|(exp, date)| exp - date < MIN_LIFE.as_secs_f64())
    }

    /// Its life by its own claims, and what is left of it by a clock: by the answer's `date`;
    /// without one by `wall`, ours, but only where no `iat` tells a better life, or an old one
    /// tells that the token was made long ago. Where ours says that it is over, ours may be wrong.
    fn lives(&self, date: Option<f64>, wall: f64) -> [LifeStatement; 2] {
        let Some(exp) = self.exp else {
            return [LifeStatement::Implausible, LifeStatement::Nothing];
        };
        let by_claims = self.iat.map_or(LifeStatement::Nothing, |iat| {
            LifeStatement::seconds(Some(exp - iat))
        });
        let by_clock = match (date, self.iat) {
            (Some(date), _) => LifeStatement::seconds(Some(exp - date)),
            (None, None) => LifeStatement::seconds(Some(exp - wall)),
            (None, Some(iat)) if wall - iat > OLD && exp - wall >= MIN_LIFE.as_secs_f64() => {
                LifeStatement::seconds(Some(exp - wall))
            }
            (None, Some(_)) => LifeStatement::Nothing,
        };
        [by_claims, by_clock]
    }
}

/// A moment in seconds since the Unix epoch that may have been written in milliseconds; `None`: it
/// makes sense as neither.
fn epoch_seconds(epoch: f64) -> Option<f64> {
    let seconds = if epoch >= MILLISECONDS_FROM {
        epoch / 1000.0
    } else {
        epoch
    };
    (seconds < MILLISECONDS_FROM).then_some(seconds)
}

#[cfg(test)]
mod tests;
