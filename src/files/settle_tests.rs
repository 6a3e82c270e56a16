//! When a change counts, told by made-up files and clocks.

use std::time::Duration;

use super::{
    identity::FileIdentity,
    settle::{ClockReading, FileMark, FileMarks, SettleState, Settler},
};

const START: i64 = 1_000_000;

/// One file and its clock.
struct Scene {
    settling: Settler,
    now: Duration,
}

#[derive(Clone, Copy)]
struct Lies<'a> {
    at: &'a str,
    inode: u64,
    content: &'a str,
    /// Milliseconds since the start of the scene: the last write, and the last change of any kind.
    times: [i64; 2],
}

fn time(ms: i64) -> (i64, i64) {
    // Never a whole second, which would be taken for a coarse clock.
    (
        START + ms.div_euclid(1000),
        ms.rem_euclid(1000) * 1_000_000 + 1,
    )
}

impl Lies<'_> {
    fn mark(self) -> FileMark {
        let mut content = [0; 32];
        content
            .iter_mut()
            .zip(self.content.bytes())
            .for_each(|(to, from)| *to = from);
        let [modified, changed] = self.times.map(time);
        FileMark {
            identity: Some(FileIdentity::made_up(
                self.at,
                self.inode,
                self.content.len() as u64,
                modified,
                changed,
            )),
            content,
        }
    }
}

fn gone() -> FileMark {
    FileMark {
        identity: None,
        content: [255; 32],
    }
}

/// Written in place, into inode 1, at this millisecond.
fn written(content: &str, ms: i64) -> FileMark {
    Lies {
        at: "/f",
        inode: 1,
        content,
        times: [ms, ms],
    }
    .mark()
}

/// A file of its own inode, written and put there at these milliseconds.
fn replaced(inode: u64, content: &str, times: [i64; 2]) -> FileMark {
    Lies {
        at: "/f",
        inode,
        content,
        times,
    }
    .mark()
}

impl Scene {
    /// "old" lies there, written long ago and looked at once.
    fn begin() -> Self {
        let mut scene = Self {
            settling: Settler::default(),
            now: Duration::from_mins(1),
        };
        assert_eq!(
            scene.look(&written("old", -60_000), 0),
            None,
            "the first look counts at once"
        );
        scene
    }

    /// Looks at one file at this millisecond: how long it would still have to rest.
    fn look(&mut self, mark: &FileMark, ms: u64) -> Option<u64> {
        self.look_at(&[("f", mark)], ms)
    }

    fn look_at(&mut self, marks: &[(&str, &FileMark)], ms: u64) -> Option<u64> {
        let marks: FileMarks = marks
            .iter()
            .map(|(path, mark)| ((*path).into(), (*mark).clone()))
            .collect();
        let passed = Duration::from_millis(ms);
        let wall = Duration::from_secs(START.unsigned_abs()) + passed;
        match self.settling.assess(
            &marks,
            ClockReading {
                boot: self.now + passed,
                wall,
            },
        ) {
            SettleState::Settled => None,
            SettleState::Wait { rest, .. } => Some(u64::try_from(rest.as_millis()).unwrap()),
        }
    }
}

#[test]
fn a_file_written_in_place_counts_when_it_has_been_quiet_for_two_seconds() {
    let mut scene = Scene::begin();
    assert_eq!(scene.look(&written("ha", 1000), 1000), Some(2000));
    assert_eq!(scene.look(&written("ha", 1000), 2000), Some(1000));
    // Its writer was only pausing.
    assert_eq!(
        scene.look(&written("half", 2900), 2990),
        Some(1910),
        "counted from the write, not from the look"
    );
    assert_eq!(scene.look(&written("half", 2900), 4800), Some(100));
    assert_eq!(scene.look(&written("half", 2900), 4901), None);
    // What was written before the last look but one cannot be told from what was: only the content
    // counts.
    assert_eq!(
        scene.look(&written("half", 9000), 9100),
        None,
        "touched, or written again the same"
    );
}

#[test]
fn what_was_written_in_place_two_seconds_ago_counts_at_once() {
    let mut scene = Scene::begin();
    assert_eq!(scene.look(&written("new", 1000), 3001), None);
}

#[test]
fn a_replaced_file_counts_at_once() {
    let mut scene = Scene::begin();
    assert_eq!(
        scene.look(&replaced(2, "new", [900, 990]), 1000),
        None,
        "renamed after it was written"
    );
    assert_eq!(
        scene.look(
            &Lies {
                at: "/v2/f",
                inode: 3,
                content: "newer",
                times: [1990, 1990]
            }
            .mark(),
            2000
        ),
        None,
        "a link was swapped"
    );
    assert_eq!(
        scene.look(&replaced(4, "newest", [2500, 2500]), 3000),
        None,
        "written and renamed in one tick, a while ago"
    );
}

#[test]
fn a_file_that_may_just_be_made_is_looked_at_once_more() {
    let mut scene = Scene::begin();
    assert_eq!(scene.look(&replaced(2, "ne", [999, 999]), 1000), Some(99));
    assert_eq!(scene.look(&replaced(2, "ne", [999, 999]), 1100), None);
    let mut scene = Scene::begin();
    let _ = scene.look(&replaced(2, "ne", [999, 999]), 1000);
    assert_eq!(
        scene.look(&replaced(2, "new", [1050, 1050]), 1100),
        Some(1950),
        "it is being written"
    );
}

#[test]
fn files_that_are_replaced_all_the_time_count_all_the_same() {
    let mut scene = Scene::begin();
    let counted = (1..100_u64).filter(|n| {
        let ms = i64::try_from(n * 2).unwrap();
        scene
            .look(&replaced(n + 1, &format!("v{n}"), [ms, ms]), n * 2)
            .is_none()
    });
    assert!(counted.count() >= 49);
}

#[test]
fn a_removed_file_that_is_made_anew_in_its_place_is_waited_for() {
    let mut scene = Scene::begin();
    assert_eq!(scene.look(&gone(), 1000), Some(2000), "it may come again");
    assert_eq!(
        scene.look(&replaced(2, "ha", [1500, 1500]), 1600),
        Some(1900)
    );
    assert_eq!(
        scene.look(&replaced(2, "half", [2500, 2500]), 2600),
        Some(1900)
    );
    assert_eq!(scene.look(&replaced(2, "half", [2500, 2500]), 4501), None);
    assert_eq!(scene.look(&gone(), 5000), Some(2000));
    assert_eq!(scene.look(&gone(), 7000), None, "it does not come");
    assert_eq!(
        scene.look(&replaced(3, "new", [7900, 8000]), 8001),
        None,
        "renamed to where nothing was"
    );
}

#[test]
fn an_empty_file_is_waited_for_whoever_made_it() {
    let mut scene = Scene::begin();
    assert_eq!(scene.look(&replaced(2, "", [900, 990]), 1000), Some(1990));
    assert_eq!(
        scene.look(&replaced(2, "ha", [1500, 1500]), 1600),
        Some(1900),
        "and what is then written into it, too"
    );
}

#[test]
fn a_clock_that_is_behind_or_ahead_or_coarse_makes_nobody_believe_sooner() {
    // The server's clock is 10 s behind: the write seems to be older than the look that did not
    // find it.
    let mut scene = Scene::begin();
    assert_eq!(scene.look(&written("ha", -9000), 1000), Some(2000));
    // Ahead.
    let mut scene = Scene::begin();
    assert_eq!(scene.look(&written("ha", 600_000), 1000), Some(2000));
    assert_eq!(scene.look(&written("ha", 600_000), 3000), None);
    // Whole seconds only: this may have been written at 2.9 s.
    let mut scene = Scene::begin();
    let mut coarse = written("ha", 0);
    coarse.identity = Some(FileIdentity::made_up(
        "/f",
        1,
        2,
        (START + 1, 0),
        (START + 1, 0),
    ));
    assert_eq!(scene.look(&coarse, 3000), Some(2000));
}

#[test]
fn a_set_counts_as_a_whole_and_each_file_by_its_own_time() {
    let mut scene = Scene::begin();
    let old = written("old", -60_000);
    let _ = scene.look_at(&[("f", &old), ("g", &old)], 1);
    let half = written("new f", 1000);
    assert_eq!(
        scene.look_at(&[("f", &half), ("g", &old)], 1000),
        Some(2000)
    );
    // The other one is replaced meanwhile, more than once.
    for ms in [1500_u64, 2000, 2500] {
        let other = replaced(
            ms,
            "g",
            [
                i64::try_from(ms).unwrap() - 200,
                i64::try_from(ms).unwrap() - 100,
            ],
        );
        assert_eq!(
            scene.look_at(&[("f", &half), ("g", &other)], ms),
            Some(3000 - ms)
        );
    }
    let other = replaced(9, "g9", [2600, 2700]);
    assert_eq!(scene.look_at(&[("f", &half), ("g", &other)], 3001), None);
}

#[test]
fn a_writer_that_never_rests_is_told_by_how_long_it_lasts() {
    let mut scene = Scene::begin();
    for n in 1..=40_u64 {
        let marks: FileMarks = [(
            "f".into(),
            written(&format!("{n}"), i64::try_from(n * 1000).unwrap()),
        )]
        .into();
        let passed = Duration::from_secs(n);
        let judged = scene.settling.assess(
            &marks,
            ClockReading {
                boot: scene.now + passed,
                wall: Duration::from_secs(START.unsigned_abs()) + passed,
            },
        );
        assert!(
            matches!(judged, SettleState::Wait { lasted, .. } if lasted == Duration::from_secs(n - 1)),
            "{judged:?}"
        );
    }
    assert_eq!(scene.look(&written("40", 40_000), 42_001), None);
    assert_eq!(scene.look(&written("more", 50_000), 50_000), Some(2000));
}
