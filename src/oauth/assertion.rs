//! Assertions: JWTs that stand for the client (RFC 7521, RFC 7523), as a grant, or as the token
//! itself.

use std::{collections::BTreeMap, time::Duration};

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use rustls_pki_types::{PrivateKeyDer, pem::PemObject};
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::request::{self, RequestError};
use crate::{
    profile::{Scope, Template, model::Assertion},
    tls::pem,
};

/// 2020-01-01T00:00:00Z. A wall clock before that is a machine without a clock: an assertion dated
/// by it would be refused, and the refusal counted.
pub const CLOCK_SET: Duration = Duration::from_hours(438_288);

/// What an assertion says where the profile does not say otherwise.
#[derive(Debug, Clone, Copy, Default)]
pub struct AssertionDefaults<'a> {
    /// iss and sub.
    pub client_id: Option<&'a str>,
    /// aud: the token URL.
    pub audience: Option<&'a str>,
}

/// Signs a fresh assertion: a new `jti`, `iat` and `exp` by the wall clock `wall`.
///
/// # Errors
/// [`RequestError`]: a template that does not render, a key that is none or of another kind, or (to be
/// tried again) a clock that is not set.
pub fn sign_assertion(
    spec: &Assertion,
    defaults: AssertionDefaults<'_>,
    scope: &Scope<'_>,
    wall: Duration,
) -> Result<Zeroizing<String>, RequestError> {
    if wall < CLOCK_SET {
        return Err(RequestError::unset_clock(
            "the clock of this machine is wrong (before 2020): an assertion cannot be dated",
        ));
    }
    let key = signing_key(spec, scope)?;
    let head = encode_part(&Value::Object(jose_header(spec, scope)?));
    let body = encode_part(&Value::Object(render_claims(spec, defaults, scope, wall)?));
    let message = Zeroizing::new(format!("{head}.{body}"));
    let signature = crypto::sign(message.as_bytes(), &key, spec.alg).map_err(|_| {
        RequestError::new(format!(
            "{}: this key cannot sign {:?} (its kind, curve or size does not fit)",
            key_name(&spec.key),
            spec.alg
        ))
    })?;
    Ok(Zeroizing::new(format!("{}.{signature}", message.as_str())))
}

fn encode_part(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

/// RFC 7515 4.1. `alg` is always the algorithm that signs; `typ` may be overridden, or left out by
/// an empty one.
fn jose_header(spec: &Assertion, scope: &Scope<'_>) -> Result<Map<String, Value>, RequestError> {
    let mut header = Map::new();
    header.insert("typ".into(), "JWT".into());
    for (name, template) in &spec.header {
        let text = request::render_template(template, scope)?;
        if text.is_empty() {
            header.remove(name);
        } else {
            header.insert(name.clone(), Value::String(text.to_string()));
        }
    }
    header.insert("alg".into(), format!("{:?}", spec.alg).into());
    Ok(header)
}

fn render_claims(
    spec: &Assertion,
    defaults: AssertionDefaults<'_>,
    scope: &Scope<'_>,
    wall: Duration,
) -> Result<Map<String, Value>, RequestError> {
    let now = wall.as_secs();
    let mut claims = Map::new();
    let defaults: BTreeMap<&str, Option<Value>> = BTreeMap::from([
        ("iss", defaults.client_id.map(Into::into)),
        ("sub", defaults.client_id.map(Into::into)),
        ("aud", defaults.audience.map(Into::into)),
        ("iat", Some(now.into())),
        (
            "exp",
            Some(now.saturating_add(spec.lifetime.as_secs()).into()),
        ),
        ("jti", Some(uuid::Uuid::new_v4().to_string().into())),
    ]);
    for (name, value) in defaults {
        if let Some(value) = value {
            claims.insert(name.to_owned(), value);
        }
    }
    for (name, param) in &spec.claims {
        match request::render_param(param, scope)? {
            Value::String(text) if text.is_empty() => {
                claims.remove(name);
            }
            // NumericDate (RFC 7519 2) is a number, though a template gives text.
            Value::String(text) if matches!(name.as_str(), "exp" | "iat" | "nbf") => {
                let number = text.trim().parse::<i64>().map(Value::from);
                claims.insert(name.clone(), number.unwrap_or(Value::String(text)));
            }
            value => {
                claims.insert(name.clone(), value);
            }
        }
    }
    Ok(claims)
}

/// The key: the first PEM private key of the secret (PKCS#8, RSA also PKCS#1, EC also SEC 1),
/// whatever stands beside it, or for HS* the secret's bytes. Nothing of it is ever in an error.
fn signing_key(spec: &Assertion, scope: &Scope<'_>) -> Result<EncodingKey, RequestError> {
    let text = request::render_template(&spec.key, scope)?;
    let who = key_name(&spec.key);
    if text.is_empty() {
        return Err(RequestError::new(format!("{who}: the key is empty")));
    }
    if matches!(
        spec.alg,
        Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512
    ) {
        return Ok(EncodingKey::from_secret(text.as_bytes()));
    }
    let Some(section) = pem::first_key(text.as_bytes()) else {
        return Err(RequestError::new(format!("{who}: {}", why_no_key(&text))));
    };
    let plain = section.to_plain_pem();
    let found = plain.as_bytes();
    let made = match spec.alg {
        Algorithm::ES256 | Algorithm::ES384 if section.label == "EC PRIVATE KEY" => {
            key_from_sec1(found, spec.alg)
        }
        Algorithm::ES256 | Algorithm::ES384 => EncodingKey::from_ec_pem(found).ok(),
        Algorithm::EdDSA => EncodingKey::from_ed_pem(found).ok(),
        _ => EncodingKey::from_rsa_pem(found).ok(),
    };
    made.ok_or_else(|| {
        // A key of OpenSSL's old form (RFC 1421 4.4) says so inside.
        let why = if plain.contains("ENCRYPTED") {
            ENCRYPTED.to_owned()
        } else {
            format!(
                "a damaged private key, or one of another kind than {:?} needs",
                spec.alg
            )
        };
        RequestError::new(format!("{who}: {why}"))
    })
}

const ENCRYPTED: &str =
    "an encrypted private key cannot be read; decrypt it with `openssl pkcs8 -topk8 -nocrypt`";

/// A SEC1 key ("EC PRIVATE KEY", RFC 5915), which jsonwebtoken takes only as PKCS#8.
fn key_from_sec1(plain: &[u8], alg: Algorithm) -> Option<EncodingKey> {
    let PrivateKeyDer::Sec1(der) = PrivateKeyDer::from_pem_slice(plain).ok()? else {
        return None;
    };
    let curve = if alg == Algorithm::ES384 {
        &ECDSA_P384_SHA384_FIXED_SIGNING
    } else {
        &ECDSA_P256_SHA256_FIXED_SIGNING
    };
    let pair = EcdsaKeyPair::from_private_key_der(curve, der.secret_sec1_der()).ok()?;
    Some(EncodingKey::from_ec_der(pair.to_pkcs8v1().ok()?.as_ref()))
}

/// Why a text holds no private key that could be used, judged by the labels in it alone.
fn why_no_key(text: &str) -> &'static str {
    let mut labels = pem::sections(text.as_bytes())
        .map(|section| section.label)
        .peekable();
    if labels.peek().is_none() {
        return "not a PEM private key";
    }
    if labels.any(|label| label.ends_with("PRIVATE KEY")) {
        ENCRYPTED
    } else {
        "not a PEM private key (it is a public key or a certificate)"
    }
}

/// What to call the key in an error: the secret it comes from.
fn key_name(key: &Template) -> String {
    key.names()
        .iter()
        .find_map(|n| n.strip_prefix("secrets."))
        .unwrap_or("assertion.key")
        .to_owned()
}

#[cfg(test)]
mod tests;
