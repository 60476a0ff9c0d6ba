//! What hooks may know of the cluster and the request.

use std::sync::Arc;

use manifests::k8s_openapi::jiff::Timestamp;

use super::Registry;
use crate::config::Config;
use crate::identity::Identity;
use crate::object::Object;

/// The surroundings of one attempt of a write. Lookups show the watch cache; when a hook refuses on their ground, the
/// write is tried again on a cache that is known to be up to date before the refusal counts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Env<'a> {
    pub(crate) registry: &'a Registry,
    pub(crate) config: &'a Config,
    pub(crate) identity: &'a Identity,
    pub(crate) now: Timestamp,
}

impl Env<'_> {
    /// An object of the core group or another one, by its resource and key.
    pub(crate) fn get(&self, group: &str, resource: &str, key: &str) -> Option<Arc<Object>> {
        self.registry.find(group, "v1", resource)?.cache.get(key)
    }
}
