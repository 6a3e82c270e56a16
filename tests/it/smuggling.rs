//! A9, R26: a request with two readings is refused, or forwarded in exactly one; what follows a
//! refusal on its connection is never served.
//!
//! The corpus is the test data of AWS's `http_desync_guardian` (Apache-2.0): a dev-dependency that
//! is never called. Its files are found where cargo has unpacked it, so nothing of it stands in
//! this repository and `Cargo.lock` holds its checksum.

use std::{net::SocketAddr, path::PathBuf, process::Command, time::Duration};

use serde::Deserialize;
use tokio::{io::AsyncReadExt, net::TcpListener, time::timeout};

use crate::support::{
    raw::{RawAnswer, RawClient},
    readings::{Parser, Read, Recorder},
    sidecar::Sidecar,
};

const PARSERS: [Parser; 3] = [Parser::Strict, Parser::LaxLength, Parser::LaxCoding];
/// What an attacker wants to be read as a request of its own.
const SMUGGLED: &str = "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n";

/// Everything goes to one vendor, whatever Host says, with a token.
async fn before(vendor: &Recorder) -> Sidecar {
    in_front_of(&vendor.url()).await
}

async fn in_front_of(vendor: &str) -> Sidecar {
    let text = format!(
        "[proxy]\nlisten = [\"127.0.0.1:0\"]\nbrowser = \"allow\"\n[admin]\nlisten = \"127.0.0.1:0\"\n\
         [credentials.acme]\nprofile = \"static\"\nsecrets = {{ key = \"t0ken\" }}\ninject.headers = {{ Authorization = \"Bearer {{{{ secrets.key }}}}\" }}\n\
         [upstreams.acme]\nurl = \"{vendor}\"\ncredential = \"acme\"\nmatch = {{ path = \"/\" }}\n"
    );
    Sidecar::with_files(&text, &[]).await
}

/// What became of some bytes on a connection of their own: the first final status, 0 where there
/// was none.
async fn try_it(proxy: SocketAddr, bytes: &[u8], name: &str) -> u16 {
    answer_to(proxy, bytes, name).await.map_or(0, |a| a.status)
}

async fn answer_to(proxy: SocketAddr, bytes: &[u8], name: &str) -> Option<RawAnswer> {
    let tried = timeout(Duration::from_secs(8), exchange(proxy, bytes, name)).await;
    tried.unwrap_or_else(|_| panic!("{name}: no answer and no end for {}", bytes.escape_ascii()))
}

async fn exchange(proxy: SocketAddr, bytes: &[u8], name: &str) -> Option<RawAnswer> {
    let mut client = RawClient::connect(proxy).await;
    client.write(bytes).await;
    let answer = loop {
        match client.answer("GET").await {
            Some(a) if (100..200).contains(&a.status) && a.status != 101 => {}
            other => break other,
        }
    };
    let answer = answer?;
    if answer.status >= 400 {
        // A refusal that leaves no doubt where the next request begins keeps the connection.
        client.half_close().await;
        let after = client.read_to_close().await;
        assert!(
            after.is_empty(),
            "{name}: after {} came {}",
            answer.status,
            after.escape_ascii()
        );
    }
    Some(answer)
}

/// A last sound request: what was smuggled before it would be in front of it.
async fn settle(sidecar: &Sidecar, vendor: &Recorder, forwarded: usize) -> Vec<Read> {
    assert_eq!(
        try_it(
            sidecar.addr(),
            b"GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
            "last"
        )
        .await,
        200
    );
    let requests = vendor.requests();
    assert_eq!(requests.len(), forwarded + 1, "{requests:#?}");
    assert!(
        requests.iter().all(|r| !r.line.contains("smuggled")),
        "{requests:#?}"
    );
    requests
}

#[derive(Deserialize)]
struct Case {
    name: String,
    uri: String,
    method: String,
    version: String,
    #[serde(default)]
    headers: Vec<Field>,
    expected: Expected,
}

#[derive(Deserialize)]
struct Field {
    name: serde_yaml::Value,
    value: serde_yaml::Value,
}

#[derive(Deserialize)]
struct Expected {
    tier: String,
}

fn corpus() -> Vec<Case> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    // Crates that only other platforms need were perhaps never downloaded.
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let out = Command::new(cargo)
        .args([
            "metadata",
            "--format-version=1",
            "--offline",
            "--locked",
            "--filter-platform",
            &platform,
            "--manifest-path",
            manifest,
        ])
        .output();
    let packages: serde_json::Value =
        serde_json::from_slice(&out.unwrap().stdout).expect("cargo metadata");
    let package = packages["packages"]
        .as_array()
        .unwrap()
        .iter()
        .find(|p| p["name"] == "http_desync_guardian")
        .expect("the dev-dependency");
    let folder = PathBuf::from(package["manifest_path"].as_str().unwrap()).with_file_name("tests");
    let mut files: Vec<_> = folder
        .read_dir()
        .unwrap()
        .map(|f| f.unwrap().path())
        .collect();
    files.retain(|f| f.extension().is_some_and(|e| e == "yaml"));
    files.sort();
    files
        .iter()
        .flat_map(|f| {
            serde_yaml::from_str::<Vec<Case>>(&std::fs::read_to_string(f).unwrap()).unwrap()
        })
        .collect()
}

/// The corpus writes bytes as `\x01`, `\t` and so on.
fn bytes(text: &str) -> Vec<u8> {
    let (mut out, mut chars) = (Vec::new(), text.chars());
    while let Some(c) = chars.next() {
        match (c, if c == '\\' { chars.next() } else { None }) {
            ('\\', Some('x')) => out.push(chars.by_ref().take(2).fold(0, |a, d| {
                a * 16 + u8::try_from(d.to_digit(16).unwrap()).unwrap()
            })),
            ('\\', Some('b')) => out.push(8),
            ('\\', Some('f')) => out.push(12),
            ('\\', Some('n')) => out.push(b'\n'),
            ('\\', Some('r')) => out.push(b'\r'),
            ('\\', Some('t')) => out.push(b'\t'),
            ('\\', Some(other)) => out.push(u8::try_from(other).unwrap()),
            (c, _) => match u8::try_from(c) {
                Ok(byte) => out.push(byte),
                Err(_) => out.extend(c.to_string().bytes()),
            },
        }
    }
    out
}

fn scalar(value: &serde_yaml::Value) -> Vec<u8> {
    match value {
        serde_yaml::Value::String(s) => bytes(s),
        other => serde_yaml::to_string(other)
            .unwrap()
            .trim_end()
            .as_bytes()
            .to_vec(),
    }
}

/// The whole request, and what its body is if only the first Content-Length counts.
fn message(number: usize, case: &Case) -> (Vec<u8>, Vec<u8>) {
    let mut all = [bytes(&case.method), bytes(&case.uri), bytes(&case.version)].join(&b' ');
    let mut length = None;
    let hosted = case
        .headers
        .iter()
        .any(|h| scalar(&h.name).eq_ignore_ascii_case(b"host"));
    all.extend_from_slice(format!("\r\nX-Case: {number}").as_bytes());
    if !hosted {
        all.extend_from_slice(b"\r\nHost: vendor.test");
    }
    for field in &case.headers {
        let (name, value) = (scalar(&field.name), scalar(&field.value));
        if name.eq_ignore_ascii_case(b"content-length") {
            let digits: String = value
                .iter()
                .map(|b| char::from(*b))
                .filter(char::is_ascii_digit)
                .collect();
            length = length.or(digits.parse::<usize>().ok().filter(|n| *n < 10_000_000));
        }
        all.extend_from_slice(b"\r\n");
        all.extend([name, value].join(&b": "[..]));
    }
    all.extend_from_slice(b"\r\n\r\n");
    let mut body = SMUGGLED.as_bytes().to_vec();
    if let Some(n) = length {
        body.resize(n.max(body.len()), b'A');
    }
    all.extend_from_slice(&body);
    body.truncate(length.unwrap_or(0));
    (all, body)
}

#[tokio::test(flavor = "multi_thread")]
async fn a9_r26_the_desync_corpus_is_refused_or_has_one_reading_for_three_parsers() {
    let cases = corpus();
    assert_eq!(cases.len(), 159);
    for parser in PARSERS {
        let vendor = Recorder::start(parser).await;
        let sidecar = before(&vendor).await;
        let (mut forwarded, mut compliant) = (Vec::new(), 0);
        for (number, case) in cases.iter().enumerate() {
            let name = format!("{} ({})", case.name, case.expected.tier);
            let (message, by_length) = message(number, case);
            let status = try_it(sidecar.addr(), &message, &name).await;
            assert!(
                matches!(status, 200 | 400 | 403 | 404 | 405 | 414 | 421 | 431 | 501),
                "{name}: {status} for {}",
                message.escape_ascii()
            );
            if status == 200 {
                assert_ne!(
                    case.expected.tier,
                    "Severe",
                    "{name}: {}",
                    message.escape_ascii()
                );
                compliant += usize::from(case.expected.tier == "Compliant");
                forwarded.push((number.to_string(), by_length));
            }
        }
        let seen = settle(&sidecar, &vendor, forwarded.len()).await;
        for (number, by_length) in &forwarded {
            let read = seen
                .iter()
                .find(|r| r.case == *number)
                .unwrap_or_else(|| panic!("case {number} did not arrive"));
            assert!(read.body.is_empty() || read.body == *by_length, "{read:?}");
        }
        // The other nine have a coding beside chunked (seven), a fragment in the target, or no
        // target: refused on purpose.
        assert_eq!(
            compliant, 19,
            "of 28; if everything is refused, nothing is proved"
        );
        assert!(
            forwarded.len() >= 31,
            "{} of 159 are forwarded",
            forwarded.len()
        );
    }
}

/// What must become of a payload.
enum Becomes {
    Refused,
    /// Forwarded with this body.
    Body(&'static str),
    /// Refused for its body: the vendor may have been sent its beginning, but never its end.
    Broken,
}

/// What rows R26 and A9 of `tests/README.md` name, one by one. `{H}` is a sound Host line.
fn payloads() -> Vec<(&'static str, String, Becomes)> {
    use Becomes::{Body, Broken, Refused};
    let post = |rest: &str| format!("POST /p HTTP/1.1\r\nHost: v\r\n{rest}");
    let get = |rest: &str| format!("GET /p HTTP/1.1\r\nHost: v\r\n{rest}");
    let chunked = |body: &str| post(&format!("Transfer-Encoding: chunked\r\n\r\n{body}"));
    let tail = "GET /smuggled HTTP/1.1\r\nHost: v\r\n\r\n";
    vec![
        (
            "CL.TE",
            post(&format!(
                "Content-Length: {}\r\nTransfer-Encoding: chunked\r\n\r\n{SMUGGLED}",
                SMUGGLED.len()
            )),
            Refused,
        ),
        (
            "TE.CL",
            post(&format!(
                "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n5c\r\n{tail}\r\n0\r\n\r\n"
            )),
            Refused,
        ),
        (
            "TE.TE twice",
            post(&format!(
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n{SMUGGLED}"
            )),
            Refused,
        ),
        (
            "TE.TE blank",
            post(&format!("Transfer-Encoding : chunked\r\n\r\n{SMUGGLED}")),
            Refused,
        ),
        (
            "TE vertical tab",
            post(&format!("Transfer-Encoding:\x0bchunked\r\n\r\n{SMUGGLED}")),
            Refused,
        ),
        (
            "TE x-chunked",
            post(&format!("Transfer-Encoding: xchunked\r\n\r\n{SMUGGLED}")),
            Refused,
        ),
        (
            "TE chunked not last",
            post(&format!(
                "Transfer-Encoding: chunked, identity\r\n\r\n{SMUGGLED}"
            )),
            Refused,
        ),
        (
            "TE gzip, chunked",
            post(&format!(
                "Transfer-Encoding: gzip, chunked\r\n\r\n{SMUGGLED}"
            )),
            Refused,
        ),
        (
            "TE quoted",
            post(&format!("Transfer-Encoding: \"chunked\"\r\n\r\n{SMUGGLED}")),
            Refused,
        ),
        (
            "TE with a parameter",
            post(&format!("Transfer-Encoding: chunked;a=b\r\n\r\n{SMUGGLED}")),
            Refused,
        ),
        (
            "TE folded",
            post(&format!("Transfer-Encoding:\r\n chunked\r\n\r\n{SMUGGLED}")),
            Refused,
        ),
        (
            "TE in 1.0",
            format!("POST /p HTTP/1.0\r\nHost: v\r\nTransfer-Encoding: chunked\r\n\r\n{SMUGGLED}"),
            Refused,
        ),
        (
            "TE with an underscore is another name",
            post(&format!("Transfer_Encoding: x\r\n\r\n{tail}")),
            Body(""),
        ),
        (
            "CL.0",
            post(&format!("Content-Length: {}\r\n\r\n{tail}", tail.len())),
            Body("GET /smuggled HTTP/1.1\r\nHost: v\r\n\r\n"),
        ),
        (
            "0.CL",
            get(&format!("Content-Length: 0\r\n\r\n{tail}")),
            Body(""),
        ),
        (
            "GET with a body",
            get("Content-Length: 3\r\n\r\nabc"),
            Body("abc"),
        ),
        (
            "two CL",
            post("Content-Length: 3\r\nContent-Length: 0\r\n\r\nabc"),
            Refused,
        ),
        (
            "two like CL",
            post("Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc"),
            Refused,
        ),
        (
            "a list of CL",
            post("Content-Length: 3, 3\r\n\r\nabc"),
            Refused,
        ),
        ("CL +3", post("Content-Length: +3\r\n\r\nabc"), Refused),
        ("CL 0x3", post("Content-Length: 0x3\r\n\r\nabc"), Refused),
        (
            "CL -1",
            post(&format!("Content-Length: -1\r\n\r\n{tail}")),
            Refused,
        ),
        ("CL 3.0", post("Content-Length: 3.0\r\n\r\nabc"), Refused),
        (
            "CL above 64 bits",
            post(&format!(
                "Content-Length: 18446744073709551619\r\n\r\nabc{tail}"
            )),
            Refused,
        ),
        (
            "CL with a blank inside",
            post("Content-Length: 1 0\r\n\r\nabcdefghij"),
            Refused,
        ),
        (
            "CL folded",
            post("Content-Length:\r\n 3\r\n\r\nabc"),
            Refused,
        ),
        (
            "blank before the colon",
            post("Content-Length : 3\r\n\r\nabc"),
            Refused,
        ),
        (
            "blank before the name",
            "POST /p HTTP/1.1\r\n Content-Length: 3\r\nHost: v\r\n\r\nabc".into(),
            Refused,
        ),
        ("folded field", get("X: a\r\n b\r\n\r\n"), Refused),
        (
            "bare LF in the head",
            format!("GET /p HTTP/1.1\nHost: v\n\n{tail}"),
            Refused,
        ),
        (
            "bare LF before a field",
            get(&format!(
                "X: a\nTransfer-Encoding: chunked\r\n\r\n{SMUGGLED}"
            )),
            Refused,
        ),
        (
            "bare CR in a value",
            get("X: a\rTransfer-Encoding: chunked\r\n\r\n"),
            Refused,
        ),
        (
            "bare CR as line end",
            format!("GET /p HTTP/1.1\rHost: v\r\n\r\n{tail}"),
            Refused,
        ),
        ("NUL in a value", get("X: a\0b\r\n\r\n"), Refused),
        ("NUL in a name", get("X\0: a\r\n\r\n"), Refused),
        (
            "a line without a colon",
            get("Content-Length\r\n\r\n"),
            Refused,
        ),
        ("an empty name", get(": 3\r\n\r\n"), Refused),
        (
            "HTTP/1.1 twice",
            format!("GET /p HTTP/1.1 HTTP/1.1\r\nHost: v\r\n\r\n{tail}"),
            Refused,
        ),
        ("HTTP/0.9", format!("GET /p\r\n\r\n{tail}"), Refused),
        (
            "HTTP/1.2",
            format!("GET /p HTTP/1.2\r\nHost: v\r\n\r\n{tail}"),
            Refused,
        ),
        (
            "tabs in the request line",
            "GET\t/p\tHTTP/1.1\r\nHost: v\r\n\r\n".into(),
            Refused,
        ),
        ("no Host", "GET /p HTTP/1.1\r\n\r\n".into(), Refused),
        ("two Hosts", get("Host: w\r\n\r\n"), Refused),
        (
            "h2c upgrade",
            get(&format!(
                "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n{tail}"
            )),
            Body(""),
        ),
        (
            "upgrade and a pipelined request",
            get(&format!("Connection: Upgrade\r\nUpgrade: x\r\n\r\n{tail}")),
            Body(""),
        ),
        ("pipelined", get(&format!("\r\n{tail}")), Body("")),
        (
            "Connection: content-length",
            post(&format!(
                "Connection: content-length\r\nContent-Length: 3\r\n\r\nabc{tail}"
            )),
            Body("abc"),
        ),
        (
            "Connection: transfer-encoding",
            post(&format!(
                "Connection: transfer-encoding\r\nTransfer-Encoding: chunked\r\n\r\n{SMUGGLED}"
            )),
            Body(""),
        ),
        ("Connection: host", get("Connection: host\r\n\r\n"), Refused),
        ("chunked", chunked("3\r\nabc\r\n0\r\n\r\n"), Body("abc")),
        (
            "chunked, and more behind it",
            chunked(&format!("3\r\nabc\r\n0\r\n\r\n{tail}")),
            Body("abc"),
        ),
        (
            "chunk size in capitals with zeros",
            chunked("00A\r\nabcdefghij\r\n0\r\n\r\n"),
            Body("abcdefghij"),
        ),
        (
            "chunk extension",
            chunked("3;a=b\r\nabc\r\n0\r\n\r\n"),
            Body("abc"),
        ),
        (
            "chunk extensions with a quoted string",
            chunked("3 ; a = \"b;\\\"c\" ;d\r\nabc\r\n0;e\r\n\r\n"),
            Body("abc"),
        ),
        (
            "blanks behind a chunk size",
            chunked("3  \r\nabc\r\n0\r\n\r\n"),
            Body("abc"),
        ),
        (
            "chunk extension with a bare LF",
            chunked(&format!("5;a\nb\r\nhello\r\n0\r\n\r\n{tail}")),
            Broken,
        ),
        (
            "bare LF behind a semicolon, two readings",
            chunked(&format!("2;\nxx\r\n4c\r\n0\r\n\r\n{tail}")),
            Broken,
        ),
        (
            "bare LF in the last chunk's extension",
            chunked(&format!("0;\n\r\n\r\n{tail}")),
            Broken,
        ),
        (
            "chunk extension with a bare CR",
            chunked(&format!("5;a\rb\r\nhello\r\n0\r\n\r\n{tail}")),
            Broken,
        ),
        (
            "chunk extension with NUL",
            chunked(&format!("5;\0\r\nhello\r\n0\r\n\r\n{tail}")),
            Broken,
        ),
        (
            "chunk size overflow",
            chunked(&format!("10000000000000003\r\nabc\r\n0\r\n\r\n{tail}")),
            Broken,
        ),
        ("chunk size 0x3", chunked("0x3\r\nabc\r\n0\r\n\r\n"), Broken),
        ("chunk size +3", chunked("+3\r\nabc\r\n0\r\n\r\n"), Broken),
        ("chunk size -3", chunked("-3\r\nabc\r\n0\r\n\r\n"), Broken),
        ("chunk size empty", chunked("\r\nabc\r\n0\r\n\r\n"), Broken),
        (
            "chunk size empty, and more behind it",
            chunked(&format!("\r\n\r\n{tail}")),
            Broken,
        ),
        (
            "chunk size empty before an extension",
            chunked(&format!(";x\r\n\r\n{tail}")),
            Broken,
        ),
        (
            "chunk size empty but for a blank",
            chunked(&format!(" \r\n\r\n{tail}")),
            Broken,
        ),
        (
            "second chunk size empty",
            chunked(&format!("3\r\nabc\r\n\r\n\r\n{tail}")),
            Broken,
        ),
        (
            "blank before a chunk size",
            chunked(" 3\r\nabc\r\n0\r\n\r\n"),
            Broken,
        ),
        (
            "chunk longer than it says",
            chunked(&format!("3\r\nabcd\r\n0\r\n\r\n{tail}")),
            Broken,
        ),
        (
            "chunk data without CRLF",
            chunked(&format!("3\r\nabc0\r\n\r\n{tail}")),
            Broken,
        ),
        (
            "chunk ended by LF",
            chunked(&format!("3\nabc\n0\n\n{tail}")),
            Broken,
        ),
        (
            "chunk data ended by LF",
            chunked(&format!("3\r\nabc\n0\r\n\r\n{tail}")),
            Broken,
        ),
        (
            "trailers",
            chunked(&format!(
                "3\r\nabc\r\n0\r\nX-Sum: 1\r\nX-Empty:\r\n\r\n{tail}"
            )),
            Body("abc"),
        ),
        (
            "trailer without a colon",
            chunked(&format!("0\r\nabc\r\n\r\n{tail}")),
            Broken,
        ),
        (
            "trailer with a blank before its colon",
            chunked(&format!("0\r\na : b\r\n\r\n{tail}")),
            Broken,
        ),
        (
            "trailer folded",
            chunked(&format!("0\r\na: b\r\n c\r\n\r\n{tail}")),
            Broken,
        ),
        (
            "trailer ended by LF",
            chunked(&format!("0\r\na: b\nc: d\r\n\r\n{tail}")),
            Broken,
        ),
        (
            "no trailers, ended by LF",
            chunked(&format!("0\r\n\n{tail}")),
            Broken,
        ),
        (
            "a request in place of trailers",
            chunked(&format!("0\r\n{tail}")),
            Broken,
        ),
        (
            "trailers that frame",
            chunked(&format!(
                "0\r\nContent-Length: 40\r\nTransfer-Encoding: chunked\r\n\r\n{tail}"
            )),
            Body(""),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a9_r26_known_payloads_become_what_they_must() {
    for parser in PARSERS {
        let vendor = Recorder::start(parser).await;
        let sidecar = before(&vendor).await;
        let mut bodies = Vec::new();
        for (number, (name, payload, becomes)) in payloads().into_iter().enumerate() {
            let payload = payload.replacen("/p ", &format!("/p{number} "), 1);
            let answer = answer_to(sidecar.addr(), payload.as_bytes(), name)
                .await
                .unwrap_or_else(|| panic!("{name}: no answer"));
            let (status, of_its_body) = (
                answer.status,
                answer.text().contains("the request body is malformed"),
            );
            match becomes {
                Becomes::Refused => assert_eq!(status, 400, "{name}"),
                Becomes::Broken => assert_eq!((status, of_its_body), (400, true), "{name}"),
                Becomes::Body(body) => {
                    assert_eq!(status, 200, "{name}");
                    bodies.push((name, format!(" /p{number} "), body));
                }
            }
        }
        let seen = settle(&sidecar, &vendor, bodies.len()).await;
        for (name, target, body) in bodies {
            let read = seen
                .iter()
                .find(|r| r.line.contains(&target))
                .unwrap_or_else(|| panic!("{name} did not arrive"));
            assert_eq!(
                String::from_utf8_lossy(&read.body),
                body,
                "{name}: {}",
                read.line
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a9_r26_what_stands_behind_a_refusal_is_never_served() {
    let vendor = Recorder::start(Parser::Strict).await;
    let sidecar = before(&vendor).await;
    for bad in [
        "GET /p HTTP/1.1\r\n\r\n",
        "POST /p HTTP/1.1\r\nHost: v\r\nContent-Length: +1\r\n\r\n",
        "G=T\0 /\r\n\r\n",
        "TRACE /p HTTP/1.1\r\nHost: v\r\n\r\n",
    ] {
        let all = RawClient::exchange(
            sidecar.addr(),
            format!("{bad}GET /smuggled HTTP/1.1\r\nHost: v\r\n\r\n").as_bytes(),
        )
        .await;
        let text = String::from_utf8_lossy(&all);
        assert_eq!(text.matches("HTTP/1.1 ").count(), 1, "{text}");
    }
    settle(&sidecar, &vendor, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_vendor_never_gets_the_end_of_a_body_whose_framing_breaks_after_a_while() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let sidecar = in_front_of(&format!("http://{}", listener.local_addr().unwrap())).await;
    let mut client = RawClient::connect(sidecar.addr()).await;
    client
        .write(b"POST /p HTTP/1.1\r\nHost: v\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;")
        .await;
    let mut at_vendor = listener.accept().await.unwrap().0;
    let mut got = Vec::new();
    while !got.ends_with(b"abc\r\n") {
        assert!(
            at_vendor.read_buf(&mut got).await.unwrap() > 0,
            "{}",
            got.escape_ascii()
        );
    }
    client
        .write(b"\nxx\r\n4c\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: v\r\n\r\n")
        .await;
    let refused = client.answer("POST").await.expect("a refusal");
    assert_eq!(
        (refused.status, refused.header("connection")),
        (400, Some("close"))
    );
    assert!(client.read_to_close().await.is_empty());
    while let Ok(1..) = at_vendor.read_buf(&mut got).await {}
    assert!(
        got.ends_with(b"\r\n\r\n3\r\nabc\r\n"),
        "{}",
        got.escape_ascii()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn sound_chunked_requests_share_a_connection() {
    let vendor = Recorder::start(Parser::Strict).await;
    let sidecar = before(&vendor).await;
    let mut client = RawClient::connect(sidecar.addr()).await;
    for body in [
        "3;a=b\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n",
        "0\r\n\r\n",
        "3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n",
    ] {
        client
            .write(
                format!("POST /p HTTP/1.1\r\nHost: v\r\nTransfer-Encoding: chunked\r\n\r\n{body}")
                    .as_bytes(),
            )
            .await;
        assert_eq!(client.answer("POST").await.expect("an answer").status, 200);
        // What follows is no chunked body any more.
        client.write(b"GET /p HTTP/1.1\r\nHost: v\r\n\r\n").await;
        assert_eq!(client.answer("GET").await.expect("an answer").status, 200);
    }
    assert_eq!(
        settle(&sidecar, &vendor, 6)
            .await
            .iter()
            .map(|r| r.body.len())
            .sum::<usize>(),
        7
    );
}
