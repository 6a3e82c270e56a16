//! Those whose turn has not come: were all of them to ask whenever an attempt ends, a crowd would
//! do little else.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::model::{GuardKey, SecretId};
use futures_util::future::BoxFuture;

use crate::lock::Lock;

/// So many ask at a time: while one prepares, the next one may.
const AT_THE_FRONT: usize = 2;

/// One line for each token URL and secret. Only those at its front ask again; who has got his turn,
/// or gives up, lets the next one come there. It decides who asks, never who may: that is the
/// guard's.
#[derive(Debug, Default)]
pub struct TurnQueue {
    lines: Lock<HashMap<SecretId, Weak<Semaphore>>>,
}

/// A place in a line. Dropped, it is given up.
pub struct QueueTicket {
    line: SecretId,
    /// Until it is at the front.
    waiting: Option<BoxFuture<'static, Option<OwnedSemaphorePermit>>>,
    front: Option<OwnedSemaphorePermit>,
}

impl TurnQueue {
    /// The last place. It counts from the first poll of [`QueueTicket::reach_front`].
    #[must_use]
    pub fn join(&self, key: &GuardKey) -> QueueTicket {
        let line = key.secret_id();
        let mut lines = self.lines.lock();
        let front = lines.get(&line).and_then(Weak::upgrade).unwrap_or_else(|| {
            lines.retain(|_, line| line.strong_count() > 0);
            let new = Arc::new(Semaphore::new(AT_THE_FRONT));
            lines.insert(line.clone(), Arc::downgrade(&new));
            new
        });
        // It is never closed.
        let waiting = Box::pin(async move { front.acquire_owned().await.ok() });
        QueueTicket {
            line,
            waiting: Some(waiting),
            front: None,
        }
    }
}

impl QueueTicket {
    /// Is it in the line for `key`?
    #[must_use]
    pub fn is_for(&self, key: &GuardKey) -> bool {
        (self.line.0.as_str(), self.line.1) == (key.url.as_str(), key.secret)
    }

    /// Ends at the front. Left early, the place is kept.
    pub async fn reach_front(&mut self) {
        if let Some(waiting) = &mut self.waiting {
            self.front = waiting.await;
            self.waiting = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn key(secret: u8) -> GuardKey {
        GuardKey {
            url: "https://issuer.example/token".into(),
            secret: [secret; 32],
            partition: None,
            account: [9; 32],
        }
    }

    #[tokio::test]
    async fn the_first_come_to_the_front_first_and_the_next_when_one_leaves() {
        let line = TurnQueue::default();
        let mut places: Vec<QueueTicket> = (0..5).map(|_| line.join(&key(1))).collect();
        let front = |places: &mut Vec<QueueTicket>| {
            places
                .iter_mut()
                .map(|p| p.reach_front().now_or_never().is_some())
                .collect::<Vec<bool>>()
        };
        assert_eq!(front(&mut places), [true, true, false, false, false]);
        assert!(
            line.join(&key(2)).reach_front().now_or_never().is_some(),
            "another line"
        );
        // One gives up while he waits, one has got his turn.
        drop(places.remove(2));
        drop(places.remove(0));
        assert_eq!(front(&mut places), [true, true, false]);
        assert!(
            places
                .iter()
                .all(|ticket| ticket.is_for(&key(1)) && !ticket.is_for(&key(2)))
        );
    }

    #[tokio::test]
    async fn a_line_in_which_nobody_stands_is_forgotten() {
        let line = TurnQueue::default();
        for secret in 0..9 {
            line.join(&key(secret)).reach_front().await;
        }
        assert_eq!(line.lines.lock().len(), 1);
    }
}
