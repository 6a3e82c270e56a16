//! The running sidecar against a real Keycloak: the server behind Worldline's endpoint, which holds
//! what a document only says.

use std::collections::BTreeSet;
use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::Algorithm;
use serde_json::{Value, json};

use crate::keycloak::{Keycloak, REALM, refuses_what_it_should};
use crate::support::{
    certs::signer, sidecar::Sidecar, stanza::Stanza, tokens::Tokens, tool::skip, vendor::Vendor,
    wait::within,
};

/// One server for all: on two cores it takes a minute or more to start.
#[tokio::test(flavor = "multi_thread")]
async fn the_sidecar_lives_with_a_real_keycloak() {
    let key = signer(Algorithm::RS256);
    let keycloak = match Keycloak::start(&key).await {
        Ok(keycloak) => keycloak,
        Err(reason) => return skip("keycloak: sidecar", &reason),
    };
    refuses_what_it_should(&keycloak, &key).await;
    let realm = format!(
        r#"base = "{}", realm = "{REALM}", scope = "VOP WERO""#,
        keycloak.base
    );
    let by_secret = r#"client_id = "with-secret", client_secret = "made-up-secret""#;
    let by_key = r#"client_id = "with-key", private_key = { file = "key.pem" }, certificate = { file = "cert.pem" }"#;
    // Keycloak names an uploaded certificate's key by itself; a client may carry another name for
    // it, as Worldline's do.
    let by_print = r#"client_id = "with-thumbprint", private_key = { file = "key.pem" }, certificate = { file = "cert.pem" }"#;
    let without_certificate = r#"client_id = "with-key", private_key = { file = "key.pem" }"#;
    for (profile, secrets, client) in [
        ("worldline", by_secret, "with-secret"),
        ("keycloak", by_secret, "with-secret"),
        ("worldline_jwt", by_print, "with-thumbprint"),
        ("keycloak_jwt", by_key, "with-key"),
        ("keycloak_jwt", without_certificate, "with-key"),
    ] {
        let stanza = Stanza::new(profile, &realm, secrets)
            .file("key.pem", &key.key)
            .file("cert.pem", &key.cert);
        gets_tokens(&keycloak, &stanza, client).await;
    }
    let stanza = Stanza::new("worldline_jwt", &realm, by_print)
        .file("key.pem", &key.key)
        .file("cert.pem", &key.cert);
    holds_assertions_to_its_rules(&stanza).await;
    outlives_rotation_and_disabling(&keycloak, &realm).await;
    keycloak.stop().await;
}

/// A token for a call, then another by a second token call in a row.
async fn gets_tokens(keycloak: &Keycloak, stanza: &Stanza, client: &str) {
    let profile = stanza.profile;
    let vendor = Vendor::start(&Tokens::default(), vec![]).await;
    let sidecar = stanza.start(&vendor.url()).await;
    let mut sent = BTreeSet::new();
    for round in 1..=2 {
        let enough = async || sidecar.token(profile, "access").await["generation"] == round;
        if round > 1 {
            sidecar.refresh_until(profile, enough).await;
        }
        let (status, body) = sidecar.refusal(&format!("/{profile}/x")).await;
        assert_eq!(
            status,
            200,
            "{profile}: {body} {}",
            sidecar.token(profile, "access").await
        );
        let token = vendor.last().header("authorization").unwrap().to_owned();
        let claims = claims(&token);
        assert_eq!(
            (&claims["iss"], &claims["azp"]),
            (&json!(keycloak.issuer()), &json!(client)),
            "{profile}: {claims}"
        );
        let scope: BTreeSet<&str> = claims["scope"].as_str().unwrap().split(' ').collect();
        assert!(
            scope.is_superset(&BTreeSet::from(["VOP", "WERO"])),
            "{profile}: {claims}"
        );
        sent.insert(token);
    }
    assert_eq!(
        (sent.len(), made(&sidecar, profile, "ok").await),
        (2, 2.0),
        "{profile}"
    );
    let request = vendor.last();
    for header in ["X-Request-ID", "MessageCreateDateTime"] {
        assert_eq!(
            request.header(header).is_some(),
            profile.starts_with("worldline"),
            "{profile} {header}"
        );
    }
}

/// Keycloak itself refuses a `jti` it has seen, and an assertion dated more than a minute ago.
async fn holds_assertions_to_its_rules(stanza: &Stanza) {
    let vendor = Vendor::start(&Tokens::default(), vec![]).await;
    let claims = "[HERE.tokens.access.assertion.claims]";
    let same = stanza
        .clone()
        .over(&format!("{claims}\njti = \"always the same one\""))
        .start(&vendor.url())
        .await;
    assert_eq!(same.status_of("/worldline_jwt/x").await, 200);
    same.refresh_until("worldline_jwt", async || {
        made(&same, "worldline_jwt", "rejected").await > 0.0
    })
    .await;
    assert_eq!(
        same.status_of("/worldline_jwt/x").await,
        200,
        "the token that is there lives on"
    );

    let iat = jsonwebtoken::get_current_timestamp() - 100;
    let old = format!("{claims}\niat = {iat}\nexp = {}", iat + 200);
    let (status, body) = stanza
        .clone()
        .over(&old)
        .start(&vendor.url())
        .await
        .refusal("/worldline_jwt/x")
        .await;
    assert_eq!(
        (status, &body["code"]),
        (502, &json!("token_rejected")),
        "{body}"
    );
}

async fn outlives_rotation_and_disabling(keycloak: &Keycloak, realm: &str) {
    let vendor = Vendor::start(&Tokens::default(), vec![]).await;
    let secrets = r#"client_id = "to-rotate", client_secret = { file = "secret" }"#;
    let sidecar = Stanza::new("keycloak", realm, secrets)
        .file("secret", "first-secret")
        .start(&vendor.url())
        .await;
    assert_eq!(sidecar.status_of("/keycloak/x").await, 200);
    let first = vendor.last().header("authorization").unwrap().to_owned();

    // At the vendor, then here: the token that is there lives on, the next is fetched with the new
    // secret.
    keycloak.change_secret("to-rotate", "second-secret").await;
    assert_eq!(sidecar.status_of("/keycloak/x").await, 200);
    assert_eq!(vendor.last().header("authorization"), Some(&*first));
    sidecar.rewrite("secret", "second-secret");
    sidecar
        .until_metric(
            "cupbearer_secret_changes_total{credential=\"keycloak\"}",
            1.0,
        )
        .await;
    sidecar
        .refresh_until("keycloak", async || {
            made(&sidecar, "keycloak", "ok").await > 1.0
        })
        .await;
    assert_eq!(sidecar.status_of("/keycloak/x").await, 200);
    assert_ne!(vendor.last().header("authorization"), Some(&*first));
    assert!(made(&sidecar, "keycloak", "rejected").await.abs() < f64::EPSILON);

    // Disabled: refused twice, half a minute apart, then no more.
    keycloak.enable("to-rotate", false).await;
    sidecar
        .refresh_until("keycloak", async || {
            made(&sidecar, "keycloak", "rejected").await > 0.0
        })
        .await;
    let latched = async || {
        sidecar
            .metric("cupbearer_credential_latched{credential=\"keycloak\"}")
            .await
            >= 1.0
    };
    within(Duration::from_secs(60), "the latch", latched).await;
    let (status, body) = sidecar.refusal("/keycloak/x").await;
    assert_eq!(
        (status, &body["code"]),
        (502, &json!("token_rejected")),
        "{body}"
    );
    for _ in 0..20 {
        assert_eq!(
            sidecar
                .post_admin("/api/credentials/keycloak/refresh")
                .await,
            202
        );
        assert_eq!(sidecar.status_of("/keycloak/x").await, 502);
    }
    let token = sidecar.token("keycloak", "access").await;
    assert_eq!(
        (
            &token["state"],
            &token["rejections"],
            &token["last_failure"]["class"]
        ),
        (&json!("latched"), &json!(2), &json!("rejected"))
    );
    assert_eq!(
        made(&sidecar, "keycloak", "rejected").await,
        2.0,
        "no hot loop"
    );

    keycloak.enable("to-rotate", true).await;
    assert_eq!(
        sidecar
            .post_admin("/api/credentials/keycloak/unlatch")
            .await,
        202
    );
    // One attempt, 30 s after the last refusal.
    within(Duration::from_secs(60), "the attempt", async || {
        made(&sidecar, "keycloak", "ok").await >= 3.0
    })
    .await;
    assert_eq!(sidecar.status_of("/keycloak/x").await, 200);
}

/// How many token calls had this outcome.
async fn made(sidecar: &Sidecar, credential: &str, outcome: &str) -> f64 {
    let labels = format!("credential=\"{credential}\",outcome=\"{outcome}\",token=\"access\"");
    sidecar
        .metric(&format!("cupbearer_token_requests_total{{{labels}}}"))
        .await
}

fn claims(authorization: &str) -> Value {
    let part = authorization.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}
