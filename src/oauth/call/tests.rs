//! Token calls against real servers on loopback: what is on the wire, what breaks, what it is
//! called.

use std::{collections::BTreeMap, path::PathBuf};

use arc_swap::ArcSwap;
use http::{HeaderName, Method};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

use super::*;
use crate::{
    client_auth::ClientAuth,
    oauth::testing::{params, spec, template},
    profile::model::{
        Assertion, ErrorRule, Inject, ParamFormat, RuleMeaning, RuleSide, StatusMatch,
    },
    secret::{Secret, Secrets, Source},
    token::{Hold, LockoutPolicy},
};

fn profile(tokens: Vec<TokenSpec>) -> Profile {
    Profile {
        name: "test".into(),
        settings: BTreeMap::new(),
        secrets: BTreeMap::new(),
        tokens,
        inject: Inject::default(),
        partition: Vec::new(),
        errors: Vec::new(),
        limits: LockoutPolicy {
            rate: Vec::new(),
            max_rejections: 2,
            hold: Hold::UntilSecretChanges,
            account_rejections: None,
        },
        max_waiters: 1,
        vend: false,
    }
}

fn secrets(list: &[(&str, &str)]) -> Arc<SecretWatcher> {
    watcher(set(list))
}

fn set(list: &[(&str, &str)]) -> Secrets {
    let sources = list
        .iter()
        .map(|(name, value)| {
            (
                (*name).to_owned(),
                Source::Value(Secret::new((*value).to_owned())),
            )
        })
        .collect();
    let names = list.iter().map(|(name, _)| (*name).to_owned()).collect();
    Secrets {
        sources,
        names,
        ..Secrets::default()
    }
}

fn watcher(secrets: Secrets) -> Arc<SecretWatcher> {
    Arc::new(SecretWatcher::new(Arc::new(secrets)))
}

pub(super) fn call(spec: TokenSpec) -> TokenCall {
    TokenCall {
        name: KeeperName {
            credential: "acme".into(),
            token: "access".into(),
            partition: None,
        },
        client: Arc::new(ArcSwap::from_pointee(TokenClient::new(&spec.tls).unwrap())),
        profile: Arc::new(profile(vec![spec])),
        index: 0,
        secrets: secrets(&[("client_id", "app"), ("client_secret", "s3cr3t+value")]),
        partition: Vec::new(),
        metrics: Metrics::new().unwrap(),
        history: CallHistory::default(),
    }
}

pub(super) async fn run(call: &TokenCall) -> Result<Issued, Failure> {
    call.prepare(&[]).await?.send().await
}

pub(super) async fn failure(call: &TokenCall) -> Failure {
    run(call).await.err().expect("should fail")
}

/// A server that answers each connection with these bytes and tells what it was sent.
pub(super) async fn serving(
    answer: impl Into<Vec<u8>>,
) -> (String, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/token", listener.local_addr().unwrap());
    let (tell, told) = mpsc::unbounded_channel();
    let answer = answer.into();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = tell.send(heard(&mut stream).await);
            let _ = stream.write_all(&answer).await;
            let _ = stream.shutdown().await;
        }
    });
    (url, told)
}

/// One HTTP/1.1 request, head and body.
pub(super) async fn heard(stream: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut all = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&all).to_ascii_lowercase();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|l| l.strip_prefix("content-length: ")?.parse().ok())
                .unwrap_or(0);
            if body.len() >= length {
                return String::from_utf8_lossy(&all).into_owned();
            }
        }
        match stream.read(&mut buffer).await {
            Ok(n) if n > 0 => all.extend_from_slice(&buffer[..n]),
            _ => return String::from_utf8_lossy(&all).into_owned(),
        }
    }
}

pub(super) fn http(status: &str, headers: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\ncontent-length: {}\r\n{headers}\r\n{body}",
        body.len()
    )
}

pub(super) const GOOD: &str = r#"{"access_token":"tok-1","token_type":"bearer","expires_in":300}"#;

#[tokio::test]
async fn a_token_call_sends_exactly_this_and_brings_the_token() {
    let (url, mut server) = serving(http("200 OK", "", GOOD)).await;
    let issued = run(&call(spec(&url)))
        .await
        .unwrap_or_else(|f| panic!("{}", f));
    assert_eq!(
        (issued.value.as_str(), issued.life),
        ("tok-1", Some(Duration::from_mins(5)))
    );
    let heard = server.recv().await.unwrap();
    let (head, body) = heard.split_once("\r\n\r\n").unwrap();
    assert_eq!(
        body,
        "grant_type=client_credentials&client_id=app&client_secret=s3cr3t%2Bvalue"
    );
    let mut lines: Vec<String> = head
        .lines()
        .map(str::to_ascii_lowercase)
        .filter(|l| !l.starts_with("host: "))
        .collect();
    lines[1..].sort();
    let agent = format!("user-agent: cupbearer/{}", env!("CARGO_PKG_VERSION"));
    let expected = [
        "post /token http/1.1",
        "accept-encoding: gzip",
        "accept: application/json",
        "content-length: 72",
        "content-type: application/x-www-form-urlencoded",
        &agent,
    ];
    assert_eq!(lines, expected);
}

#[tokio::test]
async fn a_call_that_has_no_content_says_so() {
    for (method, length) in [
        (Method::POST, true),
        (Method::PUT, true),
        (Method::PATCH, true),
        (Method::GET, false),
    ] {
        for (format, target) in [
            (ParamFormat::None, "/token"),
            (
                ParamFormat::Query,
                "/token?grant_type=client_credentials&client_id=app&client_secret=s3cr3t%2Bvalue",
            ),
        ] {
            let (url, mut server) = serving(http("200 OK", "", GOOD)).await;
            let spec = TokenSpec {
                method: method.clone(),
                format,
                ..spec(&url)
            };
            run(&call(spec)).await.unwrap_or_else(|f| panic!("{}", f));
            let host = url.trim_start_matches("http://").trim_end_matches("/token");
            let length = if length { "content-length: 0\r\n" } else { "" };
            let agent = env!("CARGO_PKG_VERSION");
            let wanted = format!(
                "{method} {target} HTTP/1.1\r\naccept: application/json\r\n{length}accept-encoding: gzip\r\nuser-agent: cupbearer/{agent}\r\nhost: {host}\r\n\r\n"
            );
            assert_eq!(server.recv().await.unwrap(), wanted);
        }
    }
    let (url, mut server) = serving(http("200 OK", "", GOOD)).await;
    run(&call(TokenSpec {
        body: Some(template("")),
        ..spec(&url)
    }))
    .await
    .ok()
    .unwrap();
    assert!(
        server
            .recv()
            .await
            .unwrap()
            .contains("content-length: 0\r\n"),
        "an empty form is no content either"
    );
}

#[tokio::test]
async fn the_key_of_the_guard_tells_secrets_partitions_and_urls_apart_and_shows_none() {
    let key = async |spec: TokenSpec, list: &[(&str, &str)], partition: &str| {
        let call = TokenCall {
            secrets: secrets(list),
            partition: vec![("customer".into(), partition.to_owned())],
            ..call(spec)
        };
        call.prepare(&[]).await.ok().unwrap().key().cloned()
    };
    let (one, other) = (
        [("client_id", "app"), ("client_secret", "s-one")],
        [("client_id", "app"), ("client_secret", "s-two")],
    );
    let base = key(spec("http://127.0.0.1:9/t"), &one, "a").await.unwrap();
    assert_eq!(
        Some(&base),
        key(spec("http://127.0.0.1:9/t"), &one, "a").await.as_ref()
    );
    assert_ne!(
        base.secret,
        key(spec("http://127.0.0.1:9/t"), &other, "a")
            .await
            .unwrap()
            .secret
    );
    assert_ne!(
        base,
        key(spec("http://127.0.0.1:9/t"), &one, "b").await.unwrap()
    );
    assert_ne!(
        base,
        key(spec("http://127.0.0.1:9/u"), &one, "a").await.unwrap()
    );
    let query = key(
        TokenSpec {
            format: ParamFormat::Query,
            ..spec("http://127.0.0.1:9/t")
        },
        &one,
        "a",
    )
    .await
    .unwrap();
    assert_eq!(query.url, "http://127.0.0.1:9/t");
    assert!(!format!("{base:?}{query:?}").contains("s-one"));
    assert!(
        key(
            TokenSpec {
                client_auth: ClientAuth::None,
                ..spec("http://127.0.0.1:9/t")
            },
            &one,
            "a"
        )
        .await
        .is_none()
    );
}

#[tokio::test]
async fn the_key_of_the_guard_is_known_before_the_first_call_and_without_the_parents() {
    let list = [
        ("client_id", "app"),
        ("client_secret", "s-one"),
        ("other", "x"),
    ];
    let child = TokenSpec {
        params: params(&[("partner", "{{ tokens.partner }}")]),
        ..spec("http://127.0.0.1:9/{{ secrets.client_id }}")
    };
    let whole = TokenCall {
        secrets: secrets(&list),
        ..call(spec("http://127.0.0.1:9/app"))
    };
    let key = whole.prepare(&[]).await.ok().unwrap().key().cloned();
    let values = whole.secrets.believed().unwrap();
    assert!(key.is_some());
    assert_eq!(guard_key(&profile(vec![child]), 0, "acme", &values), key);
    let of_a_request = spec("http://127.0.0.1:9/{{ partition.customer }}");
    assert_eq!(
        guard_key(&profile(vec![of_a_request]), 0, "acme", &values),
        None
    );
    assert_eq!(
        guard_key(
            &profile(vec![TokenSpec {
                client_auth: ClientAuth::None,
                ..spec("http://127.0.0.1:9/t")
            }]),
            0,
            "acme",
            &values
        ),
        None
    );
}

#[tokio::test]
async fn an_inline_secret_that_changed_is_used_by_the_next_attempt() {
    let (url, mut told) = serving(http("200 OK", "", GOOD)).await;
    let call = call(spec(&url));
    run(&call).await.ok().unwrap();
    call.secrets.adopt(Arc::new(set(&[
        ("client_id", "app"),
        ("client_secret", "new"),
    ])));
    run(&call).await.ok().unwrap();
    assert!(told.recv().await.unwrap().ends_with("s3cr3t%2Bvalue"));
    assert!(told.recv().await.unwrap().ends_with("client_secret=new"));
}

#[tokio::test]
async fn a_secret_that_cannot_be_read_sends_nothing() {
    let (url, mut told) = serving(http("200 OK", "", GOOD)).await;
    let gone = Source::File(PathBuf::from("/nonexistent/secret"));
    let set = Secrets {
        sources: [("client_secret".to_owned(), gone)].into(),
        names: vec!["client_secret".into()],
        ..Secrets::default()
    };
    let call = TokenCall {
        secrets: watcher(set),
        ..call(spec(&url))
    };
    let failure = failure(&call).await;
    assert_eq!(failure.class, FailureClass::Unreadable);
    assert!(failure.to_string().contains("client_secret"), "{}", failure);
    assert!(told.try_recv().is_err());
}

#[tokio::test]
async fn an_echoed_secret_is_scrubbed_and_a_redirect_is_not_followed() {
    let (other, mut silent) = serving(http("200 OK", "", GOOD)).await;
    let basic = base64::Engine::encode(
        &base64::engine::general_purpose::STANDARD,
        "app:s3cr3t%2Bvalue",
    );
    let body = format!(
        r#"{{"error":"invalid_client","error_description":"no: s3cr3t+value s3cr3t%2Bvalue {basic}"}}"#
    );
    let (url, _told) = serving(http("401 Unauthorized", "", &body)).await;
    let refused = failure(&call(TokenSpec {
        client_auth: ClientAuth::Basic,
        ..spec(&url)
    }))
    .await;
    assert_eq!(
        (refused.class, refused.status, refused.client_refused),
        (FailureClass::Rejected, Some(401), true)
    );
    assert_eq!(refused.to_string(), "invalid_client: no: *** *** ***");
    for status in [
        "301 Moved",
        "302 Found",
        "307 Temporary Redirect",
        "308 Permanent Redirect",
    ] {
        let (url, _told) = serving(http(status, &format!("location: {other}\r\n"), "")).await;
        assert_eq!(
            failure(&call(spec(&url))).await.class,
            FailureClass::Config,
            "{status}"
        );
    }
    assert!(silent.try_recv().is_err());
}

#[tokio::test]
async fn broken_answers_are_retried_and_named() {
    let large = "x".repeat(65 * 1024);
    let half = "HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{\"access".to_owned();
    let refusal = "HTTP/1.1 401 No\r\ncontent-length: 500\r\n\r\n{\"error".to_owned();
    let rows = [
        (
            http("200 OK", "", &large),
            FailureClass::Retry,
            "larger than 64 KiB",
        ),
        (half, FailureClass::Retry, ""),
        (refusal, FailureClass::Rejected, ""),
        (
            "garbage\r\n\r\n".to_owned(),
            FailureClass::Retry,
            "not HTTP",
        ),
        (String::new(), FailureClass::Retry, "closed"),
        (
            http("200 OK", "content-encoding: gzip\r\n", "no gzip"),
            FailureClass::Retry,
            "",
        ),
        (
            http("200 OK", "", "<html>"),
            FailureClass::Retry,
            "not JSON",
        ),
        (
            http("503 Busy", "retry-after: 9\r\n", ""),
            FailureClass::Retry,
            "503",
        ),
    ];
    for (answer, class, says) in rows {
        let (url, _told) = serving(answer.clone()).await;
        let failure = failure(&call(spec(&url))).await;
        assert_eq!(
            failure.class,
            class,
            "{} {}",
            &answer[..answer.len().min(60)],
            failure
        );
        assert!(
            failure.to_string().contains(says) && !failure.to_string().contains("http://"),
            "{}",
            failure
        );
    }
}

#[tokio::test]
async fn a_gzip_bomb_is_stopped_at_64_kib() {
    // {"access_token":"aaa…"} with 70,000 "a"; the zeros are one repeated back-reference.
    let mut bomb = hex(
        "1f8b0800000000000203edc1b10d00101000c05d7e0ccb88884a42412776b784f2ee4e945adb5a79cfde46a428",
    );
    bomb.extend([0; 67]);
    bomb.extend(hex("c077711f9e70a6ce83110100"));
    let mut answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: {}\r\n\r\n",
        bomb.len()
    )
    .into_bytes();
    answer.extend(bomb);
    let (url, _told) = serving(answer).await;
    let failure = failure(&call(spec(&url))).await;
    assert!(
        failure.class == FailureClass::Retry && failure.to_string().contains("larger than 64 KiB"),
        "{}",
        failure
    );
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap())
        .collect()
}

#[tokio::test]
async fn nobody_there_is_said_in_words_without_the_url() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/token?key=s3cr3t", listener.local_addr().unwrap());
    drop(listener);
    let refused = failure(&call(spec(&url))).await;
    assert_eq!(
        (refused.class, refused.to_string().as_str()),
        (FailureClass::Retry, "connection refused")
    );
    let unknown = failure(&call(spec("https://does-not-exist.invalid/token"))).await;
    assert!(
        unknown.class == FailureClass::Retry && unknown.to_string().contains("DNS"),
        "{}",
        unknown
    );
}

#[tokio::test]
async fn a_silent_or_dripping_server_ends_at_the_total_timeout_but_its_status_counts() {
    let hang = async |first: &'static str| {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/token", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let mut open: Vec<TcpStream> = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                heard(&mut stream).await;
                let _ = stream.write_all(first.as_bytes()).await;
                open.push(stream);
            }
        });
        failure(&call(TokenSpec {
            timeout: Duration::from_millis(150),
            ..spec(&url)
        }))
        .await
    };
    let silent = hang("").await;
    assert!(
        silent.class == FailureClass::Retry
            && silent.kind == FailureKind::NoAnswer(Duration::from_millis(150))
            && silent.to_string().contains("150ms"),
        "{}",
        silent
    );
    let partial = hang("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{").await;
    assert!(
        partial.class == FailureClass::Retry
            && matches!(partial.kind, FailureKind::Unfinished(_))
            && partial.status == Some(200),
        "{}",
        partial
    );
    let refused = hang("HTTP/1.1 401 No\r\ncontent-length: 100\r\n\r\n{").await;
    assert!(
        refused.class == FailureClass::Rejected && refused.status == Some(401),
        "{}",
        refused
    );
}

#[tokio::test]
async fn plaintext_to_elsewhere_is_refused_before_anything_is_sent() {
    let failure = failure(&call(spec("http://auth.example/token"))).await;
    assert!(
        failure.class == FailureClass::Config && failure.to_string().contains("allow_plaintext"),
        "{}",
        failure
    );
}

#[tokio::test]
async fn t12_a_rule_of_the_profile_decides_over_the_status() {
    let (url, _told) = serving(http("400 Bad", "", "{}")).await;
    let mut call = call(spec(&url));
    let rule = ErrorRule {
        at: RuleSide::Token,
        token: None,
        status: vec![StatusMatch::Exact(400)],
        path: None,
        test: None,
        json: None,
        then: RuleMeaning::Rejected,
        hold: None,
    };
    call.profile = Arc::new(Profile {
        errors: vec![rule],
        ..profile(vec![spec(&url)])
    });
    assert_eq!(failure(&call).await.class, FailureClass::Rejected);
}

pub(super) fn signed_with_the_secret() -> Assertion {
    Assertion {
        alg: jsonwebtoken::Algorithm::HS256,
        key: template("{{ secrets.client_secret }}"),
        header: BTreeMap::new(),
        claims: BTreeMap::new(),
        lifetime: Duration::from_secs(45),
    }
}

#[tokio::test]
async fn an_assertion_can_be_the_client_or_the_token_itself() {
    let own = signed_with_the_secret();
    let (url, mut told) = serving(http("200 OK", "", GOOD)).await;
    let jwt = call(TokenSpec {
        client_auth: ClientAuth::ClientSecretJwt,
        assertion: Some(own.clone()),
        ..spec(&url)
    });
    run(&jwt).await.ok().unwrap();
    run(&jwt).await.ok().unwrap();
    let (first, second) = (told.recv().await.unwrap(), told.recv().await.unwrap());
    assert!(first.contains("&client_assertion=eyJ") && !first.contains("client_id="));
    assert_ne!(first, second);
    let itself = TokenSpec {
        url: None,
        format: ParamFormat::None,
        assertion: Some(own),
        ..spec(&url)
    };
    let prepared = call(itself).prepare(&[]).await.ok().unwrap();
    assert!(prepared.key().is_none());
    let issued = prepared.send().await.ok().unwrap();
    assert_eq!(
        (issued.life, issued.value.split('.').count()),
        (Some(Duration::from_secs(45)), 3)
    );
}

#[tokio::test(start_paused = true)]
async fn an_attempt_is_rendered_and_signed_once_and_that_is_what_is_sent() {
    let itself = TokenSpec {
        url: None,
        format: ParamFormat::None,
        assertion: Some(signed_with_the_secret()),
        ..spec("http://127.0.0.1:9/t")
    };
    let call = call(itself);
    // The secrets are looked at on another thread, for which a clock that stands still does not
    // wait.
    call.secrets.values().await.unwrap();
    let begun = BootInstant::now();
    let prepared = call.prepare(&[]).await.ok().unwrap();
    let ready = BootInstant::now();
    tokio::time::advance(Duration::from_mins(10)).await;
    let issued = prepared.send().await.ok().unwrap();
    assert!(
        (begun..=ready).contains(&issued.sent),
        "it lives from when it was dated"
    );
}

#[tokio::test]
async fn a_child_is_made_with_its_parents_token() {
    let (url, mut told) = serving(http("200 OK", "", GOOD)).await;
    let parent = TokenSpec {
        name: "partner".into(),
        ..spec(&url)
    };
    let headers = vec![(
        HeaderName::from_static("authorization"),
        template("Bearer {{ tokens.partner }}"),
    )];
    let child = TokenSpec {
        name: "session".into(),
        headers,
        method: Method::PUT,
        client_auth: ClientAuth::None,
        params: params(&[("instance", "{{ vars.instance }}")]),
        parents: vec![0],
        ..spec(&url)
    };
    let mut call = call(child.clone());
    call.profile = Arc::new(profile(vec![parent, child]));
    call.index = 1;
    let now = BootInstant::now();
    let issued = Issued {
        value: Arc::new(Zeroizing::new("parent-token".into())),
        sent: now,
        life: None,
        implausible: false,
        vars: [("instance".to_owned(), "eu1".to_owned())].into(),
    };
    let token = Token {
        number: 1,
        issued,
        parents: vec![],
        expires: now,
        send_until: now,
        refresh_at: now,
    };
    call.prepare(&[Arc::new(token)])
        .await
        .ok()
        .unwrap()
        .send()
        .await
        .ok()
        .unwrap();
    let heard = told.recv().await.unwrap();
    assert!(
        heard.starts_with("PUT /token") && heard.contains("authorization: Bearer parent-token"),
        "{heard}"
    );
    assert!(
        heard.ends_with("grant_type=client_credentials&instance=eu1"),
        "{heard}"
    );
}
