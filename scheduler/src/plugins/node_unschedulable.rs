//! NodeUnschedulable: a cordoned node takes only pods that tolerate it.

use manifests::k8s_openapi::api::core::v1::Taint;
use manifests::placement::tolerated;

use super::{Plugin, Refusal, Request};
use crate::snapshot::{NodeFacts, NodeInfo};

/// What `spec.unschedulable` means as a taint.
const TAINT: &str = "node.kubernetes.io/unschedulable";

pub(super) fn filter(request: &Request<'_>, node: &NodeFacts, _: &NodeInfo) -> Option<Refusal> {
    if !node.unschedulable() {
        return None;
    }
    let taint =
        Taint { key: TAINT.to_owned(), effect: "NoSchedule".to_owned(), value: None, time_added: None };
    let tolerations = request.spec.tolerations.as_deref().unwrap_or_default();
    (!tolerated(&taint, tolerations))
        .then(|| Refusal::because(Plugin::NodeUnschedulable, "node(s) were unschedulable", false))
}

#[cfg(test)]
mod tests {
    use testkit::{node, pod};

    use super::super::testing::refusal;
    use super::*;

    #[test]
    fn cordoned() {
        let cordoned = || node("n").unschedulable().build();
        let (reasons, _) = refusal(filter, &pod("p").build(), cordoned(), &[]).unwrap();
        assert_eq!(reasons, ["node(s) were unschedulable"]);
        assert!(refusal(filter, &pod("p").build(), node("n").build(), &[]).is_none());
        let tolerant = pod("p").tolerate(TAINT, "Exists", "", "NoSchedule").build();
        assert!(refusal(filter, &tolerant, cordoned(), &[]).is_none());
    }
}
