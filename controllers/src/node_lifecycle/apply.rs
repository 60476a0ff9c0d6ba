//! Carries a plan out.

use client::{Client, Error, EventRecorder, Next, ObjectKey, Patch};
use manifests::k8s_openapi::api::core::v1::{Node, Pod};
use manifests::k8s_openapi::jiff::Timestamp;
use manifests::time;
use serde_json::{Value, json};

use super::decide::{Action, Observed, Plan, says_ready};
use super::heartbeat::Heartbeats;
use crate::ownership::Ref;

pub(super) struct Hands {
    pub(super) client: Client,
    /// About nodes, and about pods whose node is not ready.
    pub(super) nodes: EventRecorder,
    /// About pods that have to go.
    pub(super) evictions: EventRecorder,
}

impl Hands {
    pub(super) async fn apply(
        &self,
        observed: &Observed,
        plan: Plan,
        heartbeats: &Heartbeats,
    ) -> Result<Next, Error> {
        let name = observed.node.metadata.name.as_deref().unwrap_or_default();
        let nodes = self.client.all::<Node>();
        let mut node = (*observed.node).clone();
        for action in plan.actions {
            match action {
                Action::SetConditions(conditions) => {
                    tracing::warn!(node = name, silence = ?observed.silence, "the node no longer reports");
                    node.status.get_or_insert_default().conditions = Some(conditions);
                    node = nodes.replace_status(&node).await?;
                    if says_ready(&observed.node) {
                        let message = format!("Node {name} status is now: NodeNotReady");
                        self.nodes.normal(&*observed.node, "NodeNotReady", message);
                    }
                }
                Action::SetTaints(taints) => {
                    node.spec.get_or_insert_default().taints = (!taints.is_empty()).then_some(taints);
                    node = nodes.replace(&node).await?;
                }
                Action::MarkUnready(pod) => self.mark_unready(observed, &pod).await?,
                Action::Evict(pod) => self.evict(observed, name, &pod).await?,
            }
        }
        if plan.silent {
            heartbeats.give_up(name);
        }
        Ok(plan.again.map_or(Next::Wait, Next::After))
    }

    async fn mark_unready(&self, observed: &Observed, pod: &Ref) -> Result<(), Error> {
        let condition = condition("Ready", "False", observed.now);
        if self.set_condition(pod, condition).await?
            && let Some(pod) = observed.pods.iter().find(|known| Ref::to(&***known) == *pod)
        {
            self.nodes.warning(&**pod, "NodeNotReady", "Node is not ready");
        }
        Ok(())
    }

    async fn evict(&self, observed: &Observed, node: &str, pod: &Ref) -> Result<(), Error> {
        tracing::info!(pod = %pod.key, node, "deleting a pod that does not tolerate its node's taints");
        if let Some(object) = observed.pods.iter().find(|known| Ref::to(&***known) == *pod) {
            let message = format!("Marking for deletion Pod {}", pod.key);
            self.evictions.normal(&**object, "TaintManagerEviction", message);
        }
        let mut condition = condition("DisruptionTarget", "True", observed.now);
        condition["reason"] = json!("DeletionByTaintManager");
        condition["message"] = json!("Taint manager: deleting due to NoExecute taint");
        self.set_condition(pod, condition).await?;
        let ObjectKey { namespace, name } = &pod.key;
        match self.client.namespaced::<Pod>(namespace).delete_opt(name, &pod.delete_params()).await {
            // Another pod has its name by now.
            Err(error) if error.is_conflict() => Ok(()),
            result => result,
        }
    }

    /// Says whether the pod was still there.
    async fn set_condition(&self, pod: &Ref, condition: Value) -> Result<bool, Error> {
        let patch = Patch::Strategic(json!({
            "metadata": {"uid": pod.uid},
            "status": {"conditions": [condition]},
        }));
        let api = self.client.namespaced::<Pod>(&pod.key.namespace);
        match api.patch_status(&pod.key.name, &patch).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() || error.is_conflict() => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn condition(kind: &str, status: &str, now: Timestamp) -> Value {
    json!({"type": kind, "status": status, "lastTransitionTime": time::time(now)})
}
