//! Carries a plan out.

use client::{Client, DeleteParams, Error, Next, Patch};
use manifests::k8s_openapi::api::core::v1::{Node, Pod};
use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::decide::{Action, Observed, decide};
use super::heartbeat::Heartbeats;

pub(super) async fn apply(client: &Client, observed: Observed, heartbeats: &Heartbeats) -> Result<Next, Error> {
    let plan = decide(&observed);
    let name = observed.node.metadata.name.as_deref().unwrap_or_default();
    let nodes = client.all::<Node>();
    let mut node = (*observed.node).clone();
    for action in plan.actions {
        match action {
            Action::SetConditions(conditions) => {
                tracing::warn!(node = name, silence = ?observed.silence, "the node no longer reports");
                node.status.get_or_insert_default().conditions = Some(conditions);
                node = nodes.replace_status(&node).await?;
            }
            Action::SetTaints(taints) => {
                node.spec.get_or_insert_default().taints = (!taints.is_empty()).then_some(taints);
                node = nodes.replace(&node).await?;
            }
            Action::MarkUnready(key) => {
                let patch = Patch::Strategic(serde_json::json!({"status": {"conditions": [
                    {"type": "Ready", "status": "False", "lastTransitionTime": Time(observed.now)}]}}));
                let result = client.namespaced::<Pod>(&key.namespace).patch_status(&key.name, &patch).await;
                result.map(drop).or_else(ignore_gone)?;
            }
            Action::Evict { key, uid } => {
                tracing::info!(pod = %key, node = name, "deleting a pod that does not tolerate its node's taints");
                client.namespaced::<Pod>(&key.namespace).delete_opt(&key.name, &DeleteParams::uid(uid)).await?;
            }
        }
    }
    if plan.silent {
        heartbeats.give_up(name);
    }
    Ok(plan.again.map_or(Next::Wait, Next::After))
}

fn ignore_gone(error: Error) -> Result<(), Error> {
    if error.is_not_found() { Ok(()) } else { Err(error) }
}
