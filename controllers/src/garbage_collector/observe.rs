//! One object with its owners and its dependents.

use client::{Api, Client, Error, Object as _, PartialObject};
use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use manifests::kinds::{self, Kind};

use super::decide::FOREGROUND;
use super::graph::{Graph, Key, kinds, resource};

/// What an owner is to its dependent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Owner {
    /// It exists and stays.
    Solid,
    /// It is being deleted in the foreground: it waits for its dependents.
    Waiting,
    /// It does not exist, or another object has its name now.
    Absent,
    /// Nobody can tell: its kind is not served here, or could not own this object.
    #[default]
    Unknown,
}

#[derive(Debug, Clone)]
pub(super) struct Dependent {
    pub(super) key: Key,
    /// It wants to be gone before its owner.
    pub(super) blocks: bool,
}

/// One snapshot of everything that the decision needs.
#[derive(Debug, Clone, Default)]
pub(super) struct Observed {
    pub(super) metadata: ObjectMeta,
    pub(super) owners: Vec<(OwnerReference, Owner)>,
    pub(super) dependents: Vec<Dependent>,
}

/// None if the object is gone. The object and its owners are read from the server, dependents from the caches.
pub(super) async fn observe(client: &Client, graph: &Graph, key: &Key) -> Result<Option<Observed>, Error> {
    let Some(kind) = kinds().nth(key.kind) else { return Ok(None) };
    if graph.get(key).is_none() {
        return Ok(None);
    }
    let namespace = key.object.namespace.as_str();
    let Some(object) = get(client, kind, namespace, &key.object.name).await? else { return Ok(None) };
    let uid = object.uid().to_owned();
    let mut owners = Vec::new();
    for owner in object.metadata.owner_references.iter().flatten() {
        owners.push((owner.clone(), state(client, owner, namespace).await?));
    }
    let dependents = graph
        .dependents(&uid)
        .into_iter()
        .map(|(key, dependent)| {
            let references = dependent.metadata.owner_references.iter().flatten();
            let blocks = references
                .filter(|owner| owner.uid == uid)
                .any(|owner| owner.block_owner_deletion == Some(true));
            Dependent { key, blocks }
        })
        .collect();
    Ok(Some(Observed { metadata: object.metadata, owners, dependents }))
}

async fn state(client: &Client, owner: &OwnerReference, namespace: &str) -> Result<Owner, Error> {
    let Some(kind) = kinds::by_kind(&owner.api_version, &owner.kind) else { return Ok(Owner::Unknown) };
    if kind.namespaced && namespace.is_empty() {
        return Ok(Owner::Unknown);
    }
    let found = get(client, kind, namespace, &owner.name).await?;
    Ok(match found.filter(|found| found.uid() == owner.uid) {
        None => Owner::Absent,
        Some(found) => {
            let leaving = found.metadata.deletion_timestamp.is_some();
            let foreground = found.metadata.finalizers.iter().flatten().any(|name| name == FOREGROUND);
            if leaving && foreground { Owner::Waiting } else { Owner::Solid }
        }
    })
}

async fn get(
    client: &Client,
    kind: &'static Kind,
    namespace: &str,
    name: &str,
) -> Result<Option<PartialObject>, Error> {
    let namespace = kind.namespaced.then_some(namespace);
    Api::metadata(client.clone(), resource(kind), namespace).get_opt(name).await
}
