//! What hides our tokens, secrets and variables in bytes that a vendor sends: however they are
//! spelled, in one pass over those bytes.

mod spelling;
#[cfg(test)]
mod tests;
mod view;

use std::{collections::BTreeSet, ops::Range, sync::Arc};

use memchr::memmem;
use zeroize::Zeroizing;

use spelling::Spelling;
use view::{DecodedView, decoded_views};

/// Stands in the place of what is hidden.
pub const HIDDEN: &str = "***";
/// Shorter words stand in answers by chance, and are no secrets worth the name; in bytes.
const SHORTEST: usize = 6;
/// Shorter words are hidden only as a whole value or parameter; in bytes.
const SURE: usize = 12;
/// Bytes of a spelling by which it is found before it is compared as a whole.
const ANCHOR: usize = 8;
/// Bytes of an anchor that are looked up at each place; a power of two of bits says which there may
/// be.
const KEY: usize = 4;
const KEY_BITS: u32 = 13;
/// Rounds of hiding, where what is left after one spells a word anew; then the whole value is
/// hidden.
const ROUNDS: usize = 4;

/// A word that is to be hidden. Cheap to clone.
pub type HiddenWord = Arc<Zeroizing<String>>;

/// The words of one injection, ready to be searched for. What is built for that is 1 KiB and 16
/// bytes for each spelling of each word; the words themselves are shared.
pub struct Redactor {
    all: Vec<HiddenWord>,
    anchors: Vec<Anchor>,
    /// One bit for each hash of an anchor's first bytes.
    keys: Box<[u64]>,
}

/// The first bytes of one word in one spelling.
struct Anchor {
    bytes: [u8; ANCHOR],
    length: u8,
    spelling: Spelling,
    word: u16,
}

/// A word in a spelling.
type Needle = (u16, Spelling);

impl Redactor {
    /// Words under 6 bytes and repeated ones are left out.
    #[must_use]
    pub fn new(all: impl IntoIterator<Item = HiddenWord>) -> Self {
        let mut words: Vec<HiddenWord> = Vec::new();
        for word in all {
            if word.len() >= SHORTEST
                && words.len() < usize::from(u16::MAX)
                && !words.contains(&word)
            {
                words.push(word);
            }
        }
        let mut this = Self {
            all: words,
            anchors: Vec::new(),
            keys: vec![0; (1 << KEY_BITS) / 64].into_boxed_slice(),
        };
        for (number, word) in (0_u16..).zip(&this.all) {
            for spelling in Spelling::ALL {
                let Some(bytes) = spelling.anchor(word.as_bytes(), word.len() < SURE) else {
                    continue;
                };
                let length = bytes.len().min(ANCHOR);
                let mut anchor = [0; ANCHOR];
                anchor
                    .iter_mut()
                    .zip(&bytes)
                    .for_each(|(to, from)| *to = *from);
                if let Some(key) = key_bit(&anchor)
                    && let Some(bits) = this.keys.get_mut(key / 64)
                {
                    *bits |= 1 << (key % 64);
                }
                // At most 8.
                let length = u8::try_from(length).unwrap_or_default();
                this.anchors.push(Anchor {
                    bytes: anchor,
                    length,
                    spelling,
                    word: number,
                });
            }
        }
        this
    }

    /// There is nothing to hide.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// `value` with every word replaced by `***`; `None` where it holds none. Takes time in
    /// proportion to the length of `value` and of the words.
    #[must_use]
    pub fn hide(&self, value: &[u8]) -> Option<Vec<u8>> {
        self.hide_repeatedly(value, |now| self.find_ranges(now))
    }

    /// The name of a field, in which case does not matter, with every word replaced by `***`; `None`
    /// where it holds none.
    #[must_use]
    pub fn hide_name(&self, name: &[u8]) -> Option<Vec<u8>> {
        self.hide_repeatedly(name, |now| self.find_ranges_in_name(now))
    }

    fn hide_repeatedly(
        &self,
        value: &[u8],
        found: impl Fn(&[u8]) -> Vec<Range<usize>>,
    ) -> Option<Vec<u8>> {
        if self.all.is_empty() || value.len() < SHORTEST {
            return None;
        }
        let mut left: Option<Vec<u8>> = None;
        for _ in 0..ROUNDS {
            let now = left.as_deref().unwrap_or(value);
            let ranges = found(now);
            if ranges.is_empty() {
                return left;
            }
            left = Some(mask_ranges(now, ranges));
        }
        Some(HIDDEN.into())
    }

    /// Where words stand in `value`.
    fn find_ranges(&self, value: &[u8]) -> Vec<Range<usize>> {
        let mut ranges = Vec::new();
        for view in decoded_views(value) {
            for (word, spelling) in self.candidate_needles(view.bytes()) {
                self.push_matches(word, spelling, &view, |needle| needle, &mut ranges);
            }
        }
        ranges
    }

    /// Names are short, and most shorter than any spelling of a word.
    fn find_ranges_in_name(&self, name: &[u8]) -> Vec<Range<usize>> {
        let mut ranges = Vec::new();
        for view in decoded_views(name).into_iter().map(DecodedView::lowered) {
            for (number, word) in (0_u16..).zip(&self.all) {
                if word.len() <= view.bytes().len() {
                    for spelling in Spelling::ALL {
                        self.push_matches(
                            number,
                            spelling,
                            &view,
                            |needle| needle.to_ascii_lowercase(),
                            &mut ranges,
                        );
                    }
                }
            }
        }
        ranges
    }

    /// The needles that may stand in `text`: their beginnings do.
    fn candidate_needles(&self, text: &[u8]) -> BTreeSet<Needle> {
        let mut hits = BTreeSet::new();
        for (at, window) in text.windows(KEY).enumerate() {
            let Some(key) = key_bit(window) else { continue };
            if self
                .keys
                .get(key / 64)
                .is_none_or(|bits| bits >> (key % 64) & 1 == 0)
            {
                continue;
            }
            let here = text.get(at..).unwrap_or_default();
            for anchor in &self.anchors {
                if anchor
                    .bytes
                    .get(..usize::from(anchor.length))
                    .is_some_and(|bytes| here.starts_with(bytes))
                {
                    hits.insert((anchor.word, anchor.spelling));
                }
            }
        }
        hits
    }

    /// Adds where this needle stands in the view, in terms of what the view is of.
    fn push_matches(
        &self,
        word: u16,
        spelling: Spelling,
        view: &DecodedView<'_>,
        fold: impl Fn(Vec<u8>) -> Vec<u8>,
        ranges: &mut Vec<Range<usize>>,
    ) {
        let Some(word) = self.all.get(usize::from(word)) else {
            return;
        };
        let alone = word.len() < SURE;
        let Some(needle) = spelling
            .write_word(word.as_bytes(), alone)
            .map(|needle| Zeroizing::new(fold(needle)))
        else {
            return;
        };
        let text = view.bytes();
        for at in memmem::find_iter(text, needle.as_slice()) {
            let end = at + needle.len();
            if !alone {
                let (before, after) = spelling.shares_edges(word.len());
                let from = at - usize::from(before && at > 0 && is_base64(text.get(at - 1)));
                let to = end + usize::from(after && is_base64(text.get(end)));
                ranges.push(view.range(from..to));
            } else if is_edge(at.checked_sub(1).and_then(|i| text.get(i))) && is_edge(text.get(end))
            {
                ranges.push(view.range(at..end));
            }
        }
    }
}

/// Which bit stands for these first bytes.
fn key_bit(bytes: &[u8]) -> Option<usize> {
    let first = bytes.first_chunk::<KEY>()?;
    // Fibonacci hashing: the upper bits are well mixed. 13 bits fit.
    usize::try_from(u32::from_le_bytes(*first).wrapping_mul(0x9E37_79B1) >> (32 - KEY_BITS)).ok()
}

/// Whether a value or a parameter may begin or end beside this byte.
fn is_edge(byte: Option<&u8>) -> bool {
    byte.is_none_or(|b| b" \t=&;,:?#\"'<>(){}[]/\\|".contains(b))
}

fn is_base64(byte: Option<&u8>) -> bool {
    byte.is_some_and(|b| b.is_ascii_alphanumeric() || b"+/-_".contains(b))
}

fn mask_ranges(value: &[u8], mut ranges: Vec<Range<usize>>) -> Vec<u8> {
    ranges.sort_unstable_by_key(|range| (range.start, range.end));
    let mut out = Vec::with_capacity(value.len());
    let mut done = 0;
    let mut ranges = ranges.into_iter().peekable();
    while let Some(mut range) = ranges.next() {
        while let Some(next) = ranges.next_if(|next| next.start <= range.end) {
            range.end = range.end.max(next.end);
        }
        out.extend_from_slice(value.get(done..range.start).unwrap_or_default());
        out.extend_from_slice(HIDDEN.as_bytes());
        done = range.end;
    }
    out.extend_from_slice(value.get(done..).unwrap_or_default());
    out
}
