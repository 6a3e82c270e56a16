//! What the guard counts an attempt against: the token URL with the secrets sent to it, and the
//! account that these belong to.

use std::{collections::BTreeSet, net::IpAddr};

use url::{Host, Url};
use zeroize::Zeroizing;

use super::request;
use crate::{
    clock::BootInstant,
    hash::sha256_of_parts,
    profile::{Profile, Scope, TokenSpec, model::Param},
    secret::{Secret, Values},
    token::GuardKey,
};

/// What refusals of this token's requests count against, for all partitions together, before any
/// was made. `None` where no secret is sent, or where the address is made of what only a request
/// knows.
#[must_use]
pub fn guard_key(
    profile: &Profile,
    index: usize,
    credential: &str,
    values: &Values,
) -> Option<GuardKey> {
    let spec = profile.tokens.get(index)?;
    let scope = Scope {
        settings: Some(&profile.settings),
        secrets: Some(values),
        wall: Some(BootInstant::now().wall()),
        ..Scope::default()
    };
    let url = request::render_token_url(spec, &scope).ok()??;
    attempt_key(profile, spec, &url, credential, &scope)
}

/// The origins of all token endpoints of a profile: accounts of different origins have nothing in
/// common. `None`: one of them can't be told from its settings and these secrets alone.
#[must_use]
pub fn token_origins(profile: &Profile, values: Option<&Values>) -> Option<BTreeSet<String>> {
    let scope = Scope {
        settings: Some(&profile.settings),
        secrets: values,
        wall: Some(BootInstant::now().wall()),
        ..Scope::default()
    };
    let mut origins = BTreeSet::new();
    for spec in &profile.tokens {
        origins.extend(
            request::render_token_url(spec, &scope)
                .ok()?
                .as_ref()
                .map(origin),
        );
    }
    Some(origins)
}

/// The key of one attempt at `url`, of which `scope` holds settings, secrets and partition. The
/// query is left out: with `format = "query"` it holds the secret.
pub(super) fn attempt_key(
    profile: &Profile,
    spec: &TokenSpec,
    url: &Url,
    credential: &str,
    scope: &Scope<'_>,
) -> Option<GuardKey> {
    let values = scope.secrets?;
    let names = request::used_secrets(spec);
    let mut used: Vec<&str> = names
        .iter()
        .filter_map(|n| values.get(n))
        .map(Secret::expose)
        .collect();
    if used.is_empty() {
        return None;
    }
    used.sort_unstable();
    let secret = sha256_of_parts(used.iter().map(|value| value.as_bytes()));
    let client = client_identity(profile, spec, &names, scope)
        .unwrap_or_else(|| Zeroizing::new(format!("credential {credential}")));
    let account = sha256_of_parts([origin(url).as_bytes(), client.as_bytes()]);
    let mut url = url.clone();
    url.set_query(None);
    let partition = scope
        .partition
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect::<Vec<_>>()
        .join("&");
    Some(GuardKey {
        url: url.into(),
        secret,
        partition: (!partition.is_empty()).then_some(partition),
        account,
    })
}

/// Scheme, host and port in one spelling: what [`Url`] leaves different (a dot at the end of a
/// name, an IPv4 address within an IPv6 one) is the same here.
fn origin(url: &Url) -> String {
    let host = match url.host() {
        Some(Host::Domain(name)) => name.trim_end_matches('.').to_ascii_lowercase(),
        Some(Host::Ipv4(ip)) => ip.to_string(),
        Some(Host::Ipv6(ip)) => match ip.to_canonical() {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => ip.to_string(),
        },
        None => String::new(),
    };
    format!(
        "{} {host} {}",
        url.scheme(),
        url.port_or_known_default().unwrap_or_default()
    )
}

/// The client identifier that the request shows: its parameter `client_id`, what client
/// authentication sends as such, the subject of its assertion, or the secrets that the profile
/// calls public. Case and white space around it make no other client.
fn client_identity(
    profile: &Profile,
    spec: &TokenSpec,
    used: &[&str],
    scope: &Scope<'_>,
) -> Option<Zeroizing<String>> {
    let values = scope.secrets?;
    let known = |name: &str| {
        profile.settings.contains_key(name)
            || ["secrets.", "partition."]
                .iter()
                .any(|kind| name.starts_with(kind))
    };
    let text = |param: &Param| match param {
        Param::Text(template) if template.names().iter().all(|name| known(name)) => {
            request::render_template(template, scope).ok()
        }
        _ => None,
    };
    let own = || {
        values
            .get("client_id")
            .map(|id| Zeroizing::new(id.expose().to_owned()))
    };
    let public = || {
        let public = used.iter().filter(|name| {
            **name == "client_id" || profile.secrets.get(**name).is_some_and(|spec| spec.public)
        });
        let all: Vec<&str> = public
            .filter_map(|name| values.get(name))
            .map(Secret::expose)
            .collect();
        Zeroizing::new(all.join(" "))
    };
    let claim = |name: &str| {
        spec.assertion
            .as_ref()
            .and_then(|a| a.claims.get(name))
            .and_then(text)
    };
    let found = |text: Zeroizing<String>| {
        let client = Zeroizing::new(text.trim().to_lowercase());
        (!client.is_empty()).then_some(client)
    };
    let shown = spec.params.get("client_id").and_then(text).and_then(found);
    let shown = shown.or_else(|| {
        spec.client_auth
            .method()
            .secrets
            .contains(&"client_id")
            .then(own)
            .flatten()
            .and_then(found)
    });
    shown
        .or_else(|| claim("sub").or_else(|| claim("iss")).and_then(found))
        .or_else(|| found(public()))
}

#[cfg(test)]
mod tests;
