//! What the scheduler knows about nodes and what their pods take, kept up to date change by change.
//!
//! A pod is counted on at most one node, under its uid: counting it again moves it, and forgetting it
//! twice is harmless. So an assumed pod, the same pod as the API server shows it, and a repeated event
//! all come to the same sums. Pods of a node that is not known (yet) are counted and wait for it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use manifests::k8s_openapi::api::core::v1::{Node, Pod, Taint};

use crate::plugins::volume_binding::Catalog;
use crate::pod_info::{HostPort, PodInfo};
use crate::resources::Resources;

/// A node and what its pods take.
#[derive(Debug, Clone, Default)]
pub struct NodeInfo {
    node: Option<NodeFacts>,
    pods: HashMap<String, Arc<PodInfo>>,
    /// Sum of the pods' requests.
    pub requested: Resources,
    /// Sum of the pods' weights: CPU in thousandths, memory in bytes.
    pub weight: (i64, i64),
}

/// A node as plugins read it.
#[derive(Debug, Clone)]
pub struct NodeFacts {
    /// The object.
    pub node: Arc<Node>,
    /// What it offers.
    pub allocatable: Resources,
    /// How many pods it takes.
    pub allowed_pods: i64,
}

impl NodeFacts {
    fn of(node: Arc<Node>) -> Self {
        let list = node.status.as_ref().and_then(|status| status.allocatable.as_ref());
        let (allocatable, allowed_pods) = Resources::allocatable(list);
        Self { node, allocatable, allowed_pods }
    }

    /// The node's name.
    pub fn name(&self) -> &str {
        self.node.metadata.name.as_deref().unwrap_or_default()
    }

    /// The node's labels.
    pub fn labels(&self) -> Option<&BTreeMap<String, String>> {
        self.node.metadata.labels.as_ref()
    }

    /// The node's taints.
    pub fn taints(&self) -> &[Taint] {
        self.node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default()
    }

    /// Whether it is closed for new pods.
    pub fn unschedulable(&self) -> bool {
        self.node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false)
    }

    /// Its images: names and size in bytes.
    pub fn images(&self) -> impl Iterator<Item = (&[String], i64)> {
        let images =
            self.node.status.as_ref().and_then(|status| status.images.as_deref()).unwrap_or_default();
        images.iter().map(|image| (image.names.as_deref().unwrap_or_default(), image.size_bytes.unwrap_or(0)))
    }
}

impl NodeInfo {
    /// Pods on the node, in no order.
    pub fn pods(&self) -> impl Iterator<Item = &Arc<PodInfo>> {
        self.pods.values()
    }

    /// How many pods are on the node.
    pub fn pod_count(&self) -> i64 {
        i64::try_from(self.pods.len()).unwrap_or(i64::MAX)
    }

    /// Whether a pod on the node has a port that conflicts.
    pub fn port_taken(&self, wanted: &HostPort) -> bool {
        self.pods.values().any(|pod| pod.ports.iter().any(|port| port.conflicts(wanted)))
    }

    /// Counts a pod.
    pub fn add(&mut self, pod: Arc<PodInfo>) {
        self.remove(&pod.uid);
        self.requested.add(&pod.requests);
        self.weight.0 = self.weight.0.saturating_add(pod.weight.0);
        self.weight.1 = self.weight.1.saturating_add(pod.weight.1);
        self.pods.insert(pod.uid.clone(), pod);
    }

    /// Counts a pod no longer.
    pub fn remove(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        let pod = self.pods.remove(uid)?;
        self.requested.subtract(&pod.requests);
        self.weight.0 = self.weight.0.saturating_sub(pod.weight.0);
        self.weight.1 = self.weight.1.saturating_sub(pod.weight.1);
        Some(pod)
    }
}

/// Every node with what its pods take.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    nodes: BTreeMap<String, NodeInfo>,
    /// Where each pod is counted.
    places: HashMap<String, String>,
    /// How many nodes hold each image.
    images: HashMap<String, usize>,
    known: usize,
    /// Pods for which others had to go, by uid, with the node where that happened; few or none.
    nominated: BTreeMap<String, (String, Arc<PodInfo>)>,
    /// Claims and volumes; None: they are not looked at.
    pub catalog: Option<Catalog>,
}

impl Snapshot {
    /// No nodes.
    pub fn new() -> Self {
        Self::default()
    }

    /// No nodes, but claims and volumes are looked at.
    pub fn with(catalog: Catalog) -> Self {
        Self { catalog: Some(catalog), ..Self::default() }
    }

    /// From objects as the API server lists them, for explanations and plans.
    pub fn of<'a>(
        nodes: impl IntoIterator<Item = Arc<Node>>,
        pods: impl IntoIterator<Item = &'a Pod>,
    ) -> Self {
        let mut snapshot = Self::new();
        for node in nodes {
            snapshot.set_node(node);
        }
        for pod in pods {
            let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
            let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
            if !node.is_empty() && !matches!(phase, Some("Succeeded" | "Failed")) {
                snapshot.add_pod(node, Arc::new(PodInfo::of(pod)));
            }
        }
        snapshot
    }

    /// Every known node with its facts, by name.
    pub fn nodes(&self) -> impl Iterator<Item = (&NodeFacts, &NodeInfo)> {
        self.nodes.values().filter_map(|info| Some((info.node.as_ref()?, info)))
    }

    /// One node.
    pub fn node(&self, name: &str) -> Option<(&NodeFacts, &NodeInfo)> {
        let info = self.nodes.get(name)?;
        Some((info.node.as_ref()?, info))
    }

    /// How many nodes are known.
    pub fn node_count(&self) -> usize {
        self.known
    }

    /// How many nodes hold an image.
    pub fn nodes_with_image(&self, name: &str) -> usize {
        self.images.get(name).copied().unwrap_or(0)
    }

    /// Where a pod is counted.
    pub fn place_of(&self, uid: &str) -> Option<&str> {
        self.places.get(uid).map(String::as_str)
    }

    /// The node is there, or has changed.
    pub fn set_node(&mut self, node: Arc<Node>) {
        let facts = NodeFacts::of(node);
        let name = facts.name().to_owned();
        self.count_images(&name, false);
        let info = self.nodes.entry(name.clone()).or_default();
        if info.node.replace(facts).is_none() {
            self.known += 1;
        }
        self.count_images(&name, true);
    }

    /// The node is gone. Its pods stay counted until they go as well.
    pub fn remove_node(&mut self, name: &str) {
        self.count_images(name, false);
        let Some(info) = self.nodes.get_mut(name) else { return };
        if info.node.take().is_some() {
            self.known -= 1;
        }
        if info.pods.is_empty() {
            self.nodes.remove(name);
        }
    }

    fn count_images(&mut self, name: &str, present: bool) {
        let Some(facts) = self.nodes.get(name).and_then(|info| info.node.as_ref()) else { return };
        for image in facts.images().flat_map(|(names, _)| names) {
            if present {
                *self.images.entry(image.clone()).or_insert(0) += 1;
            } else if let Some(count) = self.images.get_mut(image) {
                *count -= 1;
                if *count == 0 {
                    self.images.remove(image);
                }
            }
        }
    }

    /// Room on the node is meant for the pod: pods of lower priority must leave it free.
    pub fn nominate(&mut self, node: &str, pod: Arc<PodInfo>) {
        self.nominated.insert(pod.uid.clone(), (node.to_owned(), pod));
    }

    /// No room is kept for the pod any more. Says whether some was.
    pub fn drop_nomination(&mut self, uid: &str) -> bool {
        self.nominated.remove(uid).is_some()
    }

    /// The node on which room is kept for a pod.
    pub fn nomination_of(&self, uid: &str) -> Option<&str> {
        self.nominated.get(uid).map(|(node, _)| node.as_str())
    }

    /// Pods for which room is kept on a node, other than `but`.
    pub fn nominated_on<'a>(&'a self, node: &'a str, but: &'a str) -> impl Iterator<Item = &'a Arc<PodInfo>> {
        let there = self.nominated.values().filter(move |(place, pod)| place == node && pod.uid != but);
        there.map(|(_, pod)| pod)
    }

    /// The pod is, or will be, on the node.
    pub fn add_pod(&mut self, node: &str, pod: Arc<PodInfo>) {
        self.nominated.remove(&pod.uid);
        if self.places.get(&pod.uid).is_some_and(|place| place != node) {
            self.remove_pod(&pod.uid);
        }
        self.places.insert(pod.uid.clone(), node.to_owned());
        self.nodes.entry(node.to_owned()).or_default().add(pod);
    }

    /// The pod is on no node. Says whether it was on one.
    pub fn remove_pod(&mut self, uid: &str) -> bool {
        let Some(place) = self.places.remove(uid) else { return false };
        if let Some(info) = self.nodes.get_mut(&place) {
            info.remove(uid);
            if info.node.is_none() && info.pods.is_empty() {
                self.nodes.remove(&place);
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use testkit::{node, pod};

    use super::*;

    fn info(name: &str, cpu: &str) -> Arc<PodInfo> {
        Arc::new(PodInfo::of(&pod(name).request("cpu", cpu).build()))
    }

    #[test]
    fn a_pod_is_counted_once_wherever_it_goes() {
        let mut snapshot = Snapshot::new();
        snapshot.set_node(Arc::new(node("a").build()));
        snapshot.set_node(Arc::new(node("b").build()));
        snapshot.add_pod("a", info("p", "1"));
        snapshot.add_pod("a", info("p", "2"));
        assert_eq!(snapshot.node("a").unwrap().1.requested.cpu_milli, 2000);
        snapshot.add_pod("b", info("p", "2"));
        assert_eq!(snapshot.node("a").unwrap().1.requested, Resources::default());
        assert_eq!(snapshot.node("b").unwrap().1.requested.cpu_milli, 2000);
        assert!(snapshot.remove_pod("p"));
        assert!(!snapshot.remove_pod("p"));
        assert_eq!(snapshot.node("b").unwrap().1.weight, (0, 0));
    }

    #[test]
    fn pods_wait_for_their_node() {
        let mut snapshot = Snapshot::new();
        snapshot.add_pod("late", info("p", "1"));
        assert_eq!(snapshot.nodes().count(), 0);
        snapshot.set_node(Arc::new(node("late").image("x:1", 5).build()));
        assert_eq!(snapshot.node("late").unwrap().1.requested.cpu_milli, 1000);
        assert_eq!((snapshot.node_count(), snapshot.nodes_with_image("x:1")), (1, 1));
        snapshot.remove_node("late");
        assert_eq!((snapshot.node_count(), snapshot.nodes_with_image("x:1")), (0, 0));
        snapshot.remove_pod("p");
        assert!(snapshot.nodes.is_empty(), "nothing is left of a node that is gone");
    }

    proptest! {
        /// Whatever happens in whatever order, the sums are those of the pods that are counted.
        #[test]
        fn sums_never_drift(steps in proptest::collection::vec((0..4u8, 0..6usize, 0..3usize), 0..200)) {
            let nodes = ["a", "b", "c"];
            let mut snapshot = Snapshot::new();
            for (what, which, place) in steps {
                let name = format!("p{which}");
                match what {
                    0 => snapshot.add_pod(nodes[place], info(&name, "100m")),
                    1 => drop(snapshot.remove_pod(&name)),
                    2 => snapshot.set_node(Arc::new(node(nodes[place]).build())),
                    _ => snapshot.remove_node(nodes[place]),
                }
                for info in snapshot.nodes.values() {
                    prop_assert_eq!(info.requested.cpu_milli, 100 * info.pod_count());
                    prop_assert!(info.node.is_some() || info.pod_count() > 0);
                }
                let counted: usize = snapshot.nodes.values().map(|info| info.pods.len()).sum();
                prop_assert_eq!(counted, snapshot.places.len());
                prop_assert_eq!(snapshot.nodes().count(), snapshot.node_count());
            }
        }
    }
}
