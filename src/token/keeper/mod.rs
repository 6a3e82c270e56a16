//! One task keeps one token: sleep until due, prepare, spend, send, settle, publish or note the
//! failure.

mod attempt;
mod backoff;
mod handle;
mod sleep;
mod step;
mod task;
#[cfg(test)]
mod tests;
mod waiters;

pub use self::{
    handle::{Keeper, RefreshPlan},
    waiters::{Unavailable, UnavailableReason},
};
