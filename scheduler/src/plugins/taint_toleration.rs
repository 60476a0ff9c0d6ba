//! TaintToleration: a node's taints keep pods away that do not tolerate them.

use manifests::k8s_openapi::api::core::v1::Toleration;
use manifests::placement::tolerated;

use super::{Plugin, Refusal, Request};
use crate::snapshot::{NodeFacts, NodeInfo, Snapshot};

pub(super) fn filter(request: &Request<'_>, node: &NodeFacts, _: &NodeInfo) -> Option<Refusal> {
    let tolerations = request.spec.tolerations.as_deref().unwrap_or_default();
    let taint = node
        .taints()
        .iter()
        .filter(|taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute"))
        .find(|taint| !tolerated(taint, tolerations))?;
    let value = taint.value.as_deref().unwrap_or_default();
    let reason = format!("node(s) had untolerated taint {{{}: {value}}}", taint.key);
    Some(Refusal::because(Plugin::TaintToleration, reason, false))
}

/// Taints that would rather not have the pod; fewer is better.
pub(super) fn score(request: &Request<'_>, node: &NodeFacts, _: &NodeInfo, _: &Snapshot) -> i64 {
    let preferences = node.taints().iter().filter(|taint| taint.effect == "PreferNoSchedule");
    let tolerations: Vec<Toleration> = request
        .spec
        .tolerations
        .iter()
        .flatten()
        .filter(|toleration| matches!(toleration.effect.as_deref(), None | Some("" | "PreferNoSchedule")))
        .cloned()
        .collect();
    let count = preferences.filter(|taint| !tolerated(taint, &tolerations)).count();
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use manifests::k8s_openapi::api::core::v1::Taint;
    use testkit::{node, pod};

    use super::super::testing::{refusal, snapshot};
    use super::*;

    #[test]
    fn tolerations_cover_taints() {
        let taint = |key: &str, value: &str, effect: &str| Taint {
            key: key.into(),
            value: Some(value.into()),
            effect: effect.into(),
            time_added: None,
        };
        let check = |key: &str, operator: &str, value: &str, effect: &str, expected: bool| {
            let pod = pod("p").tolerate(key, operator, value, effect).build();
            let tolerations = pod.spec.unwrap().tolerations.unwrap();
            assert_eq!(
                tolerated(&taint("k", "v", "NoSchedule"), &tolerations),
                expected,
                "{key} {operator} {value} {effect}"
            );
        };
        check("k", "Equal", "v", "NoSchedule", true);
        check("k", "", "v", "", true);
        check("k", "Equal", "w", "NoSchedule", false);
        check("k", "Exists", "", "NoSchedule", true);
        check("k", "Exists", "", "NoExecute", false);
        check("", "Exists", "", "", true);
        check("j", "Exists", "", "", false);
        check("k", "Unknown", "v", "", false);
    }

    #[test]
    fn names_the_first_taint_that_is_not_tolerated() {
        let tainted = node("n")
            .taint("soft", "", "PreferNoSchedule")
            .taint("a", "1", "NoSchedule")
            .taint("b", "", "NoExecute")
            .build();
        let check = |pod: testkit::PodBuilder, expected: Option<&str>| {
            let reasons = refusal(filter, &pod.build(), tainted.clone(), &[]).map(|(reasons, _)| reasons);
            assert_eq!(reasons, expected.map(|reason| vec![reason.to_owned()]));
        };
        check(pod("p"), Some("node(s) had untolerated taint {a: 1}"));
        check(pod("p").tolerate("a", "Exists", "", ""), Some("node(s) had untolerated taint {b: }"));
        check(pod("p").tolerate("", "Exists", "", ""), None);
    }

    #[test]
    fn counts_preferences() {
        let tainted = node("n").taint("a", "", "PreferNoSchedule").taint("b", "", "PreferNoSchedule").build();
        let snapshot = snapshot(tainted, &[]);
        let (facts, info) = snapshot.nodes().next().unwrap();
        let check = |pod: testkit::PodBuilder, expected: i64| {
            assert_eq!(score(&Request::of(&pod.build()), facts, info, &snapshot), expected);
        };
        check(pod("p"), 2);
        check(pod("p").tolerate("a", "Exists", "", "PreferNoSchedule"), 1);
        check(pod("p").tolerate("a", "Exists", "", "NoSchedule"), 2);
    }
}
