//! Where something stands in a document: keys and positions from its root, as TOML writes them.

use std::fmt;

/// A place in a document, such as `upstreams."a b".match.hosts[0]`. Made on the way down, step by
/// step, and written out only where there is something to say.
#[derive(Debug, Clone, Copy)]
pub struct KeyPath<'a> {
    above: Option<&'a KeyPath<'a>>,
    part: KeyPart<'a>,
}

/// The last step to a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyPart<'a> {
    /// Steps that are written out already; empty: the root.
    Written(&'a str),
    /// A key of a table.
    Name(&'a str),
    /// A position in a list, from 0.
    Index(usize),
}

impl<'a> KeyPath<'a> {
    /// The document itself.
    pub const ROOT: KeyPath<'static> = KeyPath::written("");

    /// A place whose key is written out already.
    #[must_use]
    pub const fn written(dotted: &'a str) -> Self {
        Self {
            above: None,
            part: KeyPart::Written(dotted),
        }
    }
    /// The value of `name` in the table here.
    #[must_use]
    pub const fn key(&'a self, name: &'a str) -> Self {
        Self {
            above: Some(self),
            part: KeyPart::Name(name),
        }
    }
    /// An item of the list here.
    #[must_use]
    pub const fn index(&'a self, index: usize) -> Self {
        Self {
            above: Some(self),
            part: KeyPart::Index(index),
        }
    }
    /// The table that this stands in, and its name there; of an item of a list, those of the list.
    #[must_use]
    pub fn split_name(&self) -> Option<(KeyPath<'a>, &'a str)> {
        let above = *self.above?;
        match self.part {
            KeyPart::Name(name) => Some((above, name)),
            KeyPart::Index(_) | KeyPart::Written(_) => above.split_name(),
        }
    }
    /// The name of what stands here, in its table.
    #[must_use]
    pub fn name(&self) -> Option<&'a str> {
        match self.part {
            KeyPart::Name(name) => Some(name),
            KeyPart::Index(_) | KeyPart::Written(_) => None,
        }
    }
    /// The steps from the root.
    #[must_use]
    pub fn parts(&self) -> Vec<KeyPart<'a>> {
        let mut parts = self.above.map(KeyPath::parts).unwrap_or_default();
        parts.push(self.part);
        parts
    }
    /// These steps below another root, written out.
    #[must_use]
    pub fn below(&self, root: &str) -> String {
        write_parts(root, &self.parts())
    }
}

/// Steps below a root that is written out already.
#[must_use]
pub fn write_parts(root: &str, parts: &[KeyPart<'_>]) -> String {
    let mut text = root.to_owned();
    for part in parts {
        match part {
            KeyPart::Index(index) => text.extend(["[", &index.to_string(), "]"]),
            KeyPart::Written("") => {}
            KeyPart::Written(name) | KeyPart::Name(name) => {
                if !text.is_empty() {
                    text.push('.');
                }
                match part {
                    KeyPart::Name(_) => text.push_str(&quoted(name)),
                    _ => text.push_str(name),
                }
            }
        }
    }
    text
}

impl fmt::Display for KeyPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.below(""))
    }
}

impl From<KeyPath<'_>> for String {
    fn from(key: KeyPath<'_>) -> Self {
        key.below("")
    }
}

impl From<&KeyPath<'_>> for String {
    fn from(key: &KeyPath<'_>) -> Self {
        key.below("")
    }
}

/// A key as it stands in TOML: in quotes where it must be.
#[must_use]
pub fn quoted(name: &str) -> String {
    let bare = !name.is_empty()
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    if bare {
        name.to_owned()
    } else {
        format!("{name:?}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_written_as_toml_writes_it() {
        let root = KeyPath::written("credentials.acme");
        let (list, table) = (root.key("errors"), root.key("a b"));
        assert_eq!(list.index(0).to_string(), "credentials.acme.errors[0]");
        assert_eq!(table.key("").to_string(), "credentials.acme.\"a b\".\"\"");
        let top = KeyPath::ROOT.key("errors");
        assert_eq!(
            top.index(1).below("credentials.b"),
            "credentials.b.errors[1]"
        );
    }
}
