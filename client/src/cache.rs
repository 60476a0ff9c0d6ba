//! What is known about a resource's objects: one writer, many readers.
//!
//! Objects are shared, never copied. Readers hold the lock only to clone pointers. A list replaces the
//! contents in one step, so nobody sees half of it. Objects sort by namespace and name; a namespace is a
//! range. Further indexes are named functions from an object to the values it is found under.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};

use tokio::sync::{Notify, watch};

use crate::object::{Object, ObjectKey};

/// A named function from an object to the values under which it is found.
pub struct Index<K> {
    /// Name for [`Cache::indexed`].
    pub name: &'static str,
    /// The values; most objects have none or one.
    pub values: fn(&K) -> Vec<String>,
}

impl<K> Clone for Index<K> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K> Copy for Index<K> {}

impl<K> fmt::Debug for Index<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Index").field(&self.name).finish()
    }
}

/// One change, as handlers see it.
#[derive(Debug)]
pub struct Change<'a, K> {
    /// Namespace and name.
    pub key: &'a ObjectKey,
    /// Before; None if the object is new.
    pub old: Option<&'a Arc<K>>,
    /// After; None if the object is gone.
    pub new: Option<&'a Arc<K>>,
}

impl<'a, K> Change<'a, K> {
    /// The object after the change, or its last state.
    pub fn newest(&self) -> Option<&'a Arc<K>> {
        self.new.or(self.old)
    }

    /// Both states that there are: old first.
    pub fn states(&self) -> impl Iterator<Item = &'a Arc<K>> + use<'a, K> {
        self.old.into_iter().chain(self.new)
    }
}

type Handler<K> = Box<dyn Fn(&Change<'_, K>) -> bool + Send + Sync>;

struct Objects<K> {
    by_key: BTreeMap<ObjectKey, Arc<K>>,
    indexes: Vec<(Index<K>, Entries)>,
}

/// The keys found under each value of an index.
type Entries = HashMap<String, BTreeSet<ObjectKey>>;

impl<K: Object> Objects<K> {
    fn insert(&mut self, key: &ObjectKey, object: Arc<K>) -> Option<Arc<K>> {
        let old = self.by_key.insert(key.clone(), object.clone());
        for (index, entries) in &mut self.indexes {
            let before = old.as_deref().map(index.values).unwrap_or_default();
            let after = (index.values)(&object);
            if before == after {
                continue;
            }
            remove_from_index(entries, key, &before);
            for value in after {
                entries.entry(value).or_default().insert(key.clone());
            }
        }
        old
    }

    fn remove(&mut self, key: &ObjectKey) -> Option<Arc<K>> {
        let old = self.by_key.remove(key)?;
        for (index, entries) in &mut self.indexes {
            remove_from_index(entries, key, &(index.values)(&old));
        }
        Some(old)
    }
}

fn remove_from_index(entries: &mut Entries, key: &ObjectKey, values: &[String]) {
    for value in values {
        if let Some(keys) = entries.get_mut(value) {
            keys.remove(key);
            if keys.is_empty() {
                entries.remove(value);
            }
        }
    }
}

struct Shared<K> {
    objects: RwLock<Objects<K>>,
    /// Held by the writer while it changes objects and tells handlers, and while a handler is added: so
    /// each handler hears of every object exactly once, and changes in order.
    handlers: Mutex<Vec<Handler<K>>>,
    /// Told after every change, for those who wait for one.
    changed: Notify,
    synced: watch::Sender<bool>,
}

impl<K> Shared<K> {
    fn read(&self) -> RwLockReadGuard<'_, Objects<K>> {
        self.objects.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Objects<K>> {
        self.objects.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn handlers(&self) -> MutexGuard<'_, Vec<Handler<K>>> {
        self.handlers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The reading side; cheap to clone.
pub struct Cache<K> {
    shared: Arc<Shared<K>>,
}

impl<K> Clone for Cache<K> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

impl<K> fmt::Debug for Cache<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache")
            .field("objects", &self.shared.read().by_key.len())
            .field("synced", &*self.shared.synced.borrow())
            .finish()
    }
}

impl<K: Object> Cache<K> {
    /// The object, if it exists.
    pub fn get(&self, key: &ObjectKey) -> Option<Arc<K>> {
        self.shared.read().by_key.get(key).cloned()
    }

    /// Every object, sorted by namespace and name.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.shared.read().by_key.values().cloned().collect()
    }

    /// Every key, sorted.
    pub fn keys(&self) -> Vec<ObjectKey> {
        self.shared.read().by_key.keys().cloned().collect()
    }

    /// Every object of a namespace, sorted by name.
    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let start = ObjectKey::new(namespace, "");
        let objects = self.shared.read();
        let range = objects.by_key.range(start..).take_while(|(key, _)| key.namespace == namespace);
        range.map(|(_, object)| object.clone()).collect()
    }

    /// Every object that an index finds under a value, sorted by key.
    ///
    /// An index that was never added finds nothing.
    pub fn indexed(&self, index: &str, value: &str) -> Vec<Arc<K>> {
        let objects = self.shared.read();
        let Some((_, entries)) = objects.indexes.iter().find(|(known, _)| known.name == index) else {
            debug_assert!(false, "index {index} was not added");
            return Vec::new();
        };
        let keys = entries.get(value).into_iter().flatten();
        keys.filter_map(|key| objects.by_key.get(key).cloned()).collect()
    }

    /// Adds an index unless one of that name is there.
    pub fn add_index(&self, index: Index<K>) {
        let mut objects = self.shared.write();
        if objects.indexes.iter().any(|(known, _)| known.name == index.name) {
            return;
        }
        let mut entries = Entries::new();
        for (key, object) in &objects.by_key {
            for value in (index.values)(object) {
                entries.entry(value).or_default().insert(key.clone());
            }
        }
        objects.indexes.push((index, entries));
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.shared.read().by_key.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Calls `handler` for every object that is there, as new, and then for every change. Handlers run
    /// one at a time, after the cache has changed; they must be quick and must not add handlers: adding a
    /// key to a queue is what they are for.
    pub fn on_change(&self, handler: impl Fn(&Change<'_, K>) + Send + Sync + 'static) {
        self.add_handler(Box::new(move |change| {
            handler(change);
            true
        }));
    }

    fn add_handler(&self, handler: Handler<K>) {
        let mut handlers = self.shared.handlers();
        let present: Vec<(ObjectKey, Arc<K>)> =
            self.shared.read().by_key.iter().map(|(key, object)| (key.clone(), object.clone())).collect();
        for (key, object) in &present {
            handler(&Change { key, old: None, new: Some(object) });
        }
        handlers.push(handler);
    }

    /// The keys of everything that is there and of what changes from now on.
    pub fn changes(&self) -> Changes {
        let pending = Arc::new(Pending::default());
        let weak: Weak<Pending> = Arc::downgrade(&pending);
        self.add_handler(Box::new(move |change| {
            let Some(pending) = weak.upgrade() else { return false };
            pending.push(change.key);
            true
        }));
        Changes { pending }
    }

    /// Returns when what is known about a key satisfies a condition: how a writer waits until the cache
    /// shows its write. Add a time limit where the condition might never hold.
    pub async fn wait_until(&self, key: &ObjectKey, mut holds: impl FnMut(Option<&K>) -> bool) {
        loop {
            let mut changed = std::pin::pin!(self.shared.changed.notified());
            // Enlisted before looking, so that no change falls in between.
            changed.as_mut().enable();
            if holds(self.get(key).as_deref()) {
                return;
            }
            changed.await;
        }
    }

    /// Whether the first list has arrived.
    pub fn is_synced(&self) -> bool {
        *self.shared.synced.borrow()
    }

    /// Returns when the first list has arrived. Waits for ever if the writer is gone before that.
    pub async fn wait_synced(&self) {
        let mut synced = self.shared.synced.subscribe();
        // The sender lives in `self`, so this cannot fail.
        let _ = synced.wait_for(|synced| *synced).await;
    }
}

/// The writing side. There is one per cache.
pub struct CacheWriter<K> {
    shared: Arc<Shared<K>>,
    trim: fn(&mut K),
}

impl<K> fmt::Debug for CacheWriter<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheWriter").finish_non_exhaustive()
    }
}

/// Drops what no component of coracle reads and what is often the largest part of an object.
pub fn trim_managed_fields<K: Object>(object: &mut K) {
    object.meta_mut().managed_fields = None;
}

/// An empty cache. `trim` may drop fields that no reader needs, so that caches stay small.
pub fn cache<K: Object>(trim: fn(&mut K)) -> (CacheWriter<K>, Cache<K>) {
    let shared = Arc::new(Shared {
        objects: RwLock::new(Objects { by_key: BTreeMap::new(), indexes: Vec::new() }),
        handlers: Mutex::new(Vec::new()),
        changed: Notify::new(),
        synced: watch::Sender::new(false),
    });
    (CacheWriter { shared: shared.clone(), trim }, Cache { shared })
}

impl<K: Object> CacheWriter<K> {
    /// The object was created or has changed.
    pub fn apply(&mut self, mut object: K) {
        (self.trim)(&mut object);
        let mut handlers = self.shared.handlers();
        self.put(&mut handlers, Arc::new(object));
    }

    /// The object is gone.
    pub fn remove(&mut self, key: &ObjectKey) {
        let mut handlers = self.shared.handlers();
        self.take(&mut handlers, key);
    }

    /// These objects, and no others, exist. Objects whose version did not change are not reported.
    pub fn restart(&mut self, objects: Vec<K>) {
        let mut handlers = self.shared.handlers();
        let listed: HashSet<ObjectKey> = objects.iter().map(Object::key).collect();
        let gone: Vec<ObjectKey> =
            self.shared.read().by_key.keys().filter(|key| !listed.contains(*key)).cloned().collect();
        for key in gone {
            self.take(&mut handlers, &key);
        }
        for mut object in objects {
            (self.trim)(&mut object);
            self.put(&mut handlers, Arc::new(object));
        }
        self.shared.synced.send_replace(true);
    }

    fn put(&self, handlers: &mut Vec<Handler<K>>, object: Arc<K>) {
        let key = object.key();
        let old = self.shared.write().insert(&key, object.clone());
        if let Some(old) = &old
            && !object.resource_version().is_empty()
            && old.resource_version() == object.resource_version()
            && old.uid() == object.uid()
        {
            return;
        }
        // An object that was deleted and made anew between two lists: readers must see the first one go.
        if let Some(old) = old.as_ref().filter(|old| old.uid() != object.uid()) {
            tell(handlers, &Change { key: &key, old: Some(old), new: None });
            tell(handlers, &Change { key: &key, old: None, new: Some(&object) });
            self.shared.changed.notify_waiters();
            return;
        }
        tell(handlers, &Change { key: &key, old: old.as_ref(), new: Some(&object) });
        self.shared.changed.notify_waiters();
    }

    fn take(&self, handlers: &mut Vec<Handler<K>>, key: &ObjectKey) {
        let old = self.shared.write().remove(key);
        if let Some(old) = old {
            tell(handlers, &Change { key, old: Some(&old), new: None });
            self.shared.changed.notify_waiters();
        }
    }
}

fn tell<K>(handlers: &mut Vec<Handler<K>>, change: &Change<'_, K>) {
    handlers.retain(|handler| handler(change));
}

/// Keys that have changed and were not yet taken; each is held once, however often it changes.
#[derive(Default)]
struct Pending {
    keys: Mutex<(VecDeque<ObjectKey>, HashSet<ObjectKey>)>,
    notify: Notify,
}

impl Pending {
    fn push(&self, key: &ObjectKey) {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if keys.1.insert(key.clone()) {
            keys.0.push_back(key.clone());
            drop(keys);
            self.notify.notify_one();
        }
    }

    fn pop(&self) -> Option<ObjectKey> {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let key = keys.0.pop_front()?;
        keys.1.remove(&key);
        Some(key)
    }
}

/// A subscription to changed keys. A slow reader costs one entry per distinct key, never more; ends with
/// its drop.
pub struct Changes {
    pending: Arc<Pending>,
}

impl fmt::Debug for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Changes").finish_non_exhaustive()
    }
}

impl Changes {
    /// The next changed key. Cancel safe.
    pub async fn next(&mut self) -> ObjectKey {
        loop {
            if let Some(key) = self.pending.pop() {
                return key;
            }
            self.pending.notify.notified().await;
        }
    }

    /// The next changed key if there is one.
    pub fn try_next(&mut self) -> Option<ObjectKey> {
        self.pending.pop()
    }
}

#[cfg(test)]
mod tests;
