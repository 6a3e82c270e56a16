//! What is put on requests (`inject`), and what chooses between token sets (`partition`).

use std::{collections::BTreeMap, sync::Arc};

use super::{
    model::{Inject, Partition},
    names::{Build, Place},
    table::{InjectTable, PartitionTable},
    template::Template,
    token::{headers, path},
    values::{self, Wrong},
};

/// `inject`
pub(super) fn inject(b: &mut Build<'_>, table: &InjectTable) -> Inject {
    let place = Place::Inject;
    let always = headers(b, &["inject", "headers"], &table.headers, place);
    let if_absent = headers(
        b,
        &["inject", "headers_if_absent"],
        &table.headers_if_absent,
        place,
    );
    for (name, _) in if_absent
        .iter()
        .filter(|(name, _)| always.iter().any(|(other, _)| other == name))
    {
        b.note(
            &["inject", "headers_if_absent", name.as_str()],
            "stands in headers too, which always wins",
            "keep it in one of the two",
        );
    }
    let query = texts(b, "query", &table.query, |name| {
        if name.is_empty() {
            Err(("has no name", "write NAME = \"value\""))
        } else {
            Ok(())
        }
    });
    let cookies = texts(b, "cookies", &table.cookies, values::cookie);
    Inject {
        headers: always,
        headers_if_absent: if_absent,
        query,
        cookies,
    }
}

fn texts(
    b: &mut Build<'_>,
    key: &str,
    table: &BTreeMap<String, String>,
    check: fn(&str) -> Result<(), Wrong>,
) -> Vec<(String, Template)> {
    let mut out = Vec::new();
    for (name, text) in table {
        let at = path(&["inject", key], name);
        b.or_note(&at, check(name));
        out.push((name.clone(), b.template(&at, text, Place::Inject)));
    }
    out
}

/// `partition.NAME`
pub(super) fn partitions(
    b: &mut Build<'_>,
    tables: &BTreeMap<String, PartitionTable>,
) -> Vec<Partition> {
    tables
        .iter()
        .filter_map(|(name, table)| partition(b, name, table))
        .collect()
}

fn partition(b: &mut Build<'_>, name: &str, table: &PartitionTable) -> Option<Partition> {
    let at = ["partition", name];
    if !values::identifier(name) {
        b.note(
            &at,
            "is no name a template can use (letters, digits, _)",
            name.replace(['-', '.', ' '], "_"),
        );
    }
    let header = required(
        b,
        &path(&at, "header"),
        table.header.as_deref(),
        values::settable,
        "the request header that chooses, such as \"X-Shop-Id\"",
    );
    let pattern = required(
        b,
        &path(&at, "pattern"),
        table.pattern.as_deref(),
        values::anchored,
        "what values may look like, such as \"^[0-9]+$\"",
    );
    let max = table.max.unwrap_or(1000);
    if max == 0 {
        b.note(
            &path(&at, "max"),
            "must be at least 1",
            "leave it out for 1000",
        );
    }
    Some(Partition {
        name: Arc::from(name),
        header: header?,
        pattern: pattern?,
        max,
    })
}

fn required<T>(
    b: &mut Build<'_>,
    at: &[&str],
    text: Option<&str>,
    read: fn(&str) -> Result<T, Wrong>,
    hint: &str,
) -> Option<T> {
    let Some(text) = text else {
        b.note(at, "is missing", hint);
        return None;
    };
    b.or_note(at, read(text))
}
