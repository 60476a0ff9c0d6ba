//! Which pods a ReplicaSet gives up first.
//!
//! Upstream's order: pods without a node, then by phase, unready before ready, lower deletion cost, nodes
//! with more pods of the same Deployment, ready for a shorter time, more restarts, younger. Times are compared by
//! order of magnitude, and equals by uid, so that scaling down does not always hit the newest.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use client::Object;
use manifests::k8s_openapi::api::core::v1::Pod;
use manifests::k8s_openapi::jiff::Timestamp;

use crate::pod_state;

const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// Sorts first what is to be deleted first. Never equal for two pods, because of the uid.
pub(super) type Rank<'a> = (bool, u8, bool, i32, Reverse<usize>, i64, Reverse<i32>, i64, &'a str);

/// `related` counts the active pods of the same Deployment by node.
pub(super) fn rank<'a>(pod: &'a Pod, related: &BTreeMap<String, usize>, now: Timestamp) -> Rank<'a> {
    let node = pod_state::node(pod);
    let phase = match pod_state::phase(pod) {
        "" | "Pending" => 0,
        "Unknown" => 1,
        _ => 2,
    };
    let ready_since = pod_state::ready_since(pod);
    let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
    (
        node.is_some(),
        phase,
        pod_state::is_ready(pod),
        deletion_cost(pod),
        Reverse(node.and_then(|node| related.get(node)).copied().unwrap_or(0)),
        magnitude(ready_since, now),
        Reverse(restarts(pod)),
        magnitude(created, now),
        pod.uid(),
    )
}

fn deletion_cost(pod: &Pod) -> i32 {
    let annotations = pod.metadata.annotations.as_ref();
    annotations.and_then(|annotations| annotations.get(DELETION_COST)?.parse().ok()).unwrap_or(0)
}

fn restarts(pod: &Pod) -> i32 {
    let status = pod.status.as_ref();
    let containers = status.and_then(|status| status.container_statuses.as_deref()).unwrap_or_default();
    containers.iter().map(|container| container.restart_count).max().unwrap_or(0)
}

/// The age's order of magnitude; no time at all is youngest.
fn magnitude(since: Option<Timestamp>, now: Timestamp) -> i64 {
    let Some(since) = since else { return -2 };
    let age = now.duration_since(since).as_nanos();
    if age < 1 { -1 } else { i64::from(age.ilog2()) }
}

#[cfg(test)]
mod tests {
    use manifests::k8s_openapi::api::core::v1::ContainerStatus;
    use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use testkit::{PodBuilder, pod};

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn running(name: &str) -> PodBuilder {
        pod(name).on("n1").ready()
    }

    fn since(pod: PodBuilder, second: i64) -> PodBuilder {
        pod.with(|pod| {
            let conditions = pod.status.as_mut().unwrap().conditions.as_mut().unwrap();
            conditions[0].last_transition_time = Some(Time(at(second)));
        })
    }

    fn created(pod: PodBuilder, second: i64) -> PodBuilder {
        pod.with(|pod| pod.metadata.creation_timestamp = Some(Time(at(second))))
    }

    fn restarted(pod: PodBuilder, times: i32) -> PodBuilder {
        pod.with(|pod| {
            let status = ContainerStatus { restart_count: times, ..ContainerStatus::default() };
            pod.status.as_mut().unwrap().container_statuses = Some(vec![status]);
        })
    }

    #[test]
    fn first_to_go_first() {
        let related = [("n1".to_owned(), 1), ("n2".to_owned(), 5)].into();
        let now = at(100_000);
        // Each pod goes before all that follow.
        let order = [
            pod("unassigned").ready(),
            pod("pending").on("n1").phase("Pending"),
            pod("unknown").on("n1").phase("Unknown"),
            pod("unready").on("n1").phase("Running"),
            running("cheap").with(|pod| {
                pod.metadata.annotations = Some([(DELETION_COST.to_owned(), "-5".to_owned())].into());
            }),
            running("crowded").on("n2"),
            since(running("fresh"), 99_999),
            restarted(since(running("restarted"), 10), 3),
            created(since(running("young"), 10), 99_000),
            created(since(running("b-old"), 10), 20),
            created(since(running("c-old"), 10), 10),
            running("costly").with(|pod| {
                pod.metadata.annotations = Some([(DELETION_COST.to_owned(), "5".to_owned())].into());
            }),
        ];
        let pods: Vec<Pod> = order.into_iter().map(PodBuilder::build).collect();
        let mut sorted: Vec<&Pod> = pods.iter().rev().collect();
        sorted.sort_by_key(|pod| rank(pod, &related, now));
        let names = |pods: Vec<&Pod>| pods.into_iter().map(|pod| pod.name().to_owned()).collect::<Vec<_>>();
        assert_eq!(names(sorted), names(pods.iter().collect()));
    }
}
