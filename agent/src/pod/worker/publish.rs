//! Telling the API and the disk how a pod is: at once when it changes, one write at a time, the last one never lost.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use client::{Backoff, Client, ErrorChain, ErrorClass, Patch};
use futures_util::future::BoxFuture;
use manifests::k8s_openapi::api::core::v1::{Pod, PodStatus};
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::super::status::is_terminal;
use super::record::{FILE, Record};
use crate::disk::{self, Durability};
use crate::names;

/// After so many failures in a row, a pod that is gone may be deleted without its last status.
const PATIENCE: u32 = 8;
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));

/// What came of a write to the API.
#[derive(Debug)]
enum Written {
    /// This is the object now, after this status was sent.
    Done(Box<Pod>, Box<PodStatus>),
    /// Try again.
    Failed,
    /// There is no such object any more.
    Gone,
}

/// Writes of one pod.
pub(super) struct Publisher {
    client: Option<Client>,
    file: PathBuf,
    /// The object whose status is written: the pod's own, or its mirror.
    object: Option<Arc<Pod>>,
    /// The status that it has, as far as we know.
    known: PodStatus,
    /// Which version of the object has it.
    known_version: u64,
    wanted: Option<PodStatus>,
    writing: Option<BoxFuture<'static, Written>>,
    failures: u32,
    retry_at: Option<Instant>,
    record: Option<Record>,
    recorded: Option<Record>,
    recording: Option<tokio::task::JoinHandle<()>>,
}

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Publisher")
            .field("writing", &self.writing.is_some())
            .field("failures", &self.failures)
            .finish_non_exhaustive()
    }
}

impl Publisher {
    pub(super) fn new(client: Option<Client>, pod_dir: &std::path::Path, recorded: Option<Record>) -> Self {
        Self {
            client,
            file: pod_dir.join(FILE),
            object: None,
            known: PodStatus::default(),
            known_version: 0,
            wanted: None,
            writing: None,
            failures: 0,
            retry_at: None,
            record: None,
            recorded,
            recording: None,
        }
    }

    /// The object as the API has it now. What others wrote over our status is noticed and written again.
    pub(super) fn object(&mut self, object: Option<Arc<Pod>>) {
        if let Some(object) = &object {
            let version = version(object);
            let other = self.object.as_ref().is_none_or(|old| old.metadata.uid != object.metadata.uid);
            // The same version is what our own write was answered with, an older one an echo of a write before.
            if other || version > self.known_version {
                self.known = object.status.clone().unwrap_or_default();
                self.known_version = version;
            }
        }
        self.object = object;
        self.begin();
    }

    /// Has this status written.
    pub(super) fn status(&mut self, status: &PodStatus) {
        if self.wanted.as_ref() != Some(status) {
            self.wanted = Some(status.clone());
            self.begin();
        }
    }

    /// Has this record kept.
    pub(super) fn record(&mut self, record: Record) {
        if self.recorded.as_ref() != Some(&record) {
            self.record = Some(record);
            self.begin_record();
        }
    }

    /// Whether the API has the last status, or does not take it.
    pub(super) fn is_settled(&self) -> bool {
        self.failures > PATIENCE || (self.writing.is_none() && self.patch().is_none())
    }

    fn patch(&self) -> Option<Value> {
        let (object, wanted) = (self.object.as_ref()?, self.wanted.as_ref()?);
        self.client.as_ref()?;
        let changes = changes(&self.known, wanted)?;
        // With the uid: a pod of the same name that came later must not get this status.
        Some(json!({ "metadata": { "uid": names::uid(object) }, "status": changes }))
    }

    fn begin(&mut self) {
        if self.writing.is_some() || self.retry_at.is_some() {
            return;
        }
        let Some(patch) = self.patch() else { return };
        let (Some(client), Some(object)) = (self.client.clone(), self.object.clone()) else { return };
        let Some(sent) = self.wanted.clone() else { return };
        self.writing = Some(Box::pin(async move {
            let api = client.namespaced::<Pod>(names::namespace(&object));
            match api.patch_status(names::name(&object), &Patch::Merge(patch)).await {
                Ok(pod) => Written::Done(Box::new(pod), Box::new(sent)),
                Err(error) if error.is_not_found() => Written::Gone,
                Err(error) => {
                    let class = error.class();
                    let chain = ErrorChain(&error);
                    let pod = names::pod_id(&object);
                    match class {
                        ErrorClass::Retry => tracing::debug!(%pod, error = %chain, "writing a status"),
                        _ => tracing::warn!(%pod, error = %chain, "writing a status"),
                    }
                    Written::Failed
                }
            }
        }));
    }

    fn begin_record(&mut self) {
        if self.recording.is_some() {
            return;
        }
        let Some(record) = self.record.take() else { return };
        let (file, copy) = (self.file.clone(), record.clone());
        // Losing that a pod is over would run it again.
        let over = record.status.phase.as_deref().is_some_and(is_terminal);
        let durability = if over { Durability::Power } else { Durability::Process };
        self.recorded = Some(record);
        self.recording = Some(tokio::task::spawn_blocking(move || {
            let written = serde_json::to_vec(&copy).map_err(|error| error.to_string()).and_then(|bytes| {
                disk::write(&file, &bytes, durability).map_err(|error| ErrorChain(&error).to_string())
            });
            if let Err(error) = written {
                tracing::warn!(error, "cannot keep the record of a pod");
            }
        }));
    }

    /// Goes on with what is to be written. Returns when a write is over; never if there is nothing to do. Cancel safe:
    /// a write that is under way stays so.
    pub(super) async fn next(&mut self) {
        let retry_at = self.retry_at;
        tokio::select! {
            written = poll(&mut self.writing) => {
                self.writing = None;
                match written {
                    Written::Done(pod, sent) => {
                        self.failures = 0;
                        self.known_version = version(&pod);
                        // A server that keeps something else than it was sent would be asked again for ever.
                        self.known = *sent;
                    }
                    Written::Failed => {
                        self.retry_at = Some(Instant::now() + BACKOFF.delay(self.failures));
                        self.failures = self.failures.saturating_add(1);
                    }
                    Written::Gone => self.object = None,
                }
                self.begin();
            }
            () = tokio::time::sleep_until(retry_at.unwrap_or_else(Instant::now)), if retry_at.is_some() => {
                self.retry_at = None;
                self.begin();
            }
            () = recorded(&mut self.recording) => {
                self.recording = None;
                self.begin_record();
            }
        }
    }

    /// Whether the record is on disk as it should be.
    pub(super) fn is_recorded(&self) -> bool {
        self.recording.is_none() && self.record.is_none()
    }

    /// Waits until the record is on disk.
    pub(super) async fn settle_record(&mut self) {
        while self.recording.is_some() {
            recorded(&mut self.recording).await;
            self.recording = None;
            self.begin_record();
        }
    }
}

async fn poll(writing: &mut Option<BoxFuture<'static, Written>>) -> Written {
    match writing {
        Some(writing) => Pin::new(writing).await,
        None => std::future::pending().await,
    }
}

async fn recorded(recording: &mut Option<tokio::task::JoinHandle<()>>) {
    match recording {
        // Only fails when the process is stopping.
        Some(recording) => drop(recording.await),
        None => std::future::pending().await,
    }
}

/// Versions are numbers for us, although they need not be: an unknown one is taken for a new one.
fn version(pod: &Pod) -> u64 {
    pod.metadata.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(u64::MAX)
}

/// The merge patch from one status to another: what changed whole, and null for what is gone.
fn changes(known: &PodStatus, wanted: &PodStatus) -> Option<Map<String, Value>> {
    if known == wanted {
        return None;
    }
    let object = |status: &PodStatus| match serde_json::to_value(status) {
        Ok(Value::Object(object)) => object,
        _ => Map::new(),
    };
    let (known, wanted) = (object(known), object(wanted));
    let mut changes = Map::new();
    for (key, value) in &wanted {
        if known.get(key) != Some(value) {
            changes.insert(key.clone(), value.clone());
        }
    }
    for key in known.keys().filter(|key| !wanted.contains_key(*key)) {
        // Not ours to take away.
        if !matches!(key.as_str(), "ephemeralContainerStatuses" | "nominatedNodeName" | "resize") {
            changes.insert(key.clone(), Value::Null);
        }
    }
    (!changes.is_empty()).then_some(changes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches_say_what_changed() {
        let status = |text: &str| serde_yaml::from_str::<PodStatus>(text).unwrap();
        for (known, wanted, expected) in [
            ("{phase: Pending}", "{phase: Pending}", json!(null)),
            (
                "{phase: Pending}",
                "{phase: Running, podIP: 1.2.3.4}",
                json!({"phase": "Running", "podIP": "1.2.3.4"}),
            ),
            ("{phase: Failed, reason: Evicted}", "{phase: Failed}", json!({"reason": null})),
            ("{phase: Running, nominatedNodeName: x}", "{phase: Running}", json!(null)),
        ] {
            let found = changes(&status(known), &status(wanted)).map_or(Value::Null, Value::Object);
            assert_eq!(found, expected, "{known} {wanted}");
        }
    }
}
