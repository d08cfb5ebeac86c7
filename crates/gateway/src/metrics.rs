//! What is counted, per revision, and its Prometheus text.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dormouse_api::key::RevisionKey;
use dormouse_base::clock;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::revision::Revision;

const BUCKETS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
const HOLD_BUCKETS: [f64; 12] = [0.0005, 0.001, 0.002, 0.004, 0.008, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0];
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    namespace: String,
    revision: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabels {
    namespace: String,
    revision: String,
    code_class: &'static str,
}

type Histograms = Family<Labels, Histogram, fn() -> Histogram>;

/// All families.
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<CodeLabels, Counter>,
    duration: Histograms,
    hold: Histograms,
    cold_starts: Family<Labels, Counter>,
    queue: Family<Labels, Gauge>,
    in_flight: Family<Labels, Gauge>,
    /// Requests that no revision answered: unknown host, bad request.
    pub(crate) unrouted: Counter,
    pub(crate) connections: Gauge,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Metrics")
    }
}

/// The handles of one revision: no look-up on the hot path.
#[derive(Debug)]
pub(crate) struct RevisionMetrics {
    requests: [Counter; 5],
    duration: Histogram,
    hold: Histogram,
    cold_starts: Counter,
    queue: Gauge,
    in_flight: Gauge,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("dormouse_gateway");
        let requests = Family::default();
        let duration = Histograms::new_with_constructor(|| Histogram::new(BUCKETS));
        let hold = Histograms::new_with_constructor(|| Histogram::new(HOLD_BUCKETS));
        let cold_starts = Family::default();
        let queue = Family::default();
        let in_flight = Family::default();
        let unrouted = Counter::default();
        let connections = Gauge::default();
        registry.register("requests", "Requests answered", requests.clone());
        registry.register("request_duration_seconds", "Time from arrival to the last byte", duration.clone());
        registry.register("hold_seconds", "Time that held requests waited for an instance", hold.clone());
        registry.register("cold_starts", "Requests that found no instance", cold_starts.clone());
        registry.register("queue_depth", "Requests held now", queue.clone());
        registry.register("in_flight", "Requests in instances now", in_flight.clone());
        registry.register("unrouted", "Requests that belong to no revision", unrouted.clone());
        registry.register("connections", "Open client connections", connections.clone());
        Self { registry, requests, duration, hold, cold_starts, queue, in_flight, unrouted, connections }
    }

    pub(crate) fn revision(&self, key: &RevisionKey) -> RevisionMetrics {
        let labels = labels(key);
        RevisionMetrics {
            requests: CLASSES.map(|class| self.requests.get_or_create_owned(&code_labels(key, class))),
            duration: self.duration.get_or_create_owned(&labels),
            hold: self.hold.get_or_create_owned(&labels),
            cold_starts: self.cold_starts.get_or_create_owned(&labels),
            queue: self.queue.get_or_create_owned(&labels),
            in_flight: self.in_flight.get_or_create_owned(&labels),
        }
    }

    pub(crate) fn remove(&self, key: &RevisionKey) {
        let labels = labels(key);
        for class in CLASSES {
            self.requests.remove(&code_labels(key, class));
        }
        self.duration.remove(&labels);
        self.hold.remove(&labels);
        self.cold_starts.remove(&labels);
        self.queue.remove(&labels);
        self.in_flight.remove(&labels);
    }

    /// The Prometheus text.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        if prometheus_client::encoding::text::encode(&mut text, &self.registry).is_err() {
            tracing::error!("metrics cannot be encoded");
        }
        text
    }
}

fn labels(key: &RevisionKey) -> Labels {
    Labels { namespace: key.namespace.to_string(), revision: key.name.to_string() }
}

fn code_labels(key: &RevisionKey, code_class: &'static str) -> CodeLabels {
    CodeLabels { namespace: key.namespace.to_string(), revision: key.name.to_string(), code_class }
}

impl RevisionMetrics {
    pub(crate) fn held(&self, time: Duration) {
        self.hold.observe(time.as_secs_f64());
    }

    pub(crate) fn cold_start(&self) {
        self.cold_starts.inc();
    }

    pub(crate) fn show(&self, queued: usize, in_flight: usize) {
        self.queue.set(i64::try_from(queued).unwrap_or(i64::MAX));
        self.in_flight.set(i64::try_from(in_flight).unwrap_or(i64::MAX));
    }
}

/// Counts one request when it is over, however it ends.
#[derive(Debug)]
pub(crate) struct Track {
    revision: Arc<Revision>,
    start: Instant,
    /// 0 until there is a status: a client that went away counts as nothing but time.
    class: u16,
}

impl Track {
    pub(crate) fn new(revision: Arc<Revision>, start: Instant) -> Self {
        Self { revision, start, class: 0 }
    }

    pub(crate) fn status(&mut self, status: http::StatusCode) {
        self.class = status.as_u16() / 100;
    }
}

impl Drop for Track {
    fn drop(&mut self) {
        if let Some(metrics) = self.revision.known_metrics() {
            metrics.duration.observe(clock::now().saturating_duration_since(self.start).as_secs_f64());
            if let Some(counter) =
                usize::from(self.class).checked_sub(1).and_then(|class| metrics.requests.get(class))
            {
                counter.inc();
            }
        }
    }
}
