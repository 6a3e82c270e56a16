//! An HTTP/1 connection as pingora gets it. Its small writes are gathered until they are flushed: a head and its short body leave in one packet, as
//! on connections that pingora's own listeners accept. The framing of chunked bodies is checked as they are read.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use async_trait::async_trait;
use bytes::BytesMut;
use pingora_core::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest, UniqueID, UniqueIDType,
    l4::stream::Stream as L4, raw_connect::ProxyDigest,
};
use tokio::io::{AsyncRead, AsyncWrite, BufWriter, ReadBuf};

use super::chunks::Chunks;

/// One Ethernet packet's worth, as pingora's own listeners take.
const GATHERED: usize = 1460;

#[derive(Debug)]
pub struct Gather {
    io: BufWriter<L4>,
    chunks: Chunks,
}

impl Gather {
    pub fn new(io: L4) -> Self {
        Self { io: BufWriter::with_capacity(GATHERED, io), chunks: Chunks::none() }
    }

    /// A request with a chunked body begins; its head and some of the body, `head` bytes the one, were read already.
    pub(super) fn expect_chunks(&mut self, read: &mut BytesMut, head: usize) {
        self.chunks.begin();
        let handed = read.get_mut(head..).map_or(0, |body| self.chunks.judge(body));
        read.truncate(head + handed);
    }

    /// The next byte belongs to no request's body.
    pub(super) fn between_requests(&self) -> bool {
        self.chunks.outside()
    }
}

impl AsyncRead for Gather {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.chunks.ended(buf).is_some() {
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(this.io.get_mut()).poll_read(cx, buf))?;
        let handed = buf.filled_mut().get_mut(before..).map_or(0, |new| this.chunks.judge(new));
        buf.set_filled(before + handed);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Gather {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[async_trait]
impl Shutdown for Gather {
    async fn shutdown(&mut self) {
        Shutdown::shutdown(self.io.get_mut()).await;
    }
}

impl UniqueID for Gather {
    fn id(&self) -> UniqueIDType {
        self.io.get_ref().id()
    }
}

impl Ssl for Gather {}
impl Peek for Gather {}

impl GetTimingDigest for Gather {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.io.get_ref().get_timing_digest()
    }
}

impl GetProxyDigest for Gather {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.io.get_ref().get_proxy_digest()
    }
}

impl GetSocketDigest for Gather {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.io.get_ref().get_socket_digest()
    }
}
