//! The text of a document, with the digest of the bytes that it was read from.

use std::{fs, io, path::Path};

use super::problem::{Mistake, why_unread};
use crate::hash::sha256;

/// A text that was read once: whoever keeps its digest can tell whether its file holds it still.
#[derive(Debug)]
pub struct SourceText {
    /// The whole text.
    pub text: String,
    /// SHA-256 of the bytes.
    pub digest: [u8; 32],
}

impl SourceText {
    /// Reads a file of any size, or a pipe to its end.
    ///
    /// # Errors
    /// What cannot be read, or is not UTF-8.
    pub fn read(path: &Path) -> Result<Self, Mistake<String>> {
        Self::from_bytes(fs::read(path).as_deref())
    }

    /// Takes what was read elsewhere.
    ///
    /// # Errors
    /// What could not be read, or is not UTF-8.
    pub fn from_bytes(bytes: Result<&[u8], &io::Error>) -> Result<Self, Mistake<String>> {
        let place = "name another file with --config FILE or CUPBEARER_CONFIG";
        let bytes =
            bytes.map_err(|error| (format!("cannot be read: {}", why_unread(error)), place))?;
        let text = str::from_utf8(bytes)
            .map_err(|_| ("is not UTF-8".to_owned(), "save the file as UTF-8 text"))?;
        Ok(Self {
            text: text.to_owned(),
            digest: sha256(bytes),
        })
    }
}
