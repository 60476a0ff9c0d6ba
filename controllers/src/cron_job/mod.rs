//! CronJobs: a Job whenever the schedule says so.
//!
//! Follows upstream's second controller for them. A Job has a name made from its time, so that it is made once however
//! often it is tried. Nothing is asked but the clock: a CronJob comes back when its next time has come.

mod apply;
mod decide;
#[cfg(test)]
mod tests;

use client::{Cache, Client, Error, EventRecorder, Next, ObjectKey, TaskGroup, WorkQueue};
use manifests::k8s_openapi::api::batch::v1::{CronJob, Job};
use manifests::k8s_openapi::jiff::Timestamp;

use crate::context::Context;
use crate::ownership::{BY_CONTROLLER, by_controller, controller_key};
use apply::Hands;
use decide::{Observed, decide};

/// CronJobs worked on at once.
const WORKERS: usize = 5;

pub(crate) fn start(context: &Context, group: &mut TaskGroup) {
    let cron_jobs = context.informers.cache::<CronJob>();
    let jobs = context.informers.cache::<Job>();
    jobs.add_index(by_controller());
    let queue = WorkQueue::<ObjectKey>::new();
    let to = queue.clone();
    cron_jobs.on_change(move |change| to.add(change.key.clone()));
    let to = queue.clone();
    jobs.on_change(move |change| {
        for job in change.states() {
            if let Some(owner) = controller_key::<CronJob>(&job.metadata) {
                to.add(owner);
            }
        }
    });
    let events = context.recorder("cronjob-controller", group);
    let (client, stop) = (context.client.clone(), group.stop().clone());
    group.spawn_infallible("cronjob-controller", async move {
        tokio::join!(cron_jobs.wait_synced(), jobs.wait_synced());
        let controller = Controller { client, cron_jobs, jobs, events };
        queue.work("cronjob", WORKERS, &stop, |key| controller.reconcile(key)).await;
    });
}

struct Controller {
    client: Client,
    cron_jobs: Cache<CronJob>,
    jobs: Cache<Job>,
    events: EventRecorder,
}

impl Controller {
    async fn reconcile(&self, key: ObjectKey) -> Result<Next, Error> {
        let Some(cron_job) = self.cron_jobs.get(&key) else { return Ok(Next::Wait) };
        let uid = cron_job.metadata.uid.as_deref().unwrap_or_default();
        let jobs = self.jobs.indexed(BY_CONTROLLER, uid);
        let now = Timestamp::now();
        let plan = decide(&Observed { cron_job: &cron_job, jobs: &jobs }, now);
        let hands = Hands { client: &self.client, jobs: &self.jobs, events: &self.events };
        hands.apply(&cron_job, &plan).await?;
        Ok(plan.next(now))
    }
}
