//! NodeAffinity: node selectors, required and preferred node affinity.

use std::collections::BTreeMap;

use manifests::k8s_openapi::api::core::v1::NodeAffinity;
use manifests::placement::{is_empty, term_matches, wants_node};

use super::{Plugin, Refusal, Request};
use crate::snapshot::{NodeFacts, NodeInfo, Snapshot};

const REASON: &str = "node(s) didn't match Pod's node affinity/selector";

fn affinity<'a>(request: &'a Request<'_>) -> Option<&'a NodeAffinity> {
    request.spec.affinity.as_ref()?.node_affinity.as_ref()
}

pub(super) fn filter(request: &Request<'_>, node: &NodeFacts, _: &NodeInfo) -> Option<Refusal> {
    let empty = BTreeMap::new();
    let labels = node.labels().unwrap_or(&empty);
    let matched = wants_node(&request.spec, node.name(), labels);
    (!matched).then(|| Refusal::because(Plugin::NodeAffinity, REASON, false))
}

/// The weights of the preferences that the node meets.
pub(super) fn score(request: &Request<'_>, node: &NodeFacts, _: &NodeInfo, _: &Snapshot) -> i64 {
    let preferred = affinity(request)
        .and_then(|affinity| affinity.preferred_during_scheduling_ignored_during_execution.as_deref())
        .unwrap_or_default();
    let empty = BTreeMap::new();
    let labels = node.labels().unwrap_or(&empty);
    let met = preferred.iter().filter(|wish| {
        // Unlike a required term, an empty preference is met by every node.
        is_empty(&wish.preference) || term_matches(&wish.preference, node.name(), labels)
    });
    met.map(|wish| i64::from(wish.weight)).sum()
}

#[cfg(test)]
mod tests {
    use manifests::k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm};
    use testkit::{NodeBuilder, PodBuilder, node, pod};

    use super::super::testing::{refusal, snapshot};
    use super::*;

    fn labelled() -> NodeBuilder {
        node("n").label("zone", "a").label("cores", "8")
    }

    fn check(pod: PodBuilder, expected: bool) {
        let refusal = refusal(filter, &pod.build(), labelled().build(), &[]);
        assert_eq!(refusal.is_none(), expected, "{refusal:?}");
        if let Some((reasons, resolvable)) = refusal {
            assert_eq!((reasons, resolvable), (vec![REASON.to_owned()], false));
        }
    }

    #[test]
    fn selectors() {
        check(pod("p"), true);
        check(pod("p").node_selector("zone", "a"), true);
        check(pod("p").node_selector("zone", "b"), false);
        check(pod("p").node_selector("zone", "a").node_selector("disk", "ssd"), false);
    }

    #[test]
    fn required_terms() {
        check(pod("p").require_node("zone", "In", &["a", "b"]), true);
        check(pod("p").require_node("zone", "NotIn", &["a"]), false);
        check(pod("p").require_node("disk", "NotIn", &["ssd"]), true);
        check(pod("p").require_node("disk", "DoesNotExist", &[]), true);
        check(pod("p").require_node("zone", "Exists", &[]), true);
        check(pod("p").require_node("disk", "Exists", &[]), false);
        check(pod("p").require_node("cores", "Gt", &["4"]), true);
        check(pod("p").require_node("cores", "Lt", &["8"]), false);
        check(pod("p").require_node("zone", "Gt", &["4"]), false);
        check(pod("p").require_node("zone", "In", &["b"]).require_node("cores", "In", &["8"]), true);
        check(pod("p").require_node("zone", "In", &["a"]).node_selector("zone", "b"), false);
    }

    #[test]
    fn an_empty_term_matches_nothing_and_names_are_fields() {
        let by_name = |name: &str| {
            pod("p").require_node("zone", "In", &["b"]).with(|pod| {
                let affinity = pod.spec.as_mut().unwrap().affinity.as_mut().unwrap();
                let required = affinity
                    .node_affinity
                    .as_mut()
                    .unwrap()
                    .required_during_scheduling_ignored_during_execution
                    .as_mut()
                    .unwrap();
                required.node_selector_terms = vec![NodeSelectorTerm {
                    match_fields: Some(vec![NodeSelectorRequirement {
                        key: "metadata.name".into(),
                        operator: "In".into(),
                        values: Some(vec![name.into()]),
                    }]),
                    match_expressions: None,
                }];
            })
        };
        check(by_name("n"), true);
        check(by_name("m"), false);
        let empty = by_name("n").with(|pod| {
            let affinity =
                pod.spec.as_mut().unwrap().affinity.as_mut().unwrap().node_affinity.as_mut().unwrap();
            affinity
                .required_during_scheduling_ignored_during_execution
                .as_mut()
                .unwrap()
                .node_selector_terms = vec![NodeSelectorTerm::default()];
        });
        check(empty, false);
    }

    #[test]
    fn preferences_add_up() {
        let snapshot = snapshot(labelled().build(), &[]);
        let (facts, info) = snapshot.nodes().next().unwrap();
        let pod = pod("p")
            .prefer_node(10, "zone", "In", &["a"])
            .prefer_node(5, "disk", "Exists", &[])
            .prefer_node(1, "cores", "Gt", &["1"]);
        assert_eq!(score(&Request::of(&pod.build()), facts, info, &snapshot), 11);
    }
}
