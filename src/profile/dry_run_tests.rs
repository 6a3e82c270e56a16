//! Tests of templates that no value could mend: found at load, with a hint.

use super::*;

const AT: &str = "credentials.x.tokens.access.params.x";

fn param(text: &str) -> Try {
    access(json!({"params": {"x": text}}))
}

/// A profile with everything a template can name.
fn rich(text: &str) -> Try {
    let profile = format!(
        "[settings.region]\ndefault = \"eu\"\n[secrets.id]\n[secrets.pem]\n[secrets.extra]\noptional = true\n\
         [partition.shop]\nheader = \"X-Shop\"\npattern = \"^.+$\"\n\
         [tokens.first]\nurl = \"https://x.example/1\"\nclient_auth = \"none\"\nresponse.vars = {{ number = \"/n\" }}\n\
         [tokens.second]\nurl = \"https://x.example/2\"\nclient_auth = \"none\"\nparams.x = '''{text}'''\n"
    );
    own(&profile)
}

#[test]
fn a_template_that_can_never_be_rendered_is_found_at_load() {
    for (text, words) in [
        ("{{ secrets.client_id.foo }}", "part of secrets.client_id"),
        ("{{ now.epoch.x }}", "part of now.epoch"),
        ("{{ scope.upper }}", "part of setting scope"),
        ("{{ uuid.x }}", "part of uuid"),
        ("{{ self.x }}", "unknown setting: self"),
        ("{{ uuid().x }}", "only names have parts"),
        ("{{ scope is foo }}", "is defined"),
        ("{{ uuid }}", "uuid is a function"),
        ("{{ now() }}", "now is a value"),
        ("{{ now | date }}", "missing an argument"),
        ("{{ secrets.client_id | basic }}", "missing an argument"),
        ("{{ scope | replace('a') }}", "missing an argument"),
        ("{{ scope | sha256 }}", "hex, b64encode or b64url"),
        (
            "{{ secrets.client_id | cert_der }}",
            "hex, b64encode or b64url",
        ),
        ("{{ 'a' | date('%Y') }}", "date takes now"),
        ("{{ 1 // 0 }}", "divided by 0"),
        ("{{ secrets.client_id + 1 }}", "cannot be rendered"),
        ("{{ [scope] }}", "only text and numbers"),
    ] {
        let tried = param(text);
        tried.says(AT, words);
        assert!(
            tried.found.len() == 1 && !tried.found[0].2.is_empty(),
            "{text}: {:?}",
            tried.found
        );
    }
    let inject = oauth2(
        json!({"inject": {"headers": {"X-A": "{{ token.foo }}", "X-B": "{{ tokens.access.foo }}"}}}),
    );
    inject.says("credentials.x.inject.headers.X-A", "part of token");
    inject.says("credentials.x.inject.headers.X-B", "part of tokens.access");
}

#[test]
fn a_template_that_some_value_suits_is_taken() {
    for text in [
        "{{ secrets.pem | cert_der | sha1 | hex | upper }}",
        "{{ secrets.pem | spki_der | sha256 | b64url }}",
        "{{ (secrets.id | split(':'))[1] }}",
        "{{ vars.number | int + 60 }}",
        "{{ vars.number | int - (secrets.id | split('-') | last | int) }}",
        "{{ secrets.id | basic(secrets.pem) }}",
        "{{ tokens.first[:8] }}{{ tokens.first | length }}",
        "{{ (secrets.id ~ partition.shop) | sha256 | hex }}",
        "{{ region | upper }}{{ now.epoch - 60 }}{{ now | date('%Y') }}{{ uuid() }}",
        "{% if secrets.extra %}{{ secrets.extra }}{% endif %}",
        "{{ secrets.extra | default('') }}",
        "{{ vars.number | split('.') | join('') }}{{ 100 // (vars.number | int - 1) }}",
        "{% if region == 'us' %}{{ secrets.pem }}{% else %}{{ region }}{% endif %}",
    ] {
        rich(text).right();
    }
}

#[test]
fn settings_are_what_they_will_be_so_nothing_is_forgiven_them() {
    param("{{ token_url | cert_der | hex }}").says(AT, "no PEM certificate");
    param("{{ token_url | int }}").says(AT, "cannot be rendered");
    param("{{ token_url | basic('x') }}").says(AT, "colon");
}

#[test]
fn an_optional_secret_that_is_not_given_must_be_asked_for() {
    let base = ProfileRef::Builtin("oauth2".into());
    let settings = json!({"token_url": "https://a.example/t"});
    let with = |names: &[&str], text: &str| {
        on(
            &base,
            json!({"tokens": {"access": {"params": {"x": text}}}, "inject": {"headers": {"X-A": text}}}),
            &settings,
            Some(names),
        )
    };
    let two = ["client_id", "client_secret"];
    for text in [
        "{{ secrets.private_key }}",
        "{{ secrets.private_key | sha256 | hex }}",
    ] {
        let tried = with(&two, text);
        for at in [AT, "credentials.x.inject.headers.X-A"] {
            tried.says(
                at,
                "needs the optional secret private_key, which is not given",
            );
            tried.says(at, "{% if secrets.private_key %}");
        }
        assert_eq!(tried.found.len(), 2, "{:?}", tried.found);
        with(&["client_id", "client_secret", "private_key"], text).right();
        // A folder may hold it.
        on(
            &base,
            json!({"tokens": {"access": {"params": {"x": text}}}}),
            &settings,
            None,
        )
        .right();
    }
    with(
        &two,
        "{% if secrets.private_key %}{{ secrets.private_key }}{% endif %}",
    )
    .right();
    with(&two, "{{ secrets.private_key | default('none') }}").right();
}

#[test]
fn one_mistake_in_a_template_is_told_once() {
    let missing = on(
        &ProfileRef::Builtin("oauth2".into()),
        json!({}),
        &json!({"token_url": "https://a.example/t"}),
        Some(&["client_id"]),
    );
    assert_eq!(missing.found.len(), 1, "{:?}", missing.found);
    let unknown = param("{{ secrets.client_idd | cert_der }}");
    assert_eq!(unknown.found.len(), 1, "{:?}", unknown.found);
}
