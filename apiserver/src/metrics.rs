//! Numbers about requests, for `/metrics`.

use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Which requests are counted together.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Requests {
    verb: &'static str,
    group: &'static str,
    resource: &'static str,
    subresource: &'static str,
    code: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Durations {
    verb: &'static str,
    resource: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Objects {
    resource: &'static str,
}

/// Upper bounds of the durations, in seconds.
const BUCKETS: [f64; 9] = [0.001, 0.005, 0.025, 0.1, 0.25, 1.0, 5.0, 15.0, 60.0];

fn histogram() -> Histogram {
    Histogram::new(BUCKETS)
}

/// What a request was about, in words that live as long as the program, so that labels cost no memory of their own.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Subject {
    pub(crate) verb: &'static str,
    pub(crate) group: &'static str,
    pub(crate) resource: &'static str,
    pub(crate) subresource: &'static str,
}

/// The server's metrics.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<Requests, Counter>,
    durations: Family<Durations, Histogram>,
    objects: Family<Objects, Gauge>,
    /// Requests that are being answered.
    pub(crate) in_flight: Level,
    /// Watches and streams that are open.
    pub(crate) streams: Level,
}

/// How many of something there are now.
#[derive(Debug, Clone, Default)]
pub(crate) struct Level(Gauge);

/// Counts as one for as long as it lives, however it ends.
#[derive(Debug)]
pub(crate) struct Counted(Level);

impl Level {
    pub(crate) fn enter(&self) -> Counted {
        self.0.inc();
        Counted(self.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.0.dec();
    }
}

impl Metrics {
    pub(crate) fn new() -> Metrics {
        let mut registry = Registry::default();
        let requests = Family::default();
        let durations = Family::<Durations, Histogram>::new_with_constructor(histogram);
        let objects = Family::default();
        let in_flight = Level::default();
        let streams = Level::default();
        registry.register("apiserver_request", "Requests that were answered", Family::clone(&requests));
        registry.register(
            "apiserver_request_duration_seconds",
            "Time to answer, without watches and streams",
            Family::clone(&durations),
        );
        registry.register("apiserver_storage_objects", "Objects that are stored", Family::clone(&objects));
        registry.register(
            "apiserver_current_inflight_requests",
            "Requests being answered",
            in_flight.0.clone(),
        );
        registry.register(
            "apiserver_longrunning_requests",
            "Watches and streams that are open",
            streams.0.clone(),
        );
        Metrics { registry, requests, durations, objects, in_flight, streams }
    }

    pub(crate) fn ended(&self, subject: Subject, code: u16, took: Duration) {
        let Subject { verb, group, resource, subresource } = subject;
        self.requests.get_or_create(&Requests { verb, group, resource, subresource, code }).inc();
        if verb != "watch" {
            self.durations.get_or_create(&Durations { verb, resource }).observe(took.as_secs_f64());
        }
    }

    /// The exposition. `counts` are the objects of each resource now.
    pub(crate) fn expose(&self, counts: impl Iterator<Item = (&'static str, usize)>) -> String {
        for (resource, count) in counts {
            self.objects.get_or_create(&Objects { resource }).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        let mut out = String::new();
        // Writing to a String does not fail.
        let _ = text::encode(&mut out, &self.registry);
        out
    }
}
