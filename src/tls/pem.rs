//! PEM (RFC 7468) as people hand it over: behind a byte order mark, in one line with `\n` written
//! out (as in an environment variable), indented, with Windows line ends, with text around it,
//! several objects in any order. Pure, total, linear.

use rustls_pki_types::{
    CertificateDer, PrivateKeyDer,
    pem::{self, PemObject},
};
use zeroize::Zeroizing;

const BEGIN: &[u8] = b"-----BEGIN ";
const END: &[u8] = b"-----END ";
const DASHES: &[u8] = b"-----";

/// One object of a PEM text, as it stands there.
#[derive(Clone, Copy)]
pub struct PemSection<'a> {
    /// `CERTIFICATE`, `PRIVATE KEY`, `RSA PRIVATE KEY` and so on.
    pub label: &'a str,
    /// What stands between its lines; for what has no end, all the rest of the text.
    body: &'a [u8],
    ends: bool,
}

impl PemSection<'_> {
    /// The object in the form that every reader takes: lines of 64 characters, no white space, no
    /// written-out `\n`. What has no end has none here.
    #[must_use]
    pub fn to_plain_pem(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(
            self.body.len() + self.body.len() / 32 + 2 * self.label.len() + 64,
        ));
        text.push_str("-----BEGIN ");
        text.push_str(self.label);
        text.push_str("-----\n");
        let mut column = 0;
        let mut bytes = self.body.iter().copied().peekable();
        while let Some(byte) = bytes.next() {
            match byte {
                // However often it was escaped on its way: `\n`, `\\n`.
                b'\\' => {
                    while bytes.next_if_eq(&b'\\').is_some() {}
                    let _ = bytes.next_if(|b| matches!(b, b'n' | b'r' | b't'));
                }
                _ if byte.is_ascii_whitespace() => {}
                _ => {
                    if column == 64 {
                        text.push('\n');
                        column = 0;
                    }
                    // What is no ASCII is no base64 either, and is refused as that.
                    text.push(if byte.is_ascii() {
                        char::from(byte)
                    } else {
                        '?'
                    });
                    column += 1;
                }
            }
        }
        text.push('\n');
        if self.ends {
            text.push_str("-----END ");
            text.push_str(self.label);
            text.push_str("-----\n");
        }
        text
    }

    /// A private key of any kind, an encrypted one included.
    #[must_use]
    pub fn is_private_key(&self) -> bool {
        self.label.ends_with("PRIVATE KEY")
    }
}

/// The objects of a PEM text, in its order. What stands before, between and behind them is passed
/// over.
pub fn sections(text: &[u8]) -> impl Iterator<Item = PemSection<'_>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        loop {
            rest = &rest[find_bytes(rest, BEGIN)? + BEGIN.len()..];
            // A label is printable and short (RFC 7468 3); anything else is no beginning.
            let label = find_bytes(&rest[..rest.len().min(64)], DASHES)
                .and_then(|end| std::str::from_utf8(&rest[..end]).ok());
            let Some(label) = label.filter(|label| !label.contains(char::is_control)) else {
                continue;
            };
            let inside = &rest[label.len() + DASHES.len()..];
            let Some(end) = find_bytes(inside, END) else {
                rest = &[];
                return Some(PemSection {
                    label,
                    body: inside,
                    ends: false,
                });
            };
            rest = &inside[end + END.len()..];
            let ends = rest
                .strip_prefix(label.as_bytes())
                .is_some_and(|behind| behind.starts_with(DASHES));
            return Some(PemSection {
                label,
                body: &inside[..end],
                ends,
            });
        }
    })
}

/// All certificates, in their order.
///
/// # Errors
/// One of them is damaged: no base64, or without an end.
pub fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, pem::Error> {
    sections(text)
        .filter(|section| section.label == "CERTIFICATE")
        .map(|section| der(&section))
        .collect()
}

/// The first private key that is not encrypted (PKCS#8, PKCS#1, SEC 1), whatever stands before and
/// behind it. `None`: there is none.
///
/// # Errors
/// It is damaged: no base64, or without an end.
pub fn private_key(text: &[u8]) -> Option<Result<PrivateKeyDer<'static>, pem::Error>> {
    first_key(text).map(|section| der(&section))
}

/// The first private key of any kind as it stands in the text, undecoded; `None`: there is none.
#[must_use]
pub fn first_key(text: &[u8]) -> Option<PemSection<'_>> {
    sections(text).find(|section| {
        matches!(
            section.label,
            "PRIVATE KEY" | "RSA PRIVATE KEY" | "EC PRIVATE KEY"
        )
    })
}

fn der<T: PemObject>(section: &PemSection<'_>) -> Result<T, pem::Error> {
    T::from_pem_slice(section.to_plain_pem().as_bytes())
}

fn find_bytes(text: &[u8], word: &[u8]) -> Option<usize> {
    text.windows(word.len()).position(|window| window == word)
}

#[cfg(test)]
mod tests;
