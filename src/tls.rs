//! The `tls` table: trust and identity of one leg, as data and as what reqwest and pingora take.

mod fault;
mod flaw;
pub mod pem;
mod verifier;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use arc_swap::ArcSwap;
use rustls::{
    ClientConfig, RootCertStore, SignatureScheme,
    client::{ResolvesClientCert, Resumption},
    crypto::CryptoProvider,
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use schemars::JsonSchema;
use serde::Deserialize;

pub use fault::{HandshakeFailure, HandshakeFault};
pub use flaw::CertificateFlaw;
use verifier::ServerVerifier;

use crate::files::{ClockReading, FileWatcher, LookPermit};

/// No file of a `tls` table is larger than this.
const MAX_FILE: u64 = 1024 * 1024;

const PLACE: &str = "relative paths start from the folder of the file they are written in";
const CERTIFICATE: &str =
    "a file with one or more certificates in PEM (-----BEGIN CERTIFICATE-----)";
const KEY: &str =
    "a file with the certificate's private key in PEM (-----BEGIN PRIVATE KEY-----), not encrypted";

/// `tls = { … }` of a token or an upstream. Paths are absolute or relative to the working directory
/// by now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct Tls {
    /// PEM certificates to trust besides the platform's.
    pub ca_file: Option<PathBuf>,
    /// Trust only `ca_file`.
    pub ca_only: bool,
    /// Name to ask for and to verify instead of the URL's host.
    pub server_name: Option<String>,
    /// PEM certificate to show, leaf first, its chain behind it. Only together with the key.
    pub client_cert_file: Option<PathBuf>,
    /// PEM private key of that certificate, not encrypted.
    pub client_key_file: Option<PathBuf>,
}

/// What the files of a `tls` table hold, read at one moment and found to fit together.
#[derive(Debug)]
pub struct TlsMaterial {
    /// Certificates to trust: the platform's (unless `ca_only`), then those of `ca_file`.
    pub roots: Vec<CertificateDer<'static>>,
    /// Those of `ca_file` alone: a server that shows one of them is trusted as that server.
    named: Vec<CertificateDer<'static>>,
    /// Who we are; `None`: no certificate is shown.
    pub identity: Option<ClientIdentity>,
    /// Name to ask for and to verify instead of the host connected to.
    pub server_name: Option<String>,
    /// Where the identity was read: handshakes look there for a newer pair.
    pair: Option<IdentityFiles>,
    /// Certificates of our own files (not the platform's), with the file they stand in.
    own: Vec<(PathBuf, CertificateDer<'static>)>,
}

/// A client certificate (RFC 8446 4.4.2) and its key.
pub struct ClientIdentity {
    /// The leaf first, never empty.
    pub chain: Vec<CertificateDer<'static>>,
    /// The key of the leaf. `Debug` shows nothing of it.
    pub key: PrivateKeyDer<'static>,
}

/// One thing that is wrong with a `tls` table.
#[derive(Debug)]
pub struct TlsProblem {
    /// The key that is at fault, such as `ca_file`.
    pub key: &'static str,
    /// In words, naming the file.
    pub what: String,
    /// What to do about it.
    pub hint: &'static str,
    /// The file is not there, or not for this user: elsewhere it may well be.
    pub unread: bool,
}

impl TlsProblem {
    fn new(key: &'static str, what: impl Into<String>, hint: &'static str) -> Self {
        Self {
            key,
            what: what.into(),
            hint,
            unread: false,
        }
    }
}

impl From<TlsProblem> for String {
    fn from(problem: TlsProblem) -> Self {
        problem.what
    }
}

impl std::fmt::Debug for ClientIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity")
            .field("chain", &self.chain.len())
            .finish_non_exhaustive()
    }
}

impl Tls {
    /// With relative paths from `folder`.
    #[must_use]
    pub fn in_folder(mut self, folder: &Path) -> Self {
        let files = [
            &mut self.ca_file,
            &mut self.client_cert_file,
            &mut self.client_key_file,
        ];
        for file in files.into_iter().flatten() {
            *file = folder.join(&*file);
        }
        self
    }

    /// Reads the files. The platform's certificates are those of `SSL_CERT_FILE` and `SSL_CERT_DIR`
    /// where these are set.
    ///
    /// # Errors
    /// In words, naming the file: not readable, no PEM certificate in it, a key that does not fit,
    /// a name that cannot be asked for.
    pub fn load(&self) -> Result<TlsMaterial, String> {
        let mut roots = if self.ca_only {
            Vec::new()
        } else {
            rustls_native_certs::load_native_certs().certs
        };
        let mut own = self.read_ca_certificates()?;
        let named: Vec<_> = own
            .iter()
            .map(|(_, certificate)| certificate.clone())
            .collect();
        roots.extend(named.iter().cloned());
        let identity = self.read_identity()?;
        if let Some((identity, pair)) = &identity {
            own.extend(
                identity
                    .chain
                    .iter()
                    .map(|c| (pair.cert.clone(), c.clone())),
            );
        }
        self.check_server_name()?;
        let (identity, pair) = identity.unzip();
        Ok(TlsMaterial {
            roots,
            named,
            identity,
            server_name: self.server_name.clone(),
            pair,
            own,
        })
    }

    /// Everything that would make [`Tls::load`] fail, by key. `blind`: files that cannot be read
    /// here are not missed (`check --no-secrets`).
    #[must_use]
    pub fn problems(&self, blind: bool) -> Vec<TlsProblem> {
        let all = [
            self.read_ca_certificates().err(),
            self.read_identity().err(),
            self.check_server_name().err(),
        ];
        all.into_iter()
            .flatten()
            .filter(|problem| !(blind && problem.unread))
            .collect()
    }

    /// The certificates of `ca_file`.
    fn read_ca_certificates(&self) -> Result<Vec<(PathBuf, CertificateDer<'static>)>, TlsProblem> {
        let Some(file) = &self.ca_file else {
            if self.ca_only {
                return Err(TlsProblem::new(
                    "ca_only",
                    "ca_only needs ca_file: nothing would be trusted",
                    "set ca_file as well",
                ));
            }
            return Ok(Vec::new());
        };
        let found = read_certificates("ca_file", file)?;
        for certificate in &found {
            RootCertStore::empty()
                .add(certificate.clone())
                .map_err(|e| {
                    TlsProblem::new(
                        "ca_file",
                        format!("{}: a certificate cannot be used: {e}", file.display()),
                        CERTIFICATE,
                    )
                })?;
        }
        Ok(found
            .into_iter()
            .map(|certificate| (file.clone(), certificate))
            .collect())
    }

    fn read_identity(&self) -> Result<Option<(ClientIdentity, IdentityFiles)>, TlsProblem> {
        let together = "client_cert_file and client_key_file belong together: set both or none";
        match (&self.client_cert_file, &self.client_key_file) {
            (None, None) => Ok(None),
            (Some(cert), Some(key)) => {
                let pair = IdentityFiles {
                    cert: cert.clone(),
                    key: key.clone(),
                };
                Ok(Some((pair.read()?, pair)))
            }
            (Some(_), None) => Err(TlsProblem::new(
                "client_key_file",
                "is missing: client_cert_file needs client_key_file",
                together,
            )),
            (None, Some(_)) => Err(TlsProblem::new(
                "client_cert_file",
                "is missing: client_key_file needs client_cert_file",
                together,
            )),
        }
    }

    fn check_server_name(&self) -> Result<(), TlsProblem> {
        match &self.server_name {
            Some(name)
                if !matches!(
                    ServerName::try_from(name.as_str()),
                    Ok(ServerName::DnsName(_))
                ) =>
            {
                let hint = "the name in the server's certificate, such as \"api.example\"; leave it out where that is the host of the url";
                Err(TlsProblem::new("server_name", "is not a DNS name", hint))
            }
            _ => Ok(()),
        }
    }

    /// Every file this table depends on.
    #[must_use]
    pub fn files(&self) -> Vec<&Path> {
        [&self.ca_file, &self.client_cert_file, &self.client_key_file]
            .into_iter()
            .flatten()
            .map(PathBuf::as_path)
            .collect()
    }
}

impl TlsMaterial {
    /// A configuration for one client: TLS 1.2 and 1.3, certificate, name and time always verified,
    /// by chain or because the very certificate stands in `ca_file`. A certificate that is refused
    /// is told as a [`CertificateFlaw`] inside of rustls' error. `alpn`: protocols to offer, best first.
    ///
    /// # Errors
    /// In words: nothing is trusted, or the client certificate cannot be used.
    pub fn client_config(&self, alpn: &[&[u8]]) -> Result<ClientConfig, String> {
        let mut store = RootCertStore::empty();
        // A platform's store may hold certificates that webpki cannot read; the others still count.
        // Ours were tried in `load`.
        store.add_parsable_certificates(self.roots.iter().cloned());
        if store.is_empty() {
            return Err(
                "no trusted certificate: the platform has none (install ca-certificates or set SSL_CERT_FILE) and ca_file is not set"
                    .into(),
            );
        }
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(ServerVerifier::new(
                store,
                self.named.clone(),
                provider(),
            )?));
        let mut config = match (&self.identity, &self.pair) {
            (Some(identity), Some(pair)) => {
                let held =
                    certified_key(identity).map_err(|e| format!("client certificate: {e}"))?;
                let mut config = builder
                    .with_client_cert_resolver(Arc::new(IdentityResolver::new(pair.clone(), held)));
                // A resumed session would go on with the certificate it began with.
                config.resumption = Resumption::disabled();
                config
            }
            _ => builder.with_no_client_auth(),
        };
        config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
        Ok(config)
    }

    /// A warning for each certificate of our own files that is not valid at `now` (Unix seconds).
    #[must_use]
    pub fn warnings(&self, now: i64) -> Vec<String> {
        let judge = |(file, der): &(PathBuf, CertificateDer<'static>)| {
            let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
            let validity = certificate.validity();
            let what = if validity.not_after.timestamp() < now {
                "has expired"
            } else if validity.not_before.timestamp() > now {
                "is not valid yet"
            } else {
                return None;
            };
            Some(format!(
                "{}: the certificate of {} {what}",
                file.display(),
                certificate.subject()
            ))
        };
        self.own.iter().filter_map(judge).collect()
    }
}

/// When the first certificate of a PEM file stops to be valid, in Unix seconds.
///
/// # Errors
/// In words, naming the file: it cannot be read, is larger than 1 MiB, or holds no certificate.
pub fn certificate_expiry(file: &Path) -> Result<i64, String> {
    let all = read_certificates("ca_file", file)?;
    let Some(first) = all.first() else {
        return Err(format!("{}: no PEM certificate", file.display()));
    };
    let (_, certificate) = x509_parser::parse_x509_certificate(first)
        .map_err(|_| format!("{}: not an X.509 certificate", file.display()))?;
    Ok(certificate.validity().not_after.timestamp())
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn certified_key(identity: &ClientIdentity) -> Result<Arc<CertifiedKey>, rustls::Error> {
    CertifiedKey::from_der(
        identity.chain.clone(),
        identity.key.clone_key(),
        &provider(),
    )
    .map(Arc::new)
}

/// The files of a client certificate.
#[derive(Debug, Clone)]
struct IdentityFiles {
    cert: PathBuf,
    key: PathBuf,
}

impl IdentityFiles {
    fn paths(&self) -> [PathBuf; 2] {
        [self.cert.clone(), self.key.clone()]
    }

    fn read(&self) -> Result<ClientIdentity, TlsProblem> {
        let wrong_key = |what: &str| {
            TlsProblem::new(
                "client_key_file",
                format!("{}: {what}", self.key.display()),
                KEY,
            )
        };
        let chain = read_certificates("client_cert_file", &self.cert)?;
        let text = zeroize::Zeroizing::new(read_file("client_key_file", &self.key)?);
        let key = pem::private_key(&text)
            .and_then(Result::ok)
            .ok_or_else(|| {
                let hint = if contains_bytes(&text, b"ENCRYPTED") {
                    " (an encrypted key cannot be read)"
                } else {
                    ""
                };
                wrong_key(&format!("no PEM private key{hint}"))
            })?;
        let identity = ClientIdentity { chain, key };
        certified_key(&identity).map_err(|e| match e {
            rustls::Error::InconsistentKeys(_) => wrong_key(&format!(
                "the key does not fit the certificate in {}",
                self.cert.display()
            )),
            rustls::Error::InvalidCertificate(_) => TlsProblem::new(
                "client_cert_file",
                format!("{}: not an X.509 certificate", self.cert.display()),
                CERTIFICATE,
            ),
            _ => wrong_key("the private key cannot be used"),
        })?;
        Ok(identity)
    }
}

/// Shows new connections the pair that lies on disk now; while one of the files is being written,
/// or both do not fit together (one is newer than the other), the last good one.
#[derive(Debug)]
struct IdentityResolver {
    pair: IdentityFiles,
    shown: ArcSwap<CertifiedKey>,
    /// Who looks has its permit, and others show what is there: a mount that hangs holds up one
    /// handshake.
    watcher: FileWatcher,
    /// What was last believed of the files could not be loaded: it is tried again.
    failed: AtomicBool,
}

impl IdentityResolver {
    /// Shows `held`, which was just read, until there is a newer pair.
    fn new(pair: IdentityFiles, held: Arc<CertifiedKey>) -> Self {
        let watcher = FileWatcher::default();
        let _ = watcher.load_settled(&pair.paths(), ClockReading::now(), || ());
        Self {
            pair,
            shown: ArcSwap::new(held),
            watcher,
            failed: AtomicBool::new(false),
        }
    }

    /// Looks whether there is a newer pair.
    fn refresh(&self, permit: &mut LookPermit) {
        let paths = self.pair.paths();
        if permit.is_untouched(&paths) && !self.failed.load(Relaxed) {
            return;
        }
        let load = || {
            let newer = self.pair.read().ok()?;
            certified_key(&newer).ok()
        };
        if let Some(newer) = permit.load_settled(&paths, ClockReading::now(), load) {
            self.failed.store(newer.is_none(), Relaxed);
            if let Some(newer) = newer {
                self.shown.store(newer);
            }
        }
    }
}

impl ResolvesClientCert for IdentityResolver {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        if let Some(mut permit) = self.watcher.try_permit() {
            self.refresh(&mut permit);
        }
        Some(self.shown.load_full())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn read_certificates(
    key: &'static str,
    file: &Path,
) -> Result<Vec<CertificateDer<'static>>, TlsProblem> {
    let text = read_file(key, file)?;
    let wrong =
        |what: &str| TlsProblem::new(key, format!("{}: {what}", file.display()), CERTIFICATE);
    match pem::certificates(&text) {
        Ok(list) if !list.is_empty() => Ok(list),
        Ok(_) => Err(wrong("no PEM certificate")),
        Err(_) => Err(wrong("damaged PEM")),
    }
}

fn read_file(key: &'static str, file: &Path) -> Result<Vec<u8>, TlsProblem> {
    let name = file.to_string_lossy();
    if name.contains("-----BEGIN") || name.contains(char::is_control) || name.len() > 1024 {
        // Not repeated: it may be a private key.
        return Err(TlsProblem::new(
            key,
            "holds something else than a path",
            "write the contents to a file and its path here",
        ));
    }
    let wrong = |what: &str, hint| TlsProblem::new(key, format!("{name}: {what}"), hint);
    let refuse = |e: std::io::Error| TlsProblem {
        unread: true,
        ..wrong(describe_io_error(&e), PLACE)
    };
    let about = std::fs::metadata(file).map_err(refuse)?;
    if !about.is_file() {
        return Err(wrong("not a regular file", PLACE));
    }
    if about.len() > MAX_FILE {
        return Err(wrong("larger than 1 MiB", CERTIFICATE));
    }
    std::fs::read(file).map_err(refuse)
}

fn describe_io_error(e: &std::io::Error) -> &'static str {
    match e.kind() {
        std::io::ErrorKind::NotFound => "there is no such file",
        std::io::ErrorKind::PermissionDenied => "may not be read by this user",
        _ => "cannot be read",
    }
}

fn contains_bytes(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|w| w == word)
}

#[cfg(test)]
mod tests;
