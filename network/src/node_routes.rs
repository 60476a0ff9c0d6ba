//! Ways to the pods of other nodes.
//!
//! ```text
//!   a node on one of our links      its range by way of its address: a plain route, no encapsulation
//!   a node behind a router          its range by way of the tunnel: VXLAN to its address, UDP port 8472
//! ```
//!
//! The tunnel is one device, and there only while a node needs it. It learns nothing from packets: that a node's end of it has the
//! hardware address derived from the node's range is known beforehand, so the three entries per node (route, neighbour, forwarding)
//! follow from the node's range and address alone. What a node sends into the tunnel itself has the address of its bridge, so that
//! answers come back through the tunnel too.
//!
//! The routes carry a protocol number of their own in the kernel, by which the next start finds and corrects them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::address::mac;
use crate::bridge;
use crate::config::Config;
use crate::error::Error;
use crate::host::hash;
use crate::netlink::{Link, NewVxlan, NodeRoute, RouteSocket, TunnelEnd};

/// Of VXLAN over IPv4: the outer headers and its own.
const OVERHEAD: u32 = 50;
/// Linux's own, and flannel's.
const PORT: u16 = 8472;

/// How other nodes are reached: pod range to node address.
#[derive(Debug, Default, PartialEq, Eq)]
struct Ways {
    plain: BTreeMap<Ipv4Net, Ipv4Addr>,
    tunnel: BTreeMap<Ipv4Net, Ipv4Addr>,
}

/// Nodes on one of the links are neighbours; all others are not.
fn ways(wanted: &BTreeMap<Ipv4Net, Ipv4Addr>, on_link: &[Ipv4Net]) -> Ways {
    let (plain, tunnel) = wanted
        .iter()
        .partition(|(_, address)| on_link.iter().any(|net| net.prefix_len() < 32 && net.contains(*address)));
    Ways { plain, tunnel }
}

/// Makes the ways to other nodes these and no others: pod range to node address. Answers the first that the kernel refused,
/// after having tried all. Blocks.
pub(crate) fn sync(config: &Config, wanted: &BTreeMap<Ipv4Net, Ipv4Addr>) -> Result<(), Error> {
    let mut socket = RouteSocket::open().map_err(Error::OpenNetlink)?;
    let links = socket.links().map_err(Error::ListLinks)?;
    let name = tunnel_name(config);
    let own = |index: u32| {
        links.iter().any(|link| link.index == index && (link.name == config.bridge || link.name == name))
    };
    let addresses = socket.all_addresses().map_err(Error::ListAddresses)?;
    let on_link: Vec<Ipv4Net> =
        addresses.iter().filter(|(link, _)| !own(*link)).map(|(_, address)| *address).collect();
    let ways = ways(wanted, &on_link);
    let tunnel =
        if ways.tunnel.is_empty() { None } else { Some(ensure_tunnel(config, &mut socket, &links, &name)?) };

    let mut present = socket.node_routes().map_err(Error::ListRoutes)?;
    // Another cluster's nodes are none of ours.
    present.retain(|destination, _| config.cluster_cidr.contains(destination));
    let mut failed = None;
    for destination in present.keys().filter(|destination| !wanted.contains_key(destination)) {
        if let Err(source) = socket.delete_node_route(*destination)
            && !source.is_not_found()
        {
            failed.get_or_insert(Error::Route { destination: *destination, source });
        }
    }
    if let Some(tunnel) = tunnel {
        // Before the routes: a packet that knows the way must also know the end.
        if let Err(error) = sync_ends(&mut socket, &name, tunnel, &ways.tunnel) {
            failed.get_or_insert(error);
        }
    }
    let plain = ways.plain.iter().map(|(range, address)| (range, NodeRoute::Plain { gateway: *address }));
    let through = ways.tunnel.keys().filter_map(|range| {
        let link = tunnel?;
        Some((range, NodeRoute::Tunnel { gateway: range.network(), link, source: config.gateway() }))
    });
    for (destination, route) in plain.chain(through) {
        if present.get(destination).is_some_and(|present| present.leads_like(&route, tunnel)) {
            continue;
        }
        if let Err(source) = socket.replace_node_route(*destination, &route) {
            failed.get_or_insert(Error::Route { destination: *destination, source });
        }
    }
    if tunnel.is_none() {
        remove_tunnel(config)?;
    }
    failed.map_or(Ok(()), Err)
}

/// The name follows from the bridge's, so that instances on one machine do not meet.
fn tunnel_name(config: &Config) -> String {
    format!("cvx-{:08x}", hash(config.bridge.as_bytes()))
}

/// All nodes of a cluster come to the same number, and two clusters on one machine have different ranges.
fn network_number(config: &Config) -> u32 {
    (hash(config.cluster_cidr.to_string().as_bytes()) & 0x00ff_ffff).max(1)
}

/// The device, made or mended. Answers its index.
fn ensure_tunnel(
    config: &Config,
    socket: &mut RouteSocket,
    links: &[Link],
    name: &str,
) -> Result<u32, Error> {
    let fail = |source| Error::CreateTunnel { tunnel: name.to_owned(), source };
    // What is sent must fit into a packet of the link that carries it. Senders of larger ones are told (path MTU discovery), so
    // pods keep the large packets for everybody else.
    let mtu = bridge::mtu(config, links, socket)?.saturating_sub(OVERHEAD);
    let new = NewVxlan {
        name,
        mac: mac(config.pod_cidr.network()),
        mtu,
        id: network_number(config),
        local: config.address,
        port: PORT,
    };
    let is_it = |link: &Link| link.vxlan == Some((new.id, new.local)) && link.mac == new.mac;
    match links.iter().find(|link| link.name == name) {
        Some(link) if is_it(link) => {
            if link.mtu != mtu || !link.up {
                socket.set_mtu_and_up(link.index, mtu).map_err(fail)?;
            }
            return Ok(link.index);
        }
        // The node's address has changed, and with it the tunnel's.
        Some(link) => socket.delete_link(link.index).map_err(fail)?,
        None => {}
    }
    socket.create_vxlan(&new).map_err(fail)?;
    let link = socket.link(name).map_err(Error::ListLinks)?;
    let link = link.ok_or_else(|| Error::NoInterface { interface: name.to_owned() })?;
    socket.no_link_local(link.index);
    socket.set_mtu_and_up(link.index, mtu).map_err(fail)?;
    Ok(link.index)
}

/// Makes the tunnel's ends these and no others.
fn sync_ends(
    socket: &mut RouteSocket,
    name: &str,
    tunnel: u32,
    nodes: &BTreeMap<Ipv4Net, Ipv4Addr>,
) -> Result<(), Error> {
    let fail = |source| Error::TunnelEnd { tunnel: name.to_owned(), source };
    let wanted: BTreeSet<TunnelEnd> = nodes
        .iter()
        .flat_map(|(range, address)| {
            let (mac, gateway) = (mac(range.network()), range.network());
            [TunnelEnd::Neighbour { address: gateway, mac }, TunnelEnd::Forward { mac, node: *address }]
        })
        .collect();
    let present = socket.tunnel_ends(tunnel).map_err(fail)?;
    // A node that has moved has another entry with the same key: it goes first.
    for stale in present.difference(&wanted) {
        match socket.delete_tunnel_end(tunnel, stale) {
            Err(source) if !source.is_not_found() => return Err(fail(source)),
            _ => {}
        }
    }
    for missing in wanted.difference(&present) {
        socket.replace_tunnel_end(tunnel, missing).map_err(fail)?;
    }
    Ok(())
}

/// Takes the tunnel away; its routes and ends go with it.
pub(crate) fn remove_tunnel(config: &Config) -> Result<(), Error> {
    let mut socket = RouteSocket::open().map_err(Error::OpenNetlink)?;
    let name = tunnel_name(config);
    let Some(link) = socket.link(&name).map_err(Error::ListLinks)? else { return Ok(()) };
    match socket.delete_link(link.index) {
        Err(source) if !source.is_not_found() => Err(Error::DeleteLink { interface: name, source }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_reached_by_plain_routes() {
        let nodes: BTreeMap<Ipv4Net, Ipv4Addr> = [
            ("10.42.1.0/24", "192.0.2.2"),
            ("10.42.2.0/24", "198.51.100.3"),
            ("10.42.3.0/24", "203.0.113.9"),
        ]
        .map(|(range, address)| (range.parse().unwrap(), address.parse().unwrap()))
        .into();
        // A single address says nothing about who else is there.
        let on_link = ["127.0.0.1/8", "192.0.2.1/24", "203.0.113.9/32"].map(|net| net.parse().unwrap());
        let ways = ways(&nodes, &on_link);
        assert_eq!(ways.plain.keys().map(ToString::to_string).collect::<Vec<_>>(), ["10.42.1.0/24"]);
        assert_eq!(ways.tunnel.len(), 2);
    }
}
