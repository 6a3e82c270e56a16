//! Refused tokens and lost issuers: what is renewed, what is sent once more, what passes, and how
//! it all comes back.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use serde_json::json;
use tokio::task::JoinSet;

use crate::support::{
    endpoint::Endpoint,
    issuer::Issuer,
    raw::RawClient,
    sidecar::{Sidecar, plain},
    tally::sha256,
    tokens::Tokens,
    vendor::{Need, Vendor},
    wait::until,
    wire::{Answer, Gate, Reply, Request, Step},
};

struct World {
    tokens: Tokens,
    issuer: Issuer,
    vendor: Vendor,
    sidecar: Sidecar,
}

impl World {
    /// A plain vendor whose tokens live `life`; `more` goes under its upstream.
    async fn start(life: Duration, more: &str) -> Self {
        let tokens = Tokens::default();
        let endpoint = Endpoint {
            life,
            ..Endpoint::new("/token", "acme", "s3cret-acme")
        };
        let issuer = Issuer::start(&tokens, vec![endpoint]).await;
        let vendor = Vendor::start(&tokens, vec![Need::Bearer("access")]).await;
        let text = plain("acme", &format!("{}/token", issuer.url()), &vendor.url());
        let sidecar = Sidecar::start(&format!("{text}{more}")).await;
        Self {
            tokens,
            issuer,
            vendor,
            sidecar,
        }
    }

    /// With a token fetched and used once.
    async fn warm(more: &str) -> Self {
        let world = Self::start(HOUR, more).await;
        assert_eq!(world.sidecar.status_of("/acme/warm").await, 200);
        world
    }

    async fn post(&self, path: &str, body: Vec<u8>) -> reqwest::Response {
        self.sidecar
            .client
            .post(self.sidecar.url(path))
            .body(body)
            .send()
            .await
            .unwrap()
    }

    /// Counted a moment after the last answer has been read.
    async fn replays(&self, outcome: &str) -> f64 {
        self.sidecar.until_idle("acme").await;
        self.sidecar
            .metric(&format!(
                "cupbearer_replays_total{{outcome=\"{outcome}\",upstream=\"acme\"}}"
            ))
            .await
    }

    fn calls(&self) -> usize {
        self.issuer.calls("/token")
    }

    /// What arrived at this path, in order.
    fn at(&self, path: &str) -> Vec<Request> {
        self.vendor
            .seen()
            .into_iter()
            .filter(|r| r.path() == path)
            .collect()
    }
}

const HOUR: Duration = Duration::from_hours(1);
const REJECTIONS: &str = "cupbearer_token_rejections_total{upstream=\"acme\"}";

/// A refusal in the vendor's own words.
fn refusal(challenge: &str) -> Reply {
    Reply::new(401, "{\"vendor\":\"says no\"}")
        .with("Content-Type", "application/vnd.acme+json")
        .with("WWW-Authenticate", challenge)
}

async fn passed_unchanged(answer: reqwest::Response, challenge: &str) {
    assert_eq!(answer.status(), 401);
    assert_eq!(answer.headers()["www-authenticate"], challenge);
    assert_eq!(
        answer.headers()["content-type"],
        "application/vnd.acme+json"
    );
    assert_eq!(answer.text().await.unwrap(), "{\"vendor\":\"says no\"}");
}

#[tokio::test(flavor = "multi_thread")]
async fn t8_a_hundred_parallel_401s_make_one_token_call_and_a_hundred_identical_replays() {
    let w = World::warm("").await;
    let (gate, refused) = (Gate::shut(), Gate::shut());
    for _ in 0..100 {
        w.vendor
            .script(refusal("Bearer error=\"invalid_token\"").behind(&refused));
    }
    w.tokens.add("tok-newer", "access", "acme", "", HOUR);
    w.issuer.script(
        Reply::json(
            200,
            &json!({ "access_token": "tok-newer", "token_type": "Bearer", "expires_in": 3600 }),
        )
        .behind(&gate),
    );
    let (mut all, mut hashes) = (JoinSet::new(), HashMap::new());
    for i in 0..100_usize {
        // Every length from nothing to the last byte that the replay buffer holds.
        let body: Vec<u8> = (0..i * 65_536 / 99).map(|_| rand::random()).collect();
        hashes.insert(format!("/{i}"), sha256(&body));
        let request = w
            .sidecar
            .client
            .post(w.sidecar.url(&format!("/acme/{i}")))
            .body(body);
        all.spawn(async move { request.send().await.unwrap().status().as_u16() });
    }
    // All are sent with the old token before it is refused: afterwards it would be sent to nobody.
    w.vendor.wait(1 + 100).await;
    refused.open();
    w.sidecar.until_metric(REJECTIONS, 100.0).await;
    gate.open();
    while let Some(status) = all.join_next().await {
        assert_eq!(status.unwrap(), 200);
    }
    for (path, hash) in &hashes {
        let sent = w.at(path);
        assert_eq!(sent.len(), 2, "{path}");
        assert_eq!([&sent[0].sha256, &sent[1].sha256], [hash, hash], "{path}");
        assert_eq!(
            sent[1].header("authorization"),
            Some("Bearer tok-newer"),
            "{path}"
        );
    }
    assert_eq!((w.calls(), w.vendor.counts().requests), (2, 201));
    assert_eq!(
        (w.replays("ok").await, w.sidecar.metric(REJECTIONS).await),
        (100.0, 100.0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_that_is_down_shows_only_when_the_token_may_no_longer_be_sent() {
    let w = World::start(Duration::from_secs(3), "timeouts = { token = \"300ms\" }\n").await;
    assert_eq!(w.sidecar.status_of("/acme/x").await, 200);
    let obtained = w.issuer.seen()[0].request.at;
    w.issuer.down().await;
    let refused = loop {
        let asked = Instant::now();
        let answer = w.sidecar.get("/acme/x").await;
        if answer.status() == 200 {
            assert!(
                obtained.elapsed() < Duration::from_secs(10),
                "the token never ends"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        }
        // Without that of 300 ms it would be the default, of 15 s.
        assert!(
            asked.elapsed() < Duration::from_secs(8),
            "beyond the caller's patience: {:?}",
            asked.elapsed()
        );
        break answer;
    };
    // Its last tenth is not used.
    assert!(
        obtained.elapsed() > Duration::from_millis(2600),
        "{:?}",
        obtained.elapsed()
    );
    assert_eq!(refused.status(), 503);
    let after: u64 = refused.headers()["retry-after"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!((1..=30).contains(&after), "{after}");
    assert_eq!(
        refused.headers()["proxy-status"],
        "cupbearer; error=proxy_internal_response; details=\"token_unavailable\""
    );
    let body: serde_json::Value = serde_json::from_slice(&refused.bytes().await.unwrap()).unwrap();
    assert_eq!(
        (body["code"].as_str(), body["retry_after"].as_u64()),
        (Some("token_unavailable"), Some(after))
    );
    assert_eq!(
        (body["upstream"].as_str(), body["token"].as_str()),
        (Some("acme"), Some("access"))
    );
    assert_eq!((w.calls(), w.vendor.counts().expired), (1, 0));
    w.issuer.up().await;
    w.sidecar.until_get("/acme/x", 200).await;
    assert_eq!((w.calls(), w.vendor.counts().expired), (2, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn r10_v3_insufficient_scope_and_403_pass_untouched_and_cost_no_token_call() {
    let w = World::warm("").await;
    let challenge = "Bearer realm=\"a, b\", error=\"insufficient_scope\", scope=\"write\"";
    w.vendor.script(refusal(challenge));
    passed_unchanged(w.sidecar.get("/acme/scope").await, challenge).await;
    let stale = "Bearer error=\"invalid_token\"";
    w.vendor.script(Reply {
        status: 403,
        ..refusal(stale)
    });
    let answer = w.post("/acme/forbidden", b"body".to_vec()).await;
    assert_eq!(
        (
            answer.status().as_u16(),
            answer.headers()["www-authenticate"].to_str().unwrap()
        ),
        (403, stale)
    );
    assert_eq!(answer.text().await.unwrap(), "{\"vendor\":\"says no\"}");
    assert_eq!(
        (w.at("/scope").len(), w.at("/forbidden").len(), w.calls()),
        (1, 1, 1)
    );
    assert_eq!(w.sidecar.metric(REJECTIONS).await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn v2_late_401s_for_an_old_token_cost_nothing_and_are_replayed_with_the_newer() {
    let w = World::warm("").await;
    let gate = Gate::shut();
    for _ in 0..50 {
        w.vendor
            .script(refusal("Bearer error=\"invalid_token\"").behind(&gate));
    }
    let mut all = JoinSet::new();
    for _ in 0..50 {
        let request = w.sidecar.client.get(w.sidecar.url("/acme/late"));
        all.spawn(async move { request.send().await.unwrap().status().as_u16() });
    }
    w.vendor.wait(1 + 50).await;
    w.sidecar.until_refreshed("acme", "access", 2).await;
    assert_eq!(w.calls(), 2);
    gate.open();
    while let Some(status) = all.join_next().await {
        assert_eq!(status.unwrap(), 200);
    }
    assert_eq!((w.calls(), w.replays("ok").await), (2, 50.0));
    let newer = format!("Bearer {}", w.tokens.all("access")[1]);
    let late = w.at("/late");
    assert_eq!(late.len(), 100);
    assert!(
        late[50..]
            .iter()
            .all(|r| r.header("authorization") == Some(&newer))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn v1_a_vendor_that_refuses_every_token_costs_one_token_call_and_its_401s_pass_unchanged() {
    let w = World::warm("").await;
    let challenge = "Bearer realm=\"acme\", error=\"invalid_token\"";
    w.vendor.always(Some(refusal(challenge).into()));
    let start = Instant::now();
    passed_unchanged(w.sidecar.get("/acme/first").await, challenge).await;
    assert_eq!((w.calls(), w.at("/first").len()), (2, 2));
    let mut all = JoinSet::new();
    for i in 0..300 {
        let request = w.sidecar.client.get(w.sidecar.url("/acme/storm"));
        all.spawn(async move { request.send().await.unwrap() });
        if i % 20 == 0 {
            while let Some(answer) = all.join_next().await {
                passed_unchanged(answer.unwrap(), challenge).await;
            }
        }
    }
    while let Some(answer) = all.join_next().await {
        passed_unchanged(answer.unwrap(), challenge).await;
    }
    // The pause after the first is 10 s; a machine that is slower than that may make one more.
    let pauses = usize::try_from(start.elapsed().as_secs() / 10).unwrap();
    assert!(
        w.calls() <= 2 + pauses,
        "{} calls in {:?}",
        w.calls(),
        start.elapsed()
    );
    assert_eq!(
        w.at("/storm").len(),
        300 + (w.calls() - 2),
        "in the pause nothing is sent twice"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn v4_a_body_beyond_64_kib_passes_the_401_and_the_next_request_has_a_new_token() {
    let w = World::warm("").await;
    w.tokens.revoke_all("access");
    let answer = w.post("/acme/large", vec![b'x'; 65_537]).await;
    assert_eq!(answer.status(), 401);
    assert!(
        answer.text().await.unwrap().contains("Revoked"),
        "the vendor's own body"
    );
    assert_eq!(
        (w.at("/large").len(), w.at("/large")[0].length),
        (1, 65_537),
        "the upload was whole"
    );
    assert_eq!(w.replays("skipped_body").await, 1.0);
    w.sidecar.until_state("acme", "access", "ok").await;
    w.issuer.wait(2).await;
    until("a new token", async || {
        w.sidecar.token("acme", "access").await["generation"] == 2
    })
    .await;
    assert_eq!(
        w.post("/acme/large", vec![b'x'; 65_537]).await.status(),
        200
    );
    assert_eq!(w.calls(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn v5_a_401_in_the_middle_of_an_upload_reaches_the_caller() {
    let w = World::warm("").await;
    let (held, body) = (Gate::shut(), "no, thanks");
    let head = "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer\r\nConnection: close\r\n";
    let bytes = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
    w.vendor.script_early(Answer::Raw(vec![
        Step::Bytes(bytes.into_bytes()),
        Step::Gate(held.clone()),
    ]));
    let mut caller = RawClient::connect(w.sidecar.addr()).await;
    caller
        .write(b"POST /acme/upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n")
        .await;
    caller.write(&vec![b'x'; 100_000]).await;
    let answer = caller.answer("POST").await.expect("the vendor's answer");
    held.open();
    assert_eq!(
        (
            answer.status,
            answer.text().as_str(),
            answer.header("www-authenticate")
        ),
        (401, body, Some("Bearer"))
    );
    assert_eq!(w.at("/upload").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_replay_forbids_is_not_sent_twice_but_renews_the_token() {
    for (policy, method, twice) in [
        ("never", http::Method::GET, false),
        ("never", http::Method::POST, false),
        ("idempotent", http::Method::POST, false),
        ("idempotent", http::Method::PATCH, false),
        ("idempotent", http::Method::PUT, true),
        ("idempotent", http::Method::GET, true),
    ] {
        let what = format!("{method} with replay = {policy}");
        let w = World::warm(&format!("replay = \"{policy}\"\n")).await;
        w.tokens.revoke_all("access");
        let request = w
            .sidecar
            .client
            .request(method.clone(), w.sidecar.url("/acme/x"))
            .body("b");
        assert_eq!(
            request.send().await.unwrap().status(),
            if twice { 200 } else { 401 },
            "{what}"
        );
        assert_eq!(w.at("/x").len(), if twice { 2 } else { 1 }, "{what}");
        assert_eq!(
            w.replays("skipped_policy").await,
            if twice { 0.0 } else { 1.0 },
            "{what}"
        );
        w.sidecar.until_get("/acme/x", 200).await;
        assert_eq!(w.calls(), 2, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_refresh_fails_the_401_passes_and_the_refused_token_is_still_sent() {
    let w = World::warm("timeouts = { token = \"2s\" }\n").await;
    let old = format!("Bearer {}", w.tokens.all("access")[0]);
    w.issuer.always(Some(Reply::new(500, "").into()));
    let challenge = "Bearer error=\"invalid_token\"";
    for path in ["/acme/1", "/acme/2", "/acme/3"] {
        w.vendor.script(refusal(challenge));
        passed_unchanged(w.sidecar.get(path).await, challenge).await;
    }
    assert_eq!(
        (w.at("/1").len(), w.at("/2").len(), w.at("/3").len()),
        (1, 1, 1)
    );
    // The vendor decides: it takes the token again.
    assert_eq!(w.sidecar.status_of("/acme/4").await, 200);
    assert!(
        w.vendor
            .seen()
            .iter()
            .all(|r| r.header("authorization") == Some(&old))
    );
    assert_eq!(
        w.calls(),
        2,
        "one attempt for three refusals within the pause"
    );
    assert_eq!(w.replays("failed").await, 3.0);
    w.issuer.always(None);
    w.sidecar.until_refreshed("acme", "access", 2).await;
    assert_eq!(w.sidecar.status_of("/acme/5").await, 200);
}
