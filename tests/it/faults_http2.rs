//! HTTP/2 that breaks: GOAWAY, RST_STREAM, connections that end, floods of frames and fields,
//! windows that never open; at both edges.

use std::{
    io,
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
};

use bytes::Bytes;
use h2::{Reason, RecvStream, server::SendResponse};
use http::{Request, Response};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::server::TlsStream;

use crate::{
    faults::{Api, Case, PROTOCOL, TIMEOUT, Token, Wire, World, at_issuers, at_vendors, case},
    faults_server::{Act, Fault, token},
};

#[derive(Clone, Debug)]
pub enum Frames {
    /// RST_STREAM instead of an answer.
    Resets(Reason),
    ResetsAfterHead(Reason),
    ResetsInBody(Reason),
    /// GOAWAY with every stream lost.
    GoesAway(Reason),
    /// GOAWAY, and the streams that are open are served.
    Retires,
    /// The connection ends.
    Ends,
    EndsInBody,
    Hangs,
    HangsInBody,
    /// An answer with so many fields of so many bytes.
    Fields(usize, usize),
    /// Raw frames behind the first request, once.
    Raw(Vec<u8>),
    /// The same without end.
    Flood(Vec<u8>),
    /// Nothing of a request's body is taken.
    WindowZero,
    /// One stream at a time.
    OneStream,
}

/// One connection; without `frames` all is well.
pub async fn serve(
    tls: TlsStream<TcpStream>,
    frames: Option<Frames>,
    requests: &AtomicUsize,
) -> io::Result<()> {
    match frames {
        Some(Frames::Raw(bytes)) => raw(tls, bytes, false, requests).await,
        Some(Frames::Flood(bytes)) => raw(tls, bytes, true, requests).await,
        frames => streams(tls, frames, requests)
            .await
            .map_err(io::Error::other),
    }
}

async fn streams(
    tls: TlsStream<TcpStream>,
    frames: Option<Frames>,
    requests: &AtomicUsize,
) -> Result<(), h2::Error> {
    let mut builder = h2::server::Builder::new();
    match frames {
        Some(Frames::WindowZero) => _ = builder.initial_window_size(0),
        Some(Frames::OneStream) => _ = builder.max_concurrent_streams(1),
        _ => {}
    }
    let mut connection = builder.handshake::<_, Bytes>(tls).await?;
    let mut served = tokio::task::JoinSet::new();
    while let Some(next) = connection.accept().await {
        let (request, respond) = next?;
        let n = requests.fetch_add(1, SeqCst);
        match &frames {
            Some(Frames::GoesAway(reason)) => {
                connection.abrupt_shutdown(*reason);
                continue;
            }
            Some(Frames::Retires) => connection.graceful_shutdown(),
            Some(Frames::Ends) => return Ok(()),
            _ => {}
        }
        let ends = matches!(frames, Some(Frames::EndsInBody));
        served.spawn(stream(request, respond, frames.clone(), n));
        if ends {
            // What was written goes out, then the connection ends.
            let _ =
                tokio::time::timeout(std::time::Duration::from_millis(200), connection.accept())
                    .await;
            return Ok(());
        }
    }
    Ok(())
}

async fn stream(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    frames: Option<Frames>,
    n: usize,
) -> Result<(), h2::Error> {
    let path = request.uri().path().to_owned();
    let mut body = request.into_body();
    if !matches!(frames, Some(Frames::WindowZero)) {
        while let Some(part) = body.data().await {
            let _ = body.flow_control().release_capacity(part?.len());
        }
    }
    let answer = if path == "/token" {
        token(n)
    } else {
        "hi".to_owned()
    };
    let mut head = Response::builder().header("content-type", "application/json");
    match &frames {
        Some(Frames::Resets(reason)) => {
            respond.send_reset(*reason);
            return Ok(());
        }
        Some(Frames::Hangs | Frames::WindowZero) => return std::future::pending().await,
        Some(Frames::Fields(count, size)) => {
            for i in 0..*count {
                head = head.header(format!("x-{i}"), "a".repeat(*size));
            }
        }
        _ => {}
    }
    let mut send = respond.send_response(head.body(()).unwrap(), false)?;
    match &frames {
        Some(Frames::ResetsAfterHead(reason)) => {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            send.send_reset(*reason);
        }
        Some(Frames::ResetsInBody(reason)) => {
            send.send_data(Bytes::from(answer[..1].to_owned()), false)?;
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            send.send_reset(*reason);
        }
        Some(Frames::HangsInBody | Frames::EndsInBody) => {
            send.send_data(Bytes::from(answer[..1].to_owned()), false)?;
            return std::future::pending().await;
        }
        _ => send.send_data(Bytes::from(answer), true)?,
    }
    Ok(())
}

/// Frames of our own make: SETTINGS, then, when a request has begun, these.
async fn raw(
    mut tls: TlsStream<TcpStream>,
    bytes: Vec<u8>,
    endless: bool,
    requests: &AtomicUsize,
) -> io::Result<()> {
    tls.write_all(&frame(4, 0, 0, &[])).await?;
    tls.flush().await?;
    let mut seen = Vec::new();
    // The preface, then frames up to HEADERS.
    loop {
        if tls.read_buf(&mut seen).await? == 0 {
            return Ok(());
        }
        let mut rest = seen.get(24..).unwrap_or_default();
        while let [a, b, c, kind, ..] = *rest {
            if kind == 1 {
                requests.fetch_add(1, SeqCst);
                let (mut far, mut near) = tokio::io::split(tls);
                // What comes is read, or the other side would stop at a full pipe.
                let sink = tokio::spawn(async move {
                    while far.read(&mut [0; 4096]).await.is_ok_and(|n| n > 0) {}
                });
                let many = if endless {
                    bytes.repeat((64 << 10) / bytes.len())
                } else {
                    bytes
                };
                let mut done = near.write_all(&many).await;
                done = done.and(near.flush().await);
                while endless && done.is_ok() {
                    done = near.write_all(&many).await;
                }
                let _ = sink.await;
                return done;
            }
            rest = rest
                .get(9 + usize::from(a) * 65_536 + usize::from(b) * 256 + usize::from(c)..)
                .unwrap_or_default();
        }
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

fn cases() -> Vec<Case> {
    let one = |name, frames, api, token| case(name, vec![Act::Http2(frames)], api, token);
    let told = |name, frames| one(name, frames, PROTOCOL, Token::Retry);
    // For a moment HTTP/1.1 is tried, which this server does not speak.
    let no_http2 = |name, frames| told(name, frames).told(&["upstream_protocol", "upstream_tls"]);
    let cut = |name, frames| one(name, frames, Api::CutOff, Token::Retry);
    let refused = |name, frames| Case {
        tries: 8,
        ..told(name, frames)
    };
    vec![
        refused("REFUSED_STREAM", Frames::Resets(Reason::REFUSED_STREAM)),
        told(
            "RST_STREAM for an internal error",
            Frames::Resets(Reason::INTERNAL_ERROR),
        ),
        told("RST_STREAM, cancelled", Frames::Resets(Reason::CANCEL)),
        told(
            "RST_STREAM, calm down",
            Frames::Resets(Reason::ENHANCE_YOUR_CALM),
        ),
        told(
            "RST_STREAM without an error",
            Frames::Resets(Reason::NO_ERROR),
        ),
        cut(
            "RST_STREAM after the head",
            Frames::ResetsAfterHead(Reason::INTERNAL_ERROR),
        ),
        cut(
            "RST_STREAM in the body",
            Frames::ResetsInBody(Reason::CANCEL),
        ),
        cut(
            "RST_STREAM without an error in the body",
            Frames::ResetsInBody(Reason::NO_ERROR),
        ),
        told(
            "GOAWAY for an internal error",
            Frames::GoesAway(Reason::INTERNAL_ERROR),
        ),
        told(
            "GOAWAY, calm down",
            Frames::GoesAway(Reason::ENHANCE_YOUR_CALM),
        ),
        one(
            "GOAWAY and served",
            Frames::Retires,
            Api::Whole(200),
            Token::Ok,
        ),
        told("the connection ends", Frames::Ends),
        cut("the connection ends in the body", Frames::EndsInBody),
        one("silent", Frames::Hangs, TIMEOUT, Token::Retry),
        cut("silent in the body", Frames::HangsInBody),
        one(
            "one stream at a time",
            Frames::OneStream,
            Api::Whole(200),
            Token::Ok,
        ),
        told("10,000 fields", Frames::Fields(10_000, 10)),
        // Slow to decode where the machine is busy.
        told("a field of 1 MiB", Frames::Fields(1, 1 << 20))
            .told(&["upstream_protocol", "upstream_timeout"]),
        told(
            "no frames",
            Frames::Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi".to_vec()),
        ),
        told(
            "a frame that is too large",
            Frames::Raw(frame(0, 0, 1, &[0; 70_000])),
        ),
        no_http2("DATA before HEADERS", Frames::Raw(frame(0, 1, 1, b"hi"))),
        no_http2(
            "HEADERS that do not decode",
            Frames::Raw(frame(1, 5, 1, &[0xff; 40])),
        ),
        no_http2(
            "a promise that nobody wanted",
            Frames::Raw(frame(5, 4, 1, &[0, 0, 0, 2, 0x82])),
        ),
        no_http2(
            "RST_STREAM for a stream that is not open",
            Frames::Raw(frame(3, 0, 99, &[0, 0, 0, 1])),
        ),
        told(
            "a window beyond its bounds",
            Frames::Raw(frame(8, 0, 0, &[0x7f, 0xff, 0xff, 0xff])),
        ),
        no_http2("CONTINUATION without end", {
            // HEADERS without END_HEADERS come once: whatever follows is a CONTINUATION of the
            // second.
            Frames::Flood(
                [
                    frame(1, 0, 1, &[0x88]),
                    frame(9, 0, 1, &[0x40, 1, b'a', 1, b'b'].repeat(100)),
                ]
                .concat(),
            )
        }),
    ]
}

/// Frames that are legal and say nothing, without end: the caller is let go in time.
fn storms() -> Vec<Case> {
    let one = |name, kind, payload: &[u8]| {
        let frames = Frames::Flood(frame(kind, 0, 0, payload));
        case(
            name,
            vec![Act::Http2(frames)],
            Api::Told(&["upstream_timeout", "upstream_protocol"]),
            Token::Retry,
        )
    };
    vec![
        one("PING without end", 6, &[0; 8]),
        one("SETTINGS without end", 4, &[]),
        one("unknown frames without end", 0xee, b"hello"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn v9_a_vendor_whose_http_2_breaks_is_told_in_our_words_and_forgotten() {
    at_vendors(cases(), Wire::Http2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn v9_storms_of_frames_from_a_vendor_end_soon() {
    at_vendors(storms(), Wire::Http2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t1_an_issuer_whose_http_2_breaks_is_asked_again_in_bounds() {
    at_issuers(cases(), Wire::Http2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t2_storms_of_frames_from_an_issuer_end_soon() {
    at_issuers(storms(), Wire::Http2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn v9_a_window_that_never_opens_holds_no_upload_for_ever() {
    let world = World::of_vendors(1, Wire::Http2).await;
    world.edges[0]
        .breaks(Some(Fault {
            at_accept: false,
            acts: vec![Act::Http2(Frames::WindowZero)],
        }))
        .await;
    let body = vec![b'b'; 200_000];
    let answer = world
        .sidecar
        .client
        .post(world.sidecar.url("/u0/x"))
        .body(body)
        .send()
        .await
        .unwrap();
    let (status, problem) = (answer.status().as_u16(), answer.text().await.unwrap());
    assert!(
        status == 504 && problem.contains("upstream_timeout"),
        "{status} {problem}"
    );
    world.nothing_left().await;
}
