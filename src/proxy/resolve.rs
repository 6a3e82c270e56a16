//! Names to addresses, as the host's own resolver says; kept for seconds, looked up once for all
//! who ask.

use std::{
    collections::HashMap,
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use tokio::time::timeout;

use crate::{clock::BootInstant, lock::Lock};

/// Used without a question for this long.
const FRESH: Duration = Duration::from_secs(5);
/// Then used for as long as this while one look-up runs behind it.
const STALE: Duration = Duration::from_secs(30);
/// A failure is told to all who ask within this.
const FAILED: Duration = Duration::from_secs(1);
/// Names come from configuration; this only bounds what many reloads leave behind.
const NAMES: usize = 1024;

type Looked<'a> = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'a>>;

/// Who is asked.
pub trait Lookup: Send + Sync + 'static {
    /// The addresses of `host`, each with `port`, in the order in which to try them.
    fn lookup<'a>(&'a self, host: &'a str, port: u16) -> Looked<'a>;
}

/// The host's resolver: nsswitch, /etc/hosts, search lists.
#[derive(Debug, Clone, Copy)]
pub struct System;

impl Lookup for System {
    fn lookup<'a>(&'a self, host: &'a str, port: u16) -> Looked<'a> {
        Box::pin(async move { Ok(tokio::net::lookup_host((host, port)).await?.collect()) })
    }
}

/// Why a name has no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DnsError {
    /// The resolver knows none, or fails.
    #[error("the name cannot be resolved")]
    Unknown,
    /// It has not answered within the patience of who asks.
    #[error("the resolver does not answer")]
    Timeout,
}

/// Addresses of names, remembered for seconds and looked up once however many ask. Cheap to clone.
#[derive(Clone)]
pub struct Resolver {
    lookup: Arc<dyn Lookup>,
    names: Arc<Lock<Names>>,
}

type Names = HashMap<(String, u16), Arc<Name>>;
type Found = Result<Arc<[SocketAddr]>, DnsError>;

#[derive(Default)]
struct Name {
    /// Held while a look-up runs.
    flight: tokio::sync::Mutex<()>,
    known: Lock<Option<(BootInstant, Found)>>,
}

impl Default for Resolver {
    fn default() -> Self {
        Self::new(Arc::new(System))
    }
}

impl Resolver {
    /// One that knows nothing yet and asks `lookup`.
    #[must_use]
    pub fn new(lookup: Arc<dyn Lookup>) -> Self {
        Self {
            lookup,
            names: Arc::default(),
        }
    }

    /// The addresses of `host`, in the order in which to try them; never empty. IP literals are
    /// taken as they are.
    ///
    /// # Errors
    /// [`DnsError`]: there is none, or none within `patience`. A failure is told to all who ask
    /// within a second.
    pub async fn addresses(&self, host: &str, port: u16, patience: Duration) -> Found {
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok(Arc::from([SocketAddr::new(ip, port)]));
        }
        let name = self.name(host, port);
        match name.known() {
            Some((age, found)) if age < FRESH && (found.is_ok() || age < FAILED) => return found,
            Some((age, Ok(found))) if age < FRESH + STALE => {
                let (this, host) = (self.clone(), host.to_owned());
                tokio::spawn(async move {
                    let Ok(_flight) = name.flight.try_lock() else {
                        return;
                    };
                    // What is known stays known if this fails: it is still good for a while.
                    if let Ok(found) = this.ask(&host, port, patience).await {
                        name.learn(Ok(found));
                    }
                });
                return Ok(found);
            }
            _ => {}
        }
        // The look-up goes on when its first caller leaves, for those who come after.
        let (this, host) = (self.clone(), host.to_owned());
        let shared = tokio::spawn(async move {
            let _flight = name.flight.lock().await;
            match name.known() {
                Some((age, found)) if age < FAILED || (found.is_ok() && age < FRESH) => found,
                _ => {
                    let found = this.ask(&host, port, patience).await;
                    name.learn(found.clone());
                    found
                }
            }
        });
        timeout(patience, shared)
            .await
            .unwrap_or(Ok(Err(DnsError::Timeout)))
            .unwrap_or(Err(DnsError::Unknown))
    }

    async fn ask(&self, host: &str, port: u16, patience: Duration) -> Found {
        match timeout(patience, self.lookup.lookup(host, port)).await {
            Err(_) => Err(DnsError::Timeout),
            Ok(Ok(found)) if !found.is_empty() => Ok(found.into()),
            Ok(_) => Err(DnsError::Unknown),
        }
    }

    fn name(&self, host: &str, port: u16) -> Arc<Name> {
        let mut names = self.names.lock();
        if names.len() >= NAMES {
            names.retain(|_, n| n.known().is_some_and(|(age, _)| age < FRESH + STALE));
        }
        names.entry((host.to_owned(), port)).or_default().clone()
    }
}

impl Name {
    fn known(&self) -> Option<(Duration, Found)> {
        let known = self.known.lock();
        known
            .as_ref()
            .map(|(at, found)| (at.until(BootInstant::now()), found.clone()))
    }
    fn learn(&self, found: Found) {
        *self.known.lock() = Some((BootInstant::now(), found));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU16, Ordering};

    use super::*;

    /// Answers with a port that counts its calls; fails while `down` is not 0.
    #[derive(Default)]
    struct Counted {
        calls: AtomicU16,
        down: AtomicU16,
    }

    impl Lookup for Counted {
        fn lookup<'a>(&'a self, _host: &'a str, _port: u16) -> Looked<'a> {
            Box::pin(async move {
                let n = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
                tokio::time::sleep(Duration::from_millis(10)).await;
                match self.down.load(Ordering::SeqCst) {
                    0 => Ok(vec![SocketAddr::from(([10, 0, 0, 1], n))]),
                    _ => Err(io::Error::other("no such name")),
                }
            })
        }
    }

    const PATIENCE: Duration = Duration::from_secs(5);

    fn resolver() -> (Resolver, Arc<Counted>) {
        let counted = Arc::new(Counted::default());
        (Resolver::new(counted.clone()), counted)
    }

    #[tokio::test(start_paused = true)]
    async fn many_who_ask_at_once_make_one_look_up() {
        let (resolver, counted) = resolver();
        let all: Vec<_> = (0..50)
            .map(|_| {
                tokio::spawn({
                    let r = resolver.clone();
                    async move { r.addresses("a.test", 1, PATIENCE).await }
                })
            })
            .collect();
        for one in all {
            assert_eq!(one.await.unwrap().unwrap()[0].port(), 1);
        }
        assert_eq!(counted.calls.load(Ordering::SeqCst), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stale_answer_is_used_while_the_next_is_fetched() {
        let (resolver, _counted) = resolver();
        assert_eq!(
            resolver.addresses("a.test", 1, PATIENCE).await.unwrap()[0].port(),
            1
        );
        tokio::time::advance(Duration::from_secs(6)).await;
        assert_eq!(
            resolver.addresses("a.test", 1, PATIENCE).await.unwrap()[0].port(),
            1
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(
            resolver.addresses("a.test", 1, PATIENCE).await.unwrap()[0].port(),
            2
        );
        tokio::time::advance(Duration::from_secs(36)).await;
        assert_eq!(
            resolver.addresses("a.test", 1, PATIENCE).await.unwrap()[0].port(),
            3
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_is_gone_fails_when_its_last_answer_is_too_old_and_heals() {
        let (resolver, counted) = resolver();
        resolver.addresses("a.test", 1, PATIENCE).await.unwrap();
        counted.down.store(1, Ordering::SeqCst);
        tokio::time::advance(Duration::from_secs(20)).await;
        assert!(resolver.addresses("a.test", 1, PATIENCE).await.is_ok());
        tokio::time::advance(Duration::from_secs(20)).await;
        assert_eq!(
            resolver.addresses("a.test", 1, PATIENCE).await.unwrap_err(),
            DnsError::Unknown
        );
        let calls = counted.calls.load(Ordering::SeqCst);
        assert!(resolver.addresses("a.test", 1, PATIENCE).await.is_err());
        assert_eq!(
            counted.calls.load(Ordering::SeqCst),
            calls,
            "a failure is not asked for again at once"
        );
        counted.down.store(0, Ordering::SeqCst);
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(resolver.addresses("a.test", 1, PATIENCE).await.is_ok());
    }

    #[tokio::test]
    async fn an_ip_literal_is_not_looked_up() {
        let (resolver, counted) = resolver();
        assert_eq!(
            resolver.addresses("::1", 7, PATIENCE).await.unwrap()[0],
            "[::1]:7".parse().unwrap()
        );
        assert_eq!(counted.calls.load(Ordering::SeqCst), 0);
    }
}
