//! Durations as they are written: a whole number and a unit.

use std::{borrow::Cow, fmt, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, Visitor},
};

use super::problem::Mistake;

/// A duration of a configuration is at most this long (400 days): deadlines stay computable.
const LONGEST: Duration = Duration::from_hours(400 * 24);

/// Whole numbers with one of the units ms, s, m, h, d; `1h30m` is one and a half hours.
///
/// # Errors
/// What is no such text, or is longer than `longest`, in words that do not repeat it, with a hint.
pub fn parse_duration(text: &str, longest: Duration) -> Result<Duration, Mistake> {
    let wrong = (
        "is not a duration: write a whole number and a unit",
        "such as \"250ms\", \"30s\", \"5m\", \"1h\" or \"2d\"",
    );
    let text = text.trim_matches(' ');
    let whole = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b' ');
    let mut units = text
        .split(|c: char| !c.is_ascii_alphabetic())
        .filter(|unit| !unit.is_empty())
        .peekable();
    let known =
        units.peek().is_some() && units.all(|unit| matches!(unit, "ms" | "s" | "m" | "h" | "d"));
    let value = humantime::parse_duration(text)
        .ok()
        .filter(|_| known && whole)
        .ok_or(wrong)?;
    if value > longest {
        Err((
            "is too long",
            "name a shorter time, such as \"1h\" or \"2d\"",
        ))
    } else {
        Ok(value)
    }
}

/// A duration as it is written, which may be a template or a word where one makes sense.
#[derive(Debug, Clone)]
pub struct DurationText(pub String);

/// A duration, or `"off"` (`None`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DurationOrOff(pub Option<Duration>);

struct Text;

impl Visitor<'_> for Text {
    type Value = String;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a duration such as \"30s\"")
    }
    fn visit_str<E: de::Error>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }
}

impl<'de> Deserialize<'de> for DurationText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Text).map(Self)
    }
}

impl<'de> Deserialize<'de> for DurationOrOff {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match deserializer.deserialize_str(Text)?.as_str() {
            "off" => Ok(Self(None)),
            text => read_duration(text).map(Some).map(Self),
        }
    }
}

fn read_duration<E: de::Error>(text: &str) -> Result<Duration, E> {
    parse_duration(text, LONGEST).map_err(|(what, _)| E::custom(what))
}

impl Serialize for DurationOrOff {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            Some(every) => serialize(every, serializer),
            None => serializer.serialize_str("off"),
        }
    }
}

impl JsonSchema for DurationText {
    fn schema_name() -> Cow<'static, str> {
        "DurationText".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "x-value": "duration text", "examples": ["250ms", "30s", "5m", "1h", "2d"], "description": "A duration, or a word where one makes sense." })
    }
}

impl JsonSchema for DurationOrOff {
    fn schema_name() -> Cow<'static, str> {
        "DurationOrOff".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "x-value": "duration or off", "pattern": "^(off|([0-9]+(ms|s|m|h|d) ?)+)$", "description": "A duration, or \"off\"." })
    }
}

/// The schema of a [`Duration`] in a table: `#[serde(with = "duration")]` and
/// `#[schemars(with = "DurationSchema")]`, with `extend("x-least" = "1ms", "x-most" = "1h")` where
/// it has bounds.
#[derive(Debug)]
pub struct DurationSchema;

impl JsonSchema for DurationSchema {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "x-value": "duration", "pattern": "^([0-9]+(ms|s|m|h|d) ?)+$", "description": "A duration: \"250ms\", \"30s\", \"5m\", \"1h\", \"2d\"." })
    }
}

/// # Errors
/// What is no duration of at most 400 days.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    read_duration(&deserializer.deserialize_str(Text)?)
}

/// # Errors
/// Those of the serializer.
pub fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_duration(*value))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_have_five_units_and_nothing_else() {
        let parse = |text| parse_duration(text, LONGEST);
        for (text, ms) in [
            ("250ms", 250),
            ("30s", 30_000),
            ("5m", 300_000),
            ("1h", 3_600_000),
            ("2d", 172_800_000),
            ("1h30m", 5_400_000),
            ("1h 30m", 5_400_000),
            ("0s", 0),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for bad in [
            "",
            "5",
            "0",
            "5 minutes",
            "1M",
            "1w",
            "1y",
            "1.5s",
            "-1s",
            "s",
            "off",
            "5us",
            "5min",
            "5sec",
            "99999999999999999999s",
            "99999999999999999999d",
            "401d",
            "1s\n\n2",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_gives_an_answer(text in "\\PC*") {
            let _ = parse_duration(&text, LONGEST);
        }
    }
}
