//! Each template is rendered once at load, with placeholders for what is not known yet: what no value could mend is found here, not at a request.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use minijinja::{
    Environment, Error, ErrorKind, State, Value,
    filters::{int as to_number, split as to_list},
    value::Kwargs,
};

use super::{
    filters,
    model::SecretSpec,
    names::Build,
    template::{Scope, TOO_LONG, Template, complaint, reason},
};
use crate::secret::{Secret, Values};

/// A template that waits for its trial, and where it stands.
pub(super) struct Waiting {
    pub path: Vec<String>,
    pub template: Template,
}

/// Stands for every secret, token and variable: longer than any part of it that a template asks for.
const PLACEHOLDER: &str = "placeholder-placeholder-placeholder-placeholder-placeholder-placeholder";
/// Parts that splitting a placeholder gives.
const PARTS: usize = 16;
/// Some moment that is not now.
const MOMENT: Duration = Duration::from_secs(1_700_000_000);

/// Tries all of them, once it is known which secrets there are.
pub(super) fn all(b: &mut Build<'_>) {
    for Waiting { path, template } in std::mem::take(&mut b.waiting) {
        if let Err((what, hint)) = one(b, &template) {
            let path: Vec<&str> = path.iter().map(String::as_str).collect();
            b.note(&path, what, hint);
        }
    }
}

fn one(b: &Build<'_>, template: &Template) -> Result<(), (String, String)> {
    // Settings are what they will be, so nothing needs to be forgiven where they are all there is.
    let set = |name: &String| b.settings.get(name).is_some_and(|value| !value.is_empty()) || matches!(name.as_str(), "now" | "now.epoch");
    let exact = template.names().iter().all(set);
    let (given, absent): (Vec<_>, Vec<_>) = b.secrets.iter().partition(|(name, spec)| there(b, name, spec));
    let given: BTreeSet<&str> = given.iter().map(|(name, _)| name.as_str()).collect();
    let Err(error) = render(b, template, &given, exact) else { return Ok(()) };
    // How much there is of a placeholder says nothing of a value.
    if !exact && (error.kind() == ErrorKind::OutOfFuel || complaint(&error).is_some_and(|what| what == TOO_LONG)) {
        return Ok(());
    }
    // An optional secret that is not given: with it, all might be well.
    for (name, _) in absent.iter().filter(|(name, _)| template.names().contains(&format!("secrets.{name}"))) {
        let others: BTreeSet<&str> = b.secrets.keys().map(String::as_str).filter(|other| other != name).collect();
        let everything = others.iter().copied().chain([name.as_str()]).collect();
        if render(b, template, &others, false).is_err() && render(b, template, &everything, false).is_ok() {
            let hint = format!("give secrets.{name}, or ask for it: {{% if secrets.{name} %}}…{{% endif %}}");
            return Err((format!("needs the optional secret {name}, which is not given"), hint));
        }
    }
    Err((format!("cannot be rendered: {}", told(&error)), advice(&error, template).to_owned()))
}

/// A secret that must be there and is not has been noted.
fn there(b: &Build<'_>, name: &str, spec: &SecretSpec) -> bool {
    !spec.optional || b.given.as_ref().is_none_or(|given| given.contains(name))
}

fn render(b: &Build<'_>, template: &Template, secrets: &BTreeSet<&str>, exact: bool) -> Result<(), Error> {
    let secrets = Values(secrets.iter().map(|name| ((*name).to_owned(), Secret::new(PLACEHOLDER.to_owned()))).collect());
    let vars: BTreeMap<String, String> = b.vars.keys().map(|name| (name.clone(), PLACEHOLDER.to_owned())).collect();
    let tokens: Vec<(&str, &str)> = b.tokens.iter().map(|name| (name.as_str(), PLACEHOLDER)).collect();
    let partition: Vec<(&str, &str)> = b.partitions.iter().map(|name| (name.as_str(), PLACEHOLDER)).collect();
    let scope = Scope {
        settings: Some(&b.settings),
        secrets: Some(&secrets),
        tokens: &tokens,
        partition: &partition,
        vars: Some(&vars),
        assertion: Some(PLACEHOLDER),
        wall: Some(MOMENT),
    };
    template.attempt(&scope, if exact { |_| () } else { forgive })
}

/// What depends on the value alone succeeds: a placeholder is no certificate, no number, and has no parts.
fn forgive(env: &mut Environment<'static>) {
    let der = |value: Value| filters::bytes(&value).map(|_| Value::from_bytes(PLACEHOLDER.into()));
    env.add_filter("cert_der", der);
    env.add_filter("spki_der", der);
    env.add_filter("int", int);
    env.add_filter("split", split);
}

fn int(state: &State<'_, '_>, value: &Value, default: Option<Value>, base: Option<u32>, kwargs: Kwargs) -> Result<Value, Error> {
    to_number(state, value, default, base, kwargs).or_else(|error| value.as_str().map(|_| Value::from(1)).ok_or(error))
}

fn split(value: &Value, separator: Option<Arc<str>>, most: Option<i64>) -> Result<Value, Error> {
    to_list(value, separator, most).map(|_| Value::from(vec![PLACEHOLDER; PARTS]))
}

/// What is wrong, in words that hold no value. Names of tests, functions and methods are the template's own.
fn told(error: &Error) -> String {
    let name =
        error.detail().filter(|_| matches!(error.kind(), ErrorKind::UnknownTest | ErrorKind::UnknownFunction | ErrorKind::UnknownMethod));
    name.map_or_else(|| reason(error), str::to_owned)
}

fn advice(error: &Error, template: &Template) -> &'static str {
    let uses = |name: &str| template.names().iter().any(|n| n == name);
    match error.kind() {
        ErrorKind::MissingArgument | ErrorKind::TooManyArguments => {
            "basic(password), date(\"%Y-%m-%d\"), replace(from, to), split(separator), join(separator); most other filters take nothing"
        }
        ErrorKind::UnknownTest => "compare with == and !=, or ask with `is defined`",
        ErrorKind::UndefinedError | ErrorKind::UnknownMethod | ErrorKind::UnknownFunction => {
            "names are settings, secrets.NAME, token, tokens.NAME, vars.NAME, partition.NAME, assertion, now and uuid(); texts have no parts"
        }
        _ if uses("uuid") && !template.source().contains("uuid()") => "uuid is a function: {{ uuid() }}",
        _ if uses("now") && template.source().contains("now()") => {
            "now is a value: {{ now }}, {{ now.epoch }} or {{ now | date(\"%Y-%m-%d\") }}"
        }
        _ if complaint(error).is_some_and(|what| what.contains("bytes")) => {
            "bytes come from cert_der, spki_der, sha1 and sha256; hex, b64encode and b64url make text of them"
        }
        _ => "texts are joined with ~ and changed with filters; only numbers can be calculated with",
    }
}
