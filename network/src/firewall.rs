//! Our nf_tables table, and our two rules in iptables' `FORWARD` chain.
//!
//! ```text
//! guard        before everything   from the bridge to 127.0.0.0/8: dropped
//! prerouting   translation         to an own address: host-ports
//! output       translation         to an own address: host-ports
//! host-ports                       one rule per host port
//! postrouting  translation         between pods through a host port: masquerade (else the answer takes a short cut)
//!                                  from the host's 127.0.0.1 to a pod: masquerade
//!                                  from a pod to beyond cluster and services: masquerade
//! ```
//!
//! The table is swapped whole in one transaction, host ports included, so it has no half-written state and a repair is
//! the same as a start. Translations of connections that exist live on in connection tracking.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::config::Config;
use crate::error::{Error, Warning};
use crate::host_port::{self, HOST_PORTS};
use crate::netlink::NetlinkError;
use crate::nft::{BaseChain, ChainType, Expression, Hook, NftSocket, Rule, Transaction};

const IPTABLES: (&str, &str) = ("filter", "FORWARD");

const LOOPBACK: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8);

pub(crate) fn ensure(config: &Config) -> Result<Vec<Warning>, Error> {
    let mut warnings = Vec::new();
    let mut socket = match NftSocket::open() {
        Ok(socket) => socket,
        Err(error) => return Ok(vec![Warning::NfTables(error)]),
    };
    let table = &config.nft_table;
    let ports = match host_port::read(config, &mut socket) {
        Ok(ports) => ports,
        Err(error) => return Ok(vec![Warning::NfTables(error)]),
    };
    let mut transaction = Transaction::default();
    // Adding first makes the deletion right whether it was there or not.
    transaction.add_table(table);
    transaction.delete_table(table);
    transaction.add_table(table);
    for (chain, base, rules) in chains(config) {
        transaction.add_chain(table, chain, base);
        for rule in &rules {
            transaction.append_rule(table, chain, rule);
        }
    }
    for port in &ports {
        transaction.append_rule(table, HOST_PORTS, &port.rule());
    }
    if let Err(source) = socket.commit(transaction) {
        return match source.errno() {
            Some(libc::EOPNOTSUPP | libc::EPROTONOSUPPORT | libc::ENOENT | libc::EINVAL) => {
                Ok(vec![Warning::NfTables(source)])
            }
            _ => Err(Error::Firewall { table: table.clone(), source }),
        };
    }
    if let Err(error) = ensure_forward(config, &mut socket) {
        warnings.push(Warning::ForwardChain(error));
    }
    if legacy_iptables() {
        warnings.push(Warning::LegacyIptables { bridge: config.bridge.clone() });
    }
    Ok(warnings)
}

type Chain = (&'static str, Option<BaseChain>, Vec<Rule>);

/// The table without its host ports. A chain comes before those that jump to it.
fn chains(config: &Config) -> Vec<Chain> {
    let base = |kind, hook, priority| Some(BaseChain { kind, hook, priority });
    let rule = |expressions| Rule { expressions, comment: None };
    let bridge = || config.bridge.clone();
    let from_pods = Expression::Source { is: true, range: config.pod_cidr };
    let over_bridge = |is| Expression::OutputInterface { is, name: bridge() };

    let to_host_ports = rule(vec![Expression::DestinationIsLocal, Expression::Jump(HOST_PORTS)]);
    let mut beyond = vec![
        from_pods.clone(),
        over_bridge(false),
        Expression::Destination { is: false, range: config.cluster_cidr },
    ];
    if let Some(range) = config.service_cidr {
        beyond.push(Expression::Destination { is: false, range });
    }
    beyond.push(Expression::Masquerade);

    vec![
        (
            "guard",
            // Before connection tracking, so it sees the destination that was sent, never one translated back.
            base(ChainType::Filter, Hook::Prerouting, -300),
            vec![rule(vec![
                Expression::InputInterface(bridge()),
                Expression::Destination { is: true, range: LOOPBACK },
                Expression::Drop,
            ])],
        ),
        (HOST_PORTS, None, Vec::new()),
        ("prerouting", base(ChainType::Nat, Hook::Prerouting, -100), vec![to_host_ports.clone()]),
        ("output", base(ChainType::Nat, Hook::Output, -100), vec![to_host_ports]),
        (
            "postrouting",
            base(ChainType::Nat, Hook::Postrouting, 100),
            vec![
                rule(vec![over_bridge(true), from_pods, Expression::Translated, Expression::Masquerade]),
                rule(vec![
                    over_bridge(true),
                    Expression::Source { is: true, range: LOOPBACK },
                    Expression::Masquerade,
                ]),
                rule(beyond),
            ],
        ),
    ]
}

fn comment(config: &Config) -> String {
    format!("{}: pods of {}", config.nft_table, config.bridge)
}

/// Accept in front of whatever iptables (its nf_tables flavour, which Debian and Docker use) drops when forwarding.
/// Written the way iptables writes `-i BRIDGE -j ACCEPT`, so that it goes on understanding its chain.
fn ensure_forward(config: &Config, socket: &mut NftSocket) -> Result<(), NetlinkError> {
    let (table, chain) = IPTABLES;
    if !socket.has_chain(table, chain)? {
        return Ok(());
    }
    let mark = comment(config);
    let mut transaction = Transaction::default();
    let rules = socket.rules(table, chain)?;
    // In front and complete already?
    if rules.len() >= 2 && rules[..2].iter().all(|rule| rule.comment.as_deref() == Some(&mark)) {
        return Ok(());
    }
    for rule in rules.iter().filter(|rule| rule.comment.as_deref() == Some(&mark)) {
        transaction.delete_rule(table, chain, rule.handle);
    }
    let bridge = config.bridge.clone();
    for interface in
        [Expression::InputInterface(bridge.clone()), Expression::OutputInterface { is: true, name: bridge }]
    {
        let expressions = vec![interface, Expression::Counter, Expression::Accept];
        transaction.insert_rule(table, chain, &Rule { expressions, comment: Some(mark.clone()) });
    }
    socket.commit(transaction)
}

fn legacy_iptables() -> bool {
    std::fs::read_to_string("/proc/thread-self/net/ip_tables_names")
        .is_ok_and(|names| names.lines().any(|name| name == "filter"))
}

pub(crate) fn remove(config: &Config) -> Result<(), Error> {
    let fail = |source| Error::Firewall { table: config.nft_table.clone(), source };
    // Without netfilter there is nothing to remove.
    let Ok(mut socket) = NftSocket::open() else { return Ok(()) };
    let (table, chain) = IPTABLES;
    let mark = comment(config);
    let mut transaction = Transaction::default();
    for rule in socket.rules(table, chain).unwrap_or_default() {
        if rule.comment.as_deref() == Some(&mark) {
            transaction.delete_rule(table, chain, rule.handle);
        }
    }
    socket.commit(transaction).map_err(fail)?;
    let mut transaction = Transaction::default();
    transaction.add_table(&config.nft_table);
    transaction.delete_table(&config.nft_table);
    socket.commit(transaction).map_err(fail)
}
