//! The environment over the file.

use super::*;

#[test]
fn a_variable_with_two_underscores_overrides_a_key() {
    let config =
        good_with("[proxy]\ndrain = \"1s\"\nworkers = 2\n", &[("CUPBEARER_PROXY__DRAIN", "5s"), ("CUPBEARER_PROXY__LIMITS__HEADERS", "7")]);
    assert_eq!((config.proxy.drain, config.proxy.workers, config.proxy.limits.headers), (Duration::from_secs(5), 2, 7));
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
    let config = good_with("", &[("CUPBEARER_PROXY__VIA", "12345"), ("CUPBEARER_PROXY__CLIENT_AUTH", "0815")]);
    assert_eq!(config.proxy.via.as_deref(), Some("12345"));
    assert_eq!(config.proxy.client_auth, Some(Source::Value(crate::secret::Secret::new("0815".into()))));
    let config = good_with("", &[("CUPBEARER_PROXY__CLIENT_AUTH__ENV", "PASS"), ("PASS", "x=y")]);
    assert_eq!(config.proxy.client_auth, Some(Source::Value(crate::secret::Secret::new("x=y".into()))));
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
    assert_eq!(config.proxy.listen, [Listen::Tcp("127.0.0.1:1".parse().unwrap())]);
    assert_eq!(config.admin.hosts, ["a.example", "b.example"]);
}

#[test]
fn names_with_a_hyphen_are_found_under_an_underscore() {
    let text = OPEN.replace("upstreams.a", "upstreams.my-api");
    let config = good_with(&text, &[("CUPBEARER_UPSTREAMS__MY_API__URL", "https://other.example")]);
    assert_eq!(config.upstreams[0].target.host, "other.example");
}

#[test]
fn a_mistake_in_a_variable_names_the_variable() {
    let found = all(OPEN, &[("CUPBEARER_PROXY__DRAIN", "5 minutes"), ("CUPBEARER_PROXI__DRAIN", "5s")], Severity::Problem);
    let drain = found.iter().find(|problem| problem.key == "proxy.drain").unwrap();
    assert!(drain.what.contains("CUPBEARER_PROXY__DRAIN"), "{drain}");
    let unknown = found.iter().find(|problem| problem.key == "proxi").unwrap();
    assert_eq!(unknown.hint.as_deref(), Some("did you mean \"proxy\"?"));
}

#[test]
fn variables_that_contradict_each_other_are_a_mistake() {
    let found = all("", &[("CUPBEARER_PROXY__DRAIN", "5s"), ("CUPBEARER_PROXY__DRAIN__X", "5s")], Severity::Problem);
    assert_eq!(found.len(), 1, "{found:?}");
}
