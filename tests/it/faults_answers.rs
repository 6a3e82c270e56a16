//! Connections that break at each phase, and answers that are wrong in length, encoding or size, at
//! both edges, over TLS and without.

use std::io::Write as _;

use crate::{
    faults::{Api, Case, Over, PROTOCOL, TIMEOUT, Token, Wire, at_issuers, at_vendors, case},
    faults_server::{Act, Broken, good, token},
    support::{
        raw::RawClient,
        sidecar::{PORTS, Process, open},
    },
};

/// Who closes says so: a request on a connection that ends at that moment is not sent again.
const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n";
const HANDSHAKE: Api = Api::Told(&["upstream_tls"]);

fn send(text: impl Into<Vec<u8>>) -> Act {
    Act::Send(text.into())
}

/// With so many bytes announced, and these sent.
fn sized(length: impl std::fmt::Display, body: &str) -> Act {
    send(format!("{HEAD}Content-Length: {length}\r\n\r\n{body}"))
}

fn chunked(body: &str) -> Act {
    send(format!("{HEAD}Transfer-Encoding: chunked\r\n\r\n{body}"))
}

fn both(name: &'static str, acts: Vec<Act>) -> Case {
    case(name, acts, PROTOCOL, Token::Retry)
}

/// The answer's head passes before it shows that the rest is wrong.
fn cut(name: &'static str, acts: Vec<Act>) -> Case {
    case(name, acts, Api::CutOff, Token::Retry)
}

fn hangs(name: &'static str, acts: Vec<Act>) -> Case {
    case(name, acts, TIMEOUT, Token::Retry)
}

/// T1, T2, V6: reset, closed, half-closed, silent, slow, at each phase.
fn phases() -> Vec<Case> {
    let part = || send(&HEAD[..30]);
    let body = || sized(90, &token(1)[..20]);
    // A reset may be seen by whoever still connects.
    let early = Api::Told(&["upstream_protocol", "upstream_unreachable"]);
    let handshake = |name, act| {
        case(name, vec![act], HANDSHAKE, Token::Retry)
            .at_accept()
            .over(Over::Tls)
    };
    let met = |c: Case| c.told(&["upstream_tls", "upstream_unreachable"]);
    vec![
        case("reset when accepted", vec![Act::Reset], early, Token::Retry)
            .at_accept()
            .over(Over::Clear),
        case("closed when accepted", vec![], early, Token::Retry)
            .at_accept()
            .over(Over::Clear),
        case(
            "half-closed when accepted",
            vec![Act::HalfClose, Act::Hang],
            early,
            Token::Retry,
        )
        .at_accept()
        .over(Over::Clear),
        hangs("never accepts a handshake", vec![Act::Hang])
            .at_accept()
            .over(Over::Tls),
        met(handshake("reset before the handshake", Act::Reset)),
        handshake("closed before the handshake", Act::Cut),
        handshake("plain HTTP on a TLS port", send(good("hi"))),
        handshake(
            "an alert instead of a handshake",
            send(&b"\x15\x03\x03\x00\x02\x02\x28"[..]),
        ),
        both("reset after the request", vec![Act::Reset]),
        both("closed after the request", vec![]),
        both("cut after the request", vec![Act::Cut]).over(Over::Tls),
        both(
            "half-closed after the request",
            vec![Act::HalfClose, Act::Hang],
        ),
        hangs("silent after the request", vec![Act::Hang]),
        both("reset in the head", vec![part(), Act::Reset]),
        both("closed in the head", vec![part()]),
        both(
            "half-closed in the head",
            vec![part(), Act::HalfClose, Act::Hang],
        ),
        hangs("silent in the head", vec![part(), Act::Hang]),
        cut("reset in the body", vec![body(), Act::Reset]),
        cut("closed in the body", vec![body()]),
        cut(
            "half-closed in the body",
            vec![body(), Act::HalfClose, Act::Hang],
        ),
        cut("silent in the body", vec![body(), Act::Hang]),
        case(
            "drips its head",
            vec![Act::Drip(
                format!("{HEAD}Content-Length: 2\r\n\r\nhi").into_bytes(),
            )],
            Api::Whole(200),
            Token::Retry,
        ),
        case(
            "drips its body",
            vec![sized(90, ""), Act::Drip(vec![b' '; 90])],
            Api::Whole(200),
            Token::Retry,
        ),
        both("an alert for an answer", vec![Act::Alert])
            .told(&["upstream_tls", "upstream_protocol"])
            .over(Over::Tls),
        cut("an alert in the body", vec![body(), Act::Alert]).over(Over::Tls),
        cut(
            "no TLS in the body",
            vec![body(), Act::Under(b"HTTP/1.1 500\r\n\r\n")],
        )
        .over(Over::Tls),
        cut(
            "closed in the body without close_notify",
            vec![body(), Act::Cut],
        )
        .over(Over::Tls),
        cut(
            "cut where the end of the connection is the end",
            vec![send(format!("{HEAD}\r\n{}", token(1))), Act::Cut],
        )
        .over(Over::Tls),
        case(
            "ended by close_notify",
            vec![send(format!("{HEAD}\r\n{}", token(1)))],
            Api::Whole(200),
            Token::Ok,
        ),
        case(
            "whole and cut",
            vec![sized(token(1).len(), &token(1)), Act::Cut],
            Api::Whole(200),
            Token::Ok,
        ),
    ]
}

/// V7, T3: lengths and framings that cannot be, or can be read in two ways.
fn lengths() -> Vec<Case> {
    let body = token(1);
    let n = body.len();
    let two = |a: &str, b: &str| {
        send(format!(
            "{HEAD}Content-Length: {a}\r\nContent-Length: {b}\r\n\r\n{body}"
        ))
    };
    vec![
        cut("too long a length", vec![sized(n + 5, &body)]),
        cut(
            "too long a length, and silence",
            vec![sized(n + 5, &body), Act::Hang],
        ),
        case(
            "more than its length",
            vec![sized(n, &format!("{body}HTTP/1.1 200 OK\r\n\r\n"))],
            Api::Whole(200),
            Token::Ok,
        ),
        both("two lengths", vec![two(&n.to_string(), "2")]),
        both("a negative length", vec![sized(-5, &body)]),
        both("a length with a sign", vec![sized(format!("+{n}"), &body)]),
        both("a hexadecimal length", vec![sized("0x10", &body)]),
        both(
            "two lengths in one field",
            vec![sized(format!("{n}, 2"), &body)],
        ),
        both(
            "a length beyond 64 bits",
            vec![sized("18446744073709551616", &body)],
        ),
        both("no length in its field", vec![sized("", &body)]),
        case(
            "a length beside chunks",
            vec![send(format!(
                "{HEAD}Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n{n:x}\r\n{body}\r\n0\r\n\r\n"
            ))],
            Api::Whole(200),
            Token::Ok,
        ),
        cut(
            "chunks without a last one",
            vec![chunked(&format!("{n:x}\r\n{body}\r\n"))],
        ),
        cut(
            "half a chunk",
            vec![chunked(&format!("{n:x}\r\n{}", &body[..20]))],
        ),
        cut(
            "a last chunk without its end",
            vec![chunked(&format!("{n:x}\r\n{body}\r\n0\r\n"))],
        ),
        cut(
            "a chunk longer than it says",
            vec![chunked(&format!("3\r\n{body}\r\n0\r\n\r\n"))],
        ),
        cut(
            "a chunk of no size",
            vec![chunked(&format!("zz\r\n{body}\r\n0\r\n\r\n"))],
        ),
        cut(
            "a negative chunk",
            vec![chunked(&format!("-1\r\n{body}\r\n0\r\n\r\n"))],
        ),
        cut(
            "a chunk beyond 64 bits",
            vec![chunked(&format!(
                "ffffffffffffffffff\r\n{body}\r\n0\r\n\r\n"
            ))],
        ),
    ]
}

/// T3, V8: what is no HTTP, encodings that are none, and floods.
fn encodings() -> Vec<Case> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(token(1).as_bytes()).unwrap();
    let mut gzip = gzip.finish().unwrap();
    gzip.truncate(gzip.len() - 12);
    let encoded = |kind: &str, body: &[u8]| {
        let mut all = format!(
            "{HEAD}Content-Encoding: {kind}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        all.extend_from_slice(body);
        send(all)
    };
    let line = |line: &str| send(format!("{line}\r\nContent-Length: 2\r\n\r\nhi"));
    let early = |n: usize| {
        send(
            "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".repeat(n)
                + &format!(
                    "{HEAD}Content-Length: {}\r\n\r\n{}",
                    token(1).len(),
                    token(1)
                ),
        )
    };
    vec![
        both(
            "no HTTP at all",
            vec![send("220 mail.acme.test ESMTP\r\n\r\n")],
        ),
        both("no version", vec![line("200 OK")]),
        both("no number for a status", vec![line("HTTP/1.1 abc OK")]),
        both("a status of two digits", vec![line("HTTP/1.1 20 OK")]),
        both("an HTTP/2 answer in text", vec![line("HTTP/2 200 OK")]),
        both(
            "NUL in the head",
            vec![line("HTTP/1.1 200 OK\r\nX-A: a\0b")],
        ),
        both(
            "a field without a colon",
            vec![line("HTTP/1.1 200 OK\r\nno colon here")],
        ),
        case(
            "a switch of protocols that nobody wanted",
            vec![line(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade",
            )],
            PROTOCOL,
            Token::Config,
        ),
        case(
            "gzip that is none",
            vec![encoded("gzip", token(1).as_bytes())],
            Api::Whole(200),
            Token::Retry,
        ),
        case(
            "half of a gzip",
            vec![encoded("gzip", &gzip)],
            Api::Whole(200),
            Token::Retry,
        ),
        case(
            "an encoding nobody asked for",
            vec![encoded("br", b"\x0b\x02\x80")],
            Api::Whole(200),
            Token::Retry,
        ),
        case(
            "10 MiB",
            vec![sized(10 << 20, &"x".repeat(10 << 20))],
            Api::Whole(200),
            Token::Retry,
        ),
        case(
            "a few interim answers",
            vec![early(5)],
            Api::Whole(200),
            Token::Ok,
        ),
        both(
            "interim answers without end",
            vec![Act::Flood(
                b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".to_vec(),
            )],
        ),
        both(
            "go on without end",
            vec![Act::Flood(b"HTTP/1.1 100 Continue\r\n\r\n".to_vec())],
        ),
        both(
            "10,000 fields",
            vec![line(&format!(
                "HTTP/1.1 200 OK{}",
                "\r\nX-A: b".repeat(10_000)
            ))],
        ),
        both(
            "a field of 2 MiB",
            vec![line(&format!(
                "HTTP/1.1 200 OK\r\nX-A: {}",
                "a".repeat(2 << 20)
            ))],
        ),
        both(
            "a field without end",
            vec![send("HTTP/1.1 200 OK\r\nX-A: "), Act::Flood(b"a".to_vec())],
        ),
        both(
            "fields without end",
            vec![
                send("HTTP/1.1 200 OK\r\n"),
                Act::Flood(b"X-A: b\r\n".to_vec()),
            ],
        ),
        both(
            "a status line without end",
            vec![send("HTTP/1.1 200 "), Act::Flood(b"O".to_vec())],
        ),
        cut(
            "chunk extensions without end",
            vec![chunked("1;"), Act::Flood(b"a".to_vec())],
        ),
        cut(
            "trailers without end",
            vec![
                chunked("1\r\n{\r\n0\r\n"),
                Act::Flood(b"X-A: b\r\n".to_vec()),
            ],
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn v6_v7_a_vendor_that_breaks_at_any_phase_is_told_in_our_words_and_forgotten() {
    at_vendors(phases(), Wire::Clear).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn v6_v7_a_vendor_that_breaks_at_any_phase_over_tls_is_told_in_our_words_and_forgotten() {
    at_vendors(phases(), Wire::Tls).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn v7_lengths_of_a_vendor_that_cannot_be_never_make_an_answer_look_whole() {
    at_vendors(lengths(), Wire::Clear).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn v7_lengths_of_a_vendor_over_tls_that_cannot_be_never_make_an_answer_look_whole() {
    at_vendors(lengths(), Wire::Tls).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn v8_floods_and_nonsense_of_a_vendor_end_soon() {
    at_vendors(encodings(), Wire::Clear).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn v8_floods_and_nonsense_of_a_vendor_over_tls_end_soon() {
    at_vendors(encodings(), Wire::Tls).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn v8_what_a_vendor_sends_without_end_is_never_held() {
    let vendor = Broken::start(None).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("c.toml");
    std::fs::write(&file, format!("{PORTS}{}", open("acme", &vendor.url()))).unwrap();
    let process = Process::run(&file).await;
    let ask = || {
        RawClient::ask(
            process.proxy,
            b"GET /acme/x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        )
    };
    for _ in 0..20 {
        assert_eq!(ask().await.status, 200);
    }
    let floods: Vec<_> = encodings()
        .into_iter()
        .filter(|case| matches!(case.fault.acts.last(), Some(Act::Flood(_))))
        .collect();
    assert!(floods.len() >= 7, "{}", floods.len());
    // pingora reads heads of up to 1 MiB, into buffers that double: each worker's memory holds a
    // set of them once, however many floods there are. Held, more than a hundred floods of up to a
    // MiB would need more than twice as much as is allowed here.
    let most = process.kib("VmRSS") + 48 * 1024;
    for _ in 0..16 {
        for case in &floods {
            vendor.breaks(Some(case.fault.clone())).await;
            ask().await;
            assert!(
                process.kib("VmHWM") < most,
                "{}: {} of {most} KiB",
                case.name,
                process.kib("VmHWM")
            );
        }
    }
    vendor.breaks(None).await;
    assert_eq!(ask().await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn t1_t2_an_issuer_that_breaks_at_any_phase_is_asked_again_in_bounds() {
    at_issuers(phases(), Wire::Clear).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t1_t2_an_issuer_that_breaks_at_any_phase_over_tls_is_asked_again_in_bounds() {
    at_issuers(phases(), Wire::Tls).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t3_lengths_of_an_issuer_that_cannot_be_make_no_token() {
    at_issuers(lengths(), Wire::Clear).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t3_lengths_of_an_issuer_over_tls_that_cannot_be_make_no_token() {
    at_issuers(lengths(), Wire::Tls).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t3_floods_and_nonsense_of_an_issuer_end_soon() {
    at_issuers(encodings(), Wire::Clear).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t3_floods_and_nonsense_of_an_issuer_over_tls_end_soon() {
    at_issuers(encodings(), Wire::Tls).await;
}
