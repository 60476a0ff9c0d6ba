//! Carries a plan out, step by step; what fails is decided anew.

use std::sync::Arc;

use client::{Client, Error, ErrorChain, EventRecorder, Object};
use manifests::k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetStatus};
use manifests::k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};

use super::decide::{Make, Plan, Remove};
use super::identity::{claims_of, ordinal_of, pod_of};
use super::retention;
use crate::history::{Kept, carry_out};
use crate::ownership::{adopt, controller_of, release};
use crate::pod_sync::PodSync;

pub(super) struct Hands<'a> {
    pub(super) client: &'a Client,
    pub(super) pods: PodSync<'a>,
    pub(super) events: &'a EventRecorder,
}

impl Hands<'_> {
    pub(super) async fn apply(&self, set: &StatefulSet, plan: &Plan, pods: &[Arc<Pod>]) -> Result<(), Error> {
        for pod in &plan.adopt {
            adopt::<Pod, _>(self.client, set, pod).await?;
        }
        for pod in &plan.release {
            release::<Pod>(self.client, set.uid(), pod).await?;
        }
        if carry_out(self.client, set.namespace(), &plan.history.steps).await? == Kept::Collision {
            let mut status = set.status.clone().unwrap_or_default();
            status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
            return self.write(set, &status).await;
        }
        self.settle(set, plan, pods).await?;
        let mut done = Ok(());
        for pod in &plan.delete {
            done = done.and(self.delete(set, pod).await);
        }
        for pod in &plan.create {
            if done.is_ok() {
                done = self.create(set, pod).await;
            }
        }
        // What is there is told, whether more could be done or not.
        self.write(set, &plan.status).await?;
        done
    }

    /// Says who claims go with, before a pod is scaled away and whenever the set says something new. Without a policy, no
    /// claim is looked at.
    async fn settle(&self, set: &StatefulSet, plan: &Plan, pods: &[Arc<Pod>]) -> Result<(), Error> {
        if set.spec.volume_claim_templates.iter().flatten().next().is_none() {
            return Ok(());
        }
        let seen = set.status.as_ref().and_then(|status| status.observed_generation);
        let is_new = seen.is_some() && seen != set.metadata.generation;
        let goes = |pod: &Pod| {
            retention::deletes(set) && plan.delete.iter().any(|remove| remove.pod.uid == pod.uid())
        };
        for pod in pods.iter().filter(|pod| is_new || goes(pod)) {
            let Some(ordinal) = ordinal_of(set, pod).filter(|_| controls(set, pod)) else { continue };
            let condemned = retention::is_condemned(set, ordinal);
            let claims = self.client.namespaced::<PersistentVolumeClaim>(set.namespace());
            for named in claims_of(set, ordinal) {
                let Some(claim) = claims.get_opt(named.name()).await? else { continue };
                if let Some(settled) = retention::settled(set, pod, condemned, &claim) {
                    match claims.replace(&settled).await {
                        Err(error) if !error.is_not_found() => return Err(error),
                        _ => {}
                    }
                }
            }
        }
        Ok(())
    }

    async fn create(&self, set: &StatefulSet, make: &Make) -> Result<(), Error> {
        let pod = pod_of(set, &make.template, &make.revision, make.ordinal);
        let claims = self.client.namespaced::<PersistentVolumeClaim>(set.namespace());
        for claim in claims_of(set, make.ordinal) {
            match claims.create(&claim).await {
                Ok(made) => {
                    let (claim, pod, set_name) = (made.name(), pod.name(), set.name());
                    let message = format!("create Claim {claim} Pod {pod} in StatefulSet {set_name} success");
                    self.events.normal(set, "SuccessfulCreate", message);
                }
                Err(error) if error.is_already_exists() => {
                    let there = claims.get_opt(claim.name()).await?;
                    if there.is_none_or(|there| retention::is_stale(&there, pod.name())) {
                        // It goes with an earlier pod of that name; the next one gets its own.
                        return Err(error);
                    }
                }
                Err(error) if error.is_namespace_terminating() => return Ok(()),
                Err(error) => return Err(self.failed(set, "FailedCreate", "create", &pod, error)),
            }
        }
        match self.client.namespaced::<Pod>(set.namespace()).create(&pod).await {
            Ok(made) => {
                let message = format!("create Pod {} in StatefulSet {} successful", made.name(), set.name());
                self.events.normal(set, "SuccessfulCreate", message);
                self.pods.wait_for_creation(&made).await;
                Ok(())
            }
            Err(error) if error.is_namespace_terminating() => Ok(()),
            Err(error) => Err(self.failed(set, "FailedCreate", "create", &pod, error)),
        }
    }

    async fn delete(&self, set: &StatefulSet, remove: &Remove) -> Result<(), Error> {
        if let Some((reason, message)) = &remove.warning {
            self.events.warning(set, reason, message.clone());
        }
        let pod = &remove.pod;
        let api = self.client.namespaced::<Pod>(&pod.key.namespace);
        match api.delete(&pod.key.name, &pod.delete_params()).await {
            Ok(_) => {
                let message = format!("delete Pod {} in StatefulSet {} successful", pod.key.name, set.name());
                self.events.normal(set, "SuccessfulDelete", message);
                self.pods.wait_for_deletion(pod).await;
                Ok(())
            }
            // Another of that name is not ours, and ours is gone.
            Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
            Err(error) => {
                let message = format!(
                    "delete Pod {} in StatefulSet {} failed error: {}",
                    pod.key.name,
                    set.name(),
                    ErrorChain(&error)
                );
                self.events.warning(set, "FailedDelete", message);
                Err(error)
            }
        }
    }

    fn failed(&self, set: &StatefulSet, reason: &'static str, verb: &str, pod: &Pod, error: Error) -> Error {
        let chain = ErrorChain(&error);
        let message =
            format!("{verb} Pod {} in StatefulSet {} failed error: {chain}", pod.name(), set.name());
        self.events.warning(set, reason, message);
        error
    }

    async fn write(&self, set: &StatefulSet, status: &StatefulSetStatus) -> Result<(), Error> {
        if set.status.as_ref() == Some(status) {
            return Ok(());
        }
        let updated = StatefulSet { status: Some(status.clone()), ..set.clone() };
        match self.client.namespaced::<StatefulSet>(set.namespace()).replace_status(&updated).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }
}

/// Whether the pod is the set's, and not one that has nobody.
fn controls(set: &StatefulSet, pod: &Pod) -> bool {
    controller_of(&pod.metadata).is_some_and(|owner| owner.uid == set.uid())
}
