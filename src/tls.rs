//! The `tls` table: trust and identity of one leg, as data and as what reqwest and pingora take.

use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use rustls::{
    ClientConfig, RootCertStore, SignatureScheme,
    client::{ResolvesClientCert, Resumption},
    crypto::CryptoProvider,
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};

/// No file of a `tls` table is larger than this.
const MAX_FILE: u64 = 1024 * 1024;

/// `tls = { … }` of a token or an upstream. Paths are absolute or relative to the working directory by now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Tls {
    /// PEM certificates to trust besides the platform's.
    pub ca_file: Option<PathBuf>,
    /// Trust only `ca_file`.
    pub ca_only: bool,
    /// Name to ask for and to verify instead of the URL's host.
    pub server_name: Option<String>,
    pub client_cert_file: Option<PathBuf>,
    pub client_key_file: Option<PathBuf>,
}

/// What the files of a `tls` table hold, read at one moment and found to fit together.
#[derive(Debug)]
pub struct Material {
    /// Certificates to trust: the platform's (unless `ca_only`), then those of `ca_file`.
    pub roots: Vec<CertificateDer<'static>>,
    pub identity: Option<Identity>,
    /// Name to ask for and to verify instead of the host connected to.
    pub server_name: Option<String>,
    /// Where the identity was read: handshakes look there for a newer pair.
    pair: Option<Pair>,
    /// Certificates of our own files (not the platform's), with the file they stand in.
    own: Vec<(PathBuf, CertificateDer<'static>)>,
}

/// A client certificate (RFC 8446 4.4.2) with its chain, leaf first, and its key.
pub struct Identity {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("chain", &self.chain.len()).finish_non_exhaustive()
    }
}

impl Tls {
    /// Reads the files. The platform's certificates are those of `SSL_CERT_FILE` and `SSL_CERT_DIR` where these are set.
    ///
    /// # Errors
    /// In words, naming the file: not readable, no PEM certificate in it, a key that does not fit, a name that cannot be asked for.
    pub fn load(&self) -> Result<Material, String> {
        let mut own = Vec::new();
        let mut roots = if self.ca_only { Vec::new() } else { rustls_native_certs::load_native_certs().certs };
        if self.ca_only && self.ca_file.is_none() {
            return Err("ca_only needs ca_file: nothing would be trusted".into());
        }
        if let Some(file) = &self.ca_file {
            for certificate in certificates(file)? {
                usable_root(file, &certificate)?;
                own.push((file.clone(), certificate.clone()));
                roots.push(certificate);
            }
        }
        let identity = match (&self.client_cert_file, &self.client_key_file) {
            (None, None) => None,
            (Some(cert), Some(key)) => {
                let pair = Pair { cert: cert.clone(), key: key.clone() };
                Some((pair.read()?, pair))
            }
            (Some(_), None) => return Err("client_cert_file needs client_key_file".into()),
            (None, Some(_)) => return Err("client_key_file needs client_cert_file".into()),
        };
        if let Some((identity, pair)) = &identity {
            own.extend(identity.chain.iter().map(|c| (pair.cert.clone(), c.clone())));
        }
        if let Some(name) = &self.server_name
            && !matches!(ServerName::try_from(name.as_str()), Ok(ServerName::DnsName(_)))
        {
            return Err(format!("server_name: {name:?} is not a DNS name"));
        }
        let (identity, pair) = identity.unzip();
        Ok(Material { roots, identity, server_name: self.server_name.clone(), pair, own })
    }

    /// Every file this table depends on.
    #[must_use]
    pub fn files(&self) -> Vec<&Path> {
        [&self.ca_file, &self.client_cert_file, &self.client_key_file].into_iter().flatten().map(PathBuf::as_path).collect()
    }
}

impl Material {
    /// A configuration for one client: TLS 1.2 and 1.3, chain and name always verified. `alpn`: protocols to offer, best first.
    ///
    /// # Errors
    /// In words: nothing is trusted, or the client certificate cannot be used.
    pub fn client_config(&self, alpn: &[&[u8]]) -> Result<ClientConfig, String> {
        let mut store = RootCertStore::empty();
        // A platform's store may hold certificates that webpki cannot read; the others still count. Ours were tried in `load`.
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
            .with_root_certificates(store);
        let mut config = match (&self.identity, &self.pair) {
            (Some(identity), Some(pair)) => {
                let held = certified(identity).map_err(|e| format!("client certificate: {e}"))?;
                let mut config =
                    builder.with_client_cert_resolver(Arc::new(Rotating { pair: pair.clone(), held: Mutex::new((pair.stamp(), held)) }));
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
            Some(format!("{}: the certificate of {} {what}", file.display(), certificate.subject()))
        };
        self.own.iter().filter_map(judge).collect()
    }
}

/// When the first certificate of a PEM file stops to be valid, in Unix seconds.
///
/// # Errors
/// In words, naming the file.
pub fn certificate_expiry(file: &Path) -> Result<i64, String> {
    let all = certificates(file)?;
    let Some(first) = all.first() else { return Err(format!("{}: no PEM certificate", file.display())) };
    let (_, certificate) =
        x509_parser::parse_x509_certificate(first).map_err(|_| format!("{}: not an X.509 certificate", file.display()))?;
    Ok(certificate.validity().not_after.timestamp())
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn usable_root(file: &Path, certificate: &CertificateDer<'static>) -> Result<(), String> {
    RootCertStore::empty().add(certificate.clone()).map_err(|e| format!("{}: a certificate cannot be used: {e}", file.display()))
}

fn certified(identity: &Identity) -> Result<Arc<CertifiedKey>, rustls::Error> {
    CertifiedKey::from_der(identity.chain.clone(), identity.key.clone_key(), &provider()).map(Arc::new)
}

/// The files of a client certificate.
#[derive(Debug, Clone)]
struct Pair {
    cert: PathBuf,
    key: PathBuf,
}

/// Device, inode, size and time of both files: another stamp, another content.
type Stamp = [Option<(u64, u64, u64, i64, i64)>; 2];

impl Pair {
    fn stamp(&self) -> Stamp {
        [&self.cert, &self.key].map(|file| {
            let about = std::fs::metadata(file).ok()?;
            Some((about.dev(), about.ino(), about.len(), about.mtime(), about.mtime_nsec()))
        })
    }

    fn read(&self) -> Result<Identity, String> {
        let chain = certificates(&self.cert)?;
        let text = zeroize::Zeroizing::new(contents(&self.key)?);
        let key = PrivateKeyDer::from_pem_slice(&text).map_err(|_| {
            let hint = if find(&text, b"ENCRYPTED") { " (an encrypted key cannot be read)" } else { "" };
            format!("{}: no PEM private key{hint}", self.key.display())
        })?;
        let identity = Identity { chain, key };
        certified(&identity).map_err(|e| match e {
            rustls::Error::InconsistentKeys(_) => {
                format!("{}: the key does not fit the certificate in {}", self.key.display(), self.cert.display())
            }
            rustls::Error::InvalidCertificate(_) => format!("{}: not an X.509 certificate", self.cert.display()),
            _ => format!("{}: the private key cannot be used", self.key.display()),
        })?;
        Ok(identity)
    }
}

/// Shows new connections the pair that lies on disk now; while that does not fit together (one file is newer than the other), the last good one.
#[derive(Debug)]
struct Rotating {
    pair: Pair,
    held: Mutex<(Stamp, Arc<CertifiedKey>)>,
}

impl ResolvesClientCert for Rotating {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = self.pair.stamp();
        if stamp != held.0
            && let Some(newer) = self.pair.read().ok().and_then(|identity| certified(&identity).ok())
        {
            *held = (stamp, newer);
        }
        Some(held.1.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let text = contents(file)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match found {
        Ok(list) if !list.is_empty() => Ok(list),
        Ok(_) => Err(format!("{}: no PEM certificate", file.display())),
        Err(_) => Err(format!("{}: damaged PEM", file.display())),
    }
}

fn contents(file: &Path) -> Result<Vec<u8>, String> {
    let refuse = |e: std::io::Error| format!("{}: {}", file.display(), plain(&e));
    let about = std::fs::metadata(file).map_err(refuse)?;
    if !about.is_file() {
        return Err(format!("{}: not a regular file", file.display()));
    }
    if about.len() > MAX_FILE {
        return Err(format!("{}: larger than 1 MiB", file.display()));
    }
    std::fs::read(file).map_err(refuse)
}

fn plain(e: &std::io::Error) -> &'static str {
    match e.kind() {
        std::io::ErrorKind::NotFound => "there is no such file",
        std::io::ErrorKind::PermissionDenied => "may not be read by this user",
        _ => "cannot be read",
    }
}

fn find(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|w| w == word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(names: &[&str]) -> (String, String) {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    fn written(folder: &tempfile::TempDir, name: &str, text: &str) -> PathBuf {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    #[test]
    fn a_ca_file_and_a_client_certificate_are_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let (cert, key) = made(&["a.example"]);
        let tls = Tls {
            ca_file: Some(written(&folder, "ca.pem", &cert)),
            ca_only: true,
            client_cert_file: Some(written(&folder, "c.pem", &cert)),
            client_key_file: Some(written(&folder, "k.pem", &key)),
            ..Tls::default()
        };
        let material = tls.load().unwrap();
        assert_eq!(material.roots.len(), 1);
        assert_eq!(material.identity.as_ref().unwrap().chain.len(), 1);
        assert_eq!(material.client_config(&[b"h2", b"http/1.1"]).unwrap().alpn_protocols.len(), 2);
        assert!(!format!("{material:?}").contains("PRIVATE"));
        assert_eq!(tls.files().len(), 3);
    }

    #[test]
    fn each_mistake_is_told_in_words_with_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let (cert, key) = made(&["a.example"]);
        let (_, other) = made(&["b.example"]);
        let good = written(&folder, "c.pem", &cert);
        let empty = written(&folder, "empty.pem", "hello\n");
        let broken = written(&folder, "broken.pem", "-----BEGIN CERTIFICATE-----\nMIIB!!\n-----END CERTIFICATE-----\n");
        let junk = written(&folder, "junk.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
        let (key, other) = (written(&folder, "k.pem", &key), written(&folder, "o.pem", &other));
        let locked = written(&folder, "e.pem", "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n");
        let ca = |file: &Path| Tls { ca_file: Some(file.into()), ..Tls::default() };
        let pair = |c: &Path, k: &Path| Tls { client_cert_file: Some(c.into()), client_key_file: Some(k.into()), ..Tls::default() };
        let cases: Vec<(Tls, &str)> = vec![
            (ca(&empty), "empty.pem: no PEM certificate"),
            (ca(&broken), "broken.pem: damaged PEM"),
            (ca(&junk), "junk.pem: a certificate cannot be used"),
            (ca(&folder.path().join("none.pem")), "none.pem: there is no such file"),
            (ca(folder.path()), "not a regular file"),
            (Tls { ca_only: true, ..Tls::default() }, "ca_only needs ca_file"),
            (pair(&good, &other), "o.pem: the key does not fit the certificate in"),
            (pair(&good, &empty), "empty.pem: no PEM private key"),
            (pair(&good, &locked), "an encrypted key cannot be read"),
            (pair(&junk, &key), "junk.pem: not an X.509 certificate"),
            (Tls { client_cert_file: Some(good.clone()), ..Tls::default() }, "needs client_key_file"),
            (Tls { client_key_file: Some(key.clone()), ..Tls::default() }, "needs client_cert_file"),
            (Tls { server_name: Some("a b".into()), ..Tls::default() }, "is not a DNS name"),
            (Tls { server_name: Some("10.0.0.1".into()), ..Tls::default() }, "is not a DNS name"),
        ];
        for (tls, says) in cases {
            let error = tls.load().err().unwrap_or_default();
            assert!(error.contains(says), "{error:?} should say {says:?}");
        }
    }

    #[test]
    fn new_connections_show_the_pair_on_disk_and_never_halves_of_two() {
        let folder = tempfile::tempdir().unwrap();
        let ((cert, key), (newer_cert, newer_key)) = (made(&["a.example"]), made(&["b.example"]));
        let tls = Tls {
            client_cert_file: Some(written(&folder, "c.pem", &cert)),
            client_key_file: Some(written(&folder, "k.pem", &key)),
            ca_file: Some(written(&folder, "ca.pem", &cert)),
            ..Tls::default()
        };
        let config = tls.load().unwrap().client_config(&[]).unwrap();
        let shown = || config.client_auth_cert_resolver.resolve(&[], &[]).unwrap().cert.clone();
        let first = shown();
        written(&folder, "c.pem", &newer_cert);
        assert_eq!(shown(), first);
        written(&folder, "k.pem", &newer_key);
        let second = shown();
        assert_ne!(second, first);
        std::fs::remove_file(folder.path().join("k.pem")).unwrap();
        assert_eq!(shown(), second);
    }

    #[test]
    fn an_expired_certificate_is_a_warning_and_its_end_is_known() {
        let folder = tempfile::tempdir().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["a.example".into()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(2002, 1, 1);
        let cert = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem();
        let file = written(&folder, "old.pem", &cert);
        assert_eq!(certificate_expiry(&file).unwrap(), 1_009_843_200);
        let material = Tls { ca_file: Some(file), ..Tls::default() }.load().unwrap();
        assert!(material.warnings(1_100_000_000)[0].contains("has expired"));
        assert!(material.warnings(0)[0].contains("is not valid yet"));
        assert!(material.warnings(1_000_000_000).is_empty());
    }
}
