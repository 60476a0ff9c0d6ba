//! Pods that nobody else will ever clean up: those of nodes that no longer exist, those that were deleted before
//! they had a node, and the oldest of far too many ended ones.

mod decide;

use std::time::Duration;

use client::{Cache, Client, DeleteParams, Error, Next, ObjectKey, Patch, TaskGroup, WorkQueue};
use manifests::k8s_openapi::api::core::v1::{Node, Pod};
use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use manifests::k8s_openapi::jiff::Timestamp;
use serde_json::json;

use crate::context::Context;
use crate::pod_state::node;

/// A node that is gone may be registering anew at this moment; upstream waits as long.
const QUARANTINE: Duration = Duration::from_secs(40);

/// One key stands for the whole pass: the decision is about all pods at once.
const PASS: &str = "pods";
/// Keys in this place are nodes: the pass over the pods of one that does not exist.
const NODE: &str = "node";

pub(crate) fn start(context: &Context, group: &mut TaskGroup) {
    let pods = context.informers.cache::<Pod>();
    let nodes = context.informers.cache::<Node>();
    let queue = WorkQueue::<ObjectKey>::new();
    let to = queue.clone();
    nodes.on_change(move |change| {
        if change.new.is_none() {
            to.add_after(ObjectKey::new(NODE, &*change.key.name), QUARANTINE);
        }
    });
    let (to, known) = (queue.clone(), nodes.clone());
    pods.on_change(move |change| {
        let Some(pod) = change.new else { return };
        if decide::may_be_garbage(pod) {
            to.add_after(ObjectKey::cluster(PASS), Duration::from_secs(1));
        }
        // Its node may have gone away before this process started, or has never been there.
        if let Some(node) = node(pod).filter(|node| known.get(&ObjectKey::cluster(*node)).is_none()) {
            to.add_after(ObjectKey::new(NODE, node), QUARANTINE);
        }
    });
    queue.add_after(ObjectKey::cluster(PASS), QUARANTINE);
    let (client, stop) = (context.client.clone(), group.stop().clone());
    group.spawn_infallible("pod-garbage-collector", async move {
        tokio::join!(pods.wait_synced(), nodes.wait_synced());
        let work = queue.work("podgc", 1, &stop, |key| pass(&client, &pods, &nodes, key));
        work.await;
    });
}

async fn pass(
    client: &Client,
    pods: &Cache<Pod>,
    nodes: &Cache<Node>,
    key: ObjectKey,
) -> Result<Next, Error> {
    if key.namespace != NODE {
        return apply(client, decide::decide(&pods.list())).await;
    }
    // The cache may be behind a node that has just registered; the server is not.
    let known = nodes.get(&ObjectKey::cluster(&*key.name)).is_some();
    if known || client.all::<Node>().get_opt(&key.name).await?.is_some() {
        return Ok(Next::Wait);
    }
    apply(client, decide::orphans(&pods.list(), &key.name)).await
}

async fn apply(client: &Client, doomed: Vec<decide::Doomed>) -> Result<Next, Error> {
    for pod in doomed {
        tracing::info!(pod = %pod.key, reason = pod.reason, "removing a pod that nobody else will");
        let api = client.namespaced::<Pod>(&pod.key.namespace);
        if pod.unfinished {
            match api.patch_status(&pod.key.name, &failed(&pod, Timestamp::now())).await {
                Err(error) if error.is_not_found() || error.is_conflict() || error.is_invalid() => continue,
                outcome => outcome?,
            };
        }
        let params = DeleteParams::uid(pod.uid).grace(0);
        api.delete_opt(&pod.key.name, &params).await?;
    }
    Ok(Next::Wait)
}

/// The pod has failed, through no fault of its own. Another pod of its name does not match.
fn failed(pod: &decide::Doomed, now: Timestamp) -> Patch {
    let mut status = json!({"phase": "Failed"});
    if let Some(message) = pod.message {
        status["conditions"] = json!([{
            "type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC", "message": message,
            "lastTransitionTime": Time(now),
        }]);
    }
    Patch::Strategic(json!({"metadata": {"uid": pod.uid}, "status": status}))
}
