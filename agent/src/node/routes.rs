//! Ways to the pods of other nodes, kept as the cluster's nodes come, move and go.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use client::{Backoff, Client, ErrorChain, Informer, cache};
use ipnet::Ipv4Net;
use manifests::k8s_openapi::api::core::v1::{Node, NodeStatus};
use network::Network;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

const BACKOFF: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(60));

/// A change of a machine's addresses comes in several parts.
const SETTLED: Duration = Duration::from_millis(300);

/// Follows the nodes and keeps this machine's routes to their pods until told to stop. The routes stay.
pub async fn follow(client: Client, own: String, network: Network, stop: CancellationToken) {
    let informer = Informer::with_trim(client.all::<Node>(), trim);
    let nodes = informer.cache();
    let mut changes = nodes.changes();
    let running = tokio::spawn(informer.run(stop.clone()));
    tokio::select! {
        () = stop.cancelled() => return,
        () = nodes.wait_synced() => {}
    }
    let cluster = network.config().cluster_cidr;
    // A link that goes down takes its routes along, and an address those that it was needed for.
    let mut machine = network::Changes::open()
        .inspect_err(|error| warn!(error = %ErrorChain(error), "lost routes to other nodes are not noticed"))
        .ok();
    let (mut done, mut said) = (None, None);
    let mut failures = 0;
    loop {
        let wanted = wanted(nodes.list().iter().map(AsRef::as_ref), &own, cluster);
        if done.as_ref() != Some(&wanted) {
            match network.sync_node_routes(wanted.clone()).await {
                Ok(()) => {
                    if said.as_ref() != Some(&wanted) && (!wanted.is_empty() || said.is_some()) {
                        info!(nodes = wanted.len(), "routes to the pods of other nodes are up to date");
                    }
                    failures = 0;
                    said = Some(wanted.clone());
                    done = Some(wanted);
                }
                Err(error) => {
                    failures += 1;
                    warn!(error = %ErrorChain(&error), "pods of another node cannot be reached; trying again");
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => break,
            _ = changes.next() => {}
            () = changed(&mut machine) => {
                done = None;
                tokio::time::sleep(SETTLED).await;
            }
            () = tokio::time::sleep(BACKOFF.delay(failures)), if failures > 0 => {}
        }
        // Nodes often come several at a time.
        while changes.try_next().is_some() {}
    }
    // It ends by the same token.
    drop(running);
}

/// Waits until this machine's addresses or routes have changed.
async fn changed(machine: &mut Option<network::Changes>) {
    let Some(changes) = machine else { return std::future::pending().await };
    if let Err(error) = changes.next().await {
        warn!(error = %ErrorChain(&error), "lost routes to other nodes are not noticed any more");
        *machine = None;
    }
}

/// The routes of a node: to each other node's pod range, by way of its address.
fn wanted<'a>(
    nodes: impl Iterator<Item = &'a Node>,
    own: &str,
    cluster: Ipv4Net,
) -> BTreeMap<Ipv4Net, Ipv4Addr> {
    let mut wanted = BTreeMap::new();
    for node in nodes {
        if node.metadata.name.as_deref() == Some(own) {
            continue;
        }
        let range = node.spec.as_ref().and_then(|spec| spec.pod_cidr.as_deref());
        let range =
            range.and_then(|range| range.parse::<Ipv4Net>().ok()).filter(|range| cluster.contains(range));
        let addresses = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
        let internal = addresses
            .filter(|address| address.type_ == "InternalIP")
            .find_map(|address| address.address.parse().ok());
        if let (Some(range), Some(address)) = (range, internal) {
            wanted.insert(range, address);
        }
    }
    wanted
}

/// Heartbeats and conditions change often, and change no route.
fn trim(node: &mut Node) {
    cache::trim_managed_fields(node);
    node.metadata.annotations = None;
    node.metadata.labels = None;
    if let Some(status) = node.status.take() {
        node.status = Some(NodeStatus { addresses: status.addresses, ..NodeStatus::default() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn node(name: &str, range: Value, addresses: Value) -> Node {
        let object = json!({"metadata": {"name": name}, "spec": {"podCIDR": range}, "status": {"addresses": addresses}});
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn a_route_to_each_other_node_that_has_a_range_and_an_address() {
        let internal = |address: &str| json!([{"type": "Hostname", "address": "x"}, {"type": "InternalIP", "address": address}]);
        let nodes = [
            node("own", json!("10.42.0.0/24"), internal("192.0.2.1")),
            node("a", json!("10.42.1.0/24"), internal("192.0.2.2")),
            node("b", json!(null), internal("192.0.2.3")),
            node("c", json!("10.42.3.0/24"), json!([])),
            // A range that is not the cluster's could lead anything astray.
            node("d", json!("0.0.0.0/0"), internal("192.0.2.5")),
            node("e", json!("10.99.0.0/24"), internal("192.0.2.6")),
        ];
        let wanted = wanted(nodes.iter(), "own", "10.42.0.0/16".parse().unwrap());
        assert_eq!(wanted, [("10.42.1.0/24".parse().unwrap(), Ipv4Addr::new(192, 0, 2, 2))].into());
    }
}
