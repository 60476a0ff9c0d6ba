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
    /// It has not ended, and has to before it goes: who counts failures looks at what is left of it.
    pub(super) unfinished: bool,
    /// What its condition `DisruptionTarget` is to say.
    pub(super) message: Option<&'static str>,
}

fn doom(pod: &Pod, reason: &'static str, message: Option<&'static str>) -> Doomed {
    Doomed { key: pod.key(), uid: pod.uid().to_owned(), reason, unfinished: !has_ended(pod), message }
}

/// A cheap first look at one pod.
pub(super) fn may_be_garbage(pod: &Pod) -> bool {
    node(pod).is_none() && pod.metadata.deletion_timestamp.is_some()
}

/// The pods of a node that does not exist.
pub(super) fn orphans(pods: &[Arc<Pod>], missing: &str) -> Vec<Doomed> {
    let on = pods.iter().filter(|pod| node(pod) == Some(missing));
    on.map(|pod| doom(pod, "its node no longer exists", Some("PodGC: node no longer exists"))).collect()
}

/// The others.
pub(super) fn decide(pods: &[Arc<Pod>]) -> Vec<Doomed> {
    let early = pods.iter().filter(|pod| may_be_garbage(pod));
    let mut doomed: Vec<Doomed> = early.map(|pod| doom(pod, "deleted before it had a node", None)).collect();
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
        let uids = |doomed: Vec<Doomed>| doomed.into_iter().map(|doomed| doomed.uid).collect::<Vec<_>>();
        assert_eq!(uids(decide(&pods)), ["early"]);
        assert_eq!(uids(orphans(&pods, "gone")), ["lost"]);
        assert_eq!(uids(orphans(&pods, "")), [""; 0]);
        let lost = &orphans(&pods, "gone")[0];
        assert_eq!((lost.unfinished, lost.message), (true, Some("PodGC: node no longer exists")));
    }
}
