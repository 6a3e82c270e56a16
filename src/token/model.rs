//! The engine's data: a token and whose it is, and what refusals are counted against. What a failed
//! attempt says is in [`failure`](super::failure).

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use zeroize::Zeroizing;

use crate::clock::BootInstant;

/// What a keeper is known by, for logs and states; labels come from configuration only.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct KeeperName {
    /// The credential's name in the configuration.
    pub credential: Arc<str>,
    /// The token's name in the profile.
    pub token: Arc<str>,
    /// The values that select its token set, where the profile has a partition: from requests, so
    /// never a label.
    pub partition: Option<Arc<str>>,
}

/// A token in the slot of its keeper.
pub struct Token {
    /// Generation: counts up from 1 within its keeper.
    pub number: u64,
    /// As the vendor gave it.
    pub issued: Issued,
    /// Numbers of the parents it was made with, in the order of the profile.
    pub parents: Vec<u64>,
    /// Dead from here on.
    pub expires: BootInstant,
    /// Sent only until here ([Life](crate::promises#life)).
    pub send_until: BootInstant,
    /// The next planned fetch.
    pub refresh_at: BootInstant,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

/// A token as the vendor gave it.
#[derive(Clone)]
pub struct Issued {
    /// 1 to 16 KiB of visible ASCII.
    pub value: Arc<Zeroizing<String>>,
    /// When the request was sent; the life counts from here.
    pub sent: BootInstant,
    /// The smallest plausible of what the answer says; `None`: nothing usable was said.
    pub life: Option<Duration>,
    /// The answer named a lifetime that was ignored.
    pub implausible: bool,
    /// `response.vars`.
    pub vars: BTreeMap<String, String>,
}

/// What refusals are counted against: the token URL and the secret values sent to it. Never the
/// secret itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct GuardKey {
    /// The token URL as the profile renders it, before parameters are put into it.
    pub url: String,
    /// SHA-256 over the secret values.
    pub secret: [u8; 32],
    /// The partition, where only it may be at fault.
    pub partition: Option<String>,
    /// SHA-256 over the origin of the token URL and the client id: what a vendor locks, whatever
    /// the secret.
    pub account: [u8; 32],
}

/// A token URL and a secret: what counts of all partitions together.
pub(super) type SecretId = (String, [u8; 32]);

impl GuardKey {
    pub(super) fn secret_id(&self) -> SecretId {
        (self.url.clone(), self.secret)
    }
}
