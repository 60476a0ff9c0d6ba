//! NodeResourcesBalancedAllocation: nodes whose CPU and memory would be used in similar shares are better.

use super::{MAX_SCORE, Request};
use crate::snapshot::{NodeFacts, NodeInfo, Snapshot};

pub(super) fn score(request: &Request<'_>, node: &NodeFacts, info: &NodeInfo, _: &Snapshot) -> i64 {
    let (cpu, memory) = (request.info.requests.cpu_milli, request.info.requests.memory);
    let (Some(cpu), Some(memory)) = (
        permille(info.requested.cpu_milli.saturating_add(cpu), node.allocatable.cpu_milli),
        permille(info.requested.memory.saturating_add(memory), node.allocatable.memory),
    ) else {
        return MAX_SCORE;
    };
    // The standard deviation of two numbers is half their distance.
    (1000 - (cpu - memory).abs() / 2) * MAX_SCORE / 1000
}

fn permille(used: i64, offered: i64) -> Option<i64> {
    if offered <= 0 {
        return None;
    }
    let share = i128::from(used).saturating_mul(1000) / i128::from(offered);
    Some(i64::try_from(share.clamp(0, 1000)).unwrap_or(1000))
}

#[cfg(test)]
mod tests {
    use testkit::{node, pod};

    use super::super::testing::snapshot;
    use super::*;

    #[test]
    fn equal_shares_are_best() {
        let check = |cpu: &str, memory: &str, expected: i64| {
            let snapshot =
                snapshot(node("n").allocatable("cpu", "4").allocatable("memory", "4Gi").build(), &[]);
            let (facts, info) = snapshot.nodes().next().unwrap();
            let pod = pod("p").request("cpu", cpu).request("memory", memory).build();
            assert_eq!(score(&Request::of(&pod), facts, info, &snapshot), expected, "{cpu} {memory}");
        };
        check("1", "1Gi", 100);
        check("2", "0", 75);
        check("4", "0", 50);
        check("1", "3Gi", 75);
    }
}
