//! WATCH: a cursor into the ring of a resource, written out as events.
//!
//! ```text
//! initial (objects, if asked for) ──▶ marker (bookmark that ends them) ──▶ live ⇄ waiting ──▶ end
//! ```
//!
//! A watcher holds no queue. It takes the next events when the connection has written the last ones; when it is so slow
//! that the ring has moved past its cursor it is told 410 and disconnected.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use manifests::status::ApiError;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{Call, Reply};
use crate::body::Body;
use crate::error::Error;
use crate::metrics::Counted;
use crate::object::{EventType, Object};
use crate::registry::Row;
use crate::render::EventForm;
use crate::request::params::ListParams;
use crate::server::ApiServer;
use crate::watch_cache::{Caches, Filter, Lost, Query, Seen};

/// Bookmarks come this often, when there is something new to say.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// So many events are taken from the ring at a time.
const BATCH: usize = 128;
/// Small events go together in pieces of up to this, which is what a frame of HTTP/2 and a record of TLS hold.
const PIECE: usize = 16 << 10;
/// With this many watchers of a resource each is told at most so often: what comes in quick succession is told at once.
/// Writing to a connection costs the same for one event and for a few.
const CROWD: usize = 32;
const BREATH: Duration = Duration::from_millis(2);

impl ApiServer {
    pub(crate) async fn watch(&self, call: &Call, params: &ListParams) -> Result<Reply, Error> {
        let filter = self.filter(call, params)?;
        let version = params.resource_version;
        match version {
            None => self.refresh().await?,
            Some(version) if params.initial_events == Some(true) => self.wait_for(version).await?,
            Some(_) => {}
        }
        let cache = &call.row.cache;
        let mut watcher = Watcher {
            caches: self.caches.clone(),
            row: call.row.clone(),
            filter,
            form: EventForm::new(call),
            _open: self.metrics.streams.enter(),
            cursor: 0,
            generation: 0,
            changed: cache.subscribe(),
            initial: VecDeque::new(),
            marker: false,
            bookmarks: params.bookmarks,
            told: 0,
            spoke: Instant::now(),
            next_bookmark: Instant::now() + BOOKMARK_EVERY,
            deadline: Instant::now() + params.timeout.unwrap_or_else(|| self.watch_timeout()),
            stop: self.stop.clone(),
            out: VecDeque::new(),
            ended: false,
        };
        let initial = params.initial_events.unwrap_or(matches!(version, None | Some(0)));
        if initial || version.is_none() {
            let within = match &watcher.filter.namespace {
                Some(namespace) if call.row.kind.namespaced => format!("{namespace}/"),
                _ => String::new(),
            };
            let query = Query { within: &within, ..Query::default() };
            let applied = self.caches.fresh.applied();
            let listed =
                cache.list(&query, &watcher.filter, applied).map_err(|old| Error::too_old(0, &old))?;
            watcher.cursor = listed.revision;
            watcher.generation = listed.generation;
            if initial {
                watcher.initial = listed.objects.into();
                watcher.marker = params.initial_events == Some(true) && params.bookmarks;
            }
        } else {
            watcher.generation = cache.generation();
            watcher.cursor = version.unwrap_or_default();
        }
        watcher.told = watcher.cursor;
        let stream = futures_util::stream::unfold(watcher, async |mut watcher| {
            let chunk = watcher.next().await?;
            Some((Ok(chunk), watcher))
        });
        Ok(Reply::Events(Body::stream(stream)))
    }
}

struct Watcher {
    caches: Arc<Caches>,
    row: Arc<Row>,
    filter: Filter,
    form: EventForm,
    _open: Counted,
    /// Everything up to here has been told.
    cursor: u64,
    generation: u64,
    changed: watch::Receiver<(u64, u64)>,
    /// Objects that are still to be told as added.
    initial: VecDeque<Arc<Object>>,
    /// The client waits for the bookmark that says that all objects have been told.
    marker: bool,
    bookmarks: bool,
    /// The newest revision that the client knows of.
    told: u64,
    /// When it was last told something.
    spoke: Instant,
    next_bookmark: Instant,
    deadline: Instant,
    stop: CancellationToken,
    out: VecDeque<Bytes>,
    ended: bool,
}

impl Watcher {
    /// The next piece to write; `None` when the watch is over. Cancel-safe: state only changes between awaits.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(piece) = self.piece() {
                return Some(piece);
            }
            if self.ended {
                return None;
            }
            if self.tell_initial() || self.tell_events() {
                continue;
            }
            self.wait().await;
        }
    }

    /// What is to be written next: one event as it is, shared with all who are told it, or several small ones.
    fn piece(&mut self) -> Option<Bytes> {
        let first = self.out.pop_front()?;
        let (mut length, mut more) = (first.len(), 0);
        for event in &self.out {
            if length + event.len() > PIECE {
                break;
            }
            length += event.len();
            more += 1;
        }
        if more == 0 {
            return Some(first);
        }
        let mut piece = BytesMut::with_capacity(length);
        piece.extend_from_slice(&first);
        self.out.drain(..more).for_each(|event| piece.extend_from_slice(&event));
        Some(piece.freeze())
    }

    /// Objects that were there at the start. Returns whether there was something to do.
    fn tell_initial(&mut self) -> bool {
        if self.initial.is_empty() && !self.marker {
            return false;
        }
        for _ in 0..BATCH {
            let Some(object) = self.initial.pop_front() else { break };
            let frame = object.framed_as(EventType::Added);
            let seen = Seen { event: EventType::Added, object: &object, frame, protobuf: None };
            self.out.push_back(self.form.event(seen));
        }
        if self.initial.is_empty() && self.marker {
            self.marker = false;
            self.bookmark(self.cursor, true);
        }
        true
    }

    /// Events since the cursor, or bookmarks. Returns whether there was something to do.
    fn tell_events(&mut self) -> bool {
        // Marked as seen before the ring is read, so that no change is missed; read before the ring, so that
        // nothing up to it is still to be told when the ring has nothing.
        self.changed.borrow_and_update();
        let applied = self.caches.fresh.applied();
        let events = match self.row.cache.events(self.cursor, self.generation, BATCH) {
            Ok(events) => events,
            Err(lost) => {
                self.lost(&lost);
                return true;
            }
        };
        if let Some(last) = events.last() {
            for event in &events {
                if let Some(seen) = event.seen(&self.filter, &self.row.cache.storage.layout) {
                    self.out.push_back(self.form.event(seen));
                    self.told = event.revision;
                }
            }
            self.cursor = last.revision;
            self.spoke = Instant::now();
            return true;
        }
        self.cursor = self.cursor.max(applied);
        let now = Instant::now();
        let over = now >= self.deadline || self.stop.is_cancelled();
        if over || now >= self.next_bookmark {
            self.next_bookmark = now + BOOKMARK_EVERY;
            if self.bookmarks && self.cursor > self.told {
                self.bookmark(self.cursor, false);
            }
            self.ended = over;
            return true;
        }
        false
    }

    async fn wait(&mut self) {
        let wake = if self.bookmarks { self.deadline.min(self.next_bookmark) } else { self.deadline };
        tokio::select! {
            // The sender lives in the cache, which this watcher holds.
            _ = self.changed.changed() => self.breathe().await,
            () = sleep_until(wake) => {}
            () = self.stop.cancelled() => {}
        }
    }

    /// In a crowd: waits until what follows closely is there, too. Cancel-safe: what has changed stays in the ring.
    async fn breathe(&self) {
        if self.row.cache.watchers() >= CROWD && self.spoke.elapsed() < BREATH {
            sleep_until(self.spoke + BREATH).await;
        }
    }

    fn bookmark(&mut self, revision: u64, ends_initial: bool) {
        self.told = revision;
        self.out.push_back(self.form.bookmark(revision, ends_initial));
    }

    fn lost(&mut self, lost: &Lost) {
        self.ended = true;
        let error = match lost {
            Lost::TooOld { floor } => {
                ApiError::expired(format!("too old resource version: {} ({floor})", self.cursor))
            }
            Lost::Refilled => ApiError::expired("the watch cache has been filled anew"),
        };
        self.out.push_back(self.form.error(error));
    }
}
