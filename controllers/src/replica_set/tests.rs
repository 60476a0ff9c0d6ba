use std::collections::BTreeMap;
use std::sync::Arc;

use client::{Next, Object};
use manifests::k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetStatus};
use manifests::k8s_openapi::api::core::v1::Pod;
use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use manifests::k8s_openapi::jiff::Timestamp;
use proptest::prelude::*;
use serde_json::json;
use testkit::{PodBuilder, pod};

use super::decide::{Action, decide};
use super::observe::Observed;
use super::status::{Failure, status};

fn replica_set(replicas: i32) -> ReplicaSet {
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "default", "uid": "rs", "generation": 2},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web", "tier": "front"}}, "spec": {"containers": []}},
        },
    }))
    .unwrap()
}

fn own(name: &str) -> PodBuilder {
    pod(name)
        .label("app", "web")
        .label("tier", "front")
        .controlled_by("apps/v1", "ReplicaSet", "web", "rs")
        .on("n1")
}

fn observed(replica_set: ReplicaSet, pods: Vec<PodBuilder>) -> Observed {
    let pods = pods.into_iter().map(|pod| Arc::new(pod.build())).collect();
    Observed { replica_set: Arc::new(replica_set), pods, related: BTreeMap::new() }
}

fn now() -> Timestamp {
    Timestamp::from_second(1_000_000).unwrap()
}

/// Carries a plan out on the model.
fn apply(observed: &mut Observed, actions: &[Action]) {
    let change = |pods: &mut Vec<Arc<Pod>>, uid: &str, change: &dyn Fn(&mut Pod)| {
        for pod in pods.iter_mut().filter(|pod| pod.uid() == uid) {
            change(Arc::make_mut(pod));
        }
    };
    for action in actions {
        match action {
            Action::Adopt(target) => change(&mut observed.pods, &target.uid, &|pod| {
                pod.metadata.owner_references = own("x").build().metadata.owner_references;
            }),
            Action::Release(target) => {
                change(&mut observed.pods, &target.uid, &|pod| pod.metadata.owner_references = None);
            }
            Action::Create(count) => {
                let first = observed.pods.len();
                observed
                    .pods
                    .extend((first..first + count).map(|n| Arc::new(own(&format!("new{n}")).build())));
            }
            Action::Delete(targets) => {
                for target in targets {
                    change(&mut observed.pods, &target.uid, &|pod| {
                        pod.metadata.deletion_timestamp = Some(Time(now()))
                    });
                }
            }
        }
    }
}

/// The plan, shortened.
#[track_caller]
fn check(mut observed: Observed, expected: &[&str]) {
    let plan = decide(&observed, now());
    let words: Vec<String> = plan
        .actions
        .iter()
        .map(|action| match action {
            Action::Adopt(pod) => format!("adopt {}", pod.uid),
            Action::Release(pod) => format!("release {}", pod.uid),
            Action::Create(count) => format!("create {count}"),
            Action::Delete(pods) => {
                let uids: Vec<&str> = pods.iter().map(|pod| pod.uid.as_str()).collect();
                format!("delete {}", uids.join(" "))
            }
        })
        .collect();
    assert_eq!(words, expected);
    apply(&mut observed, &plan.actions);
    assert_eq!(decide(&observed, now()).actions, [], "deciding again finds something to do");
}

#[test]
fn makes_and_removes_pods() {
    check(observed(replica_set(3), vec![]), &["create 3"]);
    check(observed(replica_set(2), vec![own("a").ready(), own("b").ready()]), &[]);
    check(observed(replica_set(1), vec![own("a").ready(), own("b")]), &["delete b"]);
    check(observed(replica_set(0), vec![own("b"), own("a")]), &["delete a b"]);
}

#[test]
fn pods_that_end_or_leave_are_replaced() {
    check(observed(replica_set(2), vec![own("a").phase("Failed"), own("b").terminating()]), &["create 2"]);
    check(observed(replica_set(1), vec![own("a").phase("Succeeded"), own("b").ready()]), &[]);
}

#[test]
fn adoption_and_release_come_first_and_are_counted() {
    check(
        observed(replica_set(2), vec![pod("stray").label("app", "web"), own("a").ready()]),
        &["adopt stray"],
    );
    check(
        observed(replica_set(1), vec![own("renamed").label("app", "other")]),
        &["release renamed", "create 1"],
    );
    check(
        observed(replica_set(1), vec![pod("stray").label("app", "web").phase("Failed"), own("a").ready()]),
        &[],
    );
}

#[test]
fn a_replica_set_that_goes_touches_nothing() {
    let mut going = replica_set(3);
    going.metadata.deletion_timestamp = Some(Time(now()));
    check(observed(going, vec![pod("stray").label("app", "web"), own("renamed").label("app", "other")]), &[]);
}

#[test]
fn readiness_has_to_last() {
    let since = |name: &str, ago: i64| {
        own(name).ready().with(|pod| {
            let ready = &mut pod.status.as_mut().unwrap().conditions.as_mut().unwrap()[0];
            ready.last_transition_time = Some(Time(Timestamp::from_second(1_000_000 - ago).unwrap()));
        })
    };
    let mut patient = replica_set(3);
    patient.spec.min_ready_seconds = Some(30);
    let observed = observed(patient.clone(), vec![since("a", 60), since("b", 20), since("c", 10)]);
    let plan = decide(&observed, now());
    assert!(matches!(plan.next, Next::After(wait) if wait.as_secs() == 10), "{:?}", plan.next);
    let status = status(&patient, &plan.own, None, now());
    assert_eq!((status.ready_replicas, status.available_replicas), (Some(3), Some(1)));
}

#[test]
fn status_counts() {
    let pods = vec![
        own("a").ready(),
        own("b"),
        own("c").ready().with(|pod| drop(pod.metadata.labels.as_mut().unwrap().remove("tier"))),
        own("d").terminating(),
        own("e").phase("Failed"),
    ];
    let observed = observed(replica_set(3), pods);
    let plan = decide(&observed, now());
    let status = status(&observed.replica_set, &plan.own, None, now());
    let expected = ReplicaSetStatus {
        replicas: 3,
        fully_labeled_replicas: Some(2),
        ready_replicas: Some(2),
        available_replicas: Some(2),
        terminating_replicas: Some(1),
        observed_generation: Some(2),
        conditions: None,
    };
    assert_eq!(status, expected);
}

#[test]
fn failures_show_until_a_pass_succeeds() {
    let failure = |message: &str| Failure { reason: "FailedCreate", message: message.to_owned() };
    let mut set = replica_set(1);
    set.status = Some(status(&set, &[], Some(&failure("quota")), now()));
    let shown = set.status.as_ref().unwrap().conditions.as_ref().unwrap()[0].clone();
    assert_eq!((shown.type_.as_deref(), shown.status.as_deref()), (Some("ReplicaFailure"), Some("True")));
    assert_eq!((shown.reason.as_deref(), shown.message.as_deref()), (Some("FailedCreate"), Some("quota")));
    assert_eq!(Some(&status(&set, &[], Some(&failure("other")), now())), set.status.as_ref());
    assert_eq!(status(&set, &[], None, now()).conditions, None);
}

proptest! {
    /// Whatever there is, one pass is enough, and another finds nothing to do.
    #[test]
    fn one_pass_is_enough(replicas in 0..8i32, states in proptest::collection::vec(0..8u8, 0..12)) {
        let pods = states
            .iter()
            .enumerate()
            .map(|(n, state)| {
                let name = format!("p{n}");
                match state {
                    0 => own(&name),
                    1 => own(&name).ready(),
                    2 => own(&name).terminating(),
                    3 => own(&name).phase("Failed"),
                    4 => pod(&name).label("app", "web"),
                    5 => pod(&name),
                    6 => own(&name).label("app", "other"),
                    _ => pod(&name).label("app", "web").controlled_by("apps/v1", "ReplicaSet", "x", "other"),
                }
            })
            .collect();
        let mut observed = observed(replica_set(replicas), pods);
        let plan = decide(&observed, now());
        apply(&mut observed, &plan.actions);
        let again = decide(&observed, now());
        prop_assert!(again.actions.is_empty(), "{:?}", again.actions);
        prop_assert_eq!(status(&observed.replica_set, &again.own, None, now()).replicas, replicas);
    }
}
