//! `POST /.cupbearer/token/NAME`: hands out a token itself, where its profile says so (CONTRACT 3.4).

use std::{net::IpAddr, sync::Arc};

use http::Method;
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_proxy::Session;

use super::{
    access::{Stop, partition, refused, while_there},
    reply::{Cause, Reply},
};
use crate::{
    credential::{Credential, Vended},
    snapshot::Snapshot,
    token::Now,
    upstream::Timeouts,
};

const HERE: &str = "/.cupbearer/";
/// As long as an upstream waits by default.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(15);

/// Whether this path is ours and no upstream's.
#[must_use]
pub fn is_ours(path: &str) -> bool {
    path.starts_with(HERE)
}

/// The token that is asked for.
///
/// # Errors
/// [`Stop`].
pub async fn vend(session: &mut Session, snapshot: &Snapshot, path: &str) -> Result<Vended, Stop> {
    let path = path.split('?').next().unwrap_or_default();
    let unknown = || Reply::new(Cause::NoRoute, "no credential of this name hands out tokens to this caller");
    let credential = path
        .strip_prefix(HERE)
        .and_then(|p| p.strip_prefix("token/"))
        .and_then(|name| snapshot.credentials.get(name))
        .filter(|c| c.profile().vend && (snapshot.config.proxy.client_auth.is_some() || near(session.client_addr(), session.server_addr())))
        .ok_or_else(unknown)?;
    if session.req_header().method != Method::POST {
        return Err(Reply { allow: "POST", ..Reply::new(Cause::MethodRefused, "a token is asked for with POST") }.into());
    }
    let partition = partition(credential, &session.req_header().headers)?;
    let until = Now::now().after(patience(snapshot, credential));
    let result = while_there(session, credential.vend(&partition, until)).await.ok_or(Stop::Gone)?;
    result.map_err(|refusal| refused(&refusal, credential, None).into())
}

/// The longest patience of the upstreams this credential serves.
fn patience(snapshot: &Snapshot, credential: &Arc<Credential>) -> std::time::Duration {
    let serves = snapshot.upstreams.iter().filter(|s| s.credential.as_ref().is_some_and(|c| Arc::ptr_eq(c, credential)));
    serves.map(|s| s.upstream.timeouts).map(|Timeouts { token, .. }| token).max().unwrap_or(PATIENCE)
}

/// On this machine: loopback, or a Unix socket (whose callers have no address of their own).
#[must_use]
pub fn near(caller: Option<&SocketAddr>, ours: Option<&SocketAddr>) -> bool {
    match (caller, ours) {
        (Some(SocketAddr::Inet(a)), _) => match a.ip() {
            IpAddr::V4(ip) => ip.is_loopback(),
            IpAddr::V6(ip) => ip.is_loopback() || ip.to_ipv4_mapped().is_some_and(|v4| v4.is_loopback()),
        },
        (_, Some(SocketAddr::Unix(_))) => true,
        _ => false,
    }
}
