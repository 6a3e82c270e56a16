//! `[credentials.NAME]`: a profile with its settings, and where its secrets come from.

use std::{collections::BTreeMap, path::Path};

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{
    CredentialConfig, lint,
    parse::{ParseContext, name},
};
use crate::{
    document::{KeyPath, Problems, ScalarText, SecretRef},
    hash::{sha256, sha256_of_parts},
    profile::{self, CredentialInputs, CredentialTable, Profile, ProfileRef, TokenSpec},
    secret::Secrets,
};

/// `[credentials.NAME]`. All other keys are the profile's, and override it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct CredentialEntry {
    /// Name of a built-in profile, or a file of your own. Default: oauth2.
    profile: ProfileRef,
    /// What the profile leaves open.
    settings: BTreeMap<String, ScalarText>,
    /// Where the secrets come from, by name.
    secrets: SecretsTable,
    #[serde(flatten)]
    #[schemars(with = "CredentialTable")]
    overrides: Map<String, Value>,
}

impl Default for CredentialEntry {
    fn default() -> Self {
        Self {
            profile: ProfileRef::Builtin("oauth2".to_owned()),
            settings: BTreeMap::new(),
            secrets: SecretsTable::default(),
            overrides: Map::new(),
        }
    }
}

/// `secrets`
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
struct SecretsTable {
    /// A folder with one file per secret name.
    dir: Option<String>,
    #[serde(flatten)]
    refs: BTreeMap<String, SecretRef>,
}

/// Reads one credential.
pub fn parse(
    given: &str,
    entry: CredentialEntry,
    context: ParseContext<'_>,
    problems: &mut Problems,
) -> Option<CredentialConfig> {
    let credentials = KeyPath::written("credentials");
    let key = credentials.key(given);
    name(&key, given, problems);
    if given == "none" {
        problems.problem(
            key,
            "\"none\" means no credential and cannot be the name of one",
            "choose another name",
        );
    }
    let at = key.to_string();
    if context.taken.has(&at, "profile") {
        return None;
    }
    // What is there, though wrong, was told: nobody needs to be told that it is missing.
    let wrong = |table: &str| {
        context
            .taken
            .names(&key.key(table).to_string())
            .iter()
            .cloned()
    };
    let written = entry
        .settings
        .into_iter()
        .map(|(name, text)| (name, text.0));
    let settings: BTreeMap<String, String> = wrong("settings")
        .map(|name| (name, String::new()))
        .chain(written)
        .collect();
    let (dir, refs) = (entry.secrets.dir, entry.secrets.refs);
    let dir = dir.map(|dir| context.path(&dir));
    let names: Vec<String> = refs.keys().cloned().chain(wrong("secrets")).collect();
    let filled = CredentialInputs {
        settings: &settings,
        secrets: dir.is_none().then_some(&names[..]),
        blind: context.options.no_secrets,
        files: context.profiles,
    };
    let profile = profile::build(
        &entry.profile,
        &entry.overrides,
        filled,
        &at,
        context.folder,
        problems,
    );
    let mut sources = BTreeMap::new();
    for (secret, reference) in &refs {
        let table = key.key("secrets");
        let key = table.key(secret).to_string();
        let public = profile
            .as_ref()
            .and_then(|profile| profile.secrets.get(secret))
            .is_some_and(|spec| spec.public);
        if profile.is_some() && !public {
            lint::inline(&key, reference, context, problems);
        }
        lint::secret_file(&key, reference, context, problems);
        if let Some(source) = context.source(&key, reference, problems) {
            sources.insert(secret.clone(), source);
        }
    }
    let profile = profile?;
    if let Some(dir) = &dir {
        lint::secret_dir(&at, dir, &profile, &sources, context, problems);
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
    Some(CredentialConfig {
        name: given.into(),
        digest: digest(given, &profile, &refs, secrets.dir.as_deref()),
        profile: profile.into(),
        secrets,
        values,
    })
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
    // (`credential::digest_with_partitions`); `limits`, `max_waiters` and `vend`, which running keepers
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
    let known = secrets.sources.iter().filter_map(|(name, source)| {
        let secret = source.value()?;
        Some([name.as_bytes(), secret.expose().as_bytes()])
    });
    sha256_of_parts(known.flatten())
}
