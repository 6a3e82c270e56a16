//! Tests of reading secrets, against real files.

use std::{
    fs,
    os::unix::fs::symlink,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn one(source: Source) -> Result<String, String> {
    let secrets = Secrets {
        sources: [("s".to_owned(), source)].into(),
        names: vec!["s".into()],
        ..Secrets::default()
    };
    secrets
        .read()
        .map(|v| v.get("s").unwrap().expose().to_owned())
        .map_err(|e| e.why)
}

fn file(bytes: &[u8]) -> Result<String, String> {
    let dir = folder();
    fs::write(dir.path().join("s"), bytes).unwrap();
    one(Source::File(dir.path().join("s")))
}

fn key(text: &str, pointer: &str) -> Result<String, String> {
    let dir = folder();
    fs::write(dir.path().join("s"), text).unwrap();
    one(Source::Json(dir.path().join("s"), pointer.into()))
}

fn pair(dir: &Path) -> Secrets {
    Secrets {
        dir: Some(dir.into()),
        names: vec!["id".into(), "secret".into()],
        ..Secrets::default()
    }
}

fn kept(source: Source) -> Result<String, String> {
    one(Source::Kept(Box::new(source)))
}

#[test]
fn white_space_around_a_value_is_dropped_wherever_it_comes_from() {
    let dressed = [
        "a b\n",
        "a b\r\n",
        "a b\r",
        "a b\n\n",
        "a b\n\n\r\n\n",
        " a b",
        "a b \t",
        "\t \u{b}\u{c}a b \n",
        "\u{a0}a b\u{3000}\u{2028}\u{85}",
        "\u{feff}a b",
        "\u{feff}\n a b",
        "\n\u{feff}a b\u{feff}\n",
        "a b",
    ];
    let dir = folder();
    for text in dressed {
        assert_eq!(file(text.as_bytes()).unwrap(), "a b", "{text:?} in a file");
        assert_eq!(
            one(Source::Value(Secret::new(text.to_owned()))).unwrap(),
            "a b",
            "{text:?} from the environment"
        );
        let json = serde_json::json!({ "k": text }).to_string();
        assert_eq!(key(&json, "/k").unwrap(), "a b", "{text:?} in JSON");
        fs::write(dir.path().join("id"), text).unwrap();
        fs::write(dir.path().join("secret"), text).unwrap();
        assert_eq!(
            pair(dir.path())
                .read()
                .unwrap()
                .get("secret")
                .unwrap()
                .expose(),
            "a b",
            "{text:?} in a folder"
        );
    }
    // What no one sees, but Unicode does not call white space, is inside as it may be at the ends.
    assert_eq!(
        file("\u{200b}a\u{0}".replace('\0', "").as_bytes()).unwrap(),
        "\u{200b}a"
    );
}

#[test]
fn keep_space_keeps_it_to_the_byte() {
    let dir = folder();
    let path = dir.path().join("s");
    for text in [" a b \r\n\n", "\n", "\t", "\u{a0}x"] {
        fs::write(&path, text).unwrap();
        assert_eq!(kept(Source::File(path.clone())).unwrap(), text);
        assert_eq!(
            kept(Source::Value(Secret::new(text.to_owned()))).unwrap(),
            text
        );
        fs::write(&path, serde_json::json!({ "k": text }).to_string()).unwrap();
        assert_eq!(kept(Source::Json(path.clone(), "/k".into())).unwrap(), text);
    }
    fs::write(&path, "\u{feff} x").unwrap();
    assert_eq!(
        kept(Source::File(path.clone())).unwrap(),
        " x",
        "a mark of the encoding is no part of the text"
    );
    fs::write(&path, "").unwrap();
    assert!(
        kept(Source::File(path.clone()))
            .unwrap_err()
            .contains("empty")
    );
    let secrets = Secrets {
        sources: [(
            "s".to_owned(),
            Source::Kept(Box::new(Source::File(path.clone()))),
        )]
        .into(),
        ..Secrets::default()
    };
    assert_eq!(secrets.paths(), std::slice::from_ref(&path));
    assert_eq!(secrets.files(), [path.as_path()]);
}

#[test]
fn s3_what_cannot_be_a_secret_is_refused_in_words() {
    assert!(file(b"").unwrap_err().contains("empty"));
    for blank in ["\n", " ", "\r\n\t", "\u{feff}\n", "\u{a0}"] {
        assert!(
            file(blank.as_bytes()).unwrap_err().contains("empty"),
            "{blank:?}"
        );
        assert!(
            one(Source::Value(Secret::new(blank.to_owned())))
                .unwrap_err()
                .contains("empty"),
            "{blank:?}"
        );
    }
    assert!(file(b"\xff").unwrap_err().contains("UTF-8"));
    assert!(file(b"a\0b").unwrap_err().contains("NUL"));
    assert!(file(&vec![b'a'; LIMIT + 1]).unwrap_err().contains("1 MiB"));
    assert_eq!(file(&vec![b'a'; LIMIT]).unwrap().len(), LIMIT);
}

#[test]
fn s3_a_fifo_a_folder_and_a_device_are_refused_without_hanging() {
    let dir = folder();
    let fifo = dir.path().join("fifo");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .unwrap();
    for path in [fifo, dir.path().to_path_buf(), "/dev/zero".into()] {
        assert!(
            one(Source::File(path))
                .unwrap_err()
                .contains("regular file")
        );
    }
}

#[test]
fn a_json_key_gives_strings_and_numbers() {
    let text = "\u{feff}{\"a\": {\"b/c\": \"v\\n\"}, \"n\": 12, \"t\": true, \"e\": \"\", \"long\": 123456789012345678901}";
    assert_eq!(key(text, "/a/b~1c").unwrap(), "v");
    assert_eq!(key(text, "/n").unwrap(), "12");
    assert!(key(text, "/long").unwrap_err().contains("put it in quotes"));
    assert!(key(text, "/t").unwrap_err().contains("neither"));
    assert!(key(text, "/x").unwrap_err().contains("nothing at"));
    assert!(key(text, "/e").unwrap_err().contains("empty"));
    let broken = key("{\"a\": hunter2}", "/a").unwrap_err();
    assert!(broken.contains("not JSON") && !broken.contains("hunter2"));
}

#[test]
fn an_optional_secret_may_be_absent_from_the_folder_but_not_where_its_file_is_named() {
    let dir = folder();
    fs::write(dir.path().join("id"), "me").unwrap();
    let mut secrets = pair(dir.path());
    assert_eq!(secrets.read().unwrap_err().name, "secret");
    secrets.optional = vec!["secret".into()];
    assert_eq!(secrets.read().unwrap().0.len(), 1);
    secrets
        .sources
        .insert("secret".into(), Source::File(dir.path().join("nowhere")));
    assert!(secrets.read().unwrap_err().why.contains("not there"));
}

#[test]
fn a_name_without_any_source_is_unreadable() {
    let secrets = Secrets {
        names: vec!["id".into()],
        ..Secrets::default()
    };
    assert_eq!(secrets.read().unwrap_err().name, "id");
}

#[test]
fn a_missing_file_heals_by_itself() {
    let dir = folder();
    let secrets = pair(dir.path());
    assert!(secrets.read().is_err());
    fs::write(dir.path().join("id"), "a").unwrap();
    fs::write(dir.path().join("secret"), "b").unwrap();
    assert_eq!(secrets.read().unwrap().get("secret").unwrap().expose(), "b");
}

/// The kubelet's way: a new folder, then `..data` renamed over, then the old folder removed.
fn swap(volume: &Path, generation: usize) {
    let folder = volume.join(format!("..gen{generation}"));
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("id"), format!("id-{generation}")).unwrap();
    fs::write(folder.join("secret"), format!("secret-{generation}")).unwrap();
    symlink(format!("..gen{generation}"), volume.join("..data_tmp")).unwrap();
    fs::rename(volume.join("..data_tmp"), volume.join("..data")).unwrap();
    if generation > 0 {
        fs::remove_dir_all(volume.join(format!("..gen{}", generation - 1))).unwrap();
    }
}

#[test]
fn s1_s2_a_kubernetes_swap_never_mixes_an_id_with_the_secret_of_another_generation() {
    let dir = folder();
    swap(dir.path(), 0);
    for name in ["id", "secret"] {
        symlink(format!("..data/{name}"), dir.path().join(name)).unwrap();
    }
    let secrets = pair(dir.path());
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for generation in 1..300 {
                swap(dir.path(), generation);
            }
            done.store(true, Ordering::Release);
        });
        let mut seen = 0;
        while !done.load(Ordering::Acquire) || seen == 0 {
            // A writer that swaps without a pause may outrun the bounded tries; that is an error,
            // never a mixture.
            if let Ok(values) = secrets.read() {
                let id = values
                    .get("id")
                    .unwrap()
                    .expose()
                    .trim_start_matches("id-")
                    .to_owned();
                assert_eq!(
                    values.get("secret").unwrap().expose(),
                    format!("secret-{id}")
                );
                seen += 1;
            }
        }
    });
    assert_eq!(
        secrets.read().unwrap().get("id").unwrap().expose(),
        "id-299"
    );
}

proptest! {
    #[test]
    fn any_bytes_give_a_value_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200), pointer in ".{0,20}") {
        for keep in [false, true] {
            let _ = secret_from_json(&bytes, &pointer, keep);
            if let (Ok(value), false) = (secret_from_text(&bytes, keep), keep) {
                prop_assert_eq!(trim(value.expose()), value.expose());
            }
        }
    }
}
