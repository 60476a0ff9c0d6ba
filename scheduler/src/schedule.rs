//! The decision: which node a pod goes to, as a pure function.

use manifests::k8s_openapi::api::core::v1::Pod;

use crate::plugins::volume_binding::Decision;
use crate::plugins::{FILTERS, Plugin, Refusal, Request, SCORERS, scale};
use crate::preempt::preempt;
use crate::snapshot::{NodeFacts, NodeInfo, Snapshot};
use crate::unschedulable::{NodeVerdict, Unschedulable};

/// Where a pod goes.
#[derive(Debug, Clone)]
pub struct Placement {
    /// The node's name.
    pub node: String,
    /// How many nodes would have done.
    pub feasible: usize,
    /// How many nodes there are.
    pub nodes: usize,
    /// The chosen node's weighted score.
    pub score: i64,
    /// How its claims get their volumes there.
    pub volumes: Vec<Decision>,
}

/// The scores of one node, for explanations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeScore {
    /// The node's name.
    pub node: String,
    /// Weighted, by plugin.
    pub scores: Vec<(Plugin, i64)>,
}

impl NodeScore {
    /// The sum.
    pub fn total(&self) -> i64 {
        self.scores.iter().map(|(_, score)| score).sum()
    }
}

/// Chooses a node for a pod.
///
/// The same snapshot and pod give the same node: among equally good nodes, the one with the fewest pods,
/// then the first by name.
pub fn schedule(snapshot: &Snapshot, pod: &Pod) -> Result<Placement, Unschedulable> {
    let request = Request::within(snapshot, pod);
    let nodes = snapshot.node_count();
    // Others had to go for it there.
    if let Some((node, info)) = snapshot.nomination_of(&request.info.uid).and_then(|node| snapshot.node(node))
        && first_refusal(snapshot, &request, node, info).is_none()
    {
        let volumes = request.storage.decide(&node.node).unwrap_or_default();
        return Ok(Placement { node: node.name().to_owned(), feasible: 1, nodes, score: 0, volumes });
    }
    let feasible: Vec<(&NodeFacts, &NodeInfo)> = snapshot
        .nodes()
        .filter(|(node, info)| first_refusal(snapshot, &request, node, info).is_none())
        .collect();
    let chosen = match feasible.as_slice() {
        [] => return Err(explain(snapshot, &request)),
        [(node, _)] => (*node, 0),
        several => best(snapshot, &request, several),
    };
    let volumes = request.storage.decide(&chosen.0.node).unwrap_or_default();
    let node = chosen.0.name().to_owned();
    Ok(Placement { node, feasible: feasible.len(), nodes, score: chosen.1, volumes })
}

/// The scores of every node that would do, best first.
pub fn scores(snapshot: &Snapshot, pod: &Pod) -> Vec<NodeScore> {
    let request = Request::within(snapshot, pod);
    let feasible: Vec<(&NodeFacts, &NodeInfo)> = snapshot
        .nodes()
        .filter(|(node, info)| first_refusal(snapshot, &request, node, info).is_none())
        .collect();
    let mut rows: Vec<NodeScore> = feasible
        .iter()
        .map(|(node, _)| NodeScore { node: node.name().to_owned(), scores: Vec::new() })
        .collect();
    each_score(snapshot, &request, &feasible, |plugin, row, score| rows[row].scores.push((plugin, score)));
    rows.sort_by_key(|row| std::cmp::Reverse(row.total()));
    rows
}

/// Why a node does not do, if it does not. Room that is kept for pods of the same or a higher priority is not
/// there.
pub(crate) fn first_refusal(
    snapshot: &Snapshot,
    request: &Request<'_>,
    node: &NodeFacts,
    info: &NodeInfo,
) -> Option<Refusal> {
    let refusal = FILTERS.iter().find_map(|filter| filter(request, node, info));
    let kept = with_kept_room(snapshot, request, node, info);
    refusal.or_else(|| kept.and_then(|info| FILTERS.iter().find_map(|filter| filter(request, node, &info))))
}

/// The node as it will be when the pods are there for which room is kept; None if there are none.
fn with_kept_room(
    snapshot: &Snapshot,
    request: &Request<'_>,
    node: &NodeFacts,
    info: &NodeInfo,
) -> Option<NodeInfo> {
    let mut kept = snapshot
        .nominated_on(node.name(), &request.info.uid)
        .filter(|pod| pod.priority >= request.info.priority)
        .peekable();
    kept.peek()?;
    let mut info = info.clone();
    kept.for_each(|pod| info.add(pod.clone()));
    Some(info)
}

/// Calls `each` with every plugin's weighted score of every node.
fn each_score(
    snapshot: &Snapshot,
    request: &Request<'_>,
    nodes: &[(&NodeFacts, &NodeInfo)],
    mut each: impl FnMut(Plugin, usize, i64),
) {
    for scorer in &SCORERS {
        let mut raw: Vec<i64> =
            nodes.iter().map(|(node, info)| (scorer.score)(request, node, info, snapshot)).collect();
        scale(&mut raw, scorer.scale);
        for (row, score) in raw.into_iter().enumerate() {
            each(scorer.plugin, row, score * scorer.weight);
        }
    }
}

fn best<'a>(
    snapshot: &Snapshot,
    request: &Request<'_>,
    nodes: &[(&'a NodeFacts, &'a NodeInfo)],
) -> (&'a NodeFacts, i64) {
    let mut totals = vec![0; nodes.len()];
    each_score(snapshot, request, nodes, |_, row, score| totals[row] += score);
    let mut best = 0;
    for row in 1..nodes.len() {
        let better = (totals[row], -nodes[row].1.pod_count()) > (totals[best], -nodes[best].1.pod_count());
        if better {
            best = row;
        }
    }
    (nodes[best].0, totals[best])
}

/// Every filter's verdict on every node, and whether others could make room.
fn explain(snapshot: &Snapshot, request: &Request<'_>) -> Unschedulable {
    let before = request.storage.problem.clone();
    let nodes: Vec<NodeVerdict> = snapshot
        .nodes()
        .map(|(node, info)| {
            if let Some(problem) = &before {
                // It is about the pod alone; no filter is asked.
                let refusals = vec![Refusal::because(Plugin::VolumeBinding, problem.clone(), false)];
                return NodeVerdict { node: node.name().to_owned(), refusals };
            }
            let kept = with_kept_room(snapshot, request, node, info);
            let info = kept.as_ref().unwrap_or(info);
            NodeVerdict {
                node: node.name().to_owned(),
                refusals: FILTERS.iter().filter_map(|filter| filter(request, node, info)).collect(),
            }
        })
        .collect();
    let preemption = preempt(snapshot, request, &nodes);
    Unschedulable { nodes, before, preemption }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use testkit::{NodeBuilder, PodBuilder, node, pod};

    use super::*;
    use crate::pod_info::PodInfo;

    fn cluster(nodes: Vec<NodeBuilder>) -> Snapshot {
        let mut snapshot = Snapshot::new();
        for node in nodes {
            snapshot.set_node(Arc::new(node.build()));
        }
        snapshot
    }

    fn check(snapshot: &Snapshot, pod: PodBuilder, expected: &str) {
        match schedule(snapshot, &pod.build()) {
            Ok(placement) => assert_eq!(placement.node, expected),
            Err(unschedulable) => assert_eq!(unschedulable.to_string(), expected),
        }
    }

    #[test]
    fn reasons_are_counted_and_sorted_as_upstream_words_them() {
        check(&cluster(vec![]), pod("p"), "no nodes available to schedule pods");
        let three = cluster(vec![
            node("a").allocatable("cpu", "1"),
            node("b").taint("k", "v", "NoSchedule"),
            node("c").unschedulable(),
        ]);
        check(
            &three,
            pod("p").request("cpu", "2"),
            "0/3 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint {k: v}, 1 node(s) were \
             unschedulable. preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling.",
        );
        let mut full = cluster(vec![node("a"), node("b").label("disk", "ssd")]);
        full.add_pod(
            "b",
            Arc::new(PodInfo::of(&pod("x").request("cpu", "4").request("memory", "8Gi").build())),
        );
        check(
            &full,
            pod("p").request("cpu", "1").request("memory", "1Gi").node_selector("disk", "ssd"),
            "0/2 nodes are available: 1 Insufficient cpu, 1 Insufficient memory, 1 node(s) didn't match Pod's node \
             affinity/selector. preemption: 0/2 nodes are available: 1 No preemption victims found for incoming pod, 1 \
             Preemption is not helpful for scheduling.",
        );
        check(
            &full,
            pod("p").request("cpu", "5").with(|pod| {
                pod.spec.as_mut().unwrap().preemption_policy = Some("Never".into());
            }),
            "0/2 nodes are available: 2 Insufficient cpu. preemption: not eligible due to preemptionPolicy=Never.",
        );
    }

    #[test]
    fn room_that_others_made_is_kept() {
        let mut snapshot = cluster(vec![node("a").allocatable("cpu", "1")]);
        let nominee = pod("nominee").priority(10).request("cpu", "800m");
        snapshot.nominate("a", Arc::new(PodInfo::of(&nominee.clone().build())));
        check(
            &snapshot,
            pod("later").request("cpu", "800m"),
            "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims \
             found for incoming pod.",
        );
        check(&snapshot, pod("small").request("cpu", "100m"), "a");
        check(&snapshot, pod("higher").priority(11).request("cpu", "800m"), "a");
        check(&snapshot, nominee.clone(), "a");
        snapshot.add_pod("a", Arc::new(PodInfo::of(&nominee.build())));
        assert_eq!(snapshot.nomination_of("nominee"), None);
    }

    #[test]
    fn every_verdict_is_kept() {
        let snapshot =
            cluster(vec![node("a").unschedulable().taint("k", "", "NoExecute").allocatable("cpu", "1")]);
        let unschedulable = schedule(&snapshot, &pod("p").request("cpu", "2").build()).unwrap_err();
        let plugins: Vec<Plugin> =
            unschedulable.nodes[0].refusals.iter().map(|refusal| refusal.plugin).collect();
        assert_eq!(plugins, [Plugin::NodeUnschedulable, Plugin::TaintToleration, Plugin::NodeResourcesFit]);
    }

    #[test]
    fn pods_spread_over_equal_nodes() {
        let mut snapshot = cluster(vec![node("a"), node("b"), node("c")]);
        let mut counts = std::collections::BTreeMap::new();
        for n in 0..9 {
            let pod = pod(&format!("p{n}")).build();
            let placement = schedule(&snapshot, &pod).unwrap();
            assert_eq!((placement.feasible, placement.nodes), (3, 3));
            snapshot.add_pod(&placement.node, Arc::new(PodInfo::of(&pod)));
            *counts.entry(placement.node).or_insert(0) += 1;
        }
        assert_eq!(counts.into_values().collect::<Vec<_>>(), [3, 3, 3]);
    }

    #[test]
    fn preferences_outweigh_free_space() {
        let mut snapshot = cluster(vec![
            node("a"),
            node("b").label("disk", "ssd"),
            node("c").taint("k", "", "PreferNoSchedule"),
        ]);
        snapshot.add_pod("b", Arc::new(PodInfo::of(&pod("x").request("cpu", "1").build())));
        check(&snapshot, pod("p").prefer_node(10, "disk", "In", &["ssd"]), "b");
        check(&snapshot, pod("p"), "a");
        let rows = scores(&snapshot, &pod("p").build());
        assert_eq!(rows.iter().map(|row| row.node.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(rows[0].scores.len(), SCORERS.len());
    }
}
