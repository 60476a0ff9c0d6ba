//! NodeResourcesFit: requests fit into what the node offers; the emptier node is better.

use std::borrow::Cow;

use super::{MAX_SCORE, Plugin, Refusal, Request};
use crate::snapshot::{NodeFacts, NodeInfo, Snapshot};

pub(super) fn filter(request: &Request<'_>, node: &NodeFacts, info: &NodeInfo) -> Option<Refusal> {
    let mut reasons: Vec<Cow<'static, str>> = Vec::new();
    // Removing other pods helps unless one request alone is more than the node offers.
    let mut resolvable = true;
    if info.pod_count() + 1 > node.allowed_pods {
        reasons.push("Too many pods".into());
    }
    let mut check = |wanted: i64, used: i64, offered: i64, reason: &dyn Fn() -> Cow<'static, str>| {
        if wanted > 0 && wanted > offered.saturating_sub(used) {
            reasons.push(reason());
            resolvable &= wanted <= offered;
        }
    };
    let (wanted, used, offered) = (&request.info.requests, &info.requested, &node.allocatable);
    check(wanted.cpu_milli, used.cpu_milli, offered.cpu_milli, &|| "Insufficient cpu".into());
    check(wanted.memory, used.memory, offered.memory, &|| "Insufficient memory".into());
    check(wanted.ephemeral_storage, used.ephemeral_storage, offered.ephemeral_storage, &|| {
        "Insufficient ephemeral-storage".into()
    });
    for (name, amount) in &wanted.others {
        check(*amount, used.other(name), offered.other(name), &|| format!("Insufficient {name}").into());
    }
    (!reasons.is_empty()).then_some(Refusal { plugin: Plugin::NodeResourcesFit, reasons, resolvable })
}

/// LeastAllocated: the mean free share of CPU and memory with the pod on the node.
pub(super) fn score(request: &Request<'_>, node: &NodeFacts, info: &NodeInfo, _: &Snapshot) -> i64 {
    let (cpu, memory) = request.info.weight;
    let free = |offered: i64, used: i64| {
        if offered <= 0 {
            return None;
        }
        Some(if used > offered { 0 } else { (offered - used).saturating_mul(MAX_SCORE) / offered })
    };
    let shares = [
        free(node.allocatable.cpu_milli, info.weight.0.saturating_add(cpu)),
        free(node.allocatable.memory, info.weight.1.saturating_add(memory)),
    ];
    let (sum, count) =
        shares.into_iter().flatten().fold((0, 0), |(sum, count), share| (sum + share, count + 1));
    if count == 0 { 0 } else { sum / count }
}

#[cfg(test)]
mod tests {
    use testkit::{PodBuilder, node, pod};

    use super::super::testing::{refusal, snapshot};
    use super::*;

    fn check(pod: PodBuilder, expected: &[&str], can_be_resolved: bool) {
        let node =
            node("n").allocatable("cpu", "2").allocatable("memory", "1Gi").allocatable("pods", "2").build();
        let holder = [testkit::pod("holder").request("cpu", "1500m").request("memory", "512Mi").build()];
        match refusal(filter, &pod.build(), node, &holder) {
            Some((reasons, resolvable)) => assert_eq!(
                (reasons, resolvable),
                (expected.iter().map(ToString::to_string).collect(), can_be_resolved)
            ),
            None => assert!(expected.is_empty(), "expected {expected:?}"),
        }
    }

    #[test]
    fn amounts() {
        check(pod("p"), &[], true);
        check(pod("p").request("cpu", "500m").request("memory", "512Mi"), &[], true);
        check(pod("p").request("cpu", "501m"), &["Insufficient cpu"], true);
        check(pod("p").request("cpu", "3"), &["Insufficient cpu"], false);
        check(
            pod("p").request("cpu", "1").request("memory", "600Mi"),
            &["Insufficient cpu", "Insufficient memory"],
            true,
        );
        check(pod("p").request("ephemeral-storage", "1"), &["Insufficient ephemeral-storage"], false);
        check(pod("p").request("example.com/gpu", "1"), &["Insufficient example.com/gpu"], false);
        check(pod("p").request("example.com/gpu", "0"), &[], true);
    }

    #[test]
    fn pods_are_counted() {
        let full = node("n").allocatable("pods", "1").build();
        let (reasons, resolvable) =
            refusal(filter, &pod("p").build(), full, &[pod("holder").build()]).unwrap();
        assert_eq!(reasons, ["Too many pods"]);
        assert!(resolvable);
    }

    #[test]
    fn the_emptier_node_is_better() {
        let score_on = |holders: &[_]| {
            let node = node("n").allocatable("cpu", "4").allocatable("memory", "4Gi").build();
            let snapshot = snapshot(node, holders);
            let (facts, info) = snapshot.nodes().next().unwrap();
            score(
                &Request::of(&pod("p").request("cpu", "1").request("memory", "1Gi").build()),
                facts,
                info,
                &snapshot,
            )
        };
        assert_eq!(score_on(&[]), 75);
        assert_eq!(score_on(&[pod("a").request("cpu", "1").request("memory", "1Gi").build()]), 50);
        assert_eq!(score_on(&[pod("a").request("cpu", "3500m").request("memory", "1Gi").build()]), 25);
    }
}
