//! `private_key_jwt`: an assertion signed with the private key of the client (RFC 7523 2.2).

use super::method::{ASSERTION_PARAMS, AssertionKey, Method, assertion_params};

pub(super) const PRIVATE_KEY_JWT: Method = Method {
    word: "private_key_jwt",
    // It stands in the claims `iss` and `sub`; the key is the assertion table's own.
    secrets: &["client_id"],
    param_names: &ASSERTION_PARAMS,
    params: assertion_params,
    authorization: |_| Ok(None),
    // The assertion is hidden by who signs it.
    derived_secrets: |_| Vec::new(),
    assertion_key: Some(AssertionKey::Private),
    shown: Some("by an assertion"),
    refusal_hint: |_, _, _| {
        Some(
            "the vendor must know the public half of this key (by its kid, where one is sent), and the assertion's aud must be what it expects"
                .to_owned(),
        )
    },
};
