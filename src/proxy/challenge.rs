//! What a `WWW-Authenticate` field says (RFC 9110 11.6.1, RFC 6750 3). Total: any bytes give an
//! answer.

use std::borrow::Cow;

use http::{HeaderMap, header::WWW_AUTHENTICATE};

/// The vendor says that the token is good but may not do this: a new one would not help.
#[must_use]
pub fn insufficient_scope(headers: &HeaderMap) -> bool {
    let (mut scope, mut token) = (false, false);
    for field in headers.get_all(WWW_AUTHENTICATE) {
        errors(&String::from_utf8_lossy(field.as_bytes()), |error| {
            scope |= error == "insufficient_scope";
            token |= error == "invalid_token";
        });
    }
    scope && !token
}

/// Tells the `error` parameters of all challenges of one field line, one by one; what makes no
/// sense is skipped. Nothing is kept of the rest.
fn errors(field: &str, mut tell: impl FnMut(&str)) {
    let mut within_challenge = false;
    for item in items(field) {
        let item = item.trim();
        let word = &item[..token_length(item)];
        if word.is_empty() {
            continue;
        }
        let rest = &item[word.len()..];
        let parameter = if rest.trim_start().starts_with('=') {
            within_challenge.then_some(item)
        } else {
            // A scheme; what follows is a parameter, or token68, which says nothing to us.
            within_challenge = true;
            Some(rest.trim_start())
        };
        if let Some(error) = parameter.and_then(error) {
            tell(&error);
        }
    }
}

/// Splits at commas outside of quoted strings.
fn items(field: &str) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    field.split(move |c| {
        match (quoted, escaped, c) {
            (true, true, _) => escaped = false,
            (true, false, '\\') => escaped = true,
            (_, false, '"') => quoted = !quoted,
            (false, _, ',') => return true,
            _ => {}
        }
        false
    })
}

/// The value of `error = value` or `error = "quoted value"`, the name in any case.
fn error(text: &str) -> Option<Cow<'_, str>> {
    let name = &text[..token_length(text)];
    let value = text[name.len()..]
        .trim_start()
        .strip_prefix('=')?
        .trim_start();
    if !name.eq_ignore_ascii_case("error") {
        return None;
    }
    Some(match value.strip_prefix('"') {
        Some(quoted) => Cow::Owned(unquote(quoted)),
        None => Cow::Borrowed(&value[..token_length(value)]),
    })
}

fn unquote(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => break,
            '\\' => out.extend(chars.next()),
            c => out.push(c),
        }
    }
    out
}

/// Bytes of the token (RFC 9110 5.6.2) at the start; all of them ASCII, so the length is a
/// character boundary.
fn token_length(text: &str) -> usize {
    text.bytes()
        .take_while(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b))
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passes(fields: &[&str]) -> bool {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append(
                WWW_AUTHENTICATE,
                http::HeaderValue::from_bytes(field.as_bytes()).unwrap(),
            );
        }
        insufficient_scope(&headers)
    }

    #[test]
    fn r10_challenges_that_say_insufficient_scope_pass() {
        for fields in [
            &["Bearer error=\"insufficient_scope\""][..],
            &["bearer ERROR=insufficient_scope"],
            &["Bearer realm=\"a, b\", error=\"insufficient_scope\", scope=\"x y\""],
            &["Bearer realm=\"a \\\" , c\" , error = \"insufficient_scope\""],
            &["Basic realm=\"x\", Bearer error=\"insufficient_scope\""],
            &[
                "Basic realm=\"x\"",
                "Bearer scope=\"a\", error=\"insufficient_scope\"",
            ],
            &["Negotiate abc==, Bearer error=\"insufficient_scope\""],
            &["Negotiate, Bearer error=\"insufficient_scope\""],
            &[", ,Bearer ,error=\"insufficient_scope\","],
            &["Bearer   error=\"insufficient_scope\""],
            &["DPoP algs=\"ES256\", error=\"insufficient_scope\""],
            &["Bearer error=\"insufficient\\_scope\""],
            &["Bearer\terror=\"insufficient_scope\""],
            &["Bearer error=insufficient_scope, resource_metadata=\"https://a/b?c=d,e\""],
        ] {
            assert!(passes(fields), "{fields:?}");
        }
    }

    #[test]
    fn every_other_401_means_a_stale_token() {
        for fields in [
            &[][..],
            &[""],
            &["Bearer"],
            &["Bearer realm=\"x\""],
            &["Bearer error=\"invalid_token\""],
            &["Bearer error=\"invalid_request\""],
            &["Bearer error=\"invalid_token\", error_description=\"insufficient_scope\""],
            &["Basic realm=\"a, Bearer error=\\\"insufficient_scope\\\"\""],
            &["Basic realm=\"a, Bearer error=insufficient_scope\""],
            &[
                "Bearer error=\"insufficient_scope\"",
                "Bearer error=\"invalid_token\"",
            ],
            &["Bearer error=\"insufficient_scope_x\""],
            &["Bearer error=\"INSUFFICIENT_SCOPE\""],
            &["Bearer xerror=\"insufficient_scope\""],
            &["error=\"insufficient_scope\""],
            &["Bearer error"],
            &["Bearer error="],
            &["Bearer error=\"\""],
            &["Bearer error=\"insufficient_scope"[..30].trim_end_matches("scope")],
            &["Bearer insufficient_scope"],
            &["insufficient_scope"],
            &["Basic"],
            &["Basic realm=unquoted"],
            &["Negotiate YII="],
            &["DPoP error=\"invalid_token\", Bearer error=\"invalid_token\""],
            &["Bearer scope=\"insufficient_scope\""],
            &["==,==\",\"\\"],
            &["\"Bearer error=insufficient_scope\""],
        ] {
            assert!(!passes(fields), "{fields:?}");
        }
    }

    #[test]
    fn several_schemes_in_one_field_are_told_apart() {
        let mut all = Vec::new();
        let field = "Newauth realm=\"apps\", error=one, title=\"Login to \\\"error=no\\\"\", Basic realm=\"simple\", Error = \"t\\wo\"";
        errors(field, |error| all.push(error.to_owned()));
        assert_eq!(all, ["one", "two"]);
    }

    /// Time of a processor that this thread took: what else runs here does not count.
    fn thread_time() -> std::time::Duration {
        rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime)
            .try_into()
            .unwrap()
    }

    #[test]
    fn twice_the_challenges_take_about_twice_the_time() {
        for unit in [
            "a,",
            "a=\"\\\"\",",
            "Bearer error=x,",
            "\"",
            "=",
            "Bearer error=\"\\",
        ] {
            let took = |length: usize| {
                let mut headers = HeaderMap::new();
                let field: String = unit.chars().cycle().take(length).collect();
                headers.append(WWW_AUTHENTICATE, field.parse().unwrap());
                let least = |_| {
                    let begun = thread_time();
                    std::hint::black_box(insufficient_scope(&headers));
                    thread_time().saturating_sub(begun)
                };
                (0..5).map(least).min().unwrap()
            };
            let (half, whole) = (took(64 * 1024), took(256 * 1024));
            assert!(
                whole < half * 8 + std::time::Duration::from_millis(5),
                "{unit}: {half:?}, then {whole:?}"
            );
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,60}|[a-zA-Z=\", \\\\é]{0,60}") {
            errors(&text, |_| ());
        }

        #[test]
        fn a_realm_never_speaks_for_the_error(realm in "[ -~]{0,40}") {
            let escaped = realm.replace('\\', "\\\\").replace('"', "\\\"");
            let invalid = format!("Bearer realm=\"{escaped}\", error=\"invalid_token\"");
            proptest::prop_assert!(!passes(&[&invalid]));
            let insufficient = format!("Bearer realm=\"{escaped}\", error=\"insufficient_scope\"");
            proptest::prop_assert!(passes(&[&insufficient]));
        }
    }
}
