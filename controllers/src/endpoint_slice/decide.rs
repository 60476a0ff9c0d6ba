//! Which slices a service should have, and what to do about those that it has.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::{Cache, Object as _, ObjectKey};
use manifests::hash;
use manifests::k8s_openapi::api::core::v1::{Node, ObjectReference, Pod, Service};
use manifests::k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::SERVICE_NAME;
use crate::pod_state;
use crate::service_pods::{self, Port};

pub(crate) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const CONTROLLER: &str = "endpointslice-controller.k8s.io";
const HEADLESS: &str = "service.kubernetes.io/headless";
const ZONE: &str = "topology.kubernetes.io/zone";
/// As upstream: larger slices make every change of one endpoint expensive.
pub(crate) const MAX_ENDPOINTS: usize = 100;

/// One snapshot of everything that the decision needs.
#[derive(Debug, Default)]
pub(super) struct Observed {
    pub(super) service: Option<Arc<Service>>,
    /// None if the service has no selector.
    pub(super) pods: Option<Vec<Arc<Pod>>>,
    /// Slices of this service that are this controller's.
    pub(super) slices: Vec<Arc<EndpointSlice>>,
    /// Zones by node name.
    pub(super) zones: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Action {
    Create(EndpointSlice),
    Update(EndpointSlice),
    Delete { name: String, uid: String },
}

pub(super) fn observe(
    key: &ObjectKey,
    services: &Cache<Service>,
    pods: &Cache<Pod>,
    nodes: &Cache<Node>,
    slices: &Cache<EndpointSlice>,
) -> Observed {
    let service = services.get(key);
    let pods = service.as_ref().and_then(|service| service_pods::selected(service, pods));
    let label = |slice: &EndpointSlice, name: &str| {
        slice.metadata.labels.as_ref().and_then(|labels| labels.get(name)).cloned()
    };
    let mut slices = slices.in_namespace(&key.namespace);
    slices.retain(|slice| {
        label(slice, SERVICE_NAME).as_ref() == Some(&key.name)
            && label(slice, MANAGED_BY).as_deref() == Some(CONTROLLER)
    });
    let mut zones = BTreeMap::new();
    for pod in pods.iter().flatten() {
        let Some(name) = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()) else { continue };
        let node = nodes.get(&ObjectKey::cluster(name.clone()));
        if let Some(zone) = node.and_then(|node| node.metadata.labels.as_ref()?.get(ZONE).cloned()) {
            zones.insert(name, zone);
        }
    }
    Observed { service, pods, slices, zones }
}

pub(super) fn decide(observed: &Observed) -> Vec<Action> {
    changes(&observed.slices, &wanted(observed))
}

/// What makes the slices that are there those that are wanted, by their names.
pub(crate) fn changes(there: &[Arc<EndpointSlice>], wanted: &[EndpointSlice]) -> Vec<Action> {
    let mut actions = Vec::new();
    for slice in wanted {
        match there.iter().find(|have| have.metadata.name == slice.metadata.name) {
            None => actions.push(Action::Create(slice.clone())),
            Some(have) if same(have, slice) => {}
            Some(have) => {
                let mut slice = slice.clone();
                slice.metadata.resource_version = have.metadata.resource_version.clone();
                slice.metadata.uid = have.metadata.uid.clone();
                actions.push(Action::Update(slice));
            }
        }
    }
    for have in there {
        if !wanted.iter().any(|slice| slice.metadata.name == have.metadata.name) {
            actions.push(Action::Delete { name: have.name().to_owned(), uid: have.uid().to_owned() });
        }
    }
    actions
}

fn same(have: &EndpointSlice, want: &EndpointSlice) -> bool {
    have.metadata.labels == want.metadata.labels
        && have.metadata.owner_references == want.metadata.owner_references
        && have.ports.as_deref().unwrap_or_default() == want.ports.as_deref().unwrap_or_default()
        && have.endpoints.as_deref().unwrap_or_default() == want.endpoints.as_deref().unwrap_or_default()
}

fn wanted(observed: &Observed) -> Vec<EndpointSlice> {
    let (Some(service), Some(pods)) = (&observed.service, &observed.pods) else { return Vec::new() };
    if service.metadata.deletion_timestamp.is_some() {
        return Vec::new();
    }
    let mut groups: BTreeMap<Vec<Port>, Vec<Endpoint>> = BTreeMap::new();
    for pod in pods {
        let Some(address) = service_pods::address(pod) else { continue };
        let ports = service_pods::ports(service, pod);
        groups.entry(ports).or_default().push(endpoint(service, pod, address, &observed.zones));
    }
    if groups.is_empty() {
        // A service without endpoints has one empty slice, so that readers can tell "none" from "not yet".
        groups.insert(Vec::new(), Vec::new());
    }
    let mut slices = Vec::new();
    for (ports, mut endpoints) in groups {
        endpoints.sort_by(|a, b| a.addresses.cmp(&b.addresses));
        let mut rest = endpoints.as_slice();
        let mut place = 0;
        loop {
            let (chunk, later) = rest.split_at(rest.len().min(MAX_ENDPOINTS));
            slices.push(slice(service, &ports, chunk.to_vec(), place));
            (rest, place) = (later, place + 1);
            if rest.is_empty() {
                break;
            }
        }
    }
    slices
}

fn slice(service: &Service, ports: &[Port], endpoints: Vec<Endpoint>, place: usize) -> EndpointSlice {
    let name = service.name();
    let reserved = |key: &str| key == SERVICE_NAME || key == MANAGED_BY || key == HEADLESS;
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.retain(|key, _| !reserved(key));
    labels.insert(SERVICE_NAME.to_owned(), name.to_owned());
    labels.insert(MANAGED_BY.to_owned(), CONTROLLER.to_owned());
    if service_pods::is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    let identity = format!("{} {ports:?} {place}", service.uid());
    let suffix = hash::safe_encode(&hash::fnv32a(identity.as_bytes()).to_string());
    EndpointSlice {
        metadata: ObjectMeta {
            name: Some(format!("{}-{suffix}", &name[..name.len().min(52)])),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels),
            owner_references: Some(vec![OwnerReference {
                api_version: "v1".to_owned(),
                kind: "Service".to_owned(),
                name: name.to_owned(),
                uid: service.uid().to_owned(),
                controller: Some(true),
                block_owner_deletion: Some(true),
            }]),
            ..ObjectMeta::default()
        },
        address_type: "IPv4".to_owned(),
        endpoints: Some(endpoints),
        ports: Some(
            ports
                .iter()
                .map(|port| EndpointPort {
                    name: Some(port.name.clone()),
                    port: Some(port.port),
                    protocol: Some(port.protocol.clone()),
                    app_protocol: port.app_protocol.clone(),
                })
                .collect(),
        ),
    }
}

fn endpoint(service: &Service, pod: &Pod, address: &str, zones: &BTreeMap<String, String>) -> Endpoint {
    let publish = service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses) == Some(true);
    let serving = pod_state::is_ready(pod);
    let terminating = pod.metadata.deletion_timestamp.is_some();
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    Endpoint {
        addresses: vec![address.to_owned()],
        conditions: Some(EndpointConditions {
            ready: Some(publish || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: service_pods::hostname(service, pod),
        zone: node.as_ref().and_then(|node| zones.get(node).cloned()),
        node_name: node,
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
        ..Endpoint::default()
    }
}
