//! Records that are removed or set back under a running process: it counts on from what it knew.

use super::{
    accounts::{files, key, only, strict},
    *,
};

impl Told {
    /// So many attempts with secrets that were never tried before are refused until one is held.
    async fn refused_until_held(&self, first: u8) -> u8 {
        for secret in first..first + 20 {
            match self.strictly(secret).await {
                Ok(permit) => {
                    self.disk
                        .settle(permit, AttemptOutcome::Rejected, &strict())
                        .await;
                }
                Err(Denial::Latched(None)) => return secret - first,
                other => panic!("{secret}: {other:?}"),
            }
        }
        panic!("nothing holds it");
    }
}

#[tokio::test]
async fn a_count_whose_file_is_removed_under_a_running_process_goes_on() {
    let dir = folder();
    let one = ledger(&dir);
    for secret in 1..10 {
        let expected = u8::from(secret <= 2);
        if let Ok(permit) = one.strictly(secret).await {
            assert_eq!(expected, 1, "{secret}");
            // Also while an attempt is under way.
            fs::remove_file(only(&dir, "account-")).unwrap();
            one.disk
                .settle(permit, AttemptOutcome::Rejected, &strict())
                .await;
        } else {
            assert_eq!(expected, 0, "{secret}");
        }
        let account = only(&dir, "account-");
        fs::remove_file(&account).unwrap();
        assert_eq!(
            one.disk.counted(&key(secret)).await.unwrap().rejections,
            u32::from(secret.min(2))
        );
        assert!(!account.exists(), "to look at it writes nothing");
    }
    assert!(matches!(one.strictly(99).await, Err(Denial::Latched(None))));
    assert!(
        matches!(ledger(&dir).strictly(98).await, Err(Denial::Latched(None))),
        "it stands in the folder again"
    );
}

#[tokio::test]
async fn a_secret_whose_file_is_removed_under_a_running_process_stays_refused() {
    let dir = folder();
    let one = ledger(&dir);
    one.attempt(1, AttemptOutcome::Rejected).await;
    fs::remove_file(record(&dir)).unwrap();
    let permit = one.go(1).await;
    fs::remove_file(record(&dir)).unwrap();
    one.disk
        .settle(permit, AttemptOutcome::Rejected, &limits(FOREVER))
        .await;
    for kinds in [&["guard-"][..], &["account-"], &["guard-", "account-"]] {
        for file in kinds.iter().flat_map(|kind| files(&dir, kind)) {
            fs::remove_file(file).unwrap();
        }
        assert!(
            matches!(one.ask(1, FOREVER).await, Err(Denial::Latched(None))),
            "{kinds:?}"
        );
    }
    assert_eq!(one.rejections().await, 2);
}

#[tokio::test]
async fn an_older_copy_that_is_put_back_under_a_running_process_takes_nothing_away() {
    for kind in ["account-", "guard-"] {
        let dir = folder();
        let one = ledger(&dir);
        let permit = one.goes(1).await;
        one.disk
            .settle(permit, AttemptOutcome::Success, &strict())
            .await;
        let (file, older) = (only(&dir, kind), fs::read(only(&dir, kind)).unwrap());
        let permit = one.goes(1).await;
        fs::write(&file, &older).unwrap();
        one.disk
            .settle(permit, AttemptOutcome::Rejected, &strict())
            .await;
        fs::write(&file, &older).unwrap();
        assert!(
            matches!(one.strictly(1).await, Err(Denial::Latched(_))),
            "{kind}"
        );
        assert_eq!(
            one.disk.counted(&key(1)).await.unwrap().rejections,
            1,
            "{kind}: once"
        );
        assert_eq!(one.refused_until_held(2).await, 1, "{kind}");
    }
}

#[tokio::test]
async fn what_another_process_cleared_or_a_person_unlatched_is_no_loss() {
    let dir = folder();
    let (one, other) = (ledger(&dir), ledger(&dir));
    let permit = other.goes(1).await;
    one.refused(2).await;
    other
        .disk
        .settle(permit, AttemptOutcome::GivenBack, &strict())
        .await;
    let permit = other.goes(3).await;
    other
        .disk
        .settle(permit, AttemptOutcome::Success, &strict())
        .await;
    assert_eq!(
        one.disk.counted(&key(4)).await.unwrap().rejections,
        0,
        "a success is believed"
    );
    assert_eq!(one.refused_until_held(4).await, 2);
    Disk::on_behalf(dir.path().join("state"), || {})
        .clear(&key(9))
        .await;
    assert!(
        matches!(one.strictly(9).await, Err(Denial::Later(_))),
        "and so is an unlatch"
    );
}

#[tokio::test]
async fn who_removes_the_records_and_unlatches_gets_one_attempt() {
    for by_hand in [true, false] {
        let dir = folder();
        let one = ledger(&dir);
        assert_eq!(one.refused_until_held(1).await, 2);
        for file in files(&dir, "account-")
            .into_iter()
            .chain(files(&dir, "guard-"))
        {
            fs::remove_file(file).unwrap();
        }
        if by_hand {
            Disk::on_behalf(dir.path().join("state"), || {})
                .clear(&key(9))
                .await;
        } else {
            one.disk.clear(&key(9)).await;
        }
        assert!(
            matches!(one.strictly(9).await, Err(Denial::Later(_))),
            "{by_hand}: 30 s after the last refusal"
        );
        age(&dir, Duration::from_secs(31));
        one.refused(9).await;
        assert!(
            matches!(one.strictly(10).await, Err(Denial::Latched(None))),
            "{by_hand}"
        );
    }
}

#[tokio::test]
async fn an_attempt_of_another_process_is_an_unknown_outcome_where_its_record_was_removed() {
    let dir = folder();
    let (one, other) = (ledger(&dir), ledger(&dir));
    let permit = other.goes(1).await;
    one.disk.counted(&key(2)).await.unwrap();
    fs::remove_file(only(&dir, "account-")).unwrap();
    one.refused(2).await;
    assert!(
        matches!(one.strictly(3).await, Err(Denial::Latched(None))),
        "it may have been refused"
    );
    other
        .disk
        .settle(permit, AttemptOutcome::Rejected, &strict())
        .await;
    assert_eq!(
        one.disk.counted(&key(3)).await.unwrap().rejections,
        2,
        "once"
    );
}

#[tokio::test]
async fn a_budget_whose_file_is_removed_or_set_back_is_not_full_again() {
    let dir = folder();
    let one = ledger(&dir);
    let limits = LockoutPolicy {
        rate: vec![Rate {
            n: 2,
            per: Duration::from_hours(1),
        }],
        ..limits(FOREVER)
    };
    let spend = || async { one.disk.spend(&key(1), &limits, &ask("b")).await };
    let Ok(permit) = spend().await else { panic!() };
    one.disk
        .settle(permit, AttemptOutcome::Success, &limits)
        .await;
    let (file, older) = (
        only(&dir, "budget-"),
        fs::read(only(&dir, "budget-")).unwrap(),
    );
    fs::remove_file(&file).unwrap();
    let Ok(permit) = spend().await else { panic!() };
    one.disk
        .settle(permit, AttemptOutcome::Success, &limits)
        .await;
    fs::write(&file, &older).unwrap();
    assert!(matches!(spend().await, Err(Denial::OverBudget(_))));
    fs::remove_file(&file).unwrap();
    assert!(matches!(spend().await, Err(Denial::OverBudget(_))));
}
