//! `inject`: what is put on requests.

use std::collections::BTreeMap;

use super::{
    builder::{ProfileBuilder, TemplateSite},
    file::InjectTable,
    model::{Inject, InjectPlace},
    params::headers,
    template::Template,
    text,
};
use crate::document::{KeyPath, Mistake};

/// `inject`
pub(super) fn inject(b: &mut ProfileBuilder<'_>, table: &InjectTable) -> Inject {
    let (at, site) = (KeyPath::written("inject"), TemplateSite::Inject);
    let always = headers(b, &at.key("headers"), &table.headers, site);
    let if_absent = headers(
        b,
        &at.key("headers_if_absent"),
        &table.headers_if_absent,
        site,
    );
    for (name, _) in if_absent
        .iter()
        .filter(|(name, _)| always.iter().any(|(other, _)| other == name))
    {
        b.note(
            &at.key("headers_if_absent").key(name.as_str()),
            "stands in headers too, which always wins",
            "keep it in one of the two",
        );
    }
    let query = texts(b, &at.key("query"), &table.query, |name| {
        if name.is_empty() {
            Err(("has no name", "write NAME = \"value\""))
        } else {
            Ok(())
        }
    });
    let cookies = texts(b, &at.key("cookies"), &table.cookies, text::cookie);
    let headers = always.into_iter().map(|(n, t)| (InjectPlace::Header(n), t));
    let if_absent = if_absent
        .into_iter()
        .map(|(n, t)| (InjectPlace::HeaderIfAbsent(n), t));
    let query = query.into_iter().map(|(n, t)| (InjectPlace::Query(n), t));
    let cookies = cookies
        .into_iter()
        .map(|(n, t)| (InjectPlace::Cookie(n), t));
    headers
        .chain(if_absent)
        .chain(query)
        .chain(cookies)
        .collect()
}

fn texts(
    b: &mut ProfileBuilder<'_>,
    at: &KeyPath<'_>,
    table: &BTreeMap<String, String>,
    check: fn(&str) -> Result<(), Mistake>,
) -> Vec<(String, Template)> {
    let mut out = Vec::new();
    for (name, text) in table {
        let at = at.key(name);
        b.or_note(&at, check(name));
        out.push((name.clone(), b.template(&at, text, TemplateSite::Inject)));
    }
    out
}
