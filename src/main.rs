//! Parses arguments, runs a command, owns the exit codes.

use std::process::ExitCode;

use clap::Parser;
use cupbearer::cli::{Args, dispatch};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args = Args::parse();
    // Several libraries speak TLS here; whoever asked first would choose. It fails only where that
    // has happened already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    dispatch(args).into()
}
