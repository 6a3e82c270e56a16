//! The built-in profiles: TOML files embedded in the program.

use std::{collections::BTreeMap, path::Path, sync::LazyLock};

use super::{
    assembly,
    file::ProfileRef,
    layers::{ProfileFiles, Table},
};
use crate::document::parse_toml;

/// Name and TOML source of every built-in profile, sorted by name.
#[must_use]
pub fn all() -> &'static [(&'static str, &'static str)] {
    &[
        ("keycloak", include_str!("catalogue/keycloak.toml")),
        ("keycloak_jwt", include_str!("catalogue/keycloak_jwt.toml")),
        ("lean", include_str!("catalogue/lean.toml")),
        (
            "lean_customer",
            include_str!("catalogue/lean_customer.toml"),
        ),
        ("mypos", include_str!("catalogue/mypos.toml")),
        ("oauth2", include_str!("catalogue/oauth2.toml")),
        ("optoro", include_str!("catalogue/optoro.toml")),
        ("sqr", include_str!("catalogue/sqr.toml")),
        ("static", include_str!("catalogue/static.toml")),
        ("worldline", include_str!("catalogue/worldline.toml")),
        (
            "worldline_jwt",
            include_str!("catalogue/worldline_jwt.toml"),
        ),
    ]
}

/// The TOML source of one.
#[must_use]
pub fn find(name: &str) -> Option<&'static str> {
    all()
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, text)| *text)
}

/// One of them as a table. Each is read once, however many credentials start from it.
pub(super) fn table(name: &str) -> Option<&'static Table> {
    static TABLES: LazyLock<BTreeMap<&str, Table>> = LazyLock::new(|| {
        all()
            .iter()
            .filter_map(|(name, text)| Some((*name, parse_toml(text).ok()?)))
            .collect()
    });
    TABLES.get(name)
}

/// What a user has to know of a profile, what it extends included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProfileDescription {
    /// What a credential writes as its `profile`.
    pub name: &'static str,
    /// The file as it is, comments included.
    pub toml: &'static str,
    /// What it is for, in a sentence.
    pub doc: String,
    /// Where the vendor says so.
    pub source: String,
    /// By name.
    pub settings: Vec<SettingDescription>,
    /// By name.
    pub secrets: Vec<SecretDescription>,
}

/// A setting of a profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingDescription {
    /// Its key in `settings`.
    pub name: String,
    /// What it is, for people.
    pub help: String,
    /// Taken where nothing is written; `None`: the setting is empty then.
    pub default: Option<String>,
    /// It has to be written, or has a default.
    pub required: bool,
    /// A regular expression that its value has to fit, as a whole.
    pub pattern: Option<String>,
}

/// A secret of a profile; `*` is any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretDescription {
    /// Its key in `secrets`.
    pub name: String,
    /// What it is and where it comes from, for people.
    pub help: String,
    /// It need not be there.
    pub optional: bool,
    /// It may stand in the configuration.
    pub public: bool,
}

/// For `cupbearer profiles NAME`.
#[must_use]
pub fn describe(name: &str) -> Option<&'static ProfileDescription> {
    static ALL: LazyLock<BTreeMap<&str, ProfileDescription>> = LazyLock::new(|| {
        all()
            .iter()
            .filter_map(|(name, _)| Some((*name, read(name)?)))
            .collect()
    });
    ALL.get(name)
}

fn read(name: &str) -> Option<ProfileDescription> {
    let (name, toml) = all().iter().find(|(known, _)| *known == name)?;
    let head = assembly::head(
        &ProfileRef::Builtin((*name).to_owned()),
        Path::new(""),
        &ProfileFiles::default(),
    )?;
    let settings = head
        .settings
        .into_iter()
        .map(|(name, setting)| SettingDescription {
            name,
            help: setting.help.unwrap_or_default(),
            default: setting.default.map(|default| default.0),
            required: setting.required,
            pattern: setting.pattern,
        });
    let secrets = head
        .secrets
        .into_iter()
        .map(|(name, secret)| SecretDescription {
            name,
            help: secret.help.unwrap_or_default(),
            optional: secret.optional,
            public: secret.public,
        });
    Some(ProfileDescription {
        name,
        toml,
        doc: head.doc.unwrap_or_default(),
        source: head.source.unwrap_or_default(),
        settings: settings.collect(),
        secrets: secrets.collect(),
    })
}

#[cfg(test)]
#[path = "catalogue_tests.rs"]
mod tests;
