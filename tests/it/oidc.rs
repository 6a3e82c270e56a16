//! A certified authorization server: four ways to authenticate, each by a running sidecar, each
//! token good at the server itself.

use std::time::Duration;

use jsonwebtoken::{Algorithm, EncodingKey, jwk::Jwk};
use serde_json::Value;

use crate::support::{
    certs::{Pair, signer},
    foreign::{Foreign, OIDC_SECRET, oidc_provider},
    sidecar::{Sidecar, client},
    stanza::Stanza,
    tokens::Tokens,
    tool::skip,
    vendor::Vendor,
};

/// What the server says of a token (RFC 7662).
async fn introspect(server: &Foreign, token: &str) -> Value {
    let body = form_urlencoded::Serializer::new(String::new())
        .extend_pairs([
            ("client_id", "post"),
            ("client_secret", OIDC_SECRET),
            ("token", token),
        ])
        .finish();
    let request = client().post(format!("{}/token/introspection", server.url));
    let answer = request
        .header("Content-Type", "application/x-www-form-urlencoded")
        .body(body)
        .send()
        .await
        .unwrap();
    serde_json::from_str(&answer.text().await.unwrap()).unwrap()
}

/// A sidecar that authenticates as `id` by `method`, the vendor behind it.
async fn sidecar(
    server: &Foreign,
    id: &str,
    method: &str,
    key: Option<&Pair>,
) -> (Sidecar, Vendor) {
    let vendor = Vendor::start(&Tokens::default(), vec![]).await;
    let settings = format!(
        r#"token_url = "{}/token", scope = "read", client_auth = "{method}""#,
        server.url
    );
    let private = key.map_or("", |_| ", private_key = { file = \"key.pem\" }");
    let secrets = format!(r#"client_id = "{id}", client_secret = {{ file = "secret" }}{private}"#);
    let assertion = match method {
        "private_key_jwt" => {
            "[HERE.tokens.access.assertion]\nalg = \"ES256\"\nkey = \"{{ secrets.private_key }}\"\n"
        }
        "client_secret_jwt" => "[HERE.tokens.access.assertion]\nalg = \"HS256\"\n",
        _ => "",
    };
    // This server takes its issuer as the audience, not its token endpoint.
    let aud = if assertion.is_empty() {
        String::new()
    } else {
        format!("claims = {{ aud = \"{}\" }}", server.url)
    };
    let key = key.map_or("", |k| k.key.as_str());
    let stanza = Stanza::new("oauth2", &settings, &secrets).over(&format!("{assertion}{aud}"));
    let sidecar = stanza
        .file("secret", OIDC_SECRET)
        .file("key.pem", key)
        .start(&vendor.url())
        .await;
    (sidecar, vendor)
}

#[tokio::test(flavor = "multi_thread")]
async fn r1_a_certified_server_gives_the_sidecar_a_token_by_each_of_four_methods() {
    let key = signer(Algorithm::ES256);
    let public = EncodingKey::from_ec_pem(key.key.as_bytes()).unwrap();
    let jwk =
        serde_json::to_value(Jwk::from_encoding_key(&public, Algorithm::ES256).unwrap()).unwrap();
    let server = match oidc_provider(Some((jwk, "ES256")), 60).await {
        Ok(server) => server,
        Err(reason) => return skip("oidc", &reason),
    };
    for (id, method) in [
        ("basic", "basic"),
        ("post", "body"),
        ("keyed", "private_key_jwt"),
        ("hmac", "client_secret_jwt"),
    ] {
        let (sidecar, vendor) = sidecar(&server, id, method, Some(&key)).await;
        let (status, body) = sidecar.refusal("/oauth2/x").await;
        assert_eq!(
            status,
            200,
            "{method}: {body} {}",
            sidecar.token("oauth2", "access").await
        );
        let sent = vendor.last();
        let token = sent
            .header("authorization")
            .and_then(|a| a.strip_prefix("Bearer "))
            .unwrap();
        let about = introspect(&server, token).await;
        assert_eq!(
            (&about["active"], &about["client_id"], &about["scope"]),
            (&true.into(), &id.into(), &"read".into()),
            "{method}: {about}"
        );
        // A second token call: an assertion is taken once, so this one was a new one.
        let ok =
            "cupbearer_token_requests_total{credential=\"oauth2\",outcome=\"ok\",token=\"access\"}";
        sidecar
            .refresh_until("oauth2", async || sidecar.metric(ok).await > 1.0)
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certified_server_that_ends_a_token_is_asked_for_another_before_that() {
    let server = match oidc_provider(None, 2).await {
        Ok(server) => server,
        Err(reason) => return skip("oidc", &reason),
    };
    let (sidecar, vendor) = sidecar(&server, "basic", "basic", None).await;
    vendor.keep(usize::MAX);
    let ok =
        "cupbearer_token_requests_total{credential=\"oauth2\",outcome=\"ok\",token=\"access\"}";
    let renewed = async {
        while sidecar.metric(ok).await < 3.0 {
            assert_eq!(sidecar.status_of("/oauth2/x").await, 200);
            let sent = vendor.last();
            let token = sent
                .header("authorization")
                .and_then(|a| a.strip_prefix("Bearer "))
                .unwrap();
            assert_eq!(introspect(&server, token).await["active"], true);
        }
    };
    tokio::time::timeout(Duration::from_secs(20), renewed)
        .await
        .unwrap();
}
