//! Which slices mirror an Endpoints object: no I/O.

use std::net::IpAddr;

use client::Object as _;
use manifests::hash;
use manifests::k8s_openapi::api::core::v1::{EndpointAddress, EndpointSubset, Endpoints, Service};
use manifests::k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::endpoint_slice::SERVICE_NAME;
use crate::endpoint_slice::decide::{MANAGED_BY, MAX_ENDPOINTS};
use crate::ownership::controller_reference;

const CONTROLLER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// Annotations that are about the Endpoints object alone.
const NOT_COPIED: [&str; 2] =
    ["endpoints.kubernetes.io/last-change-trigger-time", "kubectl.kubernetes.io/last-applied-configuration"];
/// Of a subset only so many are mirrored.
const MOST: usize = 1000;

/// Whether a slice is one of these.
pub(super) fn is_mirrored(slice: &EndpointSlice) -> bool {
    let label = slice.metadata.labels.as_ref().and_then(|labels| labels.get(MANAGED_BY));
    label.is_some_and(|label| label == CONTROLLER)
}

/// The slices that there should be.
pub(super) fn mirror(endpoints: Option<&Endpoints>, service: Option<&Service>) -> Vec<EndpointSlice> {
    let (Some(endpoints), Some(service)) = (endpoints, service) else { return Vec::new() };
    let has = |map: &Option<std::collections::BTreeMap<String, String>>, key: &str| {
        map.as_ref().and_then(|map| map.get(key)).cloned()
    };
    let selects =
        service.spec.as_ref().and_then(|spec| spec.selector.as_ref()).is_some_and(|map| !map.is_empty());
    let skipped = has(&endpoints.metadata.labels, SKIP).as_deref() == Some("true");
    let leader = has(&endpoints.metadata.annotations, LEADER).is_some();
    if selects || skipped || leader || endpoints.metadata.deletion_timestamp.is_some() {
        return Vec::new();
    }
    let mut slices = Vec::new();
    for (place, subset) in endpoints.subsets.iter().flatten().enumerate() {
        for (kind, v4) in [("IPv4", true), ("IPv6", false)] {
            let all = mirrored(subset, v4);
            slices.extend(all.chunks(MAX_ENDPOINTS).enumerate().map(|(part, chunk)| {
                slice(endpoints, subset, kind, chunk, &format!("{place} {kind} {part}"))
            }));
        }
    }
    slices
}

/// The addresses of one kind as endpoints.
fn mirrored(subset: &EndpointSubset, v4: bool) -> Vec<Endpoint> {
    let of = |addresses: &Option<Vec<EndpointAddress>>, ready: bool| -> Vec<Endpoint> {
        let fits =
            |address: &&EndpointAddress| address.ip.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv4() == v4);
        addresses.iter().flatten().filter(fits).map(|address| endpoint(address, ready)).collect()
    };
    let mut all = of(&subset.addresses, true);
    all.extend(of(&subset.not_ready_addresses, false));
    all.truncate(MOST);
    all
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
        hostname: address.hostname.clone().filter(|hostname| !hostname.is_empty()),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

fn slice(
    endpoints: &Endpoints,
    subset: &EndpointSubset,
    kind: &str,
    chunk: &[Endpoint],
    place: &str,
) -> EndpointSlice {
    let name = endpoints.name();
    let mut labels = endpoints.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.to_owned(), name.to_owned());
    labels.insert(MANAGED_BY.to_owned(), CONTROLLER.to_owned());
    let mut annotations = endpoints.metadata.annotations.clone().unwrap_or_default();
    annotations.retain(|key, _| !NOT_COPIED.contains(&key.as_str()));
    // A name for each place, so that a stale cache never leads to a second one of it.
    let identity = format!("{} {place}", endpoints.uid());
    let suffix = hash::safe_encode(&hash::fnv32a(identity.as_bytes()).to_string());
    let ports = subset.ports.iter().flatten().map(|port| EndpointPort {
        name: Some(port.name.clone().unwrap_or_default()),
        port: Some(port.port),
        protocol: port.protocol.clone(),
        app_protocol: port.app_protocol.clone(),
    });
    EndpointSlice {
        metadata: ObjectMeta {
            name: Some(format!("{}-{suffix}", &name[..name.len().min(52)])),
            namespace: endpoints.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: (!annotations.is_empty()).then_some(annotations),
            owner_references: Some(vec![controller_reference(endpoints)]),
            ..ObjectMeta::default()
        },
        address_type: kind.to_owned(),
        endpoints: Some(chunk.to_vec()),
        ports: Some(ports.collect()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn endpoints(labels: Value) -> Endpoints {
        serde_json::from_value(json!({
            "metadata": {"name": "db", "namespace": "default", "uid": "me", "labels": labels},
            "subsets": [
                {"addresses": [{"ip": "10.1.2.3"}, {"ip": "fd00::1"}], "notReadyAddresses": [{"ip": "10.1.2.4"}],
                 "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}]},
                {"addresses": [{"ip": "10.1.2.5"}], "ports": [{"port": 80, "protocol": "TCP"}]},
            ],
        }))
        .unwrap()
    }

    fn service(selector: Value) -> Service {
        serde_json::from_value(json!({"metadata": {"name": "db"}, "spec": {"selector": selector}})).unwrap()
    }

    #[test]
    fn each_subset_and_kind_of_address_has_its_slice() {
        let slices = mirror(Some(&endpoints(json!({"a": "b"}))), Some(&service(json!(null))));
        let addresses = |slice: &EndpointSlice| -> Vec<(String, bool)> {
            let ready = |endpoint: &Endpoint| endpoint.conditions.as_ref().unwrap().ready.unwrap();
            let all = slice.endpoints.iter().flatten();
            all.map(|endpoint| (endpoint.addresses[0].clone(), ready(endpoint))).collect()
        };
        let port = |slice: &EndpointSlice| slice.ports.as_ref().unwrap()[0].port.unwrap();
        let seen: Vec<_> =
            slices.iter().map(|slice| (slice.address_type.as_str(), addresses(slice), port(slice))).collect();
        let address = |address: &str, ready| (address.to_owned(), ready);
        assert_eq!(
            seen,
            [
                ("IPv4", vec![address("10.1.2.3", true), address("10.1.2.4", false)], 5432),
                ("IPv6", vec![address("fd00::1", true)], 5432),
                ("IPv4", vec![address("10.1.2.5", true)], 80),
            ]
        );
        let labels = slices[0].metadata.labels.as_ref().unwrap();
        assert_eq!((labels["a"].as_str(), labels[SERVICE_NAME].as_str()), ("b", "db"));
        assert!(is_mirrored(&slices[0]) && slices[0].name() != slices[2].name());
    }

    #[test]
    fn what_others_see_to_is_left_alone() {
        let plain = endpoints(json!({}));
        let selecting = service(json!({"app": "db"}));
        assert_eq!(mirror(Some(&plain), Some(&selecting)), []);
        assert_eq!(mirror(Some(&plain), None), []);
        assert_eq!(mirror(None, Some(&service(json!(null)))), []);
        assert_eq!(mirror(Some(&endpoints(json!({SKIP: "true"}))), Some(&service(json!({})))), []);
    }
}
