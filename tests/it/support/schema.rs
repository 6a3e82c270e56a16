//! A JSON Schema validator for the schemas of this repository: small, and it refuses keywords it
//! does not know.

use serde_json::Value;

/// Checks an answer of `/api/status` against the schema in the repository.
pub fn check_status(answer: &Value) {
    let schema: Value =
        serde_json::from_str(include_str!("../../../src/admin/status.schema.json")).unwrap();
    let mut wrong = Vec::new();
    check(&schema, &schema, answer, "", &mut wrong);
    assert!(
        wrong.is_empty(),
        "the status does not fit its schema: {wrong:#?}\n{answer:#}"
    );
}

/// What of `value` does not fit `schema`, a part of `root`, by place.
pub fn check(root: &Value, schema: &Value, value: &Value, at: &str, wrong: &mut Vec<String>) {
    let Value::Object(rules) = schema else {
        assert!(schema.is_boolean(), "no schema: {schema}");
        if schema == &Value::Bool(false) {
            wrong.push(format!("{at}: must not be there"));
        }
        return;
    };
    for (keyword, rule) in rules {
        let fits = match keyword.as_str() {
            "$schema" | "$defs" | "title" | "description" => true,
            "$ref" => {
                let target = root
                    .pointer(rule.as_str().unwrap().trim_start_matches('#'))
                    .expect("a $ref that leads somewhere");
                check(root, target, value, at, wrong);
                true
            }
            "type" => match rule {
                Value::Array(all) => all.iter().any(|one| is(value, one.as_str().unwrap())),
                one => is(value, one.as_str().unwrap()),
            },
            "enum" => rule.as_array().unwrap().contains(value),
            "anyOf" => rule.as_array().unwrap().iter().any(|one| {
                let mut wrong = Vec::new();
                check(root, one, value, at, &mut wrong);
                wrong.is_empty()
            }),
            "minimum" => value.as_f64().is_none_or(|n| n >= rule.as_f64().unwrap()),
            "maximum" => value.as_f64().is_none_or(|n| n <= rule.as_f64().unwrap()),
            "pattern" => value.as_str().is_none_or(|text| {
                regex::Regex::new(rule.as_str().unwrap())
                    .unwrap()
                    .is_match(text)
            }),
            "format" => format(value, rule.as_str().unwrap()),
            "items" => {
                for (i, one) in value.as_array().into_iter().flatten().enumerate() {
                    check(root, rule, one, &format!("{at}/{i}"), wrong);
                }
                true
            }
            "required" => value.as_object().is_none_or(|o| {
                rule.as_array()
                    .unwrap()
                    .iter()
                    .all(|k| o.contains_key(k.as_str().unwrap()))
            }),
            "properties" => {
                for (key, one) in value.as_object().into_iter().flatten() {
                    if let Some(rule) = rule.get(key) {
                        check(root, rule, one, &format!("{at}/{key}"), wrong);
                    }
                }
                true
            }
            "additionalProperties" => {
                let named = |key: &str| {
                    rules
                        .get("properties")
                        .is_some_and(|p| p.get(key).is_some())
                };
                for (key, one) in value
                    .as_object()
                    .into_iter()
                    .flatten()
                    .filter(|(key, _)| !named(key))
                {
                    check(root, rule, one, &format!("{at}/{key}"), wrong);
                }
                true
            }
            other => panic!("the validator does not know {other:?}"),
        };
        if !fits {
            wrong.push(format!("{at}: {keyword} {rule} does not allow {value}"));
        }
    }
}

fn is(value: &Value, name: &str) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        "number" => value.is_number(),
        "integer" => value.is_i64() || value.is_u64(),
        other => panic!("no such type: {other}"),
    }
}

fn format(value: &Value, name: &str) -> bool {
    match (name, value) {
        ("date-time", Value::String(text)) => text.parse::<jiff::Timestamp>().is_ok(),
        ("uint64" | "uint32" | "uint16" | "uint", Value::Number(n)) => n.is_u64(),
        ("date-time" | "uint64" | "uint32" | "uint16" | "uint", _) => true,
        (other, _) => panic!("the validator does not know the format {other:?}"),
    }
}
