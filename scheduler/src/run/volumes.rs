//! Gets a pod's volumes before the pod gets its node.

use std::time::Duration;

use client::{Cache, Client, Error, ErrorChain, Object as _, ObjectKey};
use manifests::k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim};
use manifests::volumes::{BOUND_BY_CONTROLLER, SELECTED_NODE, is_bound};

use crate::plugins::volume_binding::Decision;

/// Upstream's: whoever makes volumes has so long.
const PATIENCE: Duration = Duration::from_secs(600);

/// Writes down how claims get their volumes, and waits until they have them. The error is in words for the user.
pub(super) async fn bind(
    client: &Client,
    claims: &Cache<PersistentVolumeClaim>,
    decisions: &[Decision],
    node: &str,
) -> Result<(), String> {
    for decision in decisions {
        let written = match decision {
            Decision::Take(claim, volume) => take(client, claim, volume).await,
            Decision::Make(claim) => choose(client, claim, node).await,
        };
        written.map_err(|error| format!("binding volumes: {}", ErrorChain(&error)))?;
    }
    let all = async {
        for decision in decisions {
            let (Decision::Take(claim, _) | Decision::Make(claim)) = decision;
            claims.wait_until(&claim.key(), |now| now.is_none_or(is_bound)).await;
        }
    };
    if tokio::time::timeout(PATIENCE, all).await.is_err() {
        return Err("binding volumes: timed out waiting for the condition".to_owned());
    }
    let gone = decisions.iter().map(|(Decision::Take(claim, _) | Decision::Make(claim))| claim.key());
    match gone.into_iter().find(|key: &ObjectKey| claims.get(key).is_none()) {
        Some(key) => Err(format!("binding volumes: persistentvolumeclaim {:?} not found", key.name)),
        None => Ok(()),
    }
}

/// The volume is the claim's; the controller does the rest.
async fn take(
    client: &Client,
    claim: &PersistentVolumeClaim,
    volume: &PersistentVolume,
) -> Result<(), Error> {
    let mut volume = volume.clone();
    volume
        .metadata
        .annotations
        .get_or_insert_default()
        .insert(BOUND_BY_CONTROLLER.to_owned(), "yes".to_owned());
    volume.spec.get_or_insert_default().claim_ref = Some(ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("PersistentVolumeClaim".to_owned()),
        namespace: claim.metadata.namespace.clone(),
        name: claim.metadata.name.clone(),
        uid: claim.metadata.uid.clone(),
        resource_version: claim.metadata.resource_version.clone(),
        ..ObjectReference::default()
    });
    client.all::<PersistentVolume>().replace(&volume).await.map(drop)
}

/// The claim's volume is to be made on the node.
async fn choose(client: &Client, claim: &PersistentVolumeClaim, node: &str) -> Result<(), Error> {
    let mut claim = claim.clone();
    claim.metadata.annotations.get_or_insert_default().insert(SELECTED_NODE.to_owned(), node.to_owned());
    client.namespaced::<PersistentVolumeClaim>(claim.namespace()).replace(&claim).await.map(drop)
}
