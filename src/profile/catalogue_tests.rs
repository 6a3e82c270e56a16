//! The shape of every built-in profile, as the vendors' documents have it.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Map, Value, json};

use super::*;
use crate::{
    document::Problems,
    profile::model::{
        ClientAuth, InjectPlace, Param, ParamFormat, Profile, RuleMeaning, TokenSpec,
    },
    token::Hold,
};

/// Settings that make each profile complete.
fn settings(name: &str) -> BTreeMap<String, String> {
    let pairs: &[(&str, &str)] = match name {
        "oauth2" => &[("token_url", "https://a.example/token")],
        "keycloak" | "keycloak_jwt" => &[("base", "https://a.example"), ("realm", "r")],
        "mypos" => &[("partner_id", "mps-p-1"), ("application_id", "mps-app-1")],
        "worldline" | "worldline_jwt" => &[
            ("base", "https://a.example/auth"),
            ("realm", "r"),
            ("scope", "VOP WERO"),
        ],
        _ => &[],
    };
    pairs
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect()
}

fn load(name: &str) -> Profile {
    load_with(name, &settings(name))
}

fn load_with(name: &str, settings: &BTreeMap<String, String>) -> Profile {
    let mut problems = Problems::default();
    let mut overrides = Map::new();
    if name == "static" {
        overrides.insert(
            "inject".into(),
            json!({"headers": {"X-Api-Key": "{{ secrets.api_key }}"}}),
        );
    }
    let base = ProfileRef::Builtin(name.into());
    let profile = assembly::build(
        &base,
        &overrides,
        assembly::CredentialInputs {
            settings,
            secrets: None,
            blind: false,
            files: &ProfileFiles::default(),
        },
        "credentials.x",
        Path::new("/etc"),
        &mut problems,
    );
    assert!(problems.list().is_empty(), "{name}: {:#?}", problems.list());
    profile.unwrap()
}

/// Everything a token request is made of, in one comparable text.
fn request(token: &TokenSpec) -> Value {
    json!({
        "url": token.url.as_ref().map(|t| t.source().to_owned()),
        "method": token.method.as_str(),
        "format": format!("{:?}", token.format),
        "auth": format!("{:?}", token.client_auth),
        "grant": token.grant_type.as_ref().map(|t| t.source().to_owned()),
        "params": token.params.iter().map(|(k, v)| (k.clone(), text(v))).collect::<BTreeMap<_, _>>(),
        "headers": token.headers.iter().map(|(k, v)| (k.to_string(), v.source().to_owned())).collect::<BTreeMap<_, _>>(),
    })
}

fn text(param: &Param) -> String {
    match param {
        Param::Text(template) => template.source().to_owned(),
        other => format!("{other:?}"),
    }
}

fn placed(profile: &Profile) -> BTreeMap<String, String> {
    profile
        .injected_headers()
        .into_iter()
        .map(|(k, v)| (k.to_string(), v.source().to_owned()))
        .collect()
}

fn names(profile: &Profile) -> Vec<&str> {
    profile.secrets.keys().map(String::as_str).collect()
}

fn only(profile: &Profile) -> &TokenSpec {
    assert_eq!(profile.tokens.len(), 1);
    assert_eq!(&*profile.tokens[0].name, "access");
    &profile.tokens[0]
}

#[test]
fn every_profile_loads_without_a_problem_and_explains_itself() {
    let names: Vec<&str> = all().iter().map(|(name, _)| *name).collect();
    let promised = [
        "keycloak",
        "keycloak_jwt",
        "lean",
        "lean_customer",
        "mypos",
        "oauth2",
        "optoro",
        "sqr",
        "static",
        "worldline",
        "worldline_jwt",
    ];
    assert_eq!(names, promised);
    for name in names {
        load(name);
        let told = describe(name).unwrap();
        assert!(
            !told.doc.is_empty() && told.source.starts_with("https://"),
            "{name}"
        );
        assert!(
            told.settings.iter().all(|s| !s.help.is_empty()),
            "{name}: {:?}",
            told.settings
        );
        assert!(
            !told.secrets.is_empty() && told.secrets.iter().all(|s| !s.help.is_empty()),
            "{name}: {:?}",
            told.secrets
        );
    }
    assert!(describe("nothing").is_none());
}

#[test]
fn settings_and_defaults_are_those_that_were_promised() {
    let told = |name: &str| -> Vec<(String, String)> {
        describe(name)
            .unwrap()
            .settings
            .iter()
            .map(|s| {
                (
                    s.name.clone(),
                    s.default.clone().unwrap_or_else(|| "required".into()),
                )
            })
            .collect()
    };
    let pairs = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
        pairs
            .iter()
            .map(|(a, b)| ((*a).into(), (*b).into()))
            .collect()
    };
    assert_eq!(
        told("oauth2"),
        pairs(&[
            ("audience", ""),
            ("client_auth", "body"),
            ("resource", ""),
            ("scope", ""),
            ("token_url", "required")
        ])
    );
    assert_eq!(
        told("keycloak"),
        pairs(&[("base", "required"), ("realm", "required"), ("scope", "")])
    );
    assert_eq!(told("keycloak_jwt"), told("keycloak"));
    assert_eq!(
        told("mypos"),
        pairs(&[
            ("application_id", "required"),
            ("base", "https://api-gateway.mypos.com"),
            ("partner_id", "required")
        ])
    );
    assert_eq!(
        told("optoro"),
        pairs(&[("base", "https://auth.optiturn.com")])
    );
    assert_eq!(
        told("sqr"),
        pairs(&[
            ("base", "https://api.sqr-group.com"),
            ("path", "/oauth2/token")
        ])
    );
    assert_eq!(
        told("lean"),
        pairs(&[("base", "https://auth.leantech.me"), ("scope", "api")])
    );
    assert_eq!(
        told("lean_customer"),
        pairs(&[("base", "https://auth.leantech.me")])
    );
    assert_eq!(
        told("worldline"),
        pairs(&[
            ("base", "required"),
            ("realm", "required"),
            ("scope", "required")
        ])
    );
    assert_eq!(told("worldline_jwt"), told("worldline"));
    assert_eq!(told("static"), []);
}

#[test]
fn oauth2_sends_what_rfc_6749_asks_and_optional_parameters_render_empty() {
    let profile = load("oauth2");
    let want = json!({
        "url": "{{ token_url }}", "method": "POST", "format": "Form", "auth": "Body", "grant": "client_credentials", "headers": {},
        "params": {"scope": "{{ scope }}", "audience": "{{ audience }}", "resource": "{{ resource }}"},
    });
    assert_eq!(request(only(&profile)), want);
    assert_eq!(
        placed(&profile),
        BTreeMap::from([("authorization".into(), "Bearer {{ token }}".into())])
    );
    assert!(profile.secrets["client_id"].public && !profile.secrets["client_secret"].public);
    assert!(profile.secrets["private_key"].optional && !profile.secrets["client_secret"].optional);
}

#[test]
fn oauth2_takes_each_kind_of_client_authentication_by_its_setting() {
    let kinds = [
        ("body", ClientAuth::Body, false),
        ("basic", ClientAuth::Basic, false),
        ("basic_raw", ClientAuth::BasicRaw, false),
        ("client_secret_jwt", ClientAuth::ClientSecretJwt, false),
        ("private_key_jwt", ClientAuth::PrivateKeyJwt, true),
        ("none", ClientAuth::None, true),
    ];
    for (word, kind, without_secret) in kinds {
        let mut all = settings("oauth2");
        all.insert("client_auth".into(), word.into());
        let profile = load_with("oauth2", &all);
        assert_eq!(only(&profile).client_auth, kind);
        assert_eq!(
            profile.secrets["client_secret"].optional, without_secret,
            "{word}"
        );
        assert_eq!(
            profile.secrets["private_key"].optional,
            word != "private_key_jwt"
        );
        assert_eq!(only(&profile).assertion.is_some(), word.ends_with("_jwt"));
    }
}

#[test]
fn mypos_makes_a_session_with_the_partner_token_and_places_four_headers() {
    let profile = load("mypos");
    let [partner, session] = &profile.tokens[..] else {
        panic!("two tokens")
    };
    let want = json!({
        "url": "{{ base }}/api/v1/oauth/token", "method": "POST", "format": "Form", "auth": "Body", "grant": "client_credentials",
        "headers": {}, "params": {},
    });
    assert_eq!(request(partner), want);
    let want = json!({
        "url": "{{ base }}/api/v1/auth/session", "method": "POST", "format": "Json", "auth": "None", "grant": null,
        "headers": {"authorization": "Bearer {{ tokens.partner }}"},
        "params": {"client_id": "{{ secrets.merchant_client_id }}", "client_secret": "{{ secrets.merchant_client_secret }}"},
    });
    assert_eq!(request(session), want);
    assert_eq!(
        (&*partner.name, &*session.name, &session.parents[..]),
        ("partner", "session", &[0][..])
    );
    assert_eq!(session.lifetime.cap, Some(Duration::from_mins(5)));
    assert_eq!(
        partner.response.expires_at,
        Some(crate::profile::model::ValueSource::Pointer(
            "/expires_on".into()
        ))
    );
    let placed = placed(&profile);
    assert_eq!(
        placed.keys().map(String::as_str).collect::<Vec<_>>(),
        [
            "authorization",
            "x-application-id",
            "x-partner-id",
            "x-session"
        ]
    );
    assert_eq!(
        (
            placed["authorization"].as_str(),
            placed["x-session"].as_str()
        ),
        ("Bearer {{ tokens.partner }}", "{{ tokens.session }}")
    );
    let limits = &profile.limits;
    assert_eq!(
        (
            limits.max_rejections,
            limits.hold,
            limits.account_rejections
        ),
        (1, Hold::For(Duration::from_hours(1)), Some(2))
    );
    let [gateway, refused] = &profile.errors[..] else {
        panic!("two rules")
    };
    assert_eq!(
        (
            gateway.json,
            gateway.status.len(),
            gateway.then,
            gateway.hold
        ),
        (
            Some(false),
            2,
            RuleMeaning::Retry,
            Some(Duration::from_mins(5))
        )
    );
    assert_eq!(
        (
            refused.json,
            refused.status.len(),
            refused.then,
            refused.hold
        ),
        (None, 3, RuleMeaning::Rejected, None)
    );
    assert!(gateway.token.is_none() && refused.token.is_none());
    assert_eq!(
        names(&profile),
        [
            "client_id",
            "client_secret",
            "merchant_client_id",
            "merchant_client_secret"
        ]
    );
}

#[test]
fn optoro_and_sqr_send_three_json_fields_and_no_more() {
    for (name, url) in [
        ("optoro", "{{ base }}/oauth/token"),
        ("sqr", "{{ base }}{{ path }}"),
    ] {
        let profile = load(name);
        let want = json!({"url": url, "method": "POST", "format": "Json", "auth": "Body", "grant": "client_credentials", "headers": {}, "params": {}});
        assert_eq!(request(only(&profile)), want);
        assert_eq!(names(&profile), ["client_id", "client_secret"]);
    }
}

#[test]
fn lean_always_sends_a_scope_and_its_customers_have_their_own() {
    let lean = load("lean");
    assert_eq!(
        request(only(&lean))["params"],
        json!({"scope": "{{ scope }}"})
    );
    assert_eq!(
        (only(&lean).format, only(&lean).client_auth, lean.vend),
        (ParamFormat::Form, ClientAuth::Body, false)
    );
    let customer = load("lean_customer");
    assert_eq!(
        request(only(&customer))["params"],
        json!({"scope": "customer.{{ partition.customer_id }}"})
    );
    let [partition] = &customer.partition[..] else {
        panic!("one partition")
    };
    assert_eq!(
        (&*partition.name, partition.header.as_str(), partition.max),
        ("customer_id", "x-lean-customer-id", 1000)
    );
    assert!(
        partition
            .pattern
            .is_match("a1b2c3d4-e5f6-7890-abcd-ef0123456789")
    );
    assert!(
        !partition
            .pattern
            .is_match("a1b2c3d4-e5f6-7890-abcd-ef0123456789 api")
    );
    let life = &only(&customer).lifetime;
    assert_eq!(
        (life.min_remaining, life.refresh, customer.vend),
        (
            Duration::from_mins(10),
            crate::token::RefreshMode::Lazy,
            true
        )
    );
}

#[test]
fn worldline_sends_either_a_secret_or_a_jwt_never_a_client_id_with_the_latter() {
    let url = "{{ base }}/realms/{{ realm }}/protocol/openid-connect/token";
    for (name, auth) in [
        ("worldline", "Body"),
        ("worldline_jwt", "PrivateKeyJwt"),
        ("keycloak", "Body"),
        ("keycloak_jwt", "PrivateKeyJwt"),
    ] {
        let profile = load(name);
        let want = json!({
            "url": url, "method": "POST", "format": "Form", "auth": auth, "grant": "client_credentials", "headers": {},
            "params": {"scope": "{{ scope }}"},
        });
        assert_eq!(request(only(&profile)), want, "{name}");
        assert_eq!(placed(&profile)["authorization"], "Bearer {{ token }}");
        let absent: Vec<_> = profile
            .inject
            .iter()
            .filter_map(|(place, v)| match place {
                InjectPlace::HeaderIfAbsent(k) => Some((k.as_str(), v.source(), v.per_request())),
                InjectPlace::Header(_) | InjectPlace::Query(_) | InjectPlace::Cookie(_) => None,
            })
            .collect();
        if name.starts_with("worldline") {
            assert_eq!(
                absent,
                [
                    ("messagecreatedatetime", "{{ now }}", true),
                    ("x-request-id", "{{ uuid() }}", true)
                ]
            );
        } else {
            assert!(absent.is_empty());
        }
    }
}

#[test]
fn jwt_profiles_address_the_realm_and_name_the_certificate() {
    use crate::{
        profile::Scope,
        secret::{Secret, Values},
    };
    let key = rcgen::KeyPair::generate().unwrap();
    let cert = rcgen::CertificateParams::new(vec!["x".to_owned()])
        .unwrap()
        .self_signed(&key)
        .unwrap();
    let print = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, cert.der());
    let thumbprint = print
        .as_ref()
        .iter()
        .fold(String::new(), |text, byte| text + &format!("{byte:02X}"));
    // Keycloak's own name of a key: SHA-256 of its SubjectPublicKeyInfo, base64url.
    let public = rcgen::PublicKeyData::subject_public_key_info(&key);
    let hashed = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &public);
    let own_name = base64::Engine::encode(&base64::prelude::BASE64_URL_SAFE_NO_PAD, hashed);
    let with = Values([("certificate".to_owned(), Secret::new(cert.pem()))].into());
    let without = Values::default();
    for (name, kid) in [("keycloak_jwt", own_name), ("worldline_jwt", thumbprint)] {
        let profile = load(name);
        let assertion = only(&profile).assertion.as_ref().unwrap();
        let scope = |secrets| Scope {
            settings: Some(&profile.settings),
            secrets: Some(secrets),
            ..Scope::default()
        };
        assert_eq!(
            assertion.header["kid"]
                .render(&scope(&with))
                .unwrap()
                .as_str(),
            kid
        );
        let absent = assertion.header["kid"].render(&scope(&without));
        match name {
            "keycloak_jwt" => assert_eq!(absent.unwrap().as_str(), ""),
            _ => assert!(absent.is_err()),
        }
        let Param::Text(aud) = &assertion.claims["aud"] else {
            panic!("text")
        };
        assert_eq!(
            aud.render(&scope(&with)).unwrap().as_str(),
            format!("{}/realms/r", profile.settings["base"])
        );
        assert_eq!(
            (assertion.alg, assertion.lifetime.as_secs()),
            (jsonwebtoken::Algorithm::RS256, 60)
        );
        assert_eq!(names(&profile), ["certificate", "client_id", "private_key"]);
        assert_eq!(
            profile.secrets["certificate"].optional,
            name == "keycloak_jwt"
        );
    }
}

#[test]
fn static_takes_any_secret_and_fetches_nothing() {
    let profile = load("static");
    assert!(profile.tokens.is_empty());
    assert_eq!(names(&profile), ["api_key"]);
    assert_eq!(placed(&profile).len(), 1);
}
