//! NodeAffinity: node selectors, required and preferred node affinity.

use std::collections::BTreeMap;

use manifests::k8s_openapi::api::core::v1::{NodeAffinity, NodeSelectorRequirement, NodeSelectorTerm};

use super::{Plugin, Refusal, Request};
use crate::snapshot::{NodeFacts, NodeInfo, Snapshot};

const REASON: &str = "node(s) didn't match Pod's node affinity/selector";

fn affinity<'a>(request: &'a Request<'_>) -> Option<&'a NodeAffinity> {
    request.spec.affinity.as_ref()?.node_affinity.as_ref()
}

pub(super) fn filter(request: &Request<'_>, node: &NodeFacts, _: &NodeInfo) -> Option<Refusal> {
    let empty = BTreeMap::new();
    let labels = node.labels().unwrap_or(&empty);
    let selected =
        request.spec.node_selector.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    let required = affinity(request)
        .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    let matched = selected
        && required.is_none_or(|required| {
            required.node_selector_terms.iter().any(|term| term_matches(term, node, labels))
        });
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
        is_empty(&wish.preference) || term_matches(&wish.preference, node, labels)
    });
    met.map(|wish| i64::from(wish.weight)).sum()
}

fn is_empty(term: &NodeSelectorTerm) -> bool {
    let none = |list: &Option<Vec<NodeSelectorRequirement>>| list.as_ref().is_none_or(Vec::is_empty);
    none(&term.match_expressions) && none(&term.match_fields)
}

/// All requirements of a term; a term without any matches nothing.
fn term_matches(term: &NodeSelectorTerm, node: &NodeFacts, labels: &BTreeMap<String, String>) -> bool {
    if is_empty(term) {
        return false;
    }
    let by_label = |requirement: &NodeSelectorRequirement| {
        requirement_met(requirement, labels.get(&requirement.key).map(String::as_str))
    };
    // The only field that can be selected is the name.
    let by_field = |requirement: &NodeSelectorRequirement| {
        requirement.key == "metadata.name" && requirement_met(requirement, Some(node.name()))
    };
    term.match_expressions.iter().flatten().all(by_label) && term.match_fields.iter().flatten().all(by_field)
}

fn requirement_met(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let among = |value: &str| values.iter().any(|wanted| wanted == value);
    let number = |text: &str| text.parse::<i64>().ok();
    let bound = values.first().and_then(|bound| number(bound));
    match (requirement.operator.as_str(), value) {
        ("In", Some(value)) => among(value),
        ("NotIn", Some(value)) => !among(value),
        ("NotIn" | "DoesNotExist", None) | ("Exists", Some(_)) => true,
        ("Gt", Some(value)) => number(value).zip(bound).is_some_and(|(value, bound)| value > bound),
        ("Lt", Some(value)) => number(value).zip(bound).is_some_and(|(value, bound)| value < bound),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
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
