//! Pods from the API server, and a copy of them on disk.
//!
//! Until the server has answered once, the pods are those of the copy: a node that starts without its server
//! runs what it ran before. What is not in the copy is then not known to be unwanted, so the source is not ready.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use client::watcher::{Event, Params, Watcher};
use client::{Client, ErrorChain};
use manifests::k8s_openapi::api::core::v1::Pod;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Wanted;
use crate::disk::{self, DiskError, Durability};
use crate::names::{is_mirror, uid};

/// Follows the pods that are bound to `node`; `checkpoint` is the directory of the copy.
pub async fn run(
    client: Client,
    node: String,
    checkpoint: PathBuf,
    wanted: watch::Sender<Wanted>,
    stop: CancellationToken,
) {
    let copy = Checkpoint { dir: checkpoint };
    let mut pods: BTreeMap<String, Arc<Pod>> = copy.read();
    if !pods.is_empty() {
        wanted.send_replace(Wanted {
            ready: false,
            pods: pods.values().cloned().collect(),
            ..Wanted::default()
        });
    }
    let params = Params::default().fields(format!("spec.nodeName={node}"));
    let mut watcher = Watcher::new(client.all::<Pod>(), params);
    loop {
        let event = tokio::select! {
            () = stop.cancelled() => return,
            event = watcher.next() => event,
        };
        let before = pods.clone();
        match event {
            Event::Restarted(list) => {
                pods = list.into_iter().map(|pod| (uid(&pod).to_owned(), trimmed(pod))).collect();
            }
            Event::Applied(pod) => drop(pods.insert(uid(&pod).to_owned(), trimmed(pod))),
            Event::Deleted(pod) => drop(pods.remove(uid(&pod))),
        }
        wanted.send_replace(Wanted {
            ready: true,
            pods: pods.values().cloned().collect(),
            ..Wanted::default()
        });
        copy.follow(&before, &pods).await;
    }
}

/// Managed fields are most of an object and nothing to us.
fn trimmed(mut pod: Pod) -> Arc<Pod> {
    pod.metadata.managed_fields = None;
    Arc::new(pod)
}

/// The copy: a file per pod, without its status, which changes often and is kept elsewhere.
#[derive(Debug, Clone)]
struct Checkpoint {
    dir: PathBuf,
}

impl Checkpoint {
    /// All pods of the copy. A file that cannot be read is reported and left alone.
    fn read(&self) -> BTreeMap<String, Arc<Pod>> {
        let mut pods = BTreeMap::new();
        let Ok(entries) = std::fs::read_dir(&self.dir) else { return pods };
        for path in entries.flatten().map(|entry| entry.path()) {
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let pod = std::fs::read(&path)
                .map_err(|error| error.to_string())
                .and_then(|bytes| serde_json::from_slice::<Pod>(&bytes).map_err(|error| error.to_string()));
            match pod {
                Ok(pod) => drop(pods.insert(uid(&pod).to_owned(), Arc::new(pod))),
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "cannot read the copy of a pod");
                }
            }
        }
        pods
    }

    /// Makes the copy what `after` is.
    async fn follow(&self, before: &BTreeMap<String, Arc<Pod>>, after: &BTreeMap<String, Arc<Pod>>) {
        let mut writes = Vec::new();
        for (uid, pod) in after {
            let changed = match before.get(uid) {
                Some(old) => !Arc::ptr_eq(old, pod) && is_news(old, pod),
                None => true,
            };
            if changed && !is_mirror(pod) && is_file_name(uid) {
                writes.push((uid.clone(), pod.clone()));
            }
        }
        let removals: Vec<String> =
            before.keys().filter(|uid| !after.contains_key(*uid) && is_file_name(uid)).cloned().collect();
        if writes.is_empty() && removals.is_empty() {
            return;
        }
        let dir = self.dir.clone();
        let task = tokio::task::spawn_blocking(move || {
            for (uid, pod) in writes {
                if let Err(error) = write(&dir, &uid, &pod) {
                    tracing::warn!(uid, error = %ErrorChain(&error), "cannot keep a copy of a pod");
                }
            }
            for uid in removals {
                if let Err(error) = disk::remove(&dir.join(format!("{uid}.json"))) {
                    tracing::warn!(uid, %error, "cannot remove the copy of a pod");
                }
            }
        });
        if let Err(error) = task.await {
            tracing::error!(%error, "keeping copies of pods");
        }
    }
}

fn write(dir: &Path, uid: &str, pod: &Pod) -> Result<(), DiskError> {
    let copy = Pod { metadata: pod.metadata.clone(), spec: pod.spec.clone(), status: None };
    let Ok(bytes) = serde_json::to_vec(&copy) else { return Ok(()) };
    disk::write(&dir.join(format!("{uid}.json")), &bytes, Durability::Power)
}

/// Whether anything but the status changed; our own status writes are half of all changes.
fn is_news(old: &Pod, new: &Pod) -> bool {
    let meta = |pod: &Pod| {
        let mut meta = pod.metadata.clone();
        meta.resource_version = None;
        meta
    };
    old.spec != new.spec || meta(old) != meta(new)
}

/// uids are made by the server; one that would leave the directory is not used as a name.
fn is_file_name(uid: &str) -> bool {
    !uid.is_empty() && !uid.starts_with('.') && !uid.contains('/')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    fn set(pods: &[Pod]) -> BTreeMap<String, Arc<Pod>> {
        pods.iter().map(|pod| (uid(pod).to_owned(), Arc::new(pod.clone()))).collect()
    }

    #[tokio::test]
    async fn the_copy_follows() {
        let dir = tempfile::tempdir().unwrap();
        let copy = Checkpoint { dir: dir.path().join("pods") };
        assert!(copy.read().is_empty());
        let mut pod = fixture::pod("containers: [{name: a, image: i}]");
        let first = set(&[pod.clone()]);
        copy.follow(&BTreeMap::new(), &first).await;
        assert_eq!(copy.read()["u1"].spec, pod.spec);

        pod.metadata.resource_version = Some("2".into());
        pod.status = Some(Default::default());
        assert!(!is_news(&first["u1"], &pod), "a status is no news");
        pod.metadata.labels = Some(BTreeMap::from([("a".into(), "b".into())]));
        let second = set(&[pod]);
        copy.follow(&first, &second).await;
        assert_eq!(copy.read()["u1"].metadata.labels, second["u1"].metadata.labels);

        copy.follow(&second, &BTreeMap::new()).await;
        assert!(copy.read().is_empty());
    }
}
