//! Strict issuers for the other vendors: what their documents say and a mock cannot hold (one use,
//! short lives, many hosts).

use std::collections::BTreeSet;
use std::time::Duration;

use jsonwebtoken::Algorithm;
use serde_json::{Value, json};

use crate::support::{
    assertion::Assertion,
    certs::{Pair, signer, thumbprint},
    endpoint::{Auth, Endpoint, Format, Scope},
    issuer::Issuer,
    sidecar::Sidecar,
    stanza::Stanza,
    tokens::Tokens,
    vendor::{Counts, Need, Vendor},
    wire::Reply,
};

const TOKEN: &str = "/auth/realms/merchants/protocol/openid-connect/token";
const CLIENT: &str = r#"client_id = "client-one", client_secret = "secret-one""#;

fn services() -> Scope {
    Scope::OneOf(vec!["VOP".into(), "WERO".into()])
}

/// What Keycloak's tokens say beyond RFC 6749.
fn keycloak_like(endpoint: &mut Endpoint) {
    endpoint.scope = services();
    endpoint.life = Duration::from_mins(5);
    endpoint.jwt = true;
    let more = json!({ "refresh_expires_in": 0, "not-before-policy": 0 });
    endpoint.more.clone_from(more.as_object().unwrap());
}

/// The endpoint of a realm that takes RS256 assertions of `key` only, each once, for 60 s at most;
/// a sidecar that uses it.
async fn signed(
    tokens: &Tokens,
    key: &Pair,
    kid: &str,
    over: &str,
) -> (Issuer, Assertion, Sidecar, Vendor) {
    let issuer = Issuer::start(tokens, vec![Endpoint::new(TOKEN, "client-one", "unused")]).await;
    let rules = Assertion::new(
        Algorithm::RS256,
        &key.public,
        &format!("{}/auth/realms/merchants", issuer.url()),
    )
    .with_kid(kid);
    issuer.change(TOKEN, |e| {
        keycloak_like(e);
        e.auth = Auth::Assertion(rules.clone(), false);
    });
    let vendor = Vendor::start(tokens, vec![Need::Bearer("access")]).await;
    let settings = format!(
        r#"base = "{}/auth", realm = "merchants", scope = "VOP WERO""#,
        issuer.url()
    );
    let secrets = r#"client_id = "client-one", private_key = { file = "key.pem" }, certificate = { file = "cert.pem" }"#;
    let stanza = Stanza::new("worldline_jwt", &settings, secrets)
        .file("key.pem", &key.key)
        .file("cert.pem", &key.cert)
        .over(over);
    let sidecar = stanza.start(&vendor.url()).await;
    (issuer, rules, sidecar, vendor)
}

/// The claims of the assertion of each token call.
fn claims(issuer: &Issuer) -> Vec<Value> {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    let of = |body: &[u8]| {
        let jwt = form_urlencoded::parse(body)
            .find(|(n, _)| n == "client_assertion")
            .unwrap()
            .1
            .into_owned();
        serde_json::from_slice(
            &URL_SAFE_NO_PAD
                .decode(jwt.split('.').nth(1).unwrap())
                .unwrap(),
        )
        .unwrap()
    };
    issuer.seen().iter().map(|s| of(&s.request.body)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn r12_worldline_gets_a_fresh_assertion_for_every_attempt_retries_included() {
    let (tokens, key) = (Tokens::default(), signer(Algorithm::RS256));
    let (issuer, rules, sidecar, vendor) = signed(&tokens, &key, &thumbprint(&key), "").await;
    assert_eq!(sidecar.status_of("/worldline_jwt/x").await, 200);
    issuer.script(Reply::new(503, "busy"));
    sidecar
        .refresh_until("worldline_jwt", async || rules.accepted() > 1)
        .await;
    assert_eq!(sidecar.status_of("/worldline_jwt/x").await, 200);
    assert_eq!((issuer.refusals(), vendor.counts().answered), (vec![], 2));
    let claims = claims(&issuer);
    let jtis: BTreeSet<&str> = claims.iter().map(|c| c["jti"].as_str().unwrap()).collect();
    assert!(
        claims.len() >= 3 && jtis.len() == claims.len(),
        "{claims:?}"
    );
    for c in &claims {
        assert!(
            (1..=60).contains(&(c["exp"].as_i64().unwrap() - c["iat"].as_i64().unwrap())),
            "{c}"
        );
        assert_eq!(
            c["aud"],
            format!("{}/auth/realms/merchants", issuer.url()),
            "the realm, not its token endpoint"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn r12_r13_worldline_refuses_another_kid_audience_life_and_a_jti_used_before() {
    let (tokens, key) = (Tokens::default(), signer(Algorithm::RS256));
    let print = thumbprint(&key);
    let none = "";
    let aud = "[HERE.tokens.access.assertion.claims]\naud = \"{{ base }}\"";
    let life = "[HERE.tokens.access.assertion]\nlifetime = \"1h\"";
    let kid = print.to_lowercase();
    for (kid, over, why) in [
        (kid.as_str(), none, "kid is"),
        (print.as_str(), aud, "InvalidAudience"),
        (print.as_str(), life, "lives 3600 s"),
    ] {
        let (issuer, _, sidecar, _) = signed(&tokens, &key, kid, over).await;
        let (status, body) = sidecar.refusal("/worldline_jwt/x").await;
        assert_eq!(
            (status, &body["code"]),
            (502, &json!("token_rejected")),
            "{why}"
        );
        assert!(
            issuer.refusals()[0].contains(why),
            "{why}: {:?}",
            issuer.refusals()
        );
    }
    let (issuer, _, sidecar, _vendor) = signed(
        &tokens,
        &key,
        &print,
        "[HERE.tokens.access.assertion.claims]\njti = \"always\"",
    )
    .await;
    assert_eq!(sidecar.status_of("/worldline_jwt/x").await, 200);
    sidecar
        .refresh_until("worldline_jwt", async || issuer.seen().len() > 1)
        .await;
    assert_eq!(issuer.refusals(), ["jti was used before"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn worldline_calls_have_an_id_and_a_time_of_their_own_unless_the_caller_gives_them() {
    let tokens = Tokens::default();
    let mut endpoint = Endpoint::new(TOKEN, "client-one", "secret-one");
    keycloak_like(&mut endpoint);
    let issuer = Issuer::start(&tokens, vec![endpoint]).await;
    let vendor = Vendor::start(&tokens, vec![Need::Bearer("access")]).await;
    let settings = format!(
        r#"base = "{}/auth", realm = "merchants", scope = "VOP WERO""#,
        issuer.url()
    );
    let sidecar = Stanza::new("worldline", &settings, CLIENT)
        .start(&vendor.url())
        .await;
    for _ in 0..3 {
        assert_eq!(sidecar.status_of("/worldline/x").await, 200);
    }
    let mut ids = BTreeSet::new();
    for request in vendor.seen() {
        let id = request.header("x-request-id").unwrap().to_owned();
        assert_eq!(
            uuid::Uuid::parse_str(&id).unwrap().hyphenated().to_string(),
            id
        );
        ids.insert(id);
        let at = request.header("messagecreatedatetime").unwrap();
        let age = jiff::Timestamp::now() - at.parse::<jiff::Timestamp>().unwrap();
        assert!(
            at.len() == "2026-01-01T00:00:00.000Z".len() && age.get_seconds().abs() < 30,
            "{at}"
        );
    }
    assert_eq!(ids.len(), 3);
    let own = sidecar
        .client
        .get(sidecar.url("/worldline/x"))
        .header("X-Request-ID", "mine")
        .header("MessageCreateDateTime", "then");
    assert_eq!(own.send().await.unwrap().status(), 200);
    let request = vendor.last();
    let all = |name: &str| {
        request
            .headers
            .iter()
            .filter(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, v)| v.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        (all("x-request-id"), all("messagecreatedatetime")),
        (vec!["mine".to_owned()], vec!["then".to_owned()])
    );
    assert_eq!((issuer.calls(TOKEN), issuer.refusals()), (1, vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_token_of_optoro_serves_all_its_hosts() {
    let tokens = Tokens::default();
    let mut endpoint = Endpoint::new("/oauth/token", "client-one", "secret-one");
    endpoint.format = Format::Json;
    endpoint.life = Duration::from_hours(25);
    endpoint.more = json!({ "scope": "read write", "created_at": 1_700_000_000 })
        .as_object()
        .unwrap()
        .clone();
    let issuer = Issuer::start(&tokens, vec![endpoint]).await;
    let mut vendors = Vec::new();
    for _ in 0..7 {
        vendors.push(Vendor::start(&tokens, vec![Need::Bearer("access")]).await);
    }
    let names = [
        "catalogs",
        "facilities",
        "drop-ship",
        "rtv",
        "asn",
        "orders",
        "main",
    ];
    let urls: Vec<String> = vendors.iter().map(Vendor::url).collect();
    let upstreams: Vec<(&str, &str)> = names
        .into_iter()
        .zip(urls.iter().map(String::as_str))
        .collect();
    let stanza = Stanza::new("optoro", &format!(r#"base = "{}""#, issuer.url()), CLIENT);
    let sidecar = stanza.start_with(&upstreams).await;
    let statuses = futures_util::future::join_all(names.map(|name| {
        let sidecar = &sidecar;
        async move { sidecar.status_of(&format!("/{name}/v1/x")).await }
    }));
    assert_eq!(statuses.await, [200; 7]);
    let sent: BTreeSet<String> = vendors
        .iter()
        .map(|v| v.last().header("authorization").unwrap().to_owned())
        .collect();
    assert_eq!(
        (sent.len(), issuer.calls("/oauth/token"), issuer.refusals()),
        (1, 1, vec![])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn sqr_may_fail_in_its_own_words_and_its_short_tokens_are_renewed_before_they_die() {
    let tokens = Tokens::default();
    let mut endpoint = Endpoint::new("/v1/oauth/token", "client-one", "secret-one");
    endpoint.format = Format::Json;
    endpoint.jwt = true;
    endpoint.life = Duration::from_secs(2);
    let issuer = Issuer::start(&tokens, vec![endpoint]).await;
    let fault = json!({ "code": 503, "timestamp": "2026-01-02T03:04:05.678Z", "path": "/x", "method": "POST", "error": "INTERNAL_SERVER_ERROR", "message": "Failed" });
    issuer.script(Reply::json(503, &fault));
    let vendor = Vendor::start(&tokens, vec![Need::Bearer("access")]).await;
    let settings = format!(r#"base = "{}", path = "/v1/oauth/token""#, issuer.url());
    let sidecar = Stanza::new("sqr", &settings, CLIENT)
        .start(&vendor.url())
        .await;
    let mut calls = 0;
    let tried = |outcome| {
        format!(
            "cupbearer_token_requests_total{{credential=\"sqr\",outcome=\"{outcome}\",token=\"access\"}}"
        )
    };
    while issuer.calls("/v1/oauth/token") < 4 {
        assert_eq!(sidecar.status_of("/sqr/v1/x").await, 200);
        calls += 1;
    }
    assert_eq!(
        vendor.counts(),
        Counts {
            requests: calls,
            answered: calls,
            ..Counts::default()
        }
    );
    assert!((sidecar.metric(&tried("retry")).await - 1.0).abs() < f64::EPSILON);
    assert_eq!(issuer.refusals(), Vec::<String>::new());
}
