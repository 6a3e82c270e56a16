//! A folder that fails at the worst moment: no attempt is lost in it, none is counted twice, and no
//! latch is opened by it.

use super::{super::folder::Folder, *};

#[tokio::test]
async fn an_attempt_that_could_not_be_brought_to_the_disk_was_never_made() {
    let dir = folder();
    let one = ledger(&dir);
    one.attempt(1, AttemptOutcome::Success).await;
    one.disk.sicken(true);
    for _ in 0..3 {
        assert!(matches!(one.ask(1, FOREVER).await, Err(Denial::NoMemory)));
    }
    one.disk.sicken(false);
    let permits = vec![one.go(1).await, one.go(1).await];
    for permit in permits {
        one.disk
            .settle(permit, AttemptOutcome::GivenBack, &limits(FOREVER))
            .await;
    }
    one.disk.sicken(true);
    assert!(matches!(one.ask(1, FOREVER).await, Err(Denial::NoMemory)));
    kill(one, vec![]);
    let two = ledger(&dir);
    assert_eq!(two.rejections().await, 0, "after a restart");
    kill(two, vec![]);
}

#[tokio::test]
async fn a_refusal_that_is_written_but_not_yet_on_the_disk_counts_once() {
    let dir = folder();
    let one = ledger(&dir);
    let permit = one.go(1).await;
    one.disk.sicken(true);
    one.disk
        .settle(permit, AttemptOutcome::Rejected, &limits(FOREVER))
        .await;
    assert_eq!(one.rejections().await, 1);
    one.disk.sicken(false);
    let permit = one.go(1).await;
    assert_eq!(one.rejections().await, 1);
    one.disk
        .settle(permit, AttemptOutcome::GivenBack, &limits(FOREVER))
        .await;
    assert_eq!(ledger(&dir).rejections().await, 1);
}

#[tokio::test]
async fn a_latch_that_was_opened_by_hand_stays_open_though_the_disk_failed() {
    let dir = folder();
    let one = ledger(&dir);
    one.attempt(1, AttemptOutcome::Rejected).await;
    one.attempt(1, AttemptOutcome::Rejected).await;
    one.disk.sicken(true);
    one.disk.clear(&key(1)).await;
    one.disk.sicken(false);
    age(&dir, Duration::from_secs(31));
    drop(one.go(1).await);
}

/// Puts the folder out of reach, and back again.
struct Away<'a>(&'a TempDir);

impl<'a> Away<'a> {
    fn from(dir: &'a TempDir) -> Self {
        fs::rename(dir.path().join("state"), dir.path().join("aside")).unwrap();
        fs::write(dir.path().join("state"), "a file").unwrap();
        Self(dir)
    }
}

impl Drop for Away<'_> {
    fn drop(&mut self) {
        fs::remove_file(self.0.path().join("state")).unwrap();
        fs::rename(self.0.path().join("aside"), self.0.path().join("state")).unwrap();
    }
}

const HOUR: Hold = Hold::For(Duration::from_hours(1));

impl Told {
    /// With a hold of an hour.
    async fn tries(&self, key: &GuardKey, verdict: AttemptOutcome) {
        let Ok(permit) = self.disk.spend(key, &limits(HOUR), &ask("a")).await else {
            panic!("{verdict:?}")
        };
        self.disk.settle(permit, verdict, &limits(HOUR)).await;
    }
    async fn is_latched(&self, key: &GuardKey) -> bool {
        let latched = matches!(
            self.disk.spend(key, &limits(HOUR), &ask("a")).await,
            Err(Denial::Latched(Some(_)))
        );
        assert_eq!(
            latched,
            self.disk
                .counted(key)
                .await
                .is_some_and(|counted| counted.latched.is_some())
        );
        latched
    }
}

#[tokio::test]
async fn without_the_folder_what_was_last_read_there_is_counted_on_from() {
    let dir = folder();
    let one = ledger(&dir);
    one.tries(&key(1), AttemptOutcome::Rejected).await;
    one.tries(&key(1), AttemptOutcome::Rejected).await;
    one.tries(&key(2), AttemptOutcome::Rejected).await;
    one.tries(&key(3), AttemptOutcome::Rejected).await;
    let Ok(under_way) = one.ask(3, HOUR).await else {
        panic!()
    };
    let away = Away::from(&dir);
    assert!(one.is_latched(&key(1)).await, "it was latched before");
    one.tries(&key(2), AttemptOutcome::Rejected).await;
    assert!(one.is_latched(&key(2)).await, "once there, once in memory");
    assert!(
        matches!(one.ask(3, HOUR).await, Err(Denial::Busy)),
        "the last one is under way"
    );
    one.disk
        .settle(under_way, AttemptOutcome::Rejected, &limits(HOUR))
        .await;
    assert!(
        one.is_latched(&key(3)).await,
        "an outcome that is not written yet"
    );
    assert_eq!(
        one.disk.counted(&key(9)).await,
        None,
        "nothing is known of it"
    );
    drop(away);
    assert!(one.is_latched(&key(2)).await && one.is_latched(&key(3)).await);
}

#[tokio::test]
async fn without_the_folder_a_partition_is_held_alone_as_before() {
    let dir = folder();
    let one = ledger(&dir);
    let [x, y] = ["x", "y"].map(|p| GuardKey {
        partition: Some(p.into()),
        ..key(1)
    });
    one.tries(&x, AttemptOutcome::Success).await;
    one.tries(&x, AttemptOutcome::RejectedPartition).await;
    one.tries(&x, AttemptOutcome::RejectedPartition).await;
    one.tries(&y, AttemptOutcome::RejectedPartition).await;
    let _away = Away::from(&dir);
    assert!(one.is_latched(&x).await);
    one.tries(&y, AttemptOutcome::RejectedPartition).await;
    assert!(one.is_latched(&y).await);
    one.tries(
        &GuardKey {
            partition: Some("z".into()),
            ..key(1)
        },
        AttemptOutcome::Success,
    )
    .await;
}

#[tokio::test]
async fn without_the_folder_one_whom_only_a_new_secret_unlatches_binds_all_who_share_the_secret() {
    for known in [true, false] {
        let dir = folder();
        let one = ledger(&dir);
        let strict = || async {
            one.disk
                .spend(&key(1), &limits(FOREVER), &ask("strict"))
                .await
        };
        if known && let Ok(permit) = strict().await {
            one.disk
                .settle(permit, AttemptOutcome::GivenBack, &limits(FOREVER))
                .await;
        } else {
            fs::create_dir(dir.path().join("state")).unwrap();
        }
        let _away = Away::from(&dir);
        if !known {
            assert!(matches!(strict().await, Err(Denial::NoMemory)));
            assert!(
                one.disk.counted(&key(2)).await.is_none(),
                "nothing is known"
            );
        }
        assert!(
            matches!(one.ask(1, HOUR).await, Err(Denial::NoMemory)),
            "{known}"
        );
        assert!(one.ask(2, HOUR).await.is_ok());
    }
}

#[tokio::test]
async fn an_owner_of_whom_it_cannot_be_told_whether_he_lives_is_not_taken_for_dead() {
    let dir = folder();
    let one = ledger(&dir);
    let permit = one.go(1).await;
    let state = dir.path().join("state");
    let owner = fs::read_dir(&state)
        .unwrap()
        .map(|f| f.unwrap().path())
        .find(|f| f.to_str().unwrap().contains("owner-"))
        .unwrap();
    // A symbolic link is not followed, which fails as want of file descriptors does.
    fs::rename(&owner, dir.path().join("owner")).unwrap();
    std::os::unix::fs::symlink(dir.path().join("owner"), &owner).unwrap();
    let other = ledger(&dir);
    assert_eq!(other.rejections().await, 0, "its attempt is under way");
    assert!(owner.is_symlink(), "and its file still there");
    one.disk
        .settle(permit, AttemptOutcome::GivenBack, &limits(FOREVER))
        .await;
}

#[tokio::test]
async fn who_waits_for_a_turn_asks_the_disk_on_no_thread_of_the_runtime() {
    let dir = folder();
    let (one, other) = (ledger(&dir), ledger(&dir));
    let (first, _second) = (one.go(1).await, one.go(1).await);
    let freed = other.disk.freed();
    assert!(matches!(other.ask(1, FOREVER).await, Err(Denial::Busy)));
    one.disk
        .settle(first, AttemptOutcome::Success, &limits(FOREVER))
        .await;
    tokio::time::timeout(Duration::from_secs(10), freed)
        .await
        .unwrap();
    let lookers = other.disk.lookers();
    assert!(!lookers.is_empty() && !lookers.contains(&std::thread::current().id()));
}

/// How many descriptors of this process lead to the file that has this name now.
#[cfg(target_os = "linux")]
fn open_at(path: &Path) -> usize {
    let all = fs::read_dir("/proc/self/fd")
        .unwrap()
        .map(|fd| fs::read_link(fd.unwrap().path()));
    all.filter(|leads| leads.as_ref().is_ok_and(|leads| leads == path))
        .count()
}

#[cfg(target_os = "linux")]
#[test]
fn a_lock_that_was_removed_while_somebody_waited_for_it_is_no_lock() {
    let dir = folder();
    let path = dir.path().join("lock");
    let at = |dir: &TempDir| Folder::new(dir.path().to_owned());
    let (first, second, third) = (at(&dir), at(&dir), at(&dir));
    let held = first.lock().unwrap();
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| third.lock().map(drop));
        while open_at(&path) < 2 {
            std::thread::yield_now();
        }
        fs::remove_file(&path).unwrap();
        let held_now = second.lock().unwrap();
        drop(held);
        // It comes to the one that is there now, and waits on.
        while open_at(&path) < 2 {
            assert!(!waits.is_finished(), "two hold the folder");
            std::thread::yield_now();
        }
        drop(held_now);
        waits.join().unwrap().unwrap();
    });
}
