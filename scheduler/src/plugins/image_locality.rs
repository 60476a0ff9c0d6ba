//! ImageLocality: nodes that hold the pod's images are better, large images that many nodes hold most of all.

use super::{MAX_SCORE, Request};
use crate::snapshot::{NodeFacts, NodeInfo, Snapshot};

/// Upstream's bounds: smaller images do not matter, larger ones matter no more.
const SMALL: i64 = 23 << 20;
const LARGE: i64 = 1000 << 20;

pub(super) fn score(request: &Request<'_>, node: &NodeFacts, _: &NodeInfo, snapshot: &Snapshot) -> i64 {
    let total = i64::try_from(snapshot.node_count()).unwrap_or(i64::MAX).max(1);
    let containers = request.spec.init_containers.iter().flatten().chain(&request.spec.containers);
    let mut count = 0;
    let mut sum: i64 = 0;
    for container in containers {
        count += 1;
        let name = tagged(container.image.as_deref().unwrap_or_default());
        let size = node.images().find(|(names, _)| names.contains(&name)).map_or(0, |(_, size)| size);
        let holders = i64::try_from(snapshot.nodes_with_image(&name)).unwrap_or(i64::MAX);
        // An image on one of many nodes counts less: it must not draw every pod there.
        sum = sum.saturating_add(size.saturating_mul(holders) / total);
    }
    let most = LARGE * count;
    MAX_SCORE * (sum.clamp(SMALL, most.max(SMALL)) - SMALL) / (most - SMALL).max(1)
}

/// Image names without a tag mean `latest`.
fn tagged(name: &str) -> String {
    let last = name.rsplit('/').next().unwrap_or_default();
    if last.contains(':') || last.contains('@') { name.to_owned() } else { format!("{name}:latest") }
}

#[cfg(test)]
mod tests {
    use testkit::{node, pod};

    use super::super::testing::snapshot;
    use super::*;

    #[test]
    fn large_images_draw_pods() {
        let check = |size: i64, expected: i64| {
            let snapshot = snapshot(node("n").image("registry:5000/web:latest", size).build(), &[]);
            let (facts, info) = snapshot.nodes().next().unwrap();
            let pod = pod("p").image("registry:5000/web").build();
            assert_eq!(score(&Request::of(&pod), facts, info, &snapshot), expected, "{size}");
        };
        check(0, 0);
        check(10 << 20, 0);
        check(1000 << 20, 100);
        check(5000 << 20, 100);
        check(511 << 20, 49);
    }
}
