//! ReplicationControllers: what ReplicaSets were before they had selectors with more than labels.
//!
//! As upstream has it, one is taken for a ReplicaSet, decided about as such, and only what is written bears its own kind.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::{Cache, Client, Error, EventRecorder, Next, Object, ObjectKey, TaskGroup, WorkQueue};
use manifests::k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetSpec, ReplicaSetStatus};
use manifests::k8s_openapi::api::core::v1::{
    Pod, ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus,
};
use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use manifests::k8s_openapi::jiff::Timestamp;
use manifests::selector::Selector;

use crate::context::Context;
use crate::ownership::{BY_CONTROLLER, by_controller, controller_key, controller_of, orphans_of};
use crate::pod_state;
use crate::pod_sync::PodSync;
use crate::replica_set::apply::Hands;
use crate::replica_set::decide::decide;
use crate::replica_set::observe::Observed;
use crate::replica_set::status;

/// ReplicationControllers worked on at once.
const WORKERS: usize = 2;

pub(crate) fn start(context: &Context, group: &mut TaskGroup) {
    let controllers = context.informers.cache::<ReplicationController>();
    let pods = context.informers.cache::<Pod>();
    pods.add_index(by_controller());
    let queue = WorkQueue::<ObjectKey>::new();
    let to = queue.clone();
    controllers.on_change(move |change| to.add(change.key.clone()));
    let (to, known) = (queue.clone(), controllers.clone());
    pods.on_change(move |change| {
        for pod in change.states() {
            if let Some(owner) = controller_key::<ReplicationController>(&pod.metadata) {
                to.add(owner);
            }
        }
        if let Some(orphan) = change.new.filter(|pod| controller_of(&pod.metadata).is_none()) {
            for controller in known.in_namespace(orphan.namespace()) {
                let selector = controller.spec.as_ref().and_then(|spec| spec.selector.as_ref());
                let selects =
                    |labels| Selector::from_labels(labels).matches_meta(orphan.metadata.labels.as_ref());
                if selector.is_some_and(selects) {
                    to.add(controller.key());
                }
            }
        }
    });
    let events = context.recorder("replication-controller", group);
    let (client, stop) = (context.client.clone(), group.stop().clone());
    group.spawn_infallible("replication-controller", async move {
        tokio::join!(controllers.wait_synced(), pods.wait_synced());
        let controller = Controller { client, controllers, pods, events };
        queue.work("replicationcontroller", WORKERS, &stop, |key| controller.reconcile(key)).await;
    });
}

struct Controller {
    client: Client,
    controllers: Cache<ReplicationController>,
    pods: Cache<Pod>,
    events: EventRecorder,
}

impl Controller {
    async fn reconcile(&self, key: ObjectKey) -> Result<Next, Error> {
        let Some(owner) = self.controllers.get(&key) else { return Ok(Next::Wait) };
        let own = self.pods.indexed(BY_CONTROLLER, owner.uid());
        let mut related = BTreeMap::new();
        for node in own.iter().filter(|pod| pod_state::is_active(pod)).filter_map(|pod| pod_state::node(pod))
        {
            *related.entry(node.to_owned()).or_insert(0) += 1;
        }
        let mut pods = own;
        pods.extend(self.pods.indexed(BY_CONTROLLER, &orphans_of(&key.namespace)));
        let set = Arc::new(as_replica_set(&owner));
        let observed = Observed { replica_set: Arc::clone(&set), pods, related };
        let plan = decide(&observed, Timestamp::now());
        let pods = PodSync { client: &self.client, pods: &self.pods };
        let hands = Hands { client: &self.client, pods, events: &self.events };
        let outcome = hands.apply(&*owner, set.spec.template.as_ref(), &plan.actions).await;

        let failure = outcome.as_ref().err().map(|failed| &failed.failure);
        let status = own_status(status::status(&set, &plan.own, failure, Timestamp::now()));
        if owner.status.as_ref() != Some(&status) {
            let updated = ReplicationController { status: Some(status), ..(*owner).clone() };
            let api = self.client.namespaced::<ReplicationController>(&key.namespace);
            match api.replace_status(&updated).await {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
        outcome.map(|()| plan.next).map_err(|failed| failed.error)
    }
}

fn as_replica_set(controller: &ReplicationController) -> ReplicaSet {
    let spec = controller.spec.clone().unwrap_or_default();
    let status = controller.status.clone().unwrap_or_default();
    let conditions = status.conditions.map(|conditions| {
        let all = conditions.into_iter().map(|condition| {
            manifests::k8s_openapi::api::apps::v1::ReplicaSetCondition {
                last_transition_time: condition.last_transition_time,
                message: condition.message,
                reason: condition.reason,
                status: Some(condition.status),
                type_: Some(condition.type_),
            }
        });
        all.collect()
    });
    ReplicaSet {
        metadata: controller.metadata.clone(),
        spec: ReplicaSetSpec {
            min_ready_seconds: spec.min_ready_seconds,
            replicas: spec.replicas,
            selector: LabelSelector { match_labels: spec.selector, match_expressions: None },
            template: spec.template,
        },
        status: Some(ReplicaSetStatus {
            observed_generation: status.observed_generation,
            conditions,
            ..ReplicaSetStatus::default()
        }),
    }
}

fn own_status(status: ReplicaSetStatus) -> ReplicationControllerStatus {
    let conditions = status.conditions.map(|conditions| {
        let all = conditions.into_iter().map(|condition| ReplicationControllerCondition {
            last_transition_time: condition.last_transition_time,
            message: condition.message,
            reason: condition.reason,
            status: condition.status.unwrap_or_default(),
            type_: condition.type_.unwrap_or_default(),
        });
        all.collect()
    });
    ReplicationControllerStatus {
        available_replicas: status.available_replicas,
        conditions,
        fully_labeled_replicas: status.fully_labeled_replicas,
        observed_generation: status.observed_generation,
        ready_replicas: status.ready_replicas,
        replicas: status.replicas,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use testkit::pod;

    use super::*;
    use crate::replica_set::decide::Action;

    #[test]
    fn it_is_taken_for_a_replica_set() {
        let controller: ReplicationController = serde_json::from_value(json!({
            "metadata": {"name": "r", "namespace": "default", "uid": "me", "generation": 3},
            "spec": {"replicas": 2, "selector": {"app": "r"}, "template": {"metadata": {"labels": {"app": "r"}}}},
        }))
        .unwrap();
        let own = pod("a").label("app", "r").controlled_by("v1", "ReplicationController", "r", "me").ready();
        let other = pod("b").label("app", "x").controlled_by("v1", "ReplicationController", "r", "other");
        let pods = vec![Arc::new(own.build()), Arc::new(other.build())];
        let set = Arc::new(as_replica_set(&controller));
        let observed = Observed { replica_set: Arc::clone(&set), pods, related: BTreeMap::new() };
        let plan = decide(&observed, Timestamp::UNIX_EPOCH);
        assert_eq!(plan.actions, [Action::Create(1)]);
        let status = own_status(status::status(&set, &plan.own, None, Timestamp::UNIX_EPOCH));
        assert_eq!(
            (status.replicas, status.ready_replicas, status.observed_generation),
            (1, Some(1), Some(3))
        );
    }
}
