//! Templates: parsed once at load, rendered with what is in scope. Their language is the part of
//! minijinja's that cannot be abused: `syntax` and `expression` read it, `eval` says what it is
//! worth. minijinja itself bounds neither the values on the way nor how deep its parser goes, and a
//! process that runs must outlive whatever a reload brings; a test holds what is rendered here
//! against what minijinja renders.

pub(super) mod eval;
mod expression;
pub(super) mod syntax;

use std::{
    collections::{BTreeMap, BTreeSet, hash_map::RandomState},
    fmt,
    hash::BuildHasher,
    sync::{Arc, LazyLock},
    time::Duration,
};

use zeroize::Zeroizing;

use self::{
    eval::{Fault, LONGEST, Run},
    syntax::{Expr, Part, Step},
};
use crate::secret::Values;

const TOO_LONG: &str = "it is longer than 64 KiB";

/// A parsed template. `Debug` prints the names in it and a mark that tells one text from another,
/// within one process.
#[derive(Clone)]
pub struct Template(Arc<Inner>);

struct Inner {
    source: String,
    names: Vec<String>,
    /// `None`: the source is the text.
    program: Option<Vec<Part>>,
}

/// What a template may name while it is rendered.
#[derive(Debug, Clone, Copy, Default)]
pub struct Scope<'a> {
    /// By bare name.
    pub settings: Option<&'a BTreeMap<String, String>>,
    /// `secrets.NAME`.
    pub secrets: Option<&'a Values>,
    /// `tokens.NAME`; `token` is the last of them.
    pub tokens: &'a [(&'a str, &'a str)],
    /// `partition.NAME`.
    pub partition: &'a [(&'a str, &'a str)],
    /// `vars.NAME`.
    pub vars: Option<&'a BTreeMap<String, String>>,
    /// `assertion`, signed already.
    pub assertion: Option<&'a str>,
    /// Wall clock (since the Unix epoch) for `now`; `None`: read where it is needed.
    pub wall: Option<Duration>,
}

/// Why a template could not be rendered. Says nothing of values, and of the template its names
/// only: texts in it may be keys.
#[derive(Debug, Clone, thiserror::Error)]
#[error("template of {names}: {why}")]
pub struct RenderError {
    /// What the template names.
    pub names: String,
    /// In words, without values.
    pub why: String,
}

impl Template {
    /// A text without expressions, whatever it looks like.
    #[must_use]
    pub fn text(text: &str) -> Self {
        Self(Arc::new(Inner {
            source: text.to_owned(),
            names: Vec::new(),
            program: None,
        }))
    }
    /// Reads at most 64 KiB of text with expressions in it.
    ///
    /// # Errors
    /// A syntax error or an unknown filter, in words that quote no text.
    pub fn parse(source: &str) -> Result<Self, String> {
        if !["{{", "{%", "{#"]
            .iter()
            .any(|start| source.contains(start))
        {
            return Ok(Self::text(source));
        }
        if source.len() > LONGEST {
            return Err(TOO_LONG.into());
        }
        let program = syntax::parse(source)?;
        let mut names = BTreeSet::new();
        gather(&program, &mut names);
        Ok(Self(Arc::new(Inner {
            source: source.to_owned(),
            names: names.into_iter().collect(),
            program: Some(program),
        })))
    }

    /// The text. It is wiped from memory when dropped, and so is what was made on the way.
    ///
    /// # Errors
    /// [`RenderError`]: an undefined name, a filter that cannot take its input, more than 64 KiB of
    /// text, or too much work.
    pub fn render(&self, scope: &Scope<'_>) -> Result<Zeroizing<String>, RenderError> {
        self.run(scope, false).map_err(|fault| RenderError {
            names: self.0.names.join(", "),
            why: fault.to_string(),
        })
    }

    /// Whether it can be rendered. With `forgive` the values are placeholders: what depends on them
    /// alone is no fault.
    pub(super) fn attempt(&self, scope: &Scope<'_>, forgive: bool) -> Result<(), Fault> {
        self.run(scope, forgive).map(drop)
    }

    fn run(&self, scope: &Scope<'_>, forgive: bool) -> Result<Zeroizing<String>, Fault> {
        let Some(program) = &self.0.program else {
            return Ok(Zeroizing::new(self.0.source.clone()));
        };
        let mut text = Zeroizing::new(String::with_capacity(512));
        Run::new(scope, forgive).write(program, &mut text)?;
        Ok(text)
    }

    /// The template as it is written.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.0.source
    }
    /// It uses `uuid()` or `now`: another value for each request.
    #[must_use]
    pub fn per_request(&self) -> bool {
        self.0
            .names
            .iter()
            .any(|name| matches!(root(name), "now" | "uuid"))
    }
    /// Every name it uses, dotted (`secrets.client_id`, `tokens.partner`, `base`, `now.epoch`,
    /// `uuid`), sorted.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.0.names
    }
    /// It has no expression: `source` is what it renders to.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.0.program.is_none()
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        static MARK: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        write!(
            f,
            "Template({} {:016x})",
            self.0.names.join(", "),
            MARK.hash_one(&self.0.source)
        )
    }
}

fn root(name: &str) -> &str {
    name.split_once('.').map_or(name, |(first, _)| first)
}

/// Every name in `parts`.
fn gather(parts: &[Part], names: &mut BTreeSet<String>) {
    for part in parts {
        match part {
            Part::Text(_) => {}
            Part::Write(expr) => named(expr, names),
            Part::Choose(cases, otherwise) => {
                for (condition, parts) in cases {
                    named(condition, names);
                    gather(parts, names);
                }
                gather(otherwise, names);
            }
        }
    }
}

fn named(expr: &Expr, names: &mut BTreeSet<String>) {
    match expr {
        Expr::Text(_) | Expr::Number(_) | Expr::Bool(_) => {}
        Expr::Name(name) => {
            names.insert(name.clone());
        }
        Expr::Uuid => {
            names.insert("uuid".to_owned());
        }
        Expr::List(items) | Expr::Or(items) | Expr::And(items) => {
            for item in items {
                named(item, names);
            }
        }
        Expr::Not(inner) | Expr::Negative(inner) => named(inner, names),
        Expr::Compare(compared) => {
            named(&compared.0, names);
            named(&compared.2, names);
        }
        Expr::Chain(first, rest) => {
            named(first, names);
            for (_, expr) in rest {
                named(expr, names);
            }
        }
        Expr::Either(parts) => {
            let (yes, condition, no) = &**parts;
            for expr in [Some(yes), Some(condition), no.as_ref()]
                .into_iter()
                .flatten()
            {
                named(expr, names);
            }
        }
        Expr::Steps(base, steps) => {
            named(base, names);
            for step in steps {
                let inside: Vec<&Expr> = match step {
                    Step::Filter(_, arguments) => arguments.iter().collect(),
                    Step::Item(at) => vec![at],
                    Step::Slice(from, to) => from.iter().chain(to).collect(),
                    Step::Defined(_) => Vec::new(),
                };
                for expr in inside {
                    named(expr, names);
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "template_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "template_chance_tests.rs"]
mod chance_tests;
