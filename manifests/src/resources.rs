//! What a pod as a whole asks for and may use.
//!
//! Follows `k8s.io/component-helpers/resource`: containers and sidecars run together, so they add up; each other init
//! container runs alone beside the sidecars that were started before it, so the largest such moment counts.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;

use crate::quantity::Quantity;

/// Amounts by resource name.
pub type Amounts = BTreeMap<String, Quantity>;

/// What the scheduler reserves for a pod: requests, at pod level where given, plus overhead.
pub fn pod_requests(pod: &Pod) -> Amounts {
    pod.spec.as_ref().map(spec_requests).unwrap_or_default()
}

/// The same for a pod that runs: while its resources change in place, the larger of what it asks for, what it was granted,
/// and what it has is not free for others. One that asks for what the node never had gets no more than it has.
pub fn pod_requests_in_use(pod: &Pod) -> Amounts {
    let Some(spec) = &pod.spec else { return Amounts::new() };
    let status = pod.status.as_ref();
    let statuses = || {
        let running = status.and_then(|status| status.container_statuses.as_deref()).unwrap_or_default();
        let initial = status.and_then(|status| status.init_container_statuses.as_deref()).unwrap_or_default();
        running.iter().chain(initial)
    };
    let requests = |container: &Container| {
        container.resources.as_ref().and_then(|resources| resources.requests.clone()).unwrap_or_default()
    };
    let differs = |container: &Container| {
        let own = statuses().find(|status| status.name == container.name);
        own.and_then(|status| status.allocated_resources.as_ref())
            .is_some_and(|granted| *granted != requests(container))
    };
    let all = || spec.containers.iter().chain(spec.init_containers.iter().flatten());
    if !all().any(differs) {
        return spec_requests(spec);
    }
    let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let infeasible = conditions.iter().any(|condition| {
        condition.type_ == "PodResizePending"
            && condition.status == "True"
            && condition.reason.as_deref() == Some("Infeasible")
    });
    let mut spec = spec.clone();
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        let Some(own) = statuses().find(|status| status.name == container.name) else { continue };
        let Some(granted) = &own.allocated_resources else { continue };
        let held = own.resources.as_ref().and_then(|resources| resources.requests.as_ref());
        let mut most = if infeasible { BTreeMap::new() } else { requests(container) };
        for (name, amount) in granted.iter().chain(held.into_iter().flatten()) {
            let larger = most.get(name).is_none_or(|known| Quantity::of(known) < Quantity::of(amount));
            if larger {
                most.insert(name.clone(), amount.clone());
            }
        }
        container.resources.get_or_insert_default().requests = Some(most);
    }
    spec_requests(&spec)
}

/// What the pod as a whole may use; only resources for which every running container has a limit are bounded,
/// which is for the caller to look at.
pub fn pod_limits(pod: &Pod) -> Amounts {
    pod.spec.as_ref().map(spec_limits).unwrap_or_default()
}

/// [`pod_requests`] of a spec.
pub fn spec_requests(spec: &PodSpec) -> Amounts {
    let mut total = combined(spec, |container| {
        container.resources.as_ref().and_then(|resources| resources.requests.as_ref())
    });
    let pod_level = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    override_with(&mut total, pod_level);
    add(&mut total, spec.overhead.as_ref());
    total
}

/// [`pod_limits`] of a spec. Overhead is added to limits that exist.
pub fn spec_limits(spec: &PodSpec) -> Amounts {
    let mut total = combined(spec, |container| {
        container.resources.as_ref().and_then(|resources| resources.limits.as_ref())
    });
    let pod_level = spec.resources.as_ref().and_then(|resources| resources.limits.as_ref());
    override_with(&mut total, pod_level);
    for (name, overhead) in spec.overhead.iter().flatten() {
        if let Some(amount) = total.get_mut(name)
            && !amount.is_zero()
        {
            *amount += Quantity::of(overhead);
        }
    }
    total
}

/// Whether an init container keeps running beside the containers.
pub fn is_sidecar(init_container: &Container) -> bool {
    init_container.restart_policy.as_deref() == Some("Always")
}

fn combined<'a>(
    spec: &'a PodSpec,
    list: impl Fn(&'a Container) -> Option<&'a BTreeMap<String, ApiQuantity>>,
) -> Amounts {
    let mut total = Amounts::new();
    for container in &spec.containers {
        add(&mut total, list(container));
    }
    let mut sidecars = Amounts::new();
    let mut initializing = Amounts::new();
    for container in spec.init_containers.iter().flatten() {
        let moment = if is_sidecar(container) {
            add(&mut total, list(container));
            add(&mut sidecars, list(container));
            sidecars.clone()
        } else {
            let mut moment = sidecars.clone();
            add(&mut moment, list(container));
            moment
        };
        maximum(&mut initializing, &moment);
    }
    maximum(&mut total, &initializing);
    total
}

fn add(total: &mut Amounts, list: Option<&BTreeMap<String, ApiQuantity>>) {
    for (name, quantity) in list.into_iter().flatten() {
        *total.entry(name.clone()).or_default() += Quantity::of(quantity);
    }
}

fn maximum(total: &mut Amounts, other: &Amounts) {
    for (name, quantity) in other {
        let entry = total.entry(name.clone()).or_insert(*quantity);
        if *quantity > *entry {
            *entry = *quantity;
        }
    }
}

/// Pod-level CPU, memory and huge pages replace the sum over the containers.
fn override_with(total: &mut Amounts, pod_level: Option<&BTreeMap<String, ApiQuantity>>) {
    for (name, quantity) in pod_level.into_iter().flatten() {
        if matches!(name.as_str(), "cpu" | "memory") || name.starts_with("hugepages-") {
            total.insert(name.clone(), Quantity::of(quantity));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn check(spec: Value, requests: &[(&str, &str)], limits: &[(&str, &str)]) {
        let pod: Pod = serde_json::from_value(json!({ "spec": spec })).unwrap();
        let text = |amounts: Amounts| -> Vec<(String, String)> {
            amounts.into_iter().map(|(name, amount)| (name, amount.to_string())).collect()
        };
        let expected = |list: &[(&str, &str)]| -> Vec<(String, String)> {
            list.iter().map(|(name, amount)| (name.to_string(), amount.to_string())).collect()
        };
        assert_eq!(text(pod_requests(&pod)), expected(requests), "requests of {spec}");
        assert_eq!(text(pod_limits(&pod)), expected(limits), "limits of {spec}");
    }

    fn container(cpu: &str) -> Value {
        json!({"resources": {"requests": {"cpu": cpu}, "limits": {"cpu": cpu}}})
    }

    #[test]
    fn what_is_not_free_while_a_pod_is_resized() {
        let check = |asked: &str, granted: &str, held: &str, reason: &str, expected: &str| {
            let pod: Pod = serde_json::from_value(serde_json::json!({
                "spec": {"containers": [{"name": "a", "resources": {"requests": {"cpu": asked}}}]},
                "status": {
                    "conditions": [{"type": "PodResizePending", "status": "True", "reason": reason}],
                    "containerStatuses": [{
                        "name": "a", "ready": true, "restartCount": 0, "image": "", "imageID": "",
                        "allocatedResources": {"cpu": granted}, "resources": {"requests": {"cpu": held}},
                    }],
                },
            }))
            .unwrap();
            let found = pod_requests_in_use(&pod)["cpu"];
            assert_eq!(found, Quantity::parse(expected).unwrap(), "{asked} {granted} {held} {reason}");
        };
        check("1", "1", "1", "", "1");
        check("2", "1", "1", "Deferred", "2");
        check("1", "1", "2", "", "1");
        check("1", "2", "2", "", "2");
        check("500m", "1", "2", "", "2");
        check("64", "1", "1", "Infeasible", "1");
    }

    #[test]
    fn containers_add_up_and_init_containers_compete() {
        check(json!({"containers": [{}]}), &[], &[]);
        check(
            json!({"containers": [container("100m"), container("1")]}),
            &[("cpu", "1100m")],
            &[("cpu", "1100m")],
        );
        check(
            json!({"containers": [container("1")], "initContainers": [container("500m"), container("3")]}),
            &[("cpu", "3")],
            &[("cpu", "3")],
        );
    }

    #[test]
    fn sidecars_run_beside_both() {
        let mut sidecar = container("1");
        sidecar["restartPolicy"] = json!("Always");
        check(
            json!({"containers": [container("1")], "initContainers": [sidecar, container("2")]}),
            &[("cpu", "3")],
            &[("cpu", "3")],
        );
        check(
            json!({"containers": [container("1")], "initContainers": [container("2"), sidecar]}),
            &[("cpu", "2")],
            &[("cpu", "2")],
        );
    }

    #[test]
    fn overhead_and_pod_level() {
        check(
            json!({"containers": [container("1")], "overhead": {"cpu": "100m", "memory": "1Mi"}}),
            &[("cpu", "1100m"), ("memory", "1Mi")],
            &[("cpu", "1100m")],
        );
        check(
            json!({"containers": [container("1")], "resources": {"requests": {"cpu": "5"}}}),
            &[("cpu", "5")],
            &[("cpu", "1")],
        );
    }
}
