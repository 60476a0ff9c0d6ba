//! Nodes that fall silent, and nodes that go.

use manifests::k8s_openapi::api::apps::v1::Deployment;
use manifests::k8s_openapi::api::core::v1::{Node, Pod};
use testkit::node;

use crate::boat::Boat;
use crate::workloads::{deployment, is_rolled_out};

fn ready(node: &Node) -> String {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions
        .iter()
        .find(|condition| condition.type_ == "Ready")
        .map(|ready| ready.status.clone())
        .unwrap_or_default()
}

fn taints(node: &Node) -> Vec<String> {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    taints.iter().map(|taint| format!("{}:{}", taint.key, taint.effect)).collect()
}

/// The clock jumps whenever nothing is left to do, so forty seconds of silence take none.
#[tokio::test(start_paused = true)]
async fn a_silent_node_is_marked_and_welcomed_back() {
    let mut boat = Boat::launch().await;
    boat.add_node(node("loud").build()).await;
    boat.add_node(node("quiet").build()).await;
    boat.create("/apis/apps/v1/namespaces/default/deployments", deployment(4, "v1")).await;
    boat.eventually::<Deployment>("/apis/apps/v1/namespaces/default/deployments/web", is_rolled_out).await;
    boat.silence("quiet");
    let begin = tokio::time::Instant::now();
    while ready(&boat.client.all::<Node>().get("quiet").await.unwrap()) != "Unknown" {
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        assert!(begin.elapsed().as_secs() < 60, "nobody noticed");
    }
    assert!(begin.elapsed().as_secs() >= 29, "{:?}", begin.elapsed());
    boat.eventually::<Node>("/api/v1/nodes/quiet", |node| taints(node).len() == 2).await;
    let quiet = boat.client.all::<Node>().get("quiet").await.unwrap();
    assert_eq!(
        taints(&quiet),
        ["node.kubernetes.io/unreachable:NoSchedule", "node.kubernetes.io/unreachable:NoExecute"]
    );
    let loud = boat.client.all::<Node>().get("loud").await.unwrap();
    assert_eq!((ready(&loud), taints(&loud)), ("True".to_owned(), vec![]));
    boat.eventually::<client::List<Pod>>("/api/v1/pods?fieldSelector=spec.nodeName%3Dquiet", |list| {
        !list.items.is_empty()
            && list.items.iter().all(|pod| {
                let conditions = pod.status.as_ref().unwrap().conditions.as_ref().unwrap();
                conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "False")
            })
    })
    .await;
}
