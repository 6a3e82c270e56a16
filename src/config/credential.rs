//! `[credentials.NAME]`: a profile with its settings, and where its secrets come from.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use aws_lc_rs::digest;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{
    Credential, lint,
    parse::{World, name},
    shape,
    value::{FORMS, SecretRef},
};
use crate::{
    problem::Problems,
    profile::{
        Profile, TokenSpec,
        merge::{self, Base, Given},
        table::CredentialTable,
    },
    secret::Secrets,
};

/// `[credentials.NAME]`. All other keys are the profile's, and override it.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[allow(
    dead_code,
    reason = "only its shape is used: the profile's keys are read by `profile::merge`"
)]
pub struct Written {
    /// Name of a built-in profile, or a file of your own. Default: oauth2.
    profile: Option<WrittenProfile>,
    /// What the profile leaves open.
    settings: Option<BTreeMap<String, Setting>>,
    /// Where the secrets come from, by name.
    secrets: Option<WrittenSecrets>,
    #[schemars(flatten)]
    profile_keys: CredentialTable,
}

#[derive(JsonSchema)]
#[schemars(untagged)]
#[allow(dead_code, reason = "only its shape is used")]
enum WrittenProfile {
    Name(String),
    File(ProfileFile),
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[allow(dead_code, reason = "only its shape is used")]
struct ProfileFile {
    /// A TOML file in the profile language.
    file: String,
}

#[derive(JsonSchema)]
#[schemars(untagged)]
#[allow(dead_code, reason = "only its shape is used")]
enum Setting {
    Text(String),
    Number(f64),
    Switch(bool),
}

#[derive(JsonSchema)]
#[schemars(extend("additionalProperties" = { "$ref": "#/$defs/Secret" }))]
#[allow(dead_code, reason = "only its shape is used")]
struct WrittenSecrets {
    /// A folder with one file per secret name.
    dir: Option<String>,
}

/// Reads one credential. Profile files are added to `files`, to be polled.
pub fn parse(
    given: &str,
    mut table: Map<String, Value>,
    world: World<'_>,
    files: &mut BTreeSet<PathBuf>,
    problems: &mut Problems,
) -> Option<Credential> {
    let at = format!("credentials.{}", shape::quoted(given));
    name(&at, given, problems);
    if given == "none" {
        problems.problem(
            at.clone(),
            "\"none\" means no credential and cannot be the name of one",
            "choose another name",
        );
    }
    let base = base(&at, table.remove("profile"), problems);
    let settings = settings(&at, table.remove("settings"), problems);
    let written = secrets(&at, table.remove("secrets"), problems);
    let base = base?;
    files.extend(merge::files(&base, world.folder, world.profiles));
    let names: Vec<String> = written.refs.keys().chain(&written.wrong).cloned().collect();
    let names = if written.dir.is_some() {
        None
    } else {
        Some(&names[..])
    };
    let filled = Given {
        settings: &settings,
        secrets: names,
        blind: world.sight.no_secrets,
        files: world.profiles,
    };
    let profile = merge::build(&base, &table, filled, &at, world.folder, problems);
    let mut sources = BTreeMap::new();
    for (secret, reference) in &written.refs {
        let key = format!("{at}.secrets.{}", shape::quoted(secret));
        let public = profile
            .as_ref()
            .and_then(|profile| profile.secrets.get(secret))
            .is_some_and(|spec| spec.public);
        if profile.is_some() && !public {
            lint::inline(&key, reference, world, problems);
        }
        lint::secret_file(&key, reference, world, problems);
        if let Some(source) = world.source(&key, reference, problems) {
            sources.insert(secret.clone(), source);
        }
    }
    let profile = profile?;
    let dir = written.dir.map(|dir| world.path(&dir));
    if let Some(dir) = &dir {
        lint::secret_dir(&at, dir, &profile, &sources, world, problems);
    }
    let secrets = Secrets {
        sources,
        dir,
        optional: profile
            .secrets
            .iter()
            .filter(|(_, spec)| spec.optional)
            .map(|(name, _)| name.clone())
            .collect(),
        names: profile.secrets.keys().cloned().collect(),
    };
    let values = values(&secrets);
    Some(Credential {
        name: given.into(),
        digest: digest(given, &profile, &written.refs, secrets.dir.as_deref()),
        profile: profile.into(),
        secrets,
        values,
    })
}

fn base(at: &str, written: Option<Value>, problems: &mut Problems) -> Option<Base> {
    let file = |table: &Map<String, Value>| match table.get("file") {
        Some(Value::String(file)) if table.len() == 1 && !file.is_empty() => {
            Some(Base::File(file.into()))
        }
        _ => None,
    };
    let base = match written {
        None => Some(Base::Builtin("oauth2".to_owned())),
        Some(Value::String(name)) => Some(Base::Builtin(name)),
        Some(Value::Object(table)) => file(&table),
        Some(_) => None,
    };
    if base.is_none() {
        let what = "must be the name of a built-in profile, or { file = \"PATH\" }";
        problems.problem(
            format!("{at}.profile"),
            what,
            "`cupbearer profiles` lists the built-in ones",
        );
    }
    base
}

fn settings(at: &str, written: Option<Value>, problems: &mut Problems) -> BTreeMap<String, String> {
    let table = match written {
        None => return BTreeMap::new(),
        Some(Value::Object(table)) => table,
        Some(other) => {
            problems.problem(
                format!("{at}.settings"),
                format!("must be a table, not {}", shape::kind_of(&other)),
                "for instance { token_url = \"https://auth.example/token\", scope = \"read\" }",
            );
            return BTreeMap::new();
        }
    };
    let mut settings = BTreeMap::new();
    for (name, value) in table {
        let text = match value {
            Value::String(text) => text,
            Value::Bool(_) | Value::Number(_) => value.to_string(),
            _ => {
                let key = format!("{at}.settings.{}", shape::quoted(&name));
                problems.problem(
                    key,
                    format!(
                        "must be text, a number, true or false, not {}",
                        shape::kind_of(&value)
                    ),
                    "`cupbearer profiles NAME` shows what each setting of a profile is for",
                );
                // It is there, though wrong: nobody needs to be told that it is missing.
                String::new()
            }
        };
        settings.insert(name, text);
    }
    settings
}

#[derive(Default)]
struct References {
    refs: BTreeMap<String, SecretRef>,
    /// Names with a reference that cannot be understood. They are given, though wrong: nobody needs to be told that they are missing.
    wrong: Vec<String>,
    dir: Option<String>,
}

fn secrets(at: &str, written: Option<Value>, problems: &mut Problems) -> References {
    let mut found = References::default();
    let table = match written {
        None => return found,
        Some(Value::Object(table)) => table,
        Some(_) => {
            let hint = "for instance { client_id = \"…\", client_secret = { file = \"…\" } } or { dir = \"…\" }";
            problems.problem(format!("{at}.secrets"), "must be a table", hint);
            return found;
        }
    };
    for (name, value) in table {
        let key = format!("{at}.secrets.{}", shape::quoted(&name));
        if name == "dir" {
            match value {
                Value::String(dir) if !dir.is_empty() => found.dir = Some(dir),
                _ => problems.problem(
                    key,
                    "must be the path of a folder with one file per secret",
                    "for instance dir = \"/run/secrets/acme\"",
                ),
            }
            continue;
        }
        match SecretRef::deserialize(&value) {
            Ok(reference) => {
                found.refs.insert(name, reference);
            }
            Err(error) => {
                problems.problem(key, error.to_string(), FORMS);
                found.wrong.push(name);
            }
        }
    }
    found
}

/// SHA-256 over what shapes token requests, the credential's name included: two that look alike may
/// have other inline values. Inline values are left out: a change of theirs reaches the running
/// keeper.
fn digest(
    credential: &str,
    profile: &Profile,
    refs: &BTreeMap<String, SecretRef>,
    dir: Option<&Path>,
) -> [u8; 32] {
    // `Debug` is stable within one program, sorted (no hash maps inside), and shows templates as
    // their source. Out: `name`, a word for people; `inject`, which is rendered anew for each
    // configuration; `partition`, which is part of the name of a token set
    // (`credential::with_partitions`); `limits`, `max_waiters` and `vend`, which running keepers
    // and requests are handed.
    let Profile {
        name: _,
        settings,
        secrets,
        tokens,
        inject: _,
        partition: _,
        errors,
        limits: _,
        max_waiters: _,
        vend: _,
    } = profile;
    let mut text = format!("{credential}\n{settings:?}{secrets:?}{errors:?}{refs:?}{dir:?}");
    for token in tokens {
        // Each field, in or out by decision. Out: `lifetime`, which says when a token is fetched
        // and not how; a running keeper is handed a new one.
        let TokenSpec {
            lifetime: _,
            name,
            url,
            allow_plaintext,
            method,
            format,
            client_auth,
            grant_type,
            params,
            headers,
            body,
            timeout,
            tls,
            assertion,
            response,
            parents,
        } = token;
        let request = (
            name,
            url,
            allow_plaintext,
            method,
            format,
            client_auth,
            grant_type,
            params,
            headers,
        );
        text.extend([
            format!("{request:?}"),
            format!("{:?}", (body, timeout, tls, assertion, response, parents)),
        ]);
    }
    sha256(text.as_bytes())
}

/// SHA-256 over the values that are known at load.
fn values(secrets: &Secrets) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    for (name, source) in &secrets.sources {
        if let Some(secret) = source.value() {
            for part in [name.as_str(), secret.expose()] {
                context.update(&part.len().to_be_bytes());
                context.update(part.as_bytes());
            }
        }
    }
    fixed(&context.finish())
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    fixed(&digest::digest(&digest::SHA256, bytes))
}

fn fixed(digest: &digest::Digest) -> [u8; 32] {
    // SHA-256 has 32 bytes.
    digest.as_ref().try_into().unwrap_or_default()
}
