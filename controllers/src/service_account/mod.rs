//! Every namespace that is not on its way out has a ServiceAccount `default`.

use client::{Client, Error, Next, ObjectKey, TaskGroup, WorkQueue};
use manifests::k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::context::Context;

const DEFAULT: &str = "default";

pub(crate) fn start(context: &Context, group: &mut TaskGroup) {
    let namespaces = context.informers.cache::<Namespace>();
    let accounts = context.informers.cache::<ServiceAccount>();
    let queue = WorkQueue::<ObjectKey>::new();
    let to = queue.clone();
    namespaces.on_change(move |change| to.add(change.key.clone()));
    let to = queue.clone();
    accounts.on_change(move |change| {
        if change.new.is_none() && change.key.name == DEFAULT {
            to.add(ObjectKey::cluster(change.key.namespace.clone()));
        }
    });
    let (client, stop) = (context.client.clone(), group.stop().clone());
    group.spawn_infallible("serviceaccount-controller", async move {
        tokio::join!(namespaces.wait_synced(), accounts.wait_synced());
        let work = queue.work("serviceaccount", 1, &stop, |key| {
            let namespace = namespaces.get(&key);
            let exists = accounts.get(&ObjectKey::new(key.name.clone(), DEFAULT)).is_some();
            apply(&client, key, is_missing(namespace.as_deref(), exists))
        });
        work.await;
    });
}

/// Whether the account has to be made.
fn is_missing(namespace: Option<&Namespace>, exists: bool) -> bool {
    let Some(namespace) = namespace else { return false };
    let phase = namespace.status.as_ref().and_then(|status| status.phase.as_deref());
    !exists && namespace.metadata.deletion_timestamp.is_none() && phase != Some("Terminating")
}

async fn apply(client: &Client, key: ObjectKey, create: bool) -> Result<Next, Error> {
    if create {
        let account = ServiceAccount {
            metadata: ObjectMeta { name: Some(DEFAULT.to_owned()), ..ObjectMeta::default() },
            ..ServiceAccount::default()
        };
        match client.namespaced::<ServiceAccount>(&key.name).create(&account).await {
            Ok(_) => {}
            // The cache was behind, or the namespace went away meanwhile: both are what was wanted.
            Err(error)
                if error.is_already_exists() || error.is_not_found() || error.is_namespace_terminating() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Next::Wait)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_a_living_namespace_without_the_account_gets_one() {
        let namespace = |value| serde_json::from_value::<Namespace>(value).unwrap();
        let living = namespace(json!({"metadata": {"name": "a"}, "status": {"phase": "Active"}}));
        let leaving =
            namespace(json!({"metadata": {"name": "a", "deletionTimestamp": "2026-01-01T00:00:00Z"}}));
        assert!(is_missing(Some(&living), false));
        assert!(!is_missing(Some(&living), true));
        assert!(!is_missing(Some(&leaving), false));
        assert!(!is_missing(None, false));
    }
}
