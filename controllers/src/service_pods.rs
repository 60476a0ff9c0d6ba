//! Which pods back a service, and at which ports: the part that EndpointSlices and Endpoints have in common.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::{Cache, ObjectKey, WorkQueue};
use manifests::k8s_openapi::api::core::v1::{Pod, Service, ServicePort};
use manifests::k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::pod_state;

/// A port at which pods of a service are reached.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Port {
    /// The service port's name; empty for the only port of a service.
    pub(crate) name: String,
    pub(crate) port: i32,
    pub(crate) protocol: String,
    pub(crate) app_protocol: Option<String>,
}

/// Puts the keys of services in the queue whenever something changes that their endpoints are made from.
pub(crate) fn enqueue_on_change(services: &Cache<Service>, pods: &Cache<Pod>, queue: &WorkQueue<ObjectKey>) {
    let to = queue.clone();
    services.on_change(move |change| to.add(change.key.clone()));
    let (to, services) = (queue.clone(), services.clone());
    pods.on_change(move |change| {
        // A pod without an address is no endpoint, before and after.
        if change.states().all(|pod| address(pod).is_none()) {
            return;
        }
        for service in services.in_namespace(&change.key.namespace) {
            if change.states().any(|pod| selects(&service, pod)) {
                to.add(client::Object::key(&*service));
            }
        }
    });
}

/// The pods that a service selects; None for a service without a selector, whose endpoints are somebody else's.
pub(crate) fn selected(service: &Service, pods: &Cache<Pod>) -> Option<Vec<Arc<Pod>>> {
    if selector(service)?.is_empty() {
        return None;
    }
    let mut pods = pods.in_namespace(service.metadata.namespace.as_deref().unwrap_or_default());
    pods.retain(|pod| selects(service, pod));
    Some(pods)
}

fn selector(service: &Service) -> Option<&BTreeMap<String, String>> {
    service.spec.as_ref()?.selector.as_ref()
}

fn selects(service: &Service, pod: &Pod) -> bool {
    let none = BTreeMap::new();
    let labels = pod.metadata.labels.as_ref().unwrap_or(&none);
    selector(service).is_some_and(|selector| {
        !selector.is_empty() && selector.iter().all(|(key, value)| labels.get(key) == Some(value))
    })
}

/// The address at which a pod could be an endpoint: it has one, and has not ended.
pub(crate) fn address(pod: &Pod) -> Option<&str> {
    pod.status.as_ref()?.pod_ip.as_deref().filter(|ip| !ip.is_empty() && !pod_state::has_ended(pod))
}

/// The service's ports as this pod has them. A named target port that the pod does not have is left out.
pub(crate) fn ports(service: &Service, pod: &Pod) -> Vec<Port> {
    let declared = service.spec.as_ref().and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
    declared
        .iter()
        .filter_map(|port| {
            let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
            Some(Port {
                name: port.name.clone().unwrap_or_default(),
                port: target_port(port, &protocol, pod)?,
                protocol,
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect()
}

fn target_port(port: &ServicePort, protocol: &str, pod: &Pod) -> Option<i32> {
    match &port.target_port {
        None | Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => {
            let spec = pod.spec.as_ref()?;
            let sidecars = spec
                .init_containers
                .iter()
                .flatten()
                .filter(|init| init.restart_policy.as_deref() == Some("Always"));
            let ports =
                spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
            ports
                .filter(|port| {
                    port.name.as_deref() == Some(name)
                        && port.protocol.as_deref().unwrap_or("TCP") == protocol
                })
                .map(|port| port.container_port)
                .next()
        }
    }
}

/// Whether the service has no address of its own.
pub(crate) fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some("None")
}

/// The pod's name below a headless service that the pod names as its subdomain.
pub(crate) fn hostname(service: &Service, pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let hostname = spec.hostname.clone().filter(|hostname| !hostname.is_empty())?;
    (spec.subdomain.is_some() && spec.subdomain == service.metadata.name).then_some(hostname)
}
