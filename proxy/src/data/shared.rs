//! What all listeners of a data thread share.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
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
    pub(super) unanswered: Arc<Unanswered>,
}

/// Connections that were led to an endpoint and have not heard from it yet: it may not even know of them, as they wait in
/// the queue of its listener. Whoever ends the endpoint now would lose them.
#[derive(Debug, Default)]
pub(super) struct Unanswered {
    counts: Mutex<HashMap<IpAddr, usize>>,
    fewer: Notify,
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub(super) struct Waiting {
    all: Arc<Unanswered>,
    endpoint: IpAddr,
}

impl Unanswered {
    pub(super) fn add(self: &Arc<Self>, endpoint: IpAddr) -> Waiting {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner).entry(endpoint).or_default() += 1;
        Waiting { all: self.clone(), endpoint }
    }

    /// Returns when none is left to these addresses.
    pub(super) async fn none_left(&self, addresses: &[IpAddr]) {
        loop {
            // Before looking: who ends in between is noticed.
            let fewer = self.fewer.notified();
            if !self.is_any_left(addresses) {
                return;
            }
            fewer.await;
        }
    }

    fn is_any_left(&self, addresses: &[IpAddr]) -> bool {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        addresses.iter().any(|address| counts.contains_key(address))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut counts = self.all.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.endpoint) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.endpoint);
                self.all.fewer.notify_waiters();
            }
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_waits_for_the_last_answer_hears_of_it() {
        let all = Arc::new(Unanswered::default());
        let (one, other) = (IpAddr::from([10, 42, 0, 5]), IpAddr::from([10, 42, 0, 6]));
        all.none_left(&[one, other]).await;
        let (first, second, elsewhere) = (all.add(one), all.add(one), all.add(other));
        let waiting = tokio::spawn({
            let all = all.clone();
            async move { all.none_left(&[one]).await }
        });
        drop(first);
        assert!(all.is_any_left(&[one]));
        drop(second);
        waiting.await.unwrap();
        assert!(all.is_any_left(&[one, other]), "others do not count");
        drop(elsewhere);
        assert!(all.counts.lock().unwrap().is_empty());
    }
}
