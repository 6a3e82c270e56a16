//! What a look believes, and that it waits for nobody.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::unix::fs::symlink,
    path::Path,
    time::SystemTime,
};

use tempfile::TempDir;

use super::*;
use crate::{
    credential::World,
    profile::{Profile, model::Inject},
    secret::{Secrets, Source},
    telemetry::Metrics,
    token::{Hold, Limits, Memory, Store},
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
        limits: Limits { rate: vec![], max_rejections: 2, hold: Hold::UntilSecretChanges },
        max_waiters: 1,
        vend: false,
    };
    let secrets =
        Secrets { sources: [("key".to_owned(), Source::File(file.into()))].into(), names: vec!["key".into()], ..Secrets::default() };
    let world = World::new(Arc::new(Store::default()), Arc::new(Memory::default()), Metrics::new().unwrap());
    Arc::new(Credential::new("acme".into(), Arc::new(profile), secrets, [0; 32], vec![], &world))
}

/// A file that holds "old" and was looked at once.
fn seen() -> (TempDir, std::path::PathBuf, Arc<Credential>, Looking) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    fs::write(&file, "old").unwrap();
    let (credential, mut looking) = (credential(&file), Looking::default());
    assert_eq!(credential.look_once(&mut looking), Looked::Same);
    assert_eq!(credential.secret_generation(), 1);
    (folder, file, credential, looking)
}

/// Writes in place; by the file's time that is always just now.
fn write(file: &Path, content: &str) {
    fs::write(file, content).unwrap();
    let file = File::options().write(true).open(file).unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_hours(24 * 365 * 200)).unwrap();
}

fn value(credential: &Credential) -> String {
    credential.shared.seen.load().as_ref().unwrap().values.get("key").unwrap().expose().to_owned()
}

#[tokio::test(start_paused = true)]
async fn what_is_written_in_place_is_believed_when_its_writer_has_rested() {
    let (_folder, file, credential, mut looking) = seen();
    let second = Duration::from_secs(1);
    write(&file, "the-right-");
    for _ in 0..2 {
        assert_eq!(credential.look_once(&mut looking), Looked::Unsettled);
        tokio::time::advance(second).await;
    }
    write(&file, "the-right-secret");
    for _ in 0..2 {
        assert_eq!(credential.look_once(&mut looking), Looked::Unsettled);
        assert_eq!((value(&credential), credential.secret_generation()), ("old".into(), 1));
        tokio::time::advance(second).await;
    }
    assert_eq!(credential.look_once(&mut looking), Looked::Changed);
    assert_eq!((value(&credential), credential.secret_generation()), ("the-right-secret".into(), 2));
    assert_eq!(credential.look_once(&mut looking), Looked::Same);
    // Cut off and not written again, or back to what it was: nothing is left of what was seen in between.
    write(&file, "new");
    assert_eq!(credential.look_once(&mut looking), Looked::Unsettled);
    tokio::time::advance(second).await;
    write(&file, "");
    assert!(matches!(credential.look_once(&mut looking), Looked::Unreadable(_)));
    tokio::time::advance(second).await;
    write(&file, "new");
    assert_eq!(credential.look_once(&mut looking), Looked::Unsettled);
    write(&file, "the-right-secret");
    assert_eq!(credential.look_once(&mut looking), Looked::Same);
}

#[tokio::test(start_paused = true)]
async fn what_was_written_long_ago_or_comes_whole_is_believed_at_once() {
    let (folder, file, credential, mut looking) = seen();
    let path = |name: &str| folder.path().join(name);
    fs::write(&file, "written").unwrap();
    File::options().write(true).open(&file).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
    assert_eq!(credential.look_once(&mut looking), Looked::Changed);
    write(&path("beside"), "renamed");
    fs::rename(path("beside"), &file).unwrap();
    assert_eq!(credential.look_once(&mut looking), Looked::Changed);
    for version in ["v1", "v2"] {
        fs::create_dir(path(version)).unwrap();
        write(&path(version).join("key"), version);
        symlink(version, path("tmp")).unwrap();
        fs::rename(path("tmp"), path("..data")).unwrap();
        if version == "v1" {
            symlink("..data/key", path("link")).unwrap();
            fs::rename(path("link"), &file).unwrap();
        }
        assert_eq!(credential.look_once(&mut looking), Looked::Changed);
        assert_eq!(value(&credential), version);
    }
    assert_eq!(credential.secret_generation(), 5);
}

#[tokio::test]
async fn what_one_writes_in_place_is_seen_without_another_poll() {
    let (_folder, file, credential, _) = seen();
    fs::write(&file, "new").unwrap();
    let looks = (0..3).map(|_| credential.look(Look::Now));
    futures_util::future::join_all(looks).await;
    assert_eq!(credential.secret_generation(), 1);
    let whole = async {
        while credential.secret_generation() < 2 {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(10), whole).await.unwrap();
    assert_eq!(value(&credential), "new");
}

#[tokio::test(start_paused = true)]
async fn a_look_that_hangs_is_waited_for_by_nobody() {
    let (_folder, _, credential, _) = seen();
    let hangs = credential.shared.looking.clone().lock_owned().await;
    let begun = Now::now();
    credential.look(Look::Poll).await;
    assert_eq!(begun.until(Now::now()), Duration::ZERO);
    credential.look(Look::Now).await;
    assert_eq!(begun.until(Now::now()).as_secs(), PATIENCE.as_secs());
    drop(hangs);
    credential.look(Look::Now).await;
}

#[test]
fn values_that_a_request_read_first_do_not_replace_newer_ones() {
    let (_folder, file, credential, mut looking) = seen();
    fs::write(&file, "older").unwrap();
    let (values, files) = credential.secrets.read_with_files().unwrap();
    let digest = values.digest();
    assert!(!credential.shared.see(None, Seen { values, digest, files }));
    assert_eq!((value(&credential), credential.secret_generation()), ("old".into(), 1));
    assert_eq!(credential.look_once(&mut looking), Looked::Unsettled);
}
