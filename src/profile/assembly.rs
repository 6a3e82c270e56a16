//! One table out of a chain of `extends` and a user's overrides; then the model out of that table.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

use serde_json::{Map, Value};

use super::{
    builder::ProfileBuilder,
    dry_run, errors,
    file::{CredentialTable, HeadTable, ProfileRef, ProfileTable, SettingTable},
    graph, guard, inject,
    layers::{Layers, ProfileFiles},
    model::{Profile, SecretSpec},
    names::RESERVED,
    partition, text,
};
use crate::document::{KeyPath, Problems, known, read};

/// What a credential says besides its overrides.
#[derive(Debug, Clone, Copy)]
pub struct CredentialInputs<'a> {
    /// `settings`, by name.
    pub settings: &'a BTreeMap<String, String>,
    /// Names of the secrets; `None`: a directory, so all may be there.
    pub secrets: Option<&'a [String]>,
    /// Files of `tls` tables that cannot be read here are not missed.
    pub blind: bool,
    /// Where profile files are read.
    pub files: &'a ProfileFiles,
}

/// Builds the profile of one credential. `overrides` is the credential's table without `profile`,
/// `settings` and `secrets`. Problems are noted under `at` (`credentials.acme`). `relative_to` is
/// the folder relative paths start from.
pub fn build(
    base: &ProfileRef,
    overrides: &Map<String, Value>,
    given: CredentialInputs<'_>,
    at: &str,
    relative_to: &Path,
    problems: &mut Problems,
) -> Option<Profile> {
    let mut found = Problems::default();
    let layers = Layers::load(base, overrides, at, relative_to, given.files, &mut found);
    let profile = layers.and_then(|layers| {
        let ProfileTable { head, body } = table(&layers, &mut found);
        Some(assemble(
            &layers,
            name_of(base),
            &head,
            &body,
            given,
            &mut found,
        ))
        .filter(|_| !found.fatal())
    });
    problems.extend(found);
    profile
}

/// Settings and secrets of a profile with their help, `extends` followed, for `cupbearer profiles
/// NAME`.
pub(super) fn head(
    base: &ProfileRef,
    relative_to: &Path,
    files: &ProfileFiles,
) -> Option<HeadTable> {
    let mut problems = Problems::default();
    let layers = Layers::load(base, &Map::new(), "", relative_to, files, &mut problems)?;
    Some(table(&layers, &mut problems).head)
}

fn name_of(base: &ProfileRef) -> Arc<str> {
    match base {
        ProfileRef::Builtin(name) => name.as_str().into(),
        ProfileRef::File { file } => file
            .file_stem()
            .map(|stem| stem.to_string_lossy())
            .unwrap_or_default()
            .as_ref()
            .into(),
    }
}

/// The merged table, read; what does not fit is noted where it was written.
fn table(layers: &Layers, problems: &mut Problems) -> ProfileTable {
    let merged = layers.merged(problems);
    read(Value::Object(merged), |at, what, hint| {
        layers.note(problems, at, what, hint);
    })
}

fn assemble(
    layers: &Layers,
    name: Arc<str>,
    head: &HeadTable,
    body: &CredentialTable,
    given: CredentialInputs<'_>,
    problems: &mut Problems,
) -> Profile {
    let mut b = ProfileBuilder {
        layers,
        problems,
        settings: BTreeMap::new(),
        chosen: given.settings.keys().cloned().collect(),
        secrets: BTreeMap::new(),
        any_secret: head.secrets.contains_key("*"),
        given: given.secrets.map(|names| names.iter().cloned().collect()),
        blind: given.blind,
        tokens: body.tokens.keys().cloned().collect(),
        partitions: body.partition.keys().cloned().collect(),
        vars: BTreeMap::new(),
        used: BTreeSet::new(),
        seen: BTreeSet::new(),
        waiting: Vec::new(),
    };
    declare(&mut b, head, body);
    settings(&mut b, &head.settings, given.settings);
    let tokens = graph::tokens(&mut b, body);
    let partition = partition::partitions(&mut b, &body.partition);
    let inject = inject::inject(&mut b, &body.inject);
    let errors = errors::errors(&mut b, &body.errors);
    let (limits, max_waiters) = guard::guard(&mut b, &body.guard);
    whole(&mut b, body);
    secrets(&mut b);
    dry_run::all(&mut b);
    Profile {
        name,
        settings: b.settings,
        secrets: b.secrets,
        tokens,
        inject,
        partition,
        errors,
        limits,
        max_waiters,
        vend: body.vend,
    }
}

/// Names first: templates may use them in any order.
fn declare(b: &mut ProfileBuilder<'_>, head: &HeadTable, body: &CredentialTable) {
    for (name, secret) in head.secrets.iter().filter(|(name, _)| *name != "*") {
        let spec = SecretSpec {
            help: secret.help.clone().unwrap_or_default(),
            optional: secret.optional,
            public: secret.public,
        };
        b.secrets.insert(name.clone(), spec);
    }
    for (token, table) in &body.tokens {
        for name in table.response.vars.keys() {
            if let Some(other) = b.vars.insert(name.clone(), token.clone()) {
                let what = format!(
                    "is a variable of token {other} too, and there is one namespace per credential"
                );
                let tokens = KeyPath::written("tokens");
                let token = tokens.key(token);
                let response = token.key("response");
                let vars = response.key("vars");
                b.note(
                    &vars.key(name),
                    what,
                    "choose another name in one of the two",
                );
            }
        }
    }
    let names = [
        ("secrets", b.secrets.keys().cloned().collect::<Vec<_>>()),
        ("tokens", b.tokens.clone()),
        ("settings", head.settings.keys().cloned().collect()),
    ];
    for (group, names) in names {
        for name in &names {
            b.check_name(&KeyPath::written(group).key(name), name);
        }
    }
    for name in head
        .settings
        .keys()
        .filter(|name| RESERVED.contains(&name.as_str()))
    {
        b.note(
            &KeyPath::written("settings").key(name),
            "is a name that templates use for something else",
            format!("call it my_{name}, for instance"),
        );
    }
}

/// The user's values over the defaults, each as the profile wants it.
fn settings(
    b: &mut ProfileBuilder<'_>,
    specs: &BTreeMap<String, SettingTable>,
    user: &BTreeMap<String, String>,
) {
    for name in user.keys().filter(|name| !specs.contains_key(*name)) {
        let hint = if specs.is_empty() {
            "the profile has no settings".into()
        } else {
            known(name, specs.keys().map(String::as_str))
        };
        b.note_in_credential(
            &KeyPath::written("settings").key(name),
            "is not a setting of the profile",
            hint,
        );
    }
    for (name, spec) in specs {
        let value = user
            .get(name)
            .or(spec.default.as_ref().map(|default| &default.0))
            .cloned()
            .unwrap_or_default();
        let settings = KeyPath::written("settings");
        let key = settings.key(name);
        let help = spec
            .help
            .clone()
            .filter(|help| !help.is_empty())
            .unwrap_or_else(|| format!("settings = {{ {name} = \"…\" }}"));
        if value.is_empty() {
            if spec.required {
                b.note_in_credential(&key, "is missing", help);
            }
        } else if let Some(pattern) = &spec.pattern {
            match text::whole(pattern) {
                Ok(regex) if regex.is_match(&value) => {}
                Ok(_) => b.note_in_credential(&key, format!("does not match {pattern}"), help),
                Err((what, hint)) => b.note(&key.key("pattern"), what, hint),
            }
        } else if value.chars().any(char::is_control) {
            b.note_in_credential(
                &key,
                "contains a control character",
                "take it out; a line break at the end of a text is one",
            );
        }
        b.settings.insert(name.clone(), value);
    }
}

/// What concerns the profile as a whole.
fn whole(b: &mut ProfileBuilder<'_>, body: &CredentialTable) {
    let inject = &body.inject;
    let nothing = inject.headers.is_empty()
        && inject.headers_if_absent.is_empty()
        && inject.query.is_empty()
        && inject.cookies.is_empty();
    if nothing && body.tokens.is_empty() {
        b.note(
            &KeyPath::written("inject"),
            "is empty, and there is no token: nothing would be put on a request",
            "inject.headers = { X-Api-Key = \"{{ secrets.api_key }}\" }",
        );
    }
    if body.vend && body.tokens.is_empty() {
        b.note(
            &KeyPath::written("vend"),
            "needs a token to hand out",
            "leave it out, or say under tokens how to get one",
        );
    }
    let mut headers: BTreeMap<String, String> = BTreeMap::new();
    for name in b.partitions.clone() {
        let Some(header) = body
            .partition
            .get(&name)
            .and_then(|table| table.header.as_ref())
        else {
            continue;
        };
        let twin = headers
            .entry(header.to_ascii_lowercase())
            .or_insert_with(|| name.clone())
            .clone();
        if twin != name {
            b.note(
                &KeyPath::written("partition").key(&name).key("header"),
                format!("is the header of partition {twin} too"),
                "give each partition a header of its own",
            );
        }
    }
}

/// Compares what the credential gives with what the profile uses. A declared secret that nothing
/// uses (`client_secret` where `client_auth` is "none") need not be there.
fn secrets(b: &mut ProfileBuilder<'_>) {
    let table = KeyPath::written("secrets");
    for name in b.given.clone().into_iter().flatten() {
        let key = table.key(&name);
        if b.any_secret && !b.secrets.contains_key(&name) {
            if !text::identifier(&name) {
                b.note_in_credential(
                    &key,
                    "is no name a template can use (letters, digits, _)",
                    name.replace(['-', '.', ' '], "_"),
                );
            }
            b.secrets.insert(name, SecretSpec::default());
        } else if !b.secrets.contains_key(&name) {
            let none = b.secrets.is_empty();
            let hint = if none {
                "the profile has no secrets".into()
            } else {
                known(&name, b.secrets.keys().map(String::as_str))
            };
            b.note_in_credential(&key, "is not a secret of the profile", hint);
        }
    }
    if b.any_secret {
        // One that is not given has been noted where it is named.
        for name in b
            .used
            .iter()
            .filter(|name| b.given.as_ref().is_none_or(|given| given.contains(*name)))
        {
            b.secrets.entry(name.clone()).or_default();
        }
    }
    for (name, spec) in &mut b.secrets {
        spec.optional |= !b.used.contains(name);
        let absent = b.given.as_ref().is_some_and(|given| !given.contains(name));
        if absent && !spec.optional {
            let help = if spec.help.is_empty() {
                "{ file = \"…\" } or { env = \"…\" }"
            } else {
                &spec.help
            };
            let help = format!("{name}: {help}");
            let key = table.below(&b.layers.at);
            b.problems
                .problem(key, format!("secret {name} is missing"), help);
        }
    }
}

#[cfg(test)]
#[path = "assembly_tests.rs"]
mod tests;
