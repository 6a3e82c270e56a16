//! Undoes the content codings of an answer (RFC 9110 8.4). Pure, total; no step brings more than
//! the bound.

use std::io::Read;

use flate2::bufread::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use http::{HeaderMap, header::CONTENT_ENCODING};
use zeroize::Zeroizing;

use crate::token::FailureKind;

/// What we ask for (RFC 9110 12.5.3).
pub const ACCEPTED: &str = "gzip";
/// Nobody packs an answer more often than this for a good reason.
const MAX_CODINGS: usize = 3;
/// Longest name of an unknown coding that is repeated.
const MAX_NAME: usize = 32;

/// A coding that can be undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    Gzip,
    Deflate,
}

/// Why a body stays unread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DecodeError {
    /// More than the bound after a step.
    TooLarge,
    /// It is not what the header field says, or ends too early.
    Damaged,
}

/// The codings of an answer in the order in which they were applied, over all fields and however
/// they are written: names are without case, `x-gzip` is `gzip` (RFC 9110 8.4.1.3), `identity` is
/// nothing.
///
/// # Errors
/// A coding that is not known here, by its name, or more than three.
pub fn codings(headers: &HeaderMap) -> Result<Vec<Coding>, FailureKind> {
    let mut all = Vec::new();
    for field in headers.get_all(CONTENT_ENCODING) {
        for name in field
            .as_bytes()
            .split(|b| *b == b',')
            .map(<[u8]>::trim_ascii)
        {
            let coding = match name.to_ascii_lowercase().as_slice() {
                b"" | b"identity" => continue,
                b"gzip" | b"x-gzip" => Coding::Gzip,
                b"deflate" => Coding::Deflate,
                _ => {
                    let name: String = String::from_utf8_lossy(name)
                        .chars()
                        .take(MAX_NAME)
                        .map(|c| {
                            if c.is_ascii_graphic() || c == ' ' {
                                c
                            } else {
                                '?'
                            }
                        })
                        .collect();
                    return Err(FailureKind::UnknownCoding(name));
                }
            };
            if all.len() == MAX_CODINGS {
                return Err(FailureKind::TooManyCodings(MAX_CODINGS));
            }
            all.push(coding);
        }
    }
    Ok(all)
}

/// `body` without its codings, the last one undone first; no content is none in every coding.
/// `limit`: bytes that may come out of each step.
///
/// # Errors
/// [`DecodeError`]: damaged, cut off, or larger than what is read of an answer.
pub fn decode(
    body: Zeroizing<Vec<u8>>,
    codings: &[Coding],
    limit: usize,
) -> Result<Zeroizing<Vec<u8>>, DecodeError> {
    let mut body = body;
    if body.is_empty() {
        return Ok(body);
    }
    for coding in codings.iter().rev() {
        body = match coding {
            Coding::Gzip => unpack_bounded(MultiGzDecoder::new(&body[..]), limit)?,
            // Zlib (RFC 9110 8.4.1.2), or the bare stream that many servers send in its place: the
            // two differ in their first bytes.
            Coding::Deflate if is_zlib(&body) => {
                unpack_bounded(ZlibDecoder::new(&body[..]), limit)?
            }
            Coding::Deflate => unpack_bounded(DeflateDecoder::new(&body[..]), limit)?,
        };
    }
    if body.len() > limit {
        Err(DecodeError::TooLarge)
    } else {
        Ok(body)
    }
}

fn unpack_bounded(packed: impl Read, limit: usize) -> Result<Zeroizing<Vec<u8>>, DecodeError> {
    // Reserved in full, so that no growing buffer leaves copies of a token behind.
    let mut body = Zeroizing::new(Vec::with_capacity(limit + 1));
    packed
        .take(limit as u64 + 1)
        .read_to_end(&mut body)
        .map_err(|_| DecodeError::Damaged)?;
    if body.len() > limit {
        Err(DecodeError::TooLarge)
    } else {
        Ok(body)
    }
}

/// RFC 1950 2.2: method 8, and a check over the first two bytes.
fn is_zlib(body: &[u8]) -> bool {
    matches!(body, [first, second, ..] if first & 0x0f == 8 && (u16::from(*first) << 8 | u16::from(*second)) % 31 == 0)
}

#[cfg(test)]
mod tests;
