//! Tests of chunk framing: what passes, what does not, and that pingora never sees the end of what
//! does not.

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsRawFd, RawFd},
    pin::Pin,
    sync::LazyLock,
    task::{Context, Poll},
};

use bytes::BytesMut;
use futures_util::FutureExt;
use pingora_core::protocols::http::ServerSession;
use pingora_error::ErrorType;
use proptest::prelude::*;
use regex::bytes::Regex;
use tokio::io::{AsyncRead, AsyncWrite};

use super::*;
use crate::listen::gather::Gather;

const HEAD: &[u8] = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// The body ended here.
    Ends(usize),
    /// So far it is sound.
    More,
    /// This byte is wrong.
    Wrong(usize),
}

/// The bytes, in these parts.
fn verdict(parts: &[&[u8]]) -> Verdict {
    let (mut chunks, mut seen) = (Chunks::none(), 0);
    chunks.begin();
    for part in parts {
        if let Some(at) = chunks.wrong(part) {
            return Verdict::Wrong(seen + at);
        }
        seen += part.len();
    }
    let all = parts.concat();
    if !chunks.outside() {
        return Verdict::More;
    }
    let ends = |n: &usize| {
        let mut chunks = Chunks::none();
        chunks.begin();
        chunks.wrong(&all[..*n]).is_none() && chunks.outside()
    };
    Verdict::Ends((0..=all.len()).find(ends).unwrap())
}

fn word(bytes: &[u8]) -> &'static str {
    match verdict(&[bytes]) {
        Verdict::Ends(n) if n == bytes.len() => "sound",
        Verdict::Ends(_) => "sound, and more behind it",
        Verdict::More => "unfinished",
        Verdict::Wrong(_) => "wrong",
    }
}

#[test]
fn what_the_grammar_allows_is_sound() {
    let long = format!(
        "1;{}\r\na\r\n0\r\n\r\n",
        "x".repeat(usize::from(EXTENSIONS) - 1)
    );
    for body in [
        "0\r\n\r\n",
        "3\r\nabc\r\n0\r\n\r\n",
        "000000000000000A\r\n0123456789\r\n00\r\n\r\n",
        "1\r\n\r\r\n1\r\n\n\r\n0\r\n\r\n",
        "3;a\r\nabc\r\n0;last\r\n\r\n",
        "3 ; a = b ; c=\"d; \\\"\te\"\r\nabc\r\n0\r\n\r\n",
        "3;a=\"ü\"\r\nabc\r\n0\r\n\r\n",
        // Blanks without an extension: some servers fill the line up. There is one way to read it.
        "3   \r\nabc\r\n0\t\r\n\r\n",
        "0\r\nA:\r\nX-Sum: a b\tü\r\n\r\n",
        &long,
    ] {
        assert_eq!(word(body.as_bytes()), "sound", "{body:?}");
    }
    assert_eq!(
        word(b"0\r\n\r\nGET / HTTP/1.1\n\0"),
        "sound, and more behind it"
    );
    assert_eq!(word(b"ffffffffffffffff\r\nabc"), "unfinished");
}

#[test]
fn what_could_be_read_in_two_ways_is_wrong() {
    let long = format!("1;{}", "x".repeat(usize::from(EXTENSIONS)));
    for body in [
        "\r\n",
        ";x\r\n",
        " \r\n",
        " 5\r\n",
        "x\r\n",
        "+3\r\n",
        "-3\r\n",
        "0x3\r\n",
        "3,\r\n",
        "3_0\r\n",
        "00000000000000003\r\n",
        "3\n",
        "3\r\r\n",
        "3\rabc",
        "3;\n",
        "3;a\nb\r\n",
        "3;a\rb\r\n",
        "3;a\0b\r\n",
        "3;a\x7fb\r\n",
        "3 3\r\n",
        "3 a\r\n",
        "3\x0b\r\n",
        "3\r\nabcd",
        "3\r\nabc\n",
        "3\r\nabc\r\r",
        "3\r\nabc0\r\n",
        "3\r\nabc\r\n\r\n",
        "0\r\n\n",
        "0\r\n\r\r",
        "0\r\nabc\r\n",
        "0\r\n: a\r\n",
        "0\r\nA : a\r\n",
        "0\r\n A: a\r\n",
        "0\r\nA: a\r\n b\r\n",
        "0\r\nA: a\nB: b\r\n",
        "0\r\nA: a\rB: b\r\n",
        "0\r\nA: a\0\r\n",
        "0\r\nGET / HTTP/1.1\r\n",
        &long,
    ] {
        assert_eq!(word(body.as_bytes()), "wrong", "{body:?}");
    }
}

#[test]
fn bytes_outside_of_a_chunked_body_are_nobodys_business() {
    let mut chunks = Chunks::none();
    let mut bytes = *b"\r\n;\0\xff";
    assert_eq!((chunks.judge(&mut bytes), &bytes), (5, b"\r\n;\0\xff"));
    assert!(chunks.outside());
}

static SIZE: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?-u)^([0-9A-Fa-f]{1,16})(?:[ \t]*|[ \t]*;[\t\x20-\x7e\x80-\xff]*)\r\n").unwrap()
});
static TRAILERS: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?-u)^(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*\r\n)*\r\n").unwrap()
});

/// The same rules once more, over all bytes at once. `None`: they are wrong, or not whole.
fn judged_at_once(bytes: &[u8]) -> Option<Verdict> {
    let mut at = 0;
    loop {
        let line = SIZE.captures(&bytes[at..])?;
        at += line[0].len();
        let size = usize::from_str_radix(std::str::from_utf8(&line[1]).unwrap(), 16).unwrap();
        if size == 0 {
            return Some(Verdict::Ends(at + TRAILERS.find(&bytes[at..])?.end()));
        }
        if bytes[at..].len() < size {
            return Some(Verdict::More);
        }
        at += size;
        if !bytes[at..].starts_with(b"\r\n") {
            return None;
        }
        at += 2;
    }
}

fn sound_body() -> impl Strategy<Value = Vec<u8>> {
    let extension = r#"([ \t]{0,2};[ \t]?[a-z]{1,3}([ \t]?=[ \t]?([a-z]{1,3}|"[a-z ;=]{0,4}(\\[ -~])?"))?){0,2}"#;
    let chunk = (
        proptest::collection::vec(any::<u8>(), 1..40),
        "0{0,3}",
        extension,
    )
        .prop_map(|(data, zeros, extension)| {
            let mut chunk = format!("{zeros}{:x}{extension}\r\n", data.len()).into_bytes();
            chunk.extend(data);
            chunk.extend(b"\r\n");
            chunk
        });
    let end = format!("0{{1,16}}{extension}\r\n([A-Za-z-]{{1,5}}:[ -~\t]{{0,8}}\r\n){{0,3}}\r\n");
    (
        proptest::collection::vec(chunk, 0..4),
        proptest::string::string_regex(&end).unwrap(),
    )
        .prop_map(|(chunks, end)| [chunks.concat(), end.into_bytes()].concat())
}

/// Sound ones, and such with some bytes changed.
fn any_body() -> impl Strategy<Value = Vec<u8>> {
    let byte = proptest::sample::select(b"\r\n\r\n;: 0a1\t\0\x7f\xff\"".to_vec());
    let changes = proptest::collection::vec((any::<proptest::sample::Index>(), byte, 0..3), 0..3);
    (sound_body(), changes).prop_map(|(mut body, changes)| {
        for (at, byte, how) in changes {
            let at = at.index(body.len());
            match how {
                0 => body[at] = byte,
                1 => body.insert(at, byte),
                _ if body.len() > 1 => drop(body.remove(at)),
                _ => {}
            }
        }
        body
    })
}

fn cut<'a>(bytes: &'a [u8], lengths: &[usize]) -> Vec<&'a [u8]> {
    let (mut rest, mut parts) = (bytes, Vec::new());
    for len in lengths {
        let (part, more) = rest.split_at((*len).min(rest.len()));
        parts.push(part);
        rest = more;
    }
    parts.push(rest);
    parts
}

proptest! {
    #[test]
    fn it_does_not_matter_how_the_bytes_arrive(body in any_body(), lengths: Vec<u8>) {
        let lengths: Vec<usize> = lengths.iter().map(|n| usize::from(n % 8)).collect();
        let whole = verdict(&[&body]);
        let single: Vec<&[u8]> = body.chunks(1).collect();
        prop_assert_eq!(&verdict(&cut(&body, &lengths)), &whole);
        prop_assert_eq!(&verdict(&single), &whole);
    }

    #[test]
    fn a_sound_body_passes_byte_for_byte(body in sound_body(), tail: Vec<u8>, lengths: Vec<u8>) {
        let lengths: Vec<usize> = lengths.iter().map(|n| usize::from(n % 8)).collect();
        prop_assert_eq!(verdict(&[&body]), Verdict::Ends(body.len()));
        let all = [body, tail].concat();
        let (mut chunks, mut handed) = (Chunks::none(), Vec::new());
        chunks.begin();
        for part in cut(&all, &lengths) {
            let mut part = part.to_vec();
            prop_assert_eq!(chunks.judge(&mut part), part.len());
            handed.extend(part);
        }
        prop_assert_eq!(handed, all);
    }

    #[test]
    fn the_verdict_is_that_of_the_grammar(body in any_body()) {
        let verdict = verdict(&[&body]);
        match judged_at_once(&body) {
            Some(expected) => prop_assert_eq!(verdict, expected),
            None => prop_assert!(!matches!(verdict, Verdict::Ends(_)), "{:?}", verdict),
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes: Vec<u8>) {
        let mut chunks = Chunks::none();
        chunks.begin();
        let mut handed = bytes.clone();
        prop_assert!(chunks.judge(&mut handed) <= bytes.len());
    }

    #[test]
    fn pingora_reads_a_sound_body_and_breaks_off_at_the_first_wrong_byte_of_another(body in any_body(), lengths: Vec<u8>, ahead in 0usize..20) {
        let lengths: Vec<usize> = lengths.iter().map(|n| 1 + usize::from(n % 8)).collect();
        let (bytes, expected) = match verdict(&[&body]) {
            Verdict::Ends(_) => (&body[..], "whole"),
            Verdict::More => (&body[..], "waits"),
            Verdict::Wrong(at) => (&body[..=at], "malformed"),
        };
        prop_assert_eq!(read_by_pingora(bytes, &lengths, ahead), expected);
    }
}

/// How pingora's reading ends. `ahead` bytes of the body were read with the head.
fn read_by_pingora(body: &[u8], lengths: &[usize], ahead: usize) -> &'static str {
    let (first, rest) = body.split_at(ahead.min(body.len()));
    let parts = cut(rest, lengths)
        .into_iter()
        .filter(|p| !p.is_empty())
        .map(<[u8]>::to_vec)
        .collect();
    let mut io = Gather::new(Script(parts));
    let mut read = BytesMut::from(&[HEAD, first].concat()[..]);
    io.expect_chunks(&mut read, HEAD.len());
    let mut session = ServerSession::new_http1(Box::new(io));
    session.set_read_timeout(None);
    session.set_pipelined_prefix(read);
    let reading = async {
        assert!(session.read_request().await.unwrap());
        loop {
            match session.read_request_body().await {
                Ok(Some(_)) => {}
                Ok(None) => return "whole",
                Err(e)
                    if matches!(
                        e.etype(),
                        ErrorType::ConnectionClosed | ErrorType::ReadError
                    ) =>
                {
                    return "lost";
                }
                Err(_) => return "malformed",
            }
        }
    };
    reading.now_or_never().unwrap_or("waits")
}

/// A client that sends these parts and then waits.
#[derive(Debug)]
struct Script(VecDeque<Vec<u8>>);

impl AsyncRead for Script {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(part) = self.0.pop_front() else {
            return Poll::Pending;
        };
        let (now, later) = part.split_at(part.len().min(buf.remaining()));
        buf.put_slice(now);
        if !later.is_empty() {
            self.0.push_front(later.to_vec());
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Script {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(buf.len()))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl AsRawFd for Script {
    fn as_raw_fd(&self) -> RawFd {
        -1
    }
}
