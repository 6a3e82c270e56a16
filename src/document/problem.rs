//! A mistake in the configuration, or advice about it: where it stands, what is wrong, what to do.

use std::{
    fmt,
    path::{Path, PathBuf},
};

/// What is wrong with a value, and what would be right. Neither repeats the value.
pub type Mistake<What = &'static str> = (What, &'static str);

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Severity {
    /// The configuration cannot be used (exit 78).
    Problem,
    /// It can, but is it meant so? (`check --strict` fails.)
    Lint,
}

/// One mistake or piece of advice.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Problem {
    /// Whether it can run like this.
    pub severity: Severity,
    /// Key path, e.g. `upstreams.acme.url`; empty for the file as a whole.
    pub key: String,
    /// The file it stands in, where known.
    pub file: Option<PathBuf>,
    /// What is wrong. Never a secret's value.
    pub what: String,
    /// What to do.
    pub hint: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.severity {
            Severity::Problem => "error",
            Severity::Lint => "lint",
        };
        write!(f, "{word}: ")?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.what)?;
        if let Some(hint) = &self.hint {
            write!(f, "\n    hint: {hint}")?;
        }
        if let Some(file) = &self.file {
            write!(f, "\n    in {}", file.display())?;
        }
        Ok(())
    }
}

impl Problem {
    /// As one line of the log, `before` what it says. Its file and hint are fields of their own.
    pub fn log(&self, before: &str) {
        let Self {
            severity,
            key,
            file,
            what,
            hint,
        } = self;
        let file = file.as_ref().map(|file| file.display().to_string());
        match severity {
            Severity::Problem => tracing::error!(key, file, hint, "{before}{what}"),
            Severity::Lint => tracing::warn!(key, file, hint, "{before}{what}"),
        }
    }
}

/// Collects problems while parsing goes on.
#[derive(Debug, Default)]
pub struct Problems {
    found: Vec<Problem>,
}

impl Problems {
    /// Notes a problem at `key`. Whoever finds one says what to do.
    pub fn problem(
        &mut self,
        key: impl Into<String>,
        what: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.push(
            Severity::Problem,
            key.into(),
            what.into(),
            Some(hint.into()),
        );
    }
    /// Notes advice at `key`.
    pub fn lint(&mut self, key: impl Into<String>, what: impl Into<String>, hint: Option<String>) {
        self.push(Severity::Lint, key.into(), what.into(), hint);
    }
    fn push(&mut self, severity: Severity, key: String, what: String, hint: Option<String>) {
        self.found.push(Problem {
            severity,
            key,
            file: None,
            what,
            hint,
        });
    }
    /// Notes one that is already put together.
    pub fn add(&mut self, problem: Problem) {
        self.found.push(problem);
    }
    /// Adds all of `more`.
    pub fn extend(&mut self, more: Problems) {
        self.found.extend(more.found);
    }
    /// Whether anything but lints was found.
    #[must_use]
    pub fn fatal(&self) -> bool {
        self.found.iter().any(|p| p.severity == Severity::Problem)
    }
    /// All of them, in the order in which they were found.
    #[must_use]
    pub fn list(&self) -> &[Problem] {
        &self.found
    }
    /// All of them, in the order in which they were found.
    #[must_use]
    pub fn into_list(self) -> Vec<Problem> {
        self.found
    }
}

/// The candidate a mistyped name most likely meant, if any is near enough.
#[must_use]
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_lowercase();
    let score = |other: &str| {
        let (start, edits) = (
            strsim::jaro_winkler(&name, other),
            strsim::normalized_damerau_levenshtein(&name, other),
        );
        // The first likes names that begin alike, the second short ones with one slip.
        (start >= 0.75 || edits >= 0.65).then_some(start.max(edits))
    };
    let scored = candidates
        .into_iter()
        .filter_map(|candidate| Some((score(&candidate.to_lowercase())?, candidate)));
    scored
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// A hint where `what` lists the right words already: the nearest of them, or how to do without.
#[must_use]
pub fn one_of<'a>(given: &str, words: impl IntoIterator<Item = &'a str>) -> String {
    nearest(given, words).map_or_else(
        || "leave it out for the default".to_owned(),
        |near| format!("did you mean {near:?}?"),
    )
}

/// A path as it may be shown. What can be none is not repeated: people put keys where the path of a
/// key belongs.
#[must_use]
pub fn shown_path(path: &Path) -> String {
    let text = path.to_string_lossy();
    let strange =
        text.contains("-----BEGIN") || text.contains(char::is_control) || text.len() > 1024;
    if strange {
        "what is named here".to_owned()
    } else {
        text.into_owned()
    }
}

/// Why a file cannot be read, without the number of the error.
#[must_use]
pub fn why_unread(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "there is no such file".to_owned(),
        kind => kind.to_string(),
    }
}

/// Names that are listed in one hint.
const MANY: usize = 30;

/// A hint that names the nearest candidate, or all of them where none is near.
#[must_use]
pub fn known<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    let all: Vec<&str> = candidates.into_iter().collect();
    match nearest(name, all.iter().copied()) {
        Some(near) => format!("did you mean {near:?}?"),
        None if all.is_empty() => "there are none here".to_owned(),
        None if all.len() > MANY => {
            format!(
                "known here: {} and {} more",
                all.iter()
                    .take(MANY)
                    .copied()
                    .collect::<Vec<_>>()
                    .join(", "),
                all.len() - MANY
            )
        }
        None => format!("known here: {}", all.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_the_one_that_was_meant_or_none() {
        let keys = ["url", "headers", "client_auth", "client_id", "key"];
        for (typed, meant) in [
            ("uri", "url"),
            ("header", "headers"),
            ("clientauth", "client_auth"),
            ("Client_ID", "client_id"),
            ("kye", "key"),
        ] {
            assert_eq!(nearest(typed, keys), Some(meant));
        }
        assert_eq!(nearest("zzz", keys), None);
        assert_eq!(nearest("", keys), None);
        assert_eq!(known("zzz", ["a", "b"]), "known here: a, b");
        assert_eq!(known("zzz", []), "there are none here");
        assert_eq!(
            (
                one_of("aa", ["aaa"]).as_str(),
                one_of("zzz", ["a"]).as_str()
            ),
            ("did you mean \"aaa\"?", "leave it out for the default")
        );
    }
}
