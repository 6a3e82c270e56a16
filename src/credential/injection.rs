//! What one token set puts on a request: rendered once, valid while token numbers, secret epoch and
//! `send_until` agree.

use std::{collections::BTreeMap, fmt, sync::Arc};

use http::{HeaderName, HeaderValue};
use zeroize::Zeroizing;

use crate::{
    clock::BootInstant,
    profile::{Profile, Scope, Template, model::InjectPlace},
    redact::{HiddenWord, Redactor},
    secret::Values,
    token::Token,
};

/// Names that only we may set on a request with this credential: whatever the client sent under
/// them is removed.
#[derive(Debug, Clone, Default)]
pub struct InjectedNames {
    /// Injected headers and those that select a partition; their twins with `_` for `-` are to be
    /// removed as well.
    pub headers: Vec<HeaderName>,
    /// Injected query parameters.
    pub query: Vec<String>,
    /// Injected cookies.
    pub cookies: Vec<String>,
    /// Some template names `secrets.…`.
    pub uses_secrets: bool,
}

/// A value to be placed: ready, or rendered anew for each request.
#[derive(Debug, Clone)]
pub enum InjectedValue {
    /// Marked sensitive.
    Ready(HeaderValue),
    /// It names `now` or `uuid()`.
    PerRequest(Template),
}

/// Everything one token set puts on a request.
pub struct Injection {
    /// Token generations, in the order of the profile.
    pub numbers: Vec<u64>,
    /// Of the secrets it was rendered with.
    pub epoch: u64,
    /// The earliest of its tokens' ends: not to be sent from here on.
    pub send_until: BootInstant,
    /// What is put where, in the order of the profile.
    pub values: Vec<(InjectPlace, InjectedValue)>,
    /// What must not come back in the head of an answer: tokens, their variables, secrets that are
    /// not public, and what was made of them.
    pub redactor: Redactor,
    /// What `PerRequest` values are rendered with.
    inputs: RenderInputs,
}

struct RenderInputs {
    profile: Arc<Profile>,
    tokens: Vec<Arc<Token>>,
    vars: BTreeMap<String, String>,
    partition: Vec<(Arc<str>, String)>,
    values: Option<Values>,
}

impl InjectedNames {
    /// What `profile` injects.
    #[must_use]
    pub fn from_profile(profile: &Profile) -> Self {
        let mut names = Self {
            headers: profile.partition.iter().map(|p| p.header.clone()).collect(),
            ..Self::default()
        };
        for (place, template) in &profile.inject {
            match place {
                InjectPlace::Header(name) => names.headers.push(name.clone()),
                // The client's own wins.
                InjectPlace::HeaderIfAbsent(_) => {}
                InjectPlace::Query(name) => names.query.push(name.clone()),
                InjectPlace::Cookie(name) => names.cookies.push(name.clone()),
            }
            names.uses_secrets |= template.names().iter().any(|n| n.starts_with("secrets."));
        }
        names
    }
}

impl Injection {
    /// Renders what is the same for every request.
    ///
    /// # Errors
    /// In words, without values: a template that cannot be rendered, or a result that cannot be a
    /// header value.
    pub(super) fn render(
        profile: &Arc<Profile>,
        partition: &[(Arc<str>, String)],
        tokens: Vec<Arc<Token>>,
        values: Option<&Values>,
        epoch: u64,
    ) -> Result<Self, String> {
        let mut vars = BTreeMap::new();
        for token in &tokens {
            vars.extend(token.issued.vars.clone());
        }
        let keep_values = profile
            .inject
            .iter()
            .filter(|(_, template)| template.per_request())
            .flat_map(|(_, template)| template.names())
            .any(|n| n.starts_with("secrets."));
        let inputs = RenderInputs {
            profile: profile.clone(),
            vars,
            partition: partition.to_vec(),
            values: values.filter(|_| keep_values).cloned(),
            tokens,
        };
        let mut injected = Vec::with_capacity(profile.inject.len());
        let mut made = Vec::new();
        for (place, template) in &profile.inject {
            let value = if template.per_request() {
                InjectedValue::PerRequest(template.clone())
            } else {
                let ready = inputs
                    .render(template, values)
                    .and_then(|text| header_value(&text))
                    .map_err(|why| format!("{}: {why}", describe_place(place)))?;
                if holds_secret(template, profile) {
                    made.extend(secret_word(&ready));
                }
                InjectedValue::Ready(ready)
            };
            injected.push((place.clone(), value));
        }
        let redactor = Redactor::new(inputs.words(values).chain(made));
        Ok(Self {
            numbers: inputs.tokens.iter().map(|t| t.number).collect(),
            epoch,
            send_until: inputs
                .tokens
                .iter()
                .map(|t| t.send_until)
                .min()
                .unwrap_or(BootInstant::FAR),
            values: injected,
            redactor,
            inputs,
        })
    }

    /// It was rendered as this profile says, and not as that of another configuration.
    pub(super) fn is_of(&self, profile: &Arc<Profile>) -> bool {
        Arc::ptr_eq(&self.inputs.profile, profile)
    }

    /// The text of a value for this request; [`InjectedValue::PerRequest`] ones are rendered now.
    ///
    /// # Errors
    /// In words, without the value, where a rendered value cannot be a header value.
    pub fn render_value(&self, value: &InjectedValue) -> Result<HeaderValue, String> {
        match value {
            InjectedValue::Ready(ready) => Ok(ready.clone()),
            InjectedValue::PerRequest(template) => {
                header_value(&self.inputs.render(template, self.inputs.values.as_ref())?)
            }
        }
    }

    /// What in a value that was made for one request must not come back: its longest word, where a
    /// token or a secret is in it. A value made of `uuid()` and `now` alone is no secret.
    #[must_use]
    pub fn word_of_request(
        &self,
        value: &InjectedValue,
        rendered: &HeaderValue,
    ) -> Option<HiddenWord> {
        match value {
            InjectedValue::PerRequest(template) if holds_secret(template, &self.inputs.profile) => {
                secret_word(rendered)
            }
            _ => None,
        }
    }
}

impl RenderInputs {
    /// Tokens, variables, and secrets that are not public.
    fn words(&self, values: Option<&Values>) -> impl Iterator<Item = HiddenWord> {
        let tokens = self.tokens.iter().map(|t| t.issued.value.clone());
        let vars = self
            .vars
            .values()
            .map(|var| Arc::new(Zeroizing::new(var.clone())));
        let secrets = self.profile.secrets.iter().filter(|(_, spec)| !spec.public);
        let secrets = secrets.filter_map(move |(name, _)| {
            Some(Arc::new(Zeroizing::new(
                values?.get(name)?.expose().to_owned(),
            )))
        });
        tokens.chain(vars).chain(secrets)
    }

    fn render(
        &self,
        template: &Template,
        values: Option<&Values>,
    ) -> Result<Zeroizing<String>, String> {
        let tokens: Vec<(&str, &str)> = self
            .profile
            .tokens
            .iter()
            .zip(&self.tokens)
            .map(|(spec, t)| (&*spec.name, t.issued.value.as_str()))
            .collect();
        let partition: Vec<(&str, &str)> = self
            .partition
            .iter()
            .map(|(n, v)| (&**n, v.as_str()))
            .collect();
        let scope = Scope {
            settings: Some(&self.profile.settings),
            secrets: values,
            tokens: &tokens,
            partition: &partition,
            vars: Some(&self.vars),
            assertion: None,
            wall: None,
        };
        template.render(&scope).map_err(|e| e.why)
    }
}

/// Whether a token is in what this template makes, or a secret that is not called `public`.
fn holds_secret(template: &Template, profile: &Profile) -> bool {
    let is_public = |name: &str| profile.secrets.get(name).is_some_and(|spec| spec.public);
    template
        .names()
        .iter()
        .any(|name| match name.split_once('.') {
            Some(("secrets", secret)) => !is_public(secret),
            Some(("tokens", _)) => true,
            Some(_) => false,
            None => matches!(name.as_str(), "token" | "tokens" | "secrets"),
        })
}

/// A place, as the beginning of what is wrong there.
fn describe_place(place: &InjectPlace) -> String {
    match place {
        InjectPlace::Header(name) | InjectPlace::HeaderIfAbsent(name) => format!("header {name}"),
        InjectPlace::Query(name) | InjectPlace::Cookie(name) => name.clone(),
    }
}

/// The longest word, so without `Bearer`.
fn secret_word(value: &HeaderValue) -> Option<HiddenWord> {
    let longest = value
        .to_str()
        .ok()?
        .split_ascii_whitespace()
        .max_by_key(|word| word.len())?;
    Some(Arc::new(Zeroizing::new(longest.to_owned())))
}

/// Visible ASCII, spaces and tabs (RFC 9110 section 5.5), marked sensitive.
fn header_value(text: &str) -> Result<HeaderValue, String> {
    if !text
        .bytes()
        .all(|b| b == b'\t' || (0x20..0x7f).contains(&b))
    {
        return Err("the rendered value holds characters that no header may have".to_owned());
    }
    let mut value = HeaderValue::from_str(text)
        .map_err(|_| "the rendered value cannot be a header value".to_owned())?;
    value.set_sensitive(true);
    Ok(value)
}

impl fmt::Debug for Injection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Injection")
            .field("numbers", &self.numbers)
            .field("epoch", &self.epoch)
            .finish_non_exhaustive()
    }
}
