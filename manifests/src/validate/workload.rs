//! Deployments and ReplicaSets, and their scale.

use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentSpec, DeploymentStrategy, ReplicaSet, ReplicaSetSpec, RollingUpdateDeployment,
};
use k8s_openapi::api::autoscaling::v1::Scale;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{immutable, meta, non_negative, object_meta, object_meta_update, pod, text};
use crate::field::{ErrorList, FieldError, Path};
use crate::selector::Selector;
use crate::{encode, names};

/// A new Deployment.
pub fn deployment(deployment: &Deployment) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta(&deployment.metadata, true, names::dns1123_subdomain, &mut errors);
    deployment_spec(&deployment.spec, &mut errors);
    errors
}

/// An update of a Deployment.
pub fn deployment_update(new: &Deployment, old: &Deployment) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta_update(&new.metadata, &old.metadata, &mut errors);
    deployment_spec(&new.spec, &mut errors);
    immutable(&new.spec.selector, &old.spec.selector, &Path::new("spec").child("selector"), &mut errors);
    errors
}

/// An update of a Deployment's status.
pub fn deployment_status_update(new: &Deployment, old: &Deployment) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta_update(&new.metadata, &old.metadata, &mut errors);
    let path = Path::new("status");
    let status = new.status.clone().unwrap_or_default();
    let count = |count: Option<i32>| count.unwrap_or_default();
    non_negative(
        status.observed_generation.unwrap_or_default(),
        &path.child("observedGeneration"),
        &mut errors,
    );
    for (field, value) in [
        ("replicas", status.replicas),
        ("updatedReplicas", status.updated_replicas),
        ("readyReplicas", status.ready_replicas),
        ("availableReplicas", status.available_replicas),
        ("unavailableReplicas", status.unavailable_replicas),
        ("collisionCount", status.collision_count),
    ] {
        non_negative(count(value), &path.child(field), &mut errors);
    }
    let some = [
        ("updatedReplicas", count(status.updated_replicas)),
        ("readyReplicas", count(status.ready_replicas)),
        ("availableReplicas", count(status.available_replicas)),
    ];
    parts_of_all(&some, count(status.replicas), &path, &mut errors);
    let old_collisions = old.status.as_ref().and_then(|status| status.collision_count);
    if old_collisions.is_some_and(|old| count(status.collision_count) < old) {
        let path = path.child("collisionCount");
        errors.push(FieldError::invalid(&path, count(status.collision_count), "cannot be decremented"));
    }
    errors
}

/// A new ReplicaSet.
pub fn replica_set(set: &ReplicaSet) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta(&set.metadata, true, names::dns1123_subdomain, &mut errors);
    replica_set_spec(&set.spec, &mut errors);
    errors
}

/// An update of a ReplicaSet.
pub fn replica_set_update(new: &ReplicaSet, old: &ReplicaSet) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta_update(&new.metadata, &old.metadata, &mut errors);
    replica_set_spec(&new.spec, &mut errors);
    immutable(&new.spec.selector, &old.spec.selector, &Path::new("spec").child("selector"), &mut errors);
    errors
}

/// An update of a ReplicaSet's status.
pub fn replica_set_status_update(new: &ReplicaSet, old: &ReplicaSet) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta_update(&new.metadata, &old.metadata, &mut errors);
    let path = Path::new("status");
    let status = new.status.clone().unwrap_or_default();
    let count = |count: Option<i32>| count.unwrap_or_default();
    let some = [
        ("fullyLabeledReplicas", count(status.fully_labeled_replicas)),
        ("readyReplicas", count(status.ready_replicas)),
        ("availableReplicas", count(status.available_replicas)),
    ];
    non_negative(status.replicas, &path.child("replicas"), &mut errors);
    for (field, value) in some {
        non_negative(value, &path.child(field), &mut errors);
    }
    non_negative(
        status.observed_generation.unwrap_or_default(),
        &path.child("observedGeneration"),
        &mut errors,
    );
    parts_of_all(&some, status.replicas, &path, &mut errors);
    errors
}

/// How many replicas something should have, through the subresource `scale`.
pub fn scale(scale: &Scale) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta(&scale.metadata, true, names::dns1123_subdomain, &mut errors);
    let replicas = scale.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or_default();
    non_negative(replicas, &Path::new("spec").child("replicas"), &mut errors);
    errors
}

/// The last of `parts` counts available replicas, the one before it the ready ones.
fn parts_of_all(parts: &[(&str, i32); 3], all: i32, path: &Path, errors: &mut ErrorList) {
    for (field, value) in parts {
        if *value > all {
            let detail = "cannot be greater than status.replicas";
            errors.push(FieldError::invalid(&path.child(field), value, detail));
        }
    }
    let [_, (_, ready), (field, available)] = parts;
    if available > ready {
        errors.push(FieldError::invalid(
            &path.child(field),
            available,
            "cannot be greater than readyReplicas",
        ));
    }
}

fn deployment_spec(spec: &DeploymentSpec, errors: &mut ErrorList) {
    let path = Path::new("spec");
    non_negative(spec.replicas.unwrap_or_default(), &path.child("replicas"), errors);
    selector_and_template(&spec.selector, Some(&spec.template), &path, errors);
    strategy(spec.strategy.as_ref(), &path.child("strategy"), errors);
    let min_ready = spec.min_ready_seconds.unwrap_or_default();
    non_negative(min_ready, &path.child("minReadySeconds"), errors);
    non_negative(
        spec.revision_history_limit.unwrap_or_default(),
        &path.child("revisionHistoryLimit"),
        errors,
    );
    if let Some(deadline) = spec.progress_deadline_seconds {
        let path = path.child("progressDeadlineSeconds");
        non_negative(deadline, &path, errors);
        if deadline <= min_ready {
            errors.push(FieldError::invalid(&path, deadline, "must be greater than minReadySeconds"));
        }
    }
}

fn replica_set_spec(spec: &ReplicaSetSpec, errors: &mut ErrorList) {
    let path = Path::new("spec");
    non_negative(spec.replicas.unwrap_or_default(), &path.child("replicas"), errors);
    non_negative(spec.min_ready_seconds.unwrap_or_default(), &path.child("minReadySeconds"), errors);
    selector_and_template(&spec.selector, spec.template.as_ref(), &path, errors);
}

pub(super) fn selector_and_template(
    selector: &LabelSelector,
    template: Option<&PodTemplateSpec>,
    path: &Path,
    errors: &mut ErrorList,
) {
    let selector_path = path.child("selector");
    meta::label_selector(Some(selector), &selector_path, errors);
    let parsed = match Selector::from_label_selector(Some(selector)) {
        Ok(parsed) => parsed,
        Err(_) => {
            let value = encode::to_value(selector).unwrap_or_default();
            errors.push(FieldError::invalid(&selector_path, value, "invalid label selector"));
            return;
        }
    };
    // The generated type has no difference between a selector that is missing and one that is empty, so the error is
    // the one for what happens to people: they forget it.
    let missing = parsed.is_everything();
    if missing {
        errors.push(FieldError::required(&selector_path, ""));
    }
    let path = path.child("template");
    let Some(template) = template else {
        errors.push(FieldError::required(&path, ""));
        return;
    };
    let labels = template.metadata.as_ref().and_then(|meta| meta.labels.as_ref());
    if missing || !parsed.matches_meta(labels) {
        let path = path.child("metadata").child("labels");
        let detail = "`selector` does not match template `labels`";
        errors.push(FieldError::invalid(&path, labels, detail));
    }
    pod::pod_template(template, &path, errors);
    let Some(spec) = &template.spec else { return };
    let policy = text(&spec.restart_policy);
    if policy != "Always" {
        let path = path.child("spec").child("restartPolicy");
        errors.push(FieldError::not_supported(&path, policy, &["Always"]));
    }
    if spec.active_deadline_seconds.is_some() {
        let path = path.child("spec").child("activeDeadlineSeconds");
        errors.push(FieldError::forbidden(&path, "activeDeadlineSeconds in ReplicaSet is not Supported"));
    }
}

fn strategy(strategy: Option<&DeploymentStrategy>, path: &Path, errors: &mut ErrorList) {
    let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
    let rolling_path = path.child("rollingUpdate");
    match strategy.map(|strategy| text(&strategy.type_)).unwrap_or_default() {
        "Recreate" => {
            if rolling.is_some() {
                let detail = "may not be specified when strategy `type` is 'Recreate'";
                errors.push(FieldError::forbidden(&rolling_path, detail));
            }
        }
        "RollingUpdate" => match rolling {
            None => {
                let detail = "this should be defaulted and never be nil";
                errors.push(FieldError::required(&rolling_path, detail));
            }
            Some(rolling) => rolling_update(rolling, &rolling_path, errors),
        },
        _ => {
            let value = encode::to_value(&strategy).unwrap_or_default();
            errors.push(FieldError::not_supported(path, value, &["Recreate", "RollingUpdate"]));
        }
    }
}

fn rolling_update(rolling: &RollingUpdateDeployment, path: &Path, errors: &mut ErrorList) {
    let none = IntOrString::Int(0);
    let unavailable = rolling.max_unavailable.as_ref().unwrap_or(&none);
    let surge = rolling.max_surge.as_ref().unwrap_or(&none);
    count_or_percent(unavailable, &path.child("maxUnavailable"), errors);
    count_or_percent(surge, &path.child("maxSurge"), errors);
    let path = path.child("maxUnavailable");
    if amount(unavailable) == 0 && amount(surge) == 0 {
        errors.push(FieldError::invalid(&path, unavailable, "may not be 0 when `maxSurge` is 0"));
    }
    if matches!(unavailable, IntOrString::String(_)) && amount(unavailable) > 100 {
        errors.push(FieldError::invalid(&path, unavailable, "must not be greater than 100%"));
    }
}

fn count_or_percent(value: &IntOrString, path: &Path, errors: &mut ErrorList) {
    match value {
        IntOrString::Int(count) => non_negative(*count, path, errors),
        IntOrString::String(text) => errors.push_invalid(path, text, names::percent(text)),
    }
}

/// The number, also of a percentage; what is neither counts as zero.
fn amount(value: &IntOrString) -> u64 {
    match value {
        IntOrString::Int(count) => u64::try_from(*count).unwrap_or_default(),
        IntOrString::String(text) => {
            text.strip_suffix('%').and_then(|text| text.parse().ok()).unwrap_or_default()
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::tests::{check, check_update, namespaced};
    use super::*;
    use crate::default;

    /// A defaulted Deployment with changes to its spec.
    fn with(changes: Value) -> Value {
        let mut spec = json!({
            "selector": {"matchLabels": {"app": "a"}},
            "template": {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "a", "image": "a"}]}},
        });
        for (key, value) in changes.as_object().unwrap() {
            spec[key] = value.clone();
        }
        let mut object: Deployment = serde_json::from_value(namespaced(json!({ "spec": spec }))).unwrap();
        default::deployment(&mut object);
        serde_json::to_value(&object).unwrap()
    }

    #[test]
    fn deployments() {
        check(deployment, with(json!({})), &[]);
        check(deployment, with(json!({"strategy": {"type": "Recreate"}})), &[]);
        check(
            deployment,
            with(
                json!({"replicas": -1, "minReadySeconds": 600, "strategy": {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": "0%"}}}),
            ),
            &[
                "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
                "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0",
                "spec.progressDeadlineSeconds: Invalid value: 600: must be greater than minReadySeconds",
            ],
        );
        check(
            deployment,
            with(json!({"strategy": {"rollingUpdate": {"maxUnavailable": "101%", "maxSurge": "some"}}})),
            &[
                "spec.strategy.rollingUpdate.maxSurge: Invalid value: \"some\": a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')",
                "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"101%\": must not be greater than 100%",
            ],
        );
        check(
            deployment,
            with(json!({"selector": {}})),
            &[
                "spec.selector: Required value",
                "spec.template.metadata.labels: Invalid value: {\"app\":\"a\"}: `selector` does not match template `labels`",
            ],
        );
        check(
            deployment,
            with(json!({"selector": {"matchLabels": {"app": "b"}}})),
            &[
                "spec.template.metadata.labels: Invalid value: {\"app\":\"a\"}: `selector` does not match template `labels`",
            ],
        );
        check(
            deployment,
            with(
                json!({"template": {"metadata": {"labels": {"app": "a"}}, "spec": {"restartPolicy": "Never", "containers": []}}}),
            ),
            &[
                "spec.template.spec.containers: Required value",
                "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
            ],
        );
    }

    #[test]
    fn the_selector_stays() {
        let other = with(json!({
            "selector": {"matchLabels": {"app": "b"}},
            "template": {"metadata": {"labels": {"app": "b"}}, "spec": {"containers": [{"name": "a", "image": "a"}]}},
        }));
        check_update(
            deployment_update,
            other,
            with(json!({})),
            &["spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"b\"}}: field is immutable"],
        );
    }

    #[test]
    fn statuses() {
        let status = |status: Value| {
            let mut object = with(json!({}));
            object["status"] = status;
            object
        };
        check_update(
            deployment_status_update,
            status(
                json!({"replicas": 2, "readyReplicas": 1, "availableReplicas": 2, "updatedReplicas": 3, "collisionCount": 1}),
            ),
            status(json!({"collisionCount": 2})),
            &[
                "status.updatedReplicas: Invalid value: 3: cannot be greater than status.replicas",
                "status.availableReplicas: Invalid value: 2: cannot be greater than readyReplicas",
                "status.collisionCount: Invalid value: 1: cannot be decremented",
            ],
        );
        let set = |status: Value| namespaced(json!({"spec": {"selector": {}}, "status": status}));
        check_update(
            replica_set_status_update,
            set(json!({"replicas": 1, "fullyLabeledReplicas": 2, "readyReplicas": -1})),
            set(json!({"replicas": 1})),
            &[
                "status.readyReplicas: Invalid value: -1: must be greater than or equal to 0",
                "status.fullyLabeledReplicas: Invalid value: 2: cannot be greater than status.replicas",
                "status.availableReplicas: Invalid value: 0: cannot be greater than readyReplicas",
            ],
        );
    }

    #[test]
    fn scales() {
        check(scale, namespaced(json!({"spec": {"replicas": 3}})), &[]);
        check(
            scale,
            namespaced(json!({"spec": {"replicas": -3}})),
            &["spec.replicas: Invalid value: -3: must be greater than or equal to 0"],
        );
    }
}
