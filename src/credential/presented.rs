//! What one token set puts on a request: rendered once, valid while token numbers, secret epoch and
//! `send_until` agree.

use std::{collections::BTreeMap, fmt, sync::Arc};

use http::{HeaderName, HeaderValue};
use zeroize::Zeroizing;

use crate::{
    clock::BootInstant,
    profile::{Profile, Scope, Template},
    redact::{HiddenWord, Redactor},
    secret::Values,
    token::Token,
};

/// Names that only we may set on a request with this credential: whatever the client sent under
/// them is removed.
#[derive(Debug, Clone, Default)]
pub struct Placed {
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
pub enum Value {
    /// Marked sensitive.
    Ready(HeaderValue),
    /// It names `now` or `uuid()`.
    PerRequest(Template),
}

/// Everything one token set puts on a request.
pub struct Presented {
    /// Token generations, in the order of the profile.
    pub numbers: Vec<u64>,
    /// Of the secrets it was rendered with.
    pub epoch: u64,
    /// The earliest of its tokens' ends: not to be sent from here on.
    pub send_until: BootInstant,
    /// Header fields that replace the client's.
    pub headers: Vec<(HeaderName, Value)>,
    /// Header fields that are added where the client sends none of that name.
    pub headers_if_absent: Vec<(HeaderName, Value)>,
    /// Query parameters that replace the client's, not yet percent-encoded.
    pub query: Vec<(String, Value)>,
    /// Cookies that replace the client's.
    pub cookies: Vec<(String, Value)>,
    /// What must not come back in the head of an answer: tokens, their variables, secrets that are
    /// not public, and what was made of them.
    pub redactor: Redactor,
    /// What `PerRequest` values are rendered with.
    material: Material,
}

struct Material {
    profile: Arc<Profile>,
    tokens: Vec<Arc<Token>>,
    vars: BTreeMap<String, String>,
    partition: Vec<(Arc<str>, String)>,
    values: Option<Values>,
}

impl Placed {
    /// What `profile` injects.
    #[must_use]
    pub fn of(profile: &Profile) -> Self {
        let inject = &profile.inject;
        let headers = inject
            .headers
            .iter()
            .map(|(n, _)| n)
            .chain(profile.partition.iter().map(|p| &p.header));
        let all = inject
            .headers
            .iter()
            .chain(&inject.headers_if_absent)
            .map(|(_, t)| t);
        let all = all.chain(inject.query.iter().chain(&inject.cookies).map(|(_, t)| t));
        Self {
            headers: headers.cloned().collect(),
            query: inject.query.iter().map(|(n, _)| n.clone()).collect(),
            cookies: inject.cookies.iter().map(|(n, _)| n.clone()).collect(),
            uses_secrets: all
                .flat_map(Template::names)
                .any(|n| n.starts_with("secrets.")),
        }
    }
}

impl Presented {
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
            .headers_if_absent
            .iter()
            .chain(&profile.inject.headers)
            .map(|(_, t)| t);
        let keep_values = keep_values.chain(
            profile
                .inject
                .query
                .iter()
                .chain(&profile.inject.cookies)
                .map(|(_, t)| t),
        );
        let keep_values = keep_values
            .filter(|t| t.per_request())
            .flat_map(Template::names)
            .any(|n| n.starts_with("secrets."));
        let material = Material {
            profile: profile.clone(),
            vars,
            partition: partition.to_vec(),
            values: values.filter(|_| keep_values).cloned(),
            tokens,
        };
        let render = |template: &Template| -> Result<Value, String> {
            if template.per_request() {
                return Ok(Value::PerRequest(template.clone()));
            }
            header_value(&material.text(template, values)?).map(Value::Ready)
        };
        let named = |list: &[(HeaderName, Template)]| -> Result<Vec<(HeaderName, Value)>, String> {
            list.iter()
                .map(|(n, t)| {
                    Ok((
                        n.clone(),
                        render(t).map_err(|why| format!("header {n}: {why}"))?,
                    ))
                })
                .collect()
        };
        let texts = |list: &[(String, Template)]| -> Result<Vec<(String, Value)>, String> {
            list.iter()
                .map(|(n, t)| Ok((n.clone(), render(t).map_err(|why| format!("{n}: {why}"))?)))
                .collect()
        };
        let headers = named(&profile.inject.headers)?;
        let headers_if_absent = named(&profile.inject.headers_if_absent)?;
        let (query, cookies) = (
            texts(&profile.inject.query)?,
            texts(&profile.inject.cookies)?,
        );
        let made = headers
            .iter()
            .map(|(_, v)| v)
            .zip(profile.inject.headers.iter().map(|(_, t)| t));
        let made = made.chain(
            headers_if_absent
                .iter()
                .map(|(_, v)| v)
                .zip(profile.inject.headers_if_absent.iter().map(|(_, t)| t)),
        );
        let made = made.chain(
            query
                .iter()
                .map(|(_, v)| v)
                .zip(profile.inject.query.iter().map(|(_, t)| t)),
        );
        let made = made.chain(
            cookies
                .iter()
                .map(|(_, v)| v)
                .zip(profile.inject.cookies.iter().map(|(_, t)| t)),
        );
        let made = made
            .filter(|(_, template)| holds_secret(template, profile))
            .filter_map(|(value, _)| match value {
                Value::Ready(value) => secret_word(value),
                Value::PerRequest(_) => None,
            });
        let redactor = Redactor::new(material.words(values).chain(made));
        Ok(Self {
            numbers: material.tokens.iter().map(|t| t.number).collect(),
            epoch,
            send_until: material
                .tokens
                .iter()
                .map(|t| t.send_until)
                .min()
                .unwrap_or(BootInstant::FAR),
            headers,
            headers_if_absent,
            query,
            cookies,
            redactor,
            material,
        })
    }

    /// It was rendered as this profile says, and not as that of another configuration.
    pub(super) fn is_of(&self, profile: &Arc<Profile>) -> bool {
        Arc::ptr_eq(&self.material.profile, profile)
    }

    /// The text of a value for this request; [`Value::PerRequest`] ones are rendered now.
    ///
    /// # Errors
    /// In words, without the value, where a rendered value cannot be a header value.
    pub fn text(&self, value: &Value) -> Result<HeaderValue, String> {
        match value {
            Value::Ready(ready) => Ok(ready.clone()),
            Value::PerRequest(template) => header_value(
                &self
                    .material
                    .text(template, self.material.values.as_ref())?,
            ),
        }
    }

    /// What in a value that was made for one request must not come back: its longest word, where a
    /// token or a secret is in it. A value made of `uuid()` and `now` alone is no secret.
    #[must_use]
    pub fn word_of_request(&self, value: &Value, rendered: &HeaderValue) -> Option<HiddenWord> {
        match value {
            Value::PerRequest(template) if holds_secret(template, &self.material.profile) => {
                secret_word(rendered)
            }
            _ => None,
        }
    }
}

impl Material {
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

    fn text(
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

impl fmt::Debug for Presented {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Presented")
            .field("numbers", &self.numbers)
            .field("epoch", &self.epoch)
            .finish_non_exhaustive()
    }
}
