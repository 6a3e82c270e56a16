//! The tokens that are alive, shared by the issuers that make them and the vendors that look at
//! them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What is known of one token.
#[derive(Debug, Clone)]
pub struct Issued {
    /// Which of an issuer's tokens it is: the name of the endpoint.
    pub name: String,
    pub client: String,
    pub scope: String,
    pub at: Instant,
    pub until: Instant,
    pub revoked: bool,
}

/// How a token stands at this very moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Alive,
    Expired,
    Revoked,
    /// Never issued, or under another name.
    Unknown,
}

/// Every token ever issued. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Tokens(Arc<Mutex<HashMap<String, Issued>>>);

impl Tokens {
    pub fn add(&self, token: &str, name: &str, client: &str, scope: &str, life: Duration) {
        let at = Instant::now();
        let issued = Issued {
            name: name.into(),
            client: client.into(),
            scope: scope.into(),
            at,
            until: at + life,
            revoked: false,
        };
        let twin = self.0.lock().unwrap().insert(token.into(), issued);
        assert!(twin.is_none(), "tokens are unique");
    }

    /// Expiry is judged to the precision of the clock.
    pub fn standing(&self, token: &str, name: &str) -> Standing {
        match self.0.lock().unwrap().get(token) {
            Some(t) if t.name != name => Standing::Unknown,
            Some(t) if t.revoked => Standing::Revoked,
            Some(t) if t.until <= Instant::now() => Standing::Expired,
            Some(_) => Standing::Alive,
            None => Standing::Unknown,
        }
    }

    pub fn get(&self, token: &str) -> Option<Issued> {
        self.0.lock().unwrap().get(token).cloned()
    }

    pub fn revoke(&self, token: &str) {
        if let Some(t) = self.0.lock().unwrap().get_mut(token) {
            t.revoked = true;
        }
    }

    /// Revokes every token of this name.
    pub fn revoke_all(&self, name: &str) {
        self.0
            .lock()
            .unwrap()
            .values_mut()
            .filter(|t| t.name == name)
            .for_each(|t| t.revoked = true);
    }

    /// All tokens of this name, oldest first.
    pub fn all(&self, name: &str) -> Vec<String> {
        let tokens = self.0.lock().unwrap();
        let mut found: Vec<_> = tokens.iter().filter(|(_, t)| t.name == name).collect();
        found.sort_by_key(|(_, t)| t.at);
        found.into_iter().map(|(token, _)| token.clone()).collect()
    }
}
