//! The keeper against a scripted `Fetch`, with tokio's clock paused.

mod barred;
mod by_hand;
mod chain;
mod drain;
mod failures;
mod guarded;
mod life;
mod machine;
mod refusals;
mod share;
mod single_flight;
mod slot;
mod turns;
mod unlatched;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use tokio::time::sleep;
use zeroize::Zeroizing;

use super::*;
use crate::{
    clock::BootInstant,
    token::{
        failure::{Failure, FailureClass, FailureKind},
        fetch::{Fetch, KeeperEvent, PreparedCall},
        ledger::Ledger,
        memory::MemoryLedger,
        model::{GuardKey, Issued, KeeperName, Token},
        policy::{Hold, KeeperPolicy, LockoutPolicy},
        schedule::{Lifetime, RefreshMode, default_lifetime},
        share::Unshared,
        slot::Activity,
    },
};

pub(super) const SEC: Duration = Duration::from_secs(1);
pub(super) const MINUTE: Duration = Duration::from_mins(1);

/// What the scripted endpoint does with a call.
#[derive(Clone)]
pub(super) enum Reply {
    /// A new token that lives so long.
    Token(Duration),
    /// This very token.
    Same(&'static str, Duration),
    Fail(Failure),
    Panic,
}

pub(super) fn fail(class: FailureClass) -> Reply {
    Reply::Fail(failure(class))
}

pub(super) fn failure(class: FailureClass) -> Failure {
    Failure {
        client_refused: true,
        ..Failure::own(class, FailureKind::Answered)
    }
}

type ReplyFn = dyn FnMut(usize, &[Arc<Token>]) -> Reply + Send;

/// A token endpoint, its calls on record.
pub(super) struct Script {
    answer: Mutex<Box<ReplyFn>>,
    pub took: Mutex<Duration>,
    pub key: Mutex<Option<GuardKey>>,
    pub unreadable: Mutex<bool>,
    pub calls: Mutex<Vec<BootInstant>>,
    pub prepared: AtomicUsize,
    pub done: AtomicUsize,
    pub events: Mutex<Vec<String>>,
    me: std::sync::Weak<Script>,
}

impl Script {
    pub fn new(answer: impl FnMut(usize, &[Arc<Token>]) -> Reply + Send + 'static) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            answer: Mutex::new(Box::new(answer)),
            took: Mutex::new(SEC / 10),
            key: Mutex::new(Some(key(1))),
            unreadable: Mutex::new(false),
            calls: Mutex::default(),
            prepared: AtomicUsize::new(0),
            done: AtomicUsize::new(0),
            events: Mutex::default(),
            me: me.clone(),
        })
    }
    pub fn always(reply: Reply) -> Arc<Self> {
        Self::new(move |_, _| reply.clone())
    }
    /// The replies in order, the last one for ever.
    pub fn list(replies: Vec<Reply>) -> Arc<Self> {
        Self::new(move |n, _| replies[n.min(replies.len() - 1)].clone())
    }
    pub fn count(&self) -> usize {
        self.calls.lock().unwrap().len()
    }
    /// Seconds between one call and the next.
    pub fn gaps(&self) -> Vec<f64> {
        self.calls
            .lock()
            .unwrap()
            .windows(2)
            .map(|w| w[0].until(w[1]).as_secs_f64())
            .collect()
    }
    pub fn events(&self, kind: &str) -> usize {
        self.events
            .lock()
            .unwrap()
            .iter()
            .filter(|e| e.starts_with(kind))
            .count()
    }
    pub fn answer(&self, answer: impl FnMut(usize, &[Arc<Token>]) -> Reply + Send + 'static) {
        *self.answer.lock().unwrap() = Box::new(answer);
    }
}

impl Fetch for Script {
    fn prepare<'a>(
        &'a self,
        parents: &'a [Arc<Token>],
    ) -> BoxFuture<'a, Result<Box<dyn PreparedCall>, Failure>> {
        self.prepared.fetch_add(1, SeqCst);
        let ready: Result<Box<dyn PreparedCall>, Failure> = if *self.unreadable.lock().unwrap() {
            Err(failure(FailureClass::Unreadable))
        } else {
            let key = self.key.lock().unwrap().clone();
            Ok(Box::new(Call {
                script: self.me.upgrade().unwrap(),
                parents: parents.to_vec(),
                key,
            }))
        };
        Box::pin(std::future::ready(ready))
    }
    fn report(&self, event: KeeperEvent<'_>) {
        self.events.lock().unwrap().push(format!("{event:?}"));
    }
}

struct Call {
    script: Arc<Script>,
    parents: Vec<Arc<Token>>,
    key: Option<GuardKey>,
}

impl PreparedCall for Call {
    fn key(&self) -> Option<&GuardKey> {
        self.key.as_ref()
    }
    fn send(self: Box<Self>) -> BoxFuture<'static, Result<Issued, Failure>> {
        Box::pin(async move {
            let sent = BootInstant::now();
            let number = {
                let mut calls = self.script.calls.lock().unwrap();
                calls.push(sent);
                calls.len()
            };
            let reply = (self.script.answer.lock().unwrap())(number - 1, &self.parents);
            let took = *self.script.took.lock().unwrap();
            sleep(took).await;
            self.script.done.fetch_add(1, SeqCst);
            match reply {
                Reply::Token(life) => Ok(issued(&format!("token-{number}"), sent, life)),
                Reply::Same(value, life) => Ok(issued(value, sent, life)),
                Reply::Fail(failure) => Err(failure),
                Reply::Panic => panic!("scripted panic"),
            }
        })
    }
}

fn issued(value: &str, sent: BootInstant, life: Duration) -> Issued {
    Issued {
        value: Arc::new(Zeroizing::new(value.into())),
        sent,
        life: Some(life),
        implausible: false,
        vars: BTreeMap::new(),
    }
}

pub(super) fn key(secret: u8) -> GuardKey {
    GuardKey {
        url: "https://issuer.example/token".into(),
        secret: [secret; 32],
        partition: None,
        account: [9; 32],
    }
}

pub(super) fn policy() -> KeeperPolicy {
    KeeperPolicy {
        lifetime: default_lifetime(),
        limits: LockoutPolicy {
            rate: vec![],
            max_rejections: 2,
            hold: Hold::For(MINUTE),
            account_rejections: None,
        },
    }
}

pub(super) fn lazy() -> KeeperPolicy {
    KeeperPolicy {
        lifetime: Lifetime {
            refresh: RefreshMode::Lazy,
            ..default_lifetime()
        },
        ..policy()
    }
}

pub(super) fn named(token: &str) -> KeeperName {
    KeeperName {
        credential: "acme".into(),
        token: token.into(),
        partition: None,
    }
}

pub(super) fn start(script: &Arc<Script>, policy: KeeperPolicy) -> Arc<Keeper> {
    start_with(script, vec![], Arc::new(MemoryLedger::default()), policy)
}

pub(super) fn start_with(
    script: &Arc<Script>,
    parents: Vec<Arc<Keeper>>,
    ledger: Arc<dyn Ledger>,
    policy: KeeperPolicy,
) -> Arc<Keeper> {
    let name = if parents.is_empty() {
        "access"
    } else {
        "child"
    };
    Keeper::spawn(
        named(name),
        parents,
        Arc::clone(script) as Arc<dyn Fetch>,
        ledger,
        Arc::new(Unshared),
        policy,
    )
}

pub(super) fn within(d: Duration) -> BootInstant {
    BootInstant::now().after(d)
}

/// Lets time pass in small steps, so that everything that is due happens when it is due.
pub(super) async fn pass(d: Duration) {
    sleep(d).await;
}
