//! The server of the admin and the metrics port: HTTP/1.1 alone, a seat for each connection, and an
//! end to those who only sit there.
//!
//! HTTP/2 would let one connection hold hundreds of answers that it never reads; here it holds one.

use std::{io, pin::pin, sync::Arc, time::Duration};

use axum::Router;
use hyper::{
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use rustix::net::sockopt;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    time::sleep,
};

use super::{
    seats::{PortSeat, PortSeats},
    stream::SeatedStream,
};
use crate::phase::{Phase, PhaseWatch};

/// A request's head is this long at most, and so much of what a client sends ahead is kept. Cookies
/// of everything on this host come along.
const HEAD: usize = 16 * 1024;
/// What the kernel keeps of an unread answer (it doubles this).
const SEND_BUFFER: usize = 32 * 1024;
/// After an error that is not one connection's, such as no descriptor being left.
const PAUSE: Duration = Duration::from_millis(200);

/// A socket that accepts.
pub enum AdminSocket {
    /// An address.
    Tcp(TcpListener),
    /// A path.
    Unix(UnixListener),
}

/// Who is at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdminPeer {
    /// Anybody who can reach the address.
    Network,
    /// A program of this user, as the kernel says (SO_PEERCRED).
    User(u32),
}

/// Serves `app` until [`Phase::Stopped`]; open requests are then finished.
pub async fn serve(socket: AdminSocket, app: Router, seats: Arc<PortSeats>, phase: PhaseWatch) {
    let mut stopped = phase.clone();
    loop {
        let accepted = tokio::select! {
            accepted = accept(&socket, &seats, &app, &phase) => accepted,
            () = stopped.reach(Phase::Stopped) => return,
        };
        if let Err(error) = accepted
            && !matches!(
                error.kind(),
                io::ErrorKind::ConnectionAborted
                    | io::ErrorKind::ConnectionReset
                    | io::ErrorKind::NotConnected
            )
        {
            sleep(PAUSE).await;
        }
    }
}

/// One connection. It has been accepted before it waits for its seat, so that the kernel's queue is
/// ours to empty.
async fn accept(
    socket: &AdminSocket,
    seats: &Arc<PortSeats>,
    app: &Router,
    phase: &PhaseWatch,
) -> io::Result<()> {
    match socket {
        AdminSocket::Tcp(listener) => {
            let (tcp, _) = listener.accept().await?;
            tcp.set_nodelay(true)?;
            sockopt::set_socket_send_buffer_size(&tcp, SEND_BUFFER)?;
            let seat = seats.clone().take().await;
            tokio::spawn(converse(
                tcp,
                AdminPeer::Network,
                seat,
                app.clone(),
                phase.clone(),
            ));
        }
        AdminSocket::Unix(listener) => {
            let (unix, _) = listener.accept().await?;
            let user = AdminPeer::User(unix.peer_cred()?.uid());
            sockopt::set_socket_send_buffer_size(&unix, SEND_BUFFER)?;
            let seat = seats.clone().take().await;
            tokio::spawn(converse(unix, user, seat, app.clone(), phase.clone()));
        }
    }
    Ok(())
}

async fn converse<T>(io: T, peer: AdminPeer, seat: PortSeat, app: Router, mut phase: PhaseWatch)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let app = TowerToHyperService::new(app);
    let service = service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(peer);
        app.call(request)
    });
    let mut server = http1::Builder::new();
    // Heads have their deadline below, where bytes are seen.
    server.header_read_timeout(None).max_buf_size(HEAD);
    let mut connection =
        pin!(server.serve_connection(TokioIo::new(SeatedStream::new(io, seat)), service));
    tokio::select! {
        // What went wrong is the client's own business.
        _ = connection.as_mut() => return,
        () = phase.reach(Phase::Stopped) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
}
