//! Carries a plan out, step by step; what fails is decided anew.

use std::collections::BTreeMap;

use client::{Cache, Client, DeleteParams, Error, ErrorChain, EventRecorder, Object, Patch, Propagation};
use manifests::k8s_openapi::api::batch::v1::{Job, JobStatus};
use manifests::k8s_openapi::api::core::v1::{Container, EnvVar, EnvVarSource, ObjectFieldSelector, Pod};
use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::json;

use super::decide::{INDEX, Plan, TRACKING};
use super::policy::FAILURES;
use crate::ownership::{Ref, adopt, controller_reference, release};
use crate::pod_sync::{PATIENCE, PodSync};

pub(super) struct Hands<'a> {
    pub(super) client: &'a Client,
    pub(super) jobs: &'a Cache<Job>,
    pub(super) pods: PodSync<'a>,
    pub(super) events: &'a EventRecorder,
}

impl Hands<'_> {
    pub(super) async fn apply(&self, job: &Job, plan: &Plan) -> Result<(), Error> {
        if plan.expire {
            let params = DeleteParams::uid(job.uid()).propagation(Propagation::Foreground);
            return match self.client.namespaced::<Job>(job.namespace()).delete(job.name(), &params).await {
                Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error),
                _ => Ok(()),
            };
        }
        for pod in &plan.adopt {
            adopt::<Pod, _>(self.client, job, pod).await?;
        }
        for pod in &plan.release {
            self.untrack(pod).await?;
            release::<Pod>(self.client, job.uid(), pod).await?;
        }
        for pod in &plan.drop {
            self.untrack(pod).await?;
        }
        for pod in plan.drop.iter().chain(&plan.delete) {
            self.delete(job, pod).await?;
        }
        self.write(job, &plan.status).await?;
        for pod in &plan.untrack {
            self.untrack(pod).await?;
        }
        for (kind, reason, message) in &plan.events {
            self.events.record(client::events::reference(job), *kind, reason, message.clone());
        }
        let pod = |number: usize| pod_of(job, plan.create[number], &plan.failures);
        self.pods.create(job, self.events, plan.create.len(), pod).await
    }

    /// Lets go of a pod that has been counted.
    pub(super) async fn untrack(&self, pod: &Ref) -> Result<(), Error> {
        let patch = json!({"metadata": {"uid": pod.uid, "$deleteFromPrimitiveList/finalizers": [TRACKING]}});
        let api = self.client.namespaced::<Pod>(&pod.key.namespace);
        match api.patch(&pod.key.name, &Patch::Strategic(patch)).await {
            // Another of that name is not ours, and ours is gone.
            Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error),
            _ => Ok(()),
        }
    }

    async fn delete(&self, job: &Job, pod: &Ref) -> Result<(), Error> {
        let api = self.client.namespaced::<Pod>(&pod.key.namespace);
        match api.delete(&pod.key.name, &pod.delete_params()).await {
            Ok(_) => {
                self.events.normal(job, "SuccessfulDelete", format!("Deleted pod: {}", pod.key.name));
                self.pods.wait_for_deletion(pod).await;
                Ok(())
            }
            Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
            Err(error) => {
                let message = format!("Error deleting: {}", ErrorChain(&error));
                self.events.warning(job, "FailedDelete", message);
                Err(error)
            }
        }
    }

    /// The next pass is to see it, or it would decide on what was.
    async fn write(&self, job: &Job, status: &JobStatus) -> Result<(), Error> {
        if job.status.as_ref() == Some(status) {
            return Ok(());
        }
        let updated = Job { status: Some(status.clone()), ..job.clone() };
        match self.client.namespaced::<Job>(job.namespace()).replace_status(&updated).await {
            Ok(_) => {}
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) => return Err(error),
        }
        let key = job.key();
        let newer = |shown: Option<&Job>| {
            shown.is_none_or(|shown| shown.resource_version() != job.resource_version())
        };
        if tokio::time::timeout(PATIENCE, self.jobs.wait_until(&key, newer)).await.is_err() {
            tracing::debug!(job = %key, "the cache is behind");
        }
        Ok(())
    }
}

/// A new pod from the template.
fn pod_of(job: &Job, index: Option<i32>, failures: &BTreeMap<i32, i32>) -> Pod {
    let template = job.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
    let meta = template.metadata.unwrap_or_default();
    let mut pod = Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", job.name())),
            namespace: job.metadata.namespace.clone(),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![controller_reference(job)]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    };
    pod.metadata.finalizers.get_or_insert_default().push(TRACKING.to_owned());
    if let Some(index) = index {
        set_index(&mut pod, job.name(), index);
        if job.spec.as_ref().is_some_and(|spec| spec.backoff_limit_per_index.is_some()) {
            let count = failures.get(&index).copied().unwrap_or(0);
            pod.metadata.annotations.get_or_insert_default().insert(FAILURES.to_owned(), count.to_string());
        }
    }
    pod
}

/// A pod of an indexed job knows which one it is, and can be found by it.
fn set_index(pod: &mut Pod, job: &str, index: i32) {
    let meta = &mut pod.metadata;
    meta.generate_name = Some(format!("{job}-{index}-"));
    for map in [&mut meta.annotations, &mut meta.labels] {
        map.get_or_insert_default().insert(INDEX.to_owned(), index.to_string());
    }
    let spec = pod.spec.get_or_insert_default();
    spec.hostname.get_or_insert_with(|| format!("{job}-{index}"));
    let field = ObjectFieldSelector { api_version: None, field_path: format!("metadata.labels['{INDEX}']") };
    let add = |container: &mut Container| {
        let env = container.env.get_or_insert_default();
        if env.iter().all(|variable| variable.name != "JOB_COMPLETION_INDEX") {
            env.push(EnvVar {
                name: "JOB_COMPLETION_INDEX".to_owned(),
                value_from: Some(EnvVarSource { field_ref: Some(field.clone()), ..EnvVarSource::default() }),
                ..EnvVar::default()
            });
        }
    };
    spec.init_containers.iter_mut().flatten().chain(&mut spec.containers).for_each(add);
}
