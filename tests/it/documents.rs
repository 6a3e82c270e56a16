//! What foreign servers take and refuse, without a sidecar: the vendors' documents run by Prism
//! (ours and their own must agree; `vendors` asks them), and a certified server.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::foreign::{OIDC_SECRET, oidc_provider};
use crate::support::raw::RawClient;
use crate::support::tool::skip;

const FORM: &str = "application/x-www-form-urlencoded";
const JSON: &str = "application/json";
const KEYCLOAK: &str = "/realms/r/protocol/openid-connect/token";

/// Path, content type, more header lines, body, status.
type Case = (&'static str, &'static str, &'static str, &'static str, u16);

const CASES: &[(&str, &[Case])] = &[
    (
        "mypos",
        &[
            (
                "/api/v1/oauth/token",
                FORM,
                "",
                "client_id=a&client_secret=b&grant_type=client_credentials",
                200,
            ),
            ("/api/v1/oauth/token", JSON, "", "{}", 415),
            (
                "/api/v1/auth/session",
                JSON,
                "Authorization: Bearer x\r\n",
                r#"{"client_id":"a","client_secret":"b"}"#,
                200,
            ),
            (
                "/api/v1/auth/session",
                JSON,
                "",
                r#"{"client_id":"a","client_secret":"b"}"#,
                401,
            ),
            (
                "/api/v1/auth/session",
                JSON,
                "Authorization: Bearer x\r\n",
                r#"{"client_id":"a","grant_type":"c"}"#,
                400,
            ),
        ],
    ),
    (
        "optoro",
        &[
            (
                "/oauth/token",
                JSON,
                "",
                r#"{"client_id":"a","client_secret":"b","grant_type":"c"}"#,
                200,
            ),
            (
                "/oauth/token",
                JSON,
                "",
                r#"{"client_id":"a","client_secret":"b","grant_type":"c","scope":"s"}"#,
                422,
            ),
            (
                "/oauth/token",
                JSON,
                "",
                r#"{"client_id":"a","client_secret":"b"}"#,
                422,
            ),
            (
                "/oauth/token",
                FORM,
                "",
                "client_id=a&client_secret=b&grant_type=c",
                422,
            ),
        ],
    ),
    (
        "sqr",
        &[
            (
                "/oauth2/token",
                JSON,
                "",
                r#"{"client_id":"a","client_secret":"b","grant_type":"c"}"#,
                200,
            ),
            (
                "/oauth2/token",
                JSON,
                "",
                r#"{"client_id":"a","client_secret":"b"}"#,
                400,
            ),
            (
                "/oauth2/token",
                FORM,
                "",
                "client_id=a&client_secret=b&grant_type=c",
                400,
            ),
        ],
    ),
    (
        "lean",
        &[
            (
                "/oauth2/token",
                FORM,
                "",
                "client_id=a&client_secret=b&grant_type=client_credentials&scope=api",
                200,
            ),
            (
                "/oauth2/token",
                FORM,
                "",
                "client_id=a&client_secret=b&grant_type=client_credentials",
                400,
            ),
            (
                "/oauth2/token",
                FORM,
                "",
                "client_id=a&client_secret=b&grant_type=other&scope=api",
                400,
            ),
            (
                "/oauth2/token",
                JSON,
                "",
                r#"{"client_id":"a","client_secret":"b","grant_type":"client_credentials","scope":"api"}"#,
                400,
            ),
        ],
    ),
    (
        "worldline",
        &[
            (
                KEYCLOAK,
                FORM,
                "",
                "client_id=a&client_secret=b&grant_type=client_credentials&scope=VOP",
                200,
            ),
            (
                KEYCLOAK,
                FORM,
                "",
                "client_assertion_type=a&client_assertion=b&grant_type=client_credentials&scope=VOP",
                200,
            ),
            (
                KEYCLOAK,
                FORM,
                "",
                "client_id=a&client_secret=b&client_assertion_type=a&client_assertion=b&grant_type=c&scope=VOP",
                400,
            ),
            (
                KEYCLOAK,
                FORM,
                "",
                "client_id=a&client_secret=b&grant_type=client_credentials",
                400,
            ),
        ],
    ),
];

async fn post(
    url: &str,
    (path, content_type, more, body): (&str, &str, &str, &str),
) -> (u16, Value) {
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {content_type}\r\n{more}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let answer = RawClient::ask(
        url.strip_prefix("http://").unwrap().parse().unwrap(),
        request.as_bytes(),
    )
    .await;
    (
        answer.status,
        serde_json::from_slice(&answer.body).unwrap_or_default(),
    )
}

/// What `document` of this vendor, run at `url`, takes and refuses.
pub async fn behaves(document: &Path, url: &str, name: &str) {
    let (_, cases) = CASES
        .iter()
        .find(|(of, _)| *of == name)
        .expect("cases for each vendor");
    for &(path, content_type, more, body, status) in *cases {
        let answer = post(url, (path, content_type, more, body)).await;
        assert_eq!(
            answer.0,
            status,
            "{} {path} {content_type} {body}: {}",
            document.display(),
            answer.1
        );
    }
}

#[tokio::test]
async fn a_certified_server_gives_tokens_and_wants_basic_form_encoded() {
    let server = match oidc_provider(None, 60).await {
        Ok(server) => server,
        Err(reason) => return skip("oidc-provider", &reason),
    };
    let secret: String = form_urlencoded::byte_serialize(OIDC_SECRET.as_bytes()).collect();
    let body = format!("grant_type=client_credentials&client_id=post&client_secret={secret}");
    let (status, answer) = post(&server.url, ("/token", FORM, "", &body)).await;
    assert_eq!(
        (status, &answer["expires_in"]),
        (200, &json!(60)),
        "{answer}"
    );
    let basic = async |text: String| {
        let text = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, text);
        post(
            &server.url,
            (
                "/token",
                FORM,
                &format!("Authorization: Basic {text}\r\n"),
                "grant_type=client_credentials",
            ),
        )
        .await
        .0
    };
    assert_eq!(basic(format!("basic:{secret}")).await, 200);
    assert_eq!(basic(format!("basic:{OIDC_SECRET}")).await, 400);
}

#[tokio::test]
async fn a_certified_server_takes_assertions_signed_by_key_or_secret() {
    use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, jwk::Jwk};
    let key = EncodingKey::from_ec_pem(
        crate::support::certs::signer(Algorithm::ES256)
            .key
            .as_bytes(),
    )
    .unwrap();
    let jwk =
        serde_json::to_value(Jwk::from_encoding_key(&key, Algorithm::ES256).unwrap()).unwrap();
    let server = match oidc_provider(Some((jwk, "ES256")), 60).await {
        Ok(server) => server,
        Err(reason) => return skip("oidc-provider", &reason),
    };
    let hmac = EncodingKey::from_secret(OIDC_SECRET.as_bytes());
    for (client, alg, key) in [
        ("keyed", Algorithm::ES256, &key),
        ("hmac", Algorithm::HS256, &hmac),
    ] {
        let now = jsonwebtoken::get_current_timestamp();
        let claims = json!({ "iss": client, "sub": client, "aud": server.url, "iat": now, "exp": now + 60, "jti": client });
        let jwt = encode(&Header::new(alg), &claims, key).unwrap();
        let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
        let body = format!(
            "grant_type=client_credentials&client_assertion_type={kind}&client_assertion={jwt}"
        );
        let (status, answer) = post(&server.url, ("/token", FORM, "", &body)).await;
        assert_eq!(status, 200, "{client}: {answer}");
    }
}
