//! What a token endpoint's answer means for the person who wrote the configuration, and which key
//! to change.

use std::time::Duration;

use super::guard_memory::GuardMemory;
use crate::{
    config,
    profile::{
        TokenSpec,
        model::{ParamFormat, Profile},
    },
    tls::{CertificateFlaw, HandshakeFailure, HandshakeFault},
    token::{Failure, FailureClass, FailureKind, Issued},
};

/// A token that could not be had.
pub struct FailedToken<'a> {
    /// The credential as it is configured.
    pub configured: &'a config::CredentialConfig,
    /// The token's name in the profile.
    pub token: &'a str,
    /// What became of the attempt.
    pub failure: &'a Failure,
    /// Refusals that the guard counts now.
    pub rejections: u32,
    /// Where they are counted.
    pub record: &'a GuardMemory,
}

/// The class as a word of the line that is printed.
#[must_use]
pub fn class_word(class: FailureClass) -> &'static str {
    match class {
        FailureClass::Retry => "no token",
        FailureClass::Throttled => "the vendor asks to wait",
        FailureClass::Rejected => "refused",
        FailureClass::Config => "not understood",
        FailureClass::Unreadable => "not tried",
    }
}

/// What is worth knowing of a token that was had.
#[must_use]
pub fn explain_issued(
    configured: &config::CredentialConfig,
    token: &str,
    issued: &Issued,
    life: Duration,
) -> Vec<String> {
    let mut hints = Vec::new();
    let spec = configured.profile.tokens.iter().find(|t| *t.name == *token);
    if let Some(before) = spec
        .and_then(|t| t.lifetime.refresh_before)
        .filter(|before| *before >= life)
    {
        let (before, life) = (
            humantime::format_duration(before),
            humantime::format_duration(life),
        );
        hints.push(format!(
            "refresh_before ({before}) is as long as this token's life ({life}), so it is renewed at half of it: leave out \
             credentials.{}.tokens.{token}.lifetime.refresh_before",
            configured.name
        ));
    }
    if issued.implausible {
        hints.push("the answer names a lifetime that cannot be (not above 0, or more than 400 days): it is ignored".to_owned());
    }
    if issued.life.is_none() {
        let life = humantime::format_duration(life);
        hints.push(format!(
            "the answer does not say how long the token lives, so {life} is taken: set lifetime.default to what the vendor documents"
        ));
    }
    hints
}

/// What to do, the likeliest first. Empty where the vendor's own words say all there is.
#[must_use]
pub fn explain_failure(case: &FailedToken<'_>) -> Vec<String> {
    let profile = &case.configured.profile;
    let Some(spec) = profile.tokens.iter().find(|t| *t.name == *case.token) else {
        return Vec::new();
    };
    let mut hints = Vec::new();
    match (case.failure.kind.refusal(), case.failure.status) {
        (FailureKind::Tls(failure), _) => hints.push(explain_tls(case, failure)),
        (kind, None) => hints.extend(explain_no_answer(case, spec, kind)),
        (kind, Some(status)) => {
            hints.extend(explain_answer(case, spec, kind, status).unwrap_or_default());
        }
    }
    if matches!(case.failure.kind, FailureKind::ClockSkew { .. }) {
        hints.push("set this machine's clock (NTP): an assertion is refused where it looks expired, or dated in the future".to_owned());
    }
    if case.rejections > 0 {
        let (name, most) = (&case.configured.name, profile.limits.max_rejections);
        let used = format!(
            "this counts: {} refused so far, of {most} for each secret",
            case.rejections
        );
        hints.push(match case.record {
            GuardMemory::State => format!("{used}; `cupbearer ctl unlatch {name}` allows one more attempt"),
            GuardMemory::Own { dir, .. } => {
                format!("{used}, in {}: the next check knows of it, `cupbearer run` does not (set [state] dir)", dir.display())
            }
            GuardMemory::Nowhere(why) => {
                format!("the vendor may count this against the account; neither the next check nor `cupbearer run` knows of it: {why}")
            }
        });
    }
    hints
}

/// One sentence for each check that a handshake may fail.
fn explain_tls(case: &FailedToken<'_>, failure: &HandshakeFailure) -> String {
    use CertificateFlaw as Flaw;
    use HandshakeFault as Fault;
    const CLOCK: &str =
        "the certificate's time begins in the future: set this machine's clock (NTP)";
    const OTHER: &str =
        "the TLS handshake failed: an intercepting proxy or an old server may be in between";
    let at = format!(
        "credentials.{}.tokens.{}.tls",
        case.configured.name, case.token
    );
    match &failure.fault {
        Fault::Certificate(Flaw::SelfSigned(_) | Flaw::Authority) => format!(
            "where you know that this is the vendor's own certificate, put it itself into {at}.ca_file (its name and time are still checked); \
             otherwise something in between answers"
        ),
        Fault::Certificate(Flaw::UnknownIssuer(_)) => format!(
            "the certificate's issuer is not among those trusted here: name the vendor's own CA in {at}.ca_file, or update this system's CA certificates"
        ),
        Fault::Certificate(Flaw::OtherName { names: Some(names), .. }) if names.is_empty() => {
            "the vendor must have its certificate made anew with a subjectAltName (openssl req -x509 … -addext \"subjectAltName=DNS:…\")"
                .to_owned()
        }
        Fault::Certificate(Flaw::OtherName { .. }) => format!(
            "the certificate does not name the host that was called: check the host in {}; {at}.server_name only where the vendor documents another name",
            url_key(case)
        ),
        Fault::Certificate(Flaw::NotYetValid(_)) => CLOCK.to_owned(),
        // Whatever else is wrong looks so by a clock that was never set.
        Fault::Certificate(_)
        | Fault::CertificateRequired
        | Fault::Alert(_)
        | Fault::Incompatible
        | Fault::NotTls
        | Fault::Other
            if failure.clock_unset =>
        {
            CLOCK.to_owned()
        }
        Fault::Certificate(Flaw::Expired(_)) => {
            "the certificate's time is over: the vendor must renew it; if other programs still reach the vendor, look at this machine's clock"
                .to_owned()
        }
        Fault::CertificateRequired => format!(
            "mutual TLS: name the certificate the vendor knows in {at}.client_cert_file and its key in client_key_file"
        ),
        Fault::Alert(_) => format!(
            "the vendor ended the handshake: a missing or unknown client certificate ({at}.client_cert_file), or a host name it does not serve"
        ),
        Fault::NotTls => format!(
            "something else than TLS answers there: check the port in {}",
            url_key(case)
        ),
        Fault::Certificate(
            Flaw::BadSignature
            | Flaw::Revoked
            | Flaw::NotForServers
            | Flaw::Unreadable
            | Flaw::Unacceptable,
        )
        | Fault::Incompatible
        | Fault::Other => OTHER.to_owned(),
    }
}

/// No answer came at all.
fn explain_no_answer(
    case: &FailedToken<'_>,
    spec: &TokenSpec,
    kind: &FailureKind,
) -> Option<String> {
    let url = url_key(case);
    Some(match kind {
        FailureKind::SecretUnreadable(_) => format!(
            "look at credentials.{}.secrets: the file must be there, have something in it, and be readable for this user",
            case.configured.name
        ),
        FailureKind::RefusedBefore => {
            "nothing was sent: the guard remembers refusals of this very secret; put the right one in place, or wait (--force tries once, unless the account waits for `cupbearer unlatch`)"
                .to_owned()
        }
        FailureKind::GuardMemory => {
            "nothing was sent: run this check as the user that cupbearer runs as, or [state] dir cannot be read or written".to_owned()
        }
        FailureKind::Dns => format!("check the host in {url}, and whether this machine resolves names of the outside"),
        FailureKind::ConnectionRefused => format!("nothing listens there: check host and port in {url}"),
        FailureKind::TimedOut
        | FailureKind::ConnectTimeout
        | FailureKind::NoAnswer(_)
        | FailureKind::Unfinished(_) => format!(
            "a firewall may drop it silently, or the vendor takes longer than credentials.{}.tokens.{}.timeout ({})",
            case.configured.name,
            spec.name,
            humantime::format_duration(spec.timeout)
        ),
        FailureKind::Unsendable(_) if case.failure.class == FailureClass::Config => return None,
        FailureKind::Unsendable(_)
        | FailureKind::Panicked
        | FailureKind::ConnectionReset
        | FailureKind::NetworkUnreachable
        | FailureKind::ClosedEarly
        | FailureKind::CannotConnect
        | FailureKind::RequestRefused
        | FailureKind::NotHttp
        | FailureKind::Tls(_)
        | FailureKind::BrokenBody
        | FailureKind::Outlived => {
            format!("check {url} and the way out of this network: HTTP_PROXY and its like are not obeyed")
        }
        // Only an answer can be wrong in these.
        FailureKind::DamagedCoding
        | FailureKind::UnknownCoding(_)
        | FailureKind::TooManyCodings(_)
        | FailureKind::TooLarge
        | FailureKind::Redirect
        | FailureKind::NotJson
        | FailureKind::NeedsProof(_)
        | FailureKind::NoTokenAt(_)
        | FailureKind::TokenNotText(_)
        | FailureKind::TokenUnusable { .. }
        | FailureKind::Answered
        | FailureKind::ClockSkew { .. } => return None,
    })
}

/// The vendor answered with a refusal or with what makes no sense.
fn explain_answer(
    case: &FailedToken<'_>,
    spec: &TokenSpec,
    kind: &FailureKind,
    status: u16,
) -> Option<Vec<String>> {
    let class = case.failure.class;
    let code = case.failure.vendor.code.as_deref();
    let (name, token) = (&case.configured.name, &spec.name);
    let url = url_key(case);
    let unread = matches!(
        kind,
        FailureKind::UnknownCoding(_) | FailureKind::TooManyCodings(_) | FailureKind::DamagedCoding
    );
    let hint = match (code, status) {
        _ if unread => format!("only gzip was asked for: a proxy in between may pack answers otherwise; check {url}"),
        (Some("invalid_scope"), _) => explain_scope(case, spec),
        (Some("unsupported_grant_type" | "unauthorized_client"), _) => {
            "the vendor must allow this client the grant client_credentials (machine to machine, service account)".to_owned()
        }
        (Some("invalid_client"), _) | (_, 401) => return Some(explain_client_refusal(case, spec)),
        (code, _) if class == FailureClass::Rejected && code != Some("invalid_grant") => {
            return Some(explain_client_refusal(case, spec));
        }
        (_, 403) => {
            "a 403 that names no error is often a firewall's, or a list of addresses that may call: ask the vendor whether this host's is on it"
                .to_owned()
        }
        (_, 404 | 410) => format!("the host answers, but knows no such path: check the path in {url}"),
        (_, 405) => format!(
            "the path takes no {}: check {url}, or credentials.{name}.tokens.{token}.method",
            spec.method
        ),
        (_, 415) => format!(
            "the vendor wants the parameters in another form: credentials.{name}.tokens.{token}.format is {}",
            format_word(spec.format)
        ),
        (_, 300..=399) => format!(
            "put the address that the vendor's documentation gives into {url}: often only https or a last slash differs"
        ),
        _ if *kind == FailureKind::NotJson => format!("a web page answers there, as it seems: check {url}"),
        (_, 200..=299)
            if matches!(kind, FailureKind::NoTokenAt(_) | FailureKind::TokenUnusable { .. }) =>
        {
            format!("where the vendor puts its token elsewhere, say so in credentials.{name}.tokens.{token}.response")
        }
        (Some("invalid_request"), _) => format!(
            "a parameter is missing, unknown or sent twice: compare with the vendor's documentation (credentials.{name}.tokens.{token}.params, {})",
            auth_key(case)
        ),
        _ if class == FailureClass::Throttled || status == 429 => format!(
            "the client asks too often: do other programs use the same one? credentials.{name}.guard.rate sets our own bound"
        ),
        (_, 500..) => {
            "the vendor's own trouble; `cupbearer run` tries again with growing pauses".to_owned()
        }
        _ => return None,
    };
    Some(vec![hint])
}

/// The client was refused: a wrong secret, or the right one in the wrong wrapping.
fn explain_client_refusal(case: &FailedToken<'_>, spec: &TokenSpec) -> Vec<String> {
    let mut hints = Vec::new();
    let key = auth_key(case);
    let values = case.configured.secrets.read().ok();
    let secret = values
        .as_ref()
        .and_then(|v| v.get("client_secret"))
        .map_or("", |s| s.expose());
    let id = values
        .as_ref()
        .and_then(|v| v.get("client_id"))
        .map_or("", |s| s.expose());
    if secret.trim() != secret || id.trim() != id {
        hints.push(
            "the client id or secret begins or ends with white space, which is sent because of keep_space: is it meant to be there?"
                .to_owned(),
        );
    }
    hints.extend((spec.client_auth.method().refusal_hint)(id, secret, &key));
    hints.push("compare the client id and secret with what the vendor gave you, and whether they belong to this environment".to_owned());
    hints
}

fn explain_scope(case: &FailedToken<'_>, spec: &TokenSpec) -> String {
    let name = &case.configured.name;
    let asked = case.configured.profile.settings.get("scope");
    let key = if asked.is_some() {
        format!("credentials.{name}.settings.scope")
    } else {
        format!("credentials.{name}.tokens.{}.params.scope", spec.name)
    };
    match asked.map(String::as_str) {
        Some("") => format!("the vendor wants a scope, and none is sent: set {key}"),
        None if !spec.params.contains_key("scope") => {
            format!("the vendor wants a scope, and none is sent: set {key}")
        }
        Some(asked) => format!(
            "the vendor does not grant {asked:?} to this client: check {key}, or leave it out"
        ),
        None => format!("check {key}: the vendor does not grant it to this client"),
    }
}

fn format_word(format: ParamFormat) -> &'static str {
    match format {
        ParamFormat::Form => "\"form\"",
        ParamFormat::Json => "\"json\"",
        ParamFormat::Query => "\"query\"",
        ParamFormat::None => "\"none\"",
    }
}

/// The key that decides how the client shows who it is.
fn auth_key(case: &FailedToken<'_>) -> String {
    let name = &case.configured.name;
    if case.configured.profile.settings.contains_key("client_auth") {
        format!("credentials.{name}.settings.client_auth")
    } else {
        format!("credentials.{name}.tokens.{}.client_auth", case.token)
    }
}

/// The key that holds the address, with its value where it is a setting: what a person typed.
fn url_key(case: &FailedToken<'_>) -> String {
    let Profile {
        settings, tokens, ..
    } = &*case.configured.profile;
    let template = tokens
        .iter()
        .find(|t| *t.name == *case.token)
        .and_then(|t| t.url.as_ref())
        .map_or("", |url| url.source());
    let named = settings
        .iter()
        .find(|(name, value)| template.contains(&***name) && value.contains("://"));
    match named {
        Some((setting, value)) => {
            // A query may hold a key.
            let value = value.split(['?', '#']).next().unwrap_or_default();
            format!(
                "credentials.{}.settings.{setting} ({value})",
                case.configured.name
            )
        }
        None => format!(
            "credentials.{}.tokens.{}.url",
            case.configured.name, case.token
        ),
    }
}
