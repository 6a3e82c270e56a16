//! Connections of the admin and the metrics port: a bounded number, and none that goes on without a byte moving.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::serve::Listener;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Sleep, sleep},
};

use crate::token::Now;

/// Open connections of one port. More wait in the kernel.
const MOST: usize = 1024;
/// Without a byte in either direction a connection ends after this.
const STILL: Duration = Duration::from_secs(30);
/// A connection ends after this where it has nothing whole to show for it: a head that drips never gets longer.
const WHOLE: Duration = Duration::from_secs(120);

/// A TCP listener whose connections are [`Patient`].
pub struct Patience {
    listener: TcpListener,
    room: Arc<Semaphore>,
}

impl Patience {
    pub fn new(listener: TcpListener) -> Self {
        Self { listener, room: Arc::new(Semaphore::new(MOST)) }
    }
}

impl Listener for Patience {
    type Io = Patient<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Patient<TcpStream>, SocketAddr) {
        let room = self.room.clone().acquire_owned().await.ok();
        let (tcp, addr) = Listener::accept(&mut self.listener).await;
        (Patient::new(tcp, room), addr)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that ends where its peer stands still.
pub struct Patient<T> {
    io: T,
    still: Pin<Box<Sleep>>,
    /// Reading ends here; moved on by each answer.
    whole: Now,
    /// Nothing was read since the last answer.
    answered: bool,
    _room: Option<OwnedSemaphorePermit>,
}

impl<T> Patient<T> {
    fn new(io: T, room: Option<OwnedSemaphorePermit>) -> Self {
        Self { io, still: Box::pin(sleep(STILL)), whole: Now::now().after(WHOLE), answered: true, _room: room }
    }

    fn moved(&mut self) {
        self.still.set(sleep(STILL.min(Now::now().until(self.whole))));
    }

    fn stood_still(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        ready!(self.still.as_mut().poll(cx));
        Poll::Ready(io::ErrorKind::TimedOut.into())
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Patient<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Poll::Ready(done) = Pin::new(&mut this.io).poll_read(cx, buf) {
            if std::mem::take(&mut this.answered) {
                this.whole = Now::now().after(WHOLE);
            }
            this.moved();
            return Poll::Ready(done);
        }
        this.stood_still(cx).map(Err)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Patient<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if let Poll::Ready(done) = Pin::new(&mut this.io).poll_write(cx, buf) {
            this.answered = true;
            this.moved();
            return Poll::Ready(done);
        }
        this.stood_still(cx).map(Err)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    /// Clocks are read one after the other.
    const MOMENT: Duration = Duration::from_millis(500);

    fn pair() -> (DuplexStream, Patient<DuplexStream>) {
        let (client, server) = duplex(64);
        (client, Patient::new(server, None))
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_stands_still_ends() {
        let (_client, mut server) = pair();
        let begun = Now::now();
        assert_eq!(server.read(&mut [0; 8]).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(begun.until(Now::now()).abs_diff(STILL) < MOMENT);
        let (_client, mut server) = pair();
        assert_eq!(server.write_all(&[0; 65]).await.unwrap_err().kind(), io::ErrorKind::TimedOut, "nobody reads");
    }

    /// How long a connection lives on which a byte arrives now and then, an hour at most.
    async fn dripped(answers: bool) -> Duration {
        let (mut client, mut server) = pair();
        let begun = Now::now();
        while begun.until(Now::now()) < Duration::from_hours(1) {
            let drip = async {
                sleep(STILL / 2).await;
                client.write_all(b"x").await.unwrap();
            };
            let (read, ()) = tokio::join!(server.read_u8(), drip);
            if read.is_err() {
                break;
            }
            if answers {
                server.write_all(b"y").await.unwrap();
                client.read_u8().await.unwrap();
            }
        }
        begun.until(Now::now())
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_drips_ends_after_its_time_and_one_that_is_answered_goes_on() {
        assert!((WHOLE..WHOLE + 2 * STILL).contains(&(dripped(false).await + MOMENT)));
        assert!(dripped(true).await + MOMENT >= Duration::from_hours(1));
    }
}
