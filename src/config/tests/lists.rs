//! Where a list is expected, a single value is a list of one: in the file, in a profile, in the
//! environment, and in the schema.

use super::*;

#[test]
fn a_single_value_is_a_list_of_one_everywhere() {
    let config = good(
        "[proxy]\nlisten = \"unix:/run/c.sock\"\npeer_uids = 1000\nhosts = \"side.example\"\n[admin]\nhosts = \"admin.example\"\n\
         [upstream_defaults.match]\nhosts = \"x.example\"\n[upstreams.a]\nurl = \"https://api.example\"\ncredential = \"c\"\n\
         [credentials.c]\nsettings.token_url = \"https://t.example/t\"\nsecrets = { client_id = \"i\", client_secret = { file = \"/x\" } }\n\
         guard.rate = \"5/m\"\ninject.drop = \"headers.Authorization\"\ninject.headers.X-Key = \"{{ token }}\"\n\
         errors = { at = \"token\", status = 400, path = \"/error\", in = \"locked\", then = \"rejected\" }\n",
    );
    assert_eq!(
        config.proxy.listen,
        [ListenAddress::Unix("/run/c.sock".into())]
    );
    assert_eq!(
        (&config.proxy.peer_uids[..], &config.proxy.hosts[..]),
        (&[1000][..], &["side.example".to_owned()][..])
    );
    assert_eq!(
        (&config.admin.hosts[..], &config.rules[0].hosts[..]),
        (
            &["admin.example".to_owned()][..],
            &["x.example".to_owned()][..]
        )
    );
    let profile = &config.credentials["c"].profile;
    assert_eq!(
        profile.limits.rate,
        [crate::token::Rate {
            n: 5,
            per: Duration::from_mins(1)
        }]
    );
    assert_eq!(
        profile
            .injected_headers()
            .iter()
            .map(|(name, _)| name.as_str())
            .collect::<Vec<_>>(),
        ["x-key"]
    );
    assert_eq!(
        profile.errors[0].test,
        Some(crate::profile::model::RuleTest::In(vec![
            "locked".to_owned()
        ]))
    );
}

#[test]
fn so_it_is_in_a_profile_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.toml");
    let rule = "errors = { at = \"api\", status = \"5xx\", then = \"pass\" }\nextends = \"oauth2\"\nguard.rate = \"7/h\"\ndrop = \"inject.headers.Authorization\"\n\
                inject.query.k = \"{{ token }}\"\n[settings.scope]\ndrop = \"default\"\n";
    std::fs::write(&path, rule).unwrap();
    let config = good(&format!(
        "[credentials.c]\nprofile = {{ file = {path:?} }}\nsettings.token_url = \"https://t.example/t\"\nsecrets.dir = \"/s\"\n\
         errors = [{{ at = \"api\", status = 403, then = \"stale_token\" }}]\n"
    ));
    let profile = &config.credentials["c"].profile;
    assert_eq!(
        (
            profile.errors.len(),
            profile.limits.rate[0].n,
            profile.injected_headers().len()
        ),
        (2, 7, 0)
    );
}

#[test]
fn so_it_is_in_the_environment() {
    let config = good_with(
        "",
        &[
            ("CUPBEARER_PROXY__LISTEN", "127.0.0.1:0"),
            ("CUPBEARER_ADMIN__HOSTS", "12"),
        ],
    );
    assert_eq!(
        config.proxy.listen,
        [ListenAddress::Tcp("127.0.0.1:0".parse().unwrap())]
    );
    let secret = good_with("", &[("CUPBEARER_PROXY__CLIENT_AUTH", "a,b")])
        .proxy
        .client_auth;
    assert!(
        format!("{secret:?}").matches("***").count() == 1,
        "a secret is never taken apart: {secret:?}"
    );
    let text = "proxy.listen = \"unix:/x\"\n";
    assert_eq!(
        good_with(text, &[("CUPBEARER_PROXY__PEER_UIDS", "7")])
            .proxy
            .peer_uids,
        [7]
    );
    assert_eq!(
        good_with(text, &[("CUPBEARER_PROXY__PEER_UIDS", "[7, 8]")])
            .proxy
            .peer_uids,
        [7, 8]
    );
}

#[test]
fn what_is_wrong_in_a_list_of_one_is_told_in_its_place() {
    assert_eq!(
        mistake("[proxy]\nhosts = \"https://x/\"\n", "proxy.hosts[0]").what,
        "is not a host name"
    );
    assert!(
        mistake("[proxy]\nlisten = 14180\n", "proxy.listen[0]")
            .what
            .contains("must be text in quotes")
    );
}

#[test]
fn the_schema_says_so() {
    let takes = |steps: &[&str], kind: &str| {
        let node = SchemaNode::of_type::<File>().at(steps.iter().copied());
        node.takes(kind)
    };
    for steps in [
        &["proxy", "listen"][..],
        &["proxy", "hosts"],
        &["upstreams", "a", "match", "hosts"],
        &["credentials", "a", "guard", "rate"],
    ] {
        assert!(takes(steps, "array") && takes(steps, "string"), "{steps:?}");
    }
    assert!(takes(&["admin", "uids"], "integer") && takes(&["admin", "uids"], "array"));
    assert!(takes(&["proxy", "peer_uids"], "integer") && takes(&["proxy", "peer_uids"], "array"));
    assert!(
        takes(&["credentials", "a", "errors"], "object")
            && takes(&["credentials", "a", "errors"], "array")
    );
}
