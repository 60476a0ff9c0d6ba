//! All objects of one resource and its recent past.
//!
//! Readers take a short lock, clone pointers, and write bytes outside of it. A watcher is a cursor into the ring: it
//! has no queue, so a watcher that does not read costs nothing, and one that falls off the ring is told so.

use std::borrow::Borrow;
use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::Instant;

use super::event::Event;
use super::filter::Filter;
use super::ring::{Ring, TooOld};
use crate::encode::stored_form;
use crate::fields::{SelectableField, extract};
use crate::object::{EventType, Layout, Object};

/// What the cache has to know about a resource.
#[derive(Debug)]
pub(crate) struct Storage {
    /// Keys of the resource start with this, for example `/registry/pods/`.
    pub(crate) prefix: String,
    pub(crate) layout: Layout,
    pub(crate) fields: &'static [SelectableField],
}

impl Storage {
    /// The store's key of an object.
    pub(crate) fn key(&self, relative: &str) -> String {
        format!("{}{relative}", self.prefix)
    }

    /// Reads an object that came from the store. What another program has written in another layout is brought into ours.
    pub(crate) fn read(
        &self,
        relative: &str,
        event: EventType,
        stored: &Bytes,
        revision: u64,
    ) -> Result<Object, serde_json::Error> {
        let extracted = extract(stored, self.fields)?;
        if self.layout.fits(stored) {
            return Ok(Object::new(&self.layout, relative, event, stored, revision, extracted));
        }
        let mut value: serde_json::Value = serde_json::from_slice(stored)?;
        if let Some(metadata) = value.get_mut("metadata").and_then(serde_json::Value::as_object_mut) {
            metadata.remove("resourceVersion");
        }
        let stored = stored_form(&self.layout, value);
        Ok(Object::new(&self.layout, relative, event, &stored, revision, extracted))
    }
}

/// Objects are found by their key.
#[derive(Debug, Clone)]
struct ByKey(Arc<Object>);

impl Borrow<str> for ByKey {
    fn borrow(&self) -> &str {
        self.0.key()
    }
}

impl PartialEq for ByKey {
    fn eq(&self, other: &ByKey) -> bool {
        self.0.key() == other.0.key()
    }
}

impl Eq for ByKey {}

impl PartialOrd for ByKey {
    fn partial_cmp(&self, other: &ByKey) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ByKey {
    fn cmp(&self, other: &ByKey) -> std::cmp::Ordering {
        self.0.key().cmp(other.0.key())
    }
}

/// The cache of one resource.
#[derive(Debug)]
pub(crate) struct ResourceCache {
    pub(crate) storage: Storage,
    state: RwLock<State>,
    /// Wakes watchers: the newest revision of an event, and the generation of the cache.
    changed: watch::Sender<(u64, u64)>,
}

#[derive(Debug)]
struct State {
    objects: BTreeSet<ByKey>,
    ring: Ring,
    /// Everything up to here is in `objects`.
    revision: u64,
    /// Grows when the cache is filled anew and its past is lost.
    generation: u64,
}

/// One change, as it comes from the store.
#[derive(Debug)]
pub(crate) enum Change {
    Put { key: String, stored: Bytes, revision: u64 },
    Delete { key: String, revision: u64 },
}

/// What to list.
#[derive(Debug, Default)]
pub(crate) struct Query<'a> {
    /// Keys start with this: `namespace/` or nothing.
    pub(crate) within: &'a str,
    /// Keys come after this one.
    pub(crate) after: Option<&'a str>,
    /// At most this many; 0 means all.
    pub(crate) limit: usize,
    /// The state at this revision instead of the newest.
    pub(crate) at: Option<u64>,
}

/// Objects in the order of their keys.
#[derive(Debug, Default)]
pub(crate) struct Listed {
    pub(crate) objects: Vec<Arc<Object>>,
    /// The revision that is shown.
    pub(crate) revision: u64,
    /// The generation of the cache, for a watch that goes on from here.
    pub(crate) generation: u64,
    /// There are more objects that match.
    pub(crate) more: bool,
    /// How many keys follow, whether they match or not.
    pub(crate) remaining: u64,
}

/// Why a cursor cannot go on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    TooOld {
        floor: u64,
    },
    /// The cache has been filled anew.
    Refilled,
}

impl ResourceCache {
    pub(crate) fn new(storage: Storage) -> ResourceCache {
        let state = State { objects: BTreeSet::new(), ring: Ring::new(0), revision: 0, generation: 0 };
        ResourceCache { storage, state: RwLock::new(state), changed: watch::Sender::new((0, 0)) }
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces everything; watchers have to start again.
    #[expect(clippy::mutable_key_type, reason = "keys never change; what is made on demand is not looked at")]
    pub(crate) fn fill(&self, objects: impl IntoIterator<Item = Object>, revision: u64) {
        let objects = objects.into_iter().map(|object| ByKey(Arc::new(object))).collect();
        let generation = {
            let mut state = self.write();
            let generation = state.generation + 1;
            *state = State { objects, ring: Ring::new(revision), revision, generation };
            generation
        };
        self.changed.send_replace((revision, generation));
    }

    /// Applies changes in order, all of one or more whole revisions, at once.
    pub(crate) fn apply(&self, changes: Vec<Change>, now: Instant) {
        let wake = {
            let mut state = self.write();
            for change in changes {
                state.apply(&self.storage, change, now);
            }
            (state.revision, state.generation)
        };
        self.changed.send_replace(wake);
    }

    /// Forgets events that are old.
    pub(crate) fn tidy(&self, now: Instant) {
        self.write().ring.tidy(now);
    }

    pub(crate) fn get(&self, key: &str) -> Option<Arc<Object>> {
        self.read().objects.get(key).map(|found| found.0.clone())
    }

    /// How many objects there are.
    pub(crate) fn len(&self) -> usize {
        self.read().objects.len()
    }

    /// All objects whose key starts with `within`, newest state.
    pub(crate) fn all(&self, within: &str) -> Vec<Arc<Object>> {
        self.read().from(within, None).cloned().collect()
    }

    /// Lists what matches. `applied` is what the whole cache is known to have.
    pub(crate) fn list(&self, query: &Query<'_>, filter: &Filter, applied: u64) -> Result<Listed, TooOld> {
        let state = self.read();
        let revision = query.at.unwrap_or_else(|| state.revision.max(applied));
        let mut listed = Listed { revision, generation: state.generation, ..Listed::default() };
        match query.at {
            None => listed.take(state.from(query.within, query.after), query.limit, filter),
            Some(at) => {
                let mut undo = state.ring.undo(at)?;
                undo.retain(|key, _| {
                    key.starts_with(query.within) && query.after.is_none_or(|after| &**key > after)
                });
                let kept =
                    state.from(query.within, query.after).filter(|object| !undo.contains_key(object.key()));
                let mut then: Vec<_> = kept.chain(undo.values().flatten()).cloned().collect();
                then.sort_by(|a, b| a.key().cmp(b.key()));
                listed.take(then.iter(), query.limit, filter);
            }
        }
        Ok(listed)
    }

    /// Events after a cursor. `Ok` with nothing means: wait for a change.
    pub(crate) fn events(&self, after: u64, generation: u64, limit: usize) -> Result<Vec<Arc<Event>>, Lost> {
        let state = self.read();
        if state.generation != generation {
            return Err(Lost::Refilled);
        }
        state.ring.after(after, limit).map_err(|TooOld { floor }| Lost::TooOld { floor })
    }

    /// The generation that cursors belong to now.
    pub(crate) fn generation(&self) -> u64 {
        self.read().generation
    }

    /// Something that changes with every change.
    pub(crate) fn mark(&self) -> (u64, u64) {
        *self.changed.borrow()
    }

    /// How many wait to be woken.
    pub(crate) fn watchers(&self) -> usize {
        self.changed.receiver_count()
    }

    /// Wakes when events are there, or the cache was filled anew.
    pub(crate) fn subscribe(&self) -> watch::Receiver<(u64, u64)> {
        self.changed.subscribe()
    }
}

impl State {
    fn apply(&mut self, storage: &Storage, change: Change, now: Instant) {
        let (key, revision, after) = match change {
            Change::Put { key, stored, revision } => {
                let event = if self.objects.contains(&*key) { EventType::Modified } else { EventType::Added };
                match storage.read(&key, event, &stored, revision) {
                    Ok(object) => (key, revision, Some(Arc::new(object))),
                    Err(error) => {
                        tracing::error!(%key, prefix = storage.prefix, %error, "what the store has is not an object");
                        self.revision = self.revision.max(revision);
                        return;
                    }
                }
            }
            Change::Delete { key, revision } => (key, revision, None),
        };
        let before = match &after {
            Some(object) => self.objects.replace(ByKey(object.clone())),
            None => self.objects.take(&*key),
        };
        self.revision = self.revision.max(revision);
        if after.is_some() || before.is_some() {
            self.ring.push(now, Event::new(revision, after, before.map(|object| object.0)));
        }
    }

    /// Objects whose key starts with `within` and comes after `after`.
    fn from<'a>(
        &'a self,
        within: &'a str,
        after: Option<&str>,
    ) -> impl Iterator<Item = &'a Arc<Object>> + use<'a> {
        let start = match after {
            Some(after) if after >= within => Bound::Excluded(after),
            _ => Bound::Included(within),
        };
        let range = self.objects.range::<str, _>((start, Bound::Unbounded));
        range.map(|found| &found.0).take_while(move |object| object.key().starts_with(within))
    }
}

impl Listed {
    fn take<'a>(
        &mut self,
        mut objects: impl Iterator<Item = &'a Arc<Object>>,
        limit: usize,
        filter: &Filter,
    ) {
        while let Some(object) = objects.next() {
            if !filter.matches(object) {
                continue;
            }
            if limit > 0 && self.objects.len() == limit {
                self.more = true;
                self.remaining = 1 + objects.count() as u64;
                return;
            }
            self.objects.push(object.clone());
        }
    }
}
