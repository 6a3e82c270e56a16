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
    token::{Failure, FailureClass, Issued},
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
    if case.failure.error.starts_with("TLS: ") {
        hints.push(explain_tls(case, &case.failure.error));
    } else if case.failure.status.is_none() {
        hints.extend(explain_no_answer(case, spec));
    } else {
        hints.extend(explain_answer(case, spec));
    }
    if case
        .failure
        .error
        .contains("the clock that dated the assertion")
    {
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
fn explain_tls(case: &FailedToken<'_>, error: &str) -> String {
    let at = format!(
        "credentials.{}.tokens.{}.tls",
        case.configured.name, case.token
    );
    let has = |part: &str| error.contains(part);
    if has("is self-signed") || has("authority's own") {
        format!(
            "where you know that this is the vendor's own certificate, put it itself into {at}.ca_file (its name and time are still checked); \
             otherwise something in between answers"
        )
    } else if has("unknown issuer") {
        format!(
            "the certificate's issuer is not among those trusted here: name the vendor's own CA in {at}.ca_file, or update this system's CA certificates"
        )
    } else if has("it names none") {
        "the vendor must have its certificate made anew with a subjectAltName (openssl req -x509 … -addext \"subjectAltName=DNS:…\")"
            .to_owned()
    } else if has("is for another name") {
        format!(
            "the certificate does not name the host that was called: check the host in {}; {at}.server_name only where the vendor documents another name",
            url_key(case)
        )
    } else if has("not valid yet") || has("clock of this machine") {
        "the certificate's time begins in the future: set this machine's clock (NTP)".to_owned()
    } else if has("has expired") {
        "the certificate's time is over: the vendor must renew it; if other programs still reach the vendor, look at this machine's clock"
            .to_owned()
    } else if has("wants a client certificate") {
        format!(
            "mutual TLS: name the certificate the vendor knows in {at}.client_cert_file and its key in client_key_file"
        )
    } else if has("refused the handshake") {
        format!(
            "the vendor ended the handshake: a missing or unknown client certificate ({at}.client_cert_file), or a host name it does not serve"
        )
    } else if has("not TLS") {
        format!(
            "something else than TLS answers there: check the port in {}",
            url_key(case)
        )
    } else {
        "the TLS handshake failed: an intercepting proxy or an old server may be in between"
            .to_owned()
    }
}

/// No answer came at all.
fn explain_no_answer(case: &FailedToken<'_>, spec: &TokenSpec) -> Option<String> {
    let error = &case.failure.error;
    let url = url_key(case);
    Some(match case.failure.class {
        FailureClass::Unreadable => format!(
            "look at credentials.{}.secrets: the file must be there, have something in it, and be readable for this user",
            case.configured.name
        ),
        FailureClass::Rejected => {
            "nothing was sent: the guard remembers refusals of this very secret; put the right one in place, or wait (--force tries once, unless the account waits for `cupbearer unlatch`)"
                .to_owned()
        }
        _ if error.contains("guard's memory") => {
            "nothing was sent: run this check as the user that cupbearer runs as, or [state] dir cannot be read or written".to_owned()
        }
        _ if error.contains("DNS") => format!("check the host in {url}, and whether this machine resolves names of the outside"),
        _ if error.contains("refused") => format!("nothing listens there: check host and port in {url}"),
        _ if case.failure.timed_out || error.contains("timed out") || error.contains("no answer") => format!(
            "a firewall may drop it silently, or the vendor takes longer than credentials.{}.tokens.{}.timeout ({})",
            case.configured.name,
            spec.name,
            humantime::format_duration(spec.timeout)
        ),
        FailureClass::Retry => format!("check {url} and the way out of this network: HTTP_PROXY and its like are not obeyed"),
        FailureClass::Config | FailureClass::Throttled => return None,
    })
}

/// The vendor answered with a refusal or with what makes no sense.
fn explain_answer(case: &FailedToken<'_>, spec: &TokenSpec) -> Vec<String> {
    let Failure {
        class,
        status,
        error,
        ..
    } = case.failure;
    let status = status.unwrap_or_default();
    let (name, token) = (&case.configured.name, &spec.name);
    let says = |code: &str| error.contains(code);
    let mut hints = Vec::new();
    if says("content coding") {
        hints.push(format!(
            "only gzip was asked for: a proxy in between may pack answers otherwise; check {}",
            url_key(case)
        ));
    } else if says("invalid_scope") {
        hints.push(explain_scope(case, spec));
    } else if says("unsupported_grant_type") || says("unauthorized_client") {
        hints.push("the vendor must allow this client the grant client_credentials (machine to machine, service account)".to_owned());
    } else if says("invalid_client")
        || status == 401
        || (*class == FailureClass::Rejected && !says("invalid_grant"))
    {
        hints.extend(explain_client_refusal(case, spec));
    } else if status == 403 {
        hints.push(
            "a 403 that names no error is often a firewall's, or a list of addresses that may call: ask the vendor whether this host's is on it"
                .to_owned(),
        );
    } else if status == 404 || status == 410 {
        hints.push(format!(
            "the host answers, but knows no such path: check the path in {}",
            url_key(case)
        ));
    } else if status == 405 {
        hints.push(format!(
            "the path takes no {}: check {}, or credentials.{name}.tokens.{token}.method",
            spec.method,
            url_key(case)
        ));
    } else if status == 415 {
        hints.push(format!(
            "the vendor wants the parameters in another form: credentials.{name}.tokens.{token}.format is {}",
            format_word(spec.format)
        ));
    } else if (300..400).contains(&status) {
        hints.push(format!(
            "put the address that the vendor's documentation gives into {}: often only https or a last slash differs",
            url_key(case)
        ));
    } else if says("not JSON") {
        hints.push(format!(
            "a web page answers there, as it seems: check {}",
            url_key(case)
        ));
    } else if (200..300).contains(&status) && says("token at") {
        hints.push(format!("where the vendor puts its token elsewhere, say so in credentials.{name}.tokens.{token}.response"));
    } else if says("invalid_request") {
        hints.push(format!(
            "a parameter is missing, unknown or sent twice: compare with the vendor's documentation (credentials.{name}.tokens.{token}.params, {})",
            auth_key(case)
        ));
    } else if *class == FailureClass::Throttled || status == 429 {
        hints.push(format!(
            "the client asks too often: do other programs use the same one? credentials.{name}.guard.rate sets our own bound"
        ));
    } else if status >= 500 {
        hints.push(
            "the vendor's own trouble; `cupbearer run` tries again with growing pauses".to_owned(),
        );
    }
    hints
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
