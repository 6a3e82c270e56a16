//! What an operator asks for: when it is done, or why not ([By hand](crate::promises#by-hand),
//! [Guard](crate::promises#guard)).

use std::time::Duration;

use axum::{
    Extension,
    extract::{Path, State},
    response::Response,
};
use http::StatusCode;
use serde::Serialize;

use super::{Admin, auth::CallerTrust, json_bytes, respond, status::format_rfc3339, text_response};
use crate::{
    clock::BootInstant,
    credential::{Credential, RefreshOutcome},
    snapshot::Snapshot,
    token::NextAttempt,
};

/// What becomes of what was asked for.
#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ActionOutcome {
    /// It is done at this moment (RFC 3339), or as soon after it as others let it.
    At(String),
    /// Nothing is done, and why.
    Held(String),
}

/// `POST /api/credentials/NAME/refresh` and `/unlatch`.
pub async fn run_action(
    State(admin): State<Admin>,
    Path((name, action)): Path<(String, String)>,
    Extension(CallerTrust(trusted)): Extension<CallerTrust>,
) -> Response {
    let snapshot = admin.snapshot.load_full();
    let Some(credential) = snapshot.credentials.get(&*name) else {
        return text_response(StatusCode::NOT_FOUND, "no such credential\n");
    };
    let asked = match &*action {
        "refresh" => refresh(credential, trusted),
        "unlatch" => match strict_neighbour(credential, &snapshot).filter(|_| !trusted) {
            Some(strict) => return refuse_unlatch(strict),
            None => unlatch(credential).await,
        },
        _ => return text_response(StatusCode::NOT_FOUND, "refresh or unlatch\n"),
    };
    admin.metrics.asked_by_hand(&name, &action);
    respond(StatusCode::ACCEPTED, "application/json", json_bytes(&asked))
}

/// The credential whose account only a person opens again (`account_rejections`), where an unlatch
/// of `credential` might open it: itself, or one with a token endpoint of the same origin. An
/// account has many names, and each of them would do.
fn strict_neighbour<'a>(
    credential: &'a Credential,
    snapshot: &'a Snapshot,
) -> Option<&'a Credential> {
    let strict = |one: &&Credential| one.profile().limits.account_rejections.is_some();
    let mut others = snapshot
        .credentials
        .values()
        .map(|one| &**one)
        .filter(strict);
    Some(credential)
        .filter(strict)
        .or_else(|| others.find(|other| credential.may_share_account_with(other)))
}

fn refuse_unlatch(strict: &Credential) -> Response {
    let name = strict.name();
    let why = format!(
        "this vendor locks accounts (account_rejections of credentials.{name}, and whatever shares a token origin with it), and any program of this \
         host reaches a TCP port: set [admin] auth, or [admin] listen = \"unix:PATH\"; or run `cupbearer unlatch NAME` as the user of the [state] \
         folder\n"
    );
    text_response(StatusCode::FORBIDDEN, why)
}

fn refresh(credential: &Credential, trusted: bool) -> ActionOutcome {
    match credential.refresh(trusted) {
        RefreshOutcome::At(at) => ActionOutcome::At(format_not_before(at)),
        RefreshOutcome::Held(why) => ActionOutcome::Held(why),
    }
}

async fn unlatch(credential: &Credential) -> ActionOutcome {
    match credential.unlatch().await {
        NextAttempt::At(at) => ActionOutcome::At(format_not_before(at)),
        NextAttempt::Latched => {
            ActionOutcome::Held("it is latched until its secret changes".to_owned())
        }
        NextAttempt::NoMemory => ActionOutcome::Held(
            "the guard's memory cannot be read or written: see the log".to_owned(),
        ),
    }
}

/// To the second, rounded up.
fn format_not_before(at: BootInstant) -> String {
    format_rfc3339(at.wall() + Duration::from_nanos(999_999_999))
}
