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

use super::request::{self, Refused};
use crate::{
    profile::{Scope, Template, model::Assertion},
    tls::pem,
};

/// 2020-01-01T00:00:00Z. A wall clock before that is a machine without a clock: an assertion dated
/// by it would be refused, and the refusal counted.
pub const CLOCK_SET: Duration = Duration::from_hours(438_288);

/// What an assertion says where the profile does not say otherwise.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usual<'a> {
    /// iss and sub.
    pub client_id: Option<&'a str>,
    /// aud: the token URL.
    pub audience: Option<&'a str>,
}

/// Signs a fresh assertion: a new `jti`, `iat` and `exp` by the wall clock `wall`.
///
/// # Errors
/// [`Refused`]: a template that does not render, a key that is none or of another kind, or (to be
/// tried again) a clock that is not set.
pub fn sign(
    spec: &Assertion,
    usual: Usual<'_>,
    scope: &Scope<'_>,
    wall: Duration,
) -> Result<Zeroizing<String>, Refused> {
    if wall < CLOCK_SET {
        return Err(Refused::clock(
            "the clock of this machine is wrong (before 2020): an assertion cannot be dated",
        ));
    }
    let key = key(spec, scope)?;
    let head = part(&Value::Object(header(spec, scope)?));
    let body = part(&Value::Object(claims(spec, usual, scope, wall)?));
    let message = Zeroizing::new(format!("{head}.{body}"));
    let signature = crypto::sign(message.as_bytes(), &key, spec.alg).map_err(|_| {
        Refused::new(format!(
            "{}: this key cannot sign {:?} (its kind, curve or size does not fit)",
            name(&spec.key),
            spec.alg
        ))
    })?;
    Ok(Zeroizing::new(format!("{}.{signature}", message.as_str())))
}

fn part(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

/// RFC 7515 4.1. `alg` is always the algorithm that signs; `typ` may be overridden, or left out by
/// an empty one.
fn header(spec: &Assertion, scope: &Scope<'_>) -> Result<Map<String, Value>, Refused> {
    let mut header = Map::new();
    header.insert("typ".into(), "JWT".into());
    for (name, template) in &spec.header {
        let text = request::render(template, scope)?;
        if text.is_empty() {
            header.remove(name);
        } else {
            header.insert(name.clone(), Value::String(text.to_string()));
        }
    }
    header.insert("alg".into(), format!("{:?}", spec.alg).into());
    Ok(header)
}

fn claims(
    spec: &Assertion,
    usual: Usual<'_>,
    scope: &Scope<'_>,
    wall: Duration,
) -> Result<Map<String, Value>, Refused> {
    let now = wall.as_secs();
    let mut claims = Map::new();
    let usual: BTreeMap<&str, Option<Value>> = BTreeMap::from([
        ("iss", usual.client_id.map(Into::into)),
        ("sub", usual.client_id.map(Into::into)),
        ("aud", usual.audience.map(Into::into)),
        ("iat", Some(now.into())),
        (
            "exp",
            Some(now.saturating_add(spec.lifetime.as_secs()).into()),
        ),
        ("jti", Some(uuid::Uuid::new_v4().to_string().into())),
    ]);
    for (name, value) in usual {
        if let Some(value) = value {
            claims.insert(name.to_owned(), value);
        }
    }
    for (name, param) in &spec.claims {
        match request::tree(param, scope)? {
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
fn key(spec: &Assertion, scope: &Scope<'_>) -> Result<EncodingKey, Refused> {
    let text = request::render(&spec.key, scope)?;
    let who = name(&spec.key);
    if text.is_empty() {
        return Err(Refused::new(format!("{who}: the key is empty")));
    }
    if matches!(
        spec.alg,
        Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512
    ) {
        return Ok(EncodingKey::from_secret(text.as_bytes()));
    }
    let Some(section) = pem::first_key(text.as_bytes()) else {
        return Err(Refused::new(format!("{who}: {}", why_none(&text))));
    };
    let plain = section.plain();
    let found = plain.as_bytes();
    let made = match spec.alg {
        Algorithm::ES256 | Algorithm::ES384 if section.label == "EC PRIVATE KEY" => {
            sec1(found, spec.alg)
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
        Refused::new(format!("{who}: {why}"))
    })
}

const ENCRYPTED: &str =
    "an encrypted private key cannot be read; decrypt it with `openssl pkcs8 -topk8 -nocrypt`";

/// A SEC1 key ("EC PRIVATE KEY", RFC 5915), which jsonwebtoken takes only as PKCS#8.
fn sec1(plain: &[u8], alg: Algorithm) -> Option<EncodingKey> {
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
fn why_none(text: &str) -> &'static str {
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
fn name(key: &Template) -> String {
    key.names()
        .iter()
        .find_map(|n| n.strip_prefix("secrets."))
        .unwrap_or("assertion.key")
        .to_owned()
}

#[cfg(test)]
mod tests;
