//! Keeps caches up to date from watches, one per resource, shared by all who read it.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::fmt;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use manifests::k8s_openapi;
use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::api::Api;
use crate::cache::{Cache, CacheWriter, Index, cache, trim_managed_fields};
use crate::client::Client;
use crate::object::Object;
use crate::watcher::{self, Event, Watcher};

/// A cache and the watch that feeds it.
pub struct Informer<K> {
    api: Api<K>,
    params: watcher::Params,
    writer: CacheWriter<K>,
    cache: Cache<K>,
}

impl<K> fmt::Debug for Informer<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Informer").field("api", &self.api).finish_non_exhaustive()
    }
}

impl<K: Object> Informer<K> {
    /// An informer of everything that the api shows. Managed fields are dropped.
    pub fn new(api: Api<K>) -> Self {
        Self::with_trim(api, trim_managed_fields)
    }

    /// An informer that drops what nobody needs; `trim` should drop managed fields as well.
    pub fn with_trim(api: Api<K>, trim: fn(&mut K)) -> Self {
        let (writer, cache) = cache(trim);
        Self { api, params: watcher::Params::default(), writer, cache }
    }

    /// Only objects with these labels.
    pub fn labels(mut self, selector: impl Into<String>) -> Self {
        self.params.label_selector = Some(selector.into());
        self
    }

    /// Only objects with these fields.
    pub fn fields(mut self, selector: impl Into<String>) -> Self {
        self.params.field_selector = Some(selector.into());
        self
    }

    /// With an index.
    pub fn index(self, index: Index<K>) -> Self {
        self.cache.add_index(index);
        self
    }

    /// The cache; empty until the informer runs.
    pub fn cache(&self) -> Cache<K> {
        self.cache.clone()
    }

    /// Follows the resource until told to stop.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut watcher = Watcher::new(self.api, self.params);
        loop {
            let event = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                event = watcher.next() => event,
            };
            match event {
                Event::Restarted(objects) => self.writer.restart(objects),
                Event::Applied(object) => self.writer.apply(object),
                Event::Deleted(object) => self.writer.remove(&object.key()),
            }
        }
    }
}

/// One informer per kind, made on first use and shared: each resource is watched and held once per
/// process. Cheap to clone.
#[derive(Clone)]
pub struct Informers {
    shared: Arc<Shared>,
}

struct Shared {
    client: Client,
    caches: Mutex<HashMap<TypeId, Box<dyn Any + Send>>>,
    /// Made but not yet running; bounded by the number of kinds.
    waiting: Mutex<Vec<BoxFuture<'static, ()>>>,
    added: Notify,
    stop: CancellationToken,
}

impl fmt::Debug for Informers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let caches = self.shared.caches.lock().unwrap_or_else(PoisonError::into_inner).len();
        f.debug_struct("Informers").field("caches", &caches).finish_non_exhaustive()
    }
}

impl Informers {
    /// No informers yet. They stop with the token.
    pub fn new(client: Client, stop: CancellationToken) -> Self {
        Self {
            shared: Arc::new(Shared {
                client,
                caches: Mutex::default(),
                waiting: Mutex::default(),
                added: Notify::new(),
                stop,
            }),
        }
    }

    /// The client underneath.
    pub fn client(&self) -> &Client {
        &self.shared.client
    }

    /// The cache of a kind. The first caller's `trim` counts; all callers in one process should agree.
    pub fn cache_with_trim<K>(&self, trim: fn(&mut K)) -> Cache<K>
    where
        K: Object + k8s_openapi::Metadata<Ty = ObjectMeta>,
    {
        let mut caches = self.shared.caches.lock().unwrap_or_else(PoisonError::into_inner);
        let known = caches.get(&TypeId::of::<K>()).and_then(|any| any.downcast_ref::<Cache<K>>());
        if let Some(cache) = known {
            return cache.clone();
        }
        let informer = Informer::with_trim(self.shared.client.all::<K>(), trim);
        let cache = informer.cache();
        caches.insert(TypeId::of::<K>(), Box::new(cache.clone()));
        let run = informer.run(self.shared.stop.clone()).boxed();
        self.shared.waiting.lock().unwrap_or_else(PoisonError::into_inner).push(run);
        self.shared.added.notify_one();
        cache
    }

    /// The cache of a kind, without managed fields.
    pub fn cache<K>(&self) -> Cache<K>
    where
        K: Object + k8s_openapi::Metadata<Ty = ObjectMeta>,
    {
        self.cache_with_trim(trim_managed_fields)
    }

    /// Runs the informers that were made, and those that will be, until the token is cancelled. One caller
    /// at a time.
    pub async fn run(&self) {
        let mut running = FuturesUnordered::new();
        let mut stopped = pin!(self.shared.stop.cancelled());
        loop {
            running.extend(std::mem::take(
                &mut *self.shared.waiting.lock().unwrap_or_else(PoisonError::into_inner),
            ));
            tokio::select! {
                biased;
                () = &mut stopped => return,
                () = self.shared.added.notified() => {}
                Some(()) = running.next() => {}
            }
        }
    }
}
