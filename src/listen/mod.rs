//! The data port's sockets: bind, accept up to a cap, read each request's head within its deadline,
//! hand over, drain.

pub mod bind;
mod chunks;
mod client;
mod connection;
mod descriptors;
mod frames;
mod gather;
mod head;
mod seats;
mod unfinished;
mod watched;

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use pingora_core::{apps::HttpServerApp, protocols::Stream};
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{sleep, timeout},
};

pub use bind::{Address, BindError, Bound, Peers, SocketFile, bind, bind_for, plain, plain_unix};
pub use descriptors::Descriptors;

use crate::{
    logging::OncePerMinute,
    phase::{Phase, PhaseWatch},
};
use client::Client;
use gather::Gather;
use seats::Seats;
use unfinished::Unfinished;

/// How long a connection that was accepted after the drain began has to name its request.
const LATE: Duration = Duration::from_secs(1);

/// Bytes that the buffers of the unfinished HTTP/1 heads of all connections take at most.
const HEADS: usize = 8 << 20;

/// What one connection may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Open connections of all listeners together. One above gets the seat of the longest silent
    /// one, if any is silent.
    pub connections: usize,
    /// Bytes of a request's head before it is refused unread: request line and header section
    /// together.
    pub head_bytes: usize,
    /// For a whole request head: the first of a connection counts from its accept, a later one from
    /// its first byte.
    pub header_timeout: Duration,
    /// A connection without a further request is closed after this.
    pub idle: Duration,
}

/// What was seen on a connection, before pingora sees it.
#[derive(Debug, Clone, Copy)]
pub enum Seen<'a> {
    /// The complete head of an HTTP/1 request, blank line included.
    Head(&'a [u8]),
    /// The complete head of an HTTP/1 request that came after the drain began.
    Draining(&'a [u8]),
    /// More than `head_bytes` without an end.
    TooLarge(&'a [u8]),
    /// A line that does not end in CRLF, or bytes that cannot begin a request.
    Malformed,
    /// The head was not complete in time.
    TooSlow,
    /// The unfinished heads of all connections take as much as they may, and this one is the
    /// newest.
    Crowded,
    /// As many as `connections` are open, and a request is under way on each.
    Overloaded,
}

/// The last thing that is said on a connection.
pub struct Answer {
    /// A complete HTTP/1 response.
    pub bytes: Bytes,
    /// It is sent once this is over.
    pub after: Option<BoxFuture<'static, ()>>,
}

/// What answers on the connections.
pub trait Handler: Send + Sync + 'static {
    /// What pingora hands requests to.
    type App: HttpServerApp + Send + Sync + 'static;
    /// The one that all connections share.
    fn app(&self) -> &Arc<Self::App>;
    /// Read anew for each connection and request.
    fn limits(&self) -> Limits;
    /// What is said before the connection is closed; `None`: the request goes on to
    /// [`Handler::app`]. Only [`Seen::Head`] may go on.
    fn answer(&self, seen: Seen<'_>) -> Option<Answer>;
}

/// The client of an HTTP/1 session; `None` for streams that were not accepted here.
fn client(stream: &Stream) -> Option<&Client> {
    (**stream).as_any().downcast_ref().map(Gather::client)
}

/// Waits until the client of an HTTP/1 session has closed its side. What it sent stays unread.
pub async fn left(stream: &Stream) {
    match client(stream) {
        Some(client) => client.left().await,
        None => std::future::pending().await,
    }
}

/// Whether the client of an HTTP/1 session is known to have closed its side.
#[must_use]
pub fn has_left(stream: &Stream) -> bool {
    client(stream).is_some_and(Client::has_left)
}

/// Whether the client of an HTTP/1 session sent something that nobody has read yet.
#[must_use]
pub fn waits_for_us(stream: &Stream) -> bool {
    client(stream).is_some_and(Client::waits_for_us)
}

/// Whether closing an HTTP/1 session's connection resets it. Unix sockets know no reset.
pub fn reset_on_close(stream: &Stream, reset: bool) {
    if let Some(client) = client(stream) {
        client.reset_on_close(reset);
    }
}

/// Running listeners. Dropping it ends all connections.
pub struct Handle {
    bound: Vec<Address>,
    loops: JoinSet<()>,
    /// Tells pingora of the drain.
    _herald: JoinSet<()>,
}

struct Shared<H> {
    handler: Arc<H>,
    seats: Seats,
    heads: Unfinished,
    /// What the kernel's limit leaves for clients.
    most: usize,
    /// Connections above the cap that are told so at a time; the rest are closed without a word.
    refusals: Semaphore,
    draining: watch::Receiver<bool>,
}

/// Accepts on every socket until `phase` is [`Phase::Draining`]; then the listeners and idle
/// connections are closed, and open requests go on. Needs a tokio runtime.
pub fn serve<H: Handler>(sockets: Vec<Bound>, handler: Arc<H>, phase: &PhaseWatch) -> Handle {
    let (draining, drained) = watch::channel(false);
    let descriptors = Descriptors::of_this_process();
    let most = descriptors.clients();
    let configured = handler.limits().connections;
    if most < configured {
        tracing::warn!(
            "proxy.limits.connections = {configured}, but the limit of open files (ulimit -n) lets in {most}"
        );
    }
    let shared = Arc::new(Shared {
        handler: handler.clone(),
        seats: Seats::default(),
        heads: Unfinished::new(HEADS),
        most,
        refusals: Semaphore::new(descriptors.refused()),
        draining: drained,
    });
    let bound = sockets.iter().map(|s| s.address().clone()).collect();
    let mut loops = JoinSet::new();
    for socket in sockets {
        loops.spawn(accept(socket, shared.clone()));
    }
    let mut herald = JoinSet::new();
    let mut phase = phase.clone();
    herald.spawn(async move {
        phase.reach(Phase::Draining).await;
        draining.send_replace(true);
        // Wakes the connections that wait for a request.
        handler.app().http_cleanup().await;
    });
    Handle {
        bound,
        loops,
        _herald: herald,
    }
}

impl Handle {
    /// Where it really listens; a port 0 is replaced by the one that was given.
    #[must_use]
    pub fn addresses(&self) -> &[Address] {
        &self.bound
    }

    /// Once the drain has begun: waits for open requests until `patience` is over, and cuts off what
    /// is left. Returns the moment all is done: true if nothing had to be cut off.
    pub async fn finish(mut self, patience: Duration) -> bool {
        let all = async { while self.loops.join_next().await.is_some() {} };
        let done = timeout(patience, all).await.is_ok();
        self.loops.shutdown().await;
        done
    }
}

/// One listener's loop, with the connections it accepted.
async fn accept<H: Handler>(socket: Bound, shared: Arc<Shared<H>>) {
    let mut draining = shared.draining.clone();
    let mut connections = JoinSet::new();
    let mut pause = Duration::from_millis(5);
    loop {
        tokio::select! {
            biased;
            () = set(&mut draining) => break,
            Some(_) = connections.join_next() => {}
            accepted = socket.accept() => match accepted {
                Ok(stream) => {
                    pause = Duration::from_millis(5);
                    admit(stream, &shared, &mut connections);
                }
                Err(e) => {
                    pause = back_off(&e, pause).await;
                }
            },
        }
    }
    // What the kernel had queued already is told that we are leaving.
    while let Ok(accepted) = timeout(Duration::ZERO, socket.accept()).await {
        match accepted {
            Ok(stream) => admit(stream, &shared, &mut connections),
            Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(_) => break,
        }
    }
    drop(socket);
    while connections.join_next().await.is_some() {}
}

/// Ends when the flag is set, or can never be set any more.
async fn set(flag: &mut watch::Receiver<bool>) {
    let _ = flag.wait_for(|set| *set).await;
}

/// Out of descriptors or memory: wait longer each time. Anything else concerns one connection that
/// is gone already.
async fn back_off(e: &io::Error, pause: Duration) -> Duration {
    static SCARCE: OncePerMinute = OncePerMinute::new();
    static GONE: OncePerMinute = OncePerMinute::new();
    let scarce = [
        rustix::io::Errno::MFILE,
        rustix::io::Errno::NFILE,
        rustix::io::Errno::NOBUFS,
        rustix::io::Errno::NOMEM,
    ];
    if e.raw_os_error()
        .is_some_and(|code| scarce.iter().any(|s| s.raw_os_error() == code))
    {
        if let Some(times) = SCARCE.note() {
            tracing::warn!(error = %e, times, "cannot accept connections; told once a minute");
        }
        sleep(pause).await;
        return (pause * 2).min(Duration::from_secs(1));
    }
    if let Some(times) = GONE.note() {
        tracing::debug!(error = %e, times, "a connection was gone before it was accepted");
    }
    tokio::task::yield_now().await;
    pause
}

fn admit<H: Handler>(stream: Client, shared: &Arc<Shared<H>>, connections: &mut JoinSet<()>) {
    let shared = shared.clone();
    connections.spawn(async move {
        if let Some(seat) = shared
            .seats
            .take(shared.handler.limits().connections.min(shared.most))
        {
            connection::serve(
                stream,
                &seat,
                &*shared.handler,
                &shared.heads,
                &shared.draining,
            )
            .await;
            return;
        }
        let Ok(_permit) = shared.refusals.try_acquire() else {
            return;
        };
        if let Some(answer) = shared.handler.answer(Seen::Overloaded) {
            connection::refuse(stream, answer).await;
        }
    });
}
