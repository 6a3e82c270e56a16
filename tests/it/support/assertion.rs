//! What a strict server asks of a client's assertion (RFC 7523 section 3): signature, issuer,
//! audience, a short life, one use.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde_json::{Map, Value};

/// The rules for one client. Clones share the list of used `jti`.
#[derive(Debug, Clone)]
pub struct Assertion {
    pub alg: Algorithm,
    /// SubjectPublicKeyInfo as PEM, or with HS256 the secret.
    pub key: String,
    pub aud: String,
    pub kid: Option<String>,
    /// The longest `exp` minus `iat`, in seconds.
    pub longest: i64,
    used: Arc<Mutex<HashSet<String>>>,
}

impl Assertion {
    pub fn new(alg: Algorithm, key: &str, aud: &str) -> Self {
        Self {
            alg,
            key: key.into(),
            aud: aud.into(),
            kid: None,
            longest: 60,
            used: Arc::default(),
        }
    }

    #[must_use]
    pub fn with_kid(mut self, kid: &str) -> Self {
        self.kid = Some(kid.into());
        self
    }

    /// How many different assertions were accepted.
    pub fn accepted(&self) -> usize {
        self.used.lock().unwrap().len()
    }

    /// Why this assertion of `client` is refused.
    pub fn check(&self, jwt: &str, client: &str) -> Result<(), String> {
        let header = decode_header(jwt).map_err(|e| format!("header: {e}"))?;
        if header.alg != self.alg {
            return Err(format!("alg is {:?}", header.alg));
        }
        if self.kid.is_some() && header.kid != self.kid {
            return Err(format!("kid is {:?}", header.kid));
        }
        let key = match self.alg {
            Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => {
                Ok(DecodingKey::from_secret(self.key.as_bytes()))
            }
            Algorithm::ES256 | Algorithm::ES384 => DecodingKey::from_ec_pem(self.key.as_bytes()),
            Algorithm::EdDSA => DecodingKey::from_ed_pem(self.key.as_bytes()),
            _ => DecodingKey::from_rsa_pem(self.key.as_bytes()),
        };
        let mut validation = Validation::new(self.alg);
        validation.leeway = 0;
        validation.set_audience(&[&self.aud]);
        validation.set_required_spec_claims(&["exp", "aud", "iss", "sub"]);
        let claims: Map<String, Value> =
            decode(jwt, &key.map_err(|e| format!("key: {e}"))?, &validation)
                .map_err(|e| format!("claims: {e}"))?
                .claims;
        if !claims["aud"].is_string() {
            return Err("aud is not one string".into());
        }
        for name in ["iss", "sub"] {
            if claims[name] != client {
                return Err(format!("{name} is {}", claims[name]));
            }
        }
        let number = |name: &str| {
            claims
                .get(name)
                .and_then(Value::as_i64)
                .ok_or(format!("no {name}"))
        };
        let (iat, exp) = (number("iat")?, number("exp")?);
        let now = i64::try_from(
            SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap()
                .as_secs(),
        )
        .unwrap();
        if exp - iat > self.longest {
            return Err(format!("lives {} s", exp - iat));
        }
        // One second: the two sides round the same clock differently.
        if iat > now + 1 {
            return Err("issued in the future".into());
        }
        let jti = claims.get("jti").and_then(Value::as_str).ok_or("no jti")?;
        if !self.used.lock().unwrap().insert(jti.into()) {
            return Err("jti was used before".into());
        }
        Ok(())
    }
}
