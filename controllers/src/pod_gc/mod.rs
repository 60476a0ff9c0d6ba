//! Pods that nobody else will ever clean up: those of nodes that no longer exist, those that were deleted before
//! they had a node, and the oldest of far too many ended ones.

mod decide;

use std::time::Duration;

use client::{Client, DeleteParams, Error, Next, ObjectKey, TaskGroup, WorkQueue};
use manifests::k8s_openapi::api::core::v1::{Node, Pod};

use crate::context::Context;

/// A node that is gone may be registering anew at this moment; upstream waits as long.
const QUARANTINE: Duration = Duration::from_secs(40);

/// One key stands for the whole pass: the decision is about all pods at once.
const PASS: &str = "pods";

pub(crate) fn start(context: &Context, group: &mut TaskGroup) {
    let pods = context.informers.cache::<Pod>();
    let nodes = context.informers.cache::<Node>();
    let queue = WorkQueue::<ObjectKey>::new();
    let to = queue.clone();
    nodes.on_change(move |change| {
        if change.new.is_none() {
            to.add_after(ObjectKey::cluster(PASS), QUARANTINE);
        }
    });
    let to = queue.clone();
    pods.on_change(move |change| {
        if change.new.is_some_and(|pod| decide::may_be_garbage(pod)) {
            to.add_after(ObjectKey::cluster(PASS), Duration::from_secs(1));
        }
    });
    // What was left by nodes that went away before this process started.
    queue.add_after(ObjectKey::cluster(PASS), QUARANTINE);
    let (client, stop) = (context.client.clone(), group.stop().clone());
    group.spawn_infallible("pod-garbage-collector", async move {
        tokio::join!(pods.wait_synced(), nodes.wait_synced());
        let work = queue.work("podgc", 1, &stop, |_| {
            let doomed = decide::decide(&pods.list(), |name| nodes.get(&ObjectKey::cluster(name)).is_some());
            apply(&client, doomed)
        });
        work.await;
    });
}

async fn apply(client: &Client, doomed: Vec<decide::Doomed>) -> Result<Next, Error> {
    for pod in doomed {
        // The cache may be behind a node that has just registered; the server is not.
        if let Some(node) = &pod.node
            && client.all::<Node>().get_opt(node).await?.is_some()
        {
            continue;
        }
        tracing::info!(pod = %pod.key, reason = pod.reason, "removing a pod that nobody else will");
        let params = DeleteParams::uid(pod.uid).grace(0);
        client.namespaced::<Pod>(&pod.key.namespace).delete_opt(&pod.key.name, &params).await?;
    }
    Ok(Next::Wait)
}
