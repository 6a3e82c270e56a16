//! What broke between us and a token endpoint. Never with a URL: it may hold a secret.

use std::{error::Error, io::ErrorKind};

use crate::{
    tls::{HandshakeFailure, HandshakeFault},
    token::FailureKind,
};

/// What an error of reqwest is. `clock_unset`: the wall clock is not set, which makes every
/// certificate look wrong.
#[must_use]
pub fn transport_kind(error: &reqwest::Error, clock_unset: bool) -> FailureKind {
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
        return FailureKind::Tls(Box::new(HandshakeFailure {
            fault: HandshakeFault::new(tls),
            clock_unset,
        }));
    }
    if error.is_timeout() {
        return FailureKind::TimedOut;
    }
    if causes.iter().any(|c| c.to_string() == "dns error") {
        return FailureKind::Dns;
    }
    let kind = causes
        .iter()
        .find_map(|c| c.downcast_ref::<std::io::Error>())
        .map(std::io::Error::kind);
    match kind {
        Some(ErrorKind::ConnectionRefused) => FailureKind::ConnectionRefused,
        Some(ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted) => {
            FailureKind::ConnectionReset
        }
        Some(ErrorKind::TimedOut) => FailureKind::ConnectTimeout,
        Some(ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable) => {
            FailureKind::NetworkUnreachable
        }
        Some(ErrorKind::UnexpectedEof) => FailureKind::ClosedEarly,
        _ if error.is_connect() => FailureKind::CannotConnect,
        _ if error.is_builder() => FailureKind::RequestRefused,
        _ if error.is_decode() || error.is_body() => FailureKind::BrokenBody,
        _ => FailureKind::NotHttp,
    }
}
