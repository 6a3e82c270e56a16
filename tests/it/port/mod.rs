//! The data port on real sockets.

mod connections;
mod forwarding;
mod http2;
pub mod support;
mod tokens;
