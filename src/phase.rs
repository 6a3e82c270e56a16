//! How far this process is on its way out: one value, moved by `app` alone and watched by whoever
//! has to end in order.

use std::future::Future;

use tokio::sync::watch;

/// Each follows the one before; none is left again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// As usual.
    Serving,
    /// `/readyz` says 503 and configuration is not read any more; requests are taken as before, for
    /// `proxy.linger`.
    Lingering,
    /// No new connections; open requests and token calls are finished, within `proxy.drain`.
    Draining,
    /// The admin port closes as well.
    Stopped,
}

/// Moves the phase. Dropped, the program is gone: as [`Phase::Stopped`].
#[derive(Debug)]
pub struct PhaseControl(watch::Sender<Phase>);

impl Default for PhaseControl {
    fn default() -> Self {
        Self(watch::Sender::new(Phase::Serving))
    }
}

impl PhaseControl {
    /// From now on it is this phase, or a later one where that was reached before.
    pub fn advance(&self, to: Phase) {
        self.0.send_if_modified(|phase| {
            let moves = *phase < to;
            *phase = to.max(*phase);
            moves
        });
    }

    /// For those who end in order.
    #[must_use]
    pub fn watch(&self) -> PhaseWatch {
        PhaseWatch(self.0.subscribe())
    }
}

/// Sees the phase.
#[derive(Debug, Clone)]
pub struct PhaseWatch(watch::Receiver<Phase>);

impl PhaseWatch {
    /// The phase of this moment.
    #[must_use]
    pub fn now(&self) -> Phase {
        if self.0.has_changed().is_err() {
            return Phase::Stopped;
        }
        *self.0.borrow()
    }

    /// Ends when `phase` or a later one is reached.
    pub async fn reach(&mut self, phase: Phase) {
        // An error means that the program is gone.
        let _ = self.0.wait_for(|now| *now >= phase).await;
    }

    /// What comes of `work`, unless `phase` or a later one is reached first: `None` then, and the
    /// rest of the work is dropped.
    pub async fn run_until<T>(mut self, phase: Phase, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.reach(phase) => None,
            done = work => Some(done),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn a_phase_is_never_left_for_an_earlier_one_and_a_later_one_stands_for_those_before() {
        let control = PhaseControl::default();
        let mut watch = control.watch();
        assert_eq!(watch.now(), Phase::Serving);
        assert!(watch.reach(Phase::Serving).now_or_never().is_some());
        assert!(watch.reach(Phase::Lingering).now_or_never().is_none());
        control.advance(Phase::Draining);
        control.advance(Phase::Lingering);
        assert_eq!(
            (watch.now(), control.watch().now()),
            (Phase::Draining, Phase::Draining)
        );
        assert!(watch.reach(Phase::Lingering).now_or_never().is_some());
        assert!(watch.reach(Phase::Stopped).now_or_never().is_none());
    }

    #[tokio::test]
    async fn work_ends_with_its_phase_and_with_the_program() {
        for end in [
            |control: PhaseControl| control.advance(Phase::Stopped),
            drop,
        ] {
            let control = PhaseControl::default();
            let watch = control.watch();
            let work = tokio::spawn(watch.clone().run_until(Phase::Lingering, pending::<()>()));
            assert_eq!(
                watch.clone().run_until(Phase::Lingering, ready(1)).await,
                Some(1)
            );
            end(control);
            assert_eq!(work.await.unwrap(), None);
            assert_eq!(watch.now(), Phase::Stopped);
        }
    }
}
