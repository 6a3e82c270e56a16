//! `/api/status`: what every token is doing, as JSON. No secret, no token: a fingerprint of 8 hex
//! of a salted hash.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use schemars::JsonSchema;
use serde::Serialize;

use super::{Admin, advice, health};
use crate::{
    clock::BootInstant,
    config::Ready,
    credential::{Credential, TokenState, fingerprint},
    document::{Problem, Severity},
    reload::ReloadOutcome,
    snapshot::ServedUpstream,
    token::{Activity, FailureClass},
};

/// The answer of `/api/status`.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct StatusPage {
    /// Which program answers.
    pub build: Build,
    /// The time of this answer (RFC 3339).
    #[schemars(extend("format" = "date-time"))]
    pub now: String,
    /// What `/readyz` says.
    pub ready: bool,
    /// Why it is not ready.
    pub not_ready: Option<String>,
    /// Seconds since the program started.
    pub uptime: u64,
    /// What runs, and the last reload.
    pub config: ConfigState,
    /// In the order of their names.
    pub upstreams: Vec<UpstreamState>,
    /// In the order of their names.
    pub credentials: Vec<CredentialState>,
}

/// Which program answers.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Build {
    /// The package's version.
    pub version: &'static str,
}

/// The configuration that runs.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct ConfigState {
    /// Counts up with every applied configuration, from 1.
    pub generation: u64,
    /// The file it came from.
    pub file: Option<String>,
    /// `started`, `accepted`, `any` or `all`.
    #[schemars(extend("enum" = ["started", "accepted", "any", "all"]))]
    pub ready: &'static str,
    /// Where the data port really listens.
    pub listen: Vec<String>,
    /// `null` until the first reload.
    pub last_reload: Option<LastReload>,
}

/// How the last reload ended.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct LastReload {
    /// `applied`, `unchanged` or `refused`.
    #[schemars(extend("enum" = ["applied", "unchanged", "refused"]))]
    pub outcome: &'static str,
    /// RFC 3339.
    #[schemars(extend("format" = "date-time"))]
    pub at: String,
    /// Why it was refused, every reason.
    pub problems: Vec<ProblemState>,
    /// Keys that differ from what the program was started with and need a restart.
    pub restart: Vec<&'static str>,
}

/// A problem or a lint of a configuration.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct ProblemState {
    /// `error` or `lint`.
    #[schemars(extend("enum" = ["error", "lint"]))]
    pub severity: &'static str,
    /// Key path; empty for the file as a whole.
    pub key: String,
    /// The file it stands in, where known.
    pub file: Option<String>,
    /// What is wrong; never a secret's value.
    pub what: String,
    /// What to do.
    pub hint: Option<String>,
}

/// One upstream, and what was counted of it.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct UpstreamState {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// Where its requests go.
    pub url: String,
    /// `null` is `credential = "none"`.
    pub credential: Option<Arc<str>>,
    /// Requests being served now.
    pub in_flight: u64,
    /// The vendor's answers by status since start.
    pub answers: BTreeMap<String, u64>,
    /// Our own refusals by error code since start.
    pub refusals: BTreeMap<String, u64>,
    /// The vendor's last statuses, the newest first.
    pub last_codes: Vec<u16>,
}

/// One credential, and what its tokens do.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct CredentialState {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// The name of its profile, or the stem of the profile's file.
    pub profile: Arc<str>,
    /// It can send now, or would fetch a token when asked to.
    pub able: bool,
    /// Requests waiting for a token now.
    pub waiters: usize,
    /// Counts up when the poller sees new secret values.
    pub secret_generation: u64,
    /// In the order in which they are made with each other.
    pub tokens: Vec<TokenJson>,
}

/// One token; of a partitioned one every running token set has its own.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct TokenJson {
    /// Its name in the profile.
    pub name: Arc<str>,
    /// Salted fingerprint of the partition's value.
    #[schemars(regex(pattern = "^[0-9a-f]{8}$"))]
    pub partition: Option<String>,
    /// `ok`, `refreshing`, `waiting`, `held`, `latched` or `resting`.
    #[schemars(extend("enum" = ["ok", "refreshing", "waiting", "held", "latched", "resting"]))]
    pub state: &'static str,
    /// Number of the current token, 0 without one.
    pub generation: u64,
    /// RFC 3339; when the request for the current token was sent.
    #[schemars(extend("format" = "date-time"))]
    pub obtained_at: Option<String>,
    /// RFC 3339; the end of its life.
    #[schemars(extend("format" = "date-time"))]
    pub expires_at: Option<String>,
    /// The next planned token call, or the end of the pause before it.
    #[schemars(extend("format" = "date-time"))]
    pub refresh_at: Option<String>,
    /// May be sent now.
    pub sendable: bool,
    /// The last failed attempt, until one succeeds.
    pub last_failure: Option<LastFailure>,
    /// Counted against the lockout limit.
    pub rejections: u32,
    /// 8 hex of a hash salted anew at each start: tells tokens apart, says nothing of them.
    #[schemars(regex(pattern = "^[0-9a-f]{8}$"))]
    pub fingerprint: Option<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct LastFailure {
    /// `retry`, `throttled`, `rejected`, `config` or `secret_unreadable`.
    #[schemars(extend("enum" = ["retry", "throttled", "rejected", "config", "secret_unreadable"]))]
    pub class: &'static str,
    #[schemars(extend("format" = "date-time"))]
    pub at: String,
    /// The vendor's status, where there was an answer.
    pub status: Option<u16>,
    /// What the vendor said or what broke, scrubbed; it comes from outside and is to be shown as
    /// text only.
    pub error: String,
    /// What it means and what to do, in plain words.
    pub help: &'static str,
}

impl StatusPage {
    /// As things stand now.
    #[must_use]
    pub fn collect(admin: &Admin) -> Self {
        let snapshot = admin.snapshot.load_full();
        let config = &snapshot.config;
        let readiness = admin.readiness(&snapshot);
        Self {
            build: Build {
                version: env!("CARGO_PKG_VERSION"),
            },
            now: format_rfc3339(BootInstant::now().wall()),
            ready: readiness == health::Readiness::Ready,
            not_ready: match readiness {
                health::Readiness::Ready => None,
                health::Readiness::NotYet(why) => Some(why),
            },
            uptime: admin.started.until(BootInstant::now()).as_secs(),
            config: ConfigState {
                generation: snapshot.generation,
                file: config.file.as_ref().map(|f| f.display().to_string()),
                ready: match config.admin.ready {
                    Ready::Started => "started",
                    Ready::Accepted => "accepted",
                    Ready::Any => "any",
                    Ready::All => "all",
                },
                listen: admin.proxy.clone(),
                last_reload: admin.reloader.last().map(|(outcome, at)| LastReload {
                    outcome: outcome_word(&outcome),
                    at: format_rfc3339(at.wall()),
                    problems: match &outcome {
                        ReloadOutcome::Refused(problems) => {
                            problems.iter().map(ProblemState::from_problem).collect()
                        }
                        ReloadOutcome::Applied { .. } | ReloadOutcome::Unchanged => Vec::new(),
                    },
                    restart: admin.reloader.needs_restart(),
                }),
            },
            upstreams: snapshot
                .upstreams
                .iter()
                .map(|u| upstream_state(u, admin))
                .collect(),
            credentials: snapshot
                .credentials
                .values()
                .map(|c| credential_state(c, &admin.salt))
                .collect(),
        }
    }
}

/// An outcome's name.
pub fn outcome_word(outcome: &ReloadOutcome) -> &'static str {
    match outcome {
        ReloadOutcome::Applied { .. } => "applied",
        ReloadOutcome::Unchanged => "unchanged",
        ReloadOutcome::Refused(_) => "refused",
    }
}

impl ProblemState {
    /// As it is shown.
    pub fn from_problem(problem: &Problem) -> Self {
        let Problem {
            severity,
            key,
            file,
            what,
            hint,
        } = problem;
        let severity = match severity {
            Severity::Problem => "error",
            Severity::Lint => "lint",
        };
        let file = file.as_ref().map(|f| f.display().to_string());
        Self {
            severity,
            key: key.clone(),
            file,
            what: what.clone(),
            hint: hint.clone(),
        }
    }
}

fn upstream_state(served: &ServedUpstream, admin: &Admin) -> UpstreamState {
    let u = &served.upstream;
    let traffic = admin.metrics.traffic(&u.name);
    let scheme = if u.target.tls { "https" } else { "http" };
    let host = if u.target.host.contains(':') {
        format!("[{}]", u.target.host)
    } else {
        u.target.host.clone()
    };
    UpstreamState {
        name: u.name.clone(),
        url: format!("{scheme}://{host}:{}{}", u.target.port, u.target.base),
        credential: u.credential.clone(),
        in_flight: traffic.in_flight,
        answers: traffic.answers,
        refusals: traffic.refusals,
        last_codes: traffic.last,
    }
}

fn credential_state(c: &Credential, salt: &[u8]) -> CredentialState {
    CredentialState {
        name: c.name().clone(),
        profile: c.profile().name.clone(),
        able: c.can_send(),
        waiters: c.waiters(),
        secret_generation: c.secret_generation(),
        tokens: c
            .token_states()
            .iter()
            .map(|t| token_json(t, salt))
            .collect(),
    }
}

fn token_json(state: &TokenState, salt: &[u8]) -> TokenJson {
    let now = BootInstant::now();
    let status = &state.status;
    let current = status.token.as_ref().filter(|t| t.expires > now);
    let sendable = current.is_some_and(|t| t.send_until > now);
    TokenJson {
        name: state.token.clone(),
        partition: state.partition.as_ref().map(|p| fingerprint(salt, p)),
        state: match status.activity {
            Activity::Calling(_) => "refreshing",
            Activity::Due(_) if sendable => "ok",
            Activity::Due(_) | Activity::Parent(_) => "waiting",
            Activity::Held { latched: true, .. } => "latched",
            Activity::Held { .. } => "held",
            Activity::Resting => "resting",
        },
        generation: status.token.as_ref().map_or(0, |t| t.number),
        obtained_at: current.map(|t| format_rfc3339(t.issued.sent.wall())),
        expires_at: current.map(|t| format_rfc3339(t.expires.wall())),
        refresh_at: match status.activity {
            Activity::Due(at)
            | Activity::Held {
                until: Some(at), ..
            } => Some(format_rfc3339(at.wall())),
            _ => None,
        },
        sendable,
        last_failure: status.failure.as_ref().map(|(f, at)| LastFailure {
            class: match f.class {
                FailureClass::Retry => "retry",
                FailureClass::Throttled => "throttled",
                FailureClass::Rejected => "rejected",
                FailureClass::Config => "config",
                FailureClass::Unreadable => "secret_unreadable",
            },
            at: format_rfc3339(*at),
            status: f.status,
            error: f.to_string(),
            help: advice::help(
                f.class,
                matches!(status.activity, Activity::Held { latched: true, .. }),
                sendable,
            ),
        }),
        rejections: status.rejections,
        fingerprint: current.map(|t| fingerprint(salt, &t.issued.value)),
    }
}

/// A Unix time, to the second.
pub fn format_rfc3339(unix: Duration) -> String {
    let seconds = i64::try_from(unix.as_secs()).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(seconds).map_or_else(|_| "unknown".to_owned(), |t| t.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With `BLESS=1` the file is written anew.
    #[test]
    fn the_schema_in_the_repository_is_that_of_the_answer() {
        let settings = schemars::generate::SchemaSettings::draft2020_12().for_serialize();
        let schema = format!(
            "{:#}\n",
            settings
                .into_generator()
                .into_root_schema_for::<StatusPage>()
                .to_value()
        );
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/src/admin/status.schema.json");
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(file, &schema).unwrap();
        }
        assert_eq!(
            std::fs::read_to_string(file).unwrap(),
            schema,
            "BLESS=1 cargo test --lib the_schema writes it anew"
        );
    }
}
