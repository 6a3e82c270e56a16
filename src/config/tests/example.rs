//! `config.example.toml` is true: it loads, what it calls a default is one, and every key occurs in
//! it.

use std::collections::BTreeSet;

use serde_json::Value;

use super::*;

const EXAMPLE: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/config.example.toml"));

/// Only what has no default.
const REQUIRED: &str = include_str!("required.toml");

fn load_blind(text: &str) -> Config {
    let (config, problems) = load_text(
        text,
        Path::new("/nowhere"),
        &LoadOptions {
            no_secrets: true,
            ..LoadOptions::default()
        },
    );
    assert!(problems.list().is_empty(), "{:#?}", problems.list());
    config.unwrap()
}

#[test]
fn the_example_says_the_defaults() {
    let (example, required) = (load_blind(EXAMPLE), load_blind(REQUIRED));
    let Config {
        proxy,
        admin,
        metrics,
        log,
        state,
        reload,
        credentials,
        upstreams,
        rules,
        file: _,
        files: _,
    } = example;
    assert_eq!(proxy, required.proxy);
    assert_eq!(admin, required.admin);
    assert_eq!(
        (metrics, state, reload),
        (required.metrics, required.state, required.reload)
    );
    assert_eq!(log, required.log);
    assert_eq!(upstreams, required.upstreams);
    assert_eq!(format!("{rules:?}"), format!("{:?}", required.rules));
    assert_eq!(
        format!("{credentials:?}"),
        format!("{:?}", required.credentials)
    );
}

/// The example with every commented key in force.
pub(super) fn uncommented() -> String {
    let key = |line: &str| {
        line.starts_with('[')
            || line.split_once(" = ").is_some_and(|(key, _)| {
                key.bytes()
                    .all(|b| b.is_ascii_lowercase() || b == b'_' || b == b'2')
            })
    };
    EXAMPLE
        .lines()
        .map(|line| {
            line.strip_prefix("# ")
                .filter(|rest| key(rest))
                .unwrap_or(line)
        })
        .collect::<Vec<_>>()
        .join("\n")
}

/// Tables that the example has key by key: the line that opens each, and where it stands.
const TABLES: [(&str, &[&str]); 12] = [
    ("[proxy]", &["proxy"]),
    ("[proxy.limits]", &["proxy", "limits"]),
    ("[admin]", &["admin"]),
    ("# [metrics]", &["metrics"]),
    ("[log]", &["log"]),
    ("# [state]", &["state"]),
    ("[reload]", &["reload"]),
    ("# [intercept]", &["intercept"]),
    ("[upstreams.acme]", &["upstreams", "acme"]),
    (
        "[upstreams.acme.timeouts]",
        &["upstreams", "acme", "timeouts"],
    ),
    ("[upstreams.acme.pool]", &["upstreams", "acme", "pool"]),
    ("[upstreams.acme.tls]", &["upstreams", "acme", "tls"]),
];

/// The example with every key that it lacks, made of the types: at the end of its table, with the
/// default and the words of the schema.
fn completed() -> String {
    let mut lines: Vec<String> = Vec::new();
    for block in EXAMPLE.split("\n\n") {
        let opens = |line: &str, head: &str| {
            line.strip_prefix(head)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
        };
        let mut block = block.trim_end_matches('\n').to_owned();
        for (head, path) in TABLES {
            if !block.lines().any(|line| opens(line, head)) {
                continue;
            }
            let node = SchemaNode::of_type::<File>().at(path.iter().copied());
            for key in node.keys() {
                let here = node.key(key);
                let written = block.lines().any(|line| {
                    let line = line.strip_prefix("# ").unwrap_or(line);
                    line.split_once(" = ").is_some_and(|(name, _)| name == key)
                });
                let is_table = here.takes("object") && !here.takes("string");
                if written || (is_table && key != "match") {
                    continue;
                }
                let line = match here.default_value() {
                    Some(value) => format!("{key} = {value}"),
                    None => format!("# {key} = "),
                };
                let words = here.description().replace('\n', " ");
                block.extend(["\n", &line, " # ", &words]);
            }
        }
        lines.push(block);
    }
    lines.join("\n\n") + "\n"
}

/// `make example` writes what is missing.
#[test]
fn the_example_has_every_key_of_its_tables() {
    let (completed, write) = (completed(), std::env::var_os("WRITE_EXAMPLE"));
    if write.is_some() && completed != EXAMPLE {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/config.example.toml");
        std::fs::write(path, &completed).unwrap();
    }
    let missing: Vec<&str> = completed
        .lines()
        .filter(|line| !EXAMPLE.lines().any(|old| old == *line))
        .collect();
    assert!(
        write.is_some() || missing.is_empty(),
        "make example writes these: {missing:#?}"
    );
}

#[test]
fn every_key_of_the_schema_occurs_in_the_example() {
    fn keys(schema: &Value, found: &mut BTreeSet<String>) {
        match schema {
            Value::Object(table) => {
                if let Some(Value::Object(properties)) = table.get("properties") {
                    found.extend(properties.keys().cloned());
                }
                table.values().for_each(|inner| keys(inner, found));
            }
            Value::Array(items) => items.iter().for_each(|inner| keys(inner, found)),
            _ => {}
        }
    }
    let mut all = BTreeSet::new();
    keys(schema(), &mut all);
    assert!(all.len() > 50, "{all:?}");
    let word = |text: &str, key: &str| {
        text.match_indices(key).any(|(at, _)| {
            let before = text[..at].chars().next_back();
            let after = text[at + key.len()..].chars().next();
            !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
                && !after.is_some_and(|c| c.is_alphanumeric() || c == '_')
        })
    };
    let missing: Vec<_> = all.iter().filter(|key| !word(EXAMPLE, key)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn the_commented_keys_are_known_as_well() {
    let found = all(&uncommented(), &[], Severity::Problem);
    let unknown: Vec<_> = found
        .iter()
        .filter(|problem| problem.what.contains("known key"))
        .collect();
    assert!(unknown.is_empty(), "{unknown:#?}");
    assert!(
        found.iter().any(|problem| problem.key == "intercept"),
        "{found:#?}"
    );
}
