//! Where a secret comes from, as it is written.

use std::{borrow::Cow, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, SeqAccess, Visitor},
};

/// Where a secret stands. `Debug` shows stars for an inline value.
#[derive(Clone, PartialEq, Eq)]
pub enum SecretRef {
    /// The value itself.
    Inline(String),
    /// The name of a variable of our environment.
    Env(String),
    /// The path of a file, as it is written.
    File(String),
    /// File and JSON pointer (RFC 6901).
    Json(String, String),
    /// One of these with the white space around its value (`keep_space = true`).
    Kept(Box<SecretRef>),
}

impl SecretRef {
    /// Where it stands, whatever is done with the white space around it.
    #[must_use]
    pub fn place(&self) -> &Self {
        match self {
            Self::Kept(place) => place.place(),
            place => place,
        }
    }
}

impl fmt::Debug for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inline(_) => f.write_str("Inline(***)"),
            Self::Env(name) => f.debug_tuple("Env").field(name).finish(),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Json(path, pointer) => f.debug_tuple("Json").field(path).field(pointer).finish(),
            Self::Kept(place) => f.debug_tuple("Kept").field(place).finish(),
        }
    }
}

/// How a secret is written, as a hint.
pub const SECRET_FORMS: &str = "a secret is \"text\", { env = \"NAME\" }, { file = \"PATH\" } or { file = \"PATH\", json_key = \"/pointer\" }, tables also with keep_space = true";

struct SecretRefVisitor;

/// Never names the value it was given: it may be a secret.
impl<'de> Visitor<'de> for SecretRefVisitor {
    type Value = SecretRef;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a secret")
    }
    fn visit_bool<E: de::Error>(self, _: bool) -> Result<SecretRef, E> {
        Err(E::custom("is no secret"))
    }
    fn visit_i64<E: de::Error>(self, _: i64) -> Result<SecretRef, E> {
        Err(E::custom("is a number: put it in quotes"))
    }
    fn visit_u64<E: de::Error>(self, _: u64) -> Result<SecretRef, E> {
        self.visit_i64(0)
    }
    fn visit_f64<E: de::Error>(self, _: f64) -> Result<SecretRef, E> {
        self.visit_i64(0)
    }
    fn visit_str<E: de::Error>(self, text: &str) -> Result<SecretRef, E> {
        Ok(SecretRef::Inline(text.to_owned()))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<SecretRef, A::Error> {
        let (mut env, mut file, mut json_key, mut foreign) = (None, None, None, None);
        let mut keep = Some(false);
        while let Some(key) = map.next_key::<String>()? {
            let value = map.next_value::<serde_json::Value>()?;
            if key == "keep_space" {
                keep = value.as_bool();
                continue;
            }
            let value = value.as_str().map(str::to_owned);
            match key.as_str() {
                "env" => env = Some(value),
                "file" => file = Some(value),
                "json_key" => json_key = Some(value),
                _ => foreign = Some(key),
            }
        }
        if let Some(key) = foreign {
            return Err(de::Error::custom(format!(
                "is no secret: it has the unknown key {key:?}"
            )));
        }
        let Some(keep) = keep else {
            return Err(de::Error::custom("keep_space is true or false"));
        };
        let place = match (env, file, json_key) {
            (Some(Some(name)), None, None) if !name.is_empty() => SecretRef::Env(name),
            (None, Some(Some(path)), None) if !path.is_empty() => SecretRef::File(path),
            (None, Some(Some(path)), Some(Some(pointer))) if !path.is_empty() => {
                if !pointer.starts_with('/') {
                    return Err(de::Error::custom(
                        "json_key is a JSON pointer and starts with \"/\", such as \"/client/secret\"",
                    ));
                }
                SecretRef::Json(path, pointer)
            }
            _ => return Err(de::Error::custom("is no secret")),
        };
        Ok(if keep {
            SecretRef::Kept(Box::new(place))
        } else {
            place
        })
    }
}

/// Several secrets of which any one will do; one alone is a list of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretRefs(pub Vec<SecretRef>);

struct SecretRefsVisitor;

impl<'de> Visitor<'de> for SecretRefsVisitor {
    type Value = SecretRefs;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        SecretRefVisitor.expecting(f)
    }
    fn visit_bool<E: de::Error>(self, _: bool) -> Result<SecretRefs, E> {
        SecretRefVisitor.visit_bool(true).map(one)
    }
    fn visit_i64<E: de::Error>(self, _: i64) -> Result<SecretRefs, E> {
        SecretRefVisitor.visit_i64(0).map(one)
    }
    fn visit_u64<E: de::Error>(self, _: u64) -> Result<SecretRefs, E> {
        SecretRefVisitor.visit_i64(0).map(one)
    }
    fn visit_f64<E: de::Error>(self, _: f64) -> Result<SecretRefs, E> {
        SecretRefVisitor.visit_i64(0).map(one)
    }
    fn visit_str<E: de::Error>(self, text: &str) -> Result<SecretRefs, E> {
        SecretRefVisitor.visit_str(text).map(one)
    }
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<SecretRefs, A::Error> {
        SecretRefVisitor.visit_map(map).map(one)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<SecretRefs, A::Error> {
        let mut all = Vec::new();
        while let Some(secret) = seq.next_element()? {
            all.push(secret);
        }
        Ok(SecretRefs(all))
    }
}

fn one(secret: SecretRef) -> SecretRefs {
    SecretRefs(vec![secret])
}

impl<'de> Deserialize<'de> for SecretRefs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SecretRefsVisitor)
    }
}

impl JsonSchema for SecretRefs {
    fn schema_name() -> Cow<'static, str> {
        "Secrets".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let secret = generator.subschema_for::<SecretRef>();
        json_schema!({ "x-value": "secrets", "description": "A secret, or several of which any one will do.", "anyOf": [secret, { "type": "array", "items": secret, "minItems": 1 }] })
    }
}

impl<'de> Deserialize<'de> for SecretRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SecretRefVisitor)
    }
}

impl JsonSchema for SecretRef {
    fn schema_name() -> Cow<'static, str> {
        "Secret".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-value": "secret",
            "description": "A secret: written here, in an environment variable, in a file, or in a JSON file. White space around it is dropped, but with keep_space.",
            "oneOf": [
                { "type": "string" },
                {
                    "type": "object",
                    "properties": { "env": { "type": "string" }, "keep_space": { "type": "boolean" } },
                    "required": ["env"],
                    "additionalProperties": false
                },
                {
                    "type": "object",
                    "properties": { "file": { "type": "string" }, "json_key": { "type": "string", "pattern": "^/" }, "keep_space": { "type": "boolean" } },
                    "required": ["file"],
                    "additionalProperties": false
                }
            ]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_secret_reference_is_refused_without_its_value() {
        for bad in [
            "4711815",
            "true",
            r#"{"file":"a","env":"hunter2"}"#,
            r#"{"json_key":"/hunter2"}"#,
            r#"{"env":4711815}"#,
            "[4711815]",
            "{}",
        ] {
            let value: serde_json::Value = serde_json::from_str(bad).unwrap();
            let error = SecretRef::deserialize(&value).unwrap_err().to_string();
            assert!(
                !error.contains("4711815") && !error.contains("hunter2"),
                "{error}"
            );
        }
        assert_eq!(
            format!("{:?}", SecretRef::Inline("hunter2".into())),
            "Inline(***)"
        );
    }

    #[test]
    fn keep_space_stands_in_any_table_and_is_true_or_false() {
        let read = |text: &str| {
            SecretRef::deserialize(&serde_json::from_str::<serde_json::Value>(text).unwrap())
                .map_err(|e| e.to_string())
        };
        let kept = |place| Ok(SecretRef::Kept(Box::new(place)));
        assert_eq!(
            read(r#"{"env":"S","keep_space":true}"#),
            kept(SecretRef::Env("S".into()))
        );
        assert_eq!(
            read(r#"{"keep_space":true,"file":"f"}"#),
            kept(SecretRef::File("f".into()))
        );
        assert_eq!(
            read(r#"{"file":"f","json_key":"/k","keep_space":true}"#),
            kept(SecretRef::Json("f".into(), "/k".into()))
        );
        assert_eq!(
            read(r#"{"file":"f","keep_space":false}"#),
            Ok(SecretRef::File("f".into()))
        );
        for bad in [
            r#"{"keep_space":true}"#,
            r#"{"file":"f","keep_space":"yes"}"#,
            r#"{"file":"f","keep_space":1}"#,
            r#"{"file":"f","keep_space":null}"#,
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
