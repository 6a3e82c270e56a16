//! Who begins an attempt and who waits for the end of all attempts: neither misses the other,
//! because both flags are bits of one atomic.

use std::sync::atomic::{
    AtomicU8,
    Ordering::{AcqRel, Acquire},
};

const BUSY: u8 = 1;
const DRAINING: u8 = 2;

/// Whether an attempt is under way, and whether only those who wait for a token are to be served
/// any more.
#[derive(Debug, Default)]
pub(super) struct BusyFlags<B = AtomicU8>(B);

/// What is needed of an atomic; the model checker has its own.
pub(super) trait AtomicBits: Default {
    /// Both give what was there before.
    fn set(&self, bits: u8) -> u8;
    fn unset(&self, bits: u8) -> u8;
    fn read(&self) -> u8;
}

impl<B: AtomicBits> BusyFlags<B> {
    /// An attempt is under way: from before it is written down until its outcome is. `false`: it is
    /// not, because what it was decided on, whether there is a drain (`seen_draining`), has
    /// changed.
    #[must_use]
    pub fn begin_attempt(&self, seen_draining: bool) -> bool {
        let begun = self.0.set(BUSY) & DRAINING == 0 || seen_draining;
        if !begun {
            self.end_attempt();
        }
        begun
    }

    pub fn end_attempt(&self) {
        self.0.unset(BUSY);
    }

    /// From now on there is a drain; an attempt that was decided on without it is seen by
    /// [`BusyFlags::is_busy`], or does not begin.
    pub fn begin_drain(&self) {
        self.0.set(DRAINING);
    }

    pub fn is_busy(&self) -> bool {
        self.0.read() & BUSY != 0
    }

    pub fn is_draining(&self) -> bool {
        self.0.read() & DRAINING != 0
    }
}

macro_rules! bits {
    ($atomic:ty) => {
        impl AtomicBits for $atomic {
            fn set(&self, bits: u8) -> u8 {
                self.fetch_or(bits, AcqRel)
            }
            fn unset(&self, bits: u8) -> u8 {
                self.fetch_and(!bits, AcqRel)
            }
            fn read(&self) -> u8 {
                self.load(Acquire)
            }
        }
    };
}

bits!(AtomicU8);

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use loom::{sync::atomic::AtomicU8 as Modelled, thread};

    use super::*;

    bits!(Modelled);

    /// In every order that the memory model allows.
    #[test]
    fn an_attempt_decided_on_before_the_drain_is_waited_for_or_does_not_begin() {
        loom::model(|| {
            let busy = Arc::new(BusyFlags::<Modelled>::default());
            let drain = {
                let busy = busy.clone();
                thread::spawn(move || {
                    busy.begin_drain();
                    busy.is_busy()
                })
            };
            let seen = busy.is_draining();
            let begun = busy.begin_attempt(seen);
            let waited_for = drain.join().unwrap();
            assert!(waited_for || !begun || seen);
            assert_eq!((busy.is_busy(), busy.is_draining()), (begun, true));
            busy.end_attempt();
            assert!(
                !busy.is_busy() && busy.begin_attempt(true),
                "for one who waits"
            );
        });
    }
}
