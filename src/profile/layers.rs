//! The tables a profile is made of: the credential's own, its profile's, and those that one
//! extends; laid over each other with `drop`.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::Deserialize as _;
use serde_json::{Map, Value, json};

use super::{
    catalogue,
    file::{ProfileRef, ProfileTable},
};
use crate::document::{
    KeyPart, KeyPath, Problem, Problems, Severity, SourceText, clean, known, parse_toml,
    shown_path, why_unread, write_parts,
};

pub(super) type Table = Map<String, Value>;

/// One table, and where it was written.
pub(super) struct Layer {
    pub table: Table,
    pub origin: Origin,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    /// The credential itself; problems stand under its key.
    Credential,
    File(PathBuf),
    /// Nothing to mend there for a user: problems stand under the credential's key, where it can be
    /// overridden.
    Builtin(String),
}

impl Origin {
    fn from_ref(profile: &ProfileRef, folder: &Path) -> Self {
        match profile {
            ProfileRef::Builtin(name) => Self::Builtin(name.clone()),
            ProfileRef::File { file } => Self::File(folder.join(file)),
        }
    }
}

/// Top first: the credential, its profile, what that extends, and so on.
pub(super) struct Layers {
    pub all: Vec<Layer>,
    /// `credentials.acme`
    pub at: String,
}

const DEPTH: usize = 16;

/// Profile files as they were found, each read once while one configuration is loaded: credentials
/// that share one see the same.
#[derive(Debug, Default)]
pub struct ProfileFiles(RefCell<BTreeMap<PathBuf, Arc<Result<ProfileFile, Problem>>>>);

/// What was read of a profile file.
#[derive(Debug)]
struct ProfileFile {
    /// Without what was wrong in it.
    table: Table,
    found: Vec<Problem>,
    /// SHA-256 of its bytes.
    digest: [u8; 32],
}

impl ProfileFiles {
    /// The files that were read, to be polled, with SHA-256 of their bytes.
    #[must_use]
    pub fn digests(&self) -> BTreeMap<PathBuf, [u8; 32]> {
        let files = self.0.borrow();
        let read = files
            .iter()
            .filter_map(|(path, found)| Some((path.clone(), found.as_ref().as_ref().ok()?.digest)));
        read.collect()
    }

    fn find(&self, path: &Path) -> Arc<Result<ProfileFile, Problem>> {
        let known = self.0.borrow().get(path).cloned();
        known.unwrap_or_else(|| {
            let read = Arc::new(read_file(path));
            self.0.borrow_mut().insert(path.to_owned(), read.clone());
            read
        })
    }
}

impl Layers {
    /// Follows `extends`. Problems with finding or reading a profile are noted; then there is
    /// nothing to go on with.
    pub fn load(
        base: &ProfileRef,
        overrides: &Table,
        at: &str,
        relative_to: &Path,
        files: &ProfileFiles,
        problems: &mut Problems,
    ) -> Option<Self> {
        let mut top = overrides.clone();
        resolve_paths(&mut top, relative_to);
        let mut layers = Self {
            all: vec![Layer {
                table: top,
                origin: Origin::Credential,
            }],
            at: at.to_owned(),
        };
        let mut next = Some(Origin::from_ref(base, relative_to));
        while let Some(origin) = next.take() {
            let circle = layers.all.iter().any(|layer| layer.origin == origin);
            let table = if circle || layers.all.len() > DEPTH {
                Err(problem(
                    "the profiles extend each other in a circle".to_owned(),
                    "let one of them extend another profile, or none".to_owned(),
                    None,
                ))
            } else {
                Self::fetch(&origin, files, problems)
            };
            let table = match table {
                Ok(table) => table,
                Err(mut problem) => {
                    let (key, file) = layers.origin_key();
                    problem.key = key;
                    problem.file = problem.file.or(file);
                    problems.add(problem);
                    return None;
                }
            };
            layers.all.push(Layer {
                table,
                origin: origin.clone(),
            });
            next = layers.parent(&origin, problems)?;
        }
        Some(layers)
    }

    /// Where the next profile is named: the credential says `profile`, a profile says `extends`.
    fn origin_key(&self) -> (String, Option<PathBuf>) {
        let key = if self.all.len() == 1 {
            "profile"
        } else {
            "extends"
        };
        self.key_in(self.all.len().saturating_sub(1), &[KeyPart::Name(key)])
    }

    /// What the last layer extends. `None`: it says something that cannot be understood.
    #[allow(
        clippy::option_option,
        reason = "no parent is not the same as a broken one"
    )]
    fn parent(&self, origin: &Origin, problems: &mut Problems) -> Option<Option<Origin>> {
        let Some(extends) = self.all.last().and_then(|layer| layer.table.get("extends")) else {
            return Some(None);
        };
        let folder = match origin {
            Origin::File(path) => path.parent().unwrap_or(Path::new("")),
            Origin::Builtin(_) | Origin::Credential => Path::new(""),
        };
        match ProfileRef::deserialize(extends) {
            Ok(parent) => Some(Some(Origin::from_ref(&parent, folder))),
            Err(_) => {
                let key = KeyPath::written("extends");
                self.note(problems, &key, ProfileRef::WRONG, ProfileRef::HINT);
                None
            }
        }
    }

    fn fetch(
        origin: &Origin,
        files: &ProfileFiles,
        problems: &mut Problems,
    ) -> Result<Table, Problem> {
        match origin {
            Origin::Credential => Ok(Table::new()),
            Origin::Builtin(name) => catalogue::table(name).cloned().ok_or_else(|| {
                let names = catalogue::all().iter().map(|(name, _)| *name);
                problem(
                    "there is no built-in profile of that name".to_owned(),
                    known(name, names),
                    None,
                )
            }),
            Origin::File(path) => match &*files.find(path) {
                Ok(file) => {
                    for problem in &file.found {
                        problems.add(problem.clone());
                    }
                    Ok(file.table.clone())
                }
                Err(problem) => Err(problem.clone()),
            },
        }
    }

    /// All layers in one table. `errors` of upper layers come first; a `drop` that finds nothing is
    /// a problem.
    pub fn merged(&self, problems: &mut Problems) -> Table {
        let mut merged = self.ground();
        for (index, layer) in self.all.iter().enumerate().rev() {
            let mut note = |at: &KeyPath<'_>, what: &str, hint: String| {
                let (key, file) = self.key_in(index, &steps(at));
                problems.add(Problem {
                    severity: Severity::Problem,
                    key,
                    file,
                    what: what.to_owned(),
                    hint: Some(hint),
                });
            };
            lay(&mut merged, &layer.table, &KeyPath::ROOT, &mut note);
        }
        merged
    }

    /// What a profile gets that says nothing of `inject.headers`: the token as RFC 6750 2.1 has it.
    fn ground(&self) -> Table {
        let tokens = self.all.iter().any(|l| {
            l.table
                .get("tokens")
                .and_then(Value::as_object)
                .is_some_and(|t| !t.is_empty())
        });
        let says = self.all.last().is_some_and(|root| {
            root.table
                .get("inject")
                .is_some_and(|inject| inject.get("headers").is_some())
        });
        let mut ground = Table::new();
        if tokens && !says {
            ground.insert(
                "inject".into(),
                json!({"headers": {"Authorization": "Bearer {{ token }}"}}),
            );
        }
        ground
    }

    /// Notes a problem where a user would mend it.
    pub fn note(
        &self,
        problems: &mut Problems,
        at: &KeyPath<'_>,
        what: impl Into<String>,
        hint: impl Into<String>,
    ) {
        let (key, file) = self.place(at);
        problems.add(Problem {
            severity: Severity::Problem,
            key,
            file,
            what: what.into(),
            hint: Some(hint.into()),
        });
    }

    /// Whether what stands at `at` was written in a profile file of the user's.
    pub fn in_a_file(&self, at: &KeyPath<'_>) -> bool {
        self.place(at).1.is_some()
    }

    /// Key and file of the layer that says most of `at`.
    pub fn place(&self, at: &KeyPath<'_>) -> (String, Option<PathBuf>) {
        let mut steps = steps(at);
        let index = self.owner(&mut steps);
        self.key_in(index, &steps)
    }

    /// The layer that says most of `steps`, the upper one where two say as much. Positions in
    /// `errors` become that layer's own.
    fn owner(&self, steps: &mut [KeyPart<'_>]) -> usize {
        if let [KeyPart::Name("errors"), KeyPart::Index(index), ..] = steps {
            for (layer, each) in self.all.iter().enumerate() {
                let own = each
                    .table
                    .get("errors")
                    .and_then(Value::as_array)
                    .map_or(0, Vec::len);
                if *index < own {
                    return layer;
                }
                *index -= own;
            }
        }
        let depths = self.all.iter().map(|layer| depth(&layer.table, steps));
        let mut best = (0, 0);
        for (index, depth) in depths.enumerate() {
            if depth > best.1 {
                best = (index, depth);
            }
        }
        best.0
    }

    fn key_in(&self, layer: usize, steps: &[KeyPart<'_>]) -> (String, Option<PathBuf>) {
        match self.all.get(layer).map(|layer| &layer.origin) {
            Some(Origin::File(file)) => (write_parts("", steps), Some(file.clone())),
            _ => (write_parts(&self.at, steps), None),
        }
    }
}

/// The steps from a profile's root to `at`.
fn steps<'k>(at: &KeyPath<'k>) -> Vec<KeyPart<'k>> {
    at.parts()
        .into_iter()
        .filter_map(|part| match part {
            KeyPart::Written("") => None,
            KeyPart::Written(name) => Some(KeyPart::Name(name)),
            part => Some(part),
        })
        .collect()
}

fn depth(table: &Table, steps: &[KeyPart<'_>]) -> usize {
    let Some((KeyPart::Name(first), rest)) = steps.split_first() else {
        return 0;
    };
    let any_case = || {
        table
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(first))
    };
    match table
        .get(*first)
        .or_else(|| any_case().map(|(_, value)| value))
    {
        Some(Value::Object(inner)) => 1 + depth(inner, rest),
        Some(_) => 1,
        None => 0,
    }
}

fn problem(what: String, hint: String, file: Option<PathBuf>) -> Problem {
    Problem {
        severity: Severity::Problem,
        key: String::new(),
        file,
        what,
        hint: Some(hint),
    }
}

/// A profile file is at most this long, in bytes.
const LONGEST: u64 = 1024 * 1024;

fn read_file(path: &Path) -> Result<ProfileFile, Problem> {
    let unread = |what| {
        problem(
            format!("profile file {}: {what}", shown_path(path)),
            "relative paths start from the folder of the file they are written in".to_owned(),
            None,
        )
    };
    let source = source_of(path).map_err(unread)?;
    let mut table = parse_toml(&source.text)
        .map_err(|(what, hint)| problem(what, hint.to_owned(), Some(path.to_owned())))?;
    resolve_paths(&mut table, path.parent().unwrap_or(Path::new("")));
    let mut tree = Value::Object(table);
    let mut found = Vec::new();
    clean::<ProfileTable>(&mut tree, |at, what, hint| {
        found.push(Problem {
            key: at.to_string(),
            ..problem(what, hint, Some(path.to_owned()))
        });
    });
    let table = match tree {
        Value::Object(table) => table,
        _ => Table::new(),
    };
    Ok(ProfileFile {
        table,
        found,
        digest: source.digest,
    })
}

fn source_of(path: &Path) -> Result<SourceText, String> {
    let meta = std::fs::metadata(path).map_err(|error| why_unread(&error))?;
    if !meta.is_file() || meta.len() > LONGEST {
        return Err("it is not a regular file of at most 1 MiB".into());
    }
    SourceText::read(path).map_err(|(what, _)| what)
}

/// `tokens.*.tls` names files relative to the file it stands in.
fn resolve_paths(table: &mut Table, folder: &Path) {
    let tokens = table.get_mut("tokens").and_then(Value::as_object_mut);
    for token in tokens.into_iter().flat_map(Map::values_mut) {
        let Some(tls) = token.get_mut("tls").and_then(Value::as_object_mut) else {
            continue;
        };
        for key in ["ca_file", "client_cert_file", "client_key_file"] {
            if let Some(Value::String(path)) = tls.get_mut(key) {
                *path = folder.join(&*path).to_string_lossy().into_owned();
            }
        }
    }
}

fn is_headers(name: &str) -> bool {
    matches!(name, "headers" | "headers_if_absent")
}

/// Told of what cannot be laid over what is below.
type Note<'n> = dyn FnMut(&KeyPath<'_>, &str, String) + 'n;

/// Lays one table over another.
fn lay(onto: &mut Table, over: &Table, at: &KeyPath<'_>, note: &mut Note<'_>) {
    let any_case = at.name().is_some_and(is_headers);
    let drops = over
        .get("drop")
        .and_then(Value::as_array)
        .filter(|list| list.iter().all(Value::is_string));
    let names = drops.into_iter().flatten().filter_map(Value::as_str);
    for (index, key) in names.enumerate() {
        if !remove(onto, key, any_case) {
            note(
                &at.key("drop").index(index),
                "there is nothing of that name to drop",
                known(key, onto.keys().map(String::as_str)),
            );
        }
    }
    // Header names as they stand below, by their spelling in small letters.
    let mut below: BTreeMap<String, String> = onto
        .keys()
        .filter(|_| any_case)
        .map(|key| (key.to_ascii_lowercase(), key.clone()))
        .collect();
    let mut seen = BTreeSet::new();
    for (key, value) in over {
        if key == "drop" && drops.is_some() {
            continue;
        }
        let at = at.key(key);
        if any_case && !seen.insert(key.to_ascii_lowercase()) {
            note(
                &at,
                "is written twice: header names know no case",
                "keep one of them".to_owned(),
            );
        }
        let old = if any_case {
            below.insert(key.to_ascii_lowercase(), key.clone())
        } else {
            Some(key.clone())
        };
        let new = match (old.and_then(|old| onto.remove(&old)), value) {
            (Some(Value::Object(mut below)), Value::Object(above)) => {
                lay(&mut below, above, &at, note);
                Value::Object(below)
            }
            (Some(Value::Array(below)), Value::Array(above)) if at.to_string() == "errors" => {
                Value::Array(above.iter().cloned().chain(below).collect())
            }
            (_, Value::Object(above)) => {
                let mut fresh = Table::new();
                lay(&mut fresh, above, &at, note);
                Value::Object(fresh)
            }
            (_, value) => value.clone(),
        };
        onto.insert(key.clone(), new);
    }
}

/// Removes a key, or a dotted path to one.
fn remove(table: &mut Table, key: &str, any_case: bool) -> bool {
    if table.remove(key).is_some() {
        return true;
    }
    let found = table
        .keys()
        .find(|other| any_case && other.eq_ignore_ascii_case(key))
        .cloned();
    if let Some(found) = found {
        return table.remove(&found).is_some();
    }
    key.match_indices('.').any(|(dot, _)| {
        let (first, rest) = (&key[..dot], &key[dot + 1..]); // a dot is one byte
        let inside_headers = is_headers(first);
        table
            .get_mut(first)
            .and_then(Value::as_object_mut)
            .is_some_and(|inner| remove(inner, rest, inside_headers))
    })
}
