//! From the bytes of files to secrets.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    str,
};

use serde_json::Value;
use zeroize::Zeroizing;

use super::{
    source::{Secrets, Source},
    value::{Secret, Values, trim},
};
use crate::files::{self, FileContents, FileMarks};

/// The largest file that is read as a secret, in bytes.
const LIMIT: usize = 1024 * 1024;

/// A secret that cannot be read now. Names the secret and the file, never a value.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("secret {name}: {why}")]
pub struct UnreadableSecret {
    /// The secret's name.
    pub name: String,
    /// Its file, where it has one.
    pub file: Option<PathBuf>,
    /// In words: missing, empty, too large, no regular file, not UTF-8.
    pub why: String,
}

impl Secrets {
    /// Reads all of them as they stand at one moment (a Kubernetes `..data` swap or a rewrite in
    /// between is read again), whether or not somebody is still writing them; what runs reads
    /// through a [`super::SecretWatcher`].
    ///
    /// # Errors
    /// [`UnreadableSecret`] for the first secret that is missing, empty, too large (1 MiB), not a regular
    /// file or not UTF-8.
    pub fn read(&self) -> Result<Values, UnreadableSecret> {
        read_consistently(self)?
            .ok_or_else(|| unstable(self))?
            .values
    }
}

/// What one consistent read found.
pub(super) struct SecretReading {
    pub values: Result<Values, UnreadableSecret>,
    /// What lay where, so that a file that somebody writes to is told from one that was replaced.
    pub marks: FileMarks,
}

/// Reads every secret as it stands at one moment; `None`: the files change faster than they can be
/// read. For a thread that may block.
///
/// # Errors
/// A name is given no source at all.
pub(super) fn read_consistently(
    secrets: &Secrets,
) -> Result<Option<SecretReading>, UnreadableSecret> {
    if let Some(name) = secrets.missing() {
        return Err(UnreadableSecret {
            name: name.clone(),
            file: None,
            why: "it is not given".into(),
        });
    }
    let reading = |contents: FileContents| SecretReading {
        values: collect_values(secrets, &secrets.wanted(), &contents),
        marks: contents.marks(),
    };
    Ok(files::read_together(&secrets.paths(), LIMIT)
        .ok()
        .map(reading))
}

/// What [`read_consistently`] could not get hold of.
pub(super) fn unstable(secrets: &Secrets) -> UnreadableSecret {
    let wanted = secrets.wanted();
    let first = wanted
        .iter()
        .find_map(|(name, source)| Some((*name, source.file()?)));
    let (name, file) = first
        .map(|(name, file)| (name.to_owned(), Some(file.to_path_buf())))
        .unwrap_or_default();
    UnreadableSecret {
        name,
        file,
        why: files::UnstableFiles.to_string(),
    }
}

fn collect_values(
    secrets: &Secrets,
    wanted: &[(&str, Source)],
    files: &FileContents,
) -> Result<Values, UnreadableSecret> {
    let mut values = BTreeMap::new();
    for (name, source) in wanted {
        let fail = |why: String| UnreadableSecret {
            name: (*name).to_owned(),
            file: source.file().map(Path::to_path_buf),
            why,
        };
        let bytes = match source.file().and_then(|path| files.get(path)) {
            None => None,
            Some(Ok(bytes)) => Some(bytes),
            // An optional secret need not be in the folder; where its file is named, it is meant to
            // be there.
            Some(Err(error))
                if is_absent(error)
                    && !secrets.sources.contains_key(*name)
                    && secrets.optional.iter().any(|o| o == name) =>
            {
                continue;
            }
            Some(Err(error)) => return Err(fail(describe_io_error(error))),
        };
        let (place, keep) = source.unwrap_kept();
        let secret = match (place, bytes) {
            (Source::Value(secret), _) => Ok(trimmed_secret(secret.expose(), keep)),
            (Source::File(_), Some(bytes)) => secret_from_text(bytes, keep),
            (Source::Json(_, pointer), Some(bytes)) => secret_from_json(bytes, pointer, keep),
            (Source::Kept(_), _) | (_, None) => Err("it was not read".into()),
        };
        let secret = secret.map_err(&fail)?;
        if secret.expose().is_empty() {
            return Err(fail("it is empty".into()));
        }
        values.insert((*name).to_owned(), secret);
    }
    Ok(Values(values))
}

fn is_absent(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

fn describe_io_error(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "the file is not there".into(),
        io::ErrorKind::PermissionDenied => "the file may not be read (permissions)".into(),
        io::ErrorKind::Other => error.to_string(),
        _ => format!("the file cannot be read: {error}"),
    }
}

/// UTF-8 without NUL. A byte order mark is an editor's, never part of a secret, and is dropped.
fn read_text(bytes: &[u8]) -> Result<&str, String> {
    let text = str::from_utf8(bytes).map_err(|_| "it is not UTF-8 text".to_owned())?;
    if text.contains('\0') {
        return Err("it contains a NUL byte".into());
    }
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}

fn secret_from_text(bytes: &[u8], keep: bool) -> Result<Secret, String> {
    Ok(trimmed_secret(read_text(bytes)?, keep))
}

/// The value with or without the white space around it.
fn trimmed_secret(text: &str, keep: bool) -> Secret {
    Secret::new(if keep { text } else { trim(text) }.to_owned())
}

/// `serde_json`'s tree is not zeroized: the file's other members live in freed memory for a while.
fn secret_from_json(bytes: &[u8], pointer: &str, keep: bool) -> Result<Secret, String> {
    // The parser's own message may quote the text, so it is not passed on.
    let tree: Value = serde_json::from_str(read_text(bytes)?)
        .map_err(|e| format!("it is not JSON (line {}, column {})", e.line(), e.column()))?;
    let secret = match tree.pointer(pointer) {
        Some(Value::String(s)) => s.clone(),
        // It was rounded when it was read, and a rounded secret is a wrong one.
        Some(Value::Number(n)) if n.is_f64() => {
            return Err(format!(
                "the JSON number at {pointer:?} is not an exact one: put it in quotes"
            ));
        }
        Some(Value::Number(n)) => n.to_string(),
        Some(_) => {
            return Err(format!(
                "the JSON value at {pointer:?} is neither a string nor a number"
            ));
        }
        None => return Err(format!("the JSON has nothing at {pointer:?}")),
    };
    if secret.contains('\0') {
        return Err("it contains a NUL byte".into());
    }
    let secret = Zeroizing::new(secret);
    Ok(trimmed_secret(&secret, keep))
}

#[cfg(test)]
#[path = "read_tests.rs"]
mod tests;
