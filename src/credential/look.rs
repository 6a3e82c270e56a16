//! Looking whether secrets changed: a new value is believed once it is whole, is presented from then on, and wakes keepers that are held.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::{
    sync::{OwnedMutexGuard, oneshot},
    time::{sleep, timeout},
};

use super::{Credential, Refusal, world::Seen};
use crate::{
    secret::Values,
    token::{Class, Keeper, Now},
};

/// What is written in place is believed when it has stayed the same for so long: half a secret would be a wrong attempt.
const QUIET: Duration = Duration::from_secs(2);
/// Until then it is looked at this often.
const AGAIN: Duration = Duration::from_millis(500);
/// Nobody waits longer for a look: a file may lie on a mount that hangs.
const PATIENCE: Duration = Duration::from_secs(5);

/// Who asks for a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// The poller, who comes again: where a look is under way, it is left to that one.
    Poll,
    /// Somebody who knows of a change: what is read is read after this.
    Now,
}

/// What there is between looks.
#[derive(Default)]
pub(super) struct Looking {
    /// Values that are not believed yet, and since when they are what is read.
    pending: Option<([u8; 32], Now)>,
    /// Whose watch it is to look again until they are.
    watcher: Weak<Credential>,
}

/// What a look found.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Looked {
    Same,
    Changed,
    /// Somebody may still be writing.
    Unsettled,
    Unreadable(String),
}

type Turn = OwnedMutexGuard<Looking>;

impl Credential {
    /// Reads the secrets; where their values changed, presented headers are rendered anew and held keepers try at once. Ends when that is done,
    /// or sooner: what hangs, and what is still being written, is waited for by nobody.
    pub async fn look(self: &Arc<Self>, look: Look) {
        let looking = self.shared.looking.clone();
        let turn = match look {
            Look::Poll => looking.try_lock_owned().ok(),
            Look::Now => timeout(PATIENCE, looking.lock_owned()).await.ok(),
        };
        let Some(turn) = turn else { return };
        let (tell, told) = oneshot::channel();
        tokio::spawn(look_until_settled(Arc::downgrade(self), turn, tell));
        if timeout(PATIENCE, told).await.is_err() {
            self.tell(&Looked::Unreadable("secrets: their files do not answer".into()));
        }
    }

    fn tell(&self, looked: &Looked) {
        match looked {
            Looked::Same | Looked::Unsettled => {}
            Looked::Changed => self.world.metrics.secret_changed(&self.name),
            Looked::Unreadable(why) => self.world.metrics.secret_unreadable(&self.name, why),
        }
    }

    /// One look (blocking).
    fn look_once(&self, looking: &mut Looking) -> Looked {
        loop {
            let before = self.shared.seen.load_full();
            let (values, files) = match self.shared.secrets.load().read_with_files() {
                Ok(read) => read,
                Err(e) => {
                    looking.pending = None;
                    // What repairs an unreadable secret is a change: forget nothing, the last good values stay.
                    return Looked::Unreadable(e.to_string());
                }
            };
            let digest = values.digest();
            let now = Now::now();
            let same = before.as_ref().is_some_and(|seen| seen.digest == digest);
            if same && before.as_ref().is_some_and(|seen| seen.files == files) {
                looking.pending = None;
                return Looked::Same;
            }
            let written = |seen: &Arc<Seen>| files.being_written(&seen.files, now.wall().saturating_sub(QUIET));
            if !same && before.as_ref().is_some_and(written) {
                let since = looking.pending.filter(|(pending, _)| *pending == digest).map_or(now, |(_, since)| since);
                looking.pending = Some((digest, since));
                if since.until(now) < QUIET {
                    return Looked::Unsettled;
                }
            }
            looking.pending = None;
            if !self.shared.see(before.as_ref(), Seen { values, digest, files }) {
                continue; // A request was the first to read them.
            }
            if same {
                return Looked::Same;
            }
            // Values seen for the first time are no change, but news to a keeper that could not read them.
            let unread = |k: &Keeper| k.status().failure.is_some_and(|(f, _)| f.class == Class::Unreadable);
            self.keepers().iter().filter(|k| before.is_some() || unread(k)).for_each(|k| k.secret_changed());
            return if before.is_some() { Looked::Changed } else { Looked::Same };
        }
    }

    /// The last good secret values, where presented headers need any.
    pub(super) async fn values(&self) -> Result<Option<Arc<Values>>, Refusal> {
        if !self.placed.uses_secrets {
            return Ok(None);
        }
        if self.shared.seen.load().is_none() {
            let secrets = self.shared.secrets.load_full();
            let read = tokio::task::spawn_blocking(move || secrets.read_with_files()).await;
            match read {
                Ok(Ok((values, files))) => {
                    let digest = values.digest();
                    // Where a look was faster, its values stay: they may be newer.
                    self.shared.see(None, Seen { values, digest, files });
                }
                Ok(Err(e)) => return Err(Refusal::unreadable(&e.to_string())),
                Err(_) => return Err(Refusal::unreadable("the read was cut off")),
            }
        }
        Ok(self.shared.seen.load().as_ref().map(|s| Arc::new(s.values.clone())))
    }
}

/// Looks, and as long as somebody may still be writing looks again. `tell`: told when the first look is done.
async fn look_until_settled(me: Weak<Credential>, turn: Turn, tell: oneshot::Sender<()>) {
    let Some((looked, mut turn)) = turned(&me, turn).await else { return };
    // Who asked may have gone.
    let _ = tell.send(());
    if looked != Looked::Unsettled || turn.watcher.ptr_eq(&me) {
        return;
    }
    loop {
        turn.watcher = me.clone();
        let looking = OwnedMutexGuard::mutex(&turn).clone();
        drop(turn);
        sleep(AGAIN).await;
        turn = looking.lock_owned().await;
        if !turn.watcher.ptr_eq(&me) {
            return; // A reload made another credential of it, whose watch it is now.
        }
        turn.watcher = Weak::new();
        turn = match turned(&me, turn).await {
            Some((Looked::Unsettled, turn)) => turn,
            _ => return,
        };
    }
}

/// A look on a thread that may block, told to the world. `None`: the credential is gone, or the runtime is going down.
async fn turned(credential: &Weak<Credential>, mut turn: Turn) -> Option<(Looked, Turn)> {
    let credential = credential.upgrade()?;
    let looks = credential.clone();
    let looked = tokio::task::spawn_blocking(move || (looks.look_once(&mut turn), turn)).await.ok()?;
    credential.tell(&looked.0);
    Some(looked)
}

#[cfg(test)]
#[path = "look_tests.rs"]
mod tests;
