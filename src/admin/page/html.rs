//! HTML that cannot be broken into: markup is what the source says, everything else is escaped.

use std::fmt::{Display, Write as _};

/// A piece of a page under way.
#[derive(Default)]
pub struct Html(String);

impl Html {
    /// Markup. Only what stands in the source may be it.
    pub fn raw(&mut self, markup: &'static str) -> &mut Self {
        self.0.push_str(markup);
        self
    }

    /// Text, or the value of an attribute in double quotes, from wherever it comes.
    pub fn text(&mut self, text: impl Display) -> &mut Self {
        let _ = write!(Escaped(&mut self.0), "{text}"); // A String takes everything.
        self
    }

    pub fn finish(self) -> String {
        self.0
    }
}

struct Escaped<'a>(&'a mut String);

impl std::fmt::Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        for c in text.chars() {
            match c {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                // Controls, and the marks that turn the direction of what follows: they show
                // something else than what is there.
                c if c.is_control()
                    || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') =>
                {
                    self.0.push('\u{fffd}');
                }
                c => self.0.push(c),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn escaped(text: &str) -> String {
        let mut html = Html::default();
        html.text(text);
        html.finish()
    }

    #[test]
    fn nothing_from_outside_becomes_markup() {
        assert_eq!(
            escaped("<script>alert('1')</script> & \"x\""),
            "&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt; &amp; &quot;x&quot;"
        );
        assert_eq!(
            escaped("a\0b\nc\u{202e}d\u{85}e"),
            "a\u{fffd}b\u{fffd}c\u{fffd}d\u{fffd}e"
        );
        assert_eq!(escaped("&lt;"), "&amp;lt;");
    }

    proptest! {
        #[test]
        fn whatever_is_written_comes_back_when_it_is_read(text in ".*") {
            let out = escaped(&text);
            prop_assert!(!out.contains(['<', '>', '"', '\'']));
            let back = out.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&#39;", "'").replace("&amp;", "&");
            let same = back.chars().zip(text.chars()).all(|(b, t)| b == t || b == char::REPLACEMENT_CHARACTER);
            prop_assert!(same);
            prop_assert_eq!(back.chars().count(), text.chars().count());
        }
    }
}
