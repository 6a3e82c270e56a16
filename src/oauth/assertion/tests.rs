//! Signatures are checked with the public key by a second reading; claims and headers by value.

use std::sync::LazyLock;

use aws_lc_rs::{
    encoding::{AsDer, EcPrivateKeyRfc5915Der, Pkcs8V1Der},
    rand::SystemRandom,
    rsa::{KeyPair as RsaPair, KeySize},
    signature::{Ed25519KeyPair, KeyPair},
};
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::{DecodingKey, Validation};

use super::*;
use crate::{
    oauth::testing::{params, scope, template, text, values},
    profile::model::Param,
};

const WALL: Duration = Duration::from_hours(500_000);
const DEFAULTS: AssertionDefaults<'_> = AssertionDefaults {
    client_id: Some("app"),
    audience: Some("https://auth.example/token"),
};

/// Private key (PEM) and public key (as jsonwebtoken takes it).
struct Keys {
    rsa: (String, Vec<u8>),
    pkcs1: String,
    p256: (String, Vec<u8>),
    p384: (String, Vec<u8>),
    sec1: String,
    ed: (String, Vec<u8>),
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> = text
        .as_bytes()
        .chunks(64)
        .map(|c| std::str::from_utf8(c).unwrap())
        .collect();
    format!(
        "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
        lines.join("\n")
    )
}

static KEYS: LazyLock<Keys> = LazyLock::new(|| {
    let rsa = RsaPair::generate(KeySize::Rsa2048).unwrap();
    let rsa_der = AsDer::<Pkcs8V1Der>::as_der(&rsa).unwrap();
    let ec = |curve| {
        let pair = EcdsaKeyPair::generate(curve).unwrap();
        let sec1 = AsDer::<EcPrivateKeyRfc5915Der>::as_der(&pair.private_key()).unwrap();
        let public = pair.public_key().as_ref().to_vec();
        (
            (
                pem("PRIVATE KEY", pair.to_pkcs8v1().unwrap().as_ref()),
                public,
            ),
            pem("EC PRIVATE KEY", sec1.as_ref()),
        )
    };
    let (p256, sec1) = ec(&ECDSA_P256_SHA256_FIXED_SIGNING);
    let (p384, _) = ec(&ECDSA_P384_SHA384_FIXED_SIGNING);
    let ed_der = Ed25519KeyPair::generate_pkcs8v1(&SystemRandom::new()).unwrap();
    let ed = Ed25519KeyPair::from_pkcs8(ed_der.as_ref()).unwrap();
    Keys {
        // The first 26 bytes of a 2048-bit RSA key are PKCS#8's wrapping of PKCS#1.
        pkcs1: pem("RSA PRIVATE KEY", &rsa_der.as_ref()[26..]),
        rsa: (
            pem("PRIVATE KEY", rsa_der.as_ref()),
            rsa.public_key().as_ref().to_vec(),
        ),
        p256,
        p384,
        sec1,
        ed: (
            pem("PRIVATE KEY", ed_der.as_ref()),
            ed.public_key().as_ref().to_vec(),
        ),
    }
});

fn spec(alg: Algorithm) -> Assertion {
    Assertion {
        alg,
        key: template("{{ secrets.private_key }}"),
        header: BTreeMap::new(),
        claims: BTreeMap::new(),
        lifetime: Duration::from_mins(1),
    }
}

fn signed(spec: &Assertion, key: &str) -> Result<String, RequestError> {
    let secrets = values(&[("private_key", key), ("client_id", "app")]);
    sign_assertion(spec, DEFAULTS, &scope(&secrets), WALL).map(|s| s.to_string())
}

fn parts(jwt: &str) -> (Value, Value) {
    let mut parts = jwt.split('.').map(|p| {
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(p).unwrap()).unwrap_or(Value::Null)
    });
    (parts.next().unwrap(), parts.next().unwrap())
}

#[test]
fn every_algorithm_signs_what_its_public_key_verifies() {
    let k = &*KEYS;
    let (rsa, ec) = (DecodingKey::from_rsa_der, DecodingKey::from_ec_der);
    let secret = "a secret of enough bytes for HS512, which wants sixty-four of them";
    let mut rows: Vec<(Algorithm, &str, DecodingKey)> = vec![
        (Algorithm::RS256, &k.pkcs1, rsa(&k.rsa.1)),
        (Algorithm::ES256, &k.p256.0, ec(&k.p256.1)),
        (Algorithm::ES256, &k.sec1, ec(&k.p256.1)),
        (Algorithm::ES384, &k.p384.0, ec(&k.p384.1)),
        (Algorithm::EdDSA, &k.ed.0, DecodingKey::from_ed_der(&k.ed.1)),
    ];
    let all = [
        Algorithm::RS256,
        Algorithm::RS384,
        Algorithm::RS512,
        Algorithm::PS256,
        Algorithm::PS384,
        Algorithm::PS512,
    ];
    rows.extend(all.map(|alg| (alg, k.rsa.0.as_str(), rsa(&k.rsa.1))));
    rows.extend(
        [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512]
            .map(|alg| (alg, secret, DecodingKey::from_secret(secret.as_bytes()))),
    );
    for (alg, key, public) in rows {
        let jwt = signed(&spec(alg), key).unwrap_or_else(|e| panic!("{alg:?}: {}", e.why));
        let mut validation = Validation::new(alg);
        validation.set_audience(&["https://auth.example/token"]);
        let read = jsonwebtoken::decode::<Value>(&jwt, &public, &validation)
            .unwrap_or_else(|e| panic!("{alg:?}: {e}"));
        assert_eq!(read.header.alg, alg);
        assert_eq!(read.claims["sub"], "app");
    }
}

#[test]
fn r12_the_usual_claims_are_those_of_rfc_7523() {
    let (header, claims) = parts(&signed(&spec(Algorithm::HS256), "k").unwrap());
    assert_eq!(header, serde_json::json!({ "alg": "HS256", "typ": "JWT" }));
    assert_eq!(claims["iss"], "app");
    assert_eq!(claims["sub"], "app");
    assert_eq!(claims["aud"], "https://auth.example/token");
    assert_eq!(claims["iat"], 1_800_000_000);
    assert_eq!(claims["exp"], 1_800_000_060);
    assert_eq!(claims["jti"].as_str().unwrap().len(), 36);
    assert_eq!(claims.as_object().unwrap().len(), 6);
}

#[test]
fn every_assertion_has_a_jti_of_its_own() {
    let jti = || parts(&signed(&spec(Algorithm::HS256), "k").unwrap()).1["jti"].clone();
    assert_ne!(jti(), jti());
}

#[test]
fn header_and_claims_are_free_and_an_empty_one_is_left_out() {
    let mut own = spec(Algorithm::HS256);
    own.header = [
        ("kid", "B4E1"),
        ("x5t#S256", "abc"),
        ("typ", ""),
        ("x-none", ""),
        ("alg", "none"),
    ]
    .map(|(n, t)| (n.to_owned(), template(t)))
    .into();
    own.claims = params(&[
        ("aud", "https://issuer"),
        ("jti", ""),
        ("sub", "{{ secrets.client_id }}-7"),
        ("exp", "1800000300"),
        ("nbf", "1800000000"),
        ("n", "5"),
    ]);
    own.claims.insert(
        "list".into(),
        Param::List(vec![text("a"), Param::Number(1.into())]),
    );
    own.claims.insert("flag".into(), Param::Bool(true));
    let (header, claims) = parts(&signed(&own, "k").unwrap());
    assert_eq!(
        header,
        serde_json::json!({ "alg": "HS256", "kid": "B4E1", "x5t#S256": "abc" })
    );
    let expected = serde_json::json!({
        "iss": "app", "sub": "app-7", "aud": "https://issuer", "iat": 1_800_000_000, "exp": 1_800_000_300, "nbf": 1_800_000_000, "n": "5",
        "list": ["a", 1], "flag": true
    });
    assert_eq!(claims, expected);
}

#[test]
fn a_key_that_cannot_sign_is_told_in_words_without_its_text() {
    let k = &*KEYS;
    let public = k.rsa.0.replace("PRIVATE", "PUBLIC");
    let cut = format!("{}\n-----END PRIVATE KEY-----\n", &k.rsa.0[..400]);
    let locked = k.rsa.0.replace("PRIVATE", "ENCRYPTED PRIVATE");
    let rows: Vec<(Algorithm, &str, &str)> = vec![
        (
            Algorithm::RS256,
            "hunter2hunter2",
            "private_key: not a PEM private key",
        ),
        (
            Algorithm::ES256,
            "hunter2hunter2",
            "private_key: not a PEM private key",
        ),
        (
            Algorithm::EdDSA,
            "hunter2hunter2",
            "private_key: not a PEM private key",
        ),
        (Algorithm::RS256, "", "private_key: the key is empty"),
        (
            Algorithm::RS256,
            &public,
            "it is a public key or a certificate",
        ),
        (Algorithm::RS256, &cut, "damaged"),
        (Algorithm::RS256, &locked, "encrypted"),
        (Algorithm::RS256, &k.p256.0, "of another kind than RS256"),
        (Algorithm::ES256, &k.rsa.0, "of another kind than ES256"),
        (Algorithm::ES384, &k.p256.0, "cannot sign ES384"),
        (Algorithm::EdDSA, &k.p256.0, "of another kind than EdDSA"),
    ];
    for (alg, key, says) in rows {
        let refused = signed(&spec(alg), key).expect_err("should be refused");
        assert!(
            refused.why.contains(says),
            "{alg:?}: {} should say {says}",
            refused.why
        );
        assert!(
            !refused.retryable && !refused.why.contains("hunter2") && !refused.why.contains("MII"),
            "{}",
            refused.why
        );
    }
}

#[test]
fn the_first_private_key_of_a_secret_signs_in_whatever_dress_it_comes() {
    let k = &*KEYS;
    let cert = rcgen::generate_simple_self_signed(vec!["a.example".to_owned()])
        .unwrap()
        .cert
        .pem();
    let public = k.p256.0.replace("PRIVATE", "PUBLIC");
    let rows = [
        (Algorithm::RS256, &k.rsa.0),
        (Algorithm::RS256, &k.pkcs1),
        (Algorithm::ES256, &k.p256.0),
        (Algorithm::ES256, &k.sec1),
    ];
    for (alg, key) in rows.into_iter().chain([(Algorithm::EdDSA, &k.ed.0)]) {
        let one_line = |text: &str| text.trim_end().replace('\n', "\\n");
        let dresses = [
            format!("{cert}{key}"),
            format!("{key}{cert}"),
            format!("{public}{key}{cert}"),
            format!("{key}{}", k.p384.0),
            one_line(&format!("{cert}{key}")),
            one_line(key),
            format!("\u{feff}{}", key.replace('\n', "\r\n")),
            format!("issued for app 1\n{key}"),
        ];
        for text in dresses {
            signed(&spec(alg), &text).unwrap_or_else(|e| panic!("{alg:?}: {} for {text}", e.why));
        }
    }
}

#[test]
fn a_clock_that_is_not_set_signs_nothing_and_is_tried_again() {
    let secrets = values(&[("private_key", "k")]);
    let refused = sign_assertion(
        &spec(Algorithm::HS256),
        DEFAULTS,
        &scope(&secrets),
        Duration::from_secs(12),
    )
    .expect_err("should be refused");
    assert!(
        refused.retryable && refused.why.contains("clock"),
        "{}",
        refused.why
    );
}

#[test]
fn any_key_and_lifetime_give_an_assertion_or_an_error() {
    proptest::proptest!(|(key in proptest::prelude::any::<String>(), life in proptest::prelude::any::<u64>())| {
        for alg in [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA, Algorithm::HS256] {
            let _ = signed(&Assertion { lifetime: Duration::from_secs(life), ..spec(alg) }, &key);
            let _ = signed(&spec(alg), &pem("PRIVATE KEY", key.as_bytes()));
        }
    });
}
