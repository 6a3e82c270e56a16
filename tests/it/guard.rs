//! The guard in memory: a refused secret is not tried again and again, whoever asks and however
//! often.

use std::{collections::BTreeSet, time::Duration};

use serde_json::Value;
use tokio::task::JoinSet;

use crate::support::{
    endpoint::Endpoint,
    issuer::Issuer,
    ledger::age,
    sidecar::{PORTS, Sidecar},
    tokens::Tokens,
    vendor::{Need, Vendor},
    wait::{until, within},
    wire::{Gate, Reply},
};

/// An issuer that takes the client `acme` with `right`, and a vendor.
async fn parts() -> (Issuer, Vendor) {
    let tokens = Tokens::default();
    let issuer = Issuer::start(&tokens, vec![Endpoint::new("/token", "acme", "right")]).await;
    let vendor = Vendor::start(&tokens, vec![Need::Bearer("access")]).await;
    (issuer, vendor)
}

/// The client `acme` under this name of a credential; `secret` as TOML.
fn stanza(name: &str, secret: &str, issuer: &Issuer, vendor: &Vendor) -> String {
    format!(
        "[upstreams.{name}]\nurl = \"{}\"\ncredential = \"{name}\"\ntimeouts = {{ token = \"300ms\" }}\n[credentials.{name}]\nsettings = {{ token_url = \"{}/token\" }}\n\
         secrets = {{ client_id = \"acme\", client_secret = {secret} }}\n",
        vendor.url(),
        issuer.url()
    )
}

/// A hundred requests at the same time; each gets this status and code.
async fn hundred_refused(sidecar: &Sidecar, name: &str, expected: (u16, &str)) {
    let mut crowd = JoinSet::new();
    for _ in 0..100 {
        let request = sidecar.client.get(sidecar.url(&format!("/{name}/x")));
        crowd.spawn(async move {
            let answer = request.send().await.unwrap();
            let status = answer.status().as_u16();
            (
                status,
                serde_json::from_slice::<Value>(&answer.bytes().await.unwrap()).unwrap(),
            )
        });
    }
    while let Some(done) = crowd.join_next().await {
        let (status, body) = done.unwrap();
        assert_eq!((status, body["code"].as_str().unwrap()), expected, "{body}");
    }
}

async fn gauge(sidecar: &Sidecar, what: &str, name: &str) -> f64 {
    sidecar
        .metric(&format!(
            "cupbearer_credential_{what}{{credential=\"{name}\"}}"
        ))
        .await
}

/// How far ahead the next attempt is, in seconds.
async fn next(sidecar: &Sidecar, name: &str) -> i64 {
    let token = sidecar.token(name, "access").await;
    let at: jiff::Timestamp = token["refresh_at"]
        .as_str()
        .unwrap_or_else(|| panic!("{token}"))
        .parse()
        .unwrap();
    at.as_second() - jiff::Timestamp::now().as_second()
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_first_refusal_neither_callers_nor_operators_shorten_the_pause() {
    let (issuer, vendor) = parts().await;
    let sidecar = Sidecar::start(&stanza("a", "\"wrong\"", &issuer, &vendor)).await;
    sidecar.until_state("a", "access", "held").await;
    for _ in 0..3 {
        hundred_refused(&sidecar, "a", (502, "token_rejected")).await;
        assert_eq!(sidecar.post_admin("/api/credentials/a/refresh").await, 202);
    }
    assert_eq!(issuer.calls("/token"), 1);
    assert_eq!(
        (
            gauge(&sidecar, "rejections", "a").await,
            gauge(&sidecar, "latched", "a").await
        ),
        (1.0, 0.0)
    );
    let wait = next(&sidecar, "a").await;
    assert!(
        (10..=31).contains(&wait),
        "the next attempt comes in {wait} s"
    );
    assert_eq!(vendor.counts().requests, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_share_url_and_secret_share_the_count() {
    let (issuer, vendor) = parts().await;
    let names = ["a", "b", "c", "d"];
    let text: String = names
        .iter()
        .map(|n| stanza(n, "\"wrong\"", &issuer, &vendor))
        .collect();
    // Both attempts are under way before the first is answered; after an answer the next would wait
    // 30 s.
    let gate = Gate::shut();
    for _ in 0..2 {
        issuer.script(
            Reply::json(401, &serde_json::json!({ "error": "invalid_client" })).behind(&gate),
        );
    }
    let sidecar = Sidecar::start(&format!("{text}[state]\ndir = \"state\"\n")).await;
    issuer.wait(2).await;
    gate.open();
    for name in names {
        hundred_refused(&sidecar, name, (502, "token_rejected")).await;
    }
    assert_eq!(
        issuer.calls("/token"),
        2,
        "two attempts for the secret, not for each credential"
    );
    until("a latch is shown", async || {
        gauge(&sidecar, "latched", "c").await + gauge(&sidecar, "latched", "d").await >= 1.0
    })
    .await;
    // One key, one count: what an operator opens is open for all once one attempt was good, and
    // then one goes out for each who asks.
    issuer.change("/token", |e| e.secrets = vec!["wrong".into()]);
    age(&sidecar.path("state"), Duration::from_secs(31));
    for name in names {
        assert_eq!(
            sidecar
                .post_admin(&format!("/api/credentials/{name}/unlatch"))
                .await,
            202
        );
    }
    for name in names {
        sidecar.until_get(&format!("/{name}/x"), 200).await;
        assert_eq!(
            (
                gauge(&sidecar, "rejections", name).await,
                gauge(&sidecar, "latched", name).await
            ),
            (0.0, 0.0)
        );
    }
    assert_eq!(issuer.calls("/token"), 2 + names.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_secret_is_tried_at_once_and_only_once_and_a_third_one_30_s_after_the_second() {
    for (limit, state) in [(1, "latched"), (2, "held")] {
        let (issuer, vendor) = parts().await;
        let guard = format!(
            "[credentials.a.guard]\nmax_rejections = {limit}\nhold = \"until_secret_changes\"\n"
        );
        let text = format!(
            "{PORTS}{}{guard}",
            stanza("a", "{ file = \"secret\" }", &issuer, &vendor)
        );
        let sidecar = Sidecar::with_files(&text, &[("secret", "wrong-1\n")]).await;
        for (calls, next) in [(1, "wrong-2\n"), (2, "right\n")] {
            issuer.wait(calls).await;
            sidecar.until_state("a", "access", state).await;
            hundred_refused(&sidecar, "a", (502, "token_rejected")).await;
            assert_eq!(issuer.calls("/token"), calls);
            assert_eq!(
                (
                    gauge(&sidecar, "rejections", "a").await,
                    gauge(&sidecar, "latched", "a").await == 1.0
                ),
                (1.0, limit == 1)
            );
            sidecar.rewrite("secret", next);
        }
        sidecar
            .until_metric("cupbearer_secret_changes_total{credential=\"a\"}", 2.0)
            .await;
        sidecar.until_state("a", "access", "held").await;
        hundred_refused(&sidecar, "a", (502, "token_rejected")).await;
        assert_eq!(
            (
                issuer.calls("/token"),
                sidecar.post_admin("/api/credentials/a/refresh").await
            ),
            (2, 202)
        );
        let wait = next(&sidecar, "a").await;
        assert!((10..=31).contains(&wait), "the third comes in {wait} s");
        within(Duration::from_secs(40), "the third", async || {
            sidecar.status_of("/a/x").await == 200
        })
        .await;
        assert_eq!(issuer.calls("/token"), 3);
        assert_eq!(
            (
                gauge(&sidecar, "rejections", "a").await,
                gauge(&sidecar, "latched", "a").await
            ),
            (0.0, 0.0)
        );
        assert_eq!(
            sidecar
                .metric("cupbearer_secret_changes_total{credential=\"a\"}")
                .await,
            2.0
        );
        assert_eq!(issuer.refusals(), ["wrong secret"; 2]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_secret_opens_no_latch() {
    let (issuer, vendor) = parts().await;
    let guard = "[credentials.a.guard]\nmax_rejections = 1\nhold = \"until_secret_changes\"\n";
    let [a, b] = [
        ("a", "{ file = \"secret\" }"),
        ("b", "{ file = \"other\" }"),
    ]
    .map(|(n, s)| stanza(n, s, &issuer, &vendor));
    let sidecar = Sidecar::with_files(
        &format!("{PORTS}{a}{guard}{b}"),
        &[("secret", "wrong"), ("other", "right")],
    )
    .await;
    sidecar.until_state("a", "access", "latched").await;
    sidecar.until_get("/b/x", 200).await;
    std::fs::write(sidecar.path("secret"), "ri").unwrap();
    // All secrets are looked at together, so what is seen of one says that the other was looked at.
    for n in ["1", "2"] {
        sidecar.rewrite("other", n);
        sidecar
            .until_metric(
                "cupbearer_secret_changes_total{credential=\"b\"}",
                n.parse().unwrap(),
            )
            .await;
    }
    assert_eq!(issuer.calls("/token"), 2);
    std::fs::write(sidecar.path("secret"), "right").unwrap();
    sidecar.until_get("/a/x", 200).await;
    assert_eq!(
        (issuer.calls("/token"), issuer.refusals()),
        (3, vec!["wrong secret".to_owned()])
    );
    assert_eq!(
        sidecar
            .metric("cupbearer_secret_changes_total{credential=\"a\"}")
            .await,
        1.0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_latch_lets_one_attempt_through_when_its_hold_ends_and_then_holds_twice_as_long() {
    let (issuer, vendor) = parts().await;
    let guard = "[credentials.a.guard]\nmax_rejections = 1\nhold = \"1s\"\n";
    let sidecar = Sidecar::start(&format!(
        "{}{guard}",
        stanza("a", "\"wrong\"", &issuer, &vendor)
    ))
    .await;
    sidecar.until_state("a", "access", "latched").await;
    issuer.wait(3).await;
    let times: Vec<_> = issuer.seen().iter().map(|s| s.request.at).collect();
    // A little less, for the first call takes longest to arrive.
    assert!(
        times[1] - times[0] >= Duration::from_millis(950),
        "{:?}",
        times[1] - times[0]
    );
    assert!(
        times[2] - times[1] >= Duration::from_millis(1950),
        "{:?}",
        times[2] - times[1]
    );
    until("it is latched again", async || {
        gauge(&sidecar, "latched", "a").await == 1.0
    })
    .await;
    issuer.change("/token", |e| e.secrets = vec!["wrong".into()]);
    assert_eq!(sidecar.post_admin("/api/credentials/a/unlatch").await, 202);
    sidecar.until_get("/a/x", 200).await;
    assert_eq!(issuer.calls("/token"), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_of_one_shape_with_different_inline_secrets_never_mix() {
    let (issuer, vendor) = parts().await;
    issuer.change("/token", |e| {
        e.secrets = ["one", "two", "three"].map(Into::into).into();
    });
    let names = [("a", "one"), ("b", "two"), ("c", "three")];
    let text: String = names
        .iter()
        .map(|(n, secret)| stanza(n, &format!("\"{secret}\""), &issuer, &vendor))
        .collect();
    let sidecar = Sidecar::start(&text).await;
    issuer.wait(3).await;
    let secrets = |from: usize| -> Vec<String> {
        let of = |body: String| {
            body.split('&')
                .find_map(|p| p.strip_prefix("client_secret=").map(ToOwned::to_owned))
                .unwrap()
        };
        issuer.seen()[from..]
            .iter()
            .map(|s| of(s.request.text()))
            .collect()
    };
    let sent: BTreeSet<String> = secrets(0).into_iter().collect();
    assert_eq!(sent, ["one", "three", "two"].map(ToOwned::to_owned).into());
    let mut tokens = BTreeSet::new();
    for (name, _) in names {
        assert_eq!(sidecar.status_of(&format!("/{name}/x")).await, 200);
        tokens.insert(vendor.last().header("authorization").unwrap().to_owned());
    }
    assert_eq!(tokens.len(), 3, "each has its own token");
    for (i, (name, secret)) in names.iter().enumerate() {
        sidecar.until_refreshed(name, "access", 2).await;
        assert_eq!(secrets(3 + i), [*secret], "{name}");
    }
    // The secret of one changes: the others keep theirs.
    issuer.change("/token", |e| e.secrets.push("four".into()));
    sidecar.rewrite(
        "cupbearer.toml",
        &format!("{PORTS}{}", text.replace("\"two\"", "\"four\"")),
    );
    sidecar
        .until_metric("cupbearer_config_reloads_total{outcome=\"applied\"}", 1.0)
        .await;
    for (name, secret) in [("a", "one"), ("b", "four"), ("c", "three")] {
        let seen = issuer.seen().len();
        let generation = sidecar.token(name, "access").await["generation"]
            .as_u64()
            .unwrap();
        sidecar
            .until_refreshed(name, "access", generation + 1)
            .await;
        assert_eq!(secrets(seen), [secret], "{name}");
    }
    assert_eq!(issuer.refusals(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_that_is_used_up_holds_calls_back_and_says_for_how_long() {
    let (issuer, vendor) = parts().await;
    issuer.change("/token", |e| e.life = Duration::from_secs(1));
    let guard = "[credentials.a.guard]\nrate = [\"2/m\"]\n";
    let sidecar = Sidecar::start(&format!(
        "{}{guard}",
        stanza("a", "\"right\"", &issuer, &vendor)
    ))
    .await;
    assert_eq!(sidecar.status_of("/a/x").await, 200);
    issuer.wait(2).await;
    sidecar.until_get("/a/x", 503).await;
    hundred_refused(&sidecar, "a", (503, "token_unavailable")).await;
    let after: u64 = sidecar.get("/a/x").await.headers()["retry-after"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!(
        (10..=30).contains(&after),
        "one in 30 s is refilled: {after}"
    );
    assert_eq!((issuer.calls("/token"), vendor.counts().expired), (2, 0));
}
