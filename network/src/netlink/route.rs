//! Addresses and routes, and the socket for everything of the route family.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::BorrowedFd;
use std::time::Duration;

use ipnet::Ipv4Net;
use netlink_packet_core::{NetlinkDeserializable, NetlinkHeader, NetlinkSerializable};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{Message, NetlinkError, Socket};

const NETLINK_ROUTE: isize = 0;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;
const GROUP_LINK: u32 = 1;
const GROUP_IPV4_ADDRESS: u32 = 5;
const GROUP_IPV4_ROUTE: u32 = 7;
const TABLE_MAIN: u8 = 254;
const TABLE_LOCAL: u8 = 255;
/// Who made a route to another node; none of the numbers that routing daemons have taken.
const PROTOCOL_NODES: u8 = 0xc0;

/// A route netlink socket in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct RouteSocket(Socket);

/// How a destination is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Via {
    /// Through a neighbour, known to be on the link even if no address says so.
    Gateway { gateway: Ipv4Addr, link: u32 },
    /// Every address of the destination is this machine's own.
    Local { link: u32 },
}

/// The way to another node's pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NodeRoute {
    /// By whatever link the node is a neighbour on.
    Plain { gateway: Ipv4Addr },
    /// Through a tunnel, whose other end is known by an address that no link has. What this machine sends itself has the source.
    Tunnel { gateway: Ipv4Addr, link: u32, source: Ipv4Addr },
}

/// A route to another node as it was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PresentRoute {
    gateway: Ipv4Addr,
    link: Option<u32>,
}

impl PresentRoute {
    /// Whether it leads where the wanted one does. A plain route must not be one into a tunnel that was.
    pub(crate) fn leads_like(&self, wanted: &NodeRoute, tunnel: Option<u32>) -> bool {
        match wanted {
            NodeRoute::Plain { gateway } => {
                self.gateway == *gateway && (tunnel.is_none() || self.link != tunnel)
            }
            NodeRoute::Tunnel { gateway, link, .. } => self.gateway == *gateway && self.link == Some(*link),
        }
    }
}

/// A route of the main table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) destination: Ipv4Net,
    pub(crate) link: Option<u32>,
}

impl RouteSocket {
    pub(crate) fn open() -> Result<Self, NetlinkError> {
        Socket::open(NETLINK_ROUTE).map(Self)
    }

    pub(super) fn create(&mut self, message: RouteNetlinkMessage) -> Result<(), NetlinkError> {
        self.0.request(encode(&message, NLM_F_CREATE | NLM_F_EXCL))
    }

    pub(super) fn change(&mut self, message: RouteNetlinkMessage) -> Result<(), NetlinkError> {
        self.0.request(encode(&message, 0))
    }

    pub(super) fn query(
        &mut self,
        message: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        self.0.query(encode(&message, 0))?.iter().map(decode).collect()
    }

    /// A socket that hears of every change of a link.
    pub(crate) fn link_changes() -> Result<Self, NetlinkError> {
        let mut socket = Self::open()?;
        socket.0.subscribe(GROUP_LINK)?;
        Ok(socket)
    }

    /// A socket that hears of every change of this machine's IPv4 addresses and routes.
    pub(crate) fn address_changes() -> Result<Self, NetlinkError> {
        let mut socket = Self::open()?;
        socket.0.subscribe(GROUP_IPV4_ADDRESS)?;
        socket.0.subscribe(GROUP_IPV4_ROUTE)?;
        Ok(socket)
    }

    /// For those who wait for more than one thing.
    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.0.descriptor()
    }

    /// Waits for the next change; `false` when there was none within `patience`.
    pub(crate) fn wait(&mut self, patience: Duration) -> Result<bool, NetlinkError> {
        self.0.wait(patience)
    }

    /// Adds, or puts in the place of one with the same key.
    pub(super) fn replace(&mut self, message: RouteNetlinkMessage) -> Result<(), NetlinkError> {
        self.0.request(encode(&message, NLM_F_CREATE | NLM_F_REPLACE))
    }

    pub(super) fn dump(
        &mut self,
        message: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        self.0.dump(encode(&message, 0))?.iter().map(decode).collect()
    }

    /// The IPv4 addresses of one link.
    pub(crate) fn addresses(&mut self, link: u32) -> Result<Vec<Ipv4Net>, NetlinkError> {
        let all = self.all_addresses()?;
        Ok(all.into_iter().filter(|(index, _)| *index == link).map(|(_, address)| address).collect())
    }

    /// The IPv4 addresses of all links, with the link's index.
    pub(crate) fn all_addresses(&mut self) -> Result<Vec<(u32, Ipv4Net)>, NetlinkError> {
        let mut request = AddressMessage::default();
        request.header.family = AddressFamily::Inet;
        let mut found = Vec::new();
        for message in self.dump(RouteNetlinkMessage::GetAddress(request))? {
            let RouteNetlinkMessage::NewAddress(message) = message else { continue };
            for attribute in &message.attributes {
                if let AddressAttribute::Local(IpAddr::V4(address)) = attribute
                    && let Ok(net) = Ipv4Net::new(*address, message.header.prefix_len)
                {
                    found.push((message.header.index, net));
                }
            }
        }
        Ok(found)
    }

    /// Adds an address; having it already is fine.
    pub(crate) fn add_address(&mut self, link: u32, address: Ipv4Net) -> Result<(), NetlinkError> {
        let mut message = address_message(link, address);
        if address.prefix_len() < 31 {
            message.attributes.push(AddressAttribute::Broadcast(address.broadcast()));
        }
        match self.create(RouteNetlinkMessage::NewAddress(message)) {
            Err(error) if error.is_exists() => Ok(()),
            other => other,
        }
    }

    pub(crate) fn delete_address(&mut self, link: u32, address: Ipv4Net) -> Result<(), NetlinkError> {
        self.change(RouteNetlinkMessage::DelAddress(address_message(link, address)))
    }

    /// Makes this the only route of its destination and metric.
    pub(crate) fn replace_route(&mut self, destination: Ipv4Net, via: Via) -> Result<(), NetlinkError> {
        let message = RouteNetlinkMessage::NewRoute(route_message(destination, via));
        self.0.request(encode(&message, NLM_F_CREATE | NLM_F_REPLACE))
    }

    /// The routes to other nodes that we made.
    pub(crate) fn node_routes(&mut self) -> Result<BTreeMap<Ipv4Net, PresentRoute>, NetlinkError> {
        let mut request = RouteMessage::default();
        request.header.address_family = AddressFamily::Inet;
        let mut found = BTreeMap::new();
        for message in self.dump(RouteNetlinkMessage::GetRoute(request))? {
            let RouteNetlinkMessage::NewRoute(message) = message else { continue };
            if message.header.table != TABLE_MAIN || u8::from(message.header.protocol) != PROTOCOL_NODES {
                continue;
            }
            let (mut destination, mut via, mut link) = (None, None, None);
            for attribute in &message.attributes {
                match attribute {
                    RouteAttribute::Destination(RouteAddress::Inet(address)) => destination = Some(*address),
                    RouteAttribute::Gateway(RouteAddress::Inet(address)) => via = Some(*address),
                    RouteAttribute::Oif(index) => link = Some(*index),
                    _ => {}
                }
            }
            if let (Some(destination), Some(gateway)) = (destination, via)
                && let Ok(destination) = Ipv4Net::new(destination, message.header.destination_prefix_length)
            {
                found.insert(destination, PresentRoute { gateway, link });
            }
        }
        Ok(found)
    }

    /// A route to another node's pods.
    pub(crate) fn replace_node_route(
        &mut self,
        destination: Ipv4Net,
        route: &NodeRoute,
    ) -> Result<(), NetlinkError> {
        let mut message = node_route(destination);
        message.header.scope = RouteScope::Universe;
        message.header.kind = RouteType::Unicast;
        match *route {
            NodeRoute::Plain { gateway } => {
                message.attributes.push(RouteAttribute::Gateway(RouteAddress::Inet(gateway)));
            }
            NodeRoute::Tunnel { gateway, link, source } => {
                message.header.flags = RouteFlags::Onlink;
                message.attributes.extend([
                    RouteAttribute::Gateway(RouteAddress::Inet(gateway)),
                    RouteAttribute::Oif(link),
                    RouteAttribute::PrefSource(RouteAddress::Inet(source)),
                ]);
            }
        }
        self.0.request(encode(&RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_REPLACE))
    }

    pub(crate) fn delete_node_route(&mut self, destination: Ipv4Net) -> Result<(), NetlinkError> {
        self.change(RouteNetlinkMessage::DelRoute(node_route(destination)))
    }

    /// The IPv4 routes of the main table.
    pub(crate) fn routes(&mut self) -> Result<Vec<Route>, NetlinkError> {
        let mut request = RouteMessage::default();
        request.header.address_family = AddressFamily::Inet;
        let mut found = Vec::new();
        for message in self.dump(RouteNetlinkMessage::GetRoute(request))? {
            let RouteNetlinkMessage::NewRoute(message) = message else { continue };
            if message.header.table != TABLE_MAIN || message.header.kind != RouteType::Unicast {
                continue;
            }
            let mut destination = Ipv4Addr::UNSPECIFIED;
            let mut link = None;
            for attribute in &message.attributes {
                match attribute {
                    RouteAttribute::Destination(RouteAddress::Inet(address)) => destination = *address,
                    RouteAttribute::Oif(index) => link = Some(*index),
                    _ => {}
                }
            }
            if let Ok(destination) = Ipv4Net::new(destination, message.header.destination_prefix_length) {
                found.push(Route { destination, link });
            }
        }
        Ok(found)
    }
}

fn address_message(link: u32, address: Ipv4Net) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = address.prefix_len();
    message.header.index = link;
    message.attributes = vec![
        AddressAttribute::Local(IpAddr::V4(address.addr())),
        AddressAttribute::Address(IpAddr::V4(address.addr())),
    ];
    message
}

fn node_route(destination: Ipv4Net) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.destination_prefix_length = destination.prefix_len();
    message.header.table = TABLE_MAIN;
    message.header.protocol = RouteProtocol::from(PROTOCOL_NODES);
    message.header.scope = RouteScope::NoWhere;
    message.attributes.push(RouteAttribute::Destination(RouteAddress::Inet(destination.network())));
    message
}

fn route_message(destination: Ipv4Net, via: Via) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.destination_prefix_length = destination.prefix_len();
    message.header.protocol = RouteProtocol::Static;
    if destination.prefix_len() > 0 {
        message.attributes.push(RouteAttribute::Destination(RouteAddress::Inet(destination.network())));
    }
    match via {
        Via::Gateway { gateway, link } => {
            message.header.table = TABLE_MAIN;
            message.header.scope = RouteScope::Universe;
            message.header.kind = RouteType::Unicast;
            message.attributes.push(RouteAttribute::Gateway(RouteAddress::Inet(gateway)));
            message.attributes.push(RouteAttribute::Oif(link));
        }
        Via::Local { link } => {
            message.header.table = TABLE_LOCAL;
            message.header.scope = RouteScope::Host;
            message.header.kind = RouteType::Local;
            message.attributes.push(RouteAttribute::Oif(link));
        }
    }
    message
}

fn decode(answer: &Message) -> Result<RouteNetlinkMessage, NetlinkError> {
    let mut header = NetlinkHeader::default();
    header.message_type = answer.kind;
    RouteNetlinkMessage::deserialize(&header, &answer.payload)
        .map_err(|error| NetlinkError::Decode(error.to_string()))
}

fn encode(message: &RouteNetlinkMessage, flags: u16) -> Message {
    let mut payload = vec![0; message.buffer_len()];
    message.serialize(&mut payload);
    Message { kind: message.message_type(), flags, payload }
}
