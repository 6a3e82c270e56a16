//! Secrets: where from, what is believed of their files, never printed.

mod read;
mod watch;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::{Path, PathBuf},
};

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::hash::sha256_of_parts;

pub use watch::{SecretCheck, SecretWatcher};

/// A secret value. It has no `Display`, no `Serialize`, and its `Debug` prints stars. Compared in
/// constant time.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    #[must_use]
    pub fn new(value: String) -> Self {
        Self(Zeroizing::new(value))
    }
    /// The value itself. Every caller is a place where a secret can leak: keep them few.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Where one secret comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Written into the configuration, or taken from the environment at load.
    Value(Secret),
    /// The file's contents.
    File(PathBuf),
    /// A string or number inside a JSON file, by JSON pointer (RFC 6901).
    Json(PathBuf, String),
    /// One of these with the white space around its value, which is dropped elsewhere (`keep_space
    /// = true`).
    Kept(Box<Source>),
}

impl Source {
    /// Where it stands, and whether the white space around it belongs to it.
    #[must_use]
    pub fn unwrap_kept(&self) -> (&Self, bool) {
        match self {
            Self::Kept(place) => (place.unwrap_kept().0, true),
            place => (place, false),
        }
    }

    /// The file it is read from.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        match self.unwrap_kept().0 {
            Self::File(path) | Self::Json(path, _) => Some(path),
            Self::Value(_) | Self::Kept(_) => None,
        }
    }

    /// Its value where that is known without reading a file.
    #[must_use]
    pub fn value(&self) -> Option<&Secret> {
        match self.unwrap_kept().0 {
            Self::Value(secret) => Some(secret),
            _ => None,
        }
    }
}

/// `text` without the white space around it: what Unicode calls so (`White_Space`: blanks of every
/// width, tabs, all line ends), and byte order marks.
#[must_use]
pub fn trim(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || c == '\u{feff}')
}

/// The secrets of one credential, by name. Not read yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Secrets {
    pub sources: BTreeMap<String, Source>,
    /// `secrets = { dir = "PATH" }`: one file per secret name, for names without a source of their
    /// own.
    pub dir: Option<PathBuf>,
    /// Names the profile knows but that may be absent.
    pub optional: Vec<String>,
    /// All names the profile declares.
    pub names: Vec<String>,
}

/// The values of one consistent read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Values(pub BTreeMap<String, Secret>);

/// A secret that cannot be read now. Names the secret and the file, never a value.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("secret {name}: {why}")]
pub struct UnreadableSecret {
    pub name: String,
    pub file: Option<PathBuf>,
    pub why: String,
}

impl Secrets {
    /// One secret alone, such as one that callers show us.
    #[must_use]
    pub fn one(name: &str, source: &Source) -> Self {
        Self {
            sources: BTreeMap::from([(name.to_owned(), source.clone())]),
            names: vec![name.to_owned()],
            ..Self::default()
        }
    }

    /// Reads all of them as they stand at one moment (a Kubernetes `..data` swap or a rewrite in
    /// between is read again), whether or not somebody is still writing them; what runs reads
    /// through a [`SecretWatcher`].
    ///
    /// # Errors
    /// [`UnreadableSecret`] for the first secret that is missing, empty, too large (1 MiB), not a regular
    /// file or not UTF-8.
    pub fn read(&self) -> Result<Values, UnreadableSecret> {
        read::read_consistently(self)?
            .ok_or_else(|| read::unstable(self))?
            .values
    }

    /// Every file this depends on, each once, sorted. Files under `dir` are reported by
    /// [`Secrets::paths`], as they have no path of their own here; `dir` itself stands in for them.
    #[must_use]
    pub fn files(&self) -> Vec<&Path> {
        let named = self.sources.values().filter_map(Source::file);
        named
            .chain(self.dir.as_deref())
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect()
    }

    /// Every file that is read, those under `dir` included, each once, sorted.
    #[must_use]
    pub fn paths(&self) -> Vec<PathBuf> {
        let all = self.wanted();
        let paths = all
            .iter()
            .filter_map(|(_, source)| source.file().map(Path::to_path_buf));
        paths.collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Names with their sources; names in `dir` get the file of that name.
    fn wanted(&self) -> Vec<(&str, Source)> {
        let mut all: Vec<(&str, Source)> = self
            .sources
            .iter()
            .map(|(name, source)| (name.as_str(), source.clone()))
            .collect();
        if let Some(dir) = &self.dir {
            let rest: BTreeSet<&String> = self
                .names
                .iter()
                .filter(|name| !self.sources.contains_key(*name))
                .collect();
            all.extend(
                rest.into_iter()
                    .map(|name| (name.as_str(), Source::File(dir.join(name)))),
            );
        }
        all
    }

    /// A name that no source and no folder gives, though it must be there.
    fn missing(&self) -> Option<&String> {
        self.names.iter().find(|name| {
            self.dir.is_none() && !self.sources.contains_key(*name) && !self.optional.contains(name)
        })
    }
}

impl Values {
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Secret> {
        self.0.get(name)
    }

    /// SHA-256 over names and values, to tell "changed" from "same". Never shown, logged or stored.
    /// Lengths go in front, so that no two sets of values run together.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        sha256_of_parts(
            self.0
                .iter()
                .flat_map(|(name, value)| [name.as_bytes(), value.expose().as_bytes()]),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(pairs: &[(&str, &str)]) -> Values {
        Values(
            pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), Secret::new((*v).to_owned())))
                .collect(),
        )
    }

    #[test]
    fn a_secret_is_never_printed() {
        let secrets = Secrets {
            sources: [("k".to_owned(), Source::Value(Secret::new("hunter2".into())))].into(),
            ..Secrets::default()
        };
        assert!(!format!("{secrets:?} {:?}", secrets.read()).contains("hunter2"));
        assert_eq!(format!("{:?}", Secret::new("hunter2".into())), "***");
    }

    #[test]
    fn digests_differ_where_names_or_values_do_and_never_run_together() {
        let all = [
            values(&[]),
            values(&[("a", "bc")]),
            values(&[("ab", "c")]),
            values(&[("a", "b"), ("c", "")]),
            values(&[("a", "bc"), ("c", "d")]),
        ];
        let digests: BTreeSet<_> = all.iter().map(Values::digest).collect();
        assert_eq!(digests.len(), all.len());
        assert_eq!(values(&[("a", "bc")]).digest(), all[1].digest());
    }

    #[test]
    fn files_of_a_folder_are_those_of_the_declared_names() {
        let secrets = Secrets {
            sources: [(
                "a".to_owned(),
                Source::Json("/x/a.json".into(), "/k".into()),
            )]
            .into(),
            dir: Some("/d".into()),
            optional: vec![],
            names: vec!["a".into(), "b".into()],
        };
        assert_eq!(
            secrets.paths(),
            [PathBuf::from("/d/b"), PathBuf::from("/x/a.json")]
        );
        assert_eq!(secrets.files(), [Path::new("/d"), Path::new("/x/a.json")]);
    }
}
