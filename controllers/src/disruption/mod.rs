//! PodDisruptionBudgets: how many healthy pods there are, how many there must be, and so how many may be evicted now.
//!
//! Follows upstream's disruption controller. The API server takes disruptions off the status as it evicts, and notes the
//! pods; this controller forgets them when they are gone, or were not deleted for two minutes.

mod decide;

use client::{Cache, Client, Error, EventRecorder, Next, Object, ObjectKey, TaskGroup, WorkQueue};
use manifests::k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use manifests::k8s_openapi::api::core::v1::{Pod, ReplicationController};
use manifests::k8s_openapi::api::policy::v1::PodDisruptionBudget;
use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use manifests::k8s_openapi::jiff::Timestamp;
use manifests::selector::Selector;

use crate::context::Context;
use crate::ownership::controller_of;
use decide::{Observed, Scale};

pub(crate) fn start(context: &Context, group: &mut TaskGroup) {
    let budgets = context.informers.cache::<PodDisruptionBudget>();
    let pods = context.informers.cache::<Pod>();
    let scales = Scales {
        replica_sets: context.informers.cache(),
        deployments: context.informers.cache(),
        stateful_sets: context.informers.cache(),
        replication_controllers: context.informers.cache(),
    };
    let queue = WorkQueue::<ObjectKey>::new();
    let to = queue.clone();
    budgets.on_change(move |change| to.add(change.key.clone()));
    let (to, known) = (queue.clone(), budgets.clone());
    pods.on_change(move |change| {
        for budget in known.in_namespace(&change.key.namespace) {
            let selector = selector(&budget);
            if change.states().any(|pod| selector.matches_meta(pod.metadata.labels.as_ref())) {
                to.add(budget.key());
            }
        }
    });
    scales.on_change(&budgets, &queue);
    let events = context.recorder("controllermanager", group);
    let (client, stop) = (context.client.clone(), group.stop().clone());
    group.spawn_infallible("disruption-controller", async move {
        tokio::join!(budgets.wait_synced(), pods.wait_synced(), scales.wait_synced());
        let controller = Controller { client, budgets, pods, scales, events };
        queue.work("disruption", 1, &stop, |key| controller.reconcile(key)).await;
    });
}

/// A selector that cannot be read selects nothing; validation refuses it.
fn selector(budget: &PodDisruptionBudget) -> Selector {
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    Selector::from_label_selector(selector).unwrap_or_else(|_| Selector::nothing())
}

/// Those who say how many pods there should be.
struct Scales {
    replica_sets: Cache<ReplicaSet>,
    deployments: Cache<Deployment>,
    stateful_sets: Cache<StatefulSet>,
    replication_controllers: Cache<ReplicationController>,
}

impl Scales {
    /// A new number of wanted pods changes what a percentage means.
    fn on_change(&self, budgets: &Cache<PodDisruptionBudget>, queue: &WorkQueue<ObjectKey>) {
        fn follow<K: Object>(
            cache: &Cache<K>,
            budgets: &Cache<PodDisruptionBudget>,
            queue: &WorkQueue<ObjectKey>,
            replicas: fn(&K) -> Option<i32>,
        ) {
            let (budgets, queue) = (budgets.clone(), queue.clone());
            cache.on_change(move |change| {
                if change.old.map(|old| replicas(old)) != change.new.map(|new| replicas(new)) {
                    for budget in budgets.in_namespace(&change.key.namespace) {
                        queue.add(budget.key());
                    }
                }
            });
        }
        follow(&self.replica_sets, budgets, queue, |set| set.spec.replicas);
        follow(&self.deployments, budgets, queue, |deployment| deployment.spec.replicas);
        follow(&self.stateful_sets, budgets, queue, |set| set.spec.replicas);
        follow(&self.replication_controllers, budgets, queue, |set| set.spec.as_ref()?.replicas);
    }

    async fn wait_synced(&self) {
        tokio::join!(
            self.replica_sets.wait_synced(),
            self.deployments.wait_synced(),
            self.stateful_sets.wait_synced(),
            self.replication_controllers.wait_synced(),
        );
    }

    /// Who decides how many pods there are of the kind of this one.
    fn of(&self, pod: &Pod) -> Scale {
        let Some(owner) = controller_of(&pod.metadata) else { return Scale::Unmanaged };
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let key = ObjectKey::new(namespace, owner.name.clone());
        let found = match (group(owner), owner.kind.as_str()) {
            ("apps", "ReplicaSet") => self.replica_sets.get(&key).and_then(|set| {
                let known = of_uid(&set.metadata, owner)?;
                // The one above scales the sets among themselves.
                let above = controller_of(&set.metadata)
                    .filter(|above| above.kind == "Deployment" && group(above) == "apps")
                    .and_then(|above| {
                        let deployment =
                            self.deployments.get(&ObjectKey::new(namespace, above.name.clone()))?;
                        Some((of_uid(&deployment.metadata, above)?, deployment.spec.replicas))
                    });
                Some(above.unwrap_or((known, set.spec.replicas)))
            }),
            ("apps", "StatefulSet") => {
                let set = self.stateful_sets.get(&key);
                set.and_then(|set| Some((of_uid(&set.metadata, owner)?, set.spec.replicas)))
            }
            ("", "ReplicationController") => self.replication_controllers.get(&key).and_then(|set| {
                Some((of_uid(&set.metadata, owner)?, set.spec.as_ref().and_then(|spec| spec.replicas)))
            }),
            _ => None,
        };
        found.map_or(Scale::Unknown, |(owner, replicas)| Scale::Of { owner, replicas: replicas.unwrap_or(1) })
    }
}

fn group(owner: &OwnerReference) -> &str {
    owner.api_version.split_once('/').map_or("", |(group, _)| group)
}

/// The uid, if it is the owner's: another object of its name is not meant.
fn of_uid(meta: &ObjectMeta, owner: &OwnerReference) -> Option<String> {
    meta.uid.clone().filter(|uid| *uid == owner.uid)
}

struct Controller {
    client: Client,
    budgets: Cache<PodDisruptionBudget>,
    pods: Cache<Pod>,
    scales: Scales,
    events: EventRecorder,
}

impl Controller {
    async fn reconcile(&self, key: ObjectKey) -> Result<Next, Error> {
        let Some(budget) = self.budgets.get(&key) else { return Ok(Next::Wait) };
        let selector = selector(&budget);
        let pods = self.pods.in_namespace(&key.namespace).into_iter();
        let pods = pods.filter(|pod| selector.matches_meta(pod.metadata.labels.as_ref()));
        let pods = pods.map(|pod| (self.scales.of(&pod), pod)).collect();
        let plan = decide::decide(&Observed { budget: &budget, pods }, Timestamp::now());
        for (kind, reason, message) in plan.events {
            self.events.record(client::events::reference(&*budget), kind, reason, message);
        }
        if let Some(status) = plan.status {
            let updated = PodDisruptionBudget { status: Some(status), ..(*budget).clone() };
            match self.client.namespaced::<PodDisruptionBudget>(&key.namespace).replace_status(&updated).await
            {
                Ok(_) => {}
                Err(error) if error.is_not_found() => {}
                // An eviction was faster: its change comes by the watch.
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(plan.next)
    }
}
