//! `none`: the client is not shown, or the profile shows it in a way of its own.

use super::method::Method;

pub(super) const NONE: Method = Method {
    word: "none",
    secrets: &[],
    param_names: &[],
    params: |_, _| Ok(Vec::new()),
    authorization: |_| Ok(None),
    derived_secrets: |_| Vec::new(),
    assertion_key: None,
    shown: None,
    refusal_hint: |_, _, _| None,
};
