//! What a vendor's head repeats of ours goes no further, however it is spelled and wherever it
//! stands; and no head costs more than its bytes.

use std::time::Duration;

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use http::Method;
use tokio::time::timeout;

use crate::support::{
    certs::Authority,
    endpoint::Endpoint,
    http2::Http2,
    issuer::Issuer,
    raw::RawClient,
    sidecar::{PORTS, Process, Sidecar, open, plain},
    tokens::Tokens,
    vendor::{Need, Vendor},
    wire::{Answer, Reply, Step},
};

/// As a client writes the request of these tests.
const ASK: &[u8] = b"GET /acme/x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

struct Stage {
    tokens: Tokens,
    _issuer: Issuer,
    vendor: Vendor,
    sidecar: Sidecar,
}

impl Stage {
    /// A vendor over plain HTTP/1.1, or over HTTP/2, and a sidecar that holds a token for it.
    async fn set(http2: bool) -> Self {
        let authority = Authority::new("ca");
        let tokens = Tokens::default();
        let issuer = Issuer::start(
            &tokens,
            vec![Endpoint::new("/token", "acme", "s3cret-acme")],
        )
        .await;
        let tls = http2.then(|| Authority::server(&authority.localhost(&[]), &["h2"]));
        let vendor = Vendor::with_tls(&tokens, vec![Need::Bearer("access")], tls).await;
        let more = if http2 {
            "tls = { ca_file = \"ca.pem\", ca_only = true }\n"
        } else {
            ""
        };
        let text = format!(
            "{PORTS}{}{more}",
            plain("acme", &format!("{}/token", issuer.url()), &vendor.url())
        );
        let sidecar = Sidecar::with_files(&text, &[("ca.pem", &authority.pem)]).await;
        assert_eq!(sidecar.status_of("/acme/warm").await, 200);
        Self {
            tokens,
            _issuer: issuer,
            vendor,
            sidecar,
        }
    }

    fn token(&self) -> String {
        self.tokens.all("access")[0].clone()
    }
}

/// One token, as vendors and the frameworks below them write it; some by way of others.
fn spellings(token: &str) -> Vec<String> {
    let form: String = form_urlencoded::byte_serialize(token.as_bytes()).collect();
    let each =
        |format: &dyn Fn(u8) -> String| token.bytes().map(format).collect::<Vec<_>>().concat();
    vec![
        token.to_owned(),
        form,
        each(&|b| format!("%{b:02X}")),
        each(&|b| format!("%25{b:02x}")),
        each(&|b| format!("\\u{b:04x}")),
        each(&|b| format!("\\{}", char::from(b))),
        STANDARD.encode(token),
        STANDARD.encode(format!("{{\"token\":\"{token}\"}}")),
        URL_SAFE_NO_PAD.encode(format!("u:{token}")),
        STANDARD.encode(format!("x{token}")),
    ]
}

/// The piece of each spelling that could not stand there by chance.
fn shows(text: &str, token: &str) -> Option<String> {
    let text = text.to_ascii_lowercase();
    let middle = |s: &String| {
        s.chars()
            .skip(s.len() / 4)
            .take(s.len() / 2)
            .collect::<String>()
            .to_ascii_lowercase()
    };
    spellings(token)
        .iter()
        .map(middle)
        .find(|part| text.contains(part.as_str()))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http_1_head_repeats_our_token_nowhere() {
    let stage = Stage::set(false).await;
    let token = stage.token();
    for spelled in spellings(&token) {
        // A name holds no backslash, and no other character of base64 than a token has.
        let name = if spelled.contains('\\') {
            token.clone()
        } else {
            spelled.replace(['+', '/', '='], "")
        };
        for head in [
            format!("HTTP/1.1 200 token {spelled} is fine\r\nX-A: b\r\n"),
            format!("HTTP/1.1 200 OK\r\nX-{name}-y: b\r\n"),
            format!("HTTP/1.1 200 OK\r\nX-A: before {spelled} after\r\nX-A: {spelled}\r\n"),
            format!("HTTP/1.1 200 OK\r\nSet-Cookie: last={spelled}; Path=/\r\n"),
            format!(
                "HTTP/1.1 302 Found\r\nLocation: https://elsewhere.test/x?access_token={spelled}&y=1#z\r\n"
            ),
            format!(
                "HTTP/1.1 400 Bad\r\nWWW-Authenticate: Bearer error=\"invalid_request\", error_description=\"{spelled}\"\r\n"
            ),
            format!(
                "HTTP/1.1 103 Early Hints {spelled}\r\nLink: </x?t={spelled}>\r\n\r\nHTTP/1.1 200 OK\r\n"
            ),
        ] {
            stage.vendor.script(Answer::Raw(vec![Step::Bytes(
                format!("{head}Connection: close\r\nContent-Length: 2\r\n\r\nhi").into_bytes(),
            )]));
            // It closes behind its answer, so it says so: a kept connection would be tried again.
            let answer = RawClient::exchange(stage.sidecar.addr(), ASK).await;
            let text = String::from_utf8_lossy(&answer).into_owned();
            assert!(
                text.ends_with("\r\n\r\nhi"),
                "the rest of it passes: {text}"
            );
            assert!(text.contains("***"), "{head}\n{text}");
            assert_eq!(shows(&text, &token), None, "{head}\n{text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http_2_head_and_its_trailers_repeat_our_token_nowhere() {
    let stage = Stage::set(true).await;
    let token = stage.token();
    let h2 = Http2::connect(stage.sidecar.addr()).await;
    for spelled in spellings(&token) {
        let name = format!(
            "x-{}",
            spelled.to_ascii_lowercase().replace(
                |c: char| !c.is_ascii_alphanumeric() && !"-_.".contains(c),
                ""
            )
        );
        let mut reply = Reply::new(200, "hi").with("x-a", &format!("b={spelled}, c"));
        reply.trailers = vec![
            ("x-b".into(), format!("t {spelled}")),
            ("x-c".into(), "stays".into()),
        ];
        reply.trailers.push((
            "proxy-status".into(),
            "cdn; error=y, cupbearer; error=x".into(),
        ));
        if !spelled.contains(['%', '\\']) {
            reply = reply.with(&name, "n");
            reply.trailers.push((name, "n".into()));
        }
        stage.vendor.script(reply);
        let answer = h2
            .call(Method::GET, "/acme/x", &[], None, None)
            .await
            .unwrap();
        let (head, trailers) = (
            format!("{:?}", answer.headers),
            format!("{:?}", answer.trailers.unwrap()),
        );
        assert!(
            head.contains("***") && trailers.contains("***") && trailers.contains("stays"),
            "{head} {trailers}"
        );
        assert!(
            trailers.contains("cdn; error=y") && !trailers.contains("cupbearer"),
            "nobody speaks in our name: {trailers}"
        );
        assert_eq!(
            (shows(&head, &token), shows(&trailers, &token)),
            (None, None),
            "{spelled}: {head} {trailers}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn variables_secrets_and_values_made_for_one_request_go_no_further_and_public_ones_do() {
    let vendor = Vendor::start(&Tokens::default(), vec![]).await;
    let text = format!(
        "[upstreams.acme]\nurl = \"{}\"\ncredential = \"key\"\n[credentials.key]\nprofile = \"static\"\n\
         secrets = {{ key = \"a-key-of-some-length\", pin = \"pin4711\", id = \"a-public-identity\" }}\n\
         [credentials.key.profile_secrets]\n",
        vendor.url()
    )
    .replace("[credentials.key.profile_secrets]\n", "")
        + "[credentials.key.inject.headers]\nX-Key = \"{{ secrets.key }}\"\nX-Pin = \"{{ secrets.pin }}\"\nX-Id = \"{{ secrets.id }}\"\n\
           X-Proof = \"{{ (secrets.key ~ now) | sha256 | hex }}\"\nX-Request-Id = \"{{ uuid() }}\"\n";
    let sidecar = Sidecar::start(&text).await;
    assert_eq!(sidecar.status_of("/acme/warm").await, 200);
    // An echo of everything that was sent, in its head.
    let sent = |name: &str| vendor.last().header(name).unwrap().to_owned();
    for part in ["a-key-of-some-length", "pin4711", "x=pin4711&y"] {
        vendor.script(Reply::new(200, "hi").with("X-Echo", part));
        let answer = sidecar.get("/acme/x").await;
        assert_eq!(
            answer.headers()["x-echo"],
            part.replace("a-key-of-some-length", "***")
                .replace("pin4711", "***")
                .as_str()
        );
    }
    vendor.script(Reply::new(200, "hi").with("X-Echo", "my-pin4711-and-more"));
    assert_eq!(
        sidecar.get("/acme/x").await.headers()["x-echo"],
        "my-pin4711-and-more",
        "a short one within a word may be chance"
    );
    // What is made for each request is new by then; it is different each time.
    let before = (sent("x-proof"), sent("x-request-id"));
    assert_eq!(sidecar.status_of("/acme/x").await, 200);
    assert_ne!(before, (sent("x-proof"), sent("x-request-id")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_public_name_that_we_send_may_come_back() {
    let tokens = Tokens::default();
    let issuer = Issuer::start(
        &tokens,
        vec![Endpoint::new("/token", "acme-public-client", "s3cret-acme")],
    )
    .await;
    let vendor = Vendor::start(&tokens, vec![Need::Bearer("access")]).await;
    let text = plain("acme", &format!("{}/token", issuer.url()), &vendor.url())
        .replace("client_id = \"acme\"", "client_id = \"acme-public-client\"");
    let text = text
        + "[credentials.acme.inject.headers]\nX-Client = \"{{ secrets.client_id }}\"\nX-Both = \"{{ secrets.client_id ~ now }}\"\n";
    let sidecar = Sidecar::start(&text).await;
    vendor.script(Reply::new(201, "hi").with("X-Self", "/clients/acme-public-client/orders/17"));
    assert_eq!(
        sidecar.get("/acme/x").await.headers()["x-self"],
        "/clients/acme-public-client/orders/17"
    );
    assert_eq!(vendor.last().header("x-client"), Some("acme-public-client"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_of_more_than_64_kib_is_refused_whichever_head_and_protocol_it_is() {
    for http2 in [false, true] {
        let stage = Stage::set(http2).await;
        for (size, status) in [
            (60_000, 200),
            (66_000, 502),
            (281 * 1024, 502),
            (900_000, 502),
        ] {
            for unit in ["x", &*stage.token()] {
                let long: String = unit.chars().cycle().take(size).collect();
                if http2 && size > 100_000 {
                    continue; // The test's own vendor sends no more than its peer says it takes.
                }
                stage
                    .vendor
                    .script(Reply::new(200, "hi").with("X-Long", &long));
                assert_eq!(
                    stage.sidecar.status_of("/acme/x").await,
                    status,
                    "{size} {http2}"
                );
                stage.vendor.script(Reply::new(401, "no").with(
                    "WWW-Authenticate",
                    &format!("Bearer error=\"insufficient_scope\", {long}"),
                ));
                assert_eq!(
                    stage.sidecar.status_of("/acme/x").await,
                    if status == 200 { 401 } else { 502 },
                    "{size} {http2}"
                );
            }
        }
        let interim = vec![(103, vec![("x-long".to_owned(), "y".repeat(66_000))])];
        stage.vendor.script(Reply {
            interim,
            ..Reply::new(200, "hi")
        });
        if !http2 {
            assert_eq!(stage.sidecar.status_of("/acme/x").await, 502);
        }
        assert_eq!(stage.sidecar.status_of("/acme/x").await, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_of_more_than_64_kib_go_no_further() {
    let stage = Stage::set(true).await;
    let h2 = Http2::connect(stage.sidecar.addr()).await;
    for (size, passes) in [(1000, true), (66_000, false)] {
        stage.vendor.script(Reply {
            trailers: vec![("x-long".into(), "y".repeat(size))],
            ..Reply::new(200, "hi")
        });
        let answer = h2.get("/acme/x").await.unwrap();
        assert_eq!(
            (
                answer.body.len(),
                answer.trailers.is_some_and(|t| t.contains_key("x-long"))
            ),
            (2, passes),
            "{size}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_vendor_repeats_our_token_as_often_as_it_can_others_are_served() {
    let stage = Stage::set(false).await;
    let other = Vendor::start(&Tokens::default(), vec![]).await;
    let text = std::fs::read_to_string(stage.sidecar.path("cupbearer.toml")).unwrap();
    stage.sidecar.rewrite(
        "cupbearer.toml",
        &format!("{text}{}", open("other", &other.url())),
    );
    crate::support::wait::until("the other upstream", async || {
        stage.sidecar.status_of("/other/x").await == 200
    })
    .await;
    let token = stage.token();
    let long: String = token.chars().cycle().take(63 * 1024).collect();
    stage
        .vendor
        .always(Some(Reply::new(200, "hi").with("X-Long", &long).into()));
    let calls = (0..32).map(|_| {
        let (client, url) = (stage.sidecar.client.clone(), stage.sidecar.url("/acme/x"));
        tokio::spawn(async move { client.get(url).send().await.unwrap().headers()["x-long"].len() })
    });
    let calls: Vec<_> = calls.collect();
    for _ in 0..10 {
        let served = timeout(Duration::from_secs(5), stage.sidecar.status_of("/other/x")).await;
        assert_eq!(served.expect("promptly"), 200);
    }
    for call in calls {
        assert!(call.await.unwrap() < 64);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_challenge_of_900_kb_costs_the_process_no_more_than_a_few_times_that() {
    let vendor = Vendor::start(&Tokens::default(), vec![]).await;
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("c.toml");
    let credential = "[credentials.acme]\nprofile = \"static\"\nsecrets = { key = \"a-key-of-some-length\" }\n\
                      [credentials.acme.inject.headers]\nX-Key = \"{{ secrets.key }}\"\n";
    let upstream = format!(
        "[upstreams.acme]\nurl = \"{}\"\ncredential = \"acme\"\n",
        vendor.url()
    );
    std::fs::write(&config, format!("{PORTS}{credential}{upstream}")).unwrap();
    let process = Process::run(&config).await;
    let ask = async || RawClient::ask(process.proxy, ASK).await.status;
    assert_eq!(ask().await, 200);
    let before = process.kib("VmHWM");
    for size in [60_000, 900_000] {
        for unit in ["a,", "Bearer a=b, ", "\""] {
            let field: String = unit.chars().cycle().take(size).collect();
            vendor.script(Reply::new(401, "no").with("WWW-Authenticate", &field));
            assert_eq!(ask().await, if size > 65_536 { 502 } else { 401 }, "{unit}");
        }
    }
    let grown = process.kib("VmHWM") - before;
    assert!(grown < 32 * 1024, "{grown} KiB");
}
