//! Making the kernel forget UDP flows whose translation is out of date.
//!
//! Connection tracking translates a flow by its first datagram. A client that goes on sending from one port (a resolver, a
//! log shipper) would for ever be sent to a pod that has gone, or to the host although a pod has its port now.

use std::net::Ipv4Addr;

use crate::netlink::{Message, NetlinkError, Socket};

const NETLINK_NETFILTER: isize = 12;
const SUBSYSTEM: u16 = 1;
const MSG_DELETE: u16 = 2;
const FAMILY: u8 = 2;
const UDP: u8 = 17;

const NESTED: u16 = 0x8000;
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const IP_V4_SOURCE: u16 = 1;
const PROTOCOL_NUMBER: u16 = 1;
const PROTOCOL_SOURCE_PORT: u16 = 2;
const PROTOCOL_DESTINATION_PORT: u16 = 3;
const FILTER: u16 = 25;
const FILTER_ORIGINAL: u16 = 1;
const FILTER_REPLY: u16 = 2;
const BY_SOURCE: u32 = 1 << 0;
const BY_PROTOCOL: u32 = 1 << 3;
const BY_SOURCE_PORT: u32 = 1 << 4;
const BY_DESTINATION_PORT: u32 = 1 << 5;

/// UDP flows to forget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flows {
    /// Those that this address and port answers, whatever the client sent them to.
    AnsweredBy(Ipv4Addr, u16),
    /// Those that clients sent to this port.
    SentTo(u16),
}

/// Forgets them. Kernels before 5.8 cannot select flows and refuse.
pub(crate) fn forget(flows: &[Flows]) -> Result<(), NetlinkError> {
    if flows.is_empty() {
        return Ok(());
    }
    let mut socket = Socket::open(NETLINK_NETFILTER)?;
    for selected in flows {
        let payload = encode(*selected);
        match socket.request(Message { kind: SUBSYSTEM << 8 | MSG_DELETE, flags: 0, payload }) {
            Err(error) if !error.is_not_found() => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn encode(flows: Flows) -> Vec<u8> {
    let mut message = vec![FAMILY, 0, 0, 0];
    let (tuple, filter, protocol, address, by) = match flows {
        Flows::AnsweredBy(address, port) => (
            TUPLE_REPLY,
            FILTER_REPLY,
            (PROTOCOL_SOURCE_PORT, port),
            Some(address),
            BY_SOURCE | BY_PROTOCOL | BY_SOURCE_PORT,
        ),
        Flows::SentTo(port) => (
            TUPLE_ORIGINAL,
            FILTER_ORIGINAL,
            (PROTOCOL_DESTINATION_PORT, port),
            None,
            BY_PROTOCOL | BY_DESTINATION_PORT,
        ),
    };
    let mut inner = Vec::new();
    if let Some(address) = address {
        attribute(&mut inner, TUPLE_IP | NESTED, &single(IP_V4_SOURCE, &address.octets()));
    }
    let mut transport = single(PROTOCOL_NUMBER, &[UDP]);
    attribute(&mut transport, protocol.0, &protocol.1.to_be_bytes());
    attribute(&mut inner, TUPLE_PROTOCOL | NESTED, &transport);
    attribute(&mut message, tuple | NESTED, &inner);
    // The one number here that is not big-endian.
    attribute(&mut message, FILTER | NESTED, &single(filter, &by.to_ne_bytes()));
    message
}

fn single(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    attribute(&mut bytes, kind, value);
    bytes
}

fn attribute(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX); // a few dozen bytes
    bytes.extend_from_slice(&length.to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}
