//! The token engine: one task keeps one token. Imports nothing of ours but the clock; knows no HTTP,
//! no files, no pingora.

mod busy;
pub mod fetch;
pub mod guard;
pub mod keeper;
mod pause;
mod refusals;
mod renewal;
pub mod schedule;
pub mod slot;
pub mod store;
mod window;

pub use fetch::{BoxFuture, Failure, FailureClass, Fetch, Issued, KeeperEvent, PreparedCall};
pub use guard::{
    AttemptOutcome, AttemptRequest, GuardKey, GuardStatus, Hold, Ledger, LockoutPolicy,
    MemoryLedger, NextAttempt, Rate, Reservation, Spend,
};
pub use keeper::{Keeper, KeeperName, KeeperPolicy, RefreshPlan, Unavailable, UnavailableReason};
pub use schedule::{Lifetime, RefreshMode, Rotation};
pub use slot::{Activity, KeeperStatus, Token};
pub use store::Store;
pub use window::Window;
