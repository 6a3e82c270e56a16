//! `body`: `client_id` and `client_secret` as parameters (RFC 6749 2.3.1), where the profile has none
//! of these names.

use super::method::Method;

const NAMES: &[&str] = &["client_id", "client_secret"];

pub(super) const BODY: Method = Method {
    word: "body",
    secrets: NAMES,
    param_names: NAMES,
    params: |secrets, _| {
        let value = |name: &&'static str| Some((*name, secrets.get(name)?.expose().to_owned()));
        Ok(NAMES.iter().filter_map(value).collect())
    },
    authorization: |_| Ok(None),
    derived_secrets: |_| Vec::new(),
    assertion_key: None,
    shown: Some("in the body"),
    refusal_hint: |_, _, key| {
        Some(format!(
            "the id and the secret are sent in the body; if both are right, the vendor may want them as HTTP Basic: try {key} = \"basic\""
        ))
    },
};
