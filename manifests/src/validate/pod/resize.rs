//! An update through `pods/resize`: how much CPU and memory the containers of a running pod have.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde_json::json;

use super::super::object_meta_update;
use super::{MIRROR, metadata_and_spec};
use crate::field::{ErrorList, FieldError, Path};
use crate::resources::is_sidecar;
use crate::{encode, qos};

type Amounts = Option<BTreeMap<String, Quantity>>;

/// What a request to resize changes of a pod's spec: resources and resize policies of containers that are there, and
/// nothing else, whatever the request says.
pub fn pod_resize(old: &PodSpec, wanted: Option<&PodSpec>) -> PodSpec {
    let mut spec = old.clone();
    let take = |container: &mut Container, wanted: &[Container]| {
        if let Some(wanted) = wanted.iter().find(|wanted| wanted.name == container.name) {
            container.resources.clone_from(&wanted.resources);
            container.resize_policy.clone_from(&wanted.resize_policy);
        }
    };
    if let Some(wanted) = wanted {
        spec.containers.iter_mut().for_each(|container| take(container, &wanted.containers));
        let init = wanted.init_containers.as_deref().unwrap_or_default();
        spec.init_containers.iter_mut().flatten().for_each(|container| take(container, init));
    }
    spec
}

/// Checks what [`pod_resize`] made.
pub fn pod_resize_update(new: &Pod, old: &Pod) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta_update(&new.metadata, &old.metadata, &mut errors);
    metadata_and_spec(new, &mut errors);
    let empty = PodSpec::default();
    let new_spec = new.spec.as_ref().unwrap_or(&empty);
    let old_spec = old.spec.as_ref().unwrap_or(&empty);
    let mirrored = |pod: &Pod| pod.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(MIRROR));
    let of_pod = |spec: &PodSpec| {
        let amount = |list: &Amounts| list.as_ref().is_some_and(|list| !list.is_empty());
        spec.resources.as_ref().is_some_and(|all| amount(&all.requests) || amount(&all.limits))
    };
    let whole = if of_pod(old_spec) || of_pod(new_spec) {
        Some("pods with pod-level resources cannot be resized")
    } else if mirrored(old) {
        Some("static pods cannot be resized")
    } else if old_spec.os.as_ref().is_some_and(|os| os.name == "windows") {
        Some("windows pods cannot be resized")
    } else {
        None
    };
    if let Some(detail) = whole {
        let mut errors = ErrorList::new();
        errors.push(FieldError::forbidden(&Path::new(""), detail));
        return errors;
    }
    let path = Path::new("spec");
    if qos::class(old) != qos::class_of_spec(new_spec) {
        let class = new.status.as_ref().and_then(|status| status.qos_class.clone()).unwrap_or_default();
        let detail = "Pod QOS Class may not change as a result of resizing";
        errors.push(FieldError::invalid(&path, json!(class), detail));
    }
    let pairs = |new: &[Container], old: &[Container], field: &str, errors: &mut ErrorList| {
        let (init, listed) = (field == "initContainers", path.child(field));
        for (index, (new, old)) in new.iter().zip(old).enumerate() {
            let resizable = !init || is_sidecar(old);
            if resizable {
                removed(new, old, &listed.index(index).child("resources"), errors);
            }
            let masked = if resizable { masked(new, old) } else { new.clone() };
            if !encode::same(&masked, old) {
                let detail = match (init, resizable) {
                    (false, _) => "only cpu and memory resources are mutable",
                    (true, true) => "only cpu and memory resources for sidecar containers are mutable",
                    (true, false) => "resources for non-sidecar init containers are immutable",
                };
                errors.push(FieldError::forbidden(&path, detail));
            }
        }
    };
    let init = |spec: &PodSpec| spec.init_containers.clone().unwrap_or_default();
    pairs(&init(new_spec), &init(old_spec), "initContainers", &mut errors);
    pairs(&new_spec.containers, &old_spec.containers, "containers", &mut errors);
    errors
}

/// What is asked for or limited stays so; only how much may change.
fn removed(new: &Container, old: &Container, path: &Path, errors: &mut ErrorList) {
    let none = ResourceRequirements::default();
    let (new, old) = (new.resources.as_ref().unwrap_or(&none), old.resources.as_ref().unwrap_or(&none));
    let is_missing = |new: &Amounts, old: &Amounts| {
        let has = |name: &String| new.as_ref().is_some_and(|new| new.contains_key(name));
        old.iter().flatten().any(|(name, _)| !has(name))
    };
    if is_missing(&new.requests, &old.requests) {
        errors.push(FieldError::forbidden(&path.child("requests"), "resource requests cannot be removed"));
    }
    if is_missing(&new.limits, &old.limits) {
        errors.push(FieldError::forbidden(&path.child("limits"), "resource limits cannot be removed"));
    }
}

/// The new container with the old one's CPU and memory.
fn masked(new: &Container, old: &Container) -> Container {
    let put_back = |new: &Amounts, old: &Amounts| {
        let mut list = new.clone().unwrap_or_default();
        for name in ["cpu", "memory"] {
            list.remove(name);
            if let Some(amount) = old.as_ref().and_then(|old| old.get(name)) {
                list.insert(name.to_owned(), amount.clone());
            }
        }
        (!list.is_empty()).then_some(list)
    };
    let none = ResourceRequirements::default();
    let own = new.resources.as_ref().unwrap_or(&none);
    let before = old.resources.as_ref().unwrap_or(&none);
    let resources = ResourceRequirements {
        requests: put_back(&own.requests, &before.requests),
        limits: put_back(&own.limits, &before.limits),
        claims: own.claims.clone(),
    };
    let nothing = resources == none;
    Container { resources: if nothing { old.resources.clone() } else { Some(resources) }, ..new.clone() }
}
