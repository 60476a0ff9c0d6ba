//! One writer among several processes: a coordination/v1 Lease.
//!
//! ```text
//!   waiting ──lease free or expired, write succeeds──▶ leading ──renewed in time──┐
//!      ▲                                                 │    ▲───────────────────┘
//!      │                                                 │ not renewed before the deadline, or taken over
//!      └──────────── (the caller may run again) ◀── stopping: the work is cancelled and awaited
//! ```
//!
//! The deadline for renewal is shorter than the lease: whoever loses it stops writing before the next
//! holder can begin. Whether another's lease has expired is judged by how long ago *we* saw it change,
//! never by comparing clocks. On an orderly stop the lease is released, so that the next holder need not
//! wait.

mod decide;

use std::time::Duration;

use jiff::Timestamp;
use manifests::k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::decide::{Observed, Step, decide};
use crate::backoff::jittered;
use crate::client::Client;
use crate::error::{Error, ErrorChain};

/// Which lease, who we are, and how long things take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseOptions {
    /// Usually `kube-system`.
    pub namespace: String,
    /// For example `kube-scheduler`.
    pub name: String,
    /// Unique among all who compete.
    pub identity: String,
    /// Others wait this long after the last renewal.
    pub duration: Duration,
    /// The holder stops this long after the last renewal; shorter than `duration`.
    pub renew_deadline: Duration,
    /// Pause between attempts.
    pub retry: Duration,
}

impl LeaseOptions {
    /// A lease in `kube-system` with upstream's times.
    pub fn new(name: &str, identity: &str) -> Self {
        Self {
            namespace: "kube-system".to_owned(),
            name: name.to_owned(),
            identity: identity.to_owned(),
            duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry: Duration::from_secs(2),
        }
    }
}

/// Why leading ended.
#[derive(Debug)]
pub enum Leadership<T> {
    /// Told to stop before the lease was ours.
    NeverLed,
    /// The work has ended, by itself or because we were told to stop; the lease is released.
    Finished(T),
    /// The lease was lost; the work was cancelled and has ended.
    Lost(T),
}

/// Waits for the lease, then runs `work` while holding it. The work gets a token that is cancelled when
/// the lease is lost or `stop` is cancelled; it must return soon after.
pub async fn lead<F, R>(
    client: &Client,
    options: &LeaseOptions,
    stop: &CancellationToken,
    work: F,
) -> Leadership<R::Output>
where
    F: FnOnce(CancellationToken) -> R,
    R: Future,
{
    let mut candidate = Candidate { client, options, observed: None };
    let acquired = tokio::select! {
        biased;
        () = stop.cancelled() => None,
        renewed = candidate.acquire() => Some(renewed),
    };
    let Some(renewed) = acquired else { return Leadership::NeverLed };
    tracing::info!(lease = %options.name, identity = %options.identity, "leading");

    let leading = stop.child_token();
    let mut work = std::pin::pin!(work(leading.clone()));
    let lost = tokio::select! {
        biased;
        () = candidate.keep(renewed) => true,
        output = &mut work => {
            candidate.release().await;
            return Leadership::Finished(output);
        }
    };
    debug_assert!(lost, "renewing ends only when the lease is lost");
    tracing::warn!(lease = %options.name, identity = %options.identity, "lost the lease");
    leading.cancel();
    Leadership::Lost(work.await)
}

struct Candidate<'a> {
    client: &'a Client,
    options: &'a LeaseOptions,
    observed: Option<Observed>,
}

impl Candidate<'_> {
    /// Returns when the lease is ours, with the time of the request that made it so.
    async fn acquire(&mut self) -> Instant {
        loop {
            let asked = Instant::now();
            match self.attempt().await {
                Ok(true) => return asked,
                Ok(false) => {}
                Err(error) if error.is_conflict() || error.is_already_exists() => {}
                Err(error) => {
                    tracing::debug!(lease = %self.options.name, error = %ErrorChain(&error), "lease not read or written");
                }
            }
            tokio::time::sleep(jittered(self.options.retry, 0.2)).await;
        }
    }

    /// Renews until that fails for too long or another holds the lease.
    async fn keep(&mut self, mut renewed: Instant) {
        loop {
            tokio::time::sleep(self.options.retry).await;
            let deadline = renewed + self.options.renew_deadline;
            let asked = Instant::now();
            match tokio::time::timeout_at(deadline, self.attempt()).await {
                Err(_) => return,
                Ok(Ok(true)) => renewed = asked,
                Ok(Ok(false)) => return,
                Ok(Err(error)) => {
                    tracing::debug!(lease = %self.options.name, error = %ErrorChain(&error), "lease not renewed");
                }
            }
            if Instant::now() >= deadline {
                return;
            }
        }
    }

    /// One observe, decide, apply. True when the lease is ours.
    async fn attempt(&mut self) -> Result<bool, Error> {
        let api = self.client.namespaced::<Lease>(&self.options.namespace);
        let lease = api.get_opt(&self.options.name).await?;
        let now = Instant::now();
        self.observed = lease.as_ref().map(|lease| Observed::update(self.observed.take(), lease, now));
        let seconds = i32::try_from(self.options.duration.as_secs()).unwrap_or(i32::MAX);
        let time = MicroTime(Timestamp::now());
        let step = decide(
            lease.as_ref(),
            self.observed.as_ref(),
            &self.options.identity,
            self.options.duration,
            now,
        );
        let (mut lease, transitions) = match step {
            Step::Wait => return Ok(false),
            Step::Create => {
                let lease = Lease {
                    metadata: ObjectMeta {
                        name: Some(self.options.name.clone()),
                        namespace: Some(self.options.namespace.clone()),
                        ..ObjectMeta::default()
                    },
                    spec: Some(LeaseSpec {
                        holder_identity: Some(self.options.identity.clone()),
                        lease_duration_seconds: Some(seconds),
                        acquire_time: Some(time.clone()),
                        renew_time: Some(time),
                        lease_transitions: Some(0),
                        ..LeaseSpec::default()
                    }),
                };
                api.create(&lease).await?;
                return Ok(true);
            }
            Step::Renew => (lease.unwrap_or_default(), None),
            Step::Take { transitions } => (lease.unwrap_or_default(), Some(transitions)),
        };
        let spec = lease.spec.get_or_insert_default();
        spec.holder_identity = Some(self.options.identity.clone());
        spec.lease_duration_seconds = Some(seconds);
        spec.renew_time = Some(time.clone());
        if let Some(transitions) = transitions {
            spec.acquire_time = Some(time);
            spec.lease_transitions = Some(transitions);
        }
        api.replace(&lease).await?;
        Ok(true)
    }

    /// Lets the next holder begin at once. If that fails, it begins when the lease expires.
    async fn release(&mut self) {
        let released = async {
            let api = self.client.namespaced::<Lease>(&self.options.namespace);
            let Some(mut lease) = api.get_opt(&self.options.name).await? else { return Ok(()) };
            let Some(spec) = lease.spec.as_mut() else { return Ok(()) };
            if spec.holder_identity.as_deref() != Some(&self.options.identity) {
                return Ok(());
            }
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
            spec.renew_time = Some(MicroTime(Timestamp::now()));
            api.replace(&lease).await.map(drop)
        };
        match tokio::time::timeout(self.options.retry, released).await {
            Ok(Ok(())) => tracing::info!(lease = %self.options.name, "released the lease"),
            Ok(Err(error)) => {
                let error: Error = error;
                tracing::debug!(lease = %self.options.name, error = %ErrorChain(&error), "lease not released");
            }
            Err(_) => tracing::debug!(lease = %self.options.name, "lease not released in time"),
        }
    }
}

#[cfg(test)]
mod tests;
