//! The scheduler against the real API server.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use client::lease::LeaseOptions;
use client::{ListParams, Object, Patch};
use manifests::k8s_openapi::api::core::v1::{Event, Node, Pod};
use serde_json::{Value, json};
use testkit::node;
use tokio_util::sync::CancellationToken;

use crate::boat::Boat;

const PODS: &str = "/api/v1/namespaces/default/pods";

fn pod(name: &str, cpu: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [{"name": "c", "image": "x", "resources": {"requests": {"cpu": cpu}}}]},
    })
}

fn scheduled(pod: &Pod) -> Option<(String, String, String)> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let condition = conditions.iter().find(|condition| condition.type_ == "PodScheduled")?;
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    Some((condition.status.clone(), text(&condition.reason), text(&condition.message)))
}

#[tokio::test]
async fn a_pod_that_fits_nowhere_says_why_and_waits_for_what_could_help() {
    let mut boat = Boat::launch().await;
    boat.create(PODS, pod("big", "3")).await;
    let path = format!("{PODS}/big");
    let says = |message: &'static str| {
        move |pod: &Pod| {
            scheduled(pod) == Some(("False".to_owned(), "Unschedulable".to_owned(), message.to_owned()))
        }
    };
    boat.eventually::<Pod>(&path, says("no nodes available to schedule pods")).await;

    boat.add_node(node("small").allocatable("cpu", "1").build()).await;
    boat.add_node(node("closed").unschedulable().build()).await;
    let message = "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) were unschedulable. preemption: 0/2 nodes are \
                   available: 2 Preemption is not helpful for scheduling.";
    boat.eventually::<Pod>(&path, says(message)).await;
    let events = boat.client.namespaced::<Event>("default");
    let failed = events.list(&ListParams::default().fields("reason=FailedScheduling")).await.unwrap().items;
    assert!(failed.iter().any(|event| event.message.as_deref() == Some(message)), "{failed:?}");

    // Opening the node is what helps.
    let open = Patch::Merge(json!({"spec": {"unschedulable": null}}));
    boat.client.all::<Node>().patch("closed", &open).await.unwrap();
    let bound = boat.eventually::<Pod>(&path, |pod| pod.spec.as_ref().unwrap().node_name.is_some()).await;
    assert_eq!(bound.spec.unwrap().node_name.as_deref(), Some("closed"));
    let path = "/api/v1/namespaces/default/events?fieldSelector=reason%3DScheduled";
    let told =
        boat.eventually::<client::List<Event>>(path, |list| list.items.len() == 1).await.items.remove(0);
    assert_eq!(told.message.as_deref(), Some("Successfully assigned default/big to closed"));
    assert_eq!(told.source.unwrap().component.as_deref(), Some("default-scheduler"));
}

#[tokio::test]
async fn room_that_another_pod_leaves_is_used() {
    let mut boat = Boat::launch().await;
    boat.add_node(node("n1").allocatable("cpu", "1").build()).await;
    boat.create(PODS, pod("first", "800m")).await;
    let on_node = |pod: &Pod| pod.spec.as_ref().unwrap().node_name.is_some();
    boat.eventually::<Pod>(&format!("{PODS}/first"), on_node).await;
    boat.create(PODS, pod("second", "800m")).await;
    boat.eventually::<Pod>(&format!("{PODS}/second"), |pod| scheduled(pod).is_some()).await;
    let pods = boat.client.namespaced::<Pod>("default");
    pods.delete("first", &client::DeleteParams::default()).await.unwrap();
    boat.eventually::<Pod>(&format!("{PODS}/second"), on_node).await;
}

#[tokio::test]
async fn many_pods_are_spread_without_overcommitting() {
    let mut boat = Boat::launch().await;
    for n in 0..10 {
        boat.add_node(node(&format!("n{n}")).allocatable("cpu", "2").build()).await;
    }
    let begin = Instant::now();
    for n in 0..200 {
        boat.create(PODS, pod(&format!("p{n}"), "100m")).await;
    }
    let placed = boat
        .eventually::<client::List<Pod>>(PODS, |list| {
            list.items.iter().all(|pod| pod.spec.as_ref().unwrap().node_name.is_some())
        })
        .await;
    println!("200 pods created and bound in {:?}", begin.elapsed());
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    for pod in placed.items {
        *counts.entry(pod.spec.unwrap().node_name.unwrap()).or_default() += 1;
    }
    assert!(counts.values().all(|count| *count == 20), "{counts:?}");
}

#[tokio::test]
async fn of_two_schedulers_one_decides_and_the_other_follows_on() {
    let mut boat = Boat::bare().await;
    boat.add_node(node("n1").build()).await;
    let stops: Vec<CancellationToken> = ["a", "b"]
        .iter()
        .map(|identity| {
            let lease = LeaseOptions {
                retry: Duration::from_millis(200),
                ..LeaseOptions::new("kube-scheduler", identity)
            };
            let options = scheduler::Options { lease: Some(lease), ..Default::default() };
            let stop = boat.stop.child_token();
            tokio::task::spawn(scheduler::run(boat.client.clone(), options, stop.clone()));
            stop
        })
        .collect();
    let on_node = |pod: &Pod| pod.spec.as_ref().unwrap().node_name.is_some();
    boat.create(PODS, pod("one", "100m")).await;
    boat.eventually::<Pod>(&format!("{PODS}/one"), on_node).await;
    let leases =
        boat.client.namespaced::<manifests::k8s_openapi::api::coordination::v1::Lease>("kube-system");
    let holder = leases.get("kube-scheduler").await.unwrap().spec.unwrap().holder_identity.unwrap();
    stops[if holder == "a" { 0 } else { 1 }].cancel();
    boat.create(PODS, pod("two", "100m")).await;
    boat.eventually::<Pod>(&format!("{PODS}/two"), on_node).await;
    let next = leases.get("kube-scheduler").await.unwrap().spec.unwrap().holder_identity.unwrap();
    assert_ne!(next, holder);
    let pods = boat.client.namespaced::<Pod>("default").list(&ListParams::default()).await.unwrap().items;
    assert_eq!(pods.iter().map(|pod| pod.name()).collect::<Vec<_>>(), ["one", "two"]);
}

#[tokio::test]
async fn the_less_important_make_room() {
    let mut boat = Boat::launch().await;
    boat.add_node(node("n1").allocatable("cpu", "1").build()).await;
    let class = json!({
        "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "urgent"}, "value": 1000,
    });
    boat.create("/apis/scheduling.k8s.io/v1/priorityclasses", class).await;
    boat.create(PODS, pod("calm", "800m")).await;
    let on_node = |pod: &Pod| pod.spec.as_ref().unwrap().node_name.is_some();
    boat.eventually::<Pod>(&format!("{PODS}/calm"), on_node).await;
    let mut urgent = pod("urgent", "800m");
    urgent["spec"]["priorityClassName"] = json!("urgent");
    boat.create(PODS, urgent).await;
    boat.gone(&format!("{PODS}/calm")).await;
    boat.eventually::<Pod>(&format!("{PODS}/urgent"), on_node).await;
    let path = "/api/v1/namespaces/default/events?fieldSelector=reason%3DPreempted";
    boat.eventually::<client::List<Event>>(path, |list| {
        list.items.iter().any(|event| event.message.as_deref().unwrap().ends_with(" on node n1"))
    })
    .await;
}
