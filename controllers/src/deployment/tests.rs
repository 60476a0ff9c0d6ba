use std::sync::Arc;

use client::{Next, Object};
use manifests::k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetStatus};
use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use manifests::k8s_openapi::jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::annotations;
use super::decide::{Action, decide};
use super::limits;
use super::observe::Observed;

/// A Deployment, its ReplicaSets, and a clock: what a plan is carried out on.
#[derive(Debug)]
struct Model {
    observed: Observed,
    now: Timestamp,
    events: Vec<String>,
}

fn deployment(replicas: i32, strategy: Value) -> Deployment {
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "default", "uid": "d", "generation": 1},
        "spec": {
            "replicas": replicas,
            "strategy": strategy,
            "progressDeadlineSeconds": 600,
            "revisionHistoryLimit": 10,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "v1"}]}},
        },
    }))
    .unwrap()
}

fn rolling(surge: impl Into<Value>, unavailable: impl Into<Value>) -> Value {
    json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge.into(), "maxUnavailable": unavailable.into()}})
}

impl Model {
    fn new(deployment: Deployment) -> Self {
        let observed = Observed {
            deployment: Arc::new(deployment),
            replica_sets: Vec::new(),
            with_pods: Vec::new(),
            taken: Vec::new(),
        };
        Self { observed, now: Timestamp::from_second(1_000_000).unwrap(), events: Vec::new() }
    }

    /// A change by a user.
    fn edit(&mut self, change: impl FnOnce(&mut Deployment)) {
        let deployment = Arc::make_mut(&mut self.observed.deployment);
        change(deployment);
        *deployment.metadata.generation.get_or_insert(0) += 1;
    }

    fn set_image(&mut self, image: &str) {
        self.edit(|deployment| {
            deployment.spec.template.spec.as_mut().unwrap().containers[0].image = Some(image.to_owned());
        });
    }

    fn change_set(&mut self, uid: &str, change: impl FnOnce(&mut ReplicaSet)) {
        let set = self.observed.replica_sets.iter_mut().find(|set| set.uid() == uid).unwrap();
        change(Arc::make_mut(set));
    }

    /// One pass: decide, and carry the plan out.
    fn pass(&mut self) -> Vec<Action> {
        let plan = decide(&self.observed, self.now);
        for action in &plan.actions {
            match action {
                Action::Adopt(set) => {
                    let owner = crate::ownership::controller_reference(&*self.observed.deployment);
                    self.change_set(&set.uid, |set| set.metadata.owner_references = Some(vec![owner]));
                }
                Action::Release(set) => self.change_set(&set.uid, |set| set.metadata.owner_references = None),
                Action::Create(set) => {
                    let mut set = (**set).clone();
                    set.metadata.uid = set.metadata.name.clone();
                    set.metadata.generation = Some(1);
                    let order = i64::try_from(self.observed.replica_sets.len()).unwrap();
                    set.metadata.creation_timestamp = Some(Time(Timestamp::from_second(order).unwrap()));
                    self.observed.replica_sets.push(Arc::new(set));
                }
                Action::Update { replica_set, event } => {
                    let mut updated = (**replica_set).clone();
                    if event.is_some() {
                        *updated.metadata.generation.get_or_insert(0) += 1;
                    }
                    self.change_set(replica_set.uid(), |set| *set = updated);
                    self.events.extend(event.clone());
                }
                Action::Delete(set) => self.observed.replica_sets.retain(|known| known.uid() != set.uid),
                Action::SetRevision(revision) => {
                    let deployment = Arc::make_mut(&mut self.observed.deployment);
                    let annotations = deployment.metadata.annotations.get_or_insert_default();
                    annotations.insert(annotations::REVISION.to_owned(), revision.to_string());
                }
            }
        }
        Arc::make_mut(&mut self.observed.deployment).status = Some(plan.status);
        plan.actions
    }

    /// The ReplicaSet controller and the nodes: sets get the pods they want; of those, `ready` says how many
    /// more are available.
    fn settle_sets(&mut self, mut ready: impl FnMut(usize, i32) -> i32) {
        self.observed.with_pods.clear();
        for (n, set) in self.observed.replica_sets.iter_mut().enumerate() {
            let set = Arc::make_mut(set);
            let replicas = set.spec.replicas.unwrap_or(1);
            let before = set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0);
            let available = (before + ready(n, replicas - before)).clamp(0, replicas);
            set.status = Some(ReplicaSetStatus {
                replicas,
                ready_replicas: Some(available),
                available_replicas: Some(available),
                observed_generation: set.metadata.generation,
                ..ReplicaSetStatus::default()
            });
            if replicas > 0 {
                self.observed.with_pods.push(set.uid().to_owned());
            }
        }
    }

    /// Passes until nothing is left to do, everything becoming available at once.
    fn finish(&mut self) {
        for _ in 0..100 {
            // Every write leads to another pass, that of a status as well.
            let before = format!("{:?}", self.observed);
            let actions = self.pass();
            self.settle_sets(|_, missing| missing);
            if actions.is_empty() && before == format!("{:?}", self.observed) {
                assert_eq!(self.pass(), [], "deciding again finds something to do");
                return;
            }
        }
        panic!("does not settle: {self:?}");
    }

    fn sizes(&self) -> Vec<i32> {
        self.observed.replica_sets.iter().map(|set| set.spec.replicas.unwrap()).collect()
    }

    fn condition(&self, kind: &str) -> String {
        let conditions =
            self.observed.deployment.status.as_ref().unwrap().conditions.as_deref().unwrap_or_default();
        let condition = conditions.iter().find(|condition| condition.type_.as_deref() == Some(kind));
        condition.map_or_else(String::new, |condition| {
            format!("{} {}", condition.status.as_deref().unwrap(), condition.reason.as_deref().unwrap())
        })
    }

    fn revision(&self) -> i64 {
        annotations::revision(&self.observed.deployment.metadata)
    }
}

#[test]
fn a_first_rollout() {
    let mut model = Model::new(deployment(3, rolling(1, 1)));
    let actions = model.pass();
    let [Action::SetRevision(1), Action::Create(set)] = actions.as_slice() else { panic!("{actions:?}") };
    assert_eq!(set.spec.replicas, Some(3));
    let hash = &set.metadata.labels.as_ref().unwrap()["pod-template-hash"];
    assert_eq!(set.name(), format!("web-{hash}"));
    assert_eq!(&set.spec.selector.match_labels.as_ref().unwrap()["pod-template-hash"], hash);
    assert_eq!(set.spec.selector.match_labels.as_ref().unwrap()["app"], "web");
    assert_eq!(model.condition("Progressing"), "True NewReplicaSetCreated");
    assert_eq!(model.condition("Available"), "False MinimumReplicasUnavailable");
    model.finish();
    assert_eq!(model.condition("Progressing"), "True NewReplicaSetAvailable");
    assert_eq!(model.condition("Available"), "True MinimumReplicasAvailable");
    let status = model.observed.deployment.status.clone().unwrap();
    assert_eq!(
        (status.replicas, status.updated_replicas, status.available_replicas),
        (Some(3), Some(3), Some(3))
    );
}

#[test]
fn a_rolling_update_step_by_step() {
    let mut model = Model::new(deployment(4, rolling(1, 1)));
    model.finish();
    model.events.clear();
    model.set_image("v2");
    let mut seen = Vec::new();
    for _ in 0..20 {
        model.pass();
        if seen.last() != Some(&model.sizes()) {
            seen.push(model.sizes());
        }
        model.settle_sets(|_, missing| missing.min(1));
    }
    assert_eq!(seen, [[4, 1], [2, 1], [2, 3], [1, 3], [1, 4], [0, 4]]);
    assert_eq!(model.sizes(), [0, 4]);
    assert_eq!(model.revision(), 2);
    assert!(model.events.iter().any(|event| event.ends_with("from 1 to 0")), "{:?}", model.events);
}

#[test]
fn rollback_gives_the_old_replica_set_a_new_revision() {
    let mut model = Model::new(deployment(2, rolling(1, 0)));
    model.finish();
    model.set_image("v2");
    model.finish();
    model.set_image("v1");
    model.finish();
    assert_eq!(model.sizes(), [2, 0]);
    assert_eq!(model.revision(), 3);
    let revisions: Vec<i64> =
        model.observed.replica_sets.iter().map(|set| annotations::revision(&set.metadata)).collect();
    assert_eq!(revisions, [3, 2]);
    let history = &model.observed.replica_sets[0].metadata.annotations.as_ref().unwrap();
    assert_eq!(history["deployment.kubernetes.io/revision-history"], "1");
}

#[test]
fn recreate_waits_for_the_last_old_pod() {
    let mut model = Model::new(deployment(3, json!({"type": "Recreate"})));
    model.finish();
    model.set_image("v2");
    model.pass();
    assert_eq!(model.sizes(), [0]);
    // Its pods are still terminating.
    assert_eq!(model.pass(), []);
    model.settle_sets(|_, missing| missing);
    model.finish();
    assert_eq!(model.sizes(), [0, 3]);
}

#[test]
fn a_paused_deployment_scales_but_does_not_roll() {
    let mut model = Model::new(deployment(2, rolling(1, 0)));
    model.finish();
    model.edit(|deployment| deployment.spec.paused = Some(true));
    model.set_image("v2");
    model.finish();
    assert_eq!(
        (model.sizes(), model.condition("Progressing")),
        (vec![2], "Unknown DeploymentPaused".to_owned())
    );
    model.edit(|deployment| deployment.spec.replicas = Some(5));
    model.finish();
    assert_eq!(model.sizes(), [5]);
    assert_eq!(decide(&model.observed, model.now).next, Next::Wait, "pausing takes no time");
    model.edit(|deployment| deployment.spec.paused = None);
    model.finish();
    assert_eq!(model.sizes(), [0, 5]);
    assert_eq!(model.condition("Progressing"), "True NewReplicaSetAvailable");
}

#[test]
fn scaling_in_the_middle_of_a_rollout_is_in_proportion() {
    let mut model = Model::new(deployment(10, rolling(3, 2)));
    model.finish();
    model.set_image("broken");
    for _ in 0..5 {
        model.pass();
        // The new pods never become available.
        model.settle_sets(|n, missing| if n == 0 { missing } else { 0 });
    }
    assert_eq!(model.sizes(), [8, 5]);
    model.edit(|deployment| deployment.spec.replicas = Some(15));
    model.pass();
    assert_eq!(model.sizes().iter().sum::<i32>(), 18);
    assert_eq!(model.sizes(), [11, 7]);
}

#[test]
fn old_replica_sets_beyond_the_limit_go() {
    let mut model = Model::new(deployment(1, rolling(1, 0)));
    model.edit(|deployment| deployment.spec.revision_history_limit = Some(2));
    for image in ["v1", "v2", "v3", "v4", "v5"] {
        model.set_image(image);
        model.finish();
    }
    let mut revisions: Vec<i64> =
        model.observed.replica_sets.iter().map(|set| annotations::revision(&set.metadata)).collect();
    revisions.sort_unstable();
    assert_eq!(revisions, [3, 4, 5]);
}

#[test]
fn no_progress_is_reported_after_the_deadline() {
    let mut model = Model::new(deployment(1, rolling(1, 0)));
    model.pass();
    model.settle_sets(|_, _| 0);
    model.pass();
    let Next::After(wait) = decide(&model.observed, model.now).next else { panic!("nobody looks again") };
    assert_eq!(wait.as_secs(), 601);
    model.now += SignedDuration::from_secs(601);
    model.pass();
    assert_eq!(model.condition("Progressing"), "False ProgressDeadlineExceeded");
    assert_eq!(decide(&model.observed, model.now).next, Next::Wait);
    model.finish();
    assert_eq!(model.condition("Progressing"), "True NewReplicaSetAvailable");
}

#[test]
fn a_taken_name_is_a_collision() {
    let mut model = Model::new(deployment(1, rolling(1, 0)));
    let actions = decide(&model.observed, model.now).actions;
    let [_, Action::Create(set)] = actions.as_slice() else { panic!("{actions:?}") };
    model.observed.taken.push(set.name().to_owned());
    assert_eq!(model.pass(), []);
    assert_eq!(model.observed.deployment.status.as_ref().unwrap().collision_count, Some(1));
    let actions = model.pass();
    let [_, Action::Create(other)] = actions.as_slice() else { panic!("{actions:?}") };
    assert_ne!(other.name(), set.name());
}

#[test]
fn replica_sets_are_adopted_and_released() {
    let mut model = Model::new(deployment(2, rolling(1, 0)));
    model.finish();
    let uid = model.observed.replica_sets[0].uid().to_owned();
    model.change_set(&uid, |set| set.metadata.owner_references = None);
    assert!(matches!(model.pass().as_slice(), [Action::Adopt(_)]));
    model.finish();
    model.change_set(&uid, |set| drop(set.metadata.labels.take()));
    assert!(matches!(model.pass().as_slice(), [Action::Release(_), ..]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever becomes available when, and whatever users do meanwhile, the limits hold between scalings
    /// and the rollout ends.
    #[test]
    fn rollouts_stay_within_their_limits(
        replicas in 1..12i32,
        surge in 0..4i32,
        unavailable in 0..4i32,
        luck in proptest::collection::vec((0..3i32, 0..10u8), 1..60),
    ) {
        let mut model = Model::new(deployment(replicas, rolling(surge, unavailable)));
        model.finish();
        let mut images = 1;
        for (ready, user) in luck {
            if user == 0 {
                images += 1;
                model.set_image(&format!("v{images}"));
            }
            model.pass();
            let deployment = &model.observed.deployment;
            let total: i32 = model.sizes().iter().sum();
            prop_assert!(total <= replicas + limits::max_surge(deployment), "{:?}", model.sizes());
            // What is available after the sets have shrunk: sets give up unavailable pods first.
            let available: i32 = model.observed.replica_sets.iter().map(|set| {
                let status = set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0);
                status.min(set.spec.replicas.unwrap())
            }).sum();
            prop_assert!(available >= replicas - limits::max_unavailable(deployment), "{available} of {replicas}");
            model.settle_sets(|_, missing| missing.min(ready));
        }
        model.finish();
        let wanted: Vec<i32> = model.sizes().into_iter().filter(|size| *size > 0).collect();
        prop_assert_eq!(wanted, vec![replicas]);
        prop_assert!(model.condition("Progressing") == "True NewReplicaSetAvailable");
    }

    /// Scaling at any moment, by any amount, ends with the wanted number.
    #[test]
    fn scaling_always_arrives(steps in proptest::collection::vec((0..12i32, 0..3i32, proptest::bool::ANY), 1..20)) {
        let mut model = Model::new(deployment(3, rolling("25%", "25%")));
        model.finish();
        let mut wanted = 3;
        for (n, (replicas, ready, roll)) in steps.into_iter().enumerate() {
            wanted = replicas;
            model.edit(|deployment| deployment.spec.replicas = Some(replicas));
            if roll {
                model.set_image(&format!("image{n}"));
            }
            for _ in 0..3 {
                model.pass();
                model.settle_sets(|_, missing| missing.min(ready));
            }
        }
        model.finish();
        prop_assert_eq!(model.sizes().iter().sum::<i32>(), wanted);
    }
}
