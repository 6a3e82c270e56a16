//! Takes secrets out of text that others wrote, before anyone may see it. Pure.

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD},
};
use zeroize::Zeroizing;

use crate::hash::hex;

/// Longest `error_description` that is shown, in characters.
const MAX_DESCRIPTION: usize = 200;
/// Longest `error` code that is shown.
const MAX_CODE: usize = 64;

/// Everything that must not be seen of one attempt, in all its usual spellings.
#[derive(Default)]
pub struct Scrubber {
    needles: Vec<Zeroizing<String>>,
}

impl Scrubber {
    /// Adds a secret, a token or an assertion: as it is, form- and percent-encoded, base64, hex and
    /// as a JSON string.
    pub fn add(&mut self, secret: &str) {
        self.add_spellings(secret);
        // A key has many lines, and an answer may hold one of them.
        if secret.contains('\n') {
            secret
                .lines()
                .map(str::trim)
                .filter(|l| l.len() >= 16 && !l.starts_with("-----"))
                .for_each(|l| self.add_spellings(l));
        }
    }

    fn add_spellings(&mut self, secret: &str) {
        if secret.is_empty() {
            return;
        }
        let form: String = form_urlencoded::byte_serialize(secret.as_bytes()).collect();
        let percent =
            percent_encoding::utf8_percent_encode(secret, percent_encoding::NON_ALPHANUMERIC)
                .to_string();
        let hex = hex(secret.as_bytes());
        let quoted = serde_json::to_string(secret).unwrap_or_default();
        let json = quoted.trim_matches('"').to_owned();
        let mut all = vec![
            secret.to_owned(),
            form.to_lowercase(),
            form,
            percent.to_lowercase(),
            percent,
            hex.to_uppercase(),
            hex,
            json,
        ];
        all.push(secret.replace(|c: char| c.is_control(), ""));
        for engine in [&STANDARD, &STANDARD_NO_PAD, &URL_SAFE, &URL_SAFE_NO_PAD] {
            all.push(engine.encode(secret));
        }
        self.needles.extend(
            all.into_iter()
                .filter(|n| !n.is_empty())
                .map(Zeroizing::new),
        );
        // Longest first: a short one must not break up a long one and leave its rest.
        self.needles
            .sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        self.needles.dedup();
    }

    /// `text` without any of it.
    #[must_use]
    pub fn scrub_text(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for needle in &self.needles {
            if text.contains(needle.as_str()) {
                text = text.replace(needle.as_str(), "***");
            }
        }
        text
    }

    /// An `error` code (RFC 6749 5.2): its character set, at most 64 of it, else it is none.
    #[must_use]
    pub fn scrub_code(&self, error: &str) -> Option<String> {
        let legal = |b: u8| matches!(b, 0x20..=0x21 | 0x23..=0x5B | 0x5D..=0x7E);
        (!error.trim().is_empty() && error.len() <= MAX_CODE && error.bytes().all(legal))
            .then(|| self.scrub_text(error))
    }

    /// An `error_description`: scrubbed, then without control characters and cut at 200 characters.
    #[must_use]
    pub fn scrub_description(&self, text: &str) -> String {
        let visible: String = self
            .scrub_text(text)
            .chars()
            .map(|c| if is_invisible(c) { ' ' } else { c })
            .collect();
        let joined: String = text.chars().filter(|c| !is_invisible(*c)).collect();
        // Where a secret shows only once the control characters inside it are gone, nothing of the
        // text can be kept.
        if self.scrub_text(&joined) != joined && self.scrub_text(text) == text {
            return "***".into();
        }
        let clean = self.scrub_text(
            visible
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" ")
                .as_str(),
        );
        let mut cut: String = clean.chars().take(MAX_DESCRIPTION).collect();
        if cut.len() < clean.len() {
            cut.push('…');
        }
        cut
    }
}

/// Control and formatting characters that could forge a line or turn its direction.
fn is_invisible(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(secret: &str) -> Scrubber {
        let mut scrubber = Scrubber::default();
        scrubber.add(secret);
        scrubber
    }

    #[test]
    fn a_secret_is_taken_out_in_every_spelling() {
        let scrubber = of("s+e/c r%t\"x");
        let spellings = [
            "s+e/c r%t\"x",
            "s%2Be%2Fc+r%25t%22x",
            "s%2be%2fc%20r%25t%22x",
            "s+e/c r%t\\\"x",
            "cytlL2MgciV0Ing=",
            "732b652f632072257422 78",
        ];
        for text in &spellings[..5] {
            assert_eq!(
                scrubber.scrub_text(&format!("a {text} b")),
                "a *** b",
                "{text}"
            );
        }
        assert_eq!(scrubber.scrub_text("732b652f63207225742278"), "***");
        assert_eq!(scrubber.scrub_text("nothing here"), "nothing here");
    }

    #[test]
    fn a_line_of_a_key_is_taken_out() {
        let scrubber = of(
            "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEF\nAASCBKcwggSj\n-----END PRIVATE KEY-----\n",
        );
        assert_eq!(
            scrubber.scrub_text("bad key MIIEvQIBADANBgkqhkiG9w0BAQEF!"),
            "bad key ***!"
        );
    }

    #[test]
    fn a_description_is_one_line_of_at_most_200_characters() {
        let scrubber = of("hunter2");
        assert_eq!(
            scrubber.scrub_description("no\r\nX-Evil: 1\u{202e}"),
            "no X-Evil: 1"
        );
        assert_eq!(
            scrubber.scrub_description("is hunter2 right?"),
            "is *** right?"
        );
        assert_eq!(scrubber.scrub_description("is hun\u{0}ter2 right?"), "***");
        assert_eq!(
            scrubber.scrub_description(&"é".repeat(500)).chars().count(),
            201
        );
        assert!(
            !scrubber
                .scrub_description(&format!("{}hunter2", "x".repeat(196)))
                .contains("hunt")
        );
    }

    #[test]
    fn a_code_keeps_to_the_character_set_of_the_rfc() {
        let scrubber = Scrubber::default();
        assert_eq!(
            scrubber.scrub_code("invalid_client").as_deref(),
            Some("invalid_client")
        );
        for bad in ["", "  ", "a\"b", "a\\b", "a\nb", "é", &"x".repeat(65)] {
            assert_eq!(scrubber.scrub_code(bad), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn no_secret_survives(before in "\\PC{0,250}", secret in "[ -~]{6,40}", after in "\\PC{0,40}") {
            let shown = of(&secret).scrub_description(&format!("{before}{secret}{after}"));
            prop_assert!(secret.trim().len() < 6 || !shown.contains(&secret));
            prop_assert!(shown.chars().count() <= 201);
        }

        #[test]
        fn any_text_can_be_cleaned(text in any::<String>(), secret in any::<String>()) {
            let scrubber = of(&secret);
            let _ = scrubber.scrub_description(&text);
            let _ = scrubber.scrub_code(&text);
        }
    }
}
