//! Names: a resolver that fails, finds nothing, hangs, changes its mind or names dead addresses,
//! before the vendor's API and the token endpoint.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use cupbearer::{
    listen::{self, Address},
    phase::PhaseControl,
    proxy::{
        front_with,
        resolve::{Lookup, Resolver},
    },
    telemetry::Metrics,
};

use crate::{
    faults_server::Broken,
    port::support::{Port, code, snapshot, status, upstream},
    support::{
        sidecar::{PORTS, Sidecar, plain},
        wait::until,
    },
};

/// What the name server says now.
#[derive(Clone)]
enum Says {
    Addresses(Vec<SocketAddr>),
    Fails,
    Nothing,
}

#[derive(Default)]
struct Names {
    says: Mutex<Option<Says>>,
    asked: AtomicUsize,
}

impl Lookup for Names {
    fn lookup<'a>(
        &'a self,
        _host: &'a str,
        _port: u16,
    ) -> Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'a>> {
        self.asked.fetch_add(1, SeqCst);
        let says = self.says.lock().unwrap().clone();
        Box::pin(async move {
            match says {
                Some(Says::Addresses(all)) => Ok(all),
                Some(Says::Fails) => Err(io::Error::other("SERVFAIL")),
                Some(Says::Nothing) => Ok(Vec::new()),
                None => std::future::pending().await,
            }
        })
    }
}

impl Names {
    fn say(&self, says: Option<Says>) {
        *self.says.lock().unwrap() = says;
    }
}

/// A data port whose one vendor is `api.acme.test`, wherever the names lead.
fn port(names: &Arc<Names>) -> Port {
    let (mut acme, rule) = upstream("acme", SocketAddr::from(([127, 0, 0, 1], 1)));
    acme.target.host = "api.acme.test".into();
    // Connections are not kept, so that each request shows where names lead.
    acme.pool.idle = Duration::from_millis(1);
    let snapshot = Arc::new(ArcSwap::from_pointee(snapshot(vec![(acme, rule)], |_| ())));
    let metrics = Metrics::new().unwrap();
    let sockets = listen::bind(&[Address::Tcp("127.0.0.1:0".parse().unwrap())]).unwrap();
    let front = front_with(
        snapshot.clone(),
        metrics.clone(),
        Resolver::new(names.clone()),
    );
    let phase = PhaseControl::default();
    let handle = listen::serve(sockets, front, &phase.watch());
    let Address::Tcp(address) = handle.addresses()[0] else {
        panic!("TCP was asked for")
    };
    Port {
        handle,
        phase,
        address,
        metrics,
        snapshot,
    }
}

/// An address of loopback where nobody listens.
fn dead(n: u8) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, n)), 1)
}

fn lead(vendor: &Broken) -> SocketAddr {
    vendor.url().trim_start_matches("http://").parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn v14_a_name_that_leads_nowhere_is_told_in_bounded_time_and_heals() {
    for (says, http, error) in [
        (Some(Says::Fails), 502, "dns_error"),
        (Some(Says::Nothing), 502, "dns_error"),
        (None, 504, "dns_timeout"),
        (
            Some(Says::Addresses(vec![dead(9)])),
            502,
            "connection_refused",
        ),
        (
            Some(Says::Addresses((1..200).map(dead).collect())),
            502,
            "connection_refused",
        ),
    ] {
        let (vendor, names) = (Broken::start(None).await, Arc::new(Names::default()));
        names.say(says);
        let port = port(&names);
        let asked = Instant::now();
        for _ in 0..3 {
            let answer = port.get("/acme/x", "").await;
            let expected = if http == 504 {
                "upstream_timeout"
            } else {
                "upstream_unreachable"
            };
            assert_eq!(
                (status(&answer), code(&answer).as_str()),
                (http, expected),
                "{answer}"
            );
            assert!(answer.contains(error), "{answer}");
        }
        assert!(
            asked.elapsed() < Duration::from_secs(12),
            "{error}: {:?}",
            asked.elapsed()
        );
        assert!(
            names.asked.load(SeqCst) <= 4,
            "{error}: asked {} times for three requests",
            names.asked.load(SeqCst)
        );
        let refused = "cupbearer_upstream_connects_total{outcome=\"refused\",upstream=\"acme\"} ";
        let dialled = port
            .text()
            .lines()
            .find_map(|l| l.strip_prefix(refused)?.parse::<f64>().ok())
            .unwrap_or(0.0);
        assert!(
            dialled <= 12.0,
            "{error}: {dialled} attempts for three requests"
        );

        // What failed is asked again within a second; what was found holds for five.
        names.say(Some(Says::Addresses(vec![lead(&vendor)])));
        until("it heals", async || {
            status(&port.get("/acme/x", "").await) == 200
        })
        .await;
        assert!(
            asked.elapsed() < Duration::from_secs(20),
            "{error}: healed after {:?}",
            asked.elapsed()
        );
        port.counts("cupbearer_requests_in_flight{upstream=\"acme\"} 0")
            .await;
        assert!(port.drain(Duration::from_secs(5)).await);
        vendor.until_open(0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn v14_the_next_address_is_tried_and_a_changed_name_is_followed() {
    let (old, new, names) = (
        Broken::start(None).await,
        Broken::start(None).await,
        Arc::new(Names::default()),
    );
    names.say(Some(Says::Addresses(vec![
        dead(2),
        dead(3),
        dead(4),
        lead(&old),
    ])));
    let port = port(&names);
    for n in 1..=3 {
        assert_eq!(
            status(&port.get("/acme/x", "").await),
            200,
            "three dead addresses come before the live one"
        );
        assert_eq!(old.counts().1, n);
    }
    // A resolver that fails for a while is not noticed.
    names.say(Some(Says::Fails));
    let asked = names.asked.load(SeqCst);
    until("the resolver is asked again", async || {
        assert_eq!(
            status(&port.get("/acme/x", "").await),
            200,
            "what was known is used meanwhile"
        );
        names.asked.load(SeqCst) > asked
    })
    .await;
    names.say(Some(Says::Addresses(vec![lead(&new)])));
    until("the change is followed", async || {
        assert_eq!(status(&port.get("/acme/x", "").await), 200);
        new.counts().1 > 0
    })
    .await;
    let before = old.counts().1;
    assert_eq!(status(&port.get("/acme/x", "").await), 200);
    assert_eq!(
        old.counts().1,
        before,
        "nothing goes to where the name led before"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn t1_a_token_endpoint_whose_name_leads_nowhere_is_asked_in_bounds_and_a_reload_heals_it() {
    let well = Broken::start(None).await;
    let text = |url: &str| {
        format!(
            "{PORTS}{}timeouts = {{ token = \"300ms\" }}\n[credentials.acme.tokens.access]\nallow_plaintext = true\n",
            plain("acme", &format!("{url}/token"), &well.url())
        )
    };
    let sidecar = Sidecar::with_files(&text("http://no-such-host.invalid"), &[]).await;
    let retries =
        "cupbearer_token_requests_total{credential=\"acme\",outcome=\"retry\",token=\"access\"}";
    sidecar.until_metric(retries, 1.0).await;
    let since = Instant::now();
    while sidecar.metric(retries).await < 2.0 {
        let (http, problem) = sidecar.refusal("/acme/x").await;
        assert!(
            matches!(
                (http, problem["code"].as_str()),
                (503, Some("token_unavailable")) | (504, Some("token_timeout"))
            ),
            "{problem}"
        );
        assert!(since.elapsed() < Duration::from_secs(20));
    }
    let why = sidecar.token("acme", "access").await["last_failure"]["error"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(why.contains("DNS"), "{why}");
    assert!(sidecar.metric(retries).await <= 4.0 + since.elapsed().as_secs_f64() * 3.0);
    assert_eq!(well.counts(), (0, 0));
    sidecar.rewrite("cupbearer.toml", &text(&well.url()));
    sidecar.until_get("/acme/x", 200).await;
    sidecar.until_idle("acme").await;
    assert_eq!(
        sidecar
            .metric("cupbearer_token_waiters{credential=\"acme\"}")
            .await,
        0.0
    );
}
