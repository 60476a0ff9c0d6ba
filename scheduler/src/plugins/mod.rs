//! The rules: which nodes a pod may run on (filters), and which of those is best (scores).
//!
//! One file per upstream plugin, with its name, its reasons and its weight. A filter answers with the
//! reasons why not; a score answers with a number that is scaled to 0–100 over all nodes that passed.

pub mod balanced_allocation;
pub mod image_locality;
pub mod node_affinity;
pub mod node_name;
pub mod node_ports;
pub mod node_unschedulable;
pub mod resources_fit;
pub mod taint_toleration;
pub mod volume_binding;

use std::borrow::Cow;

use manifests::k8s_openapi::api::core::v1::{Pod, PodSpec};

use crate::pod_info::PodInfo;
use crate::snapshot::{NodeFacts, NodeInfo, Snapshot};
use volume_binding::Storage;

/// The best score.
pub const MAX_SCORE: i64 = 100;

/// Upstream's plugins that coracle has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Plugin {
    /// Nodes that are closed for new pods.
    NodeUnschedulable,
    /// Pods that name their node.
    NodeName,
    /// Taints and tolerations.
    TaintToleration,
    /// Node selector and node affinity.
    NodeAffinity,
    /// Ports on the host.
    NodePorts,
    /// Requested resources.
    NodeResourcesFit,
    /// CPU and memory in equal shares.
    NodeResourcesBalancedAllocation,
    /// Nodes that hold the images.
    ImageLocality,
    /// Claims and their volumes.
    VolumeBinding,
}

impl Plugin {
    /// Upstream's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::NodeUnschedulable => "NodeUnschedulable",
            Self::NodeName => "NodeName",
            Self::TaintToleration => "TaintToleration",
            Self::NodeAffinity => "NodeAffinity",
            Self::NodePorts => "NodePorts",
            Self::NodeResourcesFit => "NodeResourcesFit",
            Self::NodeResourcesBalancedAllocation => "NodeResourcesBalancedAllocation",
            Self::ImageLocality => "ImageLocality",
            Self::VolumeBinding => "VolumeBinding",
        }
    }
}

/// Why a filter says no.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Which filter.
    pub plugin: Plugin,
    /// In upstream's words.
    pub reasons: Vec<Cow<'static, str>>,
    /// Whether the removal of other pods could change it.
    pub resolvable: bool,
}

impl Refusal {
    pub(crate) fn because(plugin: Plugin, reason: impl Into<Cow<'static, str>>, resolvable: bool) -> Self {
        Self { plugin, reasons: vec![reason.into()], resolvable }
    }
}

/// A pod to be placed.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// Its spec.
    pub spec: Cow<'a, PodSpec>,
    /// What it would take.
    pub info: PodInfo,
    /// What its claims ask of the node.
    pub storage: Storage,
}

impl<'a> Request<'a> {
    /// Reads a pod.
    pub fn of(pod: &'a Pod) -> Self {
        let spec = pod.spec.as_ref().map_or_else(|| Cow::Owned(PodSpec::default()), Cow::Borrowed);
        Self { spec, info: PodInfo::of(pod), storage: Storage::default() }
    }

    /// The same, with its claims as the snapshot has them.
    pub fn within(snapshot: &Snapshot, pod: &'a Pod) -> Self {
        let storage = snapshot.catalog.as_ref().map(|catalog| Storage::of(pod, catalog));
        Self { storage: storage.unwrap_or_default(), ..Self::of(pod) }
    }
}

type Filter = fn(&Request<'_>, &NodeFacts, &NodeInfo) -> Option<Refusal>;

/// In upstream's order: the message names the first that refuses.
pub const FILTERS: [Filter; 7] = [
    node_unschedulable::filter,
    node_name::filter,
    taint_toleration::filter,
    node_affinity::filter,
    node_ports::filter,
    resources_fit::filter,
    volume_binding::filter,
];

/// How raw scores become 0–100.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// They already are.
    None,
    /// The highest becomes 100.
    Up,
    /// The highest becomes 0.
    Down,
}

/// A score with its weight.
#[derive(Debug, Clone, Copy)]
pub struct Scorer {
    /// Which plugin.
    pub plugin: Plugin,
    /// How much it counts.
    pub weight: i64,
    /// How raw scores become 0–100.
    pub scale: Scale,
    /// The raw score of one node.
    pub score: fn(&Request<'_>, &NodeFacts, &NodeInfo, &Snapshot) -> i64,
}

/// With upstream's weights.
pub const SCORERS: [Scorer; 5] = [
    Scorer { plugin: Plugin::TaintToleration, weight: 3, scale: Scale::Down, score: taint_toleration::score },
    Scorer { plugin: Plugin::NodeAffinity, weight: 2, scale: Scale::Up, score: node_affinity::score },
    Scorer { plugin: Plugin::NodeResourcesFit, weight: 1, scale: Scale::None, score: resources_fit::score },
    Scorer {
        plugin: Plugin::NodeResourcesBalancedAllocation,
        weight: 1,
        scale: Scale::None,
        score: balanced_allocation::score,
    },
    Scorer { plugin: Plugin::ImageLocality, weight: 1, scale: Scale::None, score: image_locality::score },
];

/// Scales raw scores in place.
pub fn scale(scores: &mut [i64], scale: Scale) {
    if scale == Scale::None {
        return;
    }
    let highest = scores.iter().copied().max().unwrap_or(0);
    for score in scores {
        let scaled = if highest > 0 { *score * MAX_SCORE / highest } else { 0 };
        *score = if scale == Scale::Down { MAX_SCORE - scaled } else { scaled };
    }
}

#[cfg(test)]
pub(crate) mod testing {
    //! One pod against one node.

    use std::sync::Arc;

    use manifests::k8s_openapi::api::core::v1::{Node, Pod};

    use super::*;

    /// A node that holds pods.
    pub(crate) fn snapshot(node: Node, pods: &[Pod]) -> Snapshot {
        let mut snapshot = Snapshot::new();
        let name = node.metadata.name.clone().unwrap();
        snapshot.set_node(Arc::new(node));
        for pod in pods {
            snapshot.add_pod(&name, Arc::new(PodInfo::of(pod)));
        }
        snapshot
    }

    /// The reasons of a filter.
    pub(crate) fn refusal(
        filter: Filter,
        pod: &Pod,
        node: Node,
        pods: &[Pod],
    ) -> Option<(Vec<String>, bool)> {
        let snapshot = snapshot(node, pods);
        let (facts, info) = snapshot.nodes().next().unwrap();
        let refusal = filter(&Request::of(pod), facts, info)?;
        Some((refusal.reasons.into_iter().map(Cow::into_owned).collect(), refusal.resolvable))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scaling() {
        let check = |mut scores: Vec<i64>, by: Scale, expected: &[i64]| {
            scale(&mut scores, by);
            assert_eq!(scores, expected);
        };
        check(vec![1, 2, 4], Scale::None, &[1, 2, 4]);
        check(vec![1, 2, 4], Scale::Up, &[25, 50, 100]);
        check(vec![1, 2, 4], Scale::Down, &[75, 50, 0]);
        check(vec![0, 0], Scale::Up, &[0, 0]);
        check(vec![0, 0], Scale::Down, &[100, 100]);
        check(vec![], Scale::Up, &[]);
    }
}
