//! Every way a token endpoint can fail, from its answer to the caller's: classified, bounded, told
//! in our own words, and mended without a restart.

use std::{
    io::Write as _,
    ops::RangeInclusive,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::{
    endpoint::Endpoint,
    issuer::Issuer,
    ledger::age,
    sidecar::{Sidecar, plain},
    tokens::Tokens,
    vendor::{Need, Raw, Vendor},
    wait::until,
    wire::{Answer, Reply, Step},
};

/// What the endpoint does, what a caller is told, and how the credential comes back once the
/// endpoint is well.
struct Case {
    name: &'static str,
    does: Does,
    class: Class,
    back: Back,
}

enum Does {
    Refuses,
    Answers(Answer),
}

#[derive(Clone, Copy, PartialEq)]
enum Class {
    Retry,
    /// While it hangs.
    Hangs,
    /// Waits so many seconds, as the vendor said or as the rules say.
    Waits(&'static str, u64),
    Config,
    Rejected,
}

#[derive(Clone, Copy, PartialEq)]
enum Back {
    Alone,
    Refresh,
    Unlatch,
    /// In an hour.
    Late,
}

impl Class {
    fn outcome(self) -> &'static str {
        match self {
            Self::Retry | Self::Hangs => "retry",
            Self::Waits(outcome, _) => outcome,
            Self::Config => "config",
            Self::Rejected => "rejected",
        }
    }

    /// Status, code, and seconds of Retry-After.
    fn told(self) -> (u16, &'static str, Option<RangeInclusive<u64>>) {
        match self {
            Self::Retry => (503, "token_unavailable", Some(1..=30)),
            Self::Hangs => (504, "token_timeout", None),
            Self::Waits(_, seconds) => (
                503,
                "token_unavailable",
                Some(seconds / 2..=seconds.max(30)),
            ),
            Self::Config => (502, "token_misconfigured", Some(45..=60)),
            Self::Rejected => (502, "token_rejected", Some(20..=30)),
        }
    }

    /// Between two calls that nobody asked for by hand, less what a call may take to arrive on a
    /// busy machine.
    fn least_gap(self) -> Duration {
        Duration::from_millis(match self {
            Self::Retry => 100,
            Self::Hangs | Self::Config | Self::Rejected => 800,
            Self::Waits(_, seconds) => 900 * seconds,
        })
    }
}

/// What a vendor says of itself; nobody else may repeat it.
const WORDS: &str = "v3nd0r-w0rds";

fn case(name: &'static str, answer: impl Into<Answer>, class: Class) -> Case {
    let back = match class {
        Class::Config => Back::Refresh,
        Class::Rejected => Back::Unlatch,
        _ => Back::Alone,
    };
    Case {
        name,
        does: Does::Answers(answer.into()),
        class,
        back,
    }
}

fn error(status: u16, code: &str) -> Reply {
    Reply::json(
        status,
        &json!({ "error": code, "error_description": WORDS }),
    )
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "`json!` at the call reads best"
)]
fn granted(more: Value) -> Reply {
    let mut body =
        json!({ "access_token": "tok-good", "token_type": "Bearer", "expires_in": 3600 });
    body.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    Reply::json(200, &body)
}

fn raw(bytes: impl Into<Vec<u8>>) -> Answer {
    Answer::Raw(vec![Step::Bytes(bytes.into())])
}

/// All of them at the same time, so that one that waits keeps no other waiting.
async fn all(cases: Vec<Case>) {
    futures_util::future::join_all(cases.into_iter().map(one)).await;
}

async fn one(case: Case) {
    let Case {
        name,
        does,
        class,
        back,
    } = case;
    let tokens = Tokens::default();
    let issuer = Issuer::start(
        &tokens,
        vec![Endpoint::new("/token", "acme", "s3cret-acme")],
    )
    .await;
    let vendor = Vendor::start(&tokens, vec![Need::Bearer("access")]).await;
    match does {
        Does::Refuses => issuer.down().await,
        Does::Answers(answer) => issuer.always(Some(answer)),
    }
    let text = plain("acme", &format!("{}/token", issuer.url()), &vendor.url());
    // The call's own timeout is short, so that one that hangs ends within the test; the caller's
    // patience is shorter.
    let times =
        "timeouts = { token = \"100ms\" }\n[credentials.acme.tokens.access]\ntimeout = \"1s\"\n";
    let memory = tempfile::tempdir().unwrap();
    let began = Instant::now();
    let sidecar = Sidecar::start(&format!(
        "{text}{times}[state]\ndir = \"{}\"\n",
        memory.path().display()
    ))
    .await;
    if class != Class::Hangs {
        until(name, async || {
            !sidecar.token("acme", "access").await["last_failure"].is_null()
        })
        .await;
        let failure = sidecar.token("acme", "access").await["last_failure"].clone();
        assert_eq!(failure["class"], class.outcome(), "{name}: {failure}");
    }
    let calls = issuer.calls("/token");

    let (status, code, after) = class.told();
    until(name, async || {
        let answer = sidecar.get("/acme/x").await;
        let (got, header) = (
            answer.status().as_u16(),
            answer.headers().get("retry-after").cloned(),
        );
        let body: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
        let meanwhile =
            got != status || (got == 503 && header.as_ref().is_some_and(|after| after == "1"));
        if meanwhile && matches!(got, 503 | 504) && matches!(class, Class::Waits(..) | Class::Hangs)
            || (got == 504 && class == Class::Retry)
        {
            // It was asked while the next call was under way, or between two that hang.
            return false;
        }
        assert_eq!(
            (got, body["code"].as_str()),
            (status, Some(code)),
            "{name}: {body}"
        );
        assert_eq!(
            (body["credential"].as_str(), body["token"].as_str()),
            (Some("acme"), Some("access")),
            "{name}"
        );
        assert!(!body.to_string().contains(WORDS), "{name}: {body}");
        let seconds = header.map(|h| h.to_str().unwrap().parse::<u64>().unwrap());
        assert_eq!(body["retry_after"].as_u64(), seconds, "{name}");
        match &after {
            Some(range) => assert!(
                seconds.is_some_and(|s| range.contains(&s)),
                "{name}: Retry-After {seconds:?}"
            ),
            None => assert_eq!(seconds, None, "{name}"),
        }
        true
    })
    .await;
    let mut crowd = JoinSet::new();
    for _ in 0..20 {
        let request = sidecar.client.get(sidecar.url("/acme/x"));
        crowd.spawn(async move { request.send().await.unwrap().status().as_u16() });
    }
    while let Some(got) = crowd.join_next().await {
        assert!((502..=504).contains(&got.unwrap()), "{name}");
    }
    assert_eq!(
        vendor.counts().requests,
        0,
        "{name}: nothing goes out without a token"
    );
    // On a machine that is busy enough the next call has become due meanwhile; nobody's request
    // caused it.
    let soonest = after.as_ref().map_or(0, |after| *after.start());
    let due = matches!(class, Class::Retry | Class::Waits(_, 0..=2))
        || began.elapsed() >= Duration::from_secs(soonest);
    if !due {
        assert_eq!(
            issuer.calls("/token"),
            calls,
            "{name}: callers cause no calls"
        );
    }

    issuer.always(None);
    if matches!(class, Class::Retry) && calls == 0 {
        issuer.up().await;
    }
    match back {
        Back::Alone => {}
        Back::Refresh => sidecar.until_refreshed("acme", "access", 1).await,
        Back::Unlatch => {
            age(memory.path(), Duration::from_secs(31));
            assert_eq!(
                sidecar.post_admin("/api/credentials/acme/unlatch").await,
                202,
                "{name}"
            );
        }
        Back::Late => return,
    }
    sidecar.until_get("/acme/x", 200).await;
    let times: Vec<_> = issuer.seen().iter().map(|s| s.request.at).collect();
    for pair in times.windows(2).filter(|_| back == Back::Alone) {
        assert!(
            pair[1] - pair[0] >= class.least_gap(),
            "{name}: {:?} between two calls",
            pair[1] - pair[0]
        );
    }
    for outcome in ["retry", "throttled", "rejected", "config"] {
        let counted =
            sidecar.metric(&format!("cupbearer_token_requests_total{{credential=\"acme\",outcome=\"{outcome}\",token=\"access\"}}")).await;
        assert_eq!(
            counted > 0.0,
            outcome == class.outcome(),
            "{name}: {counted} times {outcome}"
        );
    }
    assert_eq!(
        sidecar.token("acme", "access").await["last_failure"],
        Value::Null,
        "{name}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_is_gone_or_hangs_is_asked_again_by_itself() {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 90\r\n\r\n";
    let drip = |text: &str| Step::Drip(text.repeat(100).into_bytes(), Duration::from_millis(50));
    all(vec![
        Case {
            name: "connection refused",
            does: Does::Refuses,
            class: Class::Retry,
            back: Back::Alone,
        },
        case("reset", Answer::Raw(vec![Step::Reset]), Class::Retry),
        case("closed without a word", Answer::Raw(vec![]), Class::Retry),
        case(
            "not HTTP",
            raw("220 mail.acme.test ESMTP\r\n\r\n"),
            Class::Retry,
        ),
        case("hangs", Answer::Raw(vec![Step::Hang]), Class::Hangs),
        case(
            "hangs after the head",
            Answer::Raw(vec![Step::Bytes(head.into()), Step::Hang]),
            Class::Hangs,
        ),
        case("drips its head", Answer::Raw(vec![drip("H")]), Class::Hangs),
        case(
            "drips its body",
            Answer::Raw(vec![Step::Bytes(head.into()), drip("{")]),
            Class::Hangs,
        ),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r8_t5_each_status_has_its_class() {
    let soon =
        httpdate::fmt_http_date(std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_002));
    let date =
        httpdate::fmt_http_date(std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000));
    let throttled = |after: &str| error(429, "slow_down").with("Retry-After", after);
    all(vec![
        case("500", Reply::new(500, WORDS), Class::Retry),
        case(
            "502 of a balancer",
            Reply::new(502, format!("<html>{WORDS}</html>")),
            Class::Retry,
        ),
        case(
            "503 that says when",
            Reply::new(503, "").with("Retry-After", "2"),
            Class::Waits("retry", 2),
        ),
        case("408", error(408, "timeout"), Class::Retry),
        case("425", Reply::new(425, ""), Class::Retry),
        case(
            "temporarily_unavailable",
            error(400, "temporarily_unavailable"),
            Class::Retry,
        ),
        case("server_error", error(400, "server_error"), Class::Retry),
        case(
            "429 that says when",
            throttled("2"),
            Class::Waits("throttled", 2),
        ),
        case(
            "429 with a date",
            throttled(&soon).with("Date", &date),
            Class::Waits("throttled", 2),
        ),
        Case {
            back: Back::Refresh,
            ..case(
                "429 that does not say",
                error(429, "slow_down"),
                Class::Waits("retry", 5),
            )
        },
        Case {
            back: Back::Late,
            ..case(
                "429 for days",
                throttled("999999"),
                Class::Waits("throttled", 3600),
            )
        },
        case(
            "invalid_client",
            error(400, "invalid_client"),
            Class::Rejected,
        ),
        case("bare 401", Reply::new(401, WORDS), Class::Rejected),
        case(
            "unauthorized_client",
            error(400, "unauthorized_client"),
            Class::Rejected,
        ),
        case(
            "invalid_grant",
            error(403, "invalid_grant"),
            Class::Rejected,
        ),
        case(
            "access_denied",
            error(403, "access_denied"),
            Class::Rejected,
        ),
        case("invalid_scope", error(400, "invalid_scope"), Class::Config),
        case(
            "unsupported_grant_type",
            error(400, "unsupported_grant_type"),
            Class::Config,
        ),
        case(
            "403 of a firewall",
            Reply::new(403, format!("<html>{WORDS}</html>")),
            Class::Config,
        ),
        case("404", Reply::new(404, WORDS), Class::Config),
        case("405", error(405, "no"), Class::Config),
        case(
            "200 with an error in it",
            error(200, "invalid_client"),
            Class::Config,
        ),
        case("204", Reply::new(204, ""), Class::Retry),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_make_no_sense_are_never_a_token() {
    let mut bomb = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    bomb.write_all(&vec![b' '; 16 << 20]).unwrap();
    let bomb = Reply::new(200, bomb.finish().unwrap())
        .with("Content-Encoding", "gzip")
        .with("Content-Type", "application/json");
    let endless = Reply {
        body: crate::support::wire::Body::Long(10 << 20),
        ..Reply::json(200, &json!(null))
    };
    let whole = "{\"access_token\":\"tok\",\"expires_in\":3600}";
    let cut = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{}",
        whole.len(),
        &whole[..30]
    );
    let chunk = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n{";
    all(vec![
        case(
            "HTML",
            Reply::new(200, format!("<html>{WORDS}</html>")).with("Content-Type", "text/html"),
            Class::Retry,
        ),
        case("nothing", Reply::new(200, ""), Class::Retry),
        case(
            "truncated JSON",
            Reply::new(200, &whole.as_bytes()[..30]),
            Class::Retry,
        ),
        case("broken off", raw(cut), Class::Retry),
        case("a chunk of impossible size", raw(chunk), Class::Retry),
        case(
            "NaN, which is no JSON",
            Reply::new(200, "{\"access_token\":\"tok\",\"expires_in\":NaN}"),
            Class::Retry,
        ),
        case(
            "not UTF-8",
            Reply::new(200, &b"{\"access_token\":\"tok\xff\xfe\"}"[..]),
            Class::Retry,
        ),
        case("10 MB", endless, Class::Retry),
        case("gzip bomb", bomb, Class::Retry),
        case(
            "gzip that is none",
            granted(json!({})).with("Content-Encoding", "gzip"),
            Class::Retry,
        ),
        case(
            "a coding that nobody asked for",
            Reply::new(200, WORDS).with("Content-Encoding", "br"),
            Class::Retry,
        ),
        case(
            "packed eleven times",
            Reply::new(200, WORDS).with("Content-Encoding", "gzip, ".repeat(11).as_str()),
            Class::Retry,
        ),
        case(
            "a flood of header fields",
            raw(format!(
                "HTTP/1.1 200 OK\r\n{}\r\n",
                "X-A: b\r\n".repeat(20_000)
            )),
            Class::Retry,
        ),
        case(
            "nested without end",
            Reply::new(200, "[".repeat(60_000)),
            Class::Retry,
        ),
        case("null", Reply::new(200, "null"), Class::Config),
        case(
            "an array",
            Reply::new(200, format!("[\"{WORDS}\"]")),
            Class::Config,
        ),
        case(
            "no token",
            Reply::json(200, &json!({ "token": WORDS })),
            Class::Config,
        ),
        case(
            "a number for a token",
            granted(json!({ "access_token": 42 })),
            Class::Config,
        ),
        case(
            "a table for a token",
            granted(json!({ "access_token": { "value": WORDS } })),
            Class::Config,
        ),
        case(
            "a null for a token",
            granted(json!({ "access_token": null })),
            Class::Config,
        ),
        case(
            "an empty token",
            granted(json!({ "access_token": "" })),
            Class::Config,
        ),
        case(
            "CR and LF in the token",
            granted(json!({ "access_token": format!("tok\r\nX-Evil: {WORDS}") })),
            Class::Config,
        ),
        case(
            "NUL in the token",
            granted(json!({ "access_token": format!("tok\0{WORDS}") })),
            Class::Config,
        ),
        case(
            "a blank in the token",
            granted(json!({ "access_token": format!("tok {WORDS}") })),
            Class::Config,
        ),
        case(
            "a token that is not ASCII",
            granted(json!({ "access_token": format!("tök{WORDS}") })),
            Class::Config,
        ),
        case(
            "a token of 17 KiB",
            granted(json!({ "access_token": "t".repeat(17 << 10) })),
            Class::Config,
        ),
        case(
            "a number beyond all numbers for a token",
            Reply::new(200, "{\"access_token\":1e999}"),
            Class::Config,
        ),
        case(
            "half a surrogate pair in the token",
            Reply::new(200, "{\"access_token\":\"tok\\ud800\"}"),
            Class::Config,
        ),
        case(
            "DPoP",
            granted(json!({ "token_type": "DPoP" })),
            Class::Config,
        ),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_is_not_followed_and_the_other_server_hears_nothing() {
    for status in [301, 302, 303, 307, 308] {
        let other = Raw::start().await;
        let location = format!("{}/token", other.url());
        one(case(
            "redirect",
            Reply::new(status, "").with("Location", &location),
            Class::Config,
        ))
        .await;
        assert!(other.is_silent().await, "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn t4_no_lifetime_is_believed_that_makes_no_sense_and_none_makes_a_hot_loop() {
    // What the answer says, the life that is believed in seconds, and whether it is counted as
    // implausible.
    let cases = [
        (json!(0), 300, true),
        (json!(0.5), 300, true),
        (json!(-1), 300, true),
        (json!(1e12), 300, true),
        (json!(34_560_001), 300, true),
        (json!("NaN"), 300, true),
        (json!("soon"), 300, true),
        (json!(true), 300, true),
        (json!([3600]), 300, true),
        (Value::Null, 300, false),
        (json!("3600"), 3600, false),
        (json!(3600.0), 3600, false),
        (json!(34_560_000), 34_560_000, false),
    ];
    for (said, life, implausible) in cases {
        let tokens = Tokens::default();
        let issuer = Issuer::start(
            &tokens,
            vec![Endpoint::new("/token", "acme", "s3cret-acme")],
        )
        .await;
        let vendor = Vendor::start(&tokens, vec![Need::Bearer("access")]).await;
        tokens.add("tok-good", "access", "acme", "", Duration::from_hours(1));
        issuer.always(Some(granted(json!({ "expires_in": said })).into()));
        let sidecar = Sidecar::start(&plain(
            "acme",
            &format!("{}/token", issuer.url()),
            &vendor.url(),
        ))
        .await;
        for _ in 0..20 {
            assert_eq!(sidecar.status_of("/acme/x").await, 200, "{said}");
        }
        let token = sidecar.token("acme", "access").await;
        let at = |name: &str| {
            token[name]
                .as_str()
                .unwrap()
                .parse::<jiff::Timestamp>()
                .unwrap()
                .as_second()
        };
        assert!(
            (at("expires_at") - at("obtained_at")).abs_diff(life) <= 1,
            "{said}: {token}"
        );
        let counted = sidecar
            .metric(
                "cupbearer_token_lifetime_implausible_total{credential=\"acme\",token=\"access\"}",
            )
            .await;
        assert_eq!(counted > 0.0, implausible, "{said}");
        assert_eq!(issuer.calls("/token"), 1, "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_lives_a_blink_makes_no_hot_loop_either() {
    let tokens = Tokens::default();
    let blink = Endpoint {
        life: Duration::from_millis(50),
        says: Some(json!(0.05)),
        ..Endpoint::new("/token", "acme", "s3cret-acme")
    };
    let issuer = Issuer::start(&tokens, vec![blink]).await;
    let vendor = Vendor::start(&tokens, vec![Need::Bearer("access")]).await;
    let sidecar = Sidecar::start(&plain(
        "acme",
        &format!("{}/token", issuer.url()),
        &vendor.url(),
    ))
    .await;
    let mut crowd = JoinSet::new();
    for _ in 0..100 {
        let request = sidecar.client.get(sidecar.url("/acme/x"));
        crowd.spawn(async move { request.send().await.unwrap() });
    }
    while let Some(answer) = crowd.join_next().await {
        answer.unwrap();
    }
    // Its life is not believed, so it is sent until the vendor says no; each such refusal may cause
    // one call, six a minute.
    let calls = issuer.calls("/token");
    assert!((1..=7).contains(&calls), "{calls} calls");
    assert!(
        sidecar
            .metric(
                "cupbearer_token_lifetime_implausible_total{credential=\"acme\",token=\"access\"}"
            )
            .await
            > 0.5
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_believed_for_a_blink_is_asked_for_no_more_often_than_the_same_one_again() {
    let tokens = Tokens::default();
    let issuer = Issuer::start(
        &tokens,
        vec![Endpoint::new("/token", "acme", "s3cret-acme")],
    )
    .await;
    let vendor = Vendor::start(&tokens, vec![Need::Bearer("access")]).await;
    let capped = "[credentials.acme.tokens.access.lifetime]\ncap = \"10ms\"\n";
    let sidecar = Sidecar::start(
        &(plain("acme", &format!("{}/token", issuer.url()), &vendor.url()) + capped),
    )
    .await;
    let mut crowd = JoinSet::new();
    for _ in 0..100 {
        let request = sidecar.client.get(sidecar.url("/acme/x"));
        crowd.spawn(async move { request.send().await.unwrap() });
    }
    issuer.wait(3).await;
    let times: Vec<_> = issuer.seen().iter().map(|s| s.request.at).collect();
    // No more often than the same token again.
    assert!(
        times
            .windows(2)
            .all(|pair| pair[1] - pair[0] >= Duration::from_millis(4900)),
        "{times:?}"
    );
}
