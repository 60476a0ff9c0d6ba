//! Who belongs to whom, as far as the caches know.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use client::{
    Api, ApiResource, Cache, Client, Index, Informer, Object as _, ObjectKey, PartialObject, WorkQueue,
};
use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use manifests::kinds::{KINDS, Kind};

/// Owners by their uid: the value under which a dependent is found.
const OWNER: Index<PartialObject> = Index {
    name: "owner",
    values: |object| {
        object.metadata.owner_references.iter().flatten().map(|owner| owner.uid.clone()).collect()
    },
};
const UID: Index<PartialObject> =
    Index { name: "uid", values: |object| object.metadata.uid.clone().into_iter().collect() };

/// An object of any kind.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Key {
    /// Place of the kind in [`Graph::kinds`].
    pub(super) kind: usize,
    pub(super) object: ObjectKey,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = kinds().nth(self.kind).map_or("?", |kind| kind.plural);
        write!(f, "{plural} {}", self.object)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The kinds that can own and be owned. Events come and go too often and belong to nobody, as upstream has it.
pub(super) fn kinds() -> impl Iterator<Item = &'static Kind> {
    KINDS.iter().copied().filter(|kind| kind.kind != "Event" && !kind.is_view() && kind.is_stored())
}

pub(super) fn resource(kind: &'static Kind) -> ApiResource {
    ApiResource {
        group: Cow::Borrowed(kind.group),
        version: Cow::Borrowed(kind.version),
        kind: Cow::Borrowed(kind.kind),
        plural: Cow::Borrowed(kind.plural),
    }
}

#[derive(Debug)]
pub(super) struct Graph {
    caches: Vec<Cache<PartialObject>>,
}

impl Graph {
    /// Caches of the metadata of every kind, and the informers that fill them.
    pub(super) fn new(client: &Client) -> (Self, Vec<Informer<PartialObject>>) {
        let informers: Vec<_> = kinds()
            .map(|kind| {
                let api = Api::metadata(client.clone(), resource(kind), None);
                Informer::with_trim(api, trim).index(OWNER).index(UID)
            })
            .collect();
        (Self { caches: informers.iter().map(Informer::cache).collect() }, informers)
    }

    pub(super) async fn wait_synced(&self) {
        for cache in &self.caches {
            cache.wait_synced().await;
        }
    }

    pub(super) fn get(&self, key: &Key) -> Option<Arc<PartialObject>> {
        self.caches.get(key.kind)?.get(&key.object)
    }

    /// What names this uid as an owner.
    pub(super) fn dependents(&self, uid: &str) -> Vec<(Key, Arc<PartialObject>)> {
        find(&self.caches, OWNER.name, uid)
    }

    /// Puts keys in the queue when something changes that could ask for work: the object itself, its dependents when
    /// it goes, its owners when it no longer belongs to them.
    pub(super) fn enqueue_on_change(self: &Arc<Self>, queue: &WorkQueue<Key>) {
        for (kind, cache) in self.caches.iter().enumerate() {
            let (to, graph) = (queue.clone(), Arc::downgrade(self));
            cache.on_change(move |change| {
                // Most changes are of a status, and change nothing here.
                if let (Some(old), Some(new)) = (change.old, change.new)
                    && same(old, new)
                {
                    return;
                }
                let Some(graph) = graph.upgrade() else { return };
                if let Some(object) = change.new {
                    let owned =
                        object.metadata.owner_references.as_ref().is_some_and(|owners| !owners.is_empty());
                    if is_leaving(object) || owned {
                        to.add(Key { kind, object: change.key.clone() });
                    }
                }
                if change.new.is_none_or(|object| is_leaving(object))
                    && let Some(object) = change.newest()
                {
                    graph.dependents(object.uid()).into_iter().for_each(|(key, _)| to.add(key));
                }
                // Owners that it no longer names, or names otherwise, may have waited for that.
                let names = |owner: &OwnerReference| {
                    change.new.is_some_and(|object| owners(object).any(|new| new == owner))
                };
                let lost = change.old.into_iter().flat_map(|old| owners(old)).filter(|owner| !names(owner));
                for owner in lost {
                    find(&graph.caches, UID.name, &owner.uid).into_iter().for_each(|(key, _)| to.add(key));
                }
            });
        }
    }
}

fn owners(object: &PartialObject) -> impl Iterator<Item = &OwnerReference> {
    object.metadata.owner_references.iter().flatten()
}

fn is_leaving(object: &PartialObject) -> bool {
    object.metadata.deletion_timestamp.is_some()
}

/// Whether two states of an object ask for the same.
fn same(one: &PartialObject, other: &PartialObject) -> bool {
    let (one, other) = (&one.metadata, &other.metadata);
    one.owner_references == other.owner_references
        && one.finalizers == other.finalizers
        && one.deletion_timestamp == other.deletion_timestamp
}

fn find(caches: &[Cache<PartialObject>], index: &str, value: &str) -> Vec<(Key, Arc<PartialObject>)> {
    caches
        .iter()
        .enumerate()
        .flat_map(|(kind, cache)| {
            cache
                .indexed(index, value)
                .into_iter()
                .map(move |object| (Key { kind, object: object.key() }, object))
        })
        .collect()
}

/// What the graph is made from, and nothing else.
fn trim(object: &mut PartialObject) {
    let metadata = &mut object.metadata;
    metadata.managed_fields = None;
    metadata.annotations = None;
    metadata.labels = None;
    metadata.generate_name = None;
    object.api_version = String::new();
    object.kind = String::new();
}
