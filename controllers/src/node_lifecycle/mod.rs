//! Nodes that no longer report are marked, and their pods are moved.
//!
//! A node reports by renewing its Lease. When it has not for [`GRACE`], its conditions become Unknown and it gets the taints
//! `node.kubernetes.io/unreachable`; pods that do not tolerate the NoExecute taint (or no longer) are deleted, and those that cannot be
//! reached are no longer Ready. Everything is undone when the node reports again. When no node at all is ready, no pod has to go:
//! the fault is more likely on this side.
//!
//! The time of a heartbeat is when this process saw the Lease change, not what the node's clock said.

mod apply;
mod decide;
mod heartbeat;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use client::{Change, EventRecorder, Index, Next, ObjectKey, TaskGroup, WorkQueue};
use manifests::k8s_openapi::api::coordination::v1::Lease;
use manifests::k8s_openapi::api::core::v1::{Node, Pod};
use manifests::k8s_openapi::jiff::Timestamp;

use crate::context::Context;
use crate::pod_state;
use apply::Hands;
use heartbeat::Heartbeats;

/// Upstream's node-monitor-grace-period.
pub(crate) const GRACE: Duration = Duration::from_secs(40);
/// Namespace of the Leases.
const LEASES: &str = "kube-node-lease";

/// Name of the index of pods by their node.
const BY_NODE: &str = "node";

pub(crate) fn start(context: &Context, group: &mut TaskGroup) {
    let nodes = context.informers.cache::<Node>();
    let pods = context.informers.cache::<Pod>();
    let leases = context.informers.cache::<Lease>();
    pods.add_index(Index {
        name: BY_NODE,
        values: |pod| pod_state::node(pod).map(str::to_owned).into_iter().collect(),
    });
    let heartbeats = Arc::new(Heartbeats::default());
    let queue = WorkQueue::<ObjectKey>::new();
    let node_events = context.recorder("node-controller", group);
    let evictions = context.recorder("taint-eviction-controller", group);

    let (to, all) = (queue.clone(), nodes.clone());
    let (beats, events) = (Arc::clone(&heartbeats), node_events.clone());
    nodes.on_change(move |change| {
        match change.new {
            // A status is a sign of life as well: it is what a node sends first.
            Some(node) => beats.seen(&change.key.name, decide::reported(node)),
            None => beats.forget(&change.key.name),
        }
        tell(&events, change);
        to.add(change.key.clone());
        // What becomes of a node that is not ready depends on whether another is.
        let ready = |node: Option<&Arc<Node>>| node.is_some_and(|node| decide::says_ready(node));
        if ready(change.old) != ready(change.new) {
            all.keys().into_iter().for_each(|key| to.add(key));
        }
    });
    let to = queue.clone();
    let beats = Arc::clone(&heartbeats);
    leases.on_change(move |change| {
        if change.key.namespace == LEASES
            && let Some(lease) = change.new
            && beats.renewed(&change.key.name, lease.spec.as_ref().and_then(|spec| spec.renew_time.clone()))
        {
            // Only a node that was given up needs work at once; the others' timers look by themselves.
            to.add(ObjectKey::cluster(change.key.name.clone()));
        }
    });
    let to = queue.clone();
    pods.on_change(move |change| {
        // A pod that is new on its node, which may be tainted.
        let place = |pod: Option<&Arc<Pod>>| pod.and_then(|pod| pod_state::node(pod).map(str::to_owned));
        if let Some(node) = place(change.new)
            && place(change.old).as_ref() != Some(&node)
        {
            to.add(ObjectKey::cluster(node));
        }
    });

    let (client, stop) = (context.client.clone(), group.stop().clone());
    group.spawn_infallible("node-lifecycle-controller", async move {
        tokio::join!(nodes.wait_synced(), pods.wait_synced(), leases.wait_synced());
        let hands = Hands { client, nodes: node_events, evictions };
        let observe = |key: &ObjectKey| {
            let node = nodes.get(key)?;
            let pods = pods.indexed(BY_NODE, &key.name);
            let silence = heartbeats.silence(&key.name);
            let others = nodes.list().into_iter().filter(|other| other.metadata.name != node.metadata.name);
            let others_ready = others.into_iter().any(|other| decide::says_ready(&other));
            Some(decide::Observed { node, pods, silence, others_ready, now: Timestamp::now() })
        };
        let reconcile = async |key: ObjectKey| {
            let Some(observed) = observe(&key) else { return Ok(Next::Wait) };
            hands.apply(&observed, decide::decide(&observed), &heartbeats).await
        };
        queue.work("node-lifecycle", 2, &stop, |key| reconcile(key)).await;
    });
}

/// Nodes come and go in `kubectl get events`.
fn tell(events: &EventRecorder, change: &Change<'_, Node>) {
    let name = &change.key.name;
    match (change.old, change.new) {
        (None, Some(node)) => {
            events.normal(
                &**node,
                "RegisteredNode",
                format!("Node {name} event: Registered Node {name} in Controller"),
            );
        }
        (Some(node), None) => {
            events.normal(
                &**node,
                "RemovingNode",
                format!("Node {name} event: Removing Node {name} from Controller"),
            );
        }
        _ => {}
    }
}
