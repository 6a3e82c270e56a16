//! How a word may be written: as it is, or within a longer text in base64, where it begins at any
//! of three places of a group.

use base64::{
    Engine,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};

/// One way to write a word; escapes are taken off before it is looked for (`view`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Spelling {
    Plain,
    /// Base64 (RFC 4648 4), with so many bytes of something else before the word in its group: 0, 1
    /// or 2.
    Base64(u8),
    /// Base64 in the alphabet for URLs (RFC 4648 5), with so many bytes before the word: 0, 1 or 2.
    Base64Url(u8),
}

impl Spelling {
    pub const ALL: [Self; 7] = [
        Self::Plain,
        Self::Base64(0),
        Self::Base64(1),
        Self::Base64(2),
        Self::Base64Url(0),
        Self::Base64Url(1),
        Self::Base64Url(2),
    ];

    /// The first bytes of what [`Self::write_word`] gives, 8 or as many as there are.
    pub fn anchor(self, word: &[u8], alone: bool) -> Option<Vec<u8>> {
        // 8 characters of base64 are of 8 bytes at most, those in front left out.
        let mut first = if self == Self::Plain {
            word
        } else {
            word.get(..9).filter(|_| !alone).unwrap_or(word)
        };
        if self == Self::Plain {
            first = first.get(..8).unwrap_or(first);
        }
        self.write_word(first, alone).map(|mut bytes| {
            bytes.truncate(8);
            bytes
        })
    }

    /// The characters that depend on the word alone. `alone`: nothing stands before or after it, so
    /// all of them do, and only in one place.
    pub fn write_word(self, word: &[u8], alone: bool) -> Option<Vec<u8>> {
        let (engine, before) = match self {
            Self::Plain => return Some(word.to_vec()),
            Self::Base64(before) => (&STANDARD_NO_PAD, before),
            Self::Base64Url(before) => (&URL_SAFE_NO_PAD, before),
        };
        if alone {
            return (before == 0).then(|| engine.encode(word).into_bytes());
        }
        let before = usize::from(before);
        let mut text = engine
            .encode([&[0; 2][..before.min(2)], word].concat())
            .into_bytes();
        // Whole characters, 6 bits each, of the word's own bits.
        text.truncate((before + word.len()) * 8 / 6);
        text.drain(..(before * 8).div_ceil(6));
        Some(text)
    }

    /// Whether a character before, and one behind, [`Self::write_word`] holds some bits of the word.
    pub fn shares_edges(self, length: usize) -> (bool, bool) {
        match self {
            Self::Plain => (false, false),
            Self::Base64(before) | Self::Base64Url(before) => (
                before > 0,
                !(usize::from(before) + length).is_multiple_of(3),
            ),
        }
    }
}
