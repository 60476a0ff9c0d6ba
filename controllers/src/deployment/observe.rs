//! One snapshot of a Deployment and the ReplicaSets that are, or could be, its own.

use std::sync::Arc;

use client::{Cache, Object, ObjectKey};
use manifests::k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use manifests::k8s_openapi::api::core::v1::Pod;

use crate::ownership::{BY_CONTROLLER, orphans_of};
use crate::pod_state;

/// Everything that the decision needs.
#[derive(Debug, Clone)]
pub(super) struct Observed {
    pub(super) deployment: Arc<Deployment>,
    /// ReplicaSets whose controller it is, and those of the namespace without a controller.
    pub(super) replica_sets: Vec<Arc<ReplicaSet>>,
    /// Uids of ReplicaSets with pods that have not ended.
    pub(super) with_pods: Vec<String>,
    /// Names of other objects' ReplicaSets in the namespace.
    pub(super) taken: Vec<String>,
}

pub(super) fn observe(
    key: &ObjectKey,
    deployments: &Cache<Deployment>,
    replica_sets: &Cache<ReplicaSet>,
    pods: &Cache<Pod>,
) -> Option<Observed> {
    let deployment = deployments.get(key)?;
    let mut candidates = replica_sets.indexed(BY_CONTROLLER, deployment.uid());
    candidates.extend(replica_sets.indexed(BY_CONTROLLER, &orphans_of(&key.namespace)));
    let has_pods = |set: &&Arc<ReplicaSet>| {
        pods.indexed(BY_CONTROLLER, set.uid()).iter().any(|pod| !pod_state::has_ended(pod))
    };
    let with_pods = candidates.iter().filter(has_pods).map(|set| set.uid().to_owned()).collect();
    // Only names that begin like ours could be in the way.
    let prefix = format!("{}-", key.name);
    let taken = replica_sets
        .in_namespace(&key.namespace)
        .iter()
        .filter(|set| set.name().starts_with(&prefix))
        .filter(|set| !candidates.iter().any(|candidate| candidate.uid() == set.uid()))
        .map(|set| set.name().to_owned())
        .collect();
    Some(Observed { deployment, replica_sets: candidates, with_pods, taken })
}
