//! What may change of a pod that exists, and of its status.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodSpec, PodStatus, Toleration};
use serde::Serialize;
use serde_json::Value;

use super::super::{immutable, ip, named, object_meta_update, text};
use super::{MAX_INT32, MIRROR, metadata_and_spec, pod_annotations};
use crate::field::{ErrorList, FieldError, Path};
use crate::resources::is_sidecar;
use crate::{encode, go, names};

const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
const UPDATABLE: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
/// More differences than this are not listed one by one.
const MAX_DIFFERENCES: usize = 20;

/// An update of a pod: of its metadata, images, deadline, tolerations, gates, and of nothing else.
pub fn pod_update(new: &Pod, old: &Pod) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta_update(&new.metadata, &old.metadata, &mut errors);
    metadata_and_spec(new, &mut errors);
    annotations_update(new, old, &mut errors);
    let path = Path::new("spec");
    let empty = PodSpec::default();
    let new_spec = new.spec.as_ref().unwrap_or(&empty);
    let old_spec = old.spec.as_ref().unwrap_or(&empty);
    let init = |spec: &PodSpec| spec.init_containers.as_ref().map_or(0, Vec::len);
    for (field, same) in [
        ("containers", new_spec.containers.len() == old_spec.containers.len()),
        ("initContainers", init(new_spec) == init(old_spec)),
    ] {
        if !same {
            let detail = "pod updates may not add or remove containers";
            errors.push(FieldError::forbidden(&path.child(field), detail));
            return errors;
        }
    }
    if !deadline(new_spec.active_deadline_seconds, old_spec.active_deadline_seconds, &path, &mut errors) {
        return errors;
    }
    let tolerations = |spec: &PodSpec| spec.tolerations.clone().unwrap_or_default();
    only_added_tolerations(
        &tolerations(new_spec),
        &tolerations(old_spec),
        &path.child("tolerations"),
        &mut errors,
    );
    let old_gates: Vec<&str> =
        old_spec.scheduling_gates.iter().flatten().map(|gate| gate.name.as_str()).collect();
    for (index, gate) in new_spec.scheduling_gates.iter().flatten().enumerate() {
        if !old_gates.contains(&gate.name.as_str()) {
            let detail = format!("only deletion is allowed, but found new scheduling gate '{}'", gate.name);
            errors.push(FieldError::forbidden(
                &path.child("schedulingGates").index(index).child("name"),
                detail,
            ));
        }
    }
    let mut masked = masked(new_spec, old_spec);
    if !old_gates.is_empty() {
        while_gated(new_spec, old_spec, &mut masked, &path, &mut errors);
    }
    if !encode::same(&masked, old_spec) {
        let differences = differences("spec", &masked, old_spec);
        let detail = format!("pod updates may not change fields other than {UPDATABLE}\n{differences}");
        errors.push(FieldError::forbidden(&path, detail));
    }
    errors
}

/// An update through `pods/ephemeralcontainers`: containers are added, and those that are there stay as they are.
pub fn pod_ephemeral_containers_update(new: &Pod, old: &Pod) -> ErrorList {
    let mut errors = ErrorList::new();
    if old.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(MIRROR)) {
        let detail = "static pods do not support ephemeral containers";
        errors.push(FieldError::forbidden(&Path::new(""), detail));
        return errors;
    }
    object_meta_update(&new.metadata, &old.metadata, &mut errors);
    metadata_and_spec(new, &mut errors);
    annotations_update(new, old, &mut errors);
    let containers =
        |pod: &Pod| pod.spec.clone().and_then(|spec| spec.ephemeral_containers).unwrap_or_default();
    let (new, old) = (containers(new), containers(old));
    let path = Path::new("spec").child("ephemeralContainers");
    for old in &old {
        let name = go::quote(&old.name);
        // Of several with the same name, which is refused elsewhere, the last counts.
        let detail = match new.iter().rev().find(|new| new.name == old.name) {
            None => format!("existing ephemeral containers {name} may not be removed\n"),
            Some(new) if !encode::same(new, old) => {
                let differences = differences(&format!("ephemeralContainers[{}]", old.name), new, old);
                format!("existing ephemeral containers {name} may not be changed\n{differences}")
            }
            Some(_) => continue,
        };
        errors.push(FieldError::forbidden(&path, detail));
    }
    errors
}

fn annotations_update(new: &Pod, old: &Pod, errors: &mut ErrorList) {
    let path = Path::new("metadata").child("annotations");
    let none = Default::default();
    let new_annotations = new.metadata.annotations.as_ref().unwrap_or(&none);
    let old_annotations = old.metadata.annotations.as_ref().unwrap_or(&none);
    for (key, value) in old_annotations {
        if new_annotations.get(key) == Some(value) {
            continue;
        }
        if key.starts_with(APP_ARMOR) {
            let detail = "may not remove or update AppArmor annotations";
            errors.push(FieldError::forbidden(&path.key(key), detail));
        }
        if key == MIRROR {
            let detail = "may not remove or update mirror pod annotation";
            errors.push(FieldError::forbidden(&path.key(key), detail));
        }
    }
    for key in new_annotations.keys().filter(|key| !old_annotations.contains_key(*key)) {
        if key.starts_with(APP_ARMOR) {
            errors.push(FieldError::forbidden(&path.key(key), "may not add AppArmor annotations"));
        }
        if key == MIRROR {
            errors.push(FieldError::forbidden(&path.key(key), "may not add mirror pod annotation"));
        }
    }
    let empty = PodSpec::default();
    pod_annotations(&new.metadata, new.spec.as_ref().unwrap_or(&empty), &path, errors);
}

/// A deadline can be set and be shortened. Returns false where nothing else is worth checking.
fn deadline(new: Option<i64>, old: Option<i64>, path: &Path, errors: &mut ErrorList) -> bool {
    let path = path.child("activeDeadlineSeconds");
    match (new, old) {
        (Some(new), _) if !(0..=MAX_INT32).contains(&new) => {
            errors.push(FieldError::invalid(&path, new, names::between(0, MAX_INT32)));
            false
        }
        (Some(new), Some(old)) if old < new => {
            errors.push(FieldError::invalid(&path, new, "must be less than or equal to previous value"));
            false
        }
        (None, Some(_)) => {
            let detail = "must not update from a positive integer to nil value";
            errors.push(FieldError::invalid(&path, Value::Null, detail));
            true
        }
        _ => true,
    }
}

fn only_added_tolerations(new: &[Toleration], old: &[Toleration], path: &Path, errors: &mut ErrorList) {
    let kept = |old: &Toleration| {
        new.iter().any(|new| Toleration { toleration_seconds: new.toleration_seconds, ..old.clone() } == *new)
    };
    if !old.iter().all(kept) {
        let detail = "existing toleration can not be modified except its tolerationSeconds";
        errors.push(FieldError::forbidden(path, detail));
    }
}

/// The new spec with everything that may change put back.
fn masked(new: &PodSpec, old: &PodSpec) -> PodSpec {
    let mut masked = new.clone();
    for (container, old) in masked.containers.iter_mut().zip(&old.containers) {
        container.image.clone_from(&old.image);
    }
    let old_init = old.init_containers.iter().flatten();
    for (container, old) in masked.init_containers.iter_mut().flatten().zip(old_init) {
        container.image.clone_from(&old.image);
    }
    masked.active_deadline_seconds = old.active_deadline_seconds;
    masked.scheduling_gates.clone_from(&old.scheduling_gates);
    masked.tolerations.clone_from(&old.tolerations);
    let was_negative = old.termination_grace_period_seconds.is_some_and(|seconds| seconds < 0);
    if was_negative && masked.termination_grace_period_seconds == Some(1) {
        masked.termination_grace_period_seconds = old.termination_grace_period_seconds;
    }
    masked
}

/// While a pod may not be scheduled yet, where it may run can still be narrowed.
fn while_gated(new: &PodSpec, old: &PodSpec, masked: &mut PodSpec, path: &Path, errors: &mut ErrorList) {
    let none = Default::default();
    let old_selector = old.node_selector.as_ref().unwrap_or(&none);
    let new_selector = new.node_selector.as_ref().unwrap_or(&none);
    if !old_selector.iter().all(|(key, value)| new_selector.get(key) == Some(value)) {
        let detail = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
        errors.push(FieldError::invalid(&path.child("nodeSelector"), new_selector, detail));
    }
    masked.node_selector.clone_from(&old.node_selector);

    let node_affinity =
        |spec: &PodSpec| spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.clone());
    let old_affinity = node_affinity(old);
    let terms = |spec: &PodSpec| {
        node_affinity(spec)
            .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution)
            .map(|selector| selector.node_selector_terms)
            .unwrap_or_default()
    };
    let (old_terms, new_terms) = (terms(old), terms(new));
    let terms_path = path
        .child("affinity")
        .child("nodeAffinity")
        .child("requiredDuringSchedulingIgnoredDuringExecution")
        .child("nodeSelectorTerms");
    if !old_terms.is_empty() && old_terms.len() != new_terms.len() {
        let detail = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        let value = encode::to_value(&new_terms).unwrap_or_default();
        errors.push(FieldError::invalid(&terms_path, value, detail));
    } else {
        for (index, (new, old)) in new_terms.iter().zip(&old_terms).enumerate() {
            let grown = |new: &Option<Vec<_>>, old: &Option<Vec<_>>| {
                new.as_deref().unwrap_or_default().starts_with(old.as_deref().unwrap_or_default())
            };
            let empty = |list: &Option<Vec<_>>| list.as_ref().is_none_or(Vec::is_empty);
            let was_empty = empty(&old.match_expressions) && empty(&old.match_fields);
            let is_empty = empty(&new.match_expressions) && empty(&new.match_fields);
            let good = grown(&new.match_expressions, &old.match_expressions)
                && grown(&new.match_fields, &old.match_fields)
                && (!was_empty || is_empty);
            if !good {
                let detail = "only additions are allowed (no mutations or deletions)";
                let value = encode::to_value(new).unwrap_or_default();
                errors.push(FieldError::invalid(&terms_path.index(index), value, detail));
            }
        }
    }
    match (&mut masked.affinity, &old.affinity) {
        (Some(affinity), None) if affinity.pod_affinity.is_none() && affinity.pod_anti_affinity.is_none() => {
            masked.affinity = None;
        }
        (Some(affinity), _) => affinity.node_affinity = old_affinity,
        (None, Some(_)) if old_affinity.is_some() => {
            masked.affinity = Some(k8s_openapi::api::core::v1::Affinity {
                node_affinity: old_affinity,
                ..Default::default()
            });
        }
        (None, _) => {}
    }
}

/// Which fields differ, a line each: `  spec.hostname: "a" -> "b"`.
fn differences<T: Serialize>(name: &str, new: &T, old: &T) -> String {
    fn walk(new: &Value, old: &Value, path: &str, lines: &mut Vec<String>) {
        match (new, old) {
            _ if new == old || lines.len() > MAX_DIFFERENCES => {}
            (Value::Object(new), Value::Object(old)) => {
                let keys: std::collections::BTreeSet<&String> = new.keys().chain(old.keys()).collect();
                for key in keys {
                    let value =
                        |map: &serde_json::Map<String, Value>| map.get(key).cloned().unwrap_or_default();
                    walk(&value(new), &value(old), &format!("{path}.{key}"), lines);
                }
            }
            (Value::Array(new), Value::Array(old)) => {
                for index in 0..new.len().max(old.len()) {
                    let value = |list: &[Value]| list.get(index).cloned().unwrap_or_default();
                    walk(&value(new), &value(old), &format!("{path}[{index}]"), lines);
                }
            }
            _ => lines.push(format!("  {path}: {} -> {}", go::json(old), go::json(new))),
        }
    }
    let mut lines = Vec::new();
    let encode = |value: &T| encode::to_value(value).unwrap_or_default();
    walk(&encode(new), &encode(old), name, &mut lines);
    if lines.len() > MAX_DIFFERENCES {
        lines.truncate(MAX_DIFFERENCES);
        lines.push("  …".to_owned());
    }
    lines.join("\n")
}

/// An update of a pod's status, by its agent or by the scheduler.
pub fn pod_status_update(new: &Pod, old: &Pod) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta_update(&new.metadata, &old.metadata, &mut errors);
    annotations_update(new, old, &mut errors);
    let empty_spec = PodSpec::default();
    let empty_status = PodStatus::default();
    let new_spec = new.spec.as_ref().unwrap_or(&empty_spec);
    let old_spec = old.spec.as_ref().unwrap_or(&empty_spec);
    let path = Path::new("status");
    let new_status = new.status.as_ref().unwrap_or(&empty_status);
    let old_status = old.status.as_ref().unwrap_or(&empty_status);
    for (index, condition) in new_status.conditions.iter().flatten().enumerate() {
        let path = path.child("conditions").index(index);
        observed_generation(condition.observed_generation, &path, &mut errors);
        if !matches!(condition.type_.as_str(), "PodScheduled" | "Ready" | "Initialized") {
            named(&condition.type_, names::qualified_name, &path.child("Type"), &mut errors);
        }
    }
    if text(&new_spec.node_name) != text(&old_spec.node_name) {
        errors.push(FieldError::forbidden(&path.child("nodeName"), "may not be changed directly"));
    }
    let nominated = text(&new_status.nominated_node_name);
    if !nominated.is_empty() && nominated != text(&old_status.nominated_node_name) {
        let path = path.child("nominatedNodeName");
        named(nominated, names::dns1123_subdomain, &path, &mut errors);
        if !text(&old_spec.node_name).is_empty() {
            let detail = "may not be set on pods that are already bound to a node";
            errors.push(FieldError::forbidden(&path, detail));
        }
    }
    observed_generation(new_status.observed_generation, &path, &mut errors);
    let qos_path = path.child("qosClass");
    immutable(text(&new_status.qos_class), text(&old_status.qos_class), &qos_path, &mut errors);

    let policy = text(&old_spec.restart_policy);
    let never: &dyn Fn(&str) -> bool = &|_| false;
    let sidecar: &dyn Fn(&str) -> bool = &|name| {
        old_spec
            .init_containers
            .iter()
            .flatten()
            .any(|container| container.name == name && is_sidecar(container))
    };
    for (field, new, old, policy, may_restart) in [
        ("containerStatuses", &new_status.container_statuses, &old_status.container_statuses, policy, never),
        (
            "initContainerStatuses",
            &new_status.init_container_statuses,
            &old_status.init_container_statuses,
            policy,
            sidecar,
        ),
        (
            "ephemeralContainerStatuses",
            &new_status.ephemeral_container_statuses,
            &old_status.ephemeral_container_statuses,
            "Never",
            never,
        ),
    ] {
        let (new, old) = (new.as_deref().unwrap_or_default(), old.as_deref().unwrap_or_default());
        state_transitions(new, old, policy, may_restart, &path.child(field), &mut errors);
    }
    addresses(new_status, &path, &mut errors);
    errors
}

fn observed_generation(generation: Option<i64>, path: &Path, errors: &mut ErrorList) {
    if let Some(generation) = generation.filter(|generation| *generation < 0) {
        let path = path.child("observedGeneration");
        errors.push(FieldError::invalid(&path, generation, "must be a non-negative integer"));
    }
}

/// What has ended for good stays ended.
fn state_transitions(
    new: &[ContainerStatus],
    old: &[ContainerStatus],
    restart_policy: &str,
    may_restart: &dyn Fn(&str) -> bool,
    path: &Path,
    errors: &mut ErrorList,
) {
    if restart_policy == "Always" {
        return;
    }
    let terminated = |status: &ContainerStatus| {
        status
            .state
            .as_ref()
            .and_then(|state| state.terminated.as_ref())
            .map(|terminated| terminated.exit_code)
    };
    for (index, old) in old.iter().enumerate() {
        let Some(code) = terminated(old) else { continue };
        if (code != 0 && restart_policy == "OnFailure") || may_restart(&old.name) {
            continue;
        }
        if new.iter().any(|new| new.name == old.name && terminated(new).is_none()) {
            let path = path.index(index).child("state");
            errors.push(FieldError::forbidden(&path, "may not be transitioned to non-terminated state"));
        }
    }
}

fn addresses(status: &PodStatus, path: &Path, errors: &mut ErrorList) {
    let pod_ips: Vec<&str> = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str()).collect();
    let host_ips: Vec<&str> = status.host_ips.iter().flatten().map(|ip| ip.ip.as_str()).collect();
    for (field, ips) in [("podIPs", pod_ips), ("hostIPs", host_ips)] {
        let path = path.child(field);
        if field == "hostIPs"
            && let Some(first) = ips.first()
            && *first != text(&status.host_ip)
        {
            let path = path.index(0).child("ip");
            errors.push(FieldError::invalid(&path, first, "must be equal to `hostIP`"));
        }
        let mut parsed = Vec::new();
        for (index, value) in ips.iter().enumerate() {
            parsed.extend(ip::ip(value, &path.index(index), errors));
            if ips[..index].contains(value) {
                errors.push(FieldError::duplicate(&path.index(index), value));
            }
        }
        if !ip::one_per_family(parsed) {
            let detail = "may specify no more than one IP for each IP family";
            errors.push(FieldError::invalid(&path, &ips, detail));
        }
    }
}
