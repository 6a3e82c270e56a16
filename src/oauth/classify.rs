//! What an answer of a token endpoint means
//! ([Classes of answers](crate::promises#classes-of-answers)): the user's and the profile's rules, then ours.
//! Pure and total.

use std::time::Duration;

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CONTENT_TYPE, DATE, RETRY_AFTER},
};

use super::{
    response::{self, ResponseBody, TokenResponse},
    scrubber::Scrubber,
};
use crate::{
    profile::model::{ErrorRule, RuleMeaning, RuleSide, RuleTest, StatusMatch},
    token::{Failure, FailureClass, FailureKind, VendorError},
};

/// No vendor makes us wait longer, whatever it says.
pub const MAX_WAIT: Duration = Duration::from_hours(1);
/// A `Retry-After` of nothing is no leave to hammer.
const MIN_WAIT: Duration = Duration::from_secs(1);
/// 429 without `Retry-After`: never sooner than this.
const THROTTLE: Duration = Duration::from_secs(5);

/// A signed attempt that is refused by a vendor whose clock is further from ours than this was
/// refused for its date, as far as anyone can tell.
const SKEW: Duration = Duration::from_secs(60);

/// Whether `response` to the call for the token named `token` should hold a token. `wall` is the
/// wall clock when it came (for dates in `Retry-After`).
///
/// # Errors
/// The [`Failure`] that it is: its class, what the vendor said of it, and how long to wait.
pub fn classify_response(
    response: &TokenResponse,
    token: &str,
    rules: &[ErrorRule],
    wall: Duration,
    scrubber: &Scrubber,
) -> Result<(), Failure> {
    let vendor = vendor_error(response, scrubber);
    let after = retry_after(response, wall);
    let rule = rules
        .iter()
        .find(|r| rule_matches(r, response, token))
        .and_then(|r| Some((class_of(r.then)?, r.hold)));
    let (class, hold, kind) = match rule {
        Some((None, _)) => return Ok(()),
        Some((Some(class), hold)) => (class, hold, FailureKind::Answered),
        None => match default_class(response, vendor.code.as_deref(), after.is_some()) {
            (None, _) => return Ok(()),
            (Some(class), kind) => (class, None, kind),
        },
    };
    let throttled = class == FailureClass::Throttled || response.status == 429;
    let wait = match class {
        FailureClass::Retry | FailureClass::Throttled => {
            hold.or(after).or(throttled.then_some(THROTTLE))
        }
        FailureClass::Rejected | FailureClass::Config | FailureClass::Unreadable => hold,
    };
    Err(Failure {
        class,
        kind,
        status: Some(response.status),
        client_refused: class == FailureClass::Rejected
            && refuses_client(response.status, vendor.code.as_deref()),
        vendor,
        wait,
    })
}

/// A failure of class `config` about an answer, with what the vendor said of it.
#[must_use]
pub fn config_failure(response: &TokenResponse, kind: FailureKind, scrubber: &Scrubber) -> Failure {
    Failure {
        status: Some(response.status),
        vendor: vendor_error(response, scrubber),
        ..Failure::own(FailureClass::Config, kind)
    }
}

/// `Retry-After` (RFC 9110 10.2.3) in either form, between 1 s and 1 h. A date counts from the
/// answer's own `Date` where it has one, so that a wrong clock does no harm.
#[must_use]
pub fn retry_after(response: &TokenResponse, wall: Duration) -> Option<Duration> {
    let text = response.headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let asked = if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        // More digits than fit are simply very long.
        text.parse().map_or(MAX_WAIT, Duration::from_secs)
    } else {
        header_date(response, &RETRY_AFTER)?
            .saturating_sub(header_date(response, &DATE).unwrap_or(wall))
    };
    Some(asked.clamp(MIN_WAIT, MAX_WAIT))
}

/// When the vendor says that it answered (RFC 9110 6.6.1), since the Unix epoch; all three forms of
/// a date are read.
#[must_use]
pub fn response_date(response: &TokenResponse) -> Option<Duration> {
    header_date(response, &DATE)
}

fn header_date(response: &TokenResponse, name: &HeaderName) -> Option<Duration> {
    httpdate::parse_http_date(response.headers.get(name)?.to_str().ok()?)
        .ok()?
        .duration_since(std::time::UNIX_EPOCH)
        .ok()
}

/// The answer's `Date` where it is over 60 s from `wall`, the time by which an assertion was dated:
/// enough to make it look expired or not valid yet.
#[must_use]
pub fn skewed_date(response: &TokenResponse, wall: Duration) -> Option<Duration> {
    response_date(response).filter(|date| date.abs_diff(wall) > SKEW)
}

/// `None` outside: the rule says nothing about token answers. `None` inside: ok.
#[expect(clippy::option_option, reason = "two different absences")]
fn class_of(then: RuleMeaning) -> Option<Option<FailureClass>> {
    match then {
        RuleMeaning::Ok => Some(None),
        RuleMeaning::Retry => Some(Some(FailureClass::Retry)),
        RuleMeaning::Throttled => Some(Some(FailureClass::Throttled)),
        RuleMeaning::Rejected => Some(Some(FailureClass::Rejected)),
        RuleMeaning::Config => Some(Some(FailureClass::Config)),
        RuleMeaning::StaleToken | RuleMeaning::Pass => None,
    }
}

fn rule_matches(rule: &ErrorRule, response: &TokenResponse, token: &str) -> bool {
    let status = |m: &StatusMatch| match m {
        StatusMatch::Exact(code) => *code == response.status,
        StatusMatch::Class(class) => *class == response.status / 100,
    };
    let found = || match &rule.path {
        None => rule.test.is_none(),
        Some(path) => response::pick_text(response, path).is_some_and(|text| match &rule.test {
            None => true,
            Some(RuleTest::In(list)) => list.contains(&text),
            Some(RuleTest::NotIn(list)) => !list.contains(&text),
        }),
    };
    rule.at == RuleSide::Token
        && rule.token.as_deref().is_none_or(|t| t == token)
        && (rule.status.is_empty() || rule.status.iter().any(status))
        && rule
            .json
            .is_none_or(|json| json == is_json(&response.headers))
        && class_of(rule.then).is_some()
        && found()
}

/// The media type is JSON's: `application/json`, `text/json`, or one that ends in `+json` (RFC 6839
/// 3.1), whatever its parameters and case. What names no type, or several, is not.
fn is_json(headers: &HeaderMap) -> bool {
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    let (Some(Ok(one)), None) = (types.next().map(HeaderValue::to_str), types.next()) else {
        return false;
    };
    let essence = one
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    matches!(&*essence, "application/json" | "text/json")
        || (essence.contains('/') && essence.ends_with("+json"))
}

/// The classes without any rule. `None`: there should be a token.
fn default_class(
    response: &TokenResponse,
    code: Option<&str>,
    waits: bool,
) -> (Option<FailureClass>, FailureKind) {
    use FailureClass::{Config, Rejected, Retry, Throttled};
    use FailureKind::{Answered, Redirect, TooLarge};
    let unread = match &response.body {
        ResponseBody::Coded(kind) => kind.clone(),
        ResponseBody::Whole(_) | ResponseBody::TooLarge | ResponseBody::Broken(_) => Answered,
    };
    let refused = matches!(
        code,
        Some("invalid_client" | "unauthorized_client" | "invalid_grant" | "access_denied")
    );
    match (response.status, &response.body) {
        // The status alone decides these: an answer that breaks off after its head is still a
        // refusal, and counts as one.
        (401, _) => (Some(Rejected), unread),
        (429, _) => (Some(if waits { Throttled } else { Retry }), unread),
        (_, ResponseBody::TooLarge) => (Some(Retry), TooLarge),
        (_, ResponseBody::Broken(kind)) => (Some(Retry), kind.clone()),
        (200..=299, _) => (None, Answered),
        (400 | 403, _) if refused => (Some(Rejected), Answered),
        (408 | 425 | 500..=599, _) => (Some(Retry), unread),
        (400, _) if matches!(code, Some("temporarily_unavailable" | "server_error")) => {
            (Some(Retry), Answered)
        }
        (300..=399, _) => (Some(Config), Redirect),
        _ => (Some(Config), unread),
    }
}

/// The refusal speaks of the client itself: `invalid_client`, or a 401 that gives no reason.
fn refuses_client(status: u16, code: Option<&str>) -> bool {
    code == Some("invalid_client") || (status == 401 && code.is_none())
}

/// What an answer says of its error (RFC 6749 5.2), scrubbed.
fn vendor_error(response: &TokenResponse, scrubber: &Scrubber) -> VendorError {
    let member = |name| {
        response
            .json()
            .and_then(|v| v.get(name))
            .and_then(serde_json::Value::as_str)
    };
    let description = member("error_description")
        .map(|d| scrubber.scrub_description(d))
        .filter(|d| !d.is_empty());
    VendorError {
        code: member("error").and_then(|e| scrubber.scrub_code(e)),
        description,
    }
}

#[cfg(test)]
mod tests;
