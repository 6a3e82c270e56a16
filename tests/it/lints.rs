//! Advice about configurations that are right: each mistake that OAuth invites is told at its key,
//! and nothing is said of what is well.

use std::path::Path;

use cupbearer::config::{self, LoadOptions};

/// Keys of all lints, in order.
#[track_caller]
fn keys(text: &str) -> Vec<String> {
    let env = [("ID", "me"), ("SECRET", "hunter2")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
    let (config, problems) = config::load_text(
        text,
        Path::new("/nowhere"),
        &LoadOptions {
            env: env.into(),
            no_secrets: false,
        },
    );
    assert!(config.is_some(), "{:#?}", problems.list());
    problems
        .into_list()
        .into_iter()
        .map(|problem| problem.key)
        .collect()
}

const SECRETS: &str =
    "secrets = { client_id = { env = \"ID\" }, client_secret = { env = \"SECRET\" } }\n";

fn stanza(name: &str, head: &str, more: &str) -> String {
    format!(
        "[credentials.{name}]\n{head}{SECRETS}{more}\n[upstreams.{name}]\nurl = \"https://{name}.example\"\ncredential = {name:?}\n"
    )
}

fn acme(more: &str) -> String {
    stanza(
        "acme",
        "settings = { token_url = \"https://auth.elsewhere.example/token\" }\n",
        more,
    )
}

#[test]
fn a_client_that_shows_itself_in_two_ways_is_told() {
    let params = "tokens.access.params = { client_secret = \"{{ secrets.client_secret }}\" }\n";
    let header = "tokens.access.headers = { Authorization = \"Basic {{ (secrets.client_id ~ ':' ~ secrets.client_secret) | b64encode }}\" }\n";
    let basic = "tokens.access.client_auth = \"basic\"\n";
    assert_eq!(
        keys(&acme(&[basic, params].concat())),
        ["credentials.acme.tokens.access.params.client_secret"]
    );
    assert_eq!(
        keys(&acme(header)),
        ["credentials.acme.tokens.access.headers.Authorization"]
    );
    let none = "tokens.access.client_auth = \"none\"\n";
    for fine in [
        basic.to_owned(),
        [none, header].concat(),
        [none, params].concat(),
        "tokens.access.headers = { Authorization = \"Bearer x\" }\n".to_owned(),
    ] {
        assert!(keys(&acme(&fine)).is_empty(), "{fine}");
    }
}

#[test]
fn a_scope_for_a_vendor_that_documents_none_is_told() {
    let scope = "tokens.access.params = { scope = \"read\" }\n";
    assert_eq!(
        keys(&stanza("returns", "profile = \"optoro\"\n", scope)),
        ["credentials.returns.tokens.access.params.scope"]
    );
    assert!(keys(&stanza("returns", "profile = \"optoro\"\n", "")).is_empty());
    assert!(
        keys(&acme(scope)).is_empty(),
        "a vendor that nobody knows may want one"
    );
    assert!(
        keys(&stanza("bank", "profile = \"lean\"\n", "")).is_empty(),
        "a vendor that wants one"
    );
}

#[test]
fn a_lockout_where_replicas_count_alone_is_told() {
    let lockout = format!(
        "state.dir = \"/var/lib/cupbearer\"\n{}",
        acme("guard.hold = \"until_secret_changes\"\n")
    );
    let scraped = format!("metrics.listen = \"127.0.0.1:14191\"\n{lockout}");
    assert_eq!(keys(&scraped), ["credentials.acme"]);
    assert!(keys(&format!("admin.ready = \"accepted\"\n{scraped}")).is_empty());
    assert!(keys(&lockout).is_empty(), "one program with a memory");
}

#[test]
fn two_credentials_that_end_each_others_tokens_are_told() {
    let replaces = "tokens.access.lifetime = { rotation = \"replaces\" }\n";
    let twin = |url: &str, more: &str| {
        stanza(
            "twin",
            &format!("settings = {{ token_url = \"{url}\" }}\n"),
            more,
        )
    };
    let same = "https://auth.elsewhere.example/token";
    assert_eq!(
        keys(&[acme(replaces), twin(same, "")].concat()),
        ["credentials.twin"]
    );
    assert!(
        keys(&[acme(""), twin(same, "")].concat()).is_empty(),
        "both tokens are good side by side"
    );
    assert!(
        keys(
            &[
                acme(replaces),
                twin("https://auth.third.example/token", replaces)
            ]
            .concat()
        )
        .is_empty(),
        "another vendor"
    );
    let other = twin(same, replaces).replace("{ env = \"ID\" }", "\"somebody\"");
    assert!(
        keys(&[acme(replaces), other].concat()).is_empty(),
        "another client"
    );
}

#[test]
fn a_name_for_routing_by_path_that_is_an_upstreams_own_is_told() {
    let hosts = "match = { hosts = [\"api.internal\"] }\n";
    assert_eq!(
        keys(&format!(
            "proxy.hosts = [\"api.internal\"]\n{}{hosts}",
            acme("")
        )),
        ["upstreams.acme.match.hosts"]
    );
    assert!(
        keys(&format!(
            "proxy.hosts = [\"sidecar.internal\"]\n{}{hosts}",
            acme("")
        ))
        .is_empty()
    );
}

#[test]
fn a_top_level_domain_for_tests_is_no_test_environment() {
    let hosts = |api: &str, auth: &str| {
        acme("")
            .replace("acme.example", api)
            .replace("auth.elsewhere.example", auth)
    };
    for (api, auth) in [
        ("api.vendor.test", "vendor.test"),
        ("vendor.test", "auth.vendor.test"),
        ("one.test", "one.test"),
    ] {
        assert!(keys(&hosts(api, auth)).is_empty(), "{api} {auth}");
    }
    assert_eq!(
        keys(&hosts("api.test.vendor.example", "auth.vendor.example")),
        ["upstreams.acme.url"]
    );
}
