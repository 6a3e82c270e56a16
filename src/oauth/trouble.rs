//! What broke between us and a token endpoint, in plain words. Never a URL: it may hold a secret.

use std::error::Error;

use rustls::{AlertDescription, CertificateError};

/// What to say of an error of reqwest. `clock_wrong`: the wall clock is not set, which makes every certificate look wrong.
#[must_use]
pub fn words(error: &reqwest::Error, clock_wrong: bool) -> String {
    let mut causes: Vec<&(dyn Error + 'static)> = Vec::new();
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(cause) = next {
        causes.push(cause);
        // An io::Error made from another error does not name it as its source, but holds it.
        next = match cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            Some(inner) => Some(inner as &(dyn Error + 'static)),
            None => cause.source(),
        };
    }
    if let Some(tls) = causes.iter().find_map(|c| c.downcast_ref::<rustls::Error>()) {
        let clock = if clock_wrong { " (the clock of this machine is wrong: before 2020)" } else { "" };
        return format!("TLS: {}{clock}", tls_words(tls));
    }
    if error.is_timeout() {
        return "timed out".into();
    }
    if causes.iter().any(|c| c.to_string() == "dns error") {
        return "the name of the token endpoint cannot be looked up (DNS)".into();
    }
    let kind = causes.iter().find_map(|c| c.downcast_ref::<std::io::Error>()).map(std::io::Error::kind);
    let what = match kind {
        Some(std::io::ErrorKind::ConnectionRefused) => "connection refused",
        Some(std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe | std::io::ErrorKind::ConnectionAborted) => {
            "connection reset"
        }
        Some(std::io::ErrorKind::TimedOut) => "connection timed out",
        Some(std::io::ErrorKind::HostUnreachable | std::io::ErrorKind::NetworkUnreachable) => "network unreachable",
        Some(std::io::ErrorKind::UnexpectedEof) => "connection closed early",
        _ if error.is_connect() => "cannot connect",
        _ if error.is_builder() => "the request cannot be sent",
        _ if error.is_decode() || error.is_body() => "the answer broke off or is damaged",
        _ => "connection closed, or the answer is not HTTP",
    };
    what.into()
}

fn tls_words(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(why) => format!("certificate {}", certificate_words(why)),
        rustls::Error::AlertReceived(AlertDescription::CertificateRequired) => "the server wants a client certificate".into(),
        rustls::Error::AlertReceived(alert) => format!("the server refused the handshake ({alert:?})"),
        rustls::Error::PeerIncompatible(_) => "no common version or cipher (1.2 and 1.3 are spoken)".into(),
        rustls::Error::InvalidMessage(_) => "the answer is not TLS".into(),
        _ => "handshake failed".into(),
    }
}

fn certificate_words(why: &CertificateError) -> &'static str {
    match why {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "has expired",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => "is not valid yet",
        CertificateError::UnknownIssuer => "has an unknown issuer (is ca_file needed?)",
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => "is for another name",
        CertificateError::Revoked => "is revoked",
        CertificateError::BadSignature => "has a bad signature",
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => "is not for servers",
        _ => "cannot be accepted",
    }
}
