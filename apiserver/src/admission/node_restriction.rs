//! An agent writes its own node, and the pods that are on it; nobody who has taken a node over gets further.
//!
//! Follows upstream's `NodeRestriction` plugin. The errors say why something is refused.

use std::collections::BTreeMap;

use manifests::encode::same;
use manifests::k8s_openapi::api::authentication::v1::TokenRequest;
use manifests::k8s_openapi::api::coordination::v1::Lease;
use manifests::k8s_openapi::api::core::v1::{Node, Pod};

use crate::registry::{AnyObject, Part};

const MIRROR: &str = "kubernetes.io/config.mirror";
const LEASES: &str = "kube-node-lease";
/// Labels in the domains of Kubernetes that an agent may set.
const OWN_LABELS: [&str; 13] = [
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.kubernetes.io/region",
    "failure-domain.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];
/// And everything below these.
const OWN_DOMAINS: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];

fn quote(text: &str) -> String {
    manifests::go::quote(text)
}

/// Whether the agent of `node` may write an object.
pub(crate) fn admit(
    node: &str,
    new: &dyn AnyObject,
    old: Option<&dyn AnyObject>,
    part: Part,
) -> Result<(), String> {
    let any = new.as_any();
    if let Some(pod) = any.downcast_ref::<Pod>() {
        return match old.and_then(|old| old.as_any().downcast_ref::<Pod>()) {
            None => new_pod(node, pod),
            Some(old) => pod_update(node, pod, old, part),
        };
    }
    if let Some(written) = any.downcast_ref::<Node>() {
        return node_write(node, written, old.and_then(|old| old.as_any().downcast_ref::<Node>()));
    }
    if let Some(lease) = any.downcast_ref::<Lease>() {
        if lease.metadata.namespace.as_deref() != Some(LEASES) {
            return Err(format!("can only access leases in the {} system namespace", quote(LEASES)));
        }
        if lease.metadata.name.as_deref() != Some(node) {
            return Err("can only access node lease with the same name as the requesting node".to_owned());
        }
    }
    Ok(())
}

fn on(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default()
}

/// Agents only show what they run from their own files.
fn new_pod(node: &str, pod: &Pod) -> Result<(), String> {
    let node = quote(node);
    if !pod.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(MIRROR)) {
        return Err(format!(
            "pod does not have {} annotation, node {node} can only create mirror pods",
            quote(MIRROR)
        ));
    }
    if quote(on(pod)) != node {
        return Err(format!("node {node} can only create pods with spec.nodeName set to itself"));
    }
    for owner in pod.metadata.owner_references.iter().flatten() {
        if owner.kind != "Node" || quote(&owner.name) != node {
            return Err(format!("node {node} can only create pods with an owner reference set to itself"));
        }
    }
    let Some(spec) = &pod.spec else { return Ok(()) };
    let refuse = |what: &str| Err(format!("node {node} can not create pods that reference {what}"));
    if spec.service_account_name.as_deref().is_some_and(|name| !name.is_empty()) {
        return refuse("a service account");
    }
    let volumes = spec.volumes.as_deref().unwrap_or_default();
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let sources: Vec<_> = containers
        .clone()
        .flat_map(|container| container.env.iter().flatten())
        .filter_map(|variable| variable.value_from.as_ref())
        .collect();
    let whole: Vec<_> = containers.flat_map(|container| container.env_from.iter().flatten()).collect();
    let parts: Vec<_> = volumes
        .iter()
        .filter_map(|volume| volume.projected.as_ref())
        .flat_map(|projected| projected.sources.iter().flatten())
        .collect();
    if volumes.iter().any(|volume| volume.secret.is_some())
        || sources.iter().any(|source| source.secret_key_ref.is_some())
        || whole.iter().any(|source| source.secret_ref.is_some())
        || parts.iter().any(|part| part.secret.is_some())
        || spec.image_pull_secrets.as_ref().is_some_and(|secrets| !secrets.is_empty())
    {
        return refuse("secrets");
    }
    if volumes.iter().any(|volume| volume.config_map.is_some())
        || sources.iter().any(|source| source.config_map_key_ref.is_some())
        || whole.iter().any(|source| source.config_map_ref.is_some())
        || parts.iter().any(|part| part.config_map.is_some())
    {
        return refuse("configmaps");
    }
    if parts.iter().any(|part| part.service_account_token.is_some()) {
        return refuse("service account tokens");
    }
    if volumes.iter().any(|volume| volume.persistent_volume_claim.is_some()) {
        return refuse("persistentvolumeclaims");
    }
    Ok(())
}

fn pod_update(node: &str, new: &Pod, old: &Pod, part: Part) -> Result<(), String> {
    let node_quoted = quote(node);
    if part != Part::Status {
        return Err(format!("unexpected operation by node {node_quoted}"));
    }
    if on(old) != node {
        return Err(format!(
            "node {node_quoted} can only update pod status for pods with spec.nodeName set to itself"
        ));
    }
    if !same(&new.metadata.labels, &old.metadata.labels) {
        return Err(format!("node {node_quoted} cannot update labels through pod status"));
    }
    Ok(())
}

/// Whether the agent of `node` may delete a pod, or ask for its eviction.
pub(crate) fn admit_removal(node: &str, pod: &dyn AnyObject, verb: &str) -> Result<(), String> {
    match pod.as_any().downcast_ref::<Pod>() {
        Some(pod) if on(pod) != node => {
            Err(format!("node {} can only {verb} pods with spec.nodeName set to itself", quote(node)))
        }
        _ => Ok(()),
    }
}

/// Tokens are for pods that run there.
pub(crate) fn admit_token(node: &str, request: &TokenRequest, pod: Option<&Pod>) -> Result<(), String> {
    let bound = request.spec.as_ref().and_then(|spec| spec.bound_object_ref.as_ref());
    let Some(bound) = bound.filter(|bound| {
        bound.kind.as_deref() == Some("Pod")
            && bound.api_version.as_deref() == Some("v1")
            && bound.name.as_deref().is_some_and(|name| !name.is_empty())
    }) else {
        return Err("node requested token not bound to a pod".to_owned());
    };
    if bound.uid.as_deref().unwrap_or_default().is_empty() {
        return Err("node requested token with a pod binding without a uid".to_owned());
    }
    match pod {
        Some(pod) if on(pod) != node => {
            Err("node requested token bound to a pod scheduled on a different node".to_owned())
        }
        _ => Ok(()),
    }
}

fn node_write(node: &str, new: &Node, old: Option<&Node>) -> Result<(), String> {
    let name = new.metadata.name.as_deref().unwrap_or_default();
    if name != node {
        return Err(format!("node {} is not allowed to modify node {}", quote(node), quote(name)));
    }
    let spec = new.spec.clone().unwrap_or_default();
    if spec.config_source.is_some() && old.is_none_or(|old| !same(&old.spec, &new.spec)) {
        return Err(format!(
            "node {} is not allowed to create pods with a non-nil configSource",
            quote(node)
        ));
    }
    let empty = BTreeMap::new();
    let labels = new.metadata.labels.as_ref().unwrap_or(&empty);
    let before = old.and_then(|old| old.metadata.labels.as_ref()).unwrap_or(&empty);
    let mut foreign: Vec<&str> = labels
        .iter()
        .filter(|(key, value)| before.get(*key) != Some(value))
        .map(|(key, _)| key)
        .chain(before.keys().filter(|key| !labels.contains_key(*key)))
        .filter(|key| !may_label(key))
        .map(String::as_str)
        .collect();
    foreign.sort_unstable();
    let list = foreign.join(", ");
    let Some(old) = old else {
        if foreign.is_empty() {
            return Ok(());
        }
        return Err(format!("node {} is not allowed to set the following labels: {list}", quote(node)));
    };
    let taints = |of: &Node| of.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    if taints(new) != taints(old) {
        return Err(format!("node {} is not allowed to modify taints", quote(node)));
    }
    if !same(&new.metadata.owner_references, &old.metadata.owner_references) {
        return Err(format!("node {} is not allowed to modify ownerReferences", quote(node)));
    }
    if foreign.is_empty() {
        return Ok(());
    }
    Err(format!("is not allowed to modify labels: {list}"))
}

/// Whether an agent may set a label: those of Kubernetes are only its own where the agent knows them best.
fn may_label(key: &str) -> bool {
    let domain = key.split_once('/').map_or("", |(domain, _)| domain);
    let below = |of: &str| domain == of || domain.strip_suffix(of).is_some_and(|rest| rest.ends_with('.'));
    if !below("kubernetes.io") && !below("k8s.io") {
        return true;
    }
    OWN_LABELS.contains(&key) || OWN_DOMAINS.iter().any(|own| below(own))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(value: Value) -> Pod {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn pods() {
        let mirror = json!({"annotations": {MIRROR: "x"}});
        let check = |metadata: &Value, spec: Value, expected: &str| {
            let found =
                new_pod("a", &pod(json!({"metadata": metadata, "spec": spec}))).err().unwrap_or_default();
            assert!(found.contains(expected) && found.is_empty() == expected.is_empty(), "{found}");
        };
        check(&mirror, json!({"nodeName": "a", "containers": []}), "");
        check(&json!({}), json!({"nodeName": "a", "containers": []}), "can only create mirror pods");
        check(&mirror, json!({"nodeName": "b", "containers": []}), "spec.nodeName set to itself");
        let secret = json!({"nodeName": "a", "containers": [], "volumes": [{"name": "v", "secret": {"secretName": "s"}}]});
        check(&mirror, secret, "reference secrets");
        let account = json!({"nodeName": "a", "containers": [], "serviceAccountName": "s"});
        check(&mirror, account, "a service account");
        let there = pod(json!({"metadata": {}, "spec": {"nodeName": "b", "containers": []}}));
        assert!(pod_update("a", &there, &there, Part::Status).is_err());
        assert!(pod_update("b", &there, &there, Part::Status).is_ok());
        assert!(pod_update("b", &there, &there, Part::Main).is_err());
        assert!(admit_removal("a", &there, "delete").is_err());
    }

    #[test]
    fn nodes() {
        let node = |labels: Value, taints: Value| -> Node {
            serde_json::from_value(
                json!({"metadata": {"name": "a", "labels": labels}, "spec": {"taints": taints}}),
            )
            .unwrap()
        };
        let plain = node(json!({"kubernetes.io/hostname": "a", "mine": "x"}), json!([]));
        assert_eq!(node_write("a", &plain, None), Ok(()));
        assert!(node_write("b", &plain, None).is_err());
        let grabbing = node(json!({"node-restriction.kubernetes.io/secure": "yes"}), json!([]));
        assert_eq!(
            node_write("a", &grabbing, None),
            Err("node \"a\" is not allowed to set the following labels: node-restriction.kubernetes.io/secure".to_owned())
        );
        assert_eq!(node_write("a", &grabbing, Some(&grabbing)), Ok(()), "what others have set stays");
        assert!(node_write("a", &plain, Some(&grabbing)).is_err());
        let tainted = node(json!({}), json!([{"key": "k", "effect": "NoSchedule"}]));
        assert_eq!(node_write("a", &tainted, None), Ok(()));
        assert!(node_write("a", &node(json!({}), json!([])), Some(&tainted)).is_err());
    }
}
