//! The framing of a chunked request body (RFC 9112 section 7.1), held to the letter as the bytes
//! pass. pingora's own reading is laxer: a size without digits, bare line ends in an extension and
//! trailers that are no fields pass it, and another server would read such a body otherwise.

use tokio::io::ReadBuf;

/// So many digits fit the number, leading zeros included.
const DIGITS: u8 = 16;
/// What may follow the digits on their line. pingora gives up at twice that, but only where the
/// line comes in parts.
const EXTENSIONS: u16 = 4096;
/// No reading of a chunked body, pingora's included, takes this at any place of its framing.
const FATAL: [u8; 2] = *b"\r\r";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// In no chunked body, or behind its end: whatever passes is not ours to judge.
    Outside,
    /// In a size, after so many digits.
    Size(u8),
    /// Blanks behind it.
    Blank,
    Extension,
    /// Before the LF of the size's line.
    SizeLf,
    Data,
    /// Before the CR, then the LF behind data.
    DataCr,
    DataLf,
    /// At the start of a trailer, or of the empty line.
    Trailer,
    Name,
    Value,
    /// Before the LF of a trailer, then that of the empty line.
    ValueLf,
    EndLf,
    /// Something was wrong; so many bytes of [`FATAL`] were handed on instead.
    Broken(usize),
}

/// One connection's place in the body that is being read.
#[derive(Debug)]
pub(super) struct Chunks {
    at: At,
    /// Size of the chunk, then what is left of it.
    left: u64,
    /// Bytes behind the digits.
    extensions: u16,
}

impl Chunks {
    pub(super) fn none() -> Self {
        Self {
            at: At::Outside,
            left: 0,
            extensions: 0,
        }
    }

    /// A chunked body begins with the next byte.
    pub(super) fn begin(&mut self) {
        *self = Self {
            at: At::Size(0),
            ..Self::none()
        };
    }

    /// No body is being read: what comes next is a request.
    pub(super) fn outside(&self) -> bool {
        self.at == At::Outside
    }

    /// What the client sent next. Returns how many of the bytes may be handed on; where the framing is wrong, the last of them are [`FATAL`],
    /// and nothing that the client sends may follow them.
    pub(super) fn judge(&mut self, bytes: &mut [u8]) -> usize {
        let Some(wrong) = self.wrong(bytes) else {
            return bytes.len();
        };
        let mut handed = 0;
        for (byte, fatal) in bytes.iter_mut().skip(wrong).zip(FATAL) {
            *byte = fatal;
            handed += 1;
        }
        self.at = At::Broken(handed);
        wrong + handed
    }

    /// `None`: read on. Otherwise there is nothing to wait for: what is left of [`FATAL`] is in `buf` now, and then the connection's end.
    pub(super) fn ended(&mut self, buf: &mut ReadBuf<'_>) -> Option<()> {
        let At::Broken(handed) = &mut self.at else {
            return None;
        };
        let left = FATAL.get(*handed..).unwrap_or_default();
        let now = left.get(..buf.remaining()).unwrap_or(left);
        buf.put_slice(now);
        *handed += now.len();
        Some(())
    }

    /// Where the first byte stands that is not as it must be.
    fn wrong(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        while let Some(byte) = bytes.get(at) {
            match self.at {
                At::Outside => return None,
                At::Data => {
                    let rest = bytes.len() - at;
                    let here = usize::try_from(self.left).map_or(rest, |left| left.min(rest));
                    at += here;
                    self.left -= here as u64;
                    if self.left == 0 {
                        self.at = At::DataCr;
                    }
                }
                _ => match self.next(*byte) {
                    Some(next) => {
                        self.at = next;
                        at += 1;
                    }
                    None => return Some(at),
                },
            }
        }
        None
    }

    fn next(&mut self, byte: u8) -> Option<At> {
        Some(match (self.at, byte) {
            (At::Size(digits), b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') if digits < DIGITS => {
                let digit = char::from(byte).to_digit(16)?;
                self.left = self.left << 4 | u64::from(digit);
                At::Size(digits + 1)
            }
            (At::Size(1..) | At::Blank | At::Extension, b'\r') => {
                self.extensions = 0;
                At::SizeLf
            }
            (At::Size(1..) | At::Blank, b' ' | b'\t') => self.extended(At::Blank)?,
            (At::Size(1..) | At::Blank, b';') => self.extended(At::Extension)?,
            (At::Extension, _) if text(byte) => self.extended(At::Extension)?,
            (At::SizeLf, b'\n') if self.left == 0 => At::Trailer,
            (At::SizeLf, b'\n') => At::Data,
            (At::DataCr, b'\r') => At::DataLf,
            (At::DataLf, b'\n') => At::Size(0),
            (At::Trailer, b'\r') => At::EndLf,
            (At::Trailer | At::Name, _) if token(byte) => At::Name,
            (At::Name, b':') => At::Value,
            (At::Value, b'\r') => At::ValueLf,
            (At::Value, _) if text(byte) => At::Value,
            (At::ValueLf, b'\n') => At::Trailer,
            (At::EndLf, b'\n') => At::Outside,
            _ => return None,
        })
    }

    fn extended(&mut self, next: At) -> Option<At> {
        self.extensions += 1;
        (self.extensions <= EXTENSIONS).then_some(next)
    }
}

/// What a field's value or an extension is made of: no control characters but the tab (RFC 9110 5.5 and 5.6.4).
fn text(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

/// RFC 9110 5.6.2.
fn token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
#[path = "chunks_tests.rs"]
mod tests;
