//! Who is at the other end of a tunnel: entries that somebody else would have to learn.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{NetlinkError, RouteSocket};

/// One entry of a tunnel.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum TunnelEnd {
    /// The hardware address that goes with an address.
    Neighbour { address: Ipv4Addr, mac: [u8; 6] },
    /// The node at which that hardware address is.
    Forward { mac: [u8; 6], node: Ipv4Addr },
}

impl TunnelEnd {
    fn message(&self, link: u32) -> NeighbourMessage {
        let mut message = NeighbourMessage::default();
        message.header.ifindex = link;
        message.header.state = NeighbourState::Permanent;
        let (address, mac) = match self {
            Self::Neighbour { address, mac } => {
                message.header.family = AddressFamily::Inet;
                (*address, mac)
            }
            Self::Forward { mac, node } => {
                message.header.family = AddressFamily::Bridge;
                // The device's own table, not that of a bridge it might be a port of.
                message.header.flags = NeighbourFlags::Own;
                (*node, mac)
            }
        };
        message.attributes = vec![
            NeighbourAttribute::Destination(NeighbourAddress::Inet(address)),
            NeighbourAttribute::LinkLayerAddress(mac.to_vec()),
        ];
        message
    }

    fn read(message: &NeighbourMessage) -> Option<Self> {
        let (mut address, mut mac) = (None, None);
        for attribute in &message.attributes {
            match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(found)) => address = Some(*found),
                // The kernel's forwarding entries have their address under another family.
                NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => {
                    address = <[u8; 4]>::try_from(bytes.as_slice()).ok().map(Ipv4Addr::from);
                }
                NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok(),
                _ => {}
            }
        }
        let (address, mac) = (address?, mac?);
        Some(if message.header.family == AddressFamily::Bridge {
            Self::Forward { mac, node: address }
        } else {
            Self::Neighbour { address, mac }
        })
    }
}

impl RouteSocket {
    /// The permanent entries of a tunnel.
    pub(crate) fn tunnel_ends(&mut self, link: u32) -> Result<BTreeSet<TunnelEnd>, NetlinkError> {
        let mut found = BTreeSet::new();
        for family in [AddressFamily::Inet, AddressFamily::Bridge] {
            let mut request = NeighbourMessage::default();
            request.header.family = family;
            for message in self.dump(RouteNetlinkMessage::GetNeighbour(request))? {
                let RouteNetlinkMessage::NewNeighbour(message) = message else { continue };
                if message.header.ifindex == link && message.header.state == NeighbourState::Permanent {
                    found.extend(TunnelEnd::read(&message));
                }
            }
        }
        Ok(found)
    }

    pub(crate) fn replace_tunnel_end(&mut self, link: u32, end: &TunnelEnd) -> Result<(), NetlinkError> {
        self.replace(RouteNetlinkMessage::NewNeighbour(end.message(link)))
    }

    pub(crate) fn delete_tunnel_end(&mut self, link: u32, end: &TunnelEnd) -> Result<(), NetlinkError> {
        self.change(RouteNetlinkMessage::DelNeighbour(end.message(link)))
    }
}
