use std::sync::Arc;

use client::Object as _;
use manifests::k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use manifests::k8s_openapi::api::core::v1::Pod;
use manifests::k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::decide::{Observed, Plan, decide};
use super::identity::{claims_of, ordinal_of, pod_of};
use crate::history::Step;

fn now() -> Timestamp {
    "2026-01-01T01:00:00Z".parse().unwrap()
}

/// A StatefulSet in a world that does as it is told.
struct World {
    set: StatefulSet,
    pods: Vec<Pod>,
    revisions: Vec<ControllerRevision>,
    /// What was done, in order.
    log: Vec<String>,
}

impl World {
    fn new(spec: Value) -> Self {
        let mut all = json!({
            "replicas": 3, "serviceName": "s", "selector": {"matchLabels": {"app": "w"}}, "podManagementPolicy": "OrderedReady",
            "template": {"metadata": {"labels": {"app": "w"}}, "spec": {"containers": []}},
        });
        for (key, value) in spec.as_object().unwrap() {
            all[key] = value.clone();
        }
        let metadata = json!({"name": "w", "namespace": "default", "uid": "set", "generation": 1});
        let set = serde_json::from_value(json!({"metadata": metadata, "spec": all})).unwrap();
        Self { set, pods: Vec::new(), revisions: Vec::new(), log: Vec::new() }
    }

    fn plan(&self) -> Plan {
        let pods: Vec<_> = self.pods.iter().cloned().map(Arc::new).collect();
        let revisions: Vec<_> = self.revisions.iter().cloned().map(Arc::new).collect();
        decide(&Observed { set: &self.set, pods: &pods, revisions: &revisions }, now())
    }

    /// Carries one plan out; pods that are made are ready at once, if they are to be.
    fn step(&mut self, ready: bool) -> Plan {
        let plan = self.plan();
        for step in &plan.history.steps {
            match step {
                Step::Create(revision) => self.revisions.push((**revision).clone()),
                Step::Renumber { revision, to } => {
                    let found = self.revisions.iter_mut().find(|known| known.name() == revision.key.name);
                    found.unwrap().revision = Some(*to);
                }
                Step::Delete(revision) => self.revisions.retain(|known| known.name() != revision.key.name),
            }
        }
        for gone in &plan.delete {
            self.pods.retain(|pod| pod.uid() != gone.pod.uid);
            self.log.push(format!("-{}", gone.pod.key.name));
        }
        for make in &plan.create {
            let mut pod = pod_of(&self.set, &make.template, &make.revision, make.ordinal);
            self.log.push(format!("+{}", pod.name()));
            pod.metadata.uid = Some(format!("{}-{}", pod.name(), self.log.len()));
            self.pods.push(pod);
            let last = self.pods.len() - 1;
            self.ready(last, ready);
        }
        self.set.status = Some(plan.status.clone());
        plan
    }

    fn ready(&mut self, index: usize, ready: bool) {
        let status = json!({"phase": "Running", "conditions": [
            {"type": "Ready", "status": if ready { "True" } else { "False" }, "lastTransitionTime": "2026-01-01T00:10:00Z"},
        ]});
        self.pods[index].status = Some(serde_json::from_value(status).unwrap());
    }

    fn settle(&mut self) -> &mut Self {
        for _ in 0..40 {
            let before = self.set.status.clone();
            let plan = self.step(true);
            let quiet = plan.create.is_empty() && plan.delete.is_empty() && plan.history.steps.is_empty();
            if quiet && before == self.set.status {
                return self;
            }
        }
        panic!("never settles: {:?}", self.log);
    }

    fn log(&mut self) -> Vec<String> {
        std::mem::take(&mut self.log)
    }

    fn new_template(&mut self, name: &str) {
        self.set.spec.template.spec.as_mut().unwrap().node_name = Some(name.to_owned());
    }

    /// Replicas, ready, current, updated; and whether the two revisions are one.
    fn counts(&self) -> ([i32; 4], bool) {
        let status = self.set.status.as_ref().unwrap();
        let or = |number: Option<i32>| number.unwrap_or(0);
        let counts = [
            status.replicas,
            or(status.ready_replicas),
            or(status.current_replicas),
            or(status.updated_replicas),
        ];
        (counts, status.current_revision == status.update_revision)
    }
}

#[test]
fn pods_come_and_go_in_order() {
    let mut world = World::new(json!({}));
    world.step(false);
    // The first is not ready: the second waits.
    assert_eq!(world.step(true).create.len(), 0);
    world.ready(0, true);
    world.settle();
    assert_eq!(world.log(), ["+w-0", "+w-1", "+w-2"]);
    assert_eq!(world.counts(), ([3, 3, 3, 3], true));
    world.set.spec.replicas = Some(1);
    assert_eq!(world.step(true).delete.len(), 1);
    world.settle();
    assert_eq!(world.log(), ["-w-2", "-w-1"]);
    // A gap is filled before anything else.
    world.set.spec.replicas = Some(2);
    world.settle();
    world.pods.remove(0);
    world.settle();
    assert_eq!(world.log(), ["+w-1", "+w-0"]);
}

#[test]
fn in_parallel_nobody_waits() {
    let mut world = World::new(json!({"podManagementPolicy": "Parallel", "ordinals": {"start": 5}}));
    world.step(false);
    assert_eq!(world.log(), ["+w-5", "+w-6", "+w-7"]);
    world.set.spec.replicas = Some(0);
    world.step(true);
    assert_eq!(world.log(), ["-w-7", "-w-6", "-w-5"]);
}

#[test]
fn updates_go_from_the_last_to_the_partition() {
    let mut world = World::new(json!({}));
    world.settle();
    world.log();
    world.new_template("a");
    assert_eq!(world.step(true).delete.len(), 1);
    assert_eq!(world.counts(), ([3, 3, 3, 0], false));
    world.settle();
    assert_eq!(world.log(), ["-w-2", "+w-2", "-w-1", "+w-1", "-w-0", "+w-0"]);
    assert_eq!((world.counts(), world.revisions.len()), (([3, 3, 3, 3], true), 2));

    world.set.spec.update_strategy =
        serde_json::from_value(json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 2}})).unwrap();
    world.new_template("b");
    world.settle();
    assert_eq!(world.log(), ["-w-2", "+w-2"]);
    assert_eq!(world.counts(), ([3, 3, 2, 1], false));
    // What is below the partition comes back as it was.
    world.pods.retain(|pod| pod.name() != "w-0");
    world.settle();
    let first = world.pods.iter().find(|pod| pod.name() == "w-0").unwrap();
    assert_eq!(first.spec.as_ref().unwrap().node_name.as_deref(), Some("a"));

    // One that does not get ready stops the rest, until the template changes again.
    world.log();
    world.set.spec.update_strategy = None;
    world.new_template("c");
    world.step(true);
    world.step(false);
    assert_eq!(world.step(true).delete.len(), 0);
    assert_eq!(world.log(), ["-w-2", "+w-2"]);
}

#[test]
fn updates_may_wait_for_deletion() {
    let mut world = World::new(json!({"updateStrategy": {"type": "OnDelete"}}));
    world.settle();
    world.new_template("a");
    world.settle();
    world.log();
    assert_eq!(world.counts(), ([3, 3, 3, 0], false));
    world.pods.retain(|pod| pod.name() != "w-1");
    world.settle();
    assert_eq!((world.log(), world.counts().0[3]), (vec!["+w-1".to_owned()], 1));
}

#[test]
fn pods_that_ended_are_made_again() {
    let mut world = World::new(json!({}));
    world.settle();
    world.log();
    world.pods[1].status.as_mut().unwrap().phase = Some("Failed".into());
    let plan = world.step(true);
    assert_eq!(plan.delete[0].warning.as_ref().unwrap().0, "RecreatingFailedPod");
    world.settle();
    assert_eq!(world.log(), ["-w-1", "+w-1"]);
}

#[test]
fn pods_have_names_numbers_and_volumes() {
    let claim = json!({"metadata": {"name": "data", "labels": {"x": "y"}}, "spec": {"accessModes": ["ReadWriteOnce"]}});
    let world = World::new(json!({
        "volumeClaimTemplates": [claim], "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Delete"},
    }));
    let pod = pod_of(&world.set, &world.set.spec.template, "w-rev", 1);
    let labels = pod.metadata.labels.as_ref().unwrap();
    assert_eq!(labels["statefulset.kubernetes.io/pod-name"], "w-1");
    assert_eq!(labels["apps.kubernetes.io/pod-index"], "1");
    assert_eq!(labels["controller-revision-hash"], "w-rev");
    let spec = pod.spec.as_ref().unwrap();
    assert_eq!((spec.hostname.as_deref(), spec.subdomain.as_deref()), (Some("w-1"), Some("s")));
    let volume = &spec.volumes.as_ref().unwrap()[0];
    assert_eq!(
        (&*volume.name, &*volume.persistent_volume_claim.as_ref().unwrap().claim_name),
        ("data", "data-w-1")
    );
    let claims = claims_of(&world.set, 1);
    assert_eq!((claims[0].name(), claims[0].metadata.labels.as_ref().unwrap().len()), ("data-w-1", 2));
    assert_eq!(claims[0].metadata.owner_references.as_ref().unwrap()[0].kind, "StatefulSet");
    for (name, ordinal) in
        [("w-0", Some(0)), ("w-12", Some(12)), ("w-01", None), ("w-x", None), ("v-1", None), ("w-+1", None)]
    {
        let mut pod = pod.clone();
        pod.metadata.name = Some(name.to_owned());
        assert_eq!(ordinal_of(&world.set, &pod), ordinal, "{name}");
    }
}
