//! StatefulSets: pods with names, numbers and volumes of their own, made and replaced in order.
//!
//! Follows upstream's controller. A pass takes one step (`decide.rs` has the order); its effect leads to the next. Templates
//! are kept in `history.rs`; a pod's label says which revision it was made from, and claims for volumes outlive pods.

mod apply;
mod decide;
mod identity;
mod retention;
#[cfg(test)]
mod tests;

use client::{Cache, Client, Error, EventRecorder, Next, Object, ObjectKey, TaskGroup, WorkQueue};
use manifests::k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use manifests::k8s_openapi::api::core::v1::Pod;
use manifests::k8s_openapi::jiff::Timestamp;
use manifests::selector::Selector;

use crate::context::Context;
use crate::ownership::{BY_CONTROLLER, by_controller, controller_key, controller_of, orphans_of};
use crate::pod_sync::PodSync;
use apply::Hands;
use decide::{Observed, decide};

/// StatefulSets worked on at once.
const WORKERS: usize = 5;

pub(crate) fn start(context: &Context, group: &mut TaskGroup) {
    let sets = context.informers.cache::<StatefulSet>();
    let pods = context.informers.cache::<Pod>();
    let revisions = context.informers.cache::<ControllerRevision>();
    pods.add_index(by_controller());
    revisions.add_index(by_controller());
    let queue = WorkQueue::<ObjectKey>::new();
    let to = queue.clone();
    sets.on_change(move |change| to.add(change.key.clone()));
    let (to, known) = (queue.clone(), sets.clone());
    pods.on_change(move |change| {
        for pod in change.states() {
            if let Some(owner) = controller_key::<StatefulSet>(&pod.metadata) {
                to.add(owner);
            }
        }
        if let Some(orphan) = change.new.filter(|pod| controller_of(&pod.metadata).is_none()) {
            for set in known.in_namespace(orphan.namespace()) {
                let selector = Selector::from_label_selector(Some(&set.spec.selector));
                if selector.is_ok_and(|selector| selector.matches_meta(orphan.metadata.labels.as_ref())) {
                    to.add(set.key());
                }
            }
        }
    });
    let to = queue.clone();
    revisions.on_change(move |change| {
        for owner in change.states().filter_map(|state| controller_key::<StatefulSet>(&state.metadata)) {
            to.add(owner);
        }
    });
    let events = context.recorder("statefulset-controller", group);
    let (client, stop) = (context.client.clone(), group.stop().clone());
    group.spawn_infallible("statefulset-controller", async move {
        tokio::join!(sets.wait_synced(), pods.wait_synced(), revisions.wait_synced());
        let controller = Controller { client, sets, pods, revisions, events };
        queue.work("statefulset", WORKERS, &stop, |key| controller.reconcile(key)).await;
    });
}

struct Controller {
    client: Client,
    sets: Cache<StatefulSet>,
    pods: Cache<Pod>,
    revisions: Cache<ControllerRevision>,
    events: EventRecorder,
}

impl Controller {
    async fn reconcile(&self, key: ObjectKey) -> Result<Next, Error> {
        let Some(set) = self.sets.get(&key) else { return Ok(Next::Wait) };
        let mut pods = self.pods.indexed(BY_CONTROLLER, set.uid());
        pods.extend(self.pods.indexed(BY_CONTROLLER, &orphans_of(&key.namespace)));
        let revisions = self.revisions.indexed(BY_CONTROLLER, set.uid());
        let plan = decide(&Observed { set: &set, pods: &pods, revisions: &revisions }, Timestamp::now());
        let pods_of_set = pods;
        let pods = PodSync { client: &self.client, pods: &self.pods };
        Hands { client: &self.client, pods, events: &self.events }.apply(&set, &plan, &pods_of_set).await?;
        Ok(plan.next)
    }
}
