//! Upstreams whose HTTP/2 was broken: pingora speaks HTTP/1.1 to them from then on, and is made to
//! forget it here, or one bad moment of a vendor that speaks HTTP/2 alone would last until a
//! restart.

use std::{collections::HashMap, sync::Arc, time::Duration};

use crate::{clock::BootInstant, lock::Lock};

/// How long HTTP/1.1 is kept to; doubled each time it happens again within [`LAST`].
const FIRST: Duration = Duration::from_secs(1);
const LAST: Duration = Duration::from_mins(15);

/// By the name of the upstream.
#[derive(Default)]
pub struct Downgrades {
    known: Lock<HashMap<Arc<str>, Seen>>,
}

#[derive(Clone, Copy)]
struct Seen {
    era: u64,
    broke: BootInstant,
    hold: Duration,
    over: bool,
}

impl Downgrades {
    /// It sent what is no HTTP/2.
    pub fn broke(&self, upstream: &Arc<str>) {
        let now = BootInstant::now();
        let mut known = self.known.lock();
        let seen = known.entry(upstream.clone()).or_insert(Seen {
            era: 0,
            broke: now,
            hold: FIRST / 2,
            over: true,
        });
        if seen.over {
            let hold = if seen.broke.until(now) > LAST * 2 {
                FIRST
            } else {
                (seen.hold * 2).min(LAST)
            };
            *seen = Seen {
                era: seen.era,
                broke: now,
                hold,
                over: false,
            };
        }
    }

    /// Part of the key by which pingora knows the upstream; goes up when HTTP/2 is to be tried
    /// again.
    pub fn era(&self, upstream: &str) -> u64 {
        let mut known = self.known.lock();
        let Some(seen) = known.get_mut(upstream) else {
            return 0;
        };
        if !seen.over && seen.broke.until(BootInstant::now()) >= seen.hold {
            seen.over = true;
            seen.era += 1;
        }
        seen.era
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn http_2_is_tried_again_after_a_while_that_doubles() {
        let (downgrades, name) = (Downgrades::default(), Arc::from("acme"));
        assert_eq!(downgrades.era(&name), 0);
        for (era, seconds) in [(0, 1), (1, 2), (2, 4)] {
            downgrades.broke(&name);
            downgrades.broke(&name);
            tokio::time::advance(Duration::from_millis(seconds * 1000 - 1)).await;
            assert_eq!(downgrades.era(&name), era);
            tokio::time::advance(Duration::from_millis(1)).await;
            assert_eq!(downgrades.era(&name), era + 1);
        }
        tokio::time::advance(LAST * 3).await;
        downgrades.broke(&name);
        tokio::time::advance(FIRST).await;
        assert_eq!((downgrades.era(&name), downgrades.era("other")), (4, 0));
    }
}
