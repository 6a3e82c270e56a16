//! Processes that share a folder, crash, start anew and damage nothing: whatever the order, the
//! vendor sees no attempt too many.

use std::{collections::HashMap, path::Path, sync::Arc, time::Duration};

use proptest::prelude::*;
use tempfile::TempDir;

use super::{Disk, folder::Folder};
use crate::token::{
    AttemptOutcome, AttemptRequest, Denial, GuardKey, Hold, Ledger, LockoutPolicy, Reservation,
};

const MAX: u32 = 2;

#[derive(Debug, Clone)]
enum Do {
    Spend {
        process: bool,
        secret: bool,
    },
    Settle {
        which: usize,
        verdict: AttemptOutcome,
    },
    Lose {
        which: usize,
    },
    /// SIGKILL, and a new one in its place.
    Kill {
        process: bool,
    },
    /// From now on what one process writes cannot be brought to the disk, or can again.
    Sicken {
        process: bool,
        sick: bool,
    },
}

fn steps() -> impl Strategy<Value = Vec<Do>> {
    let verdict = prop_oneof![5 => Just(AttemptOutcome::Rejected), 2 => Just(AttemptOutcome::GivenBack), 1 => Just(AttemptOutcome::Success)];
    let step = prop_oneof![
        6 => (any::<bool>(), any::<bool>()).prop_map(|(process, secret)| Do::Spend { process, secret }),
        4 => (any::<usize>(), verdict).prop_map(|(which, verdict)| Do::Settle { which, verdict }),
        1 => any::<usize>().prop_map(|which| Do::Lose { which }),
        2 => any::<bool>().prop_map(|process| Do::Kill { process }),
        1 => any::<(bool, bool)>().prop_map(|(process, sick)| Do::Sicken { process, sick }),
    ];
    proptest::collection::vec(step, 1..60)
}

/// What a bystander knows of one secret, or of an account.
#[derive(Default)]
struct Seen {
    /// Counts what happens.
    moment: usize,
    /// When each refusal or unknown outcome became known, if no success was sent later.
    bad: Vec<usize>,
    /// When those under way were sent.
    open: HashMap<u64, usize>,
}

impl Seen {
    fn sends(&mut self, id: u64) {
        self.moment += 1;
        self.open.insert(id, self.moment);
    }
    /// `None`: nobody will ever know.
    fn ends(&mut self, id: u64, verdict: Option<AttemptOutcome>) {
        self.moment += 1;
        let sent = self.open.remove(&id).unwrap();
        match verdict {
            Some(AttemptOutcome::Success) => self.bad.retain(|known| *known > sent),
            Some(AttemptOutcome::GivenBack) => {}
            _ => self.bad.push(self.moment),
        }
    }
    fn counted(&self) -> usize {
        self.bad.len()
    }
}

/// `account`: the budget of refusals is the account's, whose secrets they are all; otherwise each
/// secret's own.
async fn play(steps: Vec<Do>, account: bool) -> Result<(), TestCaseError> {
    let memory = Path::new("/dev/shm");
    let dir = if memory.is_dir() {
        TempDir::new_in(memory).unwrap()
    } else {
        TempDir::new().unwrap()
    };
    let limits = LockoutPolicy {
        rate: vec![],
        max_rejections: MAX,
        hold: Hold::UntilSecretChanges,
        account_rejections: account.then_some(MAX),
    };
    // Without the pause of 30 s.
    let ask = AttemptRequest {
        credential: Arc::from("a"),
        parent_renewed: true,
    };
    let start = || Disk::new(dir.path().join("state"), || {});
    let mut processes = [start(), start()];
    let mut open: Vec<(usize, Reservation)> = vec![];
    let mut seen = [Seen::default(), Seen::default()];
    let mut sick = [false; 2];
    let most = usize::try_from(MAX).unwrap();
    for step in steps {
        match step {
            Do::Spend { process, secret } => {
                let (process, secret) = (usize::from(process), u8::from(secret));
                let key = GuardKey {
                    url: "https://issuer.example/token".into(),
                    secret: [secret; 32],
                    partition: None,
                    account: [9; 32],
                };
                let seen = &mut seen[usize::from(secret == 1 && !account)];
                match processes[process].spend(&key, &limits, &ask).await {
                    Ok(permit) => {
                        seen.sends(permit.id);
                        prop_assert!(
                            seen.counted() + seen.open.len() <= most,
                            "{:?} refused, {:?} open",
                            seen.bad,
                            seen.open
                        );
                        open.push((process, permit));
                    }
                    Err(Denial::Busy) => prop_assert!(!seen.open.is_empty()),
                    // An account's success speaks for its other secrets no more than for their own
                    // counts.
                    Err(Denial::Latched(None)) => prop_assert!(account || seen.counted() >= most),
                    // Of unknown outcomes alone; no 15 minutes pass here.
                    Err(Denial::Latched(Some(_))) => {
                        prop_assert!(account && seen.counted() >= most);
                    }
                    // After an unknown outcome the value waits, though it is not latched.
                    Err(Denial::Later(_)) => prop_assert!(account && seen.counted() > 0),
                    Err(Denial::NoMemory) => prop_assert!(sick[process]),
                    other => prop_assert!(false, "{other:?}"),
                }
            }
            Do::Settle { which, verdict } if !open.is_empty() => {
                let (process, permit) = open.swap_remove(which % open.len());
                seen[usize::from(permit.key.secret[0] == 1 && !account)]
                    .ends(permit.id, Some(verdict));
                processes[process].settle(permit, verdict, &limits).await;
            }
            Do::Lose { which } if !open.is_empty() => {
                let (process, permit) = open.swap_remove(which % open.len());
                seen[usize::from(permit.key.secret[0] == 1 && !account)].ends(permit.id, None);
                let written = processes[process].freed();
                drop(permit);
                written.await;
            }
            Do::Kill { process } => {
                let process = usize::from(process);
                let (mut dead, alive): (Vec<_>, Vec<_>) =
                    open.into_iter().partition(|(owner, _)| *owner == process);
                open = alive;
                for (_, permit) in &mut dead {
                    permit.redeem();
                    seen[usize::from(permit.key.secret[0] == 1 && !account)].ends(permit.id, None);
                }
                processes[process] = start();
                sick[process] = false;
            }
            Do::Sicken { process, sick: now } => {
                let process = usize::from(process);
                sick[process] = now;
                processes[process].sicken(now);
            }
            Do::Settle { .. } | Do::Lose { .. } => {}
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn no_order_of_crashes_and_restarts_lets_a_third_wrong_attempt_out(steps in steps(), account in any::<bool>()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(play(steps, account))?;
    }
}

#[tokio::test]
async fn a_process_that_stands_still_with_the_lock_holds_nobody_up_for_ever() {
    let dir = TempDir::new().unwrap();
    let disk = Disk::new(dir.path().to_owned(), || {});
    disk.open().await;
    let other = Folder::new(dir.path().to_owned());
    let locked = other.lock().unwrap();
    let key = GuardKey {
        url: "https://issuer.example/token".into(),
        secret: [1; 32],
        partition: None,
        account: [9; 32],
    };
    let limits = LockoutPolicy {
        rate: vec![],
        max_rejections: MAX,
        hold: Hold::UntilSecretChanges,
        account_rejections: None,
    };
    let ask = AttemptRequest {
        credential: Arc::from("a"),
        parent_renewed: false,
    };
    let spend = tokio::time::timeout(Duration::from_secs(30), disk.spend(&key, &limits, &ask))
        .await
        .unwrap();
    assert!(matches!(spend, Err(Denial::NoMemory)));
    drop(locked);
    assert!(disk.spend(&key, &limits, &ask).await.is_ok());
}
