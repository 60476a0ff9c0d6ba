//! A machine's own links: the interface of a virtual machine, and the bridge that joins several on their host.

use std::net::Ipv4Addr;
use std::os::fd::BorrowedFd;
use std::path::Path;

use ipnet::Ipv4Net;

use crate::address;
use crate::error::Error;
use crate::netlink::{Link, NewVeth, RouteSocket, Via};

const MTU: u32 = 1500;

/// Gives an interface its address and, with a gateway, the machine its way out. Doing it again changes nothing. Blocks.
pub fn configure(interface: &str, address: Ipv4Net, gateway: Option<Ipv4Addr>) -> Result<(), Error> {
    let mut socket = RouteSocket::open().map_err(Error::OpenNetlink)?;
    let link = find(&mut socket, interface)?
        .ok_or_else(|| Error::NoInterface { interface: interface.to_owned() })?;
    socket.set_up(link.index).map_err(|source| Error::SetLink { interface: interface.to_owned(), source })?;
    socket.add_address(link.index, address).map_err(|source| Error::Address {
        interface: interface.to_owned(),
        address,
        source,
    })?;
    if let Some(gateway) = gateway {
        let destination = Ipv4Net::default();
        socket
            .replace_route(destination, Via::Gateway { gateway, link: link.index })
            .map_err(|source| Error::Route { destination, source })?;
    }
    Ok(())
}

/// Brings an interface up. Blocks.
pub fn set_up(interface: &str) -> Result<(), Error> {
    let mut socket = RouteSocket::open().map_err(Error::OpenNetlink)?;
    let link = find(&mut socket, interface)?
        .ok_or_else(|| Error::NoInterface { interface: interface.to_owned() })?;
    socket.set_up(link.index).map_err(|source| Error::SetLink { interface: interface.to_owned(), source })
}

/// Makes a bridge with an address, if it is not there. Blocks.
pub fn ensure_bridge(name: &str, address: Ipv4Net) -> Result<(), Error> {
    let mut socket = RouteSocket::open().map_err(Error::OpenNetlink)?;
    if find(&mut socket, name)?.is_none() {
        socket
            .create_bridge(name, address::mac(address.addr()), MTU)
            .map_err(|source| Error::CreateBridge { bridge: name.to_owned(), source })?;
    }
    drop(socket);
    configure(name, address, None)
}

/// Makes an interface a port of a bridge, and brings it up. Blocks.
pub fn join_bridge(interface: &str, bridge: &str) -> Result<(), Error> {
    let mut socket = RouteSocket::open().map_err(Error::OpenNetlink)?;
    let bridge = find(&mut socket, bridge)?.ok_or_else(|| Error::NoBridge { bridge: bridge.to_owned() })?;
    let link = find(&mut socket, interface)?
        .ok_or_else(|| Error::NoInterface { interface: interface.to_owned() })?;
    socket
        .set_master_and_up(link.index, bridge.index)
        .map_err(|source| Error::SetLink { interface: interface.to_owned(), source })
}

/// Removes an interface; one that is not there is fine. Blocks.
pub fn remove(interface: &str) -> Result<(), Error> {
    let mut socket = RouteSocket::open().map_err(Error::OpenNetlink)?;
    let Some(link) = find(&mut socket, interface)? else { return Ok(()) };
    match socket.delete_link(link.index) {
        Err(error) if error.is_not_found() => Ok(()),
        result => result.map_err(|source| Error::DeleteLink { interface: interface.to_owned(), source }),
    }
}

/// Plugs a network namespace into a bridge: `name` is the bridge's end of the cable, `interface` the one inside, whose hardware
/// address follows from `address`. A cable that is there stays as it is. Blocks.
pub fn plug(
    name: &str,
    bridge: &str,
    netns: BorrowedFd<'_>,
    interface: &str,
    address: Ipv4Addr,
) -> Result<(), Error> {
    let mut socket = RouteSocket::open().map_err(Error::OpenNetlink)?;
    if find(&mut socket, name)?.is_some() {
        return Ok(());
    }
    let bridge_link =
        find(&mut socket, bridge)?.ok_or_else(|| Error::NoBridge { bridge: bridge.to_owned() })?;
    let fail = |source| Error::SetLink { interface: name.to_owned(), source };
    let peer_mac = address::mac(address);
    let veth = NewVeth { name, bridge: bridge_link.index, mtu: MTU, netns, peer_name: interface, peer_mac };
    socket.create_veth(&veth).map_err(fail)?;
    let link = find(&mut socket, name)?.ok_or_else(|| Error::NoInterface { interface: name.to_owned() })?;
    socket.no_link_local(link.index);
    socket.set_up(link.index).map_err(fail)
}

/// Gives an interface of ours to a network namespace, under the name `name`, and brings it up there with the addresses
/// that it had: those that are good everywhere and for ever. Blocks.
pub fn give(interface: &str, netns: BorrowedFd<'_>, name: &str) -> Result<(), Error> {
    let fail = |interface: &str| {
        let interface = interface.to_owned();
        move |source| Error::SetLink { interface, source }
    };
    let mut socket = RouteSocket::open().map_err(Error::OpenNetlink)?;
    let link = find(&mut socket, interface)?
        .ok_or_else(|| Error::NoInterface { interface: interface.to_owned() })?;
    let addresses = socket.lasting_addresses(link.index).map_err(Error::ListAddresses)?;
    socket.move_link(link.index, netns, name).map_err(fail(interface))?;
    crate::netns::run(netns, || {
        let mut socket = RouteSocket::open().map_err(Error::OpenNetlink)?;
        // Its number may have been taken there.
        let link =
            find(&mut socket, name)?.ok_or_else(|| Error::NoInterface { interface: name.to_owned() })?;
        for address in &addresses {
            socket.restore_address(link.index, address).map_err(fail(name))?;
        }
        socket.set_up(link.index).map_err(fail(name))
    })?
}

/// Takes an interface off its bridge, as pulling a cable does; [`join_bridge`] plugs it in again. Blocks.
pub fn leave_bridge(interface: &str) -> Result<(), Error> {
    let mut socket = RouteSocket::open().map_err(Error::OpenNetlink)?;
    let link = find(&mut socket, interface)?
        .ok_or_else(|| Error::NoInterface { interface: interface.to_owned() })?;
    socket
        .set_master_and_up(link.index, 0)
        .map_err(|source| Error::SetLink { interface: interface.to_owned(), source })
}

/// Whether an interface is the port of a bridge; none if it is not there. Blocks.
pub fn is_plugged(interface: &str) -> Result<Option<bool>, Error> {
    let mut socket = RouteSocket::open().map_err(Error::OpenNetlink)?;
    Ok(find(&mut socket, interface)?.map(|link| link.master.is_some_and(|master| master != 0)))
}

/// Makes the only way to a range lead over a gateway on one of the links. Blocks.
pub fn route(destination: Ipv4Net, gateway: Ipv4Addr, interface: &str) -> Result<(), Error> {
    let mut socket = RouteSocket::open().map_err(Error::OpenNetlink)?;
    let link = find(&mut socket, interface)?
        .ok_or_else(|| Error::NoInterface { interface: interface.to_owned() })?;
    socket
        .replace_route(destination, Via::Gateway { gateway, link: link.index })
        .map_err(|source| Error::Route { destination, source })
}

/// A short number for the names of links and the like that belong to a directory (FNV-1a): stable from version to version, and not
/// meant to keep anybody out.
pub fn name_hash(directory: &Path) -> u32 {
    hash(directory.as_os_str().as_encoded_bytes())
}

pub(crate) fn hash(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// Whether any route of this machine, the one to everywhere aside, leads into a range. Blocks.
pub fn is_in_use(range: Ipv4Net) -> Result<bool, Error> {
    let mut socket = RouteSocket::open().map_err(Error::OpenNetlink)?;
    let routes = socket.routes().map_err(Error::ListRoutes)?;
    let mut others =
        routes.iter().map(|route| route.destination).filter(|destination| destination.prefix_len() > 0);
    Ok(others.any(|other| other.contains(&range) || range.contains(&other)))
}

fn find(socket: &mut RouteSocket, interface: &str) -> Result<Option<Link>, Error> {
    socket.link(interface).map_err(Error::ListLinks)
}
