//! From services and slices to the table.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::{
    Endpoint, Entrance, Forward, NamedEndpoint, NamedPort, Names, Place, Protocol, Service, ServiceKind,
    ServiceName, ServicePort, Slice, SliceKey, Table,
};

/// What else the table depends on.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// This node, for traffic that must not leave it.
    pub node_name: &'a str,
    /// Pods that the agent is about to stop. They count as terminating before the server says so.
    pub leaving: &'a BTreeSet<String>,
    /// Where this node reaches the API server: behind the service `kubernetes` while nobody says what is. A server that
    /// listens on loopback cannot say so itself, because that address means something else everywhere else.
    pub api_server: Option<SocketAddr>,
}

/// The whole table.
pub fn compile(
    services: &BTreeMap<ServiceName, Service>,
    slices: &BTreeMap<SliceKey, Slice>,
    context: Context<'_>,
) -> Table {
    let mut of_service: BTreeMap<&ServiceName, Vec<&Slice>> = BTreeMap::new();
    for slice in slices.values() {
        of_service.entry(&slice.service).or_default().push(slice);
    }
    let mut table = Table::default();
    for (name, service) in services {
        let slices = of_service.get(name).map_or(&[][..], Vec::as_slice);
        table.names.insert(name.clone(), names(service, slices, context));
        if let ServiceKind::Addressed(addresses) = &service.kind
            && !service.foreign
        {
            for port in &service.ports {
                table.forwards.extend(forwards(name, service, addresses, port, slices, context));
            }
        }
    }
    table
}

/// The entrances of one service port that lead somewhere.
fn forwards(
    name: &ServiceName,
    service: &Service,
    addresses: &[IpAddr],
    port: &ServicePort,
    slices: &[&Slice],
    context: Context<'_>,
) -> Vec<(Entrance, Forward)> {
    let mut found = Vec::new();
    let mut add = |place, address: IpAddr, port_number, local| {
        let backends = match context.api_server {
            Some(server) if slices.is_empty() && is_kubernetes(name) && port.protocol == Protocol::Tcp => {
                vec![server]
            }
            _ => backends(port, slices, address.is_ipv4(), local, context),
        };
        if !backends.is_empty() {
            let entrance = Entrance { place, protocol: port.protocol, address, port: port_number };
            let forward =
                Forward { service: name.clone(), backends, affinity_seconds: service.affinity_seconds };
            found.push((entrance, forward));
        }
    };
    for address in addresses {
        add(Place::Services, *address, port.port, service.internal_local);
    }
    if let Some(node_port) = port.node_port {
        add(Place::Node, IpAddr::V4(Ipv4Addr::UNSPECIFIED), node_port, service.external_local);
    }
    found
}

/// The service that stands for the API server.
fn is_kubernetes(name: &ServiceName) -> bool {
    name.namespace == "default" && name.name == "kubernetes"
}

/// The endpoints that take new connections: the ready ones, or, when there are none, those that still serve while they
/// terminate (upstream does the same: better the last one than nobody).
fn backends(
    port: &ServicePort,
    slices: &[&Slice],
    ipv4: bool,
    local: bool,
    context: Context<'_>,
) -> Vec<SocketAddr> {
    let (mut ready, mut serving) = (BTreeSet::new(), BTreeSet::new());
    for slice in slices {
        let matching = |slice_port: &&super::SlicePort| {
            slice_port.name == port.name && slice_port.protocol == port.protocol
        };
        let Some(target) = slice.ports.iter().find(matching) else { continue };
        for endpoint in &slice.endpoints {
            if endpoint.address.is_ipv4() != ipv4
                || (local && endpoint.node.as_deref() != Some(context.node_name))
            {
                continue;
            }
            let address = SocketAddr::new(endpoint.address, target.port);
            match state(endpoint, context) {
                State::Ready => drop(ready.insert(address)),
                State::Leaving => drop(serving.insert(address)),
                State::Out => {}
            }
        }
    }
    let chosen = if ready.is_empty() { serving } else { ready };
    chosen.into_iter().collect()
}

#[derive(PartialEq)]
enum State {
    Ready,
    /// Terminating, but still answers.
    Leaving,
    Out,
}

fn state(endpoint: &Endpoint, context: Context<'_>) -> State {
    let leaving = endpoint.pod_uid.as_ref().is_some_and(|uid| context.leaving.contains(uid));
    match (endpoint.ready, endpoint.serving, endpoint.terminating || leaving) {
        // publishNotReadyAddresses makes terminating endpoints ready too; leaving ones are out of it.
        (true, _, _) if !leaving => State::Ready,
        (_, true, true) => State::Leaving,
        _ => State::Out,
    }
}

fn names(service: &Service, slices: &[&Slice], context: Context<'_>) -> Names {
    match &service.kind {
        ServiceKind::External(name) => Names::External(name.clone()),
        ServiceKind::Addressed(addresses) => {
            let ports = service.ports.iter().map(|port| NamedPort {
                name: port.name.clone(),
                protocol: port.protocol,
                port: port.port,
            });
            Names::Addresses { addresses: addresses.clone(), ports: ports.collect() }
        }
        ServiceKind::Headless => {
            let mut endpoints = BTreeSet::new();
            for slice in slices {
                let ports: Vec<_> = slice
                    .ports
                    .iter()
                    .map(|port| NamedPort {
                        name: port.name.clone(),
                        protocol: port.protocol,
                        port: port.port,
                    })
                    .collect();
                for endpoint in &slice.endpoints {
                    if state(endpoint, context) == State::Ready {
                        endpoints.insert(NamedEndpoint {
                            name: endpoint.hostname.clone().unwrap_or_else(|| dashed(endpoint.address)),
                            address: endpoint.address,
                            ports: ports.clone(),
                        });
                    }
                }
            }
            Names::Headless(endpoints.into_iter().collect())
        }
    }
}

/// An address as a label: `10-42-0-7`.
fn dashed(address: IpAddr) -> String {
    address.to_string().replace(['.', ':'], "-")
}

#[cfg(test)]
#[path = "compile_tests.rs"]
mod tests;
