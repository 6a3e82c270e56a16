//! Answers that somebody has still to read hold memory: of both ports together no more than this,
//! whoever reads slowly or not at all.

use std::{
    pin::pin,
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::{Mutex as Turn, OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::seats::{PortSeats, SOON};
use crate::{clock::BootInstant, lock::Lock};

/// KiB of unread answers, renderings of metrics aside. A larger answer takes all of it.
const ROOM: u32 = 4096;
/// An answer up to this many bytes is not counted: there is one to a seat at most.
const SMALL: usize = 1024;
/// Renderings of metrics that anybody holds, the newest included.
const RENDERINGS: usize = 4;
/// A rendering of metrics is shared so long.
const SHARED: Duration = Duration::from_secs(1);
/// How often room is made before it is given up: 2 s.
const TRIES: u32 = 100;

/// What answers hold.
pub struct UnreadAnswers {
    ports: Lock<Vec<Weak<PortSeats>>>,
    room: Arc<Semaphore>,
    /// One large answer is made at a time: what is not yet counted is one.
    turn: Turn<()>,
    renderings: Arc<Semaphore>,
    metrics: Turn<Option<(BootInstant, Bytes)>>,
}

impl Default for UnreadAnswers {
    fn default() -> Self {
        Self {
            ports: Lock::default(),
            room: Arc::new(Semaphore::new(ROOM as usize)),
            turn: Turn::default(),
            renderings: Arc::new(Semaphore::new(RENDERINGS)),
            metrics: Turn::default(),
        }
    }
}

/// Gives its room back when the last part of it was written to somebody, or to nobody.
struct CountedBody {
    body: Vec<u8>,
    _room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for CountedBody {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

impl UnreadAnswers {
    /// Those who sit here may be told to leave where room is short.
    pub fn watch_port(&self, seats: &Arc<PortSeats>) {
        self.ports.lock().push(Arc::downgrade(seats));
    }

    /// What `render` makes, once there is room for it. `None`: there is none to be had.
    pub async fn hold(&self, render: impl FnOnce() -> Vec<u8>) -> Option<Bytes> {
        let _turn = self.turn.lock().await;
        let body = render();
        if body.len() <= SMALL {
            return Some(body.into());
        }
        let wanted = u32::try_from(body.len().div_ceil(1024))
            .unwrap_or(ROOM)
            .min(ROOM);
        let room = self.make_room(&self.room, wanted).await?;
        Some(Bytes::from_owner(CountedBody { body, _room: room }))
    }

    /// The metrics as `render` shows them, or as it showed them less than a second ago. `None`:
    /// those of before are held by readers who do not read.
    pub async fn share_metrics(&self, render: impl FnOnce() -> Vec<u8>) -> Option<Bytes> {
        let mut last = self.metrics.lock().await;
        if let Some((at, body)) = &*last
            && at.until(BootInstant::now()) < SHARED
        {
            return Some(body.clone());
        }
        *last = None;
        let room = self.make_room(&self.renderings, 1).await?;
        let at = BootInstant::now();
        let body = Bytes::from_owner(CountedBody {
            body: render(),
            _room: room,
        });
        *last = Some((at, body.clone()));
        Some(body)
    }

    /// Waits for room; where it is long in coming, who has not read his answer longest leaves.
    async fn make_room(&self, room: &Arc<Semaphore>, wanted: u32) -> Option<OwnedSemaphorePermit> {
        let mut waits = pin!(room.clone().acquire_many_owned(wanted));
        for _ in 0..TRIES {
            if let Ok(room) = timeout(SOON, waits.as_mut()).await {
                return room.ok();
            }
            self.dismiss_one();
        }
        None
    }

    fn dismiss_one(&self) {
        let ports: Vec<_> = self.ports.lock().iter().filter_map(Weak::upgrade).collect();
        let longest = ports
            .iter()
            .filter_map(|seats| Some((seats.longest_unread()?, seats)))
            .min_by_key(|(unread, _)| *unread);
        if let Some(((_, number), seats)) = longest {
            seats.dismiss(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, duplex},
        time::sleep,
    };

    use super::*;
    use crate::admin::stream::SeatedStream;

    /// A connection whose peer reads nothing of `body`: its answer begins, and stays.
    fn deaf(
        unread: &Arc<UnreadAnswers>,
        body: Bytes,
    ) -> (tokio::io::DuplexStream, tokio::task::JoinHandle<()>) {
        let (client, server) = duplex(64);
        let seats = PortSeats::new(1);
        unread.watch_port(&seats);
        let writes = async move {
            let mut server = SeatedStream::new(server, seats.take().await);
            let _ = server.write_all(&body).await;
        };
        (client, tokio::spawn(writes))
    }

    #[tokio::test(start_paused = true)]
    async fn metrics_are_rendered_once_a_second_however_many_ask() {
        let (unread, rendered) = (UnreadAnswers::default(), Cell::new(0_u8));
        let ask = || unread.share_metrics(|| vec![rendered.replace(rendered.get() + 1); 10]);
        let first = ask().await.unwrap();
        for _ in 0..100 {
            let again = ask().await.unwrap();
            assert_eq!(again.as_ptr(), first.as_ptr(), "the very same bytes");
        }
        sleep(SHARED + Duration::from_millis(1)).await;
        assert_eq!(
            (ask().await.unwrap(), rendered.get()),
            (Bytes::from(vec![1; 10]), 2)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_read_gives_way_to_who_asks() {
        let unread = Arc::new(UnreadAnswers::default());
        let mut all = Vec::new();
        for _ in 0..RENDERINGS {
            all.push(deaf(
                &unread,
                unread.share_metrics(|| vec![0; 4096]).await.unwrap(),
            ));
            sleep(SHARED + Duration::from_millis(1)).await;
        }
        assert!(unread.share_metrics(|| vec![1; 10]).await.is_some());
        let left = |all: &[(_, tokio::task::JoinHandle<()>)]| {
            all.iter()
                .map(|(_, task)| task.is_finished())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            left(&all),
            [true, false, false, false],
            "whose answer lay longest"
        );
        // The same for large answers, however large the next one is.
        let large = (ROOM / 2) as usize * 1024;
        let mut large = vec![
            deaf(&unread, unread.hold(|| vec![0; large]).await.unwrap()),
            deaf(&unread, unread.hold(|| vec![0; large]).await.unwrap()),
        ];
        sleep(Duration::from_secs(1)).await;
        assert!(
            unread.hold(|| vec![0; SMALL]).await.is_some(),
            "it needs no room"
        );
        assert_eq!(left(&large), [false, false]);
        assert!(unread.hold(|| vec![0; 100 << 20]).await.is_some());
        assert_eq!(left(&large), [true, true]);
        // Who reads is not sent away, and what he has read is room again.
        large.clear();
        let (mut client, server) = deaf(&unread, unread.hold(|| vec![0; 100 << 10]).await.unwrap());
        let mut read = Vec::new();
        client.read_to_end(&mut read).await.unwrap();
        server.await.unwrap();
        assert_eq!(
            (read.len(), unread.room.available_permits()),
            (100 << 10, ROOM as usize)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn where_no_room_can_be_made_there_is_no_answer() {
        let unread = UnreadAnswers::default();
        let _kept = unread.hold(|| vec![0; 100 << 20]).await.unwrap();
        assert!(unread.hold(|| vec![0; 2048]).await.is_none());
        assert!(
            unread.share_metrics(|| vec![0; 2048]).await.is_some(),
            "scrapers have room of their own"
        );
    }
}
