//! While a profile is built: where problems go, and what its strings become.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Duration,
};

use super::{
    layers::Layers,
    model::SecretSpec,
    template::{RenderError, Scope, Template},
    text,
};
use crate::document::{DurationText, KeyPath, Mistake, Problems, known, one_of};

const EXPRESSION: &str = "an expression stands between {{ and }}, such as {{ secrets.client_id }} or {{ now | date(\"%Y\") }}";

/// Everything known of a profile before its tokens are read.
pub(super) struct ProfileBuilder<'a> {
    pub layers: &'a Layers,
    pub problems: &'a mut Problems,
    pub settings: BTreeMap<String, String>,
    /// Settings whose value is the credential's own.
    pub chosen: BTreeSet<String>,
    pub secrets: BTreeMap<String, SecretSpec>,
    /// The profile takes any secret (`secrets."*"`).
    pub any_secret: bool,
    /// Names the credential gives; `None`: a folder, so all may be there.
    pub given: Option<BTreeSet<String>>,
    /// Files that cannot be read here are not missed.
    pub blind: bool,
    /// Sorted, like the next.
    pub tokens: Vec<String>,
    pub partitions: Vec<String>,
    /// Variable → the token whose answer holds it.
    pub vars: BTreeMap<String, String>,
    /// Secrets something uses.
    pub used: BTreeSet<String>,
    /// Names used since it was last emptied; a token's parents follow from them.
    pub seen: BTreeSet<String>,
    /// Templates whose names are right, to be tried once everything is known.
    pub waiting: Vec<PendingTemplate>,
}

/// Where a template stands decides what it may name.
#[derive(Debug, Clone, Copy)]
pub(super) enum TemplateSite<'p> {
    /// In a token's request.
    Request(&'p str),
    /// In a token's assertion, which cannot name itself.
    Assertion(&'p str),
    /// On requests to the upstream.
    Inject,
}

/// A template that waits for its dry run, and where it stands.
pub(super) struct PendingTemplate {
    /// Its key, and the file it was written in.
    pub place: (String, Option<PathBuf>),
    pub template: Template,
}

impl ProfileBuilder<'_> {
    pub fn note(&mut self, at: &KeyPath<'_>, what: impl Into<String>, hint: impl Into<String>) {
        self.layers.note(self.problems, at, what, hint);
    }

    /// Notes a problem with what the credential itself says, or does not say.
    pub fn note_in_credential(
        &mut self,
        at: &KeyPath<'_>,
        what: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.problems.problem(at.below(&self.layers.at), what, hint);
    }

    /// Takes the value, or notes why there is none.
    pub fn or_note<T>(&mut self, at: &KeyPath<'_>, result: Result<T, Mistake>) -> Option<T> {
        result
            .map_err(|(what, hint)| self.note(at, what, hint))
            .ok()
    }

    /// Takes the value of the text `source`, or notes why there is none: at the setting, where that
    /// is what makes it wrong.
    pub fn or_blame<T>(
        &mut self,
        at: &KeyPath<'_>,
        source: &str,
        result: Result<T, Mistake>,
    ) -> Option<T> {
        result
            .map_err(|(what, hint)| self.blame(at, source, what, hint))
            .ok()
    }

    /// Notes what is wrong with the value of `source` at `at`. Where that is one setting and
    /// nothing else, the setting is at fault.
    pub fn blame(
        &mut self,
        at: &KeyPath<'_>,
        source: &str,
        what: impl Into<String>,
        hint: impl Into<String>,
    ) {
        let inside = source
            .trim()
            .strip_prefix("{{")
            .and_then(|rest| rest.strip_suffix("}}"));
        let Some(name) = inside
            .map(str::trim)
            .filter(|name| self.settings.contains_key(*name))
            .map(str::to_owned)
        else {
            return self.note(at, what, hint);
        };
        let settings = KeyPath::written("settings");
        let setting = settings.key(&name);
        let default = setting.key("default");
        if !self.chosen.contains(&name) && self.layers.in_a_file(&default) {
            return self.note(&default, what, hint);
        }
        self.note_in_credential(&setting, what, hint);
    }

    /// A template, its names checked. With a mistake in it: noted, and the text stands for it.
    pub fn template(&mut self, at: &KeyPath<'_>, source: &str, site: TemplateSite<'_>) -> Template {
        let template = match Template::parse(source) {
            Ok(template) => template,
            Err(what) => {
                self.note(at, format!("is not a template: {what}"), EXPRESSION);
                return Template::text("");
            }
        };
        let mut right = true;
        for name in template.names() {
            if let Err((what, hint)) = self.allowed(name, site) {
                self.note(at, what, hint);
                right = false;
            }
        }
        if right && !template.is_plain() {
            self.waiting.push(PendingTemplate {
                place: self.layers.place(at),
                template: template.clone(),
            });
        }
        self.seen.extend(template.names().iter().cloned());
        template
    }

    /// A text that is needed at load, so only settings may stand in it.
    pub fn fixed(&mut self, at: &KeyPath<'_>, source: &str) -> Option<String> {
        let template = Template::parse(source)
            .map_err(|what| self.note(at, format!("is not a template: {what}"), EXPRESSION))
            .ok()?;
        let strange: Vec<&String> = template
            .names()
            .iter()
            .filter(|name| !self.settings.contains_key(*name))
            .collect();
        if let Some(name) = strange.first() {
            let hint = known(name, self.settings.keys().map(String::as_str));
            self.note(
                at,
                format!("is needed at load, so it may name settings only, not {name}"),
                hint,
            );
            return None;
        }
        match self.with_settings(&template) {
            Ok(text) => Some(text),
            Err(error) => {
                let hint = "only settings can stand here, and what they are decides it at load";
                self.note(at, format!("cannot be rendered: {}", error.why), hint);
                None
            }
        }
    }

    /// What a template gives with settings alone, if they are all it names.
    pub fn rendered(&self, template: &Template) -> Option<String> {
        if !template
            .names()
            .iter()
            .all(|name| self.settings.contains_key(name))
        {
            return None;
        }
        self.with_settings(template).ok()
    }

    fn with_settings(&self, template: &Template) -> Result<String, RenderError> {
        let scope = Scope {
            settings: Some(&self.settings),
            ..Scope::default()
        };
        template.render(&scope).map(|text| (*text).clone())
    }

    /// One of several words.
    pub fn one_of<T: Copy>(
        &mut self,
        at: &KeyPath<'_>,
        text: Option<&str>,
        default: T,
        words: &[(&str, T)],
    ) -> T {
        self.choice(at, text, default, words).unwrap_or(default)
    }

    /// One of several words, `default` where none is written; `None`: it is another, and that is
    /// noted.
    pub fn choice<T: Copy>(
        &mut self,
        at: &KeyPath<'_>,
        source: Option<&str>,
        default: T,
        words: &[(&str, T)],
    ) -> Option<T> {
        let Some(source) = source else {
            return Some(default);
        };
        let text = self.fixed(at, source)?;
        let found = words
            .iter()
            .find(|(word, _)| *word == text)
            .map(|(_, value)| *value);
        if found.is_none() {
            let all: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            let hint = one_of(&text, all.iter().copied());
            self.blame(
                at,
                source,
                format!("must be one of {}", all.join(", ")),
                hint,
            );
        }
        found
    }

    /// A name of the credential's own that templates can speak of.
    pub fn check_name(&mut self, at: &KeyPath<'_>, name: &str) {
        if !text::identifier(name) {
            self.note(
                at,
                "is no name a template can use (letters, digits, _)",
                name.replace(['-', '.', ' '], "_"),
            );
        }
    }

    /// A duration, where it is one.
    pub fn duration(&mut self, at: &KeyPath<'_>, written: &DurationText) -> Option<Duration> {
        let text = self.fixed(at, &written.0)?;
        self.or_blame(at, &written.0, text::duration(&text))
    }

    /// A duration above zero.
    pub fn positive(
        &mut self,
        at: &KeyPath<'_>,
        written: Option<&DurationText>,
        default: Duration,
    ) -> Duration {
        let Some((written, duration)) =
            written.and_then(|written| Some((written, self.duration(at, written)?)))
        else {
            return default;
        };
        if duration.is_zero() {
            self.blame(
                at,
                &written.0,
                "must be longer than nothing",
                "such as \"30s\"; leave it out for the default",
            );
        }
        duration
    }

    /// A secret that something other than a template needs, so that it must be there even where it
    /// is optional.
    pub fn need_secret(&mut self, at: &KeyPath<'_>, name: &str, why: &str) {
        if !self.any_secret && !self.secrets.contains_key(name) {
            let hint = "declare it in the profile, or choose another client_auth".to_owned();
            self.note(
                at,
                format!("{why} needs a secret {name}, which the profile does not have"),
                hint,
            );
            return;
        }
        self.used.insert(name.to_owned());
        let absent = self
            .given
            .as_ref()
            .is_some_and(|given| !given.contains(name));
        // Where it is not optional, its absence is noted once, with the others.
        if absent && self.any_secret && !self.secrets.contains_key(name) {
            self.note(
                &KeyPath::written("secrets"),
                format!("secret {name} is missing: {why} needs it"),
                format!("give it: secrets = {{ {name} = {{ file = \"…\" }} }}"),
            );
        }
        if let Some(spec) = self.secrets.get_mut(name) {
            spec.optional = false;
        }
    }
}
