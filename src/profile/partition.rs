//! `partition.NAME`: what chooses between token sets.

use std::{collections::BTreeMap, sync::Arc};

use super::{builder::ProfileBuilder, file::PartitionTable, model::PartitionSpec, text};
use crate::document::{KeyPath, Mistake};

/// `partition.NAME`
pub(super) fn partitions(
    b: &mut ProfileBuilder<'_>,
    tables: &BTreeMap<String, PartitionTable>,
) -> Vec<PartitionSpec> {
    tables
        .iter()
        .filter_map(|(name, table)| partition(b, name, table))
        .collect()
}

fn partition(
    b: &mut ProfileBuilder<'_>,
    name: &str,
    table: &PartitionTable,
) -> Option<PartitionSpec> {
    let partition = KeyPath::written("partition");
    let at = partition.key(name);
    b.check_name(&at, name);
    let header = required(
        b,
        &at.key("header"),
        table.header.as_deref(),
        text::settable,
        "the request header that chooses, such as \"X-Shop-Id\"",
    );
    let pattern = required(
        b,
        &at.key("pattern"),
        table.pattern.as_deref(),
        text::anchored,
        "what values may look like, such as \"^[0-9]+$\"",
    );
    let max = table.max.unwrap_or(1000);
    if max == 0 {
        b.note(
            &at.key("max"),
            "must be at least 1",
            "leave it out for 1000",
        );
    }
    Some(PartitionSpec {
        name: Arc::from(name),
        header: header?,
        pattern: pattern?,
        max,
    })
}

fn required<T>(
    b: &mut ProfileBuilder<'_>,
    at: &KeyPath<'_>,
    written: Option<&str>,
    read: fn(&str) -> Result<T, Mistake>,
    hint: &str,
) -> Option<T> {
    let Some(written) = written else {
        b.note(at, "is missing", hint);
        return None;
    };
    b.or_note(at, read(written))
}
