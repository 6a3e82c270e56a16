//! Values that are never printed.

use std::{collections::BTreeMap, fmt};

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::hash::sha256_of_parts;

/// A secret value. It has no `Display`, no `Serialize`, and its `Debug` prints stars. Compared in
/// constant time.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes the text as it is; each copy is wiped from memory when it is dropped.
    #[must_use]
    pub fn new(value: String) -> Self {
        Self(Zeroizing::new(value))
    }
    /// The value itself. Every caller is a place where a secret can leak: keep them few.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The values of one consistent read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Values(pub BTreeMap<String, Secret>);

impl Values {
    /// The value of this name, if it was read.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Secret> {
        self.0.get(name)
    }

    /// SHA-256 over names and values, to tell "changed" from "same". Never shown, logged or stored.
    /// Lengths go in front, so that no two sets of values run together.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        sha256_of_parts(
            self.0
                .iter()
                .flat_map(|(name, value)| [name.as_bytes(), value.expose().as_bytes()]),
        )
    }
}

/// `text` without the white space around it: what Unicode calls so (`White_Space`: blanks of every
/// width, tabs, all line ends), and byte order marks.
#[must_use]
pub fn trim(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || c == '\u{feff}')
}
