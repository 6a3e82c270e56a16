//! The filters of profile templates: bytes in and out for digests and keys, text for encodings. No
//! error quotes its input.

use aws_lc_rs::{
    digest::{self, Algorithm, SHA1_FOR_LEGACY_USE_ONLY, SHA256},
    encoding::{AsDer, PublicKeyX509Der},
    rsa,
    signature::{
        ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING,
        ECDSA_P521_SHA512_ASN1_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair,
        KeyPair,
    },
};
use base64::{Engine, prelude::BASE64_STANDARD, prelude::BASE64_URL_SAFE_NO_PAD};
use jiff::{Timestamp, fmt::strtime, tz::TimeZone};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::{borrow::Cow, time::Duration};
use zeroize::Zeroizing;

use super::template::{
    eval::{Fault, PARTS, Run, Val},
    syntax::Filter,
};

use crate::{hash::hex, tls::pem};

type Result<T> = std::result::Result<T, Fault>;

/// Stands for every secret, token and variable that is not known yet: longer than any part of it
/// that a template asks for.
pub(super) const PLACEHOLDER: &str =
    "placeholder-placeholder-placeholder-placeholder-placeholder-placeholder";
/// Parts that splitting a placeholder gives.
const PLACEHOLDER_PARTS: usize = 16;
/// Bytes of a `date` format.
const FORMAT: usize = 256;
/// What parsing a certificate counts as, and what checking a private key does: milliseconds for RSA.
const CERTIFICATE_WORK: usize = 64 * 1024;
const KEY_WORK: usize = 300 * 1024;

/// What `filter` makes of `value`. How many arguments there are was checked when the template was read.
pub(super) fn apply<'a>(
    run: &mut Run<'a>,
    value: Val<'a>,
    filter: Filter,
    arguments: &[Val<'a>],
) -> Result<Val<'a>> {
    let argument = |n: usize| arguments.get(n);
    match filter {
        Filter::Default => {
            let absent = matches!(value, Val::Undefined)
                || argument(1).is_some_and(Val::truth) && !value.truth();
            Ok(if absent {
                argument(0).cloned().unwrap_or(Val::Given(""))
            } else {
                value
            })
        }
        Filter::Length => {
            let length = match &value {
                Val::List(list) => list.len(),
                Val::Bytes(bytes) => bytes.len(),
                Val::Number(_) => return Err(Fault::Told("a number has no length")),
                other => other.text()?.chars().count(),
            };
            Ok(Val::Number(i64::try_from(length).unwrap_or(i64::MAX)))
        }
        Filter::First => value.nth(0),
        Filter::Last => value.nth(-1),
        Filter::String => Ok(Val::made(value.text()?.into_owned())),
        Filter::Upper | Filter::Lower => {
            let text = value.text()?;
            // A letter of three bytes at most becomes three of them.
            run.charge(3 * text.len())?;
            sized(
                run,
                if filter == Filter::Upper {
                    text.to_uppercase()
                } else {
                    text.to_lowercase()
                },
            )
        }
        Filter::Trim => {
            let text = value.text()?;
            let Some(ends) = argument(0) else {
                return Ok(Val::made(text.trim().to_owned()));
            };
            let ends: Vec<char> = ends.text()?.chars().collect();
            run.charge(text.len().saturating_mul(ends.len()))?;
            Ok(Val::made(text.trim_matches(&ends[..]).to_owned()))
        }
        Filter::Replace => {
            let (text, from, to) = (value.text()?, text_of(argument(0))?, text_of(argument(1))?);
            let hits = text.matches(&*from).count();
            let size =
                (text.len() - hits * from.len()).saturating_add(hits.saturating_mul(to.len()));
            run.room(size)?;
            Ok(Val::made(text.replace(&*from, &to)))
        }
        Filter::Split => {
            if run.forgive {
                return Ok(Val::List(vec![Val::Given(PLACEHOLDER); PLACEHOLDER_PARTS]));
            }
            let text = value.text()?;
            let most = match argument(1) {
                None => usize::MAX,
                Some(Val::Number(n)) => {
                    usize::try_from(*n).map_or(usize::MAX, |n| n.saturating_add(1))
                }
                Some(_) => return Err(Fault::Told("split: how many times is a whole number")),
            };
            let parts: Vec<&str> = match argument(0) {
                None => text.split_whitespace().take(PARTS + 1).collect(),
                Some(separator) => text
                    .splitn(most, &*separator.text()?)
                    .take(PARTS + 1)
                    .collect(),
            };
            if parts.len() > PARTS {
                return Err(Fault::TooManyParts);
            }
            run.charge(parts.len() * size_of::<Val<'_>>())?;
            Ok(Val::List(
                parts
                    .into_iter()
                    .map(|part| Val::made(part.to_owned()))
                    .collect(),
            ))
        }
        Filter::Join => {
            let Val::List(list) = &value else {
                return Err(Fault::Told("join takes a list, such as split gives"));
            };
            let between = argument(0).map_or(Ok(Cow::Borrowed("")), Val::text)?;
            let texts = list.iter().map(Val::text).collect::<Result<Vec<_>>>()?;
            run.room(
                texts
                    .iter()
                    .map(|text| text.len() + between.len())
                    .sum::<usize>()
                    .saturating_sub(between.len()),
            )?;
            Ok(Val::made(texts.join(&*between)))
        }
        Filter::Int => match (&value, argument(0)) {
            (Val::Number(n), _) => Ok(Val::Number(*n)),
            (Val::Bool(yes), _) => Ok(Val::Number((*yes).into())),
            (Val::Undefined, _) => Err(Fault::Undefined),
            (other, default) => match (other.text().ok().and_then(|text| whole(&text)), default) {
                (Some(n), _) => Ok(Val::Number(n)),
                (None, Some(default)) => Ok(default.clone()),
                (None, None) if run.forgive && other.text().is_ok() => Ok(Val::Number(1)),
                (None, None) => Err(Fault::Told(
                    "int: the text is not a whole number of at most 18 digits",
                )),
            },
        },
        Filter::Date => date(run, &value, &text_of(argument(0))?),
        Filter::Hex => {
            let bytes = bytes(&value)?;
            run.room(2 * bytes.len())?;
            Ok(Val::made(hex(bytes)))
        }
        Filter::B64encode | Filter::B64url => {
            let bytes = bytes(&value)?;
            run.room(bytes.len() / 3 * 4 + 4)?;
            Ok(Val::made(if filter == Filter::B64url {
                BASE64_URL_SAFE_NO_PAD.encode(bytes)
            } else {
                BASE64_STANDARD.encode(bytes)
            }))
        }
        Filter::Basic => basic(run, &value, argument(0).unwrap_or(&Val::Undefined)),
        Filter::Sha1 => hash(&SHA1_FOR_LEGACY_USE_ONLY, &value),
        Filter::Sha256 => hash(&SHA256, &value),
        Filter::CertDer | Filter::SpkiDer if run.forgive => {
            bytes(&value)?;
            Ok(Val::Bytes(Zeroizing::new(PLACEHOLDER.into())))
        }
        Filter::CertDer => {
            run.charge(CERTIFICATE_WORK)?;
            cert_der(bytes(&value)?).map(|der| Val::Bytes(Zeroizing::new(der)))
        }
        Filter::SpkiDer => {
            run.charge(KEY_WORK)?;
            spki_der(bytes(&value)?).map(|der| Val::Bytes(Zeroizing::new(der)))
        }
    }
}

fn sized<'a>(run: &mut Run<'_>, text: String) -> Result<Val<'a>> {
    let value = Val::made(text);
    run.room(value.text()?.len())?;
    Ok(value)
}

fn text_of<'v>(value: Option<&'v Val<'_>>) -> Result<Cow<'v, str>> {
    value.map_or(Err(Fault::Undefined), Val::text)
}

/// "42", and the whole part of "42.9".
fn whole(text: &str) -> Option<i64> {
    if let Ok(n) = text.parse() {
        return Some(n);
    }
    // What is not an exact number as a float is none of use.
    let float = text.parse::<f64>().ok().filter(|n| n.abs() < 9e15)?;
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the whole part is meant, and it fits"
    )]
    Some(float as i64)
}

fn written(wall: Duration, format: &str) -> Option<String> {
    let moment = Timestamp::from_millisecond(i64::try_from(wall.as_millis()).ok()?).ok()?;
    strtime::format(format, &moment.to_zoned(TimeZone::UTC)).ok()
}

/// How `now` prints: RFC 3339 in UTC with milliseconds.
pub(super) fn rfc3339(wall: Duration) -> Result<String> {
    written(wall, "%Y-%m-%dT%H:%M:%S%.3fZ")
        .ok_or(Fault::Told("the clock shows no moment that can be written"))
}

fn date<'a>(run: &mut Run<'_>, value: &Val<'_>, format: &str) -> Result<Val<'a>> {
    let Val::Moment(wall) = value else {
        return Err(Fault::Told("date takes now"));
    };
    if format.len() > FORMAT {
        return Err(Fault::Told("date: the format is longer than 256 bytes"));
    }
    run.charge(64 * FORMAT)?;
    written(*wall, format).map_or(
        Err(Fault::Told("date: the format is not strftime's")),
        |text| sized(run, text),
    )
}

fn bytes<'v>(value: &'v Val<'_>) -> Result<&'v [u8]> {
    match value {
        Val::Bytes(bytes) => Ok(bytes),
        Val::Given(text) => Ok(text.as_bytes()),
        Val::Made(text) => Ok(text.as_bytes()),
        _ => Err(Fault::Told(
            "a filter was given neither text nor bytes (is an optional secret absent?)",
        )),
    }
}

fn hash<'a>(algorithm: &'static Algorithm, value: &Val<'_>) -> Result<Val<'a>> {
    Ok(Val::Bytes(Zeroizing::new(
        digest::digest(algorithm, bytes(value)?).as_ref().to_vec(),
    )))
}

/// The whole header value of RFC 7617: `Basic` and the encoded pair, as they are (no form encoding
/// as in RFC 6749 2.3.1).
fn basic<'a>(run: &mut Run<'_>, user: &Val<'_>, password: &Val<'_>) -> Result<Val<'a>> {
    let (user, password) = (bytes(user)?, bytes(password)?);
    if user.contains(&b':') {
        return Err(Fault::Told("basic: a user name must not contain a colon"));
    }
    run.room((user.len() + password.len()) / 3 * 4 + 16)?;
    Ok(Val::made(format!(
        "Basic {}",
        BASE64_STANDARD.encode(Zeroizing::new([user, b":", password].concat()))
    )))
}

/// DER of the first certificate in a PEM text.
fn cert_der(pem: &[u8]) -> Result<Vec<u8>> {
    let cert = certificate(pem).ok_or(Fault::Told("cert_der: no PEM certificate"))?;
    x509_parser::parse_x509_certificate(&cert)
        .map_err(|_| Fault::Told("cert_der: not an X.509 certificate"))?;
    Ok(cert.to_vec())
}

/// `SubjectPublicKeyInfo` (RFC 5280 4.1) of a PEM private key (PKCS#8, PKCS#1, SEC 1) or
/// certificate.
fn spki_der(pem: &[u8]) -> Result<Vec<u8>> {
    if let Some(Ok(key)) = pem::private_key(pem) {
        return public_half(&key).ok_or(Fault::Told(
            "spki_der: neither an RSA, an EC (P-256, P-384, P-521) nor an Ed25519 key",
        ));
    }
    let cert = certificate(pem).ok_or(Fault::Told(
        "spki_der: neither a PEM private key nor a certificate",
    ))?;
    let (_, parsed) = x509_parser::parse_x509_certificate(&cert)
        .map_err(|_| Fault::Told("spki_der: not an X.509 certificate"))?;
    Ok(parsed.tbs_certificate.subject_pki.raw.to_vec())
}

fn certificate(pem: &[u8]) -> Option<CertificateDer<'static>> {
    pem::certificates(pem).ok()?.into_iter().next()
}

fn public_half(key: &PrivateKeyDer<'_>) -> Option<Vec<u8>> {
    match key {
        PrivateKeyDer::Pkcs1(der) => rsa::KeyPair::from_der(der.secret_pkcs1_der())
            .ok()
            .and_then(|pair| der_of(pair.public_key())),
        PrivateKeyDer::Sec1(der) => {
            elliptic(|alg| EcdsaKeyPair::from_private_key_der(alg, der.secret_sec1_der()).ok())
        }
        PrivateKeyDer::Pkcs8(der) => {
            let der = der.secret_pkcs8_der();
            let rsa = rsa::KeyPair::from_pkcs8(der)
                .ok()
                .and_then(|pair| der_of(pair.public_key()));
            rsa.or_else(|| elliptic(|alg| EcdsaKeyPair::from_pkcs8(alg, der).ok()))
                .or_else(|| {
                    Ed25519KeyPair::from_pkcs8_maybe_unchecked(der)
                        .ok()
                        .and_then(|pair| der_of(pair.public_key()))
                })
        }
        _ => None,
    }
}

fn elliptic(
    load: impl Fn(&'static EcdsaSigningAlgorithm) -> Option<EcdsaKeyPair>,
) -> Option<Vec<u8>> {
    [
        &ECDSA_P256_SHA256_ASN1_SIGNING,
        &ECDSA_P384_SHA384_ASN1_SIGNING,
        &ECDSA_P521_SHA512_ASN1_SIGNING,
    ]
    .into_iter()
    .find_map(load)
    .and_then(|pair| der_of(pair.public_key()))
}

fn der_of(key: &impl AsDer<PublicKeyX509Der<'static>>) -> Option<Vec<u8>> {
    key.as_der().ok().map(|der| der.as_ref().to_vec())
}
