//! The token engine: one task keeps one token. Imports nothing of ours; knows no HTTP, no files, no
//! pingora.

pub mod clock;
pub mod fetch;
mod gate;
pub mod guard;
pub mod keeper;
mod refusals;
mod renewal;
pub mod schedule;
pub mod slot;
pub mod store;
mod window;
mod work;

pub use clock::{Now, Stamp};
pub use fetch::{Class, Event, Failure, Fetch, Fut, Issued, Prepared};
pub use guard::{
    Ask, Counted, GuardKey, Hold, Ledger, Limits, Memory, Next, Permit, Rate, Spend, Verdict,
};
pub use keeper::{Keeper, KeeperName, Refreshed, Tuning, Unavailable, Why};
pub use schedule::{Lifetime, Refresh, Rotation};
pub use slot::{Doing, Status, Token};
pub use store::Store;
pub use window::Window;
