//! Requests that do not arrive, answers that get lost, watches that break: everything still arrives in the
//! end, and nothing is done twice on the way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use client::watcher::{Event, Params, Watcher};
use client::{ListParams, Object, Patch};
use manifests::k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use manifests::k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::json;
use testkit::node;

use crate::boat::{Boat, Weather};
use crate::workloads::{deployment, is_rolled_out};

const WEB: &str = "/apis/apps/v1/namespaces/default/deployments/web";
const REPLICAS: usize = 12;

/// What must hold at every moment, seen through a watch of its own in calm weather.
#[derive(Debug, Default)]
struct Log {
    /// Node of each pod ever seen, by uid.
    places: BTreeMap<String, String>,
    seen: BTreeSet<String>,
    complaints: Vec<String>,
}

impl Log {
    fn applied(&mut self, pod: &Pod) {
        self.seen.insert(pod.uid().to_owned());
        let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()) else { return };
        if let Some(before) = self.places.insert(pod.uid().to_owned(), node.clone())
            && before != node
        {
            self.complaints.push(format!("{} was on {before} and is on {node}", pod.key()));
        }
    }
}

async fn weathers_a_storm(seed: u64) {
    let weather = Weather::new(seed, 100);
    let mut boat = Boat::launch_in(weather.clone()).await;
    for name in ["n1", "n2", "n3"] {
        boat.add_node(node(name).allocatable("pods", "20").build()).await;
    }
    let log = Arc::new(Mutex::new(Log::default()));
    let (heard, client) = (log.clone(), boat.client.clone());
    let watching = tokio::task::spawn(async move {
        let mut watcher = Watcher::new(client.all::<Pod>(), Params::default());
        loop {
            let event = watcher.next().await;
            let mut log = heard.lock().unwrap();
            match event {
                Event::Restarted(pods) => pods.iter().for_each(|pod| log.applied(pod)),
                Event::Applied(pod) | Event::Deleted(pod) => log.applied(&pod),
            }
        }
    });

    let replicas = i32::try_from(REPLICAS).unwrap();
    boat.create("/apis/apps/v1/namespaces/default/deployments", deployment(replicas, "v1")).await;
    boat.eventually::<Deployment>(WEB, is_rolled_out).await;
    let deployments = boat.client.namespaced::<Deployment>("default");
    let image = json!({"spec": {"template": {"spec": {"containers": [{"name": "web", "image": "v2"}]}}}});
    deployments.patch("web", &Patch::Strategic(image)).await.unwrap();
    boat.eventually::<Deployment>(WEB, is_rolled_out).await;

    // Nothing is left over, wherever the storm has struck.
    weather.calm_down();
    boat.eventually::<client::List<Pod>>("/api/v1/namespaces/default/pods", |list| {
        list.items.len() == REPLICAS
    })
    .await;
    let sets =
        boat.client.namespaced::<ReplicaSet>("default").list(&ListParams::default()).await.unwrap().items;
    assert_eq!(sets.len(), 2, "seed {seed}");
    assert!(boat.client.all::<Node>().list(&ListParams::default()).await.unwrap().items.len() == 3);
    watching.abort();
    let log = log.lock().unwrap();
    assert!(log.complaints.is_empty(), "seed {seed}: {:?}", log.complaints);
    assert_eq!(log.seen.len(), 2 * REPLICAS, "seed {seed}: a pod was made twice");
}

#[tokio::test]
async fn no_pod_is_made_or_placed_twice_in_a_storm() {
    for seed in 1..=3 {
        weathers_a_storm(seed).await;
    }
}
