//! The fields of an answer that lead somewhere, and the references in each.

use std::{borrow::Cow, cell::Cell};

use http::{
    HeaderName, HeaderValue,
    header::{CONTENT_LOCATION, LINK, LOCATION, REFRESH},
};
use pingora_error::Result;
use pingora_http::ResponseHeader;

const LEADING: [HeaderName; 4] = [LOCATION, CONTENT_LOCATION, REFRESH, LINK];
/// Bytes of references of one answer, and of the client's own path for each, that are looked at:
/// what leads anywhere behind them is taken out unseen, so that no answer costs more than this.
const LOOKED_AT: usize = 1024 * 1024;
/// A look costs as much as so many bytes, however short the reference is.
const LOOK: usize = 256;

/// Whether some field of this answer leads anywhere at all.
#[must_use]
pub fn leading(response: &ResponseHeader) -> bool {
    response.headers.keys().any(|name| LEADING.contains(name))
}

/// Takes out what leads where it may not: whole fields, of `Link` the one link. How many were taken
/// out. `base`: bytes of the path that references are relative to.
///
/// # Errors
/// What is left of a field is no header value.
pub fn take_out(
    response: &mut ResponseHeader,
    base: usize,
    forbidden: impl Fn(&str) -> bool,
) -> Result<usize> {
    let mut count = 0;
    let looked_at = Cell::new(0);
    let forbidden = |reference: &str| {
        looked_at.set(looked_at.get() + LOOK + base + reference.len());
        looked_at.get() > LOOKED_AT || forbidden(reference)
    };
    for name in &LEADING {
        let (mut kept, mut taken): (Vec<HeaderValue>, usize) = (Vec::new(), 0);
        for value in response.headers.get_all(name) {
            let text = String::from_utf8_lossy(value.as_bytes());
            let left = match name {
                name if name == LINK => links(&text, &forbidden),
                name if name == REFRESH && refresh(&text).into_iter().any(&forbidden) => (None, 1),
                name if name != REFRESH && forbidden(text.trim()) => (None, 1),
                _ => (Some(text), 0),
            };
            taken += left.1;
            match left {
                (Some(_), 0) => kept.push(value.clone()),
                (Some(text), _) => kept.extend(HeaderValue::from_bytes(text.as_bytes())),
                (None, _) => {}
            }
        }
        if taken > 0 {
            response.remove_header(name);
            for value in kept {
                response.append_header(name.clone(), value)?;
            }
            count += taken;
        }
    }
    Ok(count)
}

/// Where `Refresh: 5; url=…` may lead: with or without `url=`, in quotes or not (HTML 4.2.5.3).
fn refresh(value: &str) -> Vec<&str> {
    let Some(at) = value.find([';', ',', ' ', '\t']) else {
        return Vec::new();
    };
    let rest = value
        .get(at..)
        .unwrap_or_default()
        .trim_start_matches([';', ',', ' ', '\t']);
    let named = rest
        .get(..3)
        .filter(|word| word.eq_ignore_ascii_case("url"))
        .and_then(|_| rest.get(3..)?.trim_start().strip_prefix('='));
    let mut all = Vec::new();
    for text in [Some(rest), named].into_iter().flatten() {
        let text = text.trim();
        all.push(text);
        if let Some(quote) = text.chars().next().filter(|c| matches!(c, '"' | '\'')) {
            let inner = text.get(1..).unwrap_or_default();
            all.push(inner);
            all.extend(inner.split(quote).next());
        }
    }
    all
}

/// The links that may stay (RFC 8288 3), where some may not; and how many may not.
fn links<'a>(value: &'a str, forbidden: &impl Fn(&str) -> bool) -> (Option<Cow<'a, str>>, usize) {
    let all = split(value);
    let kept: Vec<&str> = all
        .iter()
        .filter(|link| !targets(link).any(forbidden))
        .copied()
        .collect();
    let taken = all.len() - kept.len();
    match kept.is_empty() {
        _ if taken == 0 => (Some(Cow::Borrowed(value)), 0),
        true => (None, taken),
        false => (Some(Cow::Owned(kept.join(", "))), taken),
    }
}

/// At commas outside of `<…>` and of quotes.
fn split(value: &str) -> Vec<&str> {
    let (mut quoted, mut escaped, mut within) = (false, false, false);
    let all = value.split(move |c| {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' if !within => quoted = !quoted,
            '<' if !quoted => within = true,
            '>' if !quoted => within = false,
            ',' => return !quoted && !within,
            _ => {}
        }
        false
    });
    all.map(str::trim).filter(|link| !link.is_empty()).collect()
}

/// What stands between `<` and `>`, in quotes too: not everybody reads them.
fn targets(link: &str) -> impl Iterator<Item = &str> {
    link.split('<')
        .skip(1)
        .map(|rest| rest.split('>').next().unwrap_or_default().trim())
}
