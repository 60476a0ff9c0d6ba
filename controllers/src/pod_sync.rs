//! Makes pods, and waits until the cache of pods shows what was done to them.
//!
//! The wait is what makes stale caches harmless: an owner is not looked at again before its last pass is visible, so pods
//! are never made or deleted twice. No memory of the past is needed for it.

use std::time::Duration;

use client::{Backoff, Cache, Client, Error, ErrorChain, EventRecorder, ListParams, Object, ObjectKey};
use futures_util::future::join_all;
use manifests::k8s_openapi::{self, api::core::v1::Pod};

use crate::ownership::{BY_CONTROLLER, Ref, controller_of};
use crate::pod_state;

/// A cache that does not show a write for so long is asked about at the API server.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// Pauses while the API server does not answer.
const AWAY: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));

/// The pods as they are shown, and as they are.
#[derive(Clone, Copy)]
pub(crate) struct PodSync<'a> {
    pub(crate) client: &'a Client,
    /// With an index by controller.
    pub(crate) pods: &'a Cache<Pod>,
}

impl PodSync<'_> {
    /// Makes `count` pods, the n-th of which is `pod(n)`, in batches of 1, 2, 4, …: what fails once would fail for all,
    /// and should not be tried 500 times. Events tell of each.
    pub(crate) async fn create(
        &self,
        owner: &(impl Object + k8s_openapi::Resource),
        events: &EventRecorder,
        count: usize,
        pod: impl Fn(usize) -> Pod,
    ) -> Result<(), Error> {
        let api = self.client.namespaced::<Pod>(owner.namespace());
        let (mut done, mut batch) = (0, 1);
        while done < count {
            let end = count.min(done + batch);
            let created = join_all((done..end).map(async |number| api.create(&pod(number)).await)).await;
            let (mut failed, mut unknown) = (None, false);
            for result in created {
                match result {
                    Ok(pod) => {
                        events.normal(owner, "SuccessfulCreate", format!("Created pod: {}", pod.name()));
                        self.wait_for_creation(&pod).await;
                    }
                    // Nothing can be made there, and what is there will go: no failure, and nothing to retry.
                    Err(error) if error.is_namespace_terminating() => return Ok(()),
                    Err(error) => {
                        unknown |= error.is_transport();
                        failed = Some(error);
                    }
                }
            }
            if unknown {
                self.catch_up(owner).await;
            }
            if let Some(error) = failed {
                events.warning(owner, "FailedCreate", format!("Error creating: {}", ErrorChain(&error)));
                return Err(error);
            }
            done = end;
            batch *= 2;
        }
        Ok(())
    }

    /// After an answer was lost: waits until the cache shows the pods as the API server has them. Otherwise the
    /// next pass could make again, or delete others than, those whose fate nobody told us of.
    pub(crate) async fn catch_up(&self, owner: &impl Object) {
        let api = self.client.namespaced::<Pod>(owner.namespace());
        for attempt in 0.. {
            let pods = match api.list_all(&ListParams::default()).await {
                Ok(list) => list.items,
                Err(error) => {
                    tracing::debug!(owner = %owner.key(), error = %ErrorChain(&error), "pods not listed");
                    tokio::time::sleep(AWAY.delay(attempt)).await;
                    continue;
                }
            };
            let is_own = |pod: &Pod| {
                controller_of(&pod.metadata).is_some_and(|controller| controller.uid == owner.uid())
            };
            for pod in pods.iter().filter(|pod| is_own(pod)) {
                if pod_state::is_deleting(pod) {
                    self.wait_for_deletion(&Ref::to(pod)).await;
                } else {
                    self.wait_for_creation(pod).await;
                }
            }
            for shown in self.pods.indexed(BY_CONTROLLER, owner.uid()) {
                if !pods.iter().any(|pod| pod.uid() == shown.uid()) {
                    self.wait_for_deletion(&Ref::to(&*shown)).await;
                }
            }
            return;
        }
    }

    pub(crate) async fn wait_for_creation(&self, pod: &Pod) {
        let shown = |shown: Option<&Pod>| shown.is_some_and(|shown| shown.uid() == pod.uid());
        self.wait(&pod.key(), shown, |newest| newest.uid() != pod.uid()).await;
    }

    pub(crate) async fn wait_for_deletion(&self, pod: &Ref) {
        let going = |newest: &Pod| newest.uid() != pod.uid || newest.metadata.deletion_timestamp.is_some();
        self.wait(&pod.key, |shown| shown.is_none_or(going), |_| false).await;
    }

    /// Waits until the cache shows what was done, or the API server says that it will not: the pod is gone,
    /// or `over` says so.
    async fn wait(&self, key: &ObjectKey, holds: impl Fn(Option<&Pod>) -> bool, over: impl Fn(&Pod) -> bool) {
        loop {
            if tokio::time::timeout(PATIENCE, self.pods.wait_until(key, &holds)).await.is_ok() {
                return;
            }
            match self.client.namespaced::<Pod>(&key.namespace).get_opt(&key.name).await {
                Ok(Some(newest)) if !over(&newest) => tracing::debug!(pod = %key, "the cache is behind"),
                Ok(_) => return,
                Err(error) => tracing::debug!(pod = %key, error = %ErrorChain(&error), "the cache is behind"),
            }
        }
    }
}
