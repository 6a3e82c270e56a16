//! `basic_raw`: as `basic` without the form-encoding, for vendors who forgot that (RFC 7617).

use super::{
    basic::{BASIC, body_hint, client_id, encoding_matters, header_value, pairs},
    method::{Method, secret_text},
};

pub(super) const BASIC_RAW: Method = Method {
    word: "basic_raw",
    secrets: BASIC.secrets,
    param_names: &[],
    params: |_, _| Ok(Vec::new()),
    authorization: |secrets| {
        let id = client_id(secrets)?;
        if id.contains(':') {
            return Err(
                "client_auth: a client_id with a colon cannot be sent with basic_raw (RFC 7617 2)",
            );
        }
        Ok(Some(header_value(
            id,
            secret_text(secrets, "client_secret"),
        )))
    },
    derived_secrets: pairs,
    assertion_key: None,
    shown: BASIC.shown,
    refusal_hint: |id, secret, key| {
        Some(if encoding_matters(id, secret) {
            format!(
                "the client id or secret has characters such as + / = %, and is sent as it is; RFC 6749 wants it form-encoded: try {key} = \"basic\""
            )
        } else {
            body_hint(key)
        })
    },
};
