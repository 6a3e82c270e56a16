//! `promises.md#metrics`: every series is there from the start, moves with what happens, and none
//! comes from a request.

use std::{collections::BTreeSet, fmt::Write as _, time::Duration};

use serde_json::json;

use crate::support::{
    certs::{Authority, Leaf},
    endpoint::Endpoint,
    issuer::{Issuer, PATIENCE},
    raw::RawClient,
    sidecar::{PORTS, Sidecar, plain},
    tokens::Tokens,
    tool::{Tool, dead_port, skip},
    vendor::{Need, Vendor},
    wire::{Answer, Gate, Reply, Step},
};

/// An issuer and a vendor for credential `acme`.
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

/// What the port would say now; what it says may be a second old.
async fn scrape(sidecar: &Sidecar) -> String {
    let answer = sidecar.admin("/metrics").await;
    assert_eq!(
        answer.headers()["content-type"],
        "text/plain; version=0.0.4; charset=utf-8"
    );
    assert!(
        answer
            .text()
            .await
            .unwrap()
            .starts_with("# HELP cupbearer_")
    );
    String::from_utf8(sidecar.app.exposition()).unwrap()
}

/// Names with labels, a histogram as its `_count`; what the client library says of the process
/// aside.
fn series(text: &str) -> BTreeSet<String> {
    let lines = text
        .lines()
        .filter(|l| !l.starts_with('#') && !l.starts_with("process_"));
    let names = lines.filter_map(|l| Some(l.rsplit_once(' ')?.0.to_owned()));
    names
        .filter(|n| !n.contains("_bucket{") && !n.contains("_sum{"))
        .collect()
}

/// What is known of a program with credential `acme` and upstreams `acme` and `open` before anyone
/// has called.
fn expected() -> BTreeSet<String> {
    let mut all: Vec<String> = [
        "config_reloads_total{outcome=\"applied\"}",
        "config_reloads_total{outcome=\"unchanged\"}",
        "config_reloads_total{outcome=\"refused\"}",
        "config_last_reload_success_timestamp_seconds",
        "state_write_errors_total",
        "panics_total",
        "log_lines_dropped_total",
        "credential_info{credential=\"acme\",profile=\"oauth2\"}",
    ]
    .map(Into::into)
    .into();
    all.push(format!(
        "build_info{{version=\"{}\"}}",
        env!("CARGO_PKG_VERSION")
    ));
    for upstream in ["acme", "open"] {
        for name in [
            "request_duration_seconds_count",
            "requests_in_flight",
            "token_rejections_total",
            "redirects_removed_total",
        ] {
            all.push(format!("{name}{{upstream=\"{upstream}\"}}"));
        }
        for outcome in ["ok", "failed", "skipped_body", "skipped_policy"] {
            all.push(format!(
                "replays_total{{outcome=\"{outcome}\",upstream=\"{upstream}\"}}"
            ));
        }
        for outcome in ["ok", "dns", "refused", "timeout", "tls"] {
            all.push(format!(
                "upstream_connects_total{{outcome=\"{outcome}\",upstream=\"{upstream}\"}}"
            ));
        }
    }
    for outcome in ["ok", "retry", "throttled", "rejected", "config"] {
        all.push(format!(
            "token_requests_total{{credential=\"acme\",outcome=\"{outcome}\",token=\"access\"}}"
        ));
    }
    for name in [
        "request_duration_seconds_count",
        "expiry_timestamp_seconds",
        "refresh_timestamp_seconds",
        "last_success_timestamp_seconds",
        "sendable",
        "resting",
        "unchanged_total",
        "lifetime_implausible_total",
    ] {
        all.push(format!(
            "token_{name}{{credential=\"acme\",token=\"access\"}}"
        ));
    }
    for name in [
        "token_wait_seconds_count",
        "token_waiters",
        "credential_latched",
        "credential_rejections",
        "secret_read_errors_total",
        "secret_changes_total",
    ] {
        all.push(format!("{name}{{credential=\"acme\"}}"));
    }
    all.into_iter()
        .map(|name| format!("cupbearer_{name}"))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_series_whose_labels_are_known_is_there_from_the_start_and_no_other() {
    let (issuer, vendor) = parties().await;
    let text = format!(
        "{}[upstreams.open]\nurl = \"{}\"\ncredential = \"none\"\n",
        acme(&issuer, &vendor),
        vendor.url()
    );
    let sidecar = Sidecar::start(&text).await;
    let text = scrape(&sidecar).await;
    let (seen, expected) = (series(&text), expected());
    assert_eq!(
        seen.difference(&expected).collect::<Vec<_>>(),
        Vec::<&String>::new(),
        "not promised"
    );
    assert_eq!(
        expected.difference(&seen).collect::<Vec<_>>(),
        Vec::<&String>::new(),
        "missing"
    );
    for name in [
        "cpu_seconds_total",
        "open_fds",
        "max_fds",
        "resident_memory_bytes",
        "start_time_seconds",
    ] {
        assert!(text.contains(&format!("\nprocess_{name} ")), "{name}");
    }
    let zero = |name: &str| assert!(text.contains(&format!("{name} 0\n")), "{name}");
    zero("cupbearer_replays_total{outcome=\"ok\",upstream=\"acme\"}");
    zero("cupbearer_panics_total");
    zero("cupbearer_log_lines_dropped_total");
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_tokens_and_refusals_are_counted_as_they_happen() {
    let (issuer, vendor) = parties().await;
    let text = acme(&issuer, &vendor)
        + &format!(
            "[upstreams.dark]\nurl = \"http://127.0.0.1:{}\"\ncredential = \"none\"\n",
            dead_port()
        );
    let sidecar = Sidecar::start(&text).await;
    vendor.script(Reply::new(200, ""));
    vendor.script(Reply::new(404, ""));
    for status in [200, 404] {
        assert_eq!(sidecar.status_of("/acme/x").await, status);
    }
    // Codes that nobody registered: a vendor cannot mint series.
    for status in [299, 499, 599, 777] {
        vendor.script(Reply::new(status, ""));
        sidecar.status_of("/acme/x").await;
    }
    assert_eq!(sidecar.status_of("/nowhere").await, 404);
    assert_eq!(sidecar.status_of("/dark/x").await, 502);
    for (name, value) in [
        ("requests_total{code=\"200\",upstream=\"acme\"}", 1.0),
        ("requests_total{code=\"404\",upstream=\"acme\"}", 1.0),
        ("requests_total{code=\"other\",upstream=\"acme\"}", 4.0),
        ("request_duration_seconds_count{upstream=\"acme\"}", 6.0),
        ("refusals_total{code=\"no_route\",upstream=\"\"}", 1.0),
        (
            "refusals_total{code=\"upstream_unreachable\",upstream=\"dark\"}",
            1.0,
        ),
        (
            "upstream_connects_total{outcome=\"refused\",upstream=\"dark\"}",
            1.0,
        ),
        (
            "token_requests_total{credential=\"acme\",outcome=\"ok\",token=\"access\"}",
            1.0,
        ),
        (
            "token_request_duration_seconds_count{credential=\"acme\",token=\"access\"}",
            1.0,
        ),
        ("token_sendable{credential=\"acme\",token=\"access\"}", 1.0),
    ] {
        sidecar
            .until_metric(&format!("cupbearer_{name}"), value)
            .await;
        assert!(
            (sidecar.metric(&format!("cupbearer_{name}")).await - value).abs() < 0.5,
            "{name}"
        );
    }
    assert!(
        sidecar
            .metric("cupbearer_upstream_connects_total{outcome=\"ok\",upstream=\"acme\"}")
            .await
            >= 1.0
    );
    let stamp = async |name: &str| {
        sidecar
            .metric(&format!(
                "cupbearer_token_{name}_timestamp_seconds{{credential=\"acme\",token=\"access\"}}"
            ))
            .await
    };
    let (got, ends, next) = (
        stamp("last_success").await,
        stamp("expiry").await,
        stamp("refresh").await,
    );
    assert!(
        (ends - got - 3600.0).abs() < 2.0 && got < next && next < ends,
        "{got} {next} {ends}"
    );

    // A 401: one rejection, one replay.
    vendor.script(Reply::new(401, "").with("WWW-Authenticate", "Bearer error=\"invalid_token\""));
    assert_eq!(sidecar.status_of("/acme/x").await, 200);
    sidecar
        .until_metric("cupbearer_token_rejections_total{upstream=\"acme\"}", 1.0)
        .await;
    sidecar
        .until_metric(
            "cupbearer_replays_total{outcome=\"ok\",upstream=\"acme\"}",
            1.0,
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn gauges_follow_requests_that_wait_and_requests_under_way() {
    let (issuer, vendor) = parties().await;
    let hung = Gate::shut();
    issuer.script(Answer::Reply(Reply::json(503, &json!({})).behind(&hung)));
    let sidecar = Sidecar::start(&acme(&issuer, &vendor)).await;
    let calls: Vec<_> = (0..3)
        .map(|_| tokio::spawn(sidecar.client.get(sidecar.url("/acme/x")).send()))
        .collect();
    sidecar
        .until_metric("cupbearer_token_waiters{credential=\"acme\"}", 3.0)
        .await;
    sidecar
        .until_metric("cupbearer_requests_in_flight{upstream=\"acme\"}", 3.0)
        .await;
    hung.open();
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap().status(), 200);
    }
    sidecar.until_metric("cupbearer_token_requests_total{credential=\"acme\",outcome=\"retry\",token=\"access\"}", 1.0).await;
    sidecar
        .until_metric(
            "cupbearer_token_wait_seconds_count{credential=\"acme\"}",
            3.0,
        )
        .await;
    for gauge in [
        "cupbearer_token_waiters{credential=\"acme\"}",
        "cupbearer_requests_in_flight{upstream=\"acme\"}",
    ] {
        until_zero(&sidecar, gauge).await;
    }
}

async fn until_zero(sidecar: &Sidecar, series: &str) {
    let zero = async { while sidecar.metric(series).await > 0.0 {} };
    tokio::time::timeout(PATIENCE, zero)
        .await
        .unwrap_or_else(|_| panic!("{series} never went back to 0"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_latch_a_bad_secret_and_a_repaired_one_are_seen() {
    let (issuer, vendor) = parties().await;
    let text = format!("{PORTS}{}", acme(&issuer, &vendor))
        .replace("\"s3cret-acme\"", "{ file = \"secret\" }")
        + "[credentials.acme.guard]\nmax_rejections = 1\n";
    let sidecar = Sidecar::with_files(&text, &[("secret", "wrong")]).await;
    sidecar
        .until_metric("cupbearer_credential_latched{credential=\"acme\"}", 1.0)
        .await;
    sidecar
        .until_metric("cupbearer_credential_rejections{credential=\"acme\"}", 1.0)
        .await;
    sidecar.until_metric("cupbearer_token_requests_total{credential=\"acme\",outcome=\"rejected\",token=\"access\"}", 1.0).await;
    std::fs::remove_file(sidecar.path("secret")).unwrap();
    sidecar
        .until_metric(
            "cupbearer_secret_read_errors_total{credential=\"acme\"}",
            1.0,
        )
        .await;
    sidecar.rewrite("secret", "s3cret-acme");
    sidecar
        .until_metric("cupbearer_secret_changes_total{credential=\"acme\"}", 1.0)
        .await;
    sidecar
        .until_metric(
            "cupbearer_token_sendable{credential=\"acme\",token=\"access\"}",
            1.0,
        )
        .await;
    until_zero(
        &sidecar,
        "cupbearer_credential_latched{credential=\"acme\"}",
    )
    .await;
    until_zero(
        &sidecar,
        "cupbearer_credential_rejections{credential=\"acme\"}",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reloads_are_counted_and_gauges_of_what_was_removed_vanish() {
    let (issuer, vendor) = parties().await;
    let authority = Authority::new("ours");
    let (early, late) = (
        authority.leaf(&["client"], Leaf::Expired),
        authority.leaf(&["client"], Leaf::Client),
    );
    let text = format!("{PORTS}{}", acme(&issuer, &vendor));
    let tls = "[upstreams.safe]\nurl = \"https://vendor.example\"\ncredential = \"acme\"\ntls = { client_cert_file = \"c.pem\", client_key_file = \"k.pem\" }\n";
    let sidecar = Sidecar::with_files(
        &format!("{text}{tls}"),
        &[("c.pem", &early.cert), ("k.pem", &early.key)],
    )
    .await;
    let certificate = "cupbearer_certificate_expiry_timestamp_seconds{use=\"upstreams.safe.tls.client_cert_file\"}";
    assert!(
        (sidecar.metric(certificate).await - 1_577_836_800.0).abs() < 1.0,
        "2020-01-01"
    );
    let before = sidecar
        .metric("cupbearer_config_last_reload_success_timestamp_seconds")
        .await;
    assert!(before > 1.0e9);
    std::fs::write(sidecar.path("c.pem"), &late.cert).unwrap();
    std::fs::write(sidecar.path("k.pem"), &late.key).unwrap();
    sidecar.until_metric(certificate, 1_577_836_801.0).await;
    sidecar.rewrite("cupbearer.toml", "nonsense");
    sidecar
        .until_metric("cupbearer_config_reloads_total{outcome=\"refused\"}", 1.0)
        .await;
    let other = text
        .replace("acme", "other")
        .replace("s3cret-other", "s3cret-acme");
    let applied = sidecar
        .metric("cupbearer_config_reloads_total{outcome=\"applied\"}")
        .await;
    sidecar.rewrite("cupbearer.toml", &other);
    sidecar
        .until_metric(
            "cupbearer_config_reloads_total{outcome=\"applied\"}",
            applied + 1.0,
        )
        .await;
    let text = scrape(&sidecar).await;
    for gone in [
        "cupbearer_token_sendable{credential=\"acme\"",
        "cupbearer_credential_info{credential=\"acme\"",
        "cupbearer_credential_latched{credential=\"acme\"",
        "cupbearer_token_expiry_timestamp_seconds{credential=\"acme\"",
        "cupbearer_certificate_expiry_timestamp_seconds{",
    ] {
        assert!(!text.contains(gone), "{gone}");
    }
    assert!(text.contains("cupbearer_token_sendable{credential=\"other\""));
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_credentials_and_hostile_requests_stay_below_500_series() {
    let (issuer, vendor) = parties().await;
    let mut text = String::new();
    for n in 0..10 {
        let one =
            acme(&issuer, &vendor).replace("[credentials.acme]", &format!("[credentials.c{n}]"));
        text += &one
            .replace("[upstreams.acme]", &format!("[upstreams.u{n}]"))
            .replace("credential = \"acme\"", &format!("credential = \"c{n}\""));
    }
    let sidecar = Sidecar::start(&text).await;
    let before = series(&scrape(&sidecar).await).len();
    for n in 0..60_u16 {
        let (path, host) = (format!("/u{}/{n}?q={n}", n % 10), format!("h{n}.example"));
        let method = ["GET", "POST", "BREW", "PROPFIND"][usize::from(n % 4)];
        vendor.script(Reply::new(440 + n, ""));
        let bytes = format!(
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-{n}: {n}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
        RawClient::ask(sidecar.addr(), bytes.as_bytes()).await;
        let bytes =
            format!("GET http://{host}/{n} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        RawClient::ask(sidecar.addr(), bytes.as_bytes()).await;
    }
    let text = scrape(&sidecar).await;
    let after = series(&text).len();
    assert!(
        after < 500 && after - before < 60,
        "{before} before, {after} after"
    );
    for never in ["h1.example", "BREW", "PROPFIND", "q=1", "code=\"450\""] {
        assert!(!text.contains(never), "{never} in {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn promtool_finds_nothing_to_say() {
    let (issuer, vendor) = parties().await;
    let sidecar = Sidecar::start(&acme(&issuer, &vendor)).await;
    vendor.script(Answer::Raw(vec![Step::Bytes(b"nonsense\r\n\r\n".to_vec())]));
    for path in ["/acme/x", "/acme/y", "/nowhere"] {
        sidecar.status_of(path).await;
    }
    let text = scrape(&sidecar).await;
    let check = |text: String| {
        Tool::on_path("promtool", "prometheus").map(|t| t.args(["check", "metrics"]).input(&text))
    };
    let tool = match check(text.clone()) {
        Ok(tool) => tool,
        Err(why) => return skip("promtool_finds_nothing_to_say", &why),
    };
    let (code, told, complaints) = tool.run(Duration::from_secs(30)).await;
    assert_eq!((code, &*told, &*complaints), (0, "", ""), "{text}");
    // It would say something if there were something to say.
    let mut bad = text;
    let _ = writeln!(
        bad,
        "# TYPE cupbearer_badly_named counter\ncupbearer_badly_named 1"
    );
    let (code, ..) = check(bad).unwrap().run(Duration::from_secs(30)).await;
    assert_ne!(code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_planned_call_is_told_while_a_credential_is_held() {
    let (issuer, vendor) = parties().await;
    issuer.always(Some(
        Reply::json(400, &json!({ "error": "invalid_scope" })).into(),
    ));
    let sidecar = Sidecar::start(&acme(&issuer, &vendor)).await;
    sidecar.until_state("acme", "access", "held").await;
    let planned = sidecar.token("acme", "access").await["refresh_at"]
        .as_str()
        .map(str::to_owned);
    let told = sidecar
        .metric("cupbearer_token_refresh_timestamp_seconds{credential=\"acme\",token=\"access\"}")
        .await;
    let planned = planned
        .unwrap()
        .parse::<jiff::Timestamp>()
        .unwrap()
        .as_second();
    assert!(
        (told - f64::from(u32::try_from(planned).unwrap())).abs() <= 1.0,
        "{told} {planned}"
    );
}
