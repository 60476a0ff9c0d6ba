//! DefaultPreemption: which pods of lower priority would have to go for a pod that fits nowhere.
//!
//! On each node whose refusal other pods cause: take all pods of lower priority away; if the pod then fits,
//! give back as many as possible, the most important first. Of the nodes, the one that loses least, as
//! upstream compares it.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::sync::Arc;

use client::ObjectKey;
use jiff::Timestamp;

use crate::plugins::Request;
use crate::pod_info::PodInfo;
use crate::schedule::first_refusal;
use crate::snapshot::{NodeFacts, NodeInfo, Snapshot};
use crate::unschedulable::NodeVerdict;

const NO_VICTIMS: &str = "No preemption victims found for incoming pod";
const NOT_HELPFUL: &str = "Preemption is not helpful for scheduling";

/// Whether others could make room for a pod that fits nowhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Preemption {
    /// The pod does not want that.
    Never,
    /// Others are on their way out for it already.
    UnderWay,
    /// It would not help; reasons of each node, in upstream's words.
    Unhelpful(Vec<Cow<'static, str>>),
    /// It would.
    Possible(Candidate),
}

/// A node on which the pod would fit without some others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The node's name.
    pub node: String,
    /// Who has to go, the most important first.
    pub victims: Vec<Victim>,
}

/// A pod that has to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Victim {
    /// Namespace and name.
    pub key: ObjectKey,
    /// Identifies it.
    pub uid: String,
}

/// `verdicts` are those of every node.
pub(crate) fn preempt(snapshot: &Snapshot, request: &Request<'_>, verdicts: &[NodeVerdict]) -> Preemption {
    if request.spec.preemption_policy.as_deref() == Some("Never") {
        return Preemption::Never;
    }
    if is_under_way(snapshot, request) {
        return Preemption::UnderWay;
    }
    let mut outlook = Vec::new();
    let mut best: Option<(Loss, Candidate)> = None;
    for verdict in verdicts {
        if !verdict.refusals.first().is_some_and(|refusal| refusal.resolvable) {
            outlook.push(NOT_HELPFUL.into());
            continue;
        }
        let Some((node, info)) = snapshot.node(&verdict.node) else { continue };
        match victims(snapshot, request, node, info) {
            Err(reasons) => outlook.extend(reasons),
            Ok(pods) => {
                let loss = loss(&pods);
                if best.as_ref().is_none_or(|(least, _)| loss < *least) {
                    let victims = pods
                        .iter()
                        .map(|pod| Victim { key: pod.key.clone(), uid: pod.uid.clone() })
                        .collect();
                    best = Some((loss, Candidate { node: node.name().to_owned(), victims }));
                }
            }
        }
    }
    match best {
        Some((_, candidate)) => Preemption::Possible(candidate),
        None => Preemption::Unhelpful(outlook),
    }
}

fn is_under_way(snapshot: &Snapshot, request: &Request<'_>) -> bool {
    let nominated = snapshot.nomination_of(&request.info.uid).and_then(|node| snapshot.node(node));
    nominated
        .is_some_and(|(_, info)| info.pods().any(|pod| pod.leaving && pod.priority < request.info.priority))
}

/// Who has to go from a node; never nobody. Otherwise why that would not help.
fn victims(
    snapshot: &Snapshot,
    request: &Request<'_>,
    node: &NodeFacts,
    info: &NodeInfo,
) -> Result<Vec<Arc<PodInfo>>, Vec<Cow<'static, str>>> {
    let mut lower: Vec<Arc<PodInfo>> =
        info.pods().filter(|pod| pod.priority < request.info.priority).cloned().collect();
    if lower.is_empty() {
        return Err(vec![NO_VICTIMS.into()]);
    }
    let mut without = info.clone();
    for pod in &lower {
        without.remove(&pod.uid);
    }
    if let Some(refusal) = first_refusal(snapshot, request, node, &without) {
        return Err(refusal.reasons);
    }
    lower.sort_by_key(|pod| importance(pod));
    lower.retain(|pod| {
        without.add(pod.clone());
        let fits = first_refusal(snapshot, request, node, &without).is_none();
        if !fits {
            without.remove(&pod.uid);
        }
        !fits
    });
    Ok(lower)
}

/// Sorts the more important first: higher priority, then running for longer.
fn importance(pod: &PodInfo) -> impl Ord + use<> {
    (Reverse(pod.priority), pod.started.unwrap_or(Timestamp::MAX), pod.uid.clone())
}

/// Smaller is better: the highest priority, the sum of priorities, the number, and, reversed, how recently
/// the most important one began.
type Loss = (i32, i64, usize, Reverse<Timestamp>);

fn loss(victims: &[Arc<PodInfo>]) -> Loss {
    let highest = victims.iter().map(|pod| pod.priority).max().unwrap_or(i32::MIN);
    // Shifted, so that more pods of negative priority are not better than fewer.
    let sum = victims.iter().map(|pod| i64::from(pod.priority) - i64::from(i32::MIN)).sum();
    let most_important = victims.iter().filter(|pod| pod.priority == highest);
    let since = most_important.filter_map(|pod| pod.started).min().unwrap_or(Timestamp::MAX);
    (highest, sum, victims.len(), Reverse(since))
}

#[cfg(test)]
mod tests {
    use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use testkit::{PodBuilder, node, pod};

    use super::*;
    use crate::schedule::schedule;

    /// One pod for each `(node, name, priority, cpu, started)`, on nodes of two CPUs.
    fn cluster(pods: &[(&str, &str, i32, &str, i64)]) -> Snapshot {
        let mut snapshot = Snapshot::new();
        for name in ["a", "b"] {
            snapshot.set_node(Arc::new(node(name).allocatable("cpu", "2").build()));
        }
        for (place, name, priority, cpu, started) in pods {
            let pod = pod(name).priority(*priority).request("cpu", cpu).with(|pod| {
                let start = Time(Timestamp::from_second(*started).unwrap());
                pod.status.as_mut().unwrap().start_time = Some(start);
            });
            snapshot.add_pod(place, Arc::new(PodInfo::of(&pod.build())));
        }
        snapshot
    }

    fn check(snapshot: &Snapshot, pod: PodBuilder, expected: &str) {
        let unschedulable = schedule(snapshot, &pod.build()).unwrap_err();
        let text = match &unschedulable.preemption {
            Preemption::Possible(candidate) => {
                let names: Vec<&str> =
                    candidate.victims.iter().map(|victim| victim.key.name.as_str()).collect();
                format!("{}: {}", candidate.node, names.join(" "))
            }
            _ => unschedulable.to_string().split_once("preemption: ").unwrap().1.to_owned(),
        };
        assert_eq!(text, expected);
    }

    fn urgent(cpu: &str) -> PodBuilder {
        pod("urgent").priority(100).request("cpu", cpu)
    }

    #[test]
    fn as_few_and_as_unimportant_as_possible() {
        let all = [
            ("a", "a1", 5, "1", 10),
            ("a", "a2", 1, "1", 20),
            ("b", "b1", 5, "1", 10),
            ("b", "b2", 5, "1", 20),
        ];
        check(&cluster(&all), urgent("1"), "a: a2");
        check(&cluster(&all), urgent("2"), "a: a1 a2");
        // Equal priority: the one that began last goes, from the node where that was latest.
        let equal = [
            ("a", "a1", 5, "1", 10),
            ("a", "a2", 5, "1", 20),
            ("b", "b1", 5, "1", 10),
            ("b", "b2", 5, "1", 30),
        ];
        check(&cluster(&equal), urgent("1"), "b: b2");
        // Fewer rather than more.
        let sizes = [("a", "a1", 5, "1", 10), ("a", "a2", 5, "1", 20), ("b", "b1", 5, "2", 10)];
        check(&cluster(&sizes), urgent("2"), "b: b1");
    }

    #[test]
    fn only_lower_priority_and_only_where_it_helps() {
        let full = [("a", "a1", 100, "2", 10), ("b", "b1", 200, "2", 10)];
        check(
            &cluster(&full),
            urgent("1"),
            "0/2 nodes are available: 2 No preemption victims found for incoming pod.",
        );
        let mixed = [("a", "a1", 100, "1500m", 10), ("a", "a2", 1, "500m", 10), ("b", "b1", 200, "2", 10)];
        check(
            &cluster(&mixed),
            urgent("1"),
            "0/2 nodes are available: 1 Insufficient cpu, 1 No preemption victims found for incoming pod.",
        );
        check(&cluster(&mixed), urgent("500m"), "a: a2");
        check(
            &cluster(&mixed),
            urgent("3"),
            "0/2 nodes are available: 2 Preemption is not helpful for scheduling.",
        );
        let mut never = urgent("500m").build();
        never.spec.as_mut().unwrap().preemption_policy = Some("Never".into());
        check(
            &cluster(&mixed),
            urgent("500m").with(|pod| *pod = never),
            "not eligible due to preemptionPolicy=Never.",
        );
    }

    #[test]
    fn one_preemption_at_a_time() {
        let mut snapshot = cluster(&[("a", "a1", 1, "2", 10), ("b", "b1", 200, "2", 10)]);
        snapshot.nominate("a", Arc::new(PodInfo::of(&urgent("1").build())));
        check(&snapshot, urgent("1"), "a: a1");
        let leaving = pod("a1").priority(1).request("cpu", "2").terminating().build();
        snapshot.add_pod("a", Arc::new(PodInfo::of(&leaving)));
        check(&snapshot, urgent("1"), "not eligible due to a terminating pod on the nominated node.");
    }

    #[test]
    fn ports_can_be_freed_too() {
        let mut snapshot = Snapshot::new();
        snapshot.set_node(Arc::new(node("a").build()));
        let holder = pod("holder").host_port("", "TCP", 80).build();
        snapshot.add_pod("a", Arc::new(PodInfo::of(&holder)));
        check(&snapshot, pod("urgent").priority(1).host_port("", "TCP", 80), "a: holder");
    }
}
