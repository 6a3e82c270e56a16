//! The filters of profile templates: bytes in and out for digests and keys, text for encodings. No error quotes its input.

use aws_lc_rs::{
    digest::{self, Algorithm, SHA1_FOR_LEGACY_USE_ONLY, SHA256},
    encoding::{AsDer, PublicKeyX509Der},
    rsa,
    signature::{
        ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, ECDSA_P521_SHA512_ASN1_SIGNING, EcdsaKeyPair,
        EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair,
    },
};
use base64::{Engine, prelude::BASE64_STANDARD, prelude::BASE64_URL_SAFE_NO_PAD};
use jiff::{Timestamp, fmt::strtime, tz::TimeZone};
use minijinja::{Environment, Error, ErrorKind, Value, value::Object};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::{fmt, fmt::Write, sync::Arc, time::Duration};

use crate::tls::pem;

/// What a filter of ours has to say; the only words of an error that may be shown.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Complaint(pub &'static str);

pub(super) fn complain(what: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, "").with_source(Complaint(what))
}

/// Adds all of them to an environment.
pub(super) fn add(env: &mut Environment<'_>) {
    env.add_filter("cert_der", |v: Value| cert_der(bytes(&v)?).map(Value::from_bytes));
    env.add_filter("spki_der", |v: Value| spki_der(bytes(&v)?).map(Value::from_bytes));
    env.add_filter("sha1", |v: Value| hash(&SHA1_FOR_LEGACY_USE_ONLY, &v));
    env.add_filter("sha256", |v: Value| hash(&SHA256, &v));
    env.add_filter("hex", |v: Value| hex(&v));
    env.add_filter("b64encode", |v: Value| Ok::<_, Error>(BASE64_STANDARD.encode(bytes(&v)?)));
    env.add_filter("b64url", |v: Value| Ok::<_, Error>(BASE64_URL_SAFE_NO_PAD.encode(bytes(&v)?)));
    env.add_filter("basic", |user: Value, password: Value| basic(&user, &password));
    env.add_filter("date", |v: Value, format: String| date(&v, &format));
}

/// `now`: prints RFC 3339 in UTC with milliseconds; `now.epoch` is whole seconds.
#[derive(Debug)]
pub(super) struct Moment(pub Duration);

impl Moment {
    fn timestamp(&self) -> Option<Timestamp> {
        let milliseconds = i64::try_from(self.0.as_millis()).ok()?;
        Timestamp::from_millisecond(milliseconds).ok()
    }
    fn written(&self, format: &str) -> Option<String> {
        strtime::format(format, &self.timestamp()?.to_zoned(TimeZone::UTC)).ok()
    }
}

impl Object for Moment {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        (key.as_str() == Some("epoch")).then(|| Value::from(self.0.as_secs()))
    }
    fn is_true(self: &Arc<Self>) -> bool {
        true
    }
    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written("%Y-%m-%dT%H:%M:%S%.3fZ").ok_or(fmt::Error)?)
    }
}

fn date(value: &Value, format: &str) -> Result<String, Error> {
    let moment = value.downcast_object_ref::<Moment>().ok_or_else(|| complain("date takes now"))?;
    moment.written(format).ok_or_else(|| complain("date: the format is not strftime's"))
}

pub(super) fn bytes(value: &Value) -> Result<&[u8], Error> {
    value.as_bytes().ok_or_else(|| complain("a filter was given neither text nor bytes (is an optional secret absent?)"))
}

fn hash(algorithm: &'static Algorithm, value: &Value) -> Result<Value, Error> {
    Ok(Value::from_bytes(digest::digest(algorithm, bytes(value)?).as_ref().to_vec()))
}

fn hex(value: &Value) -> Result<String, Error> {
    let bytes = bytes(value)?;
    let mut out = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a String does not fail.
        let _ = write!(out, "{byte:02x}");
    }
    Ok(out)
}

/// The whole header value of RFC 7617: `Basic` and the encoded pair, as they are (no form encoding as in RFC 6749 2.3.1).
fn basic(user: &Value, password: &Value) -> Result<String, Error> {
    let (user, password) = (bytes(user)?, bytes(password)?);
    if user.contains(&b':') {
        return Err(complain("basic: a user name must not contain a colon"));
    }
    Ok(format!("Basic {}", BASE64_STANDARD.encode([user, b":", password].concat())))
}

/// DER of the first certificate in a PEM text.
fn cert_der(pem: &[u8]) -> Result<Vec<u8>, Error> {
    let cert = certificate(pem).ok_or_else(|| complain("cert_der: no PEM certificate"))?;
    x509_parser::parse_x509_certificate(&cert).map_err(|_| complain("cert_der: not an X.509 certificate"))?;
    Ok(cert.to_vec())
}

/// `SubjectPublicKeyInfo` (RFC 5280 4.1) of a PEM private key (PKCS#8, PKCS#1, SEC 1) or certificate.
fn spki_der(pem: &[u8]) -> Result<Vec<u8>, Error> {
    if let Some(Ok(key)) = pem::private_key(pem) {
        return public_half(&key).ok_or_else(|| complain("spki_der: neither an RSA, an EC (P-256, P-384, P-521) nor an Ed25519 key"));
    }
    let cert = certificate(pem).ok_or_else(|| complain("spki_der: neither a PEM private key nor a certificate"))?;
    let (_, parsed) = x509_parser::parse_x509_certificate(&cert).map_err(|_| complain("spki_der: not an X.509 certificate"))?;
    Ok(parsed.tbs_certificate.subject_pki.raw.to_vec())
}

fn certificate(pem: &[u8]) -> Option<CertificateDer<'static>> {
    pem::certificates(pem).ok()?.into_iter().next()
}

fn public_half(key: &PrivateKeyDer<'_>) -> Option<Vec<u8>> {
    match key {
        PrivateKeyDer::Pkcs1(der) => rsa::KeyPair::from_der(der.secret_pkcs1_der()).ok().and_then(|pair| der_of(pair.public_key())),
        PrivateKeyDer::Sec1(der) => elliptic(|alg| EcdsaKeyPair::from_private_key_der(alg, der.secret_sec1_der()).ok()),
        PrivateKeyDer::Pkcs8(der) => {
            let der = der.secret_pkcs8_der();
            let rsa = rsa::KeyPair::from_pkcs8(der).ok().and_then(|pair| der_of(pair.public_key()));
            rsa.or_else(|| elliptic(|alg| EcdsaKeyPair::from_pkcs8(alg, der).ok()))
                .or_else(|| Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).ok().and_then(|pair| der_of(pair.public_key())))
        }
        _ => None,
    }
}

fn elliptic(load: impl Fn(&'static EcdsaSigningAlgorithm) -> Option<EcdsaKeyPair>) -> Option<Vec<u8>> {
    [&ECDSA_P256_SHA256_ASN1_SIGNING, &ECDSA_P384_SHA384_ASN1_SIGNING, &ECDSA_P521_SHA512_ASN1_SIGNING]
        .into_iter()
        .find_map(load)
        .and_then(|pair| der_of(pair.public_key()))
}

fn der_of(key: &impl AsDer<PublicKeyX509Der<'static>>) -> Option<Vec<u8>> {
    key.as_der().ok().map(|der| der.as_ref().to_vec())
}
