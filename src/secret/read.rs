//! One consistent read of several files: what was resolved before must still be so afterwards.

use std::{
    collections::BTreeMap,
    fs::{self, File, Metadata, OpenOptions},
    io::{self, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    str,
    time::Duration,
};

use rustix::fs::OFlags;
use serde_json::Value;
use zeroize::Zeroizing;

use super::{Secret, Secrets, Source, Unreadable, Values};

/// The largest file that is read as a secret.
const LIMIT: usize = 1024 * 1024;
/// How often a read that was overtaken by a change is done again. Each further try needs a further change in between.
const TRIES: usize = 20;

type Bytes = Zeroizing<Vec<u8>>;

/// What tells one content of a path from another without reading it: the resolved path, then device, inode, size, mtime and ctime.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Identity {
    resolved: PathBuf,
    numbers: [u64; 3],
    times: [i64; 4],
}

impl Identity {
    fn new(resolved: PathBuf, meta: &Metadata) -> Self {
        let times = [meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec()];
        Self { resolved, numbers: [meta.dev(), meta.ino(), meta.size()], times }
    }

    /// Another file lies here than before: a rename or a swapped link brought it, whole.
    fn replaces(&self, before: &Self) -> bool {
        self.resolved != before.resolved || self.numbers[..2] != before.numbers[..2]
    }

    /// Last written after this moment (Unix epoch). A time in the future counts as just now.
    fn written_after(&self, wall: Duration) -> bool {
        let [seconds, nanos, ..] = self.times;
        let nanos = u32::try_from(nanos).unwrap_or_default();
        u64::try_from(seconds).is_ok_and(|seconds| Duration::new(seconds, nanos) > wall)
    }
}

/// Which files a read found where: tells a file that was replaced from one that somebody writes to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Files(BTreeMap<PathBuf, Identity>);

impl Files {
    /// Is there a file that was not replaced since `before` but written to, and that after `wall` (Unix epoch)? Then its writer may not have
    /// finished.
    #[must_use]
    pub fn being_written(&self, before: &Self, wall: Duration) -> bool {
        self.0.iter().any(|(path, now)| match before.0.get(path) {
            Some(old) if now == old || now.replaces(old) => false,
            _ => now.written_after(wall),
        })
    }
}

/// Reads every secret. All symlinks are resolved first (Kubernetes: `..data` once, in effect), then the resolved files are read, then
/// everything is resolved again: a difference means that the set may be mixed, and it is read anew.
pub(super) fn consistent(secrets: &Secrets) -> Result<(Values, Files), Unreadable> {
    if let Some(name) = secrets.missing() {
        return Err(Unreadable { name: name.clone(), file: None, why: "it is not given".into() });
    }
    let wanted = secrets.wanted();
    let paths = secrets.paths();
    for _ in 0..TRIES {
        let before = resolve(&paths);
        let files = before.iter().map(|(path, found)| (*path, found.as_ref().map_err(clone).and_then(whole))).collect();
        let result = gather(secrets, &wanted, &files);
        if same(&before, &resolve(&paths)) {
            let files = before.into_iter().filter_map(|(path, found)| Some((path.to_path_buf(), found.ok()?)));
            return result.map(|values| (values, Files(files.collect())));
        }
    }
    let (name, file) = match wanted.iter().find_map(|(name, source)| file_of(source).map(|file| (*name, file))) {
        Some((name, file)) => (name.to_owned(), Some(file.to_path_buf())),
        None => (String::new(), None),
    };
    Err(Unreadable { name, file, why: "the files change faster than they can be read".into() })
}

type Resolved<'a> = BTreeMap<&'a Path, io::Result<Identity>>;
type Contents<'a> = BTreeMap<&'a Path, io::Result<Bytes>>;

fn resolve(paths: &[PathBuf]) -> Resolved<'_> {
    paths.iter().map(|path| (path.as_path(), identity(path))).collect()
}

fn identity(path: &Path) -> io::Result<Identity> {
    let resolved = fs::canonicalize(path)?;
    let meta = fs::metadata(&resolved)?;
    Ok(Identity::new(resolved, &meta))
}

fn same(before: &Resolved<'_>, after: &Resolved<'_>) -> bool {
    before.len() == after.len()
        && before.iter().zip(after).all(|((a, x), (b, y))| {
            a == b
                && match (x, y) {
                    (Ok(x), Ok(y)) => x == y,
                    (Err(x), Err(y)) => x.kind() == y.kind(),
                    _ => false,
                }
        })
}

fn clone(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(|| io::Error::new(error.kind(), error.to_string()), io::Error::from_raw_os_error)
}

/// The whole content of a resolved path, if it is still the file that was resolved.
fn whole(id: &Identity) -> io::Result<Bytes> {
    let file = open(&id.resolved)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    if meta.size() > LIMIT as u64 {
        return Err(too_large());
    }
    // Reserved in full, so that no growing buffer leaves copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(LIMIT.min(usize::try_from(meta.size()).unwrap_or(LIMIT)) + 1));
    file.take(LIMIT as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > LIMIT {
        return Err(too_large());
    }
    Ok(bytes)
}

fn too_large() -> io::Error {
    io::Error::other("it is larger than 1 MiB")
}

/// A FIFO without a writer must not hang us, a terminal must not become ours.
fn open(path: &Path) -> io::Result<File> {
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits();
    OpenOptions::new().read(true).custom_flags(flags.cast_signed()).open(path)
}

fn file_of(source: &Source) -> Option<&Path> {
    match source {
        Source::Value(_) => None,
        Source::File(path) | Source::Json(path, _) => Some(path),
    }
}

fn gather(secrets: &Secrets, wanted: &[(&str, Source)], files: &Contents<'_>) -> Result<Values, Unreadable> {
    let mut values = BTreeMap::new();
    for (name, source) in wanted {
        let fail = |why: String| Unreadable { name: (*name).to_owned(), file: file_of(source).map(Path::to_path_buf), why };
        let bytes = match file_of(source).and_then(|path| files.get(path)) {
            None => None,
            Some(Ok(bytes)) => Some(bytes),
            // An optional secret need not be in the folder; where its file is named, it is meant to be there.
            Some(Err(error)) if absent(error) && !secrets.sources.contains_key(*name) && secrets.optional.iter().any(|o| o == name) => {
                continue;
            }
            Some(Err(error)) => return Err(fail(in_words(error))),
        };
        let secret = match (source, bytes) {
            (Source::Value(secret), _) => Ok(secret.clone()),
            (Source::File(_), Some(bytes)) => plain(bytes),
            (Source::Json(_, pointer), Some(bytes)) => json(bytes, pointer),
            (_, None) => Err("it was not read".into()),
        };
        let secret = secret.map_err(&fail)?;
        if secret.expose().is_empty() {
            return Err(fail("it is empty".into()));
        }
        values.insert((*name).to_owned(), secret);
    }
    Ok(Values(values))
}

fn absent(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

fn in_words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "the file is not there".into(),
        io::ErrorKind::PermissionDenied => "the file may not be read (permissions)".into(),
        io::ErrorKind::Other => error.to_string(),
        _ => format!("the file cannot be read: {error}"),
    }
}

/// UTF-8 without NUL. A byte order mark is an editor's, never part of a secret, and is dropped.
fn text(bytes: &[u8]) -> Result<&str, String> {
    let text = str::from_utf8(bytes).map_err(|_| "it is not UTF-8 text".to_owned())?;
    if text.contains('\0') {
        return Err("it contains a NUL byte".into());
    }
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}

fn plain(bytes: &[u8]) -> Result<Secret, String> {
    let text = text(bytes)?;
    let text = text.strip_suffix('\n').map_or(text, |t| t.strip_suffix('\r').unwrap_or(t));
    Ok(Secret::new(text.to_owned()))
}

/// `serde_json`'s tree is not zeroized: the file's other members live in freed memory for a while.
fn json(bytes: &[u8], pointer: &str) -> Result<Secret, String> {
    // The parser's own message may quote the text, so it is not passed on.
    let tree: Value =
        serde_json::from_str(text(bytes)?).map_err(|e| format!("it is not JSON (line {}, column {})", e.line(), e.column()))?;
    let secret = match tree.pointer(pointer) {
        Some(Value::String(s)) => s.clone(),
        Some(Value::Number(n)) => n.to_string(),
        Some(_) => return Err(format!("the JSON value at {pointer:?} is neither a string nor a number")),
        None => return Err(format!("the JSON has nothing at {pointer:?}")),
    };
    if secret.contains('\0') {
        return Err("it contains a NUL byte".into());
    }
    Ok(Secret::new(secret))
}

#[cfg(test)]
#[path = "read_tests.rs"]
mod tests;
