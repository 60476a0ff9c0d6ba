//! The bridge, its gateway address, and the host's part in forwarding.

use ipnet::Ipv4Net;
use netlink_packet_route::link::InfoKind;

use crate::address;
use crate::config::Config;
use crate::error::{Error, Warning};
use crate::netlink::{Link, RouteSocket};
use crate::sysctl;

const DEFAULT_MTU: u32 = 1500;

/// The bridge, found by name.
pub(crate) fn find<'a>(config: &Config, links: &'a [Link]) -> Result<&'a Link, Error> {
    match links.iter().find(|link| link.name == config.bridge) {
        Some(link) if link.kind == Some(InfoKind::Bridge) => Ok(link),
        Some(_) => Err(Error::NotABridge { name: config.bridge.clone() }),
        None => Err(Error::NoBridge { bridge: config.bridge.clone() }),
    }
}

pub(crate) fn ensure(config: &Config) -> Result<Vec<Warning>, Error> {
    let name = &config.bridge;
    let mut socket = RouteSocket::open().map_err(Error::OpenNetlink)?;
    let mut links = socket.links().map_err(Error::ListLinks)?;
    let mtu = mtu(config, &links, &mut socket)?;

    if matches!(find(config, &links), Err(Error::NoBridge { .. })) {
        // A fixed hardware address: left to itself, a bridge takes that of a port, and changes it when the port goes.
        socket
            .create_bridge(name, address::mac(config.gateway()), mtu)
            .map_err(|source| Error::CreateBridge { bridge: name.clone(), source })?;
        links = socket.links().map_err(Error::ListLinks)?;
    }
    let bridge = find(config, &links)?;
    if !bridge.up || bridge.mtu != mtu {
        socket
            .set_mtu_and_up(bridge.index, mtu)
            .map_err(|source| Error::SetLink { interface: name.clone(), source })?;
    }
    ensure_address(config, &mut socket, bridge)?;
    Ok(ensure_forwarding(config))
}

/// The gateway address, and no other that an earlier node range left behind.
fn ensure_address(config: &Config, socket: &mut RouteSocket, bridge: &Link) -> Result<(), Error> {
    let fail = |address| {
        let interface = bridge.name.clone();
        move |source| Error::Address { interface, address, source }
    };
    let gateway = gateway_net(config);
    let present = socket.addresses(bridge.index).map_err(fail(gateway))?;
    for stale in present.iter().filter(|present| **present != gateway) {
        socket.delete_address(bridge.index, *stale).map_err(fail(*stale))?;
    }
    if !present.contains(&gateway) {
        socket.add_address(bridge.index, gateway).map_err(fail(gateway))?;
    }
    Ok(())
}

fn gateway_net(config: &Config) -> Ipv4Net {
    // The prefix length was that of a valid range.
    Ipv4Net::new(config.gateway(), config.pod_cidr.prefix_len()).unwrap_or(config.pod_cidr)
}

fn ensure_forwarding(config: &Config) -> Vec<Warning> {
    let mut warnings = Vec::new();
    if let Err((_, source)) = sysctl::set("net/ipv4/ip_forward", "1") {
        warnings.push(Warning::Forwarding(source));
    }
    // Host ports on 127.0.0.1 are sent on to pods with a loopback source until masquerading replaces it. The guard
    // chain keeps pods from using the same setting to reach the host's loopback (CVE-2020-8558).
    if let Err((_, source)) = sysctl::set(&format!("net/ipv4/conf/{}/route_localnet", config.bridge), "1") {
        warnings.push(Warning::RouteLocalnet { bridge: config.bridge.clone(), source });
    }
    // A packet from a pod to another pod's host port leaves through the bridge that it came from. Telling the pod
    // of a shorter way would lead it round the address translation. (Counts only where the machine-wide
    // setting is off too; pods do not listen to redirects either.)
    let _ = sysctl::set(&format!("net/ipv4/conf/{}/send_redirects", config.bridge), "0");
    warnings
}

/// The MTU for pods: as configured, or that of the link of the node's address, or of the way out of this machine.
pub(crate) fn mtu(config: &Config, links: &[Link], socket: &mut RouteSocket) -> Result<u32, Error> {
    if let Some(mtu) = config.mtu {
        return Ok(mtu);
    }
    let mut own = None;
    if let Some(wanted) = config.address {
        let addresses = socket.all_addresses().map_err(Error::ListAddresses)?;
        own = addresses.iter().find(|(_, address)| address.addr() == wanted).map(|(link, _)| *link);
    }
    let way_out = match own {
        Some(link) => Some(link),
        None => {
            let routes = socket.routes().map_err(Error::ListRoutes)?;
            routes.iter().find(|route| route.destination.prefix_len() == 0).and_then(|route| route.link)
        }
    };
    let mtu = way_out.and_then(|index| links.iter().find(|link| link.index == index)).map(|link| link.mtu);
    // Loopback and the like have an MTU that no bridge takes.
    Ok(mtu.filter(|mtu| (576..=65_535).contains(mtu)).unwrap_or(DEFAULT_MTU))
}

/// Deletes all ports, which takes their other halves in the pods along, and the bridge, which takes its
/// address and every route over it along.
pub(crate) fn remove(config: &Config) -> Result<(), Error> {
    let mut socket = RouteSocket::open().map_err(Error::OpenNetlink)?;
    let links = socket.links().map_err(Error::ListLinks)?;
    let bridge = match find(config, &links) {
        Err(Error::NoBridge { .. }) => return Ok(()),
        other => other?,
    };
    let ports =
        links.iter().filter(|link| link.master == Some(bridge.index) && link.kind == Some(InfoKind::Veth));
    for link in ports.chain([bridge]) {
        match socket.delete_link(link.index) {
            Err(source) if !source.is_not_found() => {
                return Err(Error::DeleteLink { interface: link.name.clone(), source });
            }
            _ => {}
        }
    }
    Ok(())
}
