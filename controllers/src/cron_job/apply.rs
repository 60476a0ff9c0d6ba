//! Carries a plan out, step by step; what fails is decided anew.

use client::{Cache, Client, DeleteParams, Error, ErrorChain, EventRecorder, Object, Propagation};
use manifests::k8s_openapi::api::batch::v1::{CronJob, Job};

use super::decide::Plan;
use crate::ownership::controller_of;
use crate::pod_sync::PATIENCE;

pub(super) struct Hands<'a> {
    pub(super) client: &'a Client,
    pub(super) jobs: &'a Cache<Job>,
    pub(super) events: &'a EventRecorder,
}

impl Hands<'_> {
    pub(super) async fn apply(&self, cron_job: &CronJob, plan: &Plan) -> Result<(), Error> {
        for (kind, reason, message) in &plan.events {
            self.events.record(client::events::reference(cron_job), *kind, reason, message.clone());
        }
        let jobs = self.client.namespaced::<Job>(cron_job.namespace());
        for job in &plan.delete {
            let params = DeleteParams::uid(&job.uid).propagation(Propagation::Background);
            match jobs.delete(&job.key.name, &params).await {
                Ok(_) => {
                    self.events.normal(cron_job, "SuccessfulDelete", format!("Deleted job {}", job.key.name));
                }
                Err(error) if error.is_not_found() || error.is_conflict() => {}
                Err(error) => {
                    let message = format!("Deleted job: {}", ErrorChain(&error));
                    self.events.warning(cron_job, "FailedDelete", message);
                    return Err(error);
                }
            }
        }
        if let Some(job) = &plan.create {
            self.create(cron_job, job).await?;
        }
        self.write(cron_job, plan).await
    }

    async fn create(&self, cron_job: &CronJob, job: &Job) -> Result<(), Error> {
        let jobs = self.client.namespaced::<Job>(cron_job.namespace());
        match jobs.create(job).await {
            Ok(made) => {
                self.events.normal(cron_job, "SuccessfulCreate", format!("Created job {}", made.name()));
                let shown = |shown: Option<&Job>| shown.is_some();
                if tokio::time::timeout(PATIENCE, self.jobs.wait_until(&made.key(), shown)).await.is_err() {
                    tracing::debug!(job = %made.key(), "the cache is behind");
                }
                Ok(())
            }
            Err(error) if error.is_namespace_terminating() => Ok(()),
            // Made before, by a pass that did not live to say so.
            Err(error) if error.is_already_exists() => {
                let there = jobs.get_opt(job.name()).await?;
                let own = there.is_some_and(|there| {
                    controller_of(&there.metadata).is_some_and(|owner| owner.uid == cron_job.uid())
                });
                if own { Ok(()) } else { Err(self.failed(cron_job, error)) }
            }
            Err(error) => Err(self.failed(cron_job, error)),
        }
    }

    fn failed(&self, cron_job: &CronJob, error: Error) -> Error {
        let message = format!("Error creating job: {}", ErrorChain(&error));
        self.events.warning(cron_job, "FailedCreate", message);
        error
    }

    async fn write(&self, cron_job: &CronJob, plan: &Plan) -> Result<(), Error> {
        if cron_job.status.as_ref() == Some(&plan.status) {
            return Ok(());
        }
        let updated = CronJob { status: Some(plan.status.clone()), ..cron_job.clone() };
        match self.client.namespaced::<CronJob>(cron_job.namespace()).replace_status(&updated).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }
}
