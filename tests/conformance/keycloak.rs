//! A real Keycloak: what its realm holds, and its administrator's three gestures.

use std::time::Duration;

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

use crate::support::certs::{Pair, thumbprint};
use crate::support::tool::{Running, Tool, root};

pub const REALM: &str = "vendor";

/// A running server with the realm of `tests/tools/keycloak-realm.json`.
pub struct Keycloak {
    /// Ends in `/auth`.
    pub base: String,
    http: reqwest::Client,
    running: Running,
    _realm: tempfile::NamedTempFile,
}

impl Keycloak {
    /// Starts one whose client `with-key` is known by this certificate; tells why where that cannot be.
    pub async fn start(key: &Pair) -> Result<Self, String> {
        let tool = Tool::keycloak()?;
        let certificate: String = key
            .cert
            .lines()
            .filter(|l| !l.starts_with("-----"))
            .collect();
        let realm =
            std::fs::read_to_string(root().join("tests/tools/keycloak-realm.json")).unwrap();
        let file = tempfile::Builder::new().suffix(".json").tempfile().unwrap();
        std::fs::write(
            file.path(),
            realm
                .replace("CERTIFICATE", &certificate)
                .replace("THUMBPRINT", &thumbprint(key)),
        )
        .unwrap();
        let (running, line) = tool
            .args([file.path().display().to_string()])
            .start("ready ", Duration::from_secs(240))
            .await;
        let base = line.trim_start_matches("ready ").trim().to_owned();
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(30))
            .build()
            .unwrap();
        Ok(Self {
            base,
            http,
            running,
            _realm: file,
        })
    }

    /// The audience that assertions must name.
    pub fn issuer(&self) -> String {
        format!("{}/realms/{REALM}", self.base)
    }

    pub async fn stop(self) {
        self.running.stop().await;
    }

    /// A token request with these fields: status and answer.
    pub async fn token(&self, realm: &str, fields: &[(&str, &str)]) -> (u16, Value) {
        let body = form_urlencoded::Serializer::new(String::new())
            .extend_pairs(fields)
            .finish();
        let request = self.http.post(format!(
            "{}/realms/{realm}/protocol/openid-connect/token",
            self.base
        ));
        let answer = request
            .header("Content-Type", "application/x-www-form-urlencoded")
            .body(body)
            .send()
            .await
            .unwrap();
        (
            answer.status().as_u16(),
            serde_json::from_str(&answer.text().await.unwrap()).unwrap(),
        )
    }

    /// Gives a client another secret; the old one is refused from now on.
    pub async fn change_secret(&self, client: &str, secret: &str) {
        self.change(client, json!({ "clientId": client, "secret": secret }))
            .await;
    }

    pub async fn enable(&self, client: &str, enabled: bool) {
        self.change(client, json!({ "clientId": client, "enabled": enabled }))
            .await;
    }

    async fn change(&self, client: &str, change: Value) {
        let admin = [
            ("grant_type", "password"),
            ("client_id", "admin-cli"),
            ("username", "admin"),
            ("password", "made-up-admin"),
        ];
        let (_, answer) = self.token("master", &admin).await;
        let token = answer["access_token"]
            .as_str()
            .unwrap_or_else(|| panic!("{answer}"));
        let clients = format!("{}/admin/realms/{REALM}/clients", self.base);
        let found = self
            .http
            .get(format!("{clients}?clientId={client}"))
            .bearer_auth(token)
            .send()
            .await
            .unwrap()
            .text()
            .await
            .unwrap();
        let found: Value = serde_json::from_str(&found).unwrap();
        let url = format!(
            "{clients}/{}",
            found[0]["id"].as_str().unwrap_or_else(|| panic!("{found}"))
        );
        let put = self
            .http
            .put(url)
            .bearer_auth(token)
            .header("Content-Type", "application/json")
            .body(change.to_string());
        assert_eq!(put.send().await.unwrap().status(), 204);
    }
}

fn assertion(key: &Pair, aud: &str, jti: &str, age: u64) -> String {
    let iat = jsonwebtoken::get_current_timestamp() - age;
    let claims = json!({ "iss": "with-key", "sub": "with-key", "aud": aud, "iat": iat, "exp": iat + 200, "jti": jti });
    encode(
        &Header::new(Algorithm::RS256),
        &claims,
        &EncodingKey::from_rsa_pem(key.key.as_bytes()).unwrap(),
    )
    .unwrap()
}

/// Keycloak itself refuses what the tests count on it to refuse.
pub async fn refuses_what_it_should(keycloak: &Keycloak, key: &Pair) {
    let secret = async |client: &str, secret: &str, scope: &str| {
        let fields = [
            ("grant_type", "client_credentials"),
            ("client_id", client),
            ("client_secret", secret),
            ("scope", scope),
        ];
        let (status, answer) = keycloak.token(REALM, &fields).await;
        (
            status,
            answer["error"].as_str().unwrap_or_default().to_owned(),
            answer,
        )
    };
    let (status, _, answer) = secret("with-secret", "made-up-secret", "VOP WERO").await;
    assert_eq!(
        (status, &answer["expires_in"], &answer["refresh_expires_in"]),
        (200, &json!(300), &json!(0)),
        "{answer}"
    );
    assert_eq!(
        secret("with-secret", "wrong", "VOP").await.1,
        "unauthorized_client"
    );
    assert_eq!(
        secret("with-secret", "made-up-secret", "OTHER").await.1,
        "invalid_scope"
    );

    let signed = async |jwt: String| {
        let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
        let fields = [
            ("grant_type", "client_credentials"),
            ("scope", "VOP"),
            ("client_assertion_type", kind),
            ("client_assertion", jwt.as_str()),
        ];
        let (status, answer) = keycloak.token(REALM, &fields).await;
        (
            status,
            answer["error_description"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
        )
    };
    let aud = keycloak.issuer();
    assert_eq!(
        signed(assertion(key, &aud, "one", 0)).await,
        (200, String::new())
    );
    assert_eq!(
        signed(assertion(key, &aud, "one", 0)).await,
        (400, "Token reuse detected".into())
    );
    assert_eq!(signed(assertion(key, "elsewhere", "two", 0)).await.0, 400);
    // Sixty seconds count from `iat`, whatever `exp` says.
    assert_eq!(signed(assertion(key, &aud, "three", 100)).await.0, 400);

    assert_eq!(secret("to-rotate", "first-secret", "VOP").await.0, 200);
    keycloak.change_secret("to-rotate", "second-secret").await;
    assert_eq!(secret("to-rotate", "first-secret", "VOP").await.0, 401);
    assert_eq!(secret("to-rotate", "second-secret", "VOP").await.0, 200);
    keycloak.enable("to-rotate", false).await;
    assert_eq!(
        secret("to-rotate", "second-secret", "VOP").await.1,
        "invalid_client"
    );
    keycloak.enable("to-rotate", true).await;
    keycloak.change_secret("to-rotate", "first-secret").await;
}
