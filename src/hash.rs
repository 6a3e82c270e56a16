//! SHA-256 and hexadecimal text, for all who tell "changed" from "same" or name something by a
//! digest. Pure.

use std::fmt::Write as _;

use aws_lc_rs::digest::{Context, Digest, SHA256, digest};

/// SHA-256 (FIPS 180-4) of `bytes`.
#[must_use]
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    fixed(&digest(&SHA256, bytes))
}

/// SHA-256 over `parts`, each behind its length (8 bytes, the most significant first), so that none
/// runs into the next: `["ab", "c"]` and `["a", "bc"]` differ.
#[must_use]
pub fn sha256_of_parts<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    fixed(&context.finish())
}

fn fixed(digest: &Digest) -> [u8; 32] {
    // SHA-256 has 32 bytes.
    digest.as_ref().try_into().unwrap_or_default()
}

/// `bytes` in hexadecimal, two small letters or digits for each (RFC 4648 8).
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// The value of one hexadecimal digit of either case; `None`: it is none.
#[must_use]
pub fn hex_digit(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_that_of_the_standard_and_parts_never_run_together() {
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(hex(&sha256(b"abc")), abc);
        let parts = |parts: &[&str]| sha256_of_parts(parts.iter().map(|part| part.as_bytes()));
        assert_ne!(parts(&["ab", "c"]), parts(&["a", "bc"]));
        assert_ne!(parts(&["a", ""]), parts(&["a"]));
        // Names of the guard's records on disk are made of such digests: they stay as they are.
        assert_eq!(parts(&["a"]), sha256(b"\0\0\0\0\0\0\0\x01a"));
    }

    #[test]
    fn hexadecimal_is_two_digits_a_byte() {
        assert_eq!(hex(&[0, 0x0a, 0xff]), "000aff");
        for (digit, value) in [
            (b'0', Some(0)),
            (b'a', Some(10)),
            (b'F', Some(15)),
            (b'g', None),
        ] {
            assert_eq!(hex_digit(digit), value);
        }
    }
}
