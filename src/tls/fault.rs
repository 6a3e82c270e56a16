//! Why a handshake failed, as what a person can do something about. Pure.

use std::fmt;

use rustls::AlertDescription;

use super::flaw::CertificateFlaw;

/// A TLS handshake that failed, as it is shown: what is wrong, and whether this machine's clock is
/// the likelier reason. Its `Display` says no URL and no name that is not in the certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandshakeFailure {
    /// What is wrong.
    pub fault: HandshakeFault,
    /// The wall clock stands before 2020: it was never set, and every certificate looks wrong.
    pub clock_unset: bool,
}

/// What is wrong with a handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HandshakeFault {
    /// The server's certificate cannot be trusted.
    Certificate(CertificateFlaw),
    /// The server asks for a certificate of ours (RFC 8446 6.2, `certificate_required`).
    CertificateRequired,
    /// The server ended the handshake with this alert (RFC 8446 6), by its name.
    Alert(String),
    /// Neither TLS 1.2 nor 1.3, or no cipher that both know.
    Incompatible,
    /// What answered does not speak TLS.
    NotTls,
    /// Anything else.
    Other,
}

impl HandshakeFault {
    /// What rustls ended a handshake with.
    #[must_use]
    pub fn new(error: &rustls::Error) -> Self {
        match error {
            rustls::Error::InvalidCertificate(found) => {
                Self::Certificate(CertificateFlaw::new(found, None))
            }
            rustls::Error::AlertReceived(AlertDescription::CertificateRequired) => {
                Self::CertificateRequired
            }
            rustls::Error::AlertReceived(alert) => Self::Alert(format!("{alert:?}")),
            rustls::Error::PeerIncompatible(_) => Self::Incompatible,
            rustls::Error::InvalidMessage(_) => Self::NotTls,
            _ => Self::Other,
        }
    }
}

impl fmt::Display for HandshakeFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Certificate(flaw) => write!(f, "certificate {flaw}"),
            Self::CertificateRequired => f.write_str("the server wants a client certificate"),
            Self::Alert(alert) => write!(f, "the server refused the handshake ({alert})"),
            Self::Incompatible => {
                f.write_str("no common version or cipher (1.2 and 1.3 are spoken)")
            }
            Self::NotTls => f.write_str("the answer is not TLS"),
            Self::Other => f.write_str("handshake failed"),
        }
    }
}

impl fmt::Display for HandshakeFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.fault)?;
        if self.clock_unset {
            f.write_str(" (the clock of this machine is wrong: before 2020)")?;
        }
        Ok(())
    }
}
