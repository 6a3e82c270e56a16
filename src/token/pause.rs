//! What keeps a keeper from its next attempt, and what opens that.

use crate::clock::BootInstant;

/// Why no attempt is made before a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pause {
    /// `None`: until the secret or the configuration changes.
    pub until: Option<BootInstant>,
    pub kind: PauseReason,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PauseReason {
    /// Backoff after a failure that may pass.
    Retry,
    /// The vendor named the time.
    Throttled,
    /// The budget is used up, or two calls would follow too closely.
    Budget,
    /// The pause after a refusal.
    Rejected,
    Latched,
    Config,
    Unreadable,
    NoMemory,
}

impl PauseReason {
    /// A changed secret or a changed configuration may have mended it.
    pub fn opens_on_change(self) -> bool {
        matches!(
            self,
            Self::Rejected | Self::Latched | Self::Config | Self::Unreadable | Self::NoMemory
        )
    }

    /// A person's unlatch may have opened it: the guard counts refusals, and decides anew. What
    /// else is held is for `refresh`, which is limited.
    pub fn opens_unlatched(self) -> bool {
        matches!(self, Self::Rejected | Self::Latched | Self::NoMemory)
    }

    /// An operator's `refresh` may ignore it. What the vendor or the guard says may not be ignored.
    pub fn opens_by_hand(self) -> bool {
        matches!(
            self,
            Self::Retry | Self::Config | Self::Unreadable | Self::NoMemory
        )
    }
}
