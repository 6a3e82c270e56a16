//! A client's connection. It tells that its client has left without reading what the client sent
//! before.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use rustix::net::sockopt;
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::{TcpStream, UnixStream},
};

#[derive(Debug)]
pub enum Client {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Ready for nothing but the end of what the client sends: no socket of ours is asked for urgent
/// data, which is all that it would add.
const END: Interest = Interest::PRIORITY;

impl Client {
    /// Waits until the client has closed its side, or the connection is broken. Unread bytes do not
    /// hide it.
    pub async fn left(&self) {
        let end = match self {
            Self::Tcp(tcp) => tcp.ready(END).await,
            Self::Unix(unix) => unix.ready(END).await,
        };
        // An error means that the runtime ends, and everything with it.
        drop(end);
    }

    /// Whether the client is known to have closed its side, or the connection to be broken; a look
    /// at memory, no system call.
    pub fn has_left(&self) -> bool {
        match self {
            Self::Tcp(tcp) => tcp.try_io(END, || Ok(())),
            Self::Unix(unix) => unix.try_io(END, || Ok(())),
        }
        .is_ok()
    }

    /// Whether it sent something that nobody has read yet.
    pub fn waits_for_us(&self) -> bool {
        // On error nothing is known, and nothing is what is said.
        rustix::io::ioctl_fionread(self).is_ok_and(|unread| unread > 0)
    }

    /// Whether closing it sends RST instead of FIN.
    pub fn reset_on_close(&self, reset: bool) {
        if let Self::Tcp(tcp) = self {
            // It fails on a connection that is gone already.
            let _ = sockopt::set_socket_linger(tcp, reset.then_some(Duration::ZERO));
        }
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(tcp) => tcp.as_fd(),
            Self::Unix(unix) => unix.as_fd(),
        }
    }
}

impl AsRawFd for Client {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Self::Tcp(tcp) => tcp.as_raw_fd(),
            Self::Unix(unix) => unix.as_raw_fd(),
        }
    }
}

impl AsyncRead for Client {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Self::Unix(unix) => Pin::new(unix).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Client {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Self::Unix(unix) => Pin::new(unix).poll_write(cx, buf),
        }
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Unix(unix) => Pin::new(unix).poll_flush(cx),
        }
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Unix(unix) => Pin::new(unix).poll_shutdown(cx),
        }
    }
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_write_vectored(cx, bufs),
            Self::Unix(unix) => Pin::new(unix).poll_write_vectored(cx, bufs),
        }
    }
    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(tcp) => tcp.is_write_vectored(),
            Self::Unix(unix) => unix.is_write_vectored(),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    async fn tcp() -> (Client, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        (Client::Tcp(listener.accept().await.unwrap().0), far)
    }

    #[tokio::test]
    async fn a_client_that_has_left_is_noticed_behind_bytes_nobody_has_read_and_they_stay() {
        let (mut client, mut far) = tcp().await;
        far.write_all(b"abc").await.unwrap();
        let mut first = [0; 1];
        client.read_exact(&mut first).await.unwrap();
        assert!(!client.has_left(), "bytes are no end");
        tokio::select! {
            biased;
            () = client.left() => panic!("bytes are no end"),
            () = tokio::task::yield_now() => {}
        }
        drop(far);
        client.left().await;
        assert!(client.has_left());
        let mut rest = String::new();
        client.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "bc");
    }

    #[tokio::test]
    async fn a_client_of_a_unix_socket_that_has_left_is_noticed_as_well() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let client = Client::Unix(near);
        far.write_all(b"abc").await.unwrap();
        assert!(!client.has_left());
        drop(far);
        client.left().await;
        assert!(client.has_left());
    }
}
