//! What a watcher believes of real files, at moments that a test names.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use super::*;
use crate::secret::Source;

/// A folder with a file "key" that holds "old", and a watcher that has looked at it once.
struct Scene {
    folder: TempDir,
    watcher: Arc<SecretWatcher>,
    start: ClockReading,
}

fn watcher(file: &Path) -> Arc<SecretWatcher> {
    let sources = [("key".to_owned(), Source::File(file.into()))].into();
    Arc::new(SecretWatcher::new(Arc::new(Secrets {
        sources,
        names: vec!["key".into()],
        ..Secrets::default()
    })))
}

impl Scene {
    fn begin() -> Self {
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
        let scene = Self {
            watcher: watcher(&file),
            folder,
            start: ClockReading::now(),
        };
        assert_eq!(scene.look(0), SecretCheck::Changed { first: true });
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Looks this long after the start. The file's own time is real, so that it is later than the
    /// start and never older than a moment.
    fn look(&self, ms: u64) -> SecretCheck {
        let ms = Duration::from_millis(ms);
        let mut permit = self.watcher.try_permit().unwrap();
        // The wall clock stands still: what is told by it is tested with made-up files.
        self.watcher.check(
            &mut permit,
            ClockReading {
                boot: self.start.boot + ms,
                wall: self.start.wall,
            },
        )
    }

    fn believed(&self) -> (String, u64) {
        (
            self.watcher
                .believed()
                .unwrap()
                .get("key")
                .unwrap()
                .expose()
                .to_owned(),
            self.watcher.generation(),
        )
    }
}

fn unsettled(looked: &SecretCheck) -> bool {
    matches!(looked, SecretCheck::Unsettled { .. })
}

#[test]
fn what_is_being_written_at_the_very_first_look_is_not_believed_and_what_is_missing_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    let scene = Scene {
        watcher: watcher(&file),
        folder,
        start: ClockReading::now(),
    };
    assert!(
        matches!(scene.look(0), SecretCheck::Unreadable(_)),
        "nothing lies there, and nobody waits for that"
    );
    let scene = Scene {
        watcher: watcher(&file),
        ..scene
    };
    fs::write(&file, "the-right-").unwrap();
    assert!(unsettled(&scene.look(100)));
    fs::write(&file, "the-right-secret").unwrap();
    assert!(unsettled(&scene.look(1500)));
    assert!(unsettled(&scene.look(3400)));
    assert_eq!(scene.look(3600), SecretCheck::Changed { first: true });
    assert_eq!(scene.believed(), ("the-right-secret".into(), 1));
}

#[test]
fn what_is_written_in_place_is_believed_when_its_writer_has_rested() {
    let scene = Scene::begin();
    fs::write(scene.path("key"), "the-right-").unwrap();
    for ms in [1000, 2000] {
        assert!(unsettled(&scene.look(ms)));
    }
    fs::write(scene.path("key"), "the-right-secret").unwrap();
    for ms in [2500, 4400] {
        assert!(unsettled(&scene.look(ms)));
        assert_eq!(scene.believed(), ("old".into(), 1));
    }
    assert_eq!(scene.look(4500), SecretCheck::Changed { first: false });
    assert_eq!(scene.believed(), ("the-right-secret".into(), 2));
    assert_eq!(scene.look(4600), SecretCheck::Same);
    // Cut off, and then as it was.
    fs::write(scene.path("key"), "").unwrap();
    assert!(unsettled(&scene.look(5000)));
    fs::write(scene.path("key"), "the-right-secret").unwrap();
    assert_eq!(
        (scene.look(5001), scene.watcher.generation()),
        (SecretCheck::Same, 2)
    );
}

#[test]
fn a_secret_that_is_gone_or_empty_for_a_moment_is_not_unreadable_and_one_that_stays_so_is() {
    let scene = Scene::begin();
    let spoil: [fn(&Path); 2] = [
        |file| fs::write(file, "").unwrap(),
        |file| fs::remove_file(file).unwrap(),
    ];
    for (n, spoil) in (0..).zip(spoil) {
        let at = n * 10_000;
        spoil(&scene.path("key"));
        assert!(matches!(
            scene.look(at),
            SecretCheck::Unsettled {
                unreadable: None,
                ..
            }
        ));
        assert!(matches!(scene.look(at + 2000), SecretCheck::Unreadable(_)));
        assert_eq!(
            scene.believed(),
            ("old".into(), 1),
            "for what is placed on requests"
        );
        // While it comes back it still is.
        fs::write(scene.path("key"), "old, but more of it").unwrap();
        assert!(matches!(
            scene.look(at + 3000),
            SecretCheck::Unsettled {
                unreadable: Some(_),
                ..
            }
        ));
        fs::write(scene.path("beside"), "old").unwrap();
        fs::rename(scene.path("beside"), scene.path("key")).unwrap();
        let _ = scene.look(at + 3100);
        assert_eq!(scene.look(at + 6000), SecretCheck::Same);
    }
}

#[test]
fn what_comes_whole_is_believed_at_once() {
    let scene = Scene::begin();
    for (n, version) in [(1_u64, "v1"), (2, "v2")] {
        fs::create_dir(scene.path(version)).unwrap();
        fs::write(scene.path(version).join("key"), version).unwrap();
        symlink(version, scene.path("tmp")).unwrap();
        fs::rename(scene.path("tmp"), scene.path("..data")).unwrap();
        if n == 1 {
            symlink("..data/key", scene.path("link")).unwrap();
            fs::rename(scene.path("link"), scene.path("key")).unwrap();
        }
        assert_eq!(scene.look(n), SecretCheck::Changed { first: false });
        assert_eq!(scene.believed(), (version.to_owned(), n + 1));
    }
}

#[tokio::test]
async fn who_needs_the_values_now_gets_a_replaced_one_at_once_and_never_half_of_one_that_is_being_written()
 {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("key"), "old").unwrap();
    let watcher = watcher(&path("key"));
    let value = async || {
        watcher
            .values()
            .await
            .map(|values| values.get("key").unwrap().expose().to_owned())
    };
    assert_eq!(value().await.unwrap(), "old");
    fs::write(path("beside"), "new").unwrap();
    fs::rename(path("beside"), path("key")).unwrap();
    assert_eq!(value().await.unwrap(), "new");
    fs::write(path("key"), "ne").unwrap();
    assert_eq!(value().await.unwrap(), "new");
    fs::remove_file(path("key")).unwrap();
    assert_eq!(value().await.unwrap(), "new", "it may come again");
}

#[tokio::test]
async fn what_cannot_be_read_from_the_first_is_told_and_believed_when_it_comes() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let watcher = watcher(&path("key"));
    assert!(watcher.values().await.unwrap_err().contains("not there"));
    fs::write(path("key"), "ha").unwrap();
    assert!(watcher.values().await.is_err(), "it may be half of it");
    fs::remove_file(path("key")).unwrap();
    fs::write(path("beside"), "whole").unwrap();
    fs::File::options()
        .write(true)
        .open(path("beside"))
        .unwrap()
        .set_modified(std::time::SystemTime::UNIX_EPOCH)
        .unwrap();
    fs::rename(path("beside"), path("key")).unwrap();
    assert_eq!(
        watcher.values().await.unwrap().get("key").unwrap().expose(),
        "whole"
    );
}

#[test]
fn values_of_a_new_configuration_are_believed_at_once() {
    let scene = Scene::begin();
    let inline = Secrets {
        sources: [(
            "key".to_owned(),
            Source::Value(crate::secret::Secret::new("inline".into())),
        )]
        .into(),
        names: vec!["key".into()],
        ..Secrets::default()
    };
    scene.watcher.adopt(Arc::new(inline));
    assert_eq!(scene.look(1), SecretCheck::Changed { first: false });
    assert_eq!(scene.believed(), ("inline".into(), 2));
}
