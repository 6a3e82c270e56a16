//! One text as others may read it: with percent escapes, JSON escapes and quoted pairs taken off,
//! and where in the text each byte came from.

use std::{borrow::Cow, ops::Range};

use memchr::memchr;

use crate::hash::hex_digit;

/// A reading of a text.
pub struct DecodedView<'a> {
    text: Cow<'a, [u8]>,
    /// Where in the original each byte begins, and where the last one ends; `None`: it is the
    /// original.
    from: Option<Vec<u32>>,
}

/// Every reading that differs from the ones before it. Their number is bounded, and none is longer
/// than the text.
pub fn decoded_views(text: &[u8]) -> Vec<DecodedView<'_>> {
    let mut all = vec![DecodedView {
        text: Cow::Borrowed(text),
        from: None,
    }];
    if memchr(b'%', text).is_none() && memchr(b'\\', text).is_none() {
        return all;
    }
    let add = |found: Option<DecodedView<'static>>, all: &mut Vec<DecodedView<'_>>| {
        found.map(|view| all.push(view)).is_some()
    };
    let plain = DecodedView {
        text: Cow::Borrowed(text),
        from: None,
    };
    // A word may itself look like an escape, so that it stands in the first or second step and not
    // in the last.
    let once = percent_decode(&plain, false);
    let twice = once.as_ref().and_then(|view| percent_decode(view, false));
    let all_of_it = twice.as_ref().and_then(|_| percent_decode(&plain, true));
    for found in [once, twice, all_of_it] {
        add(found, &mut all);
    }
    // JSON within JSON, and escapes of one kind within the other.
    for base in 0..all.len() {
        let Some(view) = all.get(base) else { break };
        let (json, pairs) = (unescape(view, json_escape), unescape(view, quoted_pair));
        let twice = json.as_ref().and_then(|view| unescape(view, json_escape));
        let percented = json.as_ref().and_then(|view| percent_decode(view, true));
        for found in [json, pairs, twice, percented] {
            add(found, &mut all);
        }
    }
    all
}

impl DecodedView<'_> {
    /// This view with its letters small, for names in which case does not matter.
    pub fn lowered(mut self) -> Self {
        self.text.to_mut().make_ascii_lowercase();
        self
    }

    pub fn bytes(&self) -> &[u8] {
        &self.text
    }

    /// The part of the original that a part of this reading was read from.
    pub fn range(&self, part: Range<usize>) -> Range<usize> {
        self.origin(part.start)..self.origin(part.end)
    }

    fn origin(&self, at: usize) -> usize {
        match &self.from {
            None => at,
            Some(from) => from.get(at).or(from.last()).map_or(at, |at| *at as usize),
        }
    }

    fn origin_of(&self, at: usize) -> u32 {
        // A head has 64 KiB at most.
        u32::try_from(self.origin(at)).unwrap_or(u32::MAX)
    }
}

/// Percent-decoded (RFC 3986 2.1), once or as often as it changes, in one pass: what a decoded byte
/// completes is decoded at once then.
fn percent_decode(view: &DecodedView<'_>, fully: bool) -> Option<DecodedView<'static>> {
    memchr(b'%', view.bytes())?;
    let mut text: Vec<u8> = Vec::with_capacity(view.text.len());
    let mut from: Vec<u32> = Vec::with_capacity(view.text.len() + 1);
    let mut floor = 0;
    for (at, byte) in view.text.iter().enumerate() {
        let (mut next, mut start) = (*byte, view.origin_of(at));
        // What was decoded so far counts as the beginning of an escape only where all of it is to
        // go.
        while text.len() >= floor + 2
            && let [.., b'%', high] = *text.as_slice()
            && let (Some(high), Some(low)) = (hex_digit(high), hex_digit(next))
        {
            next = high << 4 | low;
            text.truncate(text.len() - 2);
            from.pop();
            start = from.pop().unwrap_or(start);
            floor = if fully { 0 } else { text.len() + 1 };
        }
        text.push(next);
        from.push(start);
    }
    from.push(view.origin_of(view.text.len()));
    (text.len() < view.text.len()).then_some(DecodedView {
        text: Cow::Owned(text),
        from: Some(from),
    })
}

/// With its backslash escapes replaced, each by what `escape` makes of what follows the backslash:
/// a byte, and how many bytes it was.
fn unescape(
    view: &DecodedView<'_>,
    escape: fn(&[u8]) -> Option<(u8, usize)>,
) -> Option<DecodedView<'static>> {
    memchr(b'\\', view.bytes())?;
    let mut text: Vec<u8> = Vec::with_capacity(view.text.len());
    let mut from: Vec<u32> = Vec::with_capacity(view.text.len() + 1);
    let mut at = 0;
    while let Some(byte) = view.text.get(at) {
        let meant = if *byte == b'\\' {
            view.text.get(at + 1..).and_then(escape)
        } else {
            None
        };
        let (byte, length) = meant.map_or((*byte, 1), |(byte, length)| (byte, length + 1));
        text.push(byte);
        from.push(view.origin_of(at));
        at += length;
    }
    from.push(view.origin_of(view.text.len()));
    (text.len() < view.text.len()).then_some(DecodedView {
        text: Cow::Owned(text),
        from: Some(from),
    })
}

/// RFC 8259 7. What is no ASCII stands in no word of ours, and becomes one byte that is none.
fn json_escape(rest: &[u8]) -> Option<(u8, usize)> {
    let (first, rest) = rest.split_first()?;
    Some(match first {
        b'"' | b'\\' | b'/' => (*first, 1),
        b'b' => (8, 1),
        b'f' => (12, 1),
        b'n' => (b'\n', 1),
        b'r' => (b'\r', 1),
        b't' => (b'\t', 1),
        b'u' => {
            let digits = rest.first_chunk::<4>()?;
            let value = digits.iter().try_fold(0_u16, |value, digit| {
                Some(value << 4 | u16::from(hex_digit(*digit)?))
            })?;
            (u8::try_from(value).unwrap_or(0xFF), 5)
        }
        _ => return None,
    })
}

/// RFC 9110 5.6.4.
fn quoted_pair(rest: &[u8]) -> Option<(u8, usize)> {
    rest.first().map(|byte| (*byte, 1))
}
