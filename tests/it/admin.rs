//! `promises.md#admin-port`: health, status, and what may be asked for by hand; who is answered and
//! who is not.

use std::{collections::BTreeSet, time::Duration};

use http::Method;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::support::{
    endpoint::Endpoint,
    issuer::{Issuer, PATIENCE},
    ledger::age,
    raw::RawClient,
    sidecar::{PORTS, Sidecar, plain},
    tokens::Tokens,
    vendor::{Need, Vendor},
    wire::{Answer, Gate, Reply},
};

async fn parties() -> (Issuer, Vendor) {
    let tokens = Tokens::default();
    let issuer = Issuer::start(
        &tokens,
        vec![Endpoint::new("/token", "acme", "s3cret-acme")],
    )
    .await;
    (
        issuer,
        Vendor::start(&tokens, vec![Need::Bearer("access")]).await,
    )
}

fn acme(issuer: &Issuer, vendor: &Vendor) -> String {
    plain("acme", &format!("{}/token", issuer.url()), &vendor.url())
}

/// A second credential, which answers to nobody.
fn other(issuer: &Issuer, vendor: &Vendor) -> String {
    plain("other", &format!("{}/nothing", issuer.url()), &vendor.url())
}

fn ready(mode: &str, rest: &str) -> String {
    format!(
        "{}ready = \"{mode}\"\n[reload]\n{rest}",
        PORTS.split("[reload]\n").next().unwrap()
    )
}

/// Waits until a path of the admin port answers with this status.
async fn until(sidecar: &Sidecar, path: &str, status: u16) {
    let reached = async { while sidecar.admin(path).await.status().as_u16() != status {} };
    timeout(PATIENCE, reached)
        .await
        .unwrap_or_else(|_| panic!("{path} never said {status}"));
}

/// Waits until the token of `credential` is in this state; what `/api/status` says of it then.
async fn until_state(sidecar: &Sidecar, credential: &str, state: &str) -> Value {
    let reached = async {
        loop {
            let token = sidecar.token(credential, "access").await;
            if token["state"] == state {
                return token;
            }
        }
    };
    timeout(PATIENCE, reached)
        .await
        .unwrap_or_else(|_| panic!("{credential} never was {state}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn started_is_ready_after_the_first_outcome_whatever_it_is() {
    for answer in [
        None,
        Some(Reply::json(401, &json!({ "error": "invalid_client" }))),
    ] {
        let (issuer, vendor) = parties().await;
        let gate = Gate::shut();
        let good = Reply::json(200, &json!({ "access_token": "t", "expires_in": 600 }));
        issuer.script(Answer::Reply(answer.clone().unwrap_or(good).behind(&gate)));
        let sidecar = Sidecar::start(&acme(&issuer, &vendor)).await;
        issuer.wait_for_connections(1).await;
        let early = sidecar.admin("/readyz").await;
        assert_eq!(early.status(), 503);
        assert!(early.text().await.unwrap().contains("acme"));
        assert_eq!(sidecar.admin("/livez").await.status(), 200);
        gate.open();
        until(&sidecar, "/readyz", 200).await;
        until(
            &sidecar,
            "/readyz/acme",
            if answer.is_some() { 503 } else { 200 },
        )
        .await;
        assert_eq!(sidecar.admin("/readyz/nobody").await.status(), 404);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn accepted_stays_unready_after_a_refusal_until_a_success() {
    let (issuer, vendor) = parties().await;
    let text = ready("accepted", &acme(&issuer, &vendor))
        .replace("\"s3cret-acme\"", "{ file = \"secret\" }")
        .replace("[reload]\n", "[reload]\ninterval = \"50ms\"\n");
    let sidecar = Sidecar::with_files(&text, &[("secret", "wrong")]).await;
    let refused = until_state(&sidecar, "acme", "held").await;
    assert_eq!(refused["last_failure"]["class"], "rejected", "{refused}");
    assert_eq!(sidecar.admin("/readyz").await.status(), 503);
    sidecar.rewrite("secret", "s3cret-acme");
    until(&sidecar, "/readyz", 200).await;

    // An issuer that is down is no refusal.
    let (issuer, vendor) = parties().await;
    issuer.always(Some(Reply::new(503, "").into()));
    let sidecar = Sidecar::with_files(&ready("accepted", &acme(&issuer, &vendor)), &[]).await;
    until(&sidecar, "/readyz", 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn accepted_asks_for_one_success_and_never_for_another() {
    let (issuer, vendor) = parties().await;
    let refusal = Reply::json(400, &json!({ "error": "invalid_scope" }));
    let text = ready("accepted", &acme(&issuer, &vendor));
    issuer.always(Some(refusal.clone().into()));
    let sidecar = Sidecar::with_files(&text, &[]).await;
    until_state(&sidecar, "acme", "held").await;
    // No answer at all is no acceptance of what was refused before.
    issuer.always(Some(Reply::new(503, "").into()));
    sidecar
        .refresh_until("acme", async || {
            sidecar.token("acme", "access").await["last_failure"]["class"] == "retry"
        })
        .await;
    assert_eq!(sidecar.admin("/readyz").await.status(), 503);
    issuer.always(None);
    issuer.change("/token", |e| e.life = Duration::from_secs(1));
    sidecar
        .refresh_until("acme", async || {
            sidecar.token("acme", "access").await["generation"].as_u64() > Some(0)
        })
        .await;
    until(&sidecar, "/readyz", 200).await;
    issuer.always(Some(refusal.into()));
    sidecar
        .refresh_until("acme", async || {
            sidecar.token("acme", "access").await["last_failure"]["class"] == "config"
        })
        .await;
    until(&sidecar, "/readyz/acme", 503).await;
    assert_eq!(
        sidecar.admin("/readyz").await.status(),
        200,
        "the token is dead, but was accepted once"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn any_wants_one_credential_that_can_send_and_all_wants_each() {
    let (issuer, vendor) = parties().await;
    let both = format!("{}{}", acme(&issuer, &vendor), other(&issuer, &vendor));
    let any = Sidecar::with_files(&ready("any", &both), &[]).await;
    let all = Sidecar::with_files(&ready("all", &both), &[]).await;
    until_state(&all, "other", "held").await;
    until_state(&all, "acme", "ok").await;
    until(&any, "/readyz", 200).await;
    let not = all.admin("/readyz").await;
    assert_eq!(not.status(), 503);
    assert!(not.text().await.unwrap().contains("other"));
    let good = Sidecar::with_files(&ready("all", &acme(&issuer, &vendor)), &[]).await;
    until(&good, "/readyz", 200).await;
    // Lazy ones count as able: nobody has asked yet.
    let lazy = format!(
        "{}[credentials.other.tokens.access.lifetime]\nrefresh = \"lazy\"\n",
        other(&issuer, &vendor)
    );
    let lazy = Sidecar::with_files(&ready("all", &lazy), &[]).await;
    until(&lazy, "/readyz", 200).await;
    assert_eq!(lazy.token("other", "access").await["state"], "resting");
}

fn keys(value: &Value) -> BTreeSet<String> {
    value
        .as_object()
        .unwrap_or_else(|| panic!("{value}"))
        .keys()
        .cloned()
        .collect()
}

fn has(value: &Value, wanted: &[&str]) {
    let missing: Vec<_> = wanted
        .iter()
        .filter(|k| !keys(value).contains(**k))
        .collect();
    assert!(missing.is_empty(), "{missing:?} in {value}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_says_what_every_token_is_doing() {
    let (issuer, vendor) = parties().await;
    issuer.change("/token", |e| e.life = Duration::from_secs(600));
    let sidecar = Sidecar::start(&acme(&issuer, &vendor)).await;
    let ok = until_state(&sidecar, "acme", "ok").await;
    let status = sidecar.status().await;
    has(
        &status,
        &["build", "uptime", "config", "upstreams", "credentials"],
    );
    has(&status["build"], &["version"]);
    assert_eq!(status["config"]["generation"], 1);
    assert_eq!(status["upstreams"][0]["name"], "acme");
    assert!(
        status["upstreams"][0]["url"]
            .as_str()
            .unwrap()
            .starts_with(&vendor.url())
    );
    has(
        &status["credentials"][0],
        &["name", "profile", "secret_generation", "tokens"],
    );
    has(
        &ok,
        &[
            "name",
            "state",
            "generation",
            "obtained_at",
            "expires_at",
            "refresh_at",
            "last_failure",
            "rejections",
            "fingerprint",
        ],
    );
    let at = |key: &str| {
        ok[key]
            .as_str()
            .unwrap()
            .parse::<jiff::Timestamp>()
            .unwrap()
            .as_second()
    };
    assert_eq!(at("expires_at") - at("obtained_at"), 600);
    assert!(
        at("obtained_at") < at("refresh_at") && at("refresh_at") < at("expires_at"),
        "{ok}"
    );
    assert!(
        ok["last_failure"].is_null() && ok["generation"] == 1 && ok["rejections"] == 0,
        "{ok}"
    );
    let fingerprint = ok["fingerprint"].as_str().unwrap();
    assert!(
        fingerprint.len() == 8 && fingerprint.bytes().all(|b| b.is_ascii_hexdigit()),
        "{fingerprint}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn each_state_is_told_by_its_name() {
    let (issuer, vendor) = parties().await;
    let gate = Gate::shut();
    issuer.script(Answer::Reply(Reply::new(503, "").behind(&gate)));
    let sidecar = Sidecar::start(&acme(&issuer, &vendor)).await;
    until_state(&sidecar, "acme", "refreshing").await;
    issuer.always(Some(Reply::new(503, "").into()));
    gate.open();
    let waiting = until_state(&sidecar, "acme", "waiting").await;
    assert_eq!(
        (
            &waiting["last_failure"]["class"],
            &waiting["last_failure"]["status"]
        ),
        (&json!("retry"), &json!(503))
    );
    assert!(waiting["refresh_at"].is_string(), "{waiting}");
    issuer.always(Some(
        Reply::json(
            400,
            &json!({ "error": "invalid_scope", "error_description": "no such scope" }),
        )
        .into(),
    ));
    let held = until_state(&sidecar, "acme", "held").await;
    has(&held["last_failure"], &["class", "at", "status", "error"]);
    assert_eq!(held["last_failure"]["class"], "config");
    assert_eq!(
        held["last_failure"]["error"],
        "invalid_scope: no such scope"
    );

    let (issuer, vendor) = parties().await;
    let text = acme(&issuer, &vendor).replace("s3cret-acme", "wrong")
        + "[credentials.acme.guard]\nmax_rejections = 1\n";
    let latched = until_state(&Sidecar::start(&text).await, "acme", "latched").await;
    assert_eq!(
        (&latched["rejections"], &latched["last_failure"]["status"]),
        (&json!(1), &json!(401))
    );

    let (issuer, vendor) = parties().await;
    issuer.change("/token", |e| e.life = Duration::from_secs(2));
    let text =
        acme(&issuer, &vendor) + "[credentials.acme.tokens.access.lifetime]\nrest_after = \"1s\"\n";
    let sidecar = Sidecar::start(&text).await;
    until_state(&sidecar, "acme", "resting").await;
    assert_eq!(sidecar.status_of("/acme/x").await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn refresh_and_unlatch_do_what_they_say() {
    let (issuer, vendor) = parties().await;
    let sidecar = Sidecar::start(&acme(&issuer, &vendor)).await;
    until_state(&sidecar, "acme", "ok").await;
    // Within a second of the last call it is made when that second is over.
    assert_eq!(
        sidecar.post_admin("/api/credentials/acme/refresh").await,
        202
    );
    issuer.wait(2).await;

    let (issuer, vendor) = parties().await;
    issuer.change("/token", |e| e.secrets = vec!["not yet".into()]);
    let sidecar = Sidecar::start(
        &(acme(&issuer, &vendor)
            + "[credentials.acme.guard]\nmax_rejections = 1\n[state]\ndir = \"state\"\n"),
    )
    .await;
    until_state(&sidecar, "acme", "latched").await;
    for _ in 0..50 {
        assert_eq!(
            sidecar.post_admin("/api/credentials/acme/refresh").await,
            202
        );
    }
    until_state(&sidecar, "acme", "latched").await;
    assert_eq!(issuer.calls("/token"), 1, "the guard holds");
    issuer.change("/token", |e| e.secrets = vec!["s3cret-acme".into()]);
    // The attempt comes 30 s after the last refusal.
    age(&sidecar.path("state"), Duration::from_secs(31));
    assert_eq!(
        sidecar.post_admin("/api/credentials/acme/unlatch").await,
        202
    );
    until_state(&sidecar, "acme", "ok").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_state_needs_json_and_no_foreign_page() {
    let (issuer, vendor) = parties().await;
    let sidecar = Sidecar::start(&acme(&issuer, &vendor)).await;
    until_state(&sidecar, "acme", "ok").await;
    let admin = sidecar.admin_addr();
    let json = ("content-type", "application/json");
    let (own, null) = (format!("http://{admin}"), "null".to_owned());
    let send = async |method: Method, path: &str, headers: &[(&str, &str)]| {
        let request = sidecar
            .client
            .request(method, format!("http://{admin}{path}"));
        let request = headers
            .iter()
            .fold(request, |r, (name, value)| r.header(*name, *value));
        let answer = request.send().await.unwrap();
        assert!(
            answer
                .headers()
                .keys()
                .all(|k| !k.as_str().starts_with("access-control-")),
            "{answer:?}"
        );
        answer.status().as_u16()
    };
    let refresh = "/api/credentials/acme/refresh";
    for (path, headers, expected) in [
        (refresh, vec![json], 202),
        (
            refresh,
            vec![("content-type", "application/json; charset=utf-8")],
            202,
        ),
        (refresh, vec![json, ("origin", &*own)], 202),
        (refresh, vec![], 415),
        (refresh, vec![("content-type", "text/plain")], 415),
        (
            refresh,
            vec![("content-type", "application/x-www-form-urlencoded")],
            415,
        ),
        (refresh, vec![json, ("origin", "http://evil.example")], 403),
        (refresh, vec![json, ("origin", "http://127.0.0.1:1")], 403),
        (refresh, vec![json, ("origin", &*null)], 403),
        (refresh, vec![json, ("host", "evil.example")], 403),
        (refresh, vec![json, ("host", "127.0.0.1.evil.example")], 403),
        ("/api/credentials/nobody/refresh", vec![json], 404),
        ("/api/credentials/nobody/unlatch", vec![json], 404),
        ("/api/credentials/acme/dance", vec![json], 404),
        ("/api/credentials/acme/unlatch", vec![json], 202),
    ] {
        assert_eq!(
            send(Method::POST, path, &headers).await,
            expected,
            "{path} {headers:?}"
        );
    }
    for path in [refresh, "/api/credentials/acme/unlatch"] {
        for method in [Method::GET, Method::PUT, Method::DELETE, Method::OPTIONS] {
            assert_eq!(
                send(method.clone(), path, &[json]).await,
                405,
                "{method} {path}"
            );
        }
    }
    assert_eq!(
        send(Method::GET, "/api/status", &[("host", "evil.example")]).await,
        403
    );
    assert_eq!(
        send(Method::GET, "/api/status", &[("host", "localhost")]).await,
        200
    );
    assert_eq!(send(Method::POST, "/api/status", &[json]).await, 405);
    assert_eq!(
        send(Method::GET, "/metrics", &[("host", "cupbearer.prod.svc")]).await,
        200
    );
    assert_eq!(send(Method::GET, "/nothing", &[]).await, 404);
    let traced = RawClient::ask(
        admin,
        format!("TRACE /api/status HTTP/1.1\r\nHost: {admin}\r\nX: y\r\n\r\n").as_bytes(),
    )
    .await;
    assert!(
        (400..500).contains(&traced.status) && !traced.text().contains("X: y"),
        "{}",
        traced.head
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_read_only_port_serves_health_and_metrics_to_anyone_and_nothing_else() {
    let (issuer, vendor) = parties().await;
    let text = format!(
        "{}[metrics]\nlisten = \"127.0.0.1:0\"\n",
        acme(&issuer, &vendor)
    );
    let sidecar = Sidecar::start(&text).await;
    until(&sidecar, "/readyz", 200).await;
    let port = sidecar.app.metrics_port().unwrap();
    let status = async |method: Method, path: &str| {
        let request = sidecar
            .client
            .request(method, format!("http://{port}{path}"))
            .header("host", "10.0.0.7:14191");
        request
            .header("content-type", "application/json")
            .send()
            .await
            .unwrap()
            .status()
            .as_u16()
    };
    for path in ["/metrics", "/livez", "/readyz"] {
        assert_eq!(status(Method::GET, path).await, 200, "{path}");
        assert_eq!(status(Method::POST, path).await, 405, "{path}");
    }
    for path in [
        "/api/status",
        "/",
        "/api/credentials/acme/refresh",
        "/api/credentials/acme/unlatch",
        "/api/reload",
    ] {
        assert_eq!(
            (
                status(Method::GET, path).await,
                status(Method::POST, path).await
            ),
            (404, 404),
            "{path}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn m3_the_data_port_knows_no_admin_paths() {
    let (issuer, vendor) = parties().await;
    let sidecar = Sidecar::start(&acme(&issuer, &vendor)).await;
    for path in ["/metrics", "/livez", "/readyz", "/api/status", "/"] {
        let (status, body) = sidecar.refusal(path).await;
        assert_eq!((status, &body["code"]), (404, &json!("no_route")), "{path}");
    }
    let post = sidecar
        .client
        .post(sidecar.url("/api/credentials/acme/refresh"))
        .header("content-type", "application/json");
    assert_eq!(post.send().await.unwrap().status(), 404);
    assert_eq!(vendor.counts().requests, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn h5_one_token_has_another_fingerprint_after_each_start() {
    let (issuer, vendor) = parties().await;
    issuer
        .always(Some(Reply::json(200, &json!({ "access_token": "one-and-the-same", "token_type": "Bearer", "expires_in": 3600 })).into()));
    let text = format!(
        "{}{}",
        acme(&issuer, &vendor),
        plain("twin", &format!("{}/token", issuer.url()), &vendor.url())
    );
    let mut seen = BTreeSet::new();
    for _ in 0..2 {
        let sidecar = Sidecar::start(&text).await;
        let marks = [
            until_state(&sidecar, "acme", "ok").await,
            until_state(&sidecar, "twin", "ok").await,
        ]
        .map(|token| token["fingerprint"].clone());
        assert_eq!(
            marks[0], marks[1],
            "within one start it tells which tokens are one"
        );
        let mark = marks[0].as_str().unwrap().to_owned();
        assert!(
            mark.len() == 8
                && !sidecar
                    .admin("/metrics")
                    .await
                    .text()
                    .await
                    .unwrap()
                    .contains(&mark),
            "{mark}"
        );
        seen.insert(mark);
    }
    assert_eq!(seen.len(), 2);
}
