//! Where secrets come from.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use super::value::Secret;

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

/// The secrets of one credential, by name. Not read yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Secrets {
    /// Where each comes from that has a source of its own.
    pub sources: BTreeMap<String, Source>,
    /// `secrets = { dir = "PATH" }`: one file per secret name, for names without a source of their
    /// own.
    pub dir: Option<PathBuf>,
    /// Names the profile knows but that may be absent.
    pub optional: Vec<String>,
    /// All names the profile declares.
    pub names: Vec<String>,
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
    pub(super) fn wanted(&self) -> Vec<(&str, Source)> {
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
    pub(super) fn missing(&self) -> Option<&String> {
        self.names.iter().find(|name| {
            self.dir.is_none() && !self.sources.contains_key(*name) && !self.optional.contains(name)
        })
    }
}
