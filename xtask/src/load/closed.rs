//! Closed loops: so many clients, each with one request under way at any time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;

use super::connection::{Connection, Target};
use super::pod;

/// What every client does over and over; `n` differs for every request.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Operation {
    /// Creates pod `n`.
    Create,
    /// Reads pod `n` of so many.
    Get { of: u64 },
    /// Patches the status of pod `n` of so many.
    Patch { of: u64 },
}

/// When a series ends.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Until {
    /// After so many requests by all clients together.
    Requests(u64),
    /// After this time.
    Elapsed(Duration),
}

/// What a series came to.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) took: Duration,
    /// Sorted.
    pub(crate) latencies: Vec<Duration>,
    pub(crate) errors: u64,
    pub(crate) bytes: u64,
    pub(crate) first_error: Option<String>,
}

impl Outcome {
    pub(crate) fn per_second(&self) -> f64 {
        self.latencies.len() as f64 / self.took.as_secs_f64()
    }

    /// In milliseconds.
    pub(crate) fn percentile(&self, percent: usize) -> f64 {
        percentile(&self.latencies, percent)
    }
}

/// Of sorted durations, in milliseconds.
pub(crate) fn percentile(sorted: &[Duration], percent: usize) -> f64 {
    let index = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(index).map_or(f64::NAN, |duration| duration.as_secs_f64() * 1000.0)
}

struct Shared {
    collection: String,
    operation: Operation,
    next: AtomicU64,
    last: u64,
    deadline: Option<Instant>,
}

/// Runs a series on pods of one namespace. `from` is the number of the first pod.
pub(crate) async fn run(
    target: &Target,
    collection: &str,
    operation: Operation,
    clients: usize,
    from: u64,
    until: Until,
) -> anyhow::Result<Outcome> {
    let mut connections = Vec::with_capacity(clients);
    for _ in 0..clients {
        connections.push(target.connect().await?);
    }
    let begin = Instant::now();
    let (last, deadline) = match until {
        Until::Requests(count) => (from + count, None),
        Until::Elapsed(time) => (u64::MAX, Some(begin + time)),
    };
    let collection = collection.to_owned();
    let shared = Arc::new(Shared { collection, operation, next: AtomicU64::new(from), last, deadline });
    let tasks: Vec<_> = connections
        .into_iter()
        .map(|connection| tokio::spawn(client(connection, Arc::clone(&shared))))
        .collect();
    let mut outcome = Outcome::default();
    for task in tasks {
        let part = task.await?;
        outcome.latencies.extend(part.latencies);
        outcome.errors += part.errors;
        outcome.bytes += part.bytes;
        outcome.first_error = outcome.first_error.or(part.first_error);
    }
    outcome.took = begin.elapsed();
    outcome.latencies.sort();
    Ok(outcome)
}

async fn client(mut connection: Connection, shared: Arc<Shared>) -> Outcome {
    let mut outcome = Outcome::default();
    loop {
        let n = shared.next.fetch_add(1, Ordering::Relaxed);
        if n >= shared.last || shared.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return outcome;
        }
        let collection = &shared.collection;
        // Spread, so that neighbours in time are not neighbours in the store.
        let some = |of: u64| n.wrapping_mul(7919) % of;
        let (method, path, kind, body) = match shared.operation {
            Operation::Create => {
                (Method::POST, collection.clone(), "application/json", pod::creation(&format!("pod-{n}")))
            }
            Operation::Get { of } => {
                (Method::GET, format!("{collection}/pod-{}", some(of)), "", Bytes::new())
            }
            Operation::Patch { of } => (
                Method::PATCH,
                format!("{collection}/pod-{}/status", some(of)),
                "application/strategic-merge-patch+json",
                pod::status(n),
            ),
        };
        let begin = Instant::now();
        match connection.ask(method, &path, kind, body).await {
            Ok((status, body)) if status.is_success() => {
                outcome.latencies.push(begin.elapsed());
                outcome.bytes += body.len() as u64;
            }
            Ok((status, body)) => {
                outcome.errors += 1;
                outcome.first_error.get_or_insert_with(|| {
                    format!("{path}: {status}: {}", String::from_utf8_lossy(&body[..body.len().min(300)]))
                });
            }
            Err(error) => {
                outcome.errors += 1;
                outcome.first_error.get_or_insert_with(|| format!("{path}: {error:#}"));
                return outcome;
            }
        }
    }
}
