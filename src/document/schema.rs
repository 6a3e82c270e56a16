//! What may stand at a place of a document, by the JSON Schema of its type: keys, kinds, words and
//! bounds. What is read, and every hint, comes from here.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde_json::Value;

use super::secret_ref::SECRET_FORMS;

use crate::lock::Lock;

/// References are followed this often; deeper nesting has no hints.
const DEPTH: usize = 12;

/// A list, or what would be its only item.
#[derive(JsonSchema)]
#[schemars(untagged)]
#[allow(
    dead_code,
    reason = "only its schema is used: single values become lists before anything is read"
)]
pub enum OneOrMore<T> {
    One(T),
    Several(Vec<T>),
}

/// The JSON Schema of `T`, made once for each type.
#[must_use]
pub fn schema_of<T: JsonSchema>() -> &'static Value {
    static MADE: Lock<BTreeMap<String, &'static Value>> = Lock::new(BTreeMap::new());
    let mut made = MADE.lock();
    made.entry(T::schema_id().into_owned())
        .or_insert_with(|| Box::leak(Box::new(schemars::schema_for!(T).to_value())))
}

/// What may stand at one place: every alternative that the schema has there.
#[derive(Debug, Clone)]
pub struct SchemaNode {
    root: &'static Value,
    options: Vec<&'static Value>,
}

impl SchemaNode {
    /// The root of a document that is read into `T`.
    #[must_use]
    pub fn of_type<T: JsonSchema>() -> Self {
        let root = schema_of::<T>();
        Self::from_options(root, [root])
    }

    fn from_options(
        root: &'static Value,
        options: impl IntoIterator<Item = &'static Value>,
    ) -> Self {
        let mut all = Vec::new();
        for option in options {
            add_alternatives(root, option, DEPTH, &mut all);
        }
        Self { root, options: all }
    }

    /// The place below `names`, one table after the other.
    #[must_use]
    pub fn at<'n>(&self, names: impl IntoIterator<Item = &'n str>) -> Self {
        names
            .into_iter()
            .fold(self.clone(), |node, name| node.key(name))
    }

    /// The value of `name` in the table here.
    #[must_use]
    pub fn key(&self, name: &str) -> Self {
        let named = |option: &'static Value| option.get("properties")?.get(name);
        let has_name = self.options.iter().any(|option| named(option).is_some());
        let below = self.options.iter().filter_map(|option| {
            if has_name {
                named(option)
            } else {
                option
                    .get("additionalProperties")
                    .filter(|more| **more != Value::Bool(false))
            }
        });
        Self::from_options(self.root, below)
    }

    /// An item of the list here.
    #[must_use]
    pub fn item(&self) -> Self {
        let items = self.options.iter().filter_map(|option| option.get("items"));
        Self::from_options(self.root, items)
    }

    /// Keys of the table here; empty where there is none or any key goes.
    #[must_use]
    pub fn keys(&self) -> Vec<&'static str> {
        self.options
            .iter()
            .filter_map(|option| option.get("properties")?.as_object())
            .flat_map(|known| known.keys().map(String::as_str))
            .collect()
    }

    /// Whether `name` may be a key of the table here.
    #[must_use]
    pub fn has_key(&self, name: &str) -> bool {
        let tables = || {
            self.options
                .iter()
                .filter(|option| option.get("properties").is_some())
        };
        tables().any(|option| option["properties"].get(name).is_some())
            || !self
                .options
                .iter()
                .any(|option| option.get("additionalProperties") == Some(&Value::Bool(false)))
    }

    /// The words that may stand here; empty where it is not for a list of words.
    #[must_use]
    pub fn words(&self) -> Vec<&'static str> {
        let listed = self
            .options
            .iter()
            .filter_map(|option| option.get("enum")?.as_array())
            .flatten();
        let single = self.options.iter().filter_map(|option| option.get("const"));
        listed.chain(single).filter_map(Value::as_str).collect()
    }

    /// Whether values of `kind` (JSON Schema's word) may stand here.
    #[must_use]
    pub fn takes(&self, kind: &str) -> bool {
        self.types().any(|known| known == kind)
    }

    /// Whether anything may stand here.
    #[must_use]
    pub fn is_free(&self) -> bool {
        self.types().next().is_none() && self.words().is_empty()
    }

    /// How a value here is read as a whole (`x-value`), where it is.
    pub(super) fn value(&self) -> Option<&'static str> {
        self.says("x-value")?.as_str()
    }

    /// The words for whatever is wrong with a value here (`x-wrong`), where there are any: it is
    /// one value to whoever wrote it.
    pub(super) fn wrong(&self) -> Option<&'static str> {
        self.says("x-wrong")?.as_str()
    }

    /// Whether `value`, where it is a table, has the keys that must be there.
    pub(super) fn has_required(&self, value: &Value) -> bool {
        let Value::Object(table) = value else {
            return true;
        };
        self.options
            .iter()
            .filter_map(|option| option.get("required")?.as_array())
            .flatten()
            .all(|key| key.as_str().is_some_and(|key| table.contains_key(key)))
    }

    /// What stands here where nothing is written, if that is anything.
    #[must_use]
    pub fn default_value(&self) -> Option<&'static Value> {
        self.says("default").filter(|value| !value.is_null())
    }

    /// What it is for, in the words of the type.
    #[must_use]
    pub fn description(&self) -> &'static str {
        self.says("description")
            .and_then(Value::as_str)
            .unwrap_or_default()
    }

    /// The least and the most that may stand here, as they are written.
    pub(super) fn bounds(&self) -> Option<(&'static Value, &'static Value)> {
        let both = |least, most| Some((self.says(least)?, self.says(most)?));
        both("x-least", "x-most").or_else(|| both("minimum", "maximum"))
    }

    /// What the alternatives say of `word`; the outermost, which stands last, first.
    fn says(&self, word: &str) -> Option<&'static Value> {
        self.options
            .iter()
            .rev()
            .find_map(|option| option.get(word))
    }

    fn types(&self) -> impl Iterator<Item = &'static str> {
        self.options
            .iter()
            .filter_map(|option| option.get("type"))
            .flat_map(|kind| match kind {
                Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
                kind => kind.as_str().into_iter().collect::<Vec<_>>(),
            })
    }

    /// The kinds of values that may stand here, in words.
    #[must_use]
    pub fn kinds(&self) -> String {
        if self
            .value()
            .is_some_and(|value| value.starts_with("duration"))
        {
            return "a duration such as \"30s\"".to_owned();
        }
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

    /// How to write what goes here, as a hint.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        if let Some(hint) = self.says("x-hint").and_then(Value::as_str) {
            return hint;
        }
        match self.value() {
            Some("secret" | "secrets") => return SECRET_FORMS,
            Some(_) => return "such as \"250ms\", \"30s\", \"5m\", \"1h\" or \"2d\", in quotes",
            None => {}
        }
        match ["string", "object", "array", "boolean", "integer"].map(|kind| self.takes(kind)) {
            [true, ..] => "write it in quotes; leave it out for the default",
            [_, true, ..] => "write [name] with its keys below, or { key = value }",
            [_, _, true, ..] => "write it in brackets: [\"…\", \"…\"]",
            [_, _, _, true, _] => "true or false, without quotes",
            [.., true] => "a number without quotes",
            _ => "compare with config.example.toml",
        }
    }
}

/// `option` with references and alternatives resolved, the inner ones first.
fn add_alternatives(
    root: &'static Value,
    option: &'static Value,
    depth: usize,
    all: &mut Vec<&'static Value>,
) {
    let Some(depth) = depth.checked_sub(1) else {
        return;
    };
    let referred = option
        .get("$ref")
        .and_then(Value::as_str)
        .and_then(|to| root.pointer(to.strip_prefix('#')?));
    let more = ["anyOf", "oneOf", "allOf"]
        .into_iter()
        .filter_map(|word| option.get(word)?.as_array())
        .flatten();
    for inner in referred.into_iter().chain(more) {
        add_alternatives(root, inner, depth, all);
    }
    all.push(option);
}
