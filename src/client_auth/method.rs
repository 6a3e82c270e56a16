//! What there is to know of a method, and what several of them share.

use zeroize::Zeroizing;

use crate::secret::{Secret, Values};

/// Everything that the program has to know of a method. Nothing has a default: who adds one is
/// asked for all of it.
pub struct Method {
    /// Its name in a profile.
    pub word: &'static str,
    /// Secrets that it takes by these fixed names, in a request or in an assertion's claims. One
    /// with the name of a parameter of its own is sent as that.
    pub secrets: &'static [&'static str],
    /// Parameters of its own: a profile that has one too would send it twice, and a request that
    /// takes no parameters cannot be made with it.
    pub param_names: &'static [&'static str],
    /// The values of those parameters, as far as there are any, from the secrets and the signed
    /// assertion. The error says that there is no assertion, and it takes one.
    pub params: fn(&Values, Option<&str>) -> Params,
    /// The value of Authorization; `None`: it puts nothing there. The error says that a secret is
    /// not given, or cannot be sent so.
    pub authorization: fn(&Values) -> Result<Option<Zeroizing<String>>, &'static str>,
    /// What else than the secrets themselves must not be seen in a vendor's answer: what it makes
    /// of them.
    pub derived_secrets: fn(&Values) -> Vec<Zeroizing<String>>,
    /// What its assertion is signed with; `None`: it takes none.
    pub assertion_key: Option<AssertionKey>,
    /// Where it shows the client, as the end of "the client shows who it is …"; `None`: nowhere,
    /// so that the profile may.
    pub shown: Option<&'static str>,
    /// What to try where the vendor refuses the client with this identifier and this secret. Last:
    /// the key of the configuration that chooses the method.
    pub refusal_hint: fn(&str, &str, &str) -> Option<String>,
}

/// Parameters by name, or why there are none.
pub type Params = Result<Vec<(&'static str, String)>, &'static str>;

/// What an assertion is signed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AssertionKey {
    /// The client's private key.
    Private,
    /// The secret that both sides know.
    Shared,
}

/// What a method that shows an assertion sends (RFC 7523 2.2).
pub(super) const ASSERTION_PARAMS: [&str; 2] = ["client_assertion_type", "client_assertion"];

/// The values of [`ASSERTION_PARAMS`]; there is one kind of assertion only.
pub(super) fn assertion_params(_: &Values, assertion: Option<&str>) -> Params {
    let assertion = assertion.ok_or("client_auth needs an assertion table")?;
    let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
    Ok(ASSERTION_PARAMS
        .into_iter()
        .zip([kind.to_owned(), assertion.to_owned()])
        .collect())
}

/// One secret's text; empty where there is none.
pub(super) fn secret_text<'a>(secrets: &'a Values, name: &str) -> &'a str {
    secrets.get(name).map_or("", Secret::expose)
}
