//! Which upstream a request is for: by host, by path, or as a forward proxy. Total: any bytes give
//! an answer.

mod path;

use std::{collections::HashMap, sync::Arc};

use crate::net::{default_port, split_authority};

pub use path::is_safe as is_safe_path;

/// Where one upstream answers.
#[derive(Debug, Clone)]
pub struct RouteRule {
    /// `match.path`: a prefix of whole segments, `"/acme"`; `"/"` is every path; `None`: not by
    /// path.
    pub path: Option<String>,
    /// `strip_path`: the prefix that matched is left out of what is sent.
    pub strip_path: bool,
    /// `match.hosts`, lower case, without port.
    pub hosts: Vec<String>,
    /// `match.forward`: the `url` itself is matched for absolute-form requests (and CONNECT).
    pub forward: bool,
    /// Where the requests go.
    pub url: UpstreamUrl,
}

/// Origin and base path of an upstream's `url`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct UpstreamUrl {
    /// The scheme is `https`.
    pub tls: bool,
    /// Lower case; an IPv6 literal without brackets.
    pub host: String,
    /// 1 to 65535; the scheme's own where the `url` names none.
    pub port: u16,
    /// `""` or `"/v2"`: never a trailing slash.
    pub base: String,
}

/// How a request names its target (RFC 9112 3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestTarget<'a> {
    /// Origin-form (`/path`).
    Origin {
        /// The Host field, or HTTP/2's `:authority`, as it was sent.
        host: &'a str,
    },
    /// Absolute-form (`http://host/…`), as a client sends it to a forward proxy.
    Absolute {
        /// In any case; only `http` and `https` match anything.
        scheme: &'a str,
        /// Host and port, as they were sent.
        authority: &'a str,
    },
}

/// The upstream that a request is for, and what to ask it for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteMatch {
    /// Index of the rule in the list that [`Router::new`] was given.
    pub upstream: usize,
    /// Path and query to send, base path in front.
    pub path: String,
    /// The prefix that was taken off, for `rewrite_location`; empty where `strip_path` is off or
    /// the prefix is `/`; `None` where the match was not by path.
    pub stripped: Option<Arc<str>>,
}

/// Why nothing was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteError {
    /// Origin-form: no upstream has this host, and none a path that this one begins with.
    NoRoute,
    /// Absolute-form: no upstream's `url` has this host and port with a base path that this path
    /// lies in, or two fit equally.
    Forbidden,
    /// The path is none that [`is_safe_path`] lets through (a dot segment, however encoded, no
    /// leading slash …), or the query holds white space, a control character or `#`.
    BadPath,
}

/// All rules, ready for look-up.
#[derive(Debug, Default)]
pub struct Router {
    rules: Vec<RouteRule>,
    /// `match.hosts` to rule.
    hosts: HashMap<String, usize>,
    /// `match.path` to rule and what is taken off; `""` is every path.
    paths: HashMap<String, (usize, Arc<str>)>,
    /// Length of the longest key of `paths`: longer prefixes of a request need not be tried.
    longest: usize,
    /// Host of `url` to the rules that answer absolute-form requests for it, longest base path
    /// first.
    forward: HashMap<String, Vec<usize>>,
}

impl Router {
    /// Takes the rules of all upstreams. Each host and path stands in one of them at most: what is
    /// ambiguous was refused with the configuration; here the later one would win.
    #[must_use]
    pub fn new(rules: Vec<RouteRule>) -> Self {
        let mut router = Self::default();
        for (i, rule) in rules.iter().enumerate() {
            for host in &rule.hosts {
                router.hosts.insert(host.clone(), i);
            }
            if let Some(path) = &rule.path {
                let path = path.trim_end_matches('/');
                router.longest = router.longest.max(path.len());
                router.paths.insert(
                    path.to_owned(),
                    (i, if rule.strip_path { path } else { "" }.into()),
                );
            }
            if rule.forward {
                router
                    .forward
                    .entry(rule.url.host.clone())
                    .or_default()
                    .push(i);
            }
        }
        for same_host in router.forward.values_mut() {
            same_host.sort_by_key(|&i| {
                std::cmp::Reverse(rules.get(i).map_or(0, |rule| rule.url.base.len()))
            });
        }
        router.rules = rules;
        router
    }

    /// The upstream of a request, and the path and query to send there. `path_and_query` is what
    /// the client sent, undecoded; what is matched is what is sent on.
    ///
    /// # Errors
    /// [`RouteError`], with the reason: no rule fits, or the path may be sent nowhere.
    pub fn find(
        &self,
        form: RequestTarget<'_>,
        path_and_query: &str,
    ) -> Result<RouteMatch, RouteError> {
        let (path, query) =
            path_and_query.split_at(path_and_query.find('?').unwrap_or(path_and_query.len()));
        if query.bytes().any(|b| matches!(b, b'#' | 0x7f | 0..=b' ')) {
            return Err(RouteError::BadPath);
        }
        match form {
            RequestTarget::Origin { host } => self.find_reverse(host, path, query),
            // An empty path is the same as "/" (RFC 9112, 3.2.2).
            RequestTarget::Absolute { scheme, authority } => self.find_forward(
                scheme,
                authority,
                if path.is_empty() { "/" } else { path },
                query,
            ),
        }
    }

    /// CONNECT: the first rule whose `url` has this host and port (443 where none is named).
    #[must_use]
    pub fn find_connect(&self, authority: &str) -> Option<usize> {
        self.same_origin("https", authority).next().map(|(i, _)| i)
    }

    /// Whether this Host is in some `match.hosts`.
    #[must_use]
    pub fn has_host(&self, host: &str) -> bool {
        self.find_host(host).is_some()
    }

    fn find_host(&self, host: &str) -> Option<usize> {
        split_authority(host)
            .and_then(|(host, _)| self.hosts.get(&*host))
            .copied()
    }

    fn find_reverse(&self, host: &str, path: &str, query: &str) -> Result<RouteMatch, RouteError> {
        if !is_safe_path(path) {
            return Err(RouteError::BadPath);
        }
        if let Some(upstream) = self.find_host(host) {
            return self.build_match(upstream, path, query, None);
        }
        let (upstream, prefix) = self.find_path_prefix(path).ok_or(RouteError::NoRoute)?;
        // What is taken off is a prefix of `path`, or empty.
        self.build_match(
            *upstream,
            path.strip_prefix(&**prefix).unwrap_or(path),
            query,
            Some(prefix.clone()),
        )
    }

    /// The longest prefix of whole segments that some rule has.
    fn find_path_prefix(&self, path: &str) -> Option<&(usize, Arc<str>)> {
        let bytes = path.as_bytes();
        (0..=self.longest.min(bytes.len()))
            .rev()
            .filter(|&end| bytes.get(end).is_none_or(|&b| b == b'/'))
            .find_map(|end| self.paths.get(path.get(..end)?))
    }

    fn find_forward(
        &self,
        scheme: &str,
        authority: &str,
        path: &str,
        query: &str,
    ) -> Result<RouteMatch, RouteError> {
        let mut here = self.same_origin(scheme, authority).peekable();
        // Who asks for a foreign host is told so, whatever the path.
        here.peek().ok_or(RouteError::Forbidden)?;
        if !is_safe_path(path) {
            return Err(RouteError::BadPath);
        }
        let mut fits = here.filter(|(_, rule)| lies_within(path, &rule.url.base));
        let (upstream, rule) = fits.next().ok_or(RouteError::Forbidden)?;
        if fits
            .next()
            .is_some_and(|(_, other)| other.url.base == rule.url.base)
        {
            return Err(RouteError::Forbidden);
        }
        Ok(RouteMatch {
            upstream,
            path: [path, query].concat(),
            stripped: None,
        })
    }

    /// Rules whose `url` has this host and port, longest base path first. `http` and `https` count
    /// as one where neither names another port than its default; otherwise the port decides,
    /// whatever the scheme.
    fn same_origin(
        &self,
        scheme: &str,
        authority: &str,
    ) -> impl Iterator<Item = (usize, &RouteRule)> {
        let tls = scheme.eq_ignore_ascii_case("https");
        let asked = if tls || scheme.eq_ignore_ascii_case("http") {
            split_authority(authority)
        } else {
            None
        };
        let (rules, port) = match &asked {
            Some((host, port)) => (self.forward.get(&**host), port.unwrap_or(default_port(tls))),
            None => (None, 0),
        };
        let usual = port == default_port(tls);
        rules
            .into_iter()
            .flatten()
            .filter_map(|&i| Some((i, self.rules.get(i)?)))
            .filter(move |(_, rule)| {
                let url = &rule.url;
                url.port == port || (usual && url.port == default_port(url.tls))
            })
    }

    fn build_match(
        &self,
        upstream: usize,
        path: &str,
        query: &str,
        stripped: Option<Arc<str>>,
    ) -> Result<RouteMatch, RouteError> {
        let base = &self
            .rules
            .get(upstream)
            .ok_or(RouteError::NoRoute)?
            .url
            .base;
        let slash = if base.is_empty() && path.is_empty() {
            "/"
        } else {
            ""
        };
        Ok(RouteMatch {
            upstream,
            path: [base, slash, path, query].concat(),
            stripped,
        })
    }
}

fn lies_within(path: &str, base: &str) -> bool {
    path.strip_prefix(base)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl UpstreamUrl {
    /// What absolute-form requests could mean it by: host, base path and port, where `None` is the
    /// usual port of either scheme. Two targets that share one of them cannot be told apart.
    pub fn forward_keys(&self) -> impl Iterator<Item = (&str, &str, Option<u16>)> {
        let usual = (self.port == default_port(self.tls)).then_some(None);
        [Some(Some(self.port)), usual]
            .into_iter()
            .flatten()
            .map(|port| (&*self.host, &*self.base, port))
    }
}

#[cfg(test)]
mod tests;
