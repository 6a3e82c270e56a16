//! An HTTP/2 connection under watch: pingora bounds neither the time a header block takes nor what
//! frames without a request cost.

use std::{
    io,
    os::fd::AsRawFd,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use pingora_core::protocols::{
    GetSocketDigest, SocketDigest,
    l4::{
        stream::Stream as L4,
        virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream},
    },
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

use super::{client::Client, frames::Frames};
use crate::logging::OncePerMinute;

/// Costs are added up over this time.
const WINDOW: Duration = Duration::from_secs(10);
/// What a client may cost in it: 1,000 PINGs a second, or every one of 250 streams reset once a
/// second.
const BUDGET: u64 = 10_000;
/// So many bytes of answers pay for one more: who downloads sends WINDOW_UPDATE and PING by right.
/// The answer to a PING has 17.
const PAYS: u64 = 64;

/// `seen` was read from `io` already. A header block, the handshake and each control frame get
/// `patience` from first byte to last.
pub(super) fn watch(io: Client, seen: &[u8], patience: Duration) -> L4 {
    let descriptor = io.as_raw_fd();
    let mut frames = Frames::new();
    frames.see(seen);
    let watched = Watched {
        io,
        frames,
        patience,
        deadline: None,
        window: Box::pin(sleep(WINDOW)),
        cost: 0,
        written: 0,
    };
    let mut stream = L4::from(VirtualSocketStream::new(Box::new(watched)));
    stream.rewind(seen);
    stream.set_socket_digest(SocketDigest::from_raw_fd(descriptor));
    stream
}

#[derive(Debug)]
struct Watched<S> {
    io: S,
    frames: Frames,
    patience: Duration,
    /// For what is unfinished, by its number.
    deadline: Option<(u64, Pin<Box<Sleep>>)>,
    window: Pin<Box<Sleep>>,
    cost: u64,
    written: u64,
}

impl<S> Watched<S> {
    /// Is the client too slow or too dear?
    fn judge(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.window.as_mut().poll(cx).is_ready() {
            self.window = Box::pin(sleep(WINDOW));
            let _ = self.window.as_mut().poll(cx);
            (self.cost, self.written) = (0, 0);
        }
        if self.cost > BUDGET + self.written / PAYS {
            static CLOSED: OncePerMinute = OncePerMinute::new();
            if let Some(times) = CLOSED.note() {
                tracing::warn!(
                    times,
                    "an HTTP/2 connection is closed: too many resets or control frames; told once a minute"
                );
            }
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        match self.frames.unfinished() {
            None => self.deadline = None,
            Some(number) if self.deadline.as_ref().is_some_and(|(n, _)| *n == number) => {}
            Some(number) => self.deadline = Some((number, Box::pin(sleep(self.patience)))),
        }
        if self
            .deadline
            .as_mut()
            .is_some_and(|(_, at)| at.as_mut().poll(cx).is_ready())
        {
            tracing::debug!(
                "an HTTP/2 connection is closed: a frame or header block was not complete in time"
            );
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        let read = Pin::new(&mut this.io).poll_read(cx, buf);
        if let Some(new) = buf.filled().get(before..) {
            this.frames.see(new);
        }
        this.cost += this.frames.cost();
        this.judge(cx)?;
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, buf))?;
        self.written += written as u64;
        Poll::Ready(Ok(written))
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, bufs))?;
        self.written += written as u64;
        Poll::Ready(Ok(written))
    }
    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl VirtualSocket for Watched<Client> {
    fn set_socket_option(&self, _: VirtualSockOpt) -> io::Result<()> {
        // The listener has set what there is to set.
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;
    use crate::listen::head::PREFACE;

    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];

    fn watched() -> (Watched<DuplexStream>, DuplexStream) {
        let (near, far) = duplex(1 << 20);
        let mut frames = Frames::new();
        frames.see(PREFACE);
        let window = Box::pin(sleep(WINDOW));
        (
            Watched {
                io: near,
                frames,
                patience: Duration::from_secs(1),
                deadline: None,
                window,
                cost: 0,
                written: 0,
            },
            far,
        )
    }

    #[tokio::test(start_paused = true)]
    async fn a_dripped_header_block_is_cut_off_and_a_quiet_connection_is_not() {
        let (mut io, mut far) = watched();
        let mut buf = [0; 64];
        far.write_all(&SETTINGS).await.unwrap();
        assert_eq!(io.read(&mut buf).await.unwrap(), 9);
        let quiet = tokio::time::timeout(Duration::from_hours(1), io.read(&mut buf)).await;
        assert!(quiet.is_err(), "nothing is unfinished");
        tokio::spawn(async move {
            // HEADERS without END_HEADERS, then empty CONTINUATION frames without end.
            far.write_all(&[0, 0, 1, 1, 0, 0, 0, 0, 1, 0x82])
                .await
                .unwrap();
            while far.write_all(&[0, 0, 0, 9, 0, 0, 0, 0, 1]).await.is_ok() {
                sleep(Duration::from_millis(100)).await;
            }
        });
        let cut = async {
            loop {
                if let Err(e) = io.read(&mut buf).await {
                    return e.kind();
                }
            }
        };
        assert_eq!(
            tokio::time::timeout(Duration::from_secs(2), cut)
                .await
                .unwrap(),
            io::ErrorKind::TimedOut
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_pings_ends_the_connection_and_the_same_over_an_hour_does_not() {
        const PING: [u8; 17] = [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
        for (pause, survives) in [(Duration::ZERO, false), (Duration::from_secs(1), true)] {
            let (mut io, mut far) = watched();
            let mut buf = vec![0; 17 * 100];
            far.write_all(&SETTINGS).await.unwrap();
            assert_eq!(io.read(&mut buf).await.unwrap(), 9);
            let mut lives = true;
            for _ in 0..120 {
                far.write_all(&PING.repeat(100)).await.unwrap();
                lives &= io.read_exact(&mut buf).await.is_ok();
                sleep(pause).await;
            }
            assert_eq!(lives, survives);
        }
    }
}
