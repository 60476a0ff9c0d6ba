//! Claims of a pod, with the volumes that they are bound to.
//!
//! A pod gets its node when its claims are bound, and a binding does not change: one answer is enough, and its copy in the
//! pod's directory serves as long as the pod does, with or without a server.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use client::{Backoff, Client, ErrorChain};
use manifests::go::quote;
use manifests::k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use manifests::volumes::{claims_of, is_bound, is_for, is_reserved_for, volume_name};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::Seen;
use crate::disk::{self, Durability};
use crate::names;

const BACKOFF: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));

/// A claim and its volume.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BoundClaim {
    /// What is claimed.
    pub claim: PersistentVolumeClaim,
    /// What it got.
    pub volume: PersistentVolume,
}

/// What a claim is asked for with.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) client: Option<Client>,
    pub(super) pod: Arc<Pod>,
    pub(super) name: String,
    /// Where the copy is.
    pub(super) file: PathBuf,
}

/// The file of a claim below a pod's directory.
pub(super) fn file_name(name: &str) -> String {
    format!("claim-{name}.json")
}

/// Finds out what a claim is bound to, however long it takes; then there is nothing left to follow.
pub(super) async fn follow(asked: Asked, seen: watch::Sender<Option<Seen<BoundClaim>>>) {
    let copy = tokio::fs::read(&asked.file).await.ok();
    let copy: Option<BoundClaim> = copy.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    if let Some(copy) = copy {
        seen.send_replace(Some(Seen::Present(Arc::new(copy))));
        return std::future::pending().await;
    }
    for attempt in 0.. {
        match ask(&asked).await {
            Ok(bound) => {
                let kept = serde_json::to_vec(&bound).map(|bytes| {
                    let file = asked.file.clone();
                    tokio::task::spawn_blocking(move || disk::write(&file, &bytes, Durability::Process))
                });
                if let Ok(kept) = kept
                    && let Ok(Err(error)) = kept.await
                {
                    tracing::warn!(error = %ErrorChain(&error), "cannot keep a copy of a claim");
                }
                seen.send_replace(Some(Seen::Present(Arc::new(bound))));
                return std::future::pending().await;
            }
            Err(message) => {
                let state = Some(Seen::Unknown(message));
                seen.send_if_modified(|old| {
                    let changed = *old != state;
                    *old = state;
                    changed
                });
                tokio::time::sleep(BACKOFF.delay(attempt)).await;
            }
        }
    }
}

async fn ask(asked: &Asked) -> Result<BoundClaim, String> {
    let client = asked.client.as_ref().ok_or("this node has no API server")?;
    let (namespace, name) = (names::namespace(&asked.pod), &asked.name);
    let failed = |what: &str, error: client::Error| {
        format!("failed to fetch {what} from API server: {}", ErrorChain(&error))
    };
    let claims = client.namespaced::<PersistentVolumeClaim>(namespace);
    let mut claim = claims.get(name).await.map_err(|error| failed("PVC", error))?;
    let ephemeral = claims_of(&asked.pod).iter().any(|used| used.claim == *name && used.ephemeral);
    if ephemeral && !is_for(&claim, &asked.pod) {
        let (pod, why) = (names::pod_id(&asked.pod), "pod is not owner");
        return Err(format!("PVC {namespace}/{name} was not created for pod {pod} ({why})"));
    }
    if claim.metadata.deletion_timestamp.is_some() {
        return Err("PVC is being deleted".to_owned());
    }
    let Some(volume) = volume_name(&claim).filter(|_| is_bound(&claim)) else {
        return Err("PVC is not bound".to_owned());
    };
    let volume = client.all::<PersistentVolume>().get(volume).await;
    let mut volume = volume.map_err(|error| failed("PV", error))?;
    if !is_reserved_for(&volume, &claim) {
        let volume = quote(volume.metadata.name.as_deref().unwrap_or_default());
        return Err(format!("PV {volume} is not bound to PVC {namespace}/{name}"));
    }
    claim.metadata.managed_fields = None;
    volume.metadata.managed_fields = None;
    Ok(BoundClaim { claim, volume })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_copy_has_to_do_without_a_server() {
        let dir = tempfile::tempdir().unwrap();
        let bound =
            BoundClaim { claim: PersistentVolumeClaim::default(), volume: PersistentVolume::default() };
        let ask = |name: &str| {
            let pod = Arc::new(crate::fixture::pod("containers: [{name: a, image: i}]"));
            let file = dir.path().join(file_name(name));
            let asked = Asked { client: None, pod, name: name.to_owned(), file };
            let (sender, mut seen) = watch::channel(None);
            let task = tokio::spawn(follow(asked, sender));
            async move {
                let state = seen.wait_for(Option::is_some).await.unwrap().clone();
                task.abort();
                state.unwrap()
            }
        };
        assert!(matches!(ask("none").await, Seen::Unknown(_)));
        std::fs::write(dir.path().join(file_name("kept")), serde_json::to_vec(&bound).unwrap()).unwrap();
        assert!(matches!(ask("kept").await, Seen::Present(_)));
    }
}
