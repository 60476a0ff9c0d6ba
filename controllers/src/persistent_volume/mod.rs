//! PersistentVolumes and claims: who gets what, and what becomes of it.
//!
//! Follows upstream's persistent volume binder and its two protection controllers. Every pass writes one object at most;
//! the watch brings the next pass. There is one storage class of coracle's own, `local-path`, which turns directories of
//! nodes into volumes; the node makes the directory, and removes it (`agent/src/volume/reclaim.rs`).

mod claim;
#[cfg(test)]
mod tests;
mod volume;

use std::time::Duration;

use client::{
    Backoff, Cache, Client, Error, ErrorChain, EventRecorder, Next, Object, ObjectKey, TaskGroup, WorkQueue,
};
use manifests::k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use manifests::k8s_openapi::api::storage::v1::StorageClass;
use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use manifests::k8s_openapi::jiff::Timestamp;
use manifests::volumes::{
    DEFAULT_CLASS, LOCAL_PATH_PROVISIONER, UsedClaim, claim_class, claims_of, is_bound, is_for, volume_name,
};

use crate::context::Context;

/// Pauses until the class could be made.
const BACKOFF: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
/// The class for those who choose none.
const CLASS: &str = "local-path";

pub(crate) fn start(context: &Context, group: &mut TaskGroup) {
    let claims = context.informers.cache::<PersistentVolumeClaim>();
    let volumes = context.informers.cache::<PersistentVolume>();
    let classes = context.informers.cache::<StorageClass>();
    let nodes = context.informers.cache::<Node>();
    let pods = context.informers.cache::<Pod>();
    // Claims have a namespace, volumes have none: one worker decides about both, so that no two decisions meet.
    let queue = WorkQueue::<ObjectKey>::new();
    let to = queue.clone();
    claims.on_change(move |change| {
        to.add(change.key.clone());
        for name in change.states().filter_map(|claim| volume_name(claim)) {
            to.add(ObjectKey::cluster(name));
        }
    });
    let (to, known) = (queue.clone(), claims.clone());
    volumes.on_change(move |change| {
        to.add(change.key.clone());
        for volume in change.states() {
            let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
            match reference {
                Some(reference) => to.add(ObjectKey::new(
                    reference.namespace.clone().unwrap_or_default(),
                    reference.name.clone().unwrap_or_default(),
                )),
                // A free volume is for whoever waits.
                None => waiting(&known).for_each(|key| to.add(key)),
            }
        }
        let gone = ObjectKey::cluster(change.key.name.clone());
        if change.new.is_none() {
            let of_it = |claim: &PersistentVolumeClaim| volume_name(claim) == Some(&gone.name);
            known.list().iter().filter(|claim| of_it(claim)).for_each(|claim| to.add(claim.key()));
        }
    });
    let (to, known) = (queue.clone(), claims.clone());
    classes.on_change(move |_| waiting(&known).for_each(|key| to.add(key)));
    let to = queue.clone();
    pods.on_change(move |change| {
        for pod in change.states() {
            for used in claims_of(pod) {
                to.add(ObjectKey::new(pod.namespace(), used.claim));
            }
        }
    });
    let events = context.recorder("persistentvolume-controller", group);
    let (client, stop) = (context.client.clone(), group.stop().clone());
    group.spawn_infallible("persistentvolume-binder", async move {
        tokio::join!(
            claims.wait_synced(),
            volumes.wait_synced(),
            classes.wait_synced(),
            nodes.wait_synced(),
            pods.wait_synced(),
        );
        let class = async {
            if classes.get(&ObjectKey::cluster(CLASS)).is_none() {
                stop.run_until_cancelled(make_class(&client)).await;
            }
        };
        let (client, classes) = (client.clone(), classes.clone());
        let controller = Controller { client, claims, volumes, classes, nodes, pods, events };
        tokio::join!(class, queue.work("persistentvolume", 1, &stop, |key| controller.reconcile(key)));
    });
}

/// Claims without a volume.
fn waiting(claims: &Cache<PersistentVolumeClaim>) -> impl Iterator<Item = ObjectKey> + use<> {
    claims.list().into_iter().filter(|claim| !is_bound(claim)).map(|claim| claim.key())
}

/// Whoever does not want it marks another class as default, or takes the mark away.
async fn make_class(client: &Client) {
    let class = StorageClass {
        metadata: ObjectMeta {
            name: Some(CLASS.to_owned()),
            annotations: Some([(DEFAULT_CLASS.to_owned(), "true".to_owned())].into()),
            ..ObjectMeta::default()
        },
        provisioner: LOCAL_PATH_PROVISIONER.to_owned(),
        reclaim_policy: Some("Delete".to_owned()),
        volume_binding_mode: Some("WaitForFirstConsumer".to_owned()),
        ..StorageClass::default()
    };
    for attempt in 0.. {
        match client.all::<StorageClass>().create(&class).await {
            Ok(_) => return,
            Err(error) if error.is_already_exists() => return,
            Err(error) => {
                tracing::warn!(error = %ErrorChain(&error), "no default storage class");
                tokio::time::sleep(BACKOFF.delay(attempt)).await;
            }
        }
    }
}

struct Controller {
    client: Client,
    claims: Cache<PersistentVolumeClaim>,
    volumes: Cache<PersistentVolume>,
    classes: Cache<StorageClass>,
    nodes: Cache<Node>,
    pods: Cache<Pod>,
    events: EventRecorder,
}

impl Controller {
    async fn reconcile(&self, key: ObjectKey) -> Result<Next, Error> {
        let written = if key.namespace.is_empty() {
            self.reconcile_volume(&key).await
        } else {
            self.reconcile_claim(&key).await
        };
        match written {
            // It went away, or somebody else was faster: the watch brings it.
            Err(error) if error.is_not_found() || error.is_already_exists() => Ok(Next::Wait),
            Err(error) => Err(error),
            Ok(()) => Ok(Next::Wait),
        }
    }

    async fn reconcile_claim(&self, key: &ObjectKey) -> Result<(), Error> {
        let Some(claim) = self.claims.get(key) else { return Ok(()) };
        let mut volumes = self.volumes.list();
        if let Some(name) = volume_name(&claim)
            && !volumes.iter().any(|volume| volume.name() == name)
        {
            // Lost is final: the cache may be behind, the server is not.
            volumes.extend(self.client.all::<PersistentVolume>().get_opt(name).await?.map(Into::into));
        }
        let uses =
            |pod: &Pod, used: &UsedClaim| used.claim == key.name && (!used.ephemeral || is_for(&claim, pod));
        let mut pods = self.pods.in_namespace(&key.namespace);
        pods.retain(|pod| claims_of(pod).iter().any(|used| uses(pod, used)));
        if claim.metadata.deletion_timestamp.is_some() && pods.is_empty() {
            // As well: a pod that was made a moment ago may use it already.
            let api = self.client.namespaced::<Pod>(&key.namespace);
            let newest = api.list_all(&client::ListParams::default()).await?.items;
            pods.extend(newest.into_iter().map(std::sync::Arc::new));
            pods.retain(|pod| claims_of(pod).iter().any(|used| uses(pod, used)));
        }
        let seen =
            claim::Observed { claim, volumes, classes: self.classes.list(), nodes: self.nodes.list(), pods };
        let plan = claim::decide(&seen);
        let api = self.client.namespaced::<PersistentVolumeClaim>(&key.namespace);
        let written = match &plan.write {
            None => Ok(()),
            Some(claim::Write::Volume(volume)) => {
                self.client.all::<PersistentVolume>().replace(volume).await.map(drop)
            }
            Some(claim::Write::NewVolume(volume)) => {
                self.client.all::<PersistentVolume>().create(volume).await.map(drop)
            }
            Some(claim::Write::Claim(claim)) => api.replace(claim).await.map(drop),
            Some(claim::Write::ClaimStatus(claim)) => api.replace_status(claim).await.map(drop),
        };
        written?;
        if let Some((kind, reason, message)) = plan.event {
            tracing::debug!(claim = %key, class = claim_class(&seen.claim), reason, message, "claim");
            self.events.record(client::events::reference(&*seen.claim), kind, reason, message);
        }
        Ok(())
    }

    async fn reconcile_volume(&self, key: &ObjectKey) -> Result<(), Error> {
        let Some(volume) = self.volumes.get(key) else { return Ok(()) };
        let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
        let mut claim = None;
        if let Some(reference) = reference {
            let (namespace, name) = (
                reference.namespace.as_deref().unwrap_or_default(),
                reference.name.as_deref().unwrap_or_default(),
            );
            claim = self.claims.get(&ObjectKey::new(namespace, name));
            if claim.as_ref().is_none_or(|claim| Some(claim.uid()) != reference.uid.as_deref()) {
                // Released is final, and the data may go.
                let api = self.client.namespaced::<PersistentVolumeClaim>(namespace);
                claim = api.get_opt(name).await?.map(Into::into);
            }
        }
        let plan = volume::decide(&volume, claim.as_deref(), Timestamp::now());
        let api = self.client.all::<PersistentVolume>();
        match &plan.write {
            None => {}
            Some(volume::Write::Volume(volume)) => drop(api.replace(volume).await?),
            Some(volume::Write::Status(volume)) => drop(api.replace_status(volume).await?),
            Some(volume::Write::Delete) => {
                api.delete_opt(volume.name(), &client::DeleteParams::uid(volume.uid())).await?;
            }
        }
        if let Some((kind, reason, message)) = plan.event {
            self.events.record(client::events::reference(&*volume), kind, reason, message);
        }
        Ok(())
    }
}
