//! A certificate authority of the tests' own: good leaves, expired ones, for another host, for
//! clients, and keys to sign with.

use std::sync::Arc;

use aws_lc_rs::encoding::AsDer;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::PrivatePkcs8KeyDer;

/// A certificate with its key, as PEM.
#[derive(Clone)]
pub struct Pair {
    pub cert: String,
    pub key: String,
    /// SubjectPublicKeyInfo, for whoever verifies.
    pub public: String,
    cert_der: Vec<u8>,
    key_der: Vec<u8>,
}

impl Pair {
    fn new(cert: &rcgen::Certificate, key: &KeyPair) -> Self {
        Self {
            cert: cert.pem(),
            key: key.serialize_pem(),
            public: key.public_key_pem(),
            cert_der: cert.der().to_vec(),
            key_der: key.serialize_der(),
        }
    }

    pub fn cert_der(&self) -> &[u8] {
        &self.cert_der
    }
}

/// What a leaf is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaf {
    Server,
    Expired,
    Client,
}

pub struct Authority {
    pub pem: String,
    der: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        let key = KeyPair::generate().unwrap();
        let cert = params.self_signed(&key).unwrap();
        Self {
            pem: cert.pem(),
            der: cert.der().to_vec(),
            issuer: Issuer::new(params, key),
        }
    }

    /// One between this one and its leaves.
    pub fn intermediate(&self, name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        Self {
            pem: cert.pem(),
            der: cert.der().to_vec(),
            issuer: Issuer::new(params, key),
        }
    }

    /// A server's TLS with a leaf of this (intermediate) authority, which is sent along.
    pub fn server_with_chain(&self, leaf: &Pair) -> Arc<ServerConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap();
        let chain = vec![leaf.cert_der.clone().into(), self.der.clone().into()];
        let key = PrivatePkcs8KeyDer::from(leaf.key_der.clone());
        Arc::new(
            config
                .with_no_client_auth()
                .with_single_cert(chain, key.into())
                .unwrap(),
        )
    }

    /// A leaf for these names; IP literals become IP names.
    pub fn leaf(&self, names: &[&str], kind: Leaf) -> Pair {
        let mut params =
            CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>())
                .unwrap();
        params
            .distinguished_name
            .push(DnType::CommonName, names.first().copied().unwrap_or("leaf"));
        params.extended_key_usages = vec![if kind == Leaf::Client {
            ExtendedKeyUsagePurpose::ClientAuth
        } else {
            ExtendedKeyUsagePurpose::ServerAuth
        }];
        if kind == Leaf::Expired {
            params.not_before = date_time_ymd(2019, 1, 1);
            params.not_after = date_time_ymd(2020, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        Pair::new(&params.signed_by(&key, &self.issuer).unwrap(), &key)
    }

    /// The leaf of every server here: `localhost`, `127.0.0.1`, and these.
    pub fn localhost(&self, more: &[&str]) -> Pair {
        let names: Vec<&str> = ["localhost", "127.0.0.1"]
            .iter()
            .chain(more)
            .copied()
            .collect();
        self.leaf(&names, Leaf::Server)
    }

    /// A server's TLS with this leaf and these protocols (`["h2", "http/1.1"]`).
    pub fn server(leaf: &Pair, alpn: &[&str]) -> Arc<ServerConfig> {
        tls(leaf, alpn, None)
    }

    /// A server's TLS that knows nobody who does not ask for exactly this name.
    pub fn by_name(leaf: &Pair, name: &str) -> Arc<ServerConfig> {
        let key = rustls::crypto::ring::sign::any_supported_type(
            &PrivatePkcs8KeyDer::from(leaf.key_der.clone()).into(),
        )
        .unwrap();
        let mut names = rustls::server::ResolvesServerCertUsingSni::new();
        names
            .add(
                name,
                rustls::sign::CertifiedKey::new(vec![leaf.cert_der.clone().into()], key),
            )
            .unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap();
        Arc::new(
            config
                .with_no_client_auth()
                .with_cert_resolver(Arc::new(names)),
        )
    }

    /// As `server`, for clients that show a certificate of this authority only.
    pub fn mutual(&self, leaf: &Pair, alpn: &[&str]) -> Arc<ServerConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone().into()).unwrap();
        tls(leaf, alpn, Some(roots))
    }
}

fn tls(leaf: &Pair, alpn: &[&str], clients: Option<RootCertStore>) -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap();
    let config = match clients {
        Some(roots) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .unwrap();
            config.with_client_cert_verifier(verifier)
        }
        None => config.with_no_client_auth(),
    };
    let key = PrivatePkcs8KeyDer::from(leaf.key_der.clone());
    let mut config = config
        .with_single_cert(vec![leaf.cert_der.clone().into()], key.into())
        .unwrap();
    config.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
    Arc::new(config)
}

/// A key that signs assertions, with a self-signed certificate: RS256 and PS256 by RSA 2048, ES256,
/// EdDSA.
pub fn signer(alg: jsonwebtoken::Algorithm) -> Pair {
    use jsonwebtoken::Algorithm::{ES256, ES384, EdDSA};
    let key = match alg {
        ES256 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap(),
        ES384 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap(),
        EdDSA => KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap(),
        _ => {
            let rsa = aws_lc_rs::rsa::KeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).unwrap();
            let der: aws_lc_rs::encoding::Pkcs8V1Der<'_> = rsa.as_der().unwrap();
            KeyPair::from_pkcs8_der_and_sign_algo(
                &PrivatePkcs8KeyDer::from(der.as_ref()),
                &rcgen::PKCS_RSA_SHA256,
            )
            .unwrap()
        }
    };
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, "signer");
    Pair::new(&params.self_signed(&key).unwrap(), &key)
}

/// Upper-case hex SHA-1 of a certificate, as `openssl x509 -fingerprint` prints it without colons.
pub fn thumbprint(pair: &Pair) -> String {
    let digest = aws_lc_rs::digest::digest(
        &aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY,
        pair.cert_der(),
    );
    super::tally::hex(digest.as_ref()).to_uppercase()
}
