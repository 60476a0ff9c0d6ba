//! What goes with what: owners, namespaces, finalizers.

use client::{DeleteParams, ListParams, Patch, Propagation};
use manifests::k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use manifests::k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, ServiceAccount};
use serde_json::json;

use crate::boat::Boat;
use crate::workloads::{deployment, is_rolled_out, launch};

const WEB: &str = "/apis/apps/v1/namespaces/default/deployments/web";
const PODS: &str = "/api/v1/namespaces/default/pods";
const SETS: &str = "/apis/apps/v1/namespaces/default/replicasets";

async fn with_deployment() -> Boat {
    let boat = launch().await;
    boat.create("/apis/apps/v1/namespaces/default/deployments", deployment(2, "v1")).await;
    boat.eventually::<Deployment>(WEB, is_rolled_out).await;
    boat
}

async fn delete(boat: &Boat, propagation: Propagation) {
    let params = DeleteParams::default().propagation(propagation);
    boat.client.namespaced::<Deployment>("default").delete("web", &params).await.unwrap();
}

#[tokio::test]
async fn background_deletion_takes_the_dependents_along() {
    let boat = with_deployment().await;
    delete(&boat, Propagation::Background).await;
    boat.gone(WEB).await;
    boat.eventually::<client::List<ReplicaSet>>(SETS, |list| list.items.is_empty()).await;
    boat.eventually::<client::List<Pod>>(PODS, |list| list.items.is_empty()).await;
}

#[tokio::test]
async fn foreground_deletion_lets_the_dependents_go_first() {
    let boat = with_deployment().await;
    let pods = boat.client.namespaced::<Pod>("default");
    let pod = pods.list(&ListParams::default()).await.unwrap().items.remove(0);
    let name = pod.metadata.name.unwrap();
    let hold = Patch::Merge(json!({"metadata": {"finalizers": ["example.com/hold"]}}));
    pods.patch(&name, &hold).await.unwrap();
    delete(&boat, Propagation::Foreground).await;
    boat.eventually::<client::List<Pod>>(PODS, |list| list.items.len() == 1).await;
    let waiting = boat
        .eventually::<Deployment>(WEB, |deployment| deployment.metadata.deletion_timestamp.is_some())
        .await;
    assert_eq!(waiting.metadata.finalizers, Some(vec!["foregroundDeletion".to_owned()]));
    let release = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    pods.patch(&name, &release).await.unwrap();
    boat.gone(WEB).await;
    boat.eventually::<client::List<Pod>>(PODS, |list| list.items.is_empty()).await;
}

#[tokio::test]
async fn orphans_stay_and_are_adopted_again() {
    let boat = with_deployment().await;
    let before =
        boat.client.namespaced::<ReplicaSet>("default").list(&ListParams::default()).await.unwrap().items;
    delete(&boat, Propagation::Orphan).await;
    boat.gone(WEB).await;
    boat.eventually::<client::List<ReplicaSet>>(SETS, |list| {
        list.items.len() == 1 && list.items[0].metadata.owner_references.is_none()
    })
    .await;
    boat.create("/apis/apps/v1/namespaces/default/deployments", deployment(2, "v1")).await;
    boat.eventually::<Deployment>(WEB, is_rolled_out).await;
    let after =
        boat.client.namespaced::<ReplicaSet>("default").list(&ListParams::default()).await.unwrap().items;
    assert_eq!(after[0].metadata.uid, before[0].metadata.uid);
}

#[tokio::test]
async fn a_namespace_goes_with_everything_in_it() {
    let boat = launch().await;
    boat.create(
        "/api/v1/namespaces",
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "crew"}}),
    )
    .await;
    boat.eventually::<ServiceAccount>("/api/v1/namespaces/crew/serviceaccounts/default", |_| true).await;
    let mut web = deployment(2, "v1");
    web["metadata"]["namespace"] = json!("crew");
    boat.create("/apis/apps/v1/namespaces/crew/deployments", web).await;
    boat.eventually::<Deployment>("/apis/apps/v1/namespaces/crew/deployments/web", is_rolled_out).await;
    let held = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "held", "finalizers": ["example.com/hold"]},
    });
    boat.create("/api/v1/namespaces/crew/configmaps", held).await;

    boat.client.all::<Namespace>().delete("crew", &DeleteParams::default()).await.unwrap();
    let waiting = boat
        .eventually::<Namespace>("/api/v1/namespaces/crew", |namespace| {
            let status = namespace.status.as_ref();
            let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
            conditions.iter().any(|condition| {
                condition.type_ == "NamespaceFinalizersRemaining"
                    && condition.status == "True"
                    && condition.message.as_deref() == Some("Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances")
            })
        })
        .await;
    assert_eq!(waiting.status.unwrap().phase.as_deref(), Some("Terminating"));
    let late = ConfigMap {
        metadata: manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
            name: Some("late".to_owned()),
            ..Default::default()
        },
        ..ConfigMap::default()
    };
    let refused = boat.client.namespaced::<ConfigMap>("crew").create(&late).await.unwrap_err();
    assert!(refused.is_namespace_terminating(), "{refused}");

    let release = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    boat.client.namespaced::<ConfigMap>("crew").patch("held", &release).await.unwrap();
    boat.gone("/api/v1/namespaces/crew").await;
    let left = boat.client.namespaced::<Pod>("crew").list(&ListParams::default()).await.unwrap().items;
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test(start_paused = true)]
async fn a_pod_of_a_node_that_never_was_keeps_no_namespace() {
    let boat = launch().await;
    boat.create(
        "/api/v1/namespaces",
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "crew"}}),
    )
    .await;
    boat.eventually::<ServiceAccount>("/api/v1/namespaces/crew/serviceaccounts/default", |_| true).await;
    let adrift = |name: &str, finalizers: &[&str]| {
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "finalizers": finalizers},
            "spec": {"nodeName": "nowhere", "containers": [{"name": "main", "image": "boat:1"}]},
        })
    };
    boat.create("/api/v1/namespaces/crew/pods", adrift("adrift", &[])).await;
    boat.create("/api/v1/namespaces/crew/pods", adrift("held", &["example.com/hold"])).await;
    boat.client.all::<Namespace>().delete("crew", &DeleteParams::default()).await.unwrap();
    boat.gone("/api/v1/namespaces/crew/pods/adrift").await;
    let marked = |pod: &Pod| {
        let status = pod.status.clone().unwrap_or_default();
        let conditions = status.conditions.unwrap_or_default();
        let target = conditions.iter().find(|condition| condition.type_ == "DisruptionTarget");
        status.phase.as_deref() == Some("Failed")
            && target.is_some_and(|target| {
                target.reason.as_deref() == Some("DeletionByPodGC")
                    && target.message.as_deref() == Some("PodGC: node no longer exists")
            })
    };
    boat.eventually::<Pod>("/api/v1/namespaces/crew/pods/held", marked).await;
    let release = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    boat.client.namespaced::<Pod>("crew").patch("held", &release).await.unwrap();
    boat.gone("/api/v1/namespaces/crew").await;
}
