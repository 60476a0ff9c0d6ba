//! The store in memory: for tests, and for hosts whose files are the truth.
//!
//! Bounded like the others: history beyond [`Options`] is compacted as new commits come in.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use crate::hub::{Commit, Hub, Past, RingLimits};
use crate::{
    Committed, Compare, Event, KeyValue, ListOptions, Listing, Op, Revision, Store, StoreError, Txn,
    WatchStream, txn,
};

/// How much history is kept.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// At most this many revisions.
    pub history_revisions: usize,
    /// At most about this many bytes.
    pub history_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options { history_revisions: 10_000, history_bytes: 16 << 20 }
    }
}

/// See the [module documentation](self).
#[derive(Debug)]
pub struct MemoryStore {
    state: Mutex<State>,
    hub: Arc<Hub>,
}

#[derive(Debug)]
struct State {
    revision: Revision,
    compacted: Revision,
    current: BTreeMap<String, KeyValue>,
    /// Superseded values that history still shows, by key and modification revision.
    old: BTreeMap<(String, Revision), Old>,
}

#[derive(Debug)]
struct Old {
    kv: KeyValue,
    /// The revision that replaced or deleted it.
    until: Revision,
}

impl Default for MemoryStore {
    fn default() -> Self {
        MemoryStore::new()
    }
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> MemoryStore {
        MemoryStore::with_options(Options::default())
    }

    /// An empty store that keeps as much history as asked.
    pub fn with_options(options: Options) -> MemoryStore {
        let empty = Revision(1);
        let limits = RingLimits { commits: options.history_revisions, bytes: options.history_bytes };
        let state =
            State { revision: empty, compacted: empty, current: BTreeMap::new(), old: BTreeMap::new() };
        MemoryStore { state: Mutex::new(state), hub: Arc::new(Hub::new(empty, limits)) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn holds(&self, compare: &Compare) -> bool {
        match compare {
            Compare::Absent(key) => !self.current.contains_key(key),
            Compare::ModRevision(key, revision) => {
                self.current.get(key).is_some_and(|kv| kv.mod_revision == *revision)
            }
        }
    }

    /// Carry out operations that are known to be allowed. `None` if they change nothing.
    fn apply(&mut self, ops: Vec<Op>) -> Option<Commit> {
        let revision = Revision(self.revision.0 + 1);
        let mut events = Vec::with_capacity(ops.len());
        for op in ops {
            match op {
                Op::Put(key, value) => {
                    let create_revision =
                        self.current.get(&key).map_or(revision, |before| before.create_revision);
                    let now = KeyValue { key: key.clone(), value, create_revision, mod_revision: revision };
                    let before = self.current.insert(key, now.clone());
                    self.keep(before.as_ref(), revision);
                    events.push(Event::Put { now, before });
                }
                Op::Delete(key) => {
                    let Some(before) = self.current.remove(&key) else { continue };
                    self.keep(Some(&before), revision);
                    events.push(Event::Delete { key, revision, before: Some(before) });
                }
            }
        }
        if events.is_empty() {
            return None;
        }
        self.revision = revision;
        Some(Commit { revision, events })
    }

    fn keep(&mut self, before: Option<&KeyValue>, until: Revision) {
        if let Some(kv) = before {
            self.old.insert((kv.key.clone(), kv.mod_revision), Old { kv: kv.clone(), until });
        }
    }

    /// Forget what these commits replaced.
    fn forget(&mut self, commits: &[Arc<Commit>]) {
        for commit in commits {
            self.compacted = self.compacted.max(commit.revision);
            for before in commit.events.iter().filter_map(Event::before) {
                self.old.remove(&(before.key.clone(), before.mod_revision));
            }
        }
    }

    fn check_revision(&self, requested: Revision) -> Result<(), StoreError> {
        if requested > self.revision {
            return Err(StoreError::Future { requested, current: self.revision });
        }
        if requested < self.compacted {
            return Err(StoreError::Compacted { requested, compacted: self.compacted });
        }
        Ok(())
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn revision(&self) -> Result<Revision, StoreError> {
        Ok(self.state().revision)
    }

    async fn get(&self, key: &str) -> Result<(Option<KeyValue>, Revision), StoreError> {
        let state = self.state();
        Ok((state.current.get(key).cloned(), state.revision))
    }

    async fn list(&self, prefix: &str, options: &ListOptions) -> Result<Listing, StoreError> {
        let state = self.state();
        let at = options.revision.unwrap_or(state.revision);
        state.check_revision(at)?;
        let start = match &options.after {
            Some(after) if after.as_str() >= prefix => Bound::Excluded(after.as_str()),
            _ => Bound::Included(prefix),
        };
        let current = state
            .current
            .range::<str, _>((start, Bound::Unbounded))
            .map(|(_, kv)| kv)
            .take_while(|kv| kv.key.starts_with(prefix))
            .filter(|kv| kv.mod_revision <= at);
        let old_start = match start {
            Bound::Excluded(key) => Bound::Excluded((key.to_owned(), Revision(u64::MAX))),
            _ => Bound::Included((prefix.to_owned(), Revision(0))),
        };
        // A key has one value at a revision, so the two sequences never hold the same key.
        let old = (at < state.revision).then(|| {
            state
                .old
                .range((old_start, Bound::Unbounded))
                .map(|(_, old)| old)
                .take_while(|old| old.kv.key.starts_with(prefix))
                .filter(|old| old.kv.mod_revision <= at && at < old.until)
                .map(|old| &old.kv)
        });
        let mut visible = merge(current, old.into_iter().flatten());
        let limit = if options.limit == 0 { usize::MAX } else { options.limit };
        let items: Vec<KeyValue> = visible.by_ref().take(limit).cloned().collect();
        let remaining = visible.count() as u64;
        Ok(Listing { items, revision: at, remaining })
    }

    async fn commit(&self, txn: Txn) -> Result<Committed, StoreError> {
        txn::check(&txn)?;
        let mut state = self.state();
        if !txn.compare.iter().all(|compare| state.holds(compare)) {
            let seen = txn.compare.iter().map(|compare| state.current.get(compare.key()).cloned());
            return Ok(Committed::Conflict(seen.collect()));
        }
        // Published under the lock: the hub must see revisions in order.
        if let Some(commit) = state.apply(txn.ops) {
            let dropped = self.hub.publish([commit]);
            state.forget(&dropped);
        }
        Ok(Committed::Done(state.revision))
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<WatchStream, StoreError> {
        self.state().check_revision(after)?;
        Ok(self.hub.watch(Arc::new(Nothing), prefix, after))
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        let mut state = self.state();
        if revision > state.revision {
            return Err(StoreError::Future { requested: revision, current: state.revision });
        }
        let dropped = self.hub.trim(revision);
        state.forget(&dropped);
        state.compacted = state.compacted.max(revision);
        Ok(())
    }
}

/// There is no past behind the ring: what falls off it is compacted.
#[derive(Debug)]
struct Nothing;

#[async_trait]
impl Past for Nothing {
    async fn commits_after(&self, after: Revision) -> Result<Vec<Arc<Commit>>, StoreError> {
        Err(StoreError::Compacted { requested: after, compacted: after })
    }
}

/// Two sequences sorted by key become one.
fn merge<'a>(
    left: impl Iterator<Item = &'a KeyValue>,
    right: impl Iterator<Item = &'a KeyValue>,
) -> impl Iterator<Item = &'a KeyValue> {
    let (mut left, mut right) = (left.peekable(), right.peekable());
    std::iter::from_fn(move || match (left.peek(), right.peek()) {
        (Some(l), Some(r)) if r.key < l.key => right.next(),
        (Some(_), _) => left.next(),
        (None, _) => right.next(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use futures_util::StreamExt;

    use crate::WatchMessage;

    async fn put(store: &MemoryStore, key: &str, value: &'static str) -> Revision {
        let txn = Txn { compare: vec![], ops: vec![Op::Put(key.into(), Bytes::from(value))] };
        match store.commit(txn).await.unwrap() {
            Committed::Done(revision) => revision,
            Committed::Conflict(_) => unreachable!("nothing was compared"),
        }
    }

    #[tokio::test]
    async fn history_is_bounded_and_a_slow_watch_is_told() {
        let store = MemoryStore::with_options(Options { history_revisions: 3, history_bytes: 1 << 20 });
        let mut watch = store.watch("/a", Revision(1)).await.unwrap();
        assert_eq!(watch.next().await.unwrap().unwrap(), WatchMessage::Progress(Revision(1)));
        for _ in 0..10 {
            put(&store, "/a", "x").await;
        }
        assert!(matches!(watch.next().await, Some(Err(StoreError::Slow))));
        assert!(watch.next().await.is_none());
        assert_eq!(store.state().old.len(), 3, "only what history still shows is kept");
        assert!(matches!(store.watch("/a", Revision(2)).await, Err(StoreError::Compacted { .. })));
        let at = ListOptions { revision: Some(Revision(7)), ..Default::default() };
        assert!(matches!(store.list("/a", &at).await, Err(StoreError::Compacted { .. })));
        let at = ListOptions { revision: Some(Revision(8)), ..Default::default() };
        assert_eq!(store.list("/a", &at).await.unwrap().items[0].mod_revision, Revision(8));
    }
}
