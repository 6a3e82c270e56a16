//! One connection: tell HTTP/2 from HTTP/1, read heads within their deadline, have them judged,
//! hand them to pingora one by one.

use std::time::Duration;

use bytes::{Buf, BytesMut};
use futures_util::FutureExt;
use pingora_core::{
    apps::{HttpServerApp, ServerApp},
    protocols::http::ServerSession,
    server::ShutdownWatch,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::{sleep, timeout},
};

use super::{
    Answer, Handler, LATE, Limits, Seen,
    client::Client,
    gather::Gather,
    head::{PREFACE, Scan, chunked, scan},
    seats::{Heard, Seat},
    unfinished::Unfinished,
    watched::watch,
};

/// After a refusal: so long we wait for the client to take it (closing with unread bytes would
/// reset the connection).
const FAREWELL: Duration = Duration::from_secs(1);
/// Room for the rest of a head, once its first bytes are there; a connection that waits for a
/// request has none.
const ROOM: usize = 4096;

enum Arrived {
    /// A request head of so many bytes stands at the start of the buffer.
    Head(usize),
    Http2,
    TooLarge,
    Malformed,
    TooSlow,
    /// The unfinished heads of all connections take what they may, and this one is the newest.
    Crowded,
    /// Closed, broken, idle for too long, or we are draining.
    Gone,
}

/// Which of the heads on a connection is waited for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// Its deadline counts from the moment the connection was accepted.
    First,
    /// Its deadline counts from its first byte.
    Later,
}

/// An HTTP/2 connection keeps its `seat` until its client or pingora closes it: what runs on it is
/// not seen here.
pub(super) async fn serve<H: Handler>(
    mut io: Client,
    seat: &Seat<'_>,
    handler: &H,
    heads: &Unfinished,
    draining: &ShutdownWatch,
) {
    let mut buf = BytesMut::new();
    let first = async {
        read_head(
            &mut Heard(&mut io, seat),
            &mut buf,
            Turn::First,
            handler.limits(),
            heads,
            draining,
        )
        .await
    };
    let Some(arrived) = seat.silent(first).await else {
        return;
    };
    if matches!(arrived, Arrived::Http2) {
        let io = watch(io, &buf, handler.limits().header_timeout);
        drop(buf);
        handler.app().process_new(Box::new(io), draining).await;
        return;
    }
    let mut io = Box::new(Gather::new(io));
    let mut arrived = arrived;
    loop {
        let len = if let Arrived::Head(n) = arrived { n } else { 0 };
        let head = buf.get(..len).unwrap_or_default();
        let seen = match arrived {
            Arrived::Head(_) => {
                if *draining.borrow() {
                    Seen::Draining(head)
                } else {
                    Seen::Head(head)
                }
            }
            Arrived::TooLarge => Seen::TooLarge(&buf),
            Arrived::TooSlow => Seen::TooSlow,
            Arrived::Crowded => Seen::Crowded,
            // HTTP/2 cannot begin on a connection that spoke HTTP/1.
            Arrived::Malformed | Arrived::Http2 => Seen::Malformed,
            Arrived::Gone => return,
        };
        if let Some(answer) = handler.answer(seen) {
            drop(buf);
            refuse(io, answer).await;
            return;
        }
        if chunked(head) {
            io.expect_chunks(&mut buf, len);
        }
        let mut session = ServerSession::new_http1(io);
        // pingora decides on reuse by the request's own words; how long we wait for the next is our
        // business.
        session.set_keepalive(Some(60));
        session.set_pipelined_prefix(std::mem::take(&mut buf));
        let Some(reused) = handler.app().process_new_http(session, draining).await else {
            return;
        };
        let Ok(same) = reused.consume().0.into_any().downcast::<Gather>() else {
            return;
        };
        io = same;
        if !io.between_requests() {
            // pingora and we disagree about where the body ended.
            return;
        }
        let next = async {
            read_head(
                &mut Heard(&mut io, seat),
                &mut buf,
                Turn::Later,
                handler.limits(),
                heads,
                draining,
            )
            .await
        };
        let Some(next) = seat.silent(next).await else {
            return;
        };
        arrived = next;
    }
}

/// Sends a last answer and closes.
pub(super) async fn refuse<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, answer: Answer) {
    if let Some(after) = answer.after {
        after.await;
    }
    let farewell = async {
        stream.write_all(&answer.bytes).await.ok()?;
        stream.flush().await.ok()?;
        stream.shutdown().await.ok()?;
        let mut sink = [0; 4096];
        while stream.read(&mut sink).await.is_ok_and(|n| n > 0) {}
        Some(())
    };
    let _ = timeout(FAREWELL, farewell).await;
}

/// Most heads fit, so that they are read in one go; an idle connection costs no more.
const HEAD: usize = 1024;

async fn read_head<S: AsyncRead + Unpin>(
    io: &mut S,
    buf: &mut BytesMut,
    turn: Turn,
    limits: Limits,
    heads: &Unfinished,
    draining: &ShutdownWatch,
) -> Arrived {
    let deadline = sleep(limits.header_timeout);
    tokio::pin!(deadline);
    buf.reserve(HEAD);
    let mut stop = draining.clone();
    let patience = match turn {
        _ if *stop.borrow() => LATE,
        Turn::First => limits.idle.min(limits.header_timeout),
        Turn::Later => limits.idle,
    };
    tokio::select! {
        biased;
        first = timeout(patience, io.read_buf(buf)) => if !matches!(first, Ok(Ok(1..))) { return Arrived::Gone },
        () = super::set(&mut stop), if patience != LATE => return Arrived::Gone,
    }
    // What the client sent in one go is taken in one go: pingora answers a request with another one
    // behind it, and then closes, if it has both at once. It gives up the first without an answer
    // when it finds the second in the socket.
    if buf.len() == buf.capacity() {
        buf.reserve(ROOM);
        let _ = io.read_buf(buf).now_or_never();
    }
    if turn == Turn::Later {
        deadline.set(sleep(limits.header_timeout));
    }
    // A head that was there at once has none: it waits for nobody.
    let mut share = None;
    let mut seen = 0;
    loop {
        // RFC 9112 2.2: empty lines before a request are skipped.
        while seen == 0 && buf.starts_with(b"\r\n") {
            buf.advance(2);
        }
        if buf.as_ref() != b"\r" {
            match scan(buf, seen) {
                Scan::Complete(n) if PREFACE.starts_with(buf.get(..n).unwrap_or_default()) => {
                    if buf.len() >= PREFACE.len() {
                        return if buf.starts_with(PREFACE) {
                            Arrived::Http2
                        } else {
                            Arrived::Malformed
                        };
                    }
                }
                Scan::Complete(n) if n > limits.head_bytes => return Arrived::TooLarge,
                Scan::Complete(n) => {
                    // It stays for as long as its request, which may be hours.
                    if buf.capacity() > buf.len() + ROOM {
                        resize(buf, buf.len());
                    }
                    return Arrived::Head(n);
                }
                Scan::Malformed => return Arrived::Malformed,
                Scan::Partial(_) if buf.len() > limits.head_bytes => return Arrived::TooLarge,
                Scan::Partial(n) => seen = n,
            }
        }
        let full = buf.len() == buf.capacity();
        let capacity = if full {
            larger(buf.len(), limits.head_bytes)
        } else {
            buf.capacity()
        };
        let share = share.get_or_insert_with(|| heads.begin());
        tokio::select! {
            biased;
            () = &mut deadline => return Arrived::TooSlow,
            given = share.grow(capacity) => if !given { return Arrived::Crowded },
        }
        if full {
            resize(buf, capacity);
        }
        tokio::select! {
            biased;
            () = &mut deadline => return Arrived::TooSlow,
            () = share.must_leave() => return Arrived::Crowded,
            read = io.read_buf(buf) => if !matches!(read, Ok(1..)) { return Arrived::Gone },
        }
    }
}

/// The next capacity of a buffer that `len` bytes fill: twice as much, and never much more than a head may have.
fn larger(len: usize, head_bytes: usize) -> usize {
    len.saturating_mul(2)
        .max(ROOM)
        .min(head_bytes.saturating_add(ROOM))
}

/// Exactly so much, where `reserve` may take twice what it is asked for.
fn resize(buf: &mut BytesMut, capacity: usize) {
    let mut sized = BytesMut::with_capacity(capacity);
    sized.extend_from_slice(buf);
    *buf = sized;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listen::HEADS;
    use tokio::{io::duplex, sync::watch};

    const LIMITS: Limits = Limits {
        connections: 1,
        head_bytes: 64,
        header_timeout: Duration::from_secs(10),
        idle: Duration::from_mins(10),
    };

    async fn arrives(bytes: &[u8]) -> (&'static str, BytesMut) {
        let (_stop, draining) = watch::channel(false);
        let (mut client, mut server) = duplex(4096);
        client.write_all(bytes).await.unwrap();
        let mut buf = BytesMut::new();
        let arrived = read_head(
            &mut server,
            &mut buf,
            Turn::First,
            LIMITS,
            &Unfinished::new(HEADS),
            &draining,
        )
        .await;
        (word(&arrived), buf)
    }

    fn word(arrived: &Arrived) -> &'static str {
        match arrived {
            Arrived::Head(_) => "head",
            Arrived::Http2 => "http2",
            Arrived::TooLarge => "too large",
            Arrived::Malformed => "malformed",
            Arrived::TooSlow => "too slow",
            Arrived::Crowded => "crowded",
            Arrived::Gone => "gone",
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_arrives_is_told_apart() {
        let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(64));
        for (bytes, expected) in [
            (&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..], "head"),
            (b"\r\n\r\nGET / HTTP/1.1\r\n\r\n", "head"),
            (PREFACE, "http2"),
            (b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", "malformed"),
            (long.as_bytes(), "too large"),
            (b"GET / HTTP/1.1\n\n", "malformed"),
            (b"\x16\x03\x01\x00", "malformed"),
            (b"GET / HT", "too slow"),
            (b"\r", "too slow"),
            (b"PRI * HTTP/2.0\r\n\r\nSM", "too slow"),
            (b"", "gone"),
        ] {
            assert_eq!(
                arrives(bytes).await.0,
                expected,
                "{:?}",
                bytes.escape_ascii().to_string()
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_dripped_head_is_cut_off_at_its_total_deadline() {
        let (_stop, draining) = watch::channel(false);
        let (mut client, mut server) = duplex(4096);
        let drip = tokio::spawn(async move {
            while client.write_all(b"a").await.is_ok() {
                sleep(Duration::from_secs(1)).await;
            }
        });
        let mut buf = BytesMut::new();
        let arrived = timeout(
            Duration::from_secs(11),
            read_head(
                &mut server,
                &mut buf,
                Turn::First,
                LIMITS,
                &Unfinished::new(HEADS),
                &draining,
            ),
        )
        .await;
        drip.abort();
        assert_eq!(word(&arrived.expect("within the deadline")), "too slow");
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_waits_for_a_request_ends_with_the_drain() {
        let (stop, draining) = watch::channel(false);
        let (_client, mut server) = duplex(4096);
        let waiting = tokio::spawn(async move {
            word(
                &read_head(
                    &mut server,
                    &mut BytesMut::new(),
                    Turn::Later,
                    LIMITS,
                    &Unfinished::new(HEADS),
                    &draining,
                )
                .await,
            )
        });
        tokio::task::yield_now().await;
        stop.send_replace(true);
        assert_eq!(waiting.await.unwrap(), "gone");
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_head_has_its_deadline_from_accept_and_a_later_one_from_its_first_byte() {
        for (turn, byte_after, ends_after, how) in [
            (Turn::First, 3600, 10, "gone"),
            (Turn::First, 9, 10, "too slow"),
            (Turn::Later, 3600, 600, "gone"),
            (Turn::Later, 500, 510, "too slow"),
        ] {
            let (_stop, draining) = watch::channel(false);
            let (mut client, mut server) = duplex(4096);
            let byte = tokio::spawn(async move {
                sleep(Duration::from_secs(byte_after)).await;
                let _ = client.write_all(b"G").await;
                std::future::pending::<()>().await;
            });
            let (heads, mut buf) = (Unfinished::new(HEADS), BytesMut::new());
            let mut arrives = Box::pin(read_head(
                &mut server,
                &mut buf,
                turn,
                LIMITS,
                &heads,
                &draining,
            ));
            let early = timeout(Duration::from_secs(ends_after - 1), &mut arrives).await;
            assert!(early.is_err(), "{how} before {ends_after} s");
            let arrived = timeout(Duration::from_secs(2), &mut arrives).await;
            assert_eq!(arrived.map(|a| word(&a)), Ok(how), "{ends_after} s");
            byte.abort();
        }
    }

    #[tokio::test]
    async fn a_head_in_parts_takes_no_more_than_its_share_and_a_whole_one_needs_none() {
        let limits = Limits {
            head_bytes: 65536,
            ..LIMITS
        };
        let (_stop, draining) = watch::channel(false);
        let heads = Unfinished::new(0);
        let long = "a".repeat(30_000);
        for (bytes, expected) in [
            ("GET / HTTP/1.1\r\n\r\n", "head"),
            ("GET / HTTP/1.1\r\n", "crowded"),
            (&*long, "crowded"),
        ] {
            let (mut client, mut server) = duplex(1 << 20);
            client.write_all(bytes.as_bytes()).await.unwrap();
            let mut buf = BytesMut::new();
            assert_eq!(
                word(
                    &read_head(
                        &mut server,
                        &mut buf,
                        Turn::First,
                        limits,
                        &heads,
                        &draining
                    )
                    .await
                ),
                expected
            );
            assert!(buf.capacity() <= HEAD + 2 * ROOM);
        }
        // 33 KB, which 64 KiB had room for, are kept as what they are.
        let heads = Unfinished::new(65536);
        let (mut client, mut server) = duplex(1 << 20);
        client
            .write_all(format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(33_000)).as_bytes())
            .await
            .unwrap();
        let mut buf = BytesMut::new();
        assert_eq!(
            word(
                &read_head(
                    &mut server,
                    &mut buf,
                    Turn::First,
                    limits,
                    &heads,
                    &draining
                )
                .await
            ),
            "head"
        );
        assert_eq!(buf.capacity(), buf.len());
    }
}
