//! Carries a plan out, and waits until the caches show it.

use client::{Client, Error, ErrorChain, EventRecorder, Object};
use futures_util::future::join_all;
use manifests::k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use manifests::k8s_openapi::{Metadata, NamespaceResourceScope, Resource};

use super::decide::Action;
use super::status::Failure;
use crate::ownership::{Ref, adopt, controller_reference, release};
use crate::pod_sync::PodSync;

/// Whose pods they are: a ReplicaSet, or what came before it.
pub(crate) trait Owner:
    Object + Metadata<Ty = ObjectMeta> + Resource<Scope = NamespaceResourceScope>
{
}

impl<O: Object + Metadata<Ty = ObjectMeta> + Resource<Scope = NamespaceResourceScope>> Owner for O {}

/// What an attempt came to.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) failure: Failure,
    pub(crate) error: Error,
}

impl Failed {
    fn new(reason: &'static str, error: Error) -> Self {
        Self { failure: Failure { reason, message: ErrorChain(&error).to_string() }, error }
    }
}

pub(crate) struct Hands<'a> {
    pub(crate) client: &'a Client,
    pub(crate) pods: PodSync<'a>,
    pub(crate) events: &'a EventRecorder,
}

impl Hands<'_> {
    pub(crate) async fn apply<O: Owner>(
        &self,
        owner: &O,
        template: Option<&PodTemplateSpec>,
        actions: &[Action],
    ) -> Result<(), Failed> {
        for action in actions {
            match action {
                Action::Adopt(pod) => adopt::<Pod, _>(self.client, owner, pod).await.map_err(not_counted)?,
                Action::Release(pod) => {
                    release::<Pod>(self.client, owner.uid(), pod).await.map_err(not_counted)?;
                }
                Action::Create(count) => self.create(owner, template, *count).await?,
                Action::Delete(pods) => self.delete(owner, pods).await?,
            }
        }
        Ok(())
    }

    async fn create<O: Owner>(
        &self,
        owner: &O,
        template: Option<&PodTemplateSpec>,
        count: usize,
    ) -> Result<(), Failed> {
        let pod = pod_of(owner, template);
        let created = self.pods.create(owner, self.events, count, |_| pod.clone()).await;
        created.map_err(|error| Failed::new("FailedCreate", error))
    }

    async fn delete<O: Owner>(&self, owner: &O, pods: &[Ref]) -> Result<(), Failed> {
        let deleted = join_all(pods.iter().map(|pod| async move {
            let api = self.client.namespaced::<Pod>(&pod.key.namespace);
            match api.delete(&pod.key.name, &pod.delete_params()).await {
                Ok(_) => Ok(Some(pod)),
                // Another of that name is not ours, and ours is gone.
                Err(error) if error.is_not_found() || error.is_conflict() => Ok(None),
                Err(error) => Err(error),
            }
        }))
        .await;
        let (mut failed, mut unknown) = (None, false);
        for result in deleted {
            match result {
                Ok(Some(pod)) => {
                    self.events.normal(owner, "SuccessfulDelete", format!("Deleted pod: {}", pod.key.name));
                    self.pods.wait_for_deletion(pod).await;
                }
                Ok(None) => {}
                Err(error) => {
                    unknown |= error.is_transport();
                    failed = Some(error);
                }
            }
        }
        if unknown {
            self.pods.catch_up(owner).await;
        }
        let Some(error) = failed else { return Ok(()) };
        self.events.warning(owner, "FailedDelete", format!("Error deleting: {}", ErrorChain(&error)));
        Err(Failed::new("FailedDelete", error))
    }
}

/// Adoption and release are not what `ReplicaFailure` is about, but the pass has failed.
fn not_counted(error: Error) -> Failed {
    Failed::new("FailedCreate", error)
}

/// A new pod from the template.
fn pod_of<O: Owner>(owner: &O, template: Option<&PodTemplateSpec>) -> Pod {
    let template = template.cloned().unwrap_or_default();
    let meta = template.metadata.unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", owner.name())),
            namespace: owner.meta().namespace.clone(),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![controller_reference(owner)]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    }
}
