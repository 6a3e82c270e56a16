//! The traffic of one upstream as counted, for the status page: codes since start, and the last of
//! them.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU16, AtomicUsize, Ordering::Relaxed},
    },
};

use arc_swap::ArcSwap;
use prometheus::{IntCounterVec, core::Collector};

/// How many codes are remembered of an upstream.
const LAST: usize = 8;

/// What was counted of one upstream since start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Answers of the vendor by status; `other` holds those that are not registered.
    pub answers: BTreeMap<String, u64>,
    /// Our own refusals by error code.
    pub refusals: BTreeMap<String, u64>,
    /// Requests being served now.
    pub in_flight: u64,
    /// The vendor's last statuses, the newest first; at most eight.
    pub last: Vec<u16>,
}

/// The last statuses of every upstream. Names come from configuration, so there are few.
#[derive(Default)]
pub(super) struct RecentStatuses(ArcSwap<HashMap<String, Arc<StatusRing>>>);

#[derive(Default)]
struct StatusRing {
    /// Counts all that were noted; the next place is this, modulo the length.
    count: AtomicUsize,
    codes: [AtomicU16; LAST],
}

impl RecentStatuses {
    pub(super) fn register(&self, upstream: &str) {
        self.0.rcu(|known| {
            let mut known = HashMap::clone(known);
            known.entry(upstream.to_owned()).or_default();
            known
        });
    }

    pub(super) fn record(&self, upstream: &str, status: u16) {
        if let Some(ring) = self.0.load().get(upstream) {
            let at = ring.count.fetch_add(1, Relaxed);
            if let Some(place) = ring.codes.get(at % LAST) {
                place.store(status, Relaxed);
            }
        }
    }

    pub(super) fn last(&self, upstream: &str) -> Vec<u16> {
        let known = self.0.load();
        let Some(ring) = known.get(upstream) else {
            return Vec::new();
        };
        let count = ring.count.load(Relaxed);
        let places = (1..=LAST.min(count)).filter_map(|back| ring.codes.get((count - back) % LAST));
        // A place that was taken but not yet written holds 0.
        places
            .map(|code| code.load(Relaxed))
            .filter(|code| *code != 0)
            .collect()
    }
}

/// The series of one upstream, by their label `code`.
pub(super) fn counts_by_code(counters: &IntCounterVec, upstream: &str) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    for family in counters.collect() {
        for series in family.get_metric() {
            let label = |name: &str| {
                series
                    .get_label()
                    .iter()
                    .find(|l| l.name() == name)
                    .map(prometheus::proto::LabelPair::value)
            };
            if label("upstream") == Some(upstream)
                && let Some(code) = label("code")
            {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "an integer counter, exposed as a float"
                )]
                found.insert(code.to_owned(), series.get_counter().get_value() as u64);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Metrics;

    #[test]
    fn codes_are_counted_by_upstream_and_the_newest_comes_first() {
        let metrics = Metrics::new().unwrap();
        metrics.register_upstream("a");
        metrics.register_upstream("b");
        assert_eq!(metrics.traffic("a"), Traffic::default());
        for status in [200, 200, 503, 299] {
            metrics.request_begin("a");
            metrics.request_end("a", status, 0.1);
        }
        metrics.request_begin("a");
        let of = |upstream| crate::telemetry::RefusalEvent {
            upstream,
            code: "token_timeout",
            detail: "",
            ours: true,
            trace_id: None,
        };
        metrics.request_refused(&of("a"));
        metrics.request_refused(&of("b"));
        let seen = metrics.traffic("a");
        assert_eq!(
            seen.answers,
            BTreeMap::from([("200".into(), 2), ("503".into(), 1), ("other".into(), 1)])
        );
        assert_eq!(seen.refusals, BTreeMap::from([("token_timeout".into(), 1)]));
        assert_eq!((seen.in_flight, seen.last), (1, vec![299, 503, 200, 200]));
        for status in 400..420 {
            metrics.request_end("a", status, 0.1);
        }
        assert_eq!(
            metrics.traffic("a").last,
            (412..420).rev().collect::<Vec<_>>()
        );
        assert_eq!(metrics.traffic("b").last, Vec::<u16>::new());
    }
}
