//! An HTTP/1 connection as pingora gets it. Its small writes are gathered until they are flushed: a
//! head and its short body leave in one packet, as on connections that pingora's own listeners
//! accept. The framing of chunked bodies is checked as they are read.

use std::{
    io,
    os::fd::AsRawFd,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use async_trait::async_trait;
use bytes::BytesMut;
use pingora_core::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl,
    TimingDigest, UniqueID, UniqueIDType, raw_connect::ProxyDigest,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufWriter, ReadBuf};

use super::{chunks::Chunks, client::Client};

/// One Ethernet packet's worth, as pingora's own listeners take.
const GATHERED: usize = 1460;

#[derive(Debug)]
pub struct Gather<C = Client> {
    io: BufWriter<C>,
    /// Where pingora finds the client's address.
    digest: Arc<SocketDigest>,
    chunks: Chunks,
}

impl<C: AsyncRead + AsyncWrite + AsRawFd> Gather<C> {
    pub fn new(client: C) -> Self {
        let digest = Arc::new(SocketDigest::from_raw_fd(client.as_raw_fd()));
        Self {
            io: BufWriter::with_capacity(GATHERED, client),
            digest,
            chunks: Chunks::none(),
        }
    }

    pub fn client(&self) -> &C {
        self.io.get_ref()
    }

    /// A request with a chunked body begins; its head and some of the body, `head` bytes the one,
    /// were read already.
    pub(super) fn expect_chunks(&mut self, read: &mut BytesMut, head: usize) {
        self.chunks.begin();
        let handed = read
            .get_mut(head..)
            .map_or(0, |body| self.chunks.judge(body));
        read.truncate(head + handed);
    }

    /// The next byte belongs to no request's body.
    pub(super) fn between_requests(&self) -> bool {
        self.chunks.outside()
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> AsyncRead for Gather<C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.chunks.ended(buf).is_some() {
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(this.io.get_mut()).poll_read(cx, buf))?;
        let handed = buf
            .filled_mut()
            .get_mut(before..)
            .map_or(0, |new| this.chunks.judge(new));
        buf.set_filled(before + handed);
        Poll::Ready(Ok(()))
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Gather<C> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[async_trait]
impl<C: AsyncRead + AsyncWrite + Unpin + Send> Shutdown for Gather<C> {
    async fn shutdown(&mut self) {
        // What cannot be written any more has no reader.
        let _ = AsyncWriteExt::shutdown(&mut self.io).await;
    }
}

impl<C: AsyncRead + AsyncWrite + AsRawFd> UniqueID for Gather<C> {
    fn id(&self) -> UniqueIDType {
        self.client().as_raw_fd()
    }
}

impl<C> Ssl for Gather<C> {}
impl<C> Peek for Gather<C> {}

impl<C> GetTimingDigest for Gather<C> {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl<C> GetProxyDigest for Gather<C> {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl<C> GetSocketDigest for Gather<C> {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(self.digest.clone())
    }
}
