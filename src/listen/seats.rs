//! Seats for the connections of all listeners. Where all are taken, a newcomer gets that of the
//! longest silent one.

use std::{
    collections::BTreeMap,
    io,
    pin::Pin,
    sync::{
        Arc, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, ReadBuf},
    sync::Notify,
};

use crate::lock::Lock;

/// All seats. A connection is silent while no request runs on it and nothing of a head arrives.
#[derive(Default)]
pub(super) struct Seats(Lock<Taken>);

#[derive(Default)]
struct Taken {
    open: usize,
    /// The silent ones by the order in which they fell silent, or last sent something: the first is
    /// silent for longest.
    silent: BTreeMap<u64, Arc<Notify>>,
    last: u64,
}

/// A connection may be open as long as this lives and nobody else has got it.
pub(super) struct Seat<'a> {
    seats: &'a Seats,
    /// Its place in [`Taken::silent`], or 0; changed under the lock alone.
    number: AtomicU64,
    leave: Arc<Notify>,
}

impl Seats {
    /// `None`: `most` are taken, and on each of them a request is under way.
    pub fn take(&self, most: usize) -> Option<Seat<'_>> {
        let mut taken = self.lock();
        if taken.open < most {
            taken.open += 1;
        } else {
            // Its owner no longer counts; the seat does.
            let (_, leave) = taken.silent.pop_first()?;
            leave.notify_one();
        }
        Some(Seat {
            seats: self,
            number: AtomicU64::new(0),
            leave: Arc::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.0.lock()
    }
}

impl Taken {
    fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }
}

impl Seat<'_> {
    /// What is done while the connection is silent. `None`: somebody else has got the seat.
    pub async fn silent<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        {
            let mut taken = self.seats.lock();
            let number = taken.next();
            taken.silent.insert(number, self.leave.clone());
            self.number.store(number, Ordering::Relaxed);
        }
        let done = tokio::select! {
            biased;
            done = work => done,
            () = self.leave.notified() => return None,
        };
        let mut taken = self.seats.lock();
        taken.silent.remove(&self.number.load(Ordering::Relaxed))?;
        self.number.store(0, Ordering::Relaxed);
        Some(done)
    }

    /// Something of a head arrived.
    fn heard(&self) {
        let mut taken = self.seats.lock();
        if let Some(leave) = taken.silent.remove(&self.number.load(Ordering::Relaxed)) {
            let number = taken.next();
            taken.silent.insert(number, leave);
            self.number.store(number, Ordering::Relaxed);
        }
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let mut taken = self.seats.lock();
        let number = self.number.load(Ordering::Relaxed);
        if number == 0 || taken.silent.remove(&number).is_some() {
            taken.open = taken.open.saturating_sub(1);
        }
    }
}

/// What arrives here is heard of at the seat.
pub(super) struct Heard<'a, S>(pub &'a mut S, pub &'a Seat<'a>);

impl<S: AsyncRead + Unpin> AsyncRead for Heard<'_, S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut *self.0).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.1.heard();
        }
        read
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use futures_util::{FutureExt, future::join_all};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    fn open(seats: &Seats) -> usize {
        seats.lock().open
    }

    #[tokio::test]
    async fn a_newcomer_gets_the_seat_of_the_longest_silent_one_and_never_that_of_a_busy_one() {
        let seats = Seats::default();
        let [one, two, busy] = [(); 3].map(|()| seats.take(3).unwrap());
        assert!(seats.take(3).is_none(), "all are busy");
        let (mut first, mut second) = (
            Box::pin(one.silent(pending::<()>())),
            Box::pin(two.silent(pending::<()>())),
        );
        assert!(join_all([&mut first, &mut second]).now_or_never().is_none());
        let new = seats.take(3).unwrap();
        assert_eq!(
            (first.now_or_never(), (&mut second).now_or_never()),
            (Some(None), None)
        );
        let newer = seats.take(3).unwrap();
        assert_eq!(second.now_or_never(), Some(None));
        assert!(seats.take(3).is_none(), "what is left is busy");
        assert_eq!(open(&seats), 3);
        drop((one, two));
        assert_eq!(open(&seats), 3, "the newcomers sit there");
        drop((busy, new, newer));
        assert_eq!(open(&seats), 0);
    }

    #[tokio::test]
    async fn who_sends_something_is_not_the_longest_silent_one() {
        let seats = Seats::default();
        let (a, b) = (seats.take(2).unwrap(), seats.take(2).unwrap());
        let (mut near, mut far) = duplex(64);
        let mut buf = [0; 8];
        let mut heard = Heard(&mut near, &a);
        let mut first = Box::pin(a.silent(async {
            loop {
                assert!(heard.read(&mut buf).await.unwrap() > 0);
            }
        }));
        let mut second = Box::pin(b.silent(pending::<()>()));
        assert!((&mut first).now_or_never().is_none() && (&mut second).now_or_never().is_none());
        far.write_all(b"G").await.unwrap();
        assert!((&mut first).now_or_never().is_none());
        let _c = seats.take(2).unwrap();
        assert!((&mut first).now_or_never().is_none(), "it sent a byte");
        assert_eq!(second.now_or_never(), Some(None));
    }

    #[tokio::test]
    async fn a_request_that_arrives_as_its_seat_is_given_away_is_not_served_and_an_aborted_one_gives_it_back()
     {
        let seats = Seats::default();
        let a = seats.take(1).unwrap();
        let (tell, told) = tokio::sync::oneshot::channel();
        let mut waits = Box::pin(a.silent(told));
        assert!((&mut waits).now_or_never().is_none());
        let b = seats.take(1).unwrap();
        tell.send(()).unwrap();
        assert_eq!(waits.await, None);
        drop(a);
        assert_eq!(open(&seats), 1);
        let mut waits = Box::pin(b.silent(pending::<()>()));
        assert!((&mut waits).now_or_never().is_none());
        drop(waits);
        drop(b);
        assert_eq!((open(&seats), seats.lock().silent.len()), (0, 0));
    }
}
