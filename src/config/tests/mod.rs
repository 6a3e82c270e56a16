//! Tests of the configuration: each mistake is found, at its key, with a hint.

mod canary;
mod credentials;
mod environment;
mod example;
mod large;
mod lists;
mod mistakes;
mod tls;

use std::{collections::BTreeMap, path::Path, time::Duration};

use proptest::prelude::*;

use super::*;
use crate::{
    document::{Problem, SchemaNode, Severity},
    route,
    secret::Source,
};

fn options(env: &[(&str, &str)]) -> LoadOptions {
    LoadOptions {
        env: env
            .iter()
            .map(|&(k, v)| (k.to_owned(), v.to_owned()))
            .collect::<BTreeMap<_, _>>(),
        no_secrets: false,
    }
}

/// Loads a text that must be right.
fn good(text: &str) -> Config {
    good_with(text, &[])
}

fn good_with(text: &str, env: &[(&str, &str)]) -> Config {
    let (config, problems) = load_text(text, Path::new("/nowhere"), &options(env));
    config.unwrap_or_else(|| panic!("{:#?}", problems.list()))
}

fn all(text: &str, env: &[(&str, &str)], severity: Severity) -> Vec<Problem> {
    let (config, problems) = load_text(text, Path::new("/nowhere"), &options(env));
    assert_eq!(config.is_none(), problems.fatal());
    let mute: Vec<_> = problems
        .list()
        .iter()
        .filter(|problem| problem.hint.as_deref().is_none_or(str::is_empty))
        .collect();
    assert!(mute.is_empty(), "without a hint: {mute:#?}");
    problems
        .into_list()
        .into_iter()
        .filter(|problem| problem.severity == severity)
        .collect()
}

fn mistakes(text: &str) -> Vec<Problem> {
    all(text, &[], Severity::Problem)
}

fn lints(text: &str) -> Vec<Problem> {
    all(text, &[], Severity::Lint)
}

/// The only mistake in `text`, which must be at `key`.
#[track_caller]
fn mistake(text: &str, key: &str) -> Problem {
    let found = mistakes(text);
    assert_eq!(
        found
            .iter()
            .map(|problem| problem.key.as_str())
            .collect::<Vec<_>>(),
        [key],
        "{found:#?}"
    );
    found.into_iter().next().unwrap()
}

/// Of the bytes of a file that holds `text`.
fn digest(text: &str) -> [u8; 32] {
    SourceText::from_bytes(Ok(text.as_bytes())).unwrap().digest
}

const OPEN: &str = "[upstreams.a]\nurl = \"https://api.example/v2\"\ncredential = \"none\"\n";

#[test]
fn an_empty_text_is_the_defaults() {
    let config = good("");
    let tcp = |text: &str| ListenAddress::Tcp(text.parse().unwrap());
    assert_eq!(
        config.proxy.listen,
        [tcp("127.0.0.1:14180"), tcp("[::1]:14180")]
    );
    assert_eq!(
        (config.proxy.linger, config.proxy.drain),
        (Duration::ZERO, Duration::from_secs(25))
    );
    let listen = ListenAddress::Tcp("127.0.0.1:14190".parse().unwrap());
    assert_eq!(
        config.admin,
        AdminConfig {
            listen,
            auth: vec![],
            uids: vec![],
            ready: Ready::Started,
            hosts: vec![]
        }
    );
    assert_eq!(
        config.log,
        LogConfig {
            json: false,
            level: tracing::Level::INFO
        }
    );
    assert_eq!(
        (config.metrics, config.state, config.reload),
        (None, None, Some(Duration::from_secs(5)))
    );
    assert!(config.proxy.browser_deny && config.proxy.via.is_none() && config.upstreams.is_empty());
}

#[test]
fn an_upstream_answers_by_its_name_unless_it_is_told_otherwise() {
    let config = good(OPEN);
    let rule = &config.rules[0];
    assert_eq!(
        (
            rule.path.as_deref(),
            &rule.hosts[..],
            rule.forward,
            rule.strip_path
        ),
        (Some("/a"), &["a.localhost".to_owned()][..], true, true)
    );
    assert_eq!(
        rule.url,
        route::UpstreamUrl {
            tls: true,
            host: "api.example".into(),
            port: 443,
            base: "/v2".into()
        }
    );
    let config = good(&format!(
        "{OPEN}match = {{ path = \"\", hosts = [\"API.example.\"] }}\n"
    ));
    assert_eq!(
        (config.rules[0].path.as_deref(), &config.rules[0].hosts[..]),
        (None, &["api.example".to_owned()][..])
    );
}

#[test]
fn upstream_defaults_lie_below_each_upstream_table_by_table() {
    let config = good(&format!(
        "[upstream_defaults]\ntimeouts = {{ connect = \"1s\", read = \"2s\" }}\nreplay = \"never\"\n{OPEN}timeouts.read = \"9s\"\n"
    ));
    let upstream = &config.upstreams[0];
    assert_eq!(
        (upstream.timeouts.connect, upstream.timeouts.read),
        (Duration::from_secs(1), Duration::from_secs(9))
    );
    assert_eq!(upstream.replay, crate::upstream::ReplayPolicy::Never);
}

#[test]
fn every_file_that_was_read_is_named_to_be_polled() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("c.toml");
    std::fs::write(&file, OPEN).unwrap();
    let (config, problems) = load(&file, &LoadOptions::default());
    assert_eq!(
        config.map(|config| (config.file, config.files)),
        Some((Some(file.clone()), BTreeMap::from([(file, digest(OPEN))]))),
        "{:?}",
        problems.list()
    );
}

#[test]
fn relative_paths_start_from_the_configuration() {
    let config = good(
        "state.dir = \"s\"\n[proxy]\nlisten = [\"unix:run/c.sock\"]\nclient_auth = { file = \"auth\" }\n",
    );
    assert_eq!(config.state.as_deref(), Some(Path::new("/nowhere/s")));
    assert_eq!(
        config.proxy.listen,
        [ListenAddress::Unix("/nowhere/run/c.sock".into())]
    );
    assert_eq!(
        config.proxy.client_auth,
        [Source::File("/nowhere/auth".into())]
    );
}

proptest! {
    #[test]
    fn any_text_gives_an_answer(text in "\\PC*") {
        let _ = all(&text, &[], Severity::Problem);
        prop_assert!(text.starts_with(sound_part(&text)));
    }

    #[test]
    fn what_stands_before_a_mistake_is_read(wrong in "[^#\\s]\\PC{0,40}") {
        let before = "[admin]\nlisten = \"127.0.0.1:1\"\n";
        let text = format!("{before}= {wrong}\n{OPEN}");
        prop_assert_eq!(sound_part(&text), before);
    }

    #[test]
    fn any_wrong_value_gives_an_answer(
        key in "(proxy|admin|metrics|log|state|reload|intercept|upstreams\\.a|upstream_defaults|credentials\\.a)(\\.(listen|drain|limits|match|tls|pool|hosts|url|dir|level|client_auth|connections|path|profile|settings|secrets|tokens|access|guard|errors|token_url)){0,3}",
        value in "(-?[0-9]{1,20}|true|nan|\"[a-z0-9:/.%]{0,9}\"|\\[\\]|\\[1, \"\", \\{\\}\\]|\\{\\}|\\{ file = 1 \\}|1979-05-27|1e400)",
        env in "\\PC{0,12}",
    ) {
        let _ = all(&format!("{key} = {value}"), &[("CUPBEARER_PROXY__LIMITS", &env), ("CUPBEARER_UPSTREAMS__A__URL", &env)], Severity::Problem);
    }

    #[test]
    fn any_environment_gives_an_answer(name in "[A-Z_-]{0,20}", value in "\\PC*") {
        let _ = all(OPEN, &[(&format!("CUPBEARER_{name}"), &value)], Severity::Problem);
    }
}
