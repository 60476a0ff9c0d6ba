//! Endpoints and EndpointSlices.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, Endpoints};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointHints, EndpointSlice};

use super::{immutable, ip, meta, named, object_meta, object_meta_update, one_of, port, text};
use crate::field::{ErrorList, FieldError, Path};
use crate::{encode, names};

const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
const MAX_ENDPOINTS: usize = 1000;
const MAX_ADDRESSES: usize = 100;
const MAX_PORTS: usize = 20_000;
const MAX_HINTS: usize = 8;
const MAX_TOPOLOGY: usize = 16;

/// New Endpoints.
pub fn endpoints(endpoints: &Endpoints) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta(&endpoints.metadata, true, names::dns1123_subdomain, &mut errors);
    subsets(endpoints, &mut errors);
    errors
}

/// An update of Endpoints. Subsets that are as they were are taken, whatever rules there were then.
pub fn endpoints_update(new: &Endpoints, old: &Endpoints) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta_update(&new.metadata, &old.metadata, &mut errors);
    object_meta(&new.metadata, true, names::dns1123_subdomain, &mut errors);
    if !encode::same(&new.subsets, &old.subsets) {
        subsets(new, &mut errors);
    }
    errors
}

fn subsets(endpoints: &Endpoints, errors: &mut ErrorList) {
    for (index, subset) in endpoints.subsets.iter().flatten().enumerate() {
        let path = Path::new("subsets").index(index);
        let ready = subset.addresses.as_deref().unwrap_or_default();
        let not_ready = subset.not_ready_addresses.as_deref().unwrap_or_default();
        if ready.is_empty() && not_ready.is_empty() {
            let detail = "must specify `addresses` or `notReadyAddresses`";
            errors.push(FieldError::required(&path, detail));
        }
        for (field, list) in [("addresses", ready), ("notReadyAddresses", not_ready)] {
            for (index, address) in list.iter().enumerate() {
                endpoint_address(address, &path.child(field).index(index), errors);
            }
        }
        let ports = subset.ports.as_deref().unwrap_or_default();
        for (index, port) in ports.iter().enumerate() {
            endpoint_port(port, ports.len() > 1, &path.child("ports").index(index), errors);
        }
    }
}

fn endpoint_address(address: &EndpointAddress, path: &Path, errors: &mut ErrorList) {
    ip::ip(&address.ip, &path.child("ip"), errors);
    let hostname = text(&address.hostname);
    if !hostname.is_empty() {
        named(hostname, names::dns1123_label, &path.child("hostname"), errors);
    }
    if let Some(node) = &address.node_name {
        named(node, names::dns1123_subdomain, &path.child("nodeName"), errors);
    }
    ip::non_special(&address.ip, &path.child("ip"), errors);
}

fn endpoint_port(item: &EndpointPort, needs_name: bool, path: &Path, errors: &mut ErrorList) {
    match text(&item.name) {
        "" if needs_name => errors.push(FieldError::required(&path.child("name"), "")),
        "" => {}
        name => named(name, names::dns1123_label, &path.child("name"), errors),
    }
    port(item.port, &path.child("port"), errors);
    one_of(text(&item.protocol), &PROTOCOLS, &path.child("protocol"), errors);
    if let Some(protocol) = &item.app_protocol {
        named(protocol, names::qualified_name, &path.child("appProtocol"), errors);
    }
}

/// A new EndpointSlice.
pub fn endpoint_slice(slice: &EndpointSlice) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta(&slice.metadata, true, names::dns1123_subdomain, &mut errors);
    slice_content(slice, &mut errors);
    errors
}

/// An update of an EndpointSlice.
pub fn endpoint_slice_update(new: &EndpointSlice, old: &EndpointSlice) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta_update(&new.metadata, &old.metadata, &mut errors);
    slice_content(new, &mut errors);
    immutable(new.address_type.as_str(), old.address_type.as_str(), &Path::new("addressType"), &mut errors);
    errors
}

fn slice_content(slice: &EndpointSlice, errors: &mut ErrorList) {
    let types = ["FQDN", "IPv4", "IPv6"];
    one_of(&slice.address_type, &types, &Path::new("addressType"), errors);
    let path = Path::new("endpoints");
    let endpoints = slice.endpoints.as_deref().unwrap_or_default();
    if endpoints.len() > MAX_ENDPOINTS {
        errors.push(FieldError::too_many(&path, endpoints.len(), MAX_ENDPOINTS));
    } else {
        for (index, endpoint) in endpoints.iter().enumerate() {
            slice_endpoint(endpoint, &slice.address_type, &path.index(index), errors);
        }
    }
    let path = Path::new("ports");
    let ports = slice.ports.as_deref().unwrap_or_default();
    if ports.len() > MAX_PORTS {
        errors.push(FieldError::too_many(&path, ports.len(), MAX_PORTS));
        return;
    }
    let mut seen = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let path = path.index(index);
        let name = text(&port.name);
        if !name.is_empty() {
            named(name, names::dns1123_label, &path.child("name"), errors);
        }
        if !seen.insert(name) {
            errors.push(FieldError::duplicate(&path.child("name"), name));
        }
        one_of(text(&port.protocol), &PROTOCOLS, &path.child("protocol"), errors);
        if let Some(protocol) = &port.app_protocol {
            named(protocol, names::qualified_name, &path.child("appProtocol"), errors);
        }
    }
}

fn slice_endpoint(endpoint: &Endpoint, address_type: &str, path: &Path, errors: &mut ErrorList) {
    let addresses_path = path.child("addresses");
    let count = endpoint.addresses.len();
    if count == 0 {
        errors.push(FieldError::required(&addresses_path, "must contain at least 1 address"));
    } else if count > MAX_ADDRESSES {
        errors.push(FieldError::too_many(&addresses_path, count, MAX_ADDRESSES));
    }
    for (index, address) in endpoint.addresses.iter().enumerate() {
        slice_address(address, address_type, &addresses_path.index(index), errors);
    }
    if let Some(node) = &endpoint.node_name {
        named(node, names::dns1123_subdomain, &path.child("nodeName"), errors);
    }
    let topology_path = path.child("deprecatedTopology");
    let topology = endpoint.deprecated_topology.as_ref().map_or(0, |topology| topology.len());
    if topology > MAX_TOPOLOGY {
        errors.push(FieldError::too_many(&topology_path, topology, MAX_TOPOLOGY));
    }
    meta::labels(&endpoint.deprecated_topology, &topology_path, errors);
    if let Some(hostname) = &endpoint.hostname {
        named(hostname, names::dns1123_label, &path.child("hostname"), errors);
    }
    if let Some(hints) = &endpoint.hints {
        slice_hints(hints, &path.child("hints"), errors);
    }
}

fn slice_address(address: &str, address_type: &str, path: &Path, errors: &mut ErrorList) {
    if address_type == "FQDN" {
        domain_name(address, path, errors);
        return;
    }
    let (is_family, detail): (fn(&IpAddr) -> bool, &str) = match address_type {
        "IPv4" => (IpAddr::is_ipv4, "must be an IPv4 address"),
        "IPv6" => (IpAddr::is_ipv6, "must be an IPv6 address"),
        _ => return,
    };
    if let Some(parsed) = ip::ip(address, path, errors) {
        if !is_family(&parsed) {
            errors.push(FieldError::invalid(path, address, detail));
        }
        ip::non_special(address, path, errors);
    }
}

fn domain_name(name: &str, path: &Path, errors: &mut ErrorList) {
    if name.is_empty() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    let messages = names::dns1123_subdomain(name);
    if !messages.is_empty() {
        errors.push(FieldError::invalid(path, name, messages.join(",")));
    } else if !name.contains('.') {
        let detail = "should be a domain with at least two segments separated by dots";
        errors.push(FieldError::invalid(path, name, detail));
    } else if let Some(label) = name.split('.').find(|label| label.len() > 63) {
        errors.push(FieldError::invalid(path, label, names::dns1123_label(label).join(",")));
    }
}

fn slice_hints(hints: &EndpointHints, path: &Path, errors: &mut ErrorList) {
    let zones: Vec<&str> = hints.for_zones.iter().flatten().map(|zone| zone.name.as_str()).collect();
    let nodes: Vec<&str> = hints.for_nodes.iter().flatten().map(|node| node.name.as_str()).collect();
    for (field, list, rule) in [
        ("forZones", zones, names::label_value as names::NameRule),
        ("forNodes", nodes, names::dns1123_subdomain),
    ] {
        let path = path.child(field);
        if list.len() > MAX_HINTS {
            errors.push(FieldError::too_many(&path, list.len(), MAX_HINTS));
            continue;
        }
        for (index, name) in list.iter().enumerate() {
            let path = path.index(index).child("name");
            if list[..index].contains(name) {
                errors.push(FieldError::duplicate(&path, name));
            }
            named(name, rule, &path, errors);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{check, check_update, namespaced};
    use super::*;

    #[test]
    fn older_kind() {
        let port = json!({"port": 80, "protocol": "TCP"});
        check(
            endpoints,
            namespaced(json!({"subsets": [{"addresses": [{"ip": "10.0.0.1"}], "ports": [port]}]})),
            &[],
        );
        check(
            endpoints,
            namespaced(
                json!({"subsets": [{"ports": [port, port]}, {"addresses": [{"ip": "127.0.0.1"}, {"ip": "x"}]}]}),
            ),
            &[
                "subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`",
                "subsets[0].ports[0].name: Required value",
                "subsets[0].ports[1].name: Required value",
                "subsets[1].addresses[0].ip: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
                "subsets[1].addresses[1].ip: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
                "subsets[1].addresses[1].ip: Invalid value: \"x\": must be a valid IP address",
            ],
        );
    }

    #[test]
    fn older_kind_updates() {
        let with = |ip: &str| namespaced(json!({"subsets": [{"addresses": [{"ip": ip}]}]}));
        check_update(endpoints_update, with("10.0.0.2"), with("10.0.0.1"), &[]);
        check_update(endpoints_update, with("127.0.0.1"), with("127.0.0.1"), &[]);
        check_update(
            endpoints_update,
            with("127.0.0.1"),
            with("10.0.0.1"),
            &[
                "subsets[0].addresses[0].ip: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
            ],
        );
    }

    #[test]
    fn slices() {
        let good = json!({
            "addressType": "IPv4",
            "endpoints": [{"addresses": ["10.0.0.1"], "hints": {"forZones": [{"name": "a"}]}}],
            "ports": [{"name": "", "port": 80, "protocol": "TCP"}],
        });
        check(endpoint_slice, namespaced(good.clone()), &[]);
        check(
            endpoint_slice,
            namespaced(json!({
                "addressType": "IP",
                "endpoints": [{"addresses": []}],
                "ports": [{"name": "a", "protocol": "X"}, {"name": "a", "protocol": "TCP"}],
            })),
            &[
                "addressType: Unsupported value: \"IP\": supported values: \"FQDN\", \"IPv4\", \"IPv6\"",
                "endpoints[0].addresses: Required value: must contain at least 1 address",
                "ports[0].protocol: Unsupported value: \"X\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
                "ports[1].name: Duplicate value: \"a\"",
            ],
        );
        check(
            endpoint_slice,
            namespaced(json!({"addressType": "IPv4", "endpoints": [{"addresses": ["fd00::1"]}]})),
            &["endpoints[0].addresses[0]: Invalid value: \"fd00::1\": must be an IPv4 address"],
        );
        check(
            endpoint_slice,
            namespaced(json!({"addressType": "FQDN", "endpoints": [{"addresses": ["a.b", "local"]}]})),
            &[
                "endpoints[0].addresses[1]: Invalid value: \"local\": should be a domain with at least two segments separated by dots",
            ],
        );
        let mut other = good.clone();
        other["addressType"] = json!("IPv6");
        other["endpoints"] = json!([]);
        check_update(
            endpoint_slice_update,
            namespaced(other),
            namespaced(good),
            &["addressType: Invalid value: \"IPv6\": field is immutable"],
        );
    }
}
