//! An answer of a token endpoint, and finding something in it. Pure and total.

use std::sync::OnceLock;

use http::{HeaderMap, header::SET_COOKIE};
use serde_json::Value;
use zeroize::Zeroizing;

use super::json;
use crate::{profile::model::ValueSource, token::FailureKind};

/// The body of an answer, as far as it could be had.
pub enum ResponseBody {
    /// Decompressed.
    Whole(Zeroizing<Vec<u8>>),
    /// More than 64 KiB after decompression; none of it is kept.
    TooLarge,
    /// It broke off in this way.
    Broken(FailureKind),
    /// It is in a content coding that is not known here, or in too many.
    Coded(FailureKind),
}

/// An answer of a token endpoint.
pub struct TokenResponse {
    /// 100 to 999, as it came.
    pub status: u16,
    /// As they came, content codings included.
    pub headers: HeaderMap,
    /// As far as it was read.
    pub body: ResponseBody,
    json: OnceLock<Option<Value>>,
}

impl TokenResponse {
    /// An answer whose body has been read as far as it goes.
    #[must_use]
    pub fn new(status: u16, headers: HeaderMap, body: ResponseBody) -> Self {
        Self {
            status,
            headers,
            body,
            json: OnceLock::new(),
        }
    }

    /// The body as JSON, parsed once; `None` where it is none.
    #[must_use]
    pub fn json(&self) -> Option<&Value> {
        self.json.get_or_init(|| json::read(self.bytes()?)).as_ref()
    }

    /// The body is text as JSON and we write it.
    #[must_use]
    pub fn is_utf8(&self) -> bool {
        self.bytes()
            .is_some_and(|bytes| std::str::from_utf8(bytes).is_ok())
    }

    fn bytes(&self) -> Option<&[u8]> {
        match &self.body {
            ResponseBody::Whole(bytes) => Some(bytes),
            ResponseBody::TooLarge | ResponseBody::Broken(_) | ResponseBody::Coded(_) => None,
        }
    }
}

/// What stands there, as JSON; text from elsewhere is a string. `null` is nothing.
#[must_use]
pub fn pick_value(response: &TokenResponse, pick: &ValueSource) -> Option<Value> {
    match pick {
        ValueSource::Pointer(pointer) => response
            .json()?
            .pointer(pointer)
            .filter(|v| !v.is_null())
            .cloned(),
        ValueSource::Header(name) => Some(Value::String(
            response.headers.get(name)?.to_str().ok()?.trim().to_owned(),
        )),
        ValueSource::Cookie(name) => cookie_value(response, name).map(Value::String),
        ValueSource::Body => Some(Value::String(
            std::str::from_utf8(response.bytes()?)
                .ok()?
                .trim()
                .to_owned(),
        )),
    }
}

/// What stands there, as text: strings as they are, numbers and booleans as JSON writes them. Lists
/// and tables are nothing.
#[must_use]
pub fn pick_text(response: &TokenResponse, pick: &ValueSource) -> Option<String> {
    match pick_value(response, pick)? {
        Value::String(text) => Some(text),
        Value::Bool(b) => Some(b.to_string()),
        Value::Number(n) => Some(n.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Where it was looked for, in words.
#[must_use]
pub fn describe_pick(pick: &ValueSource) -> String {
    match pick {
        ValueSource::Pointer(pointer) => pointer.clone(),
        ValueSource::Header(name) => format!("header {name}"),
        ValueSource::Cookie(name) => format!("cookie {name}"),
        ValueSource::Body => "the body".into(),
    }
}

/// RFC 6265 5.2; the last cookie of a name wins, as it would in a browser.
fn cookie_value(response: &TokenResponse, name: &str) -> Option<String> {
    let lines = response
        .headers
        .get_all(SET_COOKIE)
        .iter()
        .filter_map(|v| v.to_str().ok());
    let found = lines
        .filter_map(|line| cookie::Cookie::parse(line).ok())
        .rfind(|c| c.name() == name);
    found.map(|c| c.value_trimmed().to_owned())
}
