//! Makes pods go for a more important one.

use client::{Client, Error, EventRecorder, EventType, Object, Patch};
use manifests::k8s_openapi::api::core::v1::{ObjectReference, Pod};
use manifests::k8s_openapi::jiff::Timestamp;
use manifests::time;
use serde_json::json;

use crate::preempt::Candidate;

/// Deletes every victim; what is gone already is fine.
pub(super) async fn evict(
    client: &Client,
    events: &EventRecorder,
    scheduler: &str,
    pod: &Pod,
    candidate: &Candidate,
) -> Result<(), Error> {
    let message = format!("{scheduler}: preempting to accommodate a higher priority pod");
    for victim in &candidate.victims {
        let api = client.namespaced::<Pod>(&victim.key.namespace);
        let patch = Patch::Strategic(json!({
            "metadata": {"uid": victim.uid},
            "status": {"conditions": [{
                "type": "DisruptionTarget",
                "status": "True",
                "reason": "PreemptionByScheduler",
                "message": message,
                "lastTransitionTime": time::time(Timestamp::now()),
            }]},
        }));
        match api.patch_status(&victim.key.name, &patch).await {
            Err(error) if error.is_not_found() || error.is_conflict() => continue,
            result => drop(result?),
        }
        match api.delete(&victim.key.name, &client::DeleteParams::uid(victim.uid.clone())).await {
            Err(error) if error.is_not_found() || error.is_conflict() => continue,
            result => drop(result?),
        }
        let regarding = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            namespace: Some(victim.key.namespace.clone()),
            name: Some(victim.key.name.clone()),
            uid: Some(victim.uid.clone()),
            ..ObjectReference::default()
        };
        let message = format!("Preempted by pod {} on node {}", pod.uid(), candidate.node);
        events.record(regarding, EventType::Normal, "Preempted", message);
    }
    Ok(())
}
