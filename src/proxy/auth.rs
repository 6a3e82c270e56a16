//! `client_auth`: callers prove that they may use this proxy (RFC 9110 11.7, RFC 7617, RFC 6750).

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use subtle::ConstantTimeEq;
use tokio::runtime::{Handle, RuntimeFlavor};

use super::reply::{Cause, Reply};
use crate::{
    files::{Moment, Watch},
    logging::Seldom,
    secret::{Secret, Secrets, Source},
    token::Now,
};

/// A secret file is read again after this.
const FRESH: Duration = Duration::from_secs(5);
const NAME: &str = "client_auth";

/// The shared secret as it was last read; the last good value stays while its file cannot be read.
#[derive(Debug, Default)]
pub struct Gate {
    known: Mutex<Option<Known>>,
}

type Read = (Arc<Secret>, Arc<Watch>);

#[derive(Debug, Clone)]
struct Known {
    source: Source,
    at: Now,
    secret: Arc<Secret>,
    watch: Arc<Watch>,
}

impl Gate {
    /// Lets the request in, or not. `presented` is the value of `Proxy-Authorization`, where there is exactly one.
    ///
    /// # Errors
    /// 407, or 502 where the secret itself cannot be read.
    pub async fn check(&self, source: &Source, presented: Option<&[u8]>) -> Result<(), Reply> {
        let secret = self.secret(source).await?;
        judge(&secret, presented)
    }

    /// The same without an await, for the head of a CONNECT. Once in a while a small file is read meanwhile.
    ///
    /// # Errors
    /// As above.
    pub fn check_here(&self, source: &Source, presented: Option<&[u8]>) -> Result<(), Reply> {
        let secret = match self.fresh(source) {
            Some(secret) => secret,
            None => {
                let read = self.reader(source);
                self.keep(source, aside(read))?
            }
        };
        judge(&secret, presented)
    }

    async fn secret(&self, source: &Source) -> Result<Arc<Secret>, Reply> {
        if let Some(secret) = self.fresh(source) {
            return Ok(secret);
        }
        let read = tokio::task::spawn_blocking(self.reader(source)).await;
        self.keep(source, read.ok().flatten())
    }

    fn known(&self, source: &Source) -> Option<Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clone().filter(|k| k.source == *source)
    }

    /// Where there is no need to read it again.
    fn fresh(&self, source: &Source) -> Option<Arc<Secret>> {
        if let Source::Value(secret) = source {
            return Some(Arc::new(secret.clone()));
        }
        self.known(source).filter(|k| k.at.until(Now::now()) < FRESH).map(|k| k.secret)
    }

    /// Reads it, for a thread that may block. While somebody writes to it, what was read before is what is there.
    fn reader(&self, source: &Source) -> impl FnOnce() -> Option<Read> + Send + 'static {
        let (known, source) = (self.known(source), source.clone());
        move || {
            let sources = BTreeMap::from([(NAME.to_owned(), source)]);
            let secrets = Secrets { sources, names: vec![NAME.to_owned()], ..Secrets::default() };
            let read = || secrets.read().ok()?.get(NAME).cloned().map(Arc::new);
            let (last, watch) = known.map_or_else(Default::default, |known| (Some(known.secret), known.watch));
            let secret = watch.settled(&secrets.paths(), Moment::now(), read).unwrap_or(last)?;
            Some((secret, watch))
        }
    }

    /// What was read, or else the last good value, is what counts for a while.
    fn keep(&self, source: &Source, read: Option<Read>) -> Result<Arc<Secret>, Reply> {
        if read.is_none() {
            static UNREAD: Seldom = Seldom::new();
            if let Some(times) = UNREAD.again() {
                tracing::warn!(times, "proxy.client_auth cannot be read; told once a minute");
            }
        }
        let Some((secret, watch)) = read.or_else(|| self.known(source).map(|k| (k.secret, k.watch))) else {
            return Err(Reply::new(Cause::SecretUnreadable, "proxy.client_auth cannot be read"));
        };
        let known = Known { source: source.clone(), at: Now::now(), secret: secret.clone(), watch };
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some(known);
        Ok(secret)
    }
}

/// Runs what may block; the other tasks of this thread go on elsewhere where there are other threads.
fn aside<T>(work: impl FnOnce() -> T) -> T {
    match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}

fn refused() -> Reply {
    Reply::new(Cause::ProxyAuthRequired, "send the shared secret as Proxy-Authorization: Bearer, or as the password of Basic")
}

fn judge(secret: &Secret, presented: Option<&[u8]>) -> Result<(), Reply> {
    let told = presented.and_then(password).ok_or_else(refused)?;
    let right = !secret.expose().is_empty() && bool::from(told.as_slice().ct_eq(secret.expose().as_bytes()));
    if right { Ok(()) } else { Err(refused()) }
}

/// What stands after Bearer, or the password of Basic.
fn password(value: &[u8]) -> Option<Vec<u8>> {
    let at = value.iter().position(|b| *b == b' ')?;
    let (scheme, rest) = value.split_at(at);
    let rest = rest.trim_ascii();
    if scheme.eq_ignore_ascii_case(b"bearer") {
        return Some(rest.to_vec());
    }
    if !scheme.eq_ignore_ascii_case(b"basic") {
        return None;
    }
    let pair = STANDARD.decode(rest).ok()?;
    let colon = pair.iter().position(|b| *b == b':')?;
    pair.get(colon + 1..).map(<[u8]>::to_vec)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(presented: Option<&str>) -> u16 {
        let secret = Secret::new("s3:cret".to_owned());
        judge(&secret, presented.map(str::as_bytes)).map_or_else(|r| r.cause.status().as_u16(), |()| 200)
    }

    #[test]
    fn bearer_or_the_password_of_basic_lets_in_and_nothing_else() {
        assert_eq!(code(Some("Bearer s3:cret")), 200);
        assert_eq!(code(Some("bearer  s3:cret")), 200);
        assert_eq!(code(Some(&format!("Basic {}", STANDARD.encode("anyone:s3:cret")))), 200);
        for wrong in ["Bearer s3:cre", "Bearer s3:crets", "Bearer", "s3:cret", "Basic s3:cret", "Digest s3:cret", "Basic !!", ""] {
            assert_eq!(code(Some(wrong)), 407, "{wrong}");
        }
        assert_eq!(code(None), 407);
        assert!(judge(&Secret::new(String::new()), Some(b"Bearer ")).is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _ = password(&bytes);
        }
    }
}
