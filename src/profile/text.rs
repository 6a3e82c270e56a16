//! Texts of the profile language into values: durations, rates, sources, statuses. Errors say what
//! would be right.

use std::{collections::BTreeMap, time::Duration};

use http::{HeaderName, HeaderValue};
use regex::{Regex, RegexBuilder};
use url::Url;

use super::model::{StatusMatch, ValueSource};
use crate::{
    document::{Mistake, parse_duration},
    lock::Lock,
    net,
    token::Rate,
};

/// Stands for "off" where a duration is needed: longer than any process lives, short enough to
/// count with.
pub const NEVER: Duration = Duration::from_hours(100 * 365 * 24);

/// A duration of at most [`NEVER`].
///
/// # Errors
/// What would be right.
pub fn duration(text: &str) -> Result<Duration, Mistake> {
    parse_duration(text, NEVER)
}

/// "120/m": so many calls per unit or duration.
pub fn rate(text: &str) -> Result<Rate, Mistake> {
    let wrong = (
        "must be a number per unit",
        "such as \"120/m\", \"1000/d\" or \"10/10m\"",
    );
    let (n, per) = text.split_once('/').ok_or(wrong)?;
    let n = n.trim().parse().ok().filter(|n| *n > 0).ok_or(wrong)?;
    let per = per.trim();
    let per = if per.starts_with(|c: char| c.is_ascii_digit()) {
        duration(per)
    } else {
        duration(&format!("1{per}"))
    };
    let per = per.ok().filter(|per| !per.is_zero()).ok_or(wrong)?;
    Ok(Rate { n, per })
}

/// A JSON pointer, `header:NAME`, `cookie:NAME` or `body`.
pub fn pick(text: &str) -> Result<ValueSource, Mistake> {
    if text == "body" {
        return Ok(ValueSource::Body);
    }
    if let Some(name) = text.strip_prefix("header:") {
        return header(name).map(ValueSource::Header);
    }
    if let Some(name) = text.strip_prefix("cookie:") {
        return cookie(name).map(|()| ValueSource::Cookie(name.to_owned()));
    }
    let escapes_right = text
        .split('~')
        .skip(1)
        .all(|after| after.starts_with(['0', '1']));
    if text.starts_with('/') && escapes_right {
        return Ok(ValueSource::Pointer(text.to_owned()));
    }
    Err((
        "must be a JSON pointer, a header, a cookie or the body",
        "\"/access_token\", \"header:NAME\", \"cookie:NAME\" or \"body\"",
    ))
}

/// A header's name.
pub fn header(name: &str) -> Result<HeaderName, Mistake> {
    HeaderName::from_bytes(name.as_bytes()).map_err(|_| {
        (
            "is no header name",
            "letters, digits and `-`, such as X-Api-Key",
        )
    })
}

/// A header that a profile may set: not one that frames the message or names the host.
pub fn settable(name: &str) -> Result<HeaderName, Mistake> {
    const OURS: [&str; 10] = [
        "host",
        "content-length",
        "transfer-encoding",
        "connection",
        "keep-alive",
        "te",
        "trailer",
        "upgrade",
        "proxy-connection",
        "expect",
    ];
    let name = header(name)?;
    if OURS.contains(&name.as_str()) {
        Err((
            "may not be set: it belongs to the connection",
            "leave it out",
        ))
    } else {
        Ok(name)
    }
}

/// Whether a text can be a header's value: visible ASCII, spaces and tabs inside.
pub fn header_value(text: &str) -> Result<(), Mistake> {
    let visible = HeaderValue::from_str(text).is_ok() && text.is_ascii() && text.trim() == text;
    if visible {
        Ok(())
    } else {
        Err((
            "cannot be a header value",
            "visible ASCII, no line break, no space at either end",
        ))
    }
}

/// A cookie's name: a token (RFC 6265 4.1.1).
pub fn cookie(name: &str) -> Result<(), Mistake> {
    let token = !name.is_empty()
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b));
    if token {
        Ok(())
    } else {
        Err(("is no cookie name", "letters, digits, `-` and `_`"))
    }
}

/// "429", "5xx", 429.
pub fn status(value: &serde_json::Value) -> Result<StatusMatch, Mistake> {
    let wrong = (
        "must be a status or a class of them",
        "a number from 100 to 599, or \"1xx\" to \"5xx\"",
    );
    let text = match value {
        serde_json::Value::Number(n) => n.to_string(),
        serde_json::Value::String(s) => s.to_ascii_lowercase(),
        _ => return Err(wrong),
    };
    let class = text
        .strip_suffix("xx")
        .and_then(|digit| digit.parse().ok())
        .filter(|class| (1..=5).contains(class));
    let exact = text.parse().ok().filter(|code| (100..=599).contains(code));
    class
        .map(StatusMatch::Class)
        .or(exact.map(StatusMatch::Exact))
        .ok_or(wrong)
}

/// A pattern that begins with `^` and ends with `$`, made to match whole texts whatever stands
/// between.
pub fn anchored(pattern: &str) -> Result<Regex, Mistake> {
    let inner = pattern.strip_prefix('^').and_then(|p| p.strip_suffix('$'));
    let escaped =
        inner.is_some_and(|inner| inner.bytes().rev().take_while(|b| *b == b'\\').count() % 2 == 1);
    match inner {
        Some(inner) if !escaped => whole(inner),
        _ => Err((
            "must begin with ^ and end with $, so that it speaks of the whole value",
            "such as \"^[0-9]+$\"",
        )),
    }
}

/// A pattern that matches whole texts.
pub fn whole(pattern: &str) -> Result<Regex, Mistake> {
    /// Patterns that are remembered: many credentials start from one profile.
    const KNOWN: usize = 256;
    static MADE: Lock<BTreeMap<String, Regex>> = Lock::new(BTreeMap::new());
    if pattern.len() > 1024 {
        return Err((
            "is longer than 1024 bytes",
            "a pattern describes what values look like: make it shorter",
        ));
    }
    let lock = || MADE.lock();
    if let Some(known) = lock().get(pattern) {
        return Ok(known.clone());
    }
    let make = |text: &str| {
        RegexBuilder::new(text)
            .size_limit(4 * 1024 * 1024)
            .nest_limit(32)
            .build()
    };
    // Compiled alone first: "a)(b" would close our bracket.
    let made = make(pattern)
        .and_then(|_| make(&format!(r"\A(?:{pattern})\z")))
        .map_err(|error| match error {
            regex::Error::CompiledTooBig(_) => (
                "is too large once it is compiled",
                "repeat less, and write [0-9a-z] rather than \\d and \\w",
            ),
            _ => (
                "is not a valid regular expression",
                "see https://docs.rs/regex/latest/regex/#syntax",
            ),
        })?;
    let mut known = lock();
    if known.len() < KNOWN {
        known.insert(pattern.to_owned(), made.clone());
    }
    Ok(made)
}

/// A token URL is https (or http to loopback, or with `allow_plaintext`), with a host, without user
/// name, password and fragment.
///
/// # Errors
/// What is wrong and what to do, without the URL itself.
pub fn parse_token_url(text: &str, allow_plaintext: bool) -> Result<Url, Mistake<String>> {
    let url = Url::parse(text).map_err(|e| (format!("is no URL ({e})"), "https://HOST/PATH"))?;
    match url.scheme() {
        "https" => {}
        "http" if net::is_own_url(&url) || allow_plaintext => {}
        "http" => {
            return Err((
                "would send secrets over plain http".into(),
                "use https, or set allow_plaintext = true",
            ));
        }
        _ => return Err(("must be an https URL".into(), "https://HOST/PATH")),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err((
            "must not hold a user name or password".into(),
            "use secrets and client_auth = \"basic\"",
        ));
    }
    if url.fragment().is_some() {
        return Err((
            "must not have a fragment (#…)".into(),
            "leave # and what follows it out",
        ));
    }
    Ok(url)
}

/// Names that templates can speak of.
pub fn identifier(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn rates_are_a_number_per_unit_or_duration() {
        assert_eq!(
            rate("120/m").unwrap(),
            Rate {
                n: 120,
                per: Duration::from_mins(1)
            }
        );
        assert_eq!(
            rate("10/10m").unwrap(),
            Rate {
                n: 10,
                per: Duration::from_mins(10)
            }
        );
        for text in ["", "0/m", "5", "5/", "/m", "5/0s", "-1/s", "5/w"] {
            assert!(rate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sources_are_pointers_headers_cookies_or_the_body() {
        assert_eq!(pick("/a~1b").unwrap(), ValueSource::Pointer("/a~1b".into()));
        assert_eq!(
            pick("header:X-T").unwrap(),
            ValueSource::Header(HeaderName::from_static("x-t"))
        );
        assert_eq!(
            pick("cookie:sid").unwrap(),
            ValueSource::Cookie("sid".into())
        );
        assert_eq!(pick("body").unwrap(), ValueSource::Body);
        for text in [
            "",
            "access_token",
            "/a~2",
            "header:",
            "header:a b",
            "cookie:",
            "cookie:a=b",
        ] {
            assert!(pick(text).is_err(), "{text}");
        }
    }

    #[test]
    fn statuses_are_codes_or_classes() {
        assert_eq!(status(&json!(429)).unwrap(), StatusMatch::Exact(429));
        assert_eq!(status(&json!("5XX")).unwrap(), StatusMatch::Class(5));
        for value in [
            json!(99),
            json!(600),
            json!("6xx"),
            json!("xx"),
            json!(true),
            json!(4.5),
        ] {
            assert!(status(&value).is_err(), "{value}");
        }
    }

    #[test]
    fn an_anchored_pattern_matches_whole_values_only() {
        let pattern = anchored("^a|b$").unwrap();
        assert!(pattern.is_match("a") && pattern.is_match("b"));
        assert!(!pattern.is_match("ax") && !pattern.is_match("a\n"));
        for text in ["", "a", "^a", "a$", "^a\\$", "^(a$", "^a)(b$", "^"] {
            assert!(anchored(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_gives_a_value_or_an_error(text in ".{0,40}") {
            let _ = (duration(&text), rate(&text), pick(&text), anchored(&text), whole(&text), settable(&text), header_value(&text));
            let _ = status(&json!(text));
        }
    }
}
