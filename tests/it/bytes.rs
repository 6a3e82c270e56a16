//! Bytes: what was sent is what arrives, both ways, however odd and however long; long bodies are
//! never held.

use aws_lc_rs::digest;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{
    raw::RawClient,
    sidecar::{PORTS, Process, Sidecar, open},
    tally::hex,
    tokens::Tokens,
    vendor::Vendor,
    wire::{Body, Reply},
};

const MIB: u64 = 1 << 20;
const LONG: u64 = 100 * MIB;

/// Targets behind the matched prefix; each arrives as it stands here.
const TARGETS: [&str; 64] = [
    "/",
    "",
    "?",
    "/?",
    "/a",
    "/a/",
    "//",
    "//a",
    "/a//b",
    "///",
    "/a%2Fb",
    "/a%2fb",
    "/%2F",
    "/%2f%2F",
    "/%25",
    "/%2525",
    "/%252F",
    "/%",
    "/%%",
    "/%4",
    "/%zz",
    "/%61",
    "/%7E",
    "/~",
    "/~user",
    "/a;b=c",
    "/a;b=c/d;e",
    "/;",
    "/a=b",
    "/a,b",
    "/a:b",
    "/@",
    "/a@b:c",
    "/a!b$c&d'e(f)g*h+i",
    "/a+b",
    "/a%20b",
    "/a%2Bb",
    "/...",
    "/a.../b",
    "/..a",
    "/a..",
    "/.a",
    "/;..x",
    "/a\\b",
    "/a|b",
    "/[a]",
    "/{a}",
    "/é",
    "/%C3%A9",
    "/%c3%a9",
    "/%FF",
    "/%e2%82%ac",
    "/a?b",
    "/a?b=c&b=d",
    "/a?b=%2F&c=/..",
    "/a??",
    "/a?b?c",
    "/a?&&=&",
    "/a?b=c;d",
    "/a?%61=%62",
    "/a?é=ü",
    "/a?x=http://b.test/c",
    "/A/a",
    "/a?q='[]{}|\\^`",
];

#[tokio::test(flavor = "multi_thread")]
async fn r30_odd_paths_and_queries_arrive_as_they_were_written() {
    let vendor = Vendor::start(&Tokens::default(), vec![]).await;
    let sidecar = Sidecar::start(&open("acme", &format!("{}/v2", vendor.url()))).await;
    let mut client = RawClient::connect(sidecar.addr()).await;
    for target in TARGETS {
        client
            .write(format!("GET /acme{target} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes())
            .await;
        let answer = client
            .answer("GET")
            .await
            .unwrap_or_else(|| panic!("{target:?}"));
        assert_eq!(
            answer.status,
            200,
            "{target:?}: {}{}",
            answer.head,
            answer.text()
        );
        let latin1: String = format!("/v2{target}").bytes().map(char::from).collect();
        assert_eq!(vendor.last().target, latin1, "{target:?}");
    }
    assert_eq!(vendor.counts().requests, TARGETS.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn r30_every_byte_of_a_target_arrives_as_it_is_or_the_request_is_refused_as_ours() {
    let vendor = Vendor::start(&Tokens::default(), vec![]).await;
    let sidecar = Sidecar::start(&open("acme", &vendor.url())).await;
    for place in ["/x?", "/x"] {
        for byte in (0x21_u8..=0xff).filter(|b| *b != 0x7f) {
            let target: Vec<u8> = [place.as_bytes(), &[byte], b"y"].concat();
            let request = [
                b"GET /acme".as_slice(),
                &target,
                b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
            ]
            .concat();
            let before = vendor.counts().requests;
            let answer = RawClient::ask(sidecar.addr(), &request).await;
            if answer.status == 200 {
                assert_eq!(
                    vendor.last().target,
                    target.iter().map(|b| char::from(*b)).collect::<String>()
                );
            } else {
                assert_eq!(answer.status, 400, "{byte:#x} {}", answer.head);
                assert!(
                    answer.text().contains("bad_request"),
                    "{byte:#x} in {place}: {}",
                    answer.head
                );
                assert_eq!(vendor.counts().requests, before);
            }
        }
    }
}

/// Fields as a client writes them, and as the vendor gets them besides Host, in this order.
const FIELDS: [(&str, &str); 14] = [
    (
        "X-Case: a\r\nx-lower: b\r\nX-UPPER: c\r\nxMiXeD: d\r\n",
        "X-Case: a\r\nx-lower: b\r\nX-UPPER: c\r\nxMiXeD: d\r\n",
    ),
    (
        "Zebra: 1\r\nApple: 2\r\nMango: 3\r\n",
        "Zebra: 1\r\nApple: 2\r\nMango: 3\r\n",
    ),
    (
        "X-Twice: one\r\nX-Twice: two\r\n",
        "X-Twice: one\r\nX-Twice: two\r\n",
    ),
    (
        "X-Twice: one\r\nX-Other: x\r\nx-twice: two\r\nX-TWICE: three\r\n",
        "X-Twice: one\r\nx-twice: two\r\nX-TWICE: three\r\nX-Other: x\r\n",
    ),
    ("X-Empty: \r\n", "X-Empty: \r\n"),
    ("X-Inner: a   b\tc\r\n", "X-Inner: a   b\tc\r\n"),
    (
        "X-Odd: !#$%&'*+-.^_`|~\"(),/:;<=>?@[\\]{}\r\n",
        "X-Odd: !#$%&'*+-.^_`|~\"(),/:;<=>?@[\\]{}\r\n",
    ),
    (
        "Cookie: a=b; c=d\r\nCookie: e=f\r\n",
        "Cookie: a=b; c=d\r\nCookie: e=f\r\n",
    ),
    (
        "Accept-Encoding: gzip;q=0.5, br\r\nUser-Agent: me/1 (x)\r\n",
        "Accept-Encoding: gzip;q=0.5, br\r\nUser-Agent: me/1 (x)\r\n",
    ),
    (
        "If-None-Match: \"a\", W/\"b\"\r\nCache-Control: no-cache\r\n",
        "If-None-Match: \"a\", W/\"b\"\r\nCache-Control: no-cache\r\n",
    ),
    (
        "Range: bytes=0-1,-5\r\nX_Under: 1\r\n",
        "Range: bytes=0-1,-5\r\nX_Under: 1\r\n",
    ),
    (
        "Authorization: Own me\r\nX-Forwarded-For: 1.2.3.4\r\nForwarded: for=x\r\nVia: 1.1 other\r\n",
        "Authorization: Own me\r\nX-Forwarded-For: 1.2.3.4\r\nForwarded: for=x\r\nVia: 1.1 other\r\n",
    ),
    (
        "X-Keep: 1\r\nX-Named: 2\r\nConnection: x-named\r\n",
        "X-Keep: 1\r\n",
    ),
    (
        "X-Keep: 1\r\nKeep-Alive: 5\r\nProxy-Connection: keep-alive\r\nTE: trailers\r\nProxy-Authorization: Basic eA==\r\n",
        "X-Keep: 1\r\n",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn r20_header_fields_arrive_in_their_case_and_order_with_repeats_side_by_side() {
    let vendor = Vendor::start(&Tokens::default(), vec![]).await;
    let sidecar = Sidecar::start(&open("acme", &vendor.url())).await;
    for (sent, expected) in FIELDS {
        let answer = RawClient::ask(
            sidecar.addr(),
            format!("GET /acme/x HTTP/1.1\r\nHost: localhost\r\n{sent}\r\n").as_bytes(),
        )
        .await;
        assert_eq!(answer.status, 200, "{sent:?}: {}", answer.head);
        let seen = vendor.last();
        let head = String::from_utf8(seen.raw_head).unwrap();
        let host = format!(
            "Host: {}\r\n",
            vendor.url().strip_prefix("http://").unwrap()
        );
        assert_eq!(
            head,
            format!("GET /x HTTP/1.1\r\n{host}{expected}\r\n"),
            "{sent:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn r21_a_connection_field_that_names_what_it_may_not_is_refused_and_reaches_nobody() {
    let vendor = Vendor::start(&Tokens::default(), vec![]).await;
    let sidecar = Sidecar::start(&open("acme", &vendor.url())).await;
    let many = (0..11)
        .map(|n| format!("x-{n}"))
        .collect::<Vec<_>>()
        .join(", ");
    for named in [
        "host",
        "x-forwarded-for",
        "close, X-Forwarded-Proto",
        ":path",
        "a b",
        "x@y",
        &many,
    ] {
        let head =
            format!("GET /acme/x HTTP/1.1\r\nHost: localhost\r\nConnection: {named}\r\n\r\n");
        let answer = RawClient::ask(sidecar.addr(), head.as_bytes()).await;
        assert_eq!(
            (answer.status, answer.json()["code"].as_str()),
            (400, Some("bad_request")),
            "{named}: {}",
            answer.head
        );
    }
    assert_eq!(vendor.counts().requests, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_above_ascii_in_a_field_arrive_unchanged_both_ways() {
    let vendor = Vendor::start(&Tokens::default(), vec![]).await;
    let sidecar = Sidecar::start(&open("acme", &vendor.url())).await;
    vendor.script(Reply::new(200, "").with("X-Back", "gr\u{fc}n"));
    let answer = RawClient::ask(
        sidecar.addr(),
        b"GET /acme/x HTTP/1.1\r\nHost: localhost\r\nX-Latin: \xe9\xff\x80\r\n\r\n",
    )
    .await;
    assert_eq!(vendor.last().header("x-latin"), Some("\u{e9}\u{ff}\u{80}"));
    assert_eq!(
        answer.header("x-back"),
        Some("gr\u{c3}\u{bc}n"),
        "{}",
        answer.head
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn r34_an_answers_fields_arrive_in_their_case_and_order_with_only_date_and_connection_of_ours()
 {
    let vendor = Vendor::start(&Tokens::default(), vec![]).await;
    let sidecar = Sidecar::start(&open("acme", &vendor.url())).await;
    let fields = [
        ("Server", "them"),
        ("ETag", "\"x\""),
        ("X-UPPER", "1"),
        ("x-lower", "2"),
        ("Set-Cookie", "a=b; Path=/"),
        ("Set-Cookie", "c=d"),
        ("Cache-Control", "public, max-age=5"),
        ("Age", "3"),
        ("Content-Encoding", "gzip"),
        ("Retry-After", "7"),
        ("Proxy-Status", "other; error=x"),
        ("WWW-Authenticate", "Basic realm=\"x\""),
    ];
    vendor.script(
        fields
            .iter()
            .fold(Reply::new(429, "not really gzip"), |r, (n, v)| r.with(n, v)),
    );
    let answer = RawClient::ask(
        sidecar.addr(),
        b"GET /acme/x HTTP/1.1\r\nHost: localhost\r\n\r\n",
    )
    .await;
    assert_eq!(answer.text(), "not really gzip");
    let mut expected: Vec<(String, String)> = fields
        .iter()
        .map(|(n, v)| ((*n).into(), (*v).into()))
        .collect();
    expected.push(("Content-Length".into(), "15".into()));
    // pingora writes these two itself, at the end where the vendor sent none.
    let date = answer.header("date").expect("Date").to_owned();
    expected.extend([
        ("Date".into(), date),
        ("Connection".into(), "keep-alive".into()),
    ]);
    assert!(
        answer
            .head
            .starts_with("HTTP/1.1 429 Too Many Requests\r\n"),
        "{}",
        answer.head
    );
    assert_eq!(answer.headers, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_status_of_a_vendor_passes_as_it_is() {
    let vendor = Vendor::start(&Tokens::default(), vec![]).await;
    let sidecar = Sidecar::start(&open("acme", &vendor.url())).await;
    for status in [
        200, 201, 202, 203, 206, 300, 301, 304, 307, 308, 400, 401, 402, 403, 404, 407, 409, 410,
        418, 425, 429, 451, 500, 502, 503, 504, 511, 599,
    ] {
        vendor.script(Reply::new(
            status,
            if status == 304 { "" } else { "theirs" },
        ));
        let answer = sidecar.get("/acme/x").await;
        assert_eq!(answer.status().as_u16(), status);
        assert_eq!(
            answer.text().await.unwrap(),
            if status == 304 { "" } else { "theirs" },
            "{status}"
        );
    }
    assert_eq!(vendor.counts().requests, 28, "nothing is asked for twice");
}

/// How a body is framed.
#[derive(Debug, Clone, Copy)]
enum Framing {
    Length,
    Chunked,
}

/// Sends so many bytes that differ from place to place; the vendor's echo and the hash of what was
/// sent.
async fn upload(addr: std::net::SocketAddr, length: u64, framing: Framing) -> (Value, String) {
    let mut client = RawClient::connect(addr).await;
    let how = match framing {
        Framing::Length => format!("Content-Length: {length}"),
        Framing::Chunked => "Transfer-Encoding: chunked".to_owned(),
    };
    client
        .write(format!("POST /acme/up HTTP/1.1\r\nHost: localhost\r\n{how}\r\n\r\n").as_bytes())
        .await;
    let mut hash = digest::Context::new(&digest::SHA256);
    let mut piece: Vec<u8> = (0..65_521_u32)
        .map(|i| u8::try_from(i % 251).unwrap())
        .collect();
    let mut left = length;
    while left > 0 {
        let n = usize::try_from(left.min(piece.len() as u64)).unwrap();
        piece[0] = piece[0].wrapping_add(1);
        hash.update(&piece[..n]);
        if matches!(framing, Framing::Chunked) {
            client
                .tcp
                .write_all(format!("{n:x}\r\n").as_bytes())
                .await
                .unwrap();
        }
        client.tcp.write_all(&piece[..n]).await.unwrap();
        if matches!(framing, Framing::Chunked) {
            client.tcp.write_all(b"\r\n").await.unwrap();
        }
        left -= n as u64;
    }
    if matches!(framing, Framing::Chunked) {
        client.write(b"0\r\n\r\n").await;
    }
    let answer = client.answer("POST").await.expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.text());
    (answer.json(), hex(hash.finish().as_ref()))
}

/// Length and hash of what comes back, never held.
async fn download(client: &reqwest::Client, url: String) -> (u64, String) {
    let mut answer = client.get(url).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let (mut length, mut hash) = (0, digest::Context::new(&digest::SHA256));
    while let Some(part) = answer.chunk().await.unwrap() {
        length += part.len() as u64;
        hash.update(&part);
    }
    (length, hex(hash.finish().as_ref()))
}

fn long(chunked: bool) -> Reply {
    Reply {
        body: Body::Long(LONG),
        chunked,
        ..Reply::new(200, "")
    }
}

fn hash_of_long() -> String {
    let (piece, mut hash) = (vec![b'x'; 1 << 20], digest::Context::new(&digest::SHA256));
    (0..LONG / MIB).for_each(|_| hash.update(&piece));
    hex(hash.finish().as_ref())
}

/// A figure of /proc in KiB.
fn memory(process: &Process, field: &str) -> u64 {
    let text =
        std::fs::read_to_string(format!("/proc/{}/status", process.child.id().unwrap())).unwrap();
    let line = text.lines().find_map(|l| l.strip_prefix(field)).unwrap();
    line.trim_matches(|c: char| !c.is_ascii_digit())
        .parse()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn p6_a_hundred_mebibytes_each_way_arrive_whole_and_are_never_held() {
    let vendor = Vendor::start(&Tokens::default(), vec![]).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("c.toml");
    std::fs::write(&file, format!("{PORTS}{}", open("acme", &vendor.url()))).unwrap();
    let process = Process::run(&file).await;
    let client = crate::support::sidecar::client();
    let url = format!("http://{}/acme/down", process.proxy);
    for framing in [Framing::Length, Framing::Chunked] {
        upload(process.proxy, MIB / 16, framing).await;
    }
    let idle = memory(&process, "VmRSS:");
    for framing in [Framing::Length, Framing::Chunked] {
        let (echo, sent) = upload(process.proxy, LONG, framing).await;
        assert_eq!(
            (echo["length"].as_u64(), echo["sha256"].as_str()),
            (Some(LONG), Some(&*sent)),
            "{framing:?}"
        );
    }
    for chunked in [false, true] {
        vendor.script(long(chunked));
        assert_eq!(
            download(&client, url.clone()).await,
            (LONG, hash_of_long()),
            "chunked: {chunked}"
        );
    }
    let most = memory(&process, "VmHWM:");
    assert!(
        most < idle + 40 * 1024,
        "{idle} KiB at rest, {most} KiB at most"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_pauses_holds_the_writer_back_and_not_the_bytes() {
    let vendor = Vendor::start(&Tokens::default(), vec![]).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("c.toml");
    std::fs::write(&file, format!("{PORTS}{}", open("acme", &vendor.url()))).unwrap();
    let process = Process::run(&file).await;
    upload(process.proxy, MIB, Framing::Length).await;
    let idle = memory(&process, "VmRSS:");
    vendor.script(long(false));
    let mut slow = TcpStream::connect(process.proxy).await.unwrap();
    slow.write_all(b"GET /acme/down HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    slow.readable().await.unwrap();
    // Meanwhile another client makes the proxy work for a while.
    for _ in 0..5 {
        upload(process.proxy, 4 * MIB, Framing::Length).await;
    }
    let most = memory(&process, "VmHWM:");
    assert!(
        most < idle + 40 * 1024,
        "{idle} KiB at rest, {most} KiB at most"
    );
    let (mut all, mut part) = (0_u64, vec![0; 1 << 16]);
    loop {
        match slow.read(&mut part).await.unwrap() {
            0 => break,
            n => all += n as u64,
        }
    }
    assert!(all > LONG && all < LONG + 2000, "{all}");
}

#[tokio::test(flavor = "multi_thread")]
async fn r28_trailers_of_http_1_are_dropped_and_the_bodies_are_whole() {
    let vendor = Vendor::start(&Tokens::default(), vec![]).await;
    let sidecar = Sidecar::start(&open("acme", &vendor.url())).await;
    vendor.script(
        Reply {
            trailers: vec![("X-After".into(), "1".into())],
            ..Reply::new(200, "body")
        }
        .with("Trailer", "X-After"),
    );
    let request = b"POST /acme/x HTTP/1.1\r\nHost: localhost\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n\
        3;ext=1\r\nabc\r\n1\r\nd\r\n0\r\nX-Sum: 1\r\n\r\n";
    let answer = RawClient::ask(sidecar.addr(), request).await;
    assert!(answer.complete && answer.trailers.is_empty(), "{answer:?}");
    assert_eq!(
        (answer.text().as_str(), answer.header("trailer")),
        ("body", None)
    );
    let seen = vendor.last();
    assert_eq!((seen.text().as_str(), seen.trailers.len()), ("abcd", 0));
}
