//! Deployments and ReplicaSets, and the services in front of their pods.

use std::time::{Duration, Instant};

use client::{ListParams, Object, Patch};
use manifests::k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use manifests::k8s_openapi::api::core::v1::{Endpoints, Event, Pod};
use manifests::k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};
use testkit::node;

use crate::boat::Boat;

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const WEB: &str = "/apis/apps/v1/namespaces/default/deployments/web";

pub(crate) fn deployment(replicas: i32, image: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "web", "image": image, "ports": [{"name": "http", "containerPort": 8080}]}]},
            },
        },
    })
}

pub(crate) async fn launch() -> Boat {
    let mut boat = Boat::launch().await;
    boat.add_node(node("n1").build()).await;
    boat
}

/// All replicas run the newest template and are available.
pub(crate) fn is_rolled_out(deployment: &Deployment) -> bool {
    let Some(status) = &deployment.status else { return false };
    let wanted = deployment.spec.replicas;
    status.observed_generation == deployment.metadata.generation
        && status.updated_replicas == wanted
        && status.replicas == wanted
        && status.available_replicas == wanted
}

fn set_image(image: &str) -> Patch {
    Patch::Strategic(
        json!({"spec": {"template": {"spec": {"containers": [{"name": "web", "image": image}]}}}}),
    )
}

fn annotation<'a>(object: &'a impl Object, name: &str) -> &'a str {
    object
        .meta()
        .annotations
        .as_ref()
        .and_then(|annotations| annotations.get(name))
        .map_or("", String::as_str)
}

const REVISION: &str = "deployment.kubernetes.io/revision";

#[tokio::test]
async fn a_deployment_rolls_out_forward_and_back() {
    let boat = launch().await;
    boat.create(DEPLOYMENTS, deployment(3, "v1")).await;
    let first = boat.eventually::<Deployment>(WEB, is_rolled_out).await;
    assert_eq!(annotation(&first, REVISION), "1");

    let deployments = boat.client.namespaced::<Deployment>("default");
    deployments.patch("web", &set_image("v2")).await.unwrap();
    let second = boat.eventually::<Deployment>(WEB, is_rolled_out).await;
    assert_eq!(annotation(&second, REVISION), "2");
    let conditions = second.status.unwrap().conditions.unwrap();
    let reasons: Vec<&str> =
        conditions.iter().map(|condition| condition.reason.as_deref().unwrap()).collect();
    assert!(
        reasons.contains(&"NewReplicaSetAvailable") && reasons.contains(&"MinimumReplicasAvailable"),
        "{reasons:?}"
    );

    // What `kubectl rollout undo` does: the template of the old ReplicaSet again.
    deployments.patch("web", &set_image("v1")).await.unwrap();
    let third = boat.eventually::<Deployment>(WEB, is_rolled_out).await;
    assert_eq!(annotation(&third, REVISION), "3");
    let sets =
        boat.client.namespaced::<ReplicaSet>("default").list(&ListParams::default()).await.unwrap().items;
    assert_eq!(sets.len(), 2);
    let back = sets.iter().find(|set| set.spec.replicas == Some(3)).unwrap();
    assert_eq!(annotation(back, "deployment.kubernetes.io/revision-history"), "1");

    let pods = boat.client.namespaced::<Pod>("default");
    let listed = pods.list(&ListParams::default().labels("app=web")).await.unwrap().items;
    let alive = listed.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
    assert_eq!(alive.count(), 3, "no pod was made twice");
    let events = boat.client.namespaced::<Event>("default");
    let events = events.list(&ListParams::default().fields("reason=ScalingReplicaSet")).await.unwrap().items;
    assert!(
        events.iter().any(|event| event
            .message
            .as_deref()
            .unwrap()
            .starts_with("Scaled up replica set web-"))
    );
}

#[tokio::test]
async fn a_broken_rollout_keeps_what_works() {
    let boat = launch().await;
    boat.create(DEPLOYMENTS, deployment(4, "v1")).await;
    boat.eventually::<Deployment>(WEB, is_rolled_out).await;
    boat.client.namespaced::<Deployment>("default").patch("web", &set_image("broken")).await.unwrap();
    // 25% of four: one more, one fewer; the new ones never become available.
    boat.eventually::<Deployment>(WEB, |deployment| {
        deployment.status.as_ref().is_some_and(|status| status.updated_replicas == Some(2))
    })
    .await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let status = boat.client.namespaced::<Deployment>("default").get("web").await.unwrap().status.unwrap();
    assert_eq!((status.replicas, status.available_replicas), (Some(5), Some(3)));
    boat.client.namespaced::<Deployment>("default").patch("web", &set_image("v1")).await.unwrap();
    boat.eventually::<Deployment>(WEB, is_rolled_out).await;
}

#[tokio::test]
async fn recreate_stops_everything_first() {
    let boat = launch().await;
    let mut recreate = deployment(2, "v1");
    recreate["spec"]["strategy"] = json!({"type": "Recreate"});
    boat.create(DEPLOYMENTS, recreate).await;
    boat.eventually::<Deployment>(WEB, is_rolled_out).await;
    boat.client.namespaced::<Deployment>("default").patch("web", &set_image("v2")).await.unwrap();
    boat.eventually::<Deployment>(WEB, is_rolled_out).await;
}

#[tokio::test]
async fn scaling_and_killing() {
    let boat = launch().await;
    boat.create(DEPLOYMENTS, deployment(1, "v1")).await;
    boat.eventually::<Deployment>(WEB, is_rolled_out).await;
    let deployments = boat.client.namespaced::<Deployment>("default");
    let begin = Instant::now();
    deployments.scale("web", 50).await.unwrap();
    boat.eventually::<Deployment>(WEB, is_rolled_out).await;
    println!("1 to 50 pods in {:?}", begin.elapsed());
    let pods = boat.client.namespaced::<Pod>("default");
    let victim = pods.list(&ListParams::default()).await.unwrap().items.remove(0);
    pods.delete(victim.name(), &client::DeleteParams::default().grace(0)).await.unwrap();
    boat.eventually::<Deployment>(WEB, is_rolled_out).await;
    deployments.scale("web", 0).await.unwrap();
    boat.eventually::<client::List<Pod>>("/api/v1/namespaces/default/pods", |list| list.items.is_empty())
        .await;
}

#[tokio::test]
async fn pods_are_adopted_and_released() {
    let boat = launch().await;
    let stray = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "stray", "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": "v1"}]},
    });
    boat.create("/api/v1/namespaces/default/pods", stray).await;
    let set = json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "set"},
        "spec": {
            "replicas": 2, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "v1"}]}},
        },
    });
    boat.create("/apis/apps/v1/namespaces/default/replicasets", set).await;
    const SET: &str = "/apis/apps/v1/namespaces/default/replicasets/set";
    const STRAY: &str = "/api/v1/namespaces/default/pods/stray";
    let is_owned =
        |pod: &Pod| pod.metadata.owner_references.as_ref().is_some_and(|owners| owners[0].name == "set");
    let is_ready =
        |set: &ReplicaSet| set.status.as_ref().is_some_and(|status| status.ready_replicas == Some(2));
    boat.eventually::<Pod>(STRAY, is_owned).await;
    boat.eventually::<ReplicaSet>(SET, is_ready).await;
    let pods = boat.client.namespaced::<Pod>("default");
    assert_eq!(pods.list(&ListParams::default()).await.unwrap().items.len(), 2);

    pods.patch("stray", &Patch::Merge(json!({"metadata": {"labels": {"app": "other"}}}))).await.unwrap();
    boat.eventually::<Pod>(STRAY, |pod| !is_owned(pod)).await;
    boat.eventually::<client::List<Pod>>("/api/v1/namespaces/default/pods", |list| list.items.len() == 3)
        .await;
    boat.eventually::<ReplicaSet>(SET, is_ready).await;
}

#[tokio::test]
async fn services_follow_their_pods() {
    let boat = launch().await;
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}]},
    });
    boat.create("/api/v1/namespaces/default/services", service).await;
    boat.create(DEPLOYMENTS, deployment(3, "v1")).await;
    const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices?labelSelector=kubernetes.io/service-name%3Dweb";
    let ready = |list: &client::List<EndpointSlice>| {
        let endpoints = list.items.iter().flat_map(|slice| slice.endpoints.iter().flatten());
        endpoints.filter(|endpoint| endpoint.conditions.as_ref().unwrap().ready == Some(true)).count()
    };
    let slices = boat.eventually::<client::List<EndpointSlice>>(SLICES, |list| ready(list) == 3).await;
    let full = slices.items.iter().find(|slice| slice.endpoints.iter().flatten().count() == 3).unwrap();
    assert_eq!(full.ports.as_ref().unwrap()[0].port, Some(8080));
    boat.eventually::<Endpoints>("/api/v1/namespaces/default/endpoints/web", |endpoints| {
        endpoints.subsets.iter().flatten().flat_map(|subset| subset.addresses.iter().flatten()).count() == 3
    })
    .await;
    boat.client.namespaced::<Deployment>("default").scale("web", 1).await.unwrap();
    boat.eventually::<client::List<EndpointSlice>>(SLICES, |list| ready(list) == 1).await;
    boat.client
        .namespaced::<manifests::k8s_openapi::api::core::v1::Service>("default")
        .delete("web", &client::DeleteParams::default())
        .await
        .unwrap();
    boat.eventually::<client::List<EndpointSlice>>(SLICES, |list| list.items.is_empty()).await;
    boat.gone("/api/v1/namespaces/default/endpoints/web").await;
}
