//! Which Endpoints a service should have.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::{Cache, Object as _, ObjectKey};
use manifests::k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, ObjectReference, Pod, Service,
};
use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::pod_state;
use crate::service_pods::{self, Port};

const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const CONTROLLER: &str = "endpoint-controller";
const HEADLESS: &str = "service.kubernetes.io/headless";
/// Marks Endpoints that hold not all addresses.
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const MAX_ADDRESSES: usize = 1000;

/// One snapshot of everything that the decision needs.
#[derive(Debug, Default)]
pub(super) struct Observed {
    pub(super) service: Option<Arc<Service>>,
    /// None if the service has no selector.
    pub(super) pods: Option<Vec<Arc<Pod>>>,
    pub(super) endpoints: Option<Arc<Endpoints>>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Action {
    Create(Endpoints),
    Update(Endpoints),
    Delete { uid: String },
}

pub(super) fn observe(
    key: &ObjectKey,
    services: &Cache<Service>,
    pods: &Cache<Pod>,
    endpoints: &Cache<Endpoints>,
) -> Observed {
    let service = services.get(key);
    let pods = service.as_ref().and_then(|service| service_pods::selected(service, pods));
    Observed { service, pods, endpoints: endpoints.get(key) }
}

pub(super) fn decide(observed: &Observed) -> Option<Action> {
    let have = observed.endpoints.as_deref();
    let Some(service) = &observed.service else {
        // Only what this controller made goes with the service; Endpoints made by hand stay with their maker.
        let ours = have.filter(|have| label(have, MANAGED_BY).is_some())?;
        return Some(Action::Delete { uid: ours.uid().to_owned() });
    };
    let want = wanted(service, observed.pods.as_deref()?);
    match have {
        None => Some(Action::Create(want)),
        Some(have) if same(have, &want) => None,
        Some(have) => {
            let mut update = have.clone();
            update.subsets = want.subsets;
            update.metadata.labels = want.metadata.labels;
            let annotations = update.metadata.annotations.get_or_insert_default();
            annotations.remove(OVER_CAPACITY);
            annotations.extend(want.metadata.annotations.into_iter().flatten());
            Some(Action::Update(update))
        }
    }
}

fn label<'a>(endpoints: &'a Endpoints, name: &str) -> Option<&'a String> {
    endpoints.metadata.labels.as_ref()?.get(name)
}

fn same(have: &Endpoints, want: &Endpoints) -> bool {
    let over = |endpoints: &Endpoints| {
        endpoints.metadata.annotations.as_ref().and_then(|all| all.get(OVER_CAPACITY)).cloned()
    };
    have.subsets.as_deref().unwrap_or_default() == want.subsets.as_deref().unwrap_or_default()
        && have.metadata.labels == want.metadata.labels
        && over(have) == over(want)
}

fn wanted(service: &Service, pods: &[Arc<Pod>]) -> Endpoints {
    let publish = service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses) == Some(true);
    let mut found: Vec<(&str, &Pod, bool)> = pods
        .iter()
        .filter(|pod| publish || pod.metadata.deletion_timestamp.is_none())
        .filter_map(|pod| Some((service_pods::address(pod)?, &**pod, publish || pod_state::is_ready(pod))))
        .collect();
    // When there are too many, those that serve stay.
    found.sort_by(|a, b| (!a.2, a.0).cmp(&(!b.2, b.0)));
    let truncated = found.len() > MAX_ADDRESSES;
    found.truncate(MAX_ADDRESSES);

    // Pods that are reached at the same ports form a subset.
    let mut subsets: BTreeMap<Vec<Port>, EndpointSubset> = BTreeMap::new();
    for (ip, pod, ready) in found {
        let ports = service_pods::ports(service, pod);
        if ports.is_empty() && !service_pods::is_headless(service) {
            continue;
        }
        let subset = subsets.entry(ports).or_default();
        let addresses = if ready { &mut subset.addresses } else { &mut subset.not_ready_addresses };
        addresses.get_or_insert_default().push(address(service, pod, ip));
    }
    let subsets: Vec<EndpointSubset> = subsets
        .into_iter()
        .map(|(ports, mut subset)| {
            subset.ports = (!ports.is_empty()).then(|| ports.into_iter().map(endpoint_port).collect());
            subset
        })
        .collect();

    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.insert(MANAGED_BY.to_owned(), CONTROLLER.to_owned());
    if service_pods::is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    Endpoints {
        metadata: ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: truncated
                .then(|| BTreeMap::from([(OVER_CAPACITY.to_owned(), "truncated".to_owned())])),
            ..ObjectMeta::default()
        },
        subsets: (!subsets.is_empty()).then_some(subsets),
    }
}

fn endpoint_port(port: Port) -> EndpointPort {
    EndpointPort {
        name: Some(port.name).filter(|name| !name.is_empty()),
        port: port.port,
        protocol: Some(port.protocol),
        app_protocol: port.app_protocol,
    }
}

fn address(service: &Service, pod: &Pod, ip: &str) -> EndpointAddress {
    EndpointAddress {
        ip: ip.to_owned(),
        hostname: service_pods::hostname(service, pod),
        node_name: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
    }
}
