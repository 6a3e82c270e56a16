//! A server that plays token endpoint and vendor alike and breaks, at every phase of a connection,
//! exactly as it is told to.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::{
    faults_http2::{self, Frames},
    support::wire::{Conn, Io},
};

/// The most that a flood sends before it gives up.
const FLOOD: usize = 256 << 20;

#[derive(Clone, Debug)]
pub struct Fault {
    /// Before a byte is read, TLS included; otherwise once a request is there.
    pub at_accept: bool,
    pub acts: Vec<Act>,
}

/// What is done on a connection, in order. After the last it is closed in order, with TLS by
/// close_notify.
#[derive(Clone, Debug)]
pub enum Act {
    Send(Vec<u8>),
    /// One byte in 50 ms.
    Drip(Vec<u8>),
    /// Again and again, until the other side leaves.
    Flood(Vec<u8>),
    /// Until the other side leaves.
    Hang,
    /// FIN, while what the other side sends is still read.
    HalfClose,
    /// FIN at once: with TLS there is no close_notify.
    Cut,
    Reset,
    /// A fatal alert of TLS.
    Alert,
    /// Bytes on the wire that are no TLS.
    Under(&'static [u8]),
    /// On a connection of HTTP/2, the only act.
    Http2(Frames),
}

pub struct Broken {
    addr: SocketAddr,
    secure: bool,
    state: Arc<State>,
}

struct State {
    tls: Option<Arc<rustls::ServerConfig>>,
    fault: watch::Sender<Option<Fault>>,
    connections: AtomicUsize,
    requests: AtomicUsize,
    /// Connections open now, by how many faults there had been when they came.
    open: watch::Sender<Vec<usize>>,
    /// The fault before, for a test that fails.
    last: Mutex<String>,
}

impl Broken {
    pub async fn start(tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (addr, secure) = (listener.local_addr().unwrap(), tls.is_some());
        let state = Arc::new(State {
            tls,
            fault: watch::Sender::new(None),
            connections: AtomicUsize::default(),
            requests: AtomicUsize::default(),
            open: watch::Sender::new(vec![0]),
            last: Mutex::default(),
        });
        tokio::spawn(accept(listener, state.clone()));
        Self {
            addr,
            secure,
            state,
        }
    }

    pub fn url(&self) -> String {
        if self.secure {
            format!("https://localhost:{}", self.addr.port())
        } else {
            format!("http://{}", self.addr)
        }
    }

    /// Closes every connection there is; the next ones break like this, or are served in order.
    pub async fn breaks(&self, fault: Option<Fault>) {
        *self.state.last.lock().unwrap() = format!("{:.300?}", *self.state.fault.borrow());
        let mut before = 0;
        self.state.fault.send_modify(|now| {
            *now = fault;
            self.state.open.send_modify(|open| {
                before = open.len();
                open.push(0);
            });
        });
        self.until(0, |open| open[..before].iter().sum()).await;
    }

    /// Waits until no more than `most` connections are open.
    pub async fn until_open(&self, most: usize) {
        self.until(most, |open| open.iter().sum()).await;
    }

    async fn until(&self, most: usize, counted: impl Fn(&[usize]) -> usize) {
        let mut open = self.state.open.subscribe();
        let in_time = tokio::time::timeout(
            Duration::from_secs(20),
            open.wait_for(|o| counted(o) <= most),
        )
        .await
        .is_ok();
        assert!(
            in_time,
            "{}: {:?} connections are still open, with {:?}",
            self.addr,
            *open.borrow(),
            *self.state.last.lock().unwrap()
        );
    }

    pub fn open(&self) -> usize {
        self.state.open.borrow().iter().sum()
    }

    /// Connections and whole requests so far.
    pub fn counts(&self) -> (usize, usize) {
        (
            self.state.connections.load(SeqCst),
            self.state.requests.load(SeqCst),
        )
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    while let Ok((tcp, _)) = listener.accept().await {
        let mut told = state.fault.subscribe();
        let (fault, age) = {
            let fault = told.borrow_and_update();
            let mut age = 0;
            state.open.send_modify(|open| {
                age = open.len() - 1;
                open[age] += 1;
            });
            (fault.clone(), age)
        };
        state.connections.fetch_add(1, SeqCst);
        let state = state.clone();
        tokio::spawn(async move {
            let (mut twin, tcp) = twins(tcp).unwrap();
            tokio::select! {
                _ = told.changed() => farewell(&mut twin).await,
                _ = connection(tcp, &mut twin, &state, fault) => {}
            }
            drop(twin);
            state.open.send_modify(|open| open[age] -= 1);
        });
    }
}

/// The same socket twice: once for TLS, once for what TLS would not do.
fn twins(tcp: TcpStream) -> std::io::Result<(TcpStream, TcpStream)> {
    tcp.set_nodelay(true)?;
    let tcp = tcp.into_std()?;
    Ok((
        TcpStream::from_std(tcp.try_clone()?)?,
        TcpStream::from_std(tcp)?,
    ))
}

/// Whoever kept the connection in a pool has seen its end when this returns.
async fn farewell(tcp: &mut TcpStream) {
    let seen = async {
        tcp.shutdown().await.ok()?;
        let mut sink = [0; 4096];
        while tcp.read(&mut sink).await.is_ok_and(|n| n > 0) {}
        Some(())
    };
    let _ = tokio::time::timeout(Duration::from_secs(5), seen).await;
}

async fn connection(
    tcp: TcpStream,
    twin: &mut TcpStream,
    state: &State,
    fault: Option<Fault>,
) -> std::io::Result<()> {
    match (fault, &state.tls) {
        (
            Some(Fault {
                at_accept: true,
                acts,
            }),
            _,
        ) => play(Conn::new(tcp), twin, acts).await,
        (fault, None) => serve(Conn::new(tcp), twin, state, fault).await,
        (fault, Some(tls)) => {
            let tls = TlsAcceptor::from(tls.clone()).accept(tcp).await?;
            if tls.get_ref().1.alpn_protocol() != Some(b"h2") {
                return serve(Conn::new(tls), twin, state, fault).await;
            }
            let frames = fault.and_then(|f| {
                f.acts
                    .into_iter()
                    .find_map(|a| if let Act::Http2(f) = a { Some(f) } else { None })
            });
            faults_http2::serve(tls, frames, &state.requests).await
        }
    }
}

async fn serve<S: Io + Alarm>(
    mut conn: Conn<S>,
    twin: &mut TcpStream,
    state: &State,
    fault: Option<Fault>,
) -> std::io::Result<()> {
    while let Some(mut request) = conn.head().await? {
        conn.body(&mut request).await?;
        let n = state.requests.fetch_add(1, SeqCst);
        if let Some(fault) = fault {
            return play(conn, twin, fault.acts).await;
        }
        let body = if request.path() == "/token" {
            token(n)
        } else {
            "hi".to_owned()
        };
        conn.io.write_all(good(&body).as_bytes()).await?;
        conn.io.flush().await?;
    }
    Ok(())
}

async fn play<S: Io + Alarm>(
    mut conn: Conn<S>,
    twin: &mut TcpStream,
    acts: Vec<Act>,
) -> std::io::Result<()> {
    for act in acts {
        match act {
            Act::Send(bytes) => conn.io.write_all(&bytes).await?,
            Act::Drip(bytes) => {
                for byte in bytes {
                    conn.io.write_all(&[byte]).await?;
                    conn.io.flush().await?;
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
            Act::Flood(bytes) => {
                let many = bytes.repeat((64 << 10) / bytes.len());
                for _ in 0..FLOOD / many.len() {
                    conn.io.write_all(&many).await?;
                }
            }
            Act::Hang => while conn.head().await?.is_some() {},
            Act::HalfClose => twin.shutdown().await?,
            Act::Cut => return Ok(()),
            Act::Http2(_) => {}
            Act::Reset => {
                // The last of both handles makes it so.
                rustix::net::sockopt::set_socket_linger(&*twin, Some(Duration::ZERO))?;
                return Ok(());
            }
            Act::Alert => conn.io.alarm(),
            Act::Under(bytes) => {
                conn.io.flush().await?;
                twin.write_all(bytes).await?;
            }
        }
        conn.io.flush().await?;
    }
    conn.into_parts().0.shutdown().await
}

trait Alarm {
    fn alarm(&mut self);
}

impl Alarm for TcpStream {
    fn alarm(&mut self) {}
}

impl Alarm for TlsStream<TcpStream> {
    /// Pretends that a record came damaged, so that TLS itself raises the alarm.
    fn alarm(&mut self) {
        let mut damaged = [0; 37];
        damaged[..5].copy_from_slice(&[23, 3, 3, 0, 32]);
        let tls = self.get_mut().1;
        tls.read_tls(&mut &damaged[..]).unwrap();
        assert!(tls.process_new_packets().is_err());
    }
}

/// A token's answer.
pub fn token(n: usize) -> String {
    format!("{{\"access_token\":\"tok-{n}\",\"token_type\":\"Bearer\",\"expires_in\":3600}}")
}

pub fn good(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}
