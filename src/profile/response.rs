//! `tokens.NAME.response`: where things stand in an answer.

use std::time::Duration;

use jiff::tz::TimeZone;
use serde_json::Value;

use super::{
    builder::ProfileBuilder,
    file::ResponseTable,
    model::{MomentFormat, Response, ValueSource},
    text,
};
use crate::document::KeyPath;

/// `.response`
pub(super) fn response(
    b: &mut ProfileBuilder<'_>,
    at: &KeyPath<'_>,
    table: &ResponseTable,
) -> Response {
    let mut pick = |key: &str, source: Option<&str>, default: Option<&str>| {
        let source = source
            .or(default)
            .filter(|source| !matches!(*source, "off" | ""))?;
        let value = b.fixed(&at.key(key), source)?;
        b.or_blame(&at.key(key), source, text::pick(&value))
    };
    let token = pick(
        "token",
        table.token.as_deref().filter(|text| !text.is_empty()),
        Some("/access_token"),
    );
    let expires_in = pick(
        "expires_in",
        table.expires_in.as_deref(),
        Some("/expires_in"),
    );
    let expires_at = pick("expires_at", table.expires_at.as_deref(), None);
    let vars = at.key("vars");
    let vars = table.vars.iter().filter_map(|(name, source)| {
        let at = vars.key(name);
        b.check_name(&at, name);
        let pick = b.or_note(&at, text::pick(source))?;
        Some((name.clone(), pick))
    });
    let vars = vars.collect();
    let unit = b.one_of(
        &at.key("expires_unit"),
        table.expires_unit.as_deref(),
        Duration::from_secs(1),
        &[
            ("s", Duration::from_secs(1)),
            ("ms", Duration::from_millis(1)),
            ("m", Duration::from_mins(1)),
            ("h", Duration::from_hours(1)),
            ("d", Duration::from_hours(24)),
        ],
    );
    Response {
        // Only after a mistake that has been noted is there none.
        token: token.unwrap_or(ValueSource::Body),
        expires_in,
        expires_unit: unit,
        expires_at,
        expires_at_format: at_format(
            b,
            &at.key("expires_at_format"),
            table.expires_at_format.as_ref(),
        ),
        jwt_exp: b.one_of(
            &at.key("jwt_exp"),
            table.jwt_exp.as_deref(),
            true,
            &[("auto", true), ("off", false)],
        ),
        vars,
    }
}

/// Bytes of a strftime format: each of its letters may ask for 255 columns.
const FORMAT: usize = 256;

fn at_format(b: &mut ProfileBuilder<'_>, at: &KeyPath<'_>, value: Option<&Value>) -> MomentFormat {
    let wrong = "must be \"auto\" or { format = \"%Y-%m-%d %H:%M:%S\", zone = \"Asia/Seoul\" }";
    let text = |key: &str| {
        value
            .and_then(|v| v.get(key))
            .and_then(Value::as_str)
            .map(str::to_owned)
    };
    let (format, zone) = match value {
        None => return MomentFormat::Auto,
        Some(Value::String(word)) if word == "auto" => return MomentFormat::Auto,
        Some(Value::String(format)) => (format.clone(), None),
        Some(Value::Object(table)) => {
            let strange = table.iter().any(|(key, value)| {
                !matches!(key.as_str(), "format" | "zone") || !value.is_string()
            });
            let Some(format) = text("format").filter(|_| !strange) else {
                b.note(at, wrong, "what the vendor documents, such as { format = \"%Y-%m-%d %H:%M:%S\", zone = \"UTC\" }");
                return MomentFormat::Auto;
            };
            (format, text("zone"))
        }
        Some(_) => {
            b.note(at, wrong, "what the vendor documents, such as { format = \"%Y-%m-%d %H:%M:%S\", zone = \"UTC\" }");
            return MomentFormat::Auto;
        }
    };
    // A moment that is written and read back shows whether the format can be used at all.
    let sample = jiff::Timestamp::UNIX_EPOCH.to_zoned(TimeZone::UTC);
    let written = Some(&format)
        .filter(|format| format.len() <= FORMAT)
        .and_then(|format| jiff::fmt::strtime::format(format, &sample).ok());
    if !format.contains('%')
        || written
            .and_then(|text| jiff::fmt::strtime::parse(&format, text).ok())
            .is_none()
    {
        b.note(at, "is not a strftime format", wrong);
    }
    let own_zone = ["%z", "%:z", "%Q", "%:Q", "%s"]
        .iter()
        .any(|zone| format.contains(zone));
    match &zone {
        None if !own_zone => b.note(
            at,
            "says no zone, so the moment is not known",
            "zone = \"UTC\", or %z in the format",
        ),
        Some(zone) if !known_zone(zone) => {
            b.note(
                at,
                "has a zone that is not known",
                "an IANA name such as \"Asia/Seoul\", or an offset such as \"+09:00\"",
            );
        }
        _ => {}
    }
    MomentFormat::Strftime { format, zone }
}

fn known_zone(zone: &str) -> bool {
    TimeZone::get(zone).is_ok()
        || jiff::fmt::strtime::parse("%:z", zone).is_ok()
        || jiff::fmt::strtime::parse("%z", zone).is_ok()
}
