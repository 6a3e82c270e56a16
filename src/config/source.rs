//! The tree of values a configuration is read from: the file's text, overridden by the environment.

use std::collections::BTreeMap;

use figment::{
    Figment,
    providers::{Format, Serialized, Toml},
};
use serde_json::{Map, Value};

use super::shape::{self, Step};
use crate::problem::{Problems, known};

/// Mistakes that are stepped back over.
const TURNS: usize = 64;

pub const PREFIX: &str = "CUPBEARER_";

/// Key paths that the environment set, and by which variable.
pub type Overrides = Vec<(Vec<Step>, String)>;

/// Reads `text` and lays the environment over it. A text that is no TOML is one problem; nothing
/// else is looked at then.
pub fn tree(
    text: &str,
    env: &BTreeMap<String, String>,
    problems: &mut Problems,
) -> Option<(Value, Overrides)> {
    let written: Value = match Toml::from_str(text) {
        Ok(tree) => tree,
        Err(error) => {
            let place = error
                .span()
                .map(|span| position(text, span.start))
                .unwrap_or_default();
            // The message only: the line itself may hold a secret.
            problems.problem(
                "",
                format!("not TOML{place}: {}", error.message().trim()),
                "text stands in quotes, a table is [name] or { key = value }, and each key may stand once",
            );
            return None;
        }
    };
    let (overlay, overrides) = overlay(&written, env, problems);
    let mut written = written;
    for (steps, _) in &overrides {
        make_room(&mut written, steps);
    }
    let merged = Figment::from(Serialized::defaults(&written))
        .merge(Serialized::defaults(&overlay))
        .extract();
    match merged {
        Ok(tree) => Some((tree, overrides)),
        Err(_) => {
            problems.problem(
                "",
                "the file and the environment cannot be laid over each other",
                "compare with config.example.toml",
            );
            None
        }
    }
}

/// How many bytes of `text`, in whole lines, are TOML.
pub fn sound(text: &str) -> usize {
    let mut end = text.len();
    // Each turn ends before the line with the first mistake: what is left is shorter each time.
    for _ in 0..TURNS {
        let Some(part) = text.get(..end) else { break };
        let Err(error) = Toml::from_str::<Value>(part) else {
            return end;
        };
        let at = error
            .span()
            .map_or(0, |span| span.start)
            .min(end.saturating_sub(1));
        end = part
            .get(..at)
            .and_then(|before| before.rfind('\n'))
            .map_or(0, |newline| newline + 1)
            .min(end.saturating_sub(1));
        if end == 0 {
            break;
        }
    }
    0
}

fn position(text: &str, at: usize) -> String {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before
        .rsplit('\n')
        .next()
        .unwrap_or_default()
        .chars()
        .count()
        + 1;
    format!(", line {line}, column {column}")
}

/// What variables of the form `CUPBEARER_TABLE__KEY` set. All others are left alone: Kubernetes
/// sets `CUPBEARER_PORT` and the like.
fn overlay(
    written: &Value,
    env: &BTreeMap<String, String>,
    problems: &mut Problems,
) -> (Value, Overrides) {
    let mut overlay = Value::Object(Map::new());
    let mut overrides = Vec::new();
    for (variable, text) in env {
        let Some(path) = variable
            .strip_prefix(PREFIX)
            .filter(|path| path.contains("__"))
        else {
            continue;
        };
        let first = path.split("__").next().unwrap_or_default();
        let tables = shape::at(&[]).keys();
        if !tables.contains(&&*spelling(first, None, &tables)) {
            // Kubernetes makes such variables for a Service whose name has two hyphens in a row.
            let hint = format!(
                "as a table {}; rename the variable if it was meant",
                known(&first.to_ascii_lowercase(), tables)
            );
            problems.lint(
                variable.clone(),
                "is ignored: its first part is no table of the configuration",
                Some(hint),
            );
            continue;
        }
        let mut here = Some(written);
        let mut steps = Vec::new();
        for part in path.split("__") {
            let key = spelling(part, here, &shape::at(&steps).keys());
            here = here.and_then(|table| table.get(&key));
            steps.push(Step::Key(key));
        }
        if steps.contains(&Step::Key(String::new())) {
            problems.problem(
                shape::dotted(&steps),
                format!("the environment variable {variable} names no key"),
                "CUPBEARER_TABLE__KEY: two underscores between the parts, none of them empty",
            );
            continue;
        }
        if insert(&mut overlay, &steps, value(text, &steps)) {
            overrides.push((steps, variable.clone()));
        } else {
            let hint = "one of them names the table, the other a key in it: keep one";
            problems.problem(
                shape::dotted(&steps),
                format!("the environment variable {variable} contradicts another one"),
                hint,
            );
        }
    }
    (overlay, overrides)
}

/// Places of a secret exclude each other: what a variable names leaves no room for the other kind
/// in the file.
fn make_room(written: &mut Value, steps: &[Step]) {
    let Some((Step::Key(kind), parent)) = steps.split_last().filter(|_| is_part(steps)) else {
        return;
    };
    let others: &[&str] = match kind.as_str() {
        "env" => &["file", "json_key"],
        "file" | "json_key" => &["env"],
        _ => return,
    };
    let table = parent.iter().try_fold(written, |here, step| match step {
        Step::Key(key) => here.get_mut(key),
        Step::Index(_) => None,
    });
    if let Some(Value::Object(table)) = table {
        table.retain(|key, _| !others.contains(&key.as_str()));
    }
}

/// Whether `steps` lead into a value that could as well be a text, such as `client_secret.file`: it
/// is one value with what is around it.
pub fn is_part(steps: &[Step]) -> bool {
    let parent = steps.split_last().map(|(_, parent)| shape::at(parent));
    parent.is_some_and(|parent| parent.takes("string") && parent.takes("object"))
}

/// A variable's part as a key: as it is written in the file or known to the schema where that
/// differs only in case or `-` for `_`.
fn spelling(part: &str, table: Option<&Value>, known: &[&str]) -> String {
    let plain = |key: &str| key.to_ascii_lowercase().replace('-', "_");
    let asked = plain(part);
    let written = table
        .and_then(Value::as_object)
        .into_iter()
        .flat_map(|table| table.keys().map(String::as_str));
    written
        .chain(known.iter().copied())
        .find(|key| plain(key) == asked)
        .map_or(asked, str::to_owned)
}

fn value(text: &str, steps: &[Step]) -> Value {
    let place = shape::at(steps);
    let list = place.takes("array");
    // A secret may be a table as well, and is never taken apart.
    if place.takes("string") && (!list || place.takes("object")) {
        return Value::String(text.to_owned());
    }
    // What is no TOML value is text, and so is what would be one where text is wanted.
    let parsed = Toml::from_str(&format!("it = {text}"))
        .ok()
        .filter(|table: &Map<String, Value>| table.len() == 1);
    let parsed = parsed
        .and_then(|mut table| table.remove("it"))
        .filter(|value| value.is_array() || !place.takes("string"));
    match parsed.unwrap_or_else(|| Value::String(text.to_owned())) {
        // A list may be written with commas alone.
        Value::String(items) if list => items
            .split(',')
            .map(|item| Value::String(item.trim().to_owned()))
            .collect(),
        value => value,
    }
}

fn insert(tree: &mut Value, steps: &[Step], value: Value) -> bool {
    let mut here = tree;
    for step in steps {
        let (Step::Key(key), Value::Object(table)) = (step, here) else {
            return false;
        };
        here = table
            .entry(key)
            .or_insert_with(|| Value::Object(Map::new()));
    }
    // A table that another variable began must not be replaced.
    let free = here.as_object().is_some_and(Map::is_empty);
    if free {
        *here = value;
    }
    free
}
