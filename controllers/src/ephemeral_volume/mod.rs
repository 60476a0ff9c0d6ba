//! Volumes that come and go with a pod: a claim by the template in the pod, owned by the pod.
//!
//! Follows upstream's ephemeral volume controller; that the claim goes again is the garbage collector's affair.

use client::{Cache, Client, Error, EventRecorder, Next, Object, ObjectKey, TaskGroup, WorkQueue};
use manifests::k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Volume};
use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use manifests::volumes::{claims_of, is_for};

use crate::context::Context;
use crate::ownership::controller_reference;
use crate::pod_state;

pub(crate) fn start(context: &Context, group: &mut TaskGroup) {
    let pods = context.informers.cache::<Pod>();
    let claims = context.informers.cache::<PersistentVolumeClaim>();
    let queue = WorkQueue::<ObjectKey>::new();
    let to = queue.clone();
    pods.on_change(move |change| {
        let wants = |pod: &Pod| claims_of(pod).iter().any(|used| used.ephemeral) && pod_state::is_active(pod);
        if change.new.is_some_and(|pod| wants(pod)) {
            to.add(change.key.clone());
        }
    });
    let (to, known) = (queue.clone(), pods.clone());
    claims.on_change(move |change| {
        // One that was deleted is made again.
        if change.new.is_none() {
            for pod in known.in_namespace(&change.key.namespace) {
                if claims_of(&pod).iter().any(|used| used.ephemeral && used.claim == change.key.name) {
                    to.add(pod.key());
                }
            }
        }
    });
    let events = context.recorder("ephemeral_volume", group);
    let (client, stop) = (context.client.clone(), group.stop().clone());
    group.spawn_infallible("ephemeral-volume-controller", async move {
        tokio::join!(pods.wait_synced(), claims.wait_synced());
        let controller = Controller { client, pods, claims, events };
        queue.work("ephemeral_volume", 1, &stop, |key| controller.reconcile(key)).await;
    });
}

struct Controller {
    client: Client,
    pods: Cache<Pod>,
    claims: Cache<PersistentVolumeClaim>,
    events: EventRecorder,
}

impl Controller {
    async fn reconcile(&self, key: ObjectKey) -> Result<Next, Error> {
        let Some(pod) = self.pods.get(&key).filter(|pod| pod_state::is_active(pod)) else {
            return Ok(Next::Wait);
        };
        for used in claims_of(&pod).into_iter().filter(|used| used.ephemeral) {
            if let Some(known) = self.claims.get(&ObjectKey::new(&*key.namespace, used.claim.clone())) {
                if !is_for(&known, &pod) {
                    let message = format!(
                        "PVC {} was not created for pod {} (pod is not owner)",
                        known.key(),
                        pod.key()
                    );
                    self.events.warning(&*pod, "FailedBinding", message);
                }
                continue;
            }
            let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
            let Some(volume) = volumes.clone().find(|volume| volume.name == used.volume) else { continue };
            let Some(claim) = claim_for(&pod, volume, &used.claim) else { continue };
            match self.client.namespaced::<PersistentVolumeClaim>(&key.namespace).create(&claim).await {
                Ok(_) => {}
                // The watch brings it, or takes the pod away.
                Err(error) if error.is_already_exists() || error.is_namespace_terminating() => {}
                Err(error) => {
                    let message = format!("ephemeral volume controller create volume: {error}");
                    self.events.warning(&*pod, "FailedBinding", message);
                    return Err(error);
                }
            }
        }
        Ok(Next::Wait)
    }
}

/// The claim that a volume's template describes.
fn claim_for(pod: &Pod, volume: &Volume, name: &str) -> Option<PersistentVolumeClaim> {
    let template = volume.ephemeral.as_ref()?.volume_claim_template.as_ref()?;
    let meta = template.metadata.clone().unwrap_or_default();
    Some(PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: meta.labels,
            annotations: meta.annotations,
            owner_references: Some(vec![controller_reference(pod)]),
            ..ObjectMeta::default()
        },
        spec: Some(template.spec.clone()),
        status: None,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_claim_belongs_to_its_pod() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"containers": [], "volumes": [{"name": "v", "ephemeral": {"volumeClaimTemplate": {
                "metadata": {"labels": {"a": "b"}},
                "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}},
            }}}]},
        }))
        .unwrap();
        let used = claims_of(&pod);
        assert_eq!((used[0].claim.as_str(), used[0].ephemeral), ("p-v", true));
        let volume = pod.spec.as_ref().unwrap().volumes.as_ref().unwrap();
        let claim = claim_for(&pod, &volume[0], &used[0].claim).unwrap();
        assert!(is_for(&claim, &pod));
        assert_eq!(claim.metadata.labels.as_ref().unwrap()["a"], "b");
        let mut other = pod.clone();
        other.metadata.uid = Some("later".to_owned());
        assert!(!is_for(&claim, &other));
    }
}
