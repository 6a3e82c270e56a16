//! Tokens that are made with other tokens: which one is renewed when, who is blamed, and what that
//! costs.

use std::time::Duration;

use serde_json::json;

use crate::support::{
    issuer::{Issuer, Outcome},
    sidecar::Sidecar,
    tokens::Tokens,
    vendor::{Counts, Vendor},
    wire::Reply,
};
use crate::vendors_mypos::{PARTNER, SESSION, api, endpoints, stanza};

const CALL: &str = "/mypos/pos/v1/x";

struct World {
    tokens: Tokens,
    issuer: Issuer,
    vendor: Vendor,
    sidecar: Sidecar,
}

/// A chain whose tokens live this long, by what is said of them. Really they live twice as long:
/// what is looked at here is who is renewed when, not whether a busy machine takes longer for a
/// request than the last tenth of two seconds.
async fn world(partner: Duration, session: Duration) -> World {
    let tokens = Tokens::default();
    let issuer = Issuer::start(&tokens, endpoints()).await;
    let said = |life: Duration| (life * 2, Some(json!(life.as_secs())));
    issuer.change(PARTNER, |e| (e.life, e.says) = said(partner));
    issuer.change(SESSION, |e| (e.life, e.says) = said(session));
    let vendor = api(&tokens).await;
    // Two attempts a value: what a chain does between them is looked at here.
    let guard = "[HERE.guard]\nmax_rejections = 2\nhold = \"until_secret_changes\"\naccount_rejections = \"off\"";
    let sidecar = stanza(&issuer, "secret_p", "sec_m")
        .over(guard)
        .start(&vendor.url())
        .await;
    World {
        tokens,
        issuer,
        vendor,
        sidecar,
    }
}

impl World {
    async fn answers(&self, token: &str, outcome: &str) -> f64 {
        let series = format!(
            "cupbearer_token_requests_total{{credential=\"mypos\",outcome=\"{outcome}\",token=\"{token}\"}}"
        );
        self.sidecar.metric(&series).await
    }

    /// The paths of all token calls, in their order.
    fn order(&self) -> Vec<String> {
        self.issuer
            .seen()
            .iter()
            .map(|s| s.request.path().to_owned())
            .collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partner_token_is_renewed_while_its_session_lives_on() {
    let w = world(Duration::from_secs(2), Duration::from_mins(5)).await;
    let mut calls = 0;
    while w.issuer.calls(PARTNER) < 4 {
        assert_eq!(w.sidecar.status_of(CALL).await, 200);
        calls += 1;
    }
    assert_eq!(
        w.vendor.counts(),
        Counts {
            requests: calls,
            answered: calls,
            ..Counts::default()
        }
    );
    assert_eq!((w.issuer.calls(SESSION), w.issuer.refusals()), (1, vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_renewed_with_the_partner_token_that_is_there() {
    let w = world(Duration::from_hours(1), Duration::from_secs(2)).await;
    let mut calls = 0;
    while w.issuer.calls(SESSION) < 4 {
        assert_eq!(w.sidecar.status_of(CALL).await, 200);
        calls += 1;
    }
    assert_eq!(
        w.vendor.counts(),
        Counts {
            requests: calls,
            answered: calls,
            ..Counts::default()
        }
    );
    assert_eq!((w.issuer.calls(PARTNER), w.issuer.refusals()), (1, vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_refused_for_a_stale_partner_token_is_asked_for_once_more_with_a_new_one() {
    let w = world(Duration::from_hours(1), Duration::from_secs(3)).await;
    assert_eq!(w.sidecar.status_of(CALL).await, 200);
    w.tokens.revoke_all("partner");
    // The session's next renewal is refused, the partner token was older than that: it is to blame.
    w.issuer.wait(5).await;
    assert_eq!(w.order(), [PARTNER, SESSION, SESSION, PARTNER, SESSION]);
    assert_eq!(w.issuer.refusals(), ["the partner token is Revoked"]);
    let ok =
        "cupbearer_token_requests_total{credential=\"mypos\",outcome=\"ok\",token=\"session\"}";
    w.sidecar.until_metric(ok, 2.0).await;
    assert_eq!(
        (
            w.answers("session", "rejected").await,
            w.answers("partner", "ok").await
        ),
        (1.0, 2.0)
    );
    assert_eq!(
        w.sidecar.token("mypos", "session").await["rejections"],
        0,
        "success clears the count"
    );
    assert_eq!(w.sidecar.status_of(CALL).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn both_attempts_of_a_refused_session_are_counted() {
    let w = world(Duration::from_hours(1), Duration::from_secs(3)).await;
    assert_eq!(w.sidecar.status_of(CALL).await, 200);
    w.issuer.change(SESSION, |e| e.disabled = true);
    let latched = "cupbearer_credential_latched{credential=\"mypos\"}";
    w.sidecar.until_metric(latched, 1.0).await;
    let token = w.sidecar.token("mypos", "session").await;
    assert_eq!(
        (&token["rejections"], &token["state"]),
        (&json!(2), &json!("latched")),
        "{token}"
    );
    assert_eq!(w.order(), [PARTNER, SESSION, SESSION, PARTNER, SESSION]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_401_of_the_api_refuses_both_tokens_and_costs_one_call_each_and_one_replay() {
    let w = world(Duration::from_hours(1), Duration::from_mins(5)).await;
    assert_eq!(w.sidecar.status_of(CALL).await, 200);
    let old = (w.tokens.all("partner"), w.tokens.all("session"));
    w.tokens.revoke_all("partner");
    w.tokens.revoke_all("session");
    let calls = futures_util::future::join_all((0..20).map(|_| w.sidecar.status_of(CALL)));
    assert_eq!(calls.await, [200; 20]);
    // Parents first: the new session was asked for with the new partner token.
    assert_eq!(w.order(), [PARTNER, SESSION, PARTNER, SESSION]);
    let seen = w.issuer.seen();
    let Outcome::Issued(partner) = &seen[2].outcome else {
        panic!("{:?}", seen[2].outcome)
    };
    assert_eq!(
        seen[3].request.header("authorization"),
        Some(&*format!("Bearer {partner}"))
    );
    assert!(!old.0.contains(partner));
    let counts = w.vendor.counts();
    assert_eq!(
        (counts.answered, counts.unknown, counts.expired),
        (21, 0, 0)
    );
    assert!(
        (1..=20).contains(&counts.revoked),
        "each call was sent again once at most: {counts:?}"
    );
    w.sidecar.until_idle("mypos").await;
    #[expect(clippy::cast_precision_loss, reason = "at most twenty")]
    let replays = counts.revoked as f64;
    let series = "cupbearer_replays_total{outcome=\"ok\",upstream=\"mypos\"}";
    assert!((w.sidecar.metric(series).await - replays).abs() < f64::EPSILON);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_401_does_not_say_which_token_is_dead_so_both_are_renewed() {
    let w = world(Duration::from_hours(1), Duration::from_mins(5)).await;
    assert_eq!(w.sidecar.status_of(CALL).await, 200);
    w.tokens.revoke_all("session");
    assert_eq!(w.sidecar.status_of(CALL).await, 200);
    assert_eq!(w.order(), [PARTNER, SESSION, PARTNER, SESSION]);
    assert_eq!(
        w.vendor.counts(),
        Counts {
            requests: 3,
            answered: 2,
            revoked: 1,
            ..Counts::default()
        }
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_without_its_first_token_says_which_one_is_missing() {
    let tokens = Tokens::default();
    let issuer = Issuer::start(&tokens, endpoints()).await;
    issuer.always(Some(Reply::new(500, "").into()));
    let vendor = api(&tokens).await;
    let stanza = stanza(&issuer, "secret_p", "sec_m")
        .over("[upstream_defaults]\ntimeouts = { token = \"3s\" }");
    let sidecar = stanza.start(&vendor.url()).await;
    let (status, body) = sidecar.refusal(CALL).await;
    assert_eq!(
        (status, &body["code"], &body["token"]),
        (503, &json!("token_unavailable"), &json!("partner")),
        "{body}"
    );
    assert_eq!((issuer.calls(SESSION), vendor.counts().requests), (0, 0));
    issuer.always(None);
    let healed = async { while sidecar.status_of(CALL).await != 200 {} };
    tokio::time::timeout(Duration::from_secs(15), healed)
        .await
        .unwrap();
}
