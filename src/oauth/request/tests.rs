//! Goldens of request bytes, one per way of asking; and arbitrary values.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use http::HeaderName;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::{
    client_auth::ClientAuth,
    oauth::testing::{client, params, scope, spec, template, text, values},
};

const URL: &str = "https://auth.example/token";

fn made(spec: &TokenSpec, scope: &Scope<'_>) -> Result<TokenRequest, RequestError> {
    let url = render_token_url(spec, scope)?.ok_or_else(|| RequestError::new("no url"))?;
    build_request(spec, url, scope)
}

fn body(request: &TokenRequest) -> &str {
    std::str::from_utf8(request.body.as_ref().map_or(&[], |b| b.as_slice())).unwrap()
}

fn header<'a>(request: &'a TokenRequest, name: &str) -> Option<&'a str> {
    request.headers.get(name).map(|v| v.to_str().unwrap())
}

fn refused(spec: &TokenSpec, scope: &Scope<'_>) -> String {
    made(spec, scope).err().expect("should be refused").why
}

#[test]
fn r5_the_default_is_a_form_with_the_client_in_the_body() {
    let secrets = client();
    let request = made(
        &TokenSpec {
            params: params(&[("scope", "read write"), ("audience", "")]),
            ..spec(URL)
        },
        &scope(&secrets),
    )
    .unwrap();
    assert_eq!(request.method, Method::POST);
    assert_eq!(request.url.as_str(), URL);
    assert_eq!(
        body(&request),
        "grant_type=client_credentials&client_id=app%3A1+%C3%A9&client_secret=a%2Bb%25%3A%2F%3D+%26%22&scope=read+write"
    );
    assert_eq!(
        header(&request, "content-type"),
        Some("application/x-www-form-urlencoded")
    );
    assert_eq!(header(&request, "accept"), Some("application/json"));
    assert_eq!(request.headers.len(), 2);
}

#[test]
fn r1_basic_encodes_both_halves_first_and_basic_raw_does_not() {
    let secrets = client();
    let by = |client_auth| {
        made(
            &TokenSpec {
                client_auth,
                ..spec(URL)
            },
            &scope(&secrets),
        )
    };
    let basic = by(ClientAuth::Basic).unwrap();
    let encoded = STANDARD.encode("app%3A1+%C3%A9:a%2Bb%25%3A%2F%3D+%26%22");
    assert_eq!(
        header(&basic, "authorization"),
        Some(format!("Basic {encoded}").as_str())
    );
    assert!(basic.headers[AUTHORIZATION].is_sensitive());
    assert_eq!(body(&basic), "grant_type=client_credentials");
    assert!(
        by(ClientAuth::BasicRaw)
            .err()
            .unwrap()
            .why
            .contains("colon")
    );
    let plain = values(&[("client_id", "app"), ("client_secret", "a+b%:")]);
    let raw = made(
        &TokenSpec {
            client_auth: ClientAuth::BasicRaw,
            ..spec(URL)
        },
        &scope(&plain),
    )
    .unwrap();
    assert_eq!(
        header(&raw, "authorization"),
        Some(format!("Basic {}", STANDARD.encode("app:a+b%:")).as_str())
    );
    assert!(
        refused(
            &TokenSpec {
                client_auth: ClientAuth::Basic,
                ..spec(URL)
            },
            &scope(&values(&[]))
        )
        .contains("client_id")
    );
}

#[test]
fn r2_one_way_of_authentication_per_request() {
    let secrets = client();
    let own = vec![(AUTHORIZATION, template("Basic x"))];
    let why = refused(
        &TokenSpec {
            client_auth: ClientAuth::Basic,
            headers: own,
            ..spec(URL)
        },
        &scope(&secrets),
    );
    assert!(why.contains("one method per request"), "{why}");
}

#[test]
fn an_assertion_goes_without_a_client_id_unless_the_profile_says_so() {
    let secrets = client();
    let scope = Scope {
        assertion: Some("h.p.s"),
        ..scope(&secrets)
    };
    let jwt = TokenSpec {
        client_auth: ClientAuth::PrivateKeyJwt,
        ..spec(URL)
    };
    let golden = "grant_type=client_credentials&client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer&client_assertion=h.p.s";
    assert_eq!(body(&made(&jwt, &scope).unwrap()), golden);
    assert_eq!(
        body(
            &made(
                &TokenSpec {
                    client_auth: ClientAuth::ClientSecretJwt,
                    ..jwt.clone()
                },
                &scope
            )
            .unwrap()
        ),
        golden
    );
    let with_id = TokenSpec {
        params: params(&[("client_id", "{{ secrets.client_id }}")]),
        ..jwt.clone()
    };
    assert_eq!(
        body(&made(&with_id, &scope).unwrap()),
        format!("{golden}&client_id=app%3A1+%C3%A9")
    );
    assert!(
        refused(
            &jwt,
            &Scope {
                assertion: None,
                ..scope
            }
        )
        .contains("assertion")
    );
    let grant = TokenSpec {
        client_auth: ClientAuth::None,
        grant_type: Some(template("urn:ietf:params:oauth:grant-type:jwt-bearer")),
        params: params(&[("assertion", "{{ assertion }}")]),
        ..spec(URL)
    };
    assert_eq!(
        body(&made(&grant, &scope).unwrap()),
        "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion=h.p.s"
    );
}

#[test]
fn json_keeps_types_and_leaves_out_only_empty_parameters_at_the_top() {
    let secrets = client();
    let mut tree = params(&[("empty", ""), ("scope", "a")]);
    tree.insert("flag".into(), Param::Bool(true));
    tree.insert("n".into(), Param::Number(1.into()));
    tree.insert(
        "list".into(),
        Param::List(vec![text("x"), Param::Number(2.into())]),
    );
    tree.insert(
        "sub".into(),
        Param::Table(BTreeMap::from([
            ("empty".into(), text("")),
            ("id".into(), text("{{ secrets.client_id }}")),
        ])),
    );
    let request = made(
        &TokenSpec {
            format: ParamFormat::Json,
            params: tree,
            ..spec(URL)
        },
        &scope(&secrets),
    )
    .unwrap();
    let sent: Value = serde_json::from_str(body(&request)).unwrap();
    let expected = json!({
        "grant_type": "client_credentials", "client_id": "app:1 é", "client_secret": "a+b%:/= &\"", "scope": "a", "flag": true, "n": 1,
        "list": ["x", 2], "sub": { "empty": "", "id": "app:1 é" }
    });
    assert_eq!(sent, expected);
    assert_eq!(header(&request, "content-type"), Some("application/json"));
}

#[test]
fn r16_a_list_repeats_its_name_in_a_form_and_a_table_is_refused() {
    let secrets = values(&[]);
    let list = |items| TokenSpec {
        params: BTreeMap::from([("resource".into(), Param::List(items))]),
        ..spec(URL)
    };
    let request = made(
        &list(vec![
            text("https://a.example"),
            text(""),
            text("https://b.example"),
            Param::Bool(false),
        ]),
        &scope(&secrets),
    )
    .unwrap();
    assert_eq!(
        body(&request),
        "grant_type=client_credentials&resource=https%3A%2F%2Fa.example&resource=https%3A%2F%2Fb.example&resource=false"
    );
    assert!(
        refused(&list(vec![Param::List(vec![])]), &scope(&secrets)).contains("params.resource")
    );
}

#[test]
fn r3_what_the_profile_names_itself_is_not_sent_twice() {
    let secrets = values(&[
        ("client_id", "x"),
        ("client_secret", "y"),
        ("merchant_id", "m"),
    ]);
    let own = params(&[
        ("client_id", "{{ secrets.merchant_id }}"),
        ("client_secret", ""),
        ("grant_type", "custom"),
    ]);
    let request = made(
        &TokenSpec {
            params: own,
            ..spec(URL)
        },
        &scope(&secrets),
    )
    .unwrap();
    assert_eq!(body(&request), "client_id=m&grant_type=custom");
    let silent = made(
        &TokenSpec {
            grant_type: None,
            client_auth: ClientAuth::None,
            ..spec(URL)
        },
        &scope(&secrets),
    )
    .unwrap();
    assert_eq!(body(&silent), "");
}

#[test]
fn only_a_query_puts_anything_into_the_url() {
    let secrets = values(&[("client_id", "i d"), ("client_secret", "s&c")]);
    let query = TokenSpec {
        format: ParamFormat::Query,
        method: Method::GET,
        ..spec("https://auth.example/token?v=2")
    };
    let request = made(&query, &scope(&secrets)).unwrap();
    assert_eq!(
        request.url.as_str(),
        "https://auth.example/token?v=2&grant_type=client_credentials&client_id=i+d&client_secret=s%26c"
    );
    assert!(request.body.is_none() && request.headers.get(CONTENT_TYPE).is_none());
    let why = refused(
        &TokenSpec {
            params: params(&[("v", "3")]),
            ..query
        },
        &scope(&secrets),
    );
    assert!(why.contains("params.v") && why.contains("twice"), "{why}");
    for format in [ParamFormat::Form, ParamFormat::Json, ParamFormat::None] {
        let request = made(
            &TokenSpec {
                format,
                ..spec(URL)
            },
            &scope(&secrets),
        )
        .unwrap();
        assert_eq!(request.url.as_str(), URL, "{format:?}");
        assert_eq!(request.body.is_none(), format == ParamFormat::None);
    }
}

#[test]
fn a_raw_body_and_own_headers_are_sent_as_rendered() {
    let secrets = values(&[("key", "k1")]);
    let headers = vec![
        (
            HeaderName::from_static("x-key"),
            template("{{ secrets.key }}"),
        ),
        (HeaderName::from_static("x-none"), template("")),
        (ACCEPT, template("")),
        (CONTENT_TYPE, template("application/graphql")),
    ];
    let raw = TokenSpec {
        body: Some(template("query { t(k: \"{{ secrets.key }}\") }")),
        headers,
        ..spec(URL)
    };
    let request = made(&raw, &scope(&secrets)).unwrap();
    assert_eq!(body(&request), "query { t(k: \"k1\") }");
    assert_eq!(header(&request, "x-key"), Some("k1"));
    assert_eq!(
        header(&request, "content-type"),
        Some("application/graphql")
    );
    assert!(request.headers["x-key"].is_sensitive());
    assert_eq!(request.headers.len(), 2);
    assert_eq!(used_secrets(&raw), ["key"]);
}

#[test]
fn a_header_value_with_a_line_break_is_refused_and_not_repeated() {
    for value in ["a\r\nX-Evil: 1", "a\nb", "a\0b", "é", "tab\t", "\u{7f}"] {
        let secrets = values(&[("key", value)]);
        let headers = vec![(
            HeaderName::from_static("x-key"),
            template("{{ secrets.key }}"),
        )];
        let why = refused(
            &TokenSpec {
                headers,
                ..spec(URL)
            },
            &scope(&secrets),
        );
        assert!(
            why.starts_with("headers.x-key: ") && !why.contains(value),
            "{why}"
        );
    }
}

#[test]
fn a_token_url_is_https_or_loopback_or_allowed() {
    let secrets = values(&[]);
    let at = |url: &str, allow_plaintext| {
        render_token_url(
            &TokenSpec {
                allow_plaintext,
                ..spec(url)
            },
            &scope(&secrets),
        )
        .map(|u| u.unwrap())
    };
    for url in [
        "https://a.example/t",
        "http://127.0.0.1:9/t",
        "http://127.9.9.9/t",
        "http://[::1]/t",
        "http://localhost/t",
        "http://x.localhost/t",
    ] {
        assert!(at(url, false).is_ok(), "{url}");
    }
    for url in [
        "http://a.example/t",
        "http://10.0.0.1/t",
        "http://localhost.evil.example/t",
        "http://[::ffff:127.0.0.1]/t",
    ] {
        assert!(at(url, false).is_err(), "{url}");
        assert!(at(url, true).is_ok(), "{url}");
    }
    for url in [
        "ftp://a.example/",
        "file:///etc/passwd",
        "https://u:p@a.example/",
        "https://u@a.example/",
        "https://a.example/#f",
        "a.example/t",
        "",
    ] {
        assert!(at(url, true).is_err(), "{url}");
    }
}

#[test]
fn the_guard_counts_against_the_secrets_that_are_really_sent() {
    let used = |spec: TokenSpec| {
        used_secrets(&spec)
            .into_iter()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let both = ["client_id".to_owned(), "client_secret".to_owned()];
    assert_eq!(used(spec(URL)), both);
    assert_eq!(
        used(TokenSpec {
            client_auth: ClientAuth::Basic,
            format: ParamFormat::None,
            ..spec(URL)
        }),
        both
    );
    assert_eq!(
        used(TokenSpec {
            format: ParamFormat::None,
            ..spec(URL)
        }),
        [""; 0]
    );
    assert_eq!(
        used(TokenSpec {
            client_auth: ClientAuth::None,
            ..spec(URL)
        }),
        [""; 0]
    );
    assert_eq!(
        used(TokenSpec {
            params: params(&[("client_secret", "{{ secrets.merchant }}")]),
            ..spec(URL)
        }),
        ["client_id", "merchant"]
    );
}

proptest! {
    #[test]
    fn a_form_gives_back_what_was_put_in(id in any::<String>(), secret in any::<String>(), scoped in "[^{}%#]{0,20}") {
        let secrets = values(&[("client_id", &id), ("client_secret", &secret)]);
        let request = made(&TokenSpec { params: params(&[("scope", &scoped)]), ..spec(URL) }, &scope(&secrets)).unwrap();
        let sent: Vec<(String, String)> = form_urlencoded::parse(request.body.as_ref().unwrap()).into_owned().collect();
        let all = [("grant_type", "client_credentials"), ("client_id", &id), ("client_secret", &secret), ("scope", &scoped)];
        let expected: Vec<(String, String)> = all.iter().filter(|(_, v)| !v.is_empty()).map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        prop_assert_eq!(sent, expected);
    }

    #[test]
    fn any_values_make_a_request_or_an_error(url in any::<String>(), secret in any::<String>()) {
        let secrets = values(&[("u", &url), ("client_id", &secret), ("client_secret", &secret)]);
        for client_auth in [ClientAuth::Body, ClientAuth::Basic, ClientAuth::BasicRaw] {
            for format in [ParamFormat::Form, ParamFormat::Json, ParamFormat::Query, ParamFormat::None] {
                let headers = vec![(HeaderName::from_static("x-key"), template("{{ secrets.client_secret }}"))];
                let any = TokenSpec { format, client_auth, headers, ..spec("{{ secrets.u }}") };
                if let Err(refused) = made(&any, &scope(&secrets)) {
                    prop_assert!(secret.len() < 8 || !refused.why.contains(&secret));
                }
            }
        }
    }
}
