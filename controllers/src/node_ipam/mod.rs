//! Each node gets its share of the pod addresses, and keeps it for as long as it is in the cluster.
//!
//! A node that brings its own share (`--node-cidr`) keeps that. A share becomes free with its node; those that have been free for
//! longest are given out first, so that an address is not somebody else's right after its node has gone.

mod decide;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use client::{Client, Error, EventRecorder, Next, ObjectKey, Patch, TaskGroup, WorkQueue};
use ipnet::Ipv4Net;
use manifests::k8s_openapi::api::core::v1::Node;

use crate::context::Context;
use decide::Decision;

/// What is divided among the nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PodRanges {
    /// Addresses of all pods.
    pub cluster: Ipv4Net,
    /// Bits of each node's share, such as 24.
    pub node_prefix: u8,
}

/// What is known beyond the cache: it may not show the last writes yet.
#[derive(Debug, Default)]
struct Given {
    /// Node to share, until the cache shows the node with it.
    pending: BTreeMap<String, Ipv4Net>,
    last: Option<Ipv4Net>,
}

pub(crate) fn start(context: &Context, ranges: PodRanges, group: &mut TaskGroup) {
    let nodes = context.informers.cache::<Node>();
    let queue = WorkQueue::<ObjectKey>::new();
    let events = context.recorder("cidrAllocator", group);
    let (to, all) = (queue.clone(), nodes.clone());
    nodes.on_change(move |change| match change.new {
        Some(node) if decide::share(node).is_none() => to.add(change.key.clone()),
        Some(_) => {}
        // A share is free: somebody may be waiting for one.
        None => all.keys().into_iter().for_each(|key| to.add(key)),
    });
    let (client, stop) = (context.client.clone(), group.stop().clone());
    group.spawn_infallible("node-ipam-controller", async move {
        nodes.wait_synced().await;
        let given = Arc::new(Mutex::new(Given::default()));
        // One at a time: two nodes must not get one share.
        let work = queue.work("node-ipam", 1, &stop, |key| {
            let list = nodes.list();
            let decision = {
                let mut given = given.lock().unwrap_or_else(PoisonError::into_inner);
                given.pending.retain(|name, share| {
                    list.iter().any(|node| {
                        node.metadata.name.as_deref() == Some(name) && decide::share(node) != Some(*share)
                    })
                });
                let decision = decide::decide(&list, &given.pending, &key.name, ranges, given.last);
                if let Decision::Give { share, .. } = &decision {
                    given.pending.insert(key.name.clone(), *share);
                    given.last = Some(*share);
                }
                decision
            };
            apply(&client, &events, key, decision, Arc::clone(&given))
        });
        work.await;
    });
}

async fn apply(
    client: &Client,
    events: &EventRecorder,
    key: ObjectKey,
    decision: Decision,
    given: Arc<Mutex<Given>>,
) -> Result<Next, Error> {
    match decision {
        Decision::Nothing => Ok(Next::Wait),
        Decision::Full { node } => {
            let message = format!("Node {} status is now: CIDRNotAvailable", key.name);
            events.normal(&*node, "CIDRNotAvailable", message);
            // A node that goes makes room, and is an event of its own.
            Ok(Next::Wait)
        }
        Decision::Give { node, share } => {
            let patch = serde_json::json!({
                // Another node may have taken this one's name meanwhile.
                "metadata": {"uid": node.metadata.uid},
                "spec": {"podCIDR": share.to_string(), "podCIDRs": [share.to_string()]},
            });
            match client.all::<Node>().patch(&key.name, &Patch::Strategic(patch)).await {
                Ok(_) => Ok(Next::Wait),
                Err(error) => {
                    given.lock().unwrap_or_else(PoisonError::into_inner).pending.remove(&key.name);
                    match error {
                        error if error.is_not_found() || error.is_conflict() => Ok(Next::Wait),
                        // It came with one of its own at the same moment.
                        error if error.is_invalid() => Ok(Next::Wait),
                        error => {
                            let message = format!("Node {} status is now: CIDRAssignmentFailed", key.name);
                            events.normal(&*node, "CIDRAssignmentFailed", message);
                            Err(error)
                        }
                    }
                }
            }
        }
    }
}
