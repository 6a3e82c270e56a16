//! Reads JSON (RFC 8259) that a stranger wrote: one absurd member costs that member, not the whole
//! answer. Pure, total, linear.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use zeroize::Zeroizing;

/// What lies deeper in lists and objects is read as `null`.
const DEEPEST: usize = 100;

/// The text as JSON; `None` where it is none. A byte order mark in front is dropped (RFC 8259 8.1).
/// What the grammar allows but no program can hold costs its own member alone: a number beyond
/// 64-bit floating point is the largest there is, half of a surrogate pair is U+FFFD, and so are
/// bytes that are no UTF-8; what lies over 100 levels deep is `null`. The last of two members with
/// one name counts.
#[must_use]
pub fn read(bytes: &[u8]) -> Option<Value> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    if let Ok(value) = serde_json::from_slice(bytes) {
        return Some(value);
    }
    let text = Zeroizing::new(String::from_utf8_lossy(bytes).into_owned());
    let mended = mend(&text);
    let mut reader = serde_json::Deserializer::from_str(&mended);
    let value = BoundedDepth(DEEPEST).deserialize(&mut reader).ok()?;
    reader.end().ok()?;
    Some(value)
}

/// The same text with every number and every escape within what can be held. It stays as wrong as
/// it was where it is no JSON.
fn mend(text: &str) -> Zeroizing<String> {
    // Not one replacement is longer than 24 bytes, and none stands for less than 5.
    let mut out = Zeroizing::new(String::with_capacity(text.len() * 5));
    let mut rest = text;
    let mut quoted = false;
    while let Some(first) = rest.bytes().next() {
        let taken = match first {
            b'"' => {
                quoted = !quoted;
                out.push('"');
                1
            }
            b'\\' if quoted => escape(rest, &mut out),
            b'-' | b'0'..=b'9' if !quoted => number(rest, &mut out),
            _ => {
                let special = |c: char| {
                    matches!(c, '"' | '\\') || (!quoted && (c == '-' || c.is_ascii_digit()))
                };
                let length = rest
                    .char_indices()
                    .skip(1)
                    .find(|(_, c)| special(*c))
                    .map_or(rest.len(), |(at, _)| at);
                out.push_str(&rest[..length]);
                length
            }
        };
        rest = &rest[taken..];
    }
    out
}

/// Copies the escape that `text` begins with. How many bytes it has.
fn escape(text: &str, out: &mut String) -> usize {
    let unit = |at: usize| {
        let digits = text
            .get(at..at + 6)?
            .strip_prefix("\\u")
            .filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))?;
        u16::from_str_radix(digits, 16).ok()
    };
    let taken = match (unit(0), unit(6)) {
        (Some(0xD800..=0xDBFF), Some(0xDC00..=0xDFFF)) => 12,
        (Some(0xD800..=0xDFFF), _) => {
            out.push('\u{fffd}');
            return 6;
        }
        (Some(_), _) => 6,
        // The backslash and whatever character it is before.
        (None, _) => text.chars().take(2).map(char::len_utf8).sum(),
    };
    out.push_str(&text[..taken]);
    taken
}

/// Copies the number that `text` begins with, or the largest there is in its place. How many bytes
/// it has.
fn number(text: &str, out: &mut String) -> usize {
    let length = text
        .bytes()
        .position(|b| !matches!(b, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E'))
        .unwrap_or(text.len());
    let said = &text[..length];
    let value = if is_number(said) {
        said.parse().unwrap_or(0.0)
    } else {
        0.0_f64
    };
    if value.is_infinite() {
        out.push_str(if value > 0.0 { LARGEST } else { SMALLEST });
    } else {
        out.push_str(said);
    }
    length
}

const LARGEST: &str = "1.7976931348623157e308";
const SMALLEST: &str = "-1.7976931348623157e308";

/// RFC 8259 6.
fn is_number(text: &str) -> bool {
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let text = text.strip_prefix('-').unwrap_or(text);
    let whole = digits(text);
    if whole == 0 || (whole > 1 && text.starts_with('0')) {
        return false;
    }
    let mut rest = &text[whole..];
    if let Some(fraction) = rest.strip_prefix('.') {
        let length = digits(fraction);
        if length == 0 {
            return false;
        }
        rest = &fraction[length..];
    }
    match rest.strip_prefix(['e', 'E']) {
        None => rest.is_empty(),
        Some(exponent) => {
            let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
            !exponent.is_empty() && digits(exponent) == exponent.len()
        }
    }
}

/// Reads one value with at most so many levels below it.
#[derive(Clone, Copy)]
struct BoundedDepth(usize);

impl<'de> DeserializeSeed<'de> for BoundedDepth {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        if self.0 == 0 {
            // serde_json looks that over without recursion.
            return deserializer
                .deserialize_ignored_any(IgnoredAny)
                .map(|_| Value::Null);
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for BoundedDepth {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }
    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = list.next_element_seed(Self(self.0 - 1))? {
            values.push(value);
        }
        Ok(values.into())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut table: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some(name) = table.next_key()? {
            members.insert(name, table.next_value_seed(Self(self.0 - 1))?);
        }
        Ok(members.into())
    }
}

#[cfg(test)]
mod tests;
