//! Credentials: profile, settings, secrets, and advice about them.

use std::os::unix::fs::PermissionsExt;

use super::*;

fn acme(lines: &str) -> String {
    format!(
        "[upstreams.acme]\nurl = \"https://api.example\"\ncredential = \"acme\"\n[credentials.acme]\n{lines}\n"
    )
}

const SETTINGS: &str = "settings = { token_url = \"https://auth.other.test/token\" }\n";
const SECRETS: &str = "secrets = { client_id = \"me\", client_secret = { env = \"S\" } }\n";

fn plain() -> String {
    acme(&[SETTINGS, SECRETS].concat())
}

fn credential(text: &str) -> CredentialConfig {
    good_with(text, &[("S", "hunter2")])
        .credentials
        .remove("acme")
        .unwrap()
}

#[track_caller]
fn wrong(text: &str, key: &str) -> Problem {
    let found = all(text, &[("S", "hunter2")], Severity::Problem);
    assert!(found.iter().any(|problem| problem.key == key), "{found:#?}");
    found
        .into_iter()
        .find(|problem| problem.key == key)
        .unwrap()
}

#[track_caller]
fn advice(text: &str) -> Vec<String> {
    let (config, problems) = load_text(text, Path::new("/nowhere"), &options(&[("S", "hunter2")]));
    assert!(config.is_some(), "{:#?}", problems.list());
    problems
        .into_list()
        .into_iter()
        .map(|problem| problem.key)
        .collect()
}

#[test]
fn a_plain_credential_has_nothing_to_be_said_against_it() {
    let credential = credential(&plain());
    assert_eq!(&*credential.profile.name, "oauth2");
    assert_eq!(credential.secrets.sources.len(), 2);
    assert!(advice(&plain()).is_empty());
}

#[test]
fn an_unset_variable_of_a_secret_is_called_by_its_name() {
    let found = all(&plain(), &[], Severity::Problem);
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_eq!(found[0].key, "credentials.acme.secrets.client_secret");
    assert!(found[0].what.contains("that is named here is not set"));
}

#[test]
fn an_unknown_profile_is_told_its_nearest_neighbour() {
    let found = wrong(
        &acme(&format!("profile = \"keycloack\"\n{SECRETS}")),
        "credentials.acme.profile",
    );
    assert!(
        found.hint.as_deref().unwrap().contains("keycloak"),
        "{found}"
    );
    wrong(&acme("profile = 3\n"), "credentials.acme.profile");
    wrong(
        &acme("profile = { fiel = \"x\" }\n"),
        "credentials.acme.profile",
    );
}

#[test]
fn an_unknown_key_of_a_credential_is_told_every_key_that_may_stand_there() {
    for (typed, meant) in [
        ("profil", "profile"),
        ("setings", "settings"),
        ("secret", "secrets"),
        ("token", "tokens"),
    ] {
        let found = wrong(
            &format!("{}{typed} = \"x\"\n", plain()),
            &format!("credentials.acme.{typed}"),
        );
        assert_eq!(found.hint, Some(format!("did you mean {meant:?}?")));
    }
    for key in ["extends", "doc", "source"] {
        let found = wrong(
            &format!("{}{key} = \"oauth2\"\n", plain()),
            &format!("credentials.acme.{key}"),
        );
        assert!(found.what.contains("belongs into a profile"), "{found}");
    }
}

#[test]
fn mistakes_inside_a_credential_are_found_together() {
    let text = acme(
        "settings = { token_url = [1] }\nsecrets = { client_id = 4711, client_secret = { env = \"S\", file = \"x\" } }\n",
    );
    let found = all(&text, &[("S", "x")], Severity::Problem);
    for key in [
        "credentials.acme.settings.token_url",
        "credentials.acme.secrets.client_id",
        "credentials.acme.secrets.client_secret",
    ] {
        assert!(
            found.iter().any(|problem| problem.key == key),
            "{key} in {found:#?}"
        );
    }
    assert!(!format!("{found:?}").contains("4711"));
    wrong(&acme("settings = 3\n"), "credentials.acme.settings");
    wrong(&acme("secrets = \"x\"\n"), "credentials.acme.secrets");
    wrong(
        &acme("secrets = { dir = 1 }\n"),
        "credentials.acme.secrets.dir",
    );
    wrong(
        &plain()
            .replace("acme", "none")
            .replace("upstreams.none", "upstreams.x"),
        "credentials.none",
    );
    wrong("credentials.acme = 3\n", "credentials.acme");
}

#[test]
fn a_wrong_secret_reference_is_one_mistake_and_no_advice_about_a_file_nobody_named() {
    for wrong in [
        "{ file = \"nope\", json_key = \"x\" }",
        "{ fil = \"x\" }",
        "3",
    ] {
        let (_, problems) = load_text(
            &plain().replace("{ env = \"S\" }", wrong),
            Path::new("/nowhere"),
            &options(&[]),
        );
        let keys: Vec<&str> = problems
            .list()
            .iter()
            .map(|problem| problem.key.as_str())
            .collect();
        assert_eq!(
            keys,
            ["credentials.acme.secrets.client_secret"],
            "{:#?}",
            problems.list()
        );
    }
}

#[test]
fn a_profile_of_ones_own_is_a_file_and_is_polled_with_those_it_extends() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        (path, digest(text))
    };
    let files = BTreeMap::from([
        write(
            "mine.toml",
            "extends = { file = \"base.toml\" }\ndoc = \"Mine.\"\n",
        ),
        write("base.toml", "extends = \"oauth2\"\n"),
    ]);
    let text = acme(&[SETTINGS, SECRETS, "profile = { file = \"mine.toml\" }\n"].concat());
    let (config, problems) = load_text(&text, folder.path(), &options(&[("S", "x")]));
    let config = config.unwrap_or_else(|| panic!("{:#?}", problems.list()));
    assert_eq!(config.files, files);
}

#[test]
fn the_digest_tells_what_shapes_a_token_request_from_what_does_not() {
    let digest = |text: &str| credential(text).digest;
    let plain = plain();
    assert_eq!(
        digest(&plain),
        digest(&plain.replace("api.example", "api2.example"))
    );
    assert_eq!(
        digest(&plain),
        digest(&format!("{plain}guard.max_rejections = 1\n"))
    );
    assert_eq!(
        digest(&plain),
        digest(&format!("{plain}tokens.access.lifetime.cap = \"1m\"\n"))
    );
    assert_eq!(digest(&plain), digest(&plain.replace("\"me\"", "\"you\"")));
    assert_ne!(
        digest(&plain),
        good_with(&plain.replace("acme", "b"), &[("S", "x")]).credentials["b"].digest
    );
    assert_ne!(
        credential(&plain).values,
        credential(&plain.replace("\"me\"", "\"you\"")).values
    );
    for other in [
        plain.replace("other.test", "another.test"),
        plain.replace("\"me\"", "{ file = \"me\" }"),
        format!("{plain}tokens.access.params.x = \"1\"\n"),
        format!("{plain}tokens.access.timeout = \"1s\"\n"),
    ] {
        assert_ne!(digest(&plain), digest(&other), "{other}");
    }
}

#[test]
fn an_inline_secret_is_a_lint_unless_the_profile_calls_it_public_or_a_variable_gives_it() {
    assert_eq!(
        advice(&plain().replace("{ env = \"S\" }", "\"hunter2\"")),
        ["credentials.acme.secrets.client_secret"]
    );
    let variable = [(
        "CUPBEARER_CREDENTIALS__ACME__SECRETS__CLIENT_SECRET",
        "hunter2",
    )];
    assert!(all(&plain(), &variable, Severity::Lint).is_empty());
}

#[test]
fn a_secret_file_should_be_there_and_be_private() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("client_secret");
    let text = plain().replace("{ env = \"S\" }", &format!("{{ file = {file:?} }}"));
    assert_eq!(advice(&text), ["credentials.acme.secrets.client_secret"]);
    std::fs::write(&file, "x").unwrap();
    for (mode, lints) in [(0o644, 1), (0o640, 0)] {
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(advice(&text).len(), lints, "{mode:o}");
    }
    let dir = acme(&format!(
        "{SETTINGS}secrets = {{ dir = {:?} }}\n",
        folder.path()
    ));
    assert_eq!(
        advice(&dir),
        ["credentials.acme.secrets.dir"],
        "client_id is missing"
    );
    assert_eq!(
        advice(&acme(&format!(
            "{SETTINGS}secrets = {{ dir = \"gone\" }}\n"
        ))),
        ["credentials.acme.secrets.dir"]
    );
    let blind = LoadOptions {
        no_secrets: true,
        ..LoadOptions::default()
    };
    assert!(
        load_text(&text, Path::new("/nowhere"), &blind)
            .1
            .list()
            .is_empty()
    );
}

#[test]
fn a_client_auth_that_can_be_guessed_is_a_lint() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("auth");
    let text = format!("proxy.client_auth = {{ file = {file:?} }}\n{}", plain());
    for (secret, expected) in [
        ("fifteen-bytes-1", 1),
        (" fifteen-bytes-1 \n", 1),
        ("sixteen-bytes-12", 0),
    ] {
        std::fs::write(&file, secret).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(
            advice(&text),
            vec!["proxy.client_auth"; expected],
            "{secret:?}"
        );
        let variable = [("CUPBEARER_PROXY__CLIENT_AUTH", secret)];
        let told = all(&plain(), &variable, Severity::Lint);
        assert_eq!(told.len(), expected, "{secret:?}");
    }
    std::fs::write(&file, "short").unwrap();
    let blind = LoadOptions {
        no_secrets: true,
        ..LoadOptions::default()
    };
    assert!(
        load_text(&text, Path::new("/nowhere"), &blind)
            .1
            .list()
            .is_empty()
    );
}

#[test]
fn a_credential_that_nobody_uses_is_a_lint() {
    assert_eq!(
        advice(&plain().replace("credential = \"acme\"", "credential = \"none\"")),
        ["credentials.acme"]
    );
}

#[test]
fn a_lockout_that_a_restart_forgets_is_a_lint() {
    let lockout = format!("{}guard.hold = \"until_secret_changes\"\n", plain());
    assert_eq!(advice(&lockout), ["credentials.acme"]);
    assert!(advice(&format!("state.dir = \"/var/lib/cupbearer\"\n{lockout}")).is_empty());
}

#[test]
fn tokens_of_one_environment_for_hosts_of_another_are_a_lint() {
    let hosts = |api: &str, auth: &str| {
        plain()
            .replace("api.example", api)
            .replace("auth.other.test", auth)
    };
    assert_eq!(
        advice(&hosts("api.vendor.test", "auth.sandbox.vendor.test")),
        ["upstreams.acme.url"]
    );
    assert_eq!(
        advice(&hosts("demo-api.vendor.test", "auth.vendor.test")),
        ["upstreams.acme.url"]
    );
    assert_eq!(
        advice(&hosts("api.vendor.com", "auth.vendor-sandbox.com")),
        ["upstreams.acme.url"]
    );
    assert!(advice(&hosts("api.vendor-sandbox.com", "auth.sandbox.vendor.com")).is_empty());
    assert!(
        advice(&hosts(
            "api.sandbox.vendor.test",
            "auth.sandbox.vendor.test"
        ))
        .is_empty()
    );
    assert!(advice(&hosts("api.vendor.test", "auth.vendor.test")).is_empty());
    assert!(advice(&hosts("api.vendor.test", "sandbox.elsewhere.test")).is_empty());
}

#[test]
fn a_margin_as_long_as_the_life_is_a_lint() {
    let lifetime = |lines: &str| format!("{}tokens.access.lifetime = {{ {lines} }}\n", plain());
    let key = ["credentials.acme.tokens.access.lifetime.refresh_before"];
    assert_eq!(
        advice(&lifetime("cap = \"1m\", refresh_before = \"1m\"")),
        key
    );
    assert!(advice(&lifetime("cap = \"1m\", refresh_before = \"59s\"")).is_empty());
    assert!(
        advice(&lifetime("refresh_before = \"1h\"")).is_empty(),
        "how long it lives, the answer says"
    );
}

#[test]
fn partitions_that_are_to_be_renewed_ahead_are_a_lint() {
    let partition = "partition.shop = { header = \"X-Shop\", pattern = \"^[0-9]+$\" }\n";
    let refresh = |word: &str| {
        format!(
            "{}{partition}tokens.access.lifetime.refresh = {word:?}\n",
            plain()
        )
    };
    assert_eq!(
        advice(&refresh("ahead")),
        ["credentials.acme.tokens.access.lifetime.refresh"]
    );
    assert!(advice(&refresh("lazy")).is_empty());
    assert!(
        advice(&format!(
            "{}tokens.access.lifetime.refresh = \"ahead\"\n",
            plain()
        ))
        .is_empty()
    );
}

#[test]
fn secrets_from_the_environment_are_taken_as_they_are() {
    let config = good_with(
        &acme(SETTINGS),
        &[
            ("CUPBEARER_CREDENTIALS__ACME__SECRETS__CLIENT_ID", "12345"),
            (
                "CUPBEARER_CREDENTIALS__ACME__SECRETS__CLIENT_SECRET__FILE",
                "/x",
            ),
        ],
    );
    let sources = &config.credentials["acme"].secrets.sources;
    assert_eq!(
        sources["client_id"],
        Source::Value(crate::secret::Secret::new("12345".into()))
    );
    assert_eq!(sources["client_secret"], Source::File("/x".into()));
}
