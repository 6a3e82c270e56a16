//! What keepers tell of their work, counted and logged; and what was counted of an upstream.

use std::time::Duration;

use super::{
    Metrics, repeats,
    traffic::{Traffic, counts_by_code},
};
use crate::{
    clock::BootInstant,
    token::{FailureClass, KeeperEvent, KeeperName},
};

impl Metrics {
    /// What was counted of `upstream`.
    #[must_use]
    pub fn traffic(&self, upstream: &str) -> Traffic {
        let m = &self.0;
        Traffic {
            answers: counts_by_code(&m.requests, upstream),
            refusals: counts_by_code(&m.refusals, upstream),
            in_flight: u64::try_from(m.in_flight.with_label_values(&[upstream]).get()).unwrap_or(0),
            last: m.recent.last(upstream),
        }
    }

    /// Everything a keeper tells of its work.
    pub fn token_event(&self, name: &KeeperName, event: &KeeperEvent<'_>) {
        let m = &self.0;
        let (credential, token) = (&*name.credential, &*name.token);
        let ct = [credential, token];
        match event {
            KeeperEvent::Issued {
                took,
                unchanged,
                implausible,
                token: issued,
            } => {
                m.token_requests
                    .with_label_values(&[credential, token, "ok"])
                    .inc();
                m.token_request_seconds
                    .with_label_values(&ct)
                    .observe(took.as_secs_f64());
                if *unchanged {
                    m.token_unchanged.with_label_values(&ct).inc();
                }
                if *implausible {
                    m.token_implausible.with_label_values(&ct).inc();
                    tracing::warn!(
                        credential,
                        token,
                        "the answer names an implausible lifetime; it is ignored"
                    );
                }
                let untold = Some(m.repeats.note_success(ct)).filter(|n| *n > 0);
                let life = issued.issued.sent.until(issued.expires).as_secs();
                tracing::info!(
                    credential,
                    token,
                    generation = issued.number,
                    life,
                    took_ms = millis(*took),
                    untold,
                    "token obtained"
                );
            }
            KeeperEvent::Failed {
                took,
                failure,
                next,
                latched,
            } => {
                let error = failure.to_string();
                let outcome = match failure.class {
                    FailureClass::Retry => "retry",
                    FailureClass::Throttled => "throttled",
                    FailureClass::Rejected => "rejected",
                    FailureClass::Config => "config",
                    FailureClass::Unreadable => {
                        m.secret_read_errors.with_label_values(&[credential]).inc();
                        if let Some(times) = m.repeats.note_failure(ct, &error, BootInstant::now())
                        {
                            tracing::warn!(credential, token, %error, times, "secret cannot be read{}", repeats::repeat_suffix(times));
                        }
                        return;
                    }
                };
                m.token_requests
                    .with_label_values(&[credential, token, outcome])
                    .inc();
                m.token_request_seconds
                    .with_label_values(&ct)
                    .observe(took.as_secs_f64());
                let Some(times) = m.repeats.note_failure(
                    ct,
                    (outcome, failure.status, latched, &error),
                    BootInstant::now(),
                ) else {
                    return;
                };
                let next = next.map_or_else(
                    || "when the secret changes".to_owned(),
                    |d| format!("in {:.1} s", d.as_secs_f64()),
                );
                tracing::warn!(credential, token, outcome, status = failure.status, %error, latched, next, times, "token request failed{}", repeats::repeat_suffix(times));
            }
            // Counted and logged where it happened; this is told again and again.
            KeeperEvent::NoMemory => tracing::debug!(
                credential,
                token,
                "no token call: the guard's memory cannot be read or written"
            ),
            KeeperEvent::Resting => {
                tracing::debug!(credential, token, "token rests: nobody uses it");
            }
        }
    }
}

fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}
