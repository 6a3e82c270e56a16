//! Tests of the `tls` table.

use super::*;

fn made(names: &[&str]) -> (String, String) {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

fn written(folder: &tempfile::TempDir, name: &str, text: &str) -> PathBuf {
    let path = folder.path().join(name);
    crate::files::replace_file(&path, text.as_ref()).unwrap();
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
    assert_eq!(
        material
            .client_config(&[b"h2", b"http/1.1"])
            .unwrap()
            .alpn_protocols
            .len(),
        2
    );
    assert!(!format!("{material:?}").contains("PRIVATE"));
    assert_eq!(tls.files().len(), 3);
}

#[test]
fn byte_order_marks_windows_line_ends_and_company_are_no_mistakes() {
    let folder = tempfile::tempdir().unwrap();
    let (cert, key) = made(&["a.example"]);
    for (cert, key) in [
        (format!("\u{feff}{cert}"), format!("\u{feff}{key}")),
        (
            format!("\u{feff}{}", cert.replace('\n', "\r\n")),
            format!("\u{feff}{}", key.replace('\n', "\r\n")),
        ),
        (format!("{key}{cert}"), format!("{cert}{key}")),
        (cert.replace('\n', "\\n"), key.replace('\n', "\\n")),
    ] {
        let (cert, key) = (
            written(&folder, "c.pem", &cert),
            written(&folder, "k.pem", &key),
        );
        let tls = Tls {
            ca_file: Some(cert.clone()),
            client_cert_file: Some(cert),
            client_key_file: Some(key),
            ca_only: true,
            ..Tls::default()
        };
        let material = tls.load().unwrap();
        assert_eq!(
            (material.roots.len(), material.identity.unwrap().chain.len()),
            (1, 1)
        );
    }
}

#[test]
fn each_mistake_is_told_in_words_with_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let (cert, key) = made(&["a.example"]);
    let (_, other) = made(&["b.example"]);
    let good = written(&folder, "c.pem", &cert);
    let empty = written(&folder, "empty.pem", "hello\n");
    let broken = written(
        &folder,
        "broken.pem",
        "-----BEGIN CERTIFICATE-----\nMIIB!!\n-----END CERTIFICATE-----\n",
    );
    let junk = written(
        &folder,
        "junk.pem",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    );
    let (key, other) = (
        written(&folder, "k.pem", &key),
        written(&folder, "o.pem", &other),
    );
    let locked = written(
        &folder,
        "e.pem",
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
    );
    let ca = |file: &Path| Tls {
        ca_file: Some(file.into()),
        ..Tls::default()
    };
    let pair = |c: &Path, k: &Path| Tls {
        client_cert_file: Some(c.into()),
        client_key_file: Some(k.into()),
        ..Tls::default()
    };
    let cases: Vec<(Tls, &str)> = vec![
        (ca(&empty), "empty.pem: no PEM certificate"),
        (ca(&broken), "broken.pem: damaged PEM"),
        (ca(&junk), "junk.pem: a certificate cannot be used"),
        (
            ca(&folder.path().join("none.pem")),
            "none.pem: there is no such file",
        ),
        (ca(folder.path()), "not a regular file"),
        (
            Tls {
                ca_only: true,
                ..Tls::default()
            },
            "ca_only needs ca_file",
        ),
        (
            pair(&good, &other),
            "o.pem: the key does not fit the certificate in",
        ),
        (pair(&good, &empty), "empty.pem: no PEM private key"),
        (pair(&good, &locked), "an encrypted key cannot be read"),
        (pair(&junk, &key), "junk.pem: not an X.509 certificate"),
        (
            Tls {
                client_cert_file: Some(good.clone()),
                ..Tls::default()
            },
            "needs client_key_file",
        ),
        (
            Tls {
                client_key_file: Some(key.clone()),
                ..Tls::default()
            },
            "needs client_cert_file",
        ),
        (
            Tls {
                server_name: Some("a b".into()),
                ..Tls::default()
            },
            "is not a DNS name",
        ),
        (
            Tls {
                server_name: Some("10.0.0.1".into()),
                ..Tls::default()
            },
            "is not a DNS name",
        ),
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
    let shown = || {
        config
            .client_auth_cert_resolver
            .resolve(&[], &[])
            .unwrap()
            .cert
            .clone()
    };
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
fn while_another_handshake_looks_at_the_files_one_goes_on_with_the_pair_that_was_shown_before() {
    let folder = tempfile::tempdir().unwrap();
    let (cert, key) = made(&["a.example"]);
    let (cert, key) = (
        written(&folder, "c.pem", &cert),
        written(&folder, "k.pem", &key),
    );
    let pair = IdentityFiles { cert, key };
    let held = certified_key(&pair.read().unwrap()).unwrap();
    let rotating = Arc::new(IdentityResolver::new(pair, held.clone()));
    // As a look does that never ends.
    let _looking = rotating.watcher.try_permit().unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    let other = rotating.clone();
    std::thread::spawn(move || tell.send(other.resolve(&[], &[]).unwrap().cert.clone()));
    assert_eq!(
        told.recv_timeout(std::time::Duration::from_secs(10))
            .unwrap(),
        held.cert
    );
}

#[test]
fn an_expired_certificate_is_a_warning_and_its_end_is_known() {
    let folder = tempfile::tempdir().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["a.example".into()]).unwrap();
    params.not_before = rcgen::date_time_ymd(2001, 1, 1);
    params.not_after = rcgen::date_time_ymd(2002, 1, 1);
    let cert = params
        .self_signed(&rcgen::KeyPair::generate().unwrap())
        .unwrap()
        .pem();
    let file = written(&folder, "old.pem", &cert);
    assert_eq!(certificate_expiry(&file).unwrap(), 1_009_843_200);
    let material = Tls {
        ca_file: Some(file),
        ..Tls::default()
    }
    .load()
    .unwrap();
    assert!(material.warnings(1_100_000_000)[0].contains("has expired"));
    assert!(material.warnings(0)[0].contains("is not valid yet"));
    assert!(material.warnings(1_000_000_000).is_empty());
}

#[test]
fn what_is_wrong_is_told_all_at_once_by_key_and_files_of_elsewhere_are_not_missed() {
    let folder = tempfile::tempdir().unwrap();
    let (cert, _) = made(&["a.example"]);
    let tls = Tls {
        ca_file: Some(folder.path().join("none.pem")),
        client_cert_file: Some(written(&folder, "c.pem", &cert)),
        client_key_file: Some(folder.path().join("none.key")),
        server_name: Some("a b".into()),
        ..Tls::default()
    };
    let keys = |tls: &Tls, blind| {
        tls.problems(blind)
            .iter()
            .map(|fault| fault.key)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        keys(&tls, false),
        ["ca_file", "client_key_file", "server_name"]
    );
    assert_eq!(keys(&tls, true), ["server_name"]);
    let broken = Tls {
        ca_file: Some(written(&folder, "ca.pem", "hello\n")),
        ..Tls::default()
    };
    assert_eq!(keys(&broken, true), ["ca_file"]);
}
