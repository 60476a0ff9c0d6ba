//! What an object counts for, and which quotas count it.

use std::collections::{BTreeMap, BTreeSet};

use manifests::k8s_openapi::api::core::v1::{
    Container, PersistentVolumeClaim, Pod, PodAffinityTerm, PodSpec, ResourceQuota,
    ScopedResourceSelectorRequirement, Service,
};
use manifests::k8s_openapi::jiff::{SignedDuration, Timestamp};
use manifests::kinds::Kind;
use manifests::qos::{self, QosClass};
use manifests::quantity::{Format, Quantity};
use manifests::resources;

use super::{Amounts, amounts};
use crate::registry::AnyObject;

/// What pods ask for, under the plain name and under that of requests.
const COMPUTE: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];
/// Kinds that are also counted under their bare name.
const PLAIN: [&str; 4] = ["configmaps", "secrets", "replicationcontrollers", "resourcequotas"];
/// A pod must say how much it takes of these when they are limited.
const MUST_SAY: [&str; 6] =
    ["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];
const OF_CLASS: &str = ".storageclass.storage.k8s.io/";
const OLD_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
const ADDRESSES: [&str; 3] = ["services", "services.nodeports", "services.loadbalancers"];

fn one() -> Quantity {
    Quantity::new(1, Format::DecimalSi)
}

/// `count/deployments.apps`, `count/pods`.
fn count_name(kind: &Kind) -> String {
    format!("count/{}", kind.group_resource())
}

/// Whether a quota name is about objects of a kind.
pub(super) fn is_about(kind: &Kind, name: &str) -> bool {
    if name == count_name(kind) {
        return true;
    }
    match (kind.group, kind.plural) {
        ("", "pods") => {
            name == "pods"
                || COMPUTE.iter().any(|of| {
                    name == *of
                        || name.strip_prefix("requests.") == Some(of)
                        || name.strip_prefix("limits.") == Some(of)
                })
                || name.starts_with("hugepages-")
                || name.starts_with("requests.hugepages-")
                || name.strip_prefix("requests.").is_some_and(is_extended)
        }
        ("", "services") => ADDRESSES.contains(&name),
        ("", "persistentvolumeclaims") => {
            name == "persistentvolumeclaims"
                || name == "requests.storage"
                || name.ends_with(&format!("{OF_CLASS}requests.storage"))
                || name.ends_with(&format!("{OF_CLASS}persistentvolumeclaims"))
        }
        ("", plural) => PLAIN.contains(&plural) && plural == name,
        _ => false,
    }
}

/// Devices and the like: named by whoever offers them.
fn is_extended(name: &str) -> bool {
    name.contains('/') && !name.contains("kubernetes.io/")
}

/// What an object counts for.
pub(super) fn usage(kind: &Kind, object: &dyn AnyObject, now: Timestamp) -> Amounts {
    let mut used = Amounts::from([(count_name(kind), one())]);
    let object = object.as_any();
    if let Some(pod) = object.downcast_ref::<Pod>() {
        if lives(pod, now) {
            used.insert("pods".to_owned(), one());
            add_compute(&mut used, &resources::pod_requests(pod), &resources::pod_limits(pod));
        }
    } else if let Some(service) = object.downcast_ref::<Service>() {
        add_service(&mut used, service);
    } else if let Some(claim) = object.downcast_ref::<PersistentVolumeClaim>() {
        add_claim(&mut used, claim);
    } else if kind.group.is_empty() && PLAIN.contains(&kind.plural) {
        used.insert(kind.plural.to_owned(), one());
    }
    used
}

/// Whether a pod still takes something: not when it has ended, or should have long ago.
fn lives(pod: &Pod, now: Timestamp) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
    if matches!(phase, "Succeeded" | "Failed") {
        return false;
    }
    let meta = &pod.metadata;
    let overdue = meta.deletion_timestamp.as_ref().zip(meta.deletion_grace_period_seconds).is_some_and(
        |(at, grace)| at.0.saturating_add(SignedDuration::from_secs(grace)).unwrap_or(at.0) < now,
    );
    !overdue
}

fn add_compute(used: &mut Amounts, requests: &Amounts, limits: &Amounts) {
    for (name, amount) in requests {
        if COMPUTE.contains(&name.as_str()) || name.starts_with("hugepages-") {
            used.insert(name.clone(), *amount);
            used.insert(format!("requests.{name}"), *amount);
        } else if is_extended(name) {
            used.insert(format!("requests.{name}"), *amount);
        }
    }
    for (name, amount) in limits.iter().filter(|(name, _)| COMPUTE.contains(&name.as_str())) {
        used.insert(format!("limits.{name}"), *amount);
    }
}

fn add_service(used: &mut Amounts, service: &Service) {
    let spec = service.spec.clone().unwrap_or_default();
    let ports = spec.ports.unwrap_or_default();
    let all = ports.len();
    let given = ports.iter().filter(|port| port.node_port.unwrap_or(0) != 0).count();
    let (node_ports, balancers) = match spec.type_.as_deref() {
        Some("NodePort") => (all, 0),
        Some("LoadBalancer") if spec.allocate_load_balancer_node_ports == Some(false) => (given, 1),
        Some("LoadBalancer") => (all, 1),
        _ => (0, 0),
    };
    let counts = [1, node_ports, balancers];
    for (name, count) in ADDRESSES.iter().zip(counts) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        used.insert((*name).to_owned(), Quantity::new(count, Format::DecimalSi));
    }
}

fn add_claim(used: &mut Amounts, claim: &PersistentVolumeClaim) {
    let spec = claim.spec.clone().unwrap_or_default();
    let storage = amounts(spec.resources.and_then(|resources| resources.requests).as_ref()).remove("storage");
    let old = claim.metadata.annotations.as_ref().and_then(|annotations| annotations.get(OLD_CLASS).cloned());
    let class = old.or(spec.storage_class_name).filter(|class| !class.is_empty());
    for prefix in [Some(String::new()), class.map(|class| format!("{class}{OF_CLASS}"))].into_iter().flatten()
    {
        used.insert(format!("{prefix}persistentvolumeclaims"), one());
        if let Some(storage) = storage {
            used.insert(format!("{prefix}requests.storage"), storage);
        }
    }
}

/// What a pod does not say although it must, because the quota limits it.
pub(super) fn unsaid(object: &dyn AnyObject, limited: &BTreeSet<&str>) -> Option<String> {
    let pod = object.as_any().downcast_ref::<Pod>()?;
    let spec = pod.spec.as_ref()?;
    let mut missing: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
        let said = said(container);
        for name in MUST_SAY.iter().filter(|name| limited.contains(**name) && !said.contains_key(**name)) {
            missing.entry(name).or_default().insert(&container.name);
        }
    }
    let parts: Vec<String> = missing
        .into_iter()
        .map(|(name, of)| format!("{name} for: {}", of.into_iter().collect::<Vec<_>>().join(",")))
        .collect();
    (!parts.is_empty()).then(|| format!("must specify {}", parts.join("; ")))
}

fn said(container: &Container) -> Amounts {
    let own = container.resources.clone().unwrap_or_default();
    let mut said = Amounts::new();
    add_compute(&mut said, &amounts(own.requests.as_ref()), &amounts(own.limits.as_ref()));
    said
}

/// Whether all scopes of a quota take an object in. Only pods have scopes.
pub(super) fn in_scope(quota: &ResourceQuota, object: &dyn AnyObject) -> bool {
    let Some(spec) = &quota.spec else { return true };
    let plain = spec.scopes.iter().flatten().map(|scope| ScopedResourceSelectorRequirement {
        scope_name: scope.clone(),
        operator: "Exists".to_owned(),
        values: None,
    });
    let selected =
        spec.scope_selector.iter().flat_map(|selector| selector.match_expressions.iter().flatten());
    let pod = object.as_any().downcast_ref::<Pod>();
    plain.chain(selected.cloned()).all(|scope| pod.is_some_and(|pod| pod_in(pod, &scope)))
}

fn pod_in(pod: &Pod, scope: &ScopedResourceSelectorRequirement) -> bool {
    let none = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&none);
    let bounded = spec.active_deadline_seconds.is_some_and(|seconds| seconds >= 0);
    match scope.scope_name.as_str() {
        "Terminating" => bounded,
        "NotTerminating" => !bounded,
        "BestEffort" => qos::class(pod) == QosClass::BestEffort,
        "NotBestEffort" => qos::class(pod) != QosClass::BestEffort,
        "PriorityClass" => {
            let class = spec.priority_class_name.as_deref().filter(|class| !class.is_empty());
            let listed = class.is_some_and(|class| scope.values.iter().flatten().any(|value| value == class));
            match scope.operator.as_str() {
                "Exists" => class.is_some(),
                "DoesNotExist" => class.is_none(),
                "In" => listed,
                "NotIn" => !listed,
                _ => false,
            }
        }
        "CrossNamespacePodAffinity" => looks_elsewhere(spec),
        _ => false,
    }
}

/// Whether a pod's place depends on pods of other namespaces.
fn looks_elsewhere(spec: &PodSpec) -> bool {
    let elsewhere = |term: &PodAffinityTerm| {
        term.namespaces.as_ref().is_some_and(|names| !names.is_empty()) || term.namespace_selector.is_some()
    };
    let Some(affinity) = &spec.affinity else { return false };
    let near = affinity.pod_affinity.iter().flat_map(|near| {
        let required = near.required_during_scheduling_ignored_during_execution.iter().flatten();
        let preferred = near.preferred_during_scheduling_ignored_during_execution.iter().flatten();
        required.chain(preferred.map(|weighted| &weighted.pod_affinity_term))
    });
    let apart = affinity.pod_anti_affinity.iter().flat_map(|apart| {
        let required = apart.required_during_scheduling_ignored_during_execution.iter().flatten();
        let preferred = apart.preferred_during_scheduling_ignored_during_execution.iter().flatten();
        required.chain(preferred.map(|weighted| &weighted.pod_affinity_term))
    });
    near.chain(apart).any(elsewhere)
}

#[cfg(test)]
mod tests {
    use manifests::kinds;
    use serde_json::{Value, json};

    use super::super::printed;
    use super::*;

    fn check<T: serde::de::DeserializeOwned + AnyObject>(kind: &Kind, object: Value, expected: &str) {
        let object: T = serde_json::from_value(object).unwrap();
        let used = usage(kind, &object, Timestamp::UNIX_EPOCH);
        assert_eq!(printed(&used), expected);
        for name in used.keys() {
            assert!(is_about(kind, name), "{name}");
        }
    }

    #[test]
    fn objects() {
        let container = |resources: Value| json!({"name": "c", "resources": resources});
        let some = container(
            json!({"requests": {"cpu": "100m", "memory": "1Gi", "acme.com/gpu": "1"}, "limits": {"cpu": "1"}}),
        );
        check::<Pod>(
            &kinds::POD,
            json!({"spec": {"containers": [some.clone(), some]}}),
            "count/pods=1,cpu=200m,limits.cpu=2,memory=2Gi,pods=1,requests.acme.com/gpu=2,requests.cpu=200m,requests.memory=2Gi",
        );
        check::<Pod>(&kinds::POD, json!({"status": {"phase": "Failed"}}), "count/pods=1");
        check::<Service>(
            &kinds::SERVICE,
            json!({"spec": {"type": "LoadBalancer", "ports": [{"port": 1}, {"port": 2}]}}),
            "count/services=1,services=1,services.loadbalancers=1,services.nodeports=2",
        );
        check::<PersistentVolumeClaim>(
            &kinds::PERSISTENT_VOLUME_CLAIM,
            json!({"spec": {"storageClassName": "gold", "resources": {"requests": {"storage": "1Gi"}}}}),
            "count/persistentvolumeclaims=1,gold.storageclass.storage.k8s.io/persistentvolumeclaims=1,\
             gold.storageclass.storage.k8s.io/requests.storage=1Gi,persistentvolumeclaims=1,requests.storage=1Gi",
        );
        use manifests::k8s_openapi::api::apps::v1::Deployment;
        check::<Deployment>(&kinds::DEPLOYMENT, json!({}), "count/deployments.apps=1");
    }

    #[test]
    fn scopes() {
        let check = |spec: Value, scope: Value, expected: bool| {
            let pod: Pod = serde_json::from_value(json!({"spec": spec})).unwrap();
            let quota: ResourceQuota = serde_json::from_value(json!({"spec": scope})).unwrap();
            assert_eq!(in_scope(&quota, &pod), expected, "{spec} {scope}");
        };
        let named = |scope: &str| json!({"scopes": [scope]});
        check(json!({"containers": []}), json!({}), true);
        check(json!({"containers": [], "activeDeadlineSeconds": 1}), named("Terminating"), true);
        check(json!({"containers": []}), named("Terminating"), false);
        check(json!({"containers": []}), named("NotTerminating"), true);
        check(json!({"containers": [{"name": "c"}]}), named("BestEffort"), true);
        check(json!({"containers": [{"name": "c"}]}), named("NotBestEffort"), false);
        let class = |operator: &str, values: Value| {
            json!({"scopeSelector": {"matchExpressions": [
                {"scopeName": "PriorityClass", "operator": operator, "values": values},
            ]}})
        };
        check(json!({"containers": [], "priorityClassName": "high"}), class("In", json!(["high"])), true);
        check(json!({"containers": [], "priorityClassName": "low"}), class("In", json!(["high"])), false);
        check(json!({"containers": []}), class("NotIn", json!(["high"])), true);
        let near = json!({"containers": [], "affinity": {"podAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "k", "namespaces": ["other"]}],
        }}});
        check(near, named("CrossNamespacePodAffinity"), true);
    }
}
