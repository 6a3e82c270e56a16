//! A person's leave for one more attempt (an unlatch), and how far apart such attempts are. Pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{clock::BootInstant, token::doubling::doubled};

/// After a refusal or an unknown outcome, the next attempt comes no sooner.
pub(super) const PAUSE: Duration = Duration::from_secs(30);
/// The longest pause before an attempt that something refused made wait.
const LONGEST_PAUSE: Duration = Duration::from_hours(1);

/// Leave for one attempt where a count allows none. It is not given twice: who unlatches in a loop
/// gets one attempt, 30 s after the last refusal, and after each that was refused too the next one
/// waits twice as long.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Leave {
    /// One attempt may be made.
    given: bool,
    /// The attempt that is being made with it.
    used: Option<u64>,
    /// How many attempts made with leave were refused since the last success.
    refused: u32,
}

impl Leave {
    /// Lets one more attempt through.
    pub fn give(&mut self) {
        self.given = true;
    }

    /// Is there leave that no attempt has used yet?
    #[must_use]
    pub fn is_given(&self) -> bool {
        self.given
    }

    /// Is the attempt `id` made with it?
    #[must_use]
    pub fn is_used_by(&self, id: u64) -> bool {
        self.used == Some(id)
    }

    /// The first moment at which the attempt may be made, counted from the `last` refusal.
    #[must_use]
    pub fn from(&self, last: Option<BootInstant>) -> Option<BootInstant> {
        last.map(|last| last.after(spacing(self.refused.saturating_add(1))))
    }

    /// The attempt `id` is made with it, if it is given.
    pub fn spend(&mut self, id: u64) {
        if std::mem::take(&mut self.given) {
            self.used = Some(id);
        }
    }

    /// The attempt `id` was refused, or its outcome will never be known. Says whether it was the
    /// one that was made with leave.
    pub fn refused(&mut self, id: u64) -> bool {
        let ours = self.used == Some(id);
        if ours {
            self.used = None;
            self.refused = self.refused.saturating_add(1);
        }
        ours
    }

    /// The attempt `id` said nothing about the secret: another may be made in its place.
    pub fn give_back(&mut self, id: u64) {
        if self.used == Some(id) {
            *self = Self {
                given: true,
                used: None,
                ..*self
            };
        }
    }

    /// Leave that both copies of a count know of.
    pub fn merge(&mut self, other: Self) {
        *self = Self {
            given: self.given && other.given,
            used: self.used.or(other.used),
            refused: self.refused.max(other.refused),
        };
    }
}

/// How long after a refusal the next attempt may be made that something holds back: 30 s the first
/// time, doubling to an hour.
pub(super) fn spacing(times: u32) -> Duration {
    doubled(PAUSE, times, LONGEST_PAUSE)
}
