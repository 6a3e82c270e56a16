//! What the guard remembers beyond the process: the real program, killed and started anew, never
//! locks an account that locks after three.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use futures_util::future::join_all;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{
    endpoint::{Endpoint, Format},
    issuer::{Issuer, Outcome},
    ledger::age,
    sidecar::{PORTS, Process, binary, client, write_at_rest},
    tokens::Tokens,
    vendor::Vendor,
    wait::until,
    wire::{Answer, Step},
};

pub const PARTNER: &str = "/api/v1/oauth/token";
pub const SESSION: &str = "/api/v1/auth/session";

const RELOADS: &str = "cupbearer_config_reloads_total{outcome=\"applied\"} ";

/// Two attempts a value, and then none until it changes, whatever is counted for the account.
pub const BY_VALUE: &str =
    "max_rejections = 2\nhold = \"until_secret_changes\"\naccount_rejections = \"off\"\n";

/// An issuer that locks after three wrong attempts, a vendor, and a folder with secrets and state.
pub struct World {
    pub issuer: Issuer,
    /// The guard's keys that differ from the profile's, as TOML.
    pub guard: &'static str,
    vendor: Vendor,
    pub folder: tempfile::TempDir,
    client: reqwest::Client,
}

impl World {
    /// With these secrets of partner and merchant in files; `right-p` and `right-m` are right. The
    /// guard counts by value.
    pub async fn new(partner: &str, merchant: &str) -> Self {
        Self {
            guard: BY_VALUE,
            ..Self::as_it_is(partner, merchant).await
        }
    }

    /// The same with the profile's own guard.
    pub async fn as_it_is(partner: &str, merchant: &str) -> Self {
        let tokens = Tokens::default();
        let mut first = Endpoint::new(PARTNER, "client_p", "right-p");
        (first.name, first.lock_after) = ("partner".into(), Some(3));
        let mut second = Endpoint::new(SESSION, "cli_m", "right-m");
        (second.name, second.lock_after, second.format, second.grant) =
            ("session".into(), Some(3), Format::Json, None);
        (second.bearer, second.field, second.refuses_with) =
            (Some("partner".into()), "session", 400);
        (second.life, second.says) = (Duration::from_mins(5), Some(json!(3600)));
        let plain = Endpoint::new("/plain", "plain", "s3cret-plain");
        let issuer = Issuer::start(&tokens, vec![first, second, plain]).await;
        let vendor = Vendor::start(&tokens, vec![]).await;
        let world = Self {
            issuer,
            guard: "",
            vendor,
            folder: tempfile::tempdir().unwrap(),
            client: client(),
        };
        world.secret("partner", partner);
        world.secret("merchant", merchant);
        world
    }

    pub fn api(&self) -> String {
        self.vendor.url()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Replaces a secret's file at one moment.
    pub fn secret(&self, name: &str, value: &str) {
        write_at_rest(&self.path("new"), value);
        std::fs::rename(self.path("new"), self.path(name)).unwrap();
    }

    /// A configuration with these credentials, all with the same secrets, the state in `state` and
    /// `more` behind it.
    pub fn config(&self, file: &str, state: &Path, credentials: &[&str], more: &str) -> PathBuf {
        let mut text = format!("{PORTS}[state]\ndir = \"{}\"\n", state.display());
        let (issuer, api, guard) = (self.issuer.url(), self.vendor.url(), self.guard);
        text.extend(credentials.iter().map(|name| {
            format!(
                "[credentials.{name}]\nprofile = \"mypos\"\nsettings = {{ base = \"{issuer}\", partner_id = \"p\", application_id = \"a\" }}\n\
                 [credentials.{name}.secrets]\nclient_id = \"client_p\"\nclient_secret = {{ file = \"partner\" }}\n\
                 merchant_client_id = \"cli_m\"\nmerchant_client_secret = {{ file = \"merchant\" }}\n[credentials.{name}.guard]\n{guard}\
                 [upstreams.{name}]\nurl = \"{api}\"\ncredential = \"{name}\"\ntimeouts = {{ token = \"2s\" }}\n"
            )
        }));
        let path = self.path(file);
        std::fs::write(&path, text + more).unwrap();
        path
    }

    pub fn usual(&self) -> PathBuf {
        self.config("usual.toml", &self.path("state"), &["pos"], "")
    }

    pub async fn get(&self, process: &Process, path: &str) -> (u16, Value) {
        let answer = self
            .client
            .get(format!("http://{}{path}", process.proxy))
            .send()
            .await
            .unwrap();
        (
            answer.status().as_u16(),
            serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap_or_default(),
        )
    }

    /// Calls until one is answered with 200.
    pub async fn until_ok(&self, process: &Process, path: &str) {
        let ok = async { while self.get(process, path).await.0 != 200 {} };
        tokio::time::timeout(Duration::from_secs(20), ok)
            .await
            .expect("no call went through");
    }

    pub async fn admin(&self, process: &Process, path: &str) -> String {
        let answer = self
            .client
            .get(format!("http://{}{path}", process.admin))
            .send()
            .await
            .unwrap();
        answer.text().await.unwrap()
    }

    /// The value of a series, whose name ends in a space.
    pub async fn metric(&self, process: &Process, series: &str) -> f64 {
        let text = self.admin(process, "/metrics").await;
        let value = text.lines().find_map(|l| l.strip_prefix(series));
        value
            .unwrap_or_else(|| panic!("no {series} in {text:?}"))
            .parse()
            .unwrap()
    }

    pub async fn post(&self, process: &Process, path: &str) -> u16 {
        let request = self
            .client
            .post(format!("http://{}{path}", process.admin))
            .header("content-type", "application/json");
        request.send().await.unwrap().status().as_u16()
    }

    /// One token of `pos` in the status.
    pub async fn token(&self, process: &Process, token: &str) -> Value {
        let status: Value =
            serde_json::from_str(&self.admin(process, "/api/status").await).unwrap();
        let found = status["credentials"]
            .as_array()
            .unwrap()
            .iter()
            .find(|c| c["name"] == "pos")
            .unwrap()
            .clone();
        found["tokens"]
            .as_array()
            .unwrap()
            .iter()
            .find(|t| t["name"] == token)
            .unwrap()
            .clone()
    }

    /// How often this endpoint refused a secret. Nobody was ever locked out.
    pub fn wrong(&self, path: &str) -> usize {
        self.issuer
            .change(path, |e| assert!(!e.is_locked(), "{path} is locked"));
        let refused =
            |outcome: &Outcome| matches!(outcome, Outcome::Refused(why) if why == "wrong secret");
        self.issuer
            .seen()
            .iter()
            .filter(|s| s.request.path() == path && refused(&s.outcome))
            .count()
    }
}

/// `cupbearer ctl` towards a running process.
pub async fn ctl(world: &World, process: &Process, action: &str) {
    let file = world.path("ctl.toml");
    let text = std::fs::read_to_string(world.usual()).unwrap();
    std::fs::write(
        &file,
        text.replace(
            "[admin]\nlisten = \"127.0.0.1:0\"",
            &format!("[admin]\nlisten = \"{}\"", process.admin),
        ),
    )
    .unwrap();
    let mut command = tokio::process::Command::new(binary());
    let done = command
        .args(["ctl", action, "pos", "--config"])
        .arg(file)
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap();
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
}

pub async fn kill(mut process: Process) {
    process.signal(Signal::KILL);
    process.child.wait().await.unwrap();
}

/// A program whose merchant secret, `old`, was right and is refused now: twice, as a new partner
/// token might have been what was wanting.
pub async fn refused_twice(world: &World, config: &Path) -> Process {
    world.issuer.change(SESSION, |e| {
        (e.secrets, e.life, e.says) = (vec!["old".into()], Duration::from_secs(4), None);
    });
    let process = Process::run(config).await;
    world.until_ok(&process, "/pos/x").await;
    world
        .issuer
        .change(SESSION, |e| e.secrets = vec!["right-m".into()]);
    until("a second attempt", async || world.wrong(SESSION) >= 2).await;
    process
}

/// Parallel requests, and reloads in between.
async fn storm(world: &World, process: &Process, config: &Path, names: &[&str]) {
    let text = std::fs::read_to_string(config).unwrap();
    for round in 0..3 {
        let paths: Vec<String> = (0..100)
            .map(|i| format!("/{}/x", names[i % names.len()]))
            .collect();
        for (status, body) in join_all(paths.iter().map(|path| world.get(process, path))).await {
            // 200 while an old token lives on.
            assert!(
                [200, 502, 503, 504].contains(&status),
                "round {round}: {status} {body}"
            );
        }
        let reloads = world.metric(process, RELOADS).await;
        let new = config.with_extension("new");
        std::fs::write(&new, format!("{text}\n# {}\n", rand::random::<u64>())).unwrap();
        std::fs::rename(&new, config).unwrap();
        process.signal(Signal::HUP);
        let reloaded = async { while world.metric(process, RELOADS).await <= reloads {} };
        tokio::time::timeout(Duration::from_secs(20), reloaded)
            .await
            .expect("no reload");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn t6_parallel_requests_and_reloads_never_make_a_third_wrong_attempt() {
    let world = World::new("wrong", "right-m").await;
    let config = world.usual();
    let process = Process::run(&config).await;
    storm(&world, &process, &config, &["pos"]).await;
    assert_eq!(world.wrong(PARTNER), 1, "the second comes 30 s later");

    let world = World::new("right-p", "old").await;
    let config = world.usual();
    let process = refused_twice(&world, &config).await;
    storm(&world, &process, &config, &["pos"]).await;
    assert_eq!(world.wrong(SESSION), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn t6_two_credentials_with_one_secret_in_two_processes_with_one_folder_make_two_wrong_attempts_at_most()
 {
    for (partner, merchant, path) in [("wrong", "right-m", PARTNER), ("right-p", "wrong", SESSION)]
    {
        let world = World::new(partner, merchant).await;
        let config = |file| world.config(file, &world.path("state"), &["pos", "twin"], "");
        let (files, names) = ([config("one.toml"), config("two.toml")], ["pos", "twin"]);
        let (one, two) = tokio::join!(Process::run(&files[0]), Process::run(&files[1]));
        tokio::join!(
            storm(&world, &one, &files[0], &names),
            storm(&world, &two, &files[1], &names)
        );
        assert!(
            (1..=2).contains(&world.wrong(path)),
            "{path}: {}",
            world.wrong(path)
        );
        kill(one).await;
        let again = Process::run(&files[0]).await;
        tokio::join!(
            storm(&world, &again, &files[0], &names),
            storm(&world, &two, &files[1], &names)
        );
        assert!(
            (1..=2).contains(&world.wrong(path)),
            "{path}: {}",
            world.wrong(path)
        );
    }
}

/// The program as if it were `later`, where this kernel and user may do that: pauses of the guard
/// are over then.
pub fn later(config: &Path, later: Duration) -> tokio::process::Command {
    let time = ["--time", "--boottime"];
    let may = std::process::Command::new("unshare")
        .args(time)
        .args(["1", "true"])
        .output()
        .is_ok_and(|o| o.status.success());
    let mut command = tokio::process::Command::new(if may { "unshare" } else { binary() });
    if may {
        command
            .args(time)
            .arg(later.as_secs().to_string())
            .arg(binary());
    }
    command.args(["run", "--config"]).arg(config);
    command
}

fn start(config: &Path, pause: Duration) -> tokio::process::Child {
    let mut command = later(config, pause);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn p1_t6_twenty_starts_that_are_killed_at_any_moment_make_two_wrong_attempts_at_most() {
    let worlds = [
        World::new("wrong", "right-m").await,
        World::new("right-p", "wrong").await,
    ];
    let runs = worlds.iter().map(|world| async {
        let config = world.usual();
        for i in 0..20_u32 {
            let mut child = start(&config, Duration::from_secs(60) * i);
            let calls = world.issuer.seen().len();
            // Killed around its first call, or before, or long after: the moment is what is tried
            // here.
            let random =
                |most| tokio::time::sleep(Duration::from_millis(rand::random_range(0..most)));
            let called = async {
                world.issuer.wait(calls + 1).await;
                random(20).await;
            };
            // The first one is let come to its call, however long a busy machine takes to start it.
            tokio::select! {
                () = called => {}
                () = random(800), if i > 0 => {}
            }
            child.kill().await.unwrap();
            assert!(
                world.wrong(PARTNER) <= 2 && world.wrong(SESSION) <= 2,
                "start {i}"
            );
        }
        (
            world.issuer.calls(PARTNER),
            world.wrong(PARTNER),
            world.wrong(SESSION),
        )
    });
    let seen = join_all(runs).await;
    assert!(seen.iter().all(|(calls, ..)| *calls > 0), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn p1_attempts_whose_outcome_was_lost_count_until_the_secret_changes() {
    let world = World::new("right-p", "right-m").await;
    world.issuer.always(Some(Answer::Raw(vec![Step::Hang])));
    let config = world.usual();
    for i in 0..2 {
        // Killed while its call hangs. A busy machine may take so long to kill it that it calls
        // again, which gives the first call back.
        let calls = world.issuer.seen().len();
        let mut child = start(&config, Duration::from_secs(60) * i);
        world.issuer.wait(calls + 1).await;
        child.kill().await.unwrap();
    }
    let calls = world.issuer.calls(PARTNER);
    world.issuer.always(None);
    let process = Process::run(&config).await;
    let (status, body) = world.get(&process, "/pos/x").await;
    assert_eq!(
        (status, &body["code"]),
        (502, &json!("token_rejected")),
        "{body}"
    );
    assert_eq!(world.token(&process, "partner").await["state"], "latched");
    assert_eq!(world.issuer.calls(PARTNER), calls, "no third attempt");
    // The second was made a minute ahead.
    age(&world.path("state"), Duration::from_secs(91));
    ctl(&world, &process, "unlatch").await;
    world.until_ok(&process, "/pos/x").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p2_a_latch_outlives_restarts_and_a_changed_secret_opens_it_at_once() {
    let world = World::new("right-p", "old").await;
    let config = world.usual();
    let first = refused_twice(&world, &config).await;
    storm(&world, &first, &config, &["pos"]).await;
    assert_eq!(world.wrong(SESSION), 2);
    kill(first).await;
    let second = Process::run(&config).await;
    storm(&world, &second, &config, &["pos"]).await;
    assert_eq!(world.token(&second, "session").await["state"], "latched");
    kill(second).await;
    assert_eq!(world.wrong(SESSION), 2);

    world.secret("merchant", "right-m");
    let third = Process::run(&config).await;
    world.until_ok(&third, "/pos/x").await;
    assert_eq!(world.token(&third, "session").await["rejections"], 0);
    kill(third).await;

    // The old value is remembered as what it was, and a running program goes back to the new one by
    // itself.
    world.secret("merchant", "old");
    let fourth = Process::run(&config).await;
    storm(&world, &fourth, &config, &["pos"]).await;
    assert_eq!(world.wrong(SESSION), 2);
    world.secret("merchant", "right-m");
    world.until_ok(&fourth, "/pos/x").await;
    assert_eq!(world.wrong(SESSION), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_success_after_an_unlatch_clears_the_count_for_the_next_start_too() {
    let world = World::new("right-p", "old").await;
    let config = world.usual();
    let first = refused_twice(&world, &config).await;
    kill(first).await;
    let second = Process::run(&config).await;
    storm(&world, &second, &config, &["pos"]).await;
    assert_eq!(
        (
            world.wrong(SESSION),
            &world.token(&second, "session").await["rejections"]
        ),
        (2, &json!(2))
    );
    world
        .issuer
        .change(SESSION, |e| e.secrets = vec!["old".into()]);
    ctl(&world, &second, "unlatch").await;
    // One attempt, 30 s after the last refusal.
    until("it waits", async || {
        world.token(&second, "session").await["state"] == "held"
    })
    .await;
    storm(&world, &second, &config, &["pos"]).await;
    assert_eq!(world.wrong(SESSION), 2);
    // A minute later, to one that is told so.
    age(&world.path("state"), Duration::from_secs(31));
    ctl(&world, &second, "unlatch").await;
    world.until_ok(&second, "/pos/x").await;
    kill(second).await;
    let third = Process::run(&config).await;
    world.until_ok(&third, "/pos/x").await;
    assert_eq!(world.token(&third, "session").await["rejections"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn starts_that_are_killed_at_any_moment_with_another_wrong_secret_each_make_two_wrong_attempts_at_most()
 {
    let world = World::as_it_is("wrong", "right-m").await;
    let config = world.usual();
    for i in 0..20_u32 {
        world.secret("partner", &format!("wrong-{}", i / 2));
        // Within the 15 minutes after which an account of unknown outcomes alone is tried once
        // more.
        let mut child = start(&config, Duration::from_secs(40) * i);
        let calls = world.issuer.seen().len();
        let random = |most| tokio::time::sleep(Duration::from_millis(rand::random_range(0..most)));
        let called = async {
            world.issuer.wait(calls + 1).await;
            random(20).await;
        };
        // The first one is let come to its call, however long a busy machine takes to start it.
        tokio::select! {
            () = called => {}
            () = random(800), if i > 0 => {}
        }
        child.kill().await.unwrap();
        assert!(world.wrong(PARTNER) <= 2, "start {i}");
    }
    assert!(world.issuer.calls(PARTNER) > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_wrong_secrets_to_two_processes_with_one_folder_is_two_attempts_and_a_restart_adds_none()
 {
    let world = World::as_it_is("right-p", "wrong").await;
    let files = ["one.toml", "two.toml"]
        .map(|file| world.config(file, &world.path("state"), &["pos", "twin"], ""));
    let (one, two) = tokio::join!(Process::run(&files[0]), Process::run(&files[1]));
    until("a first attempt", async || world.wrong(SESSION) >= 1).await;
    for n in 0..10 {
        world.secret("merchant", &format!("wrong-{n}"));
        for process in [&one, &two] {
            process.signal(Signal::HUP);
            let calls =
                (0..10).map(|i| world.get(process, if i % 2 == 0 { "/pos/x" } else { "/twin/x" }));
            assert!(
                join_all(calls)
                    .await
                    .iter()
                    .all(|(status, _)| [502, 503, 504].contains(status))
            );
        }
    }
    until("a second attempt", async || world.wrong(SESSION) >= 2).await;
    kill(one).await;
    let again = Process::run(&files[0]).await;
    for (process, file) in [(&again, &files[0]), (&two, &files[1])] {
        storm(&world, process, file, &["pos", "twin"]).await;
        assert_eq!(world.token(process, "session").await["state"], "latched");
    }
    age(&world.path("state"), Duration::from_hours(1));
    world.secret("merchant", "right-m");
    storm(&world, &two, &files[1], &["pos", "twin"]).await;
    assert_eq!(world.wrong(SESSION), 2);
}
