//! Deployments: new pods replace old ones step by step, and can be rolled back.
//!
//! Each template has a ReplicaSet, named and labelled with the template's hash. A pass looks at all of them and
//! takes one step: it makes the new one, lets it grow, or lets old ones shrink, within `maxSurge` and
//! `maxUnavailable`. Its effect on the ReplicaSets' status leads to the next pass. Revisions are annotations,
//! which is what `kubectl rollout history` and `undo` read.
//!
//! - `limits.rs`: how far a rollout may deviate; `fleet.rs`: the ReplicaSets and their planned sizes;
//! - `rollout.rs`: the arithmetic of growing, shrinking, and scaling in proportion;
//! - `annotations.rs`: revisions and sizes; `status.rs`: counts, availability, progress.

mod annotations;
mod apply;
mod decide;
mod fleet;
mod limits;
mod observe;
mod rollout;
mod status;
#[cfg(test)]
mod tests;

use client::{Cache, Client, Error, EventRecorder, Next, Object, ObjectKey, TaskGroup, WorkQueue};
use manifests::k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use manifests::k8s_openapi::api::core::v1::Pod;
use manifests::k8s_openapi::jiff::Timestamp;
use manifests::selector::Selector;

use crate::context::Context;
use crate::ownership::{by_controller, controller_key, controller_of};
use crate::pod_state;
use apply::Hands;

/// Deployments worked on at once.
const WORKERS: usize = 5;

pub(crate) fn start(context: &Context, group: &mut TaskGroup) {
    let deployments = context.informers.cache::<Deployment>();
    let replica_sets = context.informers.cache::<ReplicaSet>();
    let pods = context.informers.cache::<Pod>();
    replica_sets.add_index(by_controller());
    pods.add_index(by_controller());
    let queue = WorkQueue::<ObjectKey>::new();
    let to = queue.clone();
    deployments.on_change(move |change| to.add(change.key.clone()));
    let (to, known) = (queue.clone(), deployments.clone());
    replica_sets.on_change(move |change| {
        for set in change.states() {
            if let Some(owner) = controller_key::<Deployment>(&set.metadata) {
                to.add(owner);
            }
        }
        if let Some(orphan) = change.new.filter(|set| controller_of(&set.metadata).is_none()) {
            enqueue_those_that_select(orphan, &known, &to);
        }
    });
    // Recreate waits until the last old pod has gone, which no ReplicaSet's status tells.
    let (to, known, sets) = (queue.clone(), deployments.clone(), replica_sets.clone());
    pods.on_change(move |change| {
        if change.new.is_some_and(|pod| !pod_state::has_ended(pod)) {
            return;
        }
        let owner = change.newest().and_then(|pod| controller_key::<ReplicaSet>(&pod.metadata));
        let set = owner.and_then(|owner| sets.get(&owner));
        let deployment = set.and_then(|set| controller_key::<Deployment>(&set.metadata));
        if let Some(deployment) = deployment.and_then(|key| known.get(&key))
            && limits::strategy(&deployment) == limits::Strategy::Recreate
        {
            to.add(deployment.key());
        }
    });
    let events = context.recorder("deployment-controller", group);
    let (client, stop) = (context.client.clone(), group.stop().clone());
    group.spawn_infallible("deployment-controller", async move {
        tokio::join!(deployments.wait_synced(), replica_sets.wait_synced(), pods.wait_synced());
        let controller = Controller { client, deployments, replica_sets, pods, events };
        queue.work("deployment", WORKERS, &stop, |key| controller.reconcile(key)).await;
    });
}

fn enqueue_those_that_select(
    set: &ReplicaSet,
    deployments: &Cache<Deployment>,
    queue: &WorkQueue<ObjectKey>,
) {
    for deployment in deployments.in_namespace(set.namespace()) {
        let selector = Selector::from_label_selector(Some(&deployment.spec.selector));
        if selector.is_ok_and(|selector| selector.matches_meta(set.metadata.labels.as_ref())) {
            queue.add(deployment.key());
        }
    }
}

struct Controller {
    client: Client,
    deployments: Cache<Deployment>,
    replica_sets: Cache<ReplicaSet>,
    pods: Cache<Pod>,
    events: EventRecorder,
}

impl Controller {
    async fn reconcile(&self, key: ObjectKey) -> Result<Next, Error> {
        let Some(observed) = observe::observe(&key, &self.deployments, &self.replica_sets, &self.pods) else {
            return Ok(Next::Wait);
        };
        let plan = decide::decide(&observed, Timestamp::now());
        let hands = Hands { client: &self.client, events: &self.events };
        hands.apply(&observed.deployment, &plan.actions, plan.status).await?;
        Ok(plan.next)
    }
}
