use std::sync::Arc;

use client::Object as _;
use manifests::k8s_openapi::api::batch::v1::Job;
use manifests::k8s_openapi::api::core::v1::Pod;
use manifests::k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::decide::{INDEX, Observed, Plan, TRACKING, decide};
use super::policy::FAILURES;

fn now() -> Timestamp {
    "2026-01-01T01:00:00Z".parse().unwrap()
}

fn job(spec: Value) -> Job {
    let mut all = json!({
        "parallelism": 1, "completions": 1, "selector": {"matchLabels": {"app": "j"}},
        "template": {"spec": {"restartPolicy": "Never", "containers": []}},
    });
    for (key, value) in spec.as_object().unwrap() {
        all[key] = value.clone();
    }
    serde_json::from_value(json!({
        "metadata": {"name": "j", "namespace": "default", "uid": "job", "generation": 1}, "spec": all,
    }))
    .unwrap()
}

/// A pod of the job, that is tracked.
fn pod(name: &str, phase: &str) -> Pod {
    let ended = ["Succeeded", "Failed"].contains(&phase);
    let state = if ended {
        json!({"terminated": {"exitCode": 0, "finishedAt": now().to_string()}})
    } else {
        json!({})
    };
    serde_json::from_value(json!({
        "metadata": {
            "name": name, "namespace": "default", "uid": name, "labels": {"app": "j"}, "finalizers": [TRACKING],
            "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": "job", "controller": true}],
        },
        "status": {"phase": phase, "containerStatuses": [
            {"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state},
        ]},
    }))
    .unwrap()
}

fn with_index(name: &str, phase: &str, index: i32) -> Pod {
    let mut pod = pod(name, phase);
    pod.metadata.annotations.get_or_insert_default().insert(INDEX.to_owned(), index.to_string());
    pod
}

/// A job in a world that does as it is told.
struct World {
    job: Job,
    pods: Vec<Pod>,
    now: Timestamp,
    made: usize,
}

impl World {
    fn new(spec: Value) -> Self {
        Self { job: job(spec), pods: Vec::new(), now: now(), made: 0 }
    }

    fn plan(&self) -> Plan {
        let pods = self.pods.iter().cloned().map(Arc::new).collect();
        decide(&Observed { job: Arc::new(self.job.clone()), pods }, self.now)
    }

    /// Carries plans out until there is nothing to do.
    fn settle(&mut self) -> &mut Self {
        for _ in 0..20 {
            let plan = self.plan();
            let still = self.job.status.as_ref() == Some(&plan.status)
                && plan.untrack.is_empty()
                && plan.create.is_empty()
                && plan.drop.is_empty()
                && plan.delete.is_empty();
            if still {
                return self;
            }
            self.job.status = Some(plan.status);
            for gone in plan.drop.iter().chain(&plan.untrack) {
                for pod in self.pods.iter_mut().filter(|pod| pod.uid() == gone.uid) {
                    pod.metadata.finalizers = None;
                }
            }
            for gone in plan.drop.iter().chain(&plan.delete) {
                for pod in self.pods.iter_mut().filter(|pod| pod.uid() == gone.uid) {
                    pod.metadata.deletion_timestamp = Some(manifests::time::time(self.now));
                    if self.job.spec.as_ref().unwrap().pod_failure_policy.is_some() {
                        // Rules look at pods that have ended: the node sees to it.
                        pod.status.as_mut().unwrap().phase = Some("Failed".into());
                    }
                }
            }
            self.pods
                .retain(|pod| pod.metadata.deletion_timestamp.is_none() || pod.metadata.finalizers.is_some());
            for index in plan.create {
                let name = format!("p{}", self.made);
                self.made += 1;
                let mut made =
                    index.map_or_else(|| pod(&name, "Running"), |index| with_index(&name, "Running", index));
                if let Some(count) = index.and_then(|index| plan.failures.get(&index)) {
                    made.metadata
                        .annotations
                        .get_or_insert_default()
                        .insert(FAILURES.into(), count.to_string());
                }
                self.pods.push(made);
            }
        }
        panic!("it never settles: {:?}", self.plan());
    }

    fn ends(&mut self, name: &str, phase: &str) -> &mut Self {
        let at = self.pods.iter().position(|pod| pod.name() == name).unwrap();
        let old = self.pods[at].clone();
        self.pods[at] = pod(name, phase);
        self.pods[at].metadata = old.metadata;
        self.settle()
    }

    /// Its container ends with a code that is none of success.
    fn fails(&mut self, name: &str, code: i32) -> &mut Self {
        let at = self.pods.iter().position(|pod| pod.name() == name).unwrap();
        let old = self.pods[at].metadata.clone();
        let mut failed = pod(name, "Failed");
        failed.metadata = old;
        let status = failed.status.as_mut().unwrap();
        let container = &mut status.container_statuses.as_mut().unwrap()[0];
        container.state.as_mut().unwrap().terminated.as_mut().unwrap().exit_code = code;
        self.pods[at] = failed;
        self.settle()
    }

    fn later(&mut self, seconds: i64) -> &mut Self {
        self.now += SignedDuration::from_secs(seconds);
        self.settle()
    }

    /// Pods that run, succeeded and failed; the conditions that hold.
    #[track_caller]
    fn is(&self, running: usize, succeeded: i32, failed: i32, conditions: &str) -> &Self {
        let status = self.job.status.clone().unwrap();
        let active = self.pods.iter().filter(|pod| crate::pod_state::is_active(pod)).count();
        let held: Vec<String> = status
            .conditions
            .iter()
            .flatten()
            .filter(|condition| condition.status == "True")
            .map(|condition| format!("{}={}", condition.type_, condition.reason.clone().unwrap_or_default()))
            .collect();
        assert_eq!(
            (active, status.succeeded.unwrap_or(0), status.failed.unwrap_or(0), held.join(" ").as_str()),
            (running, succeeded, failed, conditions)
        );
        self
    }
}

const DONE: &str = "SuccessCriteriaMet=CompletionsReached Complete=CompletionsReached";

#[test]
fn so_many_succeed() {
    let mut world = World::new(json!({"completions": 3, "parallelism": 2}));
    world.settle().is(2, 0, 0, "");
    world.ends("p0", "Succeeded").is(2, 1, 0, "");
    world.ends("p1", "Succeeded").is(1, 2, 0, "");
    world.ends("p2", "Succeeded").is(0, 3, 0, DONE);
    let status = world.job.status.clone().unwrap();
    assert!(status.completion_time.is_some() && status.start_time.is_some());
    // What was counted stays counted when the pods go.
    world.pods.clear();
    world.settle().is(0, 3, 0, DONE);
}

#[test]
fn failures_are_replaced_after_a_pause_until_there_are_too_many() {
    let mut world = World::new(json!({"backoffLimit": 1}));
    world.settle().ends("p0", "Failed").is(0, 0, 1, "");
    world.later(5).is(0, 0, 1, "");
    world.later(6).is(1, 0, 1, "");
    world.ends("p1", "Failed").is(0, 0, 2, "FailureTarget=BackoffLimitExceeded Failed=BackoffLimitExceeded");
    assert!(world.job.status.as_ref().unwrap().completion_time.is_none());
}

#[test]
fn a_pod_that_is_deleted_has_failed() {
    let mut world = World::new(json!({}));
    world.settle();
    world.pods[0].metadata.deletion_timestamp = Some(manifests::time::time(world.now));
    // Nothing tells any more when that was, so another takes its place at once.
    world.settle().is(1, 0, 1, "");
}

#[test]
fn too_late_is_too_late() {
    let mut world = World::new(json!({"activeDeadlineSeconds": 60}));
    world.settle().is(1, 0, 0, "");
    world.later(59).is(1, 0, 0, "");
    world.later(2).is(0, 0, 1, "FailureTarget=DeadlineExceeded Failed=DeadlineExceeded");
}

#[test]
fn suspended_jobs_have_no_pods() {
    let mut world = World::new(json!({"suspend": true}));
    world.settle().is(0, 0, 0, "Suspended=JobSuspended");
    assert!(world.job.status.as_ref().unwrap().start_time.is_none());
    world.job.spec.as_mut().unwrap().suspend = Some(false);
    world.settle().is(1, 0, 0, "");
    // What is stopped has not failed.
    world.job.spec.as_mut().unwrap().suspend = Some(true);
    world.settle().is(0, 0, 0, "Suspended=JobSuspended");
}

#[test]
fn each_index_succeeds_once() {
    let mut world = World::new(json!({"completions": 3, "parallelism": 3, "completionMode": "Indexed"}));
    world.settle().is(3, 0, 0, "");
    world.ends("p2", "Succeeded").ends("p0", "Failed").is(1, 1, 1, "");
    world.later(11).is(2, 1, 1, "");
    let again = world.pods.iter().find(|pod| pod.name() == "p3").unwrap();
    assert_eq!(super::decide::index_of(again), Some(0));
    world.ends("p3", "Succeeded").ends("p1", "Succeeded").is(0, 3, 1, DONE);
    assert_eq!(world.job.status.as_ref().unwrap().completed_indexes.as_deref(), Some("0-2"));
}

#[test]
fn without_a_number_the_first_success_counts() {
    let mut world = World::new(json!({"completions": null, "parallelism": 2}));
    world.settle().is(2, 0, 0, "");
    world.ends("p0", "Succeeded").is(1, 1, 0, "");
    world.ends("p1", "Succeeded").is(0, 2, 0, DONE);
}

#[test]
fn fewer_are_wanted() {
    let mut world = World::new(json!({"completions": 5, "parallelism": 3}));
    world.settle().is(3, 0, 0, "");
    world.job.spec.as_mut().unwrap().parallelism = Some(1);
    world.settle().is(1, 0, 0, "");
}

#[test]
fn finished_jobs_go_after_their_time() {
    let mut world = World::new(json!({"ttlSecondsAfterFinished": 30}));
    world.settle().ends("p0", "Succeeded").is(0, 1, 0, DONE);
    let plan = world.plan();
    assert!(!plan.expire);
    assert_eq!(plan.at, Some(now() + SignedDuration::from_secs(30)));
    world.now += SignedDuration::from_secs(30);
    assert!(world.plan().expire);
}

#[test]
fn rules_about_failures() {
    let rules = json!([
        {"action": "FailJob", "onExitCodes": {"containerName": "c", "operator": "In", "values": [42]}},
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "Ignore", "onExitCodes": {"operator": "In", "values": [7]}},
        {"action": "Count", "onExitCodes": {"operator": "NotIn", "values": [1]}},
    ]);
    let mut world = World::new(json!({"backoffLimit": 1, "podFailurePolicy": {"rules": rules}}));
    // What is ignored is made again and not counted.
    world.settle().fails("p0", 7).later(11).is(1, 0, 0, "");
    world.fails("p1", 3).later(21).is(1, 0, 1, "");
    world.fails("p2", 42).is(0, 0, 2, "FailureTarget=PodFailurePolicy Failed=PodFailurePolicy");
    let status = world.job.status.as_ref().unwrap();
    let message = status.conditions.as_ref().unwrap()[0].message.as_deref();
    assert_eq!(
        message,
        Some("Container c for pod default/p2 failed with exit code 42 matching FailJob rule at index 0")
    );
}

#[test]
fn each_index_may_fail_so_often() {
    let spec = json!({
        "completions": 2, "parallelism": 2, "completionMode": "Indexed", "backoffLimit": i32::MAX, "backoffLimitPerIndex": 1,
        "podFailurePolicy": {"rules": [{"action": "FailIndex", "onExitCodes": {"operator": "In", "values": [9]}}]},
    });
    let mut world = World::new(spec.clone());
    world.settle().fails("p0", 1).later(11).is(2, 0, 1, "");
    world.fails("p2", 1).later(100).is(1, 0, 2, "");
    let failed = |world: &World| world.job.status.as_ref().unwrap().failed_indexes.clone();
    assert_eq!(failed(&world).as_deref(), Some("0"));
    world.ends("p1", "Succeeded").is(0, 1, 2, "FailureTarget=FailedIndexes Failed=FailedIndexes");

    let mut world = World::new(spec.clone());
    world.settle().fails("p1", 9).later(100).is(1, 0, 1, "");
    assert_eq!(failed(&world).as_deref(), Some("1"));
    let mut world = World::new(spec);
    world.job.spec.as_mut().unwrap().max_failed_indexes = Some(0);
    world.settle().fails("p1", 9).is(
        0,
        0,
        2,
        "FailureTarget=MaxFailedIndexesExceeded Failed=MaxFailedIndexesExceeded",
    );
}

#[test]
fn rules_about_success() {
    let rules = json!([{"succeededIndexes": "0,2-3", "succeededCount": 2}, {"succeededIndexes": "1"}]);
    let spec = json!({"completions": 4, "parallelism": 4, "completionMode": "Indexed", "successPolicy": {"rules": rules}});
    let met = "SuccessCriteriaMet=SuccessPolicy Complete=SuccessPolicy";
    let mut world = World::new(spec.clone());
    world.settle().ends("p3", "Succeeded").is(3, 1, 0, "");
    world.ends("p0", "Succeeded").is(0, 2, 2, met);
    let mut world = World::new(spec);
    world.settle().ends("p1", "Succeeded").is(0, 1, 3, met);
}
