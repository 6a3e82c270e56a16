//! `POST /.cupbearer/token/NAME`: hands out a token itself, where its profile says so
//! ([Vending](crate::promises#vending)).

use std::sync::Arc;

use http::{Method, header};
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_proxy::Session;
use zeroize::Zeroizing;

use super::{
    access::{Stop, partition, refused, while_there},
    head::bad,
    reply::{Cause, Reply},
};
use crate::{
    clock::BootInstant,
    credential::{Credential, VendedToken},
    net,
    snapshot::Snapshot,
    upstream::UpstreamTimeouts,
};

const HERE: &str = "/.cupbearer/";
/// A token is 16 KiB at most, and each of its bytes three where it is percent-encoded.
const LONGEST_FORM: usize = 64 * 1024;
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
/// [`Stop`]: 404 for a name that hands out nothing to this caller, 405 for another method than
/// POST, 400 for a form that cannot be read, what keeps a token away, or the client has left.
pub async fn vend(
    session: &mut Session,
    snapshot: &Snapshot,
    path: &str,
) -> Result<VendedToken, Stop> {
    let path = path.split('?').next().unwrap_or_default();
    let unknown = || {
        Reply::new(
            Cause::NoRoute,
            "no credential of this name hands out tokens to this caller",
        )
    };
    let credential = path
        .strip_prefix(HERE)
        .and_then(|p| p.strip_prefix("token/"))
        .and_then(|name| snapshot.credentials.get(name))
        .filter(|c| {
            c.profile().vend
                && (!snapshot.config.proxy.client_auth.is_empty()
                    || near(session.client_addr(), session.server_addr()))
        })
        .ok_or_else(unknown)?;
    if session.req_header().method != Method::POST {
        return Err(Reply {
            allow: "POST",
            ..Reply::new(Cause::MethodRefused, "a token is asked for with POST")
        }
        .into());
    }
    let partition = partition(credential, &session.req_header().headers)?;
    let form = form(session).await?;
    let dead = form
        .as_ref()
        .map(|form| refused_token(form))
        .transpose()?
        .flatten();
    let until = BootInstant::now().after(patience(snapshot, credential));
    let result = while_there(
        session,
        credential.vend(&partition, dead.as_ref().map(|token| token.as_str()), until),
    )
    .await
    .ok_or(Stop::Gone)?;
    result.map_err(|refusal| refused(&refusal, credential, None).into())
}

/// The request's form, where it sends one; other content is not read.
///
/// # Errors
/// [`Stop`]: longer than a form is that holds the longest token, or the client has left.
async fn form(session: &mut Session) -> Result<Option<Zeroizing<Vec<u8>>>, Stop> {
    let content = session
        .req_header()
        .headers
        .get(header::CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default();
    if !content
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .eq_ignore_ascii_case("application/x-www-form-urlencoded")
    {
        return Ok(None);
    }
    let mut form = Zeroizing::new(Vec::new());
    while let Some(more) = session
        .downstream_session
        .read_request_body()
        .await
        .map_err(|_| Stop::Gone)?
    {
        if form.len() + more.len() > LONGEST_FORM {
            return Err(bad("the form is longer than 64 KiB").into());
        }
        form.extend_from_slice(&more);
    }
    Ok(Some(form))
}

/// The token that a vendor refused, by itself or by its fingerprint: `refused` of the form. Total.
///
/// # Errors
/// 400: it is there more than once (RFC 6749 3.2).
fn refused_token(form: &[u8]) -> Result<Option<Zeroizing<String>>, Reply> {
    let mut all = form_urlencoded::parse(form)
        .filter(|(name, _)| name == "refused")
        .map(|(_, value)| Zeroizing::new(value.into_owned()));
    match (all.next(), all.next()) {
        (one, None) => Ok(one.filter(|value| !value.is_empty())),
        _ => Err(bad("refused is there more than once")),
    }
}

/// The longest patience of the upstreams this credential serves.
fn patience(snapshot: &Snapshot, credential: &Arc<Credential>) -> std::time::Duration {
    let serves = snapshot.upstreams.iter().filter(|s| {
        s.credential
            .as_ref()
            .is_some_and(|c| Arc::ptr_eq(c, credential))
    });
    serves
        .map(|s| s.upstream.timeouts)
        .map(|UpstreamTimeouts { token, .. }| token)
        .max()
        .unwrap_or(PATIENCE)
}

/// On this machine: loopback, or a Unix socket (whose callers have no address of their own).
#[must_use]
pub fn near(caller: Option<&SocketAddr>, ours: Option<&SocketAddr>) -> bool {
    match (caller, ours) {
        (Some(SocketAddr::Inet(a)), _) => net::is_loopback(a.ip()),
        (_, Some(SocketAddr::Unix(_))) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(form: &str) -> Result<Option<String>, ()> {
        let read = refused_token(form.as_bytes());
        read.map(|token| token.map(|t| t.as_str().to_owned()))
            .map_err(|_| ())
    }

    #[test]
    fn the_refused_token_is_read_from_the_form_and_must_be_one() {
        for (form, token) in [
            ("", None),
            ("refused=", None),
            ("grant_type=client_credentials", None),
            ("refused=0badcafe", Some("0badcafe")),
            ("a=b&refused=a%2Bb%3D%3D&c", Some("a+b==")),
        ] {
            assert_eq!(read(form), Ok(token.map(str::to_owned)), "{form}");
        }
        assert!(read("refused=a&refused=a").is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(form in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let _ = refused_token(&form);
        }
    }
}
