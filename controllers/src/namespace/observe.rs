//! What a namespace still holds.

use std::borrow::Cow;

use client::{Api, ApiResource, Client, Error, ListParams};
use manifests::k8s_openapi::api::core::v1::Namespace;
use manifests::kinds::{KINDS, Kind};

/// One snapshot, straight from the server: a cache that is behind would let a namespace go too early.
#[derive(Debug, Clone)]
pub(super) struct Observed {
    pub(super) namespace: Namespace,
    /// Resources that still have objects here.
    pub(super) remaining: Vec<Remaining>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Remaining {
    pub(super) resource: ApiResource,
    /// Objects that nobody has deleted yet.
    pub(super) untouched: usize,
    /// Objects that are on their way out.
    pub(super) leaving: usize,
    /// Finalizers that hold objects, with how many each holds.
    pub(super) finalizers: Vec<(String, usize)>,
}

/// None if the namespace is not to be emptied.
pub(super) async fn observe(client: &Client, name: &str) -> Result<Option<Observed>, Error> {
    let Some(namespace) = client.all::<Namespace>().get_opt(name).await? else { return Ok(None) };
    if namespace.metadata.deletion_timestamp.is_none() {
        return Ok(None);
    }
    let mut remaining = Vec::new();
    for kind in namespaced() {
        let resource = resource(kind);
        let list = Api::metadata(client.clone(), resource.clone(), Some(name))
            .list_all(&ListParams::default())
            .await?;
        if list.items.is_empty() {
            continue;
        }
        let leaving = list.items.iter().filter(|item| item.metadata.deletion_timestamp.is_some()).count();
        let mut finalizers: Vec<(String, usize)> = Vec::new();
        for finalizer in list.items.iter().flat_map(|item| item.metadata.finalizers.iter().flatten()) {
            match finalizers.iter_mut().find(|(name, _)| name == finalizer) {
                Some((_, count)) => *count += 1,
                None => finalizers.push((finalizer.clone(), 1)),
            }
        }
        remaining.push(Remaining { resource, untouched: list.items.len() - leaving, leaving, finalizers });
    }
    Ok(Some(Observed { namespace, remaining }))
}

/// The kinds that live in namespaces; one name per kind where a kind is served under several.
fn namespaced() -> impl Iterator<Item = &'static Kind> {
    KINDS.iter().copied().filter(|kind| kind.namespaced && !kind.is_view() && kind.is_stored())
}

fn resource(kind: &'static Kind) -> ApiResource {
    ApiResource {
        group: Cow::Borrowed(kind.group),
        version: Cow::Borrowed(kind.version),
        kind: Cow::Borrowed(kind.kind),
        plural: Cow::Borrowed(kind.plural),
    }
}
