//! What a `WWW-Authenticate` field says (RFC 9110 11.6.1, RFC 6750 3). Total: any bytes give an answer.

use http::{HeaderMap, header::WWW_AUTHENTICATE};

/// One challenge: its scheme in lower case, and its parameters with names in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Challenge {
    scheme: String,
    params: Vec<(String, String)>,
}

/// The vendor says that the token is good but may not do this: a new one would not help.
#[must_use]
pub fn insufficient_scope(headers: &HeaderMap) -> bool {
    let all: Vec<Challenge> =
        headers.get_all(WWW_AUTHENTICATE).iter().flat_map(|v| parse(&String::from_utf8_lossy(v.as_bytes()))).collect();
    let says = |what: &str| all.iter().flat_map(|c| &c.params).any(|(n, v)| n == "error" && v == what);
    says("insufficient_scope") && !says("invalid_token")
}

/// All challenges of one field line; what makes no sense is skipped.
fn parse(field: &str) -> Vec<Challenge> {
    let mut all: Vec<Challenge> = Vec::new();
    for item in items(field) {
        let item = item.trim();
        let word = &item[..token_length(item)];
        if word.is_empty() {
            continue;
        }
        let rest = &item[word.len()..];
        if rest.trim_start().starts_with('=') {
            if let (Some(challenge), Some(param)) = (all.last_mut(), param(item)) {
                challenge.params.push(param);
            }
            continue;
        }
        // A scheme; what follows is a parameter, or token68, which says nothing to us.
        let params = param(rest.trim_start()).into_iter().collect();
        all.push(Challenge { scheme: word.to_ascii_lowercase(), params });
    }
    all
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

/// `name = value` or `name = "quoted value"`.
fn param(text: &str) -> Option<(String, String)> {
    let name = &text[..token_length(text)];
    let value = text[name.len()..].trim_start().strip_prefix('=')?.trim_start();
    let value = match value.strip_prefix('"') {
        Some(quoted) => unquote(quoted),
        None => value[..token_length(value)].to_owned(),
    };
    (!name.is_empty()).then(|| (name.to_ascii_lowercase(), value))
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

/// Bytes of the token (RFC 9110 5.6.2) at the start; all of them ASCII, so the length is a character boundary.
fn token_length(text: &str) -> usize {
    text.bytes().take_while(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passes(fields: &[&str]) -> bool {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append(WWW_AUTHENTICATE, http::HeaderValue::from_bytes(field.as_bytes()).unwrap());
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
            &["Basic realm=\"x\"", "Bearer scope=\"a\", error=\"insufficient_scope\""],
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
            &["Bearer error=\"insufficient_scope\"", "Bearer error=\"invalid_token\""],
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
        let all = parse("Newauth realm=\"apps\", type=1, title=\"Login to \\\"apps\\\"\", Basic realm=\"simple\"");
        assert_eq!(all.iter().map(|c| c.scheme.as_str()).collect::<Vec<_>>(), ["newauth", "basic"]);
        assert_eq!(all[0].params[2], ("title".to_owned(), "Login to \"apps\"".to_owned()));
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,60}|[a-zA-Z=\", \\\\é]{0,60}") {
            let _ = parse(&text);
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
