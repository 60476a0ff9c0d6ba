//! Keys, revisions and watches with etcd's semantics.
//!
//! One revision counter covers the whole store. Every successful [`Store::commit`] takes the next
//! revision; readers can ask for the state at a revision that has not been compacted; a watch
//! delivers every change after a revision, in order, without a gap, or says that it cannot.
//!
//! Three engines pass one contract suite: [`memory`] for tests and hosts without a server,
//! [`embedded`] on a crash-safe file, and [`etcd`].
//!
//! Follows the etcd v3 API (`etcdserverpb`): mod revision, create revision, version, compaction.

pub mod archive;
pub mod embedded;
pub mod etcd;
mod hub;
pub mod memory;
#[cfg(any(test, feature = "suite"))]
pub mod suite;
mod txn;

use std::fmt;
use std::pin::Pin;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::Stream;

pub use txn::{MAX_TXN_BYTES, MAX_TXN_OPS};

/// A point in the history of the store. The first write has revision 2, as in etcd (1 is the empty store).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A key with its newest value at the revision that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// Full key, for example `/registry/pods/default/web`.
    pub key: String,
    /// The bytes as they were written.
    pub value: Bytes,
    /// Revision of the write that created the key (after its last deletion).
    pub create_revision: Revision,
    /// Revision of the newest write.
    pub mod_revision: Revision,
}

/// What must hold of a key for a [`Txn`] to be carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compare {
    /// The key does not exist.
    Absent(String),
    /// The key exists and its newest write has this revision.
    ModRevision(String, Revision),
}

/// One change of a [`Txn`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Write the value.
    Put(String, Bytes),
    /// Remove the key. Removing an absent key changes nothing.
    Delete(String),
}

/// All compares must hold, then all operations happen at one revision.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Txn {
    /// Conditions; empty means unconditional.
    pub compare: Vec<Compare>,
    /// Changes, each key at most once.
    pub ops: Vec<Op>,
}

/// The answer to a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Committed {
    /// Done, and durable: it survives `kill -9` at any instant from now on.
    Done(Revision),
    /// A compare failed; nothing was written. The newest values of the compared keys, in order.
    Conflict(Vec<Option<KeyValue>>),
}

/// What to list.
#[derive(Debug, Clone, Default)]
pub struct ListOptions {
    /// The state at this revision instead of the newest.
    pub revision: Option<Revision>,
    /// At most this many; 0 means all.
    pub limit: usize,
    /// Only keys after this one (exclusive), for the next chunk.
    pub after: Option<String>,
}

/// Keys under a prefix, in byte order.
#[derive(Debug, Clone, Default)]
pub struct Listing {
    /// The entries.
    pub items: Vec<KeyValue>,
    /// The store's revision that the listing shows.
    pub revision: Revision,
    /// How many entries follow after the last one.
    pub remaining: u64,
}

/// One change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Created (`create_revision == mod_revision`) or changed; with the value before, where it is known.
    Put {
        /// The new state.
        now: KeyValue,
        /// The state before this write.
        before: Option<KeyValue>,
    },
    /// Removed at `revision`; with the value before, where it is known.
    Delete {
        /// The key.
        key: String,
        /// The revision of the deletion.
        revision: Revision,
        /// The state before the deletion.
        before: Option<KeyValue>,
    },
}

impl Event {
    /// The key that changed.
    pub fn key(&self) -> &str {
        match self {
            Event::Put { now, .. } => &now.key,
            Event::Delete { key, .. } => key,
        }
    }

    /// The revision of the change.
    pub fn revision(&self) -> Revision {
        match self {
            Event::Put { now, .. } => now.mod_revision,
            Event::Delete { revision, .. } => *revision,
        }
    }

    /// The state before the change, where there was one and it is known.
    pub fn before(&self) -> Option<&KeyValue> {
        match self {
            Event::Put { before, .. } | Event::Delete { before, .. } => before.as_ref(),
        }
    }
}

/// What a watch delivers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchMessage {
    /// All events under the prefix of one or more whole revisions, in order.
    Events(Vec<Event>),
    /// Everything up to and including this revision has been delivered.
    Progress(Revision),
}

/// Messages until the consumer drops it or the store ends it with an error (after which it ends).
pub type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchMessage, StoreError>> + Send>>;

/// Why the store did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The revision has been compacted away.
    #[error("revision {requested} has been compacted (oldest kept: {compacted})")]
    Compacted {
        /// What was asked for.
        requested: Revision,
        /// The oldest revision whose state can still be read; a watch may start after it.
        compacted: Revision,
    },
    /// The revision has not happened yet.
    #[error("revision {requested} is in the future (newest: {current})")]
    Future {
        /// What was asked for.
        requested: Revision,
        /// The newest revision.
        current: Revision,
    },
    /// The watcher did not read fast enough and was cut off; list again.
    #[error("the watcher was too slow and has been cut off")]
    Slow,
    /// The request can never succeed as it is: a key twice in one transaction, too many bytes, an empty key.
    #[error("the store refuses the request: {0}")]
    Invalid(String),
    /// The outcome of a commit is unknown: it may or may not have happened.
    #[error("the outcome of the write is unknown")]
    Unknown(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The engine cannot be reached or has failed; nothing was written.
    #[error("the store is not available")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// A store with etcd's semantics. Cheap to share behind an `Arc`.
#[async_trait]
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// The newest revision, linearizable: not older than any commit acknowledged before the call.
    async fn revision(&self) -> Result<Revision, StoreError>;

    /// The key's newest value and the store's revision, linearizable.
    async fn get(&self, key: &str) -> Result<(Option<KeyValue>, Revision), StoreError>;

    /// The keys that start with `prefix`, linearizable unless a revision is given.
    async fn list(&self, prefix: &str, options: &ListOptions) -> Result<Listing, StoreError>;

    /// Compare, then write; durable when this returns [`Committed::Done`].
    async fn commit(&self, txn: Txn) -> Result<Committed, StoreError>;

    /// Every change of keys that start with `prefix` with a revision greater than `after`, in order and
    /// without a gap. A [`WatchMessage::Progress`] follows whenever the store has moved on with changes under
    /// other prefixes only, and once at the start when there is nothing to deliver, so a reader always learns
    /// that it has reached [`Store::revision`].
    async fn watch(&self, prefix: &str, after: Revision) -> Result<WatchStream, StoreError>;

    /// Forget the history before `revision` (the newest value of each key is always kept): afterwards the state
    /// at `revision` can be listed and a watch can start after it, older ones are [`StoreError::Compacted`]. Nothing happens if
    /// that much is forgotten already.
    async fn compact(&self, revision: Revision) -> Result<(), StoreError>;

    /// Whether other processes may use the same store at the same time.
    fn is_shared(&self) -> bool {
        false
    }
}
