//! Services and EndpointSlices, with only what the table is made of: this is all that the proxy keeps of them.

use std::net::IpAddr;

use manifests::k8s_openapi::api::core::v1 as core;
use manifests::k8s_openapi::api::discovery::v1 as discovery;

use super::{Protocol, ServiceName};

/// What a service's name and address mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceKind {
    /// It has addresses of its own.
    Addressed(Vec<IpAddr>),
    /// Its name means its endpoints.
    Headless,
    /// Its name means another name.
    External(String),
}

/// A service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// What it means.
    pub kind: ServiceKind,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// `sessionAffinity: ClientIP` with its time-out in seconds.
    pub affinity_seconds: Option<u32>,
    /// `internalTrafficPolicy: Local`.
    pub internal_local: bool,
    /// `externalTrafficPolicy: Local`.
    pub external_local: bool,
    /// Another proxy serves it (`service.kubernetes.io/service-proxy-name`); DNS still knows it.
    pub foreign: bool,
}

/// A port of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name, empty for an only port.
    pub name: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its number.
    pub port: u16,
    /// The node's port that leads here too.
    pub node_port: Option<u16>,
}

/// Namespace and name of an EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SliceKey {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
}

/// An EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// The service that it belongs to.
    pub service: ServiceName,
    /// Its ports.
    pub ports: Vec<SlicePort>,
    /// Its endpoints.
    pub endpoints: Vec<Endpoint>,
}

/// A port of the endpoints of one slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlicePort {
    /// Name of the service port it serves.
    pub name: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its number.
    pub port: u16,
}

/// One endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Its address.
    pub address: IpAddr,
    /// Its host name within the service.
    pub hostname: Option<String>,
    /// Its node.
    pub node: Option<String>,
    /// The pod behind it.
    pub pod_uid: Option<String>,
    /// Takes new connections.
    pub ready: bool,
    /// Would answer, even if it is to end.
    pub serving: bool,
    /// Is about to end.
    pub terminating: bool,
}

/// Upstream's label for services that another proxy serves.
const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// The label that ties a slice to its service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

impl Service {
    /// Reads what matters; `None` for an object without a name or specification.
    pub fn read(object: &core::Service) -> Option<(ServiceName, Self)> {
        let name = ServiceName {
            namespace: object.metadata.namespace.clone()?,
            name: object.metadata.name.clone()?,
        };
        let spec = object.spec.as_ref()?;
        let kind = match spec.type_.as_deref() {
            Some("ExternalName") => ServiceKind::External(spec.external_name.clone()?),
            _ => {
                let addresses = match &spec.cluster_ips {
                    Some(addresses) if !addresses.is_empty() => addresses.clone(),
                    _ => spec.cluster_ip.clone().into_iter().collect(),
                };
                if addresses.iter().any(|address| address == "None") {
                    ServiceKind::Headless
                } else {
                    ServiceKind::Addressed(
                        addresses.iter().filter_map(|address| address.parse().ok()).collect(),
                    )
                }
            }
        };
        let ports = spec.ports.iter().flatten().filter_map(|port| {
            Some(ServicePort {
                name: port.name.clone().unwrap_or_default(),
                protocol: protocol(port.protocol.as_deref())?,
                port: u16::try_from(port.port).ok().filter(|port| *port > 0)?,
                node_port: port.node_port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0),
            })
        });
        let affinity_seconds = (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
            let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
            let seconds = config.and_then(|client_ip| client_ip.timeout_seconds);
            seconds.and_then(|seconds| u32::try_from(seconds).ok()).unwrap_or(10_800)
        });
        let service = Self {
            kind,
            ports: ports.collect(),
            affinity_seconds,
            internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
            external_local: spec.external_traffic_policy.as_deref() == Some("Local"),
            foreign: object.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(PROXY_NAME)),
        };
        Some((name, service))
    }
}

impl Slice {
    /// Reads what matters; `None` for a slice of no service.
    pub fn read(object: &discovery::EndpointSlice) -> Option<(SliceKey, Self)> {
        let namespace = object.metadata.namespace.clone()?;
        let key = SliceKey { namespace: namespace.clone(), name: object.metadata.name.clone()? };
        let name = object.metadata.labels.as_ref()?.get(SERVICE_NAME)?.clone();
        let ports = object.ports.iter().flatten().filter_map(|port| {
            Some(SlicePort {
                name: port.name.clone().unwrap_or_default(),
                protocol: protocol(port.protocol.as_deref())?,
                // Upstream: no number means every port, which services do not make.
                port: u16::try_from(port.port?).ok().filter(|port| *port > 0)?,
            })
        });
        let endpoints = object.endpoints.iter().flatten().filter_map(|endpoint| {
            let conditions = endpoint.conditions.as_ref();
            // What is not said counts as ready, serving and not terminating.
            let ready = conditions.and_then(|conditions| conditions.ready).unwrap_or(true);
            Some(Endpoint {
                // A slice may list several addresses of one endpoint; upstream uses the first too.
                address: endpoint.addresses.first()?.parse().ok()?,
                hostname: endpoint.hostname.clone().filter(|name| !name.is_empty()),
                node: endpoint.node_name.clone(),
                pod_uid: endpoint.target_ref.as_ref().and_then(|target| target.uid.clone()),
                ready,
                serving: conditions.and_then(|conditions| conditions.serving).unwrap_or(ready),
                terminating: conditions.and_then(|conditions| conditions.terminating).unwrap_or(false),
            })
        });
        let slice = Self {
            service: ServiceName { namespace, name },
            ports: ports.collect(),
            endpoints: endpoints.collect(),
        };
        Some((key, slice))
    }
}

fn protocol(name: Option<&str>) -> Option<Protocol> {
    match name {
        None | Some("TCP" | "") => Some(Protocol::Tcp),
        Some("UDP") => Some(Protocol::Udp),
        // SCTP: a proxy in user space cannot carry its associations faithfully.
        Some(_) => None,
    }
}
