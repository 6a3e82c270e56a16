//! Tests of building profiles: what is refused, where it is said, and what comes out.

use std::{fs, path::PathBuf, time::Duration};

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::profile::model::{ClientAuth, InjectPlace, MomentFormat, Param, RuleMeaning};

#[path = "dry_run_tests.rs"]
mod dry_runs;
#[path = "rules_tests.rs"]
mod rules;

struct Try {
    profile: Option<Profile>,
    found: Vec<(String, String, String)>,
    files: Vec<Option<PathBuf>>,
}

impl Try {
    /// Whether some problem stands at `key` and says (or hints) `words`.
    #[track_caller]
    fn says(&self, key: &str, words: &str) {
        let hit = self
            .found
            .iter()
            .any(|(k, what, hint)| k == key && (what.contains(words) || hint.contains(words)));
        assert!(hit, "{key}: {words} not in {:#?}", self.found);
    }
    #[track_caller]
    fn right(self) -> Profile {
        assert!(self.found.is_empty(), "{:#?}", self.found);
        self.profile.unwrap()
    }
}

fn pairs(value: &Value) -> BTreeMap<String, String> {
    value
        .as_object()
        .unwrap()
        .iter()
        .map(|(k, v)| (k.clone(), v.as_str().unwrap().to_owned()))
        .collect()
}

fn on(base: &ProfileRef, overrides: Value, settings: &Value, secrets: Option<&[&str]>) -> Try {
    let mut problems = Problems::default();
    let Value::Object(overrides) = overrides else {
        panic!("a table")
    };
    let names = secrets.map(|names| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>());
    let given = CredentialInputs {
        settings: &pairs(settings),
        secrets: names.as_deref(),
        blind: true,
        files: &ProfileFiles::default(),
    };
    let profile = build(
        base,
        &overrides,
        given,
        "credentials.x",
        Path::new("/etc/cup"),
        &mut problems,
    );
    assert_eq!(profile.is_none(), problems.fatal());
    let list = problems.into_list();
    let files = list.iter().map(|p| p.file.clone()).collect();
    let found = list
        .into_iter()
        .map(|p| {
            (
                p.key,
                p.what,
                p.hint.filter(|hint| !hint.is_empty()).unwrap(),
            )
        })
        .collect();
    Try {
        profile,
        found,
        files,
    }
}

/// The plain profile with overrides.
fn oauth2(overrides: Value) -> Try {
    on(
        &ProfileRef::Builtin("oauth2".into()),
        overrides,
        &json!({"token_url": "https://a.example/t"}),
        None,
    )
}

fn access(overrides: Value) -> Try {
    oauth2(Value::Object(
        [(
            "tokens".to_owned(),
            Value::Object([("access".to_owned(), overrides)].into_iter().collect()),
        )]
        .into_iter()
        .collect(),
    ))
}

/// A user's own profile.
fn own(text: &str) -> Try {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vendor.toml");
    fs::write(&path, text).unwrap();
    on(
        &ProfileRef::File { file: path },
        json!({}),
        &json!({}),
        None,
    )
}

#[test]
fn every_mistake_is_told_in_one_go_at_its_own_key() {
    let tried = oauth2(json!({
        "tokens": {"access": {
            "lifetime": {"cap": 5, "capp": "4m", "idle": "5 minutes", "refresh": "ahed"},
            "params": {"client_id": "x", "resource": "https://api.example/#a", "a": "{{ secrets.client_idd }}", "deep": {"a": 1}},
            "headers": {"Bad Name": "x", "X-A": "{{ tokens.acess }}", "X-B": "line\nbreak", "Host": "h"},
            "formatt": "json", "method": "DELETE", "timeout": "0s", "body": 3,
        }},
        "inject": {"headers": {"X-C": "{{ nobody }}", "X-D": "{{ broken"}, "cookies": {"a b": "c"}},
        "partition": {"p": {"header": "X-P", "pattern": "[a-z]+"}, "q": {"header": "X-Q", "pattern": "^($"}},
        "errors": [{"at": "token", "status": [700], "then": "stale_token"}, {"status": 400, "then": "ok", "in": ["x"]}],
        "guard": {"rate": ["120"], "max_rejections": 0, "hold": "soon"},
        "vendd": true,
    }));
    for (key, words) in [
        (
            "tokens.access.lifetime.cap",
            "must be a duration such as \"30s\", not a number",
        ),
        ("tokens.access.lifetime.capp", "did you mean \"cap\"?"),
        ("tokens.access.lifetime.idle", "is not a duration"),
        ("tokens.access.lifetime.refresh", "did you mean \"ahead\"?"),
        ("tokens.access.params.client_id", "sent twice"),
        ("tokens.access.params.resource", "fragment"),
        ("tokens.access.params.a", "did you mean \"client_id\"?"),
        ("tokens.access.params.deep", "only with format = \"json\""),
        ("tokens.access.headers.\"Bad Name\"", "no header name"),
        ("tokens.access.headers.X-A", "unknown token: acess"),
        ("tokens.access.headers.X-B", "cannot be a header value"),
        ("tokens.access.headers.Host", "may not be set"),
        ("tokens.access.formatt", "did you mean \"format\"?"),
        ("tokens.access.method", "must be one of POST"),
        ("tokens.access.timeout", "longer than nothing"),
        ("tokens.access.body", "must be text in quotes, not a number"),
        ("inject.headers.X-C", "unknown setting: nobody"),
        ("inject.headers.X-D", "is not a template"),
        ("inject.cookies.\"a b\"", "no cookie name"),
        ("partition.p.pattern", "must begin with ^"),
        ("partition.q.pattern", "not a valid regular expression"),
        ("errors[0].status[0]", "must be a status"),
        ("errors[0].then", "must be one of ok, retry"),
        ("errors[1].at", "is missing"),
        ("errors[1].path", "is missing"),
        ("guard.rate[0]", "number per unit"),
        ("guard.max_rejections", "from 1"),
        ("guard.hold", "is not a duration"),
        ("vendd", "did you mean \"vend\"?"),
    ] {
        tried.says(&format!("credentials.x.{key}"), words);
    }
}

#[test]
fn defaults_are_those_that_are_promised() {
    let profile = oauth2(json!({})).right();
    let token = &profile.tokens[0];
    assert_eq!(
        (token.timeout, token.method.as_str()),
        (Duration::from_secs(10), "POST")
    );
    assert_eq!(token.response.expires_unit, Duration::from_secs(1));
    assert!(
        token.response.jwt_exp
            && token.response.expires_at.is_none()
            && token.response.expires_at_format == MomentFormat::Auto
    );
    let life = &token.lifetime;
    assert_eq!(
        (life.default, life.rest_after, life.min_remaining),
        (
            Duration::from_mins(5),
            Duration::from_hours(1),
            Duration::ZERO
        )
    );
    assert!(life.cap.is_none() && life.idle.is_none() && life.refresh_before.is_none());
    assert_eq!(
        (
            profile.max_waiters,
            profile.limits.max_rejections,
            profile.limits.rate.len()
        ),
        (10_000, 2, 1)
    );
    assert_eq!(
        profile.limits.hold,
        crate::token::Hold::For(Duration::from_mins(1))
    );
}

#[test]
fn a_credential_overrides_single_keys_and_drops_others() {
    let overrides = json!({
        "tokens": {"access": {"lifetime": {"cap": "4m", "rest_after": "off"}, "drop": ["params.audience"]}},
        "inject": {"drop": ["headers.authorization"], "query": {"access_token": "{{ token }}"}},
    });
    let profile = oauth2(overrides).right();
    assert_eq!(profile.tokens[0].lifetime.cap, Some(Duration::from_mins(4)));
    assert!(profile.tokens[0].lifetime.rest_after > Duration::from_hours(24 * 365));
    assert_eq!(
        profile.tokens[0].params.keys().collect::<Vec<_>>(),
        ["resource", "scope"]
    );
    assert!(matches!(&profile.inject[..], [(InjectPlace::Query(_), _)]));
}

#[test]
fn header_names_know_no_case_when_tables_are_merged() {
    let profile =
        oauth2(json!({"inject": {"headers": {"authorization": "Token {{ token }}"}}})).right();
    assert_eq!(profile.injected_headers().len(), 1);
    assert_eq!(
        profile.injected_headers()[0].1.source(),
        "Token {{ token }}"
    );
    oauth2(json!({"inject": {"headers": {"X-a": "1", "x-A": "2"}}}))
        .says("credentials.x.inject.headers.x-A", "twice");
    oauth2(json!({"inject": {"drop": ["headers.Autorization"]}}))
        .says("credentials.x.inject.drop[0]", "there is no");
}

#[test]
fn a_users_error_rules_come_first_and_keep_their_own_numbers() {
    let base = ProfileRef::Builtin("mypos".into());
    let settings = json!({"partner_id": "p", "application_id": "a"});
    let profile = on(
        &base,
        json!({"errors": [{"at": "token", "status": "4xx", "then": "retry"}]}),
        &settings,
        None,
    )
    .right();
    assert_eq!(
        profile
            .errors
            .iter()
            .map(|rule| rule.then)
            .collect::<Vec<_>>(),
        [
            RuleMeaning::Retry,
            RuleMeaning::Retry,
            RuleMeaning::Rejected
        ]
    );
    let file = "extends = \"mypos\"\n[[errors]]\nat = \"token\"\nthen = \"ok\"\ntoken = \"nope\"\n";
    own(file).says("errors[0].token", "unknown token");
}

#[test]
fn a_mistake_in_a_profile_file_is_told_with_the_file_and_its_own_key() {
    let tried = own(
        "[tokens.access]\nurl = \"ftp://x\"\nclient_auth = \"none\"\n[tokens.access.lifetime]\ncapp = \"1m\"\n",
    );
    tried.says("tokens.access.url", "must be an https URL");
    tried.says("tokens.access.lifetime.capp", "cap");
    assert!(tried.files.iter().all(|file| {
        file.as_ref()
            .is_some_and(|file| file.ends_with("vendor.toml"))
    }));
    own("a = [").says("credentials.x.profile", "line 1");
    let missing = on(
        &ProfileRef::File {
            file: "nowhere.toml".into(),
        },
        json!({}),
        &json!({}),
        None,
    );
    missing.says("credentials.x.profile", "/etc/cup/nowhere.toml");
    on(
        &ProfileRef::Builtin("keycloack".into()),
        json!({}),
        &json!({}),
        None,
    )
    .says("credentials.x.profile", "did you mean \"keycloak\"?");
}

#[test]
fn profiles_that_extend_each_other_in_a_circle_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (name, other) in [("a", "b"), ("b", "a")] {
        fs::write(
            folder.path().join(format!("{name}.toml")),
            format!("extends = {{ file = \"{other}.toml\" }}"),
        )
        .unwrap();
    }
    let tried = on(
        &ProfileRef::File {
            file: folder.path().join("a.toml"),
        },
        json!({}),
        &json!({}),
        None,
    );
    assert!(tried.found[0].1.contains("circle"), "{:?}", tried.found);
    own("extends = 5").says("extends", "built-in profile's name");
}

#[test]
fn tokens_are_sorted_by_who_is_made_with_whom() {
    let text = r#"
        [tokens.a]
        url = "https://x.example/{{ vars.region }}"
        client_auth = "none"
        headers = { Authorization = "Bearer {{ tokens.c }}" }
        [tokens.b]
        url = "https://x.example/b"
        client_auth = "none"
        response = { vars = { region = "/region" } }
        [tokens.c]
        url = "https://x.example/c"
        client_auth = "none"
    "#;
    let profile = own(text).right();
    let names: Vec<&str> = profile.tokens.iter().map(|token| &*token.name).collect();
    assert_eq!(names, ["b", "c", "a"]);
    assert_eq!(profile.tokens[2].parents, [0, 1]);
}

#[test]
fn a_circle_of_tokens_is_refused() {
    let token = |name: &str, other: &str| {
        format!(
            "[tokens.{name}]\nurl = \"https://x.example\"\nclient_auth = \"none\"\nheaders = {{ A = \"{{{{ tokens.{other} }}}}\" }}\n"
        )
    };
    own(&(token("a", "b") + &token("b", "c") + &token("c", "b"))).says("tokens.b", "b → c → b");
    own(&token("a", "a")).says("tokens.a.headers.A", "cannot be made with itself");
}

#[test]
fn token_urls_are_https_or_loopback_or_allowed() {
    for url in [
        "https://a.example/t",
        "http://127.0.0.1:1/t",
        "http://[::1]/t",
        "http://localhost/t",
        "http://x.localhost/t",
        "https://{{ secrets.client_id }}/",
    ] {
        access(json!({"url": url})).right();
    }
    access(json!({"url": "http://a.example/t", "allow_plaintext": true})).right();
    for (url, words) in [
        ("http://a.example/t", "plain http"),
        ("https://u:p@a.example/t", "user name"),
        ("https://a.example/t#f", "fragment"),
        ("/t", "no URL"),
        ("file:///x", "https URL"),
    ] {
        access(json!({"url": url})).says("credentials.x.tokens.access.url", words);
    }
    let missing = on(
        &ProfileRef::Builtin("oauth2".into()),
        json!({}),
        &json!({}),
        None,
    );
    assert_eq!(missing.found.len(), 1);
    missing.says("credentials.x.settings.token_url", "is missing");
}

#[test]
fn settings_are_checked_against_the_profile() {
    let base = ProfileRef::Builtin("worldline".into());
    let tried = on(
        &base,
        json!({}),
        &json!({"base": "https://a.example", "realm": "a/b", "scop": "VOP"}),
        None,
    );
    tried.says("credentials.x.settings.base", "does not match");
    tried.says("credentials.x.settings.realm", "does not match");
    tried.says("credentials.x.settings.scop", "did you mean \"scope\"?");
    tried.says("credentials.x.settings.scope", "is missing");
}

#[test]
fn secrets_are_checked_against_what_the_profile_uses() {
    let settings = json!({"token_url": "https://a.example/t"});
    let base = ProfileRef::Builtin("oauth2".into());
    let tried = on(
        &base,
        json!({}),
        &settings,
        Some(&["client_id", "client_secert"]),
    );
    tried.says("credentials.x.secrets", "secret client_secret is missing");
    tried.says(
        "credentials.x.secrets.client_secert",
        "did you mean \"client_secret\"?",
    );
    let none = json!({"token_url": "https://a.example/t", "client_auth": "none"});
    on(&base, json!({}), &none, Some(&[])).right();
    let jwt = json!({"token_url": "https://a.example/t", "client_auth": "private_key_jwt"});
    on(&base, json!({}), &jwt, Some(&["client_id"]))
        .says("credentials.x.secrets", "secret private_key is missing");
    let key = json!({"inject": {"headers": {"X-K": "{{ secrets.key }}"}}});
    let fixed = ProfileRef::Builtin("static".into());
    on(&fixed, key.clone(), &json!({}), Some(&["key", "other"])).right();
    on(&fixed, key, &json!({}), Some(&["kye"]))
        .says("credentials.x.inject.headers.X-K", "did you mean \"kye\"?");
    on(&fixed, json!({}), &json!({}), None)
        .says("credentials.x.inject", "nothing would be put on a request");
}

#[test]
fn client_authentication_and_assertions_must_fit() {
    access(json!({"assertion": {"alg": "RS256"}}))
        .says("credentials.x.tokens.access.assertion", "not used");
    access(json!({"headers": {"A": "{{ assertion }}"}}))
        .says("credentials.x.tokens.access.assertion", "is missing");
    let wrong = json!({"client_auth": "private_key_jwt", "assertion": {"alg": "HS256", "key": "{{ secrets.client_secret }}"}});
    access(wrong).says("credentials.x.tokens.access.assertion.alg", "does not fit");
    access(json!({"client_auth": "private_key_jwt", "assertion": {"alg": "RS265"}}))
        .says("credentials.x.tokens.access.assertion.alg", "RS256");
    own("[tokens.a]\nurl = \"https://x.example\"\n")
        .says("tokens.a.client_auth", "needs a secret client_secret");
}

#[test]
fn a_token_may_be_its_own_assertion() {
    let text = "[secrets.private_key]\n[tokens.a]\nformat = \"none\"\n[tokens.a.assertion]\nalg = \"ES256\"\nclaims = { nbf = \"{{ now.epoch }}\", n = 1 }\n";
    let profile = own(text).right();
    let token = &profile.tokens[0];
    assert!(
        token.url.is_none() && token.grant_type.is_none() && token.client_auth == ClientAuth::None
    );
    assert!(matches!(
        token.assertion.as_ref().unwrap().claims["n"],
        Param::Number(_)
    ));
    own("[tokens.a]\nformat = \"none\"\n").says("tokens.a.assertion", "the assertion is the token");
    own("[tokens.a]\nurl = \"https://x.example\"\nformat = \"none\"\nparams = { a = \"b\" }\n")
        .says("tokens.a.params", "cannot be sent");
}

#[test]
fn moments_need_a_zone() {
    let format = |value: Value| {
        access(json!({"response": {"expires_at": "/at", "expires_at_format": value}}))
    };
    format(json!({"format": "%Y-%m-%d %H:%M:%S", "zone": "Asia/Seoul"})).right();
    format(json!({"format": "%d.%m.%Y %H:%M", "zone": "+09:00"})).right();
    format(json!("%Y-%m-%dT%H:%M:%S%z")).right();
    let at = "credentials.x.tokens.access.response.expires_at_format";
    format(json!("%Y-%m-%d %H:%M:%S")).says(at, "says no zone");
    format(json!({"format": "%Y", "zone": "Mars/Olympus"})).says(at, "zone that is not known");
    format(json!({"fromat": "%Y"})).says(at, "must be \"auto\"");
}

#[test]
fn a_profile_that_says_nothing_of_headers_injects_a_bearer_token() {
    let token = "[tokens.a]\nurl = \"https://x.example\"\nclient_auth = \"none\"\n";
    assert_eq!(
        own(token).right().injected_headers()[0].1.source(),
        "Bearer {{ token }}"
    );
    let other = own(&format!(
        "{token}[inject.headers]\nX-A = \"{{{{ token }}}}\"\n"
    ))
    .right();
    assert_eq!(
        (
            other.injected_headers().len(),
            other.injected_headers()[0].0.as_str()
        ),
        (1, "x-a")
    );
    let query = own(&format!("{token}[inject]\ndrop = [\"headers.Authorization\"]\nquery = {{ t = \"{{{{ token }}}}\" }}\n")).right();
    assert!(query.injected_headers().is_empty());
}

#[test]
fn files_of_a_tls_table_are_relative_to_where_they_are_written() {
    let profile = access(json!({"tls": {"ca_file": "ca.pem", "client_cert_file": "/c.pem", "client_key_file": "k.pem"}})).right();
    let tls = &profile.tokens[0].tls;
    assert_eq!(tls.ca_file.as_deref(), Some(Path::new("/etc/cup/ca.pem")));
    assert_eq!(tls.client_cert_file.as_deref(), Some(Path::new("/c.pem")));
    access(json!({"tls": {"client_key_file": "k.pem", "ca_only": true}})).says(
        "credentials.x.tokens.access.tls.client_cert_file",
        "belong together",
    );
}

#[test]
fn every_key_that_may_be_written_is_described_in_the_schema() {
    fn described(schema: &Value, path: &str) {
        for (name, property) in schema
            .get("properties")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
        {
            assert!(property.get("description").is_some(), "{path}.{name}");
        }
    }
    for schema in [
        schemars::schema_for!(CredentialTable),
        schemars::schema_for!(HeadTable),
    ] {
        let schema = schema.as_value();
        described(schema, "");
        for (name, definition) in schema["$defs"].as_object().unwrap() {
            if name.ends_with("Table") && definition["additionalProperties"] == json!(false) {
                described(definition, name);
            }
        }
    }
}

fn anything() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        "\\{\\{ (secrets|tokens|vars|now|token|base|[a-z]{1,4})(\\.[a-z]{1,6})? \\}\\}"
            .prop_map(Value::from),
    ];
    let key = prop_oneof![
        "(tokens|access|inject|headers|params|partition|errors|guard|lifetime|response|assertion|claims|vars|cap|rate|at|then|status|path|in|drop|url|format|tls|extends)",
        ".{0,6}"
    ];
    leaf.prop_recursive(5, 40, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(key.clone(), inner, 0..6)
                .prop_map(|m| m.into_iter().collect())
        ]
    })
}

proptest! {
    #[test]
    fn any_overrides_build_or_say_why(tokens in anything(), rest in anything(), name in "(oauth2|mypos|static|worldline_jwt|lean_customer)") {
        let base = ProfileRef::Builtin(name);
        let _ = on(&base, json!({"tokens": {"access": tokens}}), &json!({"token_url": "https://a.example"}), Some(&[]));
        if rest.is_object() {
            let _ = on(&base, rest.clone(), &json!({}), None);
        }
        let _ = on(&base, json!({"errors": [rest.clone()], "inject": rest.clone(), "partition": {"p": rest}}), &json!({}), None);
    }

    #[test]
    fn any_profile_file_builds_or_says_why(text in "([a-z]{1,6} ?= ?(\"[a-z{} .]{0,9}\"|[0-9]{1,3}|\\[\\])\n|\\[(tokens|inject|secrets)\\.[a-z]{1,5}\\]\n|.{0,9}\n){0,9}") {
        let _ = own(&text);
    }
}
