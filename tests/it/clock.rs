//! Clocks: the wall clock jumps, the machine sleeps, the process stands still. Only claims and
//! reported times may notice.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use cupbearer::clock::simulate_suspend;
use jsonwebtoken::Algorithm;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::support::{
    certs::signer,
    daemon::{Daemon, Setup},
    endpoint::Endpoint,
    issuer::Issuer,
    sidecar::{Sidecar, plain},
    tokens::Tokens,
    tool::skip,
    vendor::{Need, Vendor},
    wait::{Asking, until},
    wire::Reply,
};

const DAY: i64 = 86_400;

/// Debian's place for the library that tells a process another time.
fn faketime() -> Option<PathBuf> {
    let found = std::fs::read_dir("/usr/lib")
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.path().join("faketime/libfaketimeMT.so.1"));
    found.into_iter().find(|p| p.exists())
}

/// The library, or why the test does not run.
fn faked(test: &str) -> Option<PathBuf> {
    let found = faketime();
    if found.is_none() {
        assert!(
            std::env::var_os("CI").is_none_or(|ci| ci != "true"),
            "faketime is missing; run `make tools`"
        );
        skip(test, "libfaketime is not installed; run `make tools`");
    }
    found
}

async fn parties(life: Duration) -> (Issuer, Vendor) {
    let tokens = Tokens::default();
    let mut endpoint = Endpoint::new("/token", "acme", "s3cret-acme");
    endpoint.life = life;
    let issuer = Issuer::start(&tokens, vec![endpoint]).await;
    (
        issuer,
        Vendor::start(&tokens, vec![Need::Bearer("access")]).await,
    )
}

fn acme(issuer: &Issuer, vendor: &Vendor) -> String {
    plain("acme", &format!("{}/token", issuer.url()), &vendor.url())
}

/// A program whose wall clock is set by a file; its other clocks are the real ones.
struct Faked {
    daemon: Daemon,
    clock: tempfile::NamedTempFile,
}

impl Faked {
    async fn start(library: &Path, clock: &str, text: &str, files: &[(&str, &str)]) -> Self {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), clock).unwrap();
        let env = [
            ("LD_PRELOAD", library.to_str().unwrap()),
            ("FAKETIME_TIMESTAMP_FILE", file.path().to_str().unwrap()),
            ("FAKETIME_NO_CACHE", "1"),
            ("DONT_FAKE_MONOTONIC", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ];
        Self {
            daemon: Daemon::with(Setup {
                text,
                files,
                env: &env,
                ..Setup::default()
            })
            .await,
            clock: file,
        }
    }

    /// From now on its clock differs by so many seconds, or shows this date.
    fn jump(&self, to: &str) {
        std::fs::write(self.clock.path(), to).unwrap();
    }

    async fn status(&self) -> Value {
        serde_json::from_str(&self.daemon.admin("/api/status").await.1).unwrap()
    }

    /// When the token was obtained, as it is told now; Unix time.
    async fn obtained(&self) -> i64 {
        let status = self.status().await;
        let at = status["credentials"][0]["tokens"][0]["obtained_at"]
            .as_str()
            .unwrap_or_else(|| panic!("{status}"))
            .to_owned();
        at.parse::<jiff::Timestamp>().unwrap().as_second()
    }
}

fn unix_now() -> i64 {
    jiff::Timestamp::now().as_second()
}

#[tokio::test(flavor = "multi_thread")]
async fn c1_jumps_of_the_wall_clock_change_nothing_but_reported_times() {
    let Some(library) = faked("clock: c1") else {
        return;
    };
    let (issuer, vendor) = parties(Duration::from_mins(10)).await;
    let faked = Faked::start(&library, "+0", &acme(&issuer, &vendor), &[]).await;
    faked.daemon.until_status("\"ok\"").await;
    let before = vendor.counts().answered;
    for (n, (to, seconds)) in [
        ("+10d", 10 * DAY),
        ("-10d", -10 * DAY),
        ("+3h", 3 * 3600),
        ("-5h", -5 * 3600),
        ("+0", 0),
    ]
    .into_iter()
    .enumerate()
    {
        faked.jump(to);
        let told = faked.obtained().await - unix_now() - seconds;
        assert!(
            (-60..=5).contains(&told),
            "after {to} the token is said to be {told} s old"
        );
        assert_eq!(faked.daemon.get("/acme/x").await.0, 200, "{to}");
        assert_eq!(vendor.counts().answered, before + n + 1);
        assert_eq!(issuer.calls("/token"), 1, "after {to}");
        assert_eq!(
            faked.status().await["credentials"][0]["tokens"][0]["state"],
            "ok",
            "{to}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c1_short_tokens_are_renewed_at_their_pace_whatever_the_wall_clock_does() {
    let Some(library) = faked("clock: c1, short tokens") else {
        return;
    };
    let (issuer, vendor) = parties(Duration::from_secs(2)).await;
    let faked = Faked::start(&library, "+0", &acme(&issuer, &vendor), &[]).await;
    let begun = tokio::time::Instant::now();
    for to in ["+6h", "-6h", "+30d", "-30d"] {
        let calls = issuer.calls("/token");
        faked.jump(to);
        until("two more token calls", async || {
            assert_eq!(faked.daemon.get("/acme/x").await.0, 200, "{to}");
            issuer.calls("/token") >= calls + 2
        })
        .await;
    }
    assert_eq!(vendor.counts().expired, 0);
    // 2 s tokens are renewed after 0.8 to 1 s, not sooner.
    let most = usize::try_from(begun.elapsed().as_millis() / 750).unwrap() + 3;
    assert!(
        issuer.calls("/token") <= most,
        "{} calls in {:?}",
        issuer.calls("/token"),
        begun.elapsed()
    );
}

/// The claims of the newest assertion.
fn claims(issuer: &Issuer) -> Value {
    let last = issuer.seen().pop().unwrap();
    let jwt = form_urlencoded::parse(&last.request.body)
        .find(|(n, _)| n == "client_assertion")
        .unwrap()
        .1
        .into_owned();
    serde_json::from_slice(
        &URL_SAFE_NO_PAD
            .decode(jwt.split('.').nth(1).unwrap())
            .unwrap(),
    )
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn c1_c3_assertions_follow_the_wall_clock_and_one_of_1970_dates_none() {
    let Some(library) = faked("clock: c1, c3, assertions") else {
        return;
    };
    let (issuer, vendor) = parties(Duration::from_hours(1)).await;
    issuer.always(Some(
        Reply::json(200, &json!({ "access_token": "any", "expires_in": 3600 })).into(),
    ));
    let key = signer(Algorithm::RS256);
    let text = format!(
        "[credentials.kc]\nprofile = \"keycloak_jwt\"\nsettings = {{ base = \"{}\", realm = \"r\" }}\n\
         secrets = {{ client_id = \"acme\", private_key = {{ file = \"key.pem\" }} }}\n\
         [upstreams.kc]\nurl = \"{}\"\ncredential = \"kc\"\n",
        issuer.url(),
        vendor.url()
    );
    // A machine without a clock of its own: it starts, asks nobody, says why, and goes on once the
    // time is set.
    let faked = Faked::start(
        &library,
        "@1970-01-02 00:00:00",
        &text,
        &[("key.pem", &key.key)],
    )
    .await;
    faked.daemon.until_status("clock of this machine").await;
    assert_eq!(issuer.seen().len(), 0);
    let (status, body) = faked.daemon.get("/kc/x").await;
    assert!(
        status == 503 && body.contains("token_unavailable"),
        "{status} {body}"
    );
    let mut calls = 0;
    for (to, seconds) in [("+0", 0), ("+10d", 10 * DAY), ("-10d", -10 * DAY)] {
        faked.jump(to);
        let mut asking = Asking::default();
        until(&format!("a token call after {to}"), async || {
            if asking.is_due() {
                let url = format!("http://{}/api/credentials/kc/refresh", faked.daemon.admin);
                let request = faked
                    .daemon
                    .client
                    .post(url)
                    .header("content-type", "application/json");
                assert_eq!(request.send().await.unwrap().status(), 202);
            }
            issuer.seen().len() > calls
        })
        .await;
        let claims = claims(&issuer);
        let off = claims["iat"].as_i64().unwrap() - unix_now() - seconds;
        assert!((-20..=5).contains(&off), "{to}: iat is off by {off} s");
        let life = claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap();
        assert!((1..=60).contains(&life), "{claims}");
        calls = issuer.seen().len();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c3_a_start_in_1970_costs_nothing_where_no_claim_is_dated() {
    let Some(library) = faked("clock: c3") else {
        return;
    };
    let (issuer, vendor) = parties(Duration::from_mins(10)).await;
    let faked = Faked::start(
        &library,
        "@1970-01-02 00:00:00",
        &acme(&issuer, &vendor),
        &[],
    )
    .await;
    assert_eq!(faked.daemon.get("/acme/x").await.0, 200);
    faked.jump("+0");
    assert_eq!(faked.daemon.get("/acme/x").await.0, 200);
    assert_eq!((issuer.calls("/token"), vendor.counts().answered), (1, 2));
    let off = faked.obtained().await - unix_now();
    assert!((-60..=5).contains(&off), "{off}");
}

/// The whole program in one thread, for which the machine was asleep.
#[tokio::test]
async fn c2_after_a_suspend_the_old_token_is_renewed_before_it_is_sent() {
    let (issuer, vendor) = parties(Duration::from_mins(10)).await;
    let sidecar = Sidecar::start(&acme(&issuer, &vendor)).await;
    assert_eq!(sidecar.status_of("/acme/x").await, 200);
    let first = vendor.last().header("authorization").unwrap().to_owned();
    for (n, slept) in [
        Duration::from_hours(2),
        Duration::from_mins(10),
        Duration::from_hours(24 * 30),
    ]
    .into_iter()
    .enumerate()
    {
        simulate_suspend(slept);
        let all =
            futures_util::future::join_all((0..20).map(|_| sidecar.status_of("/acme/x"))).await;
        assert_eq!(all, [200; 20], "after {slept:?}");
        assert_eq!(issuer.calls("/token"), n + 2, "one call for all of them");
    }
    let sent: Vec<String> = vendor
        .seen()
        .iter()
        .map(|r| r.header("authorization").unwrap().to_owned())
        .collect();
    assert_eq!(
        sent.iter().filter(|t| **t == first).count(),
        1,
        "never sent again"
    );
    // A nap that the token outlives is none.
    simulate_suspend(Duration::from_mins(2));
    assert_eq!(sidecar.status_of("/acme/x").await, 200);
    assert_eq!(issuer.calls("/token"), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn c5_a_process_that_stood_still_renews_once_and_sends_no_dead_token() {
    let (issuer, vendor) = parties(Duration::from_secs(4)).await;
    let daemon = Daemon::start(&acme(&issuer, &vendor)).await;
    assert_eq!(daemon.get("/acme/x").await.0, 200);
    daemon.signal(Signal::STOP);
    // The token dies meanwhile: this takes as long as it takes. It is sent until a tenth of its
    // life is left, which is all the time that a busy machine has for the way to the vendor.
    let calls = issuer.calls("/token");
    let waiting = (0..10).map(|_| daemon.get("/acme/x"));
    let resume = async {
        sleep(Duration::from_secs(6)).await;
        assert!(
            issuer.calls("/token") <= calls + 1,
            "one may have been on its way"
        );
        daemon.signal(Signal::CONT);
    };
    let (answers, ()) = tokio::join!(futures_util::future::join_all(waiting), resume);
    assert!(
        answers.iter().all(|(status, _)| *status == 200),
        "{answers:?}"
    );
    assert!(
        issuer.calls("/token") <= calls + 2,
        "{} calls after {calls}",
        issuer.calls("/token")
    );
    assert_eq!((vendor.counts().expired, issuer.refusals()), (0, vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn c6_a_host_that_has_been_up_for_a_hundred_years_renews_as_any_other() {
    // Seconds since boot, for this process and its children alone.
    let around = "unshare --map-root-user --time --boottime 3153600000 --monotonic 3153600000 --fork --kill-child";
    let able = tokio::process::Command::new("sh")
        .args(["-c", &format!("{around} true")])
        .output()
        .await
        .unwrap();
    if !able.status.success() {
        return skip(
            "clock::c6",
            &format!(
                "no time namespace: {}",
                String::from_utf8_lossy(&able.stderr).trim()
            ),
        );
    }
    let (issuer, vendor) = parties(Duration::from_secs(2)).await;
    let before = format!("set -- {around} \"$@\"");
    let daemon = Daemon::with(Setup {
        text: &acme(&issuer, &vendor),
        before: &before,
        ..Setup::default()
    })
    .await;
    assert_eq!(daemon.get("/acme/x").await.0, 200);
    issuer.wait(3).await;
    assert_eq!(daemon.get("/acme/x").await.0, 200);
    let status: Value = serde_json::from_str(&daemon.admin("/api/status").await.1).unwrap();
    let at = |field: &str| {
        status["credentials"][0]["tokens"][0][field]
            .as_str()
            .unwrap()
            .parse::<jiff::Timestamp>()
            .unwrap()
    };
    assert_eq!(
        (at("expires_at") - at("obtained_at")).get_seconds(),
        2,
        "{status:#}"
    );
    assert!(
        (jiff::Timestamp::now() - at("obtained_at")).get_seconds() < 5,
        "{status:#}"
    );
    assert!(
        daemon
            .admin("/metrics")
            .await
            .1
            .contains("cupbearer_token_sendable{credential=\"acme\",token=\"access\"} 1")
    );
    assert_eq!((vendor.counts().expired, issuer.refusals()), (0, vec![]));
}
