//! Token calls over TLS: which certificate is taken, which is shown, which name is asked for.

use std::path::PathBuf;

use rcgen::{BasicConstraints, Certificate, CertificateParams, DnType, IsCa, KeyPair};
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
    builder.with_client_cert_verifier(
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .unwrap(),
    )
}

fn params(names: &[&str]) -> CertificateParams {
    let mut params =
        CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, "the server");
    params
}

/// As `openssl req -x509` makes it: its own issuer, CA:TRUE, named for a server.
fn openssl(names: &[&str]) -> CertificateParams {
    let mut params = params(names);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

type VendorError = mpsc::UnboundedReceiver<(Option<String>, String)>;

/// A TLS server for these names; its certificate is in the file returned.
async fn tls_serving(
    names: &[&str],
    folder: &tempfile::TempDir,
    expired: bool,
    client: bool,
) -> (u16, PathBuf, VendorError) {
    let mut about = params(names);
    if expired {
        about.not_after = rcgen::date_time_ymd(2002, 1, 1);
    }
    let key = KeyPair::generate().unwrap();
    let cert = about.self_signed(&key).unwrap();
    serving_with(cert, &key, folder, client).await
}

async fn serving_with(
    cert: Certificate,
    key: &KeyPair,
    folder: &tempfile::TempDir,
    client: bool,
) -> (u16, PathBuf, VendorError) {
    let file = folder.path().join("ca.pem");
    std::fs::write(&file, cert.pem()).unwrap();
    std::fs::write(folder.path().join("key.pem"), key.serialize_pem()).unwrap();
    let key = rustls_pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = if client {
        trusting_clients(builder, cert.der())
    } else {
        builder.with_no_client_auth()
    };
    let config = builder
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (tell, told) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else {
                continue;
            };
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
    let trusting = Tls {
        ca_file: Some(file),
        ca_only: true,
        ..Tls::default()
    };
    let url = format!("https://localhost:{port}/token");
    assert!(
        run(&call(TokenSpec {
            tls: trusting.clone(),
            ..spec(&url)
        }))
        .await
        .is_ok()
    );
    told.recv().await.unwrap();
    let unknown = failure(&call(spec(&url))).await;
    assert!(
        unknown.class == FailureClass::Retry
            && unknown
                .to_string()
                .contains("is self-signed (\"CN=the server\")"),
        "{}",
        unknown
    );
    let other = failure(&call(TokenSpec {
        tls: trusting,
        ..spec(&format!("https://127.0.0.1:{port}/token"))
    }))
    .await;
    assert!(other.to_string().contains("another name"), "{}", other);
    let (port, file, _told) = tls_serving(&["localhost"], &folder, true, false).await;
    let trusting = Tls {
        ca_file: Some(file),
        ca_only: true,
        ..Tls::default()
    };
    let expired = failure(&call(TokenSpec {
        tls: trusting,
        ..spec(&format!("https://localhost:{port}/token"))
    }))
    .await;
    assert!(
        expired
            .to_string()
            .contains("has expired (on 2002-01-01T00:00:00Z)"),
        "{}",
        expired
    );
    assert!(
        told.try_recv().is_err(),
        "a request was sent in spite of the certificate"
    );
}

#[tokio::test]
async fn a_server_name_is_asked_for_and_verified_while_the_host_stays_the_urls() {
    let folder = tempfile::tempdir().unwrap();
    let (port, file, mut told) = tls_serving(&["inner.example"], &folder, false, false).await;
    let tls = |name: &str| Tls {
        ca_file: Some(file.clone()),
        ca_only: true,
        server_name: Some(name.into()),
        ..Tls::default()
    };
    for host in ["localhost", "127.0.0.1"] {
        let url = format!("https://{host}:{port}/token");
        run(&call(TokenSpec {
            tls: tls("inner.example"),
            ..spec(&url)
        }))
        .await
        .unwrap_or_else(|f| panic!("{host}: {f}"));
        let (name, heard) = told.recv().await.unwrap();
        assert_eq!(name.as_deref(), Some("inner.example"));
        assert!(
            heard.contains(&format!("host: {host}:{port}\r\n")),
            "{heard}"
        );
    }
    let wrong = failure(&call(TokenSpec {
        tls: tls("other.example"),
        ..spec(&format!("https://localhost:{port}/token"))
    }))
    .await;
    assert!(wrong.to_string().contains("another name"), "{}", wrong);
}

#[tokio::test]
async fn r14_a_client_certificate_is_shown_where_the_server_wants_one() {
    let folder = tempfile::tempdir().unwrap();
    let (port, file, mut told) = tls_serving(&["localhost"], &folder, false, true).await;
    let url = format!("https://localhost:{port}/token");
    let without = Tls {
        ca_file: Some(file.clone()),
        ca_only: true,
        ..Tls::default()
    };
    let with = Tls {
        client_cert_file: Some(file),
        client_key_file: Some(folder.path().join("key.pem")),
        ..without.clone()
    };
    run(&call(TokenSpec {
        tls: with,
        ..spec(&url)
    }))
    .await
    .unwrap_or_else(|f| panic!("{}", f));
    told.recv().await.unwrap();
    let refused = failure(&call(TokenSpec {
        tls: without,
        ..spec(&url)
    }))
    .await;
    assert!(
        refused.class == FailureClass::Retry
            && refused.to_string().contains("wants a client certificate"),
        "{}",
        refused
    );
}

#[tokio::test]
async fn a_servers_own_certificate_in_ca_file_is_taken_where_name_and_time_fit_whatever_else_it_is()
{
    let mut corporate = openssl(&[]);
    corporate
        .distinguished_name
        .push(DnType::CommonName, "Corp CA");
    let corporate = rcgen::Issuer::new(corporate, KeyPair::generate().unwrap());
    let mut for_clients = params(&["localhost"]);
    for_clients.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let year = |from, to| {
        let mut params = openssl(&["localhost"]);
        (params.not_before, params.not_after) = (
            rcgen::date_time_ymd(from, 1, 1),
            rcgen::date_time_ymd(to, 1, 1),
        );
        params
    };
    let key = || KeyPair::generate().unwrap();
    let own = |params: CertificateParams| {
        let key = key();
        (params.self_signed(&key).unwrap(), key)
    };
    let by = |params: CertificateParams| {
        let key = key();
        (params.signed_by(&key, &corporate).unwrap(), key)
    };
    // The certificate, what is said where ca_file does not hold it, and what where it does ("" for:
    // it is taken).
    let rows: Vec<((Certificate, KeyPair), &str, &str)> = vec![
        (
            own(openssl(&["localhost"])),
            "is self-signed (\"CN=the server\")",
            "",
        ),
        (
            own(params(&["localhost"])),
            "is self-signed (\"CN=the server\")",
            "",
        ),
        (
            by(params(&["localhost"])),
            "has an unknown issuer (\"CN=Corp CA\"",
            "",
        ),
        (
            by(openssl(&["localhost"])),
            "is a certificate authority's own (CA:TRUE)",
            "",
        ),
        (by(for_clients), "", ""),
        (
            own(openssl(&["other.example", "*.test"])),
            "is self-signed",
            "is for another name (asked for \"localhost\", it names \"other.example\", \"*.test\")",
        ),
        (
            own(openssl(&[])),
            "is self-signed",
            "it names none: a subjectAltName is needed",
        ),
        (
            own(year(2001, 2002)),
            "",
            "has expired (on 2002-01-01T00:00:00Z)",
        ),
        (
            own(year(2090, 2091)),
            "",
            "is not valid yet (only from 2090-01-01T00:00:00Z)",
        ),
    ];
    for ((cert, key), without, with) in rows {
        let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (_, elsewhere, _) = tls_serving(&["localhost"], &other, false, false).await;
        let (port, file, mut told) = serving_with(cert, &key, &folder, false).await;
        let trusting = |file| Tls {
            ca_file: Some(file),
            ca_only: true,
            ..Tls::default()
        };
        let run = async |tls| {
            run(&call(TokenSpec {
                tls,
                ..spec(&format!("https://localhost:{port}/token"))
            }))
            .await
        };
        let refused = run(trusting(elsewhere)).await.err().unwrap().to_string();
        assert!(
            refused.starts_with("TLS: certificate ") && refused.contains(without),
            "{refused} should say {without}"
        );
        assert!(told.try_recv().is_err(), "a secret was sent to a stranger");
        match run(trusting(file)).await {
            Ok(_) => assert_eq!(with, ""),
            Err(failure) => assert!(
                !with.is_empty() && failure.to_string().contains(with),
                "{failure} should say {with:?}"
            ),
        }
    }
}

#[tokio::test]
async fn a_certificate_in_ca_file_is_worth_nothing_without_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let cert = openssl(&["localhost"])
        .self_signed(&KeyPair::generate().unwrap())
        .unwrap();
    let thief = KeyPair::generate().unwrap();
    let provider = rustls::crypto::ring::default_provider();
    let signing = provider
        .key_provider
        .load_private_key(rustls_pki_types::PrivateKeyDer::try_from(thief.serialize_der()).unwrap())
        .unwrap();
    std::fs::write(folder.path().join("ca.pem"), cert.pem()).unwrap();
    // A resolver is not asked whether certificate and key fit together.
    let mut names = rustls::server::ResolvesServerCertUsingSni::new();
    names
        .add(
            "localhost",
            rustls::sign::CertifiedKey::new(vec![cert.der().clone()], signing),
        )
        .unwrap();
    let builder = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(
        builder
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(names)),
    ));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!(
        "https://localhost:{}/token",
        listener.local_addr().unwrap().port()
    );
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            assert!(acceptor.accept(stream).await.is_err(), "the client went on");
        }
    });
    let tls = Tls {
        ca_file: Some(folder.path().join("ca.pem")),
        ca_only: true,
        ..Tls::default()
    };
    let failure = failure(&call(TokenSpec { tls, ..spec(&url) })).await;
    assert!(
        failure.to_string().contains("has a bad signature"),
        "{}",
        failure
    );
}
