//! How the task waits: for its turn at the guard, and between attempts.

use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::sleep;

use super::task::Task;
use crate::{
    clock::BootInstant,
    token::pause::{Pause, PauseReason},
};

/// At the front of those who wait for a turn, asked again after this even if nobody says that one
/// is free.
const TURN: Duration = Duration::from_secs(1);
/// Those behind it ask after this, should the front not move.
const BEHIND: Duration = Duration::from_secs(5);

impl Task {
    /// Ends when it is worth asking the guard again. `freed` was made before it was asked: what
    /// ended since then is not missed, however long it took to come to the front.
    pub async fn await_turn(&mut self, freed: BoxFuture<'static, ()>) {
        let Self { slot, ticket, .. } = self;
        let turn = async {
            if let Some(ticket) = ticket {
                ticket.reach_front().await;
            }
            tokio::select! {
                () = freed => {}
                () = sleep(TURN) => {}
            }
        };
        tokio::select! {
            () = turn => {}
            () = slot.wake.notified() => {}
            () = sleep(BEHIND) => {}
        }
    }

    /// For so long, or until woken; `None`: until woken.
    pub async fn sleep(&mut self, d: Option<Duration>) {
        let latched = self.pause.is_some_and(|g| g.kind == PauseReason::Latched);
        let freed = latched.then(|| self.ledger.freed());
        let nap = async {
            match d {
                Some(d) => sleep(d).await,
                None => std::future::pending().await,
            }
        };
        let freed = async {
            match freed {
                Some(freed) => freed.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.slot.wake.notified() => return,
            () = nap => {}
            () = freed => {}
        }
        if latched {
            self.recheck_latch().await;
        }
    }

    /// Another keeper of the same secret may have opened the latch.
    async fn recheck_latch(&mut self) {
        let key = self.slot.last_key();
        if let Some(key) = key {
            // Where it cannot be read it may well be closed: the pause's own time decides.
            if self
                .read_guard_status(&key)
                .await
                .is_some_and(|counted| counted.latched.is_none())
            {
                let asked = self.asked_until.filter(|end| *end > BootInstant::now());
                self.pause = asked.map(|end| Pause {
                    until: Some(end),
                    kind: PauseReason::Rejected,
                });
            }
        }
    }
}
