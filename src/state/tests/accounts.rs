//! The account's file beside the secret's: whatever is cut off, damaged or of another release, no
//! refusal is forgotten.

use super::*;

const BUDGET: Option<u32> = Some(2);

/// All secrets here are one client's.
pub(super) fn key(secret: u8) -> GuardKey {
    GuardKey {
        account: [9; 32],
        ..super::key(secret)
    }
}

/// One attempt a value, two refusals an account.
pub(super) fn strict() -> LockoutPolicy {
    LockoutPolicy {
        rate: vec![],
        max_rejections: 1,
        hold: Hold::For(Duration::from_hours(1)),
        account_rejections: BUDGET,
    }
}

impl Told {
    pub(super) async fn strictly(&self, secret: u8) -> GuardDecision<Reservation> {
        self.disk
            .spend(&key(secret), &strict(), &ask("strict"))
            .await
    }
    pub(super) async fn goes(&self, secret: u8) -> Reservation {
        match self.strictly(secret).await {
            Ok(permit) => permit,
            other => panic!("{secret}: {other:?}"),
        }
    }
    pub(super) async fn refused(&self, secret: u8) {
        let permit = self.goes(secret).await;
        self.disk
            .settle(permit, AttemptOutcome::Rejected, &strict())
            .await;
    }
}

pub(super) fn files(dir: &TempDir, kind: &str) -> Vec<std::path::PathBuf> {
    let all = fs::read_dir(dir.path().join("state"))
        .unwrap()
        .map(|f| f.unwrap().path());
    all.filter(|f| f.file_name().unwrap().to_str().unwrap().starts_with(kind))
        .collect()
}

pub(super) fn only(dir: &TempDir, kind: &str) -> std::path::PathBuf {
    let [one] = <[_; 1]>::try_from(files(dir, kind)).unwrap();
    one
}

#[tokio::test]
async fn a_stream_of_wrong_secrets_makes_two_attempts_over_restarts_and_processes() {
    let dir = folder();
    for secret in 1..20 {
        let (one, other) = (ledger(&dir), ledger(&dir));
        match one.strictly(secret).await {
            Ok(permit) if secret <= 2 => {
                one.disk
                    .settle(permit, AttemptOutcome::Rejected, &strict())
                    .await;
            }
            Err(Denial::Latched(None)) if secret > 2 => {}
            answer => panic!("{secret}: {answer:?}"),
        }
        assert!(matches!(
            other.strictly(secret).await,
            Err(Denial::Latched(_))
        ));
        let counted = other.disk.counted(&key(secret)).await.unwrap();
        assert_eq!(
            (counted.rejections, counted.latched.is_some()),
            (u32::from(secret.min(2)), true),
            "{secret}"
        );
    }
    age(&dir, Duration::from_hours(1000));
    assert!(matches!(
        ledger(&dir).strictly(99).await,
        Err(Denial::Latched(None))
    ));
}

#[tokio::test]
async fn two_processes_with_a_hundred_secrets_at_once_send_no_more_than_two() {
    let dir = folder();
    let processes: Vec<_> = (0..2).map(|_| Arc::new(ledger(&dir))).collect();
    let mut crowd = tokio::task::JoinSet::new();
    for secret in 0..100u8 {
        let told = processes[usize::from(secret % 2)].clone();
        crowd.spawn(async move {
            let Ok(permit) = told.strictly(secret).await else {
                return 0;
            };
            tokio::task::yield_now().await;
            told.disk
                .settle(permit, AttemptOutcome::Rejected, &strict())
                .await;
            1
        });
    }
    assert_eq!(crowd.join_all().await.iter().sum::<i32>(), 2);
}

#[tokio::test]
async fn a_kill_between_the_two_files_forgets_no_refusal() {
    // Told the outcome, killed when the account's file was written and the secret's was not.
    let dir = folder();
    let one = ledger(&dir);
    let permit = one.goes(1).await;
    let (file, before) = (
        only(&dir, "guard-"),
        fs::read(only(&dir, "guard-")).unwrap(),
    );
    one.disk
        .settle(permit, AttemptOutcome::Rejected, &strict())
        .await;
    fs::write(&file, &before).unwrap();
    kill(one, vec![]);
    let two = ledger(&dir);
    assert_eq!(
        two.disk.counted(&key(1)).await.unwrap().rejections,
        1,
        "once, and not once more as an unknown outcome"
    );
    two.refused(2).await;
    assert!(matches!(two.strictly(3).await, Err(Denial::Latched(None))));
    // The same with the attempt: written down for the account, and never made.
    let dir = folder();
    let one = ledger(&dir);
    one.goes(1).await.redeem();
    fs::remove_file(only(&dir, "guard-")).unwrap();
    kill(one, vec![]);
    let two = ledger(&dir);
    assert_eq!(
        two.disk.counted(&key(1)).await.unwrap().rejections,
        1,
        "an unknown outcome at worst"
    );
    two.refused(2).await;
    assert!(matches!(two.strictly(3).await, Err(Denial::Latched(None))));
}

#[tokio::test]
async fn a_crash_loop_with_a_wrong_secret_leaves_two_attempts_and_then_one_each_15_minutes() {
    let dir = folder();
    for _ in 0..2 {
        let one = ledger(&dir);
        let permit = one.goes(1).await;
        kill(one, vec![permit]);
    }
    let Err(Denial::Latched(Some(until))) = ledger(&dir).strictly(1).await else {
        panic!("it is not held")
    };
    let left = BootInstant::now().until(until);
    assert!(
        (Duration::from_mins(14)..=Duration::from_mins(15)).contains(&left),
        "{left:?}"
    );
    assert!(
        matches!(
            ledger(&dir).strictly(2).await,
            Err(Denial::Latched(Some(_)))
        ),
        "another secret is another attempt"
    );
    age(&dir, Duration::from_mins(15));
    let one = ledger(&dir);
    let permit = one.goes(1).await;
    assert!(matches!(one.strictly(1).await, Err(Denial::Busy)));
    one.disk
        .settle(permit, AttemptOutcome::Rejected, &strict())
        .await;
    age(&dir, Duration::from_hours(100));
    assert!(matches!(
        ledger(&dir).strictly(1).await,
        Err(Denial::Latched(None))
    ));
}

#[tokio::test]
async fn an_unlatch_without_a_running_program_is_one_attempt_and_is_seen_by_one_that_runs() {
    let dir = folder();
    let running = ledger(&dir);
    running.refused(1).await;
    running.refused(2).await;
    let freed = running.disk.freed();
    assert!(matches!(
        running.strictly(3).await,
        Err(Denial::Latched(None))
    ));
    let hand = Disk::on_behalf(dir.path().join("state"), || {});
    for _ in 0..9 {
        hand.clear(&key(3)).await;
    }
    tokio::time::timeout(Duration::from_secs(10), freed)
        .await
        .unwrap();
    let counted = running.disk.counted(&key(3)).await.unwrap();
    assert!(
        counted.latched.is_none()
            && counted
                .later
                .is_some_and(|t| BootInstant::now().until(t) > Duration::from_secs(25)),
        "{counted:?}"
    );
    assert!(matches!(running.strictly(3).await, Err(Denial::Later(_))));
    age(&dir, Duration::from_secs(31));
    running.refused(3).await;
    assert!(matches!(
        running.strictly(4).await,
        Err(Denial::Latched(None))
    ));
    let nowhere = Disk::on_behalf(dir.path().join("nowhere"), || {});
    nowhere.clear(&key(3)).await;
    assert!(
        nowhere
            .counted(&key(3))
            .await
            .is_none_or(|counted| counted.latched.is_none())
    );
}

/// As that release wrote it: no account, and nothing of what is new in the records.
fn as_before_accounts(dir: &TempDir) {
    for file in files(dir, "account-") {
        fs::remove_file(file).unwrap();
    }
    for file in files(dir, "guard-") {
        let entry: Entry = decode(&fs::read(&file).unwrap()).unwrap();
        let mut old = serde_json::to_value(&entry).unwrap();
        let record = old["record"].as_object_mut().unwrap();
        for key in ["accepted", "unknown_elsewhere", "in_account"] {
            assert!(record.remove(key).is_some(), "{key}");
        }
        assert!(
            record["secret"]
                .as_object_mut()
                .unwrap()
                .remove("leave")
                .is_some()
        );
        fs::write(&file, encode(&old).unwrap()).unwrap();
    }
}

/// A folder in which the release before wrote these outcomes, one after the other.
async fn of_the_release_before(outcomes: &[(&str, u8, AttemptOutcome)]) -> TempDir {
    let dir = folder();
    let one = ledger(&dir);
    for (credential, secret, verdict) in outcomes {
        let Ok(permit) = one
            .disk
            .spend(&key(*secret), &limits(FOREVER), &ask(credential))
            .await
        else {
            panic!("{secret}")
        };
        one.disk.settle(permit, *verdict, &limits(FOREVER)).await;
    }
    kill(one, vec![]);
    as_before_accounts(&dir);
    dir
}

#[tokio::test]
async fn an_upgrade_together_with_a_changed_secret_begins_with_what_the_others_of_the_credential_were_refused()
 {
    use AttemptOutcome::Rejected;
    let dir = of_the_release_before(&[("strict", 1, Rejected), ("strict", 1, Rejected)]).await;
    assert!(matches!(
        ledger(&dir).strictly(2).await,
        Err(Denial::Latched(None))
    ));
    let dir = of_the_release_before(&[("strict", 1, Rejected)]).await;
    let two = ledger(&dir);
    two.refused(2).await;
    for secret in [3, 1, 2] {
        assert!(
            matches!(two.strictly(secret).await, Err(Denial::Latched(None))),
            "{secret}"
        );
    }
    assert_eq!(
        two.disk.counted(&key(1)).await.unwrap().rejections,
        2,
        "each once"
    );
}

#[tokio::test]
async fn an_upgrade_does_not_begin_with_what_is_over_or_was_another_credential_s() {
    use AttemptOutcome::{Rejected, Success};
    let dir = of_the_release_before(&[
        ("strict", 1, Rejected),
        ("strict", 1, Rejected),
        ("strict", 2, Success),
    ])
    .await;
    let two = ledger(&dir);
    let permit = two.goes(2).await;
    assert!(
        matches!(two.strictly(1).await, Err(Denial::Latched(_))),
        "the value itself"
    );
    two.disk.settle(permit, Success, &strict()).await;
    assert!(matches!(two.strictly(1).await, Err(Denial::Latched(_))));
    two.goes(2).await;
    let dir = of_the_release_before(&[("other", 1, Rejected), ("other", 1, Rejected)]).await;
    ledger(&dir).refused(2).await;
}

#[tokio::test]
async fn a_record_of_the_release_before_does_not_undo_a_later_success() {
    let dir = of_the_release_before(&[
        ("other", 1, AttemptOutcome::Rejected),
        ("other", 1, AttemptOutcome::Rejected),
    ])
    .await;
    let two = ledger(&dir);
    let permit = two.goes(2).await;
    two.disk
        .settle(permit, AttemptOutcome::Success, &strict())
        .await;
    assert!(
        matches!(two.strictly(1).await, Err(Denial::Latched(_))),
        "the value itself"
    );
    two.goes(2).await;
}

#[tokio::test]
async fn a_flood_of_wrong_secrets_does_not_make_an_attempt_under_way_forgotten() {
    let dir = folder();
    let one = ledger(&dir);
    let permit = one.go(1).await;
    for n in 0..200u8 {
        let key = GuardKey {
            url: n.to_string(),
            account: [n; 32],
            ..key(2)
        };
        let Ok(wrong) = one.disk.spend(&key, &limits(FOREVER), &ask("a")).await else {
            panic!("{n}")
        };
        one.disk
            .settle(wrong, AttemptOutcome::Rejected, &limits(FOREVER))
            .await;
    }
    assert!(files(&dir, "guard-").len() < 100);
    one.disk
        .settle(permit, AttemptOutcome::Rejected, &limits(FOREVER))
        .await;
    assert_eq!(one.rejections().await, 1);
}

#[tokio::test]
async fn records_of_the_release_before_are_read_and_what_they_counted_is_taken_over() {
    for (refused, answer) in [(2, "Latched(None)"), (1, "Latched(Some")] {
        let dir = folder();
        let one = ledger(&dir);
        for _ in 0..refused {
            let Ok(permit) = one
                .disk
                .spend(&key(1), &limits(FOREVER), &ask("strict"))
                .await
            else {
                panic!()
            };
            one.disk
                .settle(permit, AttemptOutcome::Rejected, &limits(FOREVER))
                .await;
        }
        kill(one, vec![]);
        as_before_accounts(&dir);
        let two = ledger(&dir);
        let told = format!("{:?}", two.strictly(1).await.unwrap_err());
        assert!(told.starts_with(answer), "{told}");
        assert_eq!(two.disk.counted(&key(1)).await.unwrap().rejections, refused);
        if refused == 1 {
            two.refused(2).await;
            assert!(
                matches!(two.strictly(3).await, Err(Denial::Latched(None))),
                "one before and one after the new release"
            );
        }
    }
}

#[tokio::test]
async fn a_damaged_account_stops_its_calls_and_an_unlatch_lets_one_through() {
    for newer in [false, true] {
        let dir = folder();
        let one = ledger(&dir);
        one.refused(1).await;
        let file = only(&dir, "account-");
        let text = fs::read_to_string(&file).unwrap();
        let text = if newer {
            text.replacen("\"version\":1", "\"version\":2", 1)
        } else {
            text.replacen("rejected", "rejectet", 1)
        };
        fs::write(&file, &text).unwrap();
        assert!(
            matches!(one.strictly(2).await, Err(Denial::NoMemory)),
            "{newer}"
        );
        assert!(
            matches!(
                one.disk
                    .spend(&key(2), &limits(FOREVER), &ask("other"))
                    .await,
                Err(Denial::NoMemory)
            ),
            "nor who shares it"
        );
        one.disk.clear(&key(2)).await;
        one.refused(2).await;
        assert!(
            matches!(one.strictly(3).await, Err(Denial::Latched(None))),
            "one attempt"
        );
        let aside: Vec<_> = files(&dir, "account-")
            .into_iter()
            .filter(|f| *f != file)
            .collect();
        if newer {
            let [aside] = &aside[..] else {
                panic!("{aside:?}")
            };
            assert_eq!(
                fs::read_to_string(aside).unwrap(),
                text,
                "kept for the release that wrote it"
            );
        } else {
            assert!(aside.is_empty());
        }
    }
}

#[tokio::test]
async fn without_the_folder_nobody_who_shares_a_strict_account_makes_a_call() {
    let dir = folder();
    fs::write(dir.path().join("state"), "a file").unwrap();
    let one = ledger(&dir);
    assert!(matches!(one.strictly(1).await, Err(Denial::NoMemory)));
    let hour = Hold::For(Duration::from_hours(1));
    assert!(
        matches!(
            one.disk.spend(&key(2), &limits(hour), &ask("a")).await,
            Err(Denial::NoMemory)
        ),
        "its budget is the strict one's too"
    );
    let elsewhere = GuardKey {
        account: [7; 32],
        ..key(2)
    };
    assert!(
        one.disk
            .spend(&elsewhere, &limits(hour), &ask("a"))
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn ten_thousand_secrets_leave_a_bounded_number_of_files_and_none_of_a_refusal_goes_first() {
    let dir = folder();
    let one = ledger(&dir);
    one.disk
        .settle(one.go(1).await, AttemptOutcome::Rejected, &limits(FOREVER))
        .await;
    let secret = |n: u32| GuardKey {
        secret: std::array::from_fn(|i| n.to_be_bytes().get(i).copied().unwrap_or(9)),
        ..key(0)
    };
    for n in 0..400 {
        let Ok(permit) = one
            .disk
            .spend(&secret(n), &limits(FOREVER), &ask("a"))
            .await
        else {
            panic!("{n}")
        };
        one.disk
            .settle(permit, AttemptOutcome::GivenBack, &limits(FOREVER))
            .await;
    }
    let left = files(&dir, "guard-").len();
    assert!((10..=64 + 16).contains(&left), "{left}");
    assert_eq!(one.rejections().await, 1);
}
