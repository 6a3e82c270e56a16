//! The only sender of token calls (reqwest).

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::Host;
use zeroize::Zeroizing;

use super::{
    assertion::CLOCK_SET,
    coding::{self, DecodeError},
    request::TokenRequest,
    response::{ResponseBody, TokenResponse},
    transport_error,
};
use crate::{
    clock::BootInstant,
    hash::sha256_of_parts,
    lock::Lock,
    tls::{Tls, TlsMaterial},
    token::{Failure, FailureClass, FailureKind},
};

/// Largest answer that is read, after its content codings are undone.
const MAX_BODY: usize = 64 * 1024;
/// And before: what cannot be made smaller is made a little larger by them.
const MAX_PACKED: usize = MAX_BODY + 4 * 1024;
/// Longer than this nobody keeps an idle connection for us.
const POOL_IDLE: Duration = Duration::from_secs(90);
/// A `server_name` is bound to one client per host; token URLs come from configuration, so there
/// are few.
const MAX_NAMED_CLIENTS: usize = 64;

/// A reqwest client for one `tls` table; connections are reused. Never reads proxy variables, never
/// follows redirects.
#[derive(Debug, Clone)]
pub struct TokenClient {
    inner: Arc<Inner>,
    /// SHA-256 over the certificates it trusts.
    trust: [u8; 32],
}

#[derive(Debug)]
enum Inner {
    Plain(reqwest::Client),
    /// With `server_name`: reqwest takes the name for SNI and verification from the URL. So the URL
    /// is sent with that name, a resolver of its own leads it to the real host, and `Host` names
    /// the real host. HTTP/1.1 only: in HTTP/2 the name would also be the `:authority`.
    Named {
        material: Box<TlsMaterial>,
        name: String,
        plain: reqwest::Client,
        clients: Lock<HashMap<String, reqwest::Client>>,
    },
}

impl TokenClient {
    /// # Errors
    /// A certificate or key file that cannot be read or used, in words.
    pub fn new(tls: &Tls) -> Result<Self, String> {
        let material = tls.load()?;
        let trust = roots_digest(&material);
        let inner = match material.server_name.clone() {
            None => Inner::Plain(build_client(&material, None)?),
            Some(name) => {
                // Made at once, so that what is wrong with the files shows at load; it serves http
                // URLs, which have no name to verify.
                let plain = build_client(&material, None)?;
                Inner::Named {
                    material: Box::new(material),
                    name,
                    plain,
                    clients: Lock::default(),
                }
            }
        };
        Ok(Self {
            inner: Arc::new(inner),
            trust,
        })
    }

    /// Does it trust what the other one does? (A client certificate is read anew by each
    /// handshake.)
    #[must_use]
    pub fn trusts_as(&self, other: &Self) -> bool {
        self.trust == other.trust
    }

    /// Sends one request, once. An answer of any status is an [`TokenResponse`]; what breaks before its
    /// head is a failure.
    ///
    /// # Errors
    /// [`Failure`] of class `retry`: no connection, no TLS, no answer within `timeout`. An answer
    /// that breaks off behind its head is an answer.
    pub async fn send(
        &self,
        request: TokenRequest,
        timeout: Duration,
    ) -> Result<TokenResponse, Failure> {
        match tokio::time::timeout(timeout, self.exchange(request, timeout)).await {
            Ok(done) => done,
            Err(_) => Err(transport_failure(FailureKind::NoAnswer(timeout))),
        }
    }

    async fn exchange(
        &self,
        request: TokenRequest,
        timeout: Duration,
    ) -> Result<TokenResponse, Failure> {
        let started = BootInstant::now();
        let (client, request) = self
            .choose_client(request)
            .map_err(|why| transport_failure(FailureKind::Unsendable(why)))?;
        let response = client.execute(request).await.map_err(|e| {
            transport_failure(transport_error::transport_kind(&e, is_clock_unset()))
        })?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        // The status counts even where the body never comes to an end, so the body has a limit of
        // its own, just before the total one.
        let rest = timeout
            .saturating_sub(started.until(BootInstant::now()))
            .saturating_sub(Duration::from_millis(5));
        let body = match coding::codings(&headers) {
            Err(kind) => ResponseBody::Coded(kind),
            Ok(codings) => match tokio::time::timeout(rest, read_body(response)).await {
                Ok(ResponseBody::Whole(packed)) => decode_body(packed, &codings),
                Ok(unfinished) => unfinished,
                Err(_) => ResponseBody::Broken(FailureKind::Unfinished(timeout)),
            },
        };
        Ok(TokenResponse::new(status, headers, body))
    }

    /// The client to use, and the request as it takes it.
    fn choose_client(
        &self,
        request: TokenRequest,
    ) -> Result<(reqwest::Client, reqwest::Request), String> {
        let TokenRequest {
            method,
            mut url,
            mut headers,
            body,
        } = request;
        let client = match &*self.inner {
            Inner::Plain(client) => client.clone(),
            Inner::Named { name, .. } if url.scheme() == "https" => {
                let client = self.client_for_host(&url)?;
                let authority = url.port().map_or_else(
                    || url_host(&url),
                    |port| format!("{}:{port}", url_host(&url)),
                );
                headers.insert(
                    http::header::HOST,
                    authority
                        .parse()
                        .map_err(|_| "url: the host cannot be a Host header")?,
                );
                url.set_host(Some(name))
                    .map_err(|e| format!("server_name: {e}"))?;
                client
            }
            Inner::Named { plain, .. } => plain.clone(),
        };
        headers
            .entry(http::header::ACCEPT_ENCODING)
            .or_insert(http::HeaderValue::from_static(coding::ACCEPTED));
        let mut sent = reqwest::Request::new(method, url);
        *sent.headers_mut() = headers;
        // `from_owner` keeps the bytes where they are wiped; hyper and TLS have copies of their own
        // that are not.
        *sent.body_mut() = body.map(|b: Zeroizing<Vec<u8>>| Bytes::from_owner(b).into());
        Ok((client, sent))
    }

    fn client_for_host(&self, url: &url::Url) -> Result<reqwest::Client, String> {
        let Inner::Named {
            material, clients, ..
        } = &*self.inner
        else {
            return Err("no server_name".into());
        };
        let mut clients = clients.lock();
        let real = url_host(url);
        if let Some(client) = clients.get(&real) {
            return Ok(client.clone());
        }
        if clients.len() >= MAX_NAMED_CLIENTS {
            clients.clear();
        }
        let made = build_client(material, Some(&real))?;
        clients.insert(real, made.clone());
        Ok(made)
    }
}

fn roots_digest(material: &TlsMaterial) -> [u8; 32] {
    let mut roots: Vec<&[u8]> = material.roots.iter().map(|root| &**root).collect();
    // The platform's come in the order of a folder.
    roots.sort_unstable();
    sha256_of_parts(roots)
}

/// `real`: where the name in the URL is led to.
fn build_client(material: &TlsMaterial, real: Option<&str>) -> Result<reqwest::Client, String> {
    let alpn: &[&[u8]] = if real.is_some() {
        &[b"http/1.1"]
    } else {
        &[b"h2", b"http/1.1"]
    };
    let mut builder = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .user_agent(concat!("cupbearer/", env!("CARGO_PKG_VERSION")))
        .pool_idle_timeout(POOL_IDLE)
        .tcp_nodelay(true)
        .tls_backend_preconfigured(material.client_config(alpn)?);
    if let Some(real) = real {
        builder = builder
            .http1_only()
            .dns_resolver(Arc::new(FixedHostResolver(real.to_owned())));
    }
    builder
        .build()
        .map_err(|e| format!("the HTTP client cannot be made: {}", e.without_url()))
}

/// The host as a URL writes it.
fn url_host(url: &url::Url) -> String {
    url.host_str().unwrap_or_default().to_owned()
}

/// Resolves every name to the addresses of one host.
struct FixedHostResolver(String);

impl Resolve for FixedHostResolver {
    fn resolve(&self, _name: Name) -> Resolving {
        let real = match Host::parse(&self.0) {
            Ok(Host::Ipv6(ip)) => ip.to_string(),
            _ => self.0.clone(),
        };
        Box::pin(async move {
            // Port 0 is replaced by the one of the URL.
            let found: Vec<SocketAddr> =
                tokio::net::lookup_host((real.as_str(), 0)).await?.collect();
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

fn decode_body(packed: Zeroizing<Vec<u8>>, codings: &[coding::Coding]) -> ResponseBody {
    match coding::decode(packed, codings, MAX_BODY) {
        Ok(body) => ResponseBody::Whole(body),
        Err(DecodeError::TooLarge) => ResponseBody::TooLarge,
        Err(DecodeError::Damaged) => ResponseBody::Broken(FailureKind::DamagedCoding),
    }
}

/// Reads at most [`MAX_PACKED`] bytes, as they come.
async fn read_body(mut response: reqwest::Response) -> ResponseBody {
    let mut body = Zeroizing::new(Vec::with_capacity(4096));
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if body.len() + chunk.len() > MAX_PACKED => {
                return ResponseBody::TooLarge;
            }
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) => return ResponseBody::Whole(body),
            Err(e) => {
                return ResponseBody::Broken(transport_error::transport_kind(&e, is_clock_unset()));
            }
        }
    }
}

fn is_clock_unset() -> bool {
    BootInstant::now().wall() < CLOCK_SET
}

fn transport_failure(kind: FailureKind) -> Failure {
    Failure::own(FailureClass::Retry, kind)
}
