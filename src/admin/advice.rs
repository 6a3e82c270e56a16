//! Failures of token calls in plain words, with what to do about them.

use crate::token::FailureClass;

/// What it means and what to do. `sendable`: the token of before may still be sent.
#[must_use]
pub fn help(class: FailureClass, latched: bool, sendable: bool) -> &'static str {
    match (class, latched, sendable) {
        (FailureClass::Rejected, true, _) => {
            "The vendor refused the client id or secret so often that attempts are stopped, so that the account is not locked. Put the \
             right secret in its place: it is seen and tried at once, but where guard.account_rejections is set and used up, which opens by an \
             unlatch alone. With the secret as it is, unlatch only if the vendor has mended something on its side."
        }
        (FailureClass::Rejected, false, true) => {
            "The vendor refused the client id or secret. Requests go on with the token obtained before, until it ends. Put the right secret in \
             its place: it is seen and tried at once."
        }
        (FailureClass::Rejected, false, false) => {
            "The vendor refused the client id or secret. Compare both with what the vendor gave you, and put the right secret in its place: it \
             is seen and tried at once."
        }
        (FailureClass::Throttled, ..) => {
            "The vendor asked to wait, and that is done. Nothing to do, unless it lasts: then other programs may use the same client, or the \
             vendor's limit is too low."
        }
        (FailureClass::Retry, _, true) => {
            "The vendor's token endpoint does not answer as it should. It is asked again with growing pauses; requests go on with the token \
             obtained before. If it lasts, look at the vendor's status and at the network."
        }
        (FailureClass::Retry, _, false) => {
            "The vendor's token endpoint does not answer as it should. It is asked again with growing pauses. If it lasts, look at the vendor's \
             status and at the network (name resolution, firewall, certificates)."
        }
        (FailureClass::Config, ..) => {
            "The answer is not what this configuration leads to expect. Check token URL, scope, audience and how the client authenticates, then \
             reload: a changed credential is tried at once."
        }
        (FailureClass::Unreadable, ..) => {
            "A secret cannot be read, so nothing was sent. Check that its file is there, is not empty, and may be read by this program's user; \
             it is then read by itself."
        }
    }
}
