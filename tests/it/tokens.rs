//! Tokens as callers see them: one call for many, renewed in time, never sent when dead.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::task::JoinSet;

use crate::support::{
    endpoint::Endpoint,
    issuer::{Issuer, PATIENCE},
    raw::RawClient,
    sidecar::{PORTS, Process, Sidecar, client, plain, raise_open_files},
    tokens::Tokens,
    vendor::{Need, Vendor},
    wait::until,
    wait::within,
    wire::{Gate, Reply},
};

/// An issuer and a vendor for the credential `acme`, with tokens that live `life`.
async fn parts(life: Duration) -> (Tokens, Issuer, Vendor) {
    let tokens = Tokens::default();
    let endpoint = Endpoint {
        life,
        ..Endpoint::new("/token", "acme", "s3cret-acme")
    };
    let issuer = Issuer::start(&tokens, vec![endpoint]).await;
    let vendor = Vendor::start(&tokens, vec![Need::Bearer("access")]).await;
    (tokens, issuer, vendor)
}

fn stanza(issuer: &Issuer, vendor: &Vendor) -> String {
    plain("acme", &format!("{}/token", issuer.url()), &vendor.url())
}

/// The issuer's next answer is this token, and comes when the gate opens.
fn held_back(tokens: &Tokens, issuer: &Issuer, token: &str) -> Gate {
    let gate = Gate::shut();
    tokens.add(token, "access", "acme", "", Duration::from_hours(1));
    issuer.script(
        Reply::json(
            200,
            &json!({ "access_token": token, "token_type": "Bearer", "expires_in": 3600 }),
        )
        .behind(&gate),
    );
    gate
}

const HOUR: Duration = Duration::from_hours(1);
const WAITERS: &str = "cupbearer_token_waiters{credential=\"acme\"}";

#[tokio::test(flavor = "multi_thread")]
async fn a_call_arrives_with_a_living_token_the_caller_never_saw() {
    let (_, issuer, vendor) = parts(HOUR).await;
    let sidecar = Sidecar::start(&stanza(&issuer, &vendor)).await;
    let answer = sidecar.get("/acme/orders?x=1").await;
    assert_eq!(answer.status(), 200);
    assert_eq!(vendor.last().target, "/orders?x=1");
    assert_eq!(issuer.calls("/token"), 1);
}

/// The program runs as a process of its own, for 10,000 sockets at the vendor are as many as one
/// process may have in two halves.
#[tokio::test(flavor = "multi_thread")]
async fn l1_ten_thousand_requests_on_a_cold_token_make_one_token_call_and_are_all_answered() {
    const CONNECTIONS: usize = 100;
    const STREAMS: usize = 100;
    raise_open_files();
    let (tokens, issuer, vendor) = parts(HOUR).await;
    let gate = held_back(&tokens, &issuer, "tok-cold");
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("cupbearer.toml");
    // Patience for a machine that is busy with other tests; what is asserted is not the speed.
    let patience = "timeouts = { connect = \"100s\", token = \"200s\" }\n[credentials.acme.tokens.access]\ntimeout = \"200s\"\n";
    std::fs::write(
        &config,
        format!("{PORTS}{}{patience}", stanza(&issuer, &vendor)),
    )
    .unwrap();
    let process = Process::run(&config).await;
    let url = format!("http://{}/acme/x", process.proxy);

    let admin = client();
    let mut all = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let builder = reqwest::Client::builder()
            .no_proxy()
            .http2_prior_knowledge()
            .timeout(Duration::from_secs(200));
        let client = builder.build().unwrap();
        for _ in 0..STREAMS {
            let (client, url) = (client.clone(), url.clone());
            all.spawn(async move {
                let answer = client.get(url).send().await.unwrap();
                let status = answer.status().as_u16();
                (status, answer.text().await.unwrap())
            });
        }
    }
    let waiting = async || {
        let text = admin
            .get(format!("http://{}/metrics", process.admin))
            .send()
            .await
            .unwrap()
            .text()
            .await
            .unwrap();
        text.lines()
            .find_map(|l| l.strip_prefix(WAITERS)?.trim().parse::<f64>().ok())
            .unwrap_or(0.0)
    };
    within(Duration::from_secs(120), "10,000 that wait", async || {
        waiting().await >= 10_000.0
    })
    .await;
    assert_eq!((issuer.calls("/token"), vendor.counts().requests), (1, 0));
    gate.open();
    while let Some(answer) = all.join_next().await {
        let (status, body) = answer.unwrap();
        assert_eq!(status, 200, "{body}");
    }
    assert_eq!(issuer.calls("/token"), 1);
    assert_eq!(vendor.counts().answered, 10_000);
    assert_eq!(vendor.counts().requests, 10_000);
    until("nobody waits", async || waiting().await == 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_minute_of_load_on_tokens_of_five_seconds_fails_no_request_and_sends_no_dead_token() {
    const LOAD: Duration = Duration::from_secs(60);
    let (_, issuer, vendor) = parts(Duration::from_secs(5)).await;
    vendor.keep(10);
    let sidecar = Sidecar::start(&stanza(&issuer, &vendor)).await;
    let url = sidecar.url("/acme/x");
    let (mut all, start) = (JoinSet::new(), Instant::now());
    let mut beat = tokio::time::interval(Duration::from_millis(5));
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut sent, mut answered) = (0, 0);
    while start.elapsed() < LOAD {
        beat.tick().await;
        let request = sidecar.client.get(&url);
        all.spawn(async move { request.send().await.unwrap().status().as_u16() });
        sent += 1;
        while let Some(status) = all.try_join_next() {
            assert_eq!(status.unwrap(), 200, "after {:?}", start.elapsed());
            answered += 1;
        }
    }
    while let Some(status) = all.join_next().await {
        assert_eq!(status.unwrap(), 200);
        answered += 1;
    }
    assert_eq!(sent, answered);
    assert!(sent > 3000, "only {sent} requests in a minute: no load");
    let counts = vendor.counts();
    assert_eq!(
        (
            counts.requests,
            counts.answered,
            counts.expired,
            counts.unknown
        ),
        (sent, sent, 0, 0)
    );
    assert_eq!(
        sidecar
            .metric("cupbearer_replays_total{outcome=\"ok\",upstream=\"acme\"}")
            .await,
        0.0,
        "nothing was hidden by a replay"
    );
    // Renewed at 2 to 2.5 s of 5, so 24 to 30 times a minute, and a little less where the machine
    // is slow.
    let calls = issuer.calls("/token");
    assert!((15..=32).contains(&calls), "{calls} token calls");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_leaves_cancels_nothing_and_waits_no_more() {
    let (tokens, issuer, vendor) = parts(HOUR).await;
    let gate = held_back(&tokens, &issuer, "tok-left");
    let sidecar = Sidecar::start(&stanza(&issuer, &vendor)).await;
    let mut callers = Vec::new();
    for _ in 0..5 {
        let mut caller = RawClient::connect(sidecar.addr()).await;
        caller
            .write(b"GET /acme/x HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .await;
        callers.push(caller);
    }
    sidecar.until_metric(WAITERS, 5.0).await;
    drop(callers);
    until("nobody waits", async || {
        sidecar.metric(WAITERS).await == 0.0
    })
    .await;
    assert_eq!(
        sidecar.token("acme", "access").await["state"],
        "refreshing",
        "the call goes on"
    );
    gate.open();
    sidecar.until_state("acme", "access", "ok").await;
    assert_eq!(vendor.counts().requests, 0);
    assert_eq!(sidecar.status_of("/acme/x").await, 200);
    assert_eq!(
        vendor.last().header("authorization"),
        Some("Bearer tok-left")
    );
    assert_eq!(issuer.calls("/token"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_max_waiters_are_turned_away_at_once_and_the_others_are_served() {
    let (tokens, issuer, vendor) = parts(HOUR).await;
    let gate = held_back(&tokens, &issuer, "tok-few");
    let sidecar = Sidecar::start(&format!(
        "{}[credentials.acme.guard]\nmax_waiters = 3\n",
        stanza(&issuer, &vendor)
    ))
    .await;
    let mut waiting = JoinSet::new();
    for _ in 0..3 {
        let request = sidecar.client.get(sidecar.url("/acme/x"));
        waiting.spawn(async move { request.send().await.unwrap().status().as_u16() });
    }
    sidecar.until_metric(WAITERS, 3.0).await;
    for _ in 0..10 {
        let answer = sidecar.get("/acme/x").await;
        assert_eq!(answer.status(), 503);
        assert_eq!(answer.headers()["retry-after"], "1");
        let body: serde_json::Value =
            serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
        assert_eq!(
            (body["code"].as_str(), body["credential"].as_str()),
            (Some("token_overloaded"), Some("acme"))
        );
    }
    assert_eq!(
        sidecar
            .metric("cupbearer_refusals_total{code=\"token_overloaded\",upstream=\"acme\"}")
            .await,
        10.0
    );
    gate.open();
    while let Some(status) = waiting.join_next().await {
        assert_eq!(status.unwrap(), 200);
    }
    until("nobody waits", async || {
        sidecar.metric(WAITERS).await == 0.0
    })
    .await;
    assert_eq!(issuer.calls("/token"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_nobody_uses_is_let_rest_and_fetched_at_the_next_use() {
    let (_, issuer, vendor) = parts(Duration::from_secs(3)).await;
    let rest = "[credentials.acme.tokens.access.lifetime]\nrest_after = \"500ms\"\n";
    let sidecar = Sidecar::start(&format!("{}{rest}", stanza(&issuer, &vendor))).await;
    assert_eq!(sidecar.status_of("/acme/x").await, 200);
    sidecar
        .until_metric(
            "cupbearer_token_resting{credential=\"acme\",token=\"access\"}",
            1.0,
        )
        .await;
    until("the token is dead", async || {
        sidecar.token("acme", "access").await["sendable"] == false
    })
    .await;
    assert_eq!(issuer.calls("/token"), 1, "due long ago, and left alone");
    assert_eq!(sidecar.status_of("/acme/x").await, 200);
    assert_eq!(issuer.calls("/token"), 2);
    assert_eq!(vendor.counts().expired, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lazy_token_is_fetched_by_the_first_request_and_only_by_requests() {
    let (_, issuer, vendor) = parts(Duration::from_secs(2)).await;
    let lazy = "[credentials.acme.tokens.access.lifetime]\nrefresh = \"lazy\"\n";
    let ahead = plain("other", &format!("{}/other", issuer.url()), &vendor.url());
    let sidecar = Sidecar::start(&format!("{}{lazy}{ahead}", stanza(&issuer, &vendor))).await;
    issuer.wait(1).await;
    assert_eq!(
        (issuer.calls("/token"), issuer.calls("/other")),
        (0, 1),
        "the other one was fetched ahead"
    );
    assert_eq!(sidecar.token("acme", "access").await["state"], "resting");
    assert_eq!(sidecar.status_of("/acme/x").await, 200);
    assert_eq!(sidecar.status_of("/acme/x").await, 200);
    assert_eq!(issuer.calls("/token"), 1);
    until("the token is dead", async || {
        sidecar.token("acme", "access").await["sendable"] == false
    })
    .await;
    assert_eq!(issuer.calls("/token"), 1, "not renewed");
    assert_eq!(sidecar.status_of("/acme/x").await, 200);
    assert_eq!((issuer.calls("/token"), vendor.counts().expired), (2, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_handed_out_has_min_remaining_left() {
    let (_, issuer, vendor) = parts(Duration::from_secs(20)).await;
    let text = stanza(&issuer, &vendor).replacen("settings", "vend = true\nsettings", 1);
    let lifetime = "[credentials.acme.tokens.access.lifetime]\nmin_remaining = \"18s\"\n";
    let sidecar = Sidecar::start(&format!("{text}{lifetime}")).await;
    let start = Instant::now();
    let mut handed_out = 0;
    // Two seconds after the first the second is due, though it would be renewed at 8 s at the
    // earliest.
    while issuer.calls("/token") < 2 {
        assert!(start.elapsed() < PATIENCE, "never renewed");
        let answer = sidecar
            .client
            .post(sidecar.url("/.cupbearer/token/acme"))
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 200);
        let body: serde_json::Value =
            serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
        let left = body["expires_in"].as_u64().unwrap();
        assert!(
            (17..=20).contains(&left),
            "{left} s left; whole seconds, rounded down"
        );
        handed_out += 1;
    }
    let took = start.elapsed();
    assert!(took < Duration::from_secs(7), "{took:?}");
    assert!(handed_out >= 2);
}
