//! Deadlines and seats, on a paused clock.

use std::sync::Arc;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    time::timeout,
};

use super::*;
use crate::admin::seats::{BUSY, FRESH, PortSeats, SOON};

/// Clocks are read one after the other.
const MOMENT: Duration = Duration::from_millis(500);

async fn pair() -> (DuplexStream, SeatedStream<DuplexStream>) {
    seated(&PortSeats::new(1)).await
}

async fn seated(seats: &Arc<PortSeats>) -> (DuplexStream, SeatedStream<DuplexStream>) {
    let (client, server) = duplex(64);
    (
        client,
        SeatedStream::new(server, seats.clone().take().await),
    )
}

/// One request and its answer.
async fn serve(client: &mut DuplexStream, server: &mut SeatedStream<DuplexStream>) {
    client.write_all(b"GET /\r\n\r\n").await.unwrap();
    server.read_exact(&mut [0; 9]).await.unwrap();
    server.write_all(b"y").await.unwrap();
    server.flush().await.unwrap();
    client.read_u8().await.unwrap();
}

/// Reading finds that the connection is over, after so long.
async fn ends(server: &mut SeatedStream<DuplexStream>) -> Duration {
    let begun = BootInstant::now();
    assert_eq!(
        server.read(&mut [0; 8]).await.unwrap_err().kind(),
        io::ErrorKind::TimedOut
    );
    begun.until(BootInstant::now())
}

fn about(found: Duration, expected: Duration) -> bool {
    found.abs_diff(expected) < MOMENT
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_stands_still_ends() {
    let (_client, mut server) = pair().await;
    assert!(about(ends(&mut server).await, HEAD));
    assert!(
        about(ends(&mut server).await, Duration::ZERO),
        "and stays so"
    );
    let (_client, mut server) = pair().await;
    assert_eq!(
        server.write_all(&[0; 65]).await.unwrap_err().kind(),
        io::ErrorKind::TimedOut,
        "nobody reads"
    );
    let (mut client, mut server) = pair().await;
    serve(&mut client, &mut server).await;
    assert!(about(ends(&mut server).await, KEPT));
    let (mut client, mut server) = pair().await;
    client.write_all(b"GET /\r\n\r\n").await.unwrap();
    server.read_exact(&mut [0; 9]).await.unwrap();
    assert_eq!(
        server.write_all(&[0; 65]).await.unwrap_err().kind(),
        io::ErrorKind::TimedOut,
        "nobody reads the rest"
    );
    // A later head has its time from its first byte.
    let (mut client, mut server) = pair().await;
    serve(&mut client, &mut server).await;
    sleep(STILL / 2).await;
    client.write_all(b"G").await.unwrap();
    server.read_u8().await.unwrap();
    assert!(about(ends(&mut server).await, HEAD));
}

/// How long a connection lives on which a byte arrives every few seconds, behind `first`; an hour
/// at most.
async fn dripped(first: &[u8], answers: bool) -> Duration {
    let (mut client, mut server) = pair().await;
    let begun = BootInstant::now();
    client.write_all(first).await.unwrap();
    server.read_exact(&mut vec![0; first.len()]).await.unwrap();
    while begun.until(BootInstant::now()) < Duration::from_hours(1) {
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
    begun.until(BootInstant::now())
}

#[tokio::test(start_paused = true)]
async fn what_drips_ends_after_its_time_and_what_is_answered_goes_on() {
    assert!(
        (HEAD..HEAD * 2).contains(&(dripped(b"G", false).await + MOMENT)),
        "a head"
    );
    assert!(
        (WHOLE..WHOLE + 2 * STILL)
            .contains(&(dripped(b"POST /\r\nA: b\r\n\r\n", false).await + MOMENT)),
        "a body"
    );
    assert!(dripped(b"", true).await + MOMENT >= Duration::from_hours(1));
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_gets_the_seat_of_whom_has_been_silent_longest() {
    let seats = PortSeats::new(3);
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
    let seats = PortSeats::new(1);
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
    let seats = PortSeats::new(4);
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
            let first = futures_util::future::select_all(all.iter_mut().map(|s| Box::pin(ends(s))))
                .await
                .1;
            if first < known.len() {
                drop(known.remove(first));
            } else {
                drop(crowd.remove(first - known.len()));
            }
        };
        let (newcomer, ()) = tokio::join!(seated(&seats), leaves);
        crowd.push(newcomer);
    }
    assert_eq!((known.len(), crowd.len()), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn a_connection_ends_between_two_requests_though_nobody_reads_it_again() {
    let (mut client, mut server) = pair().await;
    client.write_all(b"GET /\r\n\r\n").await.unwrap();
    server.read_exact(&mut [0; 9]).await.unwrap();
    // As the server does it: it looks for the next request, and only then is the answer written.
    let begun = BootInstant::now();
    let mut written = false;
    let ended = std::future::poll_fn(|cx| {
        let mut bytes = [0; 8];
        let read = Pin::new(&mut server).poll_read(cx, &mut ReadBuf::new(&mut bytes));
        if !std::mem::replace(&mut written, true) {
            assert!(Pin::new(&mut server).poll_write(cx, b"y").is_ready());
            assert!(Pin::new(&mut server).poll_flush(cx).is_ready());
        }
        read
    });
    let ended = timeout(10 * KEPT, ended).await.expect("it wakes up");
    assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::TimedOut);
    assert!(about(begun.until(BootInstant::now()), KEPT));
}
