//! ReplicaSets: so many pods of a kind, at any time.
//!
//! Pods are the ReplicaSet's by controller reference; matching pods without a controller are adopted, own
//! pods that match no longer are released. Which pods go first is upstream's ranking (`rank.rs`).

pub(crate) mod apply;
pub(crate) mod decide;
pub(crate) mod observe;
mod rank;
pub(crate) mod status;
#[cfg(test)]
mod tests;

use client::{Cache, Client, Error, EventRecorder, Next, Object, ObjectKey, TaskGroup, WorkQueue};
use manifests::k8s_openapi::api::apps::v1::ReplicaSet;
use manifests::k8s_openapi::api::core::v1::Pod;
use manifests::k8s_openapi::jiff::Timestamp;
use manifests::selector::Selector;

use crate::context::Context;
use crate::ownership::{by_controller, controller_key, controller_of};
use crate::pod_sync::PodSync;
use apply::Hands;

/// ReplicaSets worked on at once.
const WORKERS: usize = 5;

pub(crate) fn start(context: &Context, group: &mut TaskGroup) {
    let replica_sets = context.informers.cache::<ReplicaSet>();
    let pods = context.informers.cache::<Pod>();
    replica_sets.add_index(by_controller());
    pods.add_index(by_controller());
    let queue = WorkQueue::<ObjectKey>::new();
    let to = queue.clone();
    replica_sets.on_change(move |change| to.add(change.key.clone()));
    let (to, known) = (queue.clone(), replica_sets.clone());
    pods.on_change(move |change| {
        for pod in change.states() {
            if let Some(owner) = controller_key::<ReplicaSet>(&pod.metadata) {
                to.add(owner);
            }
        }
        if let Some(orphan) = change.new.filter(|pod| controller_of(&pod.metadata).is_none()) {
            enqueue_those_that_select(orphan, &known, &to);
        }
    });
    let events = context.recorder("replicaset-controller", group);
    let (client, stop) = (context.client.clone(), group.stop().clone());
    group.spawn_infallible("replicaset-controller", async move {
        tokio::join!(replica_sets.wait_synced(), pods.wait_synced());
        let controller = Controller { client, replica_sets, pods, events };
        queue.work("replicaset", WORKERS, &stop, |key| controller.reconcile(key)).await;
    });
}

fn enqueue_those_that_select(pod: &Pod, replica_sets: &Cache<ReplicaSet>, queue: &WorkQueue<ObjectKey>) {
    for replica_set in replica_sets.in_namespace(pod.namespace()) {
        let selector = Selector::from_label_selector(Some(&replica_set.spec.selector));
        if selector.is_ok_and(|selector| selector.matches_meta(pod.metadata.labels.as_ref())) {
            queue.add(replica_set.key());
        }
    }
}

struct Controller {
    client: Client,
    replica_sets: Cache<ReplicaSet>,
    pods: Cache<Pod>,
    events: EventRecorder,
}

impl Controller {
    async fn reconcile(&self, key: ObjectKey) -> Result<Next, Error> {
        let Some(observed) = observe::observe(&key, &self.replica_sets, &self.pods) else {
            return Ok(Next::Wait);
        };
        let owner = &observed.replica_set;
        let plan = decide::decide(&observed, Timestamp::now());
        let pods = PodSync { client: &self.client, pods: &self.pods };
        let hands = Hands { client: &self.client, pods, events: &self.events };
        let outcome = hands.apply(&**owner, owner.spec.template.as_ref(), &plan.actions).await;

        let failure = outcome.as_ref().err().map(|failed| &failed.failure);
        let status = status::status(owner, &plan.own, failure, Timestamp::now());
        if owner.status.as_ref() != Some(&status) {
            let mut updated = (**owner).clone();
            updated.status = Some(status);
            match self.client.namespaced::<ReplicaSet>(&key.namespace).replace_status(&updated).await {
                Ok(_) => {}
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        outcome.map(|()| plan.next).map_err(|failed| failed.error)
    }
}
