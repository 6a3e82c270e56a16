//! `client_auth`: callers prove that they may use this proxy (RFC 9110 11.7, RFC 7617, RFC 6750).

use std::{sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use futures_util::{StreamExt, stream::FuturesUnordered};
use subtle::ConstantTimeEq;
use tokio::{
    runtime::{Handle, RuntimeFlavor},
    sync::Semaphore,
    time::sleep,
};

use super::reply::{Cause, Reply};
use crate::{
    files::{LOOK_PATIENCE, LookResult, LookTimes},
    logging::OncePerMinute,
    secret::{CallerSecret, CallerSecrets, Secret, Source},
};

/// A secret file is read again after this.
const FRESH: Duration = Duration::from_secs(5);
/// Wrong secrets are answered one after the other, each after this.
const SLOW: Duration = Duration::from_millis(20);
/// So many wait for that at most, as each of them keeps its request's head; the others are answered
/// at once.
const WAITING: usize = 64;
static UNREAD: OncePerMinute = OncePerMinute::new();
static WRONG: OncePerMinute = OncePerMinute::new();

/// The shared secrets as they were last read; the last good value of each stays while its file
/// cannot be read.
#[derive(Debug, Default)]
pub struct Gate {
    secrets: CallerSecrets,
    doubts: Arc<GuessDelay>,
}

/// Those who showed a wrong secret.
#[derive(Debug)]
pub struct GuessDelay {
    places: Semaphore,
    turn: Semaphore,
}

/// Why a request is not let in.
#[derive(Debug)]
pub struct Denied {
    /// 407, or 502 where no secret can be read.
    pub reply: Reply,
    /// A secret was shown, and it is another: wait for [`GuessDelay::pass`] before this is answered.
    pub wrong: bool,
}

impl Gate {
    /// Lets the request in, or not: it shows one of the `sources`, or it does not. `presented` is
    /// the value of `Proxy-Authorization`, where there is exactly one.
    ///
    /// # Errors
    /// 407, or 502 where none of the secrets can be read.
    pub async fn check(&self, sources: &[Source], presented: Option<&[u8]>) -> Result<(), Reply> {
        let all = self.secrets.known(sources);
        let mut looks: FuturesUnordered<_> = all
            .iter()
            .map(|known| value(known, LOOK_PATIENCE))
            .collect();
        let mut worst = Err(unreadable());
        // One that hangs keeps nobody waiting who shows another.
        while let Some(secret) = looks.next().await {
            let Ok(secret) = secret else { continue };
            match judge(&secret, presented) {
                Ok(()) => return Ok(()),
                Err(denied) => worst = Ok(denied),
            }
        }
        let denied = worst?;
        if denied.wrong {
            tell();
            self.doubts.pass().await;
        }
        Err(denied.reply)
    }

    /// Where whoever showed a wrong secret waits.
    pub fn doubts(&self) -> &Arc<GuessDelay> {
        &self.doubts
    }

    /// Lets the request in, or not, as [`Gate::check`] does but without an await, for the head of a
    /// CONNECT. Once in a while a small file is read meanwhile; while another reads it, and nothing
    /// is known of it yet, that is 502.
    ///
    /// # Errors
    /// 407, or 502 where none of the secrets can be read; at once also where the secret is wrong.
    pub fn check_here(&self, sources: &[Source], presented: Option<&[u8]>) -> Result<(), Denied> {
        let mut worst = Denied {
            reply: unreadable(),
            wrong: false,
        };
        for known in self.secrets.known(sources) {
            let Ok(secret) = value_here(&known) else {
                continue;
            };
            match judge(&secret, presented) {
                Ok(()) => return Ok(()),
                Err(denied) => worst = denied,
            }
        }
        if worst.wrong {
            tell();
        }
        Err(worst)
    }
}

/// Who comes while another looks goes on with what is known, or waits no longer than `first`.
async fn value(known: &CallerSecret, first: Duration) -> Result<Arc<Secret>, Reply> {
    if let Some(secret) = known.fresh(FRESH) {
        return Ok(secret);
    }
    let times = LookTimes {
        fresh: FRESH,
        patience: Duration::ZERO,
        first,
    };
    resolve(known, known.refresh(times).await)
}

/// The other tasks of this thread go on elsewhere where there are other threads.
fn value_here(known: &CallerSecret) -> Result<Arc<Secret>, Reply> {
    if let Some(secret) = known.fresh(FRESH) {
        return Ok(secret);
    }
    if let Ok(runtime) = Handle::try_current()
        && runtime.runtime_flavor() == RuntimeFlavor::MultiThread
    {
        return tokio::task::block_in_place(|| runtime.block_on(value(known, Duration::ZERO)));
    }
    resolve(known, known.refresh_here())
}

/// What was read, or else the last good value, which then counts for a while too.
fn resolve(known: &CallerSecret, looked: LookResult<Secret>) -> Result<Arc<Secret>, Reply> {
    let last = match looked {
        LookResult::Value(secret) => return Ok(secret),
        LookResult::Busy => return known.last().ok_or_else(unreadable),
        LookResult::Silent | LookResult::Unusable(_) => known.last(),
    };
    if let Some(times) = UNREAD.note() {
        tracing::warn!(
            times,
            "proxy.client_auth cannot be read; told once a minute"
        );
    }
    let last = last.ok_or_else(unreadable)?;
    known.keep_in_use(Some(last.clone()));
    Ok(last)
}

fn unreadable() -> Reply {
    Reply::new(Cause::SecretUnreadable, "proxy.client_auth cannot be read")
}

impl Default for GuessDelay {
    fn default() -> Self {
        Self {
            places: Semaphore::new(WAITING),
            turn: Semaphore::new(1),
        }
    }
}

impl GuessDelay {
    /// Waits for one's turn, and a while. Who shows the right secret is not kept waiting by it. It
    /// takes the speed from a few connections; against many at once it is the secret's length that
    /// helps.
    pub async fn pass(&self) {
        let Ok(_place) = self.places.try_acquire() else {
            return;
        };
        let _turn = self.turn.acquire().await;
        sleep(SLOW).await;
    }
}

fn denied(wrong: bool) -> Denied {
    let reply = Reply::new(
        Cause::ProxyAuthRequired,
        "send the shared secret as Proxy-Authorization: Bearer, or as the password of Basic",
    );
    Denied { reply, wrong }
}

fn judge(secret: &Secret, presented: Option<&[u8]>) -> Result<(), Denied> {
    let shown = presented.and_then(password).ok_or_else(|| denied(false))?;
    if !secret.expose().is_empty() && bool::from(shown.as_slice().ct_eq(secret.expose().as_bytes()))
    {
        return Ok(());
    }
    Err(denied(true))
}

fn tell() {
    if let Some(times) = WRONG.note() {
        tracing::warn!(
            times,
            "the data port was shown a wrong proxy.client_auth; told once a minute"
        );
    }
}

/// What stands after Bearer, or the password of Basic.
fn password(value: &[u8]) -> Option<Vec<u8>> {
    let at = value.iter().position(|b| *b == b' ')?;
    let (scheme, rest) = value.split_at(at);
    let rest = rest.trim_ascii();
    if scheme.eq_ignore_ascii_case(b"bearer") {
        return Some(rest.to_vec());
    }
    if !scheme.eq_ignore_ascii_case(b"basic") {
        return None;
    }
    let pair = STANDARD.decode(rest).ok()?;
    let colon = pair.iter().position(|b| *b == b':')?;
    pair.get(colon + 1..).map(<[u8]>::to_vec)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::BootInstant;

    fn code(presented: Option<&str>) -> u16 {
        let secret = Secret::new("s3:cret".to_owned());
        judge(&secret, presented.map(str::as_bytes))
            .map_or_else(|denied| denied.reply.cause.status().as_u16(), |()| 200)
    }

    #[test]
    fn bearer_or_the_password_of_basic_lets_in_and_nothing_else() {
        assert_eq!(code(Some("Bearer s3:cret")), 200);
        assert_eq!(code(Some("bearer  s3:cret")), 200);
        assert_eq!(
            code(Some(&format!(
                "Basic {}",
                STANDARD.encode("anyone:s3:cret")
            ))),
            200
        );
        for wrong in [
            "Bearer s3:cre",
            "Bearer s3:crets",
            "Bearer",
            "s3:cret",
            "Basic s3:cret",
            "Digest s3:cret",
            "Basic !!",
            "",
        ] {
            assert_eq!(code(Some(wrong)), 407, "{wrong}");
        }
        assert_eq!(code(None), 407);
        assert!(judge(&Secret::new(String::new()), Some(b"Bearer ")).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn while_its_file_hangs_callers_go_on_with_what_was_read_or_are_refused_in_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        std::fs::write(&path, "s3:cret").unwrap();
        let (source, right) = ([Source::File(path)], Some(&b"Bearer s3:cret"[..]));
        let gate = Gate::default();
        assert!(gate.check(&source, right).await.is_ok());
        tokio::time::advance(FRESH * 2).await;
        // As a look does that never ends.
        let hung = gate.secrets.known(&source)[0].hang();
        let began = BootInstant::now();
        for _ in 0..1000 {
            assert!(gate.check(&source, right).await.is_ok());
            assert!(
                gate.check_here(&source, Some(b"Bearer other"))
                    .is_err_and(|denied| denied.wrong)
            );
            assert!(gate.check_here(&source, right).is_ok());
        }
        assert!(
            began.until(BootInstant::now()) < Duration::from_millis(1),
            "nobody waits"
        );
        drop(hung);
        let new = Gate::default();
        let hung = new.secrets.known(&source)[0].hang();
        let refused =
            futures_util::future::join_all((0..1000).map(|_| new.check(&source, right))).await;
        assert!(refused.iter().all(|refused| {
            refused
                .as_ref()
                .is_err_and(|reply| reply.cause.status().as_u16() == 502)
        }));
        assert_eq!(
            began.until(BootInstant::now()).as_secs(),
            LOOK_PATIENCE.as_secs()
        );
        drop(hung);
        let all = futures_util::future::join_all((0..100).map(|_| new.check(&source, right))).await;
        assert!(
            all.iter().all(Result::is_ok),
            "the first to look serves all who waited"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn any_of_several_lets_in_and_each_file_may_be_changed_or_hang_for_itself() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("a"), "first-secret").unwrap();
        let sources = [
            Source::File(path("a")),
            Source::File(path("b")),
            Source::Value(Secret::new("third-secret".to_owned())),
        ];
        let gate = Gate::default();
        let both = async |shown: &str| {
            let shown = format!("Bearer {shown}");
            let asked = gate
                .check(&sources, Some(shown.as_bytes()))
                .await
                .map_err(|reply| reply.cause.status().as_u16());
            let here = gate
                .check_here(&sources, Some(shown.as_bytes()))
                .map_err(|denied| denied.reply.cause.status().as_u16());
            assert_eq!(asked, here, "{shown}");
            asked
        };
        for (shown, expected) in [
            ("first-secret", Ok(())),
            ("third-secret", Ok(())),
            ("second-secret", Err(407)),
            ("", Err(407)),
        ] {
            assert_eq!(both(shown).await, expected, "{shown}");
        }
        std::fs::rename(path("a"), path("b")).unwrap();
        std::fs::write(path("new"), "second-secret").unwrap();
        std::fs::rename(path("new"), path("a")).unwrap();
        for _ in 0..3 {
            tokio::time::advance(FRESH * 2).await;
            let _ = both("any").await;
        }
        assert_eq!(
            (both("first-secret").await, both("second-secret").await),
            (Ok(()), Ok(())),
            "each of them"
        );
        let unread = [Source::File(path("c"))];
        assert_eq!(
            gate.check(&unread, Some(b"Bearer x"))
                .await
                .unwrap_err()
                .cause
                .status()
                .as_u16(),
            502
        );
        // A look that never ends.
        let new = Gate::default();
        let _hung = new.secrets.known(&sources)[0].hang();
        let began = BootInstant::now();
        assert!(
            new.check(&sources, Some(b"Bearer third-secret"))
                .await
                .is_ok()
        );
        assert!(began.until(BootInstant::now()) < Duration::from_millis(1));
    }

    async fn seconds_of(gate: Arc<Gate>, presented: Option<&'static [u8]>) -> (Duration, bool) {
        let begun = sleep(Duration::ZERO).deadline();
        let source = Source::Value(Secret::new("s3:cret".to_owned()));
        let right = gate.check(&[source], presented).await.is_ok();
        (sleep(Duration::ZERO).deadline() - begun, right)
    }

    #[tokio::test(start_paused = true)]
    async fn wrong_secrets_wait_one_after_the_other_and_neither_the_right_one_nor_none_does() {
        let gate = Arc::new(Gate::default());
        let wrong: Vec<_> = (0..WAITING + 20)
            .map(|_| tokio::spawn(seconds_of(gate.clone(), Some(b"Bearer wrong"))))
            .collect();
        tokio::task::yield_now().await;
        assert_eq!(
            seconds_of(gate.clone(), Some(b"Bearer s3:cret")).await,
            (Duration::ZERO, true)
        );
        assert_eq!(
            seconds_of(gate.clone(), None).await,
            (Duration::ZERO, false)
        );
        let mut waited = Vec::new();
        for one in wrong {
            let (time, right) = one.await.unwrap();
            assert!(!right);
            waited.push(time);
        }
        waited.sort();
        let kept = waited.split_off(20);
        assert!(
            waited.iter().all(Duration::is_zero),
            "there is no place for more"
        );
        for (time, n) in kept.iter().zip(1..) {
            assert!(
                *time >= SLOW * n && *time < SLOW * n + Duration::from_millis(u64::from(2 * n)),
                "{n}: {time:?}"
            );
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _ = password(&bytes);
        }
    }
}
