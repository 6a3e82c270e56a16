//! The ledger on disk, told by hand and as a state machine with processes that die.

mod accounts;
mod faults;
mod removed;

use std::{
    fs, os::unix::fs::PermissionsExt, path::Path, sync::Arc, sync::atomic::AtomicUsize,
    sync::atomic::Ordering, time::Duration,
};

use proptest::prelude::*;
use tempfile::TempDir;

use super::{
    Disk,
    file::{Counts, Entry, decode, encode},
};
use crate::{
    clock::{BootInstant, BootStamp},
    token::{
        AttemptOutcome, AttemptRequest, Denial, GuardDecision, GuardKey, Hold, Ledger,
        LockoutPolicy, Rate, Reservation,
        guard::{AccountRecord, SecretRecord},
    },
};

const FOREVER: Hold = Hold::UntilSecretChanges;
const PARTITION: &str = "customer-4711";

fn folder() -> TempDir {
    // Where it can be, in memory: the tests write a lot.
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        TempDir::new_in(memory).unwrap()
    } else {
        TempDir::new().unwrap()
    }
}

fn key(secret: u8) -> GuardKey {
    GuardKey {
        url: "https://issuer.example/token".into(),
        secret: [secret; 32],
        partition: None,
        account: [secret; 32],
    }
}

fn limits(hold: Hold) -> LockoutPolicy {
    LockoutPolicy {
        rate: vec![],
        max_rejections: 2,
        hold,
        account_rejections: None,
    }
}

/// Does not wait 30 s after a refusal.
fn ask(credential: &str) -> AttemptRequest {
    AttemptRequest {
        credential: credential.into(),
        parent_renewed: true,
    }
}

struct Told {
    disk: Disk,
    errors: Arc<AtomicUsize>,
}

fn ledger(dir: &TempDir) -> Told {
    let errors = Arc::new(AtomicUsize::new(0));
    let counted = errors.clone();
    let count = move || {
        counted.fetch_add(1, Ordering::Relaxed);
    };
    Told {
        disk: Disk::new(dir.path().join("state"), count),
        errors,
    }
}

impl Told {
    async fn ask(&self, secret: u8, hold: Hold) -> GuardDecision<Reservation> {
        self.disk
            .spend(&key(secret), &limits(hold), &ask("a"))
            .await
    }
    async fn go(&self, secret: u8) -> Reservation {
        match self.ask(secret, FOREVER).await {
            Ok(permit) => permit,
            other => panic!("{other:?}"),
        }
    }
    async fn attempt(&self, secret: u8, verdict: AttemptOutcome) {
        let permit = self.go(secret).await;
        self.disk.settle(permit, verdict, &limits(FOREVER)).await;
    }
    async fn rejections(&self) -> u32 {
        self.disk.counted(&key(1)).await.unwrap().rejections
    }
}

/// As a process that is killed: nothing more is written, and its locks are gone.
fn kill(ledger: Told, permits: Vec<Reservation>) {
    for mut permit in permits {
        permit.redeem();
    }
    drop(ledger);
}

/// As if all that is written there had been written so long ago.
fn age(dir: &TempDir, d: Duration) {
    fn one<C: Counts>(file: &Path, d: Duration) {
        let mut entry: Entry<C> = decode(&fs::read(file).unwrap()).unwrap();
        let BootStamp { boot, wall, .. } = entry.noted;
        entry.noted = BootStamp {
            boot_id: "another".into(),
            boot,
            wall: wall.saturating_sub(d),
        };
        fs::write(file, encode(&entry).unwrap()).unwrap();
    }
    for file in fs::read_dir(dir.path().join("state"))
        .unwrap()
        .map(|f| f.unwrap().path())
    {
        let name = file.file_name().unwrap().to_str().unwrap();
        if name.starts_with(SecretRecord::KIND) {
            one::<SecretRecord>(&file, d);
        } else if name.starts_with(AccountRecord::KIND) {
            one::<AccountRecord>(&file, d);
        }
    }
}

/// The only record in the folder.
fn record(dir: &TempDir) -> std::path::PathBuf {
    let files = fs::read_dir(dir.path().join("state"))
        .unwrap()
        .map(|f| f.unwrap().path());
    files
        .filter(|f| {
            f.file_name()
                .unwrap()
                .to_str()
                .unwrap()
                .starts_with("guard-")
        })
        .collect::<Vec<_>>()
        .pop()
        .unwrap()
}

#[tokio::test]
async fn a_latch_outlives_the_process_and_a_changed_secret_opens_it_at_once() {
    let dir = folder();
    let first = ledger(&dir);
    first.attempt(1, AttemptOutcome::Rejected).await;
    first.attempt(1, AttemptOutcome::Rejected).await;
    kill(first, vec![]);
    let second = ledger(&dir);
    assert!(matches!(
        second.ask(1, FOREVER).await,
        Err(Denial::Latched(None))
    ));
    assert_eq!(
        second.disk.counted(&key(1)).await.unwrap().latched,
        Some(None)
    );
    second.attempt(2, AttemptOutcome::Success).await;
    second.disk.clear(&key(1)).await;
    assert!(
        matches!(second.ask(1, FOREVER).await, Err(Denial::Later(_))),
        "one attempt, 30 s after the last refusal"
    );
    kill(second, vec![]);
    age(&dir, Duration::from_secs(31));
    ledger(&dir).attempt(1, AttemptOutcome::Success).await;
}

#[tokio::test]
async fn a_success_clears_what_was_refused_before_the_restart() {
    let dir = folder();
    ledger(&dir).attempt(1, AttemptOutcome::Rejected).await;
    let second = ledger(&dir);
    assert_eq!(second.rejections().await, 1);
    second.attempt(1, AttemptOutcome::Success).await;
    assert_eq!(ledger(&dir).rejections().await, 0);
}

#[tokio::test]
async fn an_attempt_of_a_living_process_is_under_way_and_of_a_dead_one_it_counts() {
    let dir = folder();
    let (one, other) = (ledger(&dir), ledger(&dir));
    let permits = vec![one.go(1).await, one.go(1).await];
    assert!(matches!(other.ask(1, FOREVER).await, Err(Denial::Busy)));
    assert_eq!(other.rejections().await, 0);
    kill(one, permits);
    assert!(
        matches!(other.ask(1, FOREVER).await, Err(Denial::Latched(None))),
        "two unknown outcomes"
    );
    assert_eq!(other.rejections().await, 2);
    let lenient = limits(Hold::For(Duration::from_mins(1)));
    assert!(
        matches!(
            other.disk.spend(&key(1), &lenient, &ask("b")).await,
            Err(Denial::Latched(None))
        ),
        "the strictest of those who share it decides"
    );
}

#[tokio::test]
async fn a_permit_that_is_dropped_is_an_unknown_outcome_also_for_others() {
    let dir = folder();
    let (one, other) = (ledger(&dir), ledger(&dir));
    let freed = one.disk.freed();
    drop(one.go(1).await);
    tokio::time::timeout(Duration::from_secs(10), freed)
        .await
        .unwrap();
    assert_eq!(other.rejections().await, 1);
}

#[tokio::test]
async fn who_waits_for_a_turn_hears_of_what_another_process_settled() {
    let dir = folder();
    let (one, other) = (ledger(&dir), ledger(&dir));
    let (first, second) = (one.go(1).await, one.go(1).await);
    let freed = other.disk.freed();
    assert!(matches!(other.ask(1, FOREVER).await, Err(Denial::Busy)));
    one.disk
        .settle(first, AttemptOutcome::Success, &limits(FOREVER))
        .await;
    tokio::time::timeout(Duration::from_secs(10), freed)
        .await
        .unwrap();
    assert!(other.ask(1, FOREVER).await.is_ok());
    drop(second);
}

#[tokio::test]
async fn the_budget_is_shared_and_outlives_the_process() {
    let dir = folder();
    let limits = LockoutPolicy {
        rate: vec![Rate {
            n: 2,
            per: Duration::from_hours(1),
        }],
        ..limits(FOREVER)
    };
    for _ in 0..2 {
        let one = ledger(&dir);
        let Ok(permit) = one.disk.spend(&key(1), &limits, &ask("a")).await else {
            panic!()
        };
        one.disk
            .settle(permit, AttemptOutcome::Success, &limits)
            .await;
    }
    let last = ledger(&dir);
    assert!(matches!(
        last.disk.spend(&key(1), &limits, &ask("a")).await,
        Err(Denial::OverBudget(_))
    ));
    assert!(
        last.disk.spend(&key(1), &limits, &ask("b")).await.is_ok(),
        "it is the credential's own"
    );
    for file in fs::read_dir(dir.path().join("state"))
        .unwrap()
        .map(|f| f.unwrap().path())
    {
        if file
            .file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .starts_with("budget-")
        {
            fs::write(file, "{}").unwrap();
        }
    }
    assert!(
        matches!(
            last.disk.spend(&key(2), &limits, &ask("b")).await,
            Err(Denial::OverBudget(_))
        ),
        "a damaged budget starts empty"
    );
}

#[tokio::test]
async fn moments_are_carried_over_a_reboot_by_the_wall_clock() {
    let dir = folder();
    let hold = Hold::For(Duration::from_hours(1));
    let one = ledger(&dir);
    for _ in 0..2 {
        let Ok(permit) = one.ask(1, hold).await else {
            panic!()
        };
        one.disk
            .settle(permit, AttemptOutcome::Rejected, &limits(hold))
            .await;
    }
    kill(one, vec![]);
    let file = record(&dir);
    // It was written 50 minutes ago, in another boot that had lasted much longer than this one.
    let mut entry: Entry = decode(&fs::read(&file).unwrap()).unwrap();
    let shift = Duration::from_hours(5000);
    entry.record.carry(|t| t.after(shift));
    let BootStamp { boot, wall, .. } = entry.noted;
    entry.noted = BootStamp {
        boot_id: "another".into(),
        boot: boot.after(shift),
        wall: wall.saturating_sub(Duration::from_mins(50)),
    };
    fs::write(&file, encode(&entry).unwrap()).unwrap();
    let Err(Denial::Latched(Some(until))) = ledger(&dir).ask(1, hold).await else {
        panic!()
    };
    let left = BootInstant::now().until(until);
    assert!(left < Duration::from_mins(60), "{left:?}");
    // Where this machine has not been up for 50 minutes, "before the boot" is all that can be said:
    // the hold is then longer, never shorter.
    let least = Duration::from_mins(60)
        .saturating_sub(BootInstant::now().since_boot())
        .max(Duration::from_mins(10))
        .saturating_sub(Duration::from_mins(1));
    assert!(left >= least, "{left:?}");
}

#[tokio::test]
async fn nothing_in_the_folder_is_for_others_or_tells_a_secret() {
    let dir = folder();
    let one = ledger(&dir);
    let key = GuardKey {
        partition: Some(PARTITION.into()),
        ..key(1)
    };
    let Ok(permit) = one.disk.spend(&key, &limits(FOREVER), &ask("a")).await else {
        panic!()
    };
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let state = dir.path().join("state");
    assert_eq!(mode(&state), 0o700);
    let files: Vec<_> = fs::read_dir(&state)
        .unwrap()
        .map(|f| f.unwrap().path())
        .collect();
    assert!(files.len() >= 4, "{files:?}");
    for file in files {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
        let text = format!("{} {}", file.display(), fs::read_to_string(&file).unwrap());
        let hash = crate::hash::hex(&[1; 32]);
        for told in ["issuer.example", PARTITION, &hash, &hash[..16]] {
            assert!(!text.contains(told), "{text}");
        }
    }
    one.disk
        .settle(permit, AttemptOutcome::Success, &limits(FOREVER))
        .await;
}

#[tokio::test]
async fn a_lost_salt_is_found_again_in_the_records_and_where_there_are_none_said() {
    let dir = folder();
    let (one, salt) = (ledger(&dir), dir.path().join("state/salt"));
    one.attempt(1, AttemptOutcome::Rejected).await;
    let before = fs::read(&salt).unwrap();
    for damage in [None, Some("damage")] {
        fs::remove_file(&salt).unwrap();
        if let Some(text) = damage {
            fs::write(&salt, text).unwrap();
        }
        assert_eq!(one.rejections().await, 1, "while it runs");
        fs::remove_file(&salt).unwrap();
        if let Some(text) = damage {
            fs::write(&salt, text).unwrap();
        }
        assert_eq!(ledger(&dir).rejections().await, 1, "at a start");
        assert_eq!(fs::read(&salt).unwrap(), before);
    }
    fs::remove_file(&salt).unwrap();
    fs::write(record(&dir), "damage").unwrap();
    let two = ledger(&dir);
    assert!(matches!(two.ask(1, FOREVER).await, Err(Denial::NoMemory)));
    two.disk.clear(&key(1)).await;
    assert!(two.ask(1, FOREVER).await.is_ok());
}

#[tokio::test]
async fn a_folder_that_is_emptied_under_a_running_program_is_not_believed() {
    let dir = folder();
    let one = ledger(&dir);
    one.attempt(1, AttemptOutcome::Rejected).await;
    fs::remove_dir_all(dir.path().join("state")).unwrap();
    assert!(matches!(one.ask(1, FOREVER).await, Err(Denial::NoMemory)));
    fs::create_dir(dir.path().join("state")).unwrap();
    assert!(matches!(one.ask(1, FOREVER).await, Err(Denial::NoMemory)));
    one.disk.clear(&key(1)).await;
    one.attempt(1, AttemptOutcome::Success).await;
}

#[tokio::test]
async fn an_outcome_that_cannot_be_written_is_kept_for_later_and_counted_meanwhile() {
    let dir = folder();
    let one = ledger(&dir);
    let permit = one.go(1).await;
    let (state, aside) = (dir.path().join("state"), dir.path().join("aside"));
    fs::rename(&state, &aside).unwrap();
    one.disk
        .settle(permit, AttemptOutcome::Rejected, &limits(FOREVER))
        .await;
    assert!(one.errors.load(Ordering::Relaxed) > 0);
    assert!(matches!(one.ask(1, FOREVER).await, Err(Denial::NoMemory)));
    fs::rename(&aside, &state).unwrap();
    assert_eq!(one.rejections().await, 1);
    one.attempt(1, AttemptOutcome::Rejected).await;
    assert!(matches!(
        ledger(&dir).ask(1, FOREVER).await,
        Err(Denial::Latched(None))
    ));
}

#[tokio::test]
async fn without_the_folder_a_short_hold_is_counted_in_memory() {
    let dir = folder();
    fs::write(dir.path().join("state"), "a file").unwrap();
    let (one, hold) = (ledger(&dir), Hold::For(Duration::from_mins(1)));
    assert!(matches!(one.ask(1, FOREVER).await, Err(Denial::NoMemory)));
    for _ in 0..2 {
        let Ok(permit) = one.ask(1, hold).await else {
            panic!()
        };
        one.disk
            .settle(permit, AttemptOutcome::Rejected, &limits(hold))
            .await;
    }
    fs::remove_file(dir.path().join("state")).unwrap();
    assert!(
        matches!(one.ask(1, hold).await, Err(Denial::Latched(Some(_)))),
        "also when the folder is there again"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]
    #[test]
    fn any_bytes_are_a_record_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(decode::<Entry>(&bytes).is_err());
        prop_assert!(decode::<Entry>(&encode(&String::from_utf8_lossy(&bytes)).unwrap()).is_err());
    }

    /// Damage is noticed; and where the checksum is right, hostile figures do no harm.
    #[test]
    fn a_byte_that_changed_is_noticed_and_absurd_figures_are_borne(at in any::<usize>(), to in any::<u8>(), figure in any::<u64>(), which in 0..40usize) {
        let stamp = BootStamp::now();
        let mut entry: Entry = Entry::new("x", "y".into(), &stamp);
        for id in 1..4 {
            let _ = entry.record.decide(Some("p"), &limits(Hold::For(Duration::from_secs(9))), &ask("a"), stamp.boot);
            entry.record.spend(Some("p"), id, stamp.boot);
            entry.owners.insert(id, "0".into());
        }
        entry.record.settle(Some("p"), 1, AttemptOutcome::Rejected, stamp.boot);
        let good = encode(&entry).unwrap();
        prop_assert_eq!(decode::<Entry>(&good).unwrap(), entry.clone());
        let mut bad = good.clone();
        let at = at % bad.len();
        bad[at] = to;
        prop_assert!(bad == good || decode::<Entry>(&bad).map_or(true, |read| read == entry));

        let text = serde_json::to_string(&entry).unwrap();
        let figures: Vec<_> = text.match_indices(|c: char| c.is_ascii_digit()).map(|(i, _)| i).collect();
        let i = figures[which % figures.len()];
        let absurd = format!("{}{figure}{}", &text[..i], &text[i + 1..]);
        if let Ok(mut read) = serde_json::from_str::<Entry>(&absurd) {
            read.bring_up(&BootStamp { boot_id: "another".into(), ..stamp.clone() }, |_| false);
            let _ = read.record.decide(Some("p"), &limits(FOREVER), &ask("b"), stamp.boot);
            read.record.settle(Some("p"), 2, AttemptOutcome::Success, stamp.boot);
            let _ = (read.is_stale(&stamp, &stamp), read.record.status(Some("p"), stamp.boot));
        }
    }
}
