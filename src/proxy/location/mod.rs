//! Where an answer sends its client: never to another upstream of ours with another credential,
//! and, where a request was matched by path, through us again to where the vendor meant.

mod fields;
mod leads;
#[cfg(test)]
mod tests;

use std::{borrow::Cow, net::SocketAddr};

use http::header::LOCATION;
use percent_encoding::{AsciiSet, CONTROLS, percent_encode};
use pingora_error::Result;
use pingora_http::{RequestHeader, ResponseHeader};

use super::{admit, chosen::Chosen, inject::authority};
use crate::{
    config::ListenAddress,
    net::{default_port, split_authority},
    route::{RequestTarget, UpstreamUrl},
    snapshot::Snapshot,
};
use leads::{Door, Lead};

/// What no URL holds as it is; clients leave some of it out, so that nobody could tell what they
/// make of the rest.
const FOREIGN: &AsciiSet = &CONTROLS.add(b' ');

/// Takes out of `Location`, `Content-Location`, `Refresh` and `Link` what leads the client of
/// `asked` to another upstream with another credential, to where tokens are vended, or to the admin
/// port: a client that follows would spend that token on what this vendor says. `here`: our end of
/// the client's connection. How many were taken out.
///
/// # Errors
/// What is left is no header value.
pub fn keep_in(
    response: &mut ResponseHeader,
    asked: &RequestHeader,
    here: Option<SocketAddr>,
    chosen: &Chosen,
    snapshot: &Snapshot,
) -> Result<usize> {
    if !fields::leading(response) {
        return Ok(0);
    }
    let Ok(asked) = admit::asked(asked) else {
        return Ok(0);
    };
    let proxy = &snapshot.config.proxy;
    let listens = proxy.listen.iter().filter_map(|listen| match listen {
        ListenAddress::Tcp(address) => Some(*address),
        ListenAddress::Unix(_) => None,
    });
    let all: Vec<SocketAddr> = listens.chain(here).collect();
    let door = Door {
        router: &snapshot.router,
        hosts: &proxy.hosts,
        any_name: !proxy.browser_deny,
        admin: if let ListenAddress::Tcp(address) = snapshot.config.admin.listen {
            Some(address)
        } else {
            None
        },
        ports: all
            .iter()
            .map(SocketAddr::port)
            .filter(|port| *port != 0)
            .collect(),
        addresses: all
            .iter()
            .map(|address| address.ip().to_canonical())
            .collect(),
        form: asked.form,
        path: asked.path.split('?').next().unwrap_or_default(),
    };
    fields::take_out(response, door.path.len(), |reference| {
        door.leads(reference).into_iter().any(|lead| match lead {
            Lead::Vending | Lead::Admin => true,
            Lead::Upstream(number) => snapshot.upstreams.get(number).is_some_and(|other| {
                let (other, own) = (&other.upstream, &chosen.upstream);
                other.credential.is_some()
                    && other.credential != own.credential
                    && !own.redirects_to.contains(&other.name)
            }),
        })
    })
}

/// What leads to a place within the upstream's `url` is written so that it leads there through us.
/// Any other reference without a host is made a URL of the vendor's.
///
/// # Errors
/// What was made of it is no header value.
pub fn rewrite(response: &mut ResponseHeader, chosen: &Chosen, snapshot: &Snapshot) -> Result<()> {
    let Some(prefix) = chosen
        .stripped
        .as_deref()
        .filter(|_| chosen.upstream.rewrite_location)
    else {
        return Ok(());
    };
    let mut all = response.headers.get_all(LOCATION).iter();
    let Some(raw) = all.next() else { return Ok(()) };
    let several = all.next().is_some();
    let told: Cow<'_, str> = percent_encode(raw.as_bytes().trim_ascii(), FOREIGN).into();
    let here = |path: &str| {
        let hit = snapshot
            .router
            .find(RequestTarget::Origin { host: "" }, path)
            .ok();
        let served = hit.and_then(|hit| snapshot.upstreams.get(hit.upstream));
        served.is_some_and(|served| served.upstream.name == chosen.upstream.name)
    };
    let new = Place {
        target: &chosen.upstream.target,
        prefix,
        sent: &chosen.path,
    }
    .of(&told, here);
    // Of several, which nobody may send, each client would choose its own.
    let new =
        new.or_else(|| (several || told.as_bytes() != raw.as_bytes()).then(|| told.into_owned()));
    new.map_or(Ok(()), |new| response.insert_header(LOCATION, new))
}

struct Place<'a> {
    target: &'a UpstreamUrl,
    /// Our path for the base path.
    prefix: &'a str,
    /// What references are relative to, as the vendor knows it.
    sent: &'a str,
}

impl Place<'_> {
    /// What to say instead. `here`: whether path and query come to this upstream.
    fn of(&self, told: &str, here: impl Fn(&str) -> bool) -> Option<String> {
        let end = told.find(['?', '#']).unwrap_or(told.len());
        let (reference, rest) = told.split_at(end);
        // To browsers it is the same.
        let reference = if reference.contains('\\') {
            Cow::Owned(reference.replace('\\', "/"))
        } else {
            Cow::Borrowed(reference)
        };
        let query = rest.split('#').next().unwrap_or_default();
        let ours = |path: &str| self.ours(path).filter(|new| here(&[new, query].concat()));
        let (scheme, hier) = scheme(&reference);
        if let Some(after) = hier.strip_prefix("//") {
            let path = within(after, scheme, self.target)?;
            return Some(ours(&without_dots(path))? + rest);
        }
        // A scheme alone is left out by many clients where it is the one they came by.
        let bare = scheme.is_none();
        if hier.is_empty() && bare || scheme.is_some_and(|s| !s.eq_ignore_ascii_case("http")) {
            return None;
        }
        let resolved = without_dots(&merged(self.sent, hier));
        let new = ours(&resolved);
        let own = self.ours(self.sent.split('?').next().unwrap_or_default());
        let seen = own.map(|own| without_dots(&merged(&own, hier)));
        if bare && new.is_some() && new == seen {
            return None;
        }
        let origin = || {
            format!(
                "{}://{}{resolved}",
                if self.target.tls { "https" } else { "http" },
                authority(self.target)
            )
        };
        Some(new.unwrap_or_else(origin) + rest)
    }

    /// The path on this port of one at the vendor.
    fn ours(&self, path: &str) -> Option<String> {
        let rest = path
            .strip_prefix(self.target.base.as_str())
            .filter(|rest| rest.is_empty() || rest.starts_with('/'))?;
        let new = format!("{}{rest}", self.prefix);
        // "//x" would name another host.
        if new.starts_with("//") {
            return None;
        }
        Some(if new.is_empty() { "/".to_owned() } else { new })
    }
}

/// The scheme, where there is one, and what follows its colon.
fn scheme(reference: &str) -> (Option<&str>, &str) {
    let word = |s: &str| {
        s.starts_with(|c: char| c.is_ascii_alphabetic())
            && s.bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
    };
    match reference.split_once(':') {
        Some((scheme, rest)) if word(scheme) => (Some(scheme), rest),
        _ => (None, reference),
    }
}

/// Path of `rest` (`host:port/path`), if it is the target's origin.
fn within<'a>(rest: &'a str, scheme: Option<&str>, target: &UpstreamUrl) -> Option<&'a str> {
    let tls = match scheme {
        None => target.tls,
        Some(s) if s.eq_ignore_ascii_case("https") => true,
        Some(s) if s.eq_ignore_ascii_case("http") => false,
        Some(_) => return None,
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let (host, port) = split_authority(authority)?;
    let port = port.unwrap_or(default_port(tls));
    (tls == target.tls && *host == *target.host && port == target.port).then_some(path)
}

/// A reference's path, seen from `base` (RFC 3986 5.2.3).
fn merged(base: &str, reference: &str) -> String {
    let base = base.split('?').next().unwrap_or_default();
    if reference.starts_with('/') {
        return reference.to_owned();
    }
    if reference.is_empty() {
        return base.to_owned();
    }
    let folder = base
        .rfind('/')
        .map_or("/", |at| base.get(..=at).unwrap_or("/"));
    [folder, reference].concat()
}

/// RFC 3986 5.2.4. `%2e` is a dot (6.2.2.2), and browsers take it for one here.
fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        match dots(segment) {
            Some(0 | 3..) | None => {
                kept.push(segment);
                continue;
            }
            Some(1) => {}
            Some(2) => drop(kept.pop()),
        }
        if segments.peek().is_none() {
            kept.push("");
        }
    }
    if path.is_empty() {
        String::new()
    } else {
        format!("/{}", kept.join("/"))
    }
}

/// How many dots a segment is, where it is nothing else.
fn dots(mut segment: &str) -> Option<usize> {
    let mut count = 0;
    while !segment.is_empty() {
        segment = segment
            .strip_prefix('.')
            .or_else(|| segment.strip_prefix("%2e"))
            .or_else(|| segment.strip_prefix("%2E"))?;
        count += 1;
    }
    Some(count)
}
