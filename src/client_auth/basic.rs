//! `basic`: identifier and secret in Authorization (RFC 6749 2.3.1), each form-encoded (appendix B)
//! before base64.

use base64::{Engine, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

use super::method::{Method, secret_text};
use crate::secret::{Secret, Values};

pub(super) const BASIC: Method = Method {
    word: "basic",
    secrets: &["client_id", "client_secret"],
    param_names: &[],
    params: |_, _| Ok(Vec::new()),
    authorization: |secrets| {
        let (id, secret) = (client_id(secrets)?, secret_text(secrets, "client_secret"));
        Ok(Some(header_value(&encode(id), &encode(secret))))
    },
    derived_secrets: pairs,
    assertion_key: None,
    shown: Some("as HTTP Basic"),
    refusal_hint: |id, secret, key| {
        Some(if encoding_matters(id, secret) {
            format!(
                "the client id or secret has characters such as + / = %, which RFC 6749 wants form-encoded; many vendors take them as they are: try \
                 {key} = \"basic_raw\""
            )
        } else {
            body_hint(key)
        })
    },
};

fn encode(text: &str) -> Zeroizing<String> {
    Zeroizing::new(form_urlencoded::byte_serialize(text.as_bytes()).collect())
}

/// The identifier, which there has to be.
pub(super) fn client_id(secrets: &Values) -> Result<&str, &'static str> {
    let id = secrets.get("client_id").map(Secret::expose);
    id.ok_or("client_auth: there is no secret client_id")
}

/// RFC 7617 2.
pub(super) fn header_value(id: &str, secret: &str) -> Zeroizing<String> {
    let pair = Zeroizing::new(format!("{id}:{secret}"));
    Zeroizing::new(format!("Basic {}", STANDARD.encode(pair.as_bytes())))
}

/// The pair as it is and form-encoded: a vendor may repeat it decoded.
pub(super) fn pairs(secrets: &Values) -> Vec<Zeroizing<String>> {
    let [id, secret] = ["client_id", "client_secret"].map(|name| secret_text(secrets, name));
    vec![
        Zeroizing::new(format!("{id}:{secret}")),
        Zeroizing::new(format!("{}:{}", *encode(id), *encode(secret))),
    ]
}

/// Form-encoding makes something else of one of them.
pub(super) fn encoding_matters(id: &str, secret: &str) -> bool {
    *encode(id) != id || *encode(secret) != secret
}

/// What to try where the encoding cannot be it.
pub(super) fn body_hint(key: &str) -> String {
    format!(
        "the id and the secret are sent as HTTP Basic; if both are right, the vendor may want them in the body: try {key} = \"body\""
    )
}
