//! Answers of real servers: content codings, and clocks that differ.

use std::io::Write;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use flate2::{Compression, write::GzEncoder};

use super::{
    tests::{GOOD, call, failure, heard, run, serving, signed_with_the_secret},
    *,
};
use crate::{client_auth::ClientAuth, oauth::testing::spec};

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut out = GzEncoder::new(Vec::new(), Compression::default());
    out.write_all(text).unwrap();
    out.finish().unwrap()
}

fn packed(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let mut answer = format!(
        "HTTP/1.1 {status}\r\ncontent-length: {}\r\n{headers}\r\n",
        body.len()
    )
    .into_bytes();
    answer.extend(body);
    answer
}

#[tokio::test]
async fn an_answer_and_a_refusal_are_read_in_every_spelling_of_their_coding() {
    let refusal = br#"{"error":"invalid_client","error_description":"no"}"#;
    for headers in [
        "content-encoding: gzip\r\n",
        "Content-Encoding: GZIP\r\n",
        "content-encoding: x-gzip\r\n",
        "content-encoding: gzip, identity\r\n",
        "content-encoding: identity\r\ncontent-encoding: Gzip\r\n",
    ] {
        let (url, _told) = serving(packed("200 OK", headers, &gzip(GOOD.as_bytes()))).await;
        let issued = run(&call(spec(&url)))
            .await
            .unwrap_or_else(|f| panic!("{headers}: {f}"));
        assert_eq!(issued.value.as_str(), "tok-1", "{headers}");
        let (url, _told) = serving(packed("400 Bad", headers, &gzip(refusal))).await;
        let refused = failure(&call(spec(&url))).await;
        assert_eq!(
            (refused.class, refused.to_string().as_str()),
            (FailureClass::Rejected, "invalid_client: no"),
            "{headers}"
        );
    }
}

#[tokio::test]
async fn an_unknown_coding_is_named_whatever_the_status() {
    let coded = "content-encoding: br\r\n";
    for (status, class) in [
        ("200 OK", FailureClass::Retry),
        ("400 Bad", FailureClass::Config),
        ("401 No", FailureClass::Rejected),
        ("503 Busy", FailureClass::Retry),
    ] {
        let (url, _told) = serving(packed(status, coded, b"\x0b\x02\x80")).await;
        let failed = failure(&call(spec(&url))).await;
        assert_eq!(failed.class, class, "{status}");
        assert!(
            failed.to_string().contains("content coding \"br\""),
            "{status}: {failed}"
        );
    }
}

#[tokio::test]
async fn an_answer_of_64_kib_is_read_and_one_byte_more_is_not_in_any_coding() {
    let body = |length: usize| {
        // No run that could be packed: what is packed is longer than what is not.
        let noise: String = (0..length)
            .map(|i| char::from(b'a' + u8::try_from((i * i * 7 + i / 3) % 26).unwrap()))
            .collect();
        let frame = "{\"access_token\":\"t\",\"x\":\"\"}";
        format!(
            "{{\"access_token\":\"t\",\"x\":\"{}\"}}",
            &noise[..length - frame.len()]
        )
    };
    let limit = 64 * 1024;
    for (length, read) in [
        (limit - 1, true),
        (limit, true),
        (limit + 1, false),
        (limit * 2, false),
    ] {
        let text = body(length);
        assert_eq!(text.len(), length);
        let mut stored = GzEncoder::new(Vec::new(), Compression::none());
        stored.write_all(text.as_bytes()).unwrap();
        for answer in [
            packed("200 OK", "", text.as_bytes()),
            packed(
                "200 OK",
                "content-encoding: gzip\r\n",
                &stored.finish().unwrap(),
            ),
        ] {
            let (url, _told) = serving(answer).await;
            match run(&call(spec(&url))).await {
                Ok(_) => assert!(read, "{length}"),
                Err(failed) => assert!(
                    !read && failed.to_string().contains("larger than 64 KiB"),
                    "{length}: {failed}"
                ),
            }
        }
    }
}

fn signed(url: &str) -> TokenSpec {
    TokenSpec {
        client_auth: ClientAuth::ClientSecretJwt,
        assertion: Some(signed_with_the_secret()),
        ..spec(url)
    }
}

fn date(ahead: i64) -> String {
    let now = std::time::UNIX_EPOCH + BootInstant::now().wall();
    let by = Duration::from_secs(ahead.unsigned_abs());
    format!(
        "date: {}\r\n",
        httpdate::fmt_http_date(if ahead < 0 { now - by } else { now + by })
    )
}

#[tokio::test]
async fn c7_a_refused_assertion_is_told_how_far_its_clock_is_from_the_vendors() {
    for (ahead, how) in [
        (-300, Some("ahead of")),
        (300, Some("behind")),
        (70, Some("behind")),
        (50, None),
        (-50, None),
        (0, None),
    ] {
        for status in ["401 No", "400 Bad"] {
            let (url, _told) = serving(packed(
                status,
                &date(ahead),
                br#"{"error":"invalid_client"}"#,
            ))
            .await;
            let refused = failure(&call(signed(&url))).await;
            // A second is lost in the date, another while the call runs.
            let told = how.is_some_and(|how| {
                (-2..=2).any(|s| {
                    refused
                        .to_string()
                        .contains(&format!(" is {} s {how} the vendor's", i64::abs(ahead) + s))
                })
            });
            assert_eq!(told, how.is_some(), "{ahead}: {refused}");
            let class = if how.is_some() {
                FailureClass::Config
            } else {
                FailureClass::Rejected
            };
            // The client was refused in either case: an account's budget counts it.
            assert_eq!(
                (refused.class, refused.client_refused),
                (class, true),
                "{ahead}"
            );
            let undated = failure(&call(spec(&url))).await;
            assert_eq!(
                undated.class,
                FailureClass::Rejected,
                "without an assertion no clock of ours was told"
            );
            assert!(!undated.to_string().contains("clock"), "{}", undated);
        }
    }
}

/// The claims of the assertion in a form.
fn claims(heard: &str) -> serde_json::Value {
    let jwt = heard.split("client_assertion=").nth(1).unwrap();
    serde_json::from_slice(
        &URL_SAFE_NO_PAD
            .decode(jwt.split('.').nth(1).unwrap())
            .unwrap(),
    )
    .unwrap()
}

#[tokio::test]
async fn later_assertions_follow_the_date_of_the_answer_that_refused_one_and_come_back_with_it() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/token", listener.local_addr().unwrap());
    // The vendor's clock: two hours behind, then right again.
    let clocks = [-7200, -7200, 0, 0];
    let server = tokio::spawn(async move {
        let mut seen = Vec::new();
        for ahead in clocks {
            let (mut stream, _) = listener.accept().await.unwrap();
            seen.push(claims(&heard(&mut stream).await));
            let answer = packed("401 No", &date(ahead), b"");
            tokio::io::AsyncWriteExt::write_all(&mut stream, &answer)
                .await
                .unwrap();
        }
        seen
    });
    let mut spec = signed(&url);
    spec.assertion
        .as_mut()
        .unwrap()
        .claims
        .insert("nbf".into(), crate::oauth::testing::text("{{ now.epoch }}"));
    let call = call(spec);
    let mut classes = Vec::new();
    for _ in clocks {
        classes.push(failure(&call).await.class);
    }
    assert_eq!(
        classes,
        [
            FailureClass::Config,
            FailureClass::Rejected,
            FailureClass::Config,
            FailureClass::Rejected
        ],
        "dated rightly, a refusal is one"
    );
    let now = i64::try_from(BootInstant::now().wall().as_secs()).unwrap();
    for (claims, ahead) in server.await.unwrap().iter().zip([0, -7200, -7200, 0]) {
        let of = |name: &str| claims[name].as_i64().unwrap() - now - ahead;
        assert!(
            of("iat").abs() < 30 && of("nbf").abs() < 30 && (of("exp") - 45).abs() < 30,
            "{claims} at {ahead}"
        );
    }
}

#[tokio::test]
async fn a_date_that_no_one_can_read_blames_no_clock() {
    for line in [
        "date: yesterday\r\n",
        "date: Thu, 99 Foo 2026 00:00:00 GMT\r\n",
        "date: \r\n",
        "",
    ] {
        let (url, _told) = serving(packed("401 No", line, b"")).await;
        assert_eq!(
            failure(&call(signed(&url))).await.class,
            FailureClass::Rejected,
            "{line}"
        );
    }
    // All three forms of RFC 9110 5.6.7.
    for form in [
        "Sun, 06 Nov 1994 08:49:37 GMT",
        "Sunday, 06-Nov-94 08:49:37 GMT",
        "Sun Nov  6 08:49:37 1994",
        "Fri, 31 Dec 9999 23:59:59 GMT",
    ] {
        let (url, _told) = serving(packed("401 No", &format!("date: {form}\r\n"), b"")).await;
        let call = call(signed(&url));
        assert_eq!(failure(&call).await.class, FailureClass::Config, "{form}");
        // Dated by a clock that no machine has, it is still a call.
        let _ = failure(&call).await;
    }
}
