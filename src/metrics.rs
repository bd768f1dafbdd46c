//! What is counted. A metric's doc comment is its help text; names and labels are stable.
//!
//! Each server has a registry of its own. No metric contains a token, a key, a hash, an address or a user. What every check
//! counts takes no lock: its counters are found beforehand.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
pub use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::Registry;

/// Counters and histograms of one server.
pub struct Metrics {
    registry: Registry,
    /// Checks of session tokens, by result.
    checks: Family<[(&'static str, &'static str); 1], Counter>,
    /// Those that found the token good.
    good_checks: Counter,
    /// The session cache.
    pub cache: CacheMetrics,
    /// Changes that wait to be written.
    pub writer_queue_length: Gauge,
    /// Changes that shared a commit.
    pub writer_batch_size: Histogram,
    /// Seconds that a commit took.
    pub writer_commit_seconds: Histogram,
    /// Ticks whose touches could not be written; they are tried again.
    pub touch_flush_failures: Counter,
    /// Uses that were not noted because too many were pending.
    pub touches_dropped: Counter,
    /// Sessions that ended, by reason; reasons that applications made up are counted together as other.
    pub sessions_ended: Family<[(&'static str, &'static str); 1], Counter>,
    /// Requests that were refused because there had been too many, by the limit: key, unauthenticated or wrong_credentials.
    pub rate_limited: Family<[(&'static str, &'static str); 1], Counter>,
    /// Live streams of events that are open.
    pub event_streams: Gauge,
    /// Attempts of webhooks' deliveries, by result: delivered, retried, failed or disabled.
    pub webhook_deliveries: Family<[(&'static str, &'static str); 1], Counter>,
    /// Deliveries of webhooks that are not done.
    pub webhook_deliveries_pending: Gauge,
    /// Times that a stream had to wait as events could not be read.
    pub event_stream_waits: Counter,
    /// Backups by the schedule, by result: made or failed.
    pub backups: Family<[(&'static str, &'static str); 1], Counter>,
    /// Requests answered, by operation and status.
    http_requests: Family<[(&'static str, String); 2], Counter>,
    /// Seconds from a request's head to its answer's head.
    pub http_request_seconds: Durations,
}

/// What the session cache counts.
#[derive(Debug, Default, Clone)]
pub struct CacheMetrics {
    /// Lookups that found a copy.
    pub hits: Counter,
    /// Lookups that did not.
    pub misses: Counter,
    /// Copies pushed out by others.
    pub evictions: Counter,
    /// Rows that were read but not kept, because their session changed meanwhile or too many were being read.
    pub fence_drops: Counter,
    /// Copies held now.
    pub entries: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// A registry with everything at zero.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("sessiond");
        let checks: Family<_, Counter> = Family::default();
        let good_checks = checks.get_or_create_owned(&[("result", "active")]);
        let metrics = Self {
            checks,
            good_checks,
            cache: CacheMetrics::default(),
            writer_queue_length: Gauge::default(),
            writer_batch_size: Histogram::new(exponential_buckets(1.0, 2.0, 9)),
            writer_commit_seconds: Histogram::new(exponential_buckets(0.000_1, 2.0, 16)),
            touch_flush_failures: Counter::default(),
            touches_dropped: Counter::default(),
            sessions_ended: Family::default(),
            rate_limited: Family::default(),
            event_streams: Gauge::default(),
            event_stream_waits: Counter::default(),
            webhook_deliveries: Family::default(),
            webhook_deliveries_pending: Gauge::default(),
            backups: Family::default(),
            http_requests: Family::default(),
            http_request_seconds: Durations::default(),
            registry: Registry::default(),
        };
        let r = &mut registry;
        r.register(
            "checks",
            "Checks of session tokens, by result",
            metrics.checks.clone(),
        );
        r.register(
            "cache_hits",
            "Lookups that found a copy",
            metrics.cache.hits.clone(),
        );
        r.register(
            "cache_misses",
            "Lookups that found no copy",
            metrics.cache.misses.clone(),
        );
        r.register(
            "cache_evictions",
            "Copies pushed out by others",
            metrics.cache.evictions.clone(),
        );
        r.register(
            "cache_fence_drops",
            "Rows read but not kept, as their session changed meanwhile or too many were being read",
            metrics.cache.fence_drops.clone(),
        );
        r.register("cache_entries", "Copies held now", metrics.cache.entries.clone());
        r.register(
            "writer_queue_length",
            "Changes that wait to be written",
            metrics.writer_queue_length.clone(),
        );
        r.register(
            "writer_batch_size",
            "Changes that shared a commit",
            metrics.writer_batch_size.clone(),
        );
        r.register(
            "writer_commit_seconds",
            "Seconds that a commit took",
            metrics.writer_commit_seconds.clone(),
        );
        r.register(
            "touch_flush_failures",
            "Ticks whose touches could not be written; they are tried again",
            metrics.touch_flush_failures.clone(),
        );
        r.register(
            "touches_dropped",
            "Uses not noted because too many were pending",
            metrics.touches_dropped.clone(),
        );
        r.register(
            "sessions_ended",
            "Sessions that ended, by reason",
            metrics.sessions_ended.clone(),
        );
        r.register(
            "rate_limited",
            "Requests refused because there had been too many, by limit",
            metrics.rate_limited.clone(),
        );
        r.register(
            "event_streams",
            "Live streams of events that are open",
            metrics.event_streams.clone(),
        );
        r.register(
            "webhook_deliveries",
            "Attempts of webhooks' deliveries, by result",
            metrics.webhook_deliveries.clone(),
        );
        r.register(
            "webhook_deliveries_pending",
            "Deliveries of webhooks that are not done",
            metrics.webhook_deliveries_pending.clone(),
        );
        r.register(
            "event_stream_waits",
            "Times that a live stream had to wait as events could not be read",
            metrics.event_stream_waits.clone(),
        );
        r.register(
            "backups",
            "Backups by the schedule, by result",
            metrics.backups.clone(),
        );
        r.register(
            "http_requests",
            "Requests answered, by operation and status",
            metrics.http_requests.clone(),
        );
        r.register(
            "http_request_seconds",
            "Seconds from a request's head to its answer's head",
            metrics.http_request_seconds.clone(),
        );
        Self { registry, ..metrics }
    }

    /// Counts a check whose token was good.
    pub fn count_good_check(&self) {
        self.good_checks.inc();
    }

    /// Counts a check that was refused for this reason, which is one of a few.
    pub fn count_refused_check(&self, code: &'static str) {
        self.checks.get_or_create(&[("result", code)]).inc();
    }

    /// The counter of the requests of this operation that were answered with this status.
    pub fn http_requests(&self, operation: &str, status: u16) -> Counter {
        let labels = [
            ("operation", operation.to_owned()),
            ("status", status.to_string()),
        ];
        self.http_requests.get_or_create_owned(&labels)
    }

    /// Everything in the OpenMetrics text format.
    pub fn render(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a string does not fail");
        text
    }
}

/// How many durations there were below each bound: 50 microseconds, and twice the one before from there. Unlike the
/// library's histogram it has no lock, as every request counts here.
#[derive(Debug, Default, Clone)]
pub struct Durations(Arc<DurationCounts>);

#[derive(Debug, Default)]
struct DurationCounts {
    /// Durations by bound; the last are longer than all of them.
    counts: [AtomicU64; DURATION_BOUNDS + 1],
    nanos: AtomicU64,
}

const DURATION_BOUNDS: usize = 18;
const SHORTEST_BOUND_NANOS: u64 = 50_000;

impl Durations {
    /// Counts one.
    pub fn observe(&self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let bound = (0..DURATION_BOUNDS).find(|bound| nanos <= SHORTEST_BOUND_NANOS << bound);
        self.0.counts[bound.unwrap_or(DURATION_BOUNDS)].fetch_add(1, Ordering::Relaxed);
        self.0.nanos.fetch_add(nanos, Ordering::Relaxed);
    }
}

impl TypedMetric for Durations {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Durations {
    fn encode(&self, mut encoder: MetricEncoder) -> Result<(), fmt::Error> {
        let bounds = (0..DURATION_BOUNDS).map(|bound| (SHORTEST_BOUND_NANOS << bound) as f64 / 1e9);
        let counts = self.0.counts.iter().map(|count| count.load(Ordering::Relaxed));
        let buckets: Vec<(f64, u64)> = bounds.chain([f64::INFINITY]).zip(counts).collect();
        let seconds = self.0.nanos.load(Ordering::Relaxed) as f64 / 1e9;
        let all = buckets.iter().map(|(_, count)| count).sum();
        encoder.encode_histogram::<NoLabelSet>(seconds, all, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_counted_below_their_bounds() {
        let metrics = Metrics::new();
        for micros in [1, 50, 51, 100, 7_000_000, 60_000_000] {
            metrics
                .http_request_seconds
                .observe(Duration::from_micros(micros));
        }
        let text = metrics.render();
        for line in [
            "sessiond_http_request_seconds_sum 67.000202",
            "sessiond_http_request_seconds_count 6",
            "sessiond_http_request_seconds_bucket{le=\"0.00005\"} 2",
            "sessiond_http_request_seconds_bucket{le=\"0.0001\"} 4",
            "sessiond_http_request_seconds_bucket{le=\"6.5536\"} 4",
            "sessiond_http_request_seconds_bucket{le=\"+Inf\"} 6",
        ] {
            assert!(text.lines().any(|known| known == line), "{line} is not in {text}");
        }
    }
}
