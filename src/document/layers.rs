//! A tree of values in layers: a text in TOML, and the environment over it.

use std::{
    collections::{BTreeMap, HashSet},
    path::Path,
};

use figment::{
    Figment,
    providers::{Format, Serialized, Toml},
};
use schemars::JsonSchema;
use serde_json::{Map, Value};

use super::{
    key::KeyPath,
    problem::{Mistake, Problems, known},
    schema::SchemaNode,
};

/// Mistakes that are stepped back over.
const TURNS: usize = 64;

/// Variables that override keys begin so.
const PREFIX: &str = "CUPBEARER_";

/// How to write TOML, as a hint.
const TOML: &str =
    "text stands in quotes, a table is [name] or { key = value }, and each key may stand once";

/// What was read from a text and the environment.
#[derive(Debug)]
pub struct Tree {
    /// All of it, the environment laid over the text.
    pub value: Value,
    /// Which keys the environment set.
    pub overrides: Overrides,
}

/// Keys that the environment set, and by which variable.
#[derive(Debug, Default)]
pub struct Overrides(Vec<Override>);

#[derive(Debug)]
struct Override {
    key: String,
    /// Where the key is a part of one value, such as the file of a secret: that value's.
    whole: Option<String>,
    variable: String,
}

/// Reads a text in TOML.
///
/// # Errors
/// What is wrong, with line and column, and a hint. The line itself may hold a secret and is not
/// repeated.
pub fn parse_toml(text: &str) -> Result<Map<String, Value>, Mistake<String>> {
    Toml::from_str(text).map_err(|error: toml::de::Error| {
        let place = error
            .span()
            .map(|span| position(text, span.start))
            .unwrap_or_default();
        (format!("not TOML{place}: {}", error.message().trim()), TOML)
    })
}

/// Reads `text` and lays the environment over it, key by key as the schema of `T` knows them. A
/// text that is no TOML is one problem; nothing else is looked at then.
pub fn read_layers<T: JsonSchema>(
    text: &str,
    env: &BTreeMap<String, String>,
    problems: &mut Problems,
) -> Option<Tree> {
    let mut written = parse_toml(text)
        .map(Value::Object)
        .map_err(|(what, hint)| problems.problem("", what, hint))
        .ok()?;
    let root = SchemaNode::of_type::<T>();
    let (overlay, set) = read_environment(&written, &root, env, problems);
    let mut overrides = Vec::new();
    for (names, variable) in set {
        make_room(&mut written, &root, &names);
        let whole = names
            .split_last()
            .filter(|_| is_part(&root, &names))
            .map(|(_, whole)| dotted(whole));
        overrides.push(Override {
            key: dotted(&names),
            whole,
            variable,
        });
    }
    let merged = Figment::from(Serialized::defaults(&written))
        .merge(Serialized::defaults(&overlay))
        .extract();
    let Ok(value) = merged else {
        problems.problem(
            "",
            "the file and the environment cannot be laid over each other",
            "compare with config.example.toml",
        );
        return None;
    };
    Some(Tree {
        value,
        overrides: Overrides(overrides),
    })
}

/// The part of `text`, in whole lines from its beginning, that is TOML.
#[must_use]
pub fn sound_part(text: &str) -> &str {
    let mut end = text.len();
    // Each turn ends before the line with the first mistake: what is left is shorter each time.
    for _ in 0..TURNS {
        let Some(part) = text.get(..end) else { break };
        let Err(error) = Toml::from_str::<Value>(part) else {
            return part;
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
    ""
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

impl Overrides {
    /// Whether the value of `key` stands in the environment, not in the file.
    #[must_use]
    pub fn set(&self, key: &str) -> bool {
        self.0.iter().any(|one| one.key == key)
    }

    /// Says of each problem where it stands: in the variable that set its key, or in `file`.
    /// Nothing is said twice.
    #[must_use]
    pub fn place(&self, problems: Problems, file: Option<&Path>) -> Problems {
        let (mut all, mut told) = (Problems::default(), HashSet::new());
        for mut problem in problems.into_list() {
            let key = &problem.key;
            let within = |over: &str| {
                key.strip_prefix(over)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
            };
            let by = self
                .0
                .iter()
                .find(|one| within(&one.key) || one.whole.as_ref() == Some(key));
            // A variable is no key of a file.
            if by.is_none() && problem.file.is_none() && !key.starts_with(PREFIX) {
                problem.file = file.map(Path::to_path_buf);
            }
            if let Some(Override { variable, .. }) = by {
                problem.what = format!(
                    "{} (set by the environment variable {variable})",
                    problem.what
                );
            }
            if told.insert(problem.clone()) {
                all.add(problem);
            }
        }
        all
    }
}

/// What variables of the form `CUPBEARER_TABLE__KEY` set. All others are left alone: Kubernetes
/// sets `CUPBEARER_PORT` and the like.
fn read_environment(
    written: &Value,
    root: &SchemaNode,
    env: &BTreeMap<String, String>,
    problems: &mut Problems,
) -> (Value, Vec<(Vec<String>, String)>) {
    let mut overlay = Value::Object(Map::new());
    let mut set = Vec::new();
    let tables = root.keys();
    for (variable, text) in env {
        let Some(path) = variable
            .strip_prefix(PREFIX)
            .filter(|path| path.contains("__"))
        else {
            continue;
        };
        let first = path.split("__").next().unwrap_or_default();
        if !tables.contains(&&*spell(first, None, &tables)) {
            // Kubernetes makes such variables for a Service whose name has two hyphens in a row.
            let hint = format!(
                "as a table {}; rename the variable if it was meant",
                known(&first.to_ascii_lowercase(), tables.iter().copied())
            );
            problems.lint(
                variable.clone(),
                "is ignored: its first part is no table of the configuration",
                Some(hint),
            );
            continue;
        }
        let (mut here, mut node) = (Some(written), root.clone());
        let mut names = Vec::new();
        for part in path.split("__") {
            let name = spell(part, here, &node.keys());
            here = here.and_then(|table| table.get(&name));
            node = node.key(&name);
            names.push(name);
        }
        let (what, hint) = if names.iter().any(String::is_empty) {
            (
                "names no key",
                "CUPBEARER_TABLE__KEY: two underscores between the parts, none of them empty",
            )
        } else if insert(&mut overlay, &names, read_variable(text, &node)) {
            set.push((names, variable.clone()));
            continue;
        } else {
            (
                "contradicts another one",
                "one of them names the table, the other a key in it: keep one",
            )
        };
        problems.problem(
            dotted(&names),
            format!("the environment variable {variable} {what}"),
            hint,
        );
    }
    (overlay, set)
}

fn dotted(names: &[String]) -> String {
    names.iter().fold(String::new(), |above, name| {
        KeyPath::written(&above).key(name).to_string()
    })
}

/// Places of a secret exclude each other: what a variable names leaves no room for the other kind
/// in the file.
fn make_room(written: &mut Value, root: &SchemaNode, names: &[String]) {
    let Some((kind, parent)) = names.split_last().filter(|_| is_part(root, names)) else {
        return;
    };
    let others: &[&str] = match kind.as_str() {
        "env" => &["file", "json_key"],
        "file" | "json_key" => &["env"],
        _ => return,
    };
    let table = parent
        .iter()
        .try_fold(written, |here, name| here.get_mut(name));
    if let Some(Value::Object(table)) = table {
        table.retain(|key, _| !others.contains(&key.as_str()));
    }
}

/// Whether `names` lead into a value that could as well be a text, such as `client_secret.file`: it
/// is one value with what is around it.
fn is_part(root: &SchemaNode, names: &[String]) -> bool {
    names.split_last().is_some_and(|(_, parent)| {
        let parent = root.at(parent.iter().map(String::as_str));
        parent.takes("string") && parent.takes("object")
    })
}

/// A variable's part as a key: as it is written in the file or known to the schema where that
/// differs only in case or `-` for `_`.
fn spell(part: &str, table: Option<&Value>, known: &[&str]) -> String {
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

fn read_variable(text: &str, node: &SchemaNode) -> Value {
    let list = node.takes("array");
    // A secret may be a table as well, and is never taken apart.
    if node.takes("string") && (!list || node.takes("object")) {
        return Value::String(text.to_owned());
    }
    // What is no TOML value is text, and so is what would be one where text is wanted.
    let parsed = parse_toml(&format!("it = {text}"))
        .ok()
        .filter(|table| table.len() == 1);
    let parsed = parsed
        .and_then(|mut table| table.remove("it"))
        .filter(|value| value.is_array() || !node.takes("string"));
    match parsed.unwrap_or_else(|| Value::String(text.to_owned())) {
        // A list may be written with commas alone.
        Value::String(items) if list => items
            .split(',')
            .map(|item| Value::String(item.trim().to_owned()))
            .collect(),
        value => value,
    }
}

fn insert(tree: &mut Value, names: &[String], value: Value) -> bool {
    let mut here = tree;
    for name in names {
        let Value::Object(table) = here else {
            return false;
        };
        here = table
            .entry(name)
            .or_insert_with(|| Value::Object(Map::new()));
    }
    // A table that another variable began must not be replaced.
    let free = here.as_object().is_some_and(Map::is_empty);
    if free {
        *here = value;
    }
    free
}
