//! Parameters and headers: templates by name, checked as far as settings go.

use std::collections::BTreeMap;

use http::HeaderName;
use serde_json::Value;

use super::{
    builder::{ProfileBuilder, TemplateSite},
    model::Param,
    template::Template,
    text,
};
use crate::document::KeyPath;

/// A table of parameters, or of claims.
pub(super) fn params(
    b: &mut ProfileBuilder<'_>,
    at: &KeyPath<'_>,
    table: &BTreeMap<String, Value>,
    site: TemplateSite<'_>,
) -> BTreeMap<String, Param> {
    table
        .iter()
        .map(|(name, value)| (name.clone(), param(b, &at.key(name), value, site)))
        .collect()
}

fn param(
    b: &mut ProfileBuilder<'_>,
    at: &KeyPath<'_>,
    value: &Value,
    site: TemplateSite<'_>,
) -> Param {
    match value {
        Value::String(text) => Param::Text(b.template(at, text, site)),
        Value::Bool(yes) => Param::Bool(*yes),
        Value::Number(n) => Param::Number(n.clone()),
        Value::Array(list) => {
            let items = list.iter().enumerate();
            Param::List(
                items
                    .map(|(i, item)| param(b, &at.index(i), item, site))
                    .collect(),
            )
        }
        Value::Object(table) => Param::Table(
            table
                .iter()
                .map(|(name, item)| (name.clone(), param(b, &at.key(name), item, site)))
                .collect(),
        ),
        Value::Null => Param::Text(Template::text("")),
    }
}

/// A table of headers, checked as far as settings go.
pub(super) fn headers(
    b: &mut ProfileBuilder<'_>,
    at: &KeyPath<'_>,
    table: &BTreeMap<String, String>,
    site: TemplateSite<'_>,
) -> Vec<(HeaderName, Template)> {
    let mut out = Vec::new();
    for (name, text) in table {
        let at = at.key(name);
        let header = b.or_note(&at, text::settable(name));
        let template = b.template(&at, text, site);
        if let Some(value) = b.rendered(&template) {
            b.or_blame(&at, text, text::header_value(&value));
        }
        out.extend(header.map(|header| (header, template)));
    }
    out
}
