//! The tables a profile is made of: the credential's own, its profile's, and those that one
//! extends; laid over each other with `drop`.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::{Map, Value, json};

use super::{
    catalogue,
    merge::Base,
    read::lists_of_one,
    table::{CredentialTable, HeadTable},
};
use crate::problem::{Problem, Problems, Severity, known, shown};

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
pub struct ProfileFiles(RefCell<BTreeMap<PathBuf, Arc<Result<Table, Problem>>>>);

impl ProfileFiles {
    fn table(&self, path: &Path) -> Result<Table, Problem> {
        let known = self.0.borrow().get(path).cloned();
        let found = known.unwrap_or_else(|| {
            let read = Arc::new(read_file(path));
            self.0.borrow_mut().insert(path.to_owned(), read.clone());
            read
        });
        (*found).clone()
    }
}

impl Layers {
    /// Follows `extends`. Problems with finding or reading a profile are noted; then there is
    /// nothing to go on with.
    pub fn load(
        base: &Base,
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
        for key in ["extends", "doc", "source", "settings", "secrets", "profile"] {
            if layers
                .all
                .iter_mut()
                .any(|layer| layer.table.remove(key).is_some())
            {
                layers.note(
                    problems,
                    &[key],
                    "belongs into a profile, not into a credential",
                    "write a profile file: profile = { file = \"…\" }",
                );
            }
        }
        let mut next = Some(match base {
            Base::Builtin(name) => Origin::Builtin(name.clone()),
            Base::File(path) => Origin::File(relative_to.join(path)),
        });
        while let Some(origin) = next.take() {
            if layers.all.iter().any(|layer| layer.origin == origin) || layers.all.len() > DEPTH {
                let (key, file) = layers.origin_key();
                let what = "the profiles extend each other in a circle".to_owned();
                let hint = Some("let one of them extend another profile, or none".to_owned());
                problems.add(Problem {
                    severity: Severity::Problem,
                    key,
                    file,
                    what,
                    hint,
                });
                return None;
            }
            let table = match Self::fetch(&origin, files) {
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
        self.key_in(self.all.len().saturating_sub(1), &[key])
    }

    /// What the last layer extends. `None`: it says something that cannot be understood.
    #[allow(
        clippy::option_option,
        reason = "no parent is not the same as a broken one"
    )]
    fn parent(&self, origin: &Origin, problems: &mut Problems) -> Option<Option<Origin>> {
        let Some(extends) = self
            .all
            .last()
            .and_then(|layer| layer.table.get("extends").cloned())
        else {
            return Some(None);
        };
        let folder = match origin {
            Origin::File(path) => path.parent().map(Path::to_path_buf).unwrap_or_default(),
            _ => PathBuf::new(),
        };
        match (&extends, extends.get("file")) {
            (Value::String(name), _) => Some(Some(Origin::Builtin(name.clone()))),
            (Value::Object(table), Some(Value::String(file))) if table.len() == 1 => {
                Some(Some(Origin::File(folder.join(file))))
            }
            _ => {
                self.note(
                    problems,
                    &["extends"],
                    "must be a built-in profile's name or { file = \"PATH\" }",
                    "`cupbearer profiles` lists the built-in ones",
                );
                None
            }
        }
    }

    fn fetch(origin: &Origin, files: &ProfileFiles) -> Result<Table, Problem> {
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
            Origin::File(path) => files.table(path),
        }
    }

    /// All layers in one table. `errors` of upper layers come first; a `drop` that finds nothing is
    /// a problem.
    pub fn merged(&self, problems: &mut Problems) -> Table {
        let mut merged = self.ground();
        for (index, layer) in self.all.iter().enumerate().rev() {
            let mut missed = Vec::new();
            lay(&mut merged, &layer.table, &mut Vec::new(), &mut missed);
            for (path, what, hint) in missed {
                let path: Vec<&str> = path.iter().map(String::as_str).collect();
                let (key, file) = self.key_in(index, &path);
                problems.add(Problem {
                    severity: Severity::Problem,
                    key,
                    file,
                    what,
                    hint: Some(hint),
                });
            }
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
        path: &[&str],
        what: impl Into<String>,
        hint: impl Into<String>,
    ) {
        let (key, file) = self.place(path);
        problems.add(Problem {
            severity: Severity::Problem,
            key,
            file,
            what: what.into(),
            hint: Some(hint.into()),
        });
    }

    /// Keys that may stand beside `key` where it was written, besides those that credentials and
    /// profiles share.
    pub fn beside(&self, key: &str) -> &'static [&'static str] {
        let owner = self.all.get(self.owner(&mut [key.to_owned()]));
        match owner.map(|layer| &layer.origin) {
            None | Some(Origin::Credential) => &["profile", "settings", "secrets"],
            Some(Origin::File(_) | Origin::Builtin(_)) => {
                &["extends", "doc", "source", "settings", "secrets"]
            }
        }
    }

    /// Whether what stands at `path` was written in a profile file of the user's.
    pub fn in_a_file(&self, path: &[&str]) -> bool {
        self.place(path).1.is_some()
    }

    /// Key and file of the layer that says most of `path`.
    fn place(&self, path: &[&str]) -> (String, Option<PathBuf>) {
        let mut path: Vec<String> = path.iter().map(|s| (*s).to_owned()).collect();
        let index = self.owner(&mut path);
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        self.key_in(index, &path)
    }

    /// The layer that says most of `path`, the upper one where two say as much. Indices into
    /// `errors` become that layer's own.
    fn owner(&self, path: &mut [String]) -> usize {
        if let [first, index, ..] = path
            && first == "errors"
            && let Ok(mut n) = index.parse::<usize>()
        {
            for (layer, each) in self.all.iter().enumerate() {
                let own = each
                    .table
                    .get("errors")
                    .and_then(Value::as_array)
                    .map_or(0, Vec::len);
                if n < own {
                    *index = n.to_string();
                    return layer;
                }
                n -= own;
            }
        }
        let depths = self.all.iter().map(|layer| depth(&layer.table, path));
        let mut best = (0, 0);
        for (index, depth) in depths.enumerate() {
            if depth > best.1 {
                best = (index, depth);
            }
        }
        best.0
    }

    fn key_in(&self, layer: usize, path: &[&str]) -> (String, Option<PathBuf>) {
        match self.all.get(layer).map(|layer| &layer.origin) {
            Some(Origin::File(file)) => (dotted("", path), Some(file.clone())),
            _ => (dotted(&self.at, path), None),
        }
    }
}

/// The files a profile is made of, for polling; those that can be found.
pub(super) fn files(layers: &Layers) -> Vec<PathBuf> {
    let files = layers.all.iter().filter_map(|layer| match &layer.origin {
        Origin::File(path) => Some(path.clone()),
        _ => None,
    });
    files.collect()
}

fn depth(table: &Table, path: &[String]) -> usize {
    let Some((first, rest)) = path.split_first() else {
        return 0;
    };
    match table.get(first).or_else(|| {
        table
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(first))
            .map(|(_, value)| value)
    }) {
        Some(Value::Object(inner)) => 1 + depth(inner, rest),
        Some(_) => 1,
        None => 0,
    }
}

/// A key path as TOML would write it; an index is bracketed.
pub(super) fn dotted(at: &str, path: &[&str]) -> String {
    let mut out = at.to_owned();
    for part in path {
        let bare = !part.is_empty()
            && part
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        if bare && part.bytes().all(|b| b.is_ascii_digit()) && !out.is_empty() {
            out.extend(["[", part, "]"]);
            continue;
        }
        if !out.is_empty() {
            out.push('.');
        }
        let quoted = if bare {
            (*part).to_owned()
        } else {
            format!("{part:?}")
        };
        out.push_str(&quoted);
    }
    out
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

fn read_file(path: &Path) -> Result<Table, Problem> {
    let toml =
        "text stands in quotes, a table is [name] or { key = value }, and each key may stand once";
    let place = "relative paths start from the folder of the file they are written in";
    let unread = |what| {
        problem(
            format!("profile file {}: {what}", shown(path)),
            place.to_owned(),
            None,
        )
    };
    let text = text_of(path).map_err(unread)?;
    let mut table =
        parse(&text).map_err(|what| problem(what, toml.to_owned(), Some(path.to_owned())))?;
    resolve_paths(&mut table, path.parent().unwrap_or(Path::new("")));
    let mut whole = Value::Object(table);
    lists_of_one::<CredentialTable>(&mut whole);
    lists_of_one::<HeadTable>(&mut whole);
    Ok(if let Value::Object(table) = whole {
        table
    } else {
        Table::new()
    })
}

fn text_of(path: &Path) -> Result<String, String> {
    let meta = std::fs::metadata(path).map_err(|e| e.to_string())?;
    if !meta.is_file() || meta.len() > 1024 * 1024 {
        return Err("it is not a regular file of at most 1 MiB".into());
    }
    std::fs::read_to_string(path).map_err(|e| e.to_string())
}

/// TOML to a JSON table. The message names the line, without quoting it.
pub(super) fn parse(text: &str) -> Result<Table, String> {
    toml::from_str(text).map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start));
        let line = before.map(|before| format!("line {}: ", before.matches('\n').count() + 1));
        format!("{}{}", line.unwrap_or_default(), error.message())
    })
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

type Missed = Vec<(Vec<String>, String, String)>;

fn is_headers(path: &[String]) -> bool {
    path.last()
        .is_some_and(|key| matches!(key.as_str(), "headers" | "headers_if_absent"))
}

/// Lays one table over another.
fn lay(onto: &mut Table, over: &Table, path: &mut Vec<String>, missed: &mut Missed) {
    let any_case = is_headers(path);
    let drops = over
        .get("drop")
        .and_then(Value::as_array)
        .filter(|list| list.iter().all(Value::is_string));
    for (index, key) in drops
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .enumerate()
    {
        if !remove(onto, key, any_case) {
            let place = path
                .iter()
                .cloned()
                .chain(["drop".to_owned(), index.to_string()])
                .collect();
            missed.push((
                place,
                "there is nothing of that name to drop".to_owned(),
                known(key, onto.keys().map(String::as_str)),
            ));
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
        if any_case && !seen.insert(key.to_ascii_lowercase()) {
            let place = path.iter().cloned().chain([key.clone()]).collect();
            missed.push((
                place,
                "is written twice: header names know no case".into(),
                "keep one of them".into(),
            ));
        }
        let old = if any_case {
            below.insert(key.to_ascii_lowercase(), key.clone())
        } else {
            Some(key.clone())
        };
        let old = old.and_then(|old| onto.remove(&old));
        path.push(key.clone());
        let new = match (old, value) {
            (Some(Value::Object(mut below)), Value::Object(above)) => {
                lay(&mut below, above, path, missed);
                Value::Object(below)
            }
            (Some(Value::Array(below)), Value::Array(above))
                if path.len() == 1 && key == "errors" =>
            {
                Value::Array(above.iter().cloned().chain(below).collect())
            }
            (_, Value::Object(above)) => {
                let mut fresh = Table::new();
                lay(&mut fresh, above, path, missed);
                Value::Object(fresh)
            }
            (_, value) => value.clone(),
        };
        path.pop();
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
        let inside_headers = is_headers(&[first.to_owned()]);
        table
            .get_mut(first)
            .and_then(Value::as_object_mut)
            .is_some_and(|inner| remove(inner, rest, inside_headers))
    })
}
