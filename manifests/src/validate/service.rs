//! Services. Addresses and node ports are assigned by the server before it validates.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{
    LoadBalancerStatus, Service, ServicePort, ServiceSpec, SessionAffinityConfig,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::json;

use super::{ip, meta, named, object_meta, object_meta_update, one_of, one_of_if_set, port, text};
use crate::field::{ErrorList, FieldError, Path};
use crate::names;

const ONLY_BALANCED: &str = "may only be used when `type` is 'LoadBalancer'";
const SET_ONCE: &str = "may not change once set";
const MAX_AFFINITY_SECONDS: i32 = 86_400;

/// A new service.
pub fn service(service: &Service) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta(&service.metadata, true, names::dns1035_label, &mut errors);
    content(service, &mut errors);
    errors
}

/// An update of a service.
pub fn service_update(new: &Service, old: &Service) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta_update(&new.metadata, &old.metadata, &mut errors);
    let empty = ServiceSpec::default();
    let new_spec = new.spec.as_ref().unwrap_or(&empty);
    let old_spec = old.spec.as_ref().unwrap_or(&empty);
    let path = Path::new("spec");
    if type_(new_spec) != "ExternalName" && type_(old_spec) != "ExternalName" {
        cluster_ips_update(new_spec, old_spec, &path, &mut errors);
        ip_families_update(new_spec, old_spec, &path, &mut errors);
    }
    let balanced = |spec: &ServiceSpec| type_(spec) == "LoadBalancer";
    if balanced(new_spec)
        && balanced(old_spec)
        && new_spec.load_balancer_class != old_spec.load_balancer_class
    {
        let path = path.child("loadBalancerClass");
        errors.push(FieldError::invalid(&path, &new_spec.load_balancer_class, SET_ONCE));
    }
    let health = |spec: &ServiceSpec| spec.health_check_node_port.unwrap_or_default();
    if needs_health_check(new_spec) && needs_health_check(old_spec) && health(new_spec) != health(old_spec) {
        errors.push(FieldError::forbidden(&path.child("healthCheckNodePort"), super::IMMUTABLE));
    }
    content(new, &mut errors);
    errors
}

/// An update of a service's status.
pub fn service_status_update(new: &Service, old: &Service) -> ErrorList {
    let mut errors = ErrorList::new();
    object_meta_update(&new.metadata, &old.metadata, &mut errors);
    let empty = ServiceSpec::default();
    let spec = new.spec.as_ref().unwrap_or(&empty);
    if let Some(status) = new.status.as_ref().and_then(|status| status.load_balancer.as_ref()) {
        load_balancer_status(status, spec, &mut errors);
    }
    errors
}

fn type_(spec: &ServiceSpec) -> &str {
    text(&spec.type_)
}

fn cluster_ips(spec: &ServiceSpec) -> &[String] {
    spec.cluster_ips.as_deref().unwrap_or_default()
}

fn is_headless(spec: &ServiceSpec) -> bool {
    matches!(cluster_ips(spec), [only] if only == "None")
        || (cluster_ips(spec).is_empty() && text(&spec.cluster_ip) == "None")
}

fn is_externally_accessible(spec: &ServiceSpec) -> bool {
    let external_ips = spec.external_ips.as_ref().is_some_and(|ips| !ips.is_empty());
    matches!(type_(spec), "LoadBalancer" | "NodePort") || (type_(spec) == "ClusterIP" && external_ips)
}

fn needs_health_check(spec: &ServiceSpec) -> bool {
    type_(spec) == "LoadBalancer" && text(&spec.external_traffic_policy) == "Local"
}

fn content(service: &Service, errors: &mut ErrorList) {
    let empty = ServiceSpec::default();
    let spec = service.spec.as_ref().unwrap_or(&empty);
    let path = Path::new("spec");
    let ports = spec.ports.as_deref().unwrap_or_default();
    let headless = is_headless(spec);
    if ports.is_empty() && !headless && type_(spec) != "ExternalName" {
        errors.push(FieldError::required(&path.child("ports"), ""));
    }
    match type_(spec) {
        kind @ ("LoadBalancer" | "NodePort") if headless => {
            let detail = format!("may not be set to 'None' for {kind} services");
            errors.push(FieldError::invalid(&path.child("clusterIPs").index(0), "None", detail));
        }
        "ExternalName" => external_name(spec, &path, errors),
        _ => {}
    }
    let mut seen = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        service_port(port, ports.len() > 1, &mut seen, &path.child("ports").index(index), errors);
    }
    meta::labels(&spec.selector, &path.child("selector"), errors);
    session_affinity(spec, &path, errors);
    cluster_ip_fields(spec, &path, errors);
    for (index, value) in spec.external_ips.iter().flatten().enumerate() {
        let path = path.child("externalIPs").index(index);
        if ip::ip(value, &path, errors).is_some() {
            ip::non_special(value, &path, errors);
        }
    }
    let types = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
    one_of(type_(spec), &types, &path.child("type"), errors);
    port_conflicts(spec, ports, &path.child("ports"), errors);
    load_balancer(spec, &path, errors);
    traffic(spec, &path, errors);
}

fn external_name(spec: &ServiceSpec, path: &Path, errors: &mut ErrorList) {
    for (field, set) in [
        ("clusterIPs", !cluster_ips(spec).is_empty()),
        ("ipFamilies", spec.ip_families.as_ref().is_some_and(|families| !families.is_empty())),
        ("ipFamilyPolicy", spec.ip_family_policy.is_some()),
    ] {
        if set {
            errors
                .push(FieldError::forbidden(&path.child(field), "may not be set for ExternalName services"));
        }
    }
    let path = path.child("externalName");
    let name = text(&spec.external_name);
    match name.strip_suffix('.').unwrap_or(name) {
        "" => errors.push(FieldError::required(&path, "")),
        name => named(name, names::dns1123_subdomain, &path, errors),
    }
}

fn service_port<'a>(
    item: &'a ServicePort,
    needs_name: bool,
    seen: &mut BTreeSet<&'a str>,
    path: &Path,
    errors: &mut ErrorList,
) {
    match text(&item.name) {
        "" if needs_name => errors.push(FieldError::required(&path.child("name"), "")),
        "" => {}
        name => {
            named(name, names::dns1123_label, &path.child("name"), errors);
            if !seen.insert(name) {
                errors.push(FieldError::duplicate(&path.child("name"), name));
            }
        }
    }
    port(item.port, &path.child("port"), errors);
    one_of(text(&item.protocol), &["SCTP", "TCP", "UDP"], &path.child("protocol"), errors);
    let unset = IntOrString::Int(0);
    let target = item.target_port.as_ref().unwrap_or(&unset);
    super::pod::port_by_number_or_name(target, &path.child("targetPort"), errors);
    if let Some(protocol) = &item.app_protocol {
        named(protocol, names::qualified_name, &path.child("appProtocol"), errors);
    }
}

fn port_conflicts(spec: &ServiceSpec, ports: &[ServicePort], path: &Path, errors: &mut ErrorList) {
    let node_port = |port: &ServicePort| port.node_port.unwrap_or_default();
    if type_(spec) == "ClusterIP" {
        for (index, _) in ports.iter().enumerate().filter(|(_, port)| node_port(port) != 0) {
            let detail = "may not be used when `type` is 'ClusterIP'";
            errors.push(FieldError::forbidden(&path.index(index).child("nodePort"), detail));
        }
    }
    let mut node_ports = BTreeSet::new();
    for (index, port) in ports.iter().enumerate().filter(|(_, port)| node_port(port) != 0) {
        if !node_ports.insert((text(&port.protocol), node_port(port))) {
            errors.push(FieldError::duplicate(&path.index(index).child("nodePort"), node_port(port)));
        }
    }
    let mut numbers = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let protocol = text(&port.protocol);
        if !numbers.insert((protocol, port.port)) {
            let value = json!({"port": port.port, "protocol": protocol});
            errors.push(FieldError::duplicate(&path.index(index), value));
        }
    }
}

fn session_affinity(spec: &ServiceSpec, path: &Path, errors: &mut ErrorList) {
    let affinity = text(&spec.session_affinity);
    one_of(affinity, &["ClientIP", "None"], &path.child("sessionAffinity"), errors);
    let path = path.child("sessionAffinityConfig");
    match (affinity, &spec.session_affinity_config) {
        ("ClientIP", config) => client_ip(config.as_ref(), &path, errors),
        ("None", Some(_)) => {
            errors.push(FieldError::forbidden(&path, "must not be set when session affinity is None"));
        }
        _ => {}
    }
}

fn client_ip(config: Option<&SessionAffinityConfig>, path: &Path, errors: &mut ErrorList) {
    const DETAIL: &str = "when session affinity type is ClientIP";
    let Some(config) = config else {
        errors.push(FieldError::required(path, DETAIL));
        return;
    };
    let path = path.child("clientIP");
    let Some(config) = &config.client_ip else {
        errors.push(FieldError::required(&path, DETAIL));
        return;
    };
    let path = path.child("timeoutSeconds");
    match config.timeout_seconds {
        None => errors.push(FieldError::required(&path, DETAIL)),
        Some(seconds) if !(1..=MAX_AFFINITY_SECONDS).contains(&seconds) => {
            let detail = format!("must be greater than 0 and less than {MAX_AFFINITY_SECONDS}");
            errors.push(FieldError::invalid(&path, seconds, detail));
        }
        Some(_) => {}
    }
}

/// `clusterIP`, `clusterIPs`, `ipFamilies` and `ipFamilyPolicy` must agree.
fn cluster_ip_fields(spec: &ServiceSpec, path: &Path, errors: &mut ErrorList) {
    if type_(spec) == "ExternalName" {
        return;
    }
    let ips_path = path.child("clusterIPs");
    let ips = cluster_ips(spec);
    match (text(&spec.cluster_ip), ips) {
        ("", []) => {}
        ("", ips) => {
            let detail = "must be empty when `clusterIP` is not specified";
            errors.push(FieldError::invalid(&ips_path, ips, detail));
        }
        (_, []) => errors.push(FieldError::required(&ips_path, "")),
        (first, ips) if ips[0] != first => {
            errors.push(FieldError::invalid(&ips_path, ips, "first value must match `clusterIP`"));
        }
        _ => {}
    }
    let families = spec.ip_families.as_deref().unwrap_or_default();
    for (index, family) in families.iter().enumerate() {
        let path = path.child("ipFamilies").index(index);
        if !matches!(family.as_str(), "IPv4" | "IPv6") {
            errors.push(FieldError::not_supported(&path, family, &["IPv4", "IPv6"]));
        }
        if families[..index].contains(family) {
            errors.push(FieldError::duplicate(&path, family));
        }
    }
    let policies = ["PreferDualStack", "RequireDualStack", "SingleStack"];
    one_of_if_set(&spec.ip_family_policy, &policies, &path.child("ipFamilyPolicy"), errors);

    let before = errors.len();
    let mut parsed = Vec::new();
    for (index, value) in ips.iter().enumerate() {
        if index == 0 && value == "None" {
            if ips.len() > 1 {
                errors.push(FieldError::invalid(&ips_path, ips, "'None' must be the first and only value"));
            }
        } else {
            parsed.extend(ip::ip(value, &ips_path.index(index), errors));
        }
    }
    if ips.len() > 2 {
        errors.push(FieldError::invalid(&ips_path, ips, "may only hold up to 2 values"));
    }
    if errors.len() > before {
        return;
    }
    if !ip::one_per_family(parsed.iter().copied()) {
        let detail = "may specify no more than one IP for each IP family";
        errors.push(FieldError::invalid(&ips_path, ips, detail));
    }
    for (index, (address, family)) in parsed.iter().zip(families).enumerate() {
        let expected = match (family.as_str(), address) {
            ("IPv4", IpAddr::V6(_)) => "IPv4",
            ("IPv6", IpAddr::V4(_)) => "IPv6",
            _ => continue,
        };
        let detail = format!("expected an {expected} value as indicated by `ipFamilies[{index}]`");
        errors.push(FieldError::invalid(&ips_path.index(index), &ips[index], detail));
    }
}

fn load_balancer(spec: &ServiceSpec, path: &Path, errors: &mut ErrorList) {
    let balanced = type_(spec) == "LoadBalancer";
    let ranges = spec.load_balancer_source_ranges.as_deref().unwrap_or_default();
    if !ranges.is_empty() {
        let path = path.child("LoadBalancerSourceRanges"); // upstream's spelling of this one path
        if !balanced {
            errors.push(FieldError::forbidden(&path, ONLY_BALANCED));
        }
        for (index, range) in ranges.iter().enumerate() {
            ip::cidr(range.trim(), &path.index(index), errors);
        }
    }
    if !balanced && spec.allocate_load_balancer_node_ports.is_some() {
        errors.push(FieldError::forbidden(&path.child("allocateLoadBalancerNodePorts"), ONLY_BALANCED));
    }
    if balanced && spec.allocate_load_balancer_node_ports.is_none() {
        errors.push(FieldError::required(&Path::new("allocateLoadBalancerNodePorts"), ""));
    }
    if let Some(class) = &spec.load_balancer_class {
        let path = path.child("loadBalancerClass");
        if balanced {
            named(class, names::qualified_name, &path, errors);
        } else {
            errors.push(FieldError::forbidden(&path, ONLY_BALANCED));
        }
    }
}

fn traffic(spec: &ServiceSpec, path: &Path, errors: &mut ErrorList) {
    let external = text(&spec.external_traffic_policy);
    let external_path = path.child("externalTrafficPolicy");
    if is_externally_accessible(spec) {
        one_of(external, &["Cluster", "Local"], &external_path, errors);
    } else if !external.is_empty() {
        let detail = "may only be set for externally-accessible services";
        errors.push(FieldError::invalid(&external_path, external, detail));
    }
    let health_path = path.child("healthCheckNodePort");
    match (needs_health_check(spec), spec.health_check_node_port.unwrap_or_default()) {
        (false, 0) => {}
        (false, number) => {
            let detail =
                "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
            errors.push(FieldError::invalid(&health_path, number, detail));
        }
        (true, 0) => errors.push(FieldError::required(&health_path, "")),
        (true, number) => port(number, &health_path, errors),
    }
    let internal_path = path.child("internalTrafficPolicy");
    match &spec.internal_traffic_policy {
        None if matches!(type_(spec), "NodePort" | "LoadBalancer" | "ClusterIP") => {
            errors.push(FieldError::required(&internal_path, ""));
        }
        policy => one_of_if_set(policy, &["Cluster", "Local"], &internal_path, errors),
    }
    let distributions = ["PreferClose", "PreferSameZone", "PreferSameNode"];
    one_of_if_set(&spec.traffic_distribution, &distributions, &path.child("trafficDistribution"), errors);
}

/// A primary address stays; a secondary one can come and go.
fn cluster_ips_update(new: &ServiceSpec, old: &ServiceSpec, path: &Path, errors: &mut ErrorList) {
    if is_headless(new) && is_headless(old) {
        return;
    }
    let (new_ips, old_ips) = (cluster_ips(new), cluster_ips(old));
    let ips_path = path.child("clusterIPs");
    if new_ips.len() == old_ips.len() {
        for (index, _) in old_ips.iter().enumerate().filter(|(index, ip)| new_ips[*index] != **ip) {
            errors.push(FieldError::invalid(&ips_path.index(index), new_ips, SET_ONCE));
        }
        return;
    }
    let released = new_ips.len() < old_ips.len();
    if released && new_ips.is_empty() {
        errors.push(FieldError::invalid(&ips_path.index(0), new_ips, "primary clusterIP can not be unset"));
    }
    if let (Some(new_first), Some(old_first)) = (new_ips.first(), old_ips.first())
        && new_first != old_first
    {
        errors.push(FieldError::invalid(&ips_path.index(0), new_ips, SET_ONCE));
    }
    if released && new_ips.len() == 1 && text(&new.ip_family_policy) != "SingleStack" {
        let detail = "must be set to 'SingleStack' when releasing the secondary clusterIP";
        errors.push(FieldError::invalid(&path.child("ipFamilyPolicy"), &new.ip_family_policy, detail));
    }
}

fn ip_families_update(new: &ServiceSpec, old: &ServiceSpec, path: &Path, errors: &mut ErrorList) {
    if is_headless(new) || is_headless(old) {
        return;
    }
    let new_families = new.ip_families.as_deref().unwrap_or_default();
    let old_families = old.ip_families.as_deref().unwrap_or_default();
    let families_path = path.child("ipFamilies").index(0);
    if new_families.len() == old_families.len() {
        for _ in new_families.iter().zip(old_families).filter(|(new, old)| new != old) {
            errors.push(FieldError::invalid(&families_path, new_families, SET_ONCE));
        }
        return;
    }
    let released = new_families.len() < old_families.len();
    if released && cluster_ips(new).is_empty() {
        let detail = "primary ipFamily can not be unset";
        errors.push(FieldError::invalid(&families_path, new_families, detail));
    }
    if let (Some(new_first), Some(old_first)) = (new_families.first(), old_families.first())
        && new_first != old_first
    {
        errors.push(FieldError::invalid(&families_path, cluster_ips(new), SET_ONCE));
    }
    if released && new_families.len() == 1 && text(&new.ip_family_policy) != "SingleStack" {
        let detail = "must be set to 'SingleStack' when releasing the secondary ipFamily";
        errors.push(FieldError::invalid(&path.child("ipFamilyPolicy"), &new.ip_family_policy, detail));
    }
}

fn load_balancer_status(status: &LoadBalancerStatus, spec: &ServiceSpec, errors: &mut ErrorList) {
    let path = Path::new("status").child("loadBalancer").child("ingress");
    let ingress = status.ingress.as_deref().unwrap_or_default();
    if type_(spec) != "LoadBalancer" && !ingress.is_empty() {
        let detail = "may only be used when `spec.type` is 'LoadBalancer'";
        errors.push(FieldError::forbidden(&path, detail));
        return;
    }
    for (index, item) in ingress.iter().enumerate() {
        let path = path.index(index);
        let address = text(&item.ip);
        if !address.is_empty() {
            ip::ip(address, &path.child("ip"), errors);
        }
        let mode_path = path.child("ipMode");
        match (&item.ip_mode, address.is_empty()) {
            (None, false) => {
                errors.push(FieldError::required(&mode_path, "must be specified when `ip` is set"))
            }
            (Some(_), true) => {
                errors.push(FieldError::forbidden(&mode_path, "may not be specified when `ip` is not set"));
            }
            (mode, _) => one_of_if_set(mode, &["Proxy", "VIP"], &mode_path, errors),
        }
        let hostname = text(&item.hostname);
        if !hostname.is_empty() {
            let path = path.child("hostname");
            named(hostname, names::dns1123_subdomain, &path, errors);
            if hostname.parse::<IpAddr>().is_ok() {
                errors.push(FieldError::invalid(&path, hostname, "must be a DNS name, not an IP address"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::tests::{check, check_update, namespaced};
    use super::*;

    fn with(changes: Value) -> Value {
        let mut spec = json!({
            "type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
            "clusterIP": "10.43.0.9", "clusterIPs": ["10.43.0.9"], "ipFamilies": ["IPv4"],
            "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}],
        });
        for (key, value) in changes.as_object().unwrap() {
            spec[key] = value.clone();
        }
        namespaced(json!({ "spec": spec }))
    }

    #[test]
    fn ports() {
        check(service, with(json!({})), &[]);
        check(service, with(json!({"ports": []})), &["spec.ports: Required value"]);
        check(service, with(json!({"ports": [], "clusterIP": "None", "clusterIPs": ["None"]})), &[]);
        check(
            service,
            with(json!({"ports": [
                {"port": 80, "protocol": "TCP", "targetPort": "http"},
                {"name": "b", "port": 80, "protocol": "TCP", "targetPort": 0, "nodePort": 30000},
                {"name": "b", "port": 70000, "protocol": "ICMP", "targetPort": "not_good"},
            ]})),
            &[
                "spec.ports[0].name: Required value",
                "spec.ports[1].targetPort: Invalid value: 0: must be between 1 and 65535, inclusive",
                "spec.ports[2].name: Duplicate value: \"b\"",
                "spec.ports[2].port: Invalid value: 70000: must be between 1 and 65535, inclusive",
                "spec.ports[2].protocol: Unsupported value: \"ICMP\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
                "spec.ports[2].targetPort: Invalid value: \"not_good\": must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
                "spec.ports[1].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
                "spec.ports[1]: Duplicate value: {\"port\":80,\"protocol\":\"TCP\"}",
            ],
        );
    }

    #[test]
    fn types() {
        check(
            service,
            with(json!({"type": "Nothing"})),
            &[
                "spec.type: Unsupported value: \"Nothing\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\"",
            ],
        );
        check(service, with(json!({"type": "NodePort"})), &["spec.externalTrafficPolicy: Required value"]);
        check(
            service,
            with(json!({"type": "ExternalName", "ports": null, "internalTrafficPolicy": null})),
            &[
                "spec.clusterIPs: Forbidden: may not be set for ExternalName services",
                "spec.ipFamilies: Forbidden: may not be set for ExternalName services",
                "spec.externalName: Required value",
            ],
        );
        check(
            service,
            with(json!({"externalTrafficPolicy": "Local"})),
            &[
                "spec.externalTrafficPolicy: Invalid value: \"Local\": may only be set for externally-accessible services",
            ],
        );
        check(
            service,
            with(json!({"sessionAffinity": "ClientIP"})),
            &["spec.sessionAffinityConfig: Required value: when session affinity type is ClientIP"],
        );
    }

    #[test]
    fn addresses() {
        check(
            service,
            with(json!({"clusterIP": "10.43.0.9", "clusterIPs": ["10.43.0.8"]})),
            &["spec.clusterIPs: Invalid value: [\"10.43.0.8\"]: first value must match `clusterIP`"],
        );
        check(
            service,
            with(json!({"clusterIP": "x", "clusterIPs": ["x"]})),
            &[
                "spec.clusterIPs[0]: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            ],
        );
        check(
            service,
            with(json!({"ipFamilies": ["IPv6"]})),
            &[
                "spec.clusterIPs[0]: Invalid value: \"10.43.0.9\": expected an IPv6 value as indicated by `ipFamilies[0]`",
            ],
        );
        check(
            service,
            with(json!({"externalIPs": ["127.0.0.1"], "externalTrafficPolicy": "Cluster"})),
            &[
                "spec.externalIPs[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
            ],
        );
        check(
            service,
            json!({"metadata": {"name": "1a", "namespace": "b"}, "spec": with(json!({}))["spec"]}),
            &[
                "metadata.name: Invalid value: \"1a\": a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')",
            ],
        );
    }

    #[test]
    fn updates() {
        check_update(service_update, with(json!({})), with(json!({})), &[]);
        check_update(
            service_update,
            with(json!({"clusterIP": "10.43.0.8", "clusterIPs": ["10.43.0.8"]})),
            with(json!({})),
            &["spec.clusterIPs[0]: Invalid value: [\"10.43.0.8\"]: may not change once set"],
        );
        check_update(
            service_update,
            with(json!({"clusterIP": null, "clusterIPs": null})),
            with(json!({})),
            &["spec.clusterIPs[0]: Invalid value: []: primary clusterIP can not be unset"],
        );
    }

    #[test]
    fn status() {
        let balanced = |status: Value| {
            let mut object = with(json!({"type": "LoadBalancer"}));
            object["status"] = json!({ "loadBalancer": status });
            object
        };
        check_update(
            service_status_update,
            balanced(json!({"ingress": [{"ip": "10.0.0.1", "ipMode": "VIP"}]})),
            with(json!({})),
            &[],
        );
        check_update(
            service_status_update,
            balanced(json!({"ingress": [{"ip": "10.0.0.1"}, {"hostname": "1.2.3.4"}]})),
            with(json!({})),
            &[
                "status.loadBalancer.ingress[0].ipMode: Required value: must be specified when `ip` is set",
                "status.loadBalancer.ingress[1].hostname: Invalid value: \"1.2.3.4\": must be a DNS name, not an IP address",
            ],
        );
    }
}
