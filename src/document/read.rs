//! A tree of values into a type. One walk along the type's schema notes every mistake and takes
//! out what is wrong, in time that grows as the tree does; then serde makes the value.

use schemars::JsonSchema;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use super::{
    duration::{self, DurationOrOff, parse_duration},
    key::KeyPath,
    problem::{known, one_of},
    schema::SchemaNode,
    secret_ref::{SecretRef, SecretRefs},
};

/// Words for a key that nobody reads.
pub const UNKNOWN: &str = "is not a known key";

/// Reads a `T`, whose fields all have defaults. `note` is told each mistake: where it stands, what
/// is wrong (never the value, which may be a secret), and what to do.
pub fn read<T: DeserializeOwned + Default + JsonSchema>(
    mut tree: Value,
    mut note: impl FnMut(&KeyPath<'_>, String, String),
) -> T {
    clean::<T>(&mut tree, &mut note);
    serde_path_to_error::deserialize(tree).unwrap_or_else(|error| {
        // The schema says less than the type does: whatever that was is told by its place alone.
        let at = error.path().to_string();
        let key = KeyPath::written(if at == "." { "" } else { &at });
        let hint = "compare with config.example.toml";
        note(&key, "cannot be read".to_owned(), hint.to_owned());
        T::default()
    })
}

/// Takes out of `tree` what cannot be read into a `T`, and notes it. Where a list is expected, a
/// single value becomes a list of one.
pub fn clean<T: JsonSchema>(tree: &mut Value, mut note: impl FnMut(&KeyPath<'_>, String, String)) {
    let node = SchemaNode::of_type::<T>();
    if !check(tree, &node, &KeyPath::ROOT, &mut note) {
        *tree = Value::Object(serde_json::Map::new());
    }
}

type Note<'n> = dyn FnMut(&KeyPath<'_>, String, String) + 'n;

/// Whether `value` may stay.
fn check(value: &mut Value, node: &SchemaNode, at: &KeyPath<'_>, note: &mut Note<'_>) -> bool {
    if node.is_free() || (value.is_null() && node.takes("null")) {
        return true;
    }
    let Some(wrong) = node.wrong() else {
        return check_parts(value, node, at, note);
    };
    // One mistake, whatever is wrong inside.
    let mut right = node.has_required(value);
    check_parts(value, node, at, &mut |_, _, _| right = false);
    if !right {
        note(at, wrong.to_owned(), node.hint().to_owned());
    }
    right
}

fn check_parts(
    value: &mut Value,
    node: &SchemaNode,
    at: &KeyPath<'_>,
    note: &mut Note<'_>,
) -> bool {
    let whole = node.value();
    // What may be a text or a table is a secret, which is read as one or several by itself.
    if node.takes("array") && whole.is_none() && !value.is_array() && !value.is_null() {
        *value = Value::Array(vec![value.take()]);
    }
    if let Err((what, hint)) = check_kind(value, node) {
        note(at, what, hint);
        return false;
    }
    if let Some(whole) = whole
        && let Err(what) = check_whole(whole, value, node, at, note)
    {
        note(at, what, node.hint().to_owned());
        return false;
    }
    match value {
        _ if whole.is_some() => {}
        Value::Object(table) => table.retain(|name, inner| {
            let at = at.key(name);
            if node.has_key(name) {
                return check(inner, &node.key(name), &at, note);
            }
            // `drop` stands in every table of a profile, and is seldom what was meant.
            let keys = node.keys().into_iter().filter(|key| *key != "drop");
            note(&at, UNKNOWN.to_owned(), known(name, keys));
            false
        }),
        Value::Array(items) => {
            let (node, mut index) = (node.item(), 0..);
            items.retain_mut(|item| {
                let at = at.index(index.next().unwrap_or_default());
                check(item, &node, &at, note)
            });
        }
        _ => {}
    }
    true
}

/// What is wrong with a value by its kind, its word or its bounds.
fn check_kind(value: &Value, node: &SchemaNode) -> Result<(), (String, String)> {
    let words = node.words();
    let fits = match value {
        Value::Null => false,
        Value::Bool(_) => node.takes("boolean"),
        Value::Number(n) => node.takes("number") || (node.takes("integer") && n.is_u64()),
        Value::String(_) => node.takes("string") || !words.is_empty(),
        Value::Array(_) => node.takes("array"),
        Value::Object(_) => node.takes("object"),
    };
    if let Value::String(given) = value
        && !words.is_empty()
        && !words.contains(&given.as_str())
    {
        let hint = one_of(given, words.iter().copied());
        return Err((format!("must be one of {}", words.join(", ")), hint));
    }
    if !fits
        && node
            .value()
            .is_none_or(|value| !value.starts_with("secret"))
    {
        let hint = match value {
            Value::Number(_) if node.takes("string") && !node.takes("object") => {
                "put it in quotes; a duration has a unit, such as \"30s\""
            }
            _ => node.hint(),
        };
        let what = format!("must be {}, not {}", node.kinds(), kind_of(value));
        return Err((what, hint.to_owned()));
    }
    match (value.as_u64(), node.bounds()) {
        (Some(number), Some((least, most)))
            if least.as_u64().is_some_and(|least| number < least)
                || most.as_u64().is_some_and(|most| number > most) =>
        {
            Err(out_of_range(value, least, most))
        }
        _ => Ok(()),
    }
}

/// Reads a value that is one thing whatever is inside, by the type that calls itself `whole`.
fn check_whole(
    whole: &str,
    value: &mut Value,
    node: &SchemaNode,
    at: &KeyPath<'_>,
    note: &mut Note<'_>,
) -> Result<(), String> {
    let read = match whole {
        "duration" => duration::deserialize(&*value).map(Some),
        "duration or off" => DurationOrOff::deserialize(&*value).map(|found| found.0),
        "duration text" => return Ok(()),
        "secrets" => {
            // Each of several is told in its own place.
            if let Value::Array(items) = value {
                let mut index = 0..;
                items.retain_mut(|item| {
                    let at = at.index(index.next().unwrap_or_default());
                    let read = SecretRef::deserialize(&*item);
                    if let Err(error) = &read {
                        note(&at, error.to_string(), node.hint().to_owned());
                    }
                    read.is_ok()
                });
            }
            SecretRefs::deserialize(&*value).map(|_| None)
        }
        _ => SecretRef::deserialize(&*value).map(|_| None),
    };
    let length = read.map_err(|error| error.to_string())?;
    let limit =
        |text: &'static Value| parse_duration(text.as_str()?, std::time::Duration::MAX).ok();
    match (length, node.bounds()) {
        (Some(length), Some((least, most)))
            if limit(least).is_some_and(|least| length < least)
                || limit(most).is_some_and(|most| length > most) =>
        {
            Err(out_of_range(value, least, most).0)
        }
        _ => Ok(()),
    }
}

/// Numbers and durations only: neither is ever a secret.
fn out_of_range(value: &Value, least: &Value, most: &Value) -> (String, String) {
    let plain = |value: &Value| value.as_str().map_or(value.to_string(), str::to_owned);
    let what = format!(
        "{} is out of range: {} to {}",
        plain(value),
        plain(least),
        plain(most)
    );
    (what, "leave it out for the default".to_owned())
}

/// The kind of a value, in words.
#[must_use]
pub fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(number) if number.is_f64() => "a number with a fraction",
        Value::Number(number) if number.is_i64() && !number.is_u64() => "a negative number",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a table",
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use serde_json::json;

    use super::*;
    use crate::document::{DurationSchema, OneOrMore};

    #[derive(Debug, Default, PartialEq, Deserialize, JsonSchema)]
    #[serde(default)]
    #[schemars(deny_unknown_fields)]
    struct Sample {
        #[schemars(range(min = 1, max = 9))]
        count: usize,
        #[serde(with = "duration")]
        #[schemars(with = "DurationSchema", extend("x-least" = "1s", "x-most" = "1h"))]
        wait: Duration,
        word: Option<Word>,
        #[schemars(with = "OneOrMore<String>")]
        names: Vec<String>,
        tables: BTreeMap<String, Sample>,
        secret: Option<SecretRef>,
    }

    #[derive(Debug, PartialEq, Deserialize, JsonSchema)]
    #[serde(rename_all = "lowercase")]
    enum Word {
        Left,
        Right,
    }

    fn sample(tree: Value) -> (Sample, Vec<(String, String)>) {
        let mut told = Vec::new();
        let value = read(tree, |at, what, hint| {
            assert!(!hint.is_empty(), "{at}");
            told.push((at.to_string(), what));
        });
        (value, told)
    }

    #[test]
    fn what_is_right_is_read_and_a_single_value_is_a_list_of_one() {
        let (found, told) = sample(json!({
            "count": 9, "wait": "1h", "word": "left", "names": "a",
            "tables": { "t": { "names": ["b", "c"] } }, "secret": { "env": "S" },
        }));
        assert_eq!(told, []);
        assert_eq!((found.count, found.wait), (9, Duration::from_hours(1)));
        assert_eq!(
            (found.word, found.names),
            (Some(Word::Left), vec!["a".to_owned()])
        );
        assert_eq!(found.tables["t"].names, ["b", "c"]);
        assert_eq!(found.secret, Some(SecretRef::Env("S".to_owned())));
    }

    #[test]
    fn every_mistake_is_told_at_its_key_and_the_rest_is_read() {
        let (found, told) = sample(json!({
            "count": 0, "wait": "2h", "word": "lefft", "names": ["a", 1, "b", {}], "nmaes": [],
            "tables": { "a b": { "wait": "5 minutes", "count": -1 }, "u": 3 }, "secret": { "envv": "S" },
        }));
        let told: Vec<_> = told.iter().map(|(key, what)| (&**key, &**what)).collect();
        assert_eq!(
            told,
            [
                ("count", "0 is out of range: 1 to 9"),
                ("names[1]", "must be text in quotes, not a number"),
                ("names[3]", "must be text in quotes, not a table"),
                ("nmaes", UNKNOWN),
                ("secret", "is no secret: it has the unknown key \"envv\""),
                (
                    "tables.\"a b\".count",
                    "must be a whole number, not negative, not a negative number"
                ),
                (
                    "tables.\"a b\".wait",
                    "is not a duration: write a whole number and a unit"
                ),
                ("tables.u", "must be a table, not a number"),
                ("wait", "2h is out of range: 1s to 1h"),
                ("word", "must be one of left, right"),
            ]
        );
        assert_eq!(found.names, ["a", "b"]);
        assert_eq!(found.tables["a b"], Sample::default());
    }

    #[test]
    fn a_root_that_is_no_table_is_told() {
        assert_eq!(
            sample(json!(3)).1,
            [(String::new(), "must be a table, not a number".to_owned())]
        );
    }
}
