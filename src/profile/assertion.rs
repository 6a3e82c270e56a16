//! `tokens.NAME.assertion`: a JWT that we sign ourselves (RFC 7519, RFC 7523).

use std::{str::FromStr, time::Duration};

use jsonwebtoken::Algorithm;

use super::{
    builder::{ProfileBuilder, TemplateSite},
    file::AssertionTable,
    model::{Assertion, ClientAuth},
    params::params,
};
use crate::{
    client_auth::AssertionKey,
    document::{KeyPath, one_of},
};

const ALGORITHMS: [&str; 12] = [
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA", "HS256",
    "HS384", "HS512",
];

/// Reads what signs a token's requests, or is the token itself; `None` where nothing is signed.
pub(super) fn assertion(
    b: &mut ProfileBuilder<'_>,
    at: &KeyPath<'_>,
    table: Option<&AssertionTable>,
    client_auth: ClientAuth,
    named: bool,
    self_made: bool,
) -> Option<Assertion> {
    let own = at.name().unwrap_or_default();
    let at = &at.key("assertion");
    let signed_by = client_auth.method().assertion_key;
    let by_auth = signed_by.is_some();
    let table = match table {
        Some(table) if by_auth || named || self_made => table,
        Some(_) => {
            let hint = "client_auth = \"private_key_jwt\", or {{ assertion }} in a parameter, header or body".to_owned();
            b.note(at, "is not used by anything", hint);
            return None;
        }
        None if by_auth => &AssertionTable::default(),
        None if named => {
            b.note(
                at,
                "is missing, though a template names it",
                "say how it is signed: assertion = { alg = \"RS256\", key = \"{{ secrets.private_key }}\" }",
            );
            return None;
        }
        None if self_made => {
            b.note(
                at,
                "is missing: without url and with format = \"none\" the assertion is the token",
                "say how it is signed: assertion = { alg = \"RS256\", key = \"{{ secrets.private_key }}\" }, or set url",
            );
            return None;
        }
        None => return None,
    };
    let site = TemplateSite::Assertion(own);
    let shared = signed_by == Some(AssertionKey::Shared);
    let default = if shared {
        Algorithm::HS256
    } else {
        Algorithm::RS256
    };
    let alg = algorithm(b, &at.key("alg"), table.alg.as_deref(), default);
    let symmetric = matches!(alg, Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512);
    if by_auth && symmetric != shared {
        b.note(
            &at.key("alg"),
            "does not fit client_auth: private_key_jwt signs with RS, PS, ES or EdDSA, client_secret_jwt with HS",
            "leave it out for RS256, or HS256 with client_secret_jwt",
        );
    }
    let key = table.key.clone().unwrap_or_else(|| {
        let name = if symmetric {
            "client_secret"
        } else {
            "private_key"
        };
        b.need_secret(&at.key("key"), name, "signing the assertion");
        format!("{{{{ secrets.{name} }}}}")
    });
    let header = at.key("header");
    let header = table.header.iter().map(|(name, text)| {
        let at = header.key(name);
        if name == "alg" {
            b.note(
                &at,
                "is set by the key alg of the assertion",
                "leave it out here: assertion.alg",
            );
        }
        (name.clone(), b.template(&at, text, site))
    });
    let header = header.collect();
    Some(Assertion {
        alg,
        key: b.template(&at.key("key"), &key, site),
        header,
        claims: params(b, &at.key("claims"), &table.claims, site),
        lifetime: b.positive(
            &at.key("lifetime"),
            table.lifetime.as_ref(),
            Duration::from_mins(1),
        ),
    })
}

fn algorithm(
    b: &mut ProfileBuilder<'_>,
    at: &KeyPath<'_>,
    source: Option<&str>,
    default: Algorithm,
) -> Algorithm {
    let Some((source, text)) = source.and_then(|source| Some((source, b.fixed(at, source)?)))
    else {
        return default;
    };
    let known = ALGORITHMS.contains(&text.as_str());
    Algorithm::from_str(&text)
        .ok()
        .filter(|_| known)
        .unwrap_or_else(|| {
            let hint = one_of(&text, ALGORITHMS);
            b.blame(
                at,
                source,
                format!("must be one of {}", ALGORITHMS.join(", ")),
                hint,
            );
            default
        })
}
