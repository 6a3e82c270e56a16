//! Reloads under load: with a reload every second, good and bad files in turn, no request and no
//! token call notices.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::support::{
    endpoint::Endpoint,
    issuer::Issuer,
    sidecar::{PORTS, Sidecar, plain},
    tokens::Tokens,
    vendor::{Need, Vendor},
};

const SECONDS: u32 = 30;
const PER_SECOND: u32 = 200;

/// What the clients saw.
#[derive(Default)]
struct Seen {
    sent: AtomicUsize,
    failed: AtomicUsize,
}

#[tokio::test(flavor = "multi_thread")]
async fn s7_a_reload_every_second_under_load_fails_no_request_and_costs_no_token_call() {
    let tokens = Tokens::default();
    let names = ["acme", "beta", "gamma"];
    let endpoints = names.map(|name| {
        let mut endpoint = Endpoint::new(&format!("/{name}"), name, &format!("s3cret-{name}"));
        endpoint.name = name.into();
        endpoint
    });
    let issuer = Issuer::start(&tokens, endpoints.to_vec()).await;
    let acme = Vendor::start(&tokens, vec![Need::Bearer("acme")]).await;
    let beta = Vendor::start(&tokens, vec![Need::Bearer("beta")]).await;
    let gamma = Vendor::start(&tokens, vec![Need::Bearer("gamma")]).await;
    for vendor in [&acme, &beta, &gamma] {
        vendor.keep(1);
    }
    let stanza = |name: &str, vendor: &Vendor| {
        plain(name, &format!("{}/{name}", issuer.url()), &vendor.url())
    };
    let steady = format!("{PORTS}{}{}", stanza("acme", &acme), stanza("beta", &beta));
    let with_gamma = format!("{steady}{}", stanza("gamma", &gamma));
    let sidecar = Sidecar::with_files(&steady, &[]).await;
    for name in ["acme", "beta"] {
        assert_eq!(sidecar.status_of(&format!("/{name}/x")).await, 200);
    }

    let seen = Arc::new(Seen::default());
    let load = async {
        let mut tick = tokio::time::interval(Duration::from_secs(1) / PER_SECOND);
        let mut all = tokio::task::JoinSet::new();
        for n in 0..SECONDS * PER_SECOND {
            tick.tick().await;
            let (client, seen) = (sidecar.client.clone(), seen.clone());
            let url = sidecar.url(if n % 2 == 0 { "/acme/x" } else { "/beta/x" });
            all.spawn(async move {
                seen.sent.fetch_add(1, Relaxed);
                let answer = client.get(url).send().await;
                if !answer.is_ok_and(|a| a.status() == 200) {
                    seen.failed.fetch_add(1, Relaxed);
                }
            });
        }
        all.join_all().await;
    };
    let started = Instant::now();
    let reloads = async {
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        let mut wrong = 0;
        for second in 0..SECONDS {
            tick.tick().await;
            let (text, applied) = match second % 4 {
                0 => (with_gamma.clone(), true),
                1 => (format!("{with_gamma}[nonsense]\n"), false),
                2 => (steady.clone(), true),
                _ => (steady.replace("http://", "gopher://"), false),
            };
            sidecar.rewrite("cupbearer.toml", &text);
            let request = sidecar
                .client
                .post(format!("http://{}/api/reload", sidecar.admin_addr()));
            let status = request
                .header("content-type", "application/json")
                .send()
                .await
                .unwrap()
                .status();
            assert_eq!(
                status.as_u16(),
                if applied { 200 } else { 422 },
                "second {second}"
            );
            wrong += u32::from(!applied);
            // The one that comes and goes is there when it is configured, and gone when it is not.
            if applied {
                assert_eq!(
                    sidecar.status_of("/gamma/x").await,
                    if second % 4 == 0 { 200 } else { 404 },
                    "second {second}"
                );
            }
        }
        wrong
    };
    let ((), wrong) = tokio::join!(load, reloads);

    let (sent, failed) = (seen.sent.load(Relaxed), seen.failed.load(Relaxed));
    assert_eq!(
        (sent, failed),
        ((SECONDS * PER_SECOND) as usize, 0),
        "after {:?}",
        started.elapsed()
    );
    assert_eq!(
        (issuer.calls("/acme"), issuer.calls("/beta")),
        (1, 1),
        "one token call each, as without reloads"
    );
    // A credential that was gone starts anew.
    assert_eq!(issuer.calls("/gamma"), SECONDS.div_ceil(4) as usize);
    assert!(issuer.refusals().is_empty(), "{:?}", issuer.refusals());
    for (name, vendor) in [("acme", &acme), ("beta", &beta), ("gamma", &gamma)] {
        let counts = vendor.counts();
        assert_eq!(
            (
                counts.answered,
                counts.unknown + counts.revoked + counts.expired
            ),
            (counts.requests, 0),
            "{name}: {counts:?}"
        );
    }
    assert!(
        sidecar
            .metric("cupbearer_config_reloads_total{outcome=\"refused\"}")
            .await
            >= f64::from(wrong)
    );
    assert!(
        sidecar
            .metric("cupbearer_config_reloads_total{outcome=\"applied\"}")
            .await
            >= f64::from(SECONDS - wrong)
    );
}
