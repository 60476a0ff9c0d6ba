//! Links as we see and make them.

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, BridgePortState, BridgeStpState, In6AddrGenMode, InfoBridge, InfoBridgePort,
    InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVeth, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo,
    LinkMessage,
};

use super::{NetlinkError, RouteSocket};

/// What we want to know of a link.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) alias: Option<String>,
    pub(crate) mac: Vec<u8>,
    pub(crate) mtu: u32,
    pub(crate) up: bool,
    /// Index of the bridge it is a port of.
    pub(crate) master: Option<u32>,
    /// Index of its other half, in whatever namespace that is.
    pub(crate) peer: Option<u32>,
    pub(crate) kind: Option<InfoKind>,
    /// Network number and own address of a VXLAN device.
    pub(crate) vxlan: Option<(u32, Option<Ipv4Addr>)>,
    /// It is a port of a bridge that lets packets pass.
    pub(crate) forwarding: bool,
}

impl From<LinkMessage> for Link {
    fn from(message: LinkMessage) -> Self {
        let mut link = Self {
            index: message.header.index,
            up: message.header.flags.contains(LinkFlags::Up),
            ..Self::default()
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
                LinkAttribute::Address(mac) => link.mac = mac,
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::Controller(index) => link.master = Some(index),
                LinkAttribute::Link(index) => link.peer = Some(index),
                LinkAttribute::LinkInfo(infos) => {
                    for info in infos {
                        match info {
                            LinkInfo::Kind(kind) => link.kind = Some(kind),
                            LinkInfo::Data(InfoData::Vxlan(options)) => {
                                let mut found = (0, None);
                                for option in options {
                                    match option {
                                        InfoVxlan::Id(id) => found.0 = id,
                                        InfoVxlan::Local(address) => found.1 = Some(address),
                                        _ => {}
                                    }
                                }
                                link.vxlan = Some(found);
                            }
                            LinkInfo::PortData(InfoPortData::BridgePort(options)) => {
                                link.forwarding =
                                    options.contains(&InfoBridgePort::State(BridgePortState::Forwarding));
                            }
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        link
    }
}

/// A veth pair to be made in one step: one half here, a port of the bridge, the other in `netns`.
#[derive(Debug)]
pub(crate) struct NewVeth<'a> {
    pub(crate) name: &'a str,
    pub(crate) bridge: u32,
    pub(crate) mtu: u32,
    pub(crate) netns: BorrowedFd<'a>,
    pub(crate) peer_name: &'a str,
    pub(crate) peer_mac: [u8; 6],
}

/// A VXLAN device to be made: one end of a tunnel with many, told where each is.
#[derive(Debug)]
pub(crate) struct NewVxlan<'a> {
    pub(crate) name: &'a str,
    pub(crate) mac: [u8; 6],
    pub(crate) mtu: u32,
    /// Number of the network, the same at all ends.
    pub(crate) id: u32,
    /// Where packets come from.
    pub(crate) local: Option<Ipv4Addr>,
    pub(crate) port: u16,
}

impl RouteSocket {
    pub(crate) fn create_vxlan(&mut self, vxlan: &NewVxlan<'_>) -> Result<(), NetlinkError> {
        let mut options =
            vec![InfoVxlan::Id(vxlan.id), InfoVxlan::Learning(false), InfoVxlan::Port(vxlan.port)];
        options.extend(vxlan.local.map(InfoVxlan::Local));
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(vxlan.name.into()),
            LinkAttribute::Address(vxlan.mac.to_vec()),
            LinkAttribute::Mtu(vxlan.mtu),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Vxlan),
                LinkInfo::Data(InfoData::Vxlan(options)),
            ]),
        ];
        self.create(RouteNetlinkMessage::NewLink(message))
    }

    pub(crate) fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        let messages = self.dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
        Ok(messages
            .into_iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewLink(link) => Some(link.into()),
                _ => None,
            })
            .collect())
    }

    /// The link of that name, if there is one.
    pub(crate) fn link(&mut self, name: &str) -> Result<Option<Link>, NetlinkError> {
        let mut request = LinkMessage::default();
        request.attributes = vec![LinkAttribute::IfName(name.into())];
        match self.query(RouteNetlinkMessage::GetLink(request)) {
            Ok(messages) => Ok(messages.into_iter().find_map(|message| match message {
                RouteNetlinkMessage::NewLink(link) => Some(link.into()),
                _ => None,
            })),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn create_bridge(&mut self, name: &str, mac: [u8; 6], mtu: u32) -> Result<(), NetlinkError> {
        let options = vec![
            InfoBridge::StpState(BridgeStpState::Disabled),
            InfoBridge::ForwardDelay(0),
            // Without a querier on the bridge snooping only costs timers.
            InfoBridge::MulticastSnooping(false),
        ];
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(name.into()),
            LinkAttribute::Address(mac.to_vec()),
            LinkAttribute::Mtu(mtu),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Bridge),
                LinkInfo::Data(InfoData::Bridge(options)),
            ]),
        ];
        self.create(RouteNetlinkMessage::NewLink(message))
    }

    pub(crate) fn create_veth(&mut self, veth: &NewVeth<'_>) -> Result<(), NetlinkError> {
        let mut peer = LinkMessage::default();
        peer.attributes = vec![
            LinkAttribute::IfName(veth.peer_name.into()),
            LinkAttribute::Address(veth.peer_mac.to_vec()),
            LinkAttribute::Mtu(veth.mtu),
            LinkAttribute::NetNsFd(veth.netns.as_raw_fd()),
        ];
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(veth.name.into()),
            LinkAttribute::Mtu(veth.mtu),
            LinkAttribute::Controller(veth.bridge),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Veth),
                LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
            ]),
        ];
        self.create(RouteNetlinkMessage::NewLink(message))
    }

    /// Finishes a bridge port in one step: alias, up, and frames may leave by the port they came from. The
    /// latter is for a pod that calls itself through a host port: where bridged packets pass the packet filter
    /// (net.bridge.bridge-nf-call-iptables), the kernel does not route such a translated packet but bridges it back.
    pub(crate) fn finish_port(&mut self, index: u32, alias: &str) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        message.attributes = vec![
            LinkAttribute::IfAlias(alias.into()),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::PortKind(InfoPortKind::Bridge),
                LinkInfo::PortData(InfoPortData::BridgePort(vec![InfoBridgePort::HairpinMode(true)])),
            ]),
        ];
        // A "new link" with the index of an old one: only that changes a bridge port's options along the way.
        self.change(RouteNetlinkMessage::NewLink(message))
    }

    /// Brings a link up and sets its MTU.
    pub(crate) fn set_mtu_and_up(&mut self, index: u32, mtu: u32) -> Result<(), NetlinkError> {
        self.set(index, vec![LinkAttribute::Mtu(mtu)])
    }

    pub(crate) fn set_up(&mut self, index: u32) -> Result<(), NetlinkError> {
        self.set(index, Vec::new())
    }

    /// Keeps the kernel from giving a link an IPv6 link-local address: a bridge port needs none, and each would be
    /// announced to every pod. Kernels without IPv6 refuse, which is as good.
    pub(crate) fn no_link_local(&mut self, index: u32) {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes =
            vec![LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(
                In6AddrGenMode::None,
            )])])];
        let _ = self.change(RouteNetlinkMessage::SetLink(message));
    }

    /// Makes a link a port of a bridge and brings it up.
    pub(crate) fn set_master_and_up(&mut self, index: u32, bridge: u32) -> Result<(), NetlinkError> {
        self.set(index, vec![LinkAttribute::Controller(bridge)])
    }

    pub(crate) fn delete_link(&mut self, index: u32) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        self.change(RouteNetlinkMessage::DelLink(message))
    }

    fn set(&mut self, index: u32, attributes: Vec<LinkAttribute>) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        message.attributes = attributes;
        self.change(RouteNetlinkMessage::SetLink(message))
    }
}
