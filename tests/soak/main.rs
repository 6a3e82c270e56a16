//! `make soak`: the real program for ten minutes between five vendors that fail at random, with
//! reloads and rotations beside the load.
//!
//! `CUPBEARER_SOAK_SECONDS` is how long (600), `CUPBEARER_SOAK_SEED` repeats what was done. Every
//! failed request must be explained by a fault that was injected at its vendor then; token calls
//! stay within their budget; memory and descriptors come back to where they were.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test fails by panicking, lives in real time, and reports to a person"
)]

mod faults;
mod parties;
#[path = "../it/support/mod.rs"]
mod support;

use std::{
    collections::BTreeMap,
    process::ExitCode,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use faults::Fault;
use parties::Party;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use support::daemon::{Daemon, Setup};
use tokio::{task::JoinSet, time::sleep};

const PER_SECOND: u32 = 200;

/// A request that was not answered with 200.
struct Failed {
    party: usize,
    begun: Instant,
    ended: Instant,
    cause: String,
}

fn from_env(name: &str, standard: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|v| v.parse().ok())
        .unwrap_or(standard)
}

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    if runtime.block_on(soak()) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

async fn soak() -> bool {
    let length = Duration::from_secs(from_env("CUPBEARER_SOAK_SECONDS", 600));
    let seed = from_env("CUPBEARER_SOAK_SEED", rand::random::<u64>() >> 16);
    println!("soak: {} s, CUPBEARER_SOAK_SEED={seed}", length.as_secs());
    support::sidecar::raise_open_files();
    let parties = Arc::new(parties::five().await);
    let text = parties::configuration(&parties);
    let mut secrets: Vec<(String, &str)> = parties.iter().map(|p| (p.file(), "secret-0")).collect();
    secrets.push(("merchant.secret".into(), "sec_m"));
    let files: Vec<(&str, &str)> = secrets
        .iter()
        .map(|(name, content)| (name.as_str(), *content))
        .collect();
    let mut daemon = Daemon::with(Setup {
        whole: Some(&text),
        files: &files,
        ..Setup::default()
    })
    .await;
    for party in parties.iter() {
        assert_eq!(
            daemon.get(&format!("/{}/x", party.name)).await.0,
            200,
            "{}",
            party.name
        );
    }

    let begun = Instant::now();
    let end = begun + length;
    let failed = Arc::new(Mutex::new(Vec::new()));
    let load = load(&daemon, &parties, end, &failed);
    // The end is left in peace, so that every fault has ended when all is counted.
    let calm = end - Duration::from_secs(15).min(length / 3);
    let hurt = hurt(&parties, calm, StdRng::seed_from_u64(seed));
    let rotate = rotate(&daemon, &parties, calm, StdRng::seed_from_u64(seed ^ 1));
    let reload = reload(&daemon, &text, end);
    let warm = async {
        sleep(length / 10).await;
        usage(&daemon).await
    };
    let (sent, faults, rotations, reloads, before) = tokio::join!(load, hurt, rotate, reload, warm);
    let spent: Vec<usize> = parties.iter().map(Party::calls).collect();
    let elapsed = begun.elapsed();
    // The client leaves, whose pool would keep connections for a minute and a half; those to
    // vendors are given time to close.
    daemon.client = support::sidecar::client();
    sleep(Duration::from_secs(5)).await;
    let after = usage(&daemon).await;
    daemon.stop().await;

    let mut sound = true;
    let mut wrong = |what: String| {
        println!("UNEXPLAINED {what}");
        sound = false;
    };
    let failed = failed.lock().unwrap();
    let mut causes: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for f in failed.iter() {
        *causes.entry((parties[f.party].name, &f.cause)).or_default() += 1;
        if !faults
            .iter()
            .any(|fault| fault.party == f.party && fault.explains(&f.cause, f.begun, f.ended))
        {
            wrong(format!(
                "{:.1} s: {}: {}",
                (f.begun - begun).as_secs_f64(),
                parties[f.party].name,
                f.cause
            ));
        }
    }
    let mut kinds: BTreeMap<_, usize> = BTreeMap::new();
    faults
        .iter()
        .for_each(|f| *kinds.entry(f.kind).or_default() += 1);
    println!(
        "requests: {sent} in {:.0} s, {} failed",
        elapsed.as_secs_f64(),
        failed.len()
    );
    println!("faults: {} {kinds:?}", faults.len());
    println!("failures by vendor and cause: {causes:?}");
    println!("reloads: {reloads}, rotations: {rotations}");
    let budget = parties::PER_MINUTE
        + parties::PER_MINUTE * usize::try_from(elapsed.as_secs()).unwrap() / 60;
    for (party, calls) in parties.iter().zip(spent) {
        let (counts, refused) = (party.api.counts(), party.issuer.refusals());
        println!(
            "{}: {calls} token calls of {budget}, {counts:?}",
            party.name
        );
        if calls > budget {
            wrong(format!("{}: {calls} token calls", party.name));
        }
        if !refused.is_empty() {
            wrong(format!("{}: its issuer refused: {refused:?}", party.name));
        }
        if counts.unknown > 0 {
            wrong(format!(
                "{}: {} calls with a token that is none",
                party.name, counts.unknown
            ));
        }
    }
    let mib = |bytes: f64| bytes / 1_048_576.0;
    println!(
        "RSS {:.1} MiB -> {:.1} MiB, descriptors {} -> {}",
        mib(before.0),
        mib(after.0),
        before.1,
        after.1
    );
    if after.0 > before.0 * 1.5 + 16.0 * 1_048_576.0 || after.1 > before.1 + 50.0 {
        wrong("memory or descriptors grew".into());
    }
    println!("soak: {}", if sound { "all explained" } else { "FAILED" });
    sound
}

/// The same number of requests each second, whatever becomes of them.
async fn load(
    daemon: &Daemon,
    parties: &Arc<Vec<Party>>,
    end: Instant,
    failed: &Arc<Mutex<Vec<Failed>>>,
) -> usize {
    let mut tick = tokio::time::interval(Duration::from_secs(1) / PER_SECOND);
    let (mut all, mut sent) = (JoinSet::new(), 0);
    while Instant::now() < end {
        tick.tick().await;
        while all.try_join_next().is_some() {}
        let party = sent % parties.len();
        sent += 1;
        let url = daemon.url(&format!("/{}/x{sent}", parties[party].name));
        let request = if sent % 3 == 0 {
            daemon.client.post(url).body("an order")
        } else {
            daemon.client.get(url)
        };
        let failed = failed.clone();
        all.spawn(async move {
            let begun = Instant::now();
            if let Err(cause) = outcome(request).await {
                failed.lock().unwrap().push(Failed {
                    party,
                    begun,
                    ended: Instant::now(),
                    cause,
                });
            }
        });
    }
    while all.join_next().await.is_some() {}
    sent
}

async fn outcome(request: reqwest::RequestBuilder) -> Result<(), String> {
    let answer = request.send().await.map_err(|e| {
        if e.is_timeout() {
            "no answer".to_owned()
        } else {
            "cut off".to_owned()
        }
    })?;
    let status = answer.status();
    let body = answer.bytes().await.map_err(|_| "cut off".to_owned())?;
    if status == 200 {
        return Ok(());
    }
    let problem: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    Err(problem["code"]
        .as_str()
        .map_or_else(|| format!("status {}", status.as_u16()), Into::into))
}

/// One fault after the other, each at one vendor.
async fn hurt(parties: &Arc<Vec<Party>>, end: Instant, mut random: StdRng) -> Vec<Fault> {
    let mut faults = Vec::new();
    loop {
        sleep(Duration::from_millis(random.random_range(500..2500))).await;
        if Instant::now() >= end {
            return faults;
        }
        let (party, (kind, lasts)) = (
            random.random_range(0..parties.len()),
            faults::any(&mut random),
        );
        let from = Instant::now();
        faults::inject(&parties[party], kind, lasts).await;
        faults.push(Fault {
            kind,
            party,
            from,
            to: Instant::now(),
        });
    }
}

/// New secrets, which the vendor takes beside the old ones for a while.
async fn rotate(
    daemon: &Daemon,
    parties: &Arc<Vec<Party>>,
    end: Instant,
    mut random: StdRng,
) -> usize {
    let mut n = 0;
    while Instant::now() < end {
        n += 1;
        let party = &parties[random.random_range(0..parties.len())];
        let new = format!("secret-{n}");
        party
            .issuer
            .change(party.path, |e| e.secrets.push(new.clone()));
        replace(daemon, &party.file(), &new);
        // An attempt that began before may take its timeout and be tried again.
        sleep(Duration::from_secs(5)).await;
        party
            .issuer
            .change(party.path, |e| e.secrets = vec![new.clone()]);
    }
    n
}

/// A good file, a bad one, and one with an upstream more, in turn.
async fn reload(daemon: &Daemon, text: &str, end: Instant) -> usize {
    let more =
        format!("{text}[upstreams.more]\nurl = \"http://127.0.0.1:9\"\ncredential = \"none\"\n");
    let bad = format!("{text}[nonsense]\n");
    let mut n = 0;
    while Instant::now() < end {
        replace(daemon, "cupbearer.toml", [&more, &bad, text][n % 3]);
        n += 1;
        sleep(Duration::from_secs(2)).await;
    }
    n
}

/// At one moment, as an editor does.
fn replace(daemon: &Daemon, name: &str, content: &str) {
    let beside = daemon.path(&format!(".{name}.new"));
    std::fs::write(&beside, content).unwrap();
    std::fs::rename(beside, daemon.path(name)).unwrap();
}

/// Bytes of memory and open descriptors, as the program itself tells them.
async fn usage(daemon: &Daemon) -> (f64, f64) {
    let metrics = daemon.admin("/metrics").await.1;
    let value = |name: &str| {
        metrics
            .lines()
            .find_map(|l| l.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
            .unwrap_or(f64::NAN)
    };
    (
        value("process_resident_memory_bytes"),
        value("process_open_fds"),
    )
}
