//! The token engine: one task keeps one token. Imports nothing of ours but the clock, and what is
//! wrong with a certificate; sends nothing, knows no files, no pingora.
//!
//! Data first ([`model`], [`failure`]), then what configuration says of it ([`policy`],
//! [`schedule`]), the pure judgements ([`guard`]), the seams ([`fetch`], [`ledger`],
//! [`share`]), the slot, the keeper, and the store that finds keepers again.

mod busy;
mod doubling;
pub mod failure;
pub mod fetch;
pub mod guard;
pub mod keeper;
pub mod ledger;
mod memory;
pub mod model;
mod pause;
pub mod policy;
mod queue;
mod refusals;
mod renewal;
pub mod schedule;
pub mod share;
pub mod slot;
pub mod store;
mod window;

pub use self::{
    failure::{Failure, FailureClass, FailureKind, VendorError},
    fetch::{Fetch, KeeperEvent, PreparedCall},
    guard::{AttemptOutcome, AttemptRequest, Denial, GuardDecision, GuardStatus, NextAttempt},
    keeper::{Keeper, RefreshPlan, Unavailable, UnavailableReason},
    ledger::{Ledger, Reservation},
    memory::MemoryLedger,
    model::{GuardKey, Issued, KeeperName, Token},
    policy::{Hold, KeeperPolicy, LockoutPolicy, Rate},
    queue::{QueueTicket, TurnQueue},
    schedule::{Lifetime, RefreshMode, Rotation},
    share::{Lease, Share, ShareStep, Unshared},
    slot::{Activity, KeeperStatus, Waiter},
    store::Store,
    window::Window,
};
