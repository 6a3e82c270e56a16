//! Names for secrets: salted, slow to guess (PBKDF2-HMAC-SHA256, RFC 8018 section 5.2), worked out
//! once per secret in a process.

use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::{Arc, OnceLock},
};

use aws_lc_rs::{
    hmac,
    pbkdf2::{self, PBKDF2_HMAC_SHA256},
};

use crate::{
    hash::{hex, sha256},
    lock::Lock,
    token::GuardKey,
};

/// Random, made with the folder; the same for all that lies in it.
pub(super) type Salt = [u8; 16];

/// Client secrets are long and random, unlike the passwords for which OWASP asks for six times as
/// many; and a sidecar may have a tenth of a processor, on which this takes half a second for each
/// secret. Tests need no protection.
const ROUNDS: NonZeroU32 = NonZeroU32::new(if cfg!(test) { 1 } else { 100_000 }).unwrap();
/// Secrets rotate: what is not remembered is worked out again.
const MOST: usize = 1024;

/// What a secret's digest was stretched to.
type Stretched = Arc<OnceLock<hmac::Key>>;

/// Stretched digests of one salt.
#[derive(Default)]
pub(super) struct Fingerprints {
    known: Lock<HashMap<(Salt, [u8; 32]), Stretched>>,
}

/// How a key is called on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Names {
    /// Of the token URL with the secret.
    pub record: String,
    pub partition: Option<String>,
    /// Of the secret alone, for the account's record.
    pub value: String,
    /// Of the account.
    pub account: String,
}

impl Fingerprints {
    /// Takes its time (some 50 ms of a processor) for a secret that was not met before: not for an
    /// async task.
    pub fn names(&self, key: &GuardKey, salt: &Salt) -> Names {
        let name = |slow: &hmac::Key, kind: &str, text: &str| {
            let mut context = hmac::Context::with_key(slow);
            context.update(kind.as_bytes());
            context.update(text.as_bytes());
            hex(context.sign().as_ref().get(..16).unwrap_or_default())
        };
        // A client identifier may be as short as a word, so that its name has to be slow to guess
        // too.
        let account = self.stretched(&key.account, salt, |slow| name(slow, "account:", ""));
        self.stretched(&key.secret, salt, |slow| Names {
            record: name(slow, "url:", &key.url),
            partition: key
                .partition
                .as_deref()
                .map(|p| name(slow, "partition:", p)),
            value: name(slow, "value:", ""),
            account,
        })
    }

    fn stretched<T>(
        &self,
        digest: &[u8; 32],
        salt: &Salt,
        then: impl FnOnce(&hmac::Key) -> T,
    ) -> T {
        let cell = {
            let mut known = self.known.lock();
            if known.len() >= MOST {
                known.clear();
            }
            known.entry((*salt, *digest)).or_default().clone()
        };
        then(cell.get_or_init(|| {
            let mut out = [0; 32];
            pbkdf2::derive(PBKDF2_HMAC_SHA256, ROUNDS, salt, digest, &mut out);
            hmac::Key::new(hmac::HMAC_SHA256, &out)
        }))
    }
}

/// A file's name for something that is no secret.
pub(super) fn plain(text: &str) -> String {
    hex(sha256(text.as_bytes()).get(..16).unwrap_or_default())
}

/// The salt that [`hex`] wrote.
pub(super) fn unhex(text: &str) -> Option<Salt> {
    let value = u128::from_str_radix(text, 16).ok()?;
    let salt = value.to_be_bytes();
    (hex(&salt) == text).then_some(salt)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_depend_on_url_secret_salt_and_partition_and_on_nothing_else() {
        let key = |url: &str, secret, partition: Option<&str>| GuardKey {
            url: url.into(),
            secret: [secret; 32],
            partition: partition.map(Into::into),
            account: [9; 32],
        };
        let all = Fingerprints::default();
        let one = all.names(&key("a", 1, None), &[0; 16]);
        assert_eq!(
            one,
            Fingerprints::default().names(&key("a", 1, None), &[0; 16])
        );
        assert_eq!(one.record.len(), 32);
        let other_client = GuardKey {
            account: [8; 32],
            ..key("a", 1, None)
        };
        let renamed = all.names(&other_client, &[0; 16]);
        assert!(
            renamed.account != one.account
                && Names {
                    account: one.account.clone(),
                    ..renamed
                } == one
        );
        assert_ne!(one.value, all.names(&key("a", 2, None), &[0; 16]).value);
        let others = [
            (key("b", 1, None), 0),
            (key("a", 2, None), 0),
            (key("a", 1, None), 9),
        ];
        for (other, salt) in others {
            assert_ne!(one.record, all.names(&other, &[salt; 16]).record);
        }
        let partitioned = all.names(&key("a", 1, Some("customer")), &[0; 16]);
        assert_eq!(partitioned.record, one.record);
        assert!(
            partitioned
                .partition
                .is_some_and(|p| !p.contains("customer"))
        );
    }
}
