//! A connection of the admin or the metrics port: none goes on without a byte moving, and one
//! leaves when its seat is wanted.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

use super::seats::PortSeat;
use crate::clock::BootInstant;

/// A request's head is whole so long after its first byte; the first head of a connection so long
/// after it was made.
const HEAD: Duration = Duration::from_secs(10);
/// Without a byte in either direction a connection ends after this.
const STILL: Duration = Duration::from_secs(30);
/// Between two requests it may stand still for longer: scrapers come every 15, 30 or 60 s on one
/// connection, and none of them is to find it ended just when it sends.
const KEPT: Duration = Duration::from_secs(75);
/// A connection ends after this where it has nothing whole to show for it: a body that drips never
/// gets longer.
const WHOLE: Duration = Duration::from_secs(120);

/// A connection that ends where its peer stands still, or has to make room.
pub struct SeatedStream<T> {
    io: T,
    still: Pin<Box<Sleep>>,
    /// Reading ends here; moved on by each head that is whole and by each answer.
    whole: BootInstant,
    /// Line ends in a row while a head is read.
    head: Option<u8>,
    /// Nothing was read since the last answer.
    answered: bool,
    /// Something was written since all of it was last known to be gone.
    writing: bool,
    over: bool,
    seat: PortSeat,
}

impl<T> SeatedStream<T> {
    /// `io`, sitting on `seat`.
    pub fn new(io: T, seat: PortSeat) -> Self {
        let still = Box::pin(sleep(HEAD));
        Self {
            io,
            still,
            whole: BootInstant::now().after(HEAD),
            head: Some(0),
            answered: false,
            writing: false,
            over: false,
            seat,
        }
    }

    /// These bytes came.
    fn note_read(&mut self, bytes: &[u8]) {
        if std::mem::take(&mut self.answered) {
            self.head = Some(0);
            self.whole = BootInstant::now().after(HEAD);
        }
        for byte in bytes {
            match (&mut self.head, byte) {
                (None, _) => break,
                (Some(lines), b'\n') => *lines += 1,
                (Some(_), b'\r') => {}
                (Some(lines), _) => *lines = 0,
            }
            if self.head == Some(2) {
                self.head = None;
                self.whole = BootInstant::now().after(WHOLE);
            }
        }
        self.note_movement();
    }

    fn note_movement(&mut self) {
        self.still
            .set(sleep(STILL.min(BootInstant::now().until(self.whole))));
        self.seat
            .note_movement(self.answered, self.head.is_none() && !self.answered);
    }

    /// It has stood still for too long, or its seat is wanted.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.over = self.over
            || self.still.as_mut().poll(cx).is_ready()
            || Pin::new(&mut self.seat.leave).poll(cx).is_ready();
        if self.over {
            Poll::Ready(io::ErrorKind::TimedOut.into())
        } else {
            Poll::Pending
        }
    }

    /// What came of writing.
    fn note_written(
        &mut self,
        cx: &mut Context<'_>,
        done: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if done.is_ready() {
            (self.answered, self.writing) = (true, true);
            self.note_movement();
            return done;
        }
        self.seat.note_unread(true);
        self.poll_end(cx).map(Err)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for SeatedStream<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        if let Poll::Ready(done) = Pin::new(&mut this.io).poll_read(cx, buf) {
            this.note_read(buf.filled().get(before..).unwrap_or_default());
            return Poll::Ready(done);
        }
        this.poll_end(cx).map(Err)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for SeatedStream<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let done = Pin::new(&mut this.io).poll_write(cx, buf);
        this.note_written(cx, done)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let done = Pin::new(&mut this.io).poll_write_vectored(cx, bufs);
        this.note_written(cx, done)
    }
    /// The server above copies nothing only where this is true, and begins no answer before the one
    /// before is gone.
    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
    /// Called once all that was to be written is.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let done = Pin::new(&mut this.io).poll_flush(cx);
        if done.is_ready() {
            this.seat.note_unread(false);
            if std::mem::take(&mut this.writing) && this.answered {
                this.still.set(sleep(KEPT));
                // Nobody may read again before the next request comes, so it is asked here to wake.
                this.over |= this.still.as_mut().poll(cx).is_ready();
            }
        }
        done
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
