//! Verifies the certificates of servers: by chain, as webpki does, or because the very certificate
//! stands in `ca_file`.

use std::sync::Arc;

use rustls::{
    CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::CryptoProvider,
    server::ParsedCertificate,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::flaw::CertificateFlaw;

/// A certificate is good where its chain ends at a trusted authority, or where it is itself one of
/// `named`: a person who names a server's own certificate means that server, whoever issued it and
/// whatever else it says it is for. Name and time are checked in both cases, and so is the
/// handshake's signature, which shows that the server has the certificate's key.
#[derive(Debug)]
pub(super) struct ServerVerifier {
    chains: Arc<WebPkiServerVerifier>,
    /// Of `ca_file`; never the platform's.
    named: Vec<CertificateDer<'static>>,
}

impl ServerVerifier {
    /// # Errors
    /// In words: nothing is trusted.
    pub fn new(
        roots: RootCertStore,
        named: Vec<CertificateDer<'static>>,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, String> {
        let chains = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|e| e.to_string())?;
        Ok(Self { chains, named })
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let by_chain = self
            .chains
            .verify_server_cert(shown, intermediates, name, ocsp, now);
        let judged = match by_chain {
            Err(Error::InvalidCertificate(_))
                if self.named.iter().any(|named| **named == **shown) =>
            {
                verify_pinned(shown, name, now)
            }
            judged => judged,
        };
        judged.map_err(|error| match error {
            Error::InvalidCertificate(found) => Error::InvalidCertificate(CertificateError::Other(
                OtherError(Arc::new(CertificateFlaw::new(&found, Some(shown)))),
            )),
            other => other,
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.verify_tls12_signature(message, shown, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.verify_tls13_signature(message, shown, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}

/// Time and name alone (RFC 5280 4.1.2.5, RFC 9525 6).
fn verify_pinned(
    shown: &CertificateDer<'_>,
    name: &ServerName<'_>,
    now: UnixTime,
) -> Result<ServerCertVerified, Error> {
    let (_, parsed) =
        x509_parser::parse_x509_certificate(shown).map_err(|_| CertificateError::BadEncoding)?;
    let at = |time: i64| {
        UnixTime::since_unix_epoch(std::time::Duration::from_secs(
            u64::try_from(time).unwrap_or(0),
        ))
    };
    let (not_before, not_after) = (
        at(parsed.validity().not_before.timestamp()),
        at(parsed.validity().not_after.timestamp()),
    );
    if now > not_after {
        return Err(CertificateError::ExpiredContext {
            time: now,
            not_after,
        }
        .into());
    }
    if now < not_before {
        return Err(CertificateError::NotValidYetContext {
            time: now,
            not_before,
        }
        .into());
    }
    verify_server_name(&ParsedCertificate::try_from(shown)?, name)?;
    Ok(ServerCertVerified::assertion())
}
