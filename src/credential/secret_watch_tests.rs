//! That a look waits for nobody, and comes again where somebody is still writing.

use std::{collections::BTreeMap, fs, path::Path};

use tempfile::TempDir;

use super::*;
use crate::{
    clock::BootInstant,
    credential::CredentialDeps,
    profile::{Profile, model::Inject},
    secret::{Secrets, Source},
    telemetry::Metrics,
    token::{Hold, LockoutPolicy, MemoryLedger, Store},
};

/// A credential without tokens whose one secret is this file.
fn credential(file: &Path) -> Arc<Credential> {
    let profile = Profile {
        name: "test".into(),
        settings: BTreeMap::default(),
        secrets: BTreeMap::default(),
        tokens: vec![],
        inject: Inject::default(),
        partition: vec![],
        errors: vec![],
        limits: LockoutPolicy {
            rate: vec![],
            max_rejections: 2,
            hold: Hold::UntilSecretChanges,
            account_rejections: None,
        },
        max_waiters: 1,
        vend: false,
    };
    let secrets = Secrets {
        sources: [("key".to_owned(), Source::File(file.into()))].into(),
        names: vec!["key".into()],
        ..Secrets::default()
    };
    let deps = CredentialDeps::new(
        Arc::new(Store::default()),
        Arc::new(MemoryLedger::default()),
        Metrics::new().unwrap(),
    );
    Arc::new(Credential::new(
        "acme".into(),
        Arc::new(profile),
        secrets,
        [0; 32],
        vec![],
        &deps,
    ))
}

/// A file that holds "old", and a credential that has not looked yet.
fn begin() -> (TempDir, std::path::PathBuf, Arc<Credential>) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    fs::write(&file, "old").unwrap();
    // Written long ago.
    fs::File::options()
        .write(true)
        .open(&file)
        .unwrap()
        .set_modified(std::time::SystemTime::UNIX_EPOCH)
        .unwrap();
    let credential = credential(&file);
    (folder, file, credential)
}

fn value(credential: &Credential) -> String {
    credential
        .runtime
        .secrets
        .believed()
        .unwrap()
        .get("key")
        .unwrap()
        .expose()
        .to_owned()
}

#[tokio::test]
async fn what_one_writes_in_place_is_seen_without_another_poll() {
    let (_folder, file, credential) = begin();
    credential.check_secrets(SecretCheckTrigger::Poll).await;
    assert_eq!(
        (credential.secret_generation(), value(&credential)),
        (1, "old".into())
    );
    fs::write(&file, "new").unwrap();
    let looks = (0..3).map(|_| credential.check_secrets(SecretCheckTrigger::Now));
    futures_util::future::join_all(looks).await;
    assert_eq!(credential.secret_generation(), 1);
    let whole = async {
        while credential.secret_generation() < 2 {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(10), whole).await.unwrap();
    assert_eq!(value(&credential), "new");
    let told = async {
        let counted = b"cupbearer_secret_changes_total{credential=\"acme\"} 1";
        while !credential
            .deps
            .metrics
            .render(&[], &[])
            .windows(counted.len())
            .any(|part| part == counted)
        {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(10), told).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_look_that_hangs_is_waited_for_by_nobody() {
    let (_folder, _, credential) = begin();
    let hangs = credential.runtime.secrets.permit().await;
    let begun = BootInstant::now();
    credential.check_secrets(SecretCheckTrigger::Poll).await;
    assert_eq!(begun.until(BootInstant::now()), Duration::ZERO);
    credential.check_secrets(SecretCheckTrigger::Now).await;
    assert_eq!(
        begun.until(BootInstant::now()).as_secs(),
        LOOK_PATIENCE.as_secs()
    );
    drop(hangs);
    credential.check_secrets(SecretCheckTrigger::Now).await;
    assert_eq!(credential.secret_generation(), 1);
}
