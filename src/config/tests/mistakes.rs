//! Mistakes that need no credential.

use super::*;

fn upstream(lines: &str) -> String {
    format!("[upstreams.a]\nurl = \"https://api.example/v2\"\ncredential = \"none\"\n{lines}\n")
}

fn url(url: &str) -> String {
    upstream("").replace("https://api.example/v2", url)
}

#[test]
fn an_unknown_key_is_told_its_nearest_neighbour() {
    assert_eq!(
        mistake("[proxy]\nlisen = []\n", "proxy.lisen")
            .hint
            .as_deref(),
        Some("did you mean \"listen\"?")
    );
    assert_eq!(
        mistake("[proxy.limits]\nhaeders = 1\n", "proxy.limits.haeders")
            .hint
            .as_deref(),
        Some("did you mean \"headers\"?")
    );
    assert_eq!(
        mistake(
            &upstream("timeouts.conect = \"1s\""),
            "upstreams.a.timeouts.conect"
        )
        .hint
        .as_deref(),
        Some("did you mean \"connect\"?")
    );
    let all = mistake("[log]\nzebra = 1\n", "log.zebra").hint.unwrap();
    assert!(all.contains("format") && all.contains("level"), "{all}");
}

#[test]
fn everything_wrong_is_said_at_once() {
    let text = "prxy = 1\n[proxy]\ndrain = 25\nworkers = \"two\"\nbrowser = \"denny\"\nlisten = [1, \"x\", 2]\naccess_log = 1\n\
                [log]\nlevel = \"loud\"\n[metrics]\n[state]\n[upstreams.a]\n[upstreams.B]\nurl = \"ftp://x\"\ncredential = \"c\"\n";
    let keys: Vec<String> = mistakes(text)
        .into_iter()
        .map(|problem| problem.key)
        .collect();
    for key in [
        "prxy",
        "proxy.drain",
        "proxy.workers",
        "proxy.browser",
        "proxy.listen[0]",
        "proxy.listen[2]",
        "proxy.access_log",
        "log.level",
        "metrics.listen",
        "state.dir",
        "upstreams.a.url",
        "upstreams.a.credential",
        "upstreams.B",
        "upstreams.B.url",
        "upstreams.B.credential",
    ] {
        assert!(keys.iter().any(|found| found == key), "{key} in {keys:?}");
    }
}

#[test]
fn a_wrong_type_says_what_goes_there() {
    let found = mistake("[proxy]\nworkers = \"two\"\n", "proxy.workers");
    assert_eq!(found.what, "must be a whole number, not negative, not text");
    assert!(
        mistake("[proxy]\nvia = 3\n", "proxy.via")
            .hint
            .unwrap()
            .contains("quotes")
    );
    mistake("[proxy]\nworkers = -1\n", "proxy.workers");
    mistake("proxy = 3\n", "proxy");
    mistake("[proxy]\nlimits = [1]\n", "proxy.limits");
    mistake("upstreams = [1]\n", "upstreams");
}

#[test]
fn a_wrong_word_is_told_the_right_ones() {
    let found = mistake(&upstream("replay = \"anny\""), "upstreams.a.replay");
    assert_eq!(
        (found.what.as_str(), found.hint.as_deref()),
        (
            "must be one of any, idempotent, never",
            Some("did you mean \"any\"?")
        )
    );
    mistake(&upstream("http2 = \"always\""), "upstreams.a.http2");
    mistake("[admin]\nready = \"allways\"\n", "admin.ready");
}

#[test]
fn a_duration_needs_a_unit() {
    assert!(
        mistake("[proxy]\ndrain = \"5 minutes\"\n", "proxy.drain")
            .what
            .contains("is not a duration")
    );
    assert!(
        mistake("[proxy]\ndrain = 25\n", "proxy.drain")
            .what
            .contains("a duration in quotes")
            || mistake("[proxy]\ndrain = 25\n", "proxy.drain")
                .hint
                .unwrap()
                .contains("30s")
    );
    mistake("[proxy]\ndrain = \"off\"\n", "proxy.drain");
    assert_eq!(good("[reload]\ninterval = \"off\"\n").reload, None);
}

#[test]
fn what_is_no_toml_is_told_by_line_and_column_and_never_quoted() {
    let found = mistake("[proxy]\nclient_auth = \"hunter2\n", "");
    assert!(
        found.what.contains("line 2, column") && !found.what.contains("hunter2"),
        "{found}"
    );
    assert!(mistake("a = 1\na = 2\n", "").what.contains("line 2"));
}

#[test]
fn a_secret_of_a_wrong_type_is_not_repeated() {
    let found = mistake("[proxy]\nclient_auth = 4711\n", "proxy.client_auth");
    assert!(!found.to_string().contains("4711"), "{found}");
}

#[test]
fn an_unset_variable_is_called_by_its_name() {
    let found = mistake(
        "[proxy]\nclient_auth = { env = \"PROXY_PASS\" }\n",
        "proxy.client_auth",
    );
    assert!(found.what.contains("PROXY_PASS is not set"), "{found}");
    let blind = LoadOptions {
        no_secrets: true,
        ..LoadOptions::default()
    };
    assert!(
        !load_text(
            "[proxy]\nclient_auth = { env = \"PROXY_PASS\" }\n",
            Path::new("."),
            &blind
        )
        .1
        .fatal()
    );
}

#[test]
fn names_are_lower_case() {
    assert!(
        mistake(
            &upstream("").replace("upstreams.a", "upstreams.My_Api"),
            "upstreams.My_Api"
        )
        .hint
        .unwrap()
        .contains("my_api")
    );
    // Its route and host would be wrong as well.
    assert!(
        mistakes(&upstream("").replace("upstreams.a", "upstreams.\"a b\""))
            .iter()
            .any(|found| found.key == "upstreams.\"a b\"")
    );
}

#[test]
fn an_url_is_an_origin_and_a_base_path_over_tls() {
    for bad in [
        "http://api.example",
        "ftp://api.example",
        "api.example",
        "https://u:p@api.example",
        "https://u@api.example",
        "https://@api.example",
        "https://api.example/?q",
        "https://api.example/#f",
        "https://api.example/a/../b",
        "https://api.example/%2e%2e/b",
        "https://api.example/%252e%252e/b",
        "https://",
        "https://api.example:99999",
        "https://a b",
        "https://a\\\\b",
        "https://a:0",
        "",
    ] {
        mistake(&url(bad), "upstreams.a.url");
    }
    for good_one in [
        "http://localhost:9",
        "http://127.0.0.1:9/x/",
        "http://[::1]:9",
        "http://a.localhost",
        "https://api.example:8443/a/b//",
    ] {
        good(&url(good_one));
    }
    good(&format!(
        "{}allow_plaintext = true\n",
        url("http://api.example")
    ));
    assert_eq!(
        good(&url("http://[::ffff:127.0.0.1]:9/")).rules[0].url.host,
        "::ffff:127.0.0.1"
    );
}

#[test]
fn two_upstreams_cannot_have_one_route() {
    let two = |lines: &str| {
        format!(
            "{}[upstreams.b]\nurl = \"https://b.example\"\ncredential = \"none\"\n{lines}\n",
            upstream("")
        )
    };
    assert!(
        mistake(&two("match.path = \"/a/\""), "upstreams.b.match.path")
            .what
            .contains("upstream a")
    );
    assert!(
        mistake(
            &two("match.hosts = [\"A.localhost\"]"),
            "upstreams.b.match.hosts"
        )
        .what
        .contains("upstream a")
    );
    good(&two(""));
}

#[test]
fn a_wrong_url_or_credential_does_not_hide_that_two_upstreams_have_one_route() {
    for wrong in [
        "url = \"ftp://b.example\"\ncredential = \"none\"",
        "url = \"https://b.example\"\ncredential = \"gone\"",
    ] {
        let text = format!(
            "{}[upstreams.b]\n{wrong}\nmatch = {{ path = \"/a\", hosts = [\"a.localhost\"] }}\n",
            upstream("")
        );
        let keys: Vec<String> = mistakes(&text)
            .into_iter()
            .map(|problem| problem.key)
            .collect();
        assert_eq!(keys.len(), 3, "{keys:?}");
        assert!(
            keys.ends_with(&[
                "upstreams.b.match.path".to_owned(),
                "upstreams.b.match.hosts".to_owned()
            ]),
            "{keys:?}"
        );
    }
}

#[test]
fn a_mistake_elsewhere_does_not_hide_advice() {
    let unused = "[credentials.c]\nsettings = { token_url = \"https://auth.example/t\" }\nsecrets = { client_id = \"i\", client_secret = { file = \"/dev/null\" } }\n";
    let text = format!("{}bogus = 1\n{unused}", upstream(""));
    assert!(
        lints(&text)
            .iter()
            .any(|lint| lint.key == "credentials.c" && lint.what.contains("no upstream uses it")),
        "{:#?}",
        lints(&text)
    );
    let twin = format!(
        "{}[upstreams.b]\nurl = \"https://api.example/v2\"\ncredential = \"none\"\n",
        upstream("")
    );
    let text = format!("{twin}[proxy]\nlisen = []\nclient_auth = \"hunter2-hunter2-hunter2\"\n");
    assert_eq!(
        lints(&text)
            .into_iter()
            .map(|lint| lint.key)
            .collect::<Vec<_>>(),
        ["proxy.client_auth", "upstreams.b.url"]
    );
}

#[test]
fn advice_that_follows_from_a_mistake_alone_is_not_given() {
    let credential = "[credentials.c]\nsettings = { token_url = \"https://auth.example/t\" }\nsecrets = { dir = \"/\" }\n\
                      guard.hold = \"until_secret_changes\"\n[upstreams.c]\ncredential = \"c\"\n";
    let about = |text: &str| {
        lints(text)
            .into_iter()
            .filter(|lint| lint.key == "credentials.c")
            .count()
    };
    let right = "url = \"https://c.example\"\n";
    assert_eq!(about(&format!("{credential}{right}")), 1, "no state");
    assert_eq!(
        about(&format!("{credential}{right}bogus = 1\n")),
        1,
        "no state, whatever unknown keys there are"
    );
    assert_eq!(
        about(&format!("{credential}{right}[state]\n")),
        0,
        "a state whose folder was forgotten"
    );
    assert_eq!(
        about(&format!(
            "state.dir = \"/x\"\n{credential}url = \"ftp://c.example\"\n"
        )),
        0,
        "used, by an upstream with a wrong url"
    );
}

#[test]
fn an_upstream_cannot_be_ourselves() {
    for own in [
        "http://127.0.0.1:14180/x",
        "http://localhost:14180",
        "http://x.localhost:14190",
        "http://[::1]:14180",
        "https://127.0.0.1:14190",
        "http://[::ffff:127.0.0.1]:14180",
    ] {
        assert!(
            mistake(&url(own), "upstreams.a.url")
                .what
                .contains("our own listener"),
            "{own}"
        );
    }
    let text = format!(
        "[metrics]\nlisten = \"0.0.0.0:14191\"\n{}",
        url("http://127.0.0.7:14191")
    );
    assert!(
        mistake(&text, "upstreams.a.url")
            .what
            .contains("0.0.0.0:14191")
    );
    let text = format!("{}allow_plaintext = true\n", url("http://0.0.0.0:14180"));
    mistake(&text, "upstreams.a.url");
    good(&url("http://127.0.0.2:14180"));
    good(&url("http://localhost:14181"));
}

#[test]
fn a6_other_hosts_are_let_in_on_purpose_only() {
    let listen = |more: &str| format!("[proxy]\nlisten = [\"0.0.0.0:1\"]\n{more}\n");
    assert!(
        mistake(&listen(""), "proxy.listen[0]")
            .hint
            .unwrap()
            .contains("allow_remote")
    );
    assert!(
        mistake(&listen("allow_remote = true"), "proxy.listen[0]")
            .hint
            .unwrap()
            .contains("client_auth")
    );
    good(&listen("allow_remote = true\nallow_unauthenticated = true"));
    assert!(
        good(&listen(
            "allow_remote = true\nclient_auth = { file = \"x\" }"
        ))
        .proxy
        .allow_remote
    );
    good("[proxy]\nlisten = [\"unix:/run/x\", \"127.0.0.2:1\"]\n");
    // Whoever writes these believes that they keep somebody out.
    assert!(
        mistake("[admin]\nuids = [1000]\n", "admin.uids")
            .hint
            .unwrap()
            .contains("unix:")
    );
    for key in ["admin.uids", "proxy.peer_uids"] {
        let (table, name) = key.split_once('.').unwrap();
        let listen = if table == "admin" {
            "\"unix:a\""
        } else {
            "[\"unix:a\"]"
        };
        mistake(
            &format!("[{table}]\nlisten = {listen}\n{name} = [0, 65534]\n"),
            &format!("{key}[1]"),
        );
        good(&format!(
            "[{table}]\nlisten = {listen}\n{name} = [0, 1000]\n"
        ));
    }
    mistake("[proxy]\nclient_auth = []\n", "proxy.client_auth");
    mistake(
        "[proxy]\nclient_auth = [\"a-long-enough-secret\", { env = \"NOWHERE\" }]\n",
        "proxy.client_auth[1]",
    );
    mistake(
        "[admin]\nlisten = \"unix:/x\"\nuids = [0, 4294967295]\n",
        "admin.uids[1]",
    );
    mistake("[proxy]\npeer_uids = 4294967295\n", "proxy.peer_uids[0]");
    mistake("[admin]\nauth = []\n", "admin.auth");
    mistake("[admin]\nauth = [\"x\", 3]\n", "admin.auth[1]");
    mistake(
        "[admin]\nauth = [\"x\", { env = \"NOWHERE\" }]\n",
        "admin.auth[1]",
    );
    mistake("[admin]\nlisten = \"unix:\"\n", "admin.listen");
    mistake(
        "[proxy]\nlisten = [\"unix:/a\"]\n[admin]\nlisten = \"unix:/a\"\n",
        "admin.listen",
    );
    assert!(
        mistake("[admin]\nlisten = \"0.0.0.0:1\"\n", "admin.listen")
            .hint
            .unwrap()
            .contains("[metrics]")
    );
}

#[test]
fn an_address_is_taken_once() {
    mistake(
        "[proxy]\nlisten = [\"127.0.0.1:1\", \"127.0.0.1:1\"]\n",
        "proxy.listen[1]",
    );
    mistake("[admin]\nlisten = \"127.0.0.1:14180\"\n", "admin.listen");
    mistake("[metrics]\nlisten = \"0.0.0.0:14190\"\n", "metrics.listen");
    good(
        "[proxy]\nlisten = [\"127.0.0.1:0\", \"127.0.0.1:0\"]\n[admin]\nlisten = \"127.0.0.1:0\"\n",
    );
    for (wrong, hint) in [
        ("localhost:1", "127.0.0.1:1"),
        ("127.0.0.1", ":14180"),
        ("::1", "[::1]:14180"),
        (":9", "127.0.0.1:9"),
        ("x", "127.0.0.1:14180"),
        ("unix:", "unix:/run"),
    ] {
        let found = mistake(
            &format!("[proxy]\nlisten = [\"{wrong}\"]\n"),
            "proxy.listen[0]",
        );
        assert!(found.hint.unwrap().contains(hint), "{wrong}");
    }
    mistake("[proxy]\nlisten = []\n", "proxy.listen");
}

#[test]
fn a_route_is_a_path_without_tricks_and_a_host_without_port() {
    for bad in [
        "a",
        "/a/../b",
        "/%2e%2e",
        "/a b",
        "/a?b",
        "/a#b",
        "/.cupbearer",
        "/.cupbearer/x/",
    ] {
        mistake(
            &upstream(&format!("match.path = \"{bad}\"")),
            "upstreams.a.match.path",
        );
    }
    for bad in ["", "a:80", "https://a", "*.a", "a b", "é.example"] {
        mistake(
            &upstream(&format!("match.hosts = [\"{bad}\"]")),
            "upstreams.a.match.hosts[0]",
        );
    }
    mistake("[proxy]\nhosts = [\"a/b\"]\n", "proxy.hosts[0]");
}

#[test]
fn limits_have_a_range() {
    mistake("[proxy.limits]\nheaders = 257\n", "proxy.limits.headers");
    mistake(
        "[proxy.limits]\nconnections = 0\n",
        "proxy.limits.connections",
    );
    mistake(
        "[proxy.limits]\nheader_timeout = \"0s\"\n",
        "proxy.limits.header_timeout",
    );
    mistake("[reload]\ninterval = \"0s\"\n", "reload.interval");
    assert_eq!(
        mistake(
            &format!(
                "[upstream_defaults]\ntimeouts.connect = \"0s\"\n{}",
                upstream("")
            ),
            "upstream_defaults.timeouts.connect"
        )
        .what,
        "0s is out of range: 1ms to 10m"
    );
}

#[test]
fn a_list_of_peers_without_a_unix_socket_is_a_lint() {
    assert_eq!(
        lints("[proxy]\npeer_uids = [1000]\n")[0].key,
        "proxy.peer_uids"
    );
    assert!(lints("[proxy]\npeer_uids = [1000]\nlisten = [\"unix:/run/c.sock\"]\n").is_empty());
}

#[test]
fn interception_is_said_not_to_be_there() {
    assert!(
        mistake(
            "[intercept]\nca_cert_file = \"ca.pem\"\nunmatched = \"tunnel\"\n",
            "intercept"
        )
        .what
        .contains("not there")
    );
}

#[test]
fn a_credential_that_is_not_there_is_told_its_nearest_neighbour() {
    assert_eq!(
        mistake(
            &upstream("").replace("\"none\"", "\"non\""),
            "upstreams.a.credential"
        )
        .hint
        .as_deref(),
        Some("did you mean \"none\"?")
    );
    assert!(
        mistake(
            "[upstreams.a]\nurl = \"https://a.example\"\n",
            "upstreams.a.credential"
        )
        .hint
        .unwrap()
        .contains("none")
    );
}

#[test]
fn a_file_that_cannot_be_read_is_a_mistake() {
    let (config, problems) = load(Path::new("/nowhere/c.toml"), &LoadOptions::default());
    assert!(
        config.is_none()
            && problems.list()[0].file.as_deref() == Some(Path::new("/nowhere/c.toml"))
    );
}

#[test]
fn what_a_forward_request_cannot_tell_apart_is_a_lint() {
    let twin = format!(
        "{}[upstreams.b]\nurl = \"https://api.example/v2\"\ncredential = \"none\"\n",
        upstream("")
    );
    assert_eq!(lints(&twin)[0].key, "upstreams.b.url");
    assert!(lints(&format!("{twin}match.forward = false\n")).is_empty());
    assert_eq!(
        lints(&upstream(
            "match = { path = \"\", hosts = [], forward = false }"
        ))[0]
            .key,
        "upstreams.a.match"
    );
}

#[test]
fn a_secret_in_the_configuration_is_a_lint_and_one_in_a_variable_is_none() {
    assert_eq!(
        lints("[proxy]\nclient_auth = \"hunter2-hunter2-hunter2\"\n")[0].key,
        "proxy.client_auth"
    );
    for text in ["", "[proxy]\nclient_auth = { file = \"x\" }\n"] {
        assert!(
            all(
                text,
                &[("CUPBEARER_PROXY__CLIENT_AUTH", "hunter2-hunter2-hunter2")],
                Severity::Lint
            )
            .is_empty()
        );
    }
}

#[test]
fn a_name_by_which_callers_reach_us_is_no_name_of_one_upstream() {
    for host in [
        "localhost",
        "127.0.0.1",
        "::1",
        "[::ffff:127.0.0.1]",
        "192.0.2.7",
    ] {
        let text = format!(
            "[proxy]\nlisten = [\"192.0.2.7:1\"]\nallow_remote = true\nallow_unauthenticated = true\n{}",
            upstream(&format!("match.hosts = [{host:?}]"))
        );
        let found = lints(&text);
        assert_eq!(
            found
                .iter()
                .map(|lint| lint.key.as_str())
                .collect::<Vec<_>>(),
            ["upstreams.a.match.hosts"],
            "{host}"
        );
        assert!(found[0].what.contains("whatever the path"), "{}", found[0]);
    }
    assert!(
        lints(&upstream(
            "match.hosts = [\"a.localhost\", \"x.localhost\", \"192.0.2.8\"]"
        ))
        .is_empty()
    );
}
