//! What a template may name, by where it stands.

use super::builder::{ProfileBuilder, TemplateSite};
use crate::document::known;

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

impl ProfileBuilder<'_> {
    /// Whether a template at `site` may name `name`.
    pub(super) fn allowed(
        &mut self,
        name: &str,
        site: TemplateSite<'_>,
    ) -> Result<(), (String, String)> {
        let mut parts = name.split('.');
        let first = parts.next().unwrap_or_default();
        let (second, third) = (parts.next(), parts.next());
        let own = match site {
            TemplateSite::Request(own) | TemplateSite::Assertion(own) => Some(own),
            TemplateSite::Inject => None,
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
            "assertion" if matches!(site, TemplateSite::Request(_)) => Ok(()),
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
