//! Jobs: so many pods that succeed.
//!
//! Follows upstream's job controller, and its controller that removes finished jobs. Pods are counted exactly once, by a
//! finalizer (`decide.rs` has the diagram). Jobs may be indexed; `policy.rs` has what they
//! say themselves about failures and success.

mod apply;
mod decide;
mod indexes;
mod policy;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use client::{Cache, Client, Error, EventRecorder, Next, Object, ObjectKey, TaskGroup, WorkQueue};
use manifests::k8s_openapi::api::batch::v1::Job;
use manifests::k8s_openapi::api::core::v1::Pod;
use manifests::k8s_openapi::jiff::Timestamp;

use crate::context::Context;
use crate::ownership::{BY_CONTROLLER, Ref, by_controller, controller_key, controller_of, orphans_of};
use crate::pod_sync::PodSync;
use apply::Hands;
use decide::{Observed, TRACKING, decide};

/// Jobs worked on at once.
const WORKERS: usize = 5;
/// Who looks after a job that names nobody.
const MANAGER: &str = "kubernetes.io/job-controller";
/// Says whose pod it is, also when its job is gone.
const JOB_NAME: &str = "batch.kubernetes.io/job-name";

pub(crate) fn start(context: &Context, group: &mut TaskGroup) {
    let jobs = context.informers.cache::<Job>();
    let pods = context.informers.cache::<Pod>();
    pods.add_index(by_controller());
    let queue = WorkQueue::<ObjectKey>::new();
    let to = queue.clone();
    jobs.on_change(move |change| to.add(change.key.clone()));
    let to = queue.clone();
    pods.on_change(move |change| {
        for pod in change.states() {
            let labelled = || {
                let name = pod.metadata.labels.as_ref()?.get(JOB_NAME)?;
                Some(ObjectKey::new(pod.namespace(), name.clone()))
            };
            if let Some(job) = controller_key::<Job>(&pod.metadata).or_else(labelled) {
                to.add(job);
            }
        }
    });
    let events = context.recorder("job-controller", group);
    let (client, stop) = (context.client.clone(), group.stop().clone());
    group.spawn_infallible("job-controller", async move {
        tokio::join!(jobs.wait_synced(), pods.wait_synced());
        let controller = Controller { client, jobs, pods, events };
        queue.work("job", WORKERS, &stop, |key| controller.reconcile(key)).await;
    });
}

struct Controller {
    client: Client,
    jobs: Cache<Job>,
    pods: Cache<Pod>,
    events: EventRecorder,
}

impl Controller {
    async fn reconcile(&self, key: ObjectKey) -> Result<Next, Error> {
        let pods = PodSync { client: &self.client, pods: &self.pods };
        let hands = Hands { client: &self.client, jobs: &self.jobs, pods, events: &self.events };
        let job = self.jobs.get(&key);
        let Some(job) = job.filter(|job| job.metadata.deletion_timestamp.is_none()) else {
            // Nobody counts them any more.
            for pod in self.left_behind(&key) {
                hands.untrack(&pod).await?;
            }
            return Ok(Next::Wait);
        };
        let manager = job.spec.as_ref().and_then(|spec| spec.managed_by.as_deref());
        if manager.is_some_and(|manager| manager != MANAGER) {
            return Ok(Next::Wait);
        }
        let mut pods = self.pods.indexed(BY_CONTROLLER, job.uid());
        pods.extend(self.pods.indexed(BY_CONTROLLER, &orphans_of(&key.namespace)));
        let observed = Observed { job, pods };
        let now = Timestamp::now();
        let plan = decide(&observed, now);
        hands.apply(&observed.job, &plan).await?;
        Ok(plan.next(now))
    }

    /// Pods of a job that is gone or goes, which still wait to be counted.
    fn left_behind(&self, key: &ObjectKey) -> Vec<Ref> {
        let of_the_job = |pod: &Arc<Pod>| {
            let labelled =
                pod.metadata.labels.as_ref().and_then(|labels| labels.get(JOB_NAME)) == Some(&key.name);
            let controlled = controller_key::<Job>(&pod.metadata).as_ref() == Some(key);
            let tracked = pod.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == TRACKING);
            tracked && (controlled || (labelled && controller_of(&pod.metadata).is_none()))
        };
        self.pods
            .in_namespace(&key.namespace)
            .iter()
            .filter(|pod| of_the_job(pod))
            .map(|pod| Ref::to(&**pod))
            .collect()
    }
}
