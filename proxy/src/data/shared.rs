//! What all listeners of a data thread share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use super::dial::Dialer;
use super::pipe::PipePool;

/// What all listeners of a data thread share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) dialer: Dialer,
    pub(super) pipes: PipePool,
    pub(super) metrics: Arc<Metrics>,
    /// The connections that are open.
    pub(super) connections: TaskTracker,
    /// Bound on UDP flows.
    pub(super) flows: Arc<Semaphore>,
    pub(super) heartbeat: Heartbeat,
}

/// A timer that ticks while connections are being made, and only then.
///
/// Setting a timer that is due before all others wakes the runtime through the kernel, once for each connection's
/// time-out. With this one due earlier still, setting the others costs nothing.
#[derive(Debug, Default)]
pub(super) struct Heartbeat {
    beating: AtomicBool,
    needed: AtomicBool,
}

impl Heartbeat {
    /// Shorter than every time-out that it is for.
    const PERIOD: Duration = Duration::from_millis(500);
}

impl Shared {
    /// Somebody is about to set a time-out.
    pub(super) fn keep_beating(self: &Arc<Self>) {
        self.heartbeat.needed.store(true, Ordering::Relaxed);
        if self.heartbeat.beating.swap(true, Ordering::Relaxed) {
            return;
        }
        let shared = self.clone();
        tokio::spawn(async move {
            while shared.heartbeat.needed.swap(false, Ordering::Relaxed) {
                tokio::time::sleep(Heartbeat::PERIOD).await;
            }
            shared.heartbeat.beating.store(false, Ordering::Relaxed);
        });
    }
}

/// A number that is counted.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self, number: u64) {
        self.0.fetch_add(number, Ordering::Relaxed);
    }

    pub(crate) fn sub(&self, number: u64) {
        self.0.fetch_sub(number, Ordering::Relaxed);
    }

    /// The number now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What the proxy counts.
#[derive(Debug, Default)]
pub struct Metrics {
    /// TCP connections accepted.
    pub accepted: Count,
    /// TCP connections open between client and endpoint.
    pub open: Count,
    /// Endpoints that could not be connected to.
    pub connect_failures: Count,
    /// Clients reset because no endpoint could be connected to.
    pub unreachable: Count,
    /// UDP flows open.
    pub flows: Count,
    /// Datagrams dropped because too many flows were open.
    pub flows_refused: Count,
    /// DNS questions.
    pub dns_queries: Count,
    /// DNS questions that were passed on.
    pub dns_forwarded: Count,
    /// DNS questions that could not be answered.
    pub dns_failed: Count,
}

impl Metrics {
    /// In Prometheus' text format.
    pub fn render(&self) -> String {
        let rows = [
            ("coracle_proxy_connections_total", "counter", &self.accepted),
            ("coracle_proxy_connections_open", "gauge", &self.open),
            ("coracle_proxy_connect_failures_total", "counter", &self.connect_failures),
            ("coracle_proxy_connections_unreachable_total", "counter", &self.unreachable),
            ("coracle_proxy_udp_flows_open", "gauge", &self.flows),
            ("coracle_proxy_udp_flows_refused_total", "counter", &self.flows_refused),
            ("coracle_dns_queries_total", "counter", &self.dns_queries),
            ("coracle_dns_forwarded_total", "counter", &self.dns_forwarded),
            ("coracle_dns_failures_total", "counter", &self.dns_failed),
        ];
        rows.map(|(name, kind, count)| format!("# TYPE {name} {kind}\n{name} {}\n", count.get())).concat()
    }
}
