//! A text that may be written without quotes where it is a number, true or false.

use schemars::JsonSchema;
use serde::Deserialize;

/// A text; `5` and `true` are what `"5"` and `"true"` are.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "Scalar")]
pub struct ScalarText(pub String);

/// How it is written.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
enum Scalar {
    Text(String),
    Switch(bool),
    Number(serde_json::Number),
}

impl From<Scalar> for ScalarText {
    fn from(written: Scalar) -> Self {
        Self(match written {
            Scalar::Text(text) => text,
            Scalar::Switch(on) => on.to_string(),
            Scalar::Number(number) => number.to_string(),
        })
    }
}

impl JsonSchema for ScalarText {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Setting".into()
    }
    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        Scalar::json_schema(generator)
    }
}
