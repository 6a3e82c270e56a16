//! What happens where the guard's memory cannot be read or written: who may lock an account makes
//! no call, everybody else is served.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::Path,
    time::Duration,
};

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

use crate::{
    state::{PARTNER, SESSION, World, ctl, kill, later, refused_twice},
    support::sidecar::{Process, binary},
};

const ERRORS: &str = "cupbearer_state_write_errors_total ";

/// Besides the profile that locks, one whose latch opens by itself.
fn both(world: &World, state: &Path) -> std::path::PathBuf {
    let url = world.issuer.url();
    let plain = format!(
        "[credentials.plain]\nsettings = {{ token_url = \"{url}/plain\" }}\nsecrets = {{ client_id = \"plain\", client_secret = \"s3cret-plain\" }}\n\
         [upstreams.plain]\nurl = \"{}\"\ncredential = \"plain\"\n",
        world.api()
    );
    world.config("both.toml", state, &["pos"], &plain)
}

/// The one is refused without a call, the other served; it is counted, and logged once.
async fn stays_on_the_safe_side(world: &World, mut process: Process, why: &str) {
    assert_eq!(world.get(&process, "/plain/x").await.0, 200, "{why}");
    for _ in 0..3 {
        let (status, body) = world.get(&process, "/pos/x").await;
        assert_eq!(
            (status, &body["code"]),
            (503, &json!("token_unavailable")),
            "{why}: {body}"
        );
        assert_eq!(
            world.post(&process, "/api/credentials/pos/refresh").await,
            202
        );
    }
    let error = world.token(&process, "partner").await["last_failure"]["error"].clone();
    assert!(
        error.as_str().unwrap_or_default().contains("memory"),
        "{why}: {error}"
    );
    assert_eq!(
        (world.issuer.calls(PARTNER), world.issuer.calls(SESSION)),
        (0, 0),
        "{why}"
    );
    assert!(world.metric(&process, ERRORS).await > 0.0, "{why}");
    process.child.kill().await.unwrap();
    let log = process.before + &rest(&mut process.log).await;
    assert_eq!(
        log.matches("cannot be relied on").count(),
        1,
        "{why}: {log}"
    );
}

async fn rest(log: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut text = String::new();
    let _ = log.read_to_string(&mut text).await;
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn p3_a_folder_that_is_a_file_or_somebody_elses_or_open_to_others_is_not_used() {
    for why in [
        "is a file",
        "belongs to another",
        "may be written by others",
        "cannot be made",
    ] {
        let world = World::new("right-p", "right-m").await;
        let mut state = world.path("state");
        match why {
            "is a file" => fs::write(&state, "").unwrap(),
            "belongs to another" => {
                fs::create_dir(&state).unwrap();
                if chown(&state, Some(65534), None).is_err() {
                    continue; // Only root may give away a folder.
                }
            }
            "may be written by others" => {
                fs::create_dir(&state).unwrap();
                fs::set_permissions(&state, fs::Permissions::from_mode(0o777)).unwrap();
            }
            _ => state = "/proc/cupbearer".into(),
        }
        let process = Process::run(&both(&world, &state)).await;
        stays_on_the_safe_side(&world, process, why).await;
    }
}

/// Starts the program in a mount namespace of its own, after `script`; `None` where this kernel or user may not do that.
async fn in_own_mounts(config: &Path, script: &str) -> Option<Process> {
    let may = std::process::Command::new("unshare")
        .args(["-m", "true"])
        .output()
        .is_ok_and(|o| o.status.success());
    if !may {
        return None;
    }
    let mut command = tokio::process::Command::new("unshare");
    let script = format!(
        "set -e\n{script}\nexec '{}' run --config '{}'",
        binary(),
        config.display()
    );
    command.args(["-m", "sh", "-c", &script]);
    Some(Process::spawn(command).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn p3_a_read_only_folder_is_not_used() {
    let world = World::new("right-p", "right-m").await;
    let state = world.path("state");
    fs::create_dir(&state).unwrap();
    fs::set_permissions(&state, fs::Permissions::from_mode(0o700)).unwrap();
    let dir = state.display();
    let script = format!("mount --bind '{dir}' '{dir}'\nmount -o remount,bind,ro '{dir}'");
    if let Some(process) = in_own_mounts(&both(&world, &state), &script).await {
        stays_on_the_safe_side(&world, process, "read-only").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p3_a_full_disk_holds_back_only_who_would_be_locked_out_and_only_while_it_is_full() {
    let world = World::new("right-p", "right-m").await;
    let state = world.path("state");
    fs::create_dir(&state).unwrap();
    let dir = state.display();
    let mount = format!(
        "mount -t tmpfs -o size=64k,mode=700 tmpfs '{dir}'\ndd if=/dev/zero of='{dir}/filler' bs=1k count=64 2>/dev/null || true"
    );
    let config = both(&world, &state);
    if let Some(process) = in_own_mounts(&config, &mount).await {
        stays_on_the_safe_side(&world, process, "full").await;
    }
    if let Some(process) = in_own_mounts(&config, &mount).await {
        assert_eq!(world.get(&process, "/pos/x").await.0, 503);
        let pid = process.child.id().unwrap();
        fs::remove_file(format!("/proc/{pid}/root{}/filler", state.display())).unwrap();
        assert_eq!(
            world.post(&process, "/api/credentials/pos/refresh").await,
            202
        );
        world.until_ok(&process, "/pos/x").await;
        assert!(world.issuer.refusals().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_record_stops_its_calls_until_it_is_unlatched() {
    let world = World::new("right-p", "old").await;
    let (config, state) = (world.usual(), world.path("state"));
    kill(refused_twice(&world, &config).await).await;
    assert_eq!(world.wrong(SESSION), 2);
    for file in records(&state) {
        let mut bytes = fs::read(&file).unwrap();
        let last = bytes.len() - 2;
        bytes[last] ^= 1;
        fs::write(file, bytes).unwrap();
    }
    let second = Process::run(&config).await;
    let calls = world.issuer.seen().len();
    assert_eq!(world.get(&second, "/pos/x").await.0, 503);
    assert_eq!(world.issuer.seen().len(), calls);
    world
        .issuer
        .change(SESSION, |e| e.secrets = vec!["old".into()]);
    // Both records, also that of the session, which nobody has asked for yet.
    ctl(&world, &second, "unlatch").await;
    world.issuer.wait(calls + 2).await;
    world.until_ok(&second, "/pos/x").await;
}

fn records(state: &Path) -> Vec<std::path::PathBuf> {
    let files = fs::read_dir(state)
        .into_iter()
        .flatten()
        .filter_map(|f| Some(f.ok()?.path()));
    files
        .filter(|f| f.extension().is_some_and(|e| e == "json"))
        .collect()
}

/// How many files there are; each is whole: its first line names the checksum of its second.
fn whole(state: &Path) -> usize {
    let mut count = 0;
    for file in records(state) {
        let text = fs::read_to_string(&file).unwrap();
        let (head, body) = text
            .split_once('\n')
            .unwrap_or_else(|| panic!("{}: {text:?}", file.display()));
        let head: Value = serde_json::from_str(head).unwrap();
        let sum = digest(&SHA256, body.trim_end().as_bytes())
            .as_ref()
            .iter()
            .fold(String::new(), |sum, b| sum + &format!("{b:02x}"));
        assert_eq!(
            (&head["version"], &head["sha256"]),
            (&json!(1), &json!(sum)),
            "{}",
            file.display()
        );
        count += 1;
    }
    count
}

#[tokio::test(flavor = "multi_thread")]
async fn p1_files_are_old_or_new_but_never_torn_at_whatever_moment_one_looks_or_kills() {
    let world = World::new("right-p", "right-m").await;
    let (url, state) = (world.issuer.url(), world.path("state"));
    world.issuer.change("/plain", |e| {
        (e.life, e.says) = (Duration::from_secs(3600), Some(json!(1)));
    });
    // Eight tokens that are renewed each half second: a write every 30 ms.
    let mut many = String::new();
    many.extend((0..8).map(|i| {
        format!(
            "[credentials.c{i}]\nsettings = {{ token_url = \"{url}/plain\" }}\n\
                 secrets = {{ client_id = \"plain\", client_secret = \"s3cret-plain\" }}\n"
        )
    }));
    let config = world.config("many.toml", &state, &[], &many);
    // `make soak` asks for more.
    let wanted = std::env::var("CUPBEARER_KILLS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(15);
    let (mut looks, mut kills) = (0, 0_u32);
    while looks < 500 || kills < wanted {
        // What the kills leave without an outcome counts for 15 minutes.
        let process = Process::spawn(later(&config, Duration::from_mins(20) * kills)).await;
        let calls = world.issuer.seen().len();
        world.issuer.wait(calls + rand::random_range(1..9)).await;
        for _ in 0..40 {
            looks += usize::from(whole(&state) > 0);
        }
        kill(process).await;
        kills += 1;
        whole(&state);
    }
    assert!(world.issuer.refusals().is_empty());
    let last = Process::spawn(later(&config, Duration::from_mins(20) * kills)).await;
    let calls = world.issuer.seen().len();
    world.issuer.wait(calls + 8).await;
    assert!(world.metric(&last, ERRORS).await < 1.0);
}
