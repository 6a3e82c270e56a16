//! Who is connected to a port: a bounded number, of which newcomers always get one.

use std::{
    collections::HashMap,
    sync::{Arc, MutexGuard},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    time::timeout,
};

use crate::{clock::BootInstant, lock::Lock};

/// Open connections of one port. Each may hold a head of 16 KiB and about as much besides.
pub const MOST: usize = 256;
/// Nobody has to make room who was heard of within this time, or whose answer lies unread for less.
pub const FRESH: Duration = Duration::from_millis(100);
/// Nor who waits for an answer, or has sent half a body, and was heard of within this time.
pub const BUSY: Duration = Duration::from_secs(1);
/// Who needs room looks so often for somebody who has to make it.
pub const SOON: Duration = Duration::from_millis(20);

/// Everybody who is connected. Where all seats are taken, a newcomer gets that of whom has been
/// silent longest: probes and scrapes cannot be kept out by who only sits there.
pub struct PortSeats {
    most: usize,
    room: Arc<Semaphore>,
    taken: Lock<SeatTable>,
}

#[derive(Default)]
struct SeatTable {
    /// All that ever were.
    count: u64,
    by: HashMap<u64, SeatHolder>,
}

struct SeatHolder {
    moved: BootInstant,
    answered: bool,
    busy: bool,
    /// Since when a part of an answer waits for its peer to read.
    unread: Option<BootInstant>,
    /// Dropped when it is time to go.
    stay: Option<oneshot::Sender<()>>,
}

impl PortSeats {
    /// So many seats.
    #[must_use]
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            most,
            room: Arc::new(Semaphore::new(most)),
            taken: Lock::default(),
        })
    }

    /// A seat; where all are taken, somebody is told to leave.
    pub async fn take(self: Arc<Self>) -> PortSeat {
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
            taken.by.insert(
                number,
                SeatHolder {
                    moved: BootInstant::now(),
                    answered: false,
                    busy: false,
                    unread: None,
                    stay: Some(stay),
                },
            );
            number
        };
        PortSeat {
            seats: self,
            number,
            unread: false,
            leave,
            _room: room,
        }
    }

    /// Up to half of the seats are safe for those who were answered before, so that no crowd of
    /// newcomers drives a scraper out; the other half is safe for newcomers.
    fn free_one(&self) {
        let (mut taken, now) = (self.lock(), BootInstant::now());
        let known = taken
            .by
            .values()
            .filter(|s| s.stay.is_some() && s.answered)
            .count()
            > self.most / 2;
        let may_go = |s: &SeatHolder| {
            s.answered == known && s.moved.until(now) >= if s.busy { BUSY } else { FRESH }
        };
        let longest = taken
            .by
            .iter_mut()
            .filter(|(_, s)| s.stay.is_some() && may_go(s))
            .min_by_key(|(n, s)| (s.busy, s.moved, **n));
        if let Some((_, longest)) = longest {
            longest.stay = None;
        }
    }

    /// Since when the one whose answer has lain unread longest has not read it, and its number.
    #[must_use]
    pub fn longest_unread(&self) -> Option<(BootInstant, u64)> {
        let now = BootInstant::now();
        let taken = self.lock();
        let all = taken
            .by
            .iter()
            .filter(|(_, s)| s.stay.is_some())
            .filter_map(|(n, s)| Some((s.unread?, *n)));
        all.filter(|(since, _)| since.until(now) >= FRESH).min()
    }

    /// Tells this one to leave.
    pub fn dismiss(&self, number: u64) {
        if let Some(sitting) = self.lock().by.get_mut(&number) {
            sitting.stay = None;
        }
    }

    fn lock(&self) -> MutexGuard<'_, SeatTable> {
        self.taken.lock()
    }
}

/// One connection's place.
pub struct PortSeat {
    seats: Arc<PortSeats>,
    number: u64,
    unread: bool,
    /// Resolves when it is time to go.
    pub leave: oneshot::Receiver<()>,
    _room: Option<OwnedSemaphorePermit>,
}

impl PortSeat {
    /// Bytes moved. `busy`: it waits for an answer, or is within a body.
    pub fn note_movement(&mut self, answered: bool, busy: bool) {
        let mut taken = self.seats.lock();
        if let Some(sitting) = taken.by.get_mut(&self.number) {
            sitting.moved = BootInstant::now();
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

    /// Whether a part of an answer waits for the peer to read. It lasts until all of the answer is
    /// gone, however the peer drips.
    pub fn note_unread(&mut self, unread: bool) {
        if std::mem::replace(&mut self.unread, unread) != unread
            && let Some(sitting) = self.seats.lock().by.get_mut(&self.number)
        {
            sitting.unread = unread.then(BootInstant::now);
        }
    }
}

impl Drop for PortSeat {
    fn drop(&mut self) {
        self.seats.lock().by.remove(&self.number);
    }
}
