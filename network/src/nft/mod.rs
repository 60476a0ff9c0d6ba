//! As much of nf_tables' netlink language as masquerading, host ports and accept rules need.
//!
//! Follows include/uapi/linux/netfilter/nf_tables.h. All numbers in attributes are big-endian. Changes are made in
//! transactions: all of them or none.

mod encode;
mod rule;
mod wire;

pub(crate) use encode::{BaseChain, ChainType, Hook, Transaction};
pub(crate) use rule::{Expression, FoundRule, Rule};

use std::net::Ipv4Addr;

use crate::netlink::{Message, NetlinkError, Socket};

const NETLINK_NETFILTER: isize = 12;
const SUBSYSTEM: u16 = 10;
/// Everything here is about IPv4 (family `ip`).
const FAMILY: u8 = 2;

/// A netfilter netlink socket in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct NftSocket(Socket);

impl NftSocket {
    pub(crate) fn open() -> Result<Self, NetlinkError> {
        Socket::open(NETLINK_NETFILTER).map(Self)
    }

    /// All changes or none.
    pub(crate) fn commit(&mut self, transaction: Transaction) -> Result<(), NetlinkError> {
        match transaction.finish() {
            Some(mut messages) => self.0.batch(&mut messages),
            None => Ok(()),
        }
    }

    /// The rules of one chain, in order; none when there is no such table or chain.
    pub(crate) fn rules(&mut self, table: &str, chain: &str) -> Result<Vec<FoundRule>, NetlinkError> {
        let request = Message {
            kind: SUBSYSTEM << 8 | wire::MSG_GETRULE,
            flags: 0,
            payload: encode::rule_request(table, chain),
        };
        match self.0.dump(request) {
            Ok(messages) => Ok(messages
                .iter()
                .filter_map(|message| FoundRule::decode(&message.payload))
                .filter(|rule| rule.table == table && rule.chain == chain)
                .collect()),
            Err(error) if error.is_not_found() => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Is there such a chain?
    pub(crate) fn has_chain(&mut self, table: &str, chain: &str) -> Result<bool, NetlinkError> {
        let request =
            Message { kind: SUBSYSTEM << 8 | wire::MSG_GETCHAIN, flags: 0, payload: encode::all_chains() };
        let chains = self.0.dump(request)?;
        Ok(chains
            .iter()
            .any(|message| rule::chain_name(&message.payload) == Some((table.into(), chain.into()))))
    }
}

/// Where address translation leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) address: Ipv4Addr,
    pub(crate) port: u16,
}
