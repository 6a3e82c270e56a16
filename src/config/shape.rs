//! What the JSON Schema says of a place in the configuration: which keys, kinds and words are known
//! there. Hints come from here.

use std::sync::LazyLock;

use serde_json::Value;

use super::{file::File, value::FORMS};

/// One step into the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Key(String),
    Index(usize),
}

/// References are followed this often; deeper nesting has no hints.
const DEPTH: usize = 12;

static SCHEMA: LazyLock<Value> = LazyLock::new(|| schemars::schema_for!(File).to_value());

/// The JSON Schema of the whole file.
#[must_use]
pub fn schema() -> &'static Value {
    &SCHEMA
}

/// What may stand at one place.
#[derive(Debug, Default)]
pub struct Place(Vec<&'static Value>);

/// The place `steps` lead to.
#[must_use]
pub fn at(steps: &[Step]) -> Place {
    let mut here = alternatives(schema(), DEPTH);
    for step in steps {
        here = here
            .into_iter()
            .filter_map(|schema| match step {
                Step::Key(key) => schema
                    .get("properties")
                    .and_then(|known| known.get(key))
                    .or_else(|| {
                        schema
                            .get("additionalProperties")
                            .filter(|more| more.is_object())
                    }),
                Step::Index(_) => schema.get("items"),
            })
            .flat_map(|schema| alternatives(schema, DEPTH))
            .collect();
    }
    Place(here)
}

/// `schema` with references and alternatives resolved.
fn alternatives(schema: &'static Value, depth: usize) -> Vec<&'static Value> {
    let Some(depth) = depth.checked_sub(1) else {
        return Vec::new();
    };
    let referred = schema
        .get("$ref")
        .and_then(Value::as_str)
        .and_then(|to| SCHEMA.pointer(to.strip_prefix('#')?));
    let more = ["anyOf", "oneOf", "allOf"]
        .into_iter()
        .filter_map(|word| schema.get(word)?.as_array())
        .flatten();
    let mut all: Vec<_> = referred
        .into_iter()
        .chain(more)
        .flat_map(|schema| alternatives(schema, depth))
        .collect();
    all.push(schema);
    all
}

impl Place {
    /// Keys of the table here; empty where there is none or any key goes.
    #[must_use]
    pub fn keys(&self) -> Vec<&'static str> {
        self.0
            .iter()
            .filter_map(|schema| schema.get("properties")?.as_object())
            .flat_map(|known| known.keys().map(String::as_str))
            .collect()
    }

    /// The words that may stand here.
    #[must_use]
    pub fn words(&self) -> Vec<&'static str> {
        let listed = self
            .0
            .iter()
            .filter_map(|schema| schema.get("enum")?.as_array())
            .flatten();
        listed
            .chain(self.0.iter().filter_map(|schema| schema.get("const")))
            .filter_map(Value::as_str)
            .collect()
    }

    fn types(&self) -> impl Iterator<Item = &'static str> {
        self.0
            .iter()
            .filter_map(|schema| schema.get("type"))
            .flat_map(|kind| match kind {
                Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
                kind => kind.as_str().into_iter().collect::<Vec<_>>(),
            })
    }

    #[must_use]
    pub fn takes(&self, kind: &str) -> bool {
        self.types().any(|known| known == kind)
    }

    /// The kinds of values that may stand here, in words.
    #[must_use]
    pub fn kinds(&self) -> String {
        let mut words: Vec<_> = self
            .types()
            .filter_map(|kind| match kind {
                "string" => Some("text in quotes"),
                "integer" => Some("a whole number, not negative"),
                "number" => Some("a number"),
                "boolean" => Some("true or false"),
                "array" => Some("a list"),
                "object" => Some("a table"),
                _ => None,
            })
            .collect();
        words.sort_unstable();
        words.dedup();
        words.join(" or ")
    }
}

impl Place {
    /// How to write what goes here, as a hint.
    #[must_use]
    pub fn example(&self) -> &'static str {
        match ["string", "object", "array", "boolean", "integer"].map(|kind| self.takes(kind)) {
            [true, true, ..] => FORMS,
            [true, ..] => "text in quotes; leave it out for the default",
            [_, true, ..] => "write [name] with its keys below, or { key = value }",
            [_, _, true, ..] => "write it in brackets: [\"…\", \"…\"]",
            [_, _, _, true, _] => "true or false, without quotes",
            [.., true] => "a number without quotes",
            _ => "compare with config.example.toml",
        }
    }
}

/// The kind of a value, in words.
#[must_use]
pub fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(number) if number.is_i64() && !number.is_u64() => "a negative number",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a table",
    }
}

/// Steps as a TOML key, `upstreams."a b".url`; positions in lists as `[0]`.
#[must_use]
pub fn dotted(steps: &[Step]) -> String {
    let mut text = String::new();
    for step in steps {
        match step {
            Step::Index(i) => text.extend(["[", &i.to_string(), "]"]),
            Step::Key(key) => {
                if !text.is_empty() {
                    text.push('.');
                }
                text.push_str(&quoted(key));
            }
        }
    }
    text
}

/// A key as it stands in TOML: in quotes where it must be.
#[must_use]
pub fn quoted(key: &str) -> String {
    let bare = !key.is_empty()
        && key
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    if bare {
        key.to_owned()
    } else {
        format!("{key:?}")
    }
}
