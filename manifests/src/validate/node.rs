//! Nodes.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Node, NodeSpec, Taint};

use super::meta::label_name;
use super::pod::taint_effect;
use super::{ip, object_meta, object_meta_update, resource, text};
use crate::field::{ErrorList, FieldError, Path};
use crate::{encode, names};

/// A new node.
pub fn node(node: &Node) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta(&node.metadata, false, names::dns1123_subdomain, &mut errors);
    let empty = NodeSpec::default();
    let spec = node.spec.as_ref().unwrap_or(&empty);
    taints(spec, &mut errors);
    resources(node, &mut errors);
    let path = Path::new("spec").child("podCIDRs");
    let cidrs = spec.pod_cidrs.as_deref().unwrap_or_default();
    let mut parsed = Vec::new();
    for (index, cidr) in cidrs.iter().enumerate() {
        parsed.extend(ip::cidr(cidr, &path.index(index), &mut errors));
    }
    if !ip::one_per_family(parsed) {
        let detail = "may specify no more than one CIDR for each IP family";
        errors.push(FieldError::invalid(&path, cidrs, detail));
    }
    errors
}

/// An update of a node.
pub fn node_update(new: &Node, old: &Node) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta_update(&new.metadata, &old.metadata, &mut errors);
    resources(new, &mut errors);
    let addresses: Vec<_> = new.status.iter().flat_map(|status| status.addresses.iter().flatten()).collect();
    for (index, address) in addresses.iter().enumerate() {
        if addresses[..index].contains(address) {
            let path = Path::new("status").child("addresses").index(index);
            errors.push(FieldError::duplicate(&path, encode::to_value(*address).unwrap_or_default()));
        }
    }
    let empty = NodeSpec::default();
    let new_spec = new.spec.as_ref().unwrap_or(&empty);
    let old_spec = old.spec.as_ref().unwrap_or(&empty);
    let path = Path::new("spec");
    let old_cidrs = old_spec.pod_cidrs.as_deref().unwrap_or_default();
    if !old_cidrs.is_empty() && old_cidrs != new_spec.pod_cidrs.as_deref().unwrap_or_default() {
        let detail = "node updates may not change podCIDR except from \"\" to valid";
        errors.push(FieldError::forbidden(&path.child("podCIDRs"), detail));
    }
    let old_provider = text(&old_spec.provider_id);
    if !old_provider.is_empty() && old_provider != text(&new_spec.provider_id) {
        let detail = "node updates may not change providerID except from \"\" to valid";
        errors.push(FieldError::forbidden(&path.child("providerID"), detail));
    }
    taints(new_spec, &mut errors);
    if text(&new_spec.external_id) != text(&old_spec.external_id) {
        errors.push(FieldError::forbidden(&path.child("externalID"), "may not be updated"));
    }
    errors
}

/// An update through `nodes/status`: checked as a whole node is.
pub fn node_status_update(new: &Node, old: &Node) -> ErrorList {
    node_update(new, old)
}

fn resources(node: &Node, errors: &mut ErrorList) {
    let Some(status) = &node.status else { return };
    for (field, amounts) in [("capacity", &status.capacity), ("allocatable", &status.allocatable)] {
        for (name, amount) in amounts.iter().flatten() {
            resource::amount(name, amount, &Path::new("status").child(field).child(name), errors);
        }
    }
}

fn taints(spec: &NodeSpec, errors: &mut ErrorList) {
    // Below metadata, as upstream reports it.
    let path = Path::new("metadata").child("taints");
    let mut seen = BTreeSet::new();
    for (index, item) in spec.taints.iter().flatten().enumerate() {
        let path = path.index(index);
        taint(item, &path, errors);
        if !seen.insert((&item.key, &item.effect)) {
            let mut error = FieldError::duplicate(&path, encode::to_value(item).unwrap_or_default());
            error.detail = "taints must be unique by key and effect pair".to_owned();
            errors.push(error);
        }
    }
}

fn taint(taint: &Taint, path: &Path, errors: &mut ErrorList) {
    label_name(&taint.key, &path.child("key"), errors);
    let value = text(&taint.value);
    let messages = names::label_value(value);
    if !messages.is_empty() {
        errors.push(FieldError::invalid(&path.child("value"), value, messages.join(";")));
    }
    taint_effect(&taint.effect, &path.child("effect"), errors);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{check, check_update, cluster_wide};
    use super::*;

    #[test]
    fn nodes() {
        check(
            node,
            cluster_wide(
                json!({"spec": {"podCIDRs": ["10.42.0.0/24"], "taints": [{"key": "a", "effect": "NoSchedule"}]}, "status": {"capacity": {"cpu": "2"}}}),
            ),
            &[],
        );
        check(
            node,
            cluster_wide(json!({
                "spec": {
                    "podCIDRs": ["10.42.0.0/24", "10.42.1.1/24", "10.43.0.0/24"],
                    "taints": [{"key": "a", "effect": "NoSchedule"}, {"key": "a", "effect": "NoSchedule"}, {"key": "b", "effect": "Some"}],
                },
                "status": {"capacity": {"pods": "1.5"}},
            })),
            &[
                "metadata.taints[1]: Duplicate value: {\"effect\":\"NoSchedule\",\"key\":\"a\"}: taints must be unique by key and effect pair",
                "metadata.taints[2].effect: Unsupported value: \"Some\": supported values: \"NoSchedule\", \"PreferNoSchedule\", \"NoExecute\"",
                "status.capacity.pods: Invalid value: \"1500m\": must be an integer",
                "spec.podCIDRs[1]: Invalid value: \"10.42.1.1/24\": must not have bits set beyond the prefix length",
                "spec.podCIDRs: Invalid value: [\"10.42.0.0/24\",\"10.42.1.1/24\",\"10.43.0.0/24\"]: may specify no more than one CIDR for each IP family",
            ],
        );
        check_update(
            node_update,
            cluster_wide(json!({"spec": {"podCIDRs": ["10.42.1.0/24"], "providerID": "b"}})),
            cluster_wide(json!({"spec": {"podCIDRs": ["10.42.0.0/24"], "providerID": "a"}})),
            &[
                "spec.podCIDRs: Forbidden: node updates may not change podCIDR except from \"\" to valid",
                "spec.providerID: Forbidden: node updates may not change providerID except from \"\" to valid",
            ],
        );
        check_update(
            node_update,
            cluster_wide(json!({"spec": {"podCIDRs": ["10.42.1.0/24"], "unschedulable": true}})),
            cluster_wide(json!({})),
            &[],
        );
    }
}
