//! `errors`: what answers mean.

use serde_json::Value;

use super::{
    builder::ProfileBuilder,
    file::ErrorTable,
    model::{ErrorRule, RuleMeaning, RuleSide, RuleTest},
    text,
};
use crate::document::{KeyPath, known};

/// `errors`, in their order.
pub(super) fn errors(b: &mut ProfileBuilder<'_>, tables: &[ErrorTable]) -> Vec<ErrorRule> {
    tables
        .iter()
        .enumerate()
        .map(|(i, table)| rule(b, &KeyPath::written("errors").index(i), table))
        .collect()
}

fn rule(b: &mut ProfileBuilder<'_>, at: &KeyPath<'_>, table: &ErrorTable) -> ErrorRule {
    let key = |name| at.key(name);
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
        RuleSide::Token,
        &[("token", RuleSide::Token), ("api", RuleSide::Api)],
    );
    let words: &[(&str, RuleMeaning)] = match side {
        RuleSide::Token => &[
            ("ok", RuleMeaning::Ok),
            ("retry", RuleMeaning::Retry),
            ("throttled", RuleMeaning::Throttled),
            ("rejected", RuleMeaning::Rejected),
            ("config", RuleMeaning::Config),
        ],
        RuleSide::Api => &[
            ("stale_token", RuleMeaning::StaleToken),
            ("pass", RuleMeaning::Pass),
        ],
    };
    let then = b.one_of(
        &key("then"),
        table.then.as_deref(),
        if side == RuleSide::Api {
            RuleMeaning::Pass
        } else {
            RuleMeaning::Config
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
            .filter_map(|(i, value)| b.or_note(&key("status").index(i), text::status(value)))
            .collect(),
        Some(value) => b
            .or_note(&key("status"), text::status(value))
            .into_iter()
            .collect(),
    };
    let pick = table
        .path
        .as_deref()
        .and_then(|text| b.or_note(&key("path"), text::pick(text)));
    let test = match (&table.r#in, &table.not_in) {
        (Some(_), Some(_)) => {
            b.note(
                &key("not_in"),
                "cannot be used together with in",
                "write two rules",
            );
            None
        }
        (Some(list), None) => Some(RuleTest::In(texts(b, &key("in"), list))),
        (None, Some(list)) => Some(RuleTest::NotIn(texts(b, &key("not_in"), list))),
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
    if side == RuleSide::Api {
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
    if side == RuleSide::Token
        && table.then.is_some()
        && then != RuleMeaning::Ok
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
        .and_then(|span| b.duration(&key("hold"), span));
    ErrorRule {
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
fn texts(b: &mut ProfileBuilder<'_>, at: &KeyPath<'_>, list: &[Value]) -> Vec<String> {
    let items = list
        .iter()
        .enumerate()
        .filter_map(|(i, value)| match value {
            Value::String(text) => Some(text.clone()),
            Value::Number(n) => Some(n.to_string()),
            Value::Bool(yes) => Some(yes.to_string()),
            _ => {
                b.note(
                    &at.index(i),
                    "must be text, a number, true or false",
                    "write the value as it stands in the answer, in quotes",
                );
                None
            }
        });
    items.collect()
}
