//! A node's share of the pod addresses: given by flag, remembered from an earlier start, or asked of the cluster.

use std::time::Duration;

use anyhow::{Context, bail};
use apiserver::pki::write_private;
use client::{Backoff, Client, Informer, ListParams, Object as _, ObjectKey};
use ipnet::Ipv4Net;
use manifests::k8s_openapi::api::core::v1::Node;
use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::instance::Instance;

const BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));

/// The share that this node had when it started last. Its pods have addresses of it.
pub(crate) fn remembered(instance: &Instance) -> Option<Ipv4Net> {
    std::fs::read_to_string(instance.node_cidr_file()).ok()?.trim().parse().ok()
}

/// Registers the node if need be, waits until it has a share, and remembers it.
pub(crate) async fn ask(instance: &Instance, client: &Client, node: &str) -> anyhow::Result<Ipv4Net> {
    let api = client.all::<Node>();
    let new = Node {
        metadata: ObjectMeta { name: Some(node.to_owned()), ..ObjectMeta::default() },
        ..Node::default()
    };
    let mut failures = 0;
    loop {
        let error = match api.create(&new).await {
            Ok(_) => break,
            Err(error) if error.is_already_exists() => break,
            Err(error) => error,
        };
        if error.class() != client::ErrorClass::Retry {
            return Err(error).context("registering the node");
        }
        failures += 1;
        if failures == 1 {
            warn!(error = %client::ErrorChain(&error), "the node cannot be registered yet; trying again");
        }
        tokio::time::sleep(BACKOFF.delay(failures)).await;
    }
    let informer = Informer::new(api).fields(format!("metadata.name={node}"));
    let nodes = informer.cache();
    let stop = CancellationToken::new();
    let _ends = stop.clone().drop_guard();
    let key = ObjectKey::cluster(node.to_owned());
    let share = async {
        nodes.wait_synced().await;
        nodes.wait_until(&key, |node| node.and_then(share).is_some()).await;
        nodes.get(&key).as_deref().and_then(share)
    };
    let share = tokio::select! {
        share = share => share,
        () = informer.run(stop) => None,
    };
    let share = share.context("the node was deleted while it waited for its addresses")?;
    info!(%share, "addresses of this node's pods");
    write_private(&instance.node_cidr_file(), share.to_string().as_bytes())?;
    Ok(share)
}

/// Makes sure that the share which this node brings along is nobody else's, and remembers it.
pub(crate) async fn bring(
    instance: &Instance,
    client: &Client,
    node: &str,
    own: Ipv4Net,
) -> anyhow::Result<()> {
    let mut failures = 0;
    let nodes = loop {
        let error = match client.all::<Node>().list_all(&ListParams::default()).await {
            Ok(list) => break list.items,
            Err(error) => error,
        };
        if error.class() != client::ErrorClass::Retry {
            return Err(error).context("asking which addresses other nodes have");
        }
        failures += 1;
        if failures == 1 {
            warn!(error = %client::ErrorChain(&error), "the other nodes are not known yet; trying again");
        }
        tokio::time::sleep(BACKOFF.delay(failures)).await;
    };
    if let Some((other, theirs)) = taken(&nodes, node, own) {
        bail!(
            "--node-cidr {own} overlaps with {theirs}, the pod addresses of node {other}: give another range, or none"
        );
    }
    write_private(&instance.node_cidr_file(), own.to_string().as_bytes())?;
    Ok(())
}

/// Another node with addresses of the range.
fn taken<'a>(nodes: &'a [Node], own: &str, range: Ipv4Net) -> Option<(&'a str, Ipv4Net)> {
    nodes.iter().filter(|node| node.name() != own).find_map(|node| {
        let theirs = share(node).filter(|theirs| theirs.contains(&range) || range.contains(theirs))?;
        Some((node.name(), theirs))
    })
}

fn share(node: &Node) -> Option<Ipv4Net> {
    node.spec.as_ref()?.pod_cidr.as_deref()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_taken_by_another_node_only() {
        let node = |name: &str, range: &str| -> Node {
            let object = serde_json::json!({"metadata": {"name": name}, "spec": {"podCIDR": range}});
            serde_json::from_value(object).unwrap()
        };
        let nodes = [node("a", "10.42.0.0/24"), node("b", "10.42.4.0/22"), node("c", "")];
        let check = |own: &str, range: &str, expected: Option<&str>| {
            let found = taken(&nodes, own, range.parse().unwrap());
            assert_eq!(found.map(|(name, _)| name), expected, "{own} {range}");
        };
        check("a", "10.42.0.0/24", None);
        check("b", "10.42.0.0/24", Some("a"));
        check("c", "10.42.5.0/24", Some("b"));
        check("c", "10.42.0.0/16", Some("a"));
        check("c", "10.42.1.0/24", None);
    }
}
