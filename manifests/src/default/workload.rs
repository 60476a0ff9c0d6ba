//! Defaults of Deployments and ReplicaSets.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{pod_template, text};

/// Defaults of a Deployment.
pub fn deployment(deployment: &mut Deployment) {
    let spec = &mut deployment.spec;
    spec.replicas.get_or_insert(1);
    spec.revision_history_limit.get_or_insert(10);
    spec.progress_deadline_seconds.get_or_insert(600);
    let strategy = spec.strategy.get_or_insert_default();
    text(&mut strategy.type_, "RollingUpdate");
    if strategy.type_.as_deref() == Some("RollingUpdate") {
        let quarter = || IntOrString::String("25%".to_owned());
        let rolling = strategy.rolling_update.get_or_insert_default();
        rolling.max_unavailable.get_or_insert_with(quarter);
        rolling.max_surge.get_or_insert_with(quarter);
    }
    pod_template(&mut spec.template);
    deployment.status.get_or_insert_default();
}

/// Defaults of a ReplicaSet.
pub fn replica_set(set: &mut ReplicaSet) {
    let spec = &mut set.spec;
    spec.replicas.get_or_insert(1);
    pod_template(spec.template.get_or_insert_default());
    set.status.get_or_insert_default();
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::check;
    use super::*;

    #[test]
    fn deployments() {
        check(
            deployment,
            json!({"spec": {"selector": {}, "template": {"spec": {"containers": [{"image": "a:1"}]}}}}),
            json!({"spec": {
                "replicas": 1, "revisionHistoryLimit": 10, "progressDeadlineSeconds": 600,
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}},
                "template": {"spec": {
                    "containers": [{"imagePullPolicy": "IfNotPresent"}],
                    "restartPolicy": "Always", "enableServiceLinks": "<none>",
                }},
            }}),
        );
        check(
            deployment,
            json!({"spec": {"replicas": 0, "selector": {}, "strategy": {"type": "Recreate"}, "template": {}}}),
            json!({"spec": {"replicas": 0, "strategy": {"rollingUpdate": "<none>"}}}),
        );
        check(
            deployment,
            json!({"spec": {"selector": {}, "strategy": {"rollingUpdate": {"maxSurge": 0}}, "template": {}}}),
            json!({"spec": {"strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": "25%"}}}}),
        );
    }

    #[test]
    fn replica_sets() {
        check(
            replica_set,
            json!({"spec": {"selector": {}, "template": {"spec": {"containers": [{"image": "a"}]}}}}),
            json!({"spec": {"replicas": 1, "template": {"spec": {"containers": [{"imagePullPolicy": "Always"}]}}}}),
        );
    }
}
