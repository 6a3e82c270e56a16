//! The latest token, and what its keeper is doing.

use std::{
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicU64, AtomicUsize, Ordering::AcqRel, Ordering::Acquire,
            Ordering::Relaxed, Ordering::Release,
        },
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use tokio::sync::{Notify, watch};

use super::{
    busy::BusyFlags,
    failure::Failure,
    model::{GuardKey, KeeperName, Token},
    pause::Pause,
    policy::KeeperPolicy,
    refusals::{Refusals, RefusedBy},
    renewal::Renewals,
    schedule::Lifetime,
};
use crate::{clock::BootInstant, lock::Lock};

/// An operator's refreshes do not follow a call more closely.
const BY_HAND_GAP: Duration = Duration::from_secs(1);
/// No moment.
const NEVER: u64 = u64::MAX;

/// What a keeper is doing.
#[derive(Debug, Clone, PartialEq)]
pub enum Activity {
    /// A call is running since then.
    Calling(BootInstant),
    /// The next call is due then.
    Due(BootInstant),
    /// Waits for this parent's token.
    Parent(Arc<str>),
    /// No call is made for now.
    Held {
        /// Until then; `None`: until the secret or the configuration changes, or a person unlatches.
        until: Option<BootInstant>,
        /// Refusals are why: the guard's latch.
        latched: bool,
    },
    /// Unused, or lazy and not asked yet.
    Resting,
}

/// All there is to show of one keeper.
#[derive(Debug, Clone)]
pub struct KeeperStatus {
    /// What it does now.
    pub activity: Activity,
    /// The latest token, dead or alive; `None` before the first.
    pub token: Option<Arc<Token>>,
    /// The last failure, until a call succeeds, and the wall-clock time (Unix epoch) at which it came.
    pub failure: Option<(Arc<Failure>, Duration)>,
    /// A first outcome, good or bad, is there.
    pub settled: bool,
    /// The vendor refused it or made no sense (classes `rejected` and `config`), or the guard could not remember and allowed no call; and no call
    /// ever succeeded.
    pub unaccepted: bool,
    /// Refusals counted against the lockout limit now.
    pub rejections: u32,
}

/// What a keeper's task publishes of itself. Only the task writes it.
#[derive(Debug, Clone)]
pub(super) struct KeeperState {
    pub activity: Activity,
    pub pause: Option<Pause>,
    /// Index of the parent waited for.
    pub parent: Option<usize>,
    pub failure: Option<(Arc<Failure>, BootInstant)>,
    pub settled: bool,
    pub unaccepted: bool,
    pub rejections: u32,
    /// Refusals up to this count (`Slot::refusals`) are done with.
    pub refusals_done: u64,
}

impl KeeperState {
    /// Nothing to tell those who saw `other`.
    pub fn shows_same(&self, other: &Self) -> bool {
        let failure = |s: &Self| {
            s.failure
                .as_ref()
                .map(|(failure, at)| (Arc::as_ptr(failure), *at))
        };
        self.activity == other.activity
            && self.pause == other.pause
            && self.parent == other.parent
            && failure(self) == failure(other)
            && self.settled == other.settled
            && self.unaccepted == other.unaccepted
            && self.rejections == other.rejections
            && self.refusals_done == other.refusals_done
    }
}

/// Where the handles of a keeper and its task meet. The task writes token and state; the others read them or raise a flag.
pub(super) struct Slot {
    pub name: KeeperName,
    /// When its keeper started.
    pub born: BootInstant,
    pub token: ArcSwapOption<Token>,
    pub state: watch::Sender<KeeperState>,
    /// Raised with every flag below.
    pub wake: Notify,
    /// When the token was last handed out, in milliseconds since boot.
    used: AtomicU64,
    /// When a caller last asked for one in vain. That is no use of the token (`idle`), but a need of the keeper (`rest_after`).
    asked: AtomicU64,
    /// How long an unused token may be sent; `u64::MAX`: as long as it lives.
    idle: AtomicU64,
    /// Callers that wait for a token.
    pub waiters: AtomicUsize,
    pub refusals: Refusals,
    /// What APIs said of its tokens. Never held across an await.
    renewals: Lock<Renewals>,
    /// Copies for the hot path: the generation that must not be sent now (0: none), the newest refused, the newest accepted.
    barred: AtomicU64,
    refused: AtomicU64,
    accepted: AtomicU64,
    /// The moment from which an operator wants a refresh, in milliseconds since boot; [`NEVER`] where none does.
    by_hand: AtomicU64,
    /// When the last call began, in milliseconds since boot; 0 before the first.
    pub last_call: AtomicU64,
    pub want_fresh: AtomicBool,
    pub secret_changed: AtomicBool,
    /// A person let one more attempt through.
    pub unlatched: AtomicBool,
    /// No handle is left.
    pub closed: AtomicBool,
    pub busy: BusyFlags,
    /// The last call brought the token that was there already.
    pub unchanged: AtomicBool,
    policy: Lock<(u64, KeeperPolicy)>,
    last_key: Lock<Option<GuardKey>>,
}

impl Slot {
    pub fn new(name: KeeperName, policy: KeeperPolicy, now: BootInstant) -> Self {
        let state = KeeperState {
            activity: Activity::Resting,
            pause: None,
            parent: None,
            failure: None,
            settled: false,
            unaccepted: false,
            rejections: 0,
            refusals_done: 0,
        };
        Self {
            name,
            born: now,
            token: ArcSwapOption::empty(),
            state: watch::Sender::new(state),
            wake: Notify::new(),
            used: AtomicU64::new(0),
            asked: AtomicU64::new(now.millis()),
            idle: AtomicU64::new(idle_millis(&policy.lifetime)),
            waiters: AtomicUsize::new(0),
            refusals: Refusals::default(),
            renewals: Lock::default(),
            barred: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
            by_hand: AtomicU64::new(NEVER),
            last_call: AtomicU64::new(0),
            want_fresh: AtomicBool::new(false),
            secret_changed: AtomicBool::new(false),
            unlatched: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            busy: BusyFlags::default(),
            unchanged: AtomicBool::new(false),
            policy: Lock::new((0, policy)),
            last_key: Lock::new(None),
        }
    }

    /// The hot path: one load, comparisons, one relaxed store where the millisecond is a new one.
    pub fn get(&self, now: BootInstant) -> Option<Arc<Token>> {
        let token = self.token.load();
        let token = token
            .as_ref()
            .filter(|t| self.is_sendable(t, now) && t.number != self.barred.load(Acquire))?;
        let millis = now.millis();
        if self.used.load(Relaxed) < millis {
            self.used.store(millis, Relaxed);
        }
        Some(Arc::clone(token))
    }

    /// May the token be sent at `now`?
    pub fn is_sendable(&self, token: &Token, now: BootInstant) -> bool {
        if now >= token.send_until {
            return false;
        }
        let idle = self.idle.load(Relaxed);
        idle == u64::MAX || now.millis() < self.last_use(token).saturating_add(idle)
    }

    /// Is it worth handing out where a fresh one is asked for (`min_remaining`)?
    pub fn is_fresh(&self, token: &Token, now: BootInstant) -> bool {
        let whole = token.issued.sent.until(token.expires);
        // However much is asked for, one that lives a few seconds does not cost a call for each who asks.
        let least = (whole / 10).max(Duration::from_secs(1).min(whole / 2));
        let asked = self
            .policy()
            .1
            .lifetime
            .min_remaining
            .min(whole.saturating_sub(least));
        now.until(token.expires) >= asked
            || (self.unchanged.load(Acquire) && now < token.refresh_at)
    }

    /// Does an unlatch open this pause? Where the last attempt carried no secret the guard counts nothing, and the pause alone keeps attempts apart.
    pub fn opens_unlatched(&self, pause: Pause) -> bool {
        pause.kind.opens_unlatched() && self.last_key().is_some()
    }

    /// What the guard counted the last attempt against; `None`: there was none, or it carried no
    /// secret.
    pub fn last_key(&self) -> Option<GuardKey> {
        self.last_key.lock().clone()
    }

    pub fn set_last_key(&self, key: Option<GuardKey>) {
        *self.last_key.lock() = key;
    }

    /// When the token was last used; in milliseconds since boot.
    pub fn last_use(&self, token: &Token) -> u64 {
        self.used.load(Relaxed).max(token.issued.sent.millis())
    }

    /// How long nobody has asked for a token.
    pub fn unused_for(&self, now: BootInstant) -> Duration {
        Duration::from_millis(
            now.millis()
                .saturating_sub(self.used.load(Relaxed).max(self.asked.load(Relaxed))),
        )
    }

    /// Somebody asks.
    pub fn note_demand(&self, now: BootInstant) {
        self.asked.fetch_max(now.millis(), Relaxed);
    }

    /// An operator wants a refresh, not before `from`. The earliest wish counts.
    pub fn request_refresh(&self, from: BootInstant) {
        self.requeue_refresh(from);
        self.wake.notify_one();
    }

    /// As [`Slot::request_refresh`], by the task itself for one that it could not grant: it must not wake itself.
    pub fn requeue_refresh(&self, from: BootInstant) {
        self.by_hand.fetch_min(from.millis(), AcqRel);
    }

    /// When the refresh that an operator wants may be made: a second after the last call at the earliest.
    pub fn requested_refresh(&self) -> Option<BootInstant> {
        let from = self.by_hand.load(Acquire);
        (from != NEVER)
            .then(|| self.earliest_refresh(BootInstant::from_boot(Duration::from_millis(from))))
    }

    /// The earliest moment, `from` or later, that is far enough from the last call for an operator's refresh.
    pub fn earliest_refresh(&self, from: BootInstant) -> BootInstant {
        match self.last_call.load(Acquire) {
            0 => from,
            last => {
                from.max(BootInstant::from_boot(Duration::from_millis(last)).after(BY_HAND_GAP))
            }
        }
    }

    /// A call is about to begin, and that is all an operator who has asked until now wanted: says whether one had.
    pub fn take_refresh_request(&self) -> bool {
        self.by_hand.swap(NEVER, AcqRel) != NEVER
    }

    pub fn raise(&self, flag: &AtomicBool) {
        flag.store(true, Release);
        self.wake.notify_one();
    }

    /// From now on fetches for waiters only.
    pub fn drain(&self) {
        self.busy.begin_drain();
        self.wake.notify_one();
    }

    /// An API refused the generation in use; an older one costs nothing. Whether that causes a refresh is decided here and not by the task, so that
    /// nobody can send the token between the refusal and the moment at which the task hears of it.
    pub fn refuse(&self, number: u64, now: BootInstant) {
        if !self.is_current(number) {
            return;
        }
        let held = self
            .state
            .borrow()
            .pause
            .is_some_and(|pause| pause.until.is_none_or(|opens| opens > now));
        let ending = self.busy.is_draining() && self.waiters.load(Acquire) == 0;
        self.refused.fetch_max(number, AcqRel);
        self.change_renewals(|renewals| renewals.refuse(number, !held && !ending, now));
        self.refusals.report(number, RefusedBy::Api);
        self.wake.notify_one();
    }

    /// An API accepted the generation in use.
    pub fn accept(&self, number: u64) {
        if self.accepted.load(Relaxed) >= number && self.barred.load(Relaxed) != number {
            return;
        }
        if !self.is_current(number) {
            return;
        }
        self.accepted.fetch_max(number, Relaxed);
        let barred = self.barred.load(Acquire);
        self.change_renewals(|renewals| renewals.accept(number));
        if barred != 0 && self.barred.load(Acquire) == 0 {
            // Those who wait may have it.
            self.state.send_modify(|_| {});
        }
    }

    /// The generation was handed out to a caller, whose vendor's answers are not seen here.
    pub fn note_vended(&self, number: u64, now: BootInstant) {
        self.change_renewals(|renewals| renewals.note_vended(number, now));
    }

    /// Was this generation, when it was refused, or is it now, fit to be sent?
    pub fn may_send(&self, number: u64) -> bool {
        self.refused.load(Acquire) < number
            || (self.is_current(number) && self.barred.load(Acquire) != number)
    }

    /// A child's refusal is blamed on this generation. An older one costs nothing.
    pub fn blame(&self, number: u64) {
        if self.is_current(number) {
            self.refusals.report(number, RefusedBy::Child);
            self.wake.notify_one();
        }
    }

    fn is_current(&self, number: u64) -> bool {
        self.token
            .load()
            .as_ref()
            .is_some_and(|t| t.number == number)
    }

    /// Does something to what is known of refusals, and brings the hot path's copy up to date.
    pub fn change_renewals<T>(&self, change: impl FnOnce(&mut Renewals) -> T) -> T {
        let mut renewals = self.renewals.lock();
        let done = change(&mut renewals);
        self.barred.store(renewals.barred(), Release);
        done
    }

    /// A refusal is not yet done with.
    pub fn refusal_pending(&self) -> bool {
        self.refusals.count() != self.state.borrow().refusals_done
    }

    /// The policy and how often it was changed.
    pub fn policy(&self) -> (u64, KeeperPolicy) {
        self.policy.lock().clone()
    }

    pub fn change_policy(&self, policy: KeeperPolicy) {
        {
            let mut lock = self.policy.lock();
            if lock.1 == policy {
                return;
            }
            self.idle.store(idle_millis(&policy.lifetime), Relaxed);
            *lock = (lock.0 + 1, policy);
        }
        self.wake.notify_one();
    }

    /// Counts a waiter for as long as the answer lives, and wakes the task.
    pub fn add_waiter(self: &Arc<Self>) -> Waiter {
        self.waiters.fetch_add(1, AcqRel);
        self.wake.notify_one();
        Waiter(Arc::clone(self))
    }
}

/// One who waits. Leaving cancels nothing.
pub struct Waiter(Arc<Slot>);

impl Drop for Waiter {
    fn drop(&mut self) {
        if self.0.waiters.fetch_sub(1, AcqRel) == 1 && self.0.busy.is_draining() {
            // What was begun for the last one who waited is not begun for nobody.
            self.0.wake.notify_one();
        }
    }
}

fn idle_millis(lifetime: &Lifetime) -> u64 {
    lifetime
        .idle_until(BootInstant::default())
        .map_or(u64::MAX, |end| end.millis().max(1))
}
