//! A token that an API refused is sent to nobody while its refresh runs; what is handed out can be
//! refused as well.

use std::time::Duration;

use serde_json::json;
use tokio::task::JoinSet;

use crate::support::{
    endpoint::Endpoint,
    issuer::Issuer,
    sidecar::{Sidecar, plain},
    tokens::Tokens,
    vendor::{Need, Vendor},
    wire::{Gate, Reply},
};

const HOUR: Duration = Duration::from_hours(1);
const WAITERS: &str = "cupbearer_token_waiters{credential=\"acme\"}";
/// More than what is kept to be sent once more.
const LARGE: usize = 70_000;

struct World {
    tokens: Tokens,
    issuer: Issuer,
    vendor: Vendor,
    sidecar: Sidecar,
}

impl World {
    /// One credential, handed out too, with an upstream for each way of not sending a request
    /// twice; its token was used once.
    async fn warm() -> Self {
        let tokens = Tokens::default();
        let endpoint = Endpoint {
            life: HOUR,
            ..Endpoint::new("/token", "acme", "s3cret-acme")
        };
        let issuer = Issuer::start(&tokens, vec![endpoint]).await;
        let vendor = Vendor::start(&tokens, vec![Need::Bearer("access")]).await;
        let mut text = plain("acme", &format!("{}/token", issuer.url()), &vendor.url()).replacen(
            "settings",
            "vend = true\nsettings",
            1,
        );
        let more = ["any", "never", "idempotent"]
            .map(|replay| format!("[upstreams.{replay}]\nurl = \"{}\"\ncredential = \"acme\"\nreplay = \"{replay}\"\n", vendor.url()));
        text += &more.concat();
        let sidecar = Sidecar::start(&text).await;
        assert_eq!(sidecar.status_of("/acme/warm").await, 200);
        Self {
            tokens,
            issuer,
            vendor,
            sidecar,
        }
    }

    /// The next token call is answered with this token, once the gate is open.
    fn held_back(&self, token: &str) -> Gate {
        let gate = Gate::shut();
        self.tokens.add(token, "access", "acme", "", HOUR);
        let answer = json!({ "access_token": token, "token_type": "Bearer", "expires_in": 3600 });
        self.issuer.script(Reply::json(200, &answer).behind(&gate));
        gate
    }

    async fn post(&self, path: &str, length: usize) -> u16 {
        let request = self
            .sidecar
            .client
            .post(self.sidecar.url(path))
            .body(vec![b'x'; length]);
        request.send().await.unwrap().status().as_u16()
    }

    /// Asks for the token itself; `form` is what is said beside.
    async fn handed_out(&self, form: &str) -> (u16, String) {
        let request = self
            .sidecar
            .client
            .post(self.sidecar.url("/.cupbearer/token/acme"));
        let request = request
            .header("content-type", "application/x-www-form-urlencoded")
            .body(form.to_owned());
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        let body: serde_json::Value =
            serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
        (
            status,
            body["access_token"].as_str().unwrap_or_default().to_owned(),
        )
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_sent_twice_waits_for_the_refresh_that_a_401_began() {
    let w = World::warm().await;
    let gate = w.held_back("tok-newer");
    w.tokens.revoke(&w.tokens.all("access")[0]);
    assert_eq!(
        w.post("/acme/first", LARGE).await,
        401,
        "the one that found it out"
    );
    assert_eq!(w.vendor.counts().revoked, 1);
    let http2 = reqwest::Client::builder()
        .no_proxy()
        .http2_prior_knowledge()
        .build()
        .unwrap();
    let requests = [
        w.sidecar
            .client
            .post(w.sidecar.url("/acme/large"))
            .body(vec![b'x'; LARGE]),
        w.sidecar.client.get(w.sidecar.url("/acme/small")),
        w.sidecar.client.get(w.sidecar.url("/never/get")),
        w.sidecar
            .client
            .post(w.sidecar.url("/idempotent/post"))
            .body("x"),
        w.sidecar
            .client
            .post(w.sidecar.url("/any/other-upstream"))
            .body(vec![b'x'; LARGE]),
        http2
            .post(w.sidecar.url("/acme/http2"))
            .body(vec![b'x'; LARGE]),
        w.sidecar
            .client
            .post(w.sidecar.url("/.cupbearer/token/acme")),
    ];
    let (mut all, waiting) = (JoinSet::new(), u32::try_from(requests.len()).unwrap());
    for request in requests {
        all.spawn(async move {
            let answer = request.send().await.unwrap();
            (answer.status().as_u16(), answer.text().await.unwrap())
        });
    }
    w.sidecar.until_metric(WAITERS, f64::from(waiting)).await;
    assert_eq!(
        (w.issuer.calls("/token"), w.vendor.counts().requests),
        (2, 2),
        "all wait for the one call"
    );
    gate.open();
    while let Some(answer) = all.join_next().await {
        let (status, text) = answer.unwrap();
        assert_eq!(status, 200, "{text}");
        assert!(
            !text.contains("access_token") || text.contains("tok-newer"),
            "{text}"
        );
    }
    assert_eq!(
        (w.vendor.counts().revoked, w.issuer.calls("/token")),
        (1, 2),
        "the dead one was sent once more to nobody"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn where_that_refresh_fails_the_vendor_decides_again() {
    let w = World::warm().await;
    let gate = Gate::shut();
    w.issuer.script(Reply::new(500, "").behind(&gate));
    w.tokens.revoke_all("access");
    assert_eq!(w.post("/acme/first", LARGE).await, 401);
    let request = w
        .sidecar
        .client
        .post(w.sidecar.url("/acme/second"))
        .body(vec![b'x'; LARGE]);
    let second = tokio::spawn(async move { request.send().await.unwrap().status().as_u16() });
    w.sidecar.until_metric(WAITERS, 1.0).await;
    gate.open();
    assert_eq!(second.await.unwrap(), 401, "the vendor's own");
    assert_eq!(w.vendor.counts().revoked, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_an_api_takes_after_all_is_waited_for_by_nobody() {
    let w = World::warm().await;
    let refresh = w.held_back("tok-newer");
    // Under way before the refusal, answered after it.
    let slow = Gate::shut();
    w.vendor.script(Reply::new(200, "").behind(&slow));
    let request = w.sidecar.client.get(w.sidecar.url("/acme/slow"));
    let slowly = tokio::spawn(async move { request.send().await.unwrap().status().as_u16() });
    w.vendor.wait(2).await;
    w.vendor.script(Reply::new(401, ""));
    assert_eq!(w.post("/never/refused", LARGE).await, 401);
    let request = w
        .sidecar
        .client
        .post(w.sidecar.url("/acme/waits"))
        .body(vec![b'x'; LARGE]);
    let waits = tokio::spawn(async move { request.send().await.unwrap().status().as_u16() });
    w.sidecar.until_metric(WAITERS, 1.0).await;
    slow.open();
    assert_eq!(
        (slowly.await.unwrap(), waits.await.unwrap()),
        (200, 200),
        "with the token that is alive"
    );
    assert_eq!(w.post("/acme/more", LARGE).await, 200);
    assert_eq!(
        (w.issuer.calls("/token"), w.vendor.counts().revoked),
        (2, 0)
    );
    refresh.open();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_was_handed_out_can_be_refused_by_itself_or_by_its_fingerprint() {
    let w = World::warm().await;
    let (_, first) = w.handed_out("").await;
    assert_eq!(
        w.handed_out("refused=tok-of-somebody-else").await,
        (200, first.clone()),
        "an unknown one costs nothing"
    );
    let (status, second) = w.handed_out(&format!("grant_type=x&refused={first}")).await;
    assert_eq!(status, 200);
    assert_ne!(second, first);
    assert_eq!(
        w.handed_out(&format!("refused={first}")).await,
        (200, second.clone()),
        "nor does an old one"
    );
    let fingerprint = w.sidecar.token("acme", "access").await["fingerprint"]
        .as_str()
        .unwrap()
        .to_owned();
    let again = w.handed_out(&format!("refused={fingerprint}")).await;
    assert_eq!(
        again,
        (200, second),
        "nobody has accepted it: refused within the pause it is what there is"
    );
    assert_eq!(w.issuer.calls("/token"), 2);
    assert_eq!(w.handed_out("refused=a&refused=b").await.0, 400);
    assert_eq!(
        w.handed_out(&format!("refused={}", "x".repeat(LARGE)))
            .await
            .0,
        400
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fingerprint_is_as_good_as_the_token() {
    let w = World::warm().await;
    let (_, first) = w.handed_out("").await;
    let fingerprint = w.sidecar.token("acme", "access").await["fingerprint"]
        .as_str()
        .unwrap()
        .to_owned();
    let (status, second) = w.handed_out(&format!("refused={fingerprint}")).await;
    assert_eq!((status, w.issuer.calls("/token")), (200, 2));
    assert_ne!(second, first);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_that_answers_401_and_200_in_turn_costs_six_token_calls_a_minute() {
    let w = World::warm().await;
    for _ in 0..40 {
        w.vendor.script(Reply::new(401, ""));
        assert_eq!(w.post("/never/refused", 1).await, 401);
        assert_eq!(w.post("/never/taken", 1).await, 200);
    }
    assert_eq!(
        w.issuer.calls("/token"),
        1 + 6,
        "at once, and no more within this minute"
    );
}
