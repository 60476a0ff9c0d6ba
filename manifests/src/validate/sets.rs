//! DaemonSets, StatefulSets, ControllerRevisions, ReplicationControllers and PodTemplates.

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, StatefulSet};
use k8s_openapi::api::core::v1::{
    EmptyDirVolumeSource, PodTemplate, PodTemplateSpec, ReplicationController, Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::workload::selector_and_template;
use super::{immutable, non_negative, object_meta, object_meta_update, one_of, pod, text};
use crate::encode::same;
use crate::field::{ErrorList, FieldError, Path};
use crate::names;

/// A new DaemonSet.
pub fn daemon_set(set: &DaemonSet) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta(&set.metadata, true, names::dns1123_subdomain, &mut errors);
    daemon_set_spec(set, &mut errors);
    errors
}

/// An update of a DaemonSet.
pub fn daemon_set_update(new: &DaemonSet, old: &DaemonSet) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta_update(&new.metadata, &old.metadata, &mut errors);
    daemon_set_spec(new, &mut errors);
    immutable(&new.spec.selector, &old.spec.selector, &Path::new("spec").child("selector"), &mut errors);
    errors
}

fn daemon_set_spec(set: &DaemonSet, errors: &mut ErrorList) {
    let (path, spec) = (Path::new("spec"), &set.spec);
    selector_and_template(&spec.selector, Some(&spec.template), &path, errors);
    non_negative(spec.min_ready_seconds.unwrap_or_default(), &path.child("minReadySeconds"), errors);
    non_negative(
        spec.revision_history_limit.unwrap_or_default(),
        &path.child("revisionHistoryLimit"),
        errors,
    );
    let strategy = spec.update_strategy.clone().unwrap_or_default();
    let path = path.child("updateStrategy").child("type");
    one_of(text(&strategy.type_), &["OnDelete", "RollingUpdate"], &path, errors);
}

/// A new StatefulSet.
pub fn stateful_set(set: &StatefulSet) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta(&set.metadata, true, names::dns1123_subdomain, &mut errors);
    stateful_set_spec(set, &mut errors);
    errors
}

fn stateful_set_spec(set: &StatefulSet, errors: &mut ErrorList) {
    let (path, spec) = (Path::new("spec"), &set.spec);
    let policies = ["OrderedReady", "Parallel"];
    one_of(text(&spec.pod_management_policy), &policies, &path.child("podManagementPolicy"), errors);
    let strategy = spec.update_strategy.clone().unwrap_or_default();
    let strategy_path = path.child("updateStrategy");
    one_of(text(&strategy.type_), &["OnDelete", "RollingUpdate"], &strategy_path.child("type"), errors);
    if let Some(rolling) = &strategy.rolling_update {
        let path = strategy_path.child("rollingUpdate").child("partition");
        non_negative(rolling.partition.unwrap_or_default(), &path, errors);
    }
    for (field, value) in [
        ("replicas", spec.replicas),
        ("minReadySeconds", spec.min_ready_seconds),
        ("revisionHistoryLimit", spec.revision_history_limit),
    ] {
        non_negative(value.unwrap_or_default(), &path.child(field), errors);
    }
    selector_and_template(&spec.selector, Some(&with_claims(set)), &path, errors);
}

/// The template with the volumes that its pods will have: one for each claim, in the place of another of that name.
fn with_claims(set: &StatefulSet) -> PodTemplateSpec {
    let mut template = set.spec.template.clone();
    let claims = set.spec.volume_claim_templates.iter().flatten();
    let names: Vec<String> = claims.filter_map(|claim| claim.metadata.name.clone()).collect();
    if let Some(spec) = template.spec.as_mut().filter(|_| !names.is_empty()) {
        let volumes = spec.volumes.get_or_insert_default();
        volumes.retain(|volume| !names.contains(&volume.name));
        volumes.extend(names.into_iter().map(|name| Volume {
            name,
            empty_dir: Some(EmptyDirVolumeSource::default()),
            ..Volume::default()
        }));
    }
    template
}

/// An update of a StatefulSet.
pub fn stateful_set_update(new: &StatefulSet, old: &StatefulSet) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta_update(&new.metadata, &old.metadata, &mut errors);
    stateful_set_spec(new, &mut errors);
    // All but a few fields stay as they are.
    let mut allowed = old.spec.clone();
    allowed.replicas = new.spec.replicas;
    allowed.ordinals.clone_from(&new.spec.ordinals);
    allowed.template = new.spec.template.clone();
    allowed.update_strategy.clone_from(&new.spec.update_strategy);
    allowed.min_ready_seconds = new.spec.min_ready_seconds;
    allowed.revision_history_limit = new.spec.revision_history_limit;
    let retention = &new.spec.persistent_volume_claim_retention_policy;
    allowed.persistent_volume_claim_retention_policy.clone_from(retention);
    if !same(&allowed, &new.spec) {
        let why = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', \
                   'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and \
                   'minReadySeconds' are forbidden";
        errors.push(FieldError::forbidden(&Path::new("spec"), why));
    }
    errors
}

/// A new ControllerRevision.
pub fn controller_revision(revision: &ControllerRevision) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta(&revision.metadata, true, names::dns1123_subdomain, &mut errors);
    if revision.data.0.is_null() {
        errors.push(FieldError::required(&Path::new("data"), "data is mandatory"));
    }
    non_negative(revision.revision.unwrap_or_default(), &Path::new("revision"), &mut errors);
    errors
}

/// An update of a ControllerRevision.
pub fn controller_revision_update(new: &ControllerRevision, old: &ControllerRevision) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta_update(&new.metadata, &old.metadata, &mut errors);
    immutable(&new.data, &old.data, &Path::new("data"), &mut errors);
    errors
}

/// A new ReplicationController.
pub fn replication_controller(controller: &ReplicationController) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta(&controller.metadata, true, names::dns1123_subdomain, &mut errors);
    replication_controller_spec(controller, &mut errors);
    errors
}

/// An update of a ReplicationController.
pub fn replication_controller_update(new: &ReplicationController, old: &ReplicationController) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta_update(&new.metadata, &old.metadata, &mut errors);
    replication_controller_spec(new, &mut errors);
    errors
}

fn replication_controller_spec(controller: &ReplicationController, errors: &mut ErrorList) {
    let path = Path::new("spec");
    let spec = controller.spec.clone().unwrap_or_default();
    non_negative(spec.replicas.unwrap_or_default(), &path.child("replicas"), errors);
    non_negative(spec.min_ready_seconds.unwrap_or_default(), &path.child("minReadySeconds"), errors);
    let selector = LabelSelector { match_labels: spec.selector.clone(), match_expressions: None };
    selector_and_template(&selector, spec.template.as_ref(), &path, errors);
}

/// A new PodTemplate.
pub fn stored_pod_template(template: &PodTemplate) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta(&template.metadata, true, names::dns1123_subdomain, &mut errors);
    pod::pod_template(&template.template.clone().unwrap_or_default(), &Path::new("template"), &mut errors);
    errors
}

/// An update of a PodTemplate.
pub fn stored_pod_template_update(new: &PodTemplate, old: &PodTemplate) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta_update(&new.metadata, &old.metadata, &mut errors);
    pod::pod_template(&new.template.clone().unwrap_or_default(), &Path::new("template"), &mut errors);
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn claims_are_volumes_of_the_template() {
        let set = |claims: serde_json::Value, volumes: serde_json::Value| -> StatefulSet {
            let mut set: StatefulSet = serde_json::from_value(json!({
                "metadata": {"name": "db", "namespace": "n"},
                "spec": {
                    "serviceName": "db", "replicas": 1, "selector": {"matchLabels": {"app": "db"}},
                    "template": {
                        "metadata": {"labels": {"app": "db"}},
                        "spec": {
                            "containers": [{"name": "a", "image": "i", "volumeMounts": [{"name": "data", "mountPath": "/data"}]}],
                            "volumes": volumes,
                        },
                    },
                    "volumeClaimTemplates": claims,
                },
            }))
            .unwrap();
            crate::default::stateful_set(&mut set);
            set
        };
        let claim = json!([{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}}]);
        assert_eq!(stateful_set(&set(claim.clone(), json!([]))).to_string(), "");
        // The claim wins over a volume of its name, whatever that is.
        assert_eq!(stateful_set(&set(claim, json!([{"name": "data", "emptyDir": {}}]))).to_string(), "");
        let errors = stateful_set(&set(json!([]), json!([]))).to_string();
        assert!(errors.contains("volumeMounts[0].name: Not found: \"data\""), "{errors}");
    }
}
