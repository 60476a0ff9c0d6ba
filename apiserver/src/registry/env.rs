//! What hooks may know of the cluster and the request.

use std::sync::Arc;

use manifests::k8s_openapi::jiff::Timestamp;
use serde::de::DeserializeOwned;

use super::Registry;
use crate::config::Config;
use crate::identity::Identity;
use crate::object::Object;
use crate::rbac::Policy;
use crate::watch_cache::Caches;

/// The surroundings of one attempt of a write. Lookups show the watch cache; when a hook refuses on their ground, the
/// write is tried again on a cache that is known to be up to date before the refusal counts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Env<'a> {
    pub(crate) registry: &'a Registry,
    pub(crate) caches: &'a Caches,
    pub(crate) config: &'a Config,
    pub(crate) now: Timestamp,
    /// Who asks, when it matters what they may.
    pub(crate) caller: Option<Caller<'a>>,
}

/// Who asks, and what everybody may.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Caller<'a> {
    pub(crate) identity: &'a Identity,
    pub(crate) policy: &'a Policy,
}

impl Env<'_> {
    /// An object by its group, resource and key.
    pub(crate) fn get(&self, group: &str, resource: &str, key: &str) -> Option<Arc<Object>> {
        self.registry.find(group, "v1", resource)?.cache.get(key)
    }

    /// The same, decoded.
    pub(crate) fn decode<T: DeserializeOwned>(&self, group: &str, resource: &str, key: &str) -> Option<T> {
        serde_json::from_slice(self.get(group, resource, key)?.json_bytes()).ok()
    }

    /// All objects of a resource, decoded.
    pub(crate) fn all<T: DeserializeOwned>(&self, group: &str, resource: &str) -> Vec<T> {
        let Some(row) = self.registry.find(group, "v1", resource) else { return Vec::new() };
        row.cache
            .all("")
            .iter()
            .filter_map(|object| serde_json::from_slice(object.json_bytes()).ok())
            .collect()
    }

    /// All objects of a resource of the core group in a namespace, decoded.
    pub(crate) fn within<T: DeserializeOwned>(&self, resource: &str, namespace: &str) -> Vec<T> {
        self.namespaced("", resource, namespace)
    }

    /// All objects of a resource in a namespace, decoded.
    pub(crate) fn namespaced<T: DeserializeOwned>(
        &self,
        group: &str,
        resource: &str,
        namespace: &str,
    ) -> Vec<T> {
        let Some(row) = self.registry.find(group, "v1", resource) else { return Vec::new() };
        let objects = row.cache.all(&format!("{namespace}/"));
        objects.iter().filter_map(|object| serde_json::from_slice(object.json_bytes()).ok()).collect()
    }

    /// The store's key of an object.
    pub(crate) fn key(&self, group: &str, resource: &str, key: &str) -> String {
        self.registry.find(group, "v1", resource).map_or_else(String::new, |row| row.cache.storage.key(key))
    }
}
