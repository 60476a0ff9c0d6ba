use std::collections::BTreeMap;
use std::sync::Arc;

use client::Object as _;
use manifests::k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use manifests::k8s_openapi::api::core::v1::{Node, Pod};
use manifests::k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use testkit::node;

use super::decide::{Observed, Plan, decide};
use crate::history::{HASH, Step};

fn now() -> Timestamp {
    "2026-01-01T01:00:00Z".parse().unwrap()
}

/// A DaemonSet in a world that does as it is told.
struct World {
    set: DaemonSet,
    nodes: Vec<Node>,
    pods: Vec<Pod>,
    revisions: Vec<ControllerRevision>,
    made: usize,
}

impl World {
    fn new(spec: Value, nodes: Vec<Node>) -> Self {
        let mut all = json!({"selector": {"matchLabels": {"app": "d"}}});
        all["template"] = json!({"metadata": {"labels": {"app": "d"}}, "spec": {"containers": []}});
        for (key, value) in spec.as_object().unwrap() {
            all[key] = value.clone();
        }
        let metadata = json!({"name": "d", "namespace": "default", "uid": "set", "generation": 1});
        let set = serde_json::from_value(json!({"metadata": metadata, "spec": all})).unwrap();
        Self { set, nodes, pods: Vec::new(), revisions: Vec::new(), made: 0 }
    }

    fn plan(&self) -> Plan {
        let pods: Vec<_> = self.pods.iter().cloned().map(Arc::new).collect();
        let nodes: Vec<_> = self.nodes.iter().cloned().map(Arc::new).collect();
        let revisions: Vec<_> = self.revisions.iter().cloned().map(Arc::new).collect();
        decide(&Observed { set: &self.set, pods: &pods, nodes: &nodes, revisions: &revisions }, now())
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
        self.pods.retain(|pod| !plan.delete.iter().any(|gone| gone.uid == pod.uid()));
        for node in &plan.create {
            self.made += 1;
            let name = format!("d-{}", self.made);
            let pod = json!({
                "metadata": {
                    "name": name, "namespace": "default", "uid": name,
                    "creationTimestamp": format!("2026-01-01T00:00:{:02}Z", self.made),
                    "labels": {"app": "d", HASH: plan.history.hash()},
                    "ownerReferences": [{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "d", "uid": "set", "controller": true}],
                },
                "spec": {"containers": [], "nodeName": node},
                "status": {"phase": "Running", "conditions": [
                    {"type": "Ready", "status": if ready { "True" } else { "False" }, "lastTransitionTime": "2026-01-01T00:10:00Z"},
                ]},
            });
            self.pods.push(serde_json::from_value(pod).unwrap());
        }
        self.set.status = Some(plan.status.clone());
        plan
    }

    fn settle(&mut self) -> &mut Self {
        for _ in 0..30 {
            let before = self.set.status.clone();
            let plan = self.step(true);
            if plan.create.is_empty()
                && plan.delete.is_empty()
                && plan.history.steps.is_empty()
                && before == self.set.status
            {
                return self;
            }
        }
        panic!("never settles");
    }

    fn on(&self) -> BTreeMap<&str, usize> {
        let mut on = BTreeMap::new();
        for pod in &self.pods {
            *on.entry(pod.spec.as_ref().unwrap().node_name.as_deref().unwrap()).or_insert(0) += 1;
        }
        on
    }

    /// Desired, current, ready, available, updated.
    fn counts(&self) -> [i32; 5] {
        let status = self.set.status.as_ref().unwrap();
        let or = |number: Option<i32>| number.unwrap_or(0);
        [
            status.desired_number_scheduled,
            status.current_number_scheduled,
            status.number_ready,
            or(status.number_available),
            or(status.updated_number_scheduled),
        ]
    }

    fn new_template(&mut self) {
        let spec = self.set.spec.template.spec.as_mut().unwrap();
        spec.hostname = Some(format!("h{}", spec.hostname.as_ref().map_or(0, String::len)));
    }
}

fn nodes(names: &[&str]) -> Vec<Node> {
    names.iter().map(|name| node(name).build()).collect()
}

#[test]
fn one_pod_on_each_node() {
    let mut world = World::new(json!({}), nodes(&["a", "b", "c"]));
    world.settle();
    assert_eq!(world.on(), BTreeMap::from([("a", 1), ("b", 1), ("c", 1)]));
    assert_eq!(world.counts(), [3; 5]);
    // A new node gets one, a doubled pod goes.
    world.nodes.push(node("d").build());
    let mut twin = world.pods[0].clone();
    twin.metadata.uid = Some("twin".into());
    twin.metadata.name = Some("twin".into());
    world.pods.push(twin);
    world.settle();
    assert_eq!(world.on(), BTreeMap::from([("a", 1), ("b", 1), ("c", 1), ("d", 1)]));
    assert!(!world.pods.iter().any(|pod| pod.name() == "twin"));
}

#[test]
fn taints_and_selectors_say_where() {
    let place = |spec: Value, node: testkit::NodeBuilder| {
        let template = json!({"template": {"metadata": {"labels": {"app": "d"}}, "spec": spec}});
        let mut world = World::new(template, vec![node.build()]);
        world.settle();
        world.pods.len()
    };
    let plain = || json!({"containers": []});
    assert_eq!(place(plain(), node("n").taint("mine", "", "NoSchedule")), 0);
    assert_eq!(place(plain(), node("n").taint("mine", "", "PreferNoSchedule")), 1);
    // Nodes in trouble need their daemons.
    assert_eq!(place(plain(), node("n").taint("node.kubernetes.io/not-ready", "", "NoExecute")), 1);
    assert_eq!(place(plain(), node("n").taint("node.kubernetes.io/unschedulable", "", "NoSchedule")), 1);
    assert_eq!(
        place(plain(), node("n").taint("node.kubernetes.io/network-unavailable", "", "NoSchedule")),
        0
    );
    let host = json!({"containers": [], "hostNetwork": true});
    assert_eq!(place(host, node("n").taint("node.kubernetes.io/network-unavailable", "", "NoSchedule")), 1);
    let picky = || json!({"containers": [], "nodeSelector": {"disk": "ssd"}});
    assert_eq!(place(picky(), node("n")), 0);
    assert_eq!(place(picky(), node("n").label("disk", "ssd")), 1);
}

#[test]
fn a_taint_drives_out_only_when_it_says_so() {
    for (effect, left, stray) in [("NoSchedule", 1, 0), ("NoExecute", 0, 0)] {
        let mut world = World::new(json!({}), nodes(&["a"]));
        world.settle();
        world.nodes = vec![node("a").taint("mine", "", effect).build()];
        world.settle();
        assert_eq!((world.pods.len(), world.counts()[0]), (left, 0), "{effect}");
        assert_eq!(world.set.status.as_ref().unwrap().number_misscheduled, stray);
    }
}

#[test]
fn pods_that_ended_are_replaced() {
    let mut world = World::new(json!({}), nodes(&["a", "b"]));
    world.settle();
    world.pods[0].status.as_mut().unwrap().phase = Some("Failed".into());
    world.pods[1].status.as_mut().unwrap().phase = Some("Succeeded".into());
    let plan = world.step(true);
    let reasons: Vec<_> = plan.events.iter().map(|(_, reason, _)| *reason).collect();
    assert_eq!(reasons, ["FailedDaemonPod", "SucceededDaemonPod"]);
    assert_eq!(plan.delete.len(), 2);
    world.settle();
    assert_eq!(world.on(), BTreeMap::from([("a", 1), ("b", 1)]));
}

#[test]
fn updates_go_node_by_node() {
    let mut world = World::new(json!({}), nodes(&["a", "b", "c"]));
    world.settle();
    world.new_template();
    let first = world.step(true);
    assert_eq!((first.delete.len(), first.history.steps.len(), world.counts()[4]), (1, 1, 0));
    // The gap is filled, and as long as it is not the next does not go.
    assert_eq!(world.step(false).create.len(), 1);
    assert_eq!(world.step(true).delete.len(), 0);
    // What does not work is replaced at once when the template changes again.
    world.new_template();
    let plan = world.step(true);
    assert_eq!(plan.delete.len(), 1);
    world.settle();
    assert_eq!(world.counts(), [3; 5]);
    assert_eq!(world.revisions.len(), 3);
}

#[test]
fn updates_may_surge_and_may_wait_for_deletion() {
    let surge = json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "50%", "maxUnavailable": 0}}});
    let mut world = World::new(surge, nodes(&["a", "b", "c", "d"]));
    world.settle();
    world.new_template();
    let first = world.step(true);
    assert_eq!((first.create.len(), first.delete.len()), (2, 0));
    let second = world.step(true);
    assert_eq!((second.create.len(), second.delete.len()), (2, 2));
    world.settle();
    assert_eq!((world.on().values().sum::<usize>(), world.counts()), (4, [4; 5]));

    let mut world = World::new(json!({"updateStrategy": {"type": "OnDelete"}}), nodes(&["a", "b"]));
    world.settle();
    world.new_template();
    world.settle();
    assert_eq!(world.counts(), [2, 2, 2, 2, 0]);
    world.pods.remove(0);
    world.settle();
    assert_eq!(world.counts(), [2, 2, 2, 2, 1]);
}
