//! Nodes that no longer report are marked, and their pods are moved.
//!
//! A node reports by renewing its Lease. When it has not for [`GRACE`], its conditions become Unknown and it gets the taints
//! `node.kubernetes.io/unreachable`; pods that do not tolerate the NoExecute taint (or no longer) are deleted, and those that cannot be
//! reached are no longer Ready. Everything is undone when the node reports again.
//!
//! The time of a heartbeat is when this process saw the Lease change, not what the node's clock said.

mod apply;
mod decide;
mod heartbeat;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use client::{Next, ObjectKey, TaskGroup, WorkQueue};
use manifests::k8s_openapi::api::coordination::v1::Lease;
use manifests::k8s_openapi::api::core::v1::{Node, Pod};
use manifests::k8s_openapi::jiff::Timestamp;

use crate::context::Context;
use heartbeat::Heartbeats;

/// Upstream's node-monitor-grace-period.
pub(crate) const GRACE: Duration = Duration::from_secs(40);
/// Namespace of the Leases.
const LEASES: &str = "kube-node-lease";

pub(crate) fn start(context: &Context, group: &mut TaskGroup) {
    let nodes = context.informers.cache::<Node>();
    let pods = context.informers.cache::<Pod>();
    let leases = context.informers.cache::<Lease>();
    let heartbeats = Arc::new(Heartbeats::default());
    let queue = WorkQueue::<ObjectKey>::new();

    let to = queue.clone();
    let beats = Arc::clone(&heartbeats);
    nodes.on_change(move |change| {
        match change.new {
            // A status is a sign of life as well: it is what a node sends first.
            Some(node) => beats.seen(&change.key.name, decide::reported(node)),
            None => beats.forget(&change.key.name),
        }
        to.add(change.key.clone());
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
        // A new pod on a tainted node, or one that has become unready there.
        let node = change.new.and_then(|pod| pod.spec.as_ref()?.node_name.clone());
        if let Some(node) = node.filter(|_| change.old.is_none()) {
            to.add(ObjectKey::cluster(node));
        }
    });

    let (client, stop) = (context.client.clone(), group.stop().clone());
    group.spawn_infallible("node-lifecycle-controller", async move {
        tokio::join!(nodes.wait_synced(), pods.wait_synced(), leases.wait_synced());
        let work = queue.work("node-lifecycle", 2, &stop, |key| {
            let Some(node) = nodes.get(&key) else { return futures_util::future::Either::Left(std::future::ready(Ok(Next::Wait))) };
            let here = pods.list().into_iter().filter(|pod| on(pod, &key.name)).collect();
            let silence = heartbeats.silence(&key.name);
            let observed = decide::Observed { node, pods: here, silence, now: Timestamp::now() };
            futures_util::future::Either::Right(apply::apply(&client, observed, &heartbeats))
        });
        work.await;
    });
}

fn on(pod: &Pod, node: &str) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(node)
}
