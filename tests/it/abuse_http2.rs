//! A13, R31: HTTP/2 written by hand. What is malformed ends its stream or connection, a flood ends
//! its own connection, and others are still served.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::support::{
    readings::{Parser, Recorder},
    sidecar::{Process, Sidecar},
};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const PATIENCE: Duration = Duration::from_secs(20);
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut all = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    all.extend([kind, flags]);
    all.extend(stream.to_be_bytes());
    all.extend_from_slice(payload);
    all
}

/// Literal fields without indexing and without Huffman (RFC 7541 6.2.2): any bytes at all.
fn block(fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut all = Vec::new();
    for (name, value) in fields {
        all.push(0);
        for text in [name, value] {
            let n = u8::try_from(text.len()).unwrap();
            assert!(n < 127);
            all.push(n);
            all.extend_from_slice(text);
        }
    }
    all
}

fn request(more: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut fields: Vec<(&[u8], &[u8])> = vec![
        (b":method", b"GET"),
        (b":scheme", b"http"),
        (b":path", b"/acme/x"),
        (b":authority", b"127.0.0.1"),
    ];
    for (name, value) in more {
        match fields
            .iter_mut()
            .find(|(n, _)| n == name && name.starts_with(b":"))
        {
            Some(field) => field.1 = value,
            None => fields.push((name, value)),
        }
    }
    block(&fields)
}

/// What became of a stream.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// It was answered; the status if it stands there in a form this client reads.
    Answered,
    Reset,
    /// GOAWAY, or the connection ended.
    Gone,
}

struct H2(TcpStream);

impl H2 {
    async fn connect(addr: SocketAddr) -> Self {
        let mut tcp = TcpStream::connect(addr).await.unwrap();
        tcp.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat())
            .await
            .unwrap();
        Self(tcp)
    }

    async fn write(&mut self, bytes: &[u8]) -> bool {
        self.0.write_all(bytes).await.is_ok()
    }

    /// Kind, flags, stream, payload; none at the end.
    async fn next(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        let mut head = [0; 9];
        let read = timeout(PATIENCE, self.0.read_exact(&mut head))
            .await
            .expect("a frame or an end in time");
        read.ok()?;
        let mut payload =
            vec![0; usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2])];
        self.0.read_exact(&mut payload).await.ok()?;
        Some((
            head[3],
            head[4],
            u32::from_be_bytes([head[5] & 127, head[6], head[7], head[8]]),
            payload,
        ))
    }

    async fn end(&mut self, stream: u32) -> End {
        loop {
            match self.next().await {
                None | Some((GOAWAY, ..)) => return End::Gone,
                Some((RST, _, s, _)) if s == stream => return End::Reset,
                Some((_, flags, s, _)) if s == stream && flags & END_STREAM != 0 => {
                    return End::Answered;
                }
                Some(_) => {}
            }
        }
    }

    async fn until_gone(&mut self) {
        while !matches!(self.next().await, None | Some((GOAWAY, ..))) {}
    }
}

async fn before(vendor: &Recorder, more: &str) -> Sidecar {
    let text = format!(
        "[proxy]\nlisten = [\"127.0.0.1:0\"]\n{more}\n[admin]\nlisten = \"127.0.0.1:0\"\n[upstreams.acme]\nurl = \"{}\"\ncredential = \"none\"\n",
        vendor.url()
    );
    Sidecar::with_files(&text, &[]).await
}

/// On a connection of its own.
async fn ask(addr: SocketAddr, fields: &[(&[u8], &[u8])]) -> End {
    let mut h2 = H2::connect(addr).await;
    h2.write(&frame(
        HEADERS,
        END_STREAM | END_HEADERS,
        1,
        &request(fields),
    ))
    .await;
    h2.end(1).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a13_r31_malformed_fields_end_their_stream_and_nothing_reaches_the_vendor() {
    let vendor = Recorder::start(Parser::Strict).await;
    let sidecar = before(&vendor, "").await;
    let bad: [&[(&[u8], &[u8])]; 22] = [
        &[(b"X-Upper", b"1")],
        &[(b"connection", b"close")],
        &[(b"keep-alive", b"1")],
        &[(b"proxy-connection", b"close")],
        &[(b"transfer-encoding", b"chunked")],
        &[(b"upgrade", b"h2c")],
        &[(b"te", b"gzip")],
        &[(b"x", b"a\r\nevil: 1")],
        &[(b"x", b"a\nevil: 1")],
        &[(b"x", b"a\0b")],
        &[(b"x\r\nevil", b"1")],
        &[(b"x y", b"1")],
        &[(b"x:", b"1")],
        &[(b"", b"1")],
        &[(b":unknown", b"1")],
        &[(b":path", b"/acme/x HTTP/1.1\r\nevil: 1")],
        &[(b":path", b"")],
        &[(b":method", b"GET /evil")],
        &[(b":authority", b"127.0.0.1"), (b"host", b"evil.test")],
        &[(b":authority", b"u@127.0.0.1")],
        &[(b"content-length", b"5")],
        &[(b"content-length", b"0"), (b"content-length", b"5")],
    ];
    for fields in bad {
        let end = ask(sidecar.addr(), fields).await;
        if end == End::Answered {
            // Then it was a refusal of ours, which the vendor's silence proves below.
            continue;
        }
        assert!(matches!(end, End::Reset | End::Gone), "{fields:?}: {end:?}");
    }
    assert_eq!(
        ask(sidecar.addr(), &[(b"x-fine", b"1")]).await,
        End::Answered
    );
    let seen = vendor.requests();
    assert_eq!(seen.len(), 1, "{seen:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a9_over_http2_a_length_that_lies_is_never_a_whole_request() {
    let vendor = Recorder::start(Parser::LaxLength).await;
    let sidecar = before(&vendor, "").await;
    for (length, body) in [
        (&b"3"[..], &b"abcGET /smuggled HTTP/1.1\r\n\r\n"[..]),
        (b"0", b"GET /smuggled HTTP/1.1\r\n\r\n"),
        (b"50", b"abc"),
    ] {
        let mut h2 = H2::connect(sidecar.addr()).await;
        let head = request(&[(b":method", b"POST"), (b"content-length", length)]);
        // At once: a head that says "0" is a whole request until something comes behind it.
        let frames = [
            frame(HEADERS, END_HEADERS, 1, &head),
            frame(DATA, END_STREAM, 1, body),
        ];
        h2.write(&frames.concat()).await;
        assert_ne!(h2.end(1).await, End::Answered, "{length:?}");
    }
    assert_eq!(ask(sidecar.addr(), &[]).await, End::Answered);
    assert!(
        vendor
            .requests()
            .iter()
            .all(|r| !r.line.contains("smuggled")
                && (r.line.starts_with("GET") || r.body.len() <= 3))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a10_a13_a_header_block_and_a_handshake_have_one_deadline_and_idle_connections_another() {
    let vendor = Recorder::start(Parser::Strict).await;
    let sidecar = before(
        &vendor,
        "limits = { header_timeout = \"300ms\", idle = \"2s\" }",
    )
    .await;
    let open = frame(HEADERS, END_STREAM, 1, &request(&[])[..20]);
    let settings = frame(SETTINGS, 0, 0, &[]);
    // The preface alone · half a SETTINGS · HEADERS without an end · half a HEADERS · half a frame
    // header.
    let stalled: [Vec<u8>; 5] = [
        PREFACE.to_vec(),
        [PREFACE, &frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 9])[..12]].concat(),
        [PREFACE, &settings, &open].concat(),
        [PREFACE, &settings, &open[..15]].concat(),
        [PREFACE, &settings, &open[..5]].concat(),
    ];
    let mut quiet = H2::connect(sidecar.addr()).await;
    for bytes in stalled {
        let mut h2 = H2(TcpStream::connect(sidecar.addr()).await.unwrap());
        h2.write(&bytes).await;
        timeout(Duration::from_millis(1700), h2.until_gone())
            .await
            .expect("closed by header_timeout, before idle could");
    }
    // CONTINUATION that drips is the same block.
    let mut drip = H2::connect(sidecar.addr()).await;
    drip.write(&open).await;
    let dripping = async {
        let mut n = 0;
        while n < 10_000 && drip.write(&frame(CONTINUATION, 0, 1, b"")).await {
            n += 1;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(3), dripping)
        .await
        .expect("a dripped block is cut off");
    // Whoever asks nothing is still there, and goes after `idle`.
    quiet
        .write(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &request(&[])))
        .await;
    assert_eq!(quiet.end(1).await, End::Answered);
    timeout(Duration::from_secs(6), quiet.until_gone())
        .await
        .expect("closed after idle");
}

#[tokio::test(flavor = "multi_thread")]
async fn a13_floods_end_their_own_connection_in_bounded_memory_while_others_are_served() {
    let vendor = Recorder::start(Parser::Strict).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("c.toml");
    let text = format!(
        "[proxy]\nlisten = [\"127.0.0.1:0\"]\n[admin]\nlisten = \"127.0.0.1:0\"\n[upstreams.acme]\nurl = \"{}\"\ncredential = \"none\"\n",
        vendor.url()
    );
    std::fs::write(&file, text).unwrap();
    let process = Process::run(&file).await;
    assert_eq!(ask(process.proxy, &[]).await, End::Answered);
    let before = process.kib("VmRSS");

    let big = [&[0, 1, b'x', 126][..], &[b'v'; 126]].concat();
    let continuation = [
        frame(HEADERS, END_STREAM, 1, &request(&[])),
        frame(CONTINUATION, 0, 1, &big.repeat(100)).repeat(2_000),
    ]
    .concat();
    // HPACK bomb: one entry of the dynamic table, named again and again.
    let mut bomb = request(&[]);
    bomb.extend([0x40, 1, b'x', 126]);
    bomb.extend([b'v'; 126]);
    bomb.extend(vec![0xbe; 16_000]);
    let reset = |n: u32| {
        [
            frame(HEADERS, END_STREAM | END_HEADERS, n, &request(&[])),
            frame(RST, 0, n, &[0, 0, 0, 8]),
        ]
        .concat()
    };
    let rapid = (0..20_000)
        .flat_map(|n| reset(2 * n + 1))
        .collect::<Vec<_>>();
    // MadeYouReset: the server is made to reset streams by WINDOW_UPDATE of 0.
    let made = |n: u32| {
        [
            frame(HEADERS, END_HEADERS, n, &request(&[(b":method", b"POST")])),
            frame(WINDOW, 0, n, &[0; 4]),
        ]
        .concat()
    };
    let made: Vec<u8> = (0..20_000).flat_map(|n| made(2 * n + 1)).collect();
    let floods: [(&str, Vec<u8>); 8] = [
        ("CONTINUATION", continuation),
        (
            "empty CONTINUATION",
            [
                frame(HEADERS, END_STREAM, 1, &request(&[])),
                frame(CONTINUATION, 0, 1, b"").repeat(100_000),
            ]
            .concat(),
        ),
        (
            "HPACK bomb",
            (0..200)
                .flat_map(|n| frame(HEADERS, END_STREAM | END_HEADERS, 2 * n + 1, &bomb))
                .collect(),
        ),
        ("rapid reset", rapid),
        ("made you reset", made),
        (
            "SETTINGS",
            frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 9]).repeat(100_000),
        ),
        ("PING", frame(PING, 0, 0, &[7; 8]).repeat(100_000)),
        (
            "empty DATA",
            [
                frame(HEADERS, END_HEADERS, 1, &request(&[(b":method", b"POST")])),
                frame(DATA, 0, 1, b"").repeat(100_000),
            ]
            .concat(),
        ),
    ];
    for (name, bytes) in floods {
        let tcp = TcpStream::connect(process.proxy).await.unwrap();
        let (mut read, mut write) = tcp.into_split();
        let flood = tokio::spawn(async move {
            let all = [PREFACE, &frame(SETTINGS, 0, 0, &[])[..], &bytes].concat();
            let _ = write.write_all(&all).await;
            write
        });
        assert_eq!(
            ask(process.proxy, &[]).await,
            End::Answered,
            "others, during {name}"
        );
        // An end of the connection, or (the bomb) a refusal of every stream.
        let mut sink = vec![0; 1 << 16];
        let gone = timeout(Duration::from_secs(10), async {
            while read.read(&mut sink).await.is_ok_and(|n| n > 0) {}
        })
        .await;
        assert!(gone.is_ok() || name == "HPACK bomb", "{name} goes on");
        flood.abort();
        let now = process.kib("VmRSS");
        assert!(
            now < before + 64 * 1024,
            "{name}: from {before} to {now} KiB"
        );
    }
    assert_eq!(ask(process.proxy, &[]).await, End::Answered);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_reset_before_its_refusal_is_no_failure_of_a_vendor() {
    let vendor = Recorder::start(Parser::Strict).await;
    let sidecar = before(&vendor, "").await;
    let mut h2 = H2::connect(sidecar.addr()).await;
    let nope = request(&[(b":path", b"/nope")]);
    for n in 0..75 {
        let n = 2 * n + 1;
        let all = [
            frame(HEADERS, END_STREAM | END_HEADERS, n, &nope),
            frame(RST, 0, n, &[0, 0, 0, 8]),
            frame(PING, 0, 0, &[7; 8]),
        ]
        .concat();
        assert!(h2.write(&all).await);
        while h2.next().await.expect("the connection goes on").0 != PING {}
    }
    sidecar
        .until_metric(
            "cupbearer_refusals_total{code=\"no_route\",upstream=\"\"}",
            70.0,
        )
        .await;
    assert_eq!(ask(sidecar.addr(), &[]).await, End::Answered);
    let blamed = sidecar
        .metric("cupbearer_refusals_total{code=\"upstream_protocol\",upstream=\"\"}")
        .await;
    assert!(blamed == 0.0, "{blamed}");
}
