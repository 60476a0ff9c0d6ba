//! Veth pairs between the bridge and network namespaces.
//!
//! The host side carries everything there is to know:
//!
//! ```text
//! name   cor<hash of bridge and id>      so that the same id always finds the same link
//! alias  "10.42.0.7 eth0 <id>"           set before the address is used inside the namespace
//! ```
//!
//! A link with our name and no alias was left by a crash between the two steps; nothing uses its address yet.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use ipnet::Ipv4Net;
use netlink_packet_route::link::InfoKind;

use crate::address;
use crate::bridge;
use crate::config::{Config, INTERFACE_NAME_MAX};
use crate::error::Error;
use crate::netlink::Via;
use crate::netlink::{Link, NewVeth, RouteSocket};
use crate::{netns, sysctl};

/// The id of the service namespace's attachment; white space keeps it apart from every other id.
pub(crate) const SERVICE: &str = "service namespace";

/// How long the kernel may take to open a bridge port. Milliseconds, unless it is very busy.
const OPENING: Duration = Duration::from_secs(5);

/// One network namespace on the bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// Who asked for it.
    pub id: String,
    /// Name of the interface inside the namespace.
    pub interface: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// Length of the prefix that is on the link.
    pub prefix_len: u8,
    /// Where the default route leads.
    pub gateway: Ipv4Addr,
    /// Its hardware address.
    pub mac: [u8; 6],
    /// Name of the other half, on the bridge.
    pub host_interface: String,
}

impl Attachment {
    fn new(config: &Config, id: &str, interface: &str, address: Ipv4Addr) -> Self {
        Self {
            id: id.to_owned(),
            interface: interface.to_owned(),
            address,
            prefix_len: config.pod_cidr.prefix_len(),
            gateway: config.gateway(),
            mac: address::mac(address),
            host_interface: host_interface(&config.bridge, id),
        }
    }

    fn alias(&self) -> String {
        format!("{} {} {}", self.address, self.interface, self.id)
    }

    /// Reads an attachment off its host side, if that is a complete one of ours.
    fn from_link(config: &Config, bridge: &Link, link: &Link) -> Option<Self> {
        let mut words = link.alias.as_deref()?.splitn(3, ' ');
        let (address, interface, id) = (words.next()?.parse().ok()?, words.next()?, words.next()?);
        let ours = link.master == Some(bridge.index) && link.name == host_interface(&config.bridge, id);
        ours.then(|| Self::new(config, id, interface, address))
    }
}

/// `cor` and 60 bits of a hash (FNV-1a), of which interface names have room for 12 characters.
pub(crate) fn host_interface(bridge: &str, id: &str) -> String {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in bridge.bytes().chain([0]).chain(id.bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    let digits = b"0123456789abcdefghijklmnopqrstuv";
    let digit = |index: u32| char::from(digits[((hash >> (index * 5)) & 31) as usize]);
    let name: String = "cor".chars().chain((0..12).map(digit)).collect();
    debug_assert_eq!(name.len(), INTERFACE_NAME_MAX, "interface names have 15 bytes");
    name
}

pub(crate) fn attach(
    config: &Config,
    target: &OwnedFd,
    id: &str,
    interface: &str,
) -> Result<Attachment, Error> {
    if id.is_empty() || id.len() > 200 || id.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(Error::BadId { id: id.to_owned() });
    }
    attach_as(config, target.as_fd(), id, interface, None)
}

/// Attaches with a given address or with the next free one.
pub(crate) fn attach_as(
    config: &Config,
    target: BorrowedFd<'_>,
    id: &str,
    interface: &str,
    fixed: Option<Ipv4Addr>,
) -> Result<Attachment, Error> {
    let mut socket = RouteSocket::open().map_err(Error::OpenNetlink)?;
    let links = socket.links().map_err(Error::ListLinks)?;
    let bridge = bridge::find(config, &links)?;
    let mut present = links.iter().find(|link| link.name == host_interface(&config.bridge, id));

    let old = present.and_then(|link| Attachment::from_link(config, bridge, link));
    let in_place = match (present, &old) {
        (Some(link), Some(old)) if old.interface == interface && fixed.is_none_or(|f| f == old.address) => {
            is_in(target, link, old)?
        }
        _ => false,
    };
    let attachment = if in_place {
        old
    } else {
        if let Some(link) = present.take() {
            delete(&mut socket, link)?;
        }
        None
    };
    let attachment = match attachment {
        Some(attachment) => attachment,
        None => {
            // The same id keeps its address when it moves.
            let address = match fixed.or(old_address(config, &links, id)) {
                Some(address) => address,
                None => next_address(config, bridge, &links)?,
            };
            Attachment::new(config, id, interface, address)
        }
    };
    let mtu = bridge::mtu(config, &links, &mut socket)?;
    if !in_place {
        socket
            .create_veth(&NewVeth {
                name: &attachment.host_interface,
                bridge: bridge.index,
                mtu,
                netns: target,
                peer_name: interface,
                peer_mac: attachment.mac,
            })
            .map_err(|source| match source.is_exists() {
                true => Error::InterfaceTaken { id: id.to_owned(), interface: interface.to_owned() },
                false => Error::CreateVeth {
                    id: id.to_owned(),
                    host_interface: attachment.host_interface.clone(),
                    source,
                },
            })?;
    }
    let mut changes = RouteSocket::link_changes().map_err(Error::OpenNetlink)?;
    finish_host_side(&mut socket, &attachment)?;
    netns::run(target, || configure(config, &attachment))??;
    wait_until_forwarding(&mut socket, &mut changes, &attachment)?;
    Ok(attachment)
}

/// The kernel opens a bridge port a moment after both halves are up, from a work queue. Until then packets are
/// lost, and a lost first packet costs whoever sent it a second.
fn wait_until_forwarding(
    socket: &mut RouteSocket,
    changes: &mut RouteSocket,
    attachment: &Attachment,
) -> Result<(), Error> {
    let deadline = Instant::now() + OPENING;
    loop {
        match socket.link(&attachment.host_interface).map_err(Error::ListLinks)? {
            Some(link) if link.forwarding => return Ok(()),
            Some(_) => {}
            None => return Err(Error::NotAttached { id: attachment.id.clone() }),
        }
        let patience = deadline.saturating_duration_since(Instant::now());
        if patience.is_zero() || !changes.wait(patience).map_err(Error::ListLinks)? {
            return Err(Error::PortClosed { interface: attachment.host_interface.clone() });
        }
    }
}

fn old_address(config: &Config, links: &[Link], id: &str) -> Option<Ipv4Addr> {
    let bridge = bridge::find(config, links).ok()?;
    let link = links.iter().find(|link| link.name == host_interface(&config.bridge, id))?;
    Attachment::from_link(config, bridge, link).map(|old| old.address).filter(|a| config.pod_cidr.contains(a))
}

fn next_address(config: &Config, bridge: &Link, links: &[Link]) -> Result<Ipv4Addr, Error> {
    let living =
        links.iter().filter_map(|link| Attachment::from_link(config, bridge, link)).map(|a| a.address);
    let taken: BTreeSet<_> = living.chain([config.gateway(), config.service_address()]).collect();
    let address = address::choose(config.pod_cidr, &taken, address::last(config))
        .ok_or(Error::NoFreeAddress { pod_cidr: config.pod_cidr })?;
    address::remember(config, address)?;
    Ok(address)
}

/// Is this link's other half the interface in that namespace?
fn is_in(target: BorrowedFd<'_>, link: &Link, attachment: &Attachment) -> Result<bool, Error> {
    let links = netns::run(target, || RouteSocket::open()?.links())?.map_err(Error::ListLinks)?;
    Ok(links.iter().any(|inner| {
        inner.name == attachment.interface
            && inner.mac == attachment.mac
            && inner.peer == Some(link.index)
            && link.peer == Some(inner.index)
    }))
}

fn finish_host_side(socket: &mut RouteSocket, attachment: &Attachment) -> Result<(), Error> {
    let fail = |source| Error::SetLink { interface: attachment.host_interface.clone(), source };
    let Some(link) = socket.link(&attachment.host_interface).map_err(Error::ListLinks)? else {
        // The namespace died meanwhile and took the pair along.
        return Err(Error::NotAttached { id: attachment.id.clone() });
    };
    if !link.up || link.alias.as_deref() != Some(&attachment.alias()) {
        socket.no_link_local(link.index);
        socket.finish_port(link.index, &attachment.alias()).map_err(fail)?;
    }
    Ok(())
}

/// Runs inside the namespace: loopback, address, routes. Every step may be repeated.
fn configure(config: &Config, attachment: &Attachment) -> Result<(), Error> {
    let interface = &attachment.interface;
    let fail = |interface: &str| {
        let interface = interface.to_owned();
        move |source| Error::SetLink { interface, source }
    };
    let mut socket = RouteSocket::open().map_err(Error::OpenNetlink)?;
    let links = socket.links().map_err(Error::ListLinks)?;
    let index = |name: &str| links.iter().find(|link| link.name == name).map(|link| link.index);
    let loopback = index("lo").unwrap_or(1);
    let Some(eth) = index(interface) else {
        return Err(Error::NotAttached { id: attachment.id.clone() });
    };
    socket.set_up(loopback).map_err(fail("lo"))?;

    let address = Ipv4Net::new(attachment.address, attachment.prefix_len).unwrap_or(config.pod_cidr);
    socket.add_address(eth, address).map_err(|source| Error::Address {
        interface: interface.clone(),
        address,
        source,
    })?;
    // Nobody on the bridge has a better way to tell us of: redirects could only lead packets astray.
    for scope in ["all", interface] {
        let _ = sysctl::set(&format!("net/ipv4/conf/{scope}/accept_redirects"), "0");
    }
    socket.set_up(eth).map_err(fail(interface))?;

    let mut routes = vec![(Ipv4Net::default(), attachment.gateway)];
    if let Some(services) = config.service_cidr.filter(|_| attachment.id != SERVICE) {
        // Straight over the bridge to the service namespace, which answers the same way. Through the gateway, only
        // one direction would pass the host's packet filter, and firewalls drop what looks like half a connection.
        routes.push((services, config.service_address()));
    }
    for (destination, gateway) in routes {
        socket
            .replace_route(destination, Via::Gateway { gateway, link: eth })
            .map_err(|source| Error::Route { destination, source })?;
    }
    Ok(())
}

fn delete(socket: &mut RouteSocket, link: &Link) -> Result<(), Error> {
    match socket.delete_link(link.index) {
        Err(source) if !source.is_not_found() => {
            Err(Error::DeleteLink { interface: link.name.clone(), source })
        }
        _ => Ok(()),
    }
}

pub(crate) fn detach(config: &Config, id: &str) -> Result<(), Error> {
    let mut socket = RouteSocket::open().map_err(Error::OpenNetlink)?;
    let links = socket.links().map_err(Error::ListLinks)?;
    match links.iter().find(|link| link.name == host_interface(&config.bridge, id)) {
        Some(link) => delete(&mut socket, link),
        None => Ok(()),
    }
}

/// The complete attachments, ordered by id, without the service namespace's.
pub(crate) fn list(config: &Config) -> Result<Vec<Attachment>, Error> {
    let mut socket = RouteSocket::open().map_err(Error::OpenNetlink)?;
    let links = socket.links().map_err(Error::ListLinks)?;
    let bridge = match bridge::find(config, &links) {
        Err(Error::NoBridge { .. }) => return Ok(Vec::new()),
        other => other?,
    };
    let mut found: Vec<_> = links
        .iter()
        .filter_map(|link| Attachment::from_link(config, bridge, link))
        .filter(|attachment| attachment.id != SERVICE)
        .collect();
    found.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(found)
}

/// Deletes the ports of the bridge that belong to nobody in `live`; answers whose they were, as far as that is known.
pub(crate) fn reconcile(config: &Config, live: &BTreeSet<String>) -> Result<BTreeSet<String>, Error> {
    let mut socket = RouteSocket::open().map_err(Error::OpenNetlink)?;
    let links = socket.links().map_err(Error::ListLinks)?;
    let bridge = match bridge::find(config, &links) {
        Err(Error::NoBridge { .. }) => return Ok(BTreeSet::new()),
        other => other?,
    };
    let mut gone = BTreeSet::new();
    for link in stale(config, bridge, &links, live) {
        delete(&mut socket, link)?;
        gone.extend(Attachment::from_link(config, bridge, link).map(|attachment| attachment.id));
    }
    Ok(gone)
}

/// Ports of the bridge that we made (by the look of their name) and that no living id leads to.
fn stale<'a>(
    config: &'a Config,
    bridge: &'a Link,
    links: &'a [Link],
    live: &BTreeSet<String>,
) -> impl Iterator<Item = &'a Link> {
    let keep: BTreeSet<String> = live
        .iter()
        .map(String::as_str)
        .chain([SERVICE])
        .map(|id| host_interface(&config.bridge, id))
        .collect();
    links.iter().filter(move |link| {
        link.master == Some(bridge.index)
            && link.kind == Some(InfoKind::Veth)
            && link.name.starts_with("cor")
            && !keep.contains(&link.name)
    })
}
