//! Where a reference in an answer leads, read as any client may read it: to which upstream of ours,
//! if to one.

use std::{
    borrow::Cow,
    collections::BTreeSet,
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

use url::{Host, Url};

use super::{merged, scheme, without_dots};
use crate::{
    net::{default_port, is_localhost, is_loopback, split_authority},
    route::{RequestTarget, Router},
};

/// Below this path tokens are vended, whatever the upstreams are.
const VENDING: &str = "/.cupbearer/";

/// How the client came in, and what else leads to us.
pub struct Door<'a> {
    pub router: &'a Router,
    /// Further names of ours: `proxy.hosts`.
    pub hosts: &'a [String],
    /// `browser = "allow"`: path routing answers to any name, so each may be one of ours.
    pub any_name: bool,
    /// The admin port's address, where it is one.
    pub admin: Option<SocketAddr>,
    /// Ports of ours, as far as they are known; the one that the client named counts besides.
    pub ports: Vec<u16>,
    /// Addresses of ours that are not loopback.
    pub addresses: Vec<IpAddr>,
    /// The client's own words.
    pub form: RequestTarget<'a>,
    pub path: &'a str,
}

/// What a reference leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lead {
    /// By its index in the snapshot.
    Upstream(usize),
    /// The path under which tokens are handed out.
    Vending,
    /// The admin port, which is nobody's to lead to.
    Admin,
}

/// One reading of a reference.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Reading {
    tls: bool,
    host: String,
    port: Option<u16>,
    path: String,
}

impl Door<'_> {
    /// Everything of ours to which some client may go with this reference. Browsers, libraries and
    /// curl do not read all of them alike (backslashes, user information, `http:/x`), and what one
    /// of them takes for us counts. Time grows as the reference and the client's path do.
    #[must_use]
    pub fn leads(&self, reference: &str) -> BTreeSet<Lead> {
        let mut found = BTreeSet::new();
        for reading in self.readings(reference) {
            let Some(host) = normal(&reading.host) else {
                continue;
            };
            let authority = host.to_string();
            if self.is_admin(&host, reading.port, reading.tls) {
                found.insert(Lead::Admin);
            }
            if self.is_ours(&host, reading.port, reading.tls) {
                if reading.path.starts_with(VENDING) && !self.router.has_host(&authority) {
                    found.insert(Lead::Vending);
                }
                let hit = self
                    .router
                    .find(RequestTarget::Origin { host: &authority }, &reading.path);
                found.extend(hit.ok().map(|hit| Lead::Upstream(hit.upstream)));
            }
            // Who sends everything through us comes back with that, too.
            if let RequestTarget::Absolute { .. } = self.form {
                let authority = reading
                    .port
                    .map_or(authority.clone(), |port| format!("{authority}:{port}"));
                let scheme = if reading.tls { "https" } else { "http" };
                let hit = self.router.find(
                    RequestTarget::Absolute {
                        scheme,
                        authority: &authority,
                    },
                    &reading.path,
                );
                found.extend(hit.ok().map(|hit| Lead::Upstream(hit.upstream)));
            }
        }
        found
    }

    /// Scheme and authority that the client used.
    fn own(&self) -> (bool, &str) {
        match self.form {
            RequestTarget::Origin { host } => (false, host),
            RequestTarget::Absolute { scheme, authority } => {
                (scheme.eq_ignore_ascii_case("https"), authority)
            }
        }
    }

    fn readings(&self, reference: &str) -> BTreeSet<Reading> {
        let mut found = BTreeSet::new();
        let (tls, authority) = self.own();
        let own_path = if self.path.starts_with('/') {
            self.path
        } else {
            "/"
        };
        // Browsers, and libraries that follow the WHATWG's URL standard.
        let base = Url::parse(&format!(
            "{}://{authority}{own_path}",
            if tls { "https" } else { "http" }
        ));
        if let Some(url) = base
            .ok()
            .or_else(|| Url::parse("http://localhost/").ok())
            .and_then(|base| base.join(reference).ok())
            && let Some(secure) = is_secure(url.scheme())
            && let Some(host) = url.host_str()
        {
            found.insert(Reading {
                tls: secure,
                host: host.to_owned(),
                port: url.port(),
                path: url.path().to_owned(),
            });
        }
        // RFC 3986, with backslashes as they are and as slashes.
        let reference = reference
            .split(['?', '#'])
            .next()
            .unwrap_or_default()
            .trim();
        let slashed = if reference.contains('\\') {
            Cow::Owned(reference.replace('\\', "/"))
        } else {
            Cow::Borrowed(reference)
        };
        for text in [reference, &slashed] {
            let (scheme, hier) = scheme(text);
            let secure = match scheme {
                None => tls,
                Some(scheme) => match is_secure(scheme) {
                    Some(secure) => secure,
                    None => continue,
                },
            };
            if scheme.is_some() || hier.starts_with("//") {
                // However many slashes: curl takes one to three.
                found.extend(reading(secure, hier.trim_start_matches('/')));
            }
            if !hier.starts_with("//") {
                found.extend(reading(tls, authority).map(|own| Reading {
                    path: without_dots(&merged(own_path, hier)),
                    ..own
                }));
            }
        }
        found
    }

    /// A name may be any of this host's, so the port decides.
    fn is_admin(&self, host: &Host, port: Option<u16>, tls: bool) -> bool {
        let Some(admin) = self
            .admin
            .filter(|admin| admin.port() == port.unwrap_or(default_port(tls)))
        else {
            return false;
        };
        let at = |ip: IpAddr| is_here(ip) || ip.to_canonical() == admin.ip().to_canonical();
        match host {
            Host::Ipv4(ip) => at((*ip).into()),
            Host::Ipv6(ip) => at((*ip).into()),
            Host::Domain(name) => is_localhost(name),
        }
    }

    fn is_ours(&self, host: &Host, port: Option<u16>, tls: bool) -> bool {
        // By which the client found us; in absolute form it is the vendor's.
        let own = if let RequestTarget::Origin { host } = self.form {
            split_authority(host)
        } else {
            None
        };
        let own_port = own.as_ref().and_then(|(_, port)| *port);
        let port = port.unwrap_or(default_port(tls));
        let own_door = own_port.map_or(port == 80 || port == 443, |own| own == port);
        if !(self.ports.contains(&port) || own.is_some() && own_door) {
            return false;
        }
        let named = |name: &str| {
            self.any_name
                || is_localhost(name)
                || self.router.has_host(name)
                || self.hosts.iter().any(|h| h.eq_ignore_ascii_case(name))
        };
        let ours = match host {
            Host::Ipv4(ip) => {
                is_here((*ip).into())
                    || self.addresses.contains(&(*ip).into())
                    || named(&ip.to_string())
            }
            Host::Ipv6(ip) => {
                is_here((*ip).into())
                    || self.addresses.contains(&ip.to_canonical())
                    || named(&ip.to_string())
            }
            Host::Domain(name) => named(name),
        };
        // The name by which the client found us, whatever it is.
        ours || own
            .and_then(|(name, _)| normal(&name))
            .is_some_and(|own| own == *host)
    }
}

/// Whether a scheme by which one comes to us is over TLS; `None`: by this one nobody does. A
/// WebSocket begins as a request of HTTP (RFC 6455 3).
fn is_secure(scheme: &str) -> Option<bool> {
    let is = |other: &str| scheme.eq_ignore_ascii_case(other);
    if is("https") || is("wss") {
        Some(true)
    } else {
        (is("http") || is("ws")).then_some(false)
    }
}

/// An address of this host, from wherever it is looked at.
fn is_here(ip: IpAddr) -> bool {
    is_loopback(ip) || ip.to_canonical().is_unspecified()
}

/// What stands before the path is an authority: behind the last `@`, for what is before it is user
/// information.
fn reading(tls: bool, text: &str) -> Option<Reading> {
    let (authority, path) = text.split_at(text.find('/').unwrap_or(text.len()));
    let authority = authority.rsplit('@').next().unwrap_or_default();
    let (host, port) = match authority
        .rfind(':')
        .filter(|at| !authority.get(*at..).unwrap_or_default().contains(']'))
    {
        Some(at) => (authority.get(..at)?, authority.get(at + 1..)?),
        None => (authority, ""),
    };
    let port = if port.is_empty() {
        None
    } else {
        Some(port.parse().ok()?)
    };
    (!host.is_empty()).then(|| Reading {
        tls,
        host: host.to_owned(),
        port,
        path: if path.is_empty() {
            "/".to_owned()
        } else {
            without_dots(path)
        },
    })
}

/// A host in one spelling: percent-decoded, in small letters, without a dot at its end, addresses
/// as such however they are written.
fn normal(host: &str) -> Option<Host> {
    // As `route` writes an IPv6 address.
    if let Ok(ip) = host.parse::<Ipv6Addr>() {
        return Some(Host::Ipv6(ip));
    }
    match Host::parse(host).ok()? {
        Host::Domain(name) => match Host::parse(name.trim_end_matches('.')).ok()? {
            Host::Domain(name) => Some(Host::Domain(name.to_ascii_lowercase())),
            ip => Some(ip),
        },
        ip => Some(ip),
    }
}
