//! Connections of the admin and the metrics port: a bounded number, of which newcomers always get one, and none that goes on without a byte moving.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use axum::serve::Listener;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    time::{Sleep, sleep, timeout},
};

use crate::token::Now;

/// Open connections of one port.
const MOST: usize = 1024;
/// Nobody has to make room who was heard of within this time.
const FRESH: Duration = Duration::from_millis(100);
/// The same for who waits for an answer, or has sent half a body.
const BUSY: Duration = Duration::from_secs(1);
/// A newcomer looks so often for somebody who has to make room.
const SOON: Duration = Duration::from_millis(20);
/// A request's head is whole so long after its first byte; the first head of a connection so long after it was made.
const HEAD: Duration = Duration::from_secs(10);
/// Without a byte in either direction a connection ends after this.
const STILL: Duration = Duration::from_secs(30);
/// A connection ends after this where it has nothing whole to show for it: a body that drips never gets longer.
const WHOLE: Duration = Duration::from_secs(120);

/// A TCP listener whose connections are [`Patient`].
pub struct Patience {
    listener: TcpListener,
    seats: Arc<Seats>,
}

impl Patience {
    pub fn new(listener: TcpListener) -> Self {
        Self { listener, seats: Seats::new(MOST) }
    }
}

impl Listener for Patience {
    type Io = Patient<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Patient<TcpStream>, SocketAddr) {
        let (tcp, addr) = Listener::accept(&mut self.listener).await;
        (Patient::new(tcp, self.seats.clone().take().await), addr)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// Everybody who is connected. Where all seats are taken, a newcomer gets that of whom has been silent longest: probes and scrapes cannot be kept
/// out by who only sits there.
struct Seats {
    most: usize,
    room: Arc<Semaphore>,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    /// All that ever were.
    count: u64,
    by: HashMap<u64, Sitting>,
}

struct Sitting {
    moved: Now,
    answered: bool,
    busy: bool,
    /// Dropped when it is time to go.
    stay: Option<oneshot::Sender<()>>,
}

impl Seats {
    fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, room: Arc::new(Semaphore::new(most)), taken: Mutex::default() })
    }

    async fn take(self: Arc<Self>) -> Seat {
        let mut patience = Duration::ZERO;
        let room = loop {
            match timeout(patience, self.room.clone().acquire_owned()).await {
                Ok(room) => break room.ok(),
                Err(_) => self.free_one(),
            }
            patience = SOON;
        };
        let (stay, leave) = oneshot::channel();
        let number = {
            let mut taken = self.lock();
            taken.count += 1;
            let number = taken.count;
            taken.by.insert(number, Sitting { moved: Now::now(), answered: false, busy: false, stay: Some(stay) });
            number
        };
        Seat { seats: self, number, leave, _room: room }
    }

    /// Up to half of the seats are safe for those who were answered before, so that no crowd of newcomers drives a scraper out; the other half is
    /// safe for newcomers.
    fn free_one(&self) {
        let (mut taken, now) = (self.lock(), Now::now());
        let known = taken.by.values().filter(|s| s.stay.is_some() && s.answered).count() > self.most / 2;
        let may_go = |s: &Sitting| s.answered == known && s.moved.until(now) >= if s.busy { BUSY } else { FRESH };
        let longest = taken.by.iter_mut().filter(|(_, s)| s.stay.is_some() && may_go(s)).min_by_key(|(n, s)| (s.busy, s.moved, **n));
        if let Some((_, longest)) = longest {
            longest.stay = None;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Seat {
    seats: Arc<Seats>,
    number: u64,
    leave: oneshot::Receiver<()>,
    _room: Option<OwnedSemaphorePermit>,
}

impl Seat {
    fn moved(&mut self, answered: bool, busy: bool) {
        let mut taken = self.seats.lock();
        if let Some(sitting) = taken.by.get_mut(&self.number) {
            sitting.moved = Now::now();
            sitting.answered |= answered;
            if busy && !sitting.busy && sitting.stay.is_none() {
                // A request came in just when it was told to leave.
                let (stay, leave) = oneshot::channel();
                sitting.stay = Some(stay);
                self.leave = leave;
            }
            sitting.busy = busy;
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seats.lock().by.remove(&self.number);
    }
}

/// A connection that ends where its peer stands still, or has to make room.
pub struct Patient<T> {
    io: T,
    still: Pin<Box<Sleep>>,
    /// Reading ends here; moved on by each head that is whole and by each answer.
    whole: Now,
    /// Line ends in a row while a head is read.
    head: Option<u8>,
    /// Nothing was read since the last answer.
    answered: bool,
    over: bool,
    seat: Seat,
}

impl<T> Patient<T> {
    fn new(io: T, seat: Seat) -> Self {
        let still = Box::pin(sleep(HEAD));
        Self { io, still, whole: Now::now().after(HEAD), head: Some(0), answered: false, over: false, seat }
    }

    /// These bytes came.
    fn heard(&mut self, bytes: &[u8]) {
        if std::mem::take(&mut self.answered) {
            self.head = Some(0);
            self.whole = Now::now().after(HEAD);
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
                self.whole = Now::now().after(WHOLE);
            }
        }
        self.moved();
    }

    fn moved(&mut self) {
        self.still.set(sleep(STILL.min(Now::now().until(self.whole))));
        self.seat.moved(self.answered, self.head.is_none() && !self.answered);
    }

    /// It has stood still for too long, or its seat is wanted.
    fn ends(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.over = self.over || self.still.as_mut().poll(cx).is_ready() || Pin::new(&mut self.seat.leave).poll(cx).is_ready();
        if self.over { Poll::Ready(io::ErrorKind::TimedOut.into()) } else { Poll::Pending }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Patient<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        if let Poll::Ready(done) = Pin::new(&mut this.io).poll_read(cx, buf) {
            this.heard(buf.filled().get(before..).unwrap_or_default());
            return Poll::Ready(done);
        }
        this.ends(cx).map(Err)
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
        this.ends(cx).map(Err)
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

    async fn pair() -> (DuplexStream, Patient<DuplexStream>) {
        seated(&Seats::new(1)).await
    }

    async fn seated(seats: &Arc<Seats>) -> (DuplexStream, Patient<DuplexStream>) {
        let (client, server) = duplex(64);
        (client, Patient::new(server, seats.clone().take().await))
    }

    /// One request and its answer.
    async fn serve(client: &mut DuplexStream, server: &mut Patient<DuplexStream>) {
        client.write_all(b"GET /\r\n\r\n").await.unwrap();
        server.read_exact(&mut [0; 9]).await.unwrap();
        server.write_all(b"y").await.unwrap();
        client.read_u8().await.unwrap();
    }

    /// Reading finds that the connection is over, after so long.
    async fn ends(server: &mut Patient<DuplexStream>) -> Duration {
        let begun = Now::now();
        assert_eq!(server.read(&mut [0; 8]).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        begun.until(Now::now())
    }

    fn about(found: Duration, expected: Duration) -> bool {
        found.abs_diff(expected) < MOMENT
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_stands_still_ends() {
        let (_client, mut server) = pair().await;
        assert!(about(ends(&mut server).await, HEAD));
        assert!(about(ends(&mut server).await, Duration::ZERO), "and stays so");
        let (_client, mut server) = pair().await;
        assert_eq!(server.write_all(&[0; 65]).await.unwrap_err().kind(), io::ErrorKind::TimedOut, "nobody reads");
        let (mut client, mut server) = pair().await;
        serve(&mut client, &mut server).await;
        assert!(about(ends(&mut server).await, STILL));
        // A later head has its time from its first byte.
        let (mut client, mut server) = pair().await;
        serve(&mut client, &mut server).await;
        sleep(STILL / 2).await;
        client.write_all(b"G").await.unwrap();
        server.read_u8().await.unwrap();
        assert!(about(ends(&mut server).await, HEAD));
    }

    /// How long a connection lives on which a byte arrives every few seconds, behind `first`; an hour at most.
    async fn dripped(first: &[u8], answers: bool) -> Duration {
        let (mut client, mut server) = pair().await;
        let begun = Now::now();
        client.write_all(first).await.unwrap();
        server.read_exact(&mut vec![0; first.len()]).await.unwrap();
        while begun.until(Now::now()) < Duration::from_hours(1) {
            let drip = async {
                sleep(HEAD / 2).await;
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
    async fn what_drips_ends_after_its_time_and_what_is_answered_goes_on() {
        assert!((HEAD..HEAD * 2).contains(&(dripped(b"G", false).await + MOMENT)), "a head");
        assert!((WHOLE..WHOLE + 2 * STILL).contains(&(dripped(b"POST /\r\nA: b\r\n\r\n", false).await + MOMENT)), "a body");
        assert!(dripped(b"", true).await + MOMENT >= Duration::from_hours(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_newcomer_gets_the_seat_of_whom_has_been_silent_longest() {
        let seats = Seats::new(3);
        let (mut scraper, mut scraped) = seated(&seats).await;
        serve(&mut scraper, &mut scraped).await;
        let (mut spoke, mut heard) = seated(&seats).await;
        let (_silent, mut idle) = seated(&seats).await;
        sleep(FRESH).await;
        spoke.write_all(b"G").await.unwrap();
        heard.read_u8().await.unwrap();
        let leaves = async {
            let after = ends(&mut idle).await;
            drop(idle);
            after
        };
        let (_newcomer, after) = tokio::join!(seated(&seats), leaves);
        assert!(about(after, Duration::ZERO));
        // Of the others one was answered, and two were heard of just now: the next newcomer waits.
        assert!(timeout(FRESH / 2, seated(&seats)).await.is_err());
        serve(&mut scraper, &mut scraped).await;
    }

    #[tokio::test(start_paused = true)]
    async fn who_sends_a_request_when_told_to_leave_has_time_for_its_answer() {
        let seats = Seats::new(1);
        let (mut client, mut server) = seated(&seats).await;
        sleep(FRESH).await;
        let newcomer = tokio::spawn(seats.clone().take());
        sleep(SOON / 2).await;
        client.write_all(b"GET /\r\n\r\n").await.unwrap();
        server.read_exact(&mut [0; 9]).await.unwrap();
        assert!(about(ends(&mut server).await, BUSY));
        drop(server);
        newcomer.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn connections_that_were_answered_keep_half_of_the_seats_and_no_more() {
        let seats = Seats::new(4);
        let mut known = Vec::new();
        for _ in 0..4 {
            let (mut client, mut server) = seated(&seats).await;
            serve(&mut client, &mut server).await;
            known.push((client, server));
            sleep(FRESH).await;
        }
        let mut crowd = Vec::new();
        for _ in 0..10 {
            let leaves = async {
                let mut all: Vec<_> = known.iter_mut().chain(&mut crowd).map(|(_, s)| s).collect();
                let first = futures_util::future::select_all(all.iter_mut().map(|s| Box::pin(ends(s)))).await.1;
                if first < known.len() { drop(known.remove(first)) } else { drop(crowd.remove(first - known.len())) }
            };
            let (newcomer, ()) = tokio::join!(seated(&seats), leaves);
            crowd.push(newcomer);
        }
        assert_eq!((known.len(), crowd.len()), (2, 2));
    }
}
