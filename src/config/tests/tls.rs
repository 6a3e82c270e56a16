//! `tls` tables of upstreams and tokens: what cannot be used is found at load, at the very key.

use super::*;

fn made() -> (String, String) {
    let made = rcgen::generate_simple_self_signed(vec!["a.example".to_owned()]).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

fn upstream(lines: &str) -> String {
    format!("{OPEN}{lines}\n")
}

fn token(lines: &str) -> String {
    format!(
        "[credentials.a]\nsettings = {{ token_url = \"https://auth.example/t\" }}\nsecrets = {{ client_id = \"i\", client_secret = {{ env = \"S\" }} }}\n\
         [credentials.a.tokens.access]\n{lines}\n[upstreams.a]\nurl = \"https://api.example\"\ncredential = \"a\"\n"
    )
}

/// Keys of all problems of `text` in `folder`.
fn keys(text: &str, folder: &Path, no_secrets: bool) -> Vec<String> {
    let options = LoadOptions {
        no_secrets,
        ..options(&[("S", "x")])
    };
    let problems = load_text(text, folder, &options).1.into_list();
    for problem in &problems {
        assert!(problem.hint.is_some(), "{problem}");
    }
    problems.into_iter().map(|problem| problem.key).collect()
}

#[test]
fn tls_files_must_be_there_and_come_in_pairs() {
    let missing = mistake(
        &upstream("tls.ca_file = \"ca.pem\""),
        "upstreams.a.tls.ca_file",
    );
    assert!(missing.what.contains("/nowhere/ca.pem") && missing.hint.unwrap().contains("folder"));
    mistake(&upstream("tls.ca_only = true"), "upstreams.a.tls.ca_only");
    mistake(
        &upstream("tls.client_cert_file = \"/dev/../etc/passwd\""),
        "upstreams.a.tls.client_key_file",
    );
    mistake(
        &upstream("tls.server_name = \"a b\""),
        "upstreams.a.tls.server_name",
    );
    mistake(
        &upstream("tls.server_name = \"10.0.0.1\""),
        "upstreams.a.tls.server_name",
    );
}

#[test]
fn tls_files_that_hold_no_pem_are_found_for_upstreams_and_tokens_alike() {
    let folder = tempfile::tempdir().unwrap();
    let (cert, key) = made();
    for (name, text) in [
        ("c.pem", cert.as_str()),
        ("k.pem", &key),
        ("other.pem", &made().1),
        ("bad.pem", "hello"),
    ] {
        std::fs::write(folder.path().join(name), text).unwrap();
        std::fs::set_permissions(
            folder.path().join(name),
            std::os::unix::fs::PermissionsExt::from_mode(0o600),
        )
        .unwrap();
    }
    let all = [
        (
            "ca_file = \"c.pem\", ca_only = true, client_cert_file = \"c.pem\", client_key_file = \"k.pem\", server_name = \"a.b\"",
            None,
        ),
        ("ca_file = \"bad.pem\"", Some("ca_file")),
        ("ca_file = \"none.pem\"", Some("ca_file")),
        (
            "client_cert_file = \"bad.pem\", client_key_file = \"k.pem\"",
            Some("client_cert_file"),
        ),
        (
            "client_cert_file = \"c.pem\", client_key_file = \"bad.pem\"",
            Some("client_key_file"),
        ),
        (
            "client_cert_file = \"c.pem\", client_key_file = \"other.pem\"",
            Some("client_key_file"),
        ),
        ("server_name = \"a b\"", Some("server_name")),
    ];
    for (tls, wrong) in all {
        let tls = format!("tls = {{ {tls} }}");
        for (text, at) in [
            (upstream(&tls), "upstreams.a"),
            (token(&tls), "credentials.a.tokens.access"),
        ] {
            let expected: Vec<String> = wrong.iter().map(|key| format!("{at}.tls.{key}")).collect();
            assert_eq!(keys(&text, folder.path(), false), expected, "{text}");
        }
    }
}

#[test]
fn where_secrets_need_not_be_there_tls_files_need_not_either() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("bad.pem"), "hello").unwrap();
    let away = "tls = { ca_file = \"/mnt/ca.pem\", client_cert_file = \"/mnt/c.pem\", client_key_file = \"/mnt/k.pem\" }";
    for text in [upstream(away), token(away)] {
        assert!(keys(&text, folder.path(), true).is_empty(), "{text}");
        assert_eq!(keys(&text, folder.path(), false).len(), 2, "{text}");
    }
    assert_eq!(
        keys(&upstream("tls.ca_file = \"bad.pem\""), folder.path(), true),
        ["upstreams.a.tls.ca_file"]
    );
}

#[test]
fn a_mistake_in_the_tls_table_of_a_profile_file_is_told_there() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("mine.toml"),
        "extends = \"oauth2\"\n[tokens.access.tls]\nca_file = \"none.pem\"\n",
    )
    .unwrap();
    let text = token("").replace(
        "[credentials.a]\n",
        "[credentials.a]\nprofile = { file = \"mine.toml\" }\n",
    );
    let found = load_text(&text, folder.path(), &options(&[("S", "x")]))
        .1
        .into_list();
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_eq!(
        (found[0].key.as_str(), found[0].file.clone()),
        (
            "tokens.access.tls.ca_file",
            Some(folder.path().join("mine.toml"))
        )
    );
}

#[test]
fn a_client_key_that_everybody_may_read_is_a_lint() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let (cert, key) = made();
    let path = |name: &str| folder.path().join(name);
    let text = upstream(&format!(
        "tls.client_cert_file = {:?}\ntls.client_key_file = {:?}",
        path("cert"),
        path("key")
    ));
    std::fs::write(path("cert"), cert).unwrap();
    std::fs::write(path("key"), key).unwrap();
    for (mode, expected) in [(0o600, 0), (0o640, 0), (0o644, 1)] {
        std::fs::set_permissions(path("key"), std::fs::Permissions::from_mode(mode)).unwrap();
        let found = lints(&text);
        assert_eq!(found.len(), expected, "{found:#?}");
        assert!(
            found
                .iter()
                .all(|l| l.key == "upstreams.a.tls.client_key_file")
        );
    }
}
