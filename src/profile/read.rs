//! A JSON tree into a serde type, with every mistake found in one go: what does not fit is noted,
//! taken out, and reading starts again.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_path_to_error::{Deserializer, Segment, Track};

use crate::problem::known;

/// One thing that does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misfit {
    /// Keys and indices from the root.
    pub path: Vec<String>,
    pub what: String,
    pub hint: String,
}

/// Mistakes that are found in one go.
const TURNS: usize = 100;

/// Reads `T`, whose fields all have defaults. Never quotes a value.
pub fn read<T: DeserializeOwned + Default + JsonSchema>(mut value: Value) -> (T, Vec<Misfit>) {
    let mut found = Vec::new();
    // Each turn reads the tree anew without one node: that many mistakes are told at once.
    for _ in 0..TURNS {
        let mut track = Track::new();
        let error = match T::deserialize(Deserializer::new(&value, &mut track)) {
            Ok(done) => return (done, found),
            Err(error) => error.to_string(),
        };
        let path: Vec<String> = track.path().iter().filter_map(segment).collect();
        let Some(misfit) = misfit::<T>(&value, path, &error) else {
            break;
        };
        let removed = remove(&mut value, &misfit.path);
        if found.iter().all(|other: &Misfit| other.path != misfit.path) {
            found.push(misfit);
        }
        if !removed {
            break;
        }
    }
    (T::default(), found)
}

fn segment(segment: &Segment) -> Option<String> {
    match segment {
        Segment::Seq { index } => Some(index.to_string()),
        Segment::Map { key } => Some(key.clone()),
        Segment::Enum { variant } => Some(variant.clone()),
        Segment::Unknown => None,
    }
}

fn misfit<T: JsonSchema>(value: &Value, path: Vec<String>, error: &str) -> Option<Misfit> {
    if error.starts_with("unknown field") {
        return Some(unknown::<T>(value, path));
    }
    let kind = kind(at(value, &path)?);
    let expected = error
        .rsplit_once("expected ")
        .map_or("something else", |(_, tail)| {
            tail.split(" at line").next().unwrap_or(tail)
        });
    let expected = match expected {
        e if e.starts_with("struct ") || e.starts_with("a map") || e.starts_with("struct") => {
            "a table"
        }
        "a sequence" => "a list",
        "u64" => "a whole number from 0 up",
        "a boolean" => "true or false",
        "a string" => "text in quotes",
        e => e,
    };
    let hint = match expected {
        "a table" => "write [name] with its keys below, or { key = value }",
        "a list" => "write it in brackets: [\"…\", \"…\"]",
        "a whole number from 0 up" | "true or false" => "write it without quotes",
        _ => "write it in quotes",
    };
    Some(Misfit {
        path,
        what: format!("must be {expected}, but is {kind}"),
        hint: hint.to_owned(),
    })
}

/// Where the schema of `T` has a list, a single value is a list of one.
pub fn lists_of_one<T: JsonSchema>(value: &mut Value) {
    wrap(value, &[schema::<T>().as_value()]);
}

/// `schemas` are what `value` may be.
fn wrap(value: &mut Value, schemas: &[&Value]) {
    let mut all: Vec<&Value> = Vec::new();
    let mut open: Vec<&Value> = schemas.to_vec();
    while let Some(schema) = open.pop() {
        let alternatives = ["anyOf", "oneOf", "allOf"]
            .iter()
            .filter_map(|word| schema.get(*word)?.as_array())
            .flatten();
        open.extend(alternatives);
        all.push(schema);
    }
    let takes = |wanted: &str| {
        all.iter().any(|schema| match schema.get("type") {
            Some(Value::Array(kinds)) => kinds.iter().any(|kind| kind == wanted),
            kind => kind.is_some_and(|kind| kind == wanted),
        })
    };
    // What may be a text or a table is a secret, which is read as one or several by itself.
    let list = takes("array") && !(takes("string") && takes("object"));
    if list && !value.is_array() && !value.is_null() {
        *value = Value::Array(vec![value.take()]);
    }
    match value {
        Value::Object(table) => {
            for (key, inner) in table {
                let named = |schema: &&'_ Value| {
                    schema
                        .get("properties")
                        .is_some_and(|known| known.get(key).is_some())
                };
                let below: Vec<&Value> = if all.iter().any(named) {
                    all.iter()
                        .filter_map(|schema| schema.get("properties")?.get(key))
                        .collect()
                } else {
                    all.iter()
                        .filter_map(|schema| schema.get("additionalProperties"))
                        .collect()
                };
                if !below.is_empty() {
                    wrap(inner, &below);
                }
            }
        }
        Value::Array(items) => {
            let below: Vec<&Value> = all
                .iter()
                .filter_map(|schema| schema.get("items"))
                .collect();
            for item in items.iter_mut().filter(|_| !below.is_empty()) {
                wrap(item, &below);
            }
        }
        _ => {}
    }
}

/// Words for a key that `T` does not have.
pub const UNKNOWN: &str = "is not a known key";

/// A hint for a key that stands at the top, where `more` keys are known besides those of `T`.
pub fn hint_at_top<T: JsonSchema>(key: &str, more: &[&str]) -> String {
    let mut siblings = keys(schema::<T>().as_value(), &[]);
    siblings.extend(more.iter().map(|key| (*key).to_owned()));
    hint(key, &siblings)
}

/// Made once for each type.
fn schema<T: JsonSchema>() -> Arc<schemars::Schema> {
    static MADE: Mutex<BTreeMap<String, Arc<schemars::Schema>>> = Mutex::new(BTreeMap::new());
    let make = || {
        SchemaGenerator::new(SchemaSettings::default().with(|s| s.inline_subschemas = true))
            .into_root_schema_for::<T>()
    };
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    made.entry(T::schema_id().into_owned())
        .or_insert_with(|| Arc::new(make()))
        .clone()
}

/// serde names the table; which key of it is unknown follows from the schema.
fn unknown<T: JsonSchema>(value: &Value, mut path: Vec<String>) -> Misfit {
    let schema = schema::<T>();
    let named = |path: &[String]| keys(schema.as_value(), path);
    // Some versions of the path end with the unknown key itself.
    let parent_known = path
        .split_last()
        .map(|(last, parent)| (last.clone(), named(parent)));
    if let Some((last, siblings)) = parent_known
        && !siblings.is_empty()
        && !siblings.contains(&last)
    {
        return Misfit {
            what: UNKNOWN.into(),
            hint: hint(&last, &siblings),
            path,
        };
    }
    let siblings = named(&path);
    let stray = at(value, &path)
        .and_then(Value::as_object)
        .and_then(|table| table.keys().find(|key| !siblings.contains(*key)).cloned());
    let stray = stray.unwrap_or_default();
    path.push(stray.clone());
    Misfit {
        what: UNKNOWN.into(),
        hint: hint(&stray, &siblings),
        path,
    }
}

fn hint(name: &str, siblings: &BTreeSet<String>) -> String {
    known(
        name,
        siblings
            .iter()
            .map(String::as_str)
            .filter(|key| *key != "drop"),
    )
}

/// Names of the properties the schema has at `path`; empty for free tables.
fn keys(schema: &Value, path: &[String]) -> BTreeSet<String> {
    let options = schema
        .get("anyOf")
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default();
    if let Some(found) = options
        .iter()
        .map(|option| keys(option, path))
        .find(|keys| !keys.is_empty())
    {
        return found;
    }
    let Some((first, rest)) = path.split_first() else {
        let own = schema.get("properties").and_then(Value::as_object);
        return own
            .into_iter()
            .flat_map(|table| table.keys().cloned())
            .collect();
    };
    let next = schema
        .get("properties")
        .and_then(|p| p.get(first))
        .or_else(|| schema.get("additionalProperties"))
        .or_else(|| schema.get("items"));
    next.map(|schema| keys(schema, rest)).unwrap_or_default()
}

fn at<'a>(value: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(value, |value, key| match value {
        Value::Object(table) => table.get(key),
        Value::Array(list) => list.get(key.parse::<usize>().ok()?),
        _ => None,
    })
}

fn remove(value: &mut Value, path: &[String]) -> bool {
    let Some((last, parents)) = path.split_last() else {
        return false;
    };
    let parent = parents.iter().try_fold(value, |value, key| match value {
        Value::Object(table) => table.get_mut(key),
        Value::Array(items) => items.get_mut(key.parse::<usize>().ok()?),
        _ => None,
    });
    match parent {
        Some(Value::Object(table)) => table.remove(last).is_some(),
        // A list keeps its length, so that later indices stay true.
        Some(Value::Array(items)) => last
            .parse::<usize>()
            .ok()
            .and_then(|i| items.get_mut(i))
            .is_some_and(blank),
        _ => false,
    }
}

fn blank(slot: &mut Value) -> bool {
    let empty = match slot {
        Value::Null => return false,
        // What serde wanted here is not known: first try a table, then text, then give up.
        Value::Object(_) => Value::String(String::new()),
        Value::String(_) => Value::Null,
        _ => Value::Object(serde_json::Map::new()),
    };
    *slot = empty;
    true
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(n) if n.is_f64() => "a number with a fraction",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a table",
    }
}
