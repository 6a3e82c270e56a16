//! What the tests of this folder build requests from.

use std::{collections::BTreeMap, time::Duration};

use http::Method;

use crate::{
    profile::{
        Scope, Template, TokenSpec,
        model::{ClientAuth, MomentFormat, Param, ParamFormat, Response, ValueSource},
    },
    secret::{Secret, Values},
    tls::Tls,
    token::{Lifetime, RefreshMode, Rotation},
};

/// A client with every character that encodings differ in.
pub const ID: &str = "app:1 é";
pub const SECRET: &str = "a+b%:/= &\"";

pub fn template(source: &str) -> Template {
    Template::parse(source).unwrap()
}

pub fn text(source: &str) -> Param {
    Param::Text(template(source))
}

pub fn params(list: &[(&str, &str)]) -> BTreeMap<String, Param> {
    list.iter()
        .map(|(name, source)| ((*name).to_owned(), text(source)))
        .collect()
}

/// The plain RFC 6749 vendor.
pub fn spec(url: &str) -> TokenSpec {
    TokenSpec {
        name: "access".into(),
        url: Some(template(url)),
        allow_plaintext: false,
        method: Method::POST,
        format: ParamFormat::Form,
        client_auth: ClientAuth::Body,
        grant_type: Some(template("client_credentials")),
        params: BTreeMap::new(),
        headers: Vec::new(),
        body: None,
        timeout: Duration::from_secs(5),
        tls: Tls::default(),
        assertion: None,
        response: Response {
            token: ValueSource::Pointer("/access_token".into()),
            expires_in: Some(ValueSource::Pointer("/expires_in".into())),
            expires_unit: Duration::from_secs(1),
            expires_at: None,
            expires_at_format: MomentFormat::Auto,
            jwt_exp: true,
            vars: BTreeMap::new(),
        },
        lifetime: Lifetime {
            default: Duration::from_mins(5),
            cap: None,
            idle: None,
            refresh: RefreshMode::Ahead,
            refresh_before: None,
            rotation: Rotation::Overlap,
            grace: Duration::ZERO,
            rest_after: Duration::from_hours(1),
            min_remaining: Duration::ZERO,
        },
        parents: Vec::new(),
    }
}

pub fn values(list: &[(&str, &str)]) -> Values {
    Values(
        list.iter()
            .map(|(name, value)| ((*name).to_owned(), Secret::new((*value).to_owned())))
            .collect(),
    )
}

pub fn client() -> Values {
    values(&[("client_id", ID), ("client_secret", SECRET)])
}

pub fn scope(values: &Values) -> Scope<'_> {
    Scope {
        secrets: Some(values),
        ..Scope::default()
    }
}
