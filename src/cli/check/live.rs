//! `check --live`: each token once, through the engine that `run` uses and past the same guard, and
//! what came of it.

use std::{
    collections::HashMap,
    io::{self, Write},
    path::Path,
    sync::Arc,
    time::Duration,
};

use humantime::format_duration;
use serde::Serialize;

use super::{
    ReportFormat,
    explain::{self, FailedToken},
    guard_memory::{self, ForcingLedger, GuardMemory},
};
use crate::{
    clock::BootInstant,
    config::{self, Config, LoadOptions},
    credential::{Credential, CredentialDeps, TokenState},
    document::known,
    oauth::TokenClient,
    telemetry::Metrics,
    tls::Tls,
    token::{Activity, FailureClass, RefreshMode, Rotation, Store},
};

/// Beyond the timeouts of the calls themselves: a turn at the guard, a slow disk.
const SPARE: Duration = Duration::from_secs(5);
/// How often a running attempt is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// What is asked for beside the configuration.
#[derive(Debug, Clone, Default)]
pub struct LiveOptions {
    /// Only this credential.
    pub credential: Option<String>,
    /// Also where a new token ends the life of the one before, where the guard allows no attempt,
    /// or where nothing would remember a refusal of a vendor that locks out.
    pub force: bool,
}

/// What came of one token, or why a whole credential was left out. Never a token or a secret.
#[derive(Debug, Default, Serialize)]
pub struct TokenReport {
    /// Its name in the configuration.
    pub credential: Arc<str>,
    /// Not there where the credential was left out as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<Arc<str>>,
    /// What came of it.
    pub outcome: TokenOutcome,
    /// How long the token call took, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub took_ms: Option<u64>,
    /// How long the token lives, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub life: Option<u64>,
    /// How long after the request it would be renewed, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh_after: Option<u64>,
    /// The vendor's status, where it answered with a refusal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// What happened, in one line.
    pub what: String,
    /// What to do about it.
    pub hints: Vec<String>,
}

/// What came of one try; the words stand in the JSON report.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenOutcome {
    /// A token was had.
    Ok,
    /// Nothing was tried, and `what` says why.
    #[default]
    Skipped,
    /// The network or the endpoint failed.
    Retry,
    /// The endpoint says how long to wait.
    Throttled,
    /// The vendor refuses the secret.
    Rejected,
    /// The answer makes no sense, or a parameter is wrong.
    Config,
    /// A secret cannot be read.
    Unreadable,
}

impl TokenOutcome {
    /// A token could not be had.
    #[must_use]
    pub fn failed(self) -> bool {
        !matches!(self, Self::Ok | Self::Skipped)
    }
}

impl From<FailureClass> for TokenOutcome {
    fn from(class: FailureClass) -> Self {
        match class {
            FailureClass::Retry => Self::Retry,
            FailureClass::Throttled => Self::Throttled,
            FailureClass::Rejected => Self::Rejected,
            FailureClass::Config => Self::Config,
            FailureClass::Unreadable => Self::Unreadable,
        }
    }
}

/// Tries what `live` names, one credential after the other.
///
/// # Errors
/// What keeps it from trying at all, in words: an unknown credential, or a system that gives us no
/// event queue.
pub fn try_tokens(
    config: &Config,
    options: &LoadOptions,
    live: &LiveOptions,
) -> Result<Vec<TokenReport>, String> {
    if let Some(name) = live
        .credential
        .as_ref()
        .filter(|name| !config.credentials.contains_key(&***name))
    {
        return Err(format!(
            "there is no credential {name:?}: {}",
            known(name, config.credentials.keys().map(|name| &**name))
        ));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| e.to_string())?;
    runtime.block_on(async {
        let metrics = Metrics::new().map_err(|e| e.to_string())?;
        let store = Arc::new(Store::default());
        let (record, ledger) =
            guard_memory::open_ledger(config.state.as_deref(), &options.env, &metrics).await;
        let ledger = if live.force {
            Arc::new(ForcingLedger::new(ledger, record == GuardMemory::State))
        } else {
            ledger
        };
        let deps = CredentialDeps::new(store.clone(), ledger, metrics);
        let mut found = Vec::new();
        for credential in config.credentials.values().filter(|c| {
            live.credential
                .as_deref()
                .is_none_or(|name| *c.name == *name)
        }) {
            match reason_to_skip(credential, &record, live.force) {
                Some(why) => found.push(TokenReport {
                    credential: credential.name.clone(),
                    what: why,
                    ..TokenReport::default()
                }),
                None => found.extend(try_credential(credential, &record, &deps).await),
            }
        }
        // An attempt that is cut off would count as spent.
        store.drain(SPARE).await;
        Ok(found)
    })
}

/// Why a credential is not tried.
fn reason_to_skip(
    credential: &config::CredentialConfig,
    record: &GuardMemory,
    force: bool,
) -> Option<String> {
    let profile = &credential.profile;
    if profile.tokens.is_empty() {
        return Some("nothing to get: it has no tokens, only what is placed as it is".to_owned());
    }
    if let Some(partition) = profile.partition.first() {
        return Some(format!(
            "each request names its own {} ({}), so there is no token to get without one",
            partition.name, partition.header
        ));
    }
    if let (true, false, Err(why)) = (profile.limits.need_memory(), force, record.may_be_trusted())
    {
        return Some(format!(
            "this vendor locks out after a few wrong attempts, and nothing remembers those of this check ({why}): set [state] dir, or --force \
             tries all the same"
        ));
    }
    let replaces = profile
        .tokens
        .iter()
        .find(|t| t.lifetime.rotation == Rotation::Replaces)
        .filter(|_| !force)?;
    Some(format!(
        "a new {} token ends the one that a running program uses (rotation = \"replaces\"): --force gets it all the same",
        replaces.name
    ))
}

async fn try_credential(
    configured: &config::CredentialConfig,
    record: &GuardMemory,
    deps: &CredentialDeps,
) -> Vec<TokenReport> {
    let mut profile = (*configured.profile).clone();
    // Fetched at once, also what would wait for a first request.
    profile
        .tokens
        .iter_mut()
        .for_each(|t| t.lifetime.refresh = RefreshMode::Ahead);
    let profile = Arc::new(profile);
    let clients: Result<Vec<TokenClient>, Box<TokenReport>> = {
        let mut made: HashMap<Tls, TokenClient> = HashMap::new();
        let mut client = |tls: &Tls| match made.get(tls) {
            Some(client) => Ok(client.clone()),
            None => {
                TokenClient::new(tls).inspect(|client| _ = made.insert(tls.clone(), client.clone()))
            }
        };
        let unusable = |token: &Arc<str>, what: String| {
            let found = TokenReport {
                credential: configured.name.clone(),
                token: Some(token.clone()),
                outcome: TokenOutcome::Config,
                what: format!("tls: {what}"),
                ..TokenReport::default()
            };
            Box::new(found)
        };
        profile
            .tokens
            .iter()
            .map(|t| client(&t.tls).map_err(|what| unusable(&t.name, what)))
            .collect()
    };
    let clients = match clients {
        Ok(clients) => clients,
        Err(found) => return vec![*found],
    };
    let patience = profile.tokens.iter().map(|t| t.timeout).sum::<Duration>() + SPARE;
    let credential = Credential::new(
        configured.name.clone(),
        profile,
        configured.secrets.clone(),
        configured.digest,
        clients,
        deps,
    );
    let until = BootInstant::now().after(patience);
    while !credential.token_states().iter().all(|t| t.status.settled) && BootInstant::now() < until
    {
        tokio::time::sleep(LOOK).await;
    }
    let states = credential.token_states();
    // From here on its keepers stop: nothing is tried twice.
    drop(credential);
    states
        .iter()
        .map(|state| report_token(configured, state, record, deps))
        .collect()
}

fn report_token(
    configured: &config::CredentialConfig,
    state: &TokenState,
    record: &GuardMemory,
    deps: &CredentialDeps,
) -> TokenReport {
    let seconds = deps.metrics.token_seconds(&configured.name, &state.token);
    let took = Some(Duration::from_secs_f64(seconds)).filter(|took| !took.is_zero());
    let found = TokenReport {
        credential: configured.name.clone(),
        token: Some(state.token.clone()),
        took_ms: took.map(|took| u64::try_from(took.as_millis()).unwrap_or(u64::MAX)),
        ..TokenReport::default()
    };
    if let Some(token) = &state.status.token {
        let (life, refresh) = (
            token.issued.sent.until(token.expires),
            token.issued.sent.until(token.refresh_at),
        );
        return TokenReport {
            outcome: TokenOutcome::Ok,
            life: Some(life.as_secs()),
            refresh_after: Some(refresh.as_secs()),
            what: format!(
                "obtained{}, lives {}, renewed after about {}",
                after_millis(took),
                whole_seconds(life),
                whole_seconds(refresh)
            ),
            hints: explain::explain_issued(configured, &state.token, &token.issued, life),
            ..found
        };
    }
    match (&state.status.failure, &state.status.activity) {
        (Some((failure, _)), _) => {
            let answered = failure.status.map(|s| format!(" (status {s})")).unwrap_or_default();
            TokenReport {
                outcome: failure.class.into(),
                status: failure.status,
                what: format!("{}{answered}{}: {}", explain::class_word(failure.class), after_millis(took), failure),
                hints: explain::explain_failure(&FailedToken { configured, token: &state.token, failure, rejections: state.status.rejections, record }),
                ..found
            }
        }
        (None, Activity::Parent(parent)) => {
            TokenReport { what: format!("not tried: it is made with the token {parent}, and there is none"), ..found }
        }
        (None, _) => TokenReport {
            outcome: TokenOutcome::Retry,
            what: "not tried in time: the guard's budget (guard.rate) is used up, or another process is at it".to_owned(),
            ..found
        },
    }
}

fn after_millis(took: Option<Duration>) -> String {
    took.map_or_else(String::new, |took| {
        format!(" after {} ms", took.as_millis())
    })
}

fn whole_seconds(d: Duration) -> impl std::fmt::Display {
    format_duration(Duration::from_secs(d.as_secs()))
}

/// Writes it for people or for machines.
///
/// # Errors
/// Only those of `out`.
pub fn write_text(found: &[TokenReport], out: &mut dyn Write) -> io::Result<()> {
    for one in found {
        let token = one
            .token
            .as_ref()
            .map(|token| format!(", token {token}"))
            .unwrap_or_default();
        let skipped = if one.outcome == TokenOutcome::Skipped && one.token.is_none() {
            "skipped: "
        } else {
            ""
        };
        writeln!(
            out,
            "live: credential {}{token}: {skipped}{}",
            one.credential, one.what
        )?;
        for hint in &one.hints {
            writeln!(out, "  hint: {hint}")?;
        }
    }
    Ok(())
}

/// Tries, writes and says whether every token was had. `problems` are those of the file, for the
/// form that machines read.
///
/// # Errors
/// Only those of `out`.
pub fn check_live(
    file: &Path,
    config: &Config,
    (options, live): (&LoadOptions, &LiveOptions),
    problems: &[serde_json::Value],
    format: ReportFormat,
    out: &mut dyn Write,
) -> io::Result<Option<bool>> {
    let found = match try_tokens(config, options, live) {
        Ok(found) => found,
        Err(why) => {
            crate::cli::complain(format_args!("cupbearer: {}: {why}", file.display()));
            return Ok(None);
        }
    };
    match format {
        ReportFormat::Text => write_text(&found, out)?,
        ReportFormat::Json => writeln!(
            out,
            "{:#}",
            serde_json::json!({ "problems": problems, "tokens": found })
        )?,
    }
    Ok(Some(!found.iter().any(|one| one.outcome.failed())))
}
