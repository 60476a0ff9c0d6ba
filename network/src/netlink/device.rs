//! Devices that go from one network namespace to another, and their addresses, which stay behind.

use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{LinkAttribute, LinkMessage};

use super::{NetlinkError, RouteSocket};

/// An address that a device had in another namespace.
#[derive(Debug, Clone)]
pub(crate) struct Kept(AddressMessage);

impl RouteSocket {
    /// The addresses of a link that are good everywhere and for ever, of both families.
    pub(crate) fn lasting_addresses(&mut self, link: u32) -> Result<Vec<Kept>, NetlinkError> {
        let messages = self.dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
        let lasting = messages.into_iter().filter_map(|message| match message {
            RouteNetlinkMessage::NewAddress(message)
                if message.header.index == link
                    && message.header.scope == AddressScope::Universe
                    && message.header.flags.contains(AddressHeaderFlags::Permanent) =>
            {
                Some(Kept(message))
            }
            _ => None,
        });
        Ok(lasting.collect())
    }

    /// Gives a link an address that it had.
    pub(crate) fn restore_address(&mut self, link: u32, address: &Kept) -> Result<(), NetlinkError> {
        let mut message = AddressMessage::default();
        message.header.family = address.0.header.family;
        message.header.prefix_len = address.0.header.prefix_len;
        message.header.index = link;
        let what = |attribute: &&AddressAttribute| {
            matches!(
                attribute,
                AddressAttribute::Address(_) | AddressAttribute::Local(_) | AddressAttribute::Broadcast(_)
            )
        };
        message.attributes = address.0.attributes.iter().filter(what).cloned().collect();
        match self.create(RouteNetlinkMessage::NewAddress(message)) {
            Err(error) if error.is_exists() => Ok(()),
            result => result,
        }
    }

    /// Moves a link to another namespace, under another name.
    pub(crate) fn move_link(
        &mut self,
        index: u32,
        netns: BorrowedFd<'_>,
        name: &str,
    ) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes =
            vec![LinkAttribute::NetNsFd(netns.as_raw_fd()), LinkAttribute::IfName(name.to_owned())];
        self.change(RouteNetlinkMessage::SetLink(message))
    }
}
