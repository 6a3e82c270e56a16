//! What tests stand on: servers on real sockets that are strict, scriptable and tell what they saw.
#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(
    clippy::needless_pass_by_value,
    reason = "what a server is given, it keeps"
)]

pub mod assertion;
pub mod certs;
pub mod daemon;
pub mod endpoint;
pub mod foreign;
pub mod http2;
pub mod issuer;
pub mod ledger;
pub mod raw;
pub mod readings;
pub mod schema;
pub mod serve;
pub mod sidecar;
pub mod stanza;
pub mod tally;
pub mod through;
pub mod tokens;
pub mod tool;
pub mod vendor;
pub mod wait;
pub mod wire;
