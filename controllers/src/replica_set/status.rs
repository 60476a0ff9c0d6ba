//! A ReplicaSet's status, from what was observed.

use std::sync::Arc;

use manifests::k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use manifests::k8s_openapi::api::core::v1::Pod;
use manifests::k8s_openapi::jiff::Timestamp;
use manifests::selector::Selector;
use manifests::time;

use crate::pod_state;

const REPLICA_FAILURE: &str = "ReplicaFailure";

/// Why pods could not be made or removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// `FailedCreate` or `FailedDelete`.
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

/// The status as it should be. Equal to the present one if there is nothing to write.
pub(crate) fn status(
    replica_set: &ReplicaSet,
    own: &[Arc<Pod>],
    failure: Option<&Failure>,
    now: Timestamp,
) -> ReplicaSetStatus {
    let before = replica_set.status.clone().unwrap_or_default();
    let spec = &replica_set.spec;
    let template = spec.template.as_ref();
    let none = std::collections::BTreeMap::new();
    let labels = template.and_then(|template| template.metadata.as_ref()?.labels.as_ref()).unwrap_or(&none);
    let labelled = Selector::from_labels(labels);
    let min_ready = spec.min_ready_seconds.unwrap_or(0);

    let active = || own.iter().filter(|pod| pod_state::is_active(pod));
    let count = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
    let terminating =
        own.iter().filter(|pod| pod_state::is_deleting(pod) && !pod_state::has_ended(pod)).count();
    ReplicaSetStatus {
        replicas: count(active().count()),
        fully_labeled_replicas: given(count(
            active().filter(|pod| labelled.matches_meta(pod.metadata.labels.as_ref())).count(),
        )),
        ready_replicas: given(count(active().filter(|pod| pod_state::is_ready(pod)).count())),
        available_replicas: given(count(
            active()
                .filter(|pod| pod_state::available_at(pod, min_ready).is_some_and(|at| at <= now))
                .count(),
        )),
        terminating_replicas: Some(count(terminating)),
        observed_generation: replica_set.metadata.generation.max(before.observed_generation),
        conditions: conditions(before.conditions, failure, now),
    }
}

/// Upstream leaves counts of zero out; kubectl prints them as 0 all the same.
fn given(count: i32) -> Option<i32> {
    (count != 0).then_some(count)
}

fn conditions(
    before: Option<Vec<ReplicaSetCondition>>,
    failure: Option<&Failure>,
    now: Timestamp,
) -> Option<Vec<ReplicaSetCondition>> {
    let mut conditions = before.unwrap_or_default();
    let present = conditions.iter().any(|condition| condition.type_.as_deref() == Some(REPLICA_FAILURE));
    match failure {
        // The first failure stands until a pass succeeds; otherwise each attempt would be a write.
        Some(_) if present => {}
        Some(failure) => conditions.push(ReplicaSetCondition {
            type_: Some(REPLICA_FAILURE.to_owned()),
            status: Some("True".to_owned()),
            reason: Some(failure.reason.to_owned()),
            message: Some(failure.message.clone()),
            last_transition_time: Some(time::time(now)),
        }),
        None => conditions.retain(|condition| condition.type_.as_deref() != Some(REPLICA_FAILURE)),
    }
    (!conditions.is_empty()).then_some(conditions)
}
