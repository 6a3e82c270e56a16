//! The environment over the file.

use std::collections::BTreeSet;

use super::*;

#[test]
fn a_variable_with_two_underscores_overrides_a_key() {
    let config = good_with(
        "[proxy]\ndrain = \"1s\"\nworkers = 2\n",
        &[
            ("CUPBEARER_PROXY__DRAIN", "5s"),
            ("CUPBEARER_PROXY__LIMITS__HEADERS", "7"),
        ],
    );
    assert_eq!(
        (
            config.proxy.drain,
            config.proxy.workers,
            config.proxy.limits.headers
        ),
        (Duration::from_secs(5), 2, 7)
    );
}

#[test]
fn other_variables_of_ours_are_left_alone() {
    let kubernetes = [
        ("CUPBEARER_PORT", "tcp://10.0.0.1:80"),
        ("CUPBEARER_SERVICE_HOST", "10.0.0.1"),
        ("CUPBEARER__X_PORT", "1"),
        ("CUPBEARER_CONFIG", "x"),
        ("X__Y", "1"),
    ];
    assert!(all(OPEN, &kubernetes, Severity::Problem).is_empty());
}

#[test]
fn values_of_string_keys_are_taken_as_they_are() {
    let config = good_with(
        "",
        &[
            ("CUPBEARER_PROXY__VIA", "12345"),
            ("CUPBEARER_PROXY__CLIENT_AUTH", "0815"),
        ],
    );
    assert_eq!(config.proxy.via.as_deref(), Some("12345"));
    assert_eq!(
        config.proxy.client_auth,
        [Source::Value(crate::secret::Secret::new("0815".into()))]
    );
    let config = good_with(
        "",
        &[
            ("CUPBEARER_PROXY__CLIENT_AUTH__ENV", "PASS"),
            ("PASS", "x=y"),
        ],
    );
    assert_eq!(
        config.proxy.client_auth,
        [Source::Value(crate::secret::Secret::new("x=y".into()))]
    );
}

#[test]
fn other_values_are_read_as_toml() {
    let config = good_with(
        "",
        &[
            ("CUPBEARER_PROXY__ACCESS_LOG", "true"),
            ("CUPBEARER_PROXY__LISTEN", "[\"127.0.0.1:1\"]"),
            ("CUPBEARER_ADMIN__HOSTS", "a.example, b.example"),
        ],
    );
    assert!(config.proxy.access_log);
    assert_eq!(
        config.proxy.listen,
        [ListenAddress::Tcp("127.0.0.1:1".parse().unwrap())]
    );
    assert_eq!(config.admin.hosts, ["a.example", "b.example"]);
}

#[test]
fn names_with_a_hyphen_are_found_under_an_underscore() {
    let text = OPEN.replace("upstreams.a", "upstreams.my-api");
    let config = good_with(
        &text,
        &[("CUPBEARER_UPSTREAMS__MY_API__URL", "https://other.example")],
    );
    assert_eq!(config.upstreams[0].target.host, "other.example");
}

#[test]
fn a_mistake_in_a_variable_names_the_variable() {
    let found = all(
        OPEN,
        &[
            ("CUPBEARER_PROXY__DRAIN", "5 minutes"),
            ("CUPBEARER_PROXI__DRAIN", "5s"),
        ],
        Severity::Problem,
    );
    let drain = found
        .iter()
        .find(|problem| problem.key == "proxy.drain")
        .unwrap();
    assert!(drain.what.contains("CUPBEARER_PROXY__DRAIN"), "{drain}");
    assert_eq!(found.len(), 1, "{found:#?}");
}

#[test]
fn a_variable_whose_first_part_is_no_table_of_ours_is_ignored_with_advice() {
    let env = [
        ("CUPBEARER_EU__CANARY_SERVICE_HOST", "10.0.0.1"),
        ("CUPBEARER_EU__CANARY_PORT", "tcp://10.0.0.1:80"),
        ("CUPBEARER_PROXI__DRAIN", "5s"),
    ];
    assert!(all(OPEN, &env, Severity::Problem).is_empty());
    let told = all(OPEN, &env, Severity::Lint);
    assert_eq!(
        told.iter()
            .map(|lint| lint.key.as_str())
            .collect::<Vec<_>>(),
        env.map(|(name, _)| name)
            .into_iter()
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect::<Vec<_>>()
    );
    assert!(
        told.iter()
            .all(|lint| lint.what.contains("is ignored") && !lint.to_string().contains("10.0.0.1")),
        "{told:#?}"
    );
    assert!(
        told[2]
            .hint
            .as_deref()
            .unwrap()
            .contains("did you mean \"proxy\"?"),
        "{told:#?}"
    );
}

#[test]
fn variables_that_contradict_each_other_are_a_mistake() {
    let found = all(
        "",
        &[
            ("CUPBEARER_PROXY__DRAIN", "5s"),
            ("CUPBEARER_PROXY__DRAIN__X", "5s"),
        ],
        Severity::Problem,
    );
    assert_eq!(found.len(), 1, "{found:?}");
}

const A: &str = "[credentials.a]\nsettings = { token_url = \"https://auth.example/t\" }\n\
                 secrets = { client_id = \"i\", client_secret = { env = \"S\" } }\n\
                 [upstreams.a]\nurl = \"https://api.example\"\ncredential = \"a\"\n";

#[test]
fn a_mistake_in_a_setting_or_a_part_of_a_secret_names_the_variable_too() {
    for (variable, value, key) in [
        (
            "CUPBEARER_CREDENTIALS__A__SETTINGS__CLIENT_AUTH",
            "foo",
            "credentials.a.settings.client_auth",
        ),
        (
            "CUPBEARER_CREDENTIALS__A__SETTINGS__TOKEN_URL",
            "http://x.example",
            "credentials.a.settings.token_url",
        ),
        (
            "CUPBEARER_CREDENTIALS__A__SECRETS__CLIENT_SECRET__ENV",
            "NOT_SET",
            "credentials.a.secrets.client_secret",
        ),
        (
            "CUPBEARER_CREDENTIALS__A__SECRETS__CLIENT_SECRET__FIEL",
            "x",
            "credentials.a.secrets.client_secret",
        ),
    ] {
        let found = all(A, &[(variable, value), ("S", "x")], Severity::Problem);
        assert_eq!(
            found
                .iter()
                .map(|problem| problem.key.as_str())
                .collect::<Vec<_>>(),
            [key],
            "{found:#?}"
        );
        assert!(found[0].what.contains(variable), "{}", found[0]);
    }
    let missing = all(
        A,
        &[
            (
                "CUPBEARER_CREDENTIALS__A__SECRETS__CLIENT_SECRET__FILE",
                "/nope",
            ),
            ("S", "x"),
        ],
        Severity::Lint,
    );
    assert_eq!(missing.len(), 1, "{missing:#?}");
    assert!(
        missing[0].what.contains("/nope") && missing[0].what.contains("CLIENT_SECRET__FILE"),
        "{}",
        missing[0]
    );
}

#[test]
fn white_space_around_a_secret_from_the_environment_is_dropped_unless_it_is_to_be_kept() {
    use crate::secret::Secret;
    let source = |text: &str, env: &[(&str, &str)]| {
        good_with(text, env).credentials["a"].secrets.sources["client_secret"].clone()
    };
    let value = |text: &str| Source::Value(Secret::new(text.to_owned()));
    for given in [
        "x",
        "x\r",
        "x\n",
        "x\r\n",
        " x",
        "\tx \n\n",
        "\u{feff}x\u{a0}",
    ] {
        assert_eq!(source(A, &[("S", given)]), value("x"), "{given:?}");
        assert_eq!(
            source(
                A,
                &[
                    ("CUPBEARER_CREDENTIALS__A__SECRETS__CLIENT_SECRET", given),
                    ("S", "y")
                ]
            ),
            value("x"),
            "{given:?}"
        );
    }
    let kept = A.replace("{ env = \"S\" }", "{ env = \"S\", keep_space = true }");
    let keep = "CUPBEARER_CREDENTIALS__A__SECRETS__CLIENT_SECRET__KEEP_SPACE";
    for given in ["x\n", " ", " x"] {
        assert_eq!(
            source(&kept, &[("S", given)]),
            Source::Kept(Box::new(value(given))),
            "{given:?}"
        );
        assert_eq!(
            source(A, &[("S", given), (keep, "true")]),
            Source::Kept(Box::new(value(given))),
            "{given:?}"
        );
    }
    for blank in ["", " ", "\r\n", "\u{feff}"] {
        let found = all(A, &[("S", blank)], Severity::Problem);
        assert!(
            found.len() == 1 && found[0].what.ends_with("is empty"),
            "{blank:?}: {found:#?}"
        );
    }
    assert_eq!(all(&kept, &[("S", "")], Severity::Problem).len(), 1);
}

#[test]
fn a_place_that_a_variable_names_leaves_no_room_for_another_kind() {
    let source = |text: &str, env: &[(&str, &str)]| {
        good_with(text, env).credentials["a"].secrets.sources["client_secret"].clone()
    };
    let (file, env) = (
        "CUPBEARER_CREDENTIALS__A__SECRETS__CLIENT_SECRET__FILE",
        "CUPBEARER_CREDENTIALS__A__SECRETS__CLIENT_SECRET__ENV",
    );
    assert_eq!(source(A, &[(file, "/x")]), Source::File("/x".into()));
    let json = A.replace("{ env = \"S\" }", "{ file = \"/a\", json_key = \"/k\" }");
    assert_eq!(
        source(&json, &[(file, "/x")]),
        Source::Json("/x".into(), "/k".into())
    );
    assert_eq!(
        source(&json, &[(env, "S"), ("S", "x")]),
        Source::Value(crate::secret::Secret::new("x".into()))
    );
    let two = all(
        A,
        &[(file, "/x"), (env, "S"), ("S", "x")],
        Severity::Problem,
    );
    assert_eq!(
        two.iter()
            .map(|problem| problem.key.as_str())
            .collect::<Vec<_>>(),
        ["credentials.a.secrets.client_secret"],
        "{two:#?}"
    );
}
