//! What is said of certificates, from rustls' errors and from rustls' text.

use proptest::prelude::*;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls_pki_types::{ServerName, UnixTime};
use std::{sync::Arc, time::Duration};

use super::*;

const DAY: u64 = 86_400;

fn at(seconds: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(seconds))
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn self_signed(name: &str) -> Vec<u8> {
    params(name)
        .self_signed(&KeyPair::generate().unwrap())
        .unwrap()
        .der()
        .to_vec()
}

fn issued_by(name: &str) -> Vec<u8> {
    let mut authority = params(name);
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = Issuer::new(authority, KeyPair::generate().unwrap());
    params("leaf")
        .signed_by(&KeyPair::generate().unwrap(), &issuer)
        .unwrap()
        .der()
        .to_vec()
}

/// What is said from the error, and from the text that rustls makes of it.
fn both(error: &CertificateError, shown: Option<&[u8]>) -> (String, String) {
    let text = format!(
        "TLS connect() failed: {}, SNI: a.example",
        rustls::Error::InvalidCertificate(error.clone())
    );
    (
        CertificateFlaw::new(error, shown).to_string(),
        CertificateFlaw::from_text(&text).unwrap().to_string(),
    )
}

#[test]
fn every_flaw_says_which_when_and_for_whom() {
    let (own, foreign) = (self_signed("Own \"Name\""), issued_by("Corp CA"));
    let asked = ServerName::try_from("a.example").unwrap();
    let presented = |names: &[&str]| CertificateError::NotValidForNameContext {
        expected: asked.clone(),
        presented: names.iter().map(ToString::to_string).collect(),
    };
    let rows: Vec<(CertificateError, Option<&[u8]>, &str, &str)> = vec![
        (
            CertificateError::UnknownIssuer,
            Some(&foreign),
            "has an unknown issuer (\"CN=Corp CA\"; is ca_file needed?)",
            "has an unknown issuer (is ca_file needed?)",
        ),
        (
            CertificateError::UnknownIssuer,
            Some(&own),
            "is self-signed (\"CN=Own ?Name?\") and does not stand in ca_file",
            "has an unknown issuer (is ca_file needed?)",
        ),
        (
            CertificateError::UnknownIssuer,
            Some(b"junk"),
            "has an unknown issuer (is ca_file needed?)",
            "has an unknown issuer (is ca_file needed?)",
        ),
        (
            CertificateError::ExpiredContext {
                time: at(20 * DAY),
                not_after: at(DAY),
            },
            None,
            "has expired (on 1970-01-02T00:00:00Z)",
            "has expired (on 1970-01-02T00:00:00Z)",
        ),
        (
            CertificateError::Expired,
            None,
            "has expired",
            "has expired",
        ),
        (
            CertificateError::NotValidYetContext {
                time: at(0),
                not_before: at(DAY),
            },
            None,
            "is not valid yet (only from 1970-01-02T00:00:00Z)",
            "is not valid yet (only from 1970-01-02T00:00:00Z)",
        ),
        (
            CertificateError::NotValidYet,
            None,
            "is not valid yet",
            "is not valid yet",
        ),
        (
            presented(&[
                "DnsName(\"b.example\")",
                "UniformResourceIdentifier(\"x\")",
                "IpAddress(10.0.0.1)",
            ]),
            None,
            "is for another name (asked for \"a.example\", it names \"b.example\", \"10.0.0.1\")",
            "is for another name (asked for \"a.example\", it names \"b.example\", \"10.0.0.1\")",
        ),
        (
            presented(&["DnsName(\"b\")"; 8]),
            None,
            "is for another name (asked for \"a.example\", it names \"b\", \"b\", \"b\", \"b\", \"b\" and 3 more)",
            "is for another name (asked for \"a.example\", it names \"b\", \"b\", \"b\", \"b\", \"b\" and 3 more)",
        ),
        (
            presented(&[]),
            None,
            "is for another name (asked for \"a.example\", it names none: a subjectAltName is needed, the common name does not count)",
            "is for another name (asked for \"a.example\", it names none: a subjectAltName is needed, the common name does not count)",
        ),
        (
            CertificateError::NotValidForName,
            None,
            "is for another name",
            "is for another name",
        ),
        (
            CertificateError::BadSignature,
            Some(&foreign),
            "has a bad signature",
            "has a bad signature",
        ),
        (CertificateError::Revoked, None, "is revoked", "is revoked"),
        (
            CertificateError::InvalidPurpose,
            None,
            "is not for servers (its extended key usage leaves them out)",
            "is not for servers (its extended key usage leaves them out)",
        ),
        (
            CertificateError::BadEncoding,
            None,
            "cannot be read, or needs an extension that is not known here",
            "cannot be read, or needs an extension that is not known here",
        ),
        (
            CertificateError::InvalidOcspResponse,
            None,
            "cannot be accepted",
            "cannot be accepted",
        ),
        (
            CertificateError::Other(rustls::OtherError(Arc::new(CertificateFlaw::Revoked))),
            None,
            "is revoked",
            "cannot be accepted",
        ),
    ];
    for (error, shown, by_error, by_text) in rows {
        assert_eq!(
            both(&error, shown),
            (by_error.to_owned(), by_text.to_owned()),
            "{error:?}"
        );
    }
}

#[test]
fn what_is_no_certificates_fault_is_no_flaw() {
    for text in [
        "",
        "TLS connect() failed: received fatal alert: HandshakeFailure, SNI: a",
        "invalid peer",
    ] {
        assert_eq!(CertificateFlaw::from_text(text), None, "{text}");
    }
}

#[test]
fn a_strangers_text_is_cut_and_shows_nothing_invisible() {
    let long = format!("a\u{202e}b\r\nX-Evil: 1 {}", "x".repeat(300));
    let said = CertificateFlaw::SelfSigned(long).to_string();
    assert!(
        said.starts_with("is self-signed (\"a?b??X-Evil: 1 xxx") && said.chars().count() < 160,
        "{said}"
    );
}

proptest! {
    #[test]
    fn any_text_and_any_certificate_can_be_judged(text in "\\PC{0,80}", der in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Some(flaw) = CertificateFlaw::from_text(&format!("{BEGINS}{text}")) {
            prop_assert!(flaw.to_string().chars().count() < 1000);
        }
        let _ = CertificateFlaw::from_text(&format!("{BEGINS}certificate not valid for name {text}; certificate {text}"));
        prop_assert!(!CertificateFlaw::new(&CertificateError::UnknownIssuer, Some(&der)).to_string().is_empty());
    }
}
