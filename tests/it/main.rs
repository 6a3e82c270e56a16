//! Integration tests: one binary, a file per promise, against real sockets.
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

mod abuse;
mod abuse_admin;
mod abuse_clients;
mod abuse_http2;
mod admin;
mod admin_abuse;
mod admin_auth;
mod admin_bounds;
mod barred_tokens;
mod browsers;
mod bytes;
mod chains;
mod check_live;
mod clients;
mod clock;
mod commands;
mod documents;
mod endings;
mod failures;
mod faults;
mod faults_answers;
mod faults_http2;
mod faults_names;
mod faults_server;
mod faults_storms;
mod forward_proxy;
mod forwarding;
mod grounds;
mod guard;
mod hardening;
mod leaks;
mod lints;
mod logs;
mod metrics;
mod notify;
mod oidc;
mod origins;
mod overload;
mod page;
mod panics;
mod partitions;
mod pool;
mod port;
mod process;
mod protocols;
mod recovery;
mod redirects;
mod refusals;
mod reload;
mod reload_load;
mod repeats;
mod rotation;
mod routing;
mod settling;
mod smuggling;
mod state;
mod state_faults;
mod streams;
mod support;
mod tidy;
mod token_answers;
mod tokens;
mod unfinished_heads;
mod unlatch;
mod upstream_tls;
mod vendors;
mod vendors_mypos;
mod vendors_strict;
