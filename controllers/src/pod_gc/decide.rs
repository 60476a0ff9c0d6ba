//! Which pods are garbage.

use std::sync::Arc;

use client::{Object as _, ObjectKey};
use manifests::k8s_openapi::api::core::v1::Pod;

use crate::pod_state::{has_ended, node};

/// More ended pods than this are not kept (upstream's default).
const ENDED_KEPT: usize = 12_500;

/// A pod to be removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Doomed {
    pub(super) key: ObjectKey,
    pub(super) uid: String,
    pub(super) reason: &'static str,
    /// The node whose absence is the reason.
    pub(super) node: Option<String>,
}

/// A cheap first look at one pod.
pub(super) fn may_be_garbage(pod: &Pod) -> bool {
    node(pod).is_none() && pod.metadata.deletion_timestamp.is_some()
}

pub(super) fn decide(pods: &[Arc<Pod>], node_exists: impl Fn(&str) -> bool) -> Vec<Doomed> {
    let doom = |pod: &Pod, reason, node: Option<&str>| Doomed {
        key: pod.key(),
        uid: pod.uid().to_owned(),
        reason,
        node: node.map(str::to_owned),
    };
    let mut doomed = Vec::new();
    for pod in pods {
        match node(pod) {
            None if pod.metadata.deletion_timestamp.is_some() => {
                doomed.push(doom(pod, "deleted before it had a node", None))
            }
            Some(name) if !node_exists(name) => {
                doomed.push(doom(pod, "its node no longer exists", Some(name)))
            }
            _ => {}
        }
    }
    let mut ended: Vec<&Arc<Pod>> = pods.iter().filter(|pod| has_ended(pod)).collect();
    if ended.len() > ENDED_KEPT {
        ended.sort_by(|a, b| a.metadata.creation_timestamp.cmp(&b.metadata.creation_timestamp));
        let surplus = ended.len() - ENDED_KEPT;
        doomed.extend(ended.into_iter().take(surplus).map(|pod| doom(pod, "too many ended pods", None)));
    }
    doomed
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pods_of_missing_nodes_and_pods_deleted_before_binding_go() {
        let pod = |name: &str, node: &str, deleted: bool| {
            let mut pod = json!({"metadata": {"name": name, "namespace": "default", "uid": name}, "spec": {"containers": []}});
            if !node.is_empty() {
                pod["spec"]["nodeName"] = json!(node);
            }
            if deleted {
                pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            }
            Arc::new(serde_json::from_value::<Pod>(pod).unwrap())
        };
        let pods = [
            pod("stays", "here", false),
            pod("leaving", "here", true),
            pod("lost", "gone", false),
            pod("early", "", true),
            pod("new", "", false),
        ];
        let doomed: Vec<String> =
            decide(&pods, |name| name == "here").into_iter().map(|doomed| doomed.uid).collect();
        assert_eq!(doomed, ["lost", "early"]);
    }
}
