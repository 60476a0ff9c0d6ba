//! Who has to go: a pure function of what pods asked for and what they use. The order and the words are the kubelet's.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use manifests::go::quote;
use manifests::k8s_openapi::api::core::v1::{Container, Pod, Volume};
use manifests::quantity::Quantity;
use manifests::resources::{pod_limits, pod_requests};

use super::thresholds::{Shortage, Signal, amount};
use crate::names::is_static;

/// Pods of this priority and above keep the cluster alive.
const CRITICAL: i32 = 2_000_000_000;
const STORAGE: &str = "ephemeral-storage";

/// What a pod uses.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Usage {
    /// Bytes of memory that it needs, of its containers by name and of all together.
    pub(super) memory: Measured,
    /// Bytes on disk: writable layers and logs by container; with volumes, all together.
    pub(super) disk: Measured,
    /// Processes.
    pub(super) pids: u64,
    /// Bytes of each emptyDir on disk.
    pub(super) empty_dirs: BTreeMap<String, u64>,
}

/// One figure of a pod and of its containers.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Measured {
    pub(super) total: u64,
    pub(super) containers: BTreeMap<String, u64>,
}

/// A pod that runs, and what it uses.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    pub(super) pod: Arc<Pod>,
    pub(super) usage: Usage,
}

/// Whether a pod may never be evicted.
pub(super) fn is_critical(pod: &Pod) -> bool {
    is_static(pod) || priority(pod) >= CRITICAL
}

/// Whether disk usage of a pod has bounds of its own.
pub(super) fn has_disk_limits(pod: &Pod) -> bool {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(size_limit).next().is_some() || pod_limits(pod).contains_key(STORAGE)
}

/// What the event and the status say to a pod that uses more of the disk than it may.
pub(super) fn over_limit(pod: &Pod, usage: &Usage) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    for volume in spec.volumes.iter().flatten() {
        let Some(limit) = size_limit(volume) else { continue };
        let used = usage.empty_dirs.get(&volume.name).copied().unwrap_or(0);
        if used > bytes(&limit) {
            let (name, limit) = (quote(&volume.name), quote(&limit.to_string()));
            return Some(format!("Usage of EmptyDir volume {name} exceeds the limit {limit}. "));
        }
    }
    if let Some(limit) = pod_limits(pod).get(STORAGE)
        && usage.disk.total > bytes(limit)
    {
        return Some(format!(
            "Pod ephemeral local storage usage exceeds the total limit of containers {limit}. "
        ));
    }
    for container in all(pod) {
        let limits = container.resources.as_ref().and_then(|resources| resources.limits.as_ref());
        let Some(limit) = limits.and_then(|limits| limits.get(STORAGE)) else { continue };
        let limit = Quantity::of(limit);
        if usage.disk.containers.get(&container.name).is_some_and(|used| *used > bytes(&limit)) {
            let text = quote(&limit.to_string());
            return Some(format!(
                "Container {} exceeded its local ephemeral storage limit {text}. ",
                container.name
            ));
        }
    }
    None
}

/// The limit of an emptyDir on disk; one in memory has its limit from the kernel.
fn size_limit(volume: &Volume) -> Option<Quantity> {
    let source = volume.empty_dir.as_ref().filter(|source| source.medium.as_deref() != Some("Memory"))?;
    let limit = Quantity::of(source.size_limit.as_ref()?);
    (limit.value() > 0).then_some(limit)
}

/// The pods in the order in which they go: first those that use more than they asked for, then by priority, then by how
/// much more they use.
pub(super) fn rank(signal: Signal, candidates: &mut [Candidate]) {
    candidates.sort_by_cached_key(|candidate| {
        let (used, requested) = figures(signal, candidate);
        let above = i128::from(used) - i128::from(requested);
        (Reverse(above > 0), priority(&candidate.pod), Reverse(above))
    });
}

fn figures(signal: Signal, candidate: &Candidate) -> (u64, u64) {
    let request = |resource: &str| pod_requests(&candidate.pod).get(resource).map_or(0, bytes);
    match signal {
        Signal::Memory => (candidate.usage.memory.total, request("memory")),
        Signal::Disk => (candidate.usage.disk.total, request(STORAGE)),
        // Nobody asks for these, so everybody uses more than asked for.
        Signal::Inodes => (candidate.usage.disk.total, 0),
        Signal::Pids => (candidate.usage.pids, 0),
    }
}

/// What the event and the status say to the pod that goes.
pub(super) fn message(shortage: &Shortage, candidate: &Candidate) -> String {
    let resource = shortage.signal.resource();
    let mut text = format!("The node was low on resource: {resource}. {shortage}");
    let measured = match shortage.signal {
        Signal::Memory => &candidate.usage.memory,
        Signal::Disk => &candidate.usage.disk,
        Signal::Inodes | Signal::Pids => return text,
    };
    for container in all(&candidate.pod) {
        let requests = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
        let requested = requests.and_then(|requests| requests.get(resource)).map(Quantity::of);
        let used = measured.containers.get(&container.name).copied().unwrap_or(0);
        if used > requested.as_ref().map_or(0, bytes) {
            let requested = requested.map_or_else(|| "0".to_owned(), |requested| requested.to_string());
            let _ = write!(
                text,
                "Container {} was using {}, request is {requested}, has larger consumption of {resource}. ",
                container.name,
                amount(shortage.signal, used)
            );
        }
    }
    text
}

fn priority(pod: &Pod) -> i32 {
    pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0)
}

fn all(pod: &Pod) -> impl Iterator<Item = &Container> {
    let spec = pod.spec.iter();
    spec.flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers))
}

fn bytes(quantity: &Quantity) -> u64 {
    u64::try_from(quantity.value()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    const MIB: u64 = 1 << 20;

    fn candidate(name: &str, priority: i32, request: u64, used: u64) -> Candidate {
        let mut pod = fixture::pod(&format!(
            "{{priority: {priority}, containers: [{{name: a, image: i, resources: {{requests: {{memory: {request}Mi}}}}}}]}}"
        ));
        pod.metadata.name = Some(name.to_owned());
        let memory =
            Measured { total: used * MIB, containers: BTreeMap::from([("a".to_owned(), used * MIB)]) };
        Candidate { pod: Arc::new(pod), usage: Usage { memory, ..Usage::default() } }
    }

    #[test]
    fn the_greedy_go_first_and_the_important_last() {
        let mut pods = vec![
            candidate("modest", 0, 100, 90),
            candidate("greedy", 0, 100, 150),
            candidate("greedier", 0, 10, 150),
            candidate("important-and-greedy", 1000, 10, 900),
            candidate("unimportant-and-modest", -5, 100, 10),
        ];
        rank(Signal::Memory, &mut pods);
        let names: Vec<_> = pods.iter().map(|pod| pod.pod.metadata.name.clone().unwrap()).collect();
        assert_eq!(names, ["greedier", "greedy", "important-and-greedy", "unimportant-and-modest", "modest"]);
    }

    #[test]
    fn the_message_names_who_uses_more_than_it_asked_for() {
        let shortage = Shortage { signal: Signal::Memory, threshold: 100 * MIB, available: 80 * MIB };
        assert_eq!(
            message(&shortage, &candidate("p", 0, 100, 150)),
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 80Mi. \
             Container a was using 150Mi, request is 100Mi, has larger consumption of memory. "
        );
        assert_eq!(
            message(&shortage, &candidate("p", 0, 100, 50)),
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 80Mi. "
        );
    }

    #[test]
    fn bounds_of_the_disk() {
        let pod = fixture::pod(
            "{containers: [{name: a, image: i, resources: {limits: {ephemeral-storage: 2Mi}}}, \
             {name: b, image: i, resources: {limits: {ephemeral-storage: 4Mi}}}], \
             volumes: [{name: v, emptyDir: {sizeLimit: 1Mi}}, {name: m, emptyDir: {medium: Memory, sizeLimit: 1Mi}}]}",
        );
        assert!(has_disk_limits(&pod));
        assert!(!has_disk_limits(&fixture::pod(
            "{containers: [{name: a, image: i}], volumes: [{name: v, emptyDir: {}}]}"
        )));
        let usage = |volume: u64, a: u64, total: u64| Usage {
            disk: Measured { total: total * MIB, containers: BTreeMap::from([("a".to_owned(), a * MIB)]) },
            empty_dirs: BTreeMap::from([("v".to_owned(), volume * MIB), ("m".to_owned(), 9 * MIB)]),
            ..Usage::default()
        };
        for (usage, expected) in [
            (usage(1, 2, 6), None),
            (usage(2, 0, 2), Some("Usage of EmptyDir volume \"v\" exceeds the limit \"1Mi\". ")),
            (
                usage(1, 1, 7),
                Some("Pod ephemeral local storage usage exceeds the total limit of containers 6Mi. "),
            ),
            (usage(1, 3, 4), Some("Container a exceeded its local ephemeral storage limit \"2Mi\". ")),
        ] {
            assert_eq!(over_limit(&pod, &usage).as_deref(), expected);
        }
    }

    #[test]
    fn the_critical_stay() {
        assert!(is_critical(&candidate("p", CRITICAL, 0, 0).pod));
        assert!(!is_critical(&candidate("p", CRITICAL - 1, 0, 0).pod));
    }
}
