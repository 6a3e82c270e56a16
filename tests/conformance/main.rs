//! The promises against heavy foreign servers (`make conformance`). What a machine cannot get is
//! skipped with its reason.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test fails by panicking and lives in real time"
)]
#![allow(
    clippy::float_cmp,
    reason = "the metrics compared here are whole numbers"
)]

mod h2spec;
mod keycloak;
mod sidecar;
#[path = "../it/support/mod.rs"]
mod support;
mod toxiproxy;
