//! `client_secret_jwt`: an assertion signed with the secret that both sides know (RFC 7523 2.2).

use super::method::{ASSERTION_PARAMS, AssertionKey, Method, assertion_params};

pub(super) const CLIENT_SECRET_JWT: Method = Method {
    word: "client_secret_jwt",
    // It stands in the claims `iss` and `sub`; the key is the assertion table's own.
    secrets: &["client_id"],
    param_names: &ASSERTION_PARAMS,
    params: assertion_params,
    authorization: |_| Ok(None),
    // The assertion is hidden by who signs it.
    derived_secrets: |_| Vec::new(),
    assertion_key: Some(AssertionKey::Shared),
    shown: Some("by an assertion"),
    refusal_hint: |_, _, _| None,
};
