//! How a client shows a token endpoint who it is (RFC 6749 2.3, RFC 7523 2.2): each method whole, in
//! a file of its own.

mod basic;
mod basic_raw;
mod body;
mod client_secret_jwt;
mod method;
mod none;
mod private_key_jwt;

pub use method::{AssertionKey, Method};

/// `client_auth`: a method by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuth {
    /// Identifier and secret as parameters (RFC 6749 2.3.1).
    Body,
    /// Both in Authorization, form-encoded (RFC 6749 2.3.1).
    Basic,
    /// Both in Authorization, as they are (RFC 7617).
    BasicRaw,
    /// An assertion signed with a private key (RFC 7523 2.2).
    PrivateKeyJwt,
    /// An assertion signed with the secret (RFC 7523 2.2, OpenID Connect Core 9).
    ClientSecretJwt,
    /// The client is not shown, or the profile shows it itself.
    None,
}

impl ClientAuth {
    /// All methods, in the order in which they are told.
    pub const ALL: [Self; 6] = [
        Self::Body,
        Self::Basic,
        Self::BasicRaw,
        Self::PrivateKeyJwt,
        Self::ClientSecretJwt,
        Self::None,
    ];

    /// Each with its name.
    #[must_use]
    pub fn words() -> [(&'static str, Self); Self::ALL.len()] {
        Self::ALL.map(|auth| (auth.method().word, auth))
    }

    /// What there is to know of it.
    #[must_use]
    pub fn method(self) -> &'static Method {
        match self {
            Self::Body => &body::BODY,
            Self::Basic => &basic::BASIC,
            Self::BasicRaw => &basic_raw::BASIC_RAW,
            Self::PrivateKeyJwt => &private_key_jwt::PRIVATE_KEY_JWT,
            Self::ClientSecretJwt => &client_secret_jwt::CLIENT_SECRET_JWT,
            Self::None => &none::NONE,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::secret::{Secret, Values};

    /// The compiler asks for a new method here, too.
    fn place(auth: ClientAuth) -> usize {
        match auth {
            ClientAuth::Body => 0,
            ClientAuth::Basic => 1,
            ClientAuth::BasicRaw => 2,
            ClientAuth::PrivateKeyJwt => 3,
            ClientAuth::ClientSecretJwt => 4,
            ClientAuth::None => 5,
        }
    }

    #[test]
    fn every_method_is_listed_under_a_name_of_its_own() {
        for auth in ClientAuth::ALL {
            assert_eq!(ClientAuth::ALL[place(auth)], auth);
        }
        let words = BTreeSet::from(ClientAuth::words().map(|(word, _)| word));
        assert_eq!(words.len(), ClientAuth::ALL.len());
    }

    #[test]
    fn what_a_method_sends_is_what_it_says_it_sends() {
        let secret = |name: &str| (name.to_owned(), Secret::new(format!("{name}-value")));
        let secrets = Values([secret("client_id"), secret("client_secret")].into());
        for auth in ClientAuth::ALL {
            let method = auth.method();
            let sent = (method.params)(&secrets, Some("a.b.c")).unwrap();
            let names: Vec<&str> = sent.iter().map(|(name, _)| *name).collect();
            assert_eq!(names, method.param_names, "{}", method.word);
            let header = (method.authorization)(&secrets).unwrap();
            let shows = !sent.is_empty() || header.is_some();
            assert_eq!(method.shown.is_some(), shows, "{}", method.word);
            assert_eq!(
                (method.params)(&secrets, None).is_err(),
                method.assertion_key.is_some(),
                "{}",
                method.word
            );
            for word in (method.derived_secrets)(&secrets) {
                assert!(word.contains("client_secret-value"), "{}", method.word);
            }
            if header.is_some() {
                assert!(
                    !(method.derived_secrets)(&secrets).is_empty(),
                    "{}",
                    method.word
                );
            }
        }
    }
}
