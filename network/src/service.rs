//! The node's service namespace: where every service address is at home.
//!
//! Inside, one `local` route makes the whole service range the namespace's own: a listener can bind each address
//! and port, and what nobody listens on refuses at once. Outside, one route leads there. No address translation,
//! no connection tracking, and nothing that a port on the host could collide with.

use std::os::fd::{AsFd, OwnedFd};

use crate::attachment::{self, Attachment};
use crate::bridge;
use crate::config::Config;
use crate::error::Error;
use crate::netlink::{RouteSocket, Via};
use crate::{netns, sysctl};

const INTERFACE: &str = "eth0";

pub(crate) fn attach(config: &Config, target: &OwnedFd) -> Result<Attachment, Error> {
    let address = config.service_address();
    let attachment =
        attachment::attach_as(config, target.as_fd(), attachment::SERVICE, INTERFACE, Some(address))?;
    let Some(services) = config.service_cidr else { return Ok(attachment) };

    netns::run(target.as_fd(), || -> Result<(), Error> {
        let mut socket = RouteSocket::open().map_err(Error::OpenNetlink)?;
        let links = socket.links().map_err(Error::ListLinks)?;
        let loopback = links.iter().find(|link| link.name == "lo").map_or(1, |link| link.index);
        socket
            .replace_route(services, Via::Local { link: loopback })
            .map_err(|source| Error::Route { destination: services, source })?;
        parameters()
    })??;

    let mut socket = RouteSocket::open().map_err(Error::OpenNetlink)?;
    let links = socket.links().map_err(Error::ListLinks)?;
    let bridge = bridge::find(config, &links)?;
    socket
        .replace_route(services, Via::Gateway { gateway: address, link: bridge.index })
        .map_err(|source| Error::Route { destination: services, source })?;
    Ok(attachment)
}

fn parameters() -> Result<(), Error> {
    // Ask for neighbours in the name of the interface's address and answer for it alone: a service address
    // must never enter a neighbour table, it is reached by route.
    sysctl::require(&format!("net/ipv4/conf/{INTERFACE}/arp_announce"), "2")?;
    sysctl::require(&format!("net/ipv4/conf/{INTERFACE}/arp_ignore"), "1")?;
    // Each connection to a pod takes a port for this one source address. The namespace has no other user of ports,
    // so give them all, and reuse those that only wait for stray segments (told apart by their timestamps).
    sysctl::require("net/ipv4/ip_local_port_range", "1024 65535")?;
    sysctl::require("net/ipv4/tcp_tw_reuse", "1")?;
    // A peer that no longer confirms what it is sent has died: give it up after some 100 seconds, not after 15 minutes.
    // (Not TCP_USER_TIMEOUT, which also ends a living peer that takes a pause from reading.)
    sysctl::require("net/ipv4/tcp_retries2", "8")?;
    // Whoever asks for keep-alive probes gets these: a peer that has gone without a word is found out in two minutes.
    sysctl::require("net/ipv4/tcp_keepalive_time", "60")?;
    sysctl::require("net/ipv4/tcp_keepalive_intvl", "15")?;
    sysctl::require("net/ipv4/tcp_keepalive_probes", "4")?;
    // When a listener closes beside another one on the same address and port (a successor's), connections that wait
    // to be accepted go over to that one. Kernels before 5.14 reset them.
    let _ = sysctl::set("net/ipv4/tcp_migrate_req", "1");
    Ok(())
}
