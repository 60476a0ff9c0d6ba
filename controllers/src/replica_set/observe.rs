//! One snapshot of a ReplicaSet and the pods that are, or could be, its own.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::{Cache, Object, ObjectKey};
use manifests::k8s_openapi::api::apps::v1::ReplicaSet;
use manifests::k8s_openapi::api::core::v1::Pod;

use crate::ownership::{BY_CONTROLLER, controller_of, orphans_of};
use crate::pod_state;

/// Everything that the decision needs.
#[derive(Debug, Clone)]
pub(crate) struct Observed {
    pub(crate) replica_set: Arc<ReplicaSet>,
    /// Pods whose controller it is, and pods of the namespace without a controller.
    pub(crate) pods: Vec<Arc<Pod>>,
    /// Active pods of all ReplicaSets with the same controller, by node.
    pub(crate) related: BTreeMap<String, usize>,
}

pub(crate) fn observe(
    key: &ObjectKey,
    replica_sets: &Cache<ReplicaSet>,
    pods: &Cache<Pod>,
) -> Option<Observed> {
    let replica_set = replica_sets.get(key)?;
    let family = match controller_of(&replica_set.metadata) {
        Some(owner) => replica_sets.indexed(BY_CONTROLLER, &owner.uid),
        None => vec![replica_set.clone()],
    };
    let mut related = BTreeMap::new();
    for pod in family.iter().flat_map(|member| pods.indexed(BY_CONTROLLER, member.uid())) {
        if let Some(node) = pod_state::node(&pod).filter(|_| pod_state::is_active(&pod)) {
            *related.entry(node.to_owned()).or_insert(0) += 1;
        }
    }
    let mut candidates = pods.indexed(BY_CONTROLLER, replica_set.uid());
    candidates.extend(pods.indexed(BY_CONTROLLER, &orphans_of(&key.namespace)));
    Some(Observed { replica_set, pods: candidates, related })
}
