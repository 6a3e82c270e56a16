//! Configuration text: a credential of a profile of the catalogue, with the upstream that uses it.

use super::sidecar::{PORTS, Sidecar};

/// A credential and an upstream, both named like the profile.
#[derive(Debug, Clone, Default)]
pub struct Stanza {
    pub profile: &'static str,
    /// `name = "value"` pairs of TOML.
    pub settings: String,
    pub secrets: String,
    /// Tables that override the profile, with `HERE` for the credential's own.
    pub overrides: String,
    /// Files beside the configuration.
    pub files: Vec<(&'static str, String)>,
}

impl Stanza {
    pub fn new(profile: &'static str, settings: &str, secrets: &str) -> Self {
        Self {
            profile,
            settings: settings.into(),
            secrets: secrets.into(),
            ..Self::default()
        }
    }

    #[must_use]
    pub fn over(mut self, text: &str) -> Self {
        self.overrides.push_str(text);
        self.overrides.push('\n');
        self
    }

    #[must_use]
    pub fn file(mut self, name: &'static str, content: &str) -> Self {
        self.files.push((name, content.into()));
        self
    }

    pub fn credential(&self) -> String {
        let Self {
            profile,
            settings,
            secrets,
            overrides,
            ..
        } = self;
        let overrides = overrides.replace("HERE", &format!("credentials.{profile}"));
        format!(
            "[credentials.{profile}]\nprofile = \"{profile}\"\nsettings = {{ {settings} }}\nsecrets = {{ {secrets} }}\n{overrides}"
        )
    }

    /// A sidecar with this credential and one upstream of the same name at `api`.
    pub async fn start(&self, api: &str) -> Sidecar {
        self.start_with(&[(self.profile, api)]).await
    }

    /// A sidecar with several upstreams for this one credential.
    pub async fn start_with(&self, upstreams: &[(&str, &str)]) -> Sidecar {
        let profile = self.profile;
        let upstreams = upstreams.iter().map(|(name, url)| {
            format!("[upstreams.{name}]\nurl = \"{url}\"\ncredential = \"{profile}\"\n")
        });
        let text = format!(
            "{PORTS}{}{}",
            self.credential(),
            upstreams.collect::<String>()
        );
        let files: Vec<(&str, &str)> = self
            .files
            .iter()
            .map(|(name, content)| (*name, content.as_str()))
            .collect();
        Sidecar::with_files(&text, &files).await
    }
}
