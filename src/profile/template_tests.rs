//! Tests of templates.

use proptest::prelude::*;

use super::*;
use crate::secret::Secret;

pub(super) const KEY: &str = "MIIEvQ"; // a marker that must never be quoted

pub(super) fn render(source: &str) -> Result<String, String> {
    let settings = [
        ("base", "https://x"),
        ("evil", "{{ secrets.id }}"),
        ("empty", ""),
    ]
    .map(|(k, v)| (k.to_owned(), v.to_owned()))
    .into();
    let secrets = [("id", "me"), ("odd", "{{ base }}"), ("key", KEY)]
        .map(|(k, v)| (k.to_owned(), Secret::new(v.to_owned())));
    let secrets = Values(secrets.into());
    let vars = [("region", "eu"), ("x", "a-b-c")]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .into();
    let scope = Scope {
        settings: Some(&settings),
        secrets: Some(&secrets),
        tokens: &[("partner", "p1"), ("session", "s1")],
        partition: &[("customer", "c1")],
        vars: Some(&vars),
        assertion: Some("a.b.c"),
        wall: Some(Duration::from_millis(1_700_000_000_042)),
    };
    Template::parse(source)?
        .render(&scope)
        .map(|text| text.to_string())
        .map_err(|e| e.to_string())
}

#[test]
fn every_name_of_the_language_renders() {
    assert_eq!(
        render("{{ base }}/{{ secrets.id }}/{{ token }}/{{ tokens.partner }}").unwrap(),
        "https://x/me/s1/p1"
    );
    assert_eq!(
        render("{{ partition.customer }} {{ vars.region }} {{ assertion }}\n").unwrap(),
        "c1 eu a.b.c\n"
    );
    assert_eq!(render("{{ now }}").unwrap(), "2023-11-14T22:13:20.042Z");
    assert_eq!(render("{{ now.epoch - 60 }}").unwrap(), "1699999940");
    assert_eq!(render("{{ now | date('%Y%m%d') }}").unwrap(), "20231114");
    assert_eq!(
        uuid::Uuid::parse_str(&render("{{ uuid() }}").unwrap())
            .unwrap()
            .get_version_num(),
        4
    );
}

#[test]
fn every_filter_gives_what_its_standard_says() {
    assert_eq!(
        render("{{ 'abc' | sha1 | hex }}").unwrap(),
        "a9993e364706816aba3e25717850c26c9cd0d89d"
    );
    assert_eq!(
        render("{{ 'abc' | sha256 | hex | upper }}").unwrap(),
        "BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD"
    );
    assert_eq!(
        render("{{ 'abc' | sha1 | b64encode }}").unwrap(),
        "qZk+NkcGgWq6PiVxeFDCbJzQ2J0="
    );
    assert_eq!(
        render("{{ 'abc' | sha1 | b64url }}").unwrap(),
        "qZk-NkcGgWq6PiVxeFDCbJzQ2J0"
    );
    assert_eq!(
        render("{{ 'Aladdin' | basic('open sesame') }}").unwrap(),
        "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="
    );
    assert!(
        render("{{ 'a:b' | basic('c') }}")
            .unwrap_err()
            .contains("colon")
    );
    assert!(
        render("{{ now | date('%') }}")
            .unwrap_err()
            .contains("strftime")
    );
    assert!(
        render("{{ 'x' | date('%Y') }}")
            .unwrap_err()
            .contains("date takes now")
    );
}

#[test]
fn keys_and_certificates_give_the_same_public_half() {
    for algorithm in [
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_ED25519,
    ] {
        let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
        let cert = rcgen::CertificateParams::new(vec!["x".to_owned()])
            .unwrap()
            .self_signed(&key)
            .unwrap();
        let pairs = [("key", key.serialize_pem()), ("cert", cert.pem())]
            .map(|(k, v)| (k.to_owned(), Secret::new(v)));
        let secrets = Values(pairs.into());
        let text = |source: &str| {
            let scope = Scope {
                secrets: Some(&secrets),
                ..Scope::default()
            };
            Template::parse(source)
                .unwrap()
                .render(&scope)
                .unwrap()
                .to_string()
        };
        assert_eq!(
            text("{{ secrets.key | spki_der | hex }}"),
            text("{{ secrets.cert | spki_der | hex }}")
        );
        assert!(text("{{ secrets.key | spki_der | hex }}").starts_with("30"));
        let der = cert
            .der()
            .iter()
            .fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
        assert_eq!(text("{{ secrets.cert | cert_der | hex }}"), der);
    }
}

#[test]
fn rsa_keys_are_understood_in_both_their_forms() {
    use aws_lc_rs::encoding::AsDer;
    let pair = aws_lc_rs::rsa::KeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).unwrap();
    let der = AsDer::<aws_lc_rs::encoding::Pkcs8V1Der<'_>>::as_der(&pair).unwrap();
    // PKCS#8 wraps PKCS#1 behind 26 bytes of header for this size (RFC 5208).
    for (label, der) in [
        ("PRIVATE KEY", der.as_ref()),
        ("RSA PRIVATE KEY", &der.as_ref()[26..]),
    ] {
        let body = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, der);
        let pem = format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n");
        let secrets = Values([("key".to_owned(), Secret::new(pem))].into());
        let scope = Scope {
            secrets: Some(&secrets),
            ..Scope::default()
        };
        let text = Template::parse("{{ secrets.key | spki_der | hex }}")
            .unwrap()
            .render(&scope)
            .unwrap();
        assert!(text.len() > 500 && text.starts_with("30820122"), "{label}");
    }
}

#[test]
fn a_value_is_data_and_never_a_template() {
    assert_eq!(
        render("{{ secrets.odd }}{{ evil }}").unwrap(),
        "{{ base }}{{ secrets.id }}"
    );
}

#[test]
fn a_text_without_expressions_is_itself_to_the_last_byte() {
    for text in ["", "plain", "a } b }} %}", "<b>&amp;\n"] {
        let template = Template::parse(text).unwrap();
        assert!(template.is_plain() && template.names().is_empty() && !template.per_request());
        assert_eq!(render(text).unwrap(), text);
    }
    assert_eq!(render("<{{ base }}&\n").unwrap(), "<https://x&\n");
}

#[test]
fn an_undefined_name_is_an_error_but_may_be_asked_for() {
    assert!(render("{{ nobody }}").unwrap_err().contains("not defined"));
    assert!(
        render("{{ secrets.nobody }}")
            .unwrap_err()
            .contains("not defined")
    );
    assert!(render("{{ secrets.nobody | cert_der | hex }}").is_err());
    assert_eq!(render("{% if secrets.nobody %}x{% endif %}").unwrap(), "");
    assert_eq!(
        render("{% if secrets.id %}{{ secrets.id }}{% endif %}").unwrap(),
        "me"
    );
    assert_eq!(render("{{ secrets.nobody | default('d') }}").unwrap(), "d");
}

#[test]
fn mistakes_in_the_text_are_found_when_it_is_parsed() {
    for text in [
        "{{ a",
        "{% if a %}",
        "{{ a | }}",
        "{% include 'x' %}",
        "{% extends 'x' %}",
        "{% macro m() %}{% endmacro %}",
        "{{ 1 + }}",
    ] {
        assert!(Template::parse(text).is_err(), "{text}");
    }
    let told = Template::parse("{{ a | b64encod }}").unwrap_err();
    assert!(
        told.contains("no filter b64encod") && told.contains("b64encode"),
        "{told}"
    );
    assert!(Template::parse("{{ a | tojson }}").is_err());
    assert!(Template::parse("{{ 'x | nofilter' }}").is_ok());
}

#[test]
fn errors_name_expressions_and_never_a_value_or_literal_text() {
    for text in [
        "sk_live_1 {{ secrets.key | cert_der }}",
        "sk_live_1 {{ secrets.key | spki_der }}",
        "sk_live_1 {{ secrets.key + 1 }}",
        "sk_live_1 {{ 'sk_live_1' + 1 + secrets.key }}",
        "sk_live_1 {{ secrets.key | int }}",
    ] {
        let told = render(text).unwrap_err();
        assert!(!told.contains(KEY) && !told.contains("sk_live_1"), "{told}");
        assert!(!format!("{:?}", Template::parse(text).unwrap()).contains("sk_live_1"));
    }
}

#[test]
fn output_and_work_are_bounded() {
    let longest = "x".repeat(LONGEST);
    assert_eq!(with(&longest, "{{ vars.x }}").unwrap().len(), LONGEST);
    for (template, says) in [
        ("{{ vars.x }}y", "64 KiB"),
        ("{{ vars.x ~ 'y' }}", "64 KiB"),
        ("{{ vars.x + 'y' }}", "64 KiB"),
        ("{{ (vars.x ~ vars.x) | length }}", "64 KiB"),
        ("{{ vars.x | replace('x', 'yy') }}", "64 KiB"),
        ("{{ vars.x | replace('', 'y') }}", "64 KiB"),
        ("{{ vars.x | hex | sha256 | hex }}", "64 KiB"),
        ("{{ vars.x | b64encode | first }}", "64 KiB"),
        ("{{ vars.x | basic(vars.x) | first }}", "64 KiB"),
        ("{{ [vars.x, vars.x] | length }}", "64 KiB"),
        ("{{ vars.x[:40000] | split('x') | length }}", "1024 parts"),
        ("{{ vars.x | split('') | join(vars.x) }}", "1024 parts"),
        (
            "{{ vars.x[:1000] | split('x') | join(vars.x) | first }}",
            "64 KiB",
        ),
        ("{{ vars.x | trim(vars.x) }}", "too much work"),
        ("{{ 'abc' | sha1 }}", "hex"),
        ("{{ [1] }}", "only text and numbers"),
        ("{{ [[1]] | length }}", "cannot hold lists"),
        ("{{ 'x' * 65537 }}", "only whole numbers"),
        ("{{ 9223372036854775807 * 9 }}", "18 digits"),
        ("{{ 9223372036854775807 + 1 }}", "18 digits"),
        ("{{ -(-9223372036854775807 - 1) }}", "18 digits"),
        ("{{ 1 // 0 }}", "divided by 0"),
        ("{{ 1 % 0 }}", "divided by 0"),
        ("{{ now | date(vars.x) }}", "256 bytes"),
    ] {
        let told = with(&longest, template).unwrap_err();
        assert!(told.contains(says), "{template}: {told}");
    }
    let work = format!("{{{{ vars.x {} }}}}", "| lower".repeat(500));
    assert!(with(&longest, &work).unwrap_err().contains("too much work"));
}

/// Renders with `vars.x`.
pub(super) fn with(x: &str, source: &str) -> Result<Zeroizing<String>, String> {
    let vars = [("x".to_owned(), x.to_owned())].into();
    let scope = Scope {
        vars: Some(&vars),
        wall: Some(Duration::from_secs(1)),
        ..Scope::default()
    };
    Template::parse(source)?
        .render(&scope)
        .map_err(|e| e.to_string())
}

#[test]
fn what_is_not_listed_is_no_part_of_the_language() {
    for text in [
        "{% set a = 'x' %}",
        "{% set a %}x{% endset %}",
        "{% for a in 'x' %}{% endfor %}",
        "{% macro m() %}{% endmacro %}",
        "{% include 'x' %}",
        "{% import 'x' as y %}",
        "{% extends 'x' %}",
        "{% block x %}{% endblock %}",
        "{% call x() %}{% endcall %}",
        "{% filter upper %}{% endfilter %}",
        "{% with a = 1 %}{% endwith %}",
        "{% autoescape true %}{% endautoescape %}",
        "{% raw %}{{{% endraw %}",
        "{% do x() %}",
        "{{ range(9) }}",
        "{{ namespace(a=1) }}",
        "{{ dict(a=1) }}",
        "{{ debug() }}",
        "{{ 'x'.upper() }}",
        "{{ 2 ** 9 }}",
        "{{ 1 / 2 }}",
        "{{ 1.5 }}",
        "{{ 99999999999999999999999 }}",
        "{{ 0xff }}",
        "{{ {'a': 1} }}",
        "{{ (1, 2) }}",
        "{{ 'a'[::2] }}",
        "{{ 'a' is odd }}",
        "{{ 1 < 2 < 3 }}",
        "{{ 'a' | format }}",
        "{{ 'a' | indent(99999) }}",
        "{{ 'a' | center(99999) }}",
        "{{ 'a' | batch(2) }}",
        "{{ 'a' | tojson }}",
        "{{ 'a' | map('upper') }}",
        "{{ 'a' | date(format='%Y') }}",
        "{{ 'a' | upper() | basic }}",
    ] {
        assert!(Template::parse(text).is_err(), "{text}");
    }
}

#[test]
fn no_depth_ends_a_process() {
    let nest = |open: &str, middle: &str, close: &str, n: usize| {
        format!("{{{{ {}{middle}{} }}}}", open.repeat(n), close.repeat(n))
    };
    for (open, middle, close) in [
        ("(", "1", ")"),
        ("[", "1", "]"),
        ("-", "1", ""),
        ("- ", "1", ""),
        ("not ", "1", ""),
        ("1 if 1 else ", "1", ""),
        ("'a'[", "1", "]"),
        ("'a'|default(", "1", ")"),
        ("not(-[", "1", "])"),
    ] {
        let thread = std::thread::Builder::new().stack_size(512 * 1024);
        let (shallow, deep) = (
            nest(open, middle, close, 4),
            nest(open, middle, close, 60_000 / (open.len() + close.len())),
        );
        let parsed = thread
            .spawn(move || {
                (
                    Template::parse(&shallow).map(drop),
                    Template::parse(&deep).map(drop),
                )
            })
            .unwrap()
            .join()
            .unwrap();
        assert_eq!(parsed.0, Ok(()), "{open}");
        assert!(parsed.1.unwrap_err().contains("too deep"), "{open}");
    }
    let ifs = "{% if 1 %}".repeat(6000) + &"{% endif %}".repeat(6000);
    assert!(Template::parse(&ifs[..LONGEST]).is_err());
    // Long is not deep.
    for (first, more) in [
        ("1", " + 1"),
        ("'a'", " ~ 'b'"),
        ("1", " or 1"),
        ("1", " and 1"),
        ("'a'", "|lower"),
        ("'a'", "[:1]"),
    ] {
        let long = format!("{{{{ {first}{} }}}}", more.repeat(60_000 / more.len()));
        let thread = std::thread::Builder::new().stack_size(512 * 1024);
        thread
            .spawn(move || {
                Template::parse(&long).map(|template| drop(template.render(&Scope::default())))
            })
            .unwrap()
            .join()
            .unwrap()
            .unwrap();
    }
}

#[test]
fn names_tell_what_is_used_and_what_changes_with_each_request() {
    let template =
        Template::parse("{{ base }}{{ secrets.id | basic(secrets.key) }}{{ now.epoch }}").unwrap();
    assert_eq!(
        template.names(),
        ["base", "now.epoch", "secrets.id", "secrets.key"]
    );
    assert!(template.per_request());
    assert!(Template::parse("{{ uuid() }}").unwrap().per_request());
    assert!(!Template::parse("Bearer {{ token }}").unwrap().per_request());
}

proptest! {
    #[test]
    fn any_text_parses_and_renders_or_says_why(text in "[a-z{}%#|.'\"() +*0-9\\[\\]-]{0,60}") {
        let _ = render(&text);
    }

    #[test]
    fn any_expression_parses_and_renders_or_says_why(text in ".{0,40}", name in "(now|secrets|secrets\\.id|tokens|base|uuid|vars\\.x)", filter in "[a-z0-9_]{0,8}") {
        let _ = render(&format!("{{{{ {name} | {filter} }}}}{text}"));
        let _ = render(&format!("{{{{ {text} }}}}"));
        let _ = render(&format!("{{% if {name} %}}{text}{{% endif %}}"));
    }
}
