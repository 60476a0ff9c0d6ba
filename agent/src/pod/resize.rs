//! Changing how much CPU and memory a pod has while it runs.
//!
//! ```text
//!   wanted (the spec) ──fits?──▶ given (what the node has promised) ──▶ applied (what the kernel holds a container to)
//!        └── not now: PodResizePending, Deferred · never: PodResizePending, Infeasible
//!                                     └── until they agree: PodResizeInProgress
//! ```
//!
//! A pod's worker sees the pod with what was given; only here is what is wanted looked at.

use std::collections::BTreeMap;
use std::sync::Arc;

use manifests::k8s_openapi::api::core::v1::{Container, Pod, PodStatus, ResourceRequirements};
use manifests::k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use manifests::quantity::Quantity;
use manifests::resources::pod_requests;

/// What can be changed in place.
const RESIZABLE: [&str; 2] = ["cpu", "memory"];

/// A pod that is to have other resources than it was given.
#[derive(Debug, Clone)]
pub struct Resizing {
    /// As it is wanted.
    pub wanted: Arc<Pod>,
    /// What the node has.
    pub room: Room,
}

/// What a node has for its pods.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Room {
    /// All that pods may ask for: thousandths of cores and bytes, by resource.
    pub capacity: BTreeMap<&'static str, i64>,
    /// What the other pods have.
    pub used: BTreeMap<&'static str, i64>,
}

/// What becomes of a wish for other resources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The pod gets them.
    Give,
    /// Others have them now.
    Deferred(String),
    /// The node never had them.
    Infeasible(String),
}

impl Room {
    /// Of a node with this to give, and these other pods.
    pub fn new<'a>(
        allocatable: &BTreeMap<String, ApiQuantity>,
        others: impl IntoIterator<Item = &'a Pod>,
    ) -> Self {
        let all: BTreeMap<String, Quantity> =
            allocatable.iter().map(|(name, amount)| (name.clone(), Quantity::of(amount))).collect();
        let mut room = Self { capacity: amounts(&all), used: BTreeMap::new() };
        for pod in others {
            for (name, amount) in amounts(&pod_requests(pod)) {
                *room.used.entry(name).or_default() += amount;
            }
        }
        room
    }
}

fn amounts(list: &BTreeMap<String, Quantity>) -> BTreeMap<&'static str, i64> {
    let amount = |name: &'static str| {
        let quantity = list.get(name)?;
        Some((name, if name == "cpu" { quantity.milli() } else { quantity.value() }))
    };
    RESIZABLE.into_iter().filter_map(amount).collect()
}

/// Whether the node can give what is wanted.
pub fn verdict(resizing: &Resizing) -> Verdict {
    let Room { capacity, used } = &resizing.room;
    let wanted = amounts(&pod_requests(&resizing.wanted));
    for (name, requested) in &wanted {
        let capacity = capacity.get(name).copied().unwrap_or(i64::MAX);
        if *requested > capacity {
            return Verdict::Infeasible(format!(
                "Node didn't have enough capacity: {name}, requested: {requested}, capacity: {capacity}"
            ));
        }
    }
    for (name, requested) in &wanted {
        let capacity = capacity.get(name).copied().unwrap_or(i64::MAX);
        let used = used.get(name).copied().unwrap_or(0);
        if requested.saturating_add(used) > capacity {
            return Verdict::Deferred(format!(
                "Node didn't have enough resource: {name}, requested: {requested}, used: {used}, capacity: {capacity}"
            ));
        }
    }
    Verdict::Give
}

/// The pod with the resources that another version of it has; the pod itself if they are the same.
pub fn with_resources_of(pod: &Arc<Pod>, given: &Pod) -> Arc<Pod> {
    let resources =
        all(given).map(|container| (container.name.clone(), container.resources.clone())).collect();
    with_resources(pod, &resources)
}

/// The pod as it was before the agent was started again: its status says what was given.
pub fn with_resources_of_status(pod: &Arc<Pod>, status: &PodStatus) -> Arc<Pod> {
    let statuses = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    let began = statuses.filter(|status| status.container_id.is_some());
    with_resources(pod, &began.map(|status| (status.name.clone(), status.resources.clone())).collect())
}

fn with_resources(pod: &Arc<Pod>, given: &BTreeMap<String, Option<ResourceRequirements>>) -> Arc<Pod> {
    let differs = |container: &Container| {
        given.get(&container.name).is_some_and(|given| !same(given.as_ref(), container.resources.as_ref()))
    };
    if !all(pod).any(differs) {
        return pod.clone();
    }
    let mut pod = (**pod).clone();
    let spec = pod.spec.iter_mut();
    for spec in spec {
        let init = spec.init_containers.iter_mut().flatten();
        for container in init.chain(&mut spec.containers).filter(|container| differs(container)) {
            container.resources = given.get(&container.name).cloned().flatten();
        }
    }
    Arc::new(pod)
}

fn all(pod: &Pod) -> impl Iterator<Item = &Container> {
    let spec = pod.spec.iter();
    spec.flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers))
}

/// Which resources differ.
fn different<'a>(
    one: Option<&'a ResourceRequirements>,
    other: Option<&'a ResourceRequirements>,
) -> impl Iterator<Item = &'static str> {
    let amount = |resources: Option<&ResourceRequirements>, name: &str| {
        let of = |list: Option<&BTreeMap<String, ApiQuantity>>| {
            let quantity = list.and_then(|list| list.get(name)).map(Quantity::of);
            quantity.map(|quantity| if name == "cpu" { quantity.milli() } else { quantity.value() })
        };
        let requests = resources.and_then(|resources| resources.requests.as_ref());
        let limits = resources.and_then(|resources| resources.limits.as_ref());
        (of(requests), of(limits))
    };
    RESIZABLE.into_iter().filter(move |name| amount(one, name) != amount(other, name))
}

/// Whether CPU and memory are the same.
pub fn same(one: Option<&ResourceRequirements>, other: Option<&ResourceRequirements>) -> bool {
    different(one, other).next().is_none()
}

/// Whether a container has to start anew to have other resources than those that it runs with.
pub fn needs_restart(container: &Container, applied: &ResourceRequirements) -> bool {
    let policy = |name: &str| {
        let listed = container.resize_policy.iter().flatten().find(|policy| policy.resource_name == name);
        listed.is_some_and(|policy| policy.restart_policy == "RestartContainer")
    };
    different(container.resources.as_ref(), Some(applied)).any(policy)
}

/// What events say about a resize: containers with their resources, and why it is not done, if it is not.
pub fn told(pod: &Pod, error: Option<&str>) -> String {
    let containers: Vec<_> = all(pod)
        .filter_map(|container| {
            let resources = container.resources.as_ref()?;
            Some(serde_json::json!({"name": container.name, "resources": resources}))
        })
        .collect();
    let mut text = serde_json::json!({"containers": containers, "generation": pod.metadata.generation});
    if let Some(error) = error {
        text["error"] = error.into();
    }
    text.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::pod;

    fn sized(resources: &str) -> Arc<Pod> {
        Arc::new(pod(&format!("containers: [{{name: a, image: i, resources: {resources}}}]")))
    }

    #[test]
    fn who_gets_what() {
        let allocatable = BTreeMap::from([
            ("cpu".to_owned(), ApiQuantity("2".to_owned())),
            ("memory".to_owned(), ApiQuantity("1Gi".to_owned())),
        ]);
        let other = sized("{requests: {cpu: 500m}}");
        for (wanted, expected) in [
            ("{requests: {cpu: 1500m, memory: 1Gi}}", Verdict::Give),
            (
                "{requests: {cpu: 1600m}}",
                Verdict::Deferred(
                    "Node didn't have enough resource: cpu, requested: 1600, used: 500, capacity: 2000"
                        .into(),
                ),
            ),
            (
                "{requests: {cpu: 1600m, memory: 2Gi}}",
                Verdict::Infeasible(
                    "Node didn't have enough capacity: memory, requested: 2147483648, capacity: 1073741824"
                        .into(),
                ),
            ),
        ] {
            let room = Room::new(&allocatable, [&*other]);
            assert_eq!(verdict(&Resizing { wanted: sized(wanted), room }), expected, "{wanted}");
        }
    }

    #[test]
    fn a_pod_keeps_what_it_was_given() {
        let (small, large) = (sized("{requests: {cpu: 100m}}"), sized("{requests: {cpu: 200m}}"));
        let kept = with_resources_of(&large, &small);
        assert_eq!(kept.spec, small.spec);
        assert!(
            Arc::ptr_eq(&with_resources_of(&small, &sized("{requests: {cpu: 0.1}}")), &small),
            "the same amount"
        );
        let status: PodStatus = serde_yaml::from_str(
            "containerStatuses: [{name: a, image: i, imageID: '', ready: true, restartCount: 0, containerID: x, resources: {requests: {cpu: 100m}}}]",
        )
        .unwrap();
        assert_eq!(with_resources_of_status(&large, &status).spec, small.spec);
        assert!(Arc::ptr_eq(&with_resources_of_status(&large, &PodStatus::default()), &large));
    }

    #[test]
    fn some_changes_take_a_restart() {
        let policies = "resizePolicy: [{resourceName: cpu, restartPolicy: NotRequired}, {resourceName: memory, restartPolicy: RestartContainer}]";
        let pod = pod(&format!(
            "containers: [{{name: a, image: i, {policies}, resources: {{requests: {{cpu: 1, memory: 1Mi}}}}}}]"
        ));
        let container = &pod.spec.as_ref().unwrap().containers[0];
        for (applied, expected) in [
            ("{requests: {cpu: 1, memory: 1Mi}}", false),
            ("{requests: {cpu: 2, memory: 1Mi}}", false),
            ("{requests: {cpu: 1, memory: 2Mi}}", true),
            ("{}", true),
        ] {
            let applied: ResourceRequirements = serde_yaml::from_str(applied).unwrap();
            assert_eq!(needs_restart(container, &applied), expected, "{applied:?}");
        }
    }
}
