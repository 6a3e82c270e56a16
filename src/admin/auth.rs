//! Who may change something, and see the status where `[admin] auth` is set: who shows its token,
//! or is a user of `uids` on a Unix socket ([Admin port](crate::promises#admin-port)).

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use futures_util::future::join_all;
use http::{HeaderMap, Method, StatusCode, header};
use tokio::{sync::Semaphore, time::sleep};

use super::{Admin, page, serve::AdminPeer, text_response};
use crate::{
    clock::BootInstant,
    config,
    files::{LOOK_PATIENCE, LookResult, LookTimes},
    lock::Lock,
    secret::{CallerSecret, CallerSecrets, Secret, Secrets, Source},
};

/// Wrong tokens are answered one after the other, each after this: 50 a second however many guess.
const SLOW: Duration = Duration::from_millis(20);
/// Wrong tokens are told so often at most.
const TELL: Duration = Duration::from_secs(60);
/// Who comes while another looks at a file of which something is believed waits so long for a look
/// of his own.
const MOMENT: Duration = Duration::from_millis(250);
const TIMES: LookTimes = LookTimes {
    fresh: Duration::ZERO,
    patience: MOMENT,
    first: LOOK_PATIENCE,
};
const NAME: &str = "auth";

/// What a request showed. Where there is no `auth`, whoever reaches a TCP port may ask, but is not
/// trusted with everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallerTrust(pub bool);

/// What is remembered of those who showed a wrong token.
pub struct GuessBrake {
    turn: Semaphore,
    told: Lock<(Option<BootInstant>, u64)>,
}

impl Default for GuessBrake {
    fn default() -> Self {
        Self {
            turn: Semaphore::new(1),
            told: Lock::default(),
        }
    }
}

impl GuessBrake {
    /// One more; who is right is not kept waiting by it.
    async fn slow_down(&self) {
        let untold = {
            let (told, since) = &mut *self.told.lock();
            *since += 1;
            let now = BootInstant::now();
            let tell = told.is_none_or(|told| told.until(now) >= TELL);
            if tell {
                *told = Some(now);
            }
            tell.then(|| std::mem::take(since))
        };
        if let Some(tries) = untold {
            tracing::warn!(tries, "the admin port was shown a wrong token");
        }
        let _turn = self.turn.acquire().await;
        sleep(SLOW).await;
    }
}

/// Those of `sources` that can be believed, each for itself: one that cannot be read leaves the
/// others.
async fn read_tokens(tokens: &CallerSecrets, sources: &[Source]) -> Vec<Arc<Secret>> {
    let tokens = tokens.known(sources);
    join_all(tokens.iter().map(|token| read_token(token)))
        .await
        .into_iter()
        .flatten()
        .collect()
}

/// What is believed after a look at its file, or after a while of waiting for one: a file that hangs
/// keeps one thread and not a caller for ever. One that is gone, and not only for a moment, lets
/// nobody in.
async fn read_token(token: &CallerSecret) -> Option<Arc<Secret>> {
    match token.refresh(TIMES).await {
        LookResult::Value(secret) => Some(secret),
        LookResult::Busy | LookResult::Silent => token.last(),
        LookResult::Unusable(_) => {
            token.keep_in_use(None);
            None
        }
    }
}

/// Lets through who may, with [`CallerTrust`] as an extension of the request.
pub async fn require_auth(
    State(admin): State<Admin>,
    mut request: Request,
    next: Next,
) -> Response {
    let config = &admin.snapshot.load_full().config.admin;
    let peer = request
        .extensions()
        .get::<AdminPeer>()
        .copied()
        .unwrap_or(AdminPeer::Network);
    let trusted = match authorize(config, &admin.tokens, peer, request.headers()).await {
        Ok(trusted) => trusted,
        Err(refused) => {
            if refused == AuthRefusal::Wrong {
                admin.doubts.slow_down().await;
            }
            let at_page = request.uri().path() == "/" && request.method() == Method::GET;
            return refused.into_response(peer, at_page);
        }
    };
    request.extensions_mut().insert(CallerTrust(trusted));
    next.run(request).await
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AuthRefusal {
    /// No token was shown.
    Missing,
    Wrong,
    /// None of the secrets can be read.
    Unreadable,
    /// There is no token that would do, only users.
    Stranger,
}

async fn authorize(
    config: &config::AdminConfig,
    tokens: &CallerSecrets,
    peer: AdminPeer,
    headers: &HeaderMap,
) -> Result<bool, AuthRefusal> {
    if let AdminPeer::User(uid) = peer
        && is_own_user(uid, &config.uids)
    {
        return Ok(true);
    }
    if config.auth.is_empty() {
        return if peer == AdminPeer::Network {
            Ok(false)
        } else {
            Err(AuthRefusal::Stranger)
        };
    }
    let shown = bearer_token(headers).ok_or(AuthRefusal::Missing)?;
    let secrets = read_tokens(tokens, &config.auth).await;
    if secrets.is_empty() {
        return Err(AuthRefusal::Unreadable);
    }
    // All are compared, each in constant time: how long it takes says nothing.
    let right = secrets
        .iter()
        .fold(false, |right, secret| (**secret == shown) | right);
    if right {
        Ok(true)
    } else {
        Err(AuthRefusal::Wrong)
    }
}

fn is_own_user(uid: u32, uids: &[u32]) -> bool {
    if uids.is_empty() {
        uid == 0 || uid == rustix::process::geteuid().as_raw()
    } else {
        uids.contains(&uid)
    }
}

/// What stands behind Bearer (RFC 6750 2.1), where there is one such field and something stands
/// there.
fn bearer_token(headers: &HeaderMap) -> Option<Secret> {
    let mut fields = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(field), None) = (fields.next(), fields.next()) else {
        return None;
    };
    let (scheme, token) = field.to_str().ok()?.split_once(' ')?;
    let token = token.trim_matches(' ');
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty())
        .then(|| Secret::new(token.to_owned()))
}

/// One of `[admin] auth`, read now.
///
/// # Errors
/// It cannot be read, in words without its value.
pub fn load_token(source: &Source) -> Result<Secret, String> {
    let values = Secrets::one(NAME, source)
        .read()
        .map_err(|unreadable| unreadable.why)?;
    values
        .get(NAME)
        .filter(|secret| !secret.expose().is_empty())
        .cloned()
        .ok_or_else(|| "is empty".to_owned())
}

impl AuthRefusal {
    fn into_response(self, peer: AdminPeer, at_page: bool) -> Response {
        if self == Self::Stranger {
            let AdminPeer::User(uid) = peer else {
                return text_response(StatusCode::FORBIDDEN, "not for you\n");
            };
            return text_response(
                StatusCode::FORBIDDEN,
                format!(
                    "user {uid} is none of [admin] uids (our own user and root where it is not set)\n"
                ),
            );
        }
        if self == Self::Unreadable {
            return text_response(
                StatusCode::SERVICE_UNAVAILABLE,
                "[admin] auth cannot be read, so nobody can show it\n",
            );
        }
        let mut response = if at_page {
            page::token_page(self == Self::Wrong)
        } else if self == Self::Wrong {
            text_response(
                StatusCode::UNAUTHORIZED,
                "this is not the token of [admin] auth\n",
            )
        } else {
            text_response(
                StatusCode::UNAUTHORIZED,
                "send the token of [admin] auth as Authorization: Bearer\n",
            )
        };
        *response.status_mut() = StatusCode::UNAUTHORIZED;
        response.headers_mut().insert(
            header::WWW_AUTHENTICATE,
            header::HeaderValue::from_static("Bearer"),
        );
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn authorize(
        config: &config::AdminConfig,
        peer: AdminPeer,
        headers: &HeaderMap,
    ) -> Result<bool, AuthRefusal> {
        super::authorize(config, &CallerSecrets::default(), peer, headers).await
    }

    fn config(auth: &[&str], uids: &[u32]) -> config::AdminConfig {
        let auth = auth
            .iter()
            .map(|secret| Source::Value(Secret::new((*secret).to_owned())))
            .collect();
        let listen = config::ListenAddress::Unix("/admin.sock".into());
        config::AdminConfig {
            listen,
            auth,
            uids: uids.to_vec(),
            ready: config::Ready::Started,
            hosts: vec![],
        }
    }

    fn shows(values: &[&str]) -> HeaderMap {
        values
            .iter()
            .map(|value| (header::AUTHORIZATION, value.parse().unwrap()))
            .collect()
    }

    #[tokio::test]
    async fn any_of_the_tokens_lets_in_and_nothing_else_does() {
        let two = config(&["first-token", "other-token"], &[]);
        for right in [
            "Bearer first-token",
            "bearer other-token",
            "BEARER   first-token ",
        ] {
            assert_eq!(
                authorize(&two, AdminPeer::Network, &shows(&[right])).await,
                Ok(true),
                "{right}"
            );
        }
        for wrong in [
            "Bearer first-toke",
            "Bearer first-tokens",
            "Bearer first-token other-token",
            "Bearer FIRST-TOKEN",
        ] {
            assert_eq!(
                authorize(&two, AdminPeer::Network, &shows(&[wrong])).await,
                Err(AuthRefusal::Wrong),
                "{wrong}"
            );
        }
        for none in [
            &[][..],
            &["Bearer"],
            &["Bearer "],
            &["Basic first-token"],
            &["first-token"],
            &["Bearer first-token", "Bearer first-token"],
        ] {
            assert_eq!(
                authorize(&two, AdminPeer::Network, &shows(none)).await,
                Err(AuthRefusal::Missing),
                "{none:?}"
            );
        }
        assert_eq!(
            authorize(
                &config(&[""], &[]),
                AdminPeer::Network,
                &shows(&["Bearer x"])
            )
            .await,
            Err(AuthRefusal::Unreadable),
            "an empty one is none"
        );
    }

    #[tokio::test]
    async fn over_a_unix_socket_the_user_counts_and_otherwise_the_token() {
        let me = rustix::process::geteuid().as_raw();
        let none = HeaderMap::new();
        for (uids, uid, right) in [
            (&[][..], me, true),
            (&[], 0, true),
            (&[], me + 7, false),
            (&[me + 7], me + 7, true),
            (&[me + 7], me, me + 7 == me),
        ] {
            let (alone, with_token) = (config(&[], uids), config(&["token"], uids));
            let expected = if right {
                Ok(true)
            } else {
                Err(AuthRefusal::Stranger)
            };
            assert_eq!(
                authorize(&alone, AdminPeer::User(uid), &none).await,
                expected,
                "{uids:?} {uid}"
            );
            let expected = if right {
                Ok(true)
            } else {
                Err(AuthRefusal::Missing)
            };
            assert_eq!(
                authorize(&with_token, AdminPeer::User(uid), &none).await,
                expected,
                "{uids:?} {uid}"
            );
            assert_eq!(
                authorize(&with_token, AdminPeer::User(uid), &shows(&["Bearer token"])).await,
                Ok(true)
            );
        }
        assert_eq!(
            authorize(&config(&[], &[]), AdminPeer::Network, &none).await,
            Ok(false),
            "whoever reaches a port may ask, and is not trusted"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn while_its_file_hangs_what_was_believed_counts_and_nobody_waits_long() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "first-token").unwrap();
        let config = config::AdminConfig {
            auth: vec![Source::File(path)],
            ..config(&[], &[])
        };
        for (known, expected, waited) in [
            (true, Ok(true), MOMENT),
            (false, Err(AuthRefusal::Unreadable), LOOK_PATIENCE),
        ] {
            let tokens = CallerSecrets::default();
            if known {
                assert_eq!(
                    super::authorize(
                        &config,
                        &tokens,
                        AdminPeer::Network,
                        &shows(&["Bearer first-token"])
                    )
                    .await,
                    Ok(true)
                );
            }
            // As a look does that never ends.
            let _hung = tokens.known(&config.auth)[0].hang();
            let (began, right) = (BootInstant::now(), shows(&["Bearer first-token"]));
            let all = join_all(
                (0..1000).map(|_| super::authorize(&config, &tokens, AdminPeer::Network, &right)),
            )
            .await;
            assert!(all.iter().all(|one| *one == expected), "{expected:?}");
            let took = began.until(BootInstant::now());
            assert!(took >= waited && took < waited * 2, "{took:?}");
        }
    }

    #[tokio::test]
    async fn half_of_a_token_that_is_being_written_lets_nobody_in() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "first-token").unwrap();
        let source = Source::File(path.clone());
        let config = config::AdminConfig {
            auth: vec![source],
            ..config(&[], &[])
        };
        let tokens = CallerSecrets::default();
        let asked = async |shown: &str| {
            super::authorize(&config, &tokens, AdminPeer::Network, &shows(&[shown])).await
        };
        assert_eq!(asked("Bearer first-token").await, Ok(true));
        // Written in place, and not at rest yet.
        std::fs::write(&path, "oth").unwrap();
        assert_eq!(asked("Bearer oth").await, Err(AuthRefusal::Wrong));
        assert_eq!(
            asked("Bearer first-token").await,
            Ok(true),
            "what was believed before still counts"
        );
        // Replaced: at once.
        std::fs::write(folder.path().join("new"), "other-token").unwrap();
        std::fs::rename(folder.path().join("new"), &path).unwrap();
        assert_eq!(asked("Bearer other-token").await, Ok(true));
        assert_eq!(asked("Bearer first-token").await, Err(AuthRefusal::Wrong));
    }
}
