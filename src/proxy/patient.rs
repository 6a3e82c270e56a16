//! Connections for upgrade requests. pingora ends a WebSocket at once where a quick vendor's 101 is
//! read before the end of the (empty) request body has been passed on inside; so an answer is never
//! ready at the first look after a write.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use async_trait::async_trait;
use pingora_core::{
    connectors::l4::Connect,
    protocols::l4::{
        socket::SocketAddr,
        stream::Stream,
        virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream},
    },
};
use pingora_error::{Error, ErrorType, Result};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::timeout,
};

/// Makes such connections, each within its own time.
#[derive(Debug)]
pub struct Patient(pub Duration);

#[async_trait]
impl Connect for Patient {
    async fn connect(&self, address: &SocketAddr) -> Result<Stream> {
        let inet = address
            .as_inet()
            .ok_or_else(|| Error::new_up(ErrorType::ConnectError))?;
        let socket = match timeout(self.0, TcpStream::connect(inet)).await {
            Err(_) => return Err(Error::new_up(ErrorType::ConnectTimedout)),
            Ok(Err(e)) => {
                let kind = match e.kind() {
                    io::ErrorKind::ConnectionRefused => ErrorType::ConnectRefused,
                    io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
                        ErrorType::ConnectNoRoute
                    }
                    _ => ErrorType::ConnectError,
                };
                return Err(Error::because(kind, "connecting for an upgrade", e).into_up());
            }
            Ok(Ok(socket)) => socket,
        };
        let _ = socket.set_nodelay(true);
        Ok(Stream::from(VirtualSocketStream::new(Box::new(Socket {
            socket,
            look_twice: false,
        }))))
    }
}

#[derive(Debug)]
struct Socket<S> {
    socket: S,
    /// Something was written since the last look.
    look_twice: bool,
}

impl<S: AsyncRead + Unpin> AsyncRead for Socket<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if std::mem::take(&mut self.look_twice) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Socket<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.socket).poll_write(cx, buf));
        self.look_twice = true;
        Poll::Ready(written)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

impl VirtualSocket for Socket<TcpStream> {
    fn set_socket_option(&self, option: VirtualSockOpt) -> io::Result<()> {
        match option {
            VirtualSockOpt::NoDelay => self.socket.set_nodelay(true),
            // The kernel's own times.
            _ => Ok(rustix::net::sockopt::set_socket_keepalive(
                &self.socket,
                true,
            )?),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn an_answer_that_is_there_already_is_read_at_the_second_look() {
        let (near, mut far) = duplex(64);
        far.write_all(b"101").await.unwrap();
        let mut socket = Socket {
            socket: near,
            look_twice: false,
        };
        socket.write_all(b"GET").await.unwrap();
        let mut buf = [0; 3];
        let mut waker = Context::from_waker(std::task::Waker::noop());
        let mut first = ReadBuf::new(&mut buf);
        assert!(
            Pin::new(&mut socket)
                .poll_read(&mut waker, &mut first)
                .is_pending()
        );
        socket.read_exact(&mut buf).await.unwrap();
        assert_eq!(&buf, b"101");
    }
}
