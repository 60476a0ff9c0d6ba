//! The recent past in memory, and the watches that are served from it.
//!
//! Every engine publishes its commits here, in order. A watch holds no queue of its own: it is a cursor into
//! the shared ring, woken when the head moves, so a thousand watchers that do not read cost nothing. A cursor
//! that falls off the ring goes on from the engine's [`Past`] (the file, or etcd itself); when the engine has
//! compacted that too, the watch ends with [`StoreError::Slow`].
//!
//! ```text
//!   compacted        floor                         head
//!   ----|--- Past ----|---- ring (Arc<Commit>) -----|
//!            ^ slow cursor            ^ live cursors
//! ```

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use futures_util::stream;
use tokio::sync::watch;

use crate::{Event, KeyValue, Revision, StoreError, WatchMessage, WatchStream};

/// All changes of one revision.
#[derive(Debug)]
pub(crate) struct Commit {
    pub(crate) revision: Revision,
    pub(crate) events: Vec<Event>,
}

impl Commit {
    /// What the ring counts for this commit: bytes kept alive, generously.
    pub(crate) fn weight(&self) -> usize {
        let of = |kv: &KeyValue| kv.key.len() + kv.value.len() + 96;
        64 + self
            .events
            .iter()
            .map(|event| match event {
                Event::Put { now, before } => of(now) + before.as_ref().map_or(0, of),
                Event::Delete { key, before, .. } => key.len() + before.as_ref().map_or(0, of),
            })
            .sum::<usize>()
    }
}

/// Where a cursor that is older than the ring goes on.
#[async_trait]
pub(crate) trait Past: fmt::Debug + Send + Sync {
    /// Commits after `after`, oldest first, at least one and without a gap, bounded in number and size.
    /// Only asked for revisions before the floor of the ring.
    async fn commits_after(&self, after: Revision) -> Result<Vec<Arc<Commit>>, StoreError>;
}

/// How much the ring keeps.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RingLimits {
    pub(crate) commits: usize,
    pub(crate) bytes: usize,
}

/// One message carries at most this much, so a watcher that catches up does not hold the whole past in memory.
const BATCH_EVENTS: usize = 512;
const BATCH_BYTES: usize = 1 << 20;

#[derive(Debug)]
pub(crate) struct Hub {
    ring: Mutex<Ring>,
    /// The newest published revision; changes wake the watches. `None` once the engine has stopped.
    head: watch::Sender<Option<Revision>>,
}

#[derive(Debug)]
struct Ring {
    /// Everything after this revision is in `commits`.
    floor: Revision,
    head: Revision,
    commits: VecDeque<Arc<Commit>>,
    bytes: usize,
    limits: RingLimits,
}

/// What a cursor finds.
enum Found {
    /// Events up to and including the revision.
    Batch(Vec<Event>, Revision),
    /// Nothing after the cursor yet.
    Nothing,
    /// The cursor is older than the ring.
    TooOld,
}

impl Hub {
    /// An empty ring whose past ends at `head`.
    pub(crate) fn new(head: Revision, limits: RingLimits) -> Hub {
        let ring = Ring { floor: head, head, commits: VecDeque::new(), bytes: 0, limits };
        Hub { ring: Mutex::new(ring), head: watch::Sender::new(Some(head)) }
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest revision that watches can see.
    pub(crate) fn head(&self) -> Revision {
        self.ring().head
    }

    /// Everything after this revision is in the ring.
    pub(crate) fn floor(&self) -> Revision {
        self.ring().floor
    }

    /// Add commits, oldest first, and wake the watches once. Returns what fell off the other end.
    pub(crate) fn publish(&self, commits: impl IntoIterator<Item = Commit>) -> Vec<Arc<Commit>> {
        let mut dropped = Vec::new();
        let head = {
            let mut ring = self.ring();
            for commit in commits {
                debug_assert!(commit.revision > ring.head, "revisions only grow");
                ring.head = commit.revision;
                ring.bytes += commit.weight();
                ring.commits.push_back(Arc::new(commit));
            }
            while ring.commits.len() > ring.limits.commits || ring.bytes > ring.limits.bytes {
                let Some(oldest) = ring.commits.pop_front() else { break };
                ring.forget(&oldest);
                dropped.push(oldest);
            }
            ring.head
        };
        self.head.send_replace(Some(head));
        dropped
    }

    /// Drop everything up to and including `revision` from the ring. Returns what was dropped.
    pub(crate) fn trim(&self, revision: Revision) -> Vec<Arc<Commit>> {
        let mut ring = self.ring();
        let mut dropped = Vec::new();
        while let Some(oldest) = ring.commits.pop_front_if(|c| c.revision <= revision) {
            ring.forget(&oldest);
            dropped.push(oldest);
        }
        ring.floor = ring.floor.max(revision);
        dropped
    }

    /// Start over at `head`: what was between is not known here. Cursors before it ask the [`Past`].
    pub(crate) fn reset(&self, head: Revision) {
        {
            let mut ring = self.ring();
            ring.commits.clear();
            ring.bytes = 0;
            ring.floor = head;
            ring.head = head;
        }
        self.head.send_replace(Some(head));
    }

    /// End all watches: the engine will not publish any more.
    pub(crate) fn close(&self) {
        self.head.send_replace(None);
    }

    /// The changes under `prefix` after `after`.
    pub(crate) fn watch(self: &Arc<Self>, past: Arc<dyn Past>, prefix: &str, after: Revision) -> WatchStream {
        let cursor = Cursor {
            head: self.head.subscribe(),
            hub: Arc::clone(self),
            past,
            prefix: prefix.to_owned(),
            at: after,
            told: None,
        };
        Box::pin(stream::unfold(Some(cursor), |cursor| async move {
            let mut cursor = cursor?;
            match cursor.next().await {
                Ok(message) => Some((Ok(message), Some(cursor))),
                Err(error) => Some((Err(error), None)),
            }
        }))
    }
}

impl Ring {
    fn forget(&mut self, oldest: &Commit) {
        self.floor = oldest.revision;
        self.bytes = self.bytes.saturating_sub(oldest.weight());
    }

    fn find(&self, prefix: &str, after: Revision) -> Found {
        if after < self.floor {
            return Found::TooOld;
        }
        if after >= self.head {
            return Found::Nothing;
        }
        let first = self.commits.partition_point(|commit| commit.revision <= after);
        let (events, reached) = select(self.commits.range(first..), prefix);
        Found::Batch(events, reached.unwrap_or(self.head))
    }
}

/// The events under a prefix of whole commits, until the batch is full; and the last commit looked at if that
/// was not the last of all.
fn select<'a>(
    commits: impl Iterator<Item = &'a Arc<Commit>>,
    prefix: &str,
) -> (Vec<Event>, Option<Revision>) {
    let (mut events, mut bytes) = (Vec::new(), 0);
    for commit in commits {
        for event in commit.events.iter().filter(|event| event.key().starts_with(prefix)) {
            events.push(event.clone());
            if let Event::Put { now, .. } = event {
                bytes += now.value.len();
            }
        }
        if events.len() >= BATCH_EVENTS || bytes >= BATCH_BYTES {
            return (events, Some(commit.revision));
        }
    }
    (events, None)
}

/// One watch: everything up to `at` has been delivered or does not concern it.
struct Cursor {
    hub: Arc<Hub>,
    past: Arc<dyn Past>,
    head: watch::Receiver<Option<Revision>>,
    prefix: String,
    at: Revision,
    /// The newest revision that the reader knows to be complete; `None` until the first message.
    told: Option<Revision>,
}

impl Cursor {
    async fn next(&mut self) -> Result<WatchMessage, StoreError> {
        loop {
            // Mark the head as seen before looking, so a commit in between wakes us again.
            if self.head.borrow_and_update().is_none() {
                return Err(closed());
            }
            let found = self.hub.ring().find(&self.prefix, self.at);
            let (events, reached) = match found {
                Found::Batch(events, reached) => (events, reached),
                Found::TooOld => self.read_past().await?,
                // Caught up: say so if the last message did not.
                Found::Nothing if self.told < Some(self.at) => (Vec::new(), self.at),
                Found::Nothing => {
                    self.head.changed().await.map_err(|_| closed())?;
                    continue;
                }
            };
            self.at = reached;
            if let Some(last) = events.last() {
                self.told = Some(last.revision());
                return Ok(WatchMessage::Events(events));
            }
            if self.told < Some(reached) {
                self.told = Some(reached);
                return Ok(WatchMessage::Progress(reached));
            }
        }
    }

    async fn read_past(&self) -> Result<(Vec<Event>, Revision), StoreError> {
        let commits = match self.past.commits_after(self.at).await {
            // A watch that had begun was cut off; one that has not was asked for too late.
            Err(StoreError::Compacted { .. }) if self.told.is_some() => return Err(StoreError::Slow),
            other => other?,
        };
        // Nothing although something is missing: whatever the reason, there is no way on without a gap.
        let last = commits.last().ok_or(StoreError::Slow)?.revision;
        let (events, reached) = select(commits.iter(), &self.prefix);
        Ok((events, reached.unwrap_or(last)))
    }
}

fn closed() -> StoreError {
    StoreError::Unavailable("the store has been closed".into())
}
