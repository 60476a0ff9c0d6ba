//! Defaults: what an object means when it does not say it. In place, and doing it twice changes nothing.
//!
//! Follows `pkg/apis/{core,apps,discovery}/v1/defaults.go`. What needs to know the cluster is not here but in the API
//! server's admission: priority, service account, default tolerations, addresses of services.

mod autoscaling;
mod batch;
mod flow_control;
mod limit_range;
mod network_policy;
mod pod;
mod resource_quota;
mod service;
mod sets;
mod storage;
mod workload;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Secret, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRoleBinding, RoleBinding, RoleRef, Subject};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;

pub use autoscaling::horizontal_pod_autoscaler;
pub use batch::{cron_job, job};
pub use flow_control::{flow_schema, priority_level_configuration};
pub use limit_range::limit_range;
pub use network_policy::network_policy;
pub use pod::{pod, pod_template};
pub use resource_quota::resource_quota;
pub use service::{endpoint_slice, endpoints, service};
pub use sets::{daemon_set, replication_controller, stateful_set, stored_pod_template};
pub use storage::{csi_driver, persistent_volume, persistent_volume_claim, storage_class};
pub use workload::{deployment, replica_set};

use crate::quantity::Quantity;

/// The group of roles, users and groups.
const RBAC: &str = "rbac.authorization.k8s.io";

/// Sets a text that is missing or empty.
fn text(field: &mut Option<String>, default: &str) {
    if field.as_deref().unwrap_or_default().is_empty() {
        *field = Some(default.to_owned());
    }
}

/// Sets a number that is missing or zero.
fn number(field: &mut Option<i32>, default: i32) {
    if field.unwrap_or_default() == 0 {
        *field = Some(default);
    }
}

/// Amounts count in thousandths; finer ones are rounded up.
fn round_up_to_milli(amounts: &mut Option<BTreeMap<String, ApiQuantity>>) {
    for amount in amounts.iter_mut().flat_map(|amounts| amounts.values_mut()) {
        if let Ok(quantity) = Quantity::try_from(&*amount) {
            let rounded = if quantity.is_milli() { quantity } else { Quantity::from_milli(quantity.milli()) };
            *amount = rounded.into();
        }
    }
}

/// Namespaces: phase, and the label that selectors match the name by.
pub fn namespace(namespace: &mut Namespace) {
    if let Some(name) = namespace.metadata.name.clone().filter(|name| !name.is_empty()) {
        let labels = namespace.metadata.labels.get_or_insert_default();
        labels.insert("kubernetes.io/metadata.name".to_owned(), name);
    }
    text(&mut namespace.status.get_or_insert_default().phase, "Active");
}

/// Nodes: everything can be allocated unless the node says otherwise.
pub fn node(node: &mut Node) {
    if let Some(status) = &mut node.status {
        if status.allocatable.is_none() {
            status.allocatable.clone_from(&status.capacity);
        }
        round_up_to_milli(&mut status.capacity);
        round_up_to_milli(&mut status.allocatable);
    }
}

/// Secrets: type, and `stringData` becomes data.
pub fn secret(secret: &mut Secret) {
    text(&mut secret.type_, "Opaque");
    for (key, value) in secret.string_data.take().into_iter().flatten() {
        let value = k8s_openapi::ByteString(value.into_bytes());
        secret.data.get_or_insert_default().insert(key, value);
    }
}

/// ConfigMaps have no defaults.
pub fn config_map(_: &mut ConfigMap) {}

/// ServiceAccounts have no defaults.
pub fn service_account(_: &mut ServiceAccount) {}

/// RoleBindings: the group that roles and users are in.
pub fn role_binding(binding: &mut RoleBinding) {
    role_ref(&mut binding.role_ref);
    subjects(binding.subjects.as_mut());
}

/// The same for the whole cluster.
pub fn cluster_role_binding(binding: &mut ClusterRoleBinding) {
    role_ref(&mut binding.role_ref);
    subjects(binding.subjects.as_mut());
}

fn role_ref(role: &mut RoleRef) {
    if role.api_group.as_deref().unwrap_or_default().is_empty() {
        role.api_group = Some(RBAC.to_owned());
    }
}

fn subjects(subjects: Option<&mut Vec<Subject>>) {
    for subject in subjects.into_iter().flatten() {
        if subject.api_group.as_deref().unwrap_or_default().is_empty() {
            let group = if subject.kind == "ServiceAccount" { "" } else { RBAC };
            subject.api_group = Some(group.to_owned()).filter(|group| !group.is_empty());
        }
    }
}

/// PriorityClasses: pods of it may preempt others.
pub fn priority_class(class: &mut PriorityClass) {
    text(&mut class.preemption_policy, "PreemptLowerPriority");
}

#[cfg(test)]
mod tests {
    use serde::Serialize;
    use serde::de::DeserializeOwned;
    use serde_json::{Value, json};

    use super::*;

    /// Defaults `given`, compares, and defaults again.
    pub(super) fn check<T: DeserializeOwned + Serialize>(default: fn(&mut T), given: Value, expected: Value) {
        let mut object: T = serde_json::from_value(given).unwrap();
        default(&mut object);
        let once = serde_json::to_value(&object).unwrap();
        assert_includes(&once, &expected, "");
        default(&mut object);
        assert_eq!(serde_json::to_value(&object).unwrap(), once, "defaulting twice");
    }

    /// What is expected is there; `"<none>"` stands for a field that must be missing.
    fn assert_includes(found: &Value, expected: &Value, path: &str) {
        match (found, expected) {
            (Value::Object(found), Value::Object(expected)) => {
                for (key, expected) in expected {
                    let path = format!("{path}.{key}");
                    if expected == "<none>" {
                        assert_eq!(found.get(key), None, "{path}");
                    } else {
                        assert_includes(found.get(key).unwrap_or(&Value::Null), expected, &path);
                    }
                }
            }
            (Value::Array(found), Value::Array(expected)) => {
                assert_eq!(found.len(), expected.len(), "{path}");
                for (index, expected) in expected.iter().enumerate() {
                    assert_includes(&found[index], expected, &format!("{path}[{index}]"));
                }
            }
            _ => assert_eq!(found, expected, "{path}"),
        }
    }

    #[test]
    fn small_kinds() {
        check(
            namespace,
            json!({"metadata": {"name": "a"}}),
            json!({"metadata": {"labels": {"kubernetes.io/metadata.name": "a"}}, "status": {"phase": "Active"}}),
        );
        check(
            namespace,
            json!({"metadata": {"generateName": "a"}}),
            json!({"metadata": {"labels": "<none>"}}),
        );
        check(
            node,
            json!({"status": {"capacity": {"cpu": "1", "memory": "1.0005Ki"}}}),
            json!({"status": {"allocatable": {"cpu": "1", "memory": "1024512m"}}}),
        );
        check(
            secret,
            json!({"data": {"a": "YQ==", "b": "Yg=="}, "stringData": {"a": "c"}}),
            json!({"type": "Opaque", "stringData": "<none>", "data": {"a": "Yw==", "b": "Yg=="}}),
        );
        check(priority_class, json!({"value": 1}), json!({"preemptionPolicy": "PreemptLowerPriority"}));
    }
}
