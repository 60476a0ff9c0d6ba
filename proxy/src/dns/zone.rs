//! What the cluster's zone says: a pure function of the table.
//!
//! Follows the Kubernetes DNS-Based Service Discovery specification, version 1.1.0. Names that do not exist
//! and names that exist without such a record are told apart (NXDOMAIN and NODATA): a resolver that walks a
//! search path goes on after the former only.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use ipnet::{IpNet, Ipv4Net};

use crate::table::{NamedEndpoint, NamedPort, Names, ServiceName, Table};

/// Seconds that an address may be remembered: a service's own hardly ever changes, an endpoint's does.
const TTL_SERVICE: u32 = 30;
const TTL_ENDPOINT: u32 = 5;

/// Seconds that "there is no such thing" may be remembered: what is being deployed appears soon.
const TTL_NEGATIVE: u32 = 5;

/// Version of the specification, at `dns-version.<zone>`.
const VERSION: &str = "1.1.0";

/// Aliases followed within the zone.
const ALIASES: usize = 8;

/// What a zone is made for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ZoneConfig {
    /// `cluster.local`.
    pub(crate) domain: String,
    /// The DNS server's own address.
    pub(crate) server: Ipv4Addr,
    /// Reverse lookups in these ranges are ours to answer.
    pub(crate) ranges: Vec<Ipv4Net>,
}

/// The zone at one moment.
#[derive(Debug)]
pub(crate) struct Zone {
    config: ZoneConfig,
    apex: Name,
    /// Labels of the apex in lower case, from the left.
    labels: Vec<String>,
    names: BTreeMap<ServiceName, Names>,
    reverse: HashMap<IpAddr, Vec<String>>,
}

/// What there is to say about a question.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// These records; none means that the name has no such record.
    Records {
        /// The answer.
        answers: Vec<Record>,
        /// What the asker will want to know next.
        additionals: Vec<Record>,
    },
    /// There is no such name.
    NoSuchName,
    /// The name is an alias for one that others know: answer these, then what they say about the target.
    Alias {
        /// The aliases so far.
        answers: Vec<Record>,
        /// What to ask others about.
        target: Name,
    },
    /// Not our zone.
    Elsewhere,
}

/// What a name has.
#[derive(Debug, Default)]
struct Node {
    ttl: u32,
    addresses: Vec<IpAddr>,
    services: Vec<ServiceRecord>,
    alias: Option<String>,
    other: Vec<RData>,
}

#[derive(Debug)]
struct ServiceRecord {
    port: u16,
    /// Relative to the zone.
    target: String,
    addresses: Vec<IpAddr>,
}

/// The zone cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("cluster domain {domain:?} is no domain name")]
pub struct BadDomain {
    domain: String,
}

impl Zone {
    /// The zone that the table says.
    pub(crate) fn new(config: ZoneConfig, table: &Table) -> Result<Self, BadDomain> {
        let plain = config.domain.trim_end_matches('.').to_ascii_lowercase();
        let apex = match Name::from_ascii(format!("{plain}.")) {
            Ok(apex) if !plain.is_empty() => apex,
            _ => return Err(BadDomain { domain: config.domain }),
        };
        let labels = plain.split('.').map(str::to_owned).collect();
        let mut reverse: HashMap<IpAddr, Vec<String>> = HashMap::new();
        for (service, names) in &table.names {
            let base = format!("{}.{}.svc", service.name, service.namespace);
            match names {
                Names::Addresses { addresses, .. } => {
                    for address in addresses {
                        reverse.entry(*address).or_default().push(base.clone());
                    }
                }
                Names::Headless(endpoints) => {
                    for endpoint in endpoints {
                        let name = format!("{}.{base}", endpoint.name);
                        reverse.entry(endpoint.address).or_default().push(name);
                    }
                }
                Names::External(_) => {}
            }
        }
        Ok(Self { config, apex, labels, names: table.names.clone(), reverse })
    }

    /// The record that goes with "no".
    pub(crate) fn authority(&self) -> Record {
        let name = |prefix: &str| self.absolute(prefix).unwrap_or_else(|| self.apex.clone());
        let soa =
            SOA::new(name("ns.dns"), name("hostmaster"), self.serial(), 7200, 1800, 86_400, TTL_NEGATIVE);
        Record::from_rdata(self.apex.clone(), TTL_NEGATIVE, RData::SOA(soa))
    }

    /// Nobody transfers this zone, so its serial number need not grow with each change.
    fn serial(&self) -> u32 {
        1
    }

    /// What there is to say about `name`. `turn` rotates the answers, so that clients that take the first spread.
    pub(crate) fn ask(&self, name: &Name, kind: RecordType, turn: usize) -> Verdict {
        let Some(labels) = lower_labels(name) else {
            return if self.is_ours(name) { Verdict::NoSuchName } else { Verdict::Elsewhere };
        };
        if let Some(relative) = self.relative(&labels) {
            return self.ask_inside(name, relative, kind, turn);
        }
        if labels.last().is_some_and(|last| last == "arpa") {
            return self.ask_reverse(name, &labels, kind);
        }
        Verdict::Elsewhere
    }

    fn ask_inside(&self, name: &Name, relative: &[String], kind: RecordType, turn: usize) -> Verdict {
        let mut answers = Vec::new();
        let mut owner = name.clone();
        let mut relative = relative.to_vec();
        for _ in 0..ALIASES {
            let Some(node) = self.find(&relative) else {
                // An alias that leads nowhere exists, but its target does not.
                return Verdict::NoSuchName;
            };
            let Some(alias) = &node.alias else {
                let (found, additionals) = self.records(&owner, &node, kind, turn);
                answers.extend(found);
                return Verdict::Records { answers, additionals };
            };
            let Ok(target) = Name::from_ascii(format!("{}.", alias.trim_end_matches('.'))) else {
                return Verdict::NoSuchName;
            };
            answers.push(Record::from_rdata(owner, node.ttl, RData::CNAME(CNAME(target.clone()))));
            if kind == RecordType::CNAME {
                return Verdict::Records { answers, additionals: Vec::new() };
            }
            let labels = lower_labels(&target).unwrap_or_default();
            match self.relative(&labels) {
                Some(inside) => {
                    relative = inside.to_vec();
                    owner = target;
                }
                None => return Verdict::Alias { answers, target },
            }
        }
        Verdict::NoSuchName
    }

    /// The labels before the apex, if the name is in the zone.
    fn relative<'a>(&self, labels: &'a [String]) -> Option<&'a [String]> {
        let split = labels.len().checked_sub(self.labels.len())?;
        (labels[split..] == self.labels).then(|| &labels[..split])
    }

    fn is_ours(&self, name: &Name) -> bool {
        self.apex.zone_of(name)
    }

    fn absolute(&self, relative: &str) -> Option<Name> {
        Name::from_ascii(format!("{relative}.{}", self.apex.to_ascii())).ok()
    }

    /// The node at these labels; `None` when there is no such name.
    fn find(&self, relative: &[String]) -> Option<Node> {
        let empty = || Some(Node::default());
        let labels: Vec<&str> = relative.iter().map(String::as_str).collect();
        match labels.as_slice() {
            [] => Some(self.apex_node()),
            ["svc" | "pod" | "dns"] => empty(),
            ["dns-version"] => Some(Node {
                ttl: TTL_SERVICE,
                other: vec![RData::TXT(TXT::new(vec![VERSION.to_owned()]))],
                ..Node::default()
            }),
            ["ns", "dns"] => {
                Some(Node { ttl: TTL_SERVICE, addresses: vec![self.config.server.into()], ..Node::default() })
            }
            [namespace, "svc" | "pod"] => self.has_namespace(namespace).then(Node::default),
            [name, namespace, "svc"] => self.service(namespace, name),
            [name, namespace, "pod"] => pod(name).filter(|_| self.has_namespace(namespace)),
            [endpoint, name, namespace, "svc"] => self.endpoint(namespace, name, endpoint),
            [port, protocol, name, namespace, "svc"] => self.service_port(namespace, name, protocol, port),
            _ => None,
        }
    }

    fn apex_node(&self) -> Node {
        let mut other = vec![self.authority().data];
        other.extend(self.absolute("ns.dns").map(|server| RData::NS(NS(server))));
        Node { ttl: TTL_SERVICE, other, ..Node::default() }
    }

    /// A namespace is known by its services.
    fn has_namespace(&self, namespace: &str) -> bool {
        let first = ServiceName { namespace: namespace.to_owned(), name: String::new() };
        self.names.range(first..).next().is_some_and(|(service, _)| service.namespace == namespace)
    }

    fn names(&self, namespace: &str, name: &str) -> Option<&Names> {
        self.names.get(&ServiceName { namespace: namespace.to_owned(), name: name.to_owned() })
    }

    fn service(&self, namespace: &str, name: &str) -> Option<Node> {
        Some(match self.names(namespace, name)? {
            Names::External(target) => {
                Node { ttl: TTL_SERVICE, alias: Some(target.clone()), ..Node::default() }
            }
            Names::Addresses { addresses, ports } => Node {
                ttl: TTL_SERVICE,
                addresses: addresses.clone(),
                services: ports.iter().map(|port| cluster_port(namespace, name, port, addresses)).collect(),
                ..Node::default()
            },
            // Without endpoints the name exists all the same: NODATA, so that a resolver does not go on searching.
            Names::Headless(endpoints) => Node {
                ttl: TTL_ENDPOINT,
                addresses: distinct(endpoints.iter().map(|endpoint| endpoint.address)),
                services: endpoints
                    .iter()
                    .flat_map(|endpoint| {
                        endpoint.ports.iter().map(|port| endpoint_port(namespace, name, endpoint, port))
                    })
                    .collect(),
                ..Node::default()
            },
        })
    }

    /// `<endpoint>.<service>` of a headless service, or `_<protocol>.<service>`, which exists for the sake of what is
    /// below it.
    fn endpoint(&self, namespace: &str, name: &str, label: &str) -> Option<Node> {
        let names = self.names(namespace, name)?;
        if let Some(protocol) = label.strip_prefix('_') {
            let any = |ports: &[NamedPort]| ports.iter().any(|port| port.protocol.to_string() == protocol);
            let exists = match names {
                Names::Addresses { ports, .. } => any(ports),
                Names::Headless(endpoints) => endpoints.iter().any(|endpoint| any(&endpoint.ports)),
                Names::External(_) => false,
            };
            return exists.then(Node::default);
        }
        let Names::Headless(endpoints) = names else { return None };
        let found: Vec<_> =
            endpoints.iter().filter(|endpoint| endpoint.name.eq_ignore_ascii_case(label)).collect();
        let addresses = distinct(found.iter().map(|endpoint| endpoint.address));
        (!found.is_empty()).then_some(Node { ttl: TTL_ENDPOINT, addresses, ..Node::default() })
    }

    fn service_port(&self, namespace: &str, name: &str, protocol: &str, port: &str) -> Option<Node> {
        let (protocol, port) = (protocol.strip_prefix('_')?, port.strip_prefix('_')?);
        let wanted = |candidate: &&NamedPort| {
            candidate.name.eq_ignore_ascii_case(port) && candidate.protocol.to_string() == protocol
        };
        let (ttl, services): (_, Vec<_>) = match self.names(namespace, name)? {
            Names::Addresses { addresses, ports } => {
                let found = ports.iter().filter(wanted);
                (TTL_SERVICE, found.map(|port| cluster_port(namespace, name, port, addresses)).collect())
            }
            Names::Headless(endpoints) => {
                let found = endpoints.iter().flat_map(|endpoint| {
                    let ports = endpoint.ports.iter().filter(wanted);
                    ports.map(move |port| endpoint_port(namespace, name, endpoint, port))
                });
                (TTL_ENDPOINT, found.collect())
            }
            Names::External(_) => return None,
        };
        (!services.is_empty()).then_some(Node { ttl, services, ..Node::default() })
    }

    fn records(
        &self,
        owner: &Name,
        node: &Node,
        kind: RecordType,
        turn: usize,
    ) -> (Vec<Record>, Vec<Record>) {
        let any = kind == RecordType::ANY;
        let mut answers: Vec<_> = node
            .addresses
            .iter()
            .map(|address| address_record(owner, node.ttl, *address))
            .chain(node.other.iter().map(|data| Record::from_rdata(owner.clone(), node.ttl, data.clone())))
            .filter(|record| any || record.record_type() == kind)
            .collect();
        let mut additionals = Vec::new();
        if any || kind == RecordType::SRV {
            let count = u16::try_from(node.services.len()).unwrap_or(u16::MAX).max(1);
            for service in &node.services {
                let Some(target) = self.absolute(&service.target) else { continue };
                // The specification leaves the weight free; equal shares of 100, as CoreDNS gives.
                let srv = SRV::new(0, (100 / count).max(1), service.port, target.clone());
                answers.push(Record::from_rdata(owner.clone(), node.ttl, RData::SRV(srv)));
                for address in &service.addresses {
                    let record = address_record(&target, node.ttl, *address);
                    if !additionals.contains(&record) && additionals.len() < 64 {
                        additionals.push(record);
                    }
                }
            }
        }
        if !answers.is_empty() {
            let middle = turn % answers.len();
            answers.rotate_left(middle);
        }
        (answers, additionals)
    }

    fn ask_reverse(&self, name: &Name, labels: &[String], kind: RecordType) -> Verdict {
        let Some(address) = reverse_address(labels) else { return Verdict::Elsewhere };
        match self.reverse.get(&address) {
            Some(names) if kind == RecordType::PTR || kind == RecordType::ANY => {
                let targets = names.iter().filter_map(|relative| self.absolute(relative));
                let answers = targets
                    .map(|target| Record::from_rdata(name.clone(), TTL_ENDPOINT, RData::PTR(PTR(target))));
                Verdict::Records { answers: answers.collect(), additionals: Vec::new() }
            }
            Some(_) => Verdict::Records { answers: Vec::new(), additionals: Vec::new() },
            None => {
                let ours = self.config.ranges.iter().any(|range| IpNet::V4(*range).contains(&address));
                if ours { Verdict::NoSuchName } else { Verdict::Elsewhere }
            }
        }
    }
}

fn cluster_port(namespace: &str, name: &str, port: &NamedPort, addresses: &[IpAddr]) -> ServiceRecord {
    ServiceRecord {
        port: port.port,
        target: format!("{name}.{namespace}.svc"),
        addresses: addresses.to_vec(),
    }
}

fn endpoint_port(namespace: &str, name: &str, endpoint: &NamedEndpoint, port: &NamedPort) -> ServiceRecord {
    ServiceRecord {
        port: port.port,
        target: format!("{}.{name}.{namespace}.svc", endpoint.name),
        addresses: vec![endpoint.address],
    }
}

/// `10-42-0-7.<namespace>.pod`: says what its name says.
fn pod(label: &str) -> Option<Node> {
    let address = match label.replace('-', ".").parse::<Ipv4Addr>() {
        Ok(address) => IpAddr::V4(address),
        Err(_) => IpAddr::V6(label.replace('-', ":").parse::<Ipv6Addr>().ok()?),
    };
    Some(Node { ttl: TTL_ENDPOINT, addresses: vec![address], ..Node::default() })
}

fn address_record(owner: &Name, ttl: u32, address: IpAddr) -> Record {
    let data = match address {
        IpAddr::V4(address) => RData::A(A(address)),
        IpAddr::V6(address) => RData::AAAA(AAAA(address)),
    };
    Record::from_rdata(owner.clone(), ttl, data)
}

fn distinct(addresses: impl Iterator<Item = IpAddr>) -> Vec<IpAddr> {
    let mut addresses: Vec<_> = addresses.collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

/// Names that Kubernetes makes are ASCII; others are nobody's.
fn lower_labels(name: &Name) -> Option<Vec<String>> {
    name.iter()
        .map(|label| {
            std::str::from_utf8(label)
                .ok()
                .filter(|label| label.is_ascii() && !label.contains('.'))
                .map(str::to_ascii_lowercase)
        })
        .collect()
}

/// The address in a full reverse name.
fn reverse_address(labels: &[String]) -> Option<IpAddr> {
    let (last, zone) = (labels.get(labels.len().checked_sub(1)?)?, labels.get(labels.len().checked_sub(2)?)?);
    let digits = &labels[..labels.len() - 2];
    match (zone.as_str(), last.as_str(), digits.len()) {
        ("in-addr", "arpa", 4) => {
            let mut octets = [0; 4];
            for (octet, label) in octets.iter_mut().rev().zip(digits) {
                *octet = label.parse().ok()?;
            }
            Some(Ipv4Addr::from(octets).into())
        }
        ("ip6", "arpa", 32) => {
            let mut bits: u128 = 0;
            for label in digits.iter().rev() {
                let digit = (label.len() == 1).then(|| u128::from_str_radix(label, 16).ok()).flatten()?;
                bits = bits << 4 | digit;
            }
            Some(Ipv6Addr::from(bits).into())
        }
        _ => None,
    }
}

#[cfg(test)]
#[path = "zone_tests.rs"]
mod tests;
