//! List, then watch, for ever: one stream of changes that survives disconnects and 410 Gone.
//!
//! ```text
//!            ┌────────────── gone (410), or the server refuses the version ──────────────┐
//!            ▼                                                                           │
//!   ──▶   Empty ──first page──▶ Listing ──last page──▶ Listed ──watch opened──▶ Watching ┤
//!            ▲                     │ gone                 ▲                        │     │
//!            └─────────────────────┘                      └──── ended, failed ─────┘     │
//! ```
//!
//! Guarantees: after `Restarted` the reader knows every object as of one version; then each later change
//! is reported once, in order. A deletion that happened while disconnected shows as an object that the
//! next `Restarted` lacks. The stream never ends and never fails: failures are logged and retried with
//! back-off and jitter.
//!
//! Waiting costs nothing: there is no timer while a watch is open, except the server's own time limit.

use std::fmt;
use std::time::Duration;

use futures_util::Stream;
use manifests::k8s_openapi;
use tokio::time::Instant;

use crate::api::Api;
use crate::backoff::{Backoff, jittered};
use crate::error::{Error, ErrorClass};
use crate::object::Object;
use crate::request::{ListParams, WatchParams};
use crate::watch_stream::{WatchEvent, WatchStream};

/// Objects per page of a list.
const PAGE: u32 = 500;

/// The server is asked to end a watch after this, and up to as long again: a watch that a broken
/// middlebox swallowed does not stay silent for ever.
const WATCH_TIME: Duration = Duration::from_secs(300);

/// The client ends a watch itself when the server has not, this much later.
const WATCH_GRACE: Duration = Duration::from_secs(30);

/// A watch that has lived this long was a success, whatever ended it.
const HEALTHY_AFTER: Duration = Duration::from_secs(5);

/// A version that the server refuses so often, for another reason than its age, is given up.
const REFUSALS_UNTIL_RELIST: u32 = 3;

/// What is watched and how failures are paced.
#[derive(Debug, Clone)]
pub struct Params {
    /// Only objects with these labels.
    pub label_selector: Option<String>,
    /// Only objects with these fields.
    pub field_selector: Option<String>,
    /// Objects per page of a list.
    pub page: u32,
    /// Pause between attempts.
    pub backoff: Backoff,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            label_selector: None,
            field_selector: None,
            page: PAGE,
            backoff: Backoff::new(Duration::from_millis(100), Duration::from_secs(10)),
        }
    }
}

impl Params {
    /// Only objects with these labels.
    pub fn labels(mut self, selector: impl Into<String>) -> Self {
        self.label_selector = Some(selector.into());
        self
    }

    /// Only objects with these fields.
    pub fn fields(mut self, selector: impl Into<String>) -> Self {
        self.field_selector = Some(selector.into());
        self
    }
}

/// A step in what is known about the watched objects.
#[derive(Debug, Clone, PartialEq)]
pub enum Event<K> {
    /// These objects, and no others, exist.
    Restarted(Vec<K>),
    /// The object was created or has changed.
    Applied(K),
    /// The object is gone, or no longer selected; this is its last state.
    Deleted(K),
}

enum State<K> {
    /// Nothing is known.
    Empty,
    /// Some pages are there; the token asks for the next.
    Listing { items: Vec<K>, token: String },
    /// Everything up to the version was reported; no watch is open. Counts how often the server has
    /// refused to go on from there.
    Listed { version: String, refusals: u32 },
    /// Everything up to the version was reported, and more will arrive.
    Watching { version: String, refusals: u32, stream: Box<WatchStream<K>>, opened: Instant, ends: Instant },
}

/// The state machine. [`watch`] is the same as a `Stream`.
pub struct Watcher<K> {
    api: Api<K>,
    params: Params,
    state: State<K>,
    /// Failures since the last success.
    failures: u32,
    /// Not before this.
    resume_at: Option<Instant>,
}

impl<K> fmt::Debug for Watcher<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Empty => "Empty",
            State::Listing { .. } => "Listing",
            State::Listed { .. } => "Listed",
            State::Watching { .. } => "Watching",
        };
        f.debug_struct("Watcher")
            .field("api", &self.api)
            .field("state", &state)
            .field("failures", &self.failures)
            .finish_non_exhaustive()
    }
}

/// Every change to the selected objects, for ever.
pub fn watch<K: Object>(api: Api<K>, params: Params) -> impl Stream<Item = Event<K>> + Send {
    futures_util::stream::unfold(Watcher::new(api, params), |mut watcher| async move {
        Some((watcher.next().await, watcher))
    })
}

/// What the stream of one watch request has given.
enum Heard<K> {
    Event(Option<Result<WatchEvent<K>, Error>>),
    TooLong,
}

impl<K: Object> Watcher<K> {
    /// Nothing is sent before the first call of [`next`](Self::next).
    pub fn new(api: Api<K>, params: Params) -> Self {
        Self { api, params, state: State::Empty, failures: 0, resume_at: None }
    }

    /// The next event.
    ///
    /// Cancel safe: a list page or watch request in flight is repeated; nothing that was reported is
    /// reported again or lost.
    pub async fn next(&mut self) -> Event<K> {
        loop {
            if let Some(at) = self.resume_at {
                tokio::time::sleep_until(at).await;
                self.resume_at = None;
            }
            let event = match &self.state {
                State::Empty | State::Listing { .. } => self.list().await,
                State::Listed { .. } => self.open().await,
                State::Watching { .. } => self.follow().await,
            };
            if let Some(event) = event {
                return event;
            }
        }
    }

    /// Empty or Listing: one page.
    async fn list(&mut self) -> Option<Event<K>> {
        let token = match &self.state {
            State::Listing { token, .. } => Some(token.clone()),
            _ => None,
        };
        let params = ListParams {
            label_selector: self.params.label_selector.clone(),
            field_selector: self.params.field_selector.clone(),
            limit: Some(self.params.page),
            continue_token: token,
            ..ListParams::default()
        };
        let page = match self.api.list(&params).await {
            Ok(page) => page,
            Err(error) => {
                if error.is_gone() {
                    self.state = State::Empty;
                }
                self.failed("listing", &error);
                return None;
            }
        };
        let mut items = match std::mem::replace(&mut self.state, State::Empty) {
            State::Listing { items, .. } => items,
            _ => Vec::new(),
        };
        items.extend(page.items);
        if let Some(token) = page.metadata.continue_.filter(|token| !token.is_empty()) {
            self.state = State::Listing { items, token };
            return None;
        }
        let version = page.metadata.resource_version.unwrap_or_default();
        self.state = State::Listed { version, refusals: 0 };
        Some(Event::Restarted(items))
    }

    /// Listed: open a watch from the version.
    async fn open(&mut self) -> Option<Event<K>> {
        let State::Listed { version, refusals } = &self.state else { return None };
        let (version, refusals) = (version.clone(), *refusals);
        let lifetime = jittered(WATCH_TIME, 1.0);
        let params = WatchParams {
            label_selector: self.params.label_selector.clone(),
            field_selector: self.params.field_selector.clone(),
            resource_version: Some(version.clone()),
            bookmarks: true,
            timeout_seconds: u32::try_from(lifetime.as_secs()).ok(),
        };
        match self.api.watch(&params).await {
            Ok(stream) => {
                let opened = Instant::now();
                let ends = opened + lifetime + WATCH_GRACE;
                self.state = State::Watching { version, refusals, stream: Box::new(stream), opened, ends };
            }
            Err(error) => self.refused(version, refusals, "opening a watch", &error),
        }
        None
    }

    /// Watching: the next line.
    async fn follow(&mut self) -> Option<Event<K>> {
        let State::Watching { version, refusals, stream, opened, ends } = &mut self.state else {
            return None;
        };
        let opened = *opened;
        // Cancel safe: `WatchStream::next` keeps what it has read.
        let heard = tokio::select! {
            biased;
            event = stream.next() => Heard::Event(event),
            () = tokio::time::sleep_until(*ends) => Heard::TooLong,
        };
        match heard {
            Heard::Event(Some(Ok(event))) => {
                self.failures = 0;
                *refusals = 0;
                match event {
                    WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                        object.resource_version().clone_into(version);
                        Some(Event::Applied(object))
                    }
                    WatchEvent::Deleted(object) => {
                        object.resource_version().clone_into(version);
                        Some(Event::Deleted(object))
                    }
                    WatchEvent::Bookmark { resource_version, .. } => {
                        *version = resource_version;
                        None
                    }
                }
            }
            Heard::Event(Some(Err(error))) => {
                let (version, refusals) = (std::mem::take(version), *refusals);
                self.heal_after(opened);
                self.refused(version, refusals, "watching", &error);
                None
            }
            Heard::Event(None) | Heard::TooLong => {
                let version = std::mem::take(version);
                let healthy = opened.elapsed() >= HEALTHY_AFTER;
                self.heal_after(opened);
                self.state = State::Listed { version, refusals: 0 };
                if !healthy && self.failures > 0 {
                    // A server that ends every watch at once must not be asked in a tight loop.
                    self.pause();
                } else {
                    self.failures += u32::from(!healthy);
                }
                None
            }
        }
    }

    fn heal_after(&mut self, opened: Instant) {
        if opened.elapsed() >= HEALTHY_AFTER {
            self.failures = 0;
        }
    }

    /// The server did not go on from the version.
    fn refused(&mut self, version: String, refusals: u32, doing: &str, error: &Error) {
        let refusals = refusals + u32::from(!error.is_transport());
        self.state = if error.is_gone() || refusals >= REFUSALS_UNTIL_RELIST {
            State::Empty
        } else {
            State::Listed { version, refusals }
        };
        if error.is_gone() && self.failures == 0 {
            // Ordinary after a long absence: list at once, but only once.
            self.failures = 1;
            tracing::debug!(resource = %self.api.resource().plural, "version is gone, listing again");
            return;
        }
        self.failed(doing, error);
    }

    fn failed(&mut self, doing: &str, error: &Error) {
        let resource = &self.api.resource().plural;
        let chain = crate::error::ErrorChain(error);
        if self.failures == 0 || error.class() == ErrorClass::Bug {
            tracing::warn!(%resource, error = %chain, "{doing} failed, trying again");
        } else {
            tracing::debug!(%resource, failures = self.failures, error = %chain, "{doing} failed, trying again");
        }
        if let Some(wait) = error.retry_after() {
            self.resume_at = Some(Instant::now() + jittered(wait, 0.1));
            self.failures = self.failures.saturating_add(1);
        } else {
            self.pause();
        }
    }

    fn pause(&mut self) {
        self.resume_at = Some(Instant::now() + self.params.backoff.delay(self.failures));
        self.failures = self.failures.saturating_add(1);
    }
}

/// A watch of every object of a kind.
pub fn watch_all<K>(client: &crate::Client) -> impl Stream<Item = Event<K>> + Send + use<K>
where
    K: Object + k8s_openapi::Metadata<Ty = k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta>,
{
    watch(client.all::<K>(), Params::default())
}

#[cfg(test)]
mod tests;
