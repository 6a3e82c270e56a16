//! What a profile says of answers: where the token stands, how long it lives, what errors mean, how
//! often to ask.

use std::time::Duration;

use jiff::tz::TimeZone;
use serde_json::Value;

use super::{
    model::{At, AtFormat, Pick, Response, Rule, Test, Then},
    names::Build,
    table::{ErrorTable, GuardTable, LifetimeTable, ResponseTable, Span},
    token::{duration, path, positive},
    values::{self, NEVER},
};
use crate::{
    problem::known,
    token::{Hold, Lifetime, LockoutPolicy, Rate, RefreshMode, Rotation, schedule::LONGEST},
};

/// `.response`
pub(super) fn response(b: &mut Build<'_>, at: &[&str], table: &ResponseTable) -> Response {
    let mut pick = |key: &str, text: Option<&str>, default: Option<&str>| {
        let text = text
            .or(default)
            .filter(|text| !matches!(*text, "off" | ""))?;
        let value = b.fixed(&path(at, key), text)?;
        b.or_blame(&path(at, key), text, values::pick(&value))
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
    let vars = table.vars.iter().filter_map(|(name, text)| {
        let at = path(&path(at, "vars"), name);
        if !values::identifier(name) {
            b.note(
                &at,
                "is no name a template can use (letters, digits, _)",
                name.replace(['-', '.', ' '], "_"),
            );
        }
        let pick = b.or_note(&at, values::pick(text))?;
        Some((name.clone(), pick))
    });
    let vars = vars.collect();
    let unit = b.one_of(
        &path(at, "expires_unit"),
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
        token: token.unwrap_or(Pick::Body),
        expires_in,
        expires_unit: unit,
        expires_at,
        expires_at_format: at_format(
            b,
            &path(at, "expires_at_format"),
            table.expires_at_format.as_ref(),
        ),
        jwt_exp: b.one_of(
            &path(at, "jwt_exp"),
            table.jwt_exp.as_deref(),
            true,
            &[("auto", true), ("off", false)],
        ),
        vars,
    }
}

/// Bytes of a strftime format: each of its letters may ask for 255 columns.
const FORMAT: usize = 256;

fn at_format(b: &mut Build<'_>, at: &[&str], value: Option<&Value>) -> AtFormat {
    let wrong = "must be \"auto\" or { format = \"%Y-%m-%d %H:%M:%S\", zone = \"Asia/Seoul\" }";
    let text = |key: &str| {
        value
            .and_then(|v| v.get(key))
            .and_then(Value::as_str)
            .map(str::to_owned)
    };
    let (format, zone) = match value {
        None => return AtFormat::Auto,
        Some(Value::String(word)) if word == "auto" => return AtFormat::Auto,
        Some(Value::String(format)) => (format.clone(), None),
        Some(Value::Object(table)) => {
            let strange = table.iter().any(|(key, value)| {
                !matches!(key.as_str(), "format" | "zone") || !value.is_string()
            });
            let Some(format) = text("format").filter(|_| !strange) else {
                b.note(at, wrong, "what the vendor documents, such as { format = \"%Y-%m-%d %H:%M:%S\", zone = \"UTC\" }");
                return AtFormat::Auto;
            };
            (format, text("zone"))
        }
        Some(_) => {
            b.note(at, wrong, "what the vendor documents, such as { format = \"%Y-%m-%d %H:%M:%S\", zone = \"UTC\" }");
            return AtFormat::Auto;
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
    AtFormat::Strftime { format, zone }
}

fn known_zone(zone: &str) -> bool {
    TimeZone::get(zone).is_ok()
        || jiff::fmt::strtime::parse("%:z", zone).is_ok()
        || jiff::fmt::strtime::parse("%z", zone).is_ok()
}

/// `.lifetime`
pub(super) fn lifetime(
    b: &mut Build<'_>,
    at: &[&str],
    table: &LifetimeTable,
    partitioned: bool,
) -> Lifetime {
    let mut span = |key: &str, span: Option<&Span>, word: &str| {
        span.filter(|span| span.0 != word)
            .and_then(|span| duration(b, &path(at, key), span))
    };
    let cap = span("cap", table.cap.as_ref(), "off");
    let idle = span("idle", table.idle.as_ref(), "off");
    let refresh_before = span("refresh_before", table.refresh_before.as_ref(), "auto");
    let grace = span("grace", table.grace.as_ref(), "off").unwrap_or_default();
    let min_remaining =
        span("min_remaining", table.min_remaining.as_ref(), "off").unwrap_or_default();
    let off = table
        .rest_after
        .as_ref()
        .is_some_and(|span| span.0 == "off");
    let rest_after = table.rest_after.as_ref().filter(|_| !off);
    for (key, value) in [("cap", cap), ("idle", idle)] {
        if value.is_some_and(|d| d.is_zero()) {
            b.note(
                &path(at, key),
                "must be longer than nothing",
                "\"off\" for none",
            );
        }
    }
    let default = positive(
        b,
        &path(at, "default"),
        table.default.as_ref(),
        Duration::from_mins(5),
    );
    if default > LONGEST
        && let Some(written) = &table.default
    {
        let hint = "leave it out for 5m, or name a life that fits the vendor's tokens".to_owned();
        b.blame(
            &path(at, "default"),
            &written.0,
            "is longer than 400 days, which no token is believed to live",
            hint,
        );
    }
    let usual = if partitioned {
        RefreshMode::Lazy
    } else {
        RefreshMode::Ahead
    };
    Lifetime {
        default,
        cap,
        idle,
        refresh: b.one_of(
            &path(at, "refresh"),
            table.refresh.as_deref(),
            usual,
            &[("ahead", RefreshMode::Ahead), ("lazy", RefreshMode::Lazy)],
        ),
        refresh_before,
        rotation: b.one_of(
            &path(at, "rotation"),
            table.rotation.as_deref(),
            Rotation::Overlap,
            &[
                ("overlap", Rotation::Overlap),
                ("replaces", Rotation::Replaces),
            ],
        ),
        grace,
        rest_after: positive(
            b,
            &path(at, "rest_after"),
            rest_after,
            if off { NEVER } else { Duration::from_hours(1) },
        ),
        min_remaining,
    }
}

/// `guard`: the limits, and how many may wait.
pub(super) fn guard(b: &mut Build<'_>, table: &GuardTable) -> (LockoutPolicy, usize) {
    let rate = match &table.rate {
        None => vec![Rate {
            n: 120,
            per: Duration::from_mins(1),
        }],
        Some(list) => {
            let rates = list.iter().enumerate();
            rates
                .filter_map(|(i, text)| {
                    b.or_note(&["guard", "rate", &i.to_string()], values::rate(text))
                })
                .collect()
        }
    };
    let hold = match &table.hold {
        Some(span) if span.0 == "until_secret_changes" => Hold::UntilSecretChanges,
        span => Hold::For(positive(
            b,
            &["guard", "hold"],
            span.as_ref(),
            Duration::from_mins(1),
        )),
    };
    let mut count = |key: &str, value: Option<u64>, default: u32| match value.map(u32::try_from) {
        None => default,
        Some(Ok(n)) if n > 0 => n,
        Some(_) => {
            b.note(
                &["guard", key],
                "must be from 1 to 4294967295",
                "leave it out for the default",
            );
            default
        }
    };
    let max_rejections = count("max_rejections", table.max_rejections, 2);
    let max_waiters = count("max_waiters", table.max_waiters, 10_000);
    let account_rejections = match &table.account_rejections {
        None => None,
        Some(Value::String(word)) if word == "off" => None,
        Some(value) => value
            .as_u64()
            .and_then(|n| u32::try_from(n).ok())
            .filter(|n| *n > 0)
            .or_else(|| {
                let hint =
                    "one less than the wrong attempts after which the vendor locks the account";
                b.note(
                    &["guard", "account_rejections"],
                    "must be from 1 to 4294967295, or \"off\"",
                    hint,
                );
                None
            }),
    };
    (
        LockoutPolicy {
            rate,
            max_rejections,
            hold,
            account_rejections,
        },
        usize::try_from(max_waiters).unwrap_or(usize::MAX),
    )
}

/// `errors`, in their order.
pub(super) fn errors(b: &mut Build<'_>, tables: &[ErrorTable]) -> Vec<Rule> {
    tables
        .iter()
        .enumerate()
        .map(|(i, table)| rule(b, &["errors", &i.to_string()], table))
        .collect()
}

fn rule(b: &mut Build<'_>, at: &[&str], table: &ErrorTable) -> Rule {
    let key = |key| path(at, key);
    for (name, value) in [("at", &table.at), ("then", &table.then)] {
        if value.is_none() {
            b.note(
                &key(name),
                "is missing",
                if name == "at" {
                    "at = \"token\" (answers of the token endpoint) or \"api\" (the upstream's)"
                } else {
                    "what the answer means, such as then = \"rejected\" or \"stale_token\""
                },
            );
        }
    }
    let side = b.one_of(
        &key("at"),
        table.at.as_deref(),
        At::Token,
        &[("token", At::Token), ("api", At::Api)],
    );
    let words: &[(&str, Then)] = match side {
        At::Token => &[
            ("ok", Then::Ok),
            ("retry", Then::Retry),
            ("throttled", Then::Throttled),
            ("rejected", Then::Rejected),
            ("config", Then::Config),
        ],
        At::Api => &[("stale_token", Then::StaleToken), ("pass", Then::Pass)],
    };
    let then = b.one_of(
        &key("then"),
        table.then.as_deref(),
        if side == At::Api {
            Then::Pass
        } else {
            Then::Config
        },
        words,
    );
    if let Some(token) = table
        .token
        .as_ref()
        .filter(|token| !b.tokens.contains(token))
    {
        let hint = known(token, b.tokens.iter().map(String::as_str));
        b.note(&key("token"), "names an unknown token", hint);
    }
    let lists = [
        ("status", table.status.as_ref().and_then(Value::as_array)),
        ("in", table.r#in.as_ref()),
        ("not_in", table.not_in.as_ref()),
    ];
    for (name, _) in lists
        .into_iter()
        .filter(|(_, list)| list.is_some_and(Vec::is_empty))
    {
        b.note(
            &key(name),
            "is an empty list",
            "name at least one value, or leave the key out",
        );
    }
    let status = match &table.status {
        None => Vec::new(),
        Some(Value::Array(list)) => list
            .iter()
            .enumerate()
            .filter_map(|(i, value)| {
                b.or_note(&path(&key("status"), &i.to_string()), values::status(value))
            })
            .collect(),
        Some(value) => b
            .or_note(&key("status"), values::status(value))
            .into_iter()
            .collect(),
    };
    let pick = table
        .path
        .as_deref()
        .and_then(|text| b.or_note(&key("path"), values::pick(text)));
    let test = match (&table.r#in, &table.not_in) {
        (Some(_), Some(_)) => {
            b.note(
                &key("not_in"),
                "cannot be used together with in",
                "write two rules",
            );
            None
        }
        (Some(list), None) => Some(Test::In(texts(b, &key("in"), list))),
        (None, Some(list)) => Some(Test::NotIn(texts(b, &key("not_in"), list))),
        (None, None) => None,
    };
    match (&table.path, &test) {
        (Some(_), None) => b.note(
            &key("path"),
            "needs in or not_in to compare with",
            "in = [\"invalid_client\"], or not_in = [\"0\"]",
        ),
        (None, Some(_)) => b.note(
            &key("path"),
            "is missing: in and not_in compare what stands there",
            "where in the answer to look: path = \"/error\", \"header:X-Error\" or \"body\"",
        ),
        _ => {}
    }
    if side == At::Api {
        if table.path.is_some() {
            b.note(
                &key("path"),
                "cannot be used with at = \"api\": bodies of API answers are not looked into",
                "leave path, in and not_in out: status decides",
            );
        }
        if table.hold.is_some() {
            b.note(
                &key("hold"),
                "can be used with at = \"token\" only",
                "leave it out: a stale token is renewed by the rules of its own",
            );
        }
        if table.json.is_some() {
            b.note(
                &key("json"),
                "can be used with at = \"token\" only",
                "leave it out: status decides",
            );
        }
        if status.is_empty() && table.status.is_none() {
            b.note(
                &key("status"),
                "is missing: without it the rule would hit every answer",
                "status = 403, or a list such as [401, \"5xx\"]",
            );
        }
    }
    // Good tokens come with answers too: what hits them all would refuse them all, and latch the
    // credential.
    if side == At::Token
        && table.then.is_some()
        && then != Then::Ok
        && table.status.is_none()
        && table.path.is_none()
    {
        let hint =
            "say which answers are meant: status = [400, \"5xx\"], or path and in".to_owned();
        b.note(
            &key("status"),
            "is missing: without status and path the rule would hit every answer, those with a good token included",
            hint,
        );
    }
    let hold = table
        .hold
        .as_ref()
        .and_then(|span| duration(b, &key("hold"), span));
    Rule {
        at: side,
        token: table.token.as_deref().map(Into::into),
        status,
        json: table.json,
        path: pick,
        test,
        then,
        hold,
    }
}

/// Compared as text, so numbers and booleans become what they would be in JSON.
fn texts(b: &mut Build<'_>, at: &[&str], list: &[Value]) -> Vec<String> {
    let items = list
        .iter()
        .enumerate()
        .filter_map(|(i, value)| match value {
            Value::String(text) => Some(text.clone()),
            Value::Number(n) => Some(n.to_string()),
            Value::Bool(yes) => Some(yes.to_string()),
            _ => {
                b.note(
                    &path(at, &i.to_string()),
                    "must be text, a number, true or false",
                    "write the value as it stands in the answer, in quotes",
                );
                None
            }
        });
    items.collect()
}
