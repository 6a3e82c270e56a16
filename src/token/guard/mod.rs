//! How often we may still ask: spend before an attempt, settle after it, latch at the limit. Pure:
//! every method is told the moment. What keeps the counts between attempts is a
//! [`Ledger`](super::ledger::Ledger).

mod account;
mod budget;
mod count;
mod counts;
mod decision;
mod leave;
mod pair;
mod record;
#[cfg(test)]
mod tests;

pub use self::{
    account::{AccountRecord, AttemptedSecret},
    budget::Budget,
    count::Count,
    counts::{Guard, KeyCounts, value_name},
    decision::{AttemptOutcome, AttemptRequest, Denial, GuardDecision, GuardStatus, NextAttempt},
    pair::{CountPair, KeyLabels},
    record::SecretRecord,
};
