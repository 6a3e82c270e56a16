//! Storms of 429 and 5xx with good and absurd Retry-After, certificates that do not do, and tokens
//! that come and go, at both edges.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use serde_json::Value;

use crate::support::{
    certs::{Authority, Leaf},
    endpoint::Endpoint,
    issuer::Issuer,
    raw::RawClient,
    sidecar::{PORTS, Sidecar, plain},
    tokens::Tokens,
    vendor::{Need, Vendor},
    wait::until,
    wire::{Answer, Reply, Step},
};

/// What a Retry-After may say; the longest wait that may come of it, in seconds.
const AFTER: [(&str, u64); 12] = [
    ("3", 30),
    ("0", 30),
    ("-1", 30),
    ("1e9", 30),
    ("1.5", 30),
    ("soon", 30),
    ("", 30),
    ("99999999999999999999999", 3600),
    ("4000000000", 3600),
    ("Thu, 01 Jan 1970 00:00:00 GMT", 30),
    ("Fri, 31 Dec 9999 23:59:59 GMT", 3600),
    ("Fri, 32 Foo 2026 25:61:61 GMT", 30),
];

async fn parties() -> (Issuer, Vendor, Sidecar) {
    let tokens = Tokens::default();
    let issuer = Issuer::start(
        &tokens,
        vec![Endpoint::new("/token", "acme", "s3cret-acme")],
    )
    .await;
    let vendor = Vendor::start(&tokens, vec![Need::Bearer("access")]).await;
    let text = plain("acme", &format!("{}/token", issuer.url()), &vendor.url());
    let sidecar = Sidecar::start(&format!("{text}timeouts = {{ token = \"200ms\" }}\n")).await;
    (issuer, vendor, sidecar)
}

#[tokio::test(flavor = "multi_thread")]
async fn t5_no_retry_after_of_an_issuer_makes_a_hot_loop_or_an_endless_wait() {
    let each = AFTER
        .iter()
        .flat_map(|after| [429, 503].map(|status| (status, after)))
        .map(async |(status, (after, most))| {
            let what = format!("{status} with Retry-After {after:?}");
            let tokens = Tokens::default();
            let issuer = Issuer::start(
                &tokens,
                vec![Endpoint::new("/token", "acme", "s3cret-acme")],
            )
            .await;
            issuer.always(Some(
                Reply::new(status, "").with("Retry-After", after).into(),
            ));
            let vendor = Vendor::start(&tokens, vec![Need::Bearer("access")]).await;
            let text = plain("acme", &format!("{}/token", issuer.url()), &vendor.url());
            let sidecar =
                Sidecar::start(&format!("{text}timeouts = {{ token = \"200ms\" }}\n")).await;
            issuer.wait(1).await;
            let since = Instant::now();
            for _ in 0..5 {
                let asked = Instant::now();
                let answers = join_all((0..10).map(|_| sidecar.get("/acme/x"))).await;
                assert!(
                    asked.elapsed() < Duration::from_secs(8),
                    "{what}: {:?}",
                    asked.elapsed()
                );
                for answer in answers {
                    let seconds = answer
                        .headers()
                        .get("retry-after")
                        .map(|h| h.to_str().unwrap().parse::<u64>().unwrap());
                    assert!(
                        matches!(answer.status().as_u16(), 503 | 504),
                        "{what}: {}",
                        answer.status()
                    );
                    assert!(
                        seconds.is_none_or(|s| (1..=*most).contains(&s)),
                        "{what}: {seconds:?}"
                    );
                }
            }
            // Half a second apart on average and doubling, but the jitter may make the first few
            // gaps as short as the least one of 200 ms; 429 never sooner than it says, or 5 s.
            let took = since.elapsed();
            let least_gaps = usize::try_from(took.as_millis() / 200).unwrap();
            let most =
                (4 + usize::try_from(took.as_secs()).unwrap() * 3).max(2 + least_gaps.min(8));
            assert!(
                issuer.calls("/token") <= most,
                "{what}: {} calls in {:?}",
                issuer.calls("/token"),
                since.elapsed()
            );
            assert_eq!(vendor.counts().requests, 0, "{what}");
            assert_eq!(
                sidecar
                    .metric("cupbearer_token_waiters{credential=\"acme\"}")
                    .await,
                0.0,
                "{what}"
            );
            issuer.always(None);
            if *after == "3" || (*after == "0" && status == 503) {
                sidecar.until_get("/acme/x", 200).await;
            }
            assert!(sidecar.app.stop().await, "{what}");
        });
    join_all(each).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn v13_storms_of_5xx_and_429_pass_untouched_and_are_neither_repeated_nor_taken_for_a_stale_token()
 {
    let (issuer, vendor, sidecar) = parties().await;
    assert_eq!(sidecar.status_of("/acme/x").await, 200);
    for status in [429, 500, 502, 503, 504, 507] {
        for (after, _) in AFTER {
            let before = vendor.counts().requests;
            vendor.always(Some(
                Reply::new(status, "the vendor's words")
                    .with("Retry-After", after)
                    .into(),
            ));
            let storm = join_all((0..10).map(async |_| {
                let head = b"GET /acme/x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
                RawClient::ask(sidecar.addr(), head).await
            }));
            for answer in storm.await {
                assert_eq!(
                    (answer.status, answer.header("retry-after"), &*answer.text()),
                    (status, Some(after), "the vendor's words")
                );
            }
            assert_eq!(vendor.counts().requests - before, 10, "{status}");
        }
    }
    vendor.always(None);
    assert_eq!(sidecar.status_of("/acme/x").await, 200);
    assert_eq!(issuer.calls("/token"), 1);
    sidecar.until_idle("acme").await;
}

/// A server's TLS that a client must not trust, and why.
fn distrusted(ours: &Authority) -> Vec<(&'static str, Arc<rustls::ServerConfig>)> {
    let h1 = &["http/1.1"][..];
    let between = ours.intermediate("between");
    let below = between.localhost(&[]);
    vec![
        (
            "expired",
            Authority::server(&ours.leaf(&["localhost"], Leaf::Expired), h1),
        ),
        (
            "another host",
            Authority::server(&ours.leaf(&["other.test"], Leaf::Server), h1),
        ),
        (
            "unknown authority",
            Authority::server(&Authority::new("other").localhost(&[]), h1),
        ),
        (
            "for clients",
            Authority::server(&ours.leaf(&["localhost"], Leaf::Client), h1),
        ),
        ("missing intermediate", Authority::server(&below, h1)),
        (
            "wants our certificate",
            ours.mutual(&ours.localhost(&[]), h1),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn t11_an_issuer_that_cannot_be_trusted_hears_no_secret_and_is_asked_again_in_bounds() {
    let ours = Authority::new("ours");
    let tokens = Tokens::default();
    let vendor = Vendor::start(&tokens, vec![Need::Bearer("access")]).await;
    for (what, tls) in distrusted(&ours) {
        let endpoint = || vec![Endpoint::new("/token", "acme", "s3cret-acme")];
        let issuer = Issuer::with_tls(&tokens, endpoint(), Some(tls)).await;
        let text = |url: String| {
            let plain = plain("acme", &format!("{url}/token"), &vendor.url());
            format!(
                "{PORTS}{plain}timeouts = {{ token = \"200ms\" }}\n[credentials.acme.tokens.access]\ntls = {{ ca_file = \"ca.pem\", ca_only = true }}\n"
            )
        };
        let sidecar = Sidecar::with_files(&text(issuer.url()), &[("ca.pem", &ours.pem)]).await;
        let retries = "cupbearer_token_requests_total{credential=\"acme\",outcome=\"retry\",token=\"access\"}";
        let since = Instant::now();
        sidecar.until_metric(retries, 2.0).await;
        let (status, problem) = sidecar.refusal("/acme/x").await;
        assert!(
            matches!(
                (status, problem["code"].as_str()),
                (503, Some("token_unavailable")) | (504, Some("token_timeout"))
            ),
            "{what}"
        );
        let why = sidecar.token("acme", "access").await["last_failure"]["error"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        assert!(
            why.contains("certificate") || why.contains("connection"),
            "{what}: {why}"
        );
        assert!(
            sidecar.metric(retries).await <= 4.0 + since.elapsed().as_secs_f64() * 3.0,
            "{what}"
        );
        assert!(
            issuer.seen().is_empty(),
            "{what}: it was told {:?}",
            issuer.seen().len()
        );
        // The right one, by a change of the configuration and no restart.
        let good = Issuer::with_tls(
            &tokens,
            endpoint(),
            Some(Authority::server(&ours.localhost(&[]), &["http/1.1"])),
        )
        .await;
        sidecar.rewrite("cupbearer.toml", &text(good.url()));
        sidecar.until_get("/acme/x", 200).await;
        assert!(sidecar.app.stop().await, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn t11_v15_a_chain_is_whole_only_with_its_intermediate_at_either_edge() {
    let ours = Authority::new("ours");
    let between = ours.intermediate("between");
    let leaf = between.localhost(&[]);
    for (whole, status) in [(true, 200), (false, 502)] {
        let tokens = Tokens::default();
        let tls = if whole {
            between.server_with_chain(&leaf)
        } else {
            Authority::server(&leaf, &["http/1.1"])
        };
        let issuer = Issuer::with_tls(
            &tokens,
            vec![Endpoint::new("/token", "acme", "s3cret-acme")],
            whole.then(|| tls.clone()),
        )
        .await;
        let vendor = Vendor::with_tls(&tokens, vec![Need::Bearer("access")], Some(tls)).await;
        let ca = "tls = { ca_file = \"ca.pem\", ca_only = true }\n";
        let text = format!(
            "{PORTS}{}{ca}[credentials.acme.tokens.access]\n{ca}",
            plain("acme", &format!("{}/token", issuer.url()), &vendor.url())
        );
        let sidecar = Sidecar::with_files(&text, &[("ca.pem", &ours.pem)]).await;
        let answer = sidecar.get("/acme/x").await;
        assert_eq!(answer.status(), status);
        if !whole {
            let problem: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
            assert_eq!(problem["code"], "upstream_tls");
            assert_eq!(vendor.counts().requests, 0);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn t14_a_life_is_counted_from_when_it_was_asked_for() {
    let (issuer, _vendor, sidecar) = parties().await;
    assert_eq!(sidecar.status_of("/acme/x").await, 200);
    // The answer says two hours, and takes two seconds to come.
    let body = "{\"access_token\":\"tok-slow\",\"token_type\":\"Bearer\",\"expires_in\":7200}";
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let (first, rest) = body.as_bytes().split_at(1);
    issuer.script(Answer::Raw(vec![
        Step::Bytes(head.into_bytes()),
        Step::Drip(first.to_vec(), Duration::from_secs(2)),
        Step::Bytes(rest.to_vec()),
    ]));
    sidecar
        .refresh_until("acme", async || issuer.calls("/token") > 1)
        .await;
    until("it arrives", async || {
        sidecar.token("acme", "access").await["generation"] == 2
    })
    .await;
    let asked = issuer.seen().last().unwrap().request.at;
    let token = sidecar.token("acme", "access").await;
    let at = |name: &str| {
        token[name]
            .as_str()
            .unwrap()
            .parse::<jiff::Timestamp>()
            .unwrap()
    };
    let now = jiff::Timestamp::now();
    let since = f64::from(i32::try_from(asked.elapsed().as_millis()).unwrap()) / 1000.0;
    let left = (at("expires_at") - now).total(jiff::Unit::Second).unwrap();
    assert!(
        (7200.0 - since - left).abs() < 1.2,
        "asked {since} s ago, {left} s are left: {token}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn t15_an_issuer_that_is_now_good_now_bad_is_counted_exactly_and_readiness_does_not_flap() {
    let (issuer, _vendor, sidecar) = parties().await;
    assert_eq!(sidecar.status_of("/acme/x").await, 200);
    let outcome = |o: &str| {
        format!(
            "cupbearer_token_requests_total{{credential=\"acme\",outcome=\"{o}\",token=\"access\"}}"
        )
    };
    for round in 1..=3_u32 {
        issuer.always(Some(Reply::new(503, "").with("Retry-After", "60").into()));
        let before = issuer.calls("/token");
        sidecar
            .refresh_until("acme", async || issuer.calls("/token") > before)
            .await;
        sidecar
            .until_metric(&outcome("retry"), f64::from(round))
            .await;
        assert_eq!(
            (
                sidecar.admin("/readyz").await.status().as_u16(),
                sidecar.status_of("/acme/x").await
            ),
            (200, 200),
            "round {round}"
        );
        issuer.always(None);
        sidecar
            .refresh_until("acme", async || {
                sidecar.metric(&outcome("ok")).await > f64::from(round)
            })
            .await;
        assert_eq!(
            (
                sidecar.admin("/readyz").await.status().as_u16(),
                sidecar.status_of("/acme/x").await
            ),
            (200, 200),
            "round {round}"
        );
        let answered =
            sidecar.metric(&outcome("ok")).await + sidecar.metric(&outcome("retry")).await;
        assert_eq!(
            answered,
            f64::from(u32::try_from(issuer.calls("/token")).unwrap()),
            "round {round}"
        );
    }
}
