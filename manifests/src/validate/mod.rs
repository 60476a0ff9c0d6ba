//! Validation: what is wrong with an object, field by field, in upstream's words and at upstream's paths.
//!
//! For each kind there is `kind(&new)` for creation, `kind_update(&new, &old)`, and `kind_status_update(&new, &old)`
//! where the kind has a status of its own. Objects are expected to be defaulted, and metadata to be filled in by the
//! server as far as it does that (name from `generateName`, uid, resourceVersion of an update).
//!
//! Follows `pkg/apis/*/validation` of Kubernetes. Left out on purpose: fields that only matter on Windows, annotations
//! that were replaced by fields (AppArmor, seccomp), and the inside of volume sources that coracle does not mount.

mod autoscaling;
mod batch;
mod certificate;
mod config;
mod disruption_budget;
mod endpoints;
mod event;
mod flow_control;
mod ingress;
mod ip;
mod lease;
mod limit_range;
mod meta;
mod namespace;
mod node;
mod pod;
mod priority_class;
mod rbac;
mod request;
mod resource;
mod resource_quota;
mod service;
mod sets;
mod storage;
mod workload;

use serde::Serialize;

pub use autoscaling::{
    horizontal_pod_autoscaler, horizontal_pod_autoscaler_status_update, horizontal_pod_autoscaler_update,
};
pub use batch::{cron_job, cron_job_update, job, job_status_update, job_update};
pub use certificate::{certificate_signing_request, certificate_signing_request_update};
pub use config::{
    config_map, config_map_update, secret, secret_update, service_account, service_account_update,
};
pub use disruption_budget::{
    pod_disruption_budget, pod_disruption_budget_status_update, pod_disruption_budget_update,
};
pub use endpoints::{endpoint_slice, endpoint_slice_update, endpoints, endpoints_update};
pub use event::{event, event_update};
pub use flow_control::{
    flow_schema, flow_schema_update, priority_level_configuration, priority_level_configuration_update,
};
pub use ingress::{
    ingress, ingress_class, ingress_class_update, ingress_update, network_policy, network_policy_update,
    runtime_class, runtime_class_update,
};
pub use lease::{lease, lease_update};
pub use limit_range::{limit_range, limit_range_update};
pub use meta::{object_meta, object_meta_update};
pub use namespace::{namespace, namespace_finalize_update, namespace_status_update, namespace_update};
pub use node::{node, node_status_update, node_update};
pub use pod::{
    pod, pod_binding, pod_ephemeral_containers_update, pod_resize, pod_resize_update, pod_status_update,
    pod_update,
};
pub use priority_class::{priority_class, priority_class_update};
pub use rbac::{
    cluster_role, cluster_role_binding, cluster_role_binding_update, cluster_role_update, role, role_binding,
    role_binding_update, role_update,
};
pub use request::{LogOptions, delete_options, dry_run, field_manager, field_validation, log_options};
pub use resource_quota::{resource_quota, resource_quota_status_update, resource_quota_update};
pub use service::{service, service_status_update, service_update};
pub use sets::{
    controller_revision, controller_revision_update, daemon_set, daemon_set_update, replication_controller,
    replication_controller_update, stateful_set, stateful_set_update, stored_pod_template,
    stored_pod_template_update,
};
pub use storage::{
    csi_driver, csi_driver_update, csi_node, csi_node_update, csi_storage_capacity,
    csi_storage_capacity_update, persistent_volume, persistent_volume_claim, persistent_volume_claim_update,
    persistent_volume_update, storage_class, storage_class_update, volume_attachment,
    volume_attachment_update,
};
pub use workload::{
    deployment, deployment_status_update, deployment_update, replica_set, replica_set_status_update,
    replica_set_update, scale,
};

use crate::encode;
use crate::field::{ErrorList, FieldError, Path};
use crate::names::{self, NameRule};

const NEGATIVE: &str = "must be greater than or equal to 0";
const IMMUTABLE: &str = "field is immutable";

fn text(field: &Option<String>) -> &str {
    field.as_deref().unwrap_or_default()
}

/// A name of something else, or any other text with a rule.
fn named(value: &str, rule: NameRule, path: &Path, errors: &mut ErrorList) {
    errors.push_invalid(path, value, rule(value));
}

/// One of an enumeration, which must be given.
fn one_of(value: &str, supported: &[&str], path: &Path, errors: &mut ErrorList) {
    if value.is_empty() {
        errors.push(FieldError::required(path, ""));
    } else if !supported.contains(&value) {
        errors.push(FieldError::not_supported(path, value, supported));
    }
}

/// One of an enumeration, when it is given.
fn one_of_if_set(value: &Option<String>, supported: &[&str], path: &Path, errors: &mut ErrorList) {
    if let Some(value) = value
        && !supported.contains(&value.as_str())
    {
        errors.push(FieldError::not_supported(path, value, supported));
    }
}

fn non_negative(value: impl Into<i64>, path: &Path, errors: &mut ErrorList) {
    let value = value.into();
    if value < 0 {
        errors.push(FieldError::invalid(path, value, NEGATIVE));
    }
}

fn immutable<T: Serialize + ?Sized>(new: &T, old: &T, path: &Path, errors: &mut ErrorList) {
    if !encode::same(new, old) {
        errors.push(FieldError::invalid(path, encode::to_value(new).unwrap_or_default(), IMMUTABLE));
    }
}

fn port(value: i32, path: &Path, errors: &mut ErrorList) {
    for message in names::port_number(value.into()) {
        errors.push(FieldError::invalid(path, value, message));
    }
}

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;
    use serde_json::{Value, json};

    use super::*;

    /// What `validate` says about an object, given as JSON.
    pub(super) fn check<T: DeserializeOwned>(
        validate: fn(&T) -> ErrorList,
        object: Value,
        expected: &[&str],
    ) {
        let decoded: T = serde_json::from_value(object.clone()).unwrap();
        let errors: Vec<String> = validate(&decoded).iter().map(ToString::to_string).collect();
        assert_eq!(errors, expected, "{object}");
    }

    /// What `validate` says about an update.
    pub(super) fn check_update<T: DeserializeOwned>(
        validate: fn(&T, &T) -> ErrorList,
        new: Value,
        old: Value,
        expected: &[&str],
    ) {
        let decode = |value: &Value| serde_json::from_value::<T>(value.clone()).unwrap();
        let errors: Vec<String> =
            validate(&decode(&new), &decode(&old)).iter().map(ToString::to_string).collect();
        assert_eq!(errors, expected, "{new} over {old}");
    }

    /// An object with metadata that is fine, of a kind in a namespace.
    pub(super) fn namespaced(mut fields: Value) -> Value {
        fields["metadata"] = json!({"name": "a", "namespace": "b", "resourceVersion": "1", "uid": "u"});
        fields
    }

    /// An object with metadata that is fine, of a kind without namespaces.
    pub(super) fn cluster_wide(mut fields: Value) -> Value {
        fields["metadata"] = json!({"name": "a", "resourceVersion": "1", "uid": "u"});
        fields
    }
}
