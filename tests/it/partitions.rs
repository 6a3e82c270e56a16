//! A token per customer: chosen by a header that goes no further, bounded in number, guarded
//! together, and handed out.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{
    endpoint::{Endpoint, Scope},
    issuer::Issuer,
    ledger::age,
    sidecar::{PORTS, Sidecar},
    stanza::Stanza,
    tokens::Tokens,
    vendor::{Need, Vendor},
    wait::until,
    wire::Reply,
};

const HEADER: &str = "X-Lean-Customer-Id";
const TOKEN: &str = "/oauth2/token";
const VEND: &str = "/.cupbearer/token/lean_customer";

struct World {
    issuer: Issuer,
    vendor: Vendor,
    sidecar: Sidecar,
}

async fn world(secret: &str, over: &str) -> World {
    let tokens = Tokens::default();
    let mut endpoint = Endpoint::new(TOKEN, "client-one", "secret-one");
    endpoint.scope = Scope::ApiOrCustomer;
    endpoint.jwt = true;
    let issuer = Issuer::start(&tokens, vec![endpoint]).await;
    let vendor = Vendor::start(&tokens, vec![Need::Bearer("access")]).await;
    let secrets = format!(r#"client_id = "client-one", client_secret = "{secret}""#);
    let base = format!(r#"base = "{}""#, issuer.url());
    let backend = Stanza::new("lean", &base, &secrets).credential();
    let stanza = Stanza::new("lean_customer", &base, &secrets)
        .over(over)
        .over(&backend);
    // The backend's own token is made at start: another secret value would be needed to tell its guard apart.
    let sidecar = stanza.start(&vendor.url()).await;
    World {
        issuer,
        vendor,
        sidecar,
    }
}

fn customer(number: u32) -> String {
    format!("00000000-0000-4000-8000-{number:012}")
}

impl World {
    async fn call(&self, customer: &str) -> (u16, Value) {
        let answer = self
            .sidecar
            .client
            .get(self.sidecar.url("/lean_customer/x"))
            .header(HEADER, customer)
            .send()
            .await
            .unwrap();
        (
            answer.status().as_u16(),
            serde_json::from_str(&answer.text().await.unwrap()).unwrap_or_default(),
        )
    }

    async fn vend(&self, customer: &str) -> reqwest::Response {
        self.sidecar
            .client
            .post(self.sidecar.url(VEND))
            .header(HEADER, customer)
            .send()
            .await
            .unwrap()
    }

    /// Scopes that were asked for, customers only.
    fn asked(&self) -> Vec<String> {
        let scope = |body: &[u8]| {
            form_urlencoded::parse(body)
                .find(|(n, _)| n == "scope")
                .map(|(_, v)| v.into_owned())
        };
        let scopes = self
            .issuer
            .seen()
            .into_iter()
            .filter_map(|s| scope(&s.request.body));
        scopes
            .filter_map(|s| s.strip_prefix("customer.").map(Into::into))
            .collect()
    }

    /// Calls for this customer until no more than `n` token sets are kept.
    async fn until_kept(&self, n: usize, number: u32) {
        let kept = async {
            loop {
                assert_eq!(self.call(&customer(number)).await.0, 200);
                let status = self.sidecar.status().await;
                let credential = status["credentials"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .find(|c| c["name"] == "lean_customer")
                    .unwrap()
                    .clone();
                if credential["tokens"].as_array().unwrap().len() <= n {
                    return;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(10), kept)
            .await
            .expect("the oldest goes");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_customer_has_one_token_and_the_header_goes_no_further() {
    let w = world("secret-one", "").await;
    let calls = (0..30).map(|n| {
        let w = &w;
        async move { w.call(&customer(n % 3)).await.0 }
    });
    assert_eq!(futures_util::future::join_all(calls).await, [200; 30]);
    let asked = w.asked();
    assert_eq!(asked.len(), 3, "{asked:?}");
    assert_eq!(
        asked.into_iter().collect::<BTreeSet<_>>(),
        (0..3).map(customer).collect()
    );
    for request in w.vendor.seen() {
        assert_eq!(request.header(HEADER), None);
        assert_eq!(request.header("x_lean_customer_id"), None);
    }
    let sent: BTreeSet<String> = w
        .vendor
        .seen()
        .iter()
        .map(|r| r.header("authorization").unwrap().to_owned())
        .collect();
    assert_eq!((sent.len(), w.issuer.refusals()), (3, vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_customer_that_is_missing_malformed_or_named_twice_is_refused_before_any_token_call() {
    let w = world("secret-one", "").await;
    let refused = async |request: reqwest::RequestBuilder| {
        let answer = request.send().await.unwrap();
        let body: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
        assert_eq!(
            (&body["status"], &body["code"]),
            (&json!(400), &json!("partition_invalid")),
            "{body}"
        );
    };
    for url in [w.sidecar.url("/lean_customer/x"), w.sidecar.url(VEND)] {
        let ask = || w.sidecar.client.post(&url);
        refused(ask()).await;
        let long = customer(1) + "0";
        let spaced = format!("{} api", customer(1));
        for value in [
            "",
            "x",
            "api",
            "../../../../../../../../../../../../x",
            &long,
            &spaced,
            &customer(1)[1..],
        ] {
            refused(ask().header(HEADER, value)).await;
        }
        refused(
            ask()
                .header(HEADER, customer(1))
                .header(HEADER, customer(2)),
        )
        .await;
    }
    assert_eq!((w.asked(), w.vendor.counts().requests), (vec![], 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_customer_that_was_not_used_for_longest_goes_first() {
    let w = world("secret-one", "[HERE.partition.customer_id]\nmax = 2").await;
    for number in 1..=3 {
        assert_eq!(w.call(&customer(number)).await.0, 200);
    }
    w.until_kept(2, 3).await;
    assert_eq!(w.asked().len(), 3);
    // Two is used again, so the next to go is three.
    assert_eq!(w.call(&customer(2)).await.0, 200);
    assert_eq!(w.asked().len(), 3);
    w.until_kept(2, 4).await;
    assert_eq!(w.call(&customer(2)).await.0, 200);
    assert_eq!(w.asked(), [1, 2, 3, 4].map(customer));
    assert_eq!(w.call(&customer(3)).await.0, 200);
    assert_eq!(w.asked(), [1, 2, 3, 4, 3].map(customer));
}

#[tokio::test(flavor = "multi_thread")]
async fn customers_share_what_is_counted_against_their_secret() {
    let w = world("wrong", "").await;
    w.issuer.wait(1).await;
    let calls = (0..50).map(|n| {
        let w = &w;
        async move { w.call(&customer(n)).await }
    });
    for (status, body) in futures_util::future::join_all(calls).await {
        assert_eq!(
            (status, &body["code"]),
            (502, &json!("token_rejected")),
            "{body}"
        );
    }
    assert_eq!(
        w.issuer.calls(TOKEN),
        1,
        "the backend's refusal at start was the only one"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_customer_who_is_refused_alone_holds_no_other_customer() {
    let w = world("secret-one", "").await;
    assert_eq!(w.call(&customer(1)).await.0, 200);
    let refusal = Reply::json(
        400,
        &json!({ "error": "access_denied", "error_description": "no such customer" }),
    );
    w.issuer.script(refusal);
    let (status, body) = w.call(&customer(2)).await;
    assert_eq!(
        (status, &body["code"]),
        (502, &json!("token_rejected")),
        "{body}"
    );
    assert_eq!(w.call(&customer(3)).await.0, 200);
    assert_eq!(w.call(&customer(2)).await.0, 502);
    assert_eq!(w.asked(), [1, 2, 3].map(customer));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_handed_out_as_rfc_6749_has_it_and_never_stored() {
    let w = world("secret-one", "").await;
    let answer = w.vend(&customer(1)).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["cache-control"], "no-store");
    assert_eq!(answer.headers()["content-type"], "application/json");
    let body: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
    let token = body["access_token"].as_str().unwrap();
    assert_eq!(body["token_type"], "Bearer");
    assert!(
        (3590..=3600).contains(&body["expires_in"].as_u64().unwrap()),
        "{body}"
    );
    // It is the token that calls get, and the issuer made it for this customer.
    assert_eq!(
        w.issuer.tokens().get(token).unwrap().scope,
        format!("customer.{}", customer(1))
    );
    assert_eq!(w.call(&customer(1)).await.0, 200);
    assert_eq!(
        w.vendor.last().header("authorization"),
        Some(&*format!("Bearer {token}"))
    );
    assert_eq!(w.asked().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_for_handing_out_is_handed_out_and_only_by_post() {
    let w = world("secret-one", "").await;
    for (method, path, status, code) in [
        ("POST", "/.cupbearer/token/lean", 404, "no_route"),
        ("POST", "/.cupbearer/token/nobody", 404, "no_route"),
        ("POST", "/.cupbearer/token/", 404, "no_route"),
        ("POST", "/.cupbearer/else", 404, "no_route"),
        ("GET", VEND, 405, "method_refused"),
        ("PUT", VEND, 405, "method_refused"),
    ] {
        let request = w
            .sidecar
            .client
            .request(method.parse().unwrap(), w.sidecar.url(path))
            .header(HEADER, customer(1));
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), status, "{method} {path}");
        if status == 405 {
            assert_eq!(answer.headers()["allow"], "POST", "RFC 9110 section 15.5.6");
        }
        assert_eq!(answer.headers()["cache-control"], "no-store");
        let body: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
        assert_eq!(body["code"], code, "{method} {path}");
    }
    assert_eq!(w.asked(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_handed_out_only_while_it_has_its_least_time_left() {
    let w = world(
        "secret-one",
        "[HERE.tokens.access.lifetime]\nmin_remaining = \"3s\"",
    )
    .await;
    w.issuer.change(TOKEN, |e| e.life = Duration::from_secs(4));
    let mut handed = BTreeSet::new();
    let renewed = async {
        while w.asked().len() < 3 {
            let body: Value =
                serde_json::from_str(&w.vend(&customer(1)).await.text().await.unwrap()).unwrap();
            assert!(
                body["expires_in"]
                    .as_u64()
                    .is_some_and(|s| (2..=4).contains(&s)),
                "{body}"
            );
            let token = body["access_token"].as_str().unwrap().to_owned();
            let left = w.issuer.tokens().get(&token).unwrap().until - std::time::Instant::now();
            assert!(left > Duration::from_millis(2500), "{left:?}");
            handed.insert(token);
        }
    };
    tokio::time::timeout(Duration::from_secs(15), renewed)
        .await
        .unwrap();
    assert!(handed.len() >= 2, "{}", handed.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn customers_keep_their_tokens_over_reloads_and_hear_of_what_changed() {
    let w = world("secret-one", "").await;
    let customers = [1, 2, 3].map(customer);
    let all = async || {
        for customer in &customers {
            assert_eq!(w.call(customer).await.0, 200);
        }
    };
    let credential = async || {
        let status = w.sidecar.status().await;
        status["credentials"]
            .as_array()
            .unwrap()
            .iter()
            .find(|c| c["name"] == "lean_customer")
            .unwrap()
            .clone()
    };
    all().await;
    let mut text = std::fs::read_to_string(w.sidecar.path("cupbearer.toml")).unwrap();
    let mut applied = 0.0;
    let mut reload = async |more: &str| {
        text.push_str(more);
        w.sidecar.rewrite("cupbearer.toml", &text);
        applied += 1.0;
        w.sidecar
            .until_metric(
                "cupbearer_config_reloads_total{outcome=\"applied\"}",
                applied,
            )
            .await;
    };
    reload("[upstreams.extra]\nurl = \"http://127.0.0.1:9\"\ncredential = \"none\"\n").await;
    assert_eq!(
        credential().await["tokens"].as_array().unwrap().len(),
        3,
        "they are there before anybody asks"
    );
    all().await;
    reload("[credentials.lean_customer.inject.headers]\nX-Customer = \"is {{ partition.customer_id }}\"\n").await;
    all().await;
    assert_eq!(
        w.vendor.last().header("x-customer"),
        Some(&*format!("is {}", customers[2])),
        "placed as is said now"
    );
    reload("[credentials.lean_customer.tokens.access.lifetime]\ncap = \"20m\"\n").await;
    let life = |token: &Value| {
        let at = |key: &str| {
            token[key]
                .as_str()
                .unwrap()
                .parse::<jiff::Timestamp>()
                .unwrap()
        };
        (at("expires_at") - at("obtained_at")).get_seconds()
    };
    until("each lives shorter", async || {
        credential().await["tokens"]
            .as_array()
            .unwrap()
            .iter()
            .all(|t| life(t) <= 1201)
    })
    .await;
    all().await;
    assert_eq!(w.asked(), customers);
    reload("[credentials.lean_customer.partition.customer_id]\nmax = 2\n").await;
    w.until_kept(2, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_latched_before_a_restart_is_unlatched_before_any_customer_called() {
    let tokens = Tokens::default();
    let issuer = Issuer::start(
        &tokens,
        vec![Endpoint {
            scope: Scope::ApiOrCustomer,
            ..Endpoint::new(TOKEN, "client-one", "right")
        }],
    )
    .await;
    let vendor = Vendor::start(&tokens, vec![Need::Bearer("access")]).await;
    let memory = tempfile::tempdir().unwrap();
    let stanza = Stanza::new(
        "lean_customer",
        &format!(r#"base = "{}""#, issuer.url()),
        r#"client_id = "client-one", client_secret = "wrong""#,
    );
    let credential = stanza
        .over("[HERE.guard]\nmax_rejections = 1\nhold = \"until_secret_changes\"")
        .credential();
    let (dir, api) = (memory.path().display(), vendor.url());
    let text = format!(
        "{PORTS}[state]\ndir = \"{dir}\"\n{credential}[upstreams.lean_customer]\nurl = \"{api}\"\ncredential = \"lean_customer\"\n"
    );
    let call = async |sidecar: &Sidecar, number: u32| {
        let answer = sidecar
            .client
            .get(sidecar.url("/lean_customer/x"))
            .header(HEADER, customer(number))
            .send()
            .await
            .unwrap();
        answer.status()
    };
    let first = Sidecar::with_files(&text, &[]).await;
    assert_eq!(
        (call(&first, 1).await.as_u16(), issuer.calls(TOKEN)),
        (502, 1)
    );
    first.app.stop().await;
    let second = Sidecar::with_files(&text, &[]).await;
    assert_eq!(
        (call(&second, 1).await.as_u16(), issuer.calls(TOKEN)),
        (502, 1),
        "it is remembered"
    );
    second.app.stop().await;
    age(memory.path(), Duration::from_secs(31));
    issuer.change(TOKEN, |e| e.secrets = vec!["wrong".into()]);
    let third = Sidecar::with_files(&text, &[]).await;
    assert_eq!(
        third
            .post_admin("/api/credentials/lean_customer/unlatch")
            .await,
        202
    );
    for number in [2, 1] {
        assert_eq!(call(&third, number).await, 200);
    }
    assert_eq!(issuer.calls(TOKEN), 3);
}
