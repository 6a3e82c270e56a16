//! One token call: what is sent, what the response says, what it means.

pub mod assertion;
pub mod call;
pub mod classify;
pub mod client;
mod coding;
mod guard_key;
pub mod issued;
mod json;
pub mod request;
pub mod response;
mod scrubber;
#[cfg(test)]
mod testing;
mod transport_error;

pub use call::{CallHistory, TokenCall};
pub use client::TokenClient;
pub use guard_key::{guard_key, token_origins};
pub use response::{ResponseBody, TokenResponse};
pub use scrubber::Scrubber;
