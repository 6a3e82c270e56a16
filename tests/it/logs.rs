//! Logs: one event, one line; repeats are counted, not repeated; a request's trace is named; the
//! level follows a reload.

use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use crate::support::{
    daemon::{Daemon, Setup, refused},
    endpoint::Endpoint,
    issuer::{Issuer, PATIENCE},
    sidecar::{PORTS, open, plain},
    tokens::Tokens,
    tool::dead_port,
    vendor::Vendor,
    wait::until,
    wire::Reply,
};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// Waits until this series has reached `least`.
async fn until_metric(daemon: &Daemon, series: &str, least: f64) {
    until(&format!("{least} of {series}"), async || {
        let text = daemon.admin("/metrics").await.1;
        let value = text.lines().find_map(|l| {
            l.strip_prefix(series)?
                .strip_prefix(' ')?
                .parse::<f64>()
                .ok()
        });
        value.is_some_and(|v| v >= least)
    })
    .await;
}

/// Lines of a log in JSON with this message, or one that begins so.
fn lines(log: &str, message: &str) -> Vec<Value> {
    let all = log
        .lines()
        .filter(|l| l.starts_with('{'))
        .map(|l| serde_json::from_str::<Value>(l).unwrap_or_else(|e| panic!("{e}: {l}")));
    all.filter(|line| {
        line["message"]
            .as_str()
            .is_some_and(|m| m.starts_with(message))
    })
    .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_failure_is_told_once_however_often_it_comes() {
    let nobody = format!("http://127.0.0.1:{}", dead_port());
    let text = format!(
        "[log]\nformat = \"json\"\n{}{}",
        plain("acme", &format!("{nobody}/token"), &nobody),
        open("free", &nobody)
    );
    let mut daemon = Daemon::start(&text).await;
    for _ in 0..20 {
        assert_eq!(daemon.get("/free/x").await.0, 502);
    }
    until_metric(
        &daemon,
        "cupbearer_token_requests_total{credential=\"acme\",outcome=\"retry\",token=\"access\"}",
        3.0,
    )
    .await;
    daemon.stop().await;
    let log = daemon.stderr.text();
    let failed = lines(&log, "token request failed");
    assert_eq!(failed.len(), 1, "{log}");
    for (key, value) in [
        ("credential", "acme"),
        ("token", "access"),
        ("outcome", "retry"),
        ("level", "WARN"),
        ("error", "connection refused"),
    ] {
        assert_eq!(failed[0][key], value, "{}", failed[0]);
    }
    assert_eq!(lines(&log, "cannot connect").len(), 1, "{log}");
    assert_eq!(
        lines(&log, "request refused").len(),
        1,
        "a vendor that is down fills no disk: {log}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_vendor_writes_stands_in_the_log_for_people_in_quotes_and_looks_like_no_field_or_line()
 {
    let issuer = Issuer::start(
        &Tokens::default(),
        vec![Endpoint::new("/token", "acme", "s3cret-acme")],
    )
    .await;
    let said = json!({ "error": "invalid_client", "error_description": "no latched=false credential=\"pay\"\n2026-01-01T00:00:00Z ERROR cupbearer: x" });
    issuer.always(Some(Reply::json(401, &said).into()));
    let mut daemon = Daemon::start(&plain(
        "acme",
        &format!("{}/token", issuer.url()),
        "http://127.0.0.1:9",
    ))
    .await;
    daemon.stderr.until("token request failed").await;
    daemon.stop().await;
    let log = daemon.stderr.text();
    let line = log
        .lines()
        .find(|line| line.contains("token request failed"))
        .unwrap();
    assert!(
        line.contains("no latched=false credential=\\\"pay\\\""),
        "{line}"
    );
    assert!(
        !log.contains("credential=\"pay\"")
            && !log
                .lines()
                .any(|line| line.starts_with("2026-01-01T00:00:00Z ERROR")),
        "{log}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_wants_json_gets_problems_and_lints_of_the_start_as_json_too() {
    let json = "[log]\nformat = \"json\"\n";
    let each = |stderr: &str| -> Vec<Value> {
        let lines = stderr.lines().filter(|line| !line.starts_with("ready "));
        lines
            .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
            .collect()
    };
    // A lint, then an address in use: the program's end is a line of its own.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let lint = plain("acme", "http://127.0.0.1:9/token", "http://127.0.0.1:9");
    let whole =
        PORTS.replacen("127.0.0.1:0", &taken.local_addr().unwrap().to_string(), 1) + json + &lint;
    let done = refused(Setup {
        whole: Some(&whole),
        ..Setup::default()
    })
    .await;
    let lines = each(&done.stderr);
    assert_eq!(done.code, 1, "{done:?}");
    let key = |level: &str, key: &str| {
        lines
            .iter()
            .any(|line| line["level"] == level && line["key"] == key && line["hint"].is_string())
    };
    assert!(
        key("WARN", "credentials.acme.secrets.client_secret"),
        "{done:?}"
    );
    assert!(
        lines.last().unwrap()["message"]
            .as_str()
            .unwrap()
            .contains("cannot listen on"),
        "{done:?}"
    );
    // What cannot be used, and what is no TOML after the part that asks for JSON.
    for wrong in ["[proxy]\nlisen = 1\n", "[proxy]\nthis is = no = TOML\n"] {
        let whole = format!("{json}{wrong}");
        let done = refused(Setup {
            whole: Some(&whole),
            ..Setup::default()
        })
        .await;
        let lines = each(&done.stderr);
        assert_eq!(
            (done.code, &lines.last().unwrap()["message"]),
            (78, &json!("the configuration is wrong")),
            "{done:?}"
        );
        assert!(
            lines.len() > 1 && lines.iter().all(|line| line["level"] == "ERROR"),
            "{done:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_success_says_how_many_failures_were_not_told() {
    let tokens = Tokens::default();
    let issuer = Issuer::start(
        &tokens,
        vec![Endpoint::new("/token", "acme", "s3cret-acme")],
    )
    .await;
    for _ in 0..3 {
        issuer.script(Reply::new(503, ""));
    }
    let text = format!(
        "[log]\nformat = \"json\"\n{}",
        plain(
            "acme",
            &format!("{}/token", issuer.url()),
            "http://127.0.0.1:9"
        )
    );
    let mut daemon = Daemon::start(&text).await;
    daemon.stderr.until("token obtained").await;
    daemon.stop().await;
    let log = daemon.stderr.text();
    assert_eq!(
        (
            lines(&log, "token request failed").len(),
            &lines(&log, "token obtained")[0]["untold"]
        ),
        (1, &json!(2)),
        "{log}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_trace_of_a_request_passes_untouched_and_stands_in_its_lines() {
    let vendor = Vendor::start(&Tokens::default(), vec![]).await;
    let text = format!(
        "{}{}",
        open("free", &vendor.url()),
        open("dead", &format!("http://127.0.0.1:{}", dead_port()))
    );
    let whole = PORTS.replace("[proxy]\n", "[proxy]\naccess_log = true\n")
        + "[log]\nformat = \"json\"\n"
        + &text;
    let mut daemon = Daemon::with(Setup {
        whole: Some(&whole),
        ..Setup::default()
    })
    .await;
    let parent = format!("00-{TRACE}-00f067aa0ba902b7-01");
    for (path, status) in [("/free/x", 200), ("/dead/x", 502)] {
        let request = daemon
            .client
            .get(daemon.url(path))
            .header("traceparent", &parent)
            .header("tracestate", "a=b");
        assert_eq!(request.send().await.unwrap().status().as_u16(), status);
    }
    assert_eq!(daemon.get("/free/untraced").await.0, 200);
    let seen = &vendor.seen()[0];
    assert_eq!(
        (seen.header("traceparent"), seen.header("tracestate")),
        (Some(&*parent), Some("a=b"))
    );
    daemon.stop().await;
    let log = daemon.stderr.text();
    for message in ["request refused", "cannot connect"] {
        assert_eq!(lines(&log, message)[0]["trace_id"], TRACE, "{log}");
    }
    let access: Vec<Value> = log
        .lines()
        .filter_map(|l| serde_json::from_str(l).ok())
        .filter(|l: &Value| l["target"] == "access")
        .collect();
    let traced = |path: &str| {
        access
            .iter()
            .find(|line| line["path"] == path)
            .unwrap_or_else(|| panic!("{log}"))["trace_id"]
            .clone()
    };
    assert_eq!(
        (
            traced("/free/x"),
            traced("/dead/x"),
            traced("/free/untraced")
        ),
        (json!(TRACE), json!(TRACE), Value::Null)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn h6_what_a_caller_writes_in_query_and_headers_stands_in_no_line_label_or_status() {
    let vendor = Vendor::start(&Tokens::default(), vec![]).await;
    let text = format!(
        "{}{}",
        open("free", &vendor.url()),
        open("dead", &format!("http://127.0.0.1:{}", dead_port()))
    );
    let whole = PORTS.replace("[proxy]\n", "[proxy]\naccess_log = true\n")
        + "[log]\nlevel = \"debug\"\n"
        + &text;
    let mut daemon = Daemon::with(Setup {
        whole: Some(&whole),
        ..Setup::default()
    })
    .await;
    let paths = [
        ("/free/told?key=callers-own", 200),
        ("/dead/told?key=callers-own", 502),
        ("/nowhere/told?key=callers-own", 404),
    ];
    for (path, status) in paths {
        let request = daemon
            .client
            .get(daemon.url(path))
            .header("x-key", "callers-own")
            .header("referer", daemon.url("/callers-own"));
        assert_eq!(request.send().await.unwrap().status().as_u16(), status);
    }
    assert!(
        vendor.seen()[0].target.ends_with("?key=callers-own"),
        "{}",
        vendor.seen()[0].target
    );
    let shown = [
        daemon.admin("/metrics").await.1,
        daemon.admin("/api/status").await.1,
    ];
    assert!(
        shown
            .iter()
            .all(|text| !text.contains("callers-own") && !text.contains("told")),
        "{shown:?}"
    );
    daemon.stop().await;
    let log = daemon.stderr.text();
    assert!(
        log.contains("/free/told") && !log.contains("callers-own"),
        "the access log has the path and no more: {log}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_level_follows_a_reload() {
    let free = open("free", "http://127.0.0.1:9");
    let mut daemon = Daemon::start(&format!("[log]\nlevel = \"info\"\n{free}")).await;
    let quiet = timeout(PATIENCE, daemon.get("/nowhere/1")).await.unwrap();
    assert_eq!(quiet.0, 404);
    let whole = format!("{PORTS}[log]\nlevel = \"debug\"\n{free}");
    std::fs::write(daemon.path("new.toml"), whole).unwrap();
    std::fs::rename(daemon.path("new.toml"), daemon.path("cupbearer.toml")).unwrap();
    daemon.stderr.until("configuration reloaded").await;
    // The line comes first, the level a moment later.
    let begun = Instant::now();
    while !daemon.stderr.text().contains("no_route") {
        assert_eq!(daemon.get("/nowhere/2").await.0, 404);
        assert!(begun.elapsed() < PATIENCE, "{}", daemon.stderr.text());
    }
    daemon.stop().await;
    let log = daemon.stderr.text();
    let before = log.split("configuration reloaded").next().unwrap();
    assert!(!before.contains("no_route"), "{log}");
}
