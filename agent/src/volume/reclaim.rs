//! Removes directories of this node that were volumes, when nobody claims them any more.
//!
//! A volume is removed only if the server says that it is released, that it is to be deleted, and that it is a directory
//! of this node's own: a volume that merely vanished (a server restored from an old copy, another cluster) keeps its data.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use client::{
    Cache, Client, DeleteParams, Error, ErrorChain, EventType, Informer, Next, Object as _, ObjectKey,
    WorkQueue,
};
use manifests::k8s_openapi::api::core::v1::PersistentVolume;
use manifests::volumes::{LOCAL_PATH_NODE, LOCAL_PATH_PROVISIONER, PROVISIONED_BY, annotation};
use tokio_util::sync::CancellationToken;

use super::mount;
use crate::events::Events;

/// Where a node has its volumes, below its data directory.
pub fn directory(data_dir: &Path) -> PathBuf {
    data_dir.join("storage")
}

/// Watches volumes until told to stop. `base` has the volumes of this node.
pub async fn run(client: Client, node: String, base: PathBuf, events: Events, stop: CancellationToken) {
    let informer = Informer::with_trim(client.all::<PersistentVolume>(), client::cache::trim_managed_fields);
    let volumes: Cache<PersistentVolume> = informer.cache();
    let queue = WorkQueue::<ObjectKey>::new();
    let to = queue.clone();
    let (here, place) = (node.clone(), base.clone());
    volumes.on_change(move |change| {
        if change.new.is_some_and(|volume| doomed(volume, &here, &place).is_some()) {
            to.add(change.key.clone());
        }
    });
    let work = queue.work("volumes", 1, &stop, |key| {
        let volume = volumes.get(&key);
        reclaim(&client, volume, &node, &base, &events)
    });
    tokio::join!(informer.run(stop.clone()), work);
}

async fn reclaim(
    client: &Client,
    volume: Option<Arc<PersistentVolume>>,
    node: &str,
    base: &Path,
    events: &Events,
) -> Result<Next, Error> {
    let Some(volume) = volume else { return Ok(Next::Wait) };
    let Some(path) = doomed(&volume, node, base) else { return Ok(Next::Wait) };
    let removed = path.clone();
    // Many files take their time. Only fails when the process is stopping.
    let result = tokio::task::spawn_blocking(move || mount::remove(&removed)).await;
    if let Ok(Err(error)) = result {
        let message = format!("failed to delete volume {}: {}", volume.name(), ErrorChain(&error));
        tracing::warn!(volume = volume.name(), path = %path.display(), message, "a volume's data stays");
        events.about(client::events::reference(&*volume), EventType::Warning, "VolumeFailedDelete", message);
        return Ok(Next::After(std::time::Duration::from_secs(60)));
    }
    tracing::info!(volume = volume.name(), path = %path.display(), "removed the data of a released volume");
    client.all::<PersistentVolume>().delete_opt(volume.name(), &DeleteParams::uid(volume.uid())).await?;
    Ok(Next::Wait)
}

/// The directory of a volume whose data is to go, if it is this node's.
fn doomed(volume: &PersistentVolume, node: &str, base: &Path) -> Option<PathBuf> {
    let spec = volume.spec.as_ref()?;
    let released = volume.status.as_ref()?.phase.as_deref() == Some("Released");
    let ours = annotation(&volume.metadata, PROVISIONED_BY) == Some(LOCAL_PATH_PROVISIONER)
        && annotation(&volume.metadata, LOCAL_PATH_NODE) == Some(node);
    let delete = spec.persistent_volume_reclaim_policy.as_deref() == Some("Delete");
    if !(released && ours && delete) || volume.metadata.deletion_timestamp.is_some() {
        return None;
    }
    // Whoever may write volumes must not have the node remove something else.
    let path = PathBuf::from(&spec.host_path.as_ref()?.path);
    let name = path.file_name()?.to_str()?;
    let own = path.parent() == Some(base) && name.starts_with(&format!("{}_", volume.name()));
    own.then_some(path)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_is_released_and_ours() {
        let check = |node: &str, by: &str, policy: &str, phase: &str, path: &str, expected: bool| {
            let volume = serde_json::from_value(json!({
                "metadata": {"name": "pvc-1", "annotations": {
                    "coracle/node": node, "pv.kubernetes.io/provisioned-by": by,
                }},
                "spec": {"persistentVolumeReclaimPolicy": policy, "hostPath": {"path": path}},
                "status": {"phase": phase},
            }))
            .unwrap();
            assert_eq!(doomed(&volume, "n", Path::new("/d/storage")).is_some(), expected, "{path} {phase}");
        };
        let (by, own) = (LOCAL_PATH_PROVISIONER, "/d/storage/pvc-1_ns_claim");
        check("n", by, "Delete", "Released", own, true);
        check("m", by, "Delete", "Released", own, false);
        check("n", "x", "Delete", "Released", own, false);
        check("n", by, "Retain", "Released", own, false);
        check("n", by, "Delete", "Bound", own, false);
        for path in [
            "/etc",
            "/d/storage",
            "/d/storage/pvc-2_ns_claim",
            "/d/storage/pvc-1_ns_claim/..",
            "/d/storage/../pvc-1_x",
        ] {
            check("n", by, "Delete", "Released", path, false);
        }
    }
}
