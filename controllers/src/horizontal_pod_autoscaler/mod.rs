//! HorizontalPodAutoscalers: so many replicas that pods use what they should.
//!
//! ```text
//! every 15 s:  scale of the target ─┐
//!              its pods ────────────┼─▶ each metric asks ─▶ the greatest ─▶ stable? too fast? within bounds? ─▶ scale
//!              metrics.k8s.io ──────┘   (`usage`)            (`decide`)      (`limits`)
//! ```
//!
//! Follows upstream's controller, for metrics of resources; there is no API here from which others could be had. Without
//! an autoscaler nothing is asked.

mod decide;
mod limits;
mod observe;
#[cfg(test)]
mod tests;
mod usage;

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use client::{Error, EventRecorder, Next, ObjectKey, TaskGroup, WorkQueue};
use manifests::k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use manifests::k8s_openapi::api::core::v1::Pod;
use manifests::k8s_openapi::jiff::Timestamp;

use crate::context::Context;
use decide::{Observed, bounds, decide};
use limits::History;
use observe::Eyes;

/// Autoscalers worked on at once.
const WORKERS: usize = 5;
/// How often an autoscaler looks.
const PERIOD: Duration = Duration::from_secs(15);

pub(crate) fn start(context: &Context, group: &mut TaskGroup) {
    let autoscalers = context.informers.cache::<HorizontalPodAutoscaler>();
    let pods = context.informers.cache::<Pod>();
    let queue = WorkQueue::<ObjectKey>::new();
    let to = queue.clone();
    autoscalers.on_change(move |change| {
        // Its status is this controller's doing.
        if change.old.map(|old| &old.spec) != change.new.map(|new| &new.spec) {
            to.add(change.key.clone());
        }
    });
    let events = context.recorder("horizontal-pod-autoscaler", group);
    let (client, stop) = (context.client.clone(), group.stop().clone());
    group.spawn_infallible("horizontal-pod-autoscaler", async move {
        tokio::join!(autoscalers.wait_synced(), pods.wait_synced());
        let eyes = Eyes { client, pods, autoscalers, selectors: Mutex::default() };
        let controller = Controller { eyes, events, histories: Mutex::default() };
        queue.work("horizontalpodautoscaler", WORKERS, &stop, |key| controller.reconcile(key)).await;
    });
}

struct Controller {
    eyes: Eyes,
    events: EventRecorder,
    histories: Mutex<HashMap<ObjectKey, History>>,
}

impl Controller {
    async fn reconcile(&self, key: ObjectKey) -> Result<Next, Error> {
        let Some(autoscaler) = self.eyes.autoscalers.get(&key) else {
            self.histories().remove(&key);
            self.eyes.selectors.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
            return Ok(Next::Wait);
        };
        let (target, scale) = self.eyes.target(&key, &autoscaler).await;
        let now = Timestamp::now();
        let current = match &target {
            decide::Target::Found { replicas, .. } => *replicas,
            decide::Target::Unreachable(_) => 0,
        };
        let observed = Observed { autoscaler: autoscaler.clone(), target };
        let mut plan = decide(&observed, self.histories().entry(key.clone()).or_default(), now);
        if let (Some((replicas, why)), Some(scale)) = (plan.rescale.take(), scale) {
            let done = self.eyes.rescale(&key, &autoscaler, scale, replicas).await;
            if done.is_ok() {
                let bounds = bounds(&autoscaler, current);
                self.histories().entry(key.clone()).or_default().done(&bounds, replicas, now);
            }
            plan.rescaled(replicas, &why, done.err().as_deref(), now);
        }
        for (kind, reason, message) in plan.events {
            self.events.record(client::events::reference(&*autoscaler), kind, reason, message);
        }
        if autoscaler.status.as_ref() != Some(&plan.status) {
            let updated = HorizontalPodAutoscaler { status: Some(plan.status), ..(*autoscaler).clone() };
            let api = self.eyes.client.namespaced::<HorizontalPodAutoscaler>(&key.namespace);
            match api.replace_status(&updated).await {
                Err(error) if error.is_not_found() => return Ok(Next::Wait),
                // Somebody was faster: the next look is at what they wrote.
                Err(error) if error.is_conflict() => {}
                Err(error) => {
                    self.events.warning(&*autoscaler, "FailedUpdateStatus", error.to_string());
                    return Err(error);
                }
                Ok(_) => {}
            }
        }
        Ok(Next::After(PERIOD))
    }

    fn histories(&self) -> std::sync::MutexGuard<'_, HashMap<ObjectKey, History>> {
        self.histories.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
