//! A machine's own links: the interface of a virtual machine, and the bridge that joins several on their host.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::address;
use crate::error::Error;
use crate::netlink::{Link, RouteSocket, Via};

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
