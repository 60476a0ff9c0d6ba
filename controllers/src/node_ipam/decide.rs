//! Which share a node gets. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::Ipv4Net;
use manifests::k8s_openapi::api::core::v1::Node;

use super::PodRanges;

/// What is to be done about one node.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Decision {
    Nothing,
    Give {
        node: Arc<Node>,
        share: Ipv4Net,
    },
    /// Every share is in use.
    Full {
        node: Arc<Node>,
    },
}

/// A node's share, if it has one.
pub(super) fn share(node: &Node) -> Option<Ipv4Net> {
    node.spec.as_ref()?.pod_cidr.as_deref()?.parse().ok()
}

/// `pending` are shares that were given and that `nodes` need not show yet; `last` is the last of them.
pub(super) fn decide(
    nodes: &[Arc<Node>],
    pending: &BTreeMap<String, Ipv4Net>,
    name: &str,
    ranges: PodRanges,
    last: Option<Ipv4Net>,
) -> Decision {
    let node = nodes.iter().find(|node| node.metadata.name.as_deref() == Some(name));
    let Some(node) = node else { return Decision::Nothing };
    // What is written there is left alone, even if it makes no sense here.
    let has =
        node.spec.as_ref().is_some_and(|spec| spec.pod_cidr.as_ref().is_some_and(|text| !text.is_empty()));
    if has || node.metadata.deletion_timestamp.is_some() || pending.contains_key(name) {
        return Decision::Nothing;
    }
    let taken: BTreeSet<Ipv4Net> =
        nodes.iter().filter_map(|node| share(node)).chain(pending.values().copied()).collect();
    let is_free = |candidate: &Ipv4Net| {
        // A share that a node brought along may be larger or smaller than ours.
        !taken.iter().any(|taken| taken.contains(candidate) || candidate.contains(taken))
    };
    let Ok(shares) = ranges.cluster.trunc().subnets(ranges.node_prefix) else {
        return Decision::Full { node: Arc::clone(node) };
    };
    let after = shares.filter(|share| last.is_some_and(|last| *share > last));
    match after.chain(shares).find(is_free) {
        Some(share) => Decision::Give { node: Arc::clone(node), share },
        None => Decision::Full { node: Arc::clone(node) },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(name: &str, share: Option<&str>) -> Arc<Node> {
        let object = json!({"metadata": {"name": name}, "spec": {"podCIDR": share}});
        Arc::new(serde_json::from_value(object).unwrap())
    }

    fn check(nodes: &[Arc<Node>], pending: &[(&str, &str)], last: Option<&str>, expected: Option<&str>) {
        let ranges = PodRanges { cluster: "10.42.0.0/22".parse().unwrap(), node_prefix: 24 };
        let pending =
            pending.iter().map(|(name, share)| ((*name).to_owned(), share.parse().unwrap())).collect();
        let decision = decide(nodes, &pending, "a", ranges, last.map(|last| last.parse().unwrap()));
        let given = match &decision {
            Decision::Give { share, .. } => Some(share.to_string()),
            _ => None,
        };
        assert_eq!(given.as_deref(), expected, "{decision:?}");
    }

    #[test]
    fn a_free_share_is_given_and_kept() {
        check(&[node("a", None)], &[], None, Some("10.42.0.0/24"));
        check(&[node("a", None), node("b", Some("10.42.0.0/24"))], &[], None, Some("10.42.1.0/24"));
        check(&[node("a", Some("10.42.3.0/24"))], &[], None, None);
        check(&[node("b", None)], &[], None, None);
        // Given a moment ago, to this one or to another.
        check(&[node("a", None)], &[("a", "10.42.0.0/24")], None, None);
        check(&[node("a", None), node("b", None)], &[("b", "10.42.0.0/24")], None, Some("10.42.1.0/24"));
    }

    #[test]
    fn what_became_free_last_is_given_last() {
        check(&[node("a", None)], &[], Some("10.42.1.0/24"), Some("10.42.2.0/24"));
        check(&[node("a", None)], &[], Some("10.42.3.0/24"), Some("10.42.0.0/24"));
    }

    #[test]
    fn shares_that_nodes_brought_along_count() {
        check(&[node("a", None), node("b", Some("10.42.0.0/23"))], &[], None, Some("10.42.2.0/24"));
        check(&[node("a", None), node("b", Some("10.42.0.128/25"))], &[], None, Some("10.42.1.0/24"));
    }

    #[test]
    fn when_all_are_in_use_somebody_has_to_know() {
        let nodes = [node("a", None), node("b", Some("10.42.0.0/22"))];
        let ranges = PodRanges { cluster: "10.42.0.0/22".parse().unwrap(), node_prefix: 24 };
        let decision = decide(&nodes, &BTreeMap::new(), "a", ranges, None);
        assert_eq!(decision, Decision::Full { node: Arc::clone(&nodes[0]) });
    }
}
