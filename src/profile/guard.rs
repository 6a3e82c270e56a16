//! `guard`: how often the token endpoint may be asked, and how many may wait.

use std::time::Duration;

use serde_json::Value;

use super::{builder::ProfileBuilder, file::GuardTable, text};
use crate::{
    document::KeyPath,
    token::{Hold, LockoutPolicy, Rate},
};

/// `guard`: the limits, and how many may wait.
pub(super) fn guard(b: &mut ProfileBuilder<'_>, table: &GuardTable) -> (LockoutPolicy, usize) {
    let at = KeyPath::written("guard");
    let rate = match &table.rate {
        None => vec![Rate {
            n: 120,
            per: Duration::from_mins(1),
        }],
        Some(list) => {
            let rates = list.iter().enumerate();
            rates
                .filter_map(|(i, rate)| b.or_note(&at.key("rate").index(i), text::rate(rate)))
                .collect()
        }
    };
    let hold = match &table.hold {
        Some(span) if span.0 == "until_secret_changes" => Hold::UntilSecretChanges,
        span => Hold::For(b.positive(&at.key("hold"), span.as_ref(), Duration::from_mins(1))),
    };
    let mut count = |key: &str, value: Option<u64>, default: u32| match value.map(u32::try_from) {
        None => default,
        Some(Ok(n)) if n > 0 => n,
        Some(_) => {
            b.note(
                &at.key(key),
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
                    &at.key("account_rejections"),
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
