//! What broke between us and a token endpoint, in plain words. Never a URL: it may hold a secret.

use std::error::Error;

use rustls::AlertDescription;

use crate::tls::CertificateFlaw;

/// What to say of an error of reqwest. `clock_unset`: the wall clock is not set, which makes every
/// certificate look wrong.
#[must_use]
pub fn describe(error: &reqwest::Error, clock_unset: bool) -> String {
    let mut causes: Vec<&(dyn Error + 'static)> = Vec::new();
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(cause) = next {
        causes.push(cause);
        // An io::Error made from another error does not name it as its source, but holds it.
        next = match cause
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref)
        {
            Some(inner) => Some(inner as &(dyn Error + 'static)),
            None => cause.source(),
        };
    }
    if let Some(tls) = causes
        .iter()
        .find_map(|c| c.downcast_ref::<rustls::Error>())
    {
        let clock = if clock_unset {
            " (the clock of this machine is wrong: before 2020)"
        } else {
            ""
        };
        return format!("TLS: {}{clock}", describe_tls(tls));
    }
    if error.is_timeout() {
        return "timed out".into();
    }
    if causes.iter().any(|c| c.to_string() == "dns error") {
        return "the name of the token endpoint cannot be looked up (DNS)".into();
    }
    let kind = causes
        .iter()
        .find_map(|c| c.downcast_ref::<std::io::Error>())
        .map(std::io::Error::kind);
    let what = match kind {
        Some(std::io::ErrorKind::ConnectionRefused) => "connection refused",
        Some(
            std::io::ErrorKind::ConnectionReset
            | std::io::ErrorKind::BrokenPipe
            | std::io::ErrorKind::ConnectionAborted,
        ) => "connection reset",
        Some(std::io::ErrorKind::TimedOut) => "connection timed out",
        Some(std::io::ErrorKind::HostUnreachable | std::io::ErrorKind::NetworkUnreachable) => {
            "network unreachable"
        }
        Some(std::io::ErrorKind::UnexpectedEof) => "connection closed early",
        _ if error.is_connect() => "cannot connect",
        _ if error.is_builder() => "the request cannot be sent",
        _ if error.is_decode() || error.is_body() => "the answer broke off or is damaged",
        _ => "connection closed, or the answer is not HTTP",
    };
    what.into()
}

fn describe_tls(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(found) => {
            format!("certificate {}", CertificateFlaw::new(found, None))
        }
        rustls::Error::AlertReceived(AlertDescription::CertificateRequired) => {
            "the server wants a client certificate".into()
        }
        rustls::Error::AlertReceived(alert) => {
            format!("the server refused the handshake ({alert:?})")
        }
        rustls::Error::PeerIncompatible(_) => {
            "no common version or cipher (1.2 and 1.3 are spoken)".into()
        }
        rustls::Error::InvalidMessage(_) => "the answer is not TLS".into(),
        _ => "handshake failed".into(),
    }
}
