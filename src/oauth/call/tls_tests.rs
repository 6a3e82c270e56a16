//! Token calls over TLS: which certificate is taken, which is shown, which name is asked for.

use std::path::PathBuf;

use rustls::{
    ConfigBuilder, RootCertStore, ServerConfig, WantsVerifier,
    server::{WantsServerCert, WebPkiClientVerifier},
};
use rustls_pki_types::CertificateDer;
use tokio::{io::AsyncWriteExt, net::TcpListener, sync::mpsc};

use super::{
    tests::{GOOD, call, failure, heard, http, run},
    *,
};
use crate::{oauth::testing::spec, tls::Tls};

fn trusting_clients(
    builder: ConfigBuilder<ServerConfig, WantsVerifier>,
    cert: &CertificateDer<'static>,
) -> ConfigBuilder<ServerConfig, WantsServerCert> {
    let mut roots = RootCertStore::empty();
    roots.add(cert.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    builder.with_client_cert_verifier(WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap())
}

/// A TLS server for these names; its certificate is in the file returned.
async fn tls_serving(
    names: &[&str],
    folder: &tempfile::TempDir,
    expired: bool,
    client: bool,
) -> (u16, PathBuf, mpsc::UnboundedReceiver<(Option<String>, String)>) {
    let mut about = rcgen::CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
    if expired {
        about.not_after = rcgen::date_time_ymd(2002, 1, 1);
    }
    let key = rcgen::KeyPair::generate().unwrap();
    let cert = about.self_signed(&key).unwrap();
    let file = folder.path().join("ca.pem");
    std::fs::write(&file, cert.pem()).unwrap();
    std::fs::write(folder.path().join("key.pem"), key.serialize_pem()).unwrap();
    let key = rustls_pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let builder = if client { trusting_clients(builder, cert.der()) } else { builder.with_no_client_auth() };
    let config = builder.with_single_cert(vec![cert.der().clone()], key).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (tell, told) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let name = stream.get_ref().1.server_name().map(str::to_owned);
            let _ = tell.send((name, heard(&mut stream).await));
            let _ = stream.write_all(http("200 OK", "", GOOD).as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    (port, file, told)
}

#[tokio::test]
async fn r4_t11_a_certificate_is_verified_and_what_is_wrong_with_it_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let (port, file, mut told) = tls_serving(&["localhost"], &folder, false, false).await;
    let trusting = Tls { ca_file: Some(file), ca_only: true, ..Tls::default() };
    let url = format!("https://localhost:{port}/token");
    assert!(run(&call(TokenSpec { tls: trusting.clone(), ..spec(&url) })).await.is_ok());
    told.recv().await.unwrap();
    let unknown = failure(&call(spec(&url))).await;
    assert!(unknown.class == Class::Retry && unknown.error.contains("unknown issuer"), "{}", unknown.error);
    let other = failure(&call(TokenSpec { tls: trusting, ..spec(&format!("https://127.0.0.1:{port}/token")) })).await;
    assert!(other.error.contains("another name"), "{}", other.error);
    let (port, file, _told) = tls_serving(&["localhost"], &folder, true, false).await;
    let trusting = Tls { ca_file: Some(file), ca_only: true, ..Tls::default() };
    let expired = failure(&call(TokenSpec { tls: trusting, ..spec(&format!("https://localhost:{port}/token")) })).await;
    assert!(expired.error.contains("has expired"), "{}", expired.error);
    assert!(told.try_recv().is_err(), "a request was sent in spite of the certificate");
}

#[tokio::test]
async fn a_server_name_is_asked_for_and_verified_while_the_host_stays_the_urls() {
    let folder = tempfile::tempdir().unwrap();
    let (port, file, mut told) = tls_serving(&["inner.example"], &folder, false, false).await;
    let tls = |name: &str| Tls { ca_file: Some(file.clone()), ca_only: true, server_name: Some(name.into()), ..Tls::default() };
    for host in ["localhost", "127.0.0.1"] {
        let url = format!("https://{host}:{port}/token");
        run(&call(TokenSpec { tls: tls("inner.example"), ..spec(&url) })).await.unwrap_or_else(|f| panic!("{host}: {}", f.error));
        let (name, heard) = told.recv().await.unwrap();
        assert_eq!(name.as_deref(), Some("inner.example"));
        assert!(heard.contains(&format!("host: {host}:{port}\r\n")), "{heard}");
    }
    let wrong = failure(&call(TokenSpec { tls: tls("other.example"), ..spec(&format!("https://localhost:{port}/token")) })).await;
    assert!(wrong.error.contains("another name"), "{}", wrong.error);
}

#[tokio::test]
async fn r14_a_client_certificate_is_shown_where_the_server_wants_one() {
    let folder = tempfile::tempdir().unwrap();
    let (port, file, mut told) = tls_serving(&["localhost"], &folder, false, true).await;
    let url = format!("https://localhost:{port}/token");
    let without = Tls { ca_file: Some(file.clone()), ca_only: true, ..Tls::default() };
    let with = Tls { client_cert_file: Some(file), client_key_file: Some(folder.path().join("key.pem")), ..without.clone() };
    run(&call(TokenSpec { tls: with, ..spec(&url) })).await.unwrap_or_else(|f| panic!("{}", f.error));
    told.recv().await.unwrap();
    let refused = failure(&call(TokenSpec { tls: without, ..spec(&url) })).await;
    assert!(refused.class == Class::Retry && refused.error.contains("wants a client certificate"), "{}", refused.error);
}
