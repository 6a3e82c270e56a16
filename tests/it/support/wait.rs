//! Waiting for what only shows when looked at: metrics, status pages, the answer to one more
//! request.

use std::time::{Duration, Instant};

use super::{issuer::PATIENCE, sidecar::Sidecar};

/// Between two looks; nothing depends on it but load.
const PAUSE: Duration = Duration::from_millis(5);
/// After so long a refresh that was asked for has been made.
const REFRESHED: Duration = Duration::from_secs(4);

/// Looks until it is so; a test that waits in vain fails with what it waited for.
pub async fn until(what: &str, so: impl AsyncFnMut() -> bool) {
    within(PATIENCE, what, so).await;
}

/// The same for what may take longer.
pub async fn within(limit: Duration, what: &str, mut so: impl AsyncFnMut() -> bool) {
    let looking = async {
        while !so().await {
            tokio::time::sleep(PAUSE).await;
        }
    };
    assert!(
        tokio::time::timeout(limit, looking).await.is_ok(),
        "waited in vain: {what}"
    );
}

/// When to ask for a refresh again.
#[derive(Debug, Default)]
pub struct Asking {
    asked: Option<Instant>,
}

impl Asking {
    /// Is one to be asked for now? It is then taken as asked for.
    pub fn is_due(&mut self) -> bool {
        let due = self.asked.is_none_or(|asked| asked.elapsed() > REFRESHED);
        if due {
            self.asked = Some(Instant::now());
        }
        due
    }
}

impl Sidecar {
    /// Waits until a GET has this status.
    pub async fn until_get(&self, path: &str, status: u16) {
        until(&format!("{status} at {path}"), async || {
            self.status_of(path).await == status
        })
        .await;
    }

    /// Asks for a refresh by hand until the token has at least this generation.
    pub async fn until_refreshed(&self, credential: &str, token: &str, generation: u64) {
        self.refresh_until(credential, async || {
            self.token(credential, token).await["generation"]
                .as_u64()
                .unwrap()
                >= generation
        })
        .await;
    }

    /// Waits until `/api/status` shows the token in this state.
    pub async fn until_state(&self, credential: &str, token: &str, state: &str) {
        until(&format!("{credential}.{token} is {state}"), async || {
            self.token(credential, token).await["state"] == state
        })
        .await;
    }

    /// Waits until `series` has reached `least`.
    pub async fn until_metric(&self, series: &str, least: f64) {
        until(&format!("{least} of {series}"), async || {
            self.metric(series).await >= least
        })
        .await;
    }

    /// Waits until no request to this upstream is under way: a client has its answer a little
    /// before its connection is back in the pool.
    pub async fn until_idle(&self, upstream: &str) {
        self.until_in_flight(upstream, 0).await;
    }

    /// Waits until so many requests to this upstream are under way, or fewer.
    pub async fn until_in_flight(&self, upstream: &str, most: u32) {
        let series = format!("cupbearer_requests_in_flight{{upstream=\"{upstream}\"}}");
        until(&format!("{most} of {series}"), async || {
            self.metric(&series).await <= f64::from(most)
        })
        .await;
    }

    /// An operator asks for new tokens until `done`. What was asked for is done a second after the
    /// last call at the latest; it is asked for again only where nothing came of that for long, for
    /// a refresh that failed is not repeated while the token lives.
    pub async fn refresh_until(&self, credential: &str, mut done: impl AsyncFnMut() -> bool) {
        let mut asking = Asking::default();
        until("a token call", async || {
            let done = done().await;
            if !done && asking.is_due() {
                assert_eq!(
                    self.post_admin(&format!("/api/credentials/{credential}/refresh"))
                        .await,
                    202
                );
            }
            done
        })
        .await;
    }
}
