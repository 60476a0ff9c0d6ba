//! Defaults of DaemonSets, StatefulSets and ReplicationControllers.

use k8s_openapi::api::apps::v1::{DaemonSet, StatefulSet};
use k8s_openapi::api::core::v1::{PodTemplate, ReplicationController};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::storage::claim_spec;
use super::{pod_template, text};

/// Defaults of a DaemonSet.
pub fn daemon_set(set: &mut DaemonSet) {
    let spec = &mut set.spec;
    let strategy = spec.update_strategy.get_or_insert_default();
    text(&mut strategy.type_, "RollingUpdate");
    if strategy.type_.as_deref() == Some("RollingUpdate") {
        let rolling = strategy.rolling_update.get_or_insert_default();
        rolling.max_unavailable.get_or_insert(IntOrString::Int(1));
        rolling.max_surge.get_or_insert(IntOrString::Int(0));
    }
    spec.revision_history_limit.get_or_insert(10);
    pod_template(&mut spec.template);
    set.status.get_or_insert_default();
}

/// Defaults of a StatefulSet.
pub fn stateful_set(set: &mut StatefulSet) {
    let spec = &mut set.spec;
    text(&mut spec.pod_management_policy, "OrderedReady");
    let strategy = spec.update_strategy.get_or_insert_default();
    text(&mut strategy.type_, "RollingUpdate");
    if strategy.type_.as_deref() == Some("RollingUpdate") {
        strategy.rolling_update.get_or_insert_default().partition.get_or_insert(0);
    }
    let retention = spec.persistent_volume_claim_retention_policy.get_or_insert_default();
    text(&mut retention.when_deleted, "Retain");
    text(&mut retention.when_scaled, "Retain");
    spec.replicas.get_or_insert(1);
    spec.revision_history_limit.get_or_insert(10);
    for claim in spec.volume_claim_templates.iter_mut().flatten() {
        claim_spec(claim.spec.get_or_insert_default());
        text(&mut claim.status.get_or_insert_default().phase, "Pending");
    }
    pod_template(&mut spec.template);
    set.status.get_or_insert_default();
}

/// Defaults of a ReplicationController.
pub fn replication_controller(controller: &mut ReplicationController) {
    let spec = controller.spec.get_or_insert_default();
    spec.replicas.get_or_insert(1);
    if let Some(template) = &mut spec.template {
        pod_template(template);
        let labels = template.metadata.as_ref().and_then(|meta| meta.labels.clone()).unwrap_or_default();
        if !labels.is_empty() {
            if spec.selector.as_ref().is_none_or(std::collections::BTreeMap::is_empty) {
                spec.selector = Some(labels.clone());
            }
            if controller.metadata.labels.as_ref().is_none_or(std::collections::BTreeMap::is_empty) {
                controller.metadata.labels = Some(labels);
            }
        }
    }
    controller.status.get_or_insert_default();
}

/// Defaults of a PodTemplate.
pub fn stored_pod_template(template: &mut PodTemplate) {
    pod_template(template.template.get_or_insert_default());
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::check;
    use super::*;

    #[test]
    fn sets() {
        check(
            daemon_set,
            json!({"spec": {"selector": {}, "template": {}}}),
            json!({"spec": {
                "revisionHistoryLimit": 10,
                "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}},
            }}),
        );
        check(
            stateful_set,
            json!({"spec": {"selector": {}, "template": {}, "serviceName": "s", "volumeClaimTemplates": [{"metadata": {"name": "v"}}]}}),
            json!({"spec": {
                "replicas": 1, "podManagementPolicy": "OrderedReady", "revisionHistoryLimit": 10,
                "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
                "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain", "whenScaled": "Retain"},
                "volumeClaimTemplates": [{"spec": {"volumeMode": "Filesystem"}, "status": {"phase": "Pending"}}],
            }}),
        );
        check(
            replication_controller,
            json!({"spec": {"template": {"metadata": {"labels": {"a": "b"}}}}}),
            json!({"metadata": {"labels": {"a": "b"}}, "spec": {"replicas": 1, "selector": {"a": "b"}}}),
        );
    }
}
