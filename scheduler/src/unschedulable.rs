//! Why a pod fits nowhere: every filter's verdict on every node, and upstream's sentence about it.

use std::collections::BTreeMap;
use std::fmt;

use crate::plugins::{Plugin, Refusal};
use crate::preempt::Preemption;

/// A node that does not do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeVerdict {
    /// The node's name.
    pub node: String,
    /// Every filter that refuses, in upstream's order; never empty.
    pub refusals: Vec<Refusal>,
}

/// No node does. Prints as upstream's message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unschedulable {
    /// Every node; empty if there are none.
    pub nodes: Vec<NodeVerdict>,
    /// A reason that has nothing to do with any node.
    pub before: Option<String>,
    /// Whether others could make room.
    pub preemption: Preemption,
}

impl std::error::Error for Unschedulable {}

impl Unschedulable {
    /// The filters whose change of mind could help: upstream's "unschedulable plugins".
    pub fn plugins(&self) -> impl Iterator<Item = Plugin> {
        self.nodes.iter().filter_map(|verdict| verdict.refusals.first()).map(|refusal| refusal.plugin)
    }
}

impl fmt::Display for Unschedulable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nodes.is_empty() {
            return f.write_str("no nodes available to schedule pods");
        }
        let total = self.nodes.len();
        let reasons = self
            .nodes
            .iter()
            .filter_map(|verdict| verdict.refusals.first())
            .flat_map(|refusal| refusal.reasons.iter().map(AsRef::as_ref));
        match &self.before {
            Some(reason) => write!(f, "0/{total} nodes are available: {reason}.")?,
            None => write!(f, "0/{total} nodes are available: {}.", histogram(reasons))?,
        }
        match &self.preemption {
            Preemption::Never => f.write_str(" preemption: not eligible due to preemptionPolicy=Never."),
            Preemption::UnderWay => {
                f.write_str(" preemption: not eligible due to a terminating pod on the nominated node.")
            }
            Preemption::Unhelpful(outlook) => {
                let outlook = histogram(outlook.iter().map(AsRef::as_ref));
                write!(f, " preemption: 0/{total} nodes are available: {outlook}.")
            }
            Preemption::Possible(_) => Ok(()),
        }
    }
}

/// `2 this, 1 that`, sorted as text.
fn histogram<'a>(reasons: impl Iterator<Item = &'a str>) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for reason in reasons {
        *counts.entry(reason).or_insert(0) += 1;
    }
    let mut parts: Vec<String> =
        counts.into_iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    parts.sort();
    parts.join(", ")
}
