//! `tokens.NAME.lifetime`: how long tokens live, and when they are renewed.

use std::time::Duration;

use super::{builder::ProfileBuilder, file::LifetimeTable, text::NEVER};
use crate::{
    document::{DurationText, KeyPath},
    token::{Lifetime, RefreshMode, Rotation, schedule::LONGEST},
};

/// `.lifetime`
pub(super) fn lifetime(
    b: &mut ProfileBuilder<'_>,
    at: &KeyPath<'_>,
    table: &LifetimeTable,
    partitioned: bool,
) -> Lifetime {
    let mut span = |key: &str, span: Option<&DurationText>, word: &str| {
        span.filter(|span| span.0 != word)
            .and_then(|span| b.duration(&at.key(key), span))
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
                &at.key(key),
                "must be longer than nothing",
                "\"off\" for none",
            );
        }
    }
    let default = b.positive(
        &at.key("default"),
        table.default.as_ref(),
        Duration::from_mins(5),
    );
    if default > LONGEST
        && let Some(written) = &table.default
    {
        let hint = "leave it out for 5m, or name a life that fits the vendor's tokens".to_owned();
        b.blame(
            &at.key("default"),
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
            &at.key("refresh"),
            table.refresh.as_deref(),
            usual,
            &[("ahead", RefreshMode::Ahead), ("lazy", RefreshMode::Lazy)],
        ),
        refresh_before,
        rotation: b.one_of(
            &at.key("rotation"),
            table.rotation.as_deref(),
            Rotation::Overlap,
            &[
                ("overlap", Rotation::Overlap),
                ("replaces", Rotation::Replaces),
            ],
        ),
        grace,
        rest_after: b.positive(
            &at.key("rest_after"),
            rest_after,
            if off { NEVER } else { Duration::from_hours(1) },
        ),
        min_remaining,
    }
}
