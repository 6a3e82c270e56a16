//! What an API or a child refused of one token, told to the keeper's task without a lock.

use std::sync::atomic::{
    AtomicU64,
    Ordering::{AcqRel, Acquire},
};

/// Who refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RefusedBy {
    /// The vendor's API (401).
    Api,
    /// A token endpoint, of a child made with this token.
    Child,
}

/// The newest generation each refused since the task last looked, and how many refusals there ever
/// were. The generation is written before the count, and read after it: who sees the count sees the
/// generation.
#[derive(Debug, Default)]
pub(super) struct Refusals<C = AtomicU64> {
    api: C,
    child: C,
    count: C,
}

/// What is needed of an atomic; the model checker has its own.
pub(super) trait AtomicCounter: Default {
    fn raise_to(&self, n: u64);
    fn add_one(&self);
    fn read(&self) -> u64;
    fn take(&self) -> u64;
}

impl<C: AtomicCounter> Refusals<C> {
    pub fn report(&self, number: u64, by: RefusedBy) {
        match by {
            RefusedBy::Api => self.api.raise_to(number),
            RefusedBy::Child => self.child.raise_to(number),
        }
        self.count.add_one();
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.count.read()
    }

    /// The newest generation the API refused, and a child; 0 for none. Only the task takes, after
    /// it has read the count.
    pub fn take(&self) -> (u64, u64) {
        (self.api.take(), self.child.take())
    }
}

macro_rules! counter {
    ($atomic:ty) => {
        impl AtomicCounter for $atomic {
            fn raise_to(&self, n: u64) {
                self.fetch_max(n, AcqRel);
            }
            fn add_one(&self) {
                self.fetch_add(1, AcqRel);
            }
            fn read(&self) -> u64 {
                self.load(Acquire)
            }
            fn take(&self) -> u64 {
                self.swap(0, AcqRel)
            }
        }
    };
}

counter!(AtomicU64);

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use loom::{sync::atomic::AtomicU64 as Modelled, thread};

    use super::*;

    counter!(Modelled);

    /// In every order that the memory model allows.
    #[test]
    fn who_sees_the_count_sees_the_generation_and_none_is_lost() {
        loom::model(|| {
            let refusals = Arc::new(Refusals::<Modelled>::default());
            let tell = |number, by| {
                let refusals = refusals.clone();
                thread::spawn(move || refusals.report(number, by))
            };
            let tellers = [tell(7, RefusedBy::Api), tell(8, RefusedBy::Child)];
            let (seen, first) = (refusals.count(), refusals.take());
            let told = u64::from(first.0 == 7) + u64::from(first.1 == 8);
            assert!(told >= seen, "{seen} counted, {first:?} taken");
            for teller in tellers {
                teller.join().unwrap();
            }
            // The count is still to be looked at again wherever something was taken too early or
            // not at all.
            let (all, second) = (refusals.count(), refusals.take());
            assert_eq!(all, 2);
            assert_eq!((first.0.max(second.0), first.1.max(second.1)), (7, 8));
        });
    }

    #[test]
    fn the_newest_generation_counts() {
        loom::model(|| {
            let refusals = Arc::new(Refusals::<Modelled>::default());
            let other = refusals.clone();
            let teller = thread::spawn(move || other.report(2, RefusedBy::Api));
            refusals.report(1, RefusedBy::Api);
            teller.join().unwrap();
            assert_eq!(
                (refusals.count(), refusals.take(), refusals.take()),
                (2, (2, 0), (0, 0))
            );
        });
    }
}
