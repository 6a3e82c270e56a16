//! Templates (minijinja, strict): parsed once at load, rendered with what is in scope.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error as _,
    fmt,
    io::{self, Write},
    sync::{Arc, LazyLock},
    time::Duration,
};

use minijinja::{
    AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior, Value,
    syntax::SyntaxConfig,
    value::{Kwargs, Rest, ValueKind},
};
use zeroize::Zeroizing;

use super::filters::{self, Complaint, Moment, complain};
use crate::{
    secret::{Secret, Values},
    token::Now,
};

/// The longest text a template may render to.
const OUTPUT: usize = 64 * 1024;
pub(super) const TOO_LONG: &str = "it renders to more than 64 KiB";
/// Steps a template may take; a plain one takes about ten.
const FUEL: u64 = 20_000;
/// Filters of minijinja that stay; what loops or prints structures goes.
const KEPT: [&str; 12] = ["upper", "lower", "trim", "replace", "default", "int", "string", "first", "last", "length", "join", "split"];
const OURS: [&str; 9] = ["cert_der", "spki_der", "sha1", "sha256", "hex", "b64encode", "b64url", "basic", "date"];

/// A parsed template. `Debug` prints the expressions in it, which hold names, never values.
#[derive(Clone)]
pub struct Template(Arc<Inner>);

struct Inner {
    source: String,
    names: Vec<String>,
    /// `None`: the source is the text.
    program: Option<Environment<'static>>,
}

/// What a template may name while it is rendered.
#[derive(Debug, Clone, Copy, Default)]
pub struct Scope<'a> {
    pub settings: Option<&'a BTreeMap<String, String>>,
    pub secrets: Option<&'a Values>,
    /// `tokens.NAME`; `token` is the last of them.
    pub tokens: &'a [(&'a str, &'a str)],
    pub partition: &'a [(&'a str, &'a str)],
    pub vars: Option<&'a BTreeMap<String, String>>,
    pub assertion: Option<&'a str>,
    /// Wall clock (since the Unix epoch) for `now`; `None`: read where it is needed.
    pub wall: Option<Duration>,
}

/// Why a template could not be rendered. Says nothing of values.
#[derive(Debug, Clone, thiserror::Error)]
#[error("template {template:?}: {why}")]
pub struct RenderError {
    /// The expressions of the template; literal text is left out, as it may be an inline key.
    pub template: String,
    pub why: String,
}

impl Template {
    /// A text without expressions, whatever it looks like.
    #[must_use]
    pub fn text(text: &str) -> Self {
        Self(Arc::new(Inner { source: text.to_owned(), names: Vec::new(), program: None }))
    }
    /// # Errors
    /// A syntax error or an unknown filter, in words.
    pub fn parse(source: &str) -> Result<Self, String> {
        if !["{{", "{%", "{#"].iter().any(|start| source.contains(start)) {
            return Ok(Self::text(source));
        }
        if source.len() > OUTPUT {
            return Err("it is longer than 64 KiB".into());
        }
        let mut program = BASE.clone();
        program.add_template_owned("t", source.to_owned()).map_err(|e| syntax(&e))?;
        let template = program.get_template("t").map_err(|e| syntax(&e))?;
        let names: BTreeSet<String> = template.undeclared_variables(true).into_iter().collect();
        if let Some(filter) = filters_in(source).into_iter().find(|f| !KEPT.contains(&f.as_str()) && !OURS.contains(&f.as_str())) {
            let hint = crate::problem::nearest(&filter, KEPT.iter().chain(&OURS).copied()).map(|n| format!(" (did you mean {n}?)"));
            return Err(format!("there is no filter {filter}{}", hint.unwrap_or_default()));
        }
        Ok(Self(Arc::new(Inner { source: source.to_owned(), names: names.into_iter().collect(), program: Some(program) })))
    }

    /// The text. It is wiped from memory when dropped; minijinja's own intermediate copies of a value are not.
    ///
    /// # Errors
    /// [`RenderError`]: an undefined name, a filter that cannot take its input, or more than 64 KiB of text.
    pub fn render(&self, scope: &Scope<'_>) -> Result<Zeroizing<String>, RenderError> {
        let Some(program) = &self.0.program else { return Ok(Zeroizing::new(self.0.source.clone())) };
        let fail = |why: String| RenderError { template: expressions(&self.0.source), why };
        let sink = self.run(program, scope).map_err(|e| fail(reason(&e)))?;
        let text = std::str::from_utf8(&sink.0).map_err(|_| fail("the text is not UTF-8".into()))?;
        Ok(Zeroizing::new(text.to_owned()))
    }

    /// Whether it can be rendered with filters that `change` has put in place of the usual ones.
    pub(super) fn attempt(&self, scope: &Scope<'_>, change: fn(&mut Environment<'static>)) -> Result<(), Error> {
        let Some(program) = &self.0.program else { return Ok(()) };
        let mut program = program.clone();
        change(&mut program);
        self.run(&program, scope).map(drop)
    }

    fn run(&self, program: &Environment<'static>, scope: &Scope<'_>) -> Result<Sink, Error> {
        let mut sink = Sink(Zeroizing::new(Vec::with_capacity(512)));
        program.get_template("t")?.render_captured_to(context(&self.0.names, scope), &mut sink)?;
        Ok(sink)
    }

    #[must_use]
    pub fn source(&self) -> &str {
        &self.0.source
    }
    /// It uses `uuid()` or `now`: another value for each request.
    #[must_use]
    pub fn per_request(&self) -> bool {
        self.0.names.iter().any(|name| matches!(root(name), "now" | "uuid"))
    }
    /// Every name it uses, dotted (`secrets.client_id`, `tokens.partner`, `base`, `now.epoch`, `uuid`), sorted.
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
        write!(f, "Template({:?})", expressions(&self.0.source))
    }
}

/// The environment every template starts from: no loader, no escaping, few filters.
static BASE: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let full = Environment::new();
    let unwanted: Vec<String> = full.globals().map(|(name, _)| name.to_owned()).collect();
    let mut env = full;
    for name in unwanted {
        env.remove_global(&name);
    }
    env.set_undefined_behavior(UndefinedBehavior::SemiStrict); // as strict as Strict, but `{% if secrets.certificate %}` may ask
    env.set_auto_escape_callback(|_| AutoEscape::None);
    env.set_fuel(Some(FUEL));
    env.set_recursion_limit(50);
    if let Ok(syntax) = SyntaxConfig::builder().keep_trailing_newline(true).build() {
        env.set_syntax(syntax);
    }
    env.set_formatter(|out, state, value| match value.kind() {
        ValueKind::Bytes => Err(complain("bytes cannot be written as they are: end with hex, b64encode or b64url")),
        ValueKind::String | ValueKind::Number | ValueKind::Undefined => minijinja::escape_formatter(out, state, value),
        _ if value.downcast_object_ref::<Moment>().is_some() => minijinja::escape_formatter(out, state, value),
        _ => Err(complain("only text and numbers can be written")),
    });
    env.add_function("uuid", |_: Rest<Value>, _: Kwargs| uuid::Uuid::new_v4().to_string());
    filters::add(&mut env);
    env
});

/// Only what the template names is copied into the context.
fn context(names: &[String], scope: &Scope<'_>) -> Value {
    let mut flat: BTreeMap<String, Value> = BTreeMap::new();
    let mut nested: BTreeMap<&str, BTreeMap<String, Value>> = BTreeMap::new();
    for name in names {
        let first = root(name);
        let second = name.split('.').nth(1);
        let found = match (first, second) {
            ("secrets", Some(key)) => scope.secrets.and_then(|all| all.get(key)).map(Secret::expose),
            ("tokens", Some(key)) => find(scope.tokens, key),
            ("partition", Some(key)) => find(scope.partition, key),
            ("vars", Some(key)) => scope.vars.and_then(|all| all.get(key)).map(String::as_str),
            ("token", _) => scope.tokens.last().map(|(_, value)| *value),
            ("assertion", _) => scope.assertion,
            ("now", _) => {
                let wall = scope.wall.unwrap_or_else(|| Now::now().wall());
                flat.insert("now".to_owned(), Value::from_object(Moment(wall)));
                continue;
            }
            _ => scope.settings.and_then(|all| all.get(first)).map(String::as_str),
        };
        match second {
            Some(key) if matches!(first, "secrets" | "tokens" | "partition" | "vars") => {
                let group = nested.entry(first).or_default();
                group.extend(found.map(|value| (key.to_owned(), Value::from(value))));
            }
            _ => flat.extend(found.map(|value| (first.to_owned(), Value::from(value)))),
        }
    }
    flat.extend(nested.into_iter().map(|(group, values)| (group.to_owned(), Value::from(values))));
    Value::from(flat)
}

fn find<'a>(pairs: &[(&str, &'a str)], key: &str) -> Option<&'a str> {
    pairs.iter().find(|(name, _)| *name == key).map(|(_, value)| *value)
}

fn root(name: &str) -> &str {
    name.split_once('.').map_or(name, |(first, _)| first)
}

/// Grows by whole copies and wipes the old ones; refuses more than [`OUTPUT`].
struct Sink(Zeroizing<Vec<u8>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let needed = self.0.len() + bytes.len();
        if needed > OUTPUT {
            return Err(io::Error::other(Complaint(TOO_LONG)));
        }
        if needed > self.0.capacity() {
            let mut larger = Zeroizing::new(Vec::with_capacity(needed * 2));
            larger.extend_from_slice(&self.0);
            self.0 = larger;
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// minijinja's details may quote values, so only its kinds and our own words are passed on.
pub(super) fn reason(error: &Error) -> String {
    complaint(error).unwrap_or_else(|| match error.kind() {
        ErrorKind::UndefinedError => "a name in it is not defined".into(),
        kind => kind.to_string(),
    })
}

/// What we say of it ourselves.
pub(super) fn complaint(error: &Error) -> Option<String> {
    let mut source = error.source();
    while let Some(inner) = source {
        if let Some(complaint) = inner.downcast_ref::<Complaint>() {
            return Some(complaint.to_string());
        }
        let inside = inner.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(complaint) = inside.and_then(|e| e.downcast_ref::<Complaint>()) {
            return Some(complaint.to_string());
        }
        source = inner.source();
    }
    None
}

fn syntax(error: &Error) -> String {
    // The detail of a syntax error names tokens of the template language.
    let detail = error.detail().filter(|_| error.kind() == ErrorKind::SyntaxError);
    let line = error.line().filter(|line| *line > 1).map(|line| format!(" (line {line})"));
    format!("{}{}{}", error.kind(), detail.map(|d| format!(": {d}")).unwrap_or_default(), line.unwrap_or_default())
}

/// The template with its literal text replaced by dots.
fn expressions(source: &str) -> String {
    let mut out = String::new();
    let mut rest = source;
    while let Some(start) = rest.find("{{").into_iter().chain(rest.find("{%")).min() {
        let tail = &rest[start..]; // `start` comes from `find` of ASCII text: a boundary
        let close = if tail.starts_with("{{") { "}}" } else { "%}" };
        let end = tail.find(close).map_or(tail.len(), |at| at + 2);
        if start > 0 {
            out.push('…');
        }
        out.push_str(&tail[..end]); // likewise
        rest = &tail[end..];
    }
    if !rest.is_empty() {
        out.push('…');
    }
    out
}

/// Names that follow a single `|` inside expressions, outside quotes. minijinja finds unknown filters only while rendering.
fn filters_in(source: &str) -> Vec<String> {
    let mut found = Vec::new();
    for block in blocks(source) {
        let mut quote = None;
        let mut chars = block.chars().peekable();
        while let Some(c) = chars.next() {
            match (quote, c) {
                (Some(_), '\\') => {
                    chars.next();
                }
                (Some(q), _) if c == q => quote = None,
                (None, '"' | '\'') => quote = Some(c),
                (None, '|') => {
                    while chars.next_if(|c| c.is_whitespace()).is_some() {}
                    let mut name = String::new();
                    while let Some(c) = chars.next_if(|c| c.is_alphanumeric() || *c == '_') {
                        name.push(c);
                    }
                    found.push(name);
                }
                _ => {}
            }
        }
    }
    found
}

fn blocks(source: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = source;
    while let Some(start) = rest.find("{{").into_iter().chain(rest.find("{%")).chain(rest.find("{#")).min() {
        let tail = &rest[start..]; // from `find`: a boundary
        let close = if tail.starts_with("{{") {
            "}}"
        } else if tail.starts_with("{%") {
            "%}"
        } else {
            "#}"
        };
        let end = tail.find(close).map_or(tail.len(), |at| at + 2);
        if !tail.starts_with("{#") {
            found.push(&tail[..end]);
        }
        rest = &tail[end..];
    }
    found
}

#[cfg(test)]
#[path = "template_tests.rs"]
mod tests;
