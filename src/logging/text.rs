//! How a line looks to people: time, level, where from, what happened, and the fields of it.
//!
//! Whatever others wrote (a vendor's error, a library's message) stands in quotes, its control
//! characters escaped, so that no text can look like a field, a second line, or a command to a
//! terminal.

use std::fmt::{self, Debug, Write};

use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::Writer,
        time::{FormatTime, SystemTime},
    },
    registry::LookupSpan,
};

/// Lines for people.
pub(super) struct TextFormat;

impl<S, N> FormatEvent<S, N> for TextFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut out: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = EventLine::default();
        event.record(&mut line);
        let target = line
            .target
            .as_deref()
            .unwrap_or_else(|| event.metadata().target());
        let level = *event.metadata().level();
        SystemTime.format_time(&mut out)?;
        match colour_code(level).filter(|_| out.has_ansi_escapes()) {
            Some(colour) => write!(out, " \x1b[{colour}m{level:>5}\x1b[0m {target}:")?,
            None => write!(out, " {level:>5} {target}:")?,
        }
        if !line.message.is_empty() {
            out.write_char(' ')?;
            // Our own messages are sentences of ours; those of libraries may hold anything.
            if target.starts_with("cupbearer") || target == "access" {
                write_one_line(&mut out, &line.message)?;
            } else {
                write!(out, "{:?}", line.message)?;
            }
        }
        writeln!(out, "{}", line.fields)
    }
}

fn colour_code(level: Level) -> Option<u8> {
    match level {
        Level::ERROR => Some(31),
        Level::WARN => Some(33),
        Level::INFO => Some(32),
        _ => None,
    }
}

/// A text without control characters, so that it stays on its line; quotes are left as they are.
fn write_one_line(out: &mut impl Write, text: &str) -> fmt::Result {
    for c in text.chars() {
        match c {
            '"' | '\'' | '\\' => out.write_char(c)?,
            c => write!(out, "{}", c.escape_debug())?,
        }
    }
    Ok(())
}

/// What an event says.
#[derive(Default)]
struct EventLine {
    message: String,
    /// Each with a space before it.
    fields: String,
    /// Where a library that speaks through `log` says it comes from.
    target: Option<String>,
}

impl EventLine {
    fn add(&mut self, field: &Field, text: &str, quoted: bool) {
        match field.name() {
            "message" => self.message.push_str(text),
            "log.target" => self.target = Some(text.to_owned()),
            name if name.starts_with("log.") => {}
            // Writing to a String does not fail.
            name if quoted => {
                _ = write!(self.fields, " {}={text:?}", name.trim_start_matches("r#"));
            }
            name => _ = write!(self.fields, " {}={text}", name.trim_start_matches("r#")),
        }
    }
}

impl Visit for EventLine {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value, true);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let text = format!("{value:?}");
        let plain = |c: char| {
            c.is_ascii_alphanumeric()
                || matches!(
                    c,
                    '.' | '-' | '_' | ':' | '/' | '+' | '[' | ']' | '%' | '@' | '#'
                )
        };
        let quoted = text.is_empty() || !text.chars().all(plain);
        self.add(field, &text, quoted);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex, PoisonError},
    };

    use proptest::prelude::*;
    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Page {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .extend(line);
            Ok(line.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Page {
        type Writer = Self;
        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    fn written(act: impl FnOnce()) -> String {
        let page = Page::default();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .event_format(TextFormat)
            .with_writer(page.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, act);
        let bytes = page.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_vendors_text_stands_in_quotes_and_looks_like_no_field() {
        let vendor = "no latched=false credential=\"pay\"\n2026-01-01T00:00:00Z ERROR cupbearer: x\x1b[2J\u{9b}\u{202e}\r";
        let text = written(
            || tracing::warn!(credential = "shop", error = %vendor, status = 400, latched = true, next = "in 3.0 s", "token request failed"),
        );
        assert_eq!(text.matches('\n').count(), 1, "{text}");
        let whole = " WARN cupbearer::logging::text::tests: token request failed credential=\"shop\" error=\"no latched=false credential=\\\"pay\\\"\\n2026-01-01T00:00:00Z ERROR cupbearer: x\\u{1b}[2J\\u{9b}\\u{202e}\\r\" status=400 latched=true next=\"in 3.0 s\"\n";
        assert!(text.ends_with(whole), "{text}");
    }

    #[test]
    fn plain_values_stand_as_they_are_and_messages_on_one_line() {
        let text = written(|| {
            let absent: Option<&str> = None;
            tracing::info!(address = %"127.0.0.1:1", took = 1.5, absent, empty = %"", "first\nsecond \"quoted\"");
            tracing::info!(target: "h2::codec", "latched=false");
        });
        assert!(
            text.contains(
                "tests: first\\nsecond \"quoted\" address=127.0.0.1:1 took=1.5 empty=\"\"\n"
            ),
            "{text}"
        );
        assert!(text.ends_with("h2::codec: \"latched=false\"\n"), "{text}");
    }

    proptest! {
        #[test]
        fn whatever_is_told_is_one_line_and_its_own_fields_only(value in "\\PC*|.*", spoken in ".*") {
            let text = written(|| tracing::warn!(error = %value, detail = value.as_str(), "{spoken}"));
            prop_assert_eq!(text.matches('\n').count(), 1);
            prop_assert!(!text.trim_end_matches('\n').contains(char::is_control));
        }
    }
}
