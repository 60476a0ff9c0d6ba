//! Which nodes a DaemonSet's pod may be on, and what the pod needs for that.

use std::collections::BTreeMap;

use manifests::k8s_openapi::api::core::v1::{
    Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Taint, Toleration,
};
use manifests::placement::{tolerated, wants_node};

/// What nodes in trouble are tainted with; such a node still needs its daemons.
const TROUBLES: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];
const NO_NETWORK: (&str, &str) = ("node.kubernetes.io/network-unavailable", "NoSchedule");

/// What a node means for a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// There is to be one.
    Wanted,
    /// One that is there may stay.
    Tolerated,
    /// There is to be none.
    Unwanted,
}

/// Whether two states of a node are the same for all pods.
pub(super) fn same_place(old: &Node, new: &Node) -> bool {
    let taints = |node: &Node| node.spec.as_ref().and_then(|spec| spec.taints.clone());
    old.metadata.labels == new.metadata.labels && taints(old) == taints(new)
}

/// A spec as its pods have it, but for the node's name.
pub(super) fn with_tolerations(mut spec: PodSpec) -> PodSpec {
    let troubles = TROUBLES.iter().chain(spec.host_network.unwrap_or(false).then_some(&NO_NETWORK));
    let tolerations = spec.tolerations.get_or_insert_default();
    for (key, effect) in troubles {
        let wanted = Toleration {
            key: Some((*key).to_owned()),
            operator: Some("Exists".to_owned()),
            effect: Some((*effect).to_owned()),
            ..Toleration::default()
        };
        if !tolerations.contains(&wanted) {
            tolerations.push(wanted);
        }
    }
    spec
}

/// Makes a spec ask for one node, by name; what it required of nodes before holds for this one already.
pub(super) fn on_node(mut spec: PodSpec, node: &str) -> PodSpec {
    let name = NodeSelectorRequirement {
        key: "metadata.name".to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![node.to_owned()]),
    };
    let affinity = spec.affinity.get_or_insert_default().node_affinity.get_or_insert_default();
    affinity.required_during_scheduling_ignored_during_execution = Some(NodeSelector {
        node_selector_terms: vec![NodeSelectorTerm {
            match_fields: Some(vec![name]),
            ..NodeSelectorTerm::default()
        }],
    });
    spec
}

/// The node that a pod is on, or will be on.
pub(super) fn target(spec: &PodSpec) -> Option<&str> {
    if let Some(node) = spec.node_name.as_deref().filter(|node| !node.is_empty()) {
        return Some(node);
    }
    let affinity = spec.affinity.as_ref()?.node_affinity.as_ref()?;
    let required = affinity.required_during_scheduling_ignored_during_execution.as_ref()?;
    let mut fields = required.node_selector_terms.iter().flat_map(|term| term.match_fields.iter().flatten());
    let name = fields.find(|field| field.key == "metadata.name" && field.operator == "In")?;
    name.values.as_ref()?.first().map(String::as_str)
}

/// What a node means for pods with this spec, which has its tolerations.
pub(super) fn place(spec: &PodSpec, node: &Node) -> Place {
    let name = node.metadata.name.as_deref().unwrap_or_default();
    let none = BTreeMap::new();
    let fits = spec.node_name.as_deref().is_none_or(|wanted| wanted.is_empty() || wanted == name)
        && wants_node(spec, name, node.metadata.labels.as_ref().unwrap_or(&none));
    if !fits || node.metadata.deletion_timestamp.is_some() {
        return Place::Unwanted;
    }
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    let taints: &[Taint] = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    let bad =
        |effect: &str| taints.iter().any(|taint| taint.effect == effect && !tolerated(taint, tolerations));
    match (bad("NoExecute"), bad("NoSchedule")) {
        (true, _) => Place::Unwanted,
        (false, true) => Place::Tolerated,
        (false, false) => Place::Wanted,
    }
}
