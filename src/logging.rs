//! Setting up logs: text for people or JSON for collectors, on stderr. Libraries are held at info
//! whatever the user asks for, as several print whole requests at debug or trace, and an injected
//! header would be among it.
//!
//! No request ever waits for whoever reads the log: lines go through a bounded queue to a thread of
//! their own. Where it is full they are dropped and counted, and the next line that is written says
//! how many are missing.

mod once_per_minute;
mod text;

use std::{
    io::{self, IsTerminal, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    time::Duration,
};

use tracing::{Level, level_filters::LevelFilter};
use tracing_subscriber::{
    filter::Targets,
    fmt::{
        self, MakeWriter,
        format::Writer,
        time::{FormatTime, SystemTime},
    },
    layer::SubscriberExt,
    reload,
    util::SubscriberInitExt,
};

pub use once_per_minute::OncePerMinute;

/// Lines that may wait for a slow reader, and their bytes.
const QUEUE: usize = 8192;
const BYTES: usize = 1024 * 1024;
/// How long the end of the program waits for lines not written yet.
const FLUSH: Duration = Duration::from_secs(1);

/// Lines that were never written, since the program started.
static LOST: AtomicU64 = AtomicU64::new(0);

/// How many lines were lost because nobody read them in time. Only grows.
#[must_use]
pub fn lost_lines() -> u64 {
    LOST.load(Relaxed)
}

/// Changes the level of a running program. When the last clone is dropped, what was logged before
/// is written out; that waits 1 s at most.
#[derive(Clone)]
pub struct LogLevelHandle {
    handle: reload::Handle<Targets, tracing_subscriber::Registry>,
    _flush: Arc<FlushOnDrop>,
}

impl LogLevelHandle {
    /// From now on lines of `level` and above are written.
    pub fn set(&self, level: Level) {
        // Fails only where the subscriber is gone: then nothing is logged anyway.
        let _ = self.handle.reload(level_filter(level));
    }
}

/// Installs the process's subscriber: lines of `level` and above go to stderr, as text or, with
/// `json`, as one object a line. `None`: there is one already, or no thread could be started.
#[must_use]
pub fn install_subscriber(json: bool, level: Level) -> Option<LogLevelHandle> {
    let (filter, handle) = reload::Layer::new(level_filter(level));
    let (lines, flush) = spawn_writer(io::stderr(), json)?;
    let base = tracing_subscriber::registry().with(filter);
    // What cannot be written is no reason to complain: the complaint would go the same way, and end
    // the task that logs.
    let done = if json {
        base.with(
            fmt::layer()
                .json()
                .flatten_event(true)
                .log_internal_errors(false)
                .with_writer(lines),
        )
        .try_init()
    } else {
        let colour = io::stderr().is_terminal();
        base.with(
            fmt::layer()
                .event_format(text::TextFormat)
                .with_ansi(colour)
                .log_internal_errors(false)
                .with_writer(lines),
        )
        .try_init()
    };
    done.ok().map(|()| LogLevelHandle {
        handle,
        _flush: Arc::new(flush),
    })
}

/// What is let through at `level`: that of our own lines, at most info of all others, the access
/// log always: it has a switch of its own.
#[must_use]
pub fn level_filter(level: Level) -> Targets {
    let level = LevelFilter::from_level(level);
    Targets::new()
        .with_default(LevelFilter::INFO.min(level))
        .with_target("cupbearer", level)
        .with_target("access", LevelFilter::INFO)
}

/// Calls `count` for every panic and logs where it was. Its message stays unsaid: it may hold what
/// the code was working on.
pub fn install_panic_hook(count: impl Fn() + Send + Sync + 'static) {
    std::panic::set_hook(Box::new(move |info| {
        count();
        let place = info
            .location()
            .map_or_else(|| "unknown".to_owned(), ToString::to_string);
        tracing::error!(place, "a panic was caught; please report it");
    }));
}

enum QueueItem {
    Line(Vec<u8>),
    /// Everything before it is written once this is dropped.
    Mark(SyncSender<()>),
}

/// The way into the queue.
#[derive(Clone)]
struct QueueWriter(SyncSender<QueueItem>, Arc<QueueTally>);

/// What the two ends of the queue know of each other.
#[derive(Default)]
struct QueueTally {
    /// Bytes in the queue.
    waiting: AtomicUsize,
    /// Lines that were lost and not yet told of.
    untold: AtomicU64,
}

impl QueueTally {
    fn lose(&self) {
        self.untold.fetch_add(1, Relaxed);
        LOST.fetch_add(1, Relaxed);
    }
}

impl<'a> MakeWriter<'a> for QueueWriter {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Write for QueueWriter {
    /// One call is one line: that is how the layers write.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let Self(queue, tally) = self;
        // Full, or the writer is gone: the line is lost, and nobody waits.
        let room = tally.waiting.fetch_add(line.len(), Relaxed) + line.len() <= BYTES;
        if !room || queue.try_send(QueueItem::Line(line.to_vec())).is_err() {
            tally.waiting.fetch_sub(line.len(), Relaxed);
            tally.lose();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Waits, when dropped, until all lines are written, but no longer than [`FLUSH`].
struct FlushOnDrop(SyncSender<QueueItem>);

impl Drop for FlushOnDrop {
    fn drop(&mut self) {
        const STEP: Duration = Duration::from_millis(10);
        let (mark, written) = sync_channel(0);
        let mut item = QueueItem::Mark(mark);
        let mut left = FLUSH;
        while let Err(TrySendError::Full(back)) = self.0.try_send(item) {
            let Some(less) = left.checked_sub(STEP) else {
                return;
            };
            (item, left) = (back, less);
            #[expect(
                clippy::disallowed_methods,
                reason = "once, at the program's end; no worker runs any more"
            )]
            std::thread::sleep(STEP);
        }
        // Nothing is ever sent: the mark's end is the news.
        let _: Result<(), RecvTimeoutError> = written.recv_timeout(left);
    }
}

fn spawn_writer(
    out: impl Write + Send + 'static,
    json: bool,
) -> Option<(QueueWriter, FlushOnDrop)> {
    let (lines, queued) = sync_channel(QUEUE);
    let tally = Arc::new(QueueTally::default());
    let shared = tally.clone();
    std::thread::Builder::new()
        .name("log".into())
        .spawn(move || write_out(&queued, &shared, out, json))
        .ok()?;
    Some((QueueWriter(lines.clone(), tally), FlushOnDrop(lines)))
}

/// Writes until every sender is gone. A reader that has left takes nothing away from anyone.
fn write_out(queued: &Receiver<QueueItem>, tally: &QueueTally, mut out: impl Write, json: bool) {
    for item in queued {
        let untold = tally.untold.swap(0, Relaxed);
        if untold > 0
            && out
                .write_all(lost_lines_notice(untold, json).as_bytes())
                .is_err()
        {
            tally.untold.fetch_add(untold, Relaxed);
        }
        match item {
            QueueItem::Line(line) => {
                tally.waiting.fetch_sub(line.len(), Relaxed);
                if out.write_all(&line).is_err() {
                    tally.lose();
                }
            }
            QueueItem::Mark(mark) => drop(mark),
        }
    }
}

/// The line that tells of lines that are missing before it.
fn lost_lines_notice(lines: u64, json: bool) -> String {
    let mut time = String::new();
    // Writing to a String does not fail.
    let _ = SystemTime.format_time(&mut Writer::new(&mut time));
    let (what, target) = (
        "log lines before this one are missing: nobody read them in time",
        module_path!(),
    );
    if json {
        format!(
            "{{\"timestamp\":\"{time}\",\"level\":\"WARN\",\"message\":\"{what}\",\"lines\":{lines},\"target\":\"{target}\"}}\n"
        )
    } else {
        format!("{time}  WARN {target}: {what} lines={lines}\n")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn libraries_that_print_headers_are_held_at_info() {
        let t = level_filter(Level::TRACE);
        assert!(t.would_enable("cupbearer::proxy", &Level::TRACE));
        for name in [
            "pingora_core::protocols::http::v1::client",
            "pingora_proxy::proxy_h1",
            "h2::codec",
            "hyper::proto",
            "reqwest::connect",
            "a_library_not_written_yet",
        ] {
            assert!(!t.would_enable(name, &Level::DEBUG), "{name}");
            assert!(t.would_enable(name, &Level::INFO), "{name}");
        }
        assert!(!level_filter(Level::WARN).would_enable("pingora_core", &Level::INFO));
        assert!(level_filter(Level::ERROR).would_enable("access", &Level::INFO));
    }

    /// Stands still until its door is opened, then remembers what it is given.
    struct Reader(Receiver<()>, Arc<Mutex<Vec<u8>>>);

    impl Write for Reader {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            self.1.lock().unwrap().extend(line);
            Ok(line.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Writes `lines` lines of `size` bytes to a reader that stands still until all are written;
    /// what it then gets.
    fn read_late(lines: usize, size: usize, json: bool) -> String {
        let (open, door) = sync_channel(0);
        let written = Arc::new(Mutex::new(Vec::new()));
        let (mut queue, flush) = spawn_writer(Reader(door, written.clone()), json).unwrap();
        let line = format!("{}\n", "x".repeat(size - 1));
        for _ in 0..lines {
            queue.write_all(line.as_bytes()).unwrap();
        }
        drop(open);
        drop(queue);
        drop(flush);
        let written = written.lock().unwrap().clone();
        String::from_utf8(written).unwrap()
    }

    #[test]
    fn a_reader_that_stands_still_costs_lines_that_are_counted_and_no_time() {
        let before = lost_lines();
        for (lines, size, kept) in [(3 * QUEUE, 2, QUEUE), (4000, 1024, BYTES / 1024)] {
            let text = read_late(lines, size, false);
            let got = text.lines().filter(|line| line.starts_with('x')).count();
            assert!((kept..=kept + 1).contains(&got), "{got} of {kept}");
            let told: usize = text
                .lines()
                .filter_map(|line| {
                    line.split_once(" WARN cupbearer::logging: ")?
                        .1
                        .rsplit_once("lines=")?
                        .1
                        .parse::<usize>()
                        .ok()
                })
                .sum();
            assert_eq!(told, lines - got, "{text:.300}");
        }
        assert!(
            lost_lines() - before >= 4000 + 3 * QUEUE as u64 - QUEUE as u64 - 1026,
            "{}",
            lost_lines()
        );
        let text = read_late(QUEUE + 10, 2, true);
        let notice = text.lines().find(|line| line.starts_with('{')).unwrap();
        assert!(
            notice.starts_with("{\"timestamp\":\"20")
                && notice.contains("\"lines\":")
                && notice.ends_with('}'),
            "{notice}"
        );
    }

    #[test]
    fn a_reader_that_has_left_is_counted() {
        struct Gone;
        impl Write for Gone {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let before = lost_lines();
        let (mut lines, flush) = spawn_writer(Gone, false).unwrap();
        for _ in 0..3 {
            lines.write_all(b"x\n").unwrap();
        }
        drop(lines);
        drop(flush);
        assert!(lost_lines() - before >= 3);
    }
}
