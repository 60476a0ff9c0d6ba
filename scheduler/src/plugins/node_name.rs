//! NodeName: a pod that names its node runs nowhere else.

use super::{Plugin, Refusal, Request};
use crate::snapshot::{NodeFacts, NodeInfo};

pub(super) fn filter(request: &Request<'_>, node: &NodeFacts, _: &NodeInfo) -> Option<Refusal> {
    let wanted = request.spec.node_name.as_deref().unwrap_or_default();
    (!wanted.is_empty() && wanted != node.name())
        .then(|| Refusal::because(Plugin::NodeName, "node(s) didn't match the requested node name", false))
}

#[cfg(test)]
mod tests {
    use testkit::{node, pod};

    use super::super::testing::refusal;

    #[test]
    fn only_the_named_node() {
        assert!(refusal(super::filter, &pod("p").build(), node("n").build(), &[]).is_none());
        assert!(refusal(super::filter, &pod("p").on("n").build(), node("n").build(), &[]).is_none());
        let (reasons, resolvable) =
            refusal(super::filter, &pod("p").on("m").build(), node("n").build(), &[]).unwrap();
        assert_eq!(reasons, ["node(s) didn't match the requested node name"]);
        assert!(!resolvable);
    }
}
