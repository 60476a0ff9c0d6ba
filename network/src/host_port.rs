//! Ports of the node that lead to a pod: one rule of destination translation each.
//!
//! Translation rather than a listener in a process: the pod sees the client's own address (what an ingress controller
//! on port 80 needs it for), and it goes on working while every process of ours is being replaced.
//! The rule's comment says whose it is and what it does, and is what we read back.

use std::collections::BTreeSet;
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use ipnet::Ipv4Net;

use crate::config::Config;
use crate::conntrack::{self, Flows};
use crate::error::Error;
use crate::netlink::NetlinkError;
use crate::nft::{Expression, NftSocket, Rule, Target, Transaction};

/// Chain of the host ports.
pub(crate) const HOST_PORTS: &str = "host-ports";

/// A transport protocol that has ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// A port of the node that leads to a port of an attachment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// Protocol of both.
    pub protocol: Protocol,
    /// The node's address; `None` for every address of the node, 127.0.0.1 included.
    pub host_address: Option<Ipv4Addr>,
    /// The node's port.
    pub host_port: u16,
    /// The attachment's port.
    pub port: u16,
}

impl Protocol {
    fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

impl FromStr for Protocol {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            "sctp" => Ok(Self::Sctp),
            _ => Err(()),
        }
    }
}

/// A host port with its owner, as one rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Published {
    pub(crate) id: String,
    pub(crate) address: Ipv4Addr,
    pub(crate) port: HostPort,
}

impl Published {
    pub(crate) fn rule(&self) -> Rule {
        let port = &self.port;
        let mut expressions = Vec::new();
        if let Some(address) = port.host_address {
            expressions.push(Expression::Destination { is: true, range: Ipv4Net::from(address) });
        }
        expressions.extend([
            Expression::TransportProtocol(port.protocol.number()),
            Expression::DestinationPort(port.host_port),
            Expression::DestinationNat(Target { address: self.address, port: port.port }),
        ]);
        Rule { expressions, comment: Some(self.comment()) }
    }

    fn comment(&self) -> String {
        let port = &self.port;
        let host = port.host_address.unwrap_or(Ipv4Addr::UNSPECIFIED);
        let protocol = port.protocol;
        format!("{protocol} {host}:{} {}:{} {}", port.host_port, self.address, port.port, self.id)
    }

    fn parse(comment: &str) -> Option<Self> {
        let mut words = comment.splitn(4, ' ');
        let protocol = words.next()?.parse().ok()?;
        let (host_address, host_port) = words.next()?.split_once(':')?;
        let (address, port) = words.next()?.split_once(':')?;
        let host_address: Ipv4Addr = host_address.parse().ok()?;
        Some(Self {
            id: words.next()?.to_owned(),
            address: address.parse().ok()?,
            port: HostPort {
                protocol,
                host_address: Some(host_address).filter(|address| !address.is_unspecified()),
                host_port: host_port.parse().ok()?,
                port: port.parse().ok()?,
            },
        })
    }
}

/// What the kernel has.
pub(crate) fn read(config: &Config, socket: &mut NftSocket) -> Result<Vec<Published>, NetlinkError> {
    let rules = socket.rules(&config.nft_table, HOST_PORTS)?;
    Ok(rules.iter().filter_map(|rule| Published::parse(rule.comment.as_deref()?)).collect())
}

/// Makes exactly these ports lead to `id`, in one transaction, touching no others.
pub(crate) fn publish(
    config: &Config,
    id: &str,
    address: Option<Ipv4Addr>,
    ports: &[HostPort],
) -> Result<(), Error> {
    let wanted: Vec<Published> = match address {
        Some(address) => {
            ports.iter().map(|port| Published { id: id.to_owned(), address, port: port.clone() }).collect()
        }
        None if ports.is_empty() => Vec::new(),
        None => return Err(Error::NotAttached { id: id.to_owned() }),
    };
    replace(config, |owner| owner == id, &wanted).map(drop)
}

/// Withdraws the ports of everybody who is not in `live`; answers who that was.
pub(crate) fn reconcile(config: &Config, live: &BTreeSet<String>) -> Result<BTreeSet<String>, Error> {
    replace(config, |owner| !live.contains(owner), &[])
}

/// Replaces the rules of the owners that `selected` names by `wanted`; answers whose rules went.
fn replace(
    config: &Config,
    selected: impl Fn(&str) -> bool,
    wanted: &[Published],
) -> Result<BTreeSet<String>, Error> {
    let table = &config.nft_table;
    let mut socket = match NftSocket::open() {
        Ok(socket) => socket,
        // No netfilter, no ports to withdraw.
        Err(_) if wanted.is_empty() => return Ok(BTreeSet::new()),
        Err(source) => return Err(Error::ReadFirewall { table: table.clone(), source }),
    };
    let rules = match socket.rules(table, HOST_PORTS) {
        Ok(rules) => rules,
        Err(_) if wanted.is_empty() => return Ok(BTreeSet::new()),
        Err(source) => return Err(Error::ReadFirewall { table: table.clone(), source }),
    };
    let mut transaction = Transaction::default();
    let mut missing: Vec<&Published> = wanted.iter().collect();
    let (mut gone, mut stale) = (BTreeSet::new(), Vec::new());
    for rule in &rules {
        let Some(found) = rule.comment.as_deref().and_then(Published::parse) else { continue };
        if !selected(&found.id) {
            continue;
        }
        match missing.iter().position(|wanted| **wanted == found) {
            Some(index) => drop(missing.swap_remove(index)),
            None => {
                transaction.delete_rule(table, HOST_PORTS, rule.handle);
                if found.port.protocol == Protocol::Udp {
                    stale.push(Flows::AnsweredBy(found.address, found.port.port));
                }
                gone.insert(found.id);
            }
        }
    }
    for port in missing {
        transaction.append_rule(table, HOST_PORTS, &port.rule());
        if port.port.protocol == Protocol::Udp {
            stale.push(Flows::SentTo(port.port.host_port));
        }
    }
    socket.commit(transaction).map_err(|source| Error::Firewall { table: table.clone(), source })?;
    // Without it such flows go on as before until they pause, which is no reason to fail.
    let _ = conntrack::forget(&stale);
    Ok(gone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_comment_says_it_all() {
        for host_address in [None, Some(Ipv4Addr::new(192, 168, 0, 9))] {
            let port = HostPort { protocol: Protocol::Udp, host_address, host_port: 8053, port: 53 };
            let published =
                Published { id: "pod with spaces".into(), address: Ipv4Addr::new(10, 42, 0, 5), port };
            assert_eq!(Published::parse(&published.comment()), Some(published));
        }
        for bad in ["", "udp", "udp 1:2 3:4 x", "tcp 0.0.0.0:80 10.0.0.1:80", "icmp 0.0.0.0:1 1.1.1.1:1 x"] {
            assert_eq!(Published::parse(bad), None, "{bad}");
        }
    }
}
