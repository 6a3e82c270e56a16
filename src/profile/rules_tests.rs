//! Tests of `errors`, where a rule says which answers it means, and of what is said where.

use super::*;

fn rule(rule: &Value) -> Try {
    oauth2(json!({"errors": [rule]}))
}

#[test]
fn a_rule_that_would_hit_every_answer_of_a_token_endpoint_is_refused() {
    for then in ["rejected", "retry", "throttled", "config"] {
        let tried = rule(&json!({"at": "token", "token": "access", "then": then}));
        tried.says(
            "credentials.x.errors[0].status",
            "those with a good token included",
        );
        assert_eq!(tried.found.len(), 1, "{:?}", tried.found);
    }
    rule(&json!({"at": "token", "then": "ok"})).right();
    rule(&json!({"at": "token", "status": "4xx", "then": "rejected"})).right();
    rule(&json!({"at": "token", "path": "/code", "in": ["E1"], "then": "rejected"})).right();
}

#[test]
fn a_rule_with_an_empty_list_is_refused() {
    rule(&json!({"at": "token", "status": [], "then": "rejected"}))
        .says("credentials.x.errors[0].status", "empty list");
    rule(&json!({"at": "api", "status": [], "then": "pass"}))
        .says("credentials.x.errors[0].status", "empty list");
    for key in ["in", "not_in"] {
        let tried = rule(&json!({"at": "token", "path": "/code", key: [], "then": "rejected"}));
        tried.says(&format!("credentials.x.errors[0].{key}"), "empty list");
    }
}

#[test]
fn an_unknown_key_of_a_profile_is_told_every_key_that_may_stand_there() {
    let token = "[tokens.a]\nurl = \"https://x.example\"\nclient_auth = \"none\"\n";
    for (typed, meant) in [
        ("extend", "extends"),
        ("setings", "settings"),
        ("sorce", "source"),
    ] {
        own(&format!("{typed} = \"x\"\n{token}")).says(typed, &format!("did you mean {meant:?}?"));
    }
}

#[test]
fn where_a_setting_is_wrong_the_setting_is_blamed_and_nothing_else() {
    let base = ProfileRef::Builtin("oauth2".into());
    let given = ["client_id", "client_secret"];
    for (name, value, words) in [
        ("client_auth", "foo", "must be one of body, basic"),
        ("token_url", "http://a.example/t", "plain http"),
        ("resource", "https://a.example/#x", "fragment"),
    ] {
        let mut settings = json!({"token_url": "https://a.example/t"});
        settings[name] = json!(value);
        let tried = on(
            &base,
            json!({}),
            &settings,
            Some(&given[..if name == "client_auth" { 1 } else { 2 }]),
        );
        tried.says(&format!("credentials.x.settings.{name}"), words);
        assert_eq!(tried.found.len(), 1, "{:?}", tried.found);
    }
    let mixed = on(
        &base,
        json!({"tokens": {"access": {"url": "http://{{ audience }}/t"}}}),
        &json!({"audience": "a.example"}),
        None,
    );
    mixed.says("credentials.x.tokens.access.url", "plain http");
    let own = own(
        "[settings.how]\ndefault = \"baisc\"\n[tokens.a]\nurl = \"https://x.example\"\nclient_auth = \"{{ how }}\"\n",
    );
    own.says("settings.how.default", "did you mean \"basic\"?");
    assert_eq!(
        (own.found.len(), own.files.iter().flatten().count()),
        (1, 1),
        "{:?}",
        own.found
    );
}

#[test]
fn a_default_life_that_would_not_be_believed_is_refused() {
    let default = |text: &str| access(json!({"lifetime": {"default": text}}));
    default("401d").says(
        "credentials.x.tokens.access.lifetime.default",
        "longer than 400 days",
    );
    assert_eq!(
        default("400d").right().tokens[0].lifetime.default,
        Duration::from_hours(9600)
    );
}

#[test]
fn every_mistake_comes_with_what_to_do() {
    // `Try` holds no mistake without a hint; these are the ones without a candidate that is near.
    oauth2(
        json!({"zzz": 1, "errors": 3, "tokens": {"access": {"method": "ZZZ", "tls": {"qqq": 1}}}}),
    )
    .says("credentials.x.zzz", "known here");
    on(
        &ProfileRef::Builtin("static".into()),
        json!({}),
        &json!({"zzz": "1"}),
        Some(&[]),
    )
    .says("credentials.x.settings.zzz", "no settings");
    own("extends = 5").says("extends", "`cupbearer profiles`");
    own("a = [").says("credentials.x.profile", "text stands in quotes");
    access(json!({"method": "ZZZ"})).says(
        "credentials.x.tokens.access.method",
        "leave it out for the default",
    );
}
