//! Metrics ([Metrics](crate::promises#metrics)). The only room that knows prometheus (`app` names
//! its error); one event, one method: it counts, and where it is worth a line it logs.

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use prometheus::{
    Encoder, Gauge, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec,
    Opts, Registry, TextEncoder,
};

use crate::{clock::BootInstant, lock::Lock};

mod events;
mod repeats;
mod traffic;

pub use traffic::Traffic;

const BUCKETS: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
];

/// Handles of all series of one running program. Cheap to clone; several may live side by side in
/// one process.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    recent: traffic::RecentStatuses,
    repeats: repeats::RepeatFilter,
    /// Gauges read from states are set and gathered under this lock, so that no scrape sees half of
    /// them.
    scrape: Lock<()>,
    requests: IntCounterVec,
    request_seconds: HistogramVec,
    in_flight: IntGaugeVec,
    refusals: IntCounterVec,
    replays: IntCounterVec,
    redirects_removed: IntCounterVec,
    token_rejections: IntCounterVec,
    connects: IntCounterVec,
    token_requests: IntCounterVec,
    token_request_seconds: HistogramVec,
    token_expiry: GaugeVec,
    token_refresh: GaugeVec,
    token_last_success: GaugeVec,
    token_sendable: IntGaugeVec,
    token_resting: IntGaugeVec,
    token_unchanged: IntCounterVec,
    token_implausible: IntCounterVec,
    token_wait_seconds: HistogramVec,
    token_waiters: IntGaugeVec,
    latched: IntGaugeVec,
    rejections: IntGaugeVec,
    info: IntGaugeVec,
    secret_read_errors: IntCounterVec,
    secret_changes: IntCounterVec,
    reloads: IntCounterVec,
    last_reload: Gauge,
    certificate_expiry: GaugeVec,
    state_write_errors: IntCounter,
    panics: IntCounter,
    log_lines_dropped: IntCounter,
    /// Where lost lines of the log are counted.
    lost_lines: OnceLock<fn() -> u64>,
}

/// How one token stands, for the gauges that are read at scrape time.
#[derive(Debug, Clone)]
pub struct TokenGauges {
    /// The credential's name in the configuration.
    pub credential: Arc<str>,
    /// The token's name in its profile.
    pub token: Arc<str>,
    /// When the token expires, in Unix seconds; 0 without one. Of partitions the earliest.
    pub expiry: f64,
    /// When the next token call is planned, in Unix seconds; 0 where none is.
    pub refresh: f64,
    /// When a call last gave a token, in Unix seconds; 0 before the first.
    pub last_success: f64,
    /// The token may be sent now.
    pub sendable: bool,
    /// It is not renewed, because nobody uses it.
    pub resting: bool,
}

/// How one credential stands.
#[derive(Debug, Clone)]
pub struct CredentialGauges {
    /// Its name in the configuration.
    pub credential: Arc<str>,
    /// The name of its profile, or the path of the profile's file.
    pub profile: Arc<str>,
    /// Token calls are stopped after refusals.
    pub latched: bool,
    /// Refusals that count against its limit now.
    pub rejections: u32,
    /// Requests that wait for one of its tokens now.
    pub waiters: usize,
}

/// A request that we refused ourselves.
#[derive(Debug, Clone, Copy)]
pub struct RefusalEvent<'a> {
    /// Empty where none was found.
    pub upstream: &'a str,
    /// The code of the answer's problem document.
    pub code: &'static str,
    /// The answer's `detail`: holds no secret and nothing that a caller or vendor wrote.
    pub detail: &'a str,
    /// Not the caller's mistake: the line is worth a warning.
    pub ours: bool,
    /// The trace that the request belongs to, where its client names one.
    pub trace_id: Option<&'a str>,
}

/// Registers collectors under the common prefix.
struct Registrar(Registry);

impl Registrar {
    fn add<T: prometheus::core::Collector + Clone + 'static>(
        &self,
        made: prometheus::Result<T>,
    ) -> prometheus::Result<T> {
        let made = made?;
        self.0.register(Box::new(made.clone()))?;
        Ok(made)
    }
    fn counters(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> prometheus::Result<IntCounterVec> {
        self.add(IntCounterVec::new(
            Opts::new(format!("cupbearer_{name}"), help),
            labels,
        ))
    }
    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<GaugeVec> {
        self.add(GaugeVec::new(
            Opts::new(format!("cupbearer_{name}"), help),
            labels,
        ))
    }
    fn int_gauges(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> prometheus::Result<IntGaugeVec> {
        self.add(IntGaugeVec::new(
            Opts::new(format!("cupbearer_{name}"), help),
            labels,
        ))
    }
    fn histograms(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> prometheus::Result<HistogramVec> {
        let opts = HistogramOpts::new(format!("cupbearer_{name}"), help).buckets(BUCKETS.to_vec());
        self.add(HistogramVec::new(opts, labels))
    }
}

fn unix_now() -> f64 {
    #[expect(
        clippy::disallowed_methods,
        reason = "a timestamp metric is wall-clock time and decides nothing"
    )]
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64()
}

impl Metrics {
    /// A registry of its own with every series this program has. Those whose labels are all known
    /// have to be made visible with [`Metrics::register_upstream`] and
    /// [`Metrics::register_credential`].
    ///
    /// # Errors
    /// None in practice: only a name registered twice or not well-formed, which a test would have
    /// found.
    pub fn new() -> prometheus::Result<Self> {
        let r = Registrar(Registry::new());
        r.0.register(Box::new(
            prometheus::process_collector::ProcessCollector::for_self(),
        ))?;
        let build = r.int_gauges("build_info", "Constant 1, names the build.", &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let ct = &["credential", "token"];
        let last_reload = r.add(Gauge::with_opts(Opts::new(
            "cupbearer_config_last_reload_success_timestamp_seconds",
            "Unix time of the last successful configuration load.",
        )))?;
        last_reload.set(unix_now());
        let reloads = r.counters(
            "config_reloads_total",
            "Configuration reloads.",
            &["outcome"],
        )?;
        for outcome in ["applied", "unchanged", "refused"] {
            reloads.with_label_values(&[outcome]);
        }
        let inner = Inner {
            requests: r.counters("requests_total", "Requests answered by the vendor, by status.", &["upstream", "code"])?,
            request_seconds: r.histograms(
                "request_duration_seconds",
                "Time from the first byte of a request to the last byte of its answer.",
                &["upstream"],
            )?,
            in_flight: r.int_gauges("requests_in_flight", "Requests being served now.", &["upstream"])?,
            refusals: r.counters("refusals_total", "Requests refused by cupbearer itself, by error code.", &["upstream", "code"])?,
            replays: r.counters("replays_total", "Requests considered for one replay after a 401.", &["upstream", "outcome"])?,
            redirects_removed: r.counters(
                "redirects_removed_total",
                "References in answers that led to another upstream with another credential, and were taken out.",
                &["upstream"],
            )?,
            token_rejections: r.counters(
                "token_rejections_total",
                "Answers with status 401 taken to mean that the token is stale.",
                &["upstream"],
            )?,
            connects: r.counters("upstream_connects_total", "Connection attempts to the vendor.", &["upstream", "outcome"])?,
            token_requests: r.counters("token_requests_total", "Token requests by outcome.", &["credential", "token", "outcome"])?,
            token_request_seconds: r.histograms("token_request_duration_seconds", "Duration of token requests.", ct)?,
            token_expiry: r.gauges(
                "token_expiry_timestamp_seconds",
                "Unix time when the current token expires, 0 without one; of partitions the earliest.",
                ct,
            )?,
            token_refresh: r.gauges("token_refresh_timestamp_seconds", "Unix time of the next planned token request, 0 for none.", ct)?,
            token_last_success: r.gauges("token_last_success_timestamp_seconds", "Unix time of the last successful token request.", ct)?,
            token_sendable: r.int_gauges("token_sendable", "1 while a token may be sent.", ct)?,
            token_resting: r.int_gauges("token_resting", "1 while a token is not renewed because nobody uses it.", ct)?,
            token_unchanged: r.counters("token_unchanged_total", "Token requests that returned the token already held.", ct)?,
            token_implausible: r.counters("token_lifetime_implausible_total", "Answers whose lifetime was ignored.", ct)?,
            token_wait_seconds: r.histograms("token_wait_seconds", "Time requests waited for a token.", &["credential"])?,
            token_waiters: r.int_gauges("token_waiters", "Requests waiting for a token now.", &["credential"])?,
            latched: r.int_gauges("credential_latched", "1 while token requests are stopped after rejections.", &["credential"])?,
            rejections: r.int_gauges("credential_rejections", "Rejections counted against the lockout limit.", &["credential"])?,
            info: r.int_gauges("credential_info", "Constant 1, names the profile.", &["credential", "profile"])?,
            secret_read_errors: r.counters("secret_read_errors_total", "Secrets that could not be read.", &["credential"])?,
            secret_changes: r.counters("secret_changes_total", "Changes seen in secret values.", &["credential"])?,
            reloads,
            last_reload,
            certificate_expiry: r.gauges(
                "certificate_expiry_timestamp_seconds",
                "Unix time when a configured certificate expires.",
                &["use"],
            )?,
            state_write_errors: r
                .add(IntCounter::new("cupbearer_state_write_errors_total", "Failed reads and writes of the guard's memory."))?,
            panics: r.add(IntCounter::new("cupbearer_panics_total", "Panics that were caught."))?,
            log_lines_dropped: r
                .add(IntCounter::new("cupbearer_log_lines_dropped_total", "Log lines that were lost because nobody read them in time."))?,
            lost_lines: OnceLock::new(),
            registry: r.0,
            recent: traffic::RecentStatuses::default(),
            repeats: repeats::RepeatFilter::default(),
            scrape: Lock::new(()),
        };
        Ok(Self(Arc::new(inner)))
    }

    /// Makes every series of an upstream whose labels are known appear with 0.
    pub fn register_upstream(&self, upstream: &str) {
        let m = &self.0;
        m.recent.register(upstream);
        m.request_seconds.with_label_values(&[upstream]);
        m.in_flight.with_label_values(&[upstream]);
        m.token_rejections.with_label_values(&[upstream]);
        m.redirects_removed.with_label_values(&[upstream]);
        for outcome in ["ok", "failed", "skipped_body", "skipped_policy"] {
            m.replays.with_label_values(&[upstream, outcome]);
        }
        for outcome in ["ok", "dns", "refused", "timeout", "tls"] {
            m.connects.with_label_values(&[upstream, outcome]);
        }
    }

    /// Makes every series of a credential and its tokens whose labels are known appear with 0.
    pub fn register_credential<'a>(&self, credential: &str, tokens: impl Iterator<Item = &'a str>) {
        let m = &self.0;
        m.token_wait_seconds.with_label_values(&[credential]);
        m.secret_read_errors.with_label_values(&[credential]);
        m.secret_changes.with_label_values(&[credential]);
        for token in tokens {
            let ct = [credential, token];
            for outcome in ["ok", "retry", "throttled", "rejected", "config"] {
                m.token_requests
                    .with_label_values(&[credential, token, outcome]);
            }
            m.token_request_seconds.with_label_values(&ct);
            m.token_unchanged.with_label_values(&ct);
            m.token_implausible.with_label_values(&ct);
        }
    }

    /// A request chose its upstream.
    pub fn request_begin(&self, upstream: &str) {
        self.0.in_flight.with_label_values(&[upstream]).inc();
    }
    /// The vendor answered with `status`, `seconds` after the request began. Codes that are not
    /// registered count as `other`, or a vendor could mint series without end.
    pub fn request_end(&self, upstream: &str, status: u16, seconds: f64) {
        let code = http::StatusCode::from_u16(status)
            .ok()
            .filter(|c| c.canonical_reason().is_some());
        let code = code.as_ref().map_or("other", http::StatusCode::as_str);
        self.0.requests.with_label_values(&[upstream, code]).inc();
        self.0.recent.record(upstream, status);
        self.0
            .request_seconds
            .with_label_values(&[upstream])
            .observe(seconds);
        self.0.in_flight.with_label_values(&[upstream]).dec();
    }
    /// The request ended without an answer from the vendor.
    pub fn request_aborted(&self, upstream: &str) {
        self.0.in_flight.with_label_values(&[upstream]).dec();
    }
    /// An operator, or whoever reaches the admin port, asked for this; told once a minute.
    pub fn asked_by_hand(&self, credential: &str, action: &str) {
        if let Some(times) =
            self.0
                .repeats
                .note_failure(("by hand", credential), action, BootInstant::now())
        {
            tracing::info!(
                credential,
                action,
                times,
                "asked for by hand{}",
                repeats::repeat_suffix(times)
            );
        }
    }

    /// We refused a request. What is not the caller's mistake is told, its repeats once a minute.
    pub fn request_refused(&self, refusal: &RefusalEvent<'_>) {
        let RefusalEvent {
            upstream,
            code,
            detail,
            ours,
            trace_id,
        } = *refusal;
        self.0.refusals.with_label_values(&[upstream, code]).inc();
        let told = ours
            .then(|| {
                self.0.repeats.note_failure(
                    ("refused", upstream),
                    (code, detail),
                    BootInstant::now(),
                )
            })
            .flatten();
        match told {
            Some(times) => tracing::warn!(
                upstream,
                code,
                detail,
                trace_id,
                times,
                "request refused{}",
                repeats::repeat_suffix(times)
            ),
            None => tracing::debug!(upstream, code, detail, trace_id, "request refused"),
        }
    }
    /// A 401 was considered for a replay; `outcome` is `ok`, `failed`, `skipped_body` or
    /// `skipped_policy`.
    pub fn replay_considered(&self, upstream: &str, outcome: &'static str) {
        self.0.replays.with_label_values(&[upstream, outcome]).inc();
    }
    /// So many references were taken out of an answer, because they led to an upstream of ours with
    /// another credential.
    pub fn redirects_removed(&self, upstream: &str, count: usize, trace_id: Option<&str>) {
        self.0
            .redirects_removed
            .with_label_values(&[upstream])
            .inc_by(count as u64);
        if let Some(times) =
            self.0
                .repeats
                .note_failure(("redirect", upstream), "", BootInstant::now())
        {
            let advice = "its Location, Content-Location, Refresh or Link led to another upstream of ours; see redirects_to";
            tracing::warn!(
                upstream,
                trace_id,
                times,
                "{advice}{}",
                repeats::repeat_suffix(times)
            );
        }
    }
    /// A 401 was taken to mean that the token is stale.
    pub fn token_rejected(&self, upstream: &str) {
        self.0.token_rejections.with_label_values(&[upstream]).inc();
    }
    /// A connection to the vendor was made, or not; `outcome` is `ok`, `dns`, `refused`, `timeout`
    /// or `tls`.
    pub fn upstream_connect(&self, upstream: &str, outcome: &'static str) {
        self.0
            .connects
            .with_label_values(&[upstream, outcome])
            .inc();
    }
    /// A connection to the vendor could not be made; `trace_id` is that of the request.
    pub fn connect_failed(
        &self,
        upstream: &str,
        outcome: &'static str,
        error: &str,
        trace_id: Option<&str>,
    ) {
        self.upstream_connect(upstream, outcome);
        if let Some(times) =
            self.0
                .repeats
                .note_failure(("connect", upstream), error, BootInstant::now())
        {
            tracing::warn!(
                upstream,
                outcome,
                error,
                trace_id,
                times,
                "cannot connect{}",
                repeats::repeat_suffix(times)
            );
        }
    }
    /// A request waited for a token.
    pub fn token_waited(&self, credential: &str, waited: Duration) {
        self.0
            .token_wait_seconds
            .with_label_values(&[credential])
            .observe(waited.as_secs_f64());
    }
    /// The poller saw a new secret value.
    pub fn secret_changed(&self, credential: &str) {
        self.0.secret_changes.with_label_values(&[credential]).inc();
        self.0.repeats.note_success(("secret", credential));
        tracing::info!(credential, "secret changed");
    }
    /// The poller could not read a secret.
    pub fn secret_unreadable(&self, credential: &str, why: &str) {
        self.0
            .secret_read_errors
            .with_label_values(&[credential])
            .inc();
        if let Some(times) =
            self.0
                .repeats
                .note_failure(("secret", credential), why, BootInstant::now())
        {
            tracing::warn!(
                credential,
                error = why,
                times,
                "secret cannot be read{}",
                repeats::repeat_suffix(times)
            );
        }
    }
    /// A configuration was applied, found the same, or refused; `outcome` is `applied`, `unchanged`
    /// or `refused`.
    pub fn config_reloaded(&self, outcome: &'static str) {
        self.0.reloads.with_label_values(&[outcome]).inc();
        if outcome != "refused" {
            self.0.last_reload.set(unix_now());
        }
    }
    /// The configured certificates, by the key that names their file, with their end in Unix
    /// seconds. Those of before are forgotten.
    pub fn set_certificate_expiries(&self, all: &[(String, i64)]) {
        let gauge = &self.0.certificate_expiry;
        gauge.reset();
        for (key, expires) in all {
            #[expect(
                clippy::cast_precision_loss,
                reason = "seconds of the next million years fit"
            )]
            gauge.with_label_values(&[&**key]).set(*expires as f64);
        }
    }
    /// The guard's memory on disk could not be read or written.
    pub fn state_failed(&self) {
        self.0.state_write_errors.inc();
    }
    /// `lost` tells how many lines of the log were lost so far; it is asked at each scrape. Only
    /// the first one counts.
    pub fn watch_lost_lines(&self, lost: fn() -> u64) {
        let _ = self.0.lost_lines.set(lost);
    }
    /// A panic was caught.
    pub fn panicked(&self) {
        self.0.panics.inc();
    }

    /// Seconds that the calls for a token took in all.
    #[must_use]
    pub fn token_seconds(&self, credential: &str, token: &str) -> f64 {
        self.0
            .token_request_seconds
            .with_label_values(&[credential, token])
            .get_sample_sum()
    }

    /// The text exposition (format 0.0.4) of everything, with the gauges of tokens and credentials
    /// as they stand now.
    #[must_use]
    pub fn render(&self, tokens: &[TokenGauges], credentials: &[CredentialGauges]) -> Vec<u8> {
        let m = &self.0;
        let _whole = m.scrape.lock();
        if let Some(lost) = m.lost_lines.get() {
            m.log_lines_dropped
                .inc_by(lost().saturating_sub(m.log_lines_dropped.get()));
        }
        for gauge in [&m.token_expiry, &m.token_refresh, &m.token_last_success] {
            gauge.reset();
        }
        for gauge in [
            &m.token_sendable,
            &m.token_resting,
            &m.token_waiters,
            &m.latched,
            &m.rejections,
            &m.info,
        ] {
            gauge.reset();
        }
        for t in tokens {
            let ct = [&*t.credential, &*t.token];
            m.token_expiry.with_label_values(&ct).set(t.expiry);
            m.token_refresh.with_label_values(&ct).set(t.refresh);
            m.token_last_success
                .with_label_values(&ct)
                .set(t.last_success);
            m.token_sendable
                .with_label_values(&ct)
                .set(t.sendable.into());
            m.token_resting.with_label_values(&ct).set(t.resting.into());
        }
        for c in credentials {
            let label = [&*c.credential];
            m.token_waiters
                .with_label_values(&label)
                .set(i64::try_from(c.waiters).unwrap_or(i64::MAX));
            m.latched.with_label_values(&label).set(c.latched.into());
            m.rejections
                .with_label_values(&label)
                .set(c.rejections.into());
            m.info
                .with_label_values(&[&*c.credential, &*c.profile])
                .set(1);
        }
        let mut out = Vec::with_capacity(16 * 1024);
        if let Err(e) = TextEncoder::new().encode(&m.registry.gather(), &mut out) {
            tracing::error!(error = %e, "metrics cannot be written");
        }
        out
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}
