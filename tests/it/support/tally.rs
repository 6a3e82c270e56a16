//! The length and the hash of what went over a wire, however long it was.

use aws_lc_rs::digest;

use super::wire::Request;

/// Bytes of a body that are kept; the rest is only counted and hashed.
const KEPT: usize = 1 << 20;

/// Counts and hashes a body, keeps its beginning.
pub struct Tally {
    pub kept: Vec<u8>,
    pub length: u64,
    hash: digest::Context,
}

impl Tally {
    pub fn new() -> Self {
        Self {
            kept: Vec::new(),
            length: 0,
            hash: digest::Context::new(&digest::SHA256),
        }
    }

    pub fn add(&mut self, bytes: &[u8]) {
        self.length += bytes.len() as u64;
        self.hash.update(bytes);
        let room = KEPT.saturating_sub(self.kept.len());
        self.kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    pub fn finish(self, request: &mut Request) {
        request.sha256 = hex(self.hash.finish().as_ref());
        request.length = self.length;
        request.body = self.kept;
    }
}

pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, b| {
        let _ = write!(text, "{b:02x}");
        text
    })
}

pub fn sha256(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}
