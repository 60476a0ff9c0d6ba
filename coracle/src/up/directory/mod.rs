//! A directory is a cluster: writes what files say to the control plane of this process, and removes what they say no more.
//!
//! ```text
//!   files ──▶ agent's sources ──┬─ pods ──────▶ static pods, started by the agent itself
//!                               └─ all others ─▶ here: decide ─▶ apply or delete through the API ─▶ controllers
//! ```
//!
//! An object is brought to its file as `kubectl apply` would do it: what the file says, minus what it said before; other
//! fields are left alone. The names of all objects that may have been written are in a file of their own, written before
//! the objects are: so a file that was removed while nobody looked takes its objects with it, and an object that somebody
//! made by other means is never removed.
//!
//! An object that is changed or deleted by others comes back to what its file says, as soon as the watch of its kind tells; if
//! somebody insists, more and more slowly.
//!
//! What the server refuses is said once, with line and column, and leaves the object as it was.

mod apply;
mod decide;
mod drift;
mod ledger;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use agent::sources::Objects;
use agent::sources::manifest::ObjectId;
use client::{Backoff, Client, EventType};
use manifests::k8s_openapi::api::core::v1::ObjectReference;
use manifests::yaml::Document;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use apply::{Change, Writer};
use decide::{Observed, Plan, Result, decide};
use drift::Drift;
use ledger::Ledger;

/// Pauses after something that may work the next time.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(60));

/// An object that had to be brought back so often in a row is brought back later and later.
const PATIENCE: u32 = 3;
/// Until nobody touches it for so long.
const FORGOTTEN: Duration = Duration::from_secs(120);

/// Follows what the files say until told to stop.
#[derive(Debug)]
pub(super) struct Directory {
    writer: Writer,
    ledger: Ledger,
    objects: watch::Receiver<Objects>,
    events: client::EventRecorder,
    node: String,
    results: BTreeMap<ObjectId, Result>,
    drift: Drift,
    /// How often an object had to be brought back lately, and when last.
    restored: BTreeMap<ObjectId, (u32, Instant)>,
    /// What was last said about an object that could not be written.
    said: BTreeMap<ObjectId, String>,
}

impl Directory {
    /// `ledger` is the file with the names of all that was written.
    pub(super) fn new(
        client: Client,
        ledger: PathBuf,
        objects: watch::Receiver<Objects>,
        events: client::EventRecorder,
        node: String,
    ) -> Self {
        Self {
            drift: Drift::new(client.clone()),
            restored: BTreeMap::new(),
            writer: Writer::new(client),
            ledger: Ledger::open(ledger),
            objects,
            events,
            node,
            results: BTreeMap::new(),
            said: BTreeMap::new(),
        }
    }

    pub(super) async fn run(mut self, stop: CancellationToken) {
        loop {
            let objects = self.objects.borrow_and_update().clone();
            let documents: BTreeMap<ObjectId, Arc<Document>> =
                objects.objects.iter().map(|object| (ObjectId::of(object), object.clone())).collect();
            let wanted = documents.iter().map(|(id, document)| (id.clone(), digest(document))).collect();
            let now = Instant::now();
            let seen = Observed {
                ready: objects.ready,
                wanted: &wanted,
                written: self.ledger.names(),
                results: &self.results,
                now,
            };
            let plan = decide(&seen);
            let wake_at = plan.wake_at;
            let acted = !plan.apply.is_empty() || !plan.delete.is_empty();
            tokio::select! {
                // What was begun is repeated by the next life: it changes nothing that is right already.
                () = stop.cancelled() => return,
                () = self.carry_out(plan, &documents, &wanted) => {}
            }
            if acted {
                self.drift.keep(&wanted);
                continue;
            }
            tokio::select! {
                () = stop.cancelled() => return,
                changed = self.objects.changed() => if changed.is_err() { return },
                Some(news) = self.drift.next() => {
                    for id in self.drift.drifted(&news, &wanted) {
                        self.look_again(&id);
                    }
                }
                () = tokio::time::sleep_until(wake_at.unwrap_or(now)), if wake_at.is_some() => {}
            }
        }
    }

    async fn carry_out(
        &mut self,
        plan: Plan,
        documents: &BTreeMap<ObjectId, Arc<Document>>,
        wanted: &BTreeMap<ObjectId, u64>,
    ) {
        if let Err(error) = self.ledger.add(plan.apply.iter().cloned()).await {
            // An object that nobody would remember is not written.
            tracing::error!(error = %client::ErrorChain(&error), "cannot write down which objects are from manifests");
            for id in plan.apply.iter().chain(&plan.delete) {
                self.failed(id);
            }
            return;
        }
        for id in plan.apply {
            let (Some(document), Some(digest)) = (documents.get(&id), wanted.get(&id)) else { continue };
            match self.writer.apply(&id, document).await {
                Ok(change) => {
                    match (change, self.results.get(&id)) {
                        (Change::None, Some(Result::Drifted { .. })) => {}
                        (_, Some(Result::Drifted { .. })) => {
                            tracing::warn!(object = %id, place = document.source(), "brought back: somebody had changed it");
                            self.note_restored(&id);
                        }
                        _ => tracing::info!(object = %id, place = document.source(), "{change}"),
                    }
                    if let Some(resource) = self.writer.served_as(&id).await {
                        self.drift.follow(&id, resource);
                    }
                    self.said.remove(&id);
                    self.results.insert(id, Result::Settled { digest: *digest });
                }
                Err(error) => {
                    let message = format!(
                        "{}:{}: {}",
                        document.source(),
                        error.position(document),
                        client::ErrorChain(&error)
                    );
                    self.say(&id, message);
                    if error.is_final() {
                        self.results.insert(id, Result::Settled { digest: *digest });
                    } else {
                        self.failed(&id);
                    }
                }
            }
        }
        let mut gone = Vec::new();
        for id in plan.delete {
            match self.writer.delete(&id).await {
                Ok(()) => {
                    tracing::info!(object = %id, "deleted: no manifest has it any more");
                    self.said.remove(&id);
                    self.results.remove(&id);
                    gone.push(id);
                }
                Err(error) => {
                    self.say(&id, format!("removing {id}: {}", client::ErrorChain(&error)));
                    self.failed(&id);
                }
            }
        }
        if let Err(error) = self.ledger.remove(&gone).await {
            // They are deleted again the next time, which does no harm.
            tracing::warn!(error = %client::ErrorChain(&error), "cannot write down which objects are gone");
        }
    }

    /// An object is not as it was: its file may have to be applied again. Who fights with somebody, waits.
    fn look_again(&mut self, id: &ObjectId) {
        if !matches!(self.results.get(id), Some(Result::Settled { .. })) {
            return;
        }
        let now = Instant::now();
        let at = match self.restored.get(id) {
            Some((times, last)) if *times >= PATIENCE => now.max(*last + BACKOFF.delay(*times)),
            _ => now,
        };
        self.results.insert(id.clone(), Result::Drifted { at });
    }

    fn note_restored(&mut self, id: &ObjectId) {
        let now = Instant::now();
        let (times, last) = self.restored.entry(id.clone()).or_insert((0, now));
        *times = if now - *last > FORGOTTEN { 1 } else { times.saturating_add(1) };
        *last = now;
    }

    fn failed(&mut self, id: &ObjectId) {
        let before = match self.results.get(id) {
            Some(Result::Failed { failures, .. }) => *failures,
            _ => 0,
        };
        let retry_at = Instant::now() + BACKOFF.delay(before);
        self.results.insert(id.clone(), Result::Failed { failures: before.saturating_add(1), retry_at });
    }

    /// Says what is wrong with an object, when it is news.
    fn say(&mut self, id: &ObjectId, message: String) {
        if self.said.get(id) == Some(&message) {
            return;
        }
        tracing::error!(object = %id, %message, "an object of a manifest cannot be written; it stays as it was");
        let node = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Node".to_owned()),
            name: Some(self.node.clone()),
            uid: Some(self.node.clone()),
            ..ObjectReference::default()
        };
        self.events.record(node, EventType::Warning, "FailedManifest", message.clone());
        self.said.insert(id.clone(), message);
    }
}

/// Changes when the content does. Only compared within this process.
fn digest(document: &Document) -> u64 {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    let mut hasher = DefaultHasher::new();
    document.value.to_string().hash(&mut hasher);
    hasher.finish()
}
