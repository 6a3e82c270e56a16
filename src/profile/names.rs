//! While a profile is built: where problems go, and what its templates may name.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    layers::{self, Layers},
    model::SecretSpec,
    template::Template,
    trial::Waiting,
    values::Wrong,
};
use crate::{
    problem::{Problems, known, one_of},
    profile::{RenderError, Scope},
};

/// Names that are no settings.
pub(super) const RESERVED: [&str; 8] = [
    "secrets",
    "token",
    "tokens",
    "partition",
    "vars",
    "assertion",
    "now",
    "uuid",
];

const EXPRESSION: &str = "an expression stands between {{ and }}, such as {{ secrets.client_id }} or {{ now | date(\"%Y\") }}";

/// Everything known of a profile before its tokens are read.
pub(super) struct Build<'a> {
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
    pub waiting: Vec<Waiting>,
}

/// Where a template stands decides what it may name.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place<'p> {
    /// In a token's request.
    Request(&'p str),
    /// In a token's assertion, which cannot name itself.
    Assertion(&'p str),
    /// On requests to the upstream.
    Inject,
}

impl Build<'_> {
    pub fn note(&mut self, path: &[&str], what: impl Into<String>, hint: impl Into<String>) {
        self.layers.note(self.problems, path, what, hint);
    }

    /// Takes the value, or notes why there is none.
    pub fn or_note<T>(&mut self, path: &[&str], result: Result<T, Wrong>) -> Option<T> {
        result
            .map_err(|(what, hint)| self.note(path, what, hint))
            .ok()
    }

    /// The same for a text that may be wrong only because a setting is.
    pub fn or_blame<T>(
        &mut self,
        path: &[&str],
        source: &str,
        result: Result<T, Wrong>,
    ) -> Option<T> {
        result
            .map_err(|(what, hint)| self.blame(path, source, what, hint))
            .ok()
    }

    /// Notes what is wrong with the value of `source` at `path`. Where that is one setting and
    /// nothing else, the setting is at fault.
    pub fn blame(
        &mut self,
        path: &[&str],
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
            return self.note(path, what, hint);
        };
        if !self.chosen.contains(&name) && self.layers.in_a_file(&["settings", &name, "default"]) {
            return self.note(&["settings", &name, "default"], what, hint);
        }
        self.problems.problem(
            layers::dotted(&self.layers.at, &["settings", &name]),
            what,
            hint,
        );
    }

    /// A template, its names checked. With a mistake in it: noted, and the text stands for it.
    pub fn template(&mut self, path: &[&str], source: &str, place: Place<'_>) -> Template {
        let template = match Template::parse(source) {
            Ok(template) => template,
            Err(what) => {
                self.note(path, format!("is not a template: {what}"), EXPRESSION);
                return Template::text("");
            }
        };
        let mut right = true;
        for name in template.names() {
            if let Err((what, hint)) = self.allowed(name, place) {
                self.note(path, what, hint);
                right = false;
            }
        }
        if right && !template.is_plain() {
            self.waiting.push(Waiting {
                path: path.iter().map(|part| (*part).to_owned()).collect(),
                template: template.clone(),
            });
        }
        self.seen.extend(template.names().iter().cloned());
        template
    }

    /// A text that is needed at load, so only settings may stand in it.
    pub fn fixed(&mut self, path: &[&str], source: &str) -> Option<String> {
        let template = Template::parse(source)
            .map_err(|what| self.note(path, format!("is not a template: {what}"), EXPRESSION))
            .ok()?;
        let strange: Vec<&String> = template
            .names()
            .iter()
            .filter(|name| !self.settings.contains_key(*name))
            .collect();
        if let Some(name) = strange.first() {
            let hint = known(name, self.settings.keys().map(String::as_str));
            self.note(
                path,
                format!("is needed at load, so it may name settings only, not {name}"),
                hint,
            );
            return None;
        }
        match self.with_settings(&template) {
            Ok(text) => Some(text),
            Err(error) => {
                let hint = "only settings can stand here, and what they are decides it at load";
                self.note(path, format!("cannot be rendered: {}", error.why), hint);
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
        path: &[&str],
        text: Option<&str>,
        default: T,
        words: &[(&str, T)],
    ) -> T {
        self.choice(path, text, default, words).unwrap_or(default)
    }

    /// The same, for those who must know that the word was wrong.
    pub fn choice<T: Copy>(
        &mut self,
        path: &[&str],
        source: Option<&str>,
        default: T,
        words: &[(&str, T)],
    ) -> Option<T> {
        let Some(source) = source else {
            return Some(default);
        };
        let text = self.fixed(path, source)?;
        let found = words
            .iter()
            .find(|(word, _)| *word == text)
            .map(|(_, value)| *value);
        if found.is_none() {
            let all: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            let hint = one_of(&text, all.iter().copied());
            self.blame(
                path,
                source,
                format!("must be one of {}", all.join(", ")),
                hint,
            );
        }
        found
    }

    /// A secret that something other than a template needs, so that it must be there even where it
    /// is optional.
    pub fn need_secret(&mut self, path: &[&str], name: &str, why: &str) {
        if !self.any_secret && !self.secrets.contains_key(name) {
            let hint = "declare it in the profile, or choose another client_auth".to_owned();
            self.note(
                path,
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
                &["secrets"],
                format!("secret {name} is missing: {why} needs it"),
                format!("give it: secrets = {{ {name} = {{ file = \"…\" }} }}"),
            );
        }
        if let Some(spec) = self.secrets.get_mut(name) {
            spec.optional = false;
        }
    }

    fn allowed(&mut self, name: &str, place: Place<'_>) -> Result<(), (String, String)> {
        let mut parts = name.split('.');
        let first = parts.next().unwrap_or_default();
        let (second, third) = (parts.next(), parts.next());
        let own = match place {
            Place::Request(own) | Place::Assertion(own) => Some(own),
            Place::Inject => None,
        };
        let member = || {
            second.ok_or_else(|| {
                (
                    format!("names {first} as a whole"),
                    format!("name one: {first}.NAME"),
                )
            })
        };
        let texts = || "texts have no parts; filters such as `split` take them apart".to_owned();
        match (first, second) {
            ("secrets" | "tokens" | "partition" | "vars" | "now", Some(second))
                if third.is_some() =>
            {
                return Err((
                    format!("names a part of {first}.{second}, which has none"),
                    texts(),
                ));
            }
            ("token" | "assertion", Some(_)) => {
                return Err((format!("names a part of {first}, which has none"), texts()));
            }
            ("uuid", Some(_)) => {
                return Err((
                    "names a part of uuid, which has none".into(),
                    "write {{ uuid() }}".into(),
                ));
            }
            _ => {}
        }
        match first {
            "secrets" => self.secret(member()?),
            "tokens" => {
                let token = member()?;
                if Some(token) == own {
                    return Err((
                        format!("a token cannot be made with itself (tokens.{token})"),
                        "name another token, or none".into(),
                    ));
                }
                among(
                    sorted(&self.tokens, token),
                    self.tokens.iter(),
                    "token",
                    token,
                )
            }
            "token" if own.is_some() => Err((
                "a token's request has no `token`".into(),
                "name another one: tokens.NAME".into(),
            )),
            "token" if self.tokens.is_empty() => Err((
                "there is no token".into(),
                "say under tokens how to get one, or put a secret here: {{ secrets.NAME }}".into(),
            )),
            "partition" => {
                let partition = member()?;
                among(
                    sorted(&self.partitions, partition),
                    self.partitions.iter(),
                    "partition",
                    partition,
                )
            }
            "vars" => {
                let var = member()?;
                if own.is_some() && self.vars.get(var).map(String::as_str) == own {
                    return Err((
                        format!("vars.{var} comes from this token's own answer"),
                        "it is known only afterwards: take it from another token's answer".into(),
                    ));
                }
                among(
                    self.vars.contains_key(var),
                    self.vars.keys(),
                    "variable",
                    var,
                )
            }
            "assertion" if matches!(place, Place::Request(_)) => Ok(()),
            "assertion" => Err((
                "an assertion can be named in a token's request only".into(),
                "name the token that it gets: {{ token }}".into(),
            )),
            "now" if second.is_none_or(|part| part == "epoch") => Ok(()),
            "now" => Err((
                "of now there is now.epoch only".into(),
                "for other forms: now | date(\"%Y-%m-%d\")".into(),
            )),
            "token" | "uuid" => Ok(()),
            _ => {
                among(
                    self.settings.contains_key(first),
                    self.settings.keys(),
                    "setting",
                    first,
                )?;
                second.map_or(Ok(()), |_| {
                    Err((
                        format!("names a part of setting {first}, which has none"),
                        texts(),
                    ))
                })
            }
        }
    }

    fn secret(&mut self, name: &str) -> Result<(), (String, String)> {
        self.used.insert(name.to_owned());
        if self.secrets.contains_key(name) {
            return Ok(());
        }
        if !self.any_secret {
            return among(false, self.secrets.keys(), "secret", name);
        }
        match &self.given {
            Some(given) if !given.contains(name) => among(false, given.iter(), "secret", name),
            _ => Ok(()),
        }
    }
}

fn sorted(names: &[String], name: &str) -> bool {
    names
        .binary_search_by(|other| other.as_str().cmp(name))
        .is_ok()
}

fn among<'k>(
    found: bool,
    names: impl Iterator<Item = &'k String>,
    what: &str,
    name: &str,
) -> Result<(), (String, String)> {
    if found {
        Ok(())
    } else {
        Err((
            format!("names an unknown {what}: {name}"),
            known(name, names.map(String::as_str)),
        ))
    }
}
