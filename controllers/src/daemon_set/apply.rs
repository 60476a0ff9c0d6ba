//! Carries a plan out, step by step; what fails is decided anew.

use client::{Client, Error, ErrorChain, EventRecorder, Object};
use manifests::k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};
use manifests::k8s_openapi::api::core::v1::Pod;
use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::decide::Plan;
use super::nodes::{on_node, with_tolerations};
use crate::history::{HASH, Kept, carry_out};
use crate::ownership::{Ref, adopt, controller_reference, release};
use crate::pod_sync::PodSync;

pub(super) struct Hands<'a> {
    pub(super) client: &'a Client,
    pub(super) pods: PodSync<'a>,
    pub(super) events: &'a EventRecorder,
}

impl Hands<'_> {
    pub(super) async fn apply(&self, set: &DaemonSet, plan: &Plan) -> Result<(), Error> {
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
        for (kind, reason, message) in &plan.events {
            self.events.record(client::events::reference(set), *kind, reason, message.clone());
        }
        for pod in &plan.delete {
            self.delete(set, pod).await?;
        }
        let made = self
            .pods
            .create(set, self.events, plan.create.len(), |number| {
                pod_on(set, &plan.create[number], plan.history.hash())
            })
            .await;
        // What is there is told, whether more could be made or not.
        self.write(set, &plan.status).await?;
        made
    }

    async fn delete(&self, set: &DaemonSet, pod: &Ref) -> Result<(), Error> {
        let api = self.client.namespaced::<Pod>(&pod.key.namespace);
        match api.delete(&pod.key.name, &pod.delete_params()).await {
            Ok(_) => {
                self.events.normal(set, "SuccessfulDelete", format!("Deleted pod: {}", pod.key.name));
                self.pods.wait_for_deletion(pod).await;
                Ok(())
            }
            // Another of that name is not ours, and ours is gone.
            Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
            Err(error) => {
                self.events.warning(set, "FailedDelete", format!("Error deleting: {}", ErrorChain(&error)));
                Err(error)
            }
        }
    }

    async fn write(&self, set: &DaemonSet, status: &DaemonSetStatus) -> Result<(), Error> {
        if set.status.as_ref() == Some(status) {
            return Ok(());
        }
        let updated = DaemonSet { status: Some(status.clone()), ..set.clone() };
        match self.client.namespaced::<DaemonSet>(set.namespace()).replace_status(&updated).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }
}

/// A new pod for a node.
fn pod_on(set: &DaemonSet, node: &str, hash: &str) -> Pod {
    let template = set.spec.template.clone();
    let meta = template.metadata.unwrap_or_default();
    let mut labels = meta.labels.unwrap_or_default();
    labels.insert(HASH.to_owned(), hash.to_owned());
    labels.insert("pod-template-generation".to_owned(), set.metadata.generation.unwrap_or(1).to_string());
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", set.name())),
            namespace: set.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![controller_reference(set)]),
            ..ObjectMeta::default()
        },
        spec: template.spec.map(|spec| on_node(with_tolerations(spec), node)),
        status: None,
    }
}
