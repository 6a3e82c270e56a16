//! One token call: what is sent, what the answer says, what it means.

pub mod assertion;
pub mod call;
pub mod client;
mod coding;
mod json;
mod key;
mod pick;
pub mod request;
pub mod response;
pub mod rules;
mod scrub;
#[cfg(test)]
mod testing;
mod trouble;

pub use call::{Known, TokenCall};
pub use client::TokenClient;
pub use key::{guard_key, token_origins};
pub use pick::{Answer, Body};
pub use scrub::Scrub;
