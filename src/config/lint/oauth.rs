//! Advice about how a client shows who it is, what it asks for, and who else uses it.

use std::collections::HashMap;

use super::at;
use crate::{
    config::{Config, CredentialConfig, Ready},
    document::{Problems, quoted},
    profile::{
        Scope, Template, TokenSpec,
        catalogue::{self, ProfileDescription},
        model::Param,
    },
    secret::Source,
    token::Rotation,
};

/// RFC 6749, 2.3: a client must not use more than one way in each request; strict vendors refuse
/// it.
pub fn two_ways(config: &Config, problems: &mut Problems) {
    for credential in config.credentials.values() {
        for token in &credential.profile.tokens {
            let Some(way) = token.client_auth.method().shown else {
                continue;
            };
            let table = format!("{}.tokens.{}", at(credential), quoted(&token.name));
            let what = format!("the client shows who it is {way} (client_auth) and here once more");
            let hint = "drop it here, or set client_auth = \"none\": a client must not use two ways at once (RFC 6749, 2.3)";
            let authorization = |(name, value): &&(http::HeaderName, Template)| {
                name == http::header::AUTHORIZATION && names_secret(value)
            };
            if token.headers.iter().any(|header| authorization(&header)) {
                problems.lint(
                    format!("{table}.headers.Authorization"),
                    what.clone(),
                    Some(hint.to_owned()),
                );
            }
            for name in ["client_secret", "client_assertion"]
                .into_iter()
                .filter(|name| second(token, name))
            {
                problems.lint(
                    format!("{table}.params.{name}"),
                    what.clone(),
                    Some(hint.to_owned()),
                );
            }
        }
    }
}

fn names_secret(value: &Template) -> bool {
    value.source().contains("secrets.")
}

/// A parameter that `client_auth` does not set itself.
fn second(token: &TokenSpec, name: &str) -> bool {
    !token.client_auth.method().param_names.contains(&name)
        && matches!(token.params.get(name), Some(Param::Text(text)) if !text.source().is_empty())
}

/// A built-in profile has no setting for a scope where its vendor documents none.
pub fn foreign_scope(config: &Config, problems: &mut Problems) {
    for credential in config.credentials.values() {
        let knows_none =
            |d: &&ProfileDescription| d.settings.iter().all(|setting| setting.name != "scope");
        // A profile of one's own, even of the same name, has settings of its own.
        let Some(built_in) = catalogue::describe(&credential.profile.name).filter(knows_none)
        else {
            continue;
        };
        for token in &credential.profile.tokens {
            let written = built_in.toml.contains("scope =");
            if !written
                && matches!(token.params.get("scope"), Some(Param::Text(text)) if !text.source().is_empty())
            {
                let key = format!(
                    "{}.tokens.{}.params.scope",
                    at(credential),
                    quoted(&token.name)
                );
                let what = format!(
                    "the vendor of profile {} documents no scope, and many refuse what they do not know",
                    built_in.name
                );
                problems.lint(
                    key,
                    what,
                    Some("leave it out, unless the vendor told you so".to_owned()),
                );
            }
        }
    }
}

/// Each replica counts refusals for itself, so a rollout must stop at the first.
pub fn lockout_with_replicas(config: &Config, problems: &mut Problems) {
    // Where others come by this program's own address, it is one of several as a rule.
    if config.metrics.is_none() || config.admin.ready != Ready::Started {
        return;
    }
    for credential in config
        .credentials
        .values()
        .filter(|c| c.profile.limits.need_memory())
    {
        let what =
            "this vendor locks out after a few wrong attempts, and each replica counts its own";
        let hint = "set [admin] ready = \"accepted\" and roll out one at a time (maxSurge 1), so that a wrong secret stops at the first";
        problems.lint(at(credential), what, Some(hint.to_owned()));
    }
}

/// Two credentials that take each other's tokens away, for ever.
pub fn same_client(config: &Config, problems: &mut Problems) {
    // By client and token URL: the first credential, and the first whose new token ends the one
    // before.
    let mut seen: HashMap<(String, String), (usize, Option<usize>)> = HashMap::new();
    let all: Vec<&CredentialConfig> = config.credentials.values().collect();
    for (i, credential) in all.iter().enumerate() {
        let Some(id) = client(credential) else {
            continue;
        };
        let replaces = credential
            .profile
            .tokens
            .iter()
            .any(|token| token.lifetime.rotation == Rotation::Replaces);
        let mut clash: Option<usize> = None;
        for url in endpoints(credential) {
            let (first, replacing) = seen.entry((id.clone(), url)).or_insert((i, None));
            let other = if replaces { Some(*first) } else { *replacing };
            clash = [clash, other.filter(|other| *other < i)]
                .into_iter()
                .flatten()
                .min();
            if replaces {
                replacing.get_or_insert(i);
            }
        }
        if let Some(other) = clash.and_then(|other| all.get(other)) {
            let what = format!(
                "it is the same client as {}, and a new token ends the one before (rotation = \"replaces\"): they end each other's",
                at(other)
            );
            problems.lint(
                at(credential),
                what,
                Some("let both upstreams use one credential".to_owned()),
            );
        }
    }
}

/// Where its client identifier comes from, as far as that is known without reading files: one text
/// for each such place.
fn client(credential: &CredentialConfig) -> Option<String> {
    let secrets = &credential.secrets;
    let listed = secrets.sources.get("client_id").cloned();
    match listed
        .or_else(|| {
            secrets
                .dir
                .as_ref()
                .map(|dir| Source::File(dir.join("client_id")))
        })?
        .unwrap_kept()
        .0
    {
        Source::Value(value) if value.expose().is_empty() => None,
        Source::Value(value) => Some(format!("value {}", value.expose())),
        Source::File(path) => Some(format!("file {}", path.display())),
        Source::Json(path, pointer) => Some(format!("json {} {pointer}", path.display())),
        Source::Kept(_) => None,
    }
}

/// Its token URLs, as far as settings decide them.
fn endpoints(credential: &CredentialConfig) -> Vec<String> {
    let scope = Scope {
        settings: Some(&credential.profile.settings),
        ..Scope::default()
    };
    let urls = credential
        .profile
        .tokens
        .iter()
        .filter_map(|token| token.url.as_ref()?.render(&scope).ok());
    urls.map(|url| url.to_string()).collect()
}
