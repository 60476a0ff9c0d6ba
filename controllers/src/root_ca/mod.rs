//! Every namespace that is not on its way out has a ConfigMap `kube-root-ca.crt` with the authority of the API server, so
//! that its pods know whom they speak to.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::{Client, Error, Informer, Next, ObjectKey, TaskGroup, WorkQueue};
use manifests::k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::context::Context;

const NAME: &str = "kube-root-ca.crt";
const KEY: &str = "ca.crt";
const DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.";

/// Publishes `ca`, a PEM bundle.
pub(crate) fn start(context: &Context, ca: Arc<str>, group: &mut TaskGroup) {
    let namespaces = context.informers.cache::<Namespace>();
    // Only the ones of this name: a cluster has many other ConfigMaps, and large ones.
    let informer = Informer::new(context.client.all::<ConfigMap>()).fields(format!("metadata.name={NAME}"));
    let published = informer.cache();
    let queue = WorkQueue::<ObjectKey>::new();
    let to = queue.clone();
    namespaces.on_change(move |change| to.add(change.key.clone()));
    let to = queue.clone();
    published.on_change(move |change| to.add(ObjectKey::cluster(change.key.namespace.clone())));
    let (client, stop) = (context.client.clone(), group.stop().clone());
    group.spawn_infallible("root CA bundles", informer.run(stop.clone()));
    group.spawn_infallible("root-ca-certificate-publisher", async move {
        tokio::join!(namespaces.wait_synced(), published.wait_synced());
        let work = queue.work("root-ca-certificate-publisher", 1, &stop, |key| {
            let namespace = namespaces.get(&key);
            let there = published.get(&ObjectKey::new(key.name.clone(), NAME));
            apply(&client, key, decide(namespace.as_deref(), there.as_deref(), &ca))
        });
        work.await;
    });
}

/// What is to be done about one namespace's bundle.
#[derive(Debug, PartialEq)]
enum Action {
    Nothing,
    Create(ConfigMap),
    Replace(ConfigMap),
}

fn decide(namespace: Option<&Namespace>, there: Option<&ConfigMap>, ca: &str) -> Action {
    let Some(namespace) = namespace else { return Action::Nothing };
    let phase = namespace.status.as_ref().and_then(|status| status.phase.as_deref());
    if namespace.metadata.deletion_timestamp.is_some() || phase == Some("Terminating") {
        return Action::Nothing;
    }
    let data = Some(BTreeMap::from([(KEY.to_owned(), ca.to_owned())]));
    match there {
        Some(there) if there.data == data => Action::Nothing,
        Some(there) => Action::Replace(ConfigMap { data, ..there.clone() }),
        None => {
            let annotations = [("kubernetes.io/description".to_owned(), DESCRIPTION.to_owned())];
            Action::Create(ConfigMap {
                metadata: ObjectMeta {
                    name: Some(NAME.to_owned()),
                    annotations: Some(BTreeMap::from(annotations)),
                    ..ObjectMeta::default()
                },
                data,
                ..ConfigMap::default()
            })
        }
    }
}

async fn apply(client: &Client, key: ObjectKey, action: Action) -> Result<Next, Error> {
    let api = client.namespaced::<ConfigMap>(&key.name);
    let result = match &action {
        Action::Nothing => return Ok(Next::Wait),
        Action::Create(bundle) => api.create(bundle).await,
        Action::Replace(bundle) => api.replace(bundle).await,
    };
    match result {
        // The cache was behind, or the namespace went away meanwhile: both are what was wanted.
        Err(error)
            if error.is_already_exists() || error.is_not_found() || error.is_namespace_terminating() =>
        {
            Ok(Next::Wait)
        }
        Err(error) => Err(error),
        Ok(_) => Ok(Next::Wait),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_living_namespace_has_the_bundle() {
        let namespace = |phase: &str| {
            let value = json!({"metadata": {"name": "a"}, "status": {"phase": phase}});
            serde_json::from_value::<Namespace>(value).unwrap()
        };
        let bundle = |ca: &str| {
            let value = json!({"metadata": {"name": NAME, "resourceVersion": "7"}, "data": {KEY: ca}});
            serde_json::from_value::<ConfigMap>(value).unwrap()
        };
        let living = namespace("Active");
        let Action::Create(created) = decide(Some(&living), None, "PEM") else { panic!("nothing is made") };
        assert_eq!(created.data.clone().unwrap()[KEY], "PEM");
        assert_eq!(decide(Some(&living), Some(&created), "PEM"), Action::Nothing);
        assert_eq!(decide(Some(&living), Some(&bundle("PEM")), "PEM"), Action::Nothing);
        assert_eq!(decide(Some(&living), Some(&bundle("old")), "PEM"), Action::Replace(bundle("PEM")));
        assert_eq!(decide(Some(&namespace("Terminating")), None, "PEM"), Action::Nothing);
        assert_eq!(decide(None, None, "PEM"), Action::Nothing);
    }
}
