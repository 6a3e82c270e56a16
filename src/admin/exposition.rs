//! What `/metrics` says: counters as they stand, gauges as they are at this moment
//! ([Metrics](crate::promises#metrics)).

use super::Admin;
use crate::{
    clock::BootInstant,
    telemetry::{CredentialGauges, TokenGauges},
    token::Activity,
};

impl Admin {
    /// The text exposition, gauges as they stand now.
    #[must_use]
    pub fn render_metrics(&self) -> Vec<u8> {
        let snapshot = self.snapshot.load_full();
        let (mut tokens, mut credentials) = (Vec::new(), Vec::new());
        let now = BootInstant::now();
        for credential in snapshot.credentials.values() {
            let states = credential.token_states();
            let (mut latched, mut rejections) = (false, 0);
            for spec in &credential.profile().tokens {
                let mut gauges = TokenGauges {
                    credential: credential.name().clone(),
                    token: spec.name.clone(),
                    expiry: 0.0,
                    refresh: 0.0,
                    last_success: 0.0,
                    sendable: false,
                    resting: false,
                };
                // Partitions have no label of their own: the earliest expiry, and 1 where any may
                // be sent.
                for state in states.iter().filter(|s| s.token == spec.name) {
                    let status = &state.status;
                    latched |= matches!(status.activity, Activity::Held { latched: true, .. });
                    rejections = rejections.max(status.rejections);
                    gauges.resting |= matches!(status.activity, Activity::Resting);
                    if let Activity::Due(at)
                    | Activity::Held {
                        until: Some(at), ..
                    } = status.activity
                    {
                        gauges.refresh = earliest(gauges.refresh, at.wall().as_secs_f64());
                    }
                    if let Some(token) = status.token.as_ref().filter(|t| t.expires > now) {
                        gauges.expiry = earliest(gauges.expiry, token.expires.wall().as_secs_f64());
                        gauges.sendable |= token.send_until > now;
                    }
                    if let Some(token) = &status.token {
                        gauges.last_success = gauges
                            .last_success
                            .max(token.issued.sent.wall().as_secs_f64());
                    }
                }
                tokens.push(gauges);
            }
            credentials.push(CredentialGauges {
                credential: credential.name().clone(),
                profile: credential.profile().name.clone(),
                latched,
                rejections,
                waiters: credential.waiters(),
            });
        }
        self.metrics.render(&tokens, &credentials)
    }
}

/// The smaller of two Unix times, where 0 means "none".
fn earliest(a: f64, b: f64) -> f64 {
    if a == 0.0 { b } else { a.min(b) }
}
