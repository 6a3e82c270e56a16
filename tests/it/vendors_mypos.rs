//! A strict issuer with two chained tokens that locks its account after three wrong attempts, as
//! myPOS does.

use std::time::Duration;

use serde_json::json;

use crate::support::{
    endpoint::{Auth, Endpoint, Format},
    issuer::{Issuer, Outcome},
    sidecar::Sidecar,
    stanza::Stanza,
    tokens::Tokens,
    vendor::{Counts, Need, Vendor},
    wait::until,
    wire::Reply,
};

pub const PARTNER: &str = "/api/v1/oauth/token";
pub const SESSION: &str = "/api/v1/auth/session";

/// Partner and session endpoint with their rules. Sessions say an hour and live five minutes.
pub fn endpoints() -> Vec<Endpoint> {
    let mut partner = Endpoint::new(PARTNER, "client_p", "secret_p");
    partner.name = "partner".into();
    partner.lock_after = Some(3);
    let mut session = Endpoint::new(SESSION, "cli_m", "sec_m");
    session.name = "session".into();
    session.format = Format::Json;
    session.auth = Auth::Body;
    session.grant = None;
    session.bearer = Some("partner".into());
    session.field = "session";
    session.life = Duration::from_mins(5);
    session.says = Some(json!(3600));
    session.lock_after = Some(3);
    session.problem_details = true;
    session.refuses_with = 400;
    vec![partner, session]
}

pub async fn api(tokens: &Tokens) -> Vendor {
    let fixed = |header, value: &str| Need::Exact(header, value.into());
    let ids = [
        fixed("x-partner-id", "mps-p-1"),
        fixed("x-application-id", "mps-app-1"),
    ];
    Vendor::start(
        tokens,
        [
            Need::Bearer("partner"),
            Need::Header("x-session", "session"),
        ]
        .into_iter()
        .chain(ids)
        .collect(),
    )
    .await
}

/// The profile with both secrets in files of these contents.
pub fn stanza(issuer: &Issuer, partner: &str, merchant: &str) -> Stanza {
    let settings = format!(
        r#"base = "{}", partner_id = "mps-p-1", application_id = "mps-app-1""#,
        issuer.url()
    );
    let secrets = r#"client_id = "client_p", client_secret = { file = "partner" },
        merchant_client_id = "cli_m", merchant_client_secret = { file = "merchant" }"#;
    let secrets = secrets.split_whitespace().collect::<Vec<_>>().join(" ");
    Stanza::new("mypos", &settings, &secrets)
        .file("partner", partner)
        .file("merchant", merchant)
}

/// Status and code of `n` calls made at once, and which token is named.
async fn refusals(sidecar: &Sidecar, n: usize) -> Vec<(u16, String, String)> {
    let text = |v: &serde_json::Value| v.as_str().unwrap_or_default().to_owned();
    let calls = (0..n).map(|_| async {
        let (status, body) = sidecar.refusal("/mypos/pos/v1/x").await;
        (status, text(&body["code"]), text(&body["token"]))
    });
    futures_util::future::join_all(calls).await
}

fn wrong(issuer: &Issuer, path: &str) -> (u32, bool) {
    let mut seen = (0, false);
    issuer.change(path, |e| seen = (e.wrong, e.is_locked()));
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_carries_both_tokens_and_both_identifiers() {
    let tokens = Tokens::default();
    let issuer = Issuer::start(&tokens, endpoints()).await;
    let vendor = api(&tokens).await;
    let sidecar = stanza(&issuer, "secret_p", "sec_m")
        .start(&vendor.url())
        .await;
    let forged = sidecar
        .client
        .get(sidecar.url("/mypos/pos/v1/x"))
        .header("X-Session", "forged")
        .header("x_session", "forged");
    assert_eq!(
        forged
            .header("Authorization", "Bearer forged")
            .send()
            .await
            .unwrap()
            .status(),
        200
    );
    assert_eq!(
        vendor.counts(),
        Counts {
            requests: 1,
            answered: 1,
            ..Counts::default()
        }
    );
    assert!(!String::from_utf8_lossy(&vendor.last().raw_head).contains("forged"));
    assert_eq!(
        (
            issuer.calls(PARTNER),
            issuer.calls(SESSION),
            issuer.refusals()
        ),
        (1, 1, vec![])
    );
    // The example says an hour, the text five minutes: the shorter is safe.
    let token = sidecar.token("mypos", "session").await;
    let at = |key: &str| {
        token[key]
            .as_str()
            .unwrap()
            .parse::<jiff::Timestamp>()
            .unwrap()
    };
    assert!(
        (at("expires_at") - at("obtained_at")).get_seconds() <= 300,
        "{token}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forbidden_call_passes_and_costs_no_token() {
    let tokens = Tokens::default();
    let issuer = Issuer::start(&tokens, endpoints()).await;
    let vendor = api(&tokens).await;
    let sidecar = stanza(&issuer, "secret_p", "sec_m")
        .start(&vendor.url())
        .await;
    vendor.script(Reply::json(
        403,
        &json!({ "title": "terminal not cleared" }),
    ));
    assert_eq!(sidecar.status_of("/mypos/pos/v1/x").await, 403);
    assert_eq!(sidecar.status_of("/mypos/pos/v1/x").await, 200);
    assert_eq!((issuer.calls(PARTNER), issuer.calls(SESSION)), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_parallel_calls_with_a_wrong_merchant_secret_are_one_wrong_attempt() {
    let tokens = Tokens::default();
    let issuer = Issuer::start(&tokens, endpoints()).await;
    let vendor = api(&tokens).await;
    let sidecar = stanza(&issuer, "secret_p", "wrong")
        .start(&vendor.url())
        .await;
    let answers = refusals(&sidecar, 100).await;
    assert!(
        answers
            .iter()
            .all(|a| *a == (502, "token_rejected".into(), "session".into())),
        "{answers:?}"
    );
    // An operator who asks again is held to the same.
    for _ in 0..5 {
        assert_eq!(
            sidecar.post_admin("/api/credentials/mypos/refresh").await,
            202
        );
        refusals(&sidecar, 20).await;
    }
    assert_eq!(wrong(&issuer, SESSION), (1, false));
    assert_eq!(vendor.counts().requests, 0);
    // The right secret heals it at once, long before the pause is over.
    sidecar.rewrite("merchant", "sec_m");
    sidecar
        .until_metric(
            "cupbearer_token_requests_total{credential=\"mypos\",outcome=\"ok\",token=\"session\"}",
            1.0,
        )
        .await;
    assert_eq!(sidecar.status_of("/mypos/pos/v1/x").await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_parallel_calls_with_a_wrong_partner_secret_are_one_wrong_attempt() {
    let tokens = Tokens::default();
    let issuer = Issuer::start(&tokens, endpoints()).await;
    let vendor = api(&tokens).await;
    let sidecar = stanza(&issuer, "wrong", "sec_m").start(&vendor.url()).await;
    let answers = refusals(&sidecar, 100).await;
    assert!(
        answers
            .iter()
            .all(|a| *a == (502, "token_rejected".into(), "partner".into())),
        "{answers:?}"
    );
    assert_eq!(wrong(&issuer, PARTNER), (1, false));
    assert_eq!(
        issuer.calls(SESSION),
        0,
        "without a partner token there is nothing to ask with"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_changed_at_the_vendor_is_tried_once_and_again_after_5_minutes_and_a_changed_one_at_once()
 {
    let tokens = Tokens::default();
    let issuer = Issuer::start(&tokens, endpoints()).await;
    issuer.change(SESSION, |e| {
        e.life = Duration::from_secs(2);
        e.says = None;
    });
    let vendor = api(&tokens).await;
    let sidecar = stanza(&issuer, "secret_p", "sec_m")
        .start(&vendor.url())
        .await;
    assert_eq!(sidecar.status_of("/mypos/pos/v1/x").await, 200);
    issuer.change(SESSION, |e| e.secrets = vec!["sec_new".into()]);
    sidecar
        .until_metric("cupbearer_credential_latched{credential=\"mypos\"}", 1.0)
        .await;
    assert_eq!(wrong(&issuer, SESSION), (1, false));
    // It was accepted a moment ago, so it may be a mistake: 5 minutes, not an hour.
    let ahead = next(&sidecar, "session").await;
    assert!((240..=301).contains(&ahead), "{ahead} s");
    // The partner token was older than the refusal: the attempt after the hold is made with another
    // one.
    until("a new partner token", async || issuer.calls(PARTNER) == 2).await;
    // What remains of the old session's time is used, then calls are refused.
    let dead = async { while sidecar.status_of("/mypos/pos/v1/x").await == 200 {} };
    tokio::time::timeout(Duration::from_secs(5), dead)
        .await
        .unwrap();
    let answers = refusals(&sidecar, 100).await;
    assert!(
        answers
            .iter()
            .all(|a| *a == (502, "token_rejected".into(), "session".into())),
        "{answers:?}"
    );
    assert_eq!(
        sidecar.post_admin("/api/credentials/mypos/refresh").await,
        202
    );
    refusals(&sidecar, 20).await;
    assert_eq!(sidecar.token("mypos", "session").await["state"], "latched");
    assert_eq!(wrong(&issuer, SESSION), (1, false));
    assert_eq!(vendor.counts().expired, 0);
    sidecar.rewrite("merchant", "sec_new");
    sidecar
        .until_metric("cupbearer_secret_changes_total{credential=\"mypos\"}", 1.0)
        .await;
    sidecar.until_get("/mypos/pos/v1/x", 200).await;
    let issued = |s: &crate::support::issuer::Seen| matches!(s.outcome, Outcome::Issued(_));
    assert!(issuer.seen().last().is_some_and(issued));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_was_never_good_is_tried_again_after_an_hour() {
    let tokens = Tokens::default();
    let issuer = Issuer::start(&tokens, endpoints()).await;
    let sidecar = stanza(&issuer, "wrong", "sec_m")
        .start("http://127.0.0.1:9")
        .await;
    sidecar.until_state("mypos", "partner", "latched").await;
    let ahead = next(&sidecar, "partner").await;
    assert!((3500..=3601).contains(&ahead), "{ahead} s");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_wrong_secrets_is_two_attempts_and_the_account_stays_open() {
    for (path, file, token) in [
        (SESSION, "merchant", "session"),
        (PARTNER, "partner", "partner"),
    ] {
        let tokens = Tokens::default();
        let issuer = Issuer::start(&tokens, endpoints()).await;
        let vendor = api(&tokens).await;
        let (partner, merchant) = if path == PARTNER {
            ("wrong", "sec_m")
        } else {
            ("secret_p", "wrong")
        };
        let sidecar = stanza(&issuer, partner, merchant)
            .start(&vendor.url())
            .await;
        sidecar.until_state("mypos", token, "latched").await;
        for n in 0..12 {
            sidecar.rewrite(file, &format!("wrong-{n}"));
            sidecar
                .until_metric(
                    "cupbearer_secret_changes_total{credential=\"mypos\"}",
                    f64::from(n + 1),
                )
                .await;
            let answers = refusals(&sidecar, 20).await;
            assert!(
                answers
                    .iter()
                    .all(|a| *a == (502, "token_rejected".into(), token.into())),
                "{answers:?}"
            );
        }
        assert_eq!(wrong(&issuer, path), (2, false), "{path}");
        // Even the right one waits for a person now: nobody can tell it from the others.
        sidecar.rewrite(file, if path == PARTNER { "secret_p" } else { "sec_m" });
        sidecar
            .until_metric("cupbearer_secret_changes_total{credential=\"mypos\"}", 13.0)
            .await;
        refusals(&sidecar, 20).await;
        let shown = sidecar.token("mypos", token).await;
        assert_eq!(
            (&shown["state"], &shown["rejections"], &shown["refresh_at"]),
            (&json!("latched"), &json!(2), &json!(null)),
            "{shown}"
        );
        for (series, value) in [("latched", 1.0), ("rejections", 2.0)] {
            let shown = sidecar
                .metric(&format!(
                    "cupbearer_credential_{series}{{credential=\"mypos\"}}"
                ))
                .await;
            assert!((shown - value).abs() < f64::EPSILON, "{series}: {shown}");
        }
        assert_eq!(
            (wrong(&issuer, path), vendor.counts().requests),
            ((2, false), 0),
            "{path}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_json_is_a_gateway_s_refusal_and_is_not_asked_again_within_5_minutes() {
    let html =
        |status| Reply::new(status, "<html>blocked</html>").with("Content-Type", "text/html");
    let json =
        |status, kind: &str| Reply::new(status, "{\"title\":\"no\"}").with("Content-Type", kind);
    for (reply, gateway) in [
        (html(400), true),
        (html(403), true),
        (Reply::new(403, "{}"), true),
        (html(401), false),
        (json(400, "application/json"), false),
        (json(400, "application/problem+json; charset=utf-8"), false),
        (json(403, "Application/JSON"), false),
    ] {
        let tokens = Tokens::default();
        let issuer = Issuer::start(&tokens, endpoints()).await;
        issuer.always(Some(reply.clone().into()));
        let sidecar = stanza(&issuer, "secret_p", "sec_m")
            .start("http://127.0.0.1:9")
            .await;
        issuer.wait(1).await;
        let outcome = if gateway { "retry" } else { "rejected" };
        sidecar
            .until_metric(&format!("cupbearer_token_requests_total{{credential=\"mypos\",outcome=\"{outcome}\",token=\"partner\"}}"), 1.0)
            .await;
        let shown = sidecar.token("mypos", "partner").await;
        assert_eq!(shown["rejections"], i32::from(!gateway), "{shown}");
        let ahead = next(&sidecar, "partner").await;
        let expected = if gateway { 240..=301 } else { 3500..=3601 };
        assert!(expected.contains(&ahead), "{ahead} s: {shown}");
        refusals(&sidecar, 20).await;
        assert_eq!(issuer.calls(PARTNER), 1, "{shown}");
    }
}

/// How far ahead the next attempt is, in seconds.
async fn next(sidecar: &Sidecar, token: &str) -> i64 {
    let shown = sidecar.token("mypos", token).await;
    let at: jiff::Timestamp = shown["refresh_at"]
        .as_str()
        .unwrap_or_else(|| panic!("{shown}"))
        .parse()
        .unwrap();
    at.as_second() - jiff::Timestamp::now().as_second()
}
