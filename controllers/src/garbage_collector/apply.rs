//! Carries a plan out. Everything names the uid that was observed, so that a namesake is never touched.

use client::{Api, Client, DeleteParams, Error, Object as _, ObjectKey, PartialObject, Patch};
use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};

use super::decide::Action;
use super::graph::{Key, kinds, resource};
use super::observe::Observed;

pub(super) async fn apply(
    client: &Client,
    key: &Key,
    observed: &Observed,
    plan: Vec<Action>,
) -> Result<(), Error> {
    let uid = observed.metadata.uid.clone().unwrap_or_default();
    for action in plan {
        match action {
            Action::Delete(propagation) => {
                tracing::debug!(object = %key, "deleting what has no owner left");
                let params = DeleteParams::uid(&uid).propagation(propagation);
                match api(client, key).delete_opt(&key.object.name, &params).await {
                    // Another object has its name by now: this one is gone.
                    Err(error) if error.is_conflict() => {}
                    result => result?,
                }
            }
            Action::DropOwners(owners) => {
                let keep: Vec<Value> =
                    references(&observed.metadata, |owner| !owners.iter().any(|gone| gone == owner));
                patch(client, key, &observed.metadata, json!({"ownerReferences": keep})).await?;
            }
            Action::Orphan(dependent) => {
                let Some(now) = api(client, &dependent).get_opt(&dependent.object.name).await? else {
                    continue;
                };
                if now.metadata.owner_references.iter().flatten().any(|owner| owner.uid == uid) {
                    let keep = references(now.meta(), |owner| owner != uid);
                    patch(client, &dependent, now.meta(), json!({"ownerReferences": keep})).await?;
                }
            }
            Action::DropFinalizer(name) => {
                let keep: Vec<&String> =
                    observed.metadata.finalizers.iter().flatten().filter(|have| *have != name).collect();
                patch(client, key, &observed.metadata, json!({"finalizers": keep})).await?;
            }
        }
    }
    Ok(())
}

fn references(metadata: &ObjectMeta, keep: impl Fn(&str) -> bool) -> Vec<Value> {
    metadata
        .owner_references
        .iter()
        .flatten()
        .filter(|owner| keep(&owner.uid))
        .map(|owner| json!(owner))
        .collect()
}

/// Changes metadata of exactly the state that was observed: uid and version go along as preconditions.
async fn patch(client: &Client, key: &Key, observed: &ObjectMeta, mut metadata: Value) -> Result<(), Error> {
    metadata["uid"] = json!(observed.uid);
    metadata["resourceVersion"] = json!(observed.resource_version);
    let patch = Patch::Merge(json!({"metadata": metadata}));
    match api(client, key).patch(&key.object.name, &patch).await {
        Err(error) if error.is_not_found() => Ok(()),
        result => result.map(drop),
    }
}

fn api(client: &Client, key: &Key) -> Api<PartialObject> {
    let kind = kinds().nth(key.kind).expect("keys are made from the same list of kinds");
    let ObjectKey { namespace, .. } = &key.object;
    Api::metadata(client.clone(), resource(kind), kind.namespaced.then_some(namespace.as_str()))
}
