//! Files that somebody reads anew now and then: not while they are being written.

use std::{
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use super::{
    read::read,
    settle::{GRACE, Judgement, Moment, Settling},
};
use crate::token::Now;

/// No file of this kind is larger, in bytes.
const LIMIT: usize = 16 * 1024 * 1024;

/// What is believed of some files between readings.
#[derive(Debug, Default)]
pub struct Watch(Mutex<Settling>);

impl Watch {
    /// What `load` makes of these files, where it may be believed: none of them is being written, nor was while `load` read them. `None`: what was
    /// made before stays. The first reading counts always. For a thread that may block.
    pub fn settled<T>(&self, paths: &[PathBuf], at: Moment, load: impl FnOnce() -> T) -> Option<T> {
        let mut settling = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = read(paths, LIMIT).ok()?.marks();
        // A file that was replaced a moment ago is not looked at again as soon as that: what is read is held against what lies there afterwards.
        if matches!(settling.judge(&found, at), Judgement::Wait { rest, .. } if rest > GRACE) {
            return None;
        }
        let made = load();
        (read(paths, LIMIT).ok()?.marks() == found).then_some(made)
    }
}

impl Moment {
    /// The present moment.
    #[must_use]
    pub fn now() -> Self {
        let now = Now::now();
        Self { boot: now.since_boot(), wall: now.wall() }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use super::*;

    #[test]
    fn what_is_written_while_it_is_read_or_has_not_rested_is_not_taken() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        fs::write(&path, "one").unwrap();
        let (watch, paths, start) = (Watch::default(), [path.clone()], Moment::now());
        // The wall clock stands still: only what was seen counts.
        let at = |ms| Moment { boot: start.boot + Duration::from_millis(ms), wall: start.wall };
        let content = || fs::read_to_string(&path).unwrap();
        assert_eq!(watch.settled(&paths, at(0), content).as_deref(), Some("one"));
        fs::write(&path, "tw").unwrap();
        assert_eq!(watch.settled(&paths, at(100), content), None);
        fs::write(&path, "two").unwrap();
        assert_eq!(watch.settled(&paths, at(2200), content), None);
        let meanwhile = || {
            let read = content();
            fs::write(&path, "three").unwrap();
            read
        };
        assert_eq!(watch.settled(&paths, at(4300), meanwhile), None);
        assert_eq!(watch.settled(&paths, at(5000), content), None);
        assert_eq!(watch.settled(&paths, at(7000), content).as_deref(), Some("three"));
    }
}
