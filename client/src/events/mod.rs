//! Records what happened to objects as core/v1 Events.
//!
//! Recording never waits and never fails: records go through a bounded channel to one writer, which
//! correlates them as upstream does (repeats count up, similar ones are combined, a chatty source is
//! throttled) and drops what it cannot deliver. A full channel drops the newest record and says so once
//! it drains.

mod correlate;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use manifests::k8s_openapi;
use manifests::k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use self::correlate::{Correlator, Verdict};
use crate::backoff::Backoff;
use crate::client::Client;
use crate::error::{Error, ErrorChain, ErrorClass};
use crate::object::Object;
use crate::request::Patch;

/// Records that wait for the writer; more than this many at once are not worth keeping.
const CAPACITY: usize = 512;

/// Longer messages are cut.
const MESSAGE_LIMIT: usize = 1024;

/// Attempts per event while the server is away.
const ATTEMPTS: u32 = 6;
const RETRY: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(10));

/// Whether an event is good news.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventType {
    /// Nothing is wrong.
    Normal,
    /// Someone may want to look.
    Warning,
}

impl EventType {
    fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq)]
struct Record {
    regarding: ObjectReference,
    kind: EventType,
    reason: String,
    message: String,
    at: Timestamp,
}

/// Takes records; cheap to clone.
#[derive(Clone)]
pub struct EventRecorder {
    sender: mpsc::Sender<Record>,
    dropped: Arc<AtomicU64>,
}

impl fmt::Debug for EventRecorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventRecorder").field("free", &self.sender.capacity()).finish_non_exhaustive()
    }
}

/// Delivers records; see [`EventWriter::run`].
pub struct EventWriter {
    client: Client,
    source: EventSource,
    receiver: mpsc::Receiver<Record>,
    dropped: Arc<AtomicU64>,
    correlator: Correlator,
}

impl fmt::Debug for EventWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventWriter").field("source", &self.source).finish_non_exhaustive()
    }
}

/// A recorder for a component (for example `default-scheduler`), perhaps on a node, and its writer.
pub fn events(client: Client, component: &str, host: Option<&str>) -> (EventRecorder, EventWriter) {
    let (sender, receiver) = mpsc::channel(CAPACITY);
    let dropped = Arc::new(AtomicU64::new(0));
    let source = EventSource { component: Some(component.to_owned()), host: host.map(str::to_owned) };
    let writer =
        EventWriter { client, source, receiver, dropped: dropped.clone(), correlator: Correlator::default() };
    (EventRecorder { sender, dropped }, writer)
}

/// A reference to an object of a built-in kind.
pub fn reference<K>(object: &K) -> ObjectReference
where
    K: Object + k8s_openapi::Resource,
{
    let given = |value: &str| (!value.is_empty()).then(|| value.to_owned());
    ObjectReference {
        api_version: Some(K::API_VERSION.to_owned()),
        kind: Some(K::KIND.to_owned()),
        name: given(object.name()),
        namespace: given(object.namespace()),
        uid: given(object.uid()),
        resource_version: given(object.resource_version()),
        field_path: None,
    }
}

impl EventRecorder {
    /// Something happened to what is referred to.
    pub fn record(
        &self,
        regarding: ObjectReference,
        kind: EventType,
        reason: &str,
        message: impl Into<String>,
    ) {
        let message = truncated(message.into());
        let record = Record { regarding, kind, reason: reason.to_owned(), message, at: Timestamp::now() };
        if self.sender.try_send(record).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Something ordinary happened to an object.
    pub fn normal<K>(&self, object: &K, reason: &str, message: impl Into<String>)
    where
        K: Object + k8s_openapi::Resource,
    {
        self.record(reference(object), EventType::Normal, reason, message);
    }

    /// Something that someone may want to look at happened to an object.
    pub fn warning<K>(&self, object: &K, reason: &str, message: impl Into<String>)
    where
        K: Object + k8s_openapi::Resource,
    {
        self.record(reference(object), EventType::Warning, reason, message);
    }
}

fn truncated(mut message: String) -> String {
    if message.len() > MESSAGE_LIMIT {
        let mark = " ...";
        let mut end = MESSAGE_LIMIT - mark.len();
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        message.truncate(end);
        message.push_str(mark);
    }
    message
}

impl EventWriter {
    /// Delivers records until told to stop; what is already recorded then gets one more attempt.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let record = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                record = self.receiver.recv() => record,
            };
            let Some(record) = record else { return };
            self.deliver(record, &stop).await;
            let dropped = self.dropped.swap(0, Ordering::Relaxed);
            if dropped > 0 {
                tracing::warn!(dropped, "events were recorded faster than they could be written");
            }
        }
        while let Ok(record) = self.receiver.try_recv() {
            self.deliver(record, &stop).await;
        }
    }

    async fn deliver(&mut self, record: Record, stop: &CancellationToken) {
        let event = self.event(record);
        let verdict = self.correlator.observe(event);
        for attempt in 0..ATTEMPTS {
            let failure = match self.write(&verdict).await {
                Ok(()) => return,
                Err(error) => error,
            };
            // Nothing new can be written to a namespace that is going away, and that is no news.
            if failure.class() != ErrorClass::Retry || failure.is_forbidden() {
                tracing::debug!(error = %ErrorChain(&failure), "event refused");
                return;
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(RETRY.delay(attempt)) => {}
            }
        }
        tracing::debug!("event given up");
    }

    async fn write(&self, verdict: &Verdict) -> Result<(), Error> {
        let (event, repeat) = match verdict {
            Verdict::Skip => return Ok(()),
            Verdict::First(event) => (event, false),
            Verdict::Repeat(event) => (event, true),
        };
        let api = self.client.namespaced::<Event>(event.namespace());
        if repeat {
            let patch = Patch::Merge(serde_json::json!({
                "count": event.count,
                "lastTimestamp": event.last_timestamp,
                "message": event.message,
            }));
            match api.patch(event.name(), &patch).await {
                // It has expired; the count goes on in a new one.
                Err(error) if error.is_not_found() => {}
                other => return other.map(drop),
            }
        }
        match api.create(event).await {
            // An attempt whose answer was lost did arrive.
            Err(error) if error.is_already_exists() => Ok(()),
            other => other.map(drop),
        }
    }

    fn event(&self, record: Record) -> Event {
        let Record { regarding, kind, reason, message, at } = record;
        let namespace = regarding.namespace.clone().filter(|namespace| !namespace.is_empty());
        let name = format!("{}.{:x}", regarding.name.as_deref().unwrap_or("unnamed"), at.as_nanosecond());
        Event {
            metadata: ObjectMeta {
                name: Some(name),
                namespace: Some(namespace.unwrap_or_else(|| "default".to_owned())),
                ..ObjectMeta::default()
            },
            involved_object: regarding,
            type_: Some(kind.as_str().to_owned()),
            reason: Some(reason),
            message: Some(message),
            count: Some(1),
            first_timestamp: Some(Time(at)),
            last_timestamp: Some(Time(at)),
            reporting_component: self.source.component.clone(),
            reporting_instance: Some(self.source.host.clone().unwrap_or_default()),
            source: Some(self.source.clone()),
            ..Event::default()
        }
    }
}

#[cfg(test)]
mod tests;
